"""Evaluation of a confidence: risk against coverage, and reliability.

Risk-coverage curve and its area (AURC): Geifman, Uziel and El-Yaniv, "Bias-reduced uncertainty estimation for deep
neural classifiers", ICLR 2019. A confidence that orders nothing has the mean risk as its area: the random line.
"""

from collections.abc import Sequence

import numpy as np


def risk_coverage(confidence: Sequence[float], risk: Sequence[float]) -> np.ndarray:
    """Give the mean risk of the k most confident of N items, for k from 1 to N, (N,) float64; ties in their order."""
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    return np.cumsum(np.asarray(risk, dtype=np.float64)[order]) / np.arange(1, len(order) + 1)


def area_under_risk_coverage(
    confidence: Sequence[float], risk: Sequence[float], num_resamples: int = 1000, seed: int = 0
) -> dict[str, float | list[float]]:
    """Compare the area under the risk-coverage curve with the random line.

    Args:
        confidence: of N items, higher for surer ones.
        risk: of each, lower for better ones.
        num_resamples: bootstrap samples of the items.
        seed: of the draw.

    Returns:
        {"aurc", "random": float, "difference": aurc - random, "ci95": [low, high] of the difference}. The confidence
        beats chance where the whole interval is below 0.

    Raises:
        ValueError: no items, or not as many risks.
    """
    if not len(confidence) or len(confidence) != len(risk):
        raise ValueError(f"got {len(confidence)} confidences and {len(risk)} risks; wanted one of each per item")
    confidence, risk = np.asarray(confidence, dtype=np.float64), np.asarray(risk, dtype=np.float64)
    random = np.random.default_rng(seed)
    differences = []
    for _ in range(num_resamples):
        drawn = random.integers(len(risk), size=len(risk))
        differences.append(risk_coverage(confidence[drawn], risk[drawn]).mean() - risk[drawn].mean())
    area, mean = float(risk_coverage(confidence, risk).mean()), float(risk.mean())
    interval = np.percentile(differences, [2.5, 97.5]).tolist()
    return {"aurc": area, "random": mean, "difference": area - mean, "ci95": interval}


def reliability(
    confidence: Sequence[float], quality: Sequence[float], num_bins: int = 10
) -> list[dict[str, float | int]]:
    """Put items into bins of equal number by confidence, the least sure first.

    Returns:
        {"count": int, "confidence", "quality": means} of each bin; a bin without items is left out.
    """
    order = np.argsort(np.asarray(confidence, dtype=np.float64), kind="stable")
    bins = [part for part in np.array_split(order, num_bins) if len(part)]
    confidence, quality = np.asarray(confidence, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    return [
        {"count": len(part), "confidence": float(confidence[part].mean()), "quality": float(quality[part].mean())}
        for part in bins
    ]
