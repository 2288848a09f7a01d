"""Pictures of DOCX and PPTX: `descr` of `wp:docPr` and of `p:cNvPr` in their XML parts."""

import posixpath
import re
import zipfile
from collections.abc import Sequence
from html import unescape

from hfcap.applications.archives import read_member
from hfcap.applications.markup import Run, Tag, tokens
from hfcap.applications.pictures import Context, Picture, Slot, collapsed
from hfcap.applications.texts import DocumentError, decode

_PARTS = re.compile(r"word/(?:document|header|footer|footnotes|endnotes|comments)\d*\.xml|ppt/slides/slide\d+\.xml")
_FURNITURE = re.compile(r"word/(?:header|footer)\d*\.xml")
# What holds a picture and its properties; `wp:` in Word, `p:pic` in PowerPoint.
_DRAWINGS = ("wp:inline", "wp:anchor", "p:pic", "p:graphicframe", "p:contentpart")
_PROPERTIES = ("wp:docpr", "p:cnvpr", "p14:cnvpr")
_CHARTS = ("c:chart", "cx:chart", "dgm:relids")
_OTHERS = ("am3d:model3d", "w14:contentpart", "p14:nvcontentpartpr", "we:webextensionref")  # 3D models, ink, add-ins
_TRUE = ("1", "true")
CONTEXT = 160


def office_parts(archive: zipfile.ZipFile) -> list[str]:
    """Return the XML parts that hold pictures, in order."""

    def order(name: str) -> tuple[str, int]:
        number = re.search(r"(\d+)\.xml$", name)
        return re.sub(r"\d*\.xml$", "", name), int(number[1]) if number else 0

    return sorted(filter(_PARTS.fullmatch, archive.namelist()), key=order)


def targets_of(archive: zipfile.ZipFile, part: str) -> dict[str, str]:
    """Return where the relationships of a part lead, by id: a member's name, or the address of an external picture."""
    folder, name = posixpath.split(part)
    relations = f"{folder}/_rels/{name}.rels"
    if relations not in archive.namelist():
        return {}
    found = {}
    for tag in tokens(decode(read_member(archive, relations)).text, is_xml=True):
        if isinstance(tag, Tag) and tag.name == "relationship" and not tag.is_end:
            target = tag.value("target")
            is_outside = tag.value("targetmode") == "External"
            inside = target.lstrip("/") if target.startswith("/") else posixpath.normpath(f"{folder}/{target}")
            found[tag.value("id")] = target if is_outside else inside
    return found


def office_pictures(text: str, targets: dict[str, str], kind: str, part: str = "") -> list[Picture]:
    """Return the pictures, charts and embedded objects of an XML part.

    Args:
        text: the part.
        targets: from `targets_of`.
        kind: "docx" or "pptx".
        part: name of the part.

    Raises:
        DocumentError: the part has a document type, which no office program writes and which may hold a bomb.
    """
    if "<!DOCTYPE" in text[:2000]:
        raise DocumentError("an XML part with a document type; not read")
    pictures: list[Picture] = []
    words: list[str] = []
    places: list[int] = []
    drawings: list[list[Tag]] = []
    in_text = False
    alternatives: list[int] = []  # for each that is open, the pictures in front of it
    fallbacks: list[bool] = []  # for each that is open, whether it has the pictures of its choice again
    for token in tokens(text, is_xml=True):
        if isinstance(token, Run):
            if in_text and token.is_text:
                words.append(unescape(text[token.start : token.end]))
        elif token.name in ("w:t", "a:t"):
            in_text = not (token.is_end or token.is_empty)
        elif token.name in ("w:p", "a:p"):
            words.append("\n")
        elif token.name == "mc:alternatecontent":
            _follow(alternatives, token, len(pictures))
        elif token.name == "mc:fallback":  # for programs of before 2010
            again = bool(alternatives) and len(pictures) > alternatives[-1]
            _follow(fallbacks, token, again or fallbacks[-1:] == [True])
        elif token.name == "v:imagedata" and not (fallbacks or token.is_end):
            problem = ("component", "a picture as Word wrote them before 2007 (VML); hfcap does not read its alt")
            pictures.append(Picture(token.start, kind, targets.get(token.value("r:id"), ""), None, problem=problem))
            places.append(len(words))
        elif token.name in _DRAWINGS and not token.is_end:
            _follow(drawings, token, [token])
        elif token.name in _DRAWINGS and drawings:
            tags = drawings.pop()
            if drawings and drawings[-1][0].name == "p:graphicframe":
                drawings[-1] += tags  # the preview of an embedded object, whose alt is that of the frame
            elif fallbacks[-1:] != [True] and (picture := _picture(tags, targets, kind)):
                pictures.append(picture)
                places.append(len(words))
        elif drawings and not token.is_end:
            drawings[-1].append(token)
    _give_context(pictures, places, words)
    groups = _named_groups(text) if "p:grpSp>" in text else []
    for picture in pictures:
        picture.is_furniture = _FURNITURE.fullmatch(part) is not None
        picture.is_named = picture.is_named or any(start < picture.start < end for start, end in groups)
    return sorted(pictures, key=lambda picture: picture.start)


