"""Pictures of HTML, XHTML and the tags in Markdown and MDX: `<img>`, `<input type=image>`, `<area>`, `<svg>`."""

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape

from hfcap.applications.markup import TEMPLATE, Run, Tag, tokens
from hfcap.applications.pictures import Context, Picture, Slot, collapsed

CONTEXT = 160  # characters of text kept from before and from behind a picture
DEEPEST = 200  # containers within containers that are told apart
COMPONENTS = ("image", "nextimage", "staticimage", "gatsbyimage", "amp-img", "v-img", "nuxtimg", "q-img")
_FURNITURE = ("header", "footer", "nav", "aside")
_CONTAINERS = ("a", "button", "figure", "figcaption", "picture", "svg", *_FURNITURE)
_BLOCKS = re.compile(r"p|div|h[1-6]|li|[uod]l|d[td]|t[dhr]|table|section|article|br|hr|pre|blockquote|figcaption|body")
_PICTURE_TAG = re.compile(r"<(?:img|image|area|amp-img)(?=[\s/>])", re.IGNORECASE)


@dataclass
class _Open:
    """A container that is open, and the pictures in it so far."""

    tag: Tag
    first_piece: int  # of the plain text inside
    pictures: list[Picture] = field(default_factory=list)
    own: Picture | None = None  # that an <svg> is
    has_title: bool = False
    caption: str = ""  # of a <figure>


class _Scan:
    """One pass over the tokens of a text; `pictures` is complete after `finish`."""

    def __init__(self, text: str, is_jsx: bool):
        self.text = text
        self.is_jsx = is_jsx
        self.pictures: list[Picture] = []
        self.offsets: list[int] = []  # for each picture, the characters of plain text in front of it
        self.open: list[_Open] = []
        self.plain: list[str] = []
        self.length = 0

    def say(self, text: str) -> None:
        self.plain.append(text)
        self.length += len(text)

    def is_in(self, names: tuple[str, ...]) -> bool:
        return any(opened.tag.name in names for opened in self.open)

    def start_tag(self, tag: Tag) -> None:
        if _BLOCKS.fullmatch(tag.name):
            self.say("\n")
        svg = next((opened for opened in reversed(self.open) if opened.tag.name == "svg"), None)
        if svg is not None and tag.name == "title":
            svg.has_title = True
            if svg.own is not None:
                svg.own.is_named = True
        if svg is not None and tag.name == "image":  # SVG's own, which knows no alt
            picture = _of_svg(svg) if svg.own is None else None
            svg.own = svg.own or picture
        else:
            picture = picture_of(tag, self.text, self.is_jsx)
        if picture is not None:
            picture.is_furniture = self.is_in(_FURNITURE)
            self.pictures.append(picture)
            self.offsets.append(self.length)
            for opened in self.open:
                opened.pictures.append(picture)
        is_container = tag.name in _CONTAINERS or tag.value("role") == "button"
        if is_container and not tag.is_empty and len(self.open) < DEEPEST:
            self.open.append(_Open(tag, len(self.plain), own=picture if tag.name == "svg" else None))

    def end_tag(self, tag: Tag) -> None:
        if _BLOCKS.fullmatch(tag.name):
            self.say("\n")
        found = next((n for n in reversed(range(len(self.open))) if self.open[n].tag.name == tag.name), None)
        if found is not None:
            opened = self.open.pop(found)
            self.close(opened)

    def close(self, opened: _Open) -> None:
        tag = opened.tag
        text = (
            collapsed("".join(self.plain[opened.first_piece :])) if opened.pictures or tag.name == "figcaption" else ""
        )
        is_button = tag.name == "button" or tag.value("role") == "button"
        if is_button or (tag.name == "a" and tag.attribute("href")):
            has_name = bool(text or tag.value("aria-label") or tag.value("aria-labelledby"))
            for picture in opened.pictures:
                picture.context.link = tag.value("href")
                if has_name or len(opened.pictures) > 1:
                    picture.has_text_beside = has_name
                else:
                    picture.alone_in = "button" if is_button else "link"
        if tag.name == "figcaption":
            figure = next((o for o in reversed(self.open) if o.tag.name == "figure"), None)
            if figure is not None:
                figure.caption = text
        self.give_caption(opened)

    def give_caption(self, opened: _Open) -> None:
        for picture in opened.pictures if opened.caption else ():
            picture.context.caption = picture.context.caption or opened.caption  # of the innermost figure

    def finish(self) -> None:
        for opened in reversed(self.open):  # figures without an end tag
            self.give_caption(opened)
        plain = "".join(self.plain)
        for picture, offset in zip(self.pictures, self.offsets, strict=True):
            picture.context.before = collapsed(plain[max(0, offset - 2 * CONTEXT) : offset])[-CONTEXT:]
            picture.context.after = collapsed(plain[offset : offset + 2 * CONTEXT])[:CONTEXT]


def html_pictures(text: str, raw: str, is_xml: bool = False, is_jsx: bool = False) -> list[Picture]:
    """Return the pictures of a text, in order.

    Args:
        text: HTML, or XML, or Markdown in which code and comments are blank; templates are masked.
        raw: the same text with its templates.
        is_xml: XHTML or another XML, where no element holds raw text.
        is_jsx: MDX, where `{…}` is code.
    """
    scan = _Scan(text, is_jsx)
    quiet: list[tuple[int, int]] = []
    values: list[tuple[int, int]] = []  # of attributes with tags in them
    seen: set[int] = set()
    for token in tokens(text, is_xml):
        if isinstance(token, Run):
            if token.is_text:
                scan.say(unescape(text[token.start : token.end].replace(TEMPLATE, "")))
            else:
                quiet.append((token.start, token.end))
        elif token.is_end:
            scan.end_tag(token)
        else:
            seen.add(token.start)
            values += [(one.start, one.end) for one in token.attributes if _PICTURE_TAG.search(one.value or "")]
            scan.start_tag(token)
    scan.finish()
    return sorted([*scan.pictures, *_swallowed(text, raw, seen, quiet, values)], key=lambda picture: picture.start)


