"""Metrics of sets: several captions for each image, how varied they are, and how good the best of them is.

Self-CIDEr: Wang and Chan, "Describing like humans: on diversity in image captioning", CVPR 2019. mBLEU-4 and
distinct-n of sets: Shetty et al., "Speaking the same language: matching machine to human captions by adversarial
training", ICCV 2017. Each metric is a `Metric`, so that values per image, corpus values and bootstrap intervals come
as for single captions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .bleu import bleu_from_statistics, bleu_statistics
from .cider import CiderScorer
from .corpus import Corpus, check_references
from .diversity import distinct
from .idf import DocumentFrequencies, document_counts
from .metric import Metric, Options, Scores
from .ngrams import MAX_ORDER, NgramIndex, Vocabulary
from .tokenizers import split_captions

_MBLEU = f"mbleu_{MAX_ORDER}"


@dataclass(frozen=True)
class SetInputs:
    """Sets of captions of N images as they were written, and references; tokenized when first asked for.

    Attributes:
        sets: for each image, its captions: one or more, the first being the one that counts as such.
        references: for each image, what people wrote; None where no metric asked for compares captions with them.
        options: `tokenizer`, and `idf` for CIDEr: None takes the document frequencies of the references, or without
            references those of the sets themselves.

    Raises:
        ValueError: no images, an image without captions, or not as many references as images.
        TypeError: something that is not a string where a caption is wanted.
    """

    sets: Sequence[Sequence[str]]
    references: Sequence[Sequence[str]] | None = None
    options: Options = field(default_factory=Options)

    def __post_init__(self):
        if not len(self.sets):
            raise ValueError("got 0 sets of captions; the metrics need those of one image at least")
        if self.references is not None and len(self.references) != len(self.sets):
            raise ValueError(f"got {len(self.sets)} sets and references for {len(self.references)} images")
        for name, groups in (("captions", self.sets), ("references", self.references or ())):
            for image, captions in enumerate(groups):
                check_references(f"{image} ({name})", captions)

    @cached_property
    def tokenized(self) -> list[list[str]]:
        """The sets, tokenized."""
        return _tokenized(self.sets, self.options.tokenizer)

    @cached_property
    def frequencies(self) -> DocumentFrequencies:
        """Document frequencies for CIDEr."""
        if self.options.frequencies is not None:
            return self.options.frequencies
        documents = self.tokenized if self.references is None else self._tokenized_references
        index = NgramIndex(documents)
        return DocumentFrequencies(index.num_images, index.vocabulary, document_counts(index), self.options.tokenizer)

    @cached_property
    def _tokenized_references(self) -> list[list[str]]:
        return _tokenized(self.references, self.options.tokenizer)

    def cider(self) -> list[np.ndarray]:
        """CIDEr of each caption against the references of its image, an array for each image."""
        if self.references is None:
            raise ValueError("CIDEr of the best of a set needs references: pass references=")
        sizes = np.array([len(captions) for captions in self.sets])
        scorer = CiderScorer(self._tokenized_references, self.frequencies)
        candidates = scorer.index.count([caption for captions in self.tokenized for caption in captions])
        values = scorer.score(candidates, np.repeat(np.arange(len(sizes)), sizes))
        return np.split(values, np.cumsum(sizes)[:-1])


def _tokenized(groups: Sequence[Sequence[str]], tokenizer: str) -> list[list[str]]:
    flat = iter(split_captions([caption for captions in groups for caption in captions], tokenizer))
    return [[next(flat) for _ in captions] for captions in groups]


def uniform_frequencies(tokenizer: str = "ptb") -> DocumentFrequencies:
    """Give document frequencies by which all n-grams weigh the same, for CIDEr where there is no corpus."""
    nothing = np.empty(0, np.int64)
    return DocumentFrequencies(2, Vocabulary([], [nothing] * 3, [nothing] * 3), [nothing] * MAX_ORDER, tokenizer)


def cider_kernels(sets: Sequence[Sequence[str]], frequencies: DocumentFrequencies | None = None) -> list[np.ndarray]:
    """Compare the captions of each image with each other by CIDEr as its paper has it: no clipping, no length penalty.

    Args:
        sets: tokenized captions of each image.
        frequencies: document frequencies; None takes those of the sets.

    Returns:
        For an image of m captions (m, m) float64: the mean over orders 1 to 4 of the cosines of tf-idf vectors, from 0
        to 1, positive semidefinite. A caption too short for an order adds nothing to it, not even on the diagonal.
    """
    scorer = CiderScorer(sets, frequencies)
    sizes = scorer.index.num_references
    first = np.cumsum(sizes) - sizes
    kernels = [np.zeros((size, size)) for size in sizes]
    for order, counts in enumerate(scorer.index.orders):
        weight, norm = scorer.weights[order]
        norms = norm[counts.caption]
        unit = np.divide(weight, norms, out=np.zeros_like(weight), where=norms != 0)
        image = scorer.index.image[counts.caption]  # ascending
        bounds = np.searchsorted(image, np.arange(len(sizes) + 1))
        for number, kernel in enumerate(kernels):
            part = slice(bounds[number], bounds[number + 1])
            ngrams, column = np.unique(counts.ngram[part], return_inverse=True)
            vectors = np.zeros((sizes[number], len(ngrams)))
            vectors[counts.caption[part] - first[number], column] = unit[part]
            kernel += vectors @ vectors.T / MAX_ORDER
    return kernels


def self_cider(kernel: np.ndarray) -> float:
    """Give the diversity of m captions from their (m, m) CIDEr kernel: how evenly its spectrum is spread.

    With singular values s_i, the roots of the kernel's eigenvalues, it is -log(max s / sum s) / log m: 0 for captions
    that are all one, 1 for captions without a common word. One caption alone has no diversity, 0.
    """
    roots = np.sqrt(np.clip(np.linalg.eigvalsh(kernel), 0, None))
    if len(kernel) == 1 or not roots.sum():
        return 0.0
    return max(0.0, float(-np.log(roots[-1] / roots.sum()) / np.log(len(kernel))))


def _self_cider(inputs: SetInputs) -> np.ndarray:
    return np.array([[self_cider(kernel)] for kernel in cider_kernels(inputs.tokenized, inputs.frequencies)])


def _mbleu(inputs: SetInputs) -> np.ndarray:
    """Sum, for each image, BLEU's statistics of each of its captions against the others; (N, 10)."""
    image, candidates, references = [], [], []
    for number, captions in enumerate(inputs.tokenized):
        for place, caption in enumerate(captions):
            if others := captions[:place] + captions[place + 1 :]:
                image.append(number)
                candidates.append(caption)
                references.append(others)
    result = np.zeros((len(inputs.sets), 2 + 2 * MAX_ORDER))
    if candidates:
        np.add.at(result, image, bleu_statistics(Corpus(candidates, references), inputs.options.reference_length))
    return result


