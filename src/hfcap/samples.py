"""A caption with the probability that its model gives it: token by token, and word by word."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_PLAIN = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}


@dataclass(frozen=True)
class Sample:
    """One caption that was drawn.

    Attributes:
        caption: without special tokens and surrounding space.
        tokens: its token ids, its end among them.
        log_probabilities: of each of `tokens`, by the model itself: temperature and bias aside.
        is_cut: whether it stopped at `max_new_tokens`, without an end.
    """

    caption: str
    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    is_cut: bool

    @property
    def log_probability(self) -> float:
        """Mean log-probability per token."""
        return sum(self.log_probabilities) / len(self.log_probabilities)


def sample_of(
    text: str, tokens: list[int], logs: list[float], end_ids: Sequence[int], length_ids: Sequence[int] = ()
) -> Sample:
    """Put a sample together: what follows the first of `end_ids` is padding, a first token of `length_ids` no word."""
    start = int(bool(tokens) and tokens[0] in length_ids)
    end = next((place + 1 for place, token in enumerate(tokens) if token in end_ids), None)
    return Sample(text.strip(), tuple(tokens[start:end]), tuple(logs[start:end]), end is None)


def word_log_probabilities(tokenizer, sample: Sample) -> list[tuple[str, float]]:
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
