"""Invented things: nouns of a caption that no reference supports, without a list of objects.

The open counterpart of CHAIR (`hfcap.metrics.chair`; Rohrbach et al., EMNLP 2018, need a list of objects and their
synonyms). Nouns are found by TextBlob's part-of-speech tagger, and what they can name by WordNet
(`hfcap.metrics.wordnet_nouns`). A noun is supported if a reference has the same word, a synonym, or a noun that is
more special ("dog" by "a puppy") or more general ("puppy" by "a dog"). All persons count as one thing: who they are is
the subject of other measures. `invented_i` is the share of unsupported nouns among all of them, `invented_s` the share
of captions that have one. Lower is better.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hfcap.errors import ConfigError

from .chair import combine_shares
from .meteor_jar import find_jar
from .metric import Inputs, Metric, warn_unless_english
from .wordnet_nouns import Nouns

_LONGEST_COMPOUND = 3  # words: "portable computer", "flat panel display"
# Nouns for several persons that WordNet has among groups, or as a plural alone.
_GROUPS_OF_PEOPLE = {"audience", "band", "class", "couple", "crew", "crowd", "family", "group", "people", "team"}


class Evidence(NamedTuple):
    """Synsets that references name, and those with all that is more general."""

    things: frozenset[str]
    general: frozenset[str]


class Things:
    """What captions name.

    Args:
        nouns: the hierarchy of WordNet.
    """

    def __init__(self, nouns: Nouns):
        self.nouns = nouns
        self.named = lru_cache(maxsize=2**16)(self._named)

    def _named(self, caption: str) -> tuple[tuple[str, frozenset[str]], ...]:
        """Give the things that a tokenized caption in lower case names, each with the synsets it can stand for."""
        words = tag(caption)
        found, place = [], 0
        while place < len(words):
            length = self._length_of_noun(words, place)
            if length and not _is_verb_after_noun(words, place):
                noun = words[place : place + length]
                bases = [base for base in self._bases(noun) if self.nouns.is_thing(base)]
                if bases:
                    name = " ".join(word for word, _ in noun)
                    found.append((name, frozenset().union(*map(self.nouns.things, bases))))
            place += max(length, 1)
        return tuple(found)

    def _length_of_noun(self, words: list[tuple[str, str]], place: int) -> int:
        """Count the words of the noun that begins here: of a compound in WordNet all, of a word before a noun none."""
        for length in range(min(_LONGEST_COMPOUND, len(words) - place), 1, -1):
            compound = words[place : place + length]
            if _is_noun(compound[-1]) and any(map(self.nouns.is_noun, self._bases(compound))):
                return length
        is_modifier = place + 1 < len(words) and words[place + 1][1] == "NN"
        return int(_is_noun(words[place]) and not is_modifier)

    def _bases(self, noun: list[tuple[str, str]]) -> list[str]:
        """Give the base forms of a noun, as WordNet writes them; a singular is one ("building" is no "build")."""
        *first, (last, tag_of_last) = noun
        forms = self.nouns.wordnet.base_forms(last) if tag_of_last.endswith("S") else [last]
        return ["_".join([*(word for word, _ in first), form]) for form in forms]

    def evidence(self, references: Sequence[str]) -> Evidence:
        """Give what tokenized references in lower case show of a picture."""
        words = {base for text in references for word in text.split() for base in self.nouns.wordnet.base_forms(word)}
        there = {one for word in words for one in self.nouns.things(word)}
        there.update(one for text in references for _, meanings in self.named(text) for one in meanings)
        if words & _GROUPS_OF_PEOPLE:
            there.add(self.nouns.person)
        return Evidence(frozenset(there), frozenset(there.union(*map(self.nouns.ancestors, there))))

    def unsupported(self, caption: str, evidence: Evidence) -> list[str]:
        """Give the nouns of a tokenized caption in lower case that nothing supports, one per mention."""
        return [name for name, meanings in self.named(caption) if not self._is_supported(meanings, evidence)]

    def _is_supported(self, meanings: frozenset[str], evidence: Evidence) -> bool:
        is_special = any(self.nouns.ancestors(one) & evidence.things for one in meanings)
        return is_special or bool(meanings & evidence.general)


def tag(caption: str) -> list[tuple[str, str]]:
    """Give the words of a tokenized caption with their Penn Treebank tags."""
    from textblob.en import tag as tag_words

    return tag_words(caption, tokenize=False) if caption.strip() else []


def _is_noun(word: tuple[str, str]) -> bool:
    return word[1] in ("NN", "NNS", "NNP", "NNPS")


def _is_verb_after_noun(words: list[tuple[str, str]], place: int) -> bool:
    """Whether the tagger took "swings" in "a child swings" for a plural."""
    return place > 0 and words[place][1] == "NNS" and words[place - 1][1] == "NN"


@lru_cache(maxsize=1)
def load_things(jar: Path) -> Things:
    """Load WordNet from the jar of `hfcap.metrics.meteor_jar.find_jar`."""
    return Things(Nouns(jar))


def _statistics(inputs: Inputs) -> np.ndarray:
    """(N, 3): whether a caption invents a thing, its unsupported nouns, all its nouns."""
    things, corpus = load_things(find_jar()), inputs.corpus
    warn_unless_english("invented", corpus.references)
    rows = []
    for caption, references in zip(corpus.candidates, corpus.references, strict=True):
        unsupported = len(things.unsupported(caption, things.evidence(references)))
        rows.append((unsupported > 0, unsupported, len(things.named(caption))))
    return np.array(rows, dtype=np.float64)


def check_invented(tokenizer: str) -> None:
    """Check that nouns can be found here.

    Raises:
        ConfigError: captions that are not split as English, or WordNet or the tagger is missing.
    """
    if tokenizer != "ptb":
        raise ConfigError(
            "invented is for English only", option="tokenizer", got=tokenizer, wanted="ptb", fix="remove invented"
        )
    find_jar("invented")
    try:
        import textblob.en  # noqa: F401
    except ImportError:
        raise ConfigError(
            "the tagger of TextBlob is missing", option="invented", fix='pip install "hfcap[meteor]"'
        ) from None


INVENTED = Metric(
    key="invented",
    names={"invented_s": "invented-s", "invented_i": "invented-i"},
    statistics=_statistics,
    combine=combine_shares,
    greater_is_better=False,
    require=lambda options: check_invented(options.tokenizer),
)
