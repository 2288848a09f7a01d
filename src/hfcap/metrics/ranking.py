"""Figures of a tagger: average precision with bootstrap intervals, precision and recall in a queue, calibration error.

Average precision is the area under the steps of precision over recall, as scikit-learn defines it; pictures of one
score are taken together, so that a score of two values (a word was said or not) is judged without luck. Its value by
chance is the share of positive pictures.
"""

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 1000


def average_precision(scores: np.ndarray, labels: np.ndarray, times: np.ndarray | None = None) -> np.ndarray | float:
    """Sum over the thresholds of the precision there times the recall gained.

    Args:
        scores: (N,) higher for pictures that rather have the tag.
        labels: (N,) bool.
        times: (S, N) how often each picture counts, for S samples; once each by default.

    Returns:
        float, or (S,) float64; NaN where no picture is positive.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    scores, labels = np.asarray(scores)[order], np.asarray(labels, dtype=bool)[order]
    counts = np.ones((1, len(scores))) if times is None else times[:, order]
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # the last picture of each score
    hits, seen = np.cumsum(counts * labels, axis=1)[:, ends], np.cumsum(counts, axis=1)[:, ends]
    gained = np.diff(hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (gained * np.where(seen > 0, hits / seen, 0)).sum(axis=1) / hits[:, -1]
    return float(values[0]) if times is None else values


def draws(num_images: int, num_resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Return how often each picture is in each bootstrap sample, (S, N) float32."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(num_images, size=(num_resamples, num_images))
    return np.stack([np.bincount(row, minlength=num_images) for row in drawn]).astype(np.float32)


def with_interval(value: float, resampled: np.ndarray) -> dict[str, float | list[float]]:
    """Return `{"value", "ci95": [low, high]}`; samples without a positive picture (NaN) do not count."""
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return {"value": float(value), "ci95": [float(low), float(high)]}


def tag_figures(
    scores: np.ndarray, labels: np.ndarray, tags: Sequence[str], seed: int = 0
) -> dict[str, dict[str, float | list[float]]]:
    """Average precision of each tag, their mean, and chance (`prevalence`), with 95 % intervals over pictures.

    Args:
        scores: (N, T).
        labels: (N, T) 1 or 0, NaN where a picture is left out.
        tags: names of the columns.
        seed: of the bootstrap, which draws the same pictures for all tags.

    Returns:
        `{"map", "average_precision_TAG", "prevalence_TAG"}`, tags without a positive or a negative picture left out.
        Empty where there is no tag left.
    """
    times, figures, means = draws(len(scores), seed=seed), {}, []
    for column, tag in enumerate(tags):
        known = ~np.isnan(labels[:, column])
        truth, own = labels[known, column] > 0, times[:, known]
        if truth.all() or not truth.any():
            continue
        precision = average_precision(scores[known, column], truth, own)
        figures[f"average_precision_{tag}"] = with_interval(average_precision(scores[known, column], truth), precision)
        figures[f"prevalence_{tag}"] = with_interval(truth.mean(), (own * truth).sum(axis=1) / own.sum(axis=1))
        means.append(precision)
    if not means:
        return {}
    value = np.mean([figure["value"] for key, figure in figures.items() if key.startswith("average_precision_")])
    return {"map": with_interval(value, np.nanmean(means, axis=0)), **figures}


def paired_difference(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray, seed: int = 0
) -> dict[str, float | list[float]]:
    """Average precision of `second` less that of `first` on the same pictures, with a 95 % interval over pictures."""
    times = draws(len(labels), seed=seed)
    value = average_precision(second, labels) - average_precision(first, labels)
    return with_interval(value, average_precision(second, labels, times) - average_precision(first, labels, times))


def reliability(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = 10) -> tuple[float, list[dict]]:
    """Expected calibration error over bins of equal width, and the bins.

    Guo et al., "On calibration of modern neural networks", ICML 2017.

    Args:
        probabilities: (N,) between 0 and 1.
        labels: (N,) bool.
        num_bins: bins between 0 and 1.

    Returns:
        The mean over pictures of how far a bin's mean probability is from its share of positives, and for each bin
        `{"from", "count", "probability", "share"}`, the last two None where it is empty.
    """
    place = np.minimum((probabilities * num_bins).astype(int), num_bins - 1)
    error, bins = 0.0, []
    for number in range(num_bins):
        inside = place == number
        count = int(inside.sum())
        probability, share = (float(x[inside].mean()) if count else None for x in (probabilities, labels))
        error += count / len(labels) * abs(probability - share) if count else 0.0
        bins.append({"from": number / num_bins, "count": count, "probability": probability, "share": share})
    return error, bins


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean binary cross entropy in nats."""
    p = np.clip(probabilities, 1e-12, 1 - 1e-12)
    return float(-np.mean(np.where(labels, np.log(p), np.log1p(-p))))


def over_tags(figure: Callable[[np.ndarray, np.ndarray], float], values: np.ndarray, labels: np.ndarray) -> float:
    """Mean over tags of a figure of (values, labels) of the pictures whose label is known; see `tag_figures`."""
    known = ~np.isnan(labels)
    columns = range(labels.shape[1])
    return float(np.mean([figure(values[known[:, c], c], labels[known[:, c], c] > 0) for c in columns]))
