"""`alts.jsonl`: proposals for alt texts, and what people decided about them."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfcap.applications.roles import ROLES
from hfcap.atomic_files import write_atomic
from hfcap.errors import ConfigError, shown
from hfcap.json_files import json_type, read_jsonl

PENDING, SKIPPED = "pending", "skipped"
DECIDED = ("accepted", "edited", "decorative")  # what `apply` writes
STATUSES = (PENDING, *DECIDED, SKIPPED)
DATA = "data"  # kind of a row about a picture of a data source, which no document holds
_STRINGS = ("id", "file", "part", "kind", "src", "role", "status")
_OPTIONAL_STRINGS = ("before", "suggestion", "alt", "image", "image_sha256", "file_sha256", "by", "at")
_CONTAINERS = {"context": dict, "notes": list, "text_in_image": list, "lint": list}


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
    try:
        for entry, where in read_jsonl(path):
            row = _checked(empty_row() | entry, where)
            if row["id"] in rows:
                raise ConfigError(f"{where}: the id {shown(row['id'])} twice; remove one of the two rows")
            rows[row["id"]] = row
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error
    return list(rows.values())


def _checked(row: dict[str, Any], where: str) -> dict[str, Any]:
    for key in ("id", "file", "line", "column"):
        if key not in row:
            raise ConfigError(f"{where}: no {key}; a row of `hfcap alt suggest` has one")
    wanted = dict.fromkeys(_STRINGS, str) | {"line": int, "column": int}
    wrong = [key for key, kind in wanted.items() if type(row[key]) is not kind]
    wrong += [key for key, kind in _CONTAINERS.items() if not isinstance(row[key], kind)]
    wrong += [key for key in _OPTIONAL_STRINGS if not isinstance(row.get(key), str | None)]
    if wrong:
        raise ConfigError(f"{where}: {wrong[0]} is {shown(row[wrong[0]])}, a JSON {json_type(row[wrong[0]])}")
    for key, choices in (("status", STATUSES), ("role", ROLES)):
        if row[key] not in choices:
            raise ConfigError(f"{where}: {key} is {shown(row[key])}; wanted one of {', '.join(choices)}")
    if row["status"] in ("accepted", "edited") and not (row["alt"] or "").strip():
        raise ConfigError(f"{where}: {row['status']}, and alt is {shown(row['alt'])}; write the alt, or decorative")
    try:
        check_characters(row["alt"] or "")
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    return row


def check_characters(alt: str) -> None:
    """Raise ValueError where an alt holds a character that no document can store."""
    bad = re.search(r"[\ud800-\udfff\x00-\x08\x0e-\x1f\x7f\ufffe\uffff]", alt)
    if bad:
        raise ValueError(f"alt holds the character {bad[0]!a}, which no document can store; take it out")


def write_rows(path: str | os.PathLike, rows: Sequence[dict[str, Any]]) -> Path:
    """Write all rows atomically."""
    return write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
