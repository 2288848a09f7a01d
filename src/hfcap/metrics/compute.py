"""One call for all caption metrics: tokenizes once, counts once."""

import os
from collections.abc import Sequence

from .bleu import ReferenceLength, bleu
from .cider import cider
from .corpus import Corpus, build_corpus
from .idf import DocumentFrequencies
from .rouge_l import rouge_l

METRICS = ("bleu", "rouge_l", "cider", "cider_d")


def compute_metrics(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str] = ("bleu", "rouge_l", "cider"),
    *,
    reference_length: ReferenceLength = "closest",
    idf: DocumentFrequencies | str | os.PathLike | None = None,
) -> dict[str, float | list[float]]:
    """Compute caption metrics, equal to pycocoevalcap's with its PTB tokenizer to 1e-9.

    Args:
        predictions: N captions, one an image, as the model wrote them (tokenization happens here).
        references: for each image, its reference captions.
        metrics: any of "bleu" (four values), "rouge_l", "cider", "cider_d".
        reference_length: BLEU's reference length, see `bleu_statistics`.
        idf: document frequencies for CIDEr, or a file of them; None takes them from `references`.

    Returns:
        {"bleu_1": float, ..., "cider": float} and, for each key, "<key>_per_image": list of N floats in the order
        given. Values are raw: from 0 to 1, CIDEr from 0 to 10.

    Raises:
        ValueError: unknown metric, no images, differing lengths, or an image without references.
        TypeError: something that is not a string where a caption is wanted.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise ValueError(f"unknown metrics {', '.join(unknown)}; wanted some of {', '.join(METRICS)}")
    if idf is not None and not isinstance(idf, DocumentFrequencies):
        idf = DocumentFrequencies.load(idf)
    corpus = build_corpus(predictions, references)
    result: dict[str, float | list[float]] = {}
    if "bleu" in metrics:
        result |= _bleu(corpus, reference_length)
    if "rouge_l" in metrics:
        result |= _mean("rouge_l", rouge_l(corpus))
    cider_keys = [key for key in ("cider", "cider_d") if key in metrics]
    if cider_keys:
        per_image = cider(corpus, idf)
        for key in cider_keys:
            result |= _mean(key, per_image)
    return result


def _bleu(corpus: Corpus, reference_length: ReferenceLength) -> dict[str, float | list[float]]:
    values, per_image = bleu(corpus, reference_length)
    result: dict[str, float | list[float]] = {}
    for order, value in enumerate(values.tolist(), start=1):
        result[f"bleu_{order}"] = value
        result[f"bleu_{order}_per_image"] = per_image[:, order - 1].tolist()
    return result


def _mean(key: str, per_image) -> dict[str, float | list[float]]:
    return {key: float(per_image.mean()), f"{key}_per_image": per_image.tolist()}
