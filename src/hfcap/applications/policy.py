"""Moderation policies: which tags there are, the words that speak for them, and what each tag has to reach.

A policy is a YAML file (docs/moderation.md, configs/policy/example.yaml). It cannot express a removal: the only action
is to put a picture before a person. Tags are about what a picture shows, never about who is in it.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from hfcap.applications.policy_file import Place, items, read_yaml, string
from hfcap.errors import shown
from hfcap.scripts import LETTER

POSITIVE_CAPTIONS = 2  # captions that name a tag for it to be true of the picture; one alone leaves it open
KINDS = ("precision", "recall", "queue")
SCORERS = ("opennsfw",)
MASK = "\0"  # stands in the place of what `not_words` matches: no word and no space, so no phrase goes across it

_POLICY_KEYS, _TAG_KEYS = ("tags", "slices"), ("means", "words", "not_words", "target", "action", "scorer")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_REFERENCE = re.compile(r"\\[1-9]|\(\?P|\(\?\(")  # they would count groups across all words of a tag
# Who somebody is, in names of tags and in their words. Activities are tags; people are not.
_TRAITS = """
    race races racial ethnic ethnicity nationality asian african arab hispanic latino latina caucasian immigrant
    immigrants refugee refugees gender genders man men woman women male males female females boy boys girl girls
    transgender nonbinary gay lesbian homosexual bisexual queer religion religions religious faith faiths muslim
    muslims islamic christian christians jew jews jewish hindu hindus buddhist buddhists sikh sikhs atheist hijab
    hijabs burqa turban turbans age ages elderly adult adults child children kid kids teen teens teenager minor
    minors toddler baby babies infant disabled disability disabilities wheelchair obese overweight ugly attractive
    identity emotion emotions criminal criminals terrorist terrorists
""".split()  # noqa: SIM905  (a column of ninety lines)
_PEOPLE = ("people", "person", "persons", "humans", "adult", "adults", "faces")  # as the last word of a name
_VERDICTS = ("safe", "unsafe", "sfw", "nsfw", "inappropriate", "offensive", "bad")


@dataclass(frozen=True)
class Target:
    """What a tag's threshold has to reach: a precision, a recall, or a queue as a share of all pictures (0 to 1)."""

    kind: Literal["precision", "recall", "queue"]
    value: float


@dataclass(frozen=True)
class Tag:
    """A tag of a policy.

    Attributes:
        name: lower-case letters, digits and underscores.
        means: what the tag stands for, for the people who label and review.
        words: words and regular expressions that name it in a caption.
        not_words: words and regular expressions whose matches do not count.
        target: what its threshold has to reach.
        scorer: "opennsfw", or None where a trained tagger scores it.
    """

    name: str
    means: str
    words: tuple[str, ...]
    not_words: tuple[str, ...]
    target: Target
    scorer: str | None = None

    @cached_property
    def _any_word(self) -> re.Pattern:
        return any_of(self.words)  # most captions have none, and one search says so

    @cached_property
    def _patterns(self) -> tuple[list[re.Pattern], list[re.Pattern]]:
        return [whole_words(word) for word in self.words], [whole_words(word) for word in self.not_words]

    def words_in(self, caption: str) -> list[str]:
        """Return what names the tag in a caption, in order, each once, in lower case; of overlapping ones the first.

        What `not_words` match, each on its own, does not count, so that the order of the words never matters.
        """
        text = plain(caption)
        if not self._any_word.search(text):
            return []
        words, not_words = self._patterns
        letters = list(text)
        for start, end in (match.span() for pattern in not_words for match in pattern.finditer(text)):
            letters[start:end] = MASK * (end - start)
        text = "".join(letters)
        found = sorted((match.span() for word in words for match in word.finditer(text)), key=lambda s: (s[0], -s[1]))
        spans: list[tuple[int, int]] = []
        for start, end in found:
            if not spans or start >= spans[-1][1]:
                spans.append((start, end))
        return list(dict.fromkeys(text[start:end] for start, end in spans))


