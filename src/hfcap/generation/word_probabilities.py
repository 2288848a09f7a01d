"""Probabilities of the tokens and words of a caption by the captioner that gave it, whatever the search."""

import copy
import re
from collections.abc import Callable, Iterator, Sequence

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from hfcap.generation.caption import decode_stream, generate_tokens, loads_of
from hfcap.generation.inputs import CaptionPrefix
from hfcap.generation.sampling import Sample, sample_of
from hfcap.generation.settings import end_token_ids

_PLAIN = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}


class ForcedTokens(LogitsProcessor):
    """Let `generate` write given tokens, and keep their log-probabilities.

    Args:
        tokens: (B, T) int64.

    Attributes:
        log_probabilities: of each step so far, (B,) float32.
    """

    def __init__(self, tokens: torch.Tensor):
        self.tokens = tokens
        self.log_probabilities: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Leave one token of each row: (B, V) logits in, 0 for it and -inf for all others out."""
        forced = self.tokens[:, len(self.log_probabilities), None].to(scores.device)
        self.log_probabilities.append(scores.float().log_softmax(dim=-1).gather(1, forced)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter_(1, forced, 0.0)


def scored_caption_stream(
    model: PreTrainedModel,
    processor,
    rows: Sequence[dict],
    prompt: str | None = None,
    batch_size: int = 8,
    on_bad_row: Callable[[int, Exception], None] | None = None,
) -> Iterator[tuple[int, Sample]]:
    """Caption rows as `caption_stream` does, with the log-probabilities of the tokens.

    Beam search keeps none of the caption that wins, so the captions are decoded a second time, each token being given.
    """
    settings = copy.deepcopy(model.generation_config)
    settings.num_return_sequences = 1
    end_ids = end_token_ids(settings)

    def decode(batch: list[tuple[int, CaptionPrefix]]) -> list[Sample]:
        prefixes = [prefix for _, prefix in batch]
        tokens = generate_tokens(model, processor, prefixes, settings)
        again = copy.deepcopy(settings)
        again.update(num_beams=1, early_stopping=False, length_penalty=1.0, max_new_tokens=len(tokens[0]))
        forced = ForcedTokens(torch.tensor(tokens))
        generate_tokens(model, processor, prefixes, again, logits_processor=LogitsProcessorList([forced]))
        logs = torch.stack(forced.log_probabilities, dim=1).tolist()
        texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [sample_of(*parts, end_ids) for parts in zip(texts, tokens, logs, strict=True)]

    return decode_stream(model, processor, loads_of(rows), prompt, batch_size, on_bad_row, decode)


def word_log_probabilities(tokenizer: PreTrainedTokenizerBase, sample: Sample) -> list[tuple[str, float]]:
    """Return the words of a caption as they are written, each with the sum of the log-probabilities of its tokens.

    A space or a sign counts for the word behind it.
    """
    special = set(tokenizer.all_special_ids)
    words = [(found[0], found.end()) for found in re.finditer(r"\w+", tokenizer.decode(sample.tokens, **_PLAIN))]
    values = [0.0] * len(words)
    for place, token in enumerate(sample.tokens):
        end = len(tokenizer.decode(sample.tokens[: place + 1], **_PLAIN))
        word = next((number for number, (_, last) in enumerate(words) if last >= end), None)
        if token not in special and word is not None:
            values[word] += sample.log_probabilities[place]
    return [(word, value) for (word, _), value in zip(words, values, strict=True)]
