"""Histograms for the report: shares in bins, and their geometry in percent of the drawing area.

The page stretches the drawing to any width and sets the labels beside it as text, so they stay readable on a phone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Series:
    """One set of values in the bins of a chart.

    Attributes:
        name: legend.
        shares: (bins,) percent of the set in each bin; they add up to 100.
        counts: (bins,) how many.
        outline: SVG path of the steps, in a 100 x 100 drawing with y downwards.
        median: of the values.
    """

    name: str
    shares: list[float]
    counts: list[int]
    outline: str
    median: float


@dataclass(frozen=True)
class Chart:
    """A histogram of one or more sets of values over the same bins.

    Attributes:
        series: the first is drawn filled, the others as outlines.
        bins: (bins,) labels.
        x_ticks: (position in percent from the left, text).
        y_ticks: (position in percent from the bottom, text).
        y_max: percent at the top of the drawing.
    """

    series: list[Series]
    bins: list[str]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    y_max: float

    @property
    def summary(self) -> str:
        """The chart in words, for those who do not see it."""
        return "; ".join(f"{series.name}: median {round(series.median, 1):.4g}" for series in self.series)


def histogram(sets: Mapping[str, Sequence[float]], max_bins: int = 20, whole: bool = False) -> Chart:
    """Count values in bins of a round width that start at 0; the last bin takes the longest tail.

    Args:
        sets: values >= 0 by legend; each set has one or more.
        max_bins: bins drawn at most.
        whole: the values are counts, so that a bin holds whole numbers.

    Raises:
        ValueError: an empty set, or a negative value.
    """
    values = {name: np.asarray(items, dtype=np.float64) for name, items in sets.items()}
    for name, items in values.items():
        if not items.size or items.min() < 0:
            got = "none" if not items.size else f"{items.min()}"
            raise ValueError(f"histogram of {name!r} wants one or more values >= 0, got {got}; remove the chart")
    # One value far out would squeeze all others into one bin: past the 99th percentile they share the last one.
    top = max(float(np.quantile(items, 0.99, method="higher")) for items in values.values())
    width = _round_width(top / max_bins, whole)
    bins = max(1, min(max_bins, math.floor(top / width) + 1))
    has_tail = any(items.max() >= bins * width for items in values.values())
    series = [_count(name, items, width, bins) for name, items in values.items()]
    y_step = _round_width(max(max(item.shares) for item in series) / 4, whole=False)
    y_max = y_step * math.ceil(max(max(item.shares) for item in series) / y_step - 1e-9)
    return Chart(
        series=[_with_outline(item, y_max) for item in series],
        bins=[_bin_label(index, width, whole, has_tail and index == bins - 1) for index in range(bins)],
        x_ticks=_x_ticks(width, bins, whole),
        y_ticks=[(100 * value / y_max, f"{value:g} %") for value in np.arange(y_step, y_max + y_step / 2, y_step)],
        y_max=y_max,
    )


def _round_width(width: float, whole: bool) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    if width <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(width))
    rounded = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= width * (1 - 1e-9))
    return max(rounded, 1.0) if whole else rounded


def _count(name: str, items: np.ndarray, width: float, bins: int) -> Series:
    # Not np.histogram: it drops what lies past the last edge.
    index = np.minimum((items / width + 1e-9).astype(int), bins - 1)
    counts = np.bincount(index, minlength=bins)
    shares = 100 * counts / items.size
    return Series(name, shares.tolist(), counts.tolist(), "", float(np.median(items)))


def _with_outline(series: Series, y_max: float) -> Series:
    step = 100 / len(series.shares)
    points = ["M0 100"]
    for index, share in enumerate(series.shares):
        points.append(f"V{100 - 100 * share / y_max:.2f}H{(index + 1) * step:.2f}")
    return Series(series.name, series.shares, series.counts, "".join([*points, "V100"]), series.median)


def _bin_label(index: int, width: float, whole: bool, is_tail: bool) -> str:
    low, high = index * width, (index + 1) * width
    if is_tail:
        return f"{low:g} or more"
    if whole:
        return f"{low:g}" if width == 1 else f"{low:g} to {high - 1:g}"
    return f"{low:g} to {high:g}"


def _x_ticks(width: float, bins: int, whole: bool) -> list[tuple[float, str]]:
    every = max(1, math.ceil(bins / 5))
    # A whole number stands under the middle of its bar, an edge of a range under the edge.
    shift = 0.5 if whole and width == 1 else 0.0
    return [(100 * (index + shift) / bins, f"{index * width:g}") for index in range(0, bins, every)]
