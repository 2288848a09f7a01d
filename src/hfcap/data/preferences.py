"""Pairs of a chosen and a rejected caption: from columns, or references with one content word exchanged."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np

from hfcap.data.caption_dataset import Augmentation, draw
from hfcap.data.records import is_blank
from hfcap.data.rows import PAIRED
from hfcap.errors import ConfigError
from hfcap.function_words import FUNCTION_WORDS

CHOSEN, REJECTED = PAIRED
_SIGNS_AROUND = re.compile(r"^[\W_]+|[\W_]+$")  # of any script


class WordExchange:
    """Make a wrong caption of a right one: one content word gives way to a word from captions of other pictures.

    The new word stands between the same two words there, is a plural where the old one is, and is in no reference of
    the picture: "a red square on a table" may become "a blue square on a table". So a rejected caption is as fluent
    as a chosen one, and what tells them apart is in the picture. It may still be true: other pictures' captions may
    have a synonym that the references of this one lack. A caption none of whose words can be exchanged so is rejected
    for a whole caption of another picture.

    Words are what stands between spaces, compared without case and punctuation. `FUNCTION_WORDS` (English) stay.

    Args:
        captions: references of all pictures.

    Raises:
        ConfigError: all pictures have the same captions.
    """

    def __init__(self, captions: Sequence[Sequence[str]]):
        self.captions = sorted({text for own in captions for text in own})
        self.words: dict[tuple[str | None, str | None], Counter[str]] = {}
        for own in captions:
            for text in own:
                for word, around in _content_words(text):
                    self.words.setdefault(around, Counter())[word] += 1
        if all(set(own) == set(captions[0]) for own in captions):
            raise ConfigError(
                "all pictures have the same captions, so none is wrong for a picture",
                option="rejected",
                got="corrupted",
                fix="use more images, or a column of rejected captions",
            )

    def candidates(self, caption: str, references: Sequence[str]) -> dict[int, Mapping[str, int]]:
        """Return, for each place of a word that can be exchanged, the words to choose from with their counts there."""
        known = {_plain(word) for text in references for word in text.split()}
        found = {}
        for place, (word, around) in enumerate(_words(caption)):
            if _is_content(word):
                is_plural = _plain(word).endswith("s")
                others = {
                    other: count
                    for other, count in self.words.get(around, {}).items()
                    if _plain(other) not in known and _plain(other).endswith("s") == is_plural
                }
                found |= {place: others} if others else {}
        return found

    def __call__(self, caption: str, references: Sequence[str], chance: np.random.Generator) -> str:
        """Return a rejected caption for a picture.

        Args:
            caption: one of the picture's references.
            references: all of them.
            chance: draws the place, and the word in proportion to how often it stands there in other captions.
        """
        found = self.candidates(caption, references)
        if not found:
            return next(text for text in self._drawn(chance) if text not in references)
        place = chance.choice(sorted(found))
        others = sorted(found[place])
        counts = np.array([found[place][other] for other in others])
        words = caption.split()
        words[place] = str(chance.choice(others, p=counts / counts.sum()))
        return " ".join(words)

    def _drawn(self, chance: np.random.Generator) -> Iterator[str]:
        return (self.captions[index] for index in chance.permutation(len(self.captions)))


def _plain(word: str) -> str:
    return _SIGNS_AROUND.sub("", word).lower()


def _is_content(word: str) -> bool:
    return bool(_plain(word)) and _plain(word) not in FUNCTION_WORDS


def _words(caption: str) -> list[tuple[str, tuple[str | None, str | None]]]:
    """Words of a caption, each with the words before and behind it (None at its ends)."""
    words = caption.split()
    return list(zip(words, zip([None, *words[:-1]], [*words[1:], None], strict=True), strict=True))


def _content_words(caption: str) -> list[tuple[str, tuple[str | None, str | None]]]:
    return [(word, around) for word, around in _words(caption) if _is_content(word)]


@dataclass(frozen=True)
class Preferences(Augmentation):
    """`Augmentation` whose items have pairs of captions: a chosen one, then the one that is rejected for it.

    Pairs are those of the columns `chosen` (without it: `captions`) and `rejected`, texts or lists of equal length, or
    with `exchange` the references of the epoch, each with one that is made wrong by (seed, epoch, image_id).
    `references` counts pairs.
    """

    exchange: WordExchange | None = None

    def item(self, row: dict, epoch: int) -> dict:
        """Return `{image_id, captions}`, a rejected caption behind each chosen one, and the row's `prompt`, if any."""
        return super().item(row, epoch) | {"captions": [text for pair in self.pairs(row, epoch) for text in pair]}

    def pairs(self, row: dict, epoch: int) -> list[tuple[str, str]]:
        """Pairs of the epoch."""
        if self.exchange is None:
            pairs = list(zip(*texts_of_pairs(row), strict=True))
            numbered = self.captions(row | {"captions": range(len(pairs))}, epoch)
            return [pairs[number] for number in numbered]
        pairs = []
        for number, caption in enumerate(self.captions(row, epoch)):
            chance = draw(self.seed, epoch, row["image_id"], f"rejected {number}")
            pairs.append((caption, self.exchange(caption, row["captions"], chance)))
        return pairs


