"""Decoding of a document's bytes so that an edited text goes back into the same bytes outside the edit."""

import re
from bisect import bisect_right
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from dataclasses import dataclass
from functools import cached_property

UNICODE = ("utf-8", "utf-16-le", "utf-16-be")
_DECLARED = re.compile(
    rb"""(?i)(?:<meta[^>]{0,200}?charset\s*=\s*["']?|<\?xml[^>]{0,100}?encoding\s*=\s*["'])([\w.:-]+)"""
)
_LINE_END = re.compile(r"\r\n|\n|\r")


class DocumentError(ValueError):
    """A document, or a place in it, that cannot be read or written; one line that says why."""


@dataclass(frozen=True)
class Text:
    """The text of a file, or of a member of an archive.

    Args:
        text: all of it, a byte-order mark included.
        encoding: codec that turns `text` into exactly the bytes it came from.
        ascii_only: what is written into it must be ASCII, since its encoding may not hold other characters.
    """

    text: str
    encoding: str = "utf-8"
    ascii_only: bool = False

    def encoded(self, text: str) -> bytes:
        """Return an edited text in the encoding of this one."""
        return text.encode(self.encoding)

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(found.end() for found in _LINE_END.finditer(self.text))]

    def place(self, index: int) -> tuple[int, int]:
        """Return line and column of a character, both from 1; a byte-order mark takes no column."""
        line = bisect_right(self._line_starts, index)
        start = self._line_starts[line - 1]
        return line, index - start + 1 - (start == 0 and index > 0 and self.text[0] == "\ufeff")


def decode(data: bytes) -> Text:
    """Decode a document: by its byte-order mark, as UTF-8, by the encoding it declares, or as Latin-1.

    Raises:
        DocumentError: UTF-16 that is broken or has no byte-order mark.
    """
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        encoding = "utf-16-le" if data.startswith(BOM_UTF16_LE) else "utf-16-be"
        text = _exact(data, encoding)
        if text is None:
            raise DocumentError("broken UTF-16; save the file as UTF-8")
        return Text(text, encoding)
    if len(data) > 8 and max(data[:200:2].count(0), data[1:200:2].count(0)) > len(data[:200]) // 3:
        raise DocumentError("it looks like UTF-16 without a byte-order mark; save the file as UTF-8")
    found = _DECLARED.search(data[:2048])
    declared = found[1].decode("ascii").lower() if found else "utf-8"
    text = _exact(data, "utf-8")
    if text is not None:
        return Text(text, "utf-8", ascii_only=declared not in ("utf-8", "utf8"))
    text = None if declared.startswith("utf") else _exact(data, declared)
    # Latin-1 has a character for each byte, so that whatever the bytes mean, they come back as they were.
    return Text(data.decode("latin-1"), "latin-1", True) if text is None else Text(text, declared, True)


def _exact(data: bytes, encoding: str) -> str | None:
    try:
        text = data.decode(encoding)
        return text if text.encode(encoding) == data else None
    except (UnicodeError, LookupError):
        return None
