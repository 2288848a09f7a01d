"""Pictures of Markdown and MDX: `![alt](src)`, reference images, wikilinks, shortcodes, and the tags between them."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import unquote

from hfcap.applications.html_pictures import CONTEXT, html_pictures
from hfcap.applications.markdown_code import without_code
from hfcap.applications.markdown_text import (
    DEFINITION,
    DESTINATION,
    LONGEST,
    PlainText,
    brackets_of,
    label_of,
    plain_alt,
    without_markup,
)
from hfcap.applications.markup import TEMPLATE, blanked, mask_braces, mask_templates
from hfcap.applications.pictures import Context, Picture, Slot

# Headings and thematic breaks; a line of "=" or "-" makes a heading of the paragraph above it.
_NO_PARAGRAPH = re.compile(r"#{1,6}(?:[ \t].*)?|=+|--+|(?:(?:-[ \t]*){3,}|(?:_[ \t]*){3,}|(?:\*[ \t]*){3,})")
_ATTRIBUTES = re.compile(r"\{:?(?P<inside>[^{}\n]*)\}")
_SHORTCODE = re.compile(r"\{[{%][<%]?-?\s*(?:figure|image|img|picture|imgproc|asset_img|responsive_image)\b")
_LINK_BEFORE = re.compile(r"(?<![\\!])\[([^\[\]\n]*)$")
_LINK_BEHIND = re.compile(r"([^\[\]\n]*)\]\(\s*<?([^()\s<>]*)")
_CAPTION_BELOW = re.compile(r"[ \t]*\r?\n[ \t]*(?:\r?\n[ \t]*)?([*_])(?![*_])([^*_\n]{3,300})\1[ \t]*(?:\r?\n|\Z)")


def markdown_pictures(text: str, is_mdx: bool = False) -> list[Picture]:
    """Return the pictures of a Markdown text, in order."""
    mask = mask_braces if is_mdx else mask_templates
    plain, plain_markdown = without_code(text, is_mdx)
    literal = mask(plain_markdown)
    definitions = list(_definitions(literal))
    sources = {
        label_of(found["label"]): _source(found) for found in reversed(definitions)
    }  # the first of a label counts
    spoken = PlainText(mask(plain), definitions)
    brackets = brackets_of(literal)
    plain = _without_destinations(plain, literal, definitions)
    pictures = html_pictures(mask(plain), plain, is_jsx=is_mdx)
    end = 0  # of the alt of the last picture: what looks like a picture within an alt is text
    for start in (found.start() for found in re.finditer(r"!\[", literal)):
        if start < end or _is_escaped(literal, start):
            continue
        if picture := _picture_at(text, literal, start, brackets, sources):
            pictures.append(picture)
            end = brackets[start + 1]
    for picture in pictures:
        picture.context.before, picture.context.after = spoken.around(picture.start, CONTEXT)
    pictures += [_shortcode(found.start()) for found in _SHORTCODE.finditer(plain) if not is_mdx]
    return sorted(pictures, key=lambda picture: picture.start)


def _definitions(text: str) -> Iterator[re.Match]:
    """Yield the reference definitions of a text; one behind a line of a paragraph is none."""
    end = 0  # of the line of the last definition
    for found in DEFINITION.finditer(text):
        above = text[text.rfind("\n", 0, max(0, found.start() - 1)) + 1 : found.start()].strip("> \t\r\n")
        if not above or found.start() <= end or _NO_PARAGRAPH.fullmatch(above):
            yield found
            line_end = text.find("\n", found.end())
            end = len(text) if line_end < 0 else line_end + 1


def _without_destinations(plain: str, literal: str, definitions: Sequence[re.Match]) -> str:
    """Blank the destinations between `<` and `>`, which look like tags: `![](<img/a b.png>)`, `[x](<img/c d.pdf>)`."""
    opening = [found.start() for found in re.finditer(r"\[", literal)]
    breaks = [found.start() for found in re.finditer(r"\n\r?\n", literal)]

    def has_opening(close: int) -> bool:
        """Tell whether the paragraph has an opening bracket in front, whichever one it closes."""
        last = bisect_left(opening, close) - 1
        paragraph = bisect_left(breaks, close) - 1
        return last >= 0 and (paragraph < 0 or opening[last] > breaks[paragraph])

    inline = (
        DESTINATION.match(literal, found.end() - 1, found.end() + LONGEST)
        for found in re.finditer(r"\]\((?=\s*<)", literal)
        if not _is_escaped(literal, found.start()) and has_opening(found.start())
    )
    spans = sorted(found.span("angle") for found in (*inline, *definitions) if found and found["angle"] is not None)
    pieces, at = [], 0
    for start, end in spans:
        pieces += [plain[at : start - 1], blanked(plain[start - 1 : end + 1])]
        at = end + 1
    return "".join([*pieces, plain[at:]])


def _shortcode(start: int) -> Picture:
    return Picture(start, "shortcode", "", None, problem=("component", "a shortcode that shows a picture; look at it"))


def _is_escaped(text: str, at: int) -> bool:
    start = at
    while start and text[start - 1] == "\\":
        start -= 1
    return (at - start) % 2 == 1


def _picture_at(
    text: str, masked: str, start: int, brackets: Mapping[int, int], sources: Mapping[str, str]
) -> Picture | None:
    close = brackets.get(start + 1)
    if close is None or close - start > LONGEST:
        return None
    raw = text[start + 2 : close]
    if raw.startswith("[") and masked.startswith("]", close - 1) and not masked.startswith("(", close + 1):
        name, _, shown = raw[1:-1].partition("|")
        problem = ("component", "a wikilink; Markdown has no alt for it that other programs read")
        return Picture(start, "wikilink", name.strip(), None, problem=problem, hints=shown)
    slot = Slot(start + 2, close, form="markdown", says_decorative=False)
    title = ""
    if masked.startswith("(", close + 1) and (inline := DESTINATION.match(masked, close + 1, close + 1 + LONGEST)):
        src, end, title = _source(inline), inline.end(), (inline["title"] or "")[1:-1]
    else:
        end, label = close + 1, raw
        second = brackets.get(close + 1, close) if masked.startswith("[", close + 1) else close
        if 0 < second - close <= LONGEST:
            end, label = second + 1, text[close + 2 : second] or raw
        if label == raw:
            slot = None  # the alt is the label as well: another alt would be another reference
        src = sources.get(label_of(label))
        if src is None:
            return None
    picture = Picture(start, "markdown", src, plain_alt(raw) if raw.strip() else None, slot, hints=title)
    _read_attributes(picture, masked, end)
    _read_context(picture, masked, end)
    if TEMPLATE in masked[start:end]:
        picture.problem, picture.slot = ("template", "a template is part of the picture; a person has to look"), None
    elif slot is None and picture.alt is None:
        return None
    elif slot is None:
        picture.problem = ("template", "the alt is the label of a reference; change both by hand")
    return picture


def _source(found: re.Match) -> str:
    return plain_alt(found["angle"] if found["angle"] is not None else found["bare"])


def _read_attributes(picture: Picture, masked: str, end: int) -> None:
    """Read an attribute list behind a picture, `{alt="…" .class}` or `{: …}`, as Pandoc and kramdown do."""
    found = _ATTRIBUTES.match(masked, end)
    if not found:
        return
    picture.hints += " " + found["inside"]
    alt = re.search(r"""(?:^|\s)(?:fig-)?alt\s*=\s*(?:"([^"]*)"|'([^']*)'|(\S+))""", found["inside"])
    if alt:
        picture.alt = next(value for value in alt.groups() if value is not None)
        picture.slot = None
        picture.problem = ("template", "the alt is in an attribute list; change it by hand")
    if re.search(r"""role\s*=\s*["']?(?:presentation|none)|aria-hidden\s*=\s*["']?true""", found["inside"]):
        picture.is_named = True


def _read_context(picture: Picture, masked: str, end: int) -> None:
    start = picture.start
    before = _LINK_BEFORE.search(masked[max(0, start - 200) : start])
    behind = _LINK_BEHIND.match(masked, end, end + 1000)
    link = ""
    if before and behind:
        link = behind[2]
        has_text = bool((before[1] + behind[1]).strip())
        picture.has_text_beside, picture.alone_in = has_text, "" if has_text else "link"
    below = _CAPTION_BELOW.match(masked, end)
    picture.context = Context("", "", without_markup(below[2]) if below else "", unquote(link))
