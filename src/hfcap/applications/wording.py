"""Rewording of a model's caption as the proposal for an alt: pure functions of text, a rule each.

Sources: WCAG 2 failure F30, axe-core's `image-redundant-alt`, IPTC's advice of 125 characters (CSUN 2022), and for the
words for people Bennett et al. 2021 ("It's complicated") and Facebook's practice (arXiv 2105.12754).
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from hfcap.applications.lint import AIM, EMOJI, LONGEST, alt_findings
from hfcap.applications.people import neutral
from hfcap.applications.pictures import collapsed
from hfcap.scripts import JOINERS, is_spaceless

PEOPLE = ("neutral", "as_seen")

_PICTURE = r"(?:image|photo|photograph|picture|pic|snapshot|shot|close[- ]?up)"
_OPENING = re.compile(
    r"(?:(?:this|that|here|it) (?:is|shows|depicts)|there (?:is|are)|(?:we|i|you)(?: can)? see"
    rf"|in (?:this|the) {_PICTURE}|(?:in )?(?:this|the) {_PICTURE},? (?:shows?|depicts?|contains?|is of|has|features?"
    r"|captures?|(?:we|you)(?: can)? see|there (?:is|are))"
    rf"|(?:an? )?(?:(?:close[- ]?up|black and white|colou?r(?:ed)?|vintage|stock|blurry) )*{_PICTURE}"
    r" (?:of|showing|depicting)),? ",
    re.IGNORECASE,
)
_QUOTES = "\"'“”‘’"
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
_SPACE_BEFORE = re.compile(r"\s+(?=[.,;:!?…)\]%]|'s\b|n't\b)")
_STOP = re.compile(r"[.!?…。！？｡؟۔।॥။።][\"'”’)」』）»]?$")  # of any script
_CHINESE_OR_JAPANESE = re.compile("[\u3041-\u30ff\u3400-\u9fff]")
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+(?=[A-Z\"“(])")
_CLAUSE_END = re.compile(r"[,;:]?(?=\s(?:and|while|as|with|in front of|next to|behind)\s)|[,;:](?=\s)")


@dataclass(frozen=True)
class Wording:
    """A proposal; where it is shorter than what there is to say, all of it in `extended`."""

    alt: str
    extended: str = ""


def worded(caption: str, people: str = "neutral", quotes: Sequence[str] = ()) -> Wording | None:
    """Return the proposal that a caption gives.

    Args:
        caption: of a model, in English for the rules that are about words.
        people: "neutral" for words that guess no gender, race or faith and judge no body; "as_seen" for the caption's.
        quotes: text in the picture, verbatim.

    Returns:
        None where nothing is left to propose: an empty caption, a generic word, a file name.
    """
    text = without_opening(plain(caption))
    text = as_sentence(neutral(text) if people == "neutral" else text)
    if not says_something(text):
        return None
    text = with_quotes(text, quotes)
    alt = fitted(text)
    return Wording(alt, text if alt != text else "")


def plain(text: str) -> str:
    """Rule 13: no emoji, no control characters, no special tokens, one space between words, composed letters.

    The joiners that Persian, Sinhala and others write within words are letters. Quotation marks around all of it, or
    at one end alone, go as well.
    """
    text = EMOJI.sub(" ", unicodedata.normalize("NFC", text))
    text = re.sub(r"<[/|]?\w+[|]?>", " ", text)
    text = collapsed("".join(character if _shows(character) else " " for character in text))
    inside = text.strip(_QUOTES + " ")
    has_others = any(mark in _QUOTES for mark in _APOSTROPHE.sub("", inside))
    return text if has_others else inside  # a sign may say “STOP” where the caption begins or ends


def _shows(character: str) -> bool:
    return unicodedata.category(character)[0] != "C" or character in JOINERS


def without_opening(text: str) -> str:
    """Rule 6: the main thing first, without "a photo of", "this is" and their like, however many there are."""
    while found := _OPENING.match(text):
        text = text[found.end() :]
    return text


def as_sentence(text: str) -> str:
    """Rule 8: a capital first, punctuation last, no space in front of it; Thai and its like have no full stop."""
    text = _SPACE_BEFORE.sub("", text).strip()
    text = re.sub(r"[\s,;:–—-]+$", "", text)
    text = re.sub(r"\.{2,}$", ".", text)
    if not text:
        return ""
    stop = "."
    if _STOP.search(text):
        stop = ""
    elif is_spaceless([text]):
        stop = "。" if _CHINESE_OR_JAPANESE.search(text) else ""
    return text[0].upper() + text[1:] + stop


def says_something(text: str) -> bool:
    """Rule 5: never a generic word or a file name."""
    bad = ("generic", "file-name", "blank-alt")
    return any(map(str.isalnum, text)) and not any(rule in bad for rule, _ in alt_findings(text))


def with_quotes(text: str, quotes: Sequence[str]) -> str:
    """Rule 10: text in the picture verbatim, in quotes, behind the description."""
    if not quotes:
        return text
    return f"{text} Text: {', '.join(f'“{collapsed(quote)}”' for quote in quotes)}."


def fitted(text: str) -> str:
    """Rule 7: as many sentences as fit into 125 characters, one at least, and never more than 250."""
    if len(text) <= AIM:
        return text
    kept, *others = _SENTENCE_END.split(text)
    for sentence in others:
        if len(kept) + 1 + len(sentence) > AIM:
            break
        kept += f" {sentence}"
    if len(kept) <= LONGEST:
        return kept
    ends = [found.start() for found in _CLAUSE_END.finditer(kept, 20, AIM)]
    end = ends[-1] if ends else kept.rfind(" ", 0, LONGEST - 1)
    return as_sentence(kept[: end if end > 0 else LONGEST - 1])