def _named_groups(text: str) -> list[tuple[int, int]]:
    """Return where the groups of a slide are that have an alt of their own, or none because they are decorative."""
    opened: list[list[Tag]] = []  # the tag of each group that is open, and those of its own properties
    found, is_own = [], False
    for tag in tokens(text, is_xml=True):
        if isinstance(tag, Run):
            continue
        if tag.name == "p:nvgrpsppr":
            is_own = not tag.is_end
        elif tag.name == "p:grpsp" and not tag.is_end:
            _follow(opened, tag, [tag])
        elif tag.name == "p:grpsp" and opened:
            group, *own = opened.pop()
            if any(one.name == "p:cnvpr" and one.value("descr") for one in own) or _is_silent(own):
                found.append((group.start, tag.end))
        elif is_own and opened:
            opened[-1].append(tag)
    return found


def _is_silent(tags: Sequence[Tag]) -> bool:
    """Tell whether an object is hidden or marked as decorative, by its properties and what is in them."""
    return any(
        (tag.name in _PROPERTIES and tag.value("hidden") in _TRUE)
        or (tag.name.endswith(":decorative") and tag.value("val") in _TRUE)
        for tag in tags
    )


def _follow(opened: list, tag: Tag, value: object) -> None:
    """Keep `value` in a list from the start of an element to its end."""
    if tag.is_end:
        del opened[-1:]
    elif not tag.is_empty:
        opened.append(value)


def _give_context(pictures: Sequence[Picture], places: Sequence[int], words: Sequence[str]) -> None:
    for picture, place in zip(pictures, places, strict=True):
        before, after = "".join(words[max(0, place - 40) : place]), "".join(words[place : place + 40])
        picture.context.before = collapsed(before)[-CONTEXT:]
        picture.context.after = collapsed(after)[:CONTEXT]


def _picture(tags: list[Tag], targets: dict[str, str], kind: str) -> Picture | None:
    properties = next((tag for tag in tags if tag.name in _PROPERTIES), None)
    blip = next((tag for tag in tags if tag.name == "a:blip"), None)
    chart = any(tag.name in _CHARTS for tag in tags)
    other = any(tag.name in _OTHERS for tag in tags)
    if properties is None or not (blip or chart or other):
        return None
    attribute = properties.attribute("descr")
    alt = attribute.value if attribute and attribute.value else None  # Word writes an empty one for none
    at = properties.start + len(properties.name) + 1
    start, end = (attribute.start, attribute.end) if attribute else (at, at)
    slot = Slot(start, end, 'descr="' if attribute else ' descr="', '"', says_decorative=False)
    source = (blip.value("r:embed") or blip.value("r:link")) if blip else ""
    picture = Picture(properties.start, kind, targets.get(source, ""), alt, slot)
    picture.is_named = _is_silent(tags)
    picture.hints = properties.value("title") + (" chart" if chart else "")
    click = next((tag for tag in tags if tag.name == "a:hlinkclick" and tag.value("r:id")), None)
    if click:
        picture.alone_in, picture.context = "link", Context(link=targets.get(click.value("r:id"), ""))
    return picture
