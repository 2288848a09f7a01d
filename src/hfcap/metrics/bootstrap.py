"""Bootstrap intervals over images, and the paired difference of two systems.

Efron and Tibshirani, "An introduction to the bootstrap", 1993; for paired tests on BLEU, Koehn, "Statistical
significance tests for machine translation evaluation", EMNLP 2004. Images are drawn with replacement; corpus BLEU is
worked out anew from the summed n-gram counts of each draw. CIDEr keeps the document frequencies of the full set: they
are part of the yardstick, not of the sample.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from .choice import DEFAULT_METRICS
from .compute import score
from .metric import Inputs, Options, Scores

_CHUNK = 4_000_000  # draws held at a time


def confidence_intervals(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    images: Iterable | None = None,
    **options,
) -> dict[str, dict[str, float | list[float]]]:
    """Compute metrics with 95 % intervals, in the form `metrics.json` keeps them.

    Args:
        predictions: N captions, one per image.
        references: for each image, its reference captions.
        metrics: as for `compute_metrics`.
        num_resamples: bootstrap samples.
        seed: the same seed gives the same intervals.
        images: as for `compute_metrics`.
        options: as for `compute_metrics`.

    Returns:
        {key: {"value": float, "ci95": [low, high]}}: the corpus value, and the 2.5th and 97.5th percentile over the
        samples.

    Raises:
        ValueError, TypeError: as `compute_metrics`; also fewer than one resample.
    """
    return intervals(score(Inputs(predictions, references, Options(**options), images), metrics), num_resamples, seed)


def intervals(
    scored: Sequence[Scores], num_resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, float | list[float]]]:
    """Give what `confidence_intervals` gives, from metrics that `compute.score` has worked out already."""
    result = {}
    for scores in scored:
        resampled = resample(scores, num_resamples, seed)
        low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
        for column, (key, value) in enumerate(zip(scores.keys, scores.values.tolist(), strict=True)):
            result[key] = {"value": value, "ci95": [float(low[column]), float(high[column])]}
    return result


def compare_systems(
    predictions_a: Sequence[str],
    predictions_b: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    images: Iterable | None = None,
    **options,
) -> dict[str, dict[str, float | list[float]]]:
    """Say whether system B differs from system A on the same images.

    Args:
        predictions_a: N captions of the first system.
        predictions_b: N captions of the second, of the same images in the same order.
        references: for each image, its reference captions.
        metrics: as for `compute_metrics`.
        num_resamples: bootstrap samples; both systems are scored on each.
        seed: the same seed gives the same figures.
        images: as for `compute_metrics`; read once for each system.
        options: as for `compute_metrics`.

    Returns:
        {key: {"a": float, "b": float, "difference": b - a, "ci95": [low, high] of the difference, "p_value": float}}.
        The p-value is two-sided: twice the smaller share of samples on one side of 0, each share counting one sample
        more than seen, so that it is never 0; at most 1.

    Raises:
        ValueError, TypeError: as `compute_metrics`.
    """
    settings = Options(**options)
    first = score(Inputs(predictions_a, references, settings, images), metrics)
    second = score(Inputs(predictions_b, references, settings, images), metrics)
    result = {}
    for a, b in zip(first, second, strict=True):
        # The same seed draws the same images for both.
        differences = resample(b, num_resamples, seed) - resample(a, num_resamples, seed)
        low, high = np.percentile(differences, [2.5, 97.5], axis=0)
        smaller = np.minimum((differences <= 0).sum(axis=0), (differences >= 0).sum(axis=0))
        p_values = np.minimum(2 * (smaller + 1) / (num_resamples + 1), 1.0)
        for column, key in enumerate(a.keys):
            value_a, value_b = float(a.values[column]), float(b.values[column])
            result[key] = {
                "a": value_a,
                "b": value_b,
                "difference": value_b - value_a,
                "ci95": [float(low[column]), float(high[column])],
                "p_value": float(p_values[column]),
            }
    return result


def resample(scores: Scores, num_resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Score bootstrap samples of the images.

    Args:
        scores: of N images and K keys.
        num_resamples: samples to draw, each of N images with replacement.
        seed: of the draw; it depends on nothing but the seed, N and `num_resamples`.

    Returns:
        (num_resamples, K) float64.

    Raises:
        ValueError: fewer than one resample.
    """
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}, wanted at least 1 (1000 is usual)")
    num_images = len(scores.statistics)
    sums = [times @ scores.statistics for times in _draw(num_images, num_resamples, seed)]
    return scores.metric.combine(np.concatenate(sums), num_images)


def _draw(num_images: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Give how often each image is drawn, (samples, N) float64, in pieces that fit in memory."""
    random = np.random.default_rng(seed)
    step = max(1, _CHUNK // num_images)
    for start in range(0, num_resamples, step):
        rows = min(step, num_resamples - start)
        drawn = random.integers(num_images, size=(rows, num_images)) + num_images * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * num_images).reshape(rows, num_images).astype(np.float64)
