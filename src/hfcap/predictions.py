"""Prediction and reference files: reading, checks, writing.

Formats read (recognised by content; `.jsonl` and `.parquet` by name):

| what        | format               | shape                                                                         |
| ----------- | -------------------- | ----------------------------------------------------------------------------- |
| predictions | JSONL                | `{"image_id": str, "caption": str, ...}`, one image per line                  |
| predictions | parquet              | columns `image_id` and `caption`, one image per row                           |
| predictions | COCO results JSON    | `[{"image_id": int, "caption": str}, ...]`                                    |
| references  | JSONL                | `{"image_id": str, "captions": [str, ...], ...}`, one image per line          |
| references  | JSONL                | `{"image_id": str, "caption": str, ...}`, one caption per line, grouped       |
| references  | COCO annotation JSON | `{"annotations": [{"image_id": int, "caption": str}, ...]}`, grouped by image |
| references  | Karpathy JSON        | `{"images": [{"filename", "split", "sentences": [{"raw"}]}]}`                 |

Every image id is a string in memory; `hfcap.image_matching` puts predictions beside references.
A `captions.jsonl` of a run carries `caption` and the references as `captions`, so it is read as predictions and as
references alike.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from hfcap.atomic_files import write_atomic
from hfcap.data.records import IMAGE_COLUMNS, split_named
from hfcap.errors import shown
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
from hfcap.parquet_files import is_parquet, read_parquet

JSONL_SUFFIXES = (".jsonl", ".ndjson")
WANTED_PREDICTIONS = (
    "wanted JSONL with image_id and caption per line, parquet with these columns, or "
    'COCO results [{"image_id": ..., "caption": ...}, ...]'
)


@dataclass(frozen=True)
class Row:
    """The captions of one image and the place they came from.

    Attributes:
        image_id: the image's id.
        captions: one caption for predictions, all references for references.
        where: the file and the line or entry, for messages.
        extra: the whole entry (JSONL and Karpathy's JSON).
        names: of references, what the picture's file is called: with and without its folders and extension.
    """

    image_id: str
    captions: list[str]
    where: str
    extra: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()


def read_predictions(path: str | os.PathLike) -> list[Row]:
    """Read one caption per image from JSONL, parquet or COCO results JSON, in file order.

    Captions may be empty: a weak model writes some, and without them it would look better than it is.

    Raises:
        ValueError: one message with file, place and fix: a folder or a file of another kind, wrong encoding, malformed
            JSON, a field missing or of the wrong type, an id twice.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; pass the file with the captions, of a run its captions.jsonl")
    if Path(path).suffix.lower() in (".csv", ".tsv"):
        raise ValueError(f"{path}: captions are not read from {Path(path).suffix} files; {WANTED_PREDICTIONS}")
    if is_parquet(path) or _is_jsonl(path):
        rows = [
            Row(image_id_of(entry, where), [caption_of(entry, "caption", where, allow_empty=True)], where, entry)
            for entry, where in (read_parquet(path, ("image_id", "caption")) if is_parquet(path) else read_jsonl(path))
        ]
    else:
        content = read_json(path)
        if not isinstance(content, list):
            raise ValueError(f"{path}: a JSON {json_type(content)} is no predictions file; {WANTED_PREDICTIONS}")
        rows = [
            Row(image_id_of(entry, where), [caption_of(entry, "caption", where, allow_empty=True)], where)
            for entry, where in objects_of(content, path, "")
        ]
    return _checked(rows, path)


def read_references(path: str | os.PathLike, split: str | None = None) -> list[Row]:
    """Read all references of each image from JSONL, COCO annotation JSON or Karpathy JSON, in file order.

    Args:
        path: the file.
        split: "train" (with Karpathy's restval), "validation" or "test": which images of a Karpathy file, or of JSONL
            with a `split`; all by default.

    Raises:
        ValueError: as for `read_predictions`; also an image without any reference, and a split of a file without.
    """
    if _is_jsonl(path):
        entries = read_jsonl(path) if split is None else _of_split(list(read_jsonl(path)), split, path)
        return _checked(_jsonl_references(entries), path)
    content = read_json(path)
    if isinstance(content, dict) and "annotations" in content:
        if split is not None:
            raise ValueError(f"{path}: no split {split!r}, COCO annotations have none; remove --split")
        return _checked(coco_references(content, path), path)
    if isinstance(content, dict) and "images" in content:
        return _checked(karpathy_references(content, path, split), path)
    raise ValueError(
        f"{path}: a JSON {json_type(content)} holds no references; wanted JSONL with image_id and captions per line, "
        "COCO annotations ('annotations' at the top) or Karpathy's JSON ('images' with 'sentences')"
    )


def picture_names(path: str) -> tuple[str, ...]:
    """Return what a picture's file may be called: its path and its name, each with and without the extension."""
    whole = PurePosixPath(path.replace("\\", "/"))
    return tuple(dict.fromkeys(map(str, (whole, whole.with_suffix(""), whole.name, whole.stem)))) if whole.name else ()


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
    names = _coco_file_names(content.get("images"), path)
    by_image: dict[str, Row] = {}
    for entry, where in objects_of(content["annotations"], path, "annotations"):
        image_id = image_id_of(entry, where)
        row = by_image.setdefault(image_id, Row(image_id, [], where, names=names.get(image_id, ())))
        row.captions.append(caption_of(entry, "caption", where, allow_empty))
    return list(by_image.values())


def _coco_file_names(images: Any, path: str | os.PathLike) -> dict[str, tuple[str, ...]]:
    """Return what the file of each image is called, by image id."""
    names: dict[str, tuple[str, ...]] = {}
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
        if isinstance(entry.get("file_name"), str):
            names[image_id] = picture_names(entry["file_name"])
    return names


def karpathy_references(
    content: dict, path: str | os.PathLike, split: str | None, allow_empty: bool = False
) -> list[Row]:
    """Return the images of one split (all with None) of a Karpathy file's content; `extra` is the image's entry."""
    rows = []
    for entry, where in objects_of(content["images"], path, "images"):
        if split is not None and split_named(str(entry.get("split"))) != split_named(split):
            continue
        image_id = _karpathy_id(entry, where)
        sentences = objects_of(entry.get("sentences"), path, f"{where.removeprefix(f'{path}, ')}.sentences")
        captions = [caption_of(sentence, "raw", place, allow_empty) for sentence, place in sentences]
        if not captions and not allow_empty:
            raise ValueError(f"{where}: image {shown(image_id)} has no sentences; give it one or remove it")
        rows.append(Row(image_id, captions, where, entry, picture_names(str(entry.get("filename") or ""))))
    if not rows and split is not None:
        splits = sorted({str(image.get("split")) for image in content["images"]})
        raise ValueError(f"{path}: no image in split {split!r}; the file has {', '.join(splits)}")
    return rows


def _karpathy_id(entry: Mapping[str, Any], where: str) -> str:
    """The COCO file keeps COCO's own id; in the Flickr files only the file name says which photo it is."""
    if entry.get("cocoid") is not None:
        return check_image_id(entry["cocoid"], where, "cocoid")
    name = entry.get("filename")
    if not isinstance(name, str) or not Path(name).stem:
        raise ValueError(f"{where}: neither cocoid nor filename (it is {shown(name)}); one of them names the image")
    return Path(name).stem


def _is_jsonl(path: str | os.PathLike) -> bool:
    """JSONL by name, or because the first line is a whole object with an image_id."""
    if Path(path).suffix.lower() in JSONL_SUFFIXES:
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
        raise ValueError(f"{path}: no split {split!r}, none of its lines has a `split`; add one, or remove --split")
    names = [split_named(str(entry.get("split") or "train")) for entry, _ in entries]
    if split_named(split) not in names:
        raise ValueError(f"{path}: no image in split {split!r}; the file has {', '.join(sorted(set(names)))}")
    return [entry for entry, name in zip(entries, names, strict=True) if name == split_named(split)]


def _jsonl_references(entries: Iterable[tuple[dict, str]]) -> list[Row]:
    """One row per image; lines with one `caption` each are grouped, in the order of the images' first lines."""
    rows: list[Row] = []
    by_image: dict[str, Row] = {}  # of the lines with one caption
    for entry, where in entries:
        image_id = image_id_of(entry, where)
        one_each = "captions" not in entry and "caption" in entry
        if one_each and image_id in by_image:
            by_image[image_id].captions.append(caption_of(entry, "caption", where))
            continue
        texts = [caption_of(entry, "caption", where)] if one_each else _texts(entry, where)
        paths = [entry[name] for name in IMAGE_COLUMNS if isinstance(entry.get(name), str)]
        rows.append(Row(image_id, texts, where, entry, picture_names(paths[0]) if paths else ()))
        if one_each:
            by_image[image_id] = rows[-1]
    return rows


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