def _swallowed(
    text: str, raw: str, seen: set[int], quiet: list[tuple[int, int]], values: list[tuple[int, int]]
) -> Iterator[Picture]:
    """Yield what looks like a picture and is part of a template, an attribute, or a broken tag in front of it."""
    places = iter([*quiet, (len(text), len(text))])
    start, end = next(places)
    for found in _PICTURE_TAG.finditer(raw):
        if text[found.start()] == TEMPLATE:
            problem = ("template", "in code or a template; a person has to look")
            yield Picture(found.start(), "img", "", None, problem=problem)
            continue
        while end <= found.start():
            start, end = next(places)
        is_markup = text[found.start()] == "<" and found.start() not in seen
        before = bisect_right(values, (found.start(), len(text))) - 1
        value_end = values[before][1] if before >= 0 else 0
        if is_markup and text.find(">", found.end(), value_end) >= 0:  # an open quote would end within the tag
            yield Picture(
                found.start(),
                "img",
                "",
                None,
                problem=("template", "in an attribute of another tag; a person has to look"),
            )
        elif is_markup and not start <= found.start() < end:
            problem = (
                "broken-tag",
                "a tag in front of it is not closed, so browsers do not see this picture; close it",
            )
            yield Picture(found.start(), "img", "", None, problem=problem)


def picture_of(tag: Tag, text: str, is_jsx: bool) -> Picture | None:
    """Return the picture that a start tag makes, or None if it makes none."""
    is_component = tag.name in COMPONENTS and (is_jsx or tag.name != "image")
    if tag.name == "svg":
        is_picture = tag.value("role") == "img" or tag.attribute("aria-label") is not None
        return _svg(tag) if is_picture else None
    is_input = tag.name == "input" and tag.value("type").strip().lower() == "image"
    is_area = tag.name == "area" and tag.attribute("href") is not None
    if not (is_component or is_input or is_area or tag.name in ("img", "image")):
        return None
    alt, src = tag.attribute("alt"), _src_of(tag)
    picture = Picture(
        tag.start,
        "component" if is_component else "img" if tag.name == "image" else tag.name,
        src[0],
        None if alt is None else alt.value or "",
        hints=" ".join(tag.value(name) for name in ("class", "id", "title", "data-alt")),
        pixels=(_pixels(tag.value("width")), _pixels(tag.value("height"))),
        alone_in="button" if is_input else "link" if is_area else "",
        context=Context(link=tag.value("href")),
    )
    picture.is_named = _is_named(tag)
    picture.repeated_alt = sum(attribute.name == "alt" for attribute in tag.attributes) > 1
    picture.problem = _problem(tag, text, is_component, is_jsx)
    if picture.problem is None:
        at = tag.start + len(tag.name) + 1 if src[1] is None else src[1]
        start, end = (at, at) if alt is None else (alt.start, alt.end)
        picture.slot = Slot(start, end, ' alt="' if alt is None else 'alt="', '"')
    return picture


def _svg(tag: Tag, what: str = "<svg role=img>") -> Picture:
    problem = ("svg", f"an inline {what}; hfcap does not write its <title> or aria-label")
    named = bool(tag.value("aria-label") or tag.value("aria-labelledby"))
    return Picture(tag.start, "svg", "", None, problem=problem, is_named=named)


def _of_svg(svg: _Open) -> Picture:
    """Return the picture that an `<svg>` becomes by the first `<image>` in it."""
    picture = _svg(svg.tag, "<svg> with an <image>")
    picture.is_named = svg.has_title or _is_named(svg.tag)
    return picture


def _src_of(tag: Tag) -> tuple[str, int | None]:
    """Return where the picture is, and the end of the attribute that says so.

    A `data:` picture in `src` is a placeholder where a script loads another one later, which stands in `data-src` or
    `data-srcset`.
    """
    placeholder = ("", None)
    for name in ("src", "data-src", "srcset", "data-srcset"):
        if (attribute := tag.attribute(name)) is None:
            continue
        src = (attribute.value or "").strip()
        if name.endswith("set"):  # its first candidate, whose address may have commas in it, but not at its ends
            src = "".join(src.lstrip(", \t\r\n\f").split()[:1]).rstrip(",")
        if src and not src.lower().startswith("data:"):
            return src, attribute.end
        placeholder = (src, attribute.end) if placeholder[1] is None else placeholder
    return placeholder


def _pixels(value: str) -> int:
    found = re.fullmatch(r"\s*(\d{1,5})(px)?\s*", value)
    return int(found[1]) if found else 0


def _is_named(tag: Tag) -> bool:
    silent = tag.value("role").strip().lower() in ("presentation", "none")
    hidden = tag.value("aria-hidden").strip().lower() == "true"
    return silent or hidden or any(tag.value(name).strip() for name in ("aria-label", "aria-labelledby"))


def _problem(tag: Tag, text: str, is_component: bool, is_jsx: bool) -> tuple[str, str] | None:
    if not tag.is_whole:
        return "broken-tag", "the tag is broken (an open quote, or no end); fix it"
    if TEMPLATE in text[tag.start : tag.end]:
        what = "code in braces" if is_jsx else "a template"
        return "template", f"the tag holds {what}, which may give it an alt; a person has to look"
    if is_component:
        return (
            "component",
            f"<{text[tag.start + 1 : tag.start + 1 + len(tag.name)]}> is a component; a person has to look",
        )
    return None
