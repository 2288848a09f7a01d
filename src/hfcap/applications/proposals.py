"""Rows for the pictures that have no alt: what the document tells about each, before any model has seen it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hfcap.applications.documents import Document, read_document
from hfcap.applications.images import image_sha256, locate
from hfcap.applications.pictures import Picture
from hfcap.applications.rows import DATA, PENDING, empty_row
from hfcap.applications.texts import DocumentError
from hfcap.content_hashes import file_sha256

CAPTIONED = ("informative",)  # roles whose pictures a captioner describes

_OF_CAPTION = ("suggestion", "extended", "text_in_image", "notes", "lint", "model")
_NOTES = {
    "link": "the only content of a link: say where it leads, not what the picture shows",
    "button": "the only content of a button: say what it does, not what the picture shows",
    "text": "it seems to be text (a logo, a badge, a sign): write that text",
    "chart": "it seems to be a chart or map: a person has to say what it shows",
    "maybe_decorative": "it seems to be decorative, or to repeat the text beside it: an empty alt is proposed",
    "unknown": "the document does not tell what the picture is for",
}


def rows_of_documents(paths: Sequence[Path], root: Path | None) -> tuple[list[dict[str, Any]], dict[str, str], int]:
    """Return a row for each picture without an alt, in order.

    Args:
        paths: documents.
        root: see `hfcap.applications.images.locate`.

    Returns:
        The rows, why documents cannot be read by their path, and the number of pictures without an alt that hfcap
        does not write to (`hfcap alt check` names them).
    """
    rows, unread, reported = [], {}, 0
    for path in paths:
        try:
            document = read_document(path)
        except (DocumentError, OSError) as error:
            unread[path.as_posix()] = error.strerror if isinstance(error, OSError) else str(error)
            continue
        for picture in document.pictures:
            if picture.wants_alt:
                rows.append(_row(document, picture, root))
            elif picture.alt is None and not picture.is_named:
                reported += 1
    return rows, unread, reported


def _row(document: Document, picture: Picture, root: Path | None) -> dict[str, Any]:
    image, why_none = locate(document, picture, root)
    sha256 = image_sha256(image) if image else None
    if image and sha256 is None:
        why_none = f"{image} cannot be read"
    return empty_row() | {
        "id": document.id_of(picture),
        "file": document.path.as_posix(),
        "part": picture.part,
        "line": picture.line,
        "column": picture.column,
        "kind": picture.kind,
        "src": picture.src,
        "image": image,
        "image_sha256": sha256,
        "file_sha256": document.sha256,
        "role": picture.role,
        "context": asdict(picture.context),
        "before": picture.alt,
        "notes": [note for note in (_NOTES.get(picture.role), why_none) if note],
    }


def row_of_photo(path: Path) -> dict[str, Any]:
    """Return the row of a photo that is in no document; its alt goes into metadata."""
    sha256, name = file_sha256(path), path.as_posix()
    place = {"id": name, "file": name, "part": "", "line": 0, "column": 0, "kind": "photo", "src": path.name}
    picture = {"image": name, "image_sha256": sha256, "file_sha256": sha256, "role": "informative"}
    return empty_row() | place | picture


def merged(
    new: Sequence[dict[str, Any]], there: Sequence[dict[str, Any]], files: Sequence[str]
) -> tuple[list[dict[str, Any]], int]:
    """Put new rows together with those of an earlier run.

    A decision is never lost: such a row stays, wherever its picture is now. The captions of pending rows go to the new
    rows of the same picture, since a caption depends on nothing else. Other pending rows of `files` are dropped: their
    picture has an alt now, or is gone.

    Returns:
        All rows, and how many of `new` had a decision or a caption already.
    """
    decided = {row["id"]: row for row in there if row["status"] != PENDING}
    # Pictures of a data source stay where they are, and copies of one have a hash and no place.
    by_place = {_place(row): row for row in decided.values() if row.get("file_sha256") and row["kind"] != DATA}
    moved = {by_place[place]["id"] for place in map(_place, new) if place in by_place}
    captioned = {row["image_sha256"]: row for row in there if row.get("model") and row.get("image_sha256")}
    out: list[dict[str, Any]] = []
    num_there = 0
    for row in new:
        other = by_place.get(_place(row))
        if other is None:
            other = decided.get(row["id"])
            if other is not None and (other["id"] in moved or not _is_same_picture(other, row)):  # another picture
                row = row | {"id": f"{row['id']}@{row['file_sha256'][:8]}"}
                other = decided.get(row["id"])
        if other is None and row["role"] in CAPTIONED and row["image_sha256"] in captioned:
            earlier = captioned[row["image_sha256"]]
            other = row | {key: earlier[key] for key in _OF_CAPTION}
        num_there += other is not None
        out.append(row if other is None else other)
    ids = {row["id"] for row in out}
    kept = [row for row in there if row["id"] not in ids and (row["id"] in decided or row["file"] not in files)]
    return [*out, *kept], num_there


def _place(row: dict[str, Any]) -> tuple:
    """Return where a row's picture is, in which state of its document; `apply` moves it and keeps the id."""
    return row["file"], row["file_sha256"], row["part"], row["line"], row["column"]


def _is_same_picture(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return all(old.get(key) == new.get(key) for key in ("part", "src", "image_sha256"))
