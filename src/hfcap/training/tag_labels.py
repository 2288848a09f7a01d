"""Labels of pictures for a tagger, from a column or from captions, and the share that is kept for calibration."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import numpy as np

from hfcap.counts import counted
from hfcap.data.picture_checks import content_hashes
from hfcap.errors import ConfigError, shown

logger = logging.getLogger(__name__)

TAGS_COLUMN = "tags"
FEWEST = 2  # pictures with a tag, and without: of one alone nothing is learned that is not this picture


def label_rows(
    rows: datasets.Dataset,
    tags: Sequence[str],
    from_captions: Callable[[Sequence[str]], Mapping[str, bool | None]],
) -> np.ndarray:
    """Label rows by their column `tags`, a list of names, where they have one, else by their captions.

    Args:
        rows: with `image_id` and `captions`.
        tags: names, in the order of the columns.
        from_captions: says of each tag whether the captions of a picture mean it; None leaves the picture out.

    Returns:
        (N, T) float32: 1, 0, or NaN where a picture is left out.

    Raises:
        ConfigError: the column has a tag that is not among `tags`, or no lists; one picture has two sets of tags.
    """
    if TAGS_COLUMN in rows.column_names:
        return _labels_of_column(rows, tags)
    said = [from_captions(captions) for captions in rows["captions"]]
    values = {True: 1.0, False: 0.0, None: np.nan}
    return np.array([[values[own[tag]] for tag in tags] for own in said], dtype=np.float32)


def _labels_of_column(rows: datasets.Dataset, tags: Sequence[str]) -> np.ndarray:
    labels = np.zeros((len(rows), len(tags)), dtype=np.float32)
    columns = {tag: column for column, tag in enumerate(tags)}
    known: dict[str, tuple[str, set]] = {}
    for row, (image_id, own, picture) in enumerate(
        zip(rows["image_id"], rows[TAGS_COLUMN], content_hashes(rows), strict=True)
    ):
        if not isinstance(own, list) or not all(isinstance(tag, str) for tag in own):
            raise _wrong(image_id, own, wanted="a list of tags, [] for none")
        for tag in own:
            if tag not in columns:
                raise _wrong(image_id, tag, wanted=f"one of {', '.join(tags)}", fix="fix it, or add it to the policy")
            labels[row, columns[tag]] = 1
        first, others = known.setdefault(picture, (image_id, set(own)))
        if others != set(own):
            raise _wrong(
                image_id, own, f"the same picture as {shown(first)}, tagged {sorted(others)}", fix="fix one of the two"
            )
    return labels


def _wrong(image_id: str, got: Any, reason: str | None = None, **said: str) -> ConfigError:
    return ConfigError(reason, option=f"{TAGS_COLUMN} of {shown(image_id)}", got=got, **said)


def check_classes(labels: np.ndarray, tags: Sequence[str], split: str) -> None:
    """Check that each tag has pictures with it and without.

    Raises:
        ConfigError: one has not.
    """
    for tag, column in zip(tags, labels.T, strict=True):
        for there, what in ((column == 1, "with it"), (column == 0, "without it")):
            if there.sum() < FEWEST:
                found = counted(int(there.sum()), "picture")
                raise ConfigError(
                    f"the tag {tag} has {found} {what} in the {split} split, of {len(labels)}",
                    option="policy",
                    wanted=f"{FEWEST} or more",
                    fix="give more pictures, or take the tag out of the policy",
                )


def unmeasured(labels: np.ndarray, tags: Sequence[str]) -> list[str]:
    """Return the tags that have no picture with them, or none without, so that nothing can be measured; and warn."""
    missing = [tag for tag, column in zip(tags, labels.T, strict=True) if not {0, 1} <= set(column.tolist())]
    if missing:
        logger.warning("evaluation split: no picture with (or none without) %s: not measured", ", ".join(missing))
    return missing


def is_for_calibration(image_id: str, share: float, seed: int) -> bool:
    """Draw by (seed, image_id) whether a training picture is kept for calibration alone."""
    digest = hashlib.sha256(f"{seed}|{image_id}|calibration".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def split_for_calibration(rows: datasets.Dataset, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the row numbers that train, and those that calibrate; the same picture never is on both sides."""
    chosen = [is_for_calibration(sha256, share, seed) for sha256 in content_hashes(rows)]
    return [i for i, own in enumerate(chosen) if not own], [i for i, own in enumerate(chosen) if own]