def texts_of_pairs(row: Mapping) -> tuple[list[str], list[str]]:
    """Chosen and rejected captions of a row."""
    chosen, rejected = row.get(CHOSEN, row["captions"]), row[REJECTED]
    return tuple(texts if isinstance(texts, list) else [texts] for texts in (chosen, rejected))


def has_pairs(rows: datasets.Dataset) -> bool:
    """Whether a split has a rejected caption at all: one that has its columns from another may have none in them."""

    def has_text(value: object) -> bool:
        if isinstance(value, list):
            return any(map(has_text, value))
        return not is_blank(value) if isinstance(value, str) else value is not None

    return REJECTED in rows.column_names and has_text(list(rows[REJECTED]))


def check_pairs(rows: datasets.Dataset) -> None:
    """Check the columns that `Preferences` reads pairs from.

    Raises:
        ConfigError: no column `rejected`; a row without a pair, or without a rejected caption for each chosen one; a
            value that is no text, or blank; a rejected caption that is the chosen one.
    """
    if REJECTED not in rows.column_names:
        raise ConfigError(
            f"no such column (there are {', '.join(rows.column_names)})",
            option=REJECTED,
            fix="add one, or pass --rejected corrupted to make rejected captions of the references",
        )
    columns = [name for name in (CHOSEN, REJECTED) if name in rows.column_names]
    for row in rows.select_columns(["image_id", "captions", *columns]):
        chosen, rejected = texts_of_pairs(row)
        where = f"image {row['image_id']}"
        if not chosen and not rejected:
            raise ConfigError(f"{where} has no pair", option=REJECTED, fix="add one, or remove this image")
        for name, texts in ((CHOSEN, chosen), (REJECTED, rejected)):
            for text in texts:
                if text is not None and not isinstance(text, str):
                    raise ConfigError(f"of {where}", option=name, got=text, wanted="a text, or a list of texts")
                if is_blank(text):
                    raise ConfigError(f"blank for {where}", option=name, got=text or "", fix="remove this pair")
        if len(chosen) != len(rejected):
            raise ConfigError(
                f"{where} has {len(rejected)} of them for {len(chosen)} chosen captions",
                option=REJECTED,
                fix="give each chosen caption one",
            )
        for text, other in zip(chosen, rejected, strict=True):
            if text == other:
                raise same_pair(row["image_id"], text)


def same_pair(image_id: str, caption: str, reason: str = "the chosen caption itself") -> ConfigError:
    """Error of a pair that prefers nothing."""
    return ConfigError(f"{reason}, for image {image_id}", option=REJECTED, got=caption, fix="remove this pair")
