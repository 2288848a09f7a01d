"""A tokenizer for HTML and XML that knows where each tag and each attribute stands.

`html.parser` gives no positions of attributes, and treats unclosed comments and `<textarea>` differently from one
patch release of Python to the next. This one follows the tokenization of the HTML standard (whatwg.org, section
13.2.5) as far as pictures and the text around them need it.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape

# Elements whose content is text, whatever it looks like.
_RAW = ("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes")
_NAME = re.compile(r"</?([a-zA-Z][^\s/>]*)")
_ATTRIBUTE = re.compile(
    r"""[\s/]*(?P<all>(?P<name>[^\s/>][^\s/>=]*)"""
    r"""(?:\s*=\s*(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<bare>[^\s>"'][^\s>]*)|(?=>)))?)"""
)
_OPEN_QUOTE = re.compile(r"\s*=\s*[\"']")  # behind a name, and without its other half in all of the text
_TAG_END = re.compile(r"[\s/]*>")
_COMMENT_END = re.compile(r"--!?>")

TEMPLATE = "\ue000"  # stands for each character of a template's tag once it is masked
_TEMPLATE_OPENERS = re.compile(r"\{\{|\{%|\{#|<%|<\?(?:php\b|=)")
_TEMPLATE_CLOSERS = {"{{": "}}", "{%": "%}", "{#": "#}", "<%": "%>"}
_QUIET_BLOCK = re.compile(r"\{%-?\s*(comment|highlight|codeblock|code)\b")  # what is in it is no markup
_QUIET_BLOCK_END = re.compile(r"\{%-?\s*end(comment|highlight|codeblock|code)\s*-?%\}")


@dataclass(frozen=True)
class Attribute:
    """An attribute of a tag: its value without character references (None where it has none), and where it stands."""

    name: str
    value: str | None
    start: int
    end: int


@dataclass(frozen=True)
class Tag:
    """A start or end tag, from `start` to `end`; names are in lower case.

    `is_whole` is False where the tag has no end, or has quotes or a `<` where none can be.
    """

    name: str
    start: int
    end: int
    attributes: tuple[Attribute, ...] = ()
    is_end: bool = False
    is_empty: bool = False
    is_whole: bool = True

    def attribute(self, name: str) -> Attribute | None:
        """Return the first attribute of a name, which is the one that counts."""
        return next((attribute for attribute in self.attributes if attribute.name == name), None)

    def value(self, name: str) -> str:
        """Return the value of an attribute; empty where there is none."""
        found = self.attribute(name)
        return (found.value or "") if found else ""


@dataclass(frozen=True)
class Run:
    """Characters between tags: text, or what is neither text nor markup (a comment, a script)."""

    start: int
    end: int
    is_text: bool


def tokens(text: str, is_xml: bool = False) -> Iterator[Tag | Run]:
    """Yield the tags and what is between them; together they cover the text from its beginning to its end."""
    at = 0
    while at < len(text):
        start = text.find("<", at)
        if start != at:
            start = len(text) if start < 0 else start
            yield Run(at, start, is_text=True)
            at = start
            continue
        end, is_text = _declaration_end(text, at, is_xml)
        if end is not None:
            yield Run(at, end, is_text)
            at = end
            continue
        tag = read_tag(text, at)
        yield tag
        at = tag.end
        if tag.name in _RAW and not (is_xml or tag.is_end):
            close = re.compile(rf"</{tag.name}(?=[\s/>])", re.IGNORECASE).search(text, at)
            end = close.start() if close else len(text)
            if end > at:
                yield Run(at, end, is_text=False)
            at = end


def _declaration_end(text: str, at: int, is_xml: bool) -> tuple[int | None, bool]:
    """Return where a comment, declaration or stray `<` at `at` ends, and whether it is text; None for a tag."""
    if text.startswith("<!--", at):
        if not is_xml and text.startswith((">", "->"), at + 4):
            return text.index(">", at) + 1, False
        found = _COMMENT_END.search(text, at + 4)
        return (found.end() if found else len(text)), False
    if is_xml and text.startswith("<![CDATA[", at):
        return _after(text, "]]>", at), True
    if text.startswith("<?xml", at):
        return _after(text, "?>", at), False
    if text.startswith(("<!", "<?"), at) or (text.startswith("</", at) and not _NAME.match(text, at)):
        return _after(text, ">", at), False
    return (None, False) if _NAME.match(text, at) else (at + 1, True)


def _after(text: str, what: str, at: int) -> int:
    found = text.find(what, at)
    return len(text) if found < 0 else found + len(what)


def read_tag(text: str, start: int) -> Tag:
    """Read the tag that begins at `start`."""
    name = _NAME.match(text, start)
    at, attributes, is_whole = name.end(), [], True
    while not (end := _TAG_END.match(text, at)):
        found = _ATTRIBUTE.match(text, at)
        if not found:
            at, is_whole = len(text), False
            break
        value = next((found[kind] for kind in ("double", "single", "bare") if found[kind] is not None), None)
        value = value if value is None else unescape(value)
        attributes.append(Attribute(found["name"].lower(), value, found.start("all"), found.end("all")))
        is_whole = is_whole and not set("\"'<") & set(found["name"])
        at = found.end()
        if value is None and _OPEN_QUOTE.match(text, at):
            at, is_whole = len(text), False
            break
    end_at = end.end() if end else at
    is_empty = bool(end) and end[0].endswith("/>")
    is_end = text.startswith("</", start)
    return Tag(name[1].lower(), start, end_at, tuple(attributes), is_end, is_empty, is_whole)


def mask_templates(text: str) -> str:
    """Replace what belongs to a template engine (Jinja, Liquid, Django, ERB, PHP, …), each character by `TEMPLATE`.

    The filler is no markup, so that quotes inside a template's tag end nothing. Comments and code blocks of templates
    become blanks.
    """
    pieces, at, dead = [], 0, set()
    block_ends = _block_ends(text)
    for opener in _TEMPLATE_OPENERS.finditer(text):
        if opener.start() < at or opener[0] in dead:
            continue
        end = _template_end(text, opener, block_ends)
        if end is None:
            dead.add(opener[0])  # it is closed nowhere, so the next one is not either
            continue
        is_quiet = opener[0] == "{#" or _QUIET_BLOCK.match(text, opener.start())
        inside = text[opener.start() : end]
        pieces += [text[at : opener.start()], blanked(inside) if is_quiet else TEMPLATE * len(inside)]
        at = end
    return "".join([*pieces, text[at:]])


def _block_ends(text: str) -> dict[str, list[re.Match]]:
    """Return the tags that end quiet blocks, by the name of the block."""
    ends: dict[str, list[re.Match]] = {}
    for found in _QUIET_BLOCK_END.finditer(text):
        ends.setdefault(found[1], []).append(found)
    return ends


def _template_end(text: str, opener: re.Match, block_ends: dict[str, list[re.Match]]) -> int | None:
    block = _QUIET_BLOCK.match(text, opener.start())
    if block:
        ends = block_ends.get(block[1], [])
        following = bisect_left(ends, block.end(), key=re.Match.start)
        if following < len(ends):
            return ends[following].end()
    closer = _TEMPLATE_CLOSERS.get(opener[0], "?>")
    end = text.find(closer, opener.end())
    if end < 0:
        return len(text) if closer == "?>" else None  # PHP may end with the file
    return end + len(closer)


def mask_braces(text: str) -> str:
    """Replace the code in braces of an MDX text, each character by `TEMPLATE`; its comments become blanks."""
    pieces, at, depth, start = [], 0, 0, 0
    for brace in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if brace[0] == "{":
            start = start if depth else brace.start()
            depth += 1
        elif brace[0] == "}" and depth:
            depth -= 1
            if not depth:
                inside = text[start : brace.end()]
                pieces += [text[at:start], blanked(inside) if inside.startswith("{/*") else TEMPLATE * len(inside)]
                at = brace.end()
    return "".join([*pieces, text[at:]])


def blanked(text: str) -> str:
    """Return blanks in the place of a text, with its line breaks."""
    return re.sub(r"[^\r\n]", " ", text)
