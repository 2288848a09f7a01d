"""METEOR's paraphrase table: compiled once into a memory-mapped file, and looked up for a whole corpus at once."""

import gzip
import logging
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from io import BytesIO
from pathlib import Path

import numpy as np

from hfcap.atomic_files import write_atomic
from hfcap.cache_folder import cache_folder
from hfcap.content_hashes import file_sha256

logger = logging.getLogger(__name__)

LONGEST_PHRASE = 7  # words, in the English table
_FACTOR = 0x9E3779B97F4A7C15  # odd, so that no bits are lost modulo 2^64
_MASK = (1 << 64) - 1


@cache
def _hash_word(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")


def _hash_phrase(phrase: str) -> int:
    """Hash a phrase word by word, so that those of all n-grams of a corpus follow from those of its words."""
    value = 0
    for word in phrase.split():
        value = (value * _FACTOR + _hash_word(word)) & _MASK
    return value


def load_table(source: Path) -> np.ndarray:
    """Open the compiled table of a `paraphrase-en.gz`, after compiling it if that has not been done (a minute, once).

    Args:
        source: lines in threes: a probability, a phrase, its paraphrase.

    Returns:
        (2, P) uint64, memory-mapped: hashes of phrases, ascending, and of their paraphrases. A compiled file that is
        damaged is made again; where none can be written, the table is in memory, and a line says so.
    """
    target = cache_folder() / "meteor" / f"{source.name.split('.')[0]}-{file_sha256(source)[:16]}.npy"
    found = _open_table(target)
    if found is not None:
        return found
    table, buffer = _compile_table(source), BytesIO()
    np.save(buffer, table)
    try:
        write_atomic(target, buffer.getbuffer(), sync=False)
    except OSError as error:
        logger.warning("METEOR's paraphrases are compiled each time, as %s: %s", target.parent, error.strerror)
    return table


def _open_table(path: Path) -> np.ndarray | None:
    """Open a compiled table; None where there is none, or a damaged one."""
    try:
        table = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    # A file of zeros is what a power cut may leave.
    is_table = table.dtype == np.uint64 and table.ndim == 2 and len(table) == 2 and table.shape[1] > 0
    return table if is_table and 0 < table[0, 0] < table[0, -1] else None


def _compile_table(source: Path) -> np.ndarray:
    with gzip.open(source, "rt", encoding="utf-8", newline="\n") as lines:
        hashes = np.fromiter((_hash_phrase(line) for number, line in enumerate(lines) if number % 3), dtype=np.uint64)
    pairs = hashes.reshape(-1, 2)
    return np.ascontiguousarray(pairs[np.argsort(pairs[:, 0], kind="stable")].T)


class Paraphrases:
    """The paraphrases among the n-grams of some captions.

    Args:
        table: as `load_table` gives it.
        captions: C lists of words.

    Attributes:
        phrases: for each caption, its n-grams that have paraphrases in other captions: {hash: [(start, length)]}.
        partners: for each such hash, those of its paraphrases, with the number of rows of the table (in both
            directions) that say so.
    """

    def __init__(self, table: np.ndarray, captions: Sequence[Sequence[str]]):
        caption, start, length, ngram = _ngrams(captions)
        known = np.unique(ngram)
        first, last = (np.searchsorted(table[0], known, side) for side in ("left", "right"))
        counts = last - first
        rows = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        phrase, paraphrase = np.repeat(known, counts), np.asarray(table[1][rows])
        place = np.minimum(np.searchsorted(known, paraphrase), len(known) - 1)
        both = known[place] == paraphrase
        self.partners: dict[int, dict[int, int]] = defaultdict(dict)
        for one, other in zip(phrase[both].tolist(), paraphrase[both].tolist(), strict=True):
            self.partners[one][other] = self.partners[one].get(other, 0) + 1
            self.partners[other][one] = self.partners[other].get(one, 0) + 1
        self.phrases: list[dict[int, list[tuple[int, int]]]] = [{} for _ in captions]
        used = np.isin(ngram, np.fromiter(self.partners, np.uint64, len(self.partners)))
        columns = (column[used].tolist() for column in (caption, ngram, start, length))
        for number, value, begin, words in zip(*columns, strict=True):
            self.phrases[number].setdefault(value, []).append((begin, words))


def _ngrams(captions: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Give caption, start, length and hash of all n-grams of up to `LONGEST_PHRASE` words."""
    lengths = np.array([len(words) for words in captions])
    caption = np.repeat(np.arange(len(captions)), lengths)
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    left = np.repeat(lengths, lengths) - place
    word = np.fromiter((_hash_word(word) for words in captions for word in words), np.uint64, len(caption))
    value, found = np.zeros_like(word), []
    for length in range(1, LONGEST_PHRASE + 1):
        fits = left >= length
        begin = np.flatnonzero(fits)
        value[begin] = value[begin] * np.uint64(_FACTOR) + word[begin + length - 1]
        found.append((caption[begin], place[begin], np.full(len(begin), length), value[begin]))
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))
