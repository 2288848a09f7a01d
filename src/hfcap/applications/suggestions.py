"""Selection of a few captions among many samples of a captioner: the safest first, the others unlike it.

How much samples agree is a sign of how safe one is (minimum Bayes risk decoding: Kumar and Byrne, NAACL 2004); taking
unlike ones in turn is maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hfcap.applications.wording import as_sentence, plain
from hfcap.metrics.caption_sets import cider_kernels, uniform_frequencies
from hfcap.metrics.diversity import has_repetition
from hfcap.metrics.tokenizers import split_captions
from hfcap.samples import Sample
from hfcap.scripts import is_spaceless, num_words

# Words of a caption, from and to; in scripts without spaces, letters. Of the captions that people wrote for Flickr8k
# 28 % are short and 30 % long.
LENGTHS = {"short": (1, 8), "medium": (9, 12), "long": (13, 1000)}
# Added to the logits of the end of a caption, since few of 20 samples would have the length otherwise.
END_BIAS = {None: 0.0, "short": 2.0, "medium": 0.0, "long": -2.0}
AGREEMENT = 1.0  # weight of the agreement, from 0 to 10, beside the mean log-probability per token
UNLIKE = 0.5  # weight of the similarity, from 0 to 10, with a caption that is chosen already


@dataclass(frozen=True)
class Suggestion:
    """One caption to choose.

    Attributes:
        caption: a sentence.
        log_probability: mean per token, by the model.
        words: their number; in scripts without spaces that of the letters.
        agreement: mean CIDEr with the other samples, all n-grams weighing the same, from 0 to 10.
    """

    caption: str
    log_probability: float
    words: int
    agreement: float


@dataclass(frozen=True)
class _Candidate:
    suggestion: Suggestion
    words: tuple[str, ...]
    place: int  # of the sample


def suggestions(
    samples: Sequence[Sample],
    number: int,
    length: str | None = None,
    avoid: Sequence[str] = (),
    agreement: float = AGREEMENT,
    unlike: float = UNLIKE,
) -> list[Suggestion]:
    """Choose suggestions among the samples of a picture.

    Captions that are empty, cut off, stutter ("a man on a man on"), or hold what is to be avoided are left out. The
    first has the highest score, log-probability plus agreement; from the score of the others the similarity with the
    most similar one chosen is subtracted. No two are equal or one word apart. In scripts without spaces a word is a
    letter.

    Args:
        samples: drawn from the captioner.
        number: how many to choose; there may be fewer.
        length: a key of `LENGTHS`, or None for any.
        avoid: words and phrases that no suggestion has.
        agreement: weight of the agreement.
        unlike: weight of the similarity.
    """
    whole = [sample for sample in samples if not sample.is_cut]
    tokenizer = "char" if is_spaceless(sample.caption for sample in whole) else "ptb"
    tokenized = split_captions([sample.caption for sample in whole], tokenizer, isolated=True)
    whole = [(sample, text) for sample, text in zip(whole, tokenized, strict=True) if text]
    if not whole:
        return []
    (kernel,) = cider_kernels([[text for _, text in whole]], uniform_frequencies())
    candidates = _candidates(whole, 10 * kernel, LENGTHS.get(length, (1, 1000)), avoid, tokenizer)
    chosen: list[_Candidate] = []
    while candidates and len(chosen) < number:

        def score(candidate: _Candidate) -> float:
            nearest = max((10 * kernel[candidate.place, other.place] for other in chosen), default=0.0)
            own = candidate.suggestion
            return own.log_probability + agreement * own.agreement - unlike * nearest

        best = max(candidates, key=score)
        chosen.append(best)
        candidates = [candidate for candidate in candidates if not within_one_word(candidate.words, best.words)]
    return [candidate.suggestion for candidate in chosen]


def _candidates(
    samples: Sequence[tuple[Sample, str]],
    cider: np.ndarray,
    length: tuple[int, int],
    avoid: Sequence[str],
    tokenizer: str,
) -> list[_Candidate]:
    """Return the samples that may be suggested, the most probable first."""
    others = max(len(samples) - 1, 1)
    agreement = (cider.sum(axis=1) - cider.diagonal()) / others
    unwanted = [f" {phrase} " for phrase in split_captions(avoid, tokenizer, isolated=True) if phrase]
    shortest = 2 if tokenizer == "char" else 1  # many a word has the same letter twice
    found = []
    for place, (sample, text) in enumerate(samples):
        words, number = tuple(text.split()), num_words(text)
        is_wanted = length[0] <= number <= length[1] and not any(phrase in f" {text} " for phrase in unwanted)
        caption = as_sentence(plain(sample.caption))
        if is_wanted and caption and not has_repetition(words, shortest):
            suggestion = Suggestion(caption, sample.log_probability, number, float(agreement[place]))
            found.append(_Candidate(suggestion, words, place))
    return sorted(found, key=lambda candidate: -candidate.suggestion.log_probability)


def within_one_word(first: Sequence[str], second: Sequence[str]) -> bool:
    """Say whether captions are the same up to one word that is another, missing or added."""
    short, long = sorted((first, second), key=len)
    if len(long) - len(short) > 1:
        return False
    same = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    return short[same + (len(short) == len(long)) :] == long[same + 1 :]
