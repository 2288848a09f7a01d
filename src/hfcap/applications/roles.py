"""The role of a picture, by the alt decision tree of the W3C (w3.org/WAI/tutorials/images/decision-tree).

| role | what it means for the alt |
| --- | --- |
| link, button | the picture is all there is of a link or button: the alt says where it leads or what it does |
| text | a logo, badge or sign: the alt is the text in it |
| chart | a diagram, graph or map: a person writes what it shows |
| maybe_decorative | it looks like ornament, or repeats text beside it: an empty alt is proposed |
| informative | its content is described |
| unknown | the document does not tell |
"""

import re
from urllib.parse import unquote

from hfcap.applications.pictures import Picture

ROLES = ("informative", "link", "button", "text", "chart", "maybe_decorative", "unknown")

_CHART = re.compile(
    r"\b(charts?|graphs?|plots?|diagrams?|histograms?|flow ?charts?|heat ?maps?|maps?|infographics?)\b"
)
_TEXT = re.compile(r"\b(logos?|wordmarks?|badges?|shields?|banners?|captchas?|signature)\b|\bshields io\b")
_ORNAMENT = re.compile(
    r"\b(spacers?|dividers?|separators?|borders?|bullets?|ornaments?|decorations?|decorative|backgrounds?|bg|corners?|"
    r"shadows?|gradients?|pixel|tracking|blank|transparent|clear gif|hr|rule)\b"
)
SMALL = 3  # pixels: what is no larger is there for layout, or counts visitors


def role_of(picture: Picture) -> str:
    """Return the role of a picture, from its place in the document and what its names tell."""
    if picture.alone_in:
        return picture.alone_in
    if picture.has_text_beside:
        return "maybe_decorative"
    words = _words(f"{unquote(picture.src)} {picture.hints}")
    if _ORNAMENT.search(words) or any(0 < size <= SMALL for size in picture.pixels):
        return "maybe_decorative"
    if _CHART.search(words) or _CHART.search(_words(picture.context.caption)):
        return "chart"
    if _TEXT.search(words):
        return "text"
    return "unknown" if picture.is_furniture or not picture.src else "informative"


def _words(text: str) -> str:
    """Return a file name or class as words: `barChart_2.png` as "bar chart 2 png"."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", text)
    return " ".join(re.findall(r"[a-z]+|[0-9]+", apart.lower()))
