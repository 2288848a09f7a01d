"""Tokenized candidates and references, checked once and shared by the metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from .ngrams import CandidateCounts, NgramIndex
from .tokenizers import split_captions


@dataclass(frozen=True)
class Corpus:
    """N tokenized candidates and the tokenized references of each; n-grams are counted when first asked for."""

    candidates: list[str]
    references: list[list[str]]

    @cached_property
    def index(self) -> NgramIndex:
        """The n-grams of the references."""
        return NgramIndex(self.references)

    @cached_property
    def candidate_counts(self) -> CandidateCounts:
        """The n-grams of the candidates."""
        return self.index.count(self.candidates)

    def __len__(self) -> int:
        return len(self.candidates)


def build_corpus(predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "ptb") -> Corpus:
    """Check and tokenize captions.

    Args:
        predictions: one caption per image.
        references: for each image, its reference captions: one or more.
        tokenizer: see `split_captions`.

    Returns:
        The tokenized captions.

    Raises:
        ValueError: no images, differing lengths, an image without references, or an unknown tokenizer.
        TypeError: something that is not a string where a caption is wanted.
    """
    if len(predictions) != len(references):
        raise ValueError(
            f"got {len(predictions)} predictions and references for {len(references)} images; pass one prediction and "
            "one list of references per image, in the same order"
        )
    if not len(predictions):
        raise ValueError("got 0 predictions; the metrics need at least one image")
    for index, (prediction, captions) in enumerate(zip(predictions, references, strict=True)):
        if not isinstance(prediction, str):
            raise TypeError(f"prediction {index} is {type(prediction).__name__}, wanted str (one caption per image)")
        check_references(index, captions)
    flat = split_captions([caption for captions in references for caption in captions], tokenizer)
    tokenized, position = [], 0
    for captions in references:
        tokenized.append(flat[position : position + len(captions)])
        position += len(captions)
    return Corpus(split_captions(predictions, tokenizer), tokenized)


def check_references(image: int | str, captions: Sequence[str]) -> None:
    """Refuse references that are not a list of one or more strings.

    Args:
        image: number or id of the image, for the message.
        captions: its references.

    Raises:
        ValueError: no reference.
        TypeError: one string instead of a list, or something that is not a string.
    """
    if isinstance(captions, str):
        raise TypeError(f"references of image {image} are one str, wanted a list of str: wrap it in [...]")
    if not len(captions):
        raise ValueError(f"image {image} has 0 references; pass at least one, or remove the image")
    for caption in captions:
        if not isinstance(caption, str):
            raise TypeError(f"a reference of image {image} is {type(caption).__name__}, wanted str")