@dataclass(frozen=True)
class Policy:
    """A policy file as read.

    Attributes:
        path: of the file.
        tags: by name, in the order of the file.
        slices: words of each kind of picture for which errors are counted apart, by name.
    """

    path: str
    tags: dict[str, Tag]
    slices: dict[str, tuple[str, ...]]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 (hex) of what the policy means: comments, layout, the order of tags and words do not change it."""
        tags = {
            tag.name: {
                "means": tag.means,
                "words": sorted(set(tag.words)),
                "not_words": sorted(set(tag.not_words)),
                "target": {tag.target.kind: tag.target.value},
                "scorer": tag.scorer,
            }
            for tag in self.tags.values()
        }
        slices = {name: sorted(set(words)) for name, words in self.slices.items()}
        return hashlib.sha256(json.dumps({"tags": tags, "slices": slices}, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _slice_patterns(self) -> dict[str, re.Pattern]:
        return {name: any_of(words) for name, words in self.slices.items()}

    def labels_from_captions(self, captions: Sequence[str]) -> dict[str, bool | None]:
        """Return for each tag whether the captions of one picture say that it is true.

        Args:
            captions: all captions of the picture.

        Returns:
            True where at least two captions name the tag, False where none does, None (leave the picture out) where
            exactly one does: people leave out much that is there, so that one alone tells neither.
        """
        labels = {}
        for tag in self.tags.values():
            count = sum(bool(tag.words_in(caption)) for caption in captions)
            labels[tag.name] = True if count >= POSITIVE_CAPTIONS else None if count else False
        return labels

    def words_in(self, caption: str) -> dict[str, list[str]]:
        """Return for each tag the words of a caption that name it (none: an empty list), as evidence for a person."""
        return {tag.name: tag.words_in(caption) for tag in self.tags.values()}

    def slices_in(self, captions: Iterable[str]) -> list[str]:
        """Return the slices that one of the captions names, in the order of the file."""
        texts = [plain(caption) for caption in captions]
        return [name for name, words in self._slice_patterns.items() if any(words.search(text) for text in texts)]


def plain(caption: str) -> str:
    """Return a caption as words are looked for in it: in lower case, with single spaces."""
    return " ".join(caption.lower().split())


def any_of(expressions: Iterable[str]) -> re.Pattern:
    """Compile the search for any of several words or regular expressions."""
    return whole_words("|".join(f"(?:{expression})" for expression in expressions))


def whole_words(expression: str) -> re.Pattern:
    """Compile a word or regular expression of a policy: whole words, upper and lower case alike.

    A letter of a script without spaces ends the word before it, and begins one.
    """
    start, end = rf"(?:(?<!\w)|(?<={LETTER})|(?={LETTER}))", rf"(?:(?!\w)|(?={LETTER})|(?<={LETTER}))"
    return re.compile(f"{start}(?:{expression}){end}", re.IGNORECASE)


def read_policy(path: str | os.PathLike) -> Policy:
    """Read a policy file.

    Raises:
        ConfigError: one line with the file and, where there is one, the line: no such file, no YAML, an unknown or
            repeated key, a tag about people, no words, a regular expression that is none, another action than review.
    """
    top = Place(str(path), "policy", read_yaml(path))
    entries = top.mapping(_POLICY_KEYS, needed=("tags",))
    tags = entries["tags"].mapping()
    if not tags:
        raise entries["tags"].error("no tag", fix="add one; configs/policy/example.yaml has some")
    slices = entries["slices"].mapping() if "slices" in entries else {}
    return Policy(
        Path(path).as_posix(),
        {name: _tag(name, place) for name, place in tags.items()},
        {_checked_name(name, place): _expressions(place) for name, place in slices.items()},
    )


def _tag(name: str, place: Place) -> Tag:
    entries = place.mapping(_TAG_KEYS, needed=("means", "words", "target", "action"))
    _refuse_people(name, place)
    words = _expressions(entries["words"])
    for word in items(entries["words"]):
        _refuse_words_for_people(word)
    action = string(entries["action"])
    if action != "review":
        fix = "a tag puts a picture before a person; it removes nothing"
        raise entries["action"].error(got=action, wanted="review", fix=fix)
    scorer = string(entries["scorer"]) if "scorer" in entries else None
    if scorer is not None and scorer not in SCORERS:
        raise entries["scorer"].error(got=scorer, wanted=", ".join(SCORERS), fix="leave it out for a trained tagger")
    not_words = _expressions(entries["not_words"]) if "not_words" in entries else ()
    return Tag(name, string(entries["means"]), words, not_words, _target(entries["target"]), scorer)


def _checked_name(name: str, place: Place) -> str:
    if not _NAME.fullmatch(name):
        wanted = "a lower-case letter, then up to 39 of a-z, 0-9 and _"
        raise place.error("a name that cannot be used", wanted=wanted)
    return name


def _refuse_people(name: str, place: Place) -> None:
    parts = _checked_name(name, place).split("_")
    if name in _VERDICTS or {"sfw", "nsfw"} & set(parts):
        raise place.error("no tag is a verdict", fix="name what the picture shows, such as smoking or weapon")
    if parts[-1] in _PEOPLE or set(parts) & set(_TRAITS):
        raise place.error("people are never a tag", fix="name what the picture shows or what is done in it, not who")


def _refuse_words_for_people(place: Place) -> None:
    pattern = whole_words(string(place))
    person = next((text for text in (*_TRAITS, *_PEOPLE) if pattern.fullmatch(text)), None)
    if person is not None:
        reason = f"it is true of {person!r} alone, and people are never a tag"
        raise place.error(reason, got=string(place), fix="add what is done, as in `(man|woman) smoking`")


def _expressions(place: Place) -> tuple[str, ...]:
    return tuple(_expression(item) for item in items(place))


def _expression(place: Place) -> str:
    word = string(place)
    try:
        re.compile(word)
        matches_nothing = whole_words(word).search("") is not None
    except (re.error, RecursionError, OverflowError) as error:
        raise place.error(f"no regular expression ({error})", got=word, fix="put \\ before . ( ) [ ] * + ?") from None
    if matches_nothing:
        raise place.error("it matches an empty text", got=word, fix="replace * by +")
    if _REFERENCE.search(word):
        raise place.error("named groups and references to groups are not known here", got=word)
    return word


def _target(place: Place) -> Target:
    entries = place.mapping(KINDS)
    if len(entries) != 1:
        raise place.error(f"{len(entries)} targets", wanted=f"one of {', '.join(KINDS)}, as in {{precision: 0.9}}")
    ((kind, value),) = entries.items()
    try:
        return Target(kind, share(string(value)))
    except ValueError as error:
        raise value.error(str(error)) from None


def share(text: str) -> float:
    """Read a share, "0.05" or "5%". Raises ValueError unless it is above 0 and below 1."""
    digits = re.fullmatch(r"\s*(\d*\.?\d+|\d+\.)\s*(%?)\s*", text)
    value = (float(digits[1]) / 100 if digits[2] else float(digits[1])) if digits else 0.0
    if not 0 < value < 1:
        raise ValueError(f"{shown(text)}; wanted a share above 0 and below 1, such as 0.9 or 5%")
    return round(value, 12)  # 5% and 0.05 are the same number
