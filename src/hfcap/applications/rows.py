"""`alts.jsonl`: proposals for alt texts, and what people decided about them."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfcap.applications.roles import ROLES
from hfcap.atomic_files import write_atomic
from hfcap.errors import ConfigError, as_config_error
from hfcap.json_files import json_type, read_jsonl

PENDING, SKIPPED = "pending", "skipped"
DECIDED = ("accepted", "edited", "decorative")  # what `apply` writes
STATUSES = (PENDING, *DECIDED, SKIPPED)
DATA = "data"  # kind of a row about a picture of a data source, which no document holds
OFFICE = ("docx", "pptx")  # kinds whose mark for decorative pictures is not written
NO_MARK = ("markdown", "csv", *OFFICE)  # kinds where no alt at all is what is written for them
_STRINGS = ("id", "file", "part", "kind", "src", "role", "status")
_OPTIONAL_STRINGS = ("before", "suggestion", "alt", "image", "image_sha256", "file_sha256", "by", "at")
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(_STRINGS, ((str,), "a string")),
    **dict.fromkeys(("line", "column"), ((int,), "a whole number")),
    "context": ((dict,), "an object"),
    **dict.fromkeys(("notes", "text_in_image", "lint"), ((list,), "a list")),
    **dict.fromkeys(_OPTIONAL_STRINGS, ((str, type(None)), "a string or null")),
}


def empty_row() -> dict[str, Any]:
    """Return what a row has besides its id and its place, as it is before anything is known."""
    of_picture = {"part": "", "kind": "", "src": "", "image": None, "image_sha256": None, "file_sha256": None}
    proposal = {"suggestion": None, "extended": "", "text_in_image": [], "notes": [], "lint": [], "model": None}
    decision = {"status": PENDING, "alt": None, "by": None, "at": None}
    return of_picture | {"role": "unknown", "context": {}, "before": None} | proposal | decision


def read_rows(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read `alts.jsonl`. `{"id", "file", "line", "column", "status", "alt"}` are enough for a row made by hand.

    Raises:
        ConfigError: a line that is no such row, an id that occurs twice, or a decided row without an alt.
    """
    rows: dict[str, dict[str, Any]] = {}
    with as_config_error():
        for entry, where in read_jsonl(path):
            row = _checked(empty_row() | entry, where)
            if row["id"] in rows:
                raise ConfigError(
                    "another row has this id", option=f"{where}: id", got=row["id"], fix="remove one of the two rows"
                )
            rows[row["id"]] = row
    return list(rows.values())


def _checked(row: dict[str, Any], where: str) -> dict[str, Any]:
    for key in ("id", "file", "line", "column"):
        if key not in row:
            raise ConfigError("missing", option=f"{where}: {key}", wanted="a row as `hfcap alt suggest` writes it")
    for key, (kinds, wanted) in _TYPES.items():
        if type(row.get(key)) not in kinds:
            found = f"a JSON {json_type(row[key])}"
            raise ConfigError(found, option=f"{where}: {key}", got=row[key], wanted=wanted)
    for key, choices in (("status", STATUSES), ("role", ROLES)):
        if row[key] not in choices:
            raise ConfigError(option=f"{where}: {key}", got=row[key], wanted=f"one of {', '.join(choices)}")
    if row["status"] in ("accepted", "edited") and not (row["alt"] or "").strip():
        raise ConfigError(
            f"empty, and status is {row['status']}",
            option=f"{where}: alt",
            fix="write the alt text, or set status to decorative",
        )
    with as_config_error(f"{where}: alt"):
        check_characters(row["alt"] or "")
    return row


def check_characters(alt: str) -> None:
    """Raise ValueError where an alt holds a character that no document can store."""
    bad = re.search(r"[\ud800-\udfff\x00-\x08\x0e-\x1f\x7f\ufffe\uffff]", alt)
    if bad:
        raise ValueError(f"alt holds the character {bad[0]!a}, which no document can store; take it out")


def write_rows(path: str | os.PathLike, rows: Sequence[dict[str, Any]]) -> Path:
    """Write all rows atomically."""
    return write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
