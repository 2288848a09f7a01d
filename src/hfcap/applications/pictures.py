"""A picture in a document: where it stands, what its alt is, and how an alt is written there."""

import json
import re
from dataclasses import dataclass, field

from hfcap.applications.texts import DocumentError

MARKDOWN_SPECIAL = re.compile(r"[\\*_\[\]~|$#]")
_HTML_SPECIAL = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "{": "&#123;", "}": "&#125;"}


@dataclass(frozen=True)
class Slot:
    """The characters `start` to `end` that an alt takes the place of (none where there is none yet).

    Args:
        start: first character.
        end: behind the last character.
        before: written in front of the alt, `' alt="'` for a tag that has none.
        after: written behind it.
        form: how the alt itself is written: "html", "markdown", "json" or "csv" followed by the delimiter.
        says_decorative: an empty alt can be written here, and says that the picture is decorative.
    """

    start: int
    end: int
    before: str = ""
    after: str = ""
    form: str = "html"
    says_decorative: bool = True

    def written(self, alt: str, ascii_only: bool = False) -> str:
        """Return what `start` to `end` becomes for an alt."""
        return self.before + escaped(alt, self.form, ascii_only) + self.after


def escaped(alt: str, form: str, ascii_only: bool = False) -> str:
    """Return an alt as a document of a form holds it.

    Braces become character references, because a template engine or MDX would read them.

    Raises:
        DocumentError: the alt has characters that a CSV file in an unknown encoding may not hold.
    """
    if form == "json":
        return json.dumps(alt, ensure_ascii=ascii_only)
    if form.startswith("csv"):
        if ascii_only and not alt.isascii():
            raise DocumentError("the file is not UTF-8 and the alt is not ASCII; save the file as UTF-8")
        return '"' + alt.replace('"', '""') + '"' if set(alt) & {*'"\r\n', form[3:]} else alt
    text = "".join(_HTML_SPECIAL.get(character, character) for character in alt)
    if form == "markdown":
        # A backslash is none within a code span, and so would not keep a backtick from ending one.
        text = text.replace("`", "&#96;")
        text = MARKDOWN_SPECIAL.sub(lambda found: "\\" + found[0], text.replace("&#", "\0").replace("&quot;", '"'))
        text = text.replace("\0", "&#")
    if ascii_only:
        text = text.encode("ascii", "xmlcharrefreplace").decode("ascii")
    return text


@dataclass
class Context:
    """The words around a picture."""

    before: str = ""
    after: str = ""
    caption: str = ""
    link: str = ""


@dataclass
class Picture:
    """A picture of a document.

    Args:
        start: its first character in the text of its part.
        kind: "img", "input", "area", "svg", "component", "markdown", "wikilink", "shortcode", "docx", "pptx", "csv",
            "jsonl" or "photo".
        src: where it is, as the document says, without escapes.
        alt: its alt, None where it has none. Empty says "decorative", where the format tells that from none.
        slot: how an alt is written; None where hfcap does not write one.
        problem: why it is not written or not judged: rule and message.
        is_named: it has a name, or is hidden from screen readers, in another way (`aria-label`, `role=presentation`).
        context: the words around it.
        hints: its classes, id, title and other words that tell what it is for.
        pixels: width and height given in the document, 0 where none is.
        alone_in: "link" or "button" where it is the sole content of one.
        has_text_beside: it is in a link or button that has text as well.
        is_furniture: it stands in a header, footer, navigation or aside.
        part: member of the archive it stands in; empty for a file that is text itself.
        line: from 1.
        column: from 1.
        role: what it is for (`hfcap.applications.roles`).
    """

    start: int
    kind: str
    src: str
    alt: str | None
    slot: Slot | None = None
    problem: tuple[str, str] | None = None
    is_named: bool = False
    context: Context = field(default_factory=Context)
    hints: str = ""
    pixels: tuple[int, int] = (0, 0)
    alone_in: str = ""
    has_text_beside: bool = False
    is_furniture: bool = False
    part: str = ""
    line: int = 0
    column: int = 0
    role: str = "unknown"
    repeated_alt: bool = False

    @property
    def wants_alt(self) -> bool:
        """Tell whether it has no alt, and no other name, and hfcap knows that."""
        return self.alt is None and not self.is_named and self.problem is None

    @property
    def slot_says_decorative(self) -> bool:
        """Tell whether an empty alt can be written and says that the picture is decorative."""
        return self.slot is not None and self.slot.says_decorative


def collapsed(text: str) -> str:
    """Return a text with every run of white space as one space."""
    return " ".join(text.split())
