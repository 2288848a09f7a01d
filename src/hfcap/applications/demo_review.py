"""Decisions on an `alts.jsonl` from several windows of a page, each in the file before the next row is shown.

A window knows the row as it was when it was shown. Where the file has another one by now (another window, `hfcap alt`
or an editor wrote it), nothing is written, and the person is told.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from threading import Lock
from typing import Any

from PIL import Image

from hfcap.applications.images import image_bytes
from hfcap.applications.lint import alt_findings
from hfcap.applications.pictures import collapsed
from hfcap.applications.review import DECISIONS, decided
from hfcap.applications.rows import PENDING, STATUSES, read_rows, write_rows
from hfcap.applications.texts import DocumentError
from hfcap.atomic_files import only_writer
from hfcap.data.pictures import load_picture

PREVIEW = 1200  # pixels of the longer side


@dataclass(frozen=True)
class Window:
    """What a window of the page shows, and what it can undo.

    Attributes:
        row: to be decided, as the file had it; None where none is left.
        place: its place in the file, from 0.
        statuses: how many rows of the file have each status.
        done: the decisions of this window, each as the row after and before it.
    """

    row: dict[str, Any] | None
    place: int
    statuses: Counter
    done: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = ()


class ReviewFile:
    """An `alts.jsonl` under review. The file is held while a decision is written, and not in between.

    Args:
        path: of the file.

    Raises:
        ConfigError: it is no `alts.jsonl`.
        OSError: it cannot be read.
    """

    def __init__(self, path: str | PathLike):
        self.path = path
        self._lock = Lock()  # of threads; `only_writer` is that of processes
        read_rows(path)

    @contextmanager
    def _held(self) -> Iterator[list[dict[str, Any]]]:
        with self._lock, only_writer(self.path):
            yield read_rows(self.path)

    def open(self) -> Window:
        """Return a new window, at the first row that is pending. Raises as `decide` does."""
        return _window(read_rows(self.path), 0, ())

    def decide(self, window: Window, decision: str, text: str = "") -> tuple[Window, str]:
        """Write a decision on the row that a window shows.

        Args:
            window: it.
            decision: "decorative", "skip", or "accept" for `text`, which is "edited" where it is not the proposal.
            text: the alt.

        Returns:
            What the window shows next, and what is to be said. Where the file has another row by now it says so.

        Raises:
            ValueError: a text that is no alt, a file that is no longer an `alts.jsonl`, or that another command holds.
            OSError: the file cannot be read or written.
        """
        if window.row is None:
            return window, "There is nothing left to decide."
        with self._held() as rows:
            place = _place_of(rows, window.row)
            if place is None:
                gone = f"{window.row['id']} is no longer in the file. Nothing was written."
                return _window(rows, window.place, window.done), gone
            there = rows[place]
            if there != window.row:
                after = place if there["status"] == PENDING else place + 1
                return _window(rows, after, window.done), _meanwhile(there, text)
            rows[place] = _decided(there, decision, text)
            write_rows(self.path, rows)
            return _window(rows, place + 1, (*window.done, (rows[place], there))), _said(rows[place])

    def undo(self, window: Window) -> tuple[Window, str]:
        """Take back the last decision of a window, if the file still has it. Raises as `decide` does."""
        if not window.done:
            return window, "There is nothing to undo."
        *others, (after, before) = window.done
        with self._held() as rows:
            place = _place_of(rows, after)
            if place is None or rows[place] != after:
                changed = f"{after['id']} has changed since you decided on it. It was left as it is."
                return replace(window, done=tuple(others)), changed
            rows[place] = before
            write_rows(self.path, rows)
            return _window(rows, place, tuple(others)), f"Undone: {before['id']} is to be decided again."


def _place_of(rows: Sequence[dict[str, Any]], row: dict[str, Any]) -> int | None:
    return next((place for place, other in enumerate(rows) if other["id"] == row["id"]), None)


def _window(rows: Sequence[dict[str, Any]], after: int, done: tuple) -> Window:
    """Show the first pending row from a place on, and from the beginning where there is none."""
    pending = [place for place, row in enumerate(rows) if row["status"] == PENDING]
    place = next((place for place in pending if place >= after), pending[0] if pending else None)
    statuses = Counter(row["status"] for row in rows)
    return Window(None, 0, statuses, done) if place is None else Window(rows[place], place, statuses, done)


def _decided(row: dict[str, Any], decision: str, text: str) -> dict[str, Any]:
    is_edit = decision == "accept" and collapsed(text) != collapsed(row["suggestion"] or "")
    return decided(row, "edited" if is_edit else DECISIONS[decision], text)


def _said(row: dict[str, Any]) -> str:
    what = f"“{row['alt']}”" if row["alt"] else row["id"]
    text = f"{row['status'].capitalize()}: {what}."
    findings = [message for _, message in alt_findings(row["alt"])] if row["alt"] else []
    return f"{text} But: {'; '.join(findings)}. Undo takes it back." if findings else text


def _meanwhile(row: dict[str, Any], text: str) -> str:
    if row["status"] == PENDING:
        return f"{row['id']} has changed meanwhile. Nothing was written; look at it again."
    other = f"{row['status']} as “{row['alt']}”" if row["alt"] else row["status"]
    mine = f" Your text was not saved: “{collapsed(text)}”." if text.strip() else ""
    return f"{row['id']} was decided elsewhere meanwhile: {other}. That stays.{mine}"


def counts_text(statuses: Counter) -> str:
    """Return how many rows have each status, in words."""
    known = ((statuses[status], status) for status in STATUSES)
    return ", ".join(f"{number} {status}" for number, status in known if number) or "no rows"


def picture_of(row: dict[str, Any]) -> tuple[Image.Image | None, str]:
    """Return the picture of a row, made smaller, and what has to be said about it, such as why there is none."""
    if not row["image"]:
        return None, "This row has no picture file; decide by its document."
    try:
        data = image_bytes(row["image"])
        picture = load_picture(data)
    # Damaged pictures raise SyntaxError and ValueError, besides OSError.
    except (DocumentError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return None, f"The picture cannot be shown: {row['image']}: {why}"
    picture.thumbnail((PREVIEW, PREVIEW))
    is_same = row["image_sha256"] in (None, hashlib.sha256(data).hexdigest())
    return picture, "" if is_same else "This picture has changed since the proposal was made."
