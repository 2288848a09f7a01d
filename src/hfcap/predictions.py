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

from hfcap.files import write_atomic

SPLITS_OF_KARPATHY = {"train": {"train", "restval"}, "validation": {"val"}, "test": {"test"}}


@dataclass(frozen=True)
class Row:
    """The captions of one image and the place they came from.

    Attributes:
        image_id: the image's id.
        captions: one caption for predictions, all references for references.
        where: the file and the line or entry, for messages.
        extra: what else the line held (JSONL only).
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
            Row(_image_id(entry, where), [_text(entry, "caption", where, allow_empty)], where, entry)
            for entry, where in _read_jsonl(path)
        ]
    else:
        content = _read_json(path)
        if not isinstance(content, list):
            raise ValueError(
                f"{path}: a JSON {_kind(content)} is no predictions file; wanted JSONL with image_id and caption "
                'a line, or COCO results [{"image_id": ..., "caption": ...}, ...]'
            )
        rows = [
            Row(_image_id(entry, where), [_text(entry, "caption", where, allow_empty)], where)
            for entry, where in _entries(content, path, "")
        ]
    return _checked(rows, path)


def read_references(path: str | os.PathLike, split: str | None = None) -> list[Row]:
    """Read all references an image from JSONL, COCO annotation JSON or Karpathy JSON, in file order.

    Args:
        path: the file.
        split: "train" (with Karpathy's restval), "validation" or "test": which images of a Karpathy file; all by
            default.

    Raises:
        ValueError: as for `read_predictions`; also an image without any reference.
    """
    if _is_jsonl(path):
        rows = [Row(_image_id(entry, where), _texts(entry, where), where, entry) for entry, where in _read_jsonl(path)]
        return _checked(rows, path)
    content = _read_json(path)
    if isinstance(content, dict) and "annotations" in content:
        return _checked(_coco_references(content, path), path)
    if isinstance(content, dict) and "images" in content:
        return _checked(_karpathy_references(content, path, split), path)
    raise ValueError(
        f"{path}: a JSON {_kind(content)} is no references file; wanted JSONL with image_id and captions a line, COCO "
        "annotations ('annotations' at the top) or Karpathy's JSON ('images' with 'sentences')"
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
            f"No image id is in both files: {len(predictions)} predictions, first {unknown[0].image_id!r} "
            f"({unknown[0].where}); {len(references)} references, first {references[0].image_id!r} "
            f"({references[0].where}). Write the ids alike, or give the references of the same split."
        )
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(predictions)} predictions have no references, first {unknown[0].image_id!r} "
            f"({unknown[0].where}). Remove them, or give the references of the same split."
        )
    if missing and not allow_missing:
        raise ValueError(
            f"{len(missing)} of {len(references)} images have no prediction, first {missing[0].image_id!r} "
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
        _image_id(row, f"row {number}")
        _text(row, "caption", f"row {number}", allow_empty=True)
    return write_atomic(path, "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows))


def write_coco_results(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows with `image_id` and `caption` as COCO results JSON, atomically. Returns the path.

    COCO's tools look ids up as integers, so an id that is an integer's own spelling ("139", not "0139") becomes one.
    """
    results = []
    for number, row in enumerate(rows, start=1):
        image_id = _image_id(row, f"row {number}")
        is_integer = image_id.isascii() and image_id.isdigit() and str(int(image_id)) == image_id
        results.append(
            {
                "image_id": int(image_id) if is_integer else image_id,
                "caption": _text(row, "caption", f"row {number}", allow_empty=True),
            }
        )
    return write_atomic(path, json.dumps(results, ensure_ascii=False, indent=0) + "\n")


def _coco_references(content: dict, path: str | os.PathLike) -> list[Row]:
    by_image: dict[str, Row] = {}
    for entry, where in _entries(content["annotations"], path, "annotations"):
        image_id = _image_id(entry, where)
        by_image.setdefault(image_id, Row(image_id, [], where)).captions.append(_text(entry, "caption", where))
    return list(by_image.values())


def _karpathy_references(content: dict, path: str | os.PathLike, split: str | None) -> list[Row]:
    if split is not None and split not in SPLITS_OF_KARPATHY:
        raise ValueError(f"split={split!r}; wanted one of {', '.join(SPLITS_OF_KARPATHY)}")
    rows = []
    for entry, where in _entries(content["images"], path, "images"):
        if split is not None and entry.get("split") not in SPLITS_OF_KARPATHY[split]:
            continue
        # The COCO file keeps COCO's own id; in the Flickr files only the file name says which photo it is.
        image_id = str(entry["cocoid"]) if "cocoid" in entry else Path(str(entry.get("filename", ""))).stem
        if not image_id:
            raise ValueError(f"{where}: neither cocoid nor filename; one of them names the image")
        sentences = _entries(entry.get("sentences"), path, f"{where.removeprefix(f'{path}, ')}.sentences")
        captions = [_text(sentence, "raw", place) for sentence, place in sentences]
        if not captions:
            raise ValueError(f"{where}: image {image_id!r} has no sentences; give it one or remove it")
        rows.append(Row(image_id, captions, where))
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
    except ValueError:  # malformed or not UTF-8: the JSON reader says so, with the line
        return False
    return isinstance(entry, dict) and "image_id" in entry


def _read_text(path: str | os.PathLike) -> str:
    """The file as text; a byte-order mark in front is dropped, as editors on Windows write one."""
    data = Path(path).read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None


def _read_jsonl(path: str | os.PathLike) -> list[tuple[dict, str]]:
    entries = []
    # Not splitlines(): U+2028 and its like may stand inside a JSON string.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{where}: malformed JSON ({error.msg} at column {error.colno}); one object a line"
            ) from None
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: a JSON {_kind(entry)}; wanted an object with image_id")
        entries.append((entry, where))
    return entries


