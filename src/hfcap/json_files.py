"""Strict reading of JSON and JSONL: every error is one `ValueError` that names file, place and fix."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hfcap.errors import shown

NAMES_SHOWN = 20
GZIP = b"\x1f\x8b"  # how such a file begins


def read_text(path: str | os.PathLike) -> str:
    """Return the file as text; a byte-order mark in front is dropped, as editors on Windows write one."""
    return decode_text(Path(path).read_bytes(), path)


def decode_text(data: bytes, where: object) -> str:
    """Return the content of a UTF-8 file; `where` names it in the error."""
    if data.startswith(GZIP):
        raise ValueError(f"{where}: compressed with gzip; unpack it first (gunzip)")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(where, data[: error.start].count(b"\n") + 1, error) from None


def read_jsonl(path: str | os.PathLike) -> Iterator[tuple[dict, str]]:
    """Yield each object with its place, holding one line at a time; blank lines are passed over."""
    # In binary, because text lines also end at U+2028 and its like, which may stand inside a JSON string.
    with open(path, "rb") as file:
        for number, data in enumerate(file, start=1):
            where = f"{path}, line {number}"
            try:
                line = data.decode("utf-8-sig" if number == 1 else "utf-8")
                entry = loads(line) if line.strip() else {}
            except UnicodeDecodeError as error:
                raise _not_utf8(path, number, error) from None
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where}: {_reason(error)}; wanted one object per line") from None
            if not isinstance(entry, dict):
                raise ValueError(f"{where}: a JSON {json_type(entry)}; wanted an object")
            if line.strip():
                yield entry, where


def loads(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: malformed, or an object with one key twice, of which `json.loads` keeps the last unsaid.
        RecursionError: nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_each_key_once)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise RepeatedKeyError(f"the key {shown(twice)} twice in one object; keep one of the two")
    return entry


class RepeatedKeyError(ValueError):
    """An object of a JSON file has one key twice."""


def read_json(path: str | os.PathLike) -> Any:
    """Return the value of a whole JSON file."""
    return parse_json(Path(path).read_bytes(), path)


def parse_json(data: bytes, where: object) -> Any:
    """Return the value in the content of a JSON file; `where` names it in the error."""
    text = decode_text(data, where)
    try:
        return loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where}, line {error.lineno}: {_reason(error)}; fix it, or name "
            "the file .jsonl if it holds one object per line"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {_reason(error)}; fix it") from None


def read_object(path: str | os.PathLike) -> dict[str, Any]:
    """Return the object of a whole JSON file.

    Raises:
        ValueError: malformed, or another type.
        OSError: no such file.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON {json_type(content)}; wanted an object: write the file again")
    return content


def objects_of(value: Any, path: str | os.PathLike, name: str) -> list[tuple[dict, str]]:
    """Return the objects of a JSON list, each with its place: the whole file may be one line, the index says more."""
    if not isinstance(value, list):
        raise ValueError(f"{path}, {name}: a JSON {json_type(value)}; wanted a list of objects")
    for index, entry in enumerate(value):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}, {name}[{index}]: a JSON {json_type(entry)}; wanted an object")
    return [(entry, f"{path}, {name}[{index}]") for index, entry in enumerate(value)]


def image_id_of(entry: Mapping[str, Any], where: str) -> str:
    """Return the entry's `image_id` as a string."""
    if "image_id" not in entry:
        raise ValueError(f"{where}: no image_id among {names_of(entry)}; add it")
    return check_image_id(entry["image_id"], where)


def check_image_id(value: Any, where: str, key: str = "image_id") -> str:
    """Return an id, the value of `key`, as a string: it must be a string that is not empty, or an integer."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"{where}: {key} is {shown(value)}; wanted a string that is not empty, or an integer")
    return str(value)


def caption_of(entry: Mapping[str, Any], key: str, where: str, allow_empty: bool = False) -> str:
    """Return the caption that the entry holds under `key`."""
    if key not in entry:
        raise ValueError(f"{where}: no {key} among {names_of(entry)}; add it")
    return check_caption(entry[key], f"{where}: {key}", allow_empty)


def check_caption(value: Any, what: str, allow_empty: bool) -> str:
    """Return `value` if it is a caption: a string with something in it (unless allowed) that UTF-8 can store."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is a JSON {json_type(value)}; wanted a string")
    if not value.strip() and not allow_empty:
        raise ValueError(f"{what} is empty; write a caption or remove it")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{what} holds half of a surrogate pair, which no text file can store; fix the character")
    return value


def json_type(value: Any) -> str:
    """Return what JSON calls the type of `value`."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def names_of(entry: Iterable[str]) -> str:
    """Return the field names of an entry, for messages."""
    names = list(map(shown, entry))
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return (", ".join(names[:NAMES_SHOWN]) or "no fields") + more


def _reason(error: Exception) -> str:
    if isinstance(error, RepeatedKeyError):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        return f"malformed JSON ({error.msg} at column {error.colno})"
    return f"malformed JSON ({'nested too deeply' if isinstance(error, RecursionError) else error})"


def _not_utf8(path: object, line: int, error: UnicodeDecodeError) -> ValueError:
    byte = error.object[error.start]
    return ValueError(f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8")
