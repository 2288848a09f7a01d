"""ROUGE-L as pycocoevalcap computes it: an F-measure on the longest common subsequence, recall weighing more.

Lin, "ROUGE: a package for automatic evaluation of summaries", 2004; pycocoevalcap 1.2 (rouge/rouge.py). The longest
common subsequence is found with one machine word a row: Hyyrö, "Bit-parallel LCS-length computation revisited", 2004.
"""

import numpy as np

from .corpus import Corpus
from .metric import Inputs, Metric

_BETA = 1.2


def rouge_l(corpus: Corpus) -> np.ndarray:
    """Compute ROUGE-L for each image; the corpus value is the mean.

    Args:
        corpus: N images.

    Returns:
        (N,) float64 in [0, 1]: best precision and best recall over the references (they may be two different ones).
    """
    pairs = zip(corpus.candidates, corpus.references, strict=True)
    return np.array([_score(candidate, references) for candidate, references in pairs])


def _score(candidate: str, references: list[str]) -> float:
    # Split at single spaces as the original does: an empty caption is one empty token.
    words = candidate.split(" ")
    length = len(words)
    positions: dict[str, int] = {}
    for index, word in enumerate(words):
        positions[word] = positions.get(word, 0) | 1 << index
    everything = (1 << length) - 1
    precision = recall = 0.0
    for reference in references:
        reference_words = reference.split(" ")
        # Bit i of `positions[word]` says that word i of the candidate is `word`; a bit of `state` falls where the
        # common subsequence grows by a word.
        state = everything
        for word in reference_words:
            if word in positions:
                matches = state & positions[word]
                state = (state + matches) | (state - matches)
        common = length - (state & everything).bit_count()
        precision = max(precision, common / length)
        recall = max(recall, common / len(reference_words))
    if precision == 0 or recall == 0:
        return 0.0
    return ((1 + _BETA**2) * precision * recall) / (recall + _BETA**2 * precision)


def _statistics(inputs: Inputs) -> np.ndarray:
    return rouge_l(inputs.corpus)[:, None]


ROUGE_L = Metric(key="rouge_l", names={"rouge_l": "ROUGE-L"}, statistics=_statistics)
