"""Parser of captions of the embedded `scenes`, and their comparison with the drawn scene.

CIDEr gives a wrong shape the price of any other word; a person who relies on a caption does not. Here a caption is
right when everything it says is, and it says everything its references say.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

from hfcap.data.scene_facts import COLORS, POSITIONS_OF_RELATION, SHAPES, Group, Scene
from hfcap.data.scene_wording import (
    BACKGROUND_SENTENCES,
    BACKGROUND_WORDS,
    NUMBER_WORDS,
    PLACE_PHRASES,
    RELATION_PHRASES,
    SIZE_WORDS,
)

ASPECTS = ("count", "size", "color", "shape", "position", "background")


@dataclass(frozen=True)
class Description:
    """What a caption says: the background and the groups, `None` for what it does not say."""

    background: str | None
    groups: tuple[Group, ...]


def _meanings(phrases: dict[str, Iterable[str]]) -> dict[str, str]:
    """Invert {meaning: phrases}."""
    return {phrase.lower(): meaning for meaning, said in phrases.items() for phrase in said}


def _any_of(phrases: Iterable[str]) -> str:
    """Give a pattern of any of the phrases, the longest first."""
    return "|".join(re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True))


_COUNTS = {"a": 1, "an": 1} | {word: count for count, word in NUMBER_WORDS.items()}
_SIZES = _meanings(SIZE_WORDS)
_PLACES = _meanings(PLACE_PHRASES)
_RELATIONS = _meanings(RELATION_PHRASES)
_SENTENCES = {sentence.lower(): background for background, sentence in BACKGROUND_SENTENCES.items()}
_BACKGROUNDS = _meanings(BACKGROUND_WORDS)

_GROUP = rf"(an|a|two|three|four) ({_any_of(_SIZES)}) ({_any_of(COLORS)}) ({_any_of(SHAPES)})s?\b"
_ITEM = re.compile(
    rf"(?P<sentence>{_any_of(_SENTENCES)})"
    rf"|(?P<background>\ban? ({_any_of(_BACKGROUNDS)}) (background|backdrop|picture)\b)"
    rf"|(?P<group>\b{_GROUP})"
    # "on the left of" is a relation before a group or the pronoun of one, and a place before the background.
    rf"|(?P<relation>\b({_any_of(_RELATIONS)})(?= (it|them|{_GROUP})))"
    rf"|(?P<place>\b({_any_of(_PLACES)})\b)"
    r"|(?P<pronoun>\b(it|them)\b)"
)


def read_caption(caption: str) -> Description:
    """Read the facts out of a caption of either style.

    Positions are read from the five ways in which the references state them; "A left of B" says that A is on the left
    and B on the right. Where a caption says them in no such way, the positions are `None`.
    """
    background, groups, places, order = None, [], [], ""
    for match in _ITEM.finditer(" ".join(caption.lower().split())):
        kind, text = match.lastgroup, match.group()
        if kind == "sentence":
            background = _SENTENCES[text]
        elif kind == "background":
            background = _BACKGROUNDS[text.split(" ", 1)[1].rsplit(" ", 1)[0]]
        elif kind == "group":
            count, size, color, shape = re.match(_GROUP, text).groups()[:4]
            groups.append((_COUNTS[count], _SIZES[size], color, shape))
            order += "G"
        elif kind == "pronoun":
            order += "M"
        else:
            places.append(_PLACES[text] if kind == "place" else _RELATIONS[text])
            order += "P" if kind == "place" else "R"
    return Description(
        background, tuple(Group(*said, position=where) for said, where in _placed(groups, places, order))
    )


def _placed(groups: list[tuple], places: list[str], order: str) -> list[tuple[tuple, str | None]]:
    """Give each group its position; `order` is how groups, places, relations and pronouns follow each other."""
    if order in ("GP", "PG", "GPGP"):
        positions = places
    elif order == "GRG":
        positions = POSITIONS_OF_RELATION[places[0]]
    elif order == "PGRMG":  # "On the left is A. Above it is B."
        positions = [places[0], POSITIONS_OF_RELATION[places[1]][0]]
    else:
        positions = [None] * len(groups)
    return list(zip(groups, positions, strict=True))


def wrong_facts(caption: str, scene: Scene, references: Sequence[str]) -> list[str]:
    """Name the facts of `ASPECTS` that a caption gets wrong; none for a caption that is right.

    A fact is right when it is for every group, and as many groups are named as there are. A position need not be said
    where a reference does not say it either; one that is said must be true.

    Args:
        caption: the caption, in the wording of either style.
        scene: the truth.
        references: the picture's references: what they all say the caption must say.
    """
    said = read_caption(caption)
    wrong = [] if said.background == scene.background else ["background"]
    if len(said.groups) != len(scene.groups):
        return [name for name in ASPECTS if name in wrong or name != "background"]
    optional = any(group.position is None for reference in references for group in read_caption(reference).groups)
    best = min(
        (_differences(order, scene.groups, optional) for order in permutations(said.groups)),
        key=lambda names: len(names),
    )
    return [name for name in ASPECTS if name in best or name in wrong]


def _differences(said: Sequence[Group], true: Sequence[Group], position_optional: bool) -> set[str]:
    names = {
        name
        for mine, theirs in zip(said, true, strict=True)
        for name in ASPECTS
        if name != "background" and getattr(mine, name) != getattr(theirs, name)
    }
    if position_optional and all(group.position is None for group in said):
        names.discard("position")
    return names
