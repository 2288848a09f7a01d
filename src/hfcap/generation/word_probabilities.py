"""Probabilities of the tokens and words of a caption by the captioner that gave it, whatever the search."""

import copy
from collections.abc import Callable, Iterable, Iterator

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from hfcap.generation.caption import decode_stream, generate_tokens
from hfcap.generation.inputs import CaptionPrefix
from hfcap.generation.requested_length import LengthRequest
from hfcap.generation.settings import end_token_ids
from hfcap.length_tokens import length_token_ids
from hfcap.samples import Sample, sample_of


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
    loads: Iterable[Callable[[], dict]],
    prompt: str | None = None,
    batch_size: int = 8,
    on_bad_row: Callable[[int, Exception], None] | None = None,
    length: int | None = None,
) -> Iterator[tuple[int, Sample]]:
    """Caption rows as `caption_loaded` does, with the log-probabilities of the tokens.

    Beam search keeps none of the caption that wins, so the captions are decoded a second time, each token being given.
    """
    settings = copy.deepcopy(model.generation_config)
    settings.num_return_sequences = 1
    end_ids, length_ids = end_token_ids(settings), length_token_ids(processor.tokenizer)
    request = None if length is None else LengthRequest(processor.tokenizer, length, settings)

    def decode(batch: list[tuple[int, CaptionPrefix]]) -> list[Sample]:
        prefixes = [prefix for _, prefix in batch]
        tokens = generate_tokens(model, processor, prefixes, settings, request)
        again = copy.deepcopy(settings)
        again.update(num_beams=1, early_stopping=False, length_penalty=1.0, max_new_tokens=len(tokens[0]))
        forced = ForcedTokens(torch.tensor(tokens))
        generate_tokens(model, processor, prefixes, again, logits_processor=LogitsProcessorList([forced]))
        logs = torch.stack(forced.log_probabilities, dim=1).tolist()
        texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [sample_of(*parts, end_ids, length_ids) for parts in zip(texts, tokens, logs, strict=True)]

    return decode_stream(model, processor, loads, prompt, batch_size, on_bad_row, decode)
