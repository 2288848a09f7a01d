"""Document frequencies of n-grams, from references or a file: CIDEr needs them on small sets and as a reward."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from .corpus import check_references
from .ngrams import MAX_ORDER, NgramIndex, Vocabulary
from .tokenizers import split_captions

_FORMAT = 1


@dataclass(frozen=True)
class DocumentFrequencies:
    """In how many images' references each n-gram stands.

    Attributes:
        num_documents: images counted.
        vocabulary: the n-grams.
        counts: for orders 1 to 4, (number of n-grams,) int64: images whose references hold the n-gram.
        tokenizer: what split the references into words.
    """

    num_documents: int
    vocabulary: Vocabulary
    counts: list[np.ndarray]
    tokenizer: str = "ptb"

    def save(self, path: str | os.PathLike) -> None:
        """Write the frequencies to one compressed file, atomically.

        Args:
            path: file to write; ".npz" by custom, the name is used as given.
        """
        path = Path(path)
        arrays = {"format": _FORMAT, "num_documents": self.num_documents}
        arrays["tokenizer"] = np.frombuffer(self.tokenizer.encode(), dtype=np.uint8)
        arrays["words"] = np.frombuffer("\n".join(self.vocabulary.words).encode(), dtype=np.uint8)
        for order in range(1, MAX_ORDER + 1):
            arrays[f"counts_{order}"] = self.counts[order - 1].astype(np.int32)
            if order > 1:
                arrays[f"prefixes_{order}"] = self.vocabulary.prefixes[order - 2].astype(np.int32)
                arrays[f"last_words_{order}"] = self.vocabulary.last_words[order - 2].astype(np.int32)
        partial = path.with_name(path.name + ".partial")
        with open(partial, "wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "DocumentFrequencies":
        """Read a file written by `save`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a file of document frequencies, or of another format.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive)
            version, text = int(arrays["format"]), arrays["words"].tobytes().decode()
            # An earlier hfcap wrote none and knew "ptb" only.
            tokenizer = arrays["tokenizer"].tobytes().decode() if "tokenizer" in arrays else "ptb"
        except FileNotFoundError:
            raise
        except (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile) as error:
            raise ValueError(f"{path} is not a file of document frequencies; write one with `save`") from error
        if version != _FORMAT:
            raise ValueError(
                f"{path} has format {version}, wanted {_FORMAT}; write it again with this version of hfcap"
            )
        vocabulary = Vocabulary(
            text.split("\n") if text else [],
            [arrays[f"prefixes_{order}"].astype(np.int64) for order in range(2, MAX_ORDER + 1)],
            [arrays[f"last_words_{order}"].astype(np.int64) for order in range(2, MAX_ORDER + 1)],
        )
        counts = [arrays[f"counts_{order}"].astype(np.int64) for order in range(1, MAX_ORDER + 1)]
        return cls(int(arrays["num_documents"]), vocabulary, counts, tokenizer)

    def check_tokenizer(self, tokenizer: str) -> None:
        """Raise ValueError where captions are split by another tokenizer than these n-grams."""
        if tokenizer != self.tokenizer:
            raise ValueError(
                f"the document frequencies are of the tokenizer {self.tokenizer}, the captions are split by "
                f"{tokenizer}: choose the same for both"
            )


def document_counts(index: NgramIndex) -> list[np.ndarray]:
    """Count, for orders 1 to 4, the images whose references hold each n-gram: (number of n-grams,) int64 each."""
    # Several references of an image may hold an n-gram; it counts once.
    return [np.bincount(order.ngram[order.first], minlength=order.num_ngrams) for order in index.orders]


def document_frequencies(references: Sequence[Sequence[str]], tokenizer: str = "ptb") -> DocumentFrequencies:
    """Count document frequencies in raw reference captions.

    Args:
        references: for each image, its captions (not tokenized).
        tokenizer: see `hfcap.metrics.tokenizers`.

    Returns:
        The frequencies, to be saved or given to CIDEr.

    Raises:
        ValueError: no images, or an image without references.
        TypeError: a reference that is not a string.
    """
    if not len(references):
        raise ValueError("got references for 0 images; document frequencies need at least one")
    for image, captions in enumerate(references):
        check_references(image, captions)
    flat = split_captions([caption for captions in references for caption in captions], tokenizer)
    ends = np.cumsum([len(captions) for captions in references])
    index = NgramIndex([flat[end - len(captions) : end] for end, captions in zip(ends, references, strict=True)])
    return DocumentFrequencies(index.num_images, index.vocabulary, document_counts(index), tokenizer)
