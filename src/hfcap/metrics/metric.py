"""`Metric`, the description of one caption metric, with what it is computed from (`Inputs`, `Options`) and gives."""

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from hfcap.function_words import looks_english

from .corpus import Corpus, build_corpus
from .idf import DocumentFrequencies

CLIP_MODEL = "openai/clip-vit-base-patch32"  # the one of the CLIPScore paper


@dataclass(frozen=True)
class Options:
    """Settings of the metrics; each metric reads those that concern it.

    Attributes:
        tokenizer: "ptb", or for other languages "intl", "zh" or "char"; see `hfcap.metrics.tokenizers`.
        reference_length: BLEU's: "closest", "shortest" or "average"; see `bleu_statistics`.
        idf: document frequencies for CIDEr, or a file of them; None takes them from the references.
        clip_model: folder or Hub id of the CLIP model of CLIPScore.
        meteor: what aligns captions for METEOR: "python", or for checking the original "jar", which needs Java.
        chair_synonyms: file of the words for each object of CHAIR; see `hfcap.metrics.chair`.
        objects: for CHAIR, the objects annotated in each of the N images; None where the references alone say it.
    """

    tokenizer: str = "ptb"
    reference_length: str = "closest"
    idf: DocumentFrequencies | str | os.PathLike | None = None
    clip_model: str = CLIP_MODEL
    meteor: str = "python"
    chair_synonyms: str | os.PathLike | None = None
    objects: Sequence[Iterable[str]] | None = None

    @cached_property
    def frequencies(self) -> DocumentFrequencies | None:
        """The document frequencies themselves. Raises ValueError where they are of another tokenizer."""
        loaded = self.idf
        if loaded is not None and not isinstance(loaded, DocumentFrequencies):
            loaded = DocumentFrequencies.load(loaded)
        if loaded is not None:
            loaded.check_tokenizer(self.tokenizer)
        return loaded


@dataclass(frozen=True)
class Inputs:
    """Captions of N images as they were written, and what they are compared with; tokenized when first asked for.

    Attributes:
        predictions: N captions.
        references: of each image.
        options: settings of the metrics.
        images: N pictures, anything `hfcap.data.pictures.load_picture` takes, or None; may be read several times.
    """

    predictions: Sequence[str]
    references: Sequence[Sequence[str]]
    options: Options = field(default_factory=Options)
    images: Iterable | None = None

    @cached_property
    def corpus(self) -> Corpus:
        """The tokenized captions. Raises ValueError and TypeError as `build_corpus` does."""
        return build_corpus(self.predictions, self.references, self.options.tokenizer)


def warn_unless_english(name: str, references: Iterable[Sequence[str]]) -> None:
    """Warn that a metric for English says little of captions whose references do not look like it."""
    if not looks_english(text for texts in references for text in texts):
        warnings.warn(
            f"{name} knows the words of English only, and the references do not look like English: its figures say "
            f"little. Leave {name} out",
            UserWarning,
            stacklevel=2,
        )


def mean(sums: np.ndarray, num_images: int) -> np.ndarray:
    """Combine statistics that are the values of single images."""
    return sums / num_images


@dataclass(frozen=True)
class Metric:
    """One caption metric. A new one is a file with such an object, and its name in `hfcap.metrics.choice.METRICS`.

    Attributes:
        key: what people type to choose it.
        names: display name of each of its K values, by the key that results have.
        statistics: (N, S) float64 from the inputs: what is summed over images before the corpus is scored.
        combine: sums (..., S) of some images, and their number, to values (..., K). Of one image it gives that
            image's values; of all, those of the corpus.
        needs: what it compares captions with.
        maximum: largest value.
        greater_is_better: False where a lower value is the better one.
        scale: factor where people read a value; one other than 100 must be in `names` too, as tables are headed x 100.
        require: raises ConfigError or ValueError where these options, or this machine, do not suffice for it.
        record: what `metrics.json` keeps of what its values rest on.
    """

    key: str
    names: Mapping[str, str]
    statistics: Callable[[Inputs], np.ndarray]
    combine: Callable[[np.ndarray, int], np.ndarray] = mean
    needs: tuple[Literal["references", "images"], ...] = ("references",)
    maximum: float = 1.0
    greater_is_better: bool = True
    scale: float = 100.0
    require: Callable[[Options], Any] = lambda options: None
    record: Callable[[Options], dict[str, Any]] = lambda options: {}


@dataclass(frozen=True)
class Scores:
    """What one metric says of N images, in a form from which any weighting of the images can be scored again.

    Attributes:
        metric: the metric, with K values.
        statistics: (N, S) float64, to be summed over images.
    """

    metric: Metric
    statistics: np.ndarray

    @property
    def keys(self) -> tuple[str, ...]:
        """The K keys of the values."""
        return tuple(self.metric.names)

    @property
    def per_image(self) -> np.ndarray:
        """(N, K) float64, the values of each image alone."""
        return self.metric.combine(self.statistics, 1)

    @property
    def values(self) -> np.ndarray:
        """(K,) float64, the corpus values."""
        return self.metric.combine(self.statistics.sum(axis=0), len(self.statistics))
