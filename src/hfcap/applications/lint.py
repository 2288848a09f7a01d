"""Rules for alt texts, and what `hfcap alt check` finds in documents.

Sources: WCAG 2 failures F30 (file names, "spacer") and F65 (no alt), axe-core's `image-alt`, `input-image-alt`,
`area-alt`, `link-name` and `image-redundant-alt`.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from hfcap.applications.documents import Document
from hfcap.applications.markup import TEMPLATE
from hfcap.applications.pictures import Picture, collapsed

AIM, LONGEST = 125, 250  # characters
# Rule: its level, and what it is about. A missing alt and an error make the exit code 1, a warning and a note do not.
RULES = {
    "missing-alt": ("error", "A picture without an alt: write one, or an empty one if it is decorative."),
    "empty-link": ("error", "The only content of a link or button has an empty alt, so nothing is read out."),
    "file-name": ("error", "The alt is the name of a file (WCAG F30)."),
    "generic": ("error", "The alt says no more than that there is a picture (WCAG F30)."),
    "blank-alt": ("error", "The alt is white space; an empty alt says that a picture is decorative."),
    "repeated-alt": ("error", "Two alt attributes in one tag, of which browsers read the first."),
    "broken-tag": ("error", "A tag that browsers read otherwise than it looks, or not at all."),
    "unreadable": ("error", "A file, or a part of it, that cannot be read."),
    "redundant": ("warning", "The alt begins with words such as “photo of”, which screen readers say already."),
    "repeats-text": ("warning", "The alt says what the text beside it says, so that it is read out twice."),
    "too-long": ("warning", f"The alt has more than {LONGEST} characters; put the rest into the text."),
    "automatic": ("warning", "The alt says that a program wrote it and nobody has looked at it."),
    "emoji": ("warning", "An emoji in the alt is read out by its name."),
    "svg": ("warning", "An inline <svg>, with role=img or an <image> in it, without a name."),
    "template": ("note", "A template or code may give this picture an alt."),
    "component": ("note", "A component that shows a picture."),
}
_SUFFIXES = "jpe?g|png|gif|webp|svg|avif|bmp|tiff?|heic|ico|jfif"
_FILE_NAME = re.compile(
    rf"\S*\.(?:{_SUFFIXES})|(?:img|dsc[nf]?|pict?|p|image|photo|screen ?shot|mvimg|pxl)[-_ ]?\d{{2,}}[-_\d]*"
    r"|[\da-f]{16,}",
    re.IGNORECASE,
)
_FILE_AT_END = re.compile(rf"[^\s.]+\.(?:{_SUFFIXES})", re.IGNORECASE)
_GENERIC = re.compile(
    r"(?:an? |the |no |my |stock )?"
    r"(?:image|photo|photograph|picture|graphic|figure|slide|icon|fig|img|pic|alt)\.? ?\d*"
    r"|(?:insert )?(?:image |photo |img )?(?:alt text|alt|description|here)|image alt|(?:image|photo|picture) of"
    r"|spacer|untitled|placeholder|null|undefined|none|thumbnail|screenshot|temp|blank|logo image"
)
_REDUNDANT = re.compile(
    r"(?:(?:this|here|it) is |there is |we (?:can )?see )?(?:an? |the |one )?"
    r"(?:close[- ]?up |black and white |colou?r )?"
    r"(?:image|photo|photograph|picture|pic|graphic|snapshot|img|icon)s? (?:of|showing|shows?|depicts?|depicting)\b",
    re.IGNORECASE,
)
_AUTOMATIC = re.compile(r"description automatically generated|with (?:low|medium|high) confidence", re.IGNORECASE)
_PICTOGRAM = "[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\ufe0f]"
EMOJI = re.compile(f"{_PICTOGRAM}[\ufe0f\u200d]*")  # a joiner by itself joins the letters of a word, as in Sinhala


@dataclass(frozen=True)
class Finding:
    """What a rule says about a place of a file; `part` is the member of an archive."""

    path: str
    part: str
    line: int
    column: int
    rule: str
    message: str

    @property
    def level(self) -> str:
        """Return error, warning or note."""
        return RULES[self.rule][0]

    def __str__(self) -> str:
        """Return `file:line:column rule message`."""
        part = f"!{self.part}" if self.part else ""
        return f"{self.path}{part}:{self.line}:{self.column} {self.rule} {self.message}"


def alt_findings(alt: str) -> list[tuple[str, str]]:
    """Return rule and message for what is wrong with an alt that is not empty, whatever its picture."""
    plain = collapsed(alt)
    if not plain:
        return [("blank-alt", 'the alt is white space; write alt="" if the picture is decorative')]
    words = plain.strip(" .!:-_").lower()
    if _FILE_NAME.fullmatch(plain.rstrip(".")):
        return [("file-name", f"the alt is a file name, {plain!r}; say what the picture shows")]
    if not words or _GENERIC.fullmatch(words):
        return [("generic", f"the alt {plain!r} says nothing; say what the picture shows")]
    found = []
    if _FILE_AT_END.search(plain) and len(plain.split()) < 4:
        found.append(("file-name", f"the alt holds a file name, {plain!r}; say what the picture shows"))
    if start := _REDUNDANT.match(plain):
        found.append(("redundant", f"begins with {start[0]!r}; screen readers say that it is a picture"))
    if len(plain) > LONGEST:
        found.append(("too-long", f"{len(plain)} characters; {AIM} is the aim, {LONGEST} the most"))
    if _AUTOMATIC.search(plain):
        found.append(("automatic", "a program wrote it; read it against the picture, and take that remark out"))
    if EMOJI.search(plain):
        found.append(("emoji", "screen readers read an emoji out by its name; remove it"))
    return found


def picture_findings(picture: Picture) -> list[tuple[str, str]]:
    """Return rule and message for what is wrong with the alt of a picture, or with it having none."""
    alt = picture.alt
    if picture.kind == "svg":
        return [] if picture.is_named else [("svg", "an inline <svg> has no name; add aria-label, or a <title> in it")]
    if picture.problem and (picture.problem[0] == "broken-tag" or alt is None or TEMPLATE in alt):
        return [] if alt is not None and picture.problem[0] != "broken-tag" else [picture.problem]
    found = []
    if picture.repeated_alt:
        found.append(("repeated-alt", "two alt attributes; browsers read the first, remove the other"))
    if alt is None:
        return found + ([] if picture.is_named else [("missing-alt", _what_to_do(picture))])
    if not alt:
        if picture.alone_in and not picture.is_named:
            found.append(
                ("empty-link", f"all there is of a {picture.alone_in}, and its alt is empty; {_purpose(picture)}")
            )
        return found
    found += alt_findings(alt)
    if collapsed(alt).lower().rstrip(".") == picture.context.caption.lower().rstrip(".") != "":
        found.append(("repeats-text", "the alt is the caption again; say what the caption does not"))
    return found


def _what_to_do(picture: Picture) -> str:
    src = f"{picture.src[:60]!r} " if picture.src else ""
    what = {
        "link": _purpose(picture),
        "button": _purpose(picture),
        "text": "write the text in it",
        "chart": "a person says what it shows",
        "maybe_decorative": 'it may be decorative: alt="" then',
    }.get(picture.role, "describe it")
    return f"{src}has no alt ({picture.role}); {what}"


def _purpose(picture: Picture) -> str:
    return "say where the link leads" if picture.alone_in == "link" else "say what the button does"


def document_findings(document: Document, decorative: Collection[int] = ()) -> list[Finding]:
    """Return what is wrong with the pictures of a document, in order; those numbered `decorative` need no alt."""
    return [
        Finding(document.path.as_posix(), picture.part, picture.line, picture.column, rule, message)
        for number, picture in enumerate(document.pictures)
        for rule, message in picture_findings(picture)
        if not (rule == "missing-alt" and number in decorative)
    ]
