"""N-grams of reference and candidate captions as arrays of integers, shared by BLEU and CIDEr.

A word is a number; an n-gram is the pair (its first n-1 words as a number, its last word), numbered in turn. So an
n-gram never exists as a tuple of strings, and counting is sorting.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_ORDER = 4


@dataclass(frozen=True)
class Counts:
    """How often each n-gram of one order stands in each caption: one entry a pair, sorted by caption, then n-gram."""

    caption: np.ndarray  # (E,) int64
    ngram: np.ndarray  # (E,) int64
    count: np.ndarray  # (E,) int64
    num_ngrams: int  # n-gram numbers are below this


@dataclass(frozen=True)
class CandidateCounts:
    """The n-grams of C candidates, numbered as in the `NgramIndex` that counted them."""

    orders: list[Counts]  # orders 1 to 4; numbers from the index's `num_ngrams` upwards are unknown to it
    lengths: np.ndarray  # (C,) int64, in words


@dataclass(frozen=True)
class Vocabulary:
    """The n-grams of some captions without the captions: what a file of document frequencies holds."""

    words: list[str]
    prefixes: list[np.ndarray]  # orders 2 to 4, int64: number of the first n-1 words in the order below
    last_words: list[np.ndarray]  # orders 2 to 4, int64: number of the last word


class NgramIndex:
    """The n-grams of a fixed set of reference captions, against which candidates are counted.

    Args:
        references: one list of tokenized captions an image.
        vocabulary: n-grams to be numbered as well, though no reference may hold them.

    Attributes:
        num_images: number of images.
        num_references: (N,) int64, reference captions of each image.
        image: (R,) int64, the image of each reference caption.
        lengths: (R,) int64, words in each reference caption.
        orders: for orders 1 to 4, the `Counts` of the reference captions.
        vocabulary_numbers: for orders 1 to 4, the number here of each n-gram of `vocabulary`.
    """

    def __init__(self, references: Sequence[Sequence[str]], vocabulary: Vocabulary | None = None):
        vocabulary = vocabulary or Vocabulary([], [np.empty(0, np.int64)] * 3, [np.empty(0, np.int64)] * 3)
        self.num_images = len(references)
        self.num_references = np.array([len(captions) for captions in references], dtype=np.int64)
        self.image = np.repeat(np.arange(self.num_images), self.num_references)
        self.words = {word: number for number, word in enumerate(vocabulary.words)}
        captions = [caption for captions in references for caption in captions]
        words, self.lengths = _number_words(captions, self.words, self.words)
        self._tables: list[np.ndarray] = []  # for orders 2 to 4, the sorted pairs; a pair's place is its n-gram number
        self.vocabulary_numbers = [np.arange(len(vocabulary.words))]
        caption = np.repeat(np.arange(len(captions)), self.lengths)
        start, ngram = np.arange(len(words)), words
        self.orders = [_count(caption, ngram, len(self.words))]
        for order in range(2, MAX_ORDER + 1):
            start, ngram, word = _extend(caption, start, ngram, words, order)
            known_prefix = self.vocabulary_numbers[-1][vocabulary.prefixes[order - 2]]
            known = known_prefix * len(self.words) + vocabulary.last_words[order - 2]
            table, number = np.unique(np.concatenate([known, ngram * len(self.words) + word]), return_inverse=True)
            self._tables.append(table)
            self.vocabulary_numbers.append(number[: len(known)])
            ngram = number[len(known) :]
            self.orders.append(_count(caption[start], ngram, len(table)))

    @property
    def vocabulary(self) -> Vocabulary:
        """All n-grams numbered here."""
        pairs = [np.divmod(table, max(len(self.words), 1)) for table in self._tables]
        return Vocabulary(list(self.words), [prefix for prefix, _ in pairs], [word for _, word in pairs])

    def count(self, candidates: Sequence[str]) -> CandidateCounts:
        """Count the n-grams of C tokenized candidate captions. The index itself does not change."""
        unknown_words: dict[str, int] = {}
        words, lengths = _number_words(candidates, self.words, unknown_words)
        num_words = len(self.words) + len(unknown_words)
        caption = np.repeat(np.arange(len(candidates)), lengths)
        start, ngram = np.arange(len(words)), words
        orders = [_count(caption, ngram, num_words)]
        for order in range(2, MAX_ORDER + 1):
            start, ngram, word = _extend(caption, start, ngram, words, order)
            ngram = self._number_ngrams(order, ngram, word, num_words)
            orders.append(_count(caption[start], ngram, int(ngram.max(initial=-1)) + 1))
        return CandidateCounts(orders, lengths)

    def _number_ngrams(self, order: int, prefix: np.ndarray, word: np.ndarray, num_words: int) -> np.ndarray:
        table = self._tables[order - 2]
        may_be_known = (prefix < self.orders[order - 2].num_ngrams) & (word < len(self.words))
        pair = prefix * len(self.words) + word
        place = np.searchsorted(table, pair)
        known = may_be_known & (place < len(table))
        known[known] = table[place[known]] == pair[known]
        ngram = place
        _, fresh = np.unique((prefix * num_words + word)[~known], return_inverse=True)
        ngram[~known] = len(table) + fresh
        return ngram


def _number_words(
    captions: Sequence[str], known: dict[str, int], unknown: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Give each word of all captions a number, in one row; `unknown` (it may be `known`) takes new ones.

    Returns:
        (T,) int64 word numbers and (C,) int64 lengths.
    """
    # str.split without arguments as in the original: a token with a no-break space inside counts as two words here.
    split = [caption.split() for caption in captions]
    lengths = np.array([len(words) for words in split], dtype=np.int64)
    base = 0 if unknown is known else len(known)
    numbers = [known.get(word, -1) for words in split for word in words]
    if -1 in numbers:
        flat = (word for words in split for word in words)
        numbers = [
            base + unknown.setdefault(word, len(unknown)) if number < 0 else number
            for word, number in zip(flat, numbers, strict=True)
        ]
    return np.array(numbers, dtype=np.int64), lengths


def _extend(
    caption: np.ndarray, start: np.ndarray, ngram: np.ndarray, words: np.ndarray, order: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keep the n-grams of the order below that the caption goes on after: (start, n-gram, next word)."""
    last = start + order - 1
    inside = last < len(words)
    inside[inside] = caption[last[inside]] == caption[start[inside]]
    return start[inside], ngram[inside], words[last[inside]]


def _count(caption: np.ndarray, ngram: np.ndarray, num_ngrams: int) -> Counts:
    pair, count = np.unique(caption * max(num_ngrams, 1) + ngram, return_counts=True)
    return Counts(pair // max(num_ngrams, 1), pair % max(num_ngrams, 1), count, num_ngrams)
