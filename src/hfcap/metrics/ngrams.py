"""N-grams of reference and candidate captions as arrays of integers, shared by BLEU and CIDEr.

A word is a number; an n-gram is the pair (its first n-1 words as a number, its last word), numbered in turn. So an
n-gram never exists as a tuple of strings, and counting is sorting.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_ORDER = 4
_BETWEEN = "\0"  # the tokenizer deletes control characters


@dataclass(frozen=True)
class Counts:
    """How often each n-gram of one order stands in each caption: one entry a pair, sorted by caption, then n-gram."""

    caption: np.ndarray  # (E,) int64
    ngram: np.ndarray  # (E,) int64
    count: np.ndarray  # (E,) int64
    num_ngrams: int  # n-gram numbers are below this


@dataclass(frozen=True)
class ReferenceCounts:
    """The same for references, sorted by image, then n-gram, then caption: captions of an image stand side by side."""

    caption: np.ndarray  # (E,) int64
    ngram: np.ndarray  # (E,) int64
    count: np.ndarray  # (E,) int64
    pair: np.ndarray  # (E,) int64, ascending: `pairs_of` image and n-gram
    first: np.ndarray  # (P,) int64, where a run of equal pairs begins
    num_ngrams: int

    def pairs_of(self, image: np.ndarray, ngram: np.ndarray) -> np.ndarray:
        """Pack an image and an n-gram below `num_ngrams` into one number, (...,) int64."""
        return image << self.num_ngrams.bit_length() | ngram


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
        references: one list of tokenized captions per image.
        vocabulary: n-grams to be numbered as well, though no reference may hold them.

    Attributes:
        num_images: number of images.
        num_references: (N,) int64, reference captions of each image.
        image: (R,) int64, the image of each reference caption.
        lengths: (R,) int64, words in each reference caption.
        orders: for orders 1 to 4, the `ReferenceCounts`.
        vocabulary_numbers: for orders 1 to 4, the number here of each n-gram of `vocabulary`.
    """

    def __init__(self, references: Sequence[Sequence[str]], vocabulary: Vocabulary | None = None):
        vocabulary = vocabulary or Vocabulary([], [np.empty(0, np.int64)] * 3, [np.empty(0, np.int64)] * 3)
        self.num_images = len(references)
        self.num_references = np.array([len(captions) for captions in references], dtype=np.int64)
        self.image = np.repeat(np.arange(self.num_images), self.num_references)
        self.words = _Numbering({word: number for number, word in enumerate(vocabulary.words or [_BETWEEN])})
        captions = [caption for captions in references for caption in captions]
        words, self.lengths = _number_words(captions, self.words)
        self._tables: list[np.ndarray] = []  # for orders 2 to 4, the sorted pairs; a pair's place is its n-gram number
        self.vocabulary_numbers = [np.arange(len(vocabulary.words))]
        caption = np.repeat(np.arange(len(captions)), self.lengths)
        start, ngram = np.arange(len(words)), words
        self.orders = [self._count(caption, ngram, len(self.words))]
        for order in range(2, MAX_ORDER + 1):
            start, ngram, word = _extend(caption, start, ngram, words, order)
            known_prefix = self.vocabulary_numbers[-1][vocabulary.prefixes[order - 2]]
            known = known_prefix * len(self.words) + vocabulary.last_words[order - 2]
            table, number = np.unique(np.concatenate([known, ngram * len(self.words) + word]), return_inverse=True)
            self._tables.append(table)
            self.vocabulary_numbers.append(number[: len(known)])
            ngram = number[len(known) :]
            self.orders.append(self._count(caption[start], ngram, len(table)))

    def _count(self, caption: np.ndarray, ngram: np.ndarray, num_ngrams: int) -> ReferenceCounts:
        # Image, n-gram and place of the caption within its image share one number: one sort orders by all three, and
        # shifts take it apart again much faster than divisions would.
        ngram_bits, place_bits = num_ngrams.bit_length(), int(self.num_references.max(initial=1)).bit_length()
        first_caption = np.cumsum(self.num_references) - self.num_references
        image = self.image[caption]
        entries = np.sort((image << ngram_bits | ngram) << place_bits | caption - first_caption[image])
        begins = _run_starts(entries)
        count = np.diff(begins, append=len(entries))
        entries = entries[begins]
        pair = entries >> place_bits
        caption = first_caption[pair >> ngram_bits] + (entries & (1 << place_bits) - 1)
        ngram = pair & (1 << ngram_bits) - 1
        return ReferenceCounts(caption, ngram, count, pair, _run_starts(pair), num_ngrams)

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


class _Numbering(dict[str, int]):
    """Numbers words in the order in which it is asked for them."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number


def _number_words(
    captions: Sequence[str], known: _Numbering, unknown: dict[str, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Give each word of all captions a number, in one row.

    Args:
        captions: C tokenized captions.
        known: numbers of words; it takes new words where there is no `unknown`.
        unknown: takes the words that `known` lacks, so that an index in use does not grow.

    Returns:
        (T,) int64 word numbers and (C,) int64 lengths.
    """
    # Split at any white space as the original does: a token with a no-break space inside counts as two words here.
    # One string for all captions and a word that no caption can hold between them: a list a caption costs more time.
    flat = f" {_BETWEEN} ".join([*captions, ""]).split()
    if unknown is None:
        numbers = np.fromiter(map(known.__getitem__, flat), dtype=np.int64, count=len(flat))
    else:
        found = list(map(known.get, flat))
        if None in found:
            found = [
                len(known) + unknown.setdefault(word, len(unknown)) if number is None else number
                for word, number in zip(flat, found, strict=True)
            ]
        numbers = np.array(found, dtype=np.int64)
    is_word = numbers != known[_BETWEEN]
    ends = np.flatnonzero(~is_word)
    return numbers[is_word], np.diff(ends, prepend=-1) - 1


def _extend(
    caption: np.ndarray, start: np.ndarray, ngram: np.ndarray, words: np.ndarray, order: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keep the n-grams of the order below that the caption goes on after: (start, n-gram, next word)."""
    last = start + order - 1
    inside = last < len(words)
    inside[inside] = caption[last[inside]] == caption[start[inside]]
    return start[inside], ngram[inside], words[last[inside]]


def _count(caption: np.ndarray, ngram: np.ndarray, num_ngrams: int) -> Counts:
    bits = num_ngrams.bit_length()
    pairs = np.sort(caption << bits | ngram)
    begins = _run_starts(pairs)
    count = np.diff(begins, append=len(pairs))
    pairs = pairs[begins]
    return Counts(pairs >> bits, pairs & (1 << bits) - 1, count, num_ngrams)


def _run_starts(ascending: np.ndarray) -> np.ndarray:
    """Give the places where a run of equal numbers begins; np.unique would hash them, which is slower."""
    return np.flatnonzero(np.diff(ascending, prepend=-1))
