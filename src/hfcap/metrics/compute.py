"""Computation of several metrics at once: tokenized once, counted once."""

from collections.abc import Iterable, Sequence

from .choice import DEFAULT_METRICS, choose_metrics, needs_images
from .metric import Inputs, Options, Scores


def compute_metrics(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    images: Iterable | None = None,
    **options,
) -> dict[str, float | list[float]]:
    """Compute caption metrics, equal to pycocoevalcap's with its PTB tokenizer to 1e-9 (the default, for English).

    Args:
        predictions: N captions, one per image, as the model wrote them (tokenization happens here).
        references: for each image, its reference captions.
        metrics: any of "bleu" (four values), "meteor" (needs the extra `hfcap[meteor]`), "rouge_l", "cider",
            "cider_d", "clip_score" and "ref_clip_score" (need `images`), "chair" (needs `chair_synonyms`) and
            "invented" (of both lower is better, and they need the extra `hfcap[meteor]`).
        images: N pictures, for the metrics that look at them: anything `hfcap.data.pictures.load_picture` takes.
        options: `tokenizer`, `reference_length`, `idf`, `clip_model`, `meteor`, `chair_synonyms`, `objects`; see
            `hfcap.metrics.metric.Options`.

    Returns:
        {"bleu_1": float, ..., "cider": float} and, for each key, "<key>_per_image": list of N floats in the order
        given. Values are raw: from 0 to 1, CIDEr from 0 to 10, CLIPScore from 0 to 2.5.

    Raises:
        ValueError: unknown metric or tokenizer, no images, differing lengths, an image without references, "meteor" or
            document frequencies with another tokenizer than theirs, a metric of images without them.
        TypeError: something that is not a string where a caption is wanted, or an unknown option.
        MeteorUnavailableError: "meteor" without the extra, or its jar without Java.
        ConfigError: a CLIP model that cannot be loaded.
    """
    result: dict[str, float | list[float]] = {}
    for scores in score(Inputs(predictions, references, Options(**options), images), metrics):
        for column, (key, value) in enumerate(zip(scores.keys, scores.values.tolist(), strict=True)):
            result[key] = value
            result[f"{key}_per_image"] = scores.per_image[:, column].tolist()
    return result


def score(inputs: Inputs, metrics: Sequence[str] = DEFAULT_METRICS) -> list[Scores]:
    """Do the work of `compute_metrics` (same errors) and keep what a bootstrap needs."""
    chosen = choose_metrics(metrics, inputs.options)
    if inputs.images is None and needs_images(metrics):
        raise ValueError(f"{needs_images(metrics)[0]} looks at the images and got none: pass images=")
    inputs.corpus  # noqa: B018 (checks the captions, whatever the metrics)
    return [Scores(metric, metric.statistics(inputs)) for metric in chosen]
