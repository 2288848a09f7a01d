"""Predictions beside the references of the same images, by image id or by the name of the picture's file.

Predictions may name an image by its picture file where the references know it (COCO's `file_name`, Karpathy's
`filename`, an `image` of JSONL): `hfcap caption` does. Numbers match with and without leading zeros and COCO's prefix
(397133, 000000397133, COCO_val2014_000000397133), where one image has the number.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hfcap.counts import counted
from hfcap.errors import shown
from hfcap.predictions import Row

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"(?:COCO_[a-z]+\d{4}_)?0*(\d+)")


@dataclass(frozen=True)
class Pairs:
    """Candidates beside their references, in the order of the references.

    Attributes:
        image_ids: (N,) ids.
        candidates: (N,) captions to be judged.
        references: (N,) lists of reference captions, of any length >= 1.
        num_missing: images that have references and no candidate, left out with `allow_missing`.
    """

    image_ids: list[str]
    candidates: list[str]
    references: list[list[str]]
    num_missing: int


def pair(predictions: list[Row], references: list[Row], allow_missing: bool = False) -> Pairs:
    """Put each candidate beside its references by image id, or by the name of the picture's file.

    Args:
        predictions: from `read_predictions`.
        references: from `read_references`; their order is kept.
        allow_missing: leave out images without a candidate and count them, instead of raising.

    Raises:
        ValueError: a candidate for an unknown image, an image without a candidate, nothing in common; two candidates
            for one image; a file name that several images have.
    """
    predictions = _by_reference_ids(predictions, references)
    candidates = {row.image_id: row.captions[0] for row in predictions}
    known = {row.image_id for row in references}
    unknown = [row for row in predictions if row.image_id not in known]
    missing = [row for row in references if row.image_id not in candidates]
    if unknown and len(unknown) == len(predictions):
        raise ValueError(
            f"No image id is in both files: {counted(len(predictions), 'prediction')}, first "
            f"{shown(unknown[0].image_id)} ({unknown[0].where}); {counted(len(references), 'reference')}, first "
            f"{shown(references[0].image_id)} ({references[0].where}). Write the ids alike, or give the "
            "references of the same split (another file, or --split)."
        )
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(predictions)} predictions have no references, first {shown(unknown[0].image_id)} "
            f"({unknown[0].where}). Remove them, or give the references of the same split (another "
            "file, or --split)."
        )
    if missing and not allow_missing:
        raise ValueError(
            f"{len(missing)} of {len(references)} images have no prediction, first {shown(missing[0].image_id)} "
            f"({missing[0].where}). Caption them, name the split that was captioned (--split), or pass "
            "--allow-missing to skip and count them."
        )
    kept = [row for row in references if row.image_id in candidates]
    return Pairs(
        image_ids=[row.image_id for row in kept],
        candidates=[candidates[row.image_id] for row in kept],
        references=[row.captions for row in kept],
        num_missing=len(missing),
    )


def same_images(names: Iterable[str], rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return the ids of the rows that each name of another file stands for.

    That is the name itself where a row has that id; else the rows whose picture file is called so; else the row with
    its number, with or without leading zeros and COCO's prefix, where only one row has that number.
    """
    known = {row.image_id for row in rows}
    files = _owners_of_names(rows)
    numbers = _owners(
        (number, row.image_id)
        for row in rows
        for number in {_number_of(name) for name in (row.image_id, *row.names)} - {None}
    )
    same = {}
    for name in names:
        with_number = numbers.get(_number_of(name), [])
        found = [name] if name in known else files.get(name, [])
        same[name] = found or (with_number if len(with_number) == 1 else [])
    return same


def _by_reference_ids(predictions: list[Row], references: list[Row]) -> list[Row]:
    """Give predictions that name a reference's picture file, or its number, the id of the reference."""
    names = _owners_of_names(references)
    same = same_images((row.image_id for row in predictions), references)
    renamed, both, seen = [], [], {}
    for row in predictions:
        found = same[row.image_id]
        if len(found) > 1:
            raise ValueError(
                f"{row.where}: {shown(row.image_id)} is the file name of several images: {shown(found[0])} and "
                f"{shown(found[1])}; write their ids, or the names with their folders"
            )
        if found == [row.image_id] and set(names.get(row.image_id, ())) - {row.image_id}:
            both.append(row.image_id)
        row = replace(row, image_id=found[0]) if found else row
        if row.image_id in seen:
            raise ValueError(
                f"{row.where}: a second caption of image {shown(row.image_id)}, whose first is {seen[row.image_id]}; "
                "name all images by id, or all by file name with extension"
            )
        seen[row.image_id] = row.where
        renamed.append(row)
    _say_renamed(predictions, renamed)
    if both:
        logger.warning(
            "%s with an image id that is the file name of another image too, first %s: taken as ids. "
            "File names are known by their extension",
            *(counted(len(both), "prediction"), shown(both[0])),
        )
    return renamed


def _owners_of_names(rows: Sequence[Row]) -> dict[str, list[str]]:
    return _owners((name, row.image_id) for row in rows for name in row.names)


def _owners(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    owners: dict[str, list[str]] = {}
    for name, image_id in pairs:
        owners.setdefault(name, []).append(image_id)
    return owners


def _number_of(name: str) -> str | None:
    """Return the number that a name is, or that follows COCO's prefix, without leading zeros."""
    match = _NUMBER.fullmatch(name)
    return None if match is None else match[1]


def _say_renamed(predictions: list[Row], renamed: list[Row]) -> None:
    changed = [
        (was.image_id, row.image_id)
        for was, row in zip(predictions, renamed, strict=True)
        if was.image_id != row.image_id
    ]
    if changed:
        logger.info(
            "%d of %d predictions are matched by the file name or the number of their image, first %s: image %s",
            *(len(changed), len(predictions), shown(changed[0][0]), shown(changed[0][1])),
        )
