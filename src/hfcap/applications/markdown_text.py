"""Text of Markdown without its markup, as the context of pictures; link destinations, brackets and escapes.

Source: the inline rules of CommonMark 0.31 (spec.commonmark.org), with the notes, tables and attribute lists of common
extensions. What would be emphasis by its marks is taken for it, paired or not.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from html import unescape

from hfcap.applications.markup import TEMPLATE
from hfcap.applications.pictures import collapsed

LONGEST = 4000  # characters of an alt, a destination or a title that are looked at
BRACKET = re.compile(r"\\.|[\[\]]|\n[ \t]*\r?\n", re.DOTALL)
# Possessive (`*+`): what is given back could match nothing else, and would be tried again for each character.
DESTINATION = re.compile(
    r"""\(\s*+(?:<(?P<angle>(?:[^<>\n\\]|\\.)*)>|(?P<bare>(?:[^\s()\\]|\\.|\((?:[^\s()\\]|\\.)*\))*))"""
    r"""(?:\s++(?P<title>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\((?:[^()\\]|\\.)*\)))?\s*+(?P<size>=\d*+%?x?\d*+%?\s*+)?\)"""
)
DEFINITION = re.compile(
    r"^[ \t>]*\[(?!\^)(?P<label>(?:[^\[\]\\]|\\.)+)\]:\s*(?:<(?P<angle>[^<>\n]*)>|(?P<bare>\S+))", re.MULTILINE
)
ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])|&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[a-zA-Z]\w{1,31});")
_MARKS = re.compile(
    r"^[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+(?:\[[ xX]\][ \t]+)?|#{1,6}[ \t]+)"  # lists, tasks, headings
    r"|^[ \t|:>=*_-]{3,}(?=\r?$)|^[ \t]*>[ \t>]*|(?<=[ \t])#+(?=[ \t]*\r?$)"  # rules, quotes, ends of headings
    r"|!\[\[[^\[\]]*\]\]|\[\^[^\[\]\s]{1,50}\]:?"  # wikilinks, notes
    r"|\{[:#.][^{}\n]*\}|(?<=[)\]])\{[^{}\n]*\}"  # attribute lists
    r"|<[^<>]*>|\||`+|~~+|(?<!\d)\*+(?=\S)|(?<=\S)\*+(?!\d)|(?<!\w)_+(?=\S)|(?<=\S)_+(?!\w)|" + TEMPLATE,
    re.MULTILINE,
)


def plain_alt(raw: str) -> str:
    """Return a Markdown text without its escapes."""
    return ESCAPE.sub(lambda found: found[1] or unescape(found[0]), raw)


def brackets_of(text: str) -> dict[int, int]:
    """Return where each opening bracket is closed in its paragraph, by the place of the opening one."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for found in BRACKET.finditer(text):
        if found[0][0] == "\n":  # the paragraph ends
            opened.clear()
        elif found[0] == "[":
            opened.append(found.start())
        elif found[0] == "]" and opened:
            closing[opened.pop()] = found.start()
    return closing


def label_of(text: str) -> str:
    """Return the label of a reference as labels are compared."""
    return collapsed(text).casefold()


class PlainText:
    """The text of a Markdown document without markup, and where each place of the document is in it.

    Args:
        text: the document, without its code.
        definitions: its reference definitions, matches of `DEFINITION`.

    Attributes:
        plain: the text; a picture leaves a space.
    """

    def __init__(self, text: str, definitions: Sequence[re.Match] = ()):
        spans = [
            *((found.start(), _line_end(text, found.end()), " ") for found in definitions),
            *_links(text, {label_of(found["label"]) for found in definitions}),
            *((found.start(), found.end(), plain_alt(found[0])) for found in ESCAPE.finditer(text)),
            *((found.start(), found.end(), _instead(found[0])) for found in _MARKS.finditer(text)),
        ]
        pieces, self._starts, self._offsets, at, length = [], [0], [0], 0, 0
        for start, end, instead in sorted(spans, key=lambda span: (span[0], -span[1])):
            if start < at:  # inside one that is left out
                continue
            pieces += [text[at:start], instead]
            length += start - at + len(instead)
            self._starts.append(end)
            self._offsets.append(length)
            at = end
        self.plain = "".join([*pieces, text[at:]])

    def around(self, place: int, width: int) -> tuple[str, str]:
        """Return up to `width` characters from before and from behind a place of the document."""
        piece = bisect_right(self._starts, place) - 1
        offset = self._offsets[piece] + place - self._starts[piece]
        if piece + 1 < len(self._offsets):
            offset = min(offset, self._offsets[piece + 1])
        before, after = self.plain[max(0, offset - 2 * width) : offset], self.plain[offset : offset + 2 * width]
        return collapsed(before)[-width:].lstrip(), collapsed(after)[:width].rstrip()


def without_markup(text: str) -> str:
    """Return a piece of Markdown as one line of plain text."""
    return collapsed(PlainText(text).plain)


def _instead(mark: str) -> str:
    """What stands for a mark: nothing for emphasis, which may be inside a word, and a space for others."""
    return "" if mark[0] in "*_~`" else " "


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def _links(text: str, labels: Collection[str]) -> Iterator[tuple[int, int, str]]:
    """Yield what is left out of links and pictures: of a picture all, of a link all but its text."""
    for start, close in brackets_of(text).items():
        is_picture = text[start - 1 : start] == "!" and text[start - 2 : start - 1] != "\\"
        end = _link_end(text, close)
        if is_picture:
            yield start - 1, end, " "
        elif end > close + 1 or (close - start <= LONGEST and label_of(text[start + 1 : close]) in labels):
            yield start, start + 1, ""
            yield close, end, ""


def _link_end(text: str, close: int) -> int:
    """Where the link ends whose text ends with the bracket at `close`; behind that bracket where nothing follows."""
    if text.startswith("(", close + 1) and (inline := DESTINATION.match(text, close + 1, close + 1 + LONGEST)):
        return inline.end()
    if text.startswith("[", close + 1):
        second = text.find("]", close + 2, close + 2 + LONGEST)
        if second >= 0 and "[" not in text[close + 2 : second]:
            return second + 1
    return close + 1
