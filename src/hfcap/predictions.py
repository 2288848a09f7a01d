"""Captions in files: predictions and references, read, checked and paired by image id.

Formats read (recognised by content; `.jsonl` by name):

| what        | format               | shape                                                                         |
| ----------- | -------------------- | ----------------------------------------------------------------------------- |
| predictions | JSONL                | `{"image_id": str, "caption": str, ...}`, one image a line                    |
| predictions | COCO results JSON    | `[{"image_id": int, "caption": str}, ...]`                                    |
| references  | JSONL                | `{"image_id": str, "captions": [str, ...], ...}`, one image a line            |
| references  | COCO annotation JSON | `{"annotations": [{"image_id": int, "caption": str}, ...]}`, grouped by image |
| references  | Karpathy JSON        | `{"images": [{"filename", "split", "sentences": [{"raw"}]}]}`                 |

Every image id is a string in memory. A `captions.jsonl` of a run carries `caption` and the references as `captions`,
so it is read as predictions and as references alike.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfcap.data.records import split_named
from hfcap.errors import shown
from hfcap.files import write_atomic
from hfcap.json_files import (
    caption_of,
    check_caption,
    check_image_id,
    image_id_of,
    json_type,
    objects_of,
    read_json,
    read_jsonl,
)

SPLITS_OF_KARPATHY = {"train": {"train", "restval"}, "validation": {"val"}, "test": {"test"}}


@dataclass(frozen=True)
class Row:
    """The captions of one image and the place they came from.

    Attributes:
        image_id: the image's id.
        captions: one caption for predictions, all references for references.
        where: the file and the line or entry, for messages.
        extra: the whole entry (JSONL and Karpathy's JSON).
    """

    image_id: str
    captions: list[str]
    where: str
    extra: dict[str, Any] = field(default_factory=dict)


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


def read_predictions(path: str | os.PathLike, allow_empty: bool = False) -> list[Row]:
    """Read one caption an image from JSONL or COCO results JSON, in file order.

    Args:
        path: the file.
        allow_empty: take captions without any text (a weak model writes some); otherwise they are an error.

    Raises:
        ValueError: one message with file, place and fix: wrong encoding, malformed JSON, a field missing or of the
            wrong type, an id twice, an empty caption.
    """
    if _is_jsonl(path):
        rows = [
            Row(image_id_of(entry, where), [caption_of(entry, "caption", where, allow_empty)], where, entry)
            for entry, where in read_jsonl(path)
        ]
    else:
        content = read_json(path)
        if not isinstance(content, list):
            raise ValueError(
                f"{path}: a JSON {json_type(content)} is no predictions file; wanted JSONL with image_id and caption "
                'a line, or COCO results [{"image_id": ..., "caption": ...}, ...]'
            )
        rows = [
            Row(image_id_of(entry, where), [caption_of(entry, "caption", where, allow_empty)], where)
            for entry, where in objects_of(content, path, "")
        ]
    return _checked(rows, path)


def read_references(path: str | os.PathLike, split: str | None = None) -> list[Row]:
    """Read all references an image from JSONL, COCO annotation JSON or Karpathy JSON, in file order.

    Args:
        path: the file.
        split: "train" (with Karpathy's restval), "validation" or "test": which images of a Karpathy file, or of JSONL
            with a `split`; all by default.

    Raises:
        ValueError: as for `read_predictions`; also an image without any reference, and a split of a file without.
    """
    if _is_jsonl(path):
        entries = read_jsonl(path) if split is None else _of_split(list(read_jsonl(path)), split, path)
        rows = [Row(image_id_of(entry, where), _texts(entry, where), where, entry) for entry, where in entries]
        return _checked(rows, path)
    content = read_json(path)
    if isinstance(content, dict) and "annotations" in content:
        if split is not None:
            raise ValueError(f"{path}: no split {split!r}, COCO annotations have none; leave --split out")
        return _checked(coco_references(content, path), path)
    if isinstance(content, dict) and "images" in content:
        return _checked(karpathy_references(content, path, split), path)
    raise ValueError(
        f"{path}: a JSON {json_type(content)} is no references file; wanted JSONL with image_id and captions a line, "
        "COCO annotations ('annotations' at the top) or Karpathy's JSON ('images' with 'sentences')"
    )


def pair(predictions: list[Row], references: list[Row], allow_missing: bool = False) -> Pairs:
    """Put each candidate beside its references by image id.

    Args:
        predictions: from `read_predictions`.
        references: from `read_references`; their order is kept.
        allow_missing: leave out images without a candidate and count them, instead of raising.

    Raises:
        ValueError: a candidate for an unknown image, an image without a candidate, nothing in common.
    """
    candidates = {row.image_id: row.captions[0] for row in predictions}
    known = {row.image_id for row in references}
    unknown = [row for row in predictions if row.image_id not in known]
    missing = [row for row in references if row.image_id not in candidates]
    if unknown and len(unknown) == len(predictions):
        raise ValueError(
            f"No image id is in both files: {len(predictions)} predictions, first {shown(unknown[0].image_id)} "
            f"({unknown[0].where}); {len(references)} references, first {shown(references[0].image_id)} "
            f"({references[0].where}). Write the ids alike, or give the references of the same split."
        )
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(predictions)} predictions have no references, first {shown(unknown[0].image_id)} "
            f"({unknown[0].where}). Remove them, or give the references of the same split."
        )
    if missing and not allow_missing:
        raise ValueError(
            f"{len(missing)} of {len(references)} images have no prediction, first {shown(missing[0].image_id)} "
            f"({missing[0].where}). Caption them, or pass --allow-missing to leave them out and count them."
        )
    kept = [row for row in references if row.image_id in candidates]
    return Pairs(
        image_ids=[row.image_id for row in kept],
        candidates=[candidates[row.image_id] for row in kept],
        references=[row.captions for row in kept],
        num_missing=len(missing),
    )


def write_predictions(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows with `image_id`, `caption` and any further JSON fields as JSONL, atomically. Returns the path."""
    rows = list(rows)
    for number, row in enumerate(rows, start=1):
        image_id_of(row, f"row {number}")
        caption_of(row, "caption", f"row {number}", allow_empty=True)
    return write_atomic(path, "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows))


def coco_references(content: dict, path: str | os.PathLike, allow_empty: bool = False) -> list[Row]:
    """Group the annotations of a COCO file's content by image, in the order of their first annotations.

    Raises:
        ValueError: an image id stands twice among the images; an annotation without id or caption.
    """
    _check_coco_images(content.get("images"), path)
    by_image: dict[str, Row] = {}
    for entry, where in objects_of(content["annotations"], path, "annotations"):
        image_id = image_id_of(entry, where)
        by_image.setdefault(image_id, Row(image_id, [], where)).captions.append(
            caption_of(entry, "caption", where, allow_empty)
        )
    return list(by_image.values())


def _check_coco_images(images: Any, path: str | os.PathLike) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for entry, where in objects_of(images, path, "images") if images is not None else ():
        if "id" not in entry:
            continue
        image_id, name = check_image_id(entry["id"], where), shown(entry.get("file_name"))
        if image_id in seen:
            other, place = seen[image_id]
            raise ValueError(
                f"{where}: id {shown(image_id)} is {name}, and {other} in {place}; give each image an id of its own, "
                "in 'annotations' too"
            )
        seen[image_id] = (name, where.removeprefix(f"{path}, "))


def karpathy_references(
    content: dict, path: str | os.PathLike, split: str | None, allow_empty: bool = False
) -> list[Row]:
    """Return the images of one split (all with None) of a Karpathy file's content; `extra` is the image's entry."""
    if split is not None and split not in SPLITS_OF_KARPATHY:
        raise ValueError(f"split={split!r}; wanted one of {', '.join(SPLITS_OF_KARPATHY)}")
    rows = []
    for entry, where in objects_of(content["images"], path, "images"):
        if split is not None and entry.get("split") not in SPLITS_OF_KARPATHY[split]:
            continue
        # The COCO file keeps COCO's own id; in the Flickr files only the file name says which photo it is.
        image_id = str(entry["cocoid"]) if "cocoid" in entry else Path(str(entry.get("filename", ""))).stem
        if not image_id:
            raise ValueError(f"{where}: neither cocoid nor filename; one of them names the image")
        sentences = objects_of(entry.get("sentences"), path, f"{where.removeprefix(f'{path}, ')}.sentences")
        captions = [caption_of(sentence, "raw", place, allow_empty) for sentence, place in sentences]
        if not captions and not allow_empty:
            raise ValueError(f"{where}: image {shown(image_id)} has no sentences; give it one or remove it")
        rows.append(Row(image_id, captions, where, entry))
    if not rows and split is not None:
        splits = sorted({str(image.get("split")) for image in content["images"]})
        raise ValueError(f"{path}: no image in split {split!r}; the file has {', '.join(splits)}")
    return rows


def _is_jsonl(path: str | os.PathLike) -> bool:
    """JSONL by name, or because the first line is a whole object with an image_id."""
    if Path(path).suffix == ".jsonl":
        return True
    with open(path, "rb") as file:
        first = file.readline(1_000_000)
    try:
        entry = json.loads(first)
    except (ValueError, RecursionError):  # malformed, too deep or not UTF-8: the JSON reader says so, with the line
        return False
    return isinstance(entry, dict) and "image_id" in entry


def _of_split(entries: list[tuple[dict, str]], split: str, path: str | os.PathLike) -> list[tuple[dict, str]]:
    """The entries whose `split` says so; as in data sources, where some have one the others are for training."""
    if not any("split" in entry for entry, _ in entries):
        raise ValueError(f"{path}: no split {split!r}, none of its lines has a `split`; add it, or leave --split out")
    names = [split_named(str(entry.get("split") or "train")) for entry, _ in entries]
    if split_named(split) not in names:
        raise ValueError(f"{path}: no image in split {split!r}; the file has {', '.join(sorted(set(names)))}")
    return [entry for entry, name in zip(entries, names, strict=True) if name == split_named(split)]


def _texts(entry: Mapping[str, Any], where: str) -> list[str]:
    captions = entry.get("captions")
    if not isinstance(captions, list) or not captions:
        got = "missing" if "captions" not in entry else repr(captions)
        raise ValueError(f"{where}: captions is {got}; wanted a list of one or more strings")
    return [check_caption(caption, f"{where}: captions[{index}]", False) for index, caption in enumerate(captions)]


def _checked(rows: list[Row], path: str | os.PathLike) -> list[Row]:
    if not rows:
        raise ValueError(f"{path}: no captions in it; wanted one image or more")
    seen: dict[str, str] = {}
    for row in rows:
        if row.image_id in seen:
            raise ValueError(
                f"{row.where}: image_id {shown(row.image_id)} stands already in {seen[row.image_id]}; "
                "keep one of the two"
            )
        seen[row.image_id] = row.where
    return rows
