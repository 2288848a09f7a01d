"""Calibration of a tagger: from a logit to a probability, by temperature or by isotonic regression.

Guo et al., "On calibration of modern neural networks", ICML 2017 (temperature); Zadrozny and Elkan, "Transforming
classifier scores into accurate multiclass probability estimates", KDD 2002 (isotonic). It is fitted on pictures that
neither train nor choose nor judge the tagger.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfcap.atomic_files import write_json
from hfcap.errors import ConfigError
from hfcap.json_files import read_object
from hfcap.metrics.ranking import log_loss

CALIBRATION_JSON = "calibration.json"
TEMPERATURES = np.geomspace(0.05, 20, 241)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-logits)) without overflow."""
    return 0.5 * (1 + np.tanh(np.asarray(logits, dtype=np.float64) / 2))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature of the lowest log loss, of 241 between 0.05 and 20, for one tag.

    A second parameter for the bias was not better on Flickr8k (docs/decisions.md).
    """
    losses = [log_loss(sigmoid(logits / temperature), labels) for temperature in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def fit_isotonic(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of the rising function of least squares: the lowest logit of each, and its share of positives.

    Pool adjacent violators (Ayer et al., 1955).
    """
    order = np.argsort(logits, kind="stable")
    blocks: list[list[float]] = []  # positives, pictures, lowest logit
    for logit, label in zip(logits[order].tolist(), labels[order].tolist(), strict=True):
        blocks.append([float(label), 1.0, logit])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            positives, count, _ = blocks.pop()
            blocks[-1][0] += positives
            blocks[-1][1] += count
    positives, counts, starts = np.array(blocks).T
    return starts, positives / counts


def apply_isotonic(steps: tuple[np.ndarray, np.ndarray], logits: np.ndarray) -> np.ndarray:
    """Return the probability of the step that each logit is on."""
    starts, shares = steps
    return shares[np.maximum(np.searchsorted(starts, logits, side="right") - 1, 0)]


def calibrate(logits: np.ndarray, labels: np.ndarray, tags: Sequence[str]) -> dict[str, Any]:
    """Fit a temperature per tag.

    Args:
        logits: (N, T).
        labels: (N, T) 1, 0 or NaN.
        tags: names of the columns.

    Returns:
        `{"method": "temperature", "temperature": {tag: float}, "num_images": {tag: int}, "num_positive": {tag: int}}`.
        A tag without a positive or a negative picture keeps its logits: temperature 1.
    """
    record: dict[str, Any] = {"method": "temperature", "temperature": {}, "num_images": {}, "num_positive": {}}
    for column, tag in enumerate(tags):
        known = ~np.isnan(labels[:, column])
        truth = labels[known, column] > 0
        is_mixed = truth.any() and not truth.all()
        record["temperature"][tag] = fit_temperature(logits[known, column], truth) if is_mixed else 1.0
        record["num_images"][tag], record["num_positive"][tag] = int(known.sum()), int(truth.sum())
    return record


def write_calibration(folder: Path, record: Mapping[str, Any]) -> None:
    """Write `calibration.json` into a tagger's folder."""
    write_json(folder / CALIBRATION_JSON, record)


def read_temperatures(folder: Path, tags: Sequence[str]) -> np.ndarray | None:
    """Return the temperature of each tag, (T,) float64; None for a classifier that was not calibrated by hfcap.

    Raises:
        ConfigError: a file that holds something else.
    """
    path = folder / CALIBRATION_JSON
    if not path.is_file():
        return None
    record = read_object(path)
    try:
        found = np.array([float(record["temperature"][tag]) for tag in tags])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"no temperature for each tag ({error!r})", option=str(path), fix="train the tagger again, or remove it"
        ) from error
    if not (found > 0).all():
        raise ConfigError("a temperature that is not above 0", option=str(path), fix="remove it")
    return found
