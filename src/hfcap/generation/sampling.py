"""Captions drawn at random from a captioner, the same ones in any batch, with the probability the model gives them.

Stock `generate` draws for all pictures of a batch from one stream of random numbers, so that what a picture gets
depends on its neighbours. Here each picture has numbers of its own, one for each sample and step, from a seed and a
key such as the hash of its file.
"""

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from hfcap.generation.caption import decode_stream, generate_tokens
from hfcap.generation.inputs import CaptionPrefix
from hfcap.generation.settings import SAMPLING, end_token_ids
from hfcap.length_tokens import length_token_ids
from hfcap.samples import Sample, sample_of


@dataclass(frozen=True)
class Sampling:
    """How captions are drawn.

    Attributes:
        num_samples: captions per picture.
        temperature: divides the logits; 0 takes the most probable token (greedy decoding).
        top_p: draw from the most probable tokens that have this much probability together.
        end_bias: added to the logits of the tokens that end a caption: above 0 for shorter captions.
        avoid: lists of token ids that no caption has in it.
    """

    num_samples: int = 20
    temperature: float = 1.0
    top_p: float = 1.0
    end_bias: float = 0.0
    avoid: tuple[tuple[int, ...], ...] = ()


def random_numbers(seed: int, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Give numbers in [0, 1), float64, that depend on `seed` and `key` alone."""
    digest = hashlib.sha256(f"{seed} {key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest)).random(shape)


class SeededChoice(LogitsProcessor):
    """Choose the next tokens by given random numbers, and keep the log-probabilities of what was chosen.

    Args:
        numbers: (B K, T) float64 in [0, 1), for each candidate and step.
        sampling: how to draw.
        end_ids: tokens that end a caption.

    Attributes:
        log_probabilities: of each step so far, (B K,) float32.
    """

    def __init__(self, numbers: torch.Tensor, sampling: Sampling, end_ids: Sequence[int]):
        self.numbers = numbers
        self.sampling = sampling
        self.end_ids = list(end_ids)
        self.log_probabilities: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Leave one token of each row: (B K, V) logits in, 0 for it and -inf for all others out."""
        logs = scores.float().log_softmax(dim=-1)
        chosen = self._chosen(logs)[:, None]
        self.log_probabilities.append(logs.gather(1, chosen)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)

    def _chosen(self, logs: torch.Tensor) -> torch.Tensor:
        if self.sampling.temperature == 0:
            return logs.argmax(dim=-1)
        logs = logs.clone()
        logs[:, self.end_ids] += self.sampling.end_bias
        probabilities = (logs.double() / self.sampling.temperature).softmax(dim=-1)
        if self.sampling.top_p < 1:
            ordered, place = probabilities.sort(dim=-1, descending=True, stable=True)
            is_out = ordered.cumsum(dim=-1) - ordered >= self.sampling.top_p
            probabilities = probabilities.scatter(1, place, ordered.masked_fill(is_out, 0.0))
        reached = probabilities.cumsum(dim=-1)
        number = self.numbers[:, len(self.log_probabilities), None].to(reached.device) * reached[:, -1:]
        return torch.searchsorted(reached, number, right=True)[:, 0].clamp(max=logs.shape[-1] - 1)


def sample_stream(
    model: PreTrainedModel,
    processor,
    loads: Iterable[Callable[[], dict]],
    key_of: Callable[[int], str],
    sampling: Sampling,
    seed: int = 0,
    prompt: str | None = None,
    batch_size: int = 8,
    on_bad_row: Callable[[int, Exception], None] | None = None,
) -> Iterator[tuple[int, list[Sample]]]:
    """Draw captions for rows; each row's are there as soon as its batch is done, with the number of the row.

    A row's picture is encoded once, and its samples share it and the prompt where the model's type can
    (`hfcap.generation.decoding`). The same seed and key give the same samples in any batch, up to the rounding of the
    model's own arithmetic.

    Args:
        model: captioner, on its device.
        processor: its processor.
        loads: as for `hfcap.generation.caption.caption_loaded`.
        key_of: gives for the number of a row what its random numbers depend on, such as a hash of its file.
        sampling: how to draw.
        seed: of the random numbers.
        prompt: instruction for the rows without their own.
        batch_size: pictures decoded together.
        on_bad_row: as for `caption_stream`.
    """
    settings = sampling_settings(model, sampling)
    end_ids, length_ids = end_token_ids(settings), length_token_ids(processor.tokenizer)

    def decode(batch: list[tuple[int, CaptionPrefix]]) -> list[list[Sample]]:
        shape = (sampling.num_samples, settings.max_new_tokens)
        numbers = np.concatenate([random_numbers(seed, key_of(index), shape) for index, _ in batch])
        choice = SeededChoice(torch.from_numpy(numbers), sampling, end_ids)
        prefixes = [prefix for _, prefix in batch]
        processors = LogitsProcessorList([choice])
        tokens = generate_tokens(model, processor, prefixes, settings, logits_processor=processors)
        logs = torch.stack(choice.log_probabilities, dim=1).tolist()
        texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        samples = [sample_of(*parts, end_ids, length_ids) for parts in zip(texts, tokens, logs, strict=True)]
        return [samples[i : i + shape[0]] for i in range(0, len(samples), shape[0])]

    return decode_stream(model, processor, loads, prompt, batch_size, on_bad_row, decode)


def sampling_settings(model: PreTrainedModel, sampling: Sampling) -> GenerationConfig:
    """Return the model's settings with one beam and sampling on; what shapes the distribution is `SeededChoice`'s."""
    settings = copy.deepcopy(model.generation_config)
    settings.update(**dict.fromkeys(SAMPLING), num_beams=1, early_stopping=False, length_penalty=1.0)
    settings.update(do_sample=True, top_k=0, num_return_sequences=sampling.num_samples)
    if sampling.avoid:
        own = settings.bad_words_ids or []
        settings.bad_words_ids = [*own, *map(list, sampling.avoid)]
    return settings