def _read_json(path: str | os.PathLike) -> Any:
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno}: malformed JSON ({error.msg} at column {error.colno}); mend it, or name "
            "the file .jsonl if it holds one object a line"
        ) from None


def _entries(value: Any, path: str | os.PathLike, name: str) -> list[tuple[dict, str]]:
    """The objects of a JSON list, each with its place: the whole file may be one line, so the index says more."""
    if not isinstance(value, list):
        raise ValueError(f"{path}, {name}: a JSON {_kind(value)}; wanted a list of objects")
    for index, entry in enumerate(value):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}, {name}[{index}]: a JSON {_kind(entry)}; wanted an object")
    return [(entry, f"{path}, {name}[{index}]") for index, entry in enumerate(value)]


def _image_id(entry: Mapping[str, Any], where: str) -> str:
    if "image_id" not in entry:
        raise ValueError(f"{where}: no image_id among {', '.join(map(repr, entry)) or 'no fields'}; add it")
    value = entry["image_id"]
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"{where}: image_id is {value!r}; wanted a string that is not empty, or an integer")
    return str(value)


def _text(entry: Mapping[str, Any], key: str, where: str, allow_empty: bool = False) -> str:
    if key not in entry:
        raise ValueError(f"{where}: no {key} among {', '.join(map(repr, entry)) or 'no fields'}; add it")
    return _caption(entry[key], f"{where}: {key}", allow_empty)


def _texts(entry: Mapping[str, Any], where: str) -> list[str]:
    captions = entry.get("captions")
    if not isinstance(captions, list) or not captions:
        got = "missing" if "captions" not in entry else repr(captions)
        raise ValueError(f"{where}: captions is {got}; wanted a list of one or more strings")
    return [_caption(caption, f"{where}: captions[{index}]", False) for index, caption in enumerate(captions)]


def _caption(value: Any, what: str, allow_empty: bool) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} is a JSON {_kind(value)}; wanted a string")
    if not value.strip() and not allow_empty:
        raise ValueError(f"{what} is empty; write a caption or remove the image")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{what} holds half of a surrogate pair, which no text file can store; mend the character")
    return value


def _checked(rows: list[Row], path: str | os.PathLike) -> list[Row]:
    if not rows:
        raise ValueError(f"{path}: no captions in it; wanted one image or more")
    seen: dict[str, str] = {}
    for row in rows:
        if row.image_id in seen:
            raise ValueError(
                f"{row.where}: image_id {row.image_id!r} stands already in {seen[row.image_id]}; keep one of the two"
            )
        seen[row.image_id] = row.where
    return rows


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
