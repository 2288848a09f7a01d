"""One call for all caption metrics: tokenizes once, counts once."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .bleu import ReferenceLength, bleu_from_statistics, bleu_statistics
from .cider import cider
from .corpus import Corpus, build_corpus
from .idf import DocumentFrequencies
from .meteor import meteor_from_statistics, meteor_statistics
from .rouge_l import rouge_l

METRICS = ("bleu", "meteor", "rouge_l", "cider", "cider_d")
Idf = DocumentFrequencies | str | os.PathLike | None


@dataclass(frozen=True)
class Scores:
    """What one metric says of N images, in a form from which any weighting of the images can be scored again.

    Attributes:
        keys: K names of its values.
        statistics: (N, S) float64, to be summed over images.
        combine: sums (..., S) and the number of images -> corpus values (..., K).
        per_image: (N, K) float64.
    """

    keys: tuple[str, ...]
    statistics: np.ndarray
    combine: Callable[[np.ndarray, int], np.ndarray]
    per_image: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """(K,) float64, the corpus values."""
        return self.combine(self.statistics.sum(axis=0), len(self.statistics))


def compute_metrics(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str] = ("bleu", "rouge_l", "cider"),
    *,
    reference_length: ReferenceLength = "closest",
    idf: Idf = None,
    tokenizer: str = "ptb",
) -> dict[str, float | list[float]]:
    """Compute caption metrics, equal to pycocoevalcap's with its PTB tokenizer to 1e-9 (the default, for English).

    Args:
        predictions: N captions, one an image, as the model wrote them (tokenization happens here).
        references: for each image, its reference captions.
        metrics: any of "bleu" (four values), "meteor" (needs Java and the extra `hfcap[meteor]`), "rouge_l", "cider",
            "cider_d".
        reference_length: BLEU's reference length, see `bleu_statistics`.
        idf: document frequencies for CIDEr, or a file of them; None takes them from `references`.
        tokenizer: "ptb", or for other languages "intl", "zh" or "char"; see `hfcap.metrics.tokenizers`.

    Returns:
        {"bleu_1": float, ..., "cider": float} and, for each key, "<key>_per_image": list of N floats in the order
        given. Values are raw: from 0 to 1, CIDEr from 0 to 10.

    Raises:
        ValueError: unknown metric or tokenizer, no images, differing lengths, an image without references, "meteor" or
            document frequencies with another tokenizer than theirs.
        TypeError: something that is not a string where a caption is wanted.
        MeteorUnavailableError: "meteor" without Java or without the extra.
    """
    result: dict[str, float | list[float]] = {}
    for scores in score(predictions, references, metrics, reference_length, idf, tokenizer):
        for column, (key, value) in enumerate(zip(scores.keys, scores.values.tolist(), strict=True)):
            result[key] = value
            result[f"{key}_per_image"] = scores.per_image[:, column].tolist()
    return result


def score(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str],
    reference_length: ReferenceLength = "closest",
    idf: Idf = None,
    tokenizer: str = "ptb",
) -> list[Scores]:
    """Do the work of `compute_metrics` (same arguments and errors) and keep what a bootstrap needs."""
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise ValueError(f"unknown metrics {', '.join(unknown)}; wanted some of {', '.join(METRICS)}")
    if idf is not None and not isinstance(idf, DocumentFrequencies):
        idf = DocumentFrequencies.load(idf)
    if idf is not None:
        idf.check_tokenizer(tokenizer)
    if "meteor" in metrics and tokenizer != "ptb":
        raise ValueError(f"meteor knows English words and the tokenizer ptb only, not {tokenizer}; leave it out")
    corpus = build_corpus(predictions, references, tokenizer)
    scores = []
    if "bleu" in metrics:
        scores.append(_bleu(corpus, reference_length))
    if "meteor" in metrics:
        scores.append(_meteor(corpus))
    if "rouge_l" in metrics:
        scores.append(_mean(("rouge_l",), rouge_l(corpus)))
    cider_keys = tuple(key for key in ("cider", "cider_d") if key in metrics)
    if cider_keys:
        scores.append(_mean(cider_keys, cider(corpus, idf)))
    return scores


def _bleu(corpus: Corpus, reference_length: ReferenceLength) -> Scores:
    statistics = bleu_statistics(corpus, reference_length)
    keys = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")
    return Scores(keys, statistics, lambda sums, _: bleu_from_statistics(sums), bleu_from_statistics(statistics))


def _meteor(corpus: Corpus) -> Scores:
    statistics = meteor_statistics(corpus)
    per_image = meteor_from_statistics(statistics)[:, None]
    return Scores(("meteor",), statistics, lambda sums, _: meteor_from_statistics(sums)[..., None], per_image)


def _mean(keys: tuple[str, ...], per_image: np.ndarray) -> Scores:
    columns = np.repeat(per_image[:, None], len(keys), axis=1)
    return Scores(keys, columns, lambda sums, num_images: sums / num_images, columns)
