"""Blanks in the place of what is no text in Markdown: front matter, code blocks, code spans and comments.

Source: the block and inline rules of CommonMark 0.31 (spec.commonmark.org), as far as they decide what is code.
"""

import re
from bisect import bisect_left, bisect_right

from hfcap.applications.markup import blanked

_FRONT_MATTER = re.compile(r"\ufeff?(---|\+\+\+)[ \t]*\r?\n(?:.*?\n)??\1[ \t]*(?=\r?\n|\Z)", re.DOTALL)
_PREFIX = re.compile(r"(?P<quotes>[ \t]*(?:>[ \t]?)*)(?P<indent>[ \t]*)")
_ITEM = re.compile(r"(?:[-*+]|\d{1,9}[.)])(?=[ \t\r\n]|\Z)[ \t]*")
_FENCE = re.compile(r"(?P<fence>`{3,}(?=[^`\n]*$)|~{3,})", re.MULTILINE)
_INLINE = re.compile(r"\\.|<!--|`+", re.DOTALL)
_SPAN = re.compile(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)")
_LITERAL_BLOCK = re.compile(r"<(pre|script|style|textarea)(?=[\s>]).*?(?:</\1\s*>|\Z)", re.DOTALL | re.IGNORECASE)
_BLANK_LINE = re.compile(r"\n[ \t>]*\r?(?=\n)")
CODE_INDENT = 4


def without_code(text: str) -> str:
    """Return a Markdown text of the same length with front matter, code and comments blank."""
    front = _FRONT_MATTER.match(text)
    start = front.end() if front else 0
    return _without_inline_code(blanked(text[:start]) + _without_blocks(text[start:]))


def without_literal_html(text: str) -> str:
    """Return the text with `<pre>`, `<script>`, `<style>` and `<textarea>` blank: Markdown is no markup in them."""
    return _LITERAL_BLOCK.sub(lambda found: blanked(found[0]), text)


class _Blocks:
    """Which lines are code: fences, and indented code outside of list items."""

    def __init__(self):
        self.fence: str | None = None  # the characters that opened it
        self.fence_quotes = 0
        self.fence_indent = 0  # of the list item it is in
        self.items: list[int] = []  # columns at which the content of the open list items begins
        self.after_blank = True
        self.in_comment = False

    def is_code(self, line: str) -> bool:
        """Tell whether the next line is code."""
        prefix = _PREFIX.match(line)
        quotes, rest = prefix["quotes"].count(">"), line[prefix.end() :]
        indent = len((line[: prefix.end()] if not quotes else prefix["indent"]).expandtabs(4))
        is_blank = not rest.strip()
        if self.fence is not None:
            left = quotes < self.fence_quotes or (not is_blank and indent < self.fence_indent)
            if not left:
                closer = rest.strip()
                if len(closer) >= len(self.fence) and not closer.strip(self.fence[0]):
                    self.fence = None
                return True
            self.fence = None
        if self.in_comment:
            self.in_comment = "-->" not in line
            return False
        if is_blank:
            self.after_blank = True
            return False
        return self._starts_code(rest, indent, quotes)

    def _starts_code(self, rest: str, indent: int, quotes: int) -> bool:
        item = _ITEM.match(rest)
        while self.items and indent < self.items[-1] and (self.after_blank or item):
            self.items.pop()
        inner = self.items[-1] if self.items else 0
        if self.after_blank and indent >= inner + CODE_INDENT:
            return True  # and what follows it at this indent is code as well, blank lines between or not
        while item and indent < inner + CODE_INDENT:
            indent += len(item[0].rstrip("\r\n").expandtabs(4))
            self.items.append(indent)
            rest, inner = rest[item.end() :], indent
            item = _ITEM.match(rest)
        if fence := _FENCE.match(rest):
            self.fence, self.fence_quotes, self.fence_indent = fence["fence"], quotes, inner
            self.after_blank = False
            return True
        self.after_blank = False
        plain = _SPAN.sub("", rest)
        self.in_comment = plain.rfind("<!--") > plain.rfind("-->")
        return False


def _without_blocks(text: str) -> str:
    blocks = _Blocks()
    return "".join(blanked(line) if blocks.is_code(line) else line for line in text.splitlines(keepends=True))


def _without_inline_code(text: str) -> str:
    """Blank comments and code spans; a span ends with its paragraph at the latest."""
    runs: dict[int, list[int]] = {}
    for run in re.finditer("`+", text):
        runs.setdefault(len(run[0]), []).append(run.start())
    ends = [found.start() for found in _BLANK_LINE.finditer(text)]
    pieces, at = [], 0
    for found in _INLINE.finditer(text):
        if found.start() < at or found[0][0] == "\\":
            continue
        if found[0] == "<!--":
            close = text.find("-->", found.end())
            end = len(text) if close < 0 else close + 3
        else:
            same = runs.get(len(found[0]), [])
            following = bisect_right(same, found.start())
            paragraph = bisect_left(ends, found.start())
            limit = ends[paragraph] if paragraph < len(ends) else len(text)
            if following == len(same) or same[following] > limit:
                continue
            end = same[following] + len(found[0])
        pieces += [text[at : found.start()], blanked(text[found.start() : end])]
        at = end
    return "".join([*pieces, text[at:]])
