"""BLEU-1 to BLEU-4 as pycocoevalcap computes them.

Papineni et al., "BLEU: a method for automatic evaluation of machine translation", ACL 2002. The small constants that
keep an empty count from dividing by zero are those of pycocoevalcap 1.2 (bleu/bleu_scorer.py).
"""

from typing import Literal

import numpy as np

from .corpus import Corpus
from .metric import Inputs, Metric
from .ngrams import MAX_ORDER

ReferenceLength = Literal["closest", "shortest", "average"]
_SMALL, _TINY = 1e-9, 1e-15


def bleu_statistics(corpus: Corpus, reference_length: ReferenceLength = "closest") -> np.ndarray:
    """Count, for each image, all that BLEU needs; corpus BLEU is a function of the sum over images.

    Args:
        corpus: N images.
        reference_length: which length the brevity penalty compares with: the reference closest to the candidate (the
            shorter of two equally close; pycocoevalcap's choice), the shortest, or the average.

    Returns:
        (N, 10) float64: candidate length, reference length, then n-grams in the candidate for orders 1 to 4, then how
        many of them the references confirm.

    Raises:
        ValueError: unknown `reference_length`.
    """
    lengths = corpus.candidate_counts.lengths
    statistics = np.empty((len(corpus), 2 + 2 * MAX_ORDER))
    statistics[:, 0] = lengths
    statistics[:, 1] = _reference_lengths(corpus, reference_length)
    for order in range(1, MAX_ORDER + 1):
        statistics[:, 1 + order] = np.maximum(lengths - order + 1, 0)
        statistics[:, 1 + MAX_ORDER + order] = _confirmed(corpus, order)
    return statistics


def bleu_from_statistics(statistics: np.ndarray) -> np.ndarray:
    """Give BLEU-1 to BLEU-4 for rows of statistics: one image, or the sum over the images of a corpus.

    Args:
        statistics: (..., 10) as `bleu_statistics` returns them.

    Returns:
        (..., 4) float64 in [0, 1] (some 1e-9 above 1 cannot happen, some 1e-12 above 0 for no match at all can).
    """
    guesses = statistics[..., 2 : 2 + MAX_ORDER]
    correct = statistics[..., 2 + MAX_ORDER :]
    precisions = np.cumprod((correct + _TINY) / (guesses + _SMALL), axis=-1)
    scores = precisions ** (1.0 / np.arange(1, MAX_ORDER + 1))
    ratio = (statistics[..., :1] + _TINY) / (statistics[..., 1:2] + _SMALL)
    # An empty candidate has a ratio near 1e-17, for which exp(1 - 1/ratio) is rightly 0.
    penalty = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return scores * penalty


def bleu(corpus: Corpus, reference_length: ReferenceLength = "closest") -> tuple[np.ndarray, np.ndarray]:
    """Compute BLEU-1 to BLEU-4.

    Args:
        corpus: N images.
        reference_length: see `bleu_statistics`.

    Returns:
        (4,) float64 for the corpus, and (N, 4) for each image on its own; the first is not the mean of the second.
    """
    statistics = bleu_statistics(corpus, reference_length)
    return bleu_from_statistics(statistics.sum(axis=0)), bleu_from_statistics(statistics)


def _reference_lengths(corpus: Corpus, option: ReferenceLength) -> np.ndarray:
    index = corpus.index
    first = np.cumsum(index.num_references) - index.num_references
    if option == "closest":
        distance = np.abs(index.lengths - corpus.candidate_counts.lengths[index.image])
        # The pair (distance, length) as one number: the smallest wins, ties go to the shorter reference.
        base = int(index.lengths.max()) + 1
        return np.minimum.reduceat(distance * base + index.lengths, first) % base
    if option == "shortest":
        return np.minimum.reduceat(index.lengths, first)
    if option == "average":
        return np.add.reduceat(index.lengths, first) / index.num_references
    raise ValueError(f"reference_length is {option!r}, wanted 'closest', 'shortest' or 'average'")


def _confirmed(corpus: Corpus, order: int) -> np.ndarray:
    """Count the n-grams of each candidate that a reference holds, each at most as often as the richest reference."""
    candidate, reference = corpus.candidate_counts.orders[order - 1], corpus.index.orders[order - 1]
    if not len(reference.pair):
        return np.zeros(len(corpus))
    pair, most = reference.pair[reference.first], np.maximum.reduceat(reference.count, reference.first)
    known = candidate.ngram < reference.num_ngrams
    wanted = reference.pairs_of(candidate.caption[known], candidate.ngram[known])
    place = np.minimum(np.searchsorted(pair, wanted), len(pair) - 1)
    confirmed = np.where(pair[place] == wanted, np.minimum(candidate.count[known], most[place]), 0)
    return np.bincount(candidate.caption[known], weights=confirmed, minlength=len(corpus))


def _statistics(inputs: Inputs) -> np.ndarray:
    return bleu_statistics(inputs.corpus, inputs.options.reference_length)


BLEU = Metric(
    key="bleu",
    names={f"bleu_{order}": f"BLEU-{order}" for order in range(1, MAX_ORDER + 1)},
    statistics=_statistics,
    combine=lambda sums, num_images: bleu_from_statistics(sums),
)
