"""Caption file that several processes append to and that survives a kill.

While work goes on, each process appends whole JSON lines to a part of its own, `<file>.part-<rank>`. At the end
everything goes into the file, JSONL or by its name parquet, in order, in one rename, and the parts are removed.
Whoever opens the file next, with any number of processes, finds what was written before the break; a line that was
cut in half is dropped.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO

from hfcap.atomic_files import write_atomic, write_json
from hfcap.errors import ConfigError
from hfcap.json_files import check_image_id, read_object
from hfcap.parquet_files import is_parquet, parquet_bytes, read_parquet

HASHES = ("weights", "settings")  # shown by their beginning, with the folder they are of


class ResumableCaptions:
    """A JSONL or parquet file of rows `{image_id, …}` under construction.

    Args:
        path: the file; parquet where its name ends in `.parquet`.
        settings: what decides the captions, kept beside them in `<file>.settings.json`; JSON values. `weights` is
            their hash; `model`, where they lie, is kept for people and not compared.
        rank: number of this process.
        keys: what every row has, as a text that is not empty.
        hash_key: field of a row that has the SHA-256 of its picture.

    Raises:
        ConfigError: the file holds captions made with other settings, or by something else.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        rank: int = 0,
        keys: Sequence[str] = ("image_id",),
        hash_key: str = "sha256",
    ):
        self.path = path
        self.hash_key = hash_key
        self.keys = keys
        self.settings = dict(settings)
        self.part = path.with_name(f"{path.name}.part-{rank}")
        self.settings_path = path.with_name(f"{path.name}.settings.json")
        self._file: BinaryIO | None = None
        self._check_settings()

    def _check_settings(self) -> None:
        if not self.settings_path.exists():
            if self.path.exists():
                raise ConfigError(
                    "this command did not write it", option="--output", got=str(self.path), fix="pass another file"
                )
            return
        earlier = read_object(self.settings_path)
        fix = f"pass another --output, or remove {self.path.name}*"
        if "weights" not in earlier:
            raise ConfigError(
                f"it records the name of its model, {earlier.get('model')!r}, without the hash of the weights (as "
                "earlier versions of hfcap did), so its captions may be those of another model",
                option="--output",
                got=str(self.path),
                fix=fix,
            )
        changed = [
            f"{name} was {_shown(earlier, name)}, is {_shown(self.settings, name)}"
            for name, value in self.settings.items()
            if name != "model" and earlier.get(name) != value
        ]
        if changed:
            raise ConfigError(
                f"it holds captions made with other weights or settings: {'; '.join(changed)}",
                option="--output",
                got=str(self.path),
                fix=fix,
            )

    def rows(self) -> dict[str, dict[str, Any]]:
        """All rows written so far, by any process, by image id.

        Raises:
            ConfigError: two rows have the id of different pictures; a line is no row, such as one that was edited.
        """
        files = [file for file in (self.path, *self._parts()) if file.exists()]
        rows: dict[str, dict[str, Any]] = {}
        for row in (row for file in files for row in _rows_in(file, self.keys)):
            other = rows.setdefault(row["image_id"], row)
            if other.get(self.hash_key) != row.get(self.hash_key):
                raise ConfigError(
                    "two pictures have this id",
                    option=f"{self.path}: image_id",
                    got=row["image_id"],
                    fix=f"give each picture an id of its own, and remove {self.path.name}*",
                )
        return rows

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; once this returns, the end of this process does not lose it."""
        if self._file is None:
            if not self.settings_path.exists():
                write_json(self.settings_path, self.settings)
            self._file = open(self.part, "ab")  # noqa: SIM115
            self._file.truncate(sum(len(line) + 1 for line in _whole_lines(self.part)))
        self._file.write(_lines([row]).encode())
        self._file.flush()

    def finish(self, image_ids: Iterable[str]) -> int:
        """Put all rows into the file, those of `image_ids` first and in that order; one process does, after all.

        Without any row there is no file. Returns how many of `image_ids` have a caption.
        """
        if self._file is not None:
            self._file.close()
        rows = self.rows()
        first = [rows.pop(image_id) for image_id in image_ids if image_id in rows]
        if first or rows:
            everything = [*first, *rows.values()]
            write_atomic(self.path, parquet_bytes(everything) if is_parquet(self.path) else _lines(everything))
        for part in self._parts():
            part.unlink()
        return len(first)

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{escape(self.path.name)}.part-*"))


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)


def _shown(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name)
    return f"{str(value)[:12]} ({settings.get('model')})" if name in HASHES else repr(value)


def _rows_in(file: Path, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    if is_parquet(file):
        yield from (row for row, _ in read_parquet(file, keys))
        return
    for number, line in enumerate(_whole_lines(file), start=1):
        try:
            row = json.loads(line)
            for key in keys:
                check_image_id(row[key], str(file), key)
        except (ValueError, LookupError, TypeError, RecursionError):
            raise ConfigError(
                option=f"{file}, line {number}",
                got=line.decode(errors="backslashreplace"),
                wanted=f"an object with {' and '.join(keys)}",
                fix="fix or remove the line",
            ) from None
        yield row


def _whole_lines(file: Path) -> list[bytes]:
    return file.read_bytes().split(b"\n")[:-1]  # what follows the last line break is half a line, or nothing
