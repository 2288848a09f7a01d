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
_START = r"^[ >]{0,3}(?:(?:[-*+>]|\d{1,9}[.)])[ ]{1,3}){0,3}"
_TO_BLANK_LINE = r"[^\n]*(?:\n(?![ \t>]*\r?(?:\n|\Z))[^\n]*)*"
_BLOCK_TAG = (
    r"</?(?:address|article|aside|blockquote|body|caption|center|col|colgroup|dd|details|dialog|div|dl|dt|fieldset|"
    r"figcaption|figure|footer|form|frame|h[1-6]|head|header|hr|html|iframe|legend|li|link|main|menu|nav|ol|optgroup|"
    r"option|p|param|section|summary|table|tbody|td|tfoot|th|thead|title|tr|ul)(?=[\s>]|/>)"
)
# HTML blocks 1, 2, 6 and 7 of CommonMark: Markdown is no markup in them.
_LITERAL_BLOCKS = (
    re.compile(_START + r"<(pre|script|style|textarea)(?=[\s>]).*?(?:</\1\s*>[^\n]*|\Z)", re.M | re.S | re.I),
    re.compile(_START + r"<!--.*?(?:-->[^\n]*|\Z)", re.M | re.S),
    re.compile(_START + _BLOCK_TAG + _TO_BLANK_LINE, re.M | re.I),
    re.compile(r"(?:\A|(?<=\n)[ \t>]*\r?\n)" + _START[1:] + r"</?[a-zA-Z][^<>\n]*>[ \t]*\r?(?=\n)" + _TO_BLANK_LINE),
)
_HTML_LINE = re.compile(rf"<(?:(?P<raw>pre|script|style|textarea)(?=[\s>])|!--|{_BLOCK_TAG[1:]})", re.I)
_COMMENT_BLOCK = re.compile(_START + "<!--", re.M)
_PARAGRAPH_END = re.compile(r"\n(?=[ \t>]*(?:\r?\n|(?:[-*+]|1[.)])[ \t\r\n]|#{1,6}[ \t\r\n]))")
CODE_INDENT = 4


def without_code(text: str, is_mdx: bool = False) -> tuple[str, str]:
    """Return two texts of the same length as a Markdown text.

    In the first, which is searched for tags, front matter, code and comments are blank. In the second, which is
    searched for Markdown, HTML blocks are as well. MDX has neither HTML blocks nor indented code.
    """
    front = _FRONT_MATTER.match(text)
    start = front.end() if front else 0
    blocks = blanked(text[:start]) + _without_blocks(text[start:], is_mdx)
    for_tags = _without_inline_code(blocks)
    literal = () if is_mdx else sorted(_span(found) for kind in _LITERAL_BLOCKS for found in kind.finditer(blocks))
    pieces, at = [], 0
    for first, last in literal:
        first = max(first, at)
        if first < last:
            pieces += [for_tags[at:first], blanked(for_tags[first:last])]
            at = last
    return for_tags, "".join([*pieces, for_tags[at:]])


def _span(found: re.Match) -> tuple[int, int]:
    """Return where an HTML block begins, and where it or the quote or list item that it is in ends."""
    prefix = found[0].lstrip("\r\n").partition("<")[0]
    quotes, is_item = prefix.count(">"), bool(prefix.strip(" >"))
    if not quotes and not is_item:
        return found.span()
    at = found.string.find("\n", found.start() + len(found[0]) - len(found[0].lstrip("\r\n"))) + 1
    while 0 < at < found.end():
        line = re.compile(r"[ >]*").match(found.string, at)[0]
        if line.count(">") < quotes or (is_item and len(line) < len(prefix)):
            return found.start(), at
        at = found.string.find("\n", at) + 1
    return found.span()


class _Blocks:
    """Which lines are code: fences, and indented code outside of list items."""

    def __init__(self, is_mdx: bool):
        self.has_indented = not is_mdx
        self.fence: str | None = None  # the characters that opened it
        self.fence_quotes = 0
        self.fence_indent = 0  # of the list item it is in
        self.items: list[int] = []  # columns at which the content of the open list items begins
        self.after_blank = True
        self.html_end: str | None = None  # what ends the HTML block; empty for a blank line

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
        if self.html_end is not None and (self.html_end or not is_blank):
            self.html_end = None if self.html_end and self.html_end in line.lower() else self.html_end
            return False
        if is_blank:
            self.html_end = None
            self.after_blank = True
            return False
        return self._starts_code(rest, indent, quotes)

    def _starts_code(self, rest: str, indent: int, quotes: int) -> bool:
        at, item = 0, _ITEM.match(rest)
        while self.items and indent < self.items[-1] and (self.after_blank or item):
            self.items.pop()
        inner = self.items[-1] if self.items else 0
        if self.has_indented and self.after_blank and indent >= inner + CODE_INDENT:
            return True  # and what follows it at this indent is code as well, blank lines between or not
        while item and indent < inner + CODE_INDENT:
            indent += len(item[0].rstrip("\r\n").expandtabs(4))
            self.items.append(indent)
            at, inner = item.end(), indent
            item = _ITEM.match(rest, at)
        rest = rest[at:]
        if fence := _FENCE.match(rest):
            self.fence, self.fence_quotes, self.fence_indent = fence["fence"], quotes, inner
            self.after_blank = False
            return True
        self.after_blank = False
        if html := _HTML_LINE.match(rest):
            end = "-->" if html[0] == "<!--" else f"</{html['raw'].lower()}" if html["raw"] else ""
            self.html_end = None if end and end in rest.lower() else end
        return False


def _without_blocks(text: str, is_mdx: bool) -> str:
    blocks = _Blocks(is_mdx)
    return "".join(blanked(line) if blocks.is_code(line) else line for line in text.splitlines(keepends=True))


def _without_inline_code(text: str) -> str:
    """Blank comments and code spans; a span ends with its paragraph at the latest."""
    runs: dict[int, list[int]] = {}
    for run in re.finditer("`+", text):
        runs.setdefault(len(run[0]), []).append(run.start())
    ends = [found.start() for found in _PARAGRAPH_END.finditer(text)]
    comment_ends = [found.end() for found in re.finditer("-->", text)]
    blocks = {found.end() for found in _COMMENT_BLOCK.finditer(text)}  # of comments that may go on behind a paragraph
    pieces, at = [], 0
    for found in _INLINE.finditer(text):
        if found.start() < at or found[0][0] == "\\":
            continue
        paragraph = bisect_left(ends, found.start())
        limit = ends[paragraph] if paragraph < len(ends) else len(text)
        if found[0] == "<!--":
            following = bisect_left(comment_ends, found.end() + 3)
            end = comment_ends[following] if following < len(comment_ends) else len(text)
            is_closed = following < len(comment_ends) and end <= limit
            if not is_closed and found.end() not in blocks:
                continue
        else:
            same = runs.get(len(found[0]), [])
            following = bisect_right(same, found.start())
            if following == len(same) or same[following] > limit:
                continue
            end = same[following] + len(found[0])
        pieces += [text[at : found.start()], blanked(text[found.start() : end])]
        at = end
    return "".join([*pieces, text[at:]])
