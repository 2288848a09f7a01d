"""Words of METEOR: its normalization of captions, function words, stems and WordNet synonyms.

Written from the papers and from what the jar of pycocoevalcap answers to sentences of our own; the word lists are read
from that jar as data. Stems are those of Snowball's English stemmer as `snowballstemmer` 2.2 has it; release 3 changed
it ("evening", "added"), and differs from the jar.
"""

import re
import zipfile
from collections import defaultdict
from functools import cached_property
from pathlib import Path

_PLAIN = re.compile(r"[a-z0-9 ]*").fullmatch
_QUOTES = (
    ("``", '"'),
    ("''", '"'),
    ("`", "'"),
    ("‘", "'"),
    ("’", "'"),
    ("“", '"'),
    ("”", '"'),
    ("–", "-"),
    ("--", "-"),
)
_SYMBOL = re.compile(r"([^a-z0-9À-ÖØ-öø-ɏЀ-ӿ\s.',-])")  # letters of other scripts are words of their own
_HYPHEN = re.compile(r"([\w.])-(\w)")
_DOTS = re.compile(r"(\.{2,})")
_COMMA = re.compile(r"(?<!\d),|,(?!\d)")
_APOSTROPHE_INSIDE = re.compile(r"(?<=[^\W\d_])'(?=[^\W\d_])")
_APOSTROPHE_APART = re.compile(r"(?<!\d)'(?!(?<=[^\W\d_]')[^\W\d_])")
_ACRONYM = re.compile(r"(?:[^\W\d_]+\.){2,}").fullmatch
_KEEP_STOP = {"v.", "vs.", "rev."}  # the lower-case entries of its list of abbreviations
_KEEP_STOP_BEFORE_NUMBERS = {"pp."}

# WordNet's detachment of endings, in its order: nouns, verbs, adjectives.
_ENDINGS = (
    *(
        ("s", ""),
        ("ses", "s"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    *(("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    *(("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
)


def normalize(caption: str) -> list[str]:
    """Split a caption, tokenized as the Penn Treebank has it, into METEOR's words (its option `-norm`).

    Hyphenated words come apart, "dog 's" becomes "dog ' s", "does n't" "does n 't", "p.m." "pm", "1/2" "1 / 2".
    """
    caption = caption.lower()
    if _PLAIN(caption):
        return caption.split()
    for old, new in _QUOTES:
        caption = caption.replace(old, new)
    caption = _SYMBOL.sub(r" \1 ", caption)
    caption = _HYPHEN.sub(r"\1 \2", caption)
    caption = _DOTS.sub(r" \1 ", caption)
    caption = _COMMA.sub(" , ", caption)
    caption = _APOSTROPHE_APART.sub(" ' ", caption)
    caption = _APOSTROPHE_INSIDE.sub(" '", caption)
    words, result = caption.split(), []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        result += _without_stop(word, following)
    return result


def _without_stop(word: str, following: str) -> list[str]:
    """Take the full stop off a word, where it ends a sentence; an acronym loses all of its own."""
    if len(word) < 2 or not word.endswith(".") or word.endswith(".."):
        return [word]
    if _ACRONYM(word):
        return [word.replace(".", "")]
    inner = word[:-1]
    keep = (
        ("." in inner and any(map(str.isalpha, inner)))
        or following[:1].islower()
        or word in _KEEP_STOP
        or (word in _KEEP_STOP_BEFORE_NUMBERS and following[:1].isdigit())
    )
    return [word] if keep else [inner, "."]


class WordNet:
    """Synsets of words and their base forms, from the jar.

    Args:
        jar: `meteor-1.5.jar`.
    """

    def __init__(self, jar: Path):
        self._jar = jar

    def _pairs(self, name: str) -> dict[str, str]:
        with zipfile.ZipFile(self._jar) as archive:
            lines = archive.read(f"synonym/english.{name}").decode().splitlines()
        return dict(zip(lines[::2], lines[1::2], strict=True))

    @cached_property
    def synsets(self) -> dict[str, str]:
        """Ids of the synsets of each base form, separated by spaces."""
        return self._pairs("synsets")

    @cached_property
    def _irregular(self) -> dict[str, list[str]]:
        bases = defaultdict(list)
        for base, forms in self._pairs("exceptions").items():
            for form in forms.split():
                bases[form].append(base)
        return dict(bases)

    def base_forms(self, word: str) -> list[str]:
        """Give a word and its base forms: irregular ones, else the first that a detached ending leaves in WordNet."""
        if word in self._irregular:
            return [word, *self._irregular[word]]
        if len(word) > 2 and not word.endswith("ss"):
            for ending, instead in _ENDINGS:
                if word.endswith(ending) and (base := word.removesuffix(ending) + instead) in self.synsets:
                    return [word, base]
        return [word]

    def synset_ids(self, word: str) -> set[str]:
        """Give the ids of all synsets of a word in any of its base forms."""
        return {one for base in self.base_forms(word) for one in self.synsets.get(base, "").split()}


def read_function_words(jar: Path) -> frozenset[str]:
    """Read METEOR's English function words, which count less than others."""
    with zipfile.ZipFile(jar) as archive:
        return frozenset(archive.read("function/english.words").decode().split())