def _distinct(inputs: SetInputs) -> np.ndarray:
    words = [[caption.split() for caption in captions] for captions in inputs.tokenized]
    return np.array([[distinct(captions, 1), distinct(captions, 2)] for captions in words])


def _best_of_n(inputs: SetInputs) -> np.ndarray:
    return np.array([[values[0], values.max(), values.mean()] for values in inputs.cider()])


SELF_CIDER = Metric("self_cider", {"self_cider": "self-CIDEr"}, _self_cider, needs=())
MBLEU = Metric(
    "mbleu", {_MBLEU: f"mBLEU-{MAX_ORDER}"}, _mbleu, lambda sums, num: bleu_from_statistics(sums)[..., -1:], needs=()
)
DISTINCT = Metric("distinct", {"distinct_1": "distinct-1", "distinct_2": "distinct-2"}, _distinct, needs=())
BEST_OF_N = Metric(
    "best_of_n",
    {"cider_first": "CIDEr of the first", "cider_best": "CIDEr of the best", "cider_mean": "mean CIDEr"},
    _best_of_n,
    maximum=10.0,
)
SET_METRICS = (SELF_CIDER, MBLEU, DISTINCT, BEST_OF_N)


def score_sets(inputs: SetInputs, metrics: Sequence[Metric] = SET_METRICS) -> list[Scores]:
    """Compute metrics of sets, in the form that `hfcap.metrics.bootstrap.intervals` takes."""
    return [Scores(metric, metric.statistics(inputs)) for metric in metrics]


def compute_set_metrics(
    sets: Sequence[Sequence[str]], references: Sequence[Sequence[str]] | None = None, **options
) -> dict[str, float | list[float]]:
    """Compute the metrics of sets of captions.

    Args:
        sets: for each of N images, its captions as they were written; sets may differ in size.
        references: for each image, its reference captions; without them best-of-n is left out.
        options: `tokenizer`, `reference_length`, `idf`; see `hfcap.metrics.metric.Options`.

    Returns:
        {"self_cider", "mbleu_4", "distinct_1", "distinct_2", "cider_first", "cider_best", "cider_mean": float} and,
        for each key, "<key>_per_image": list of N floats. Raw: from 0 to 1, CIDEr from 0 to 10. All are means over
        images, but mBLEU-4 is BLEU of the corpus in which each caption is compared with the others of its image.

    Raises:
        ValueError: no images, an image without captions or references, differing lengths, an unknown tokenizer.
        TypeError: something that is not a string where a caption is wanted, or an unknown option.
    """
    chosen = [metric for metric in SET_METRICS if references is not None or "references" not in metric.needs]
    result: dict[str, float | list[float]] = {}
    for scores in score_sets(SetInputs(sets, references, Options(**options)), chosen):
        for column, (key, value) in enumerate(zip(scores.keys, scores.values.tolist(), strict=True)):
            result[key] = value
            result[f"{key}_per_image"] = scores.per_image[:, column].tolist()
    return result
