"""CIDEr as pycocoevalcap computes it, which is the CIDEr-D of the paper.

Vedantam, Zitnick, Parikh, "CIDEr: consensus-based image description evaluation", CVPR 2015; pycocoevalcap 1.2
(cider/cider_scorer.py): n-grams of orders 1 to 4 weighted by tf-idf, clipped cosine similarity, a Gaussian penalty on
the difference in length, times 10. "Length" is the number of bigrams, as in the original.

With document frequencies from the references themselves, `cider` and `cider_d` are one number under two names.
Frequencies from a file (`idf.py`) give small sets and rewards the weights of a large corpus.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np

from .corpus import Corpus
from .idf import DocumentFrequencies, document_counts
from .metric import Inputs, Metric, Options
from .ngrams import MAX_ORDER, CandidateCounts, Counts, NgramIndex

_SIGMA = 6.0
SMALL_SET = 50
_has_warned = False


class CiderScorer:
    """Reference captions with their tf-idf weights, computed once; scores any number of candidates for these images.

    Args:
        references: one list of tokenized captions per image.
        frequencies: document frequencies from elsewhere; None takes them from these references.

    Attributes:
        index: the n-grams of the references.
        weights: for orders 1 to 4, tf-idf weights of the entries of `index.orders`, (E,), and norms of the references,
            (R,).
    """

    def __init__(self, references: Sequence[Sequence[str]], frequencies: DocumentFrequencies | None = None):
        if frequencies is None:
            self._set_up(NgramIndex(references), None)
        else:
            self._set_up(NgramIndex(references, frequencies.vocabulary), frequencies)

    @classmethod
    def from_index(cls, index: NgramIndex) -> "CiderScorer":
        """Use references whose n-grams are counted already, with their own document frequencies."""
        scorer = cls.__new__(cls)
        scorer._set_up(index, None)
        return scorer

    def _set_up(self, index: NgramIndex, frequencies: DocumentFrequencies | None) -> None:
        self.index = index
        counts = document_counts(index)
        documents = index.num_images
        if frequencies is not None:
            documents = frequencies.num_documents
            counts = [np.zeros(len(own)) for own in counts]
            for order, numbers in enumerate(index.vocabulary_numbers):
                counts[order][numbers] = frequencies.counts[order]
        # An n-gram that no document holds counts as if one did.
        self._unknown_idf = math.log(documents)
        self._idf = [self._unknown_idf - np.log(np.maximum(own, 1)) for own in counts]
        self._bigrams = np.maximum(index.lengths - 1, 0)
        self._first_reference = np.cumsum(index.num_references) - index.num_references
        self.weights = [self._weigh_references(order) for order in range(MAX_ORDER)]

    def _weigh_references(self, order: int) -> tuple[np.ndarray, np.ndarray]:
        """Give the weights of the references' n-grams, (E,), and the norms of the captions, (R,)."""
        counts = self.index.orders[order]
        weight = counts.count * self._idf[order][counts.ngram]
        norm = np.sqrt(np.bincount(counts.caption, weights=weight**2, minlength=len(self.index.lengths)))
        return weight, norm

    def score(self, candidates: CandidateCounts, images: np.ndarray) -> np.ndarray:
        """Score candidates against the references of their images.

        Args:
            candidates: C candidates, counted by this scorer's `index`.
            images: (C,) int64, the image of each.

        Returns:
            (C,) float64, from 0 to 10.
        """
        references_each = self.index.num_references[images]
        # One row a (candidate, reference) pair; a candidate's rows stand side by side.
        first_row = np.cumsum(references_each) - references_each
        candidate = np.repeat(np.arange(len(images)), references_each)
        row_shift = first_row - self._first_reference[images]  # (C,): row = reference caption + row_shift
        reference = np.arange(len(candidate)) - row_shift[candidate]
        similarity = np.zeros(len(candidate))
        for order in range(MAX_ORDER):
            dot, norm = self._dot_products(order, candidates.orders[order], images, row_shift, len(candidate))
            norms = norm[candidate] * self.weights[order][1][reference]
            similarity += np.divide(dot, norms, out=np.zeros_like(dot), where=norms != 0)
        difference = np.maximum(candidates.lengths - 1, 0)[candidate] - self._bigrams[reference]
        similarity *= np.exp(-(difference.astype(np.float64) ** 2) / (2 * _SIGMA**2))
        total = np.bincount(candidate, weights=similarity, minlength=len(images))
        return 10.0 * total / MAX_ORDER / references_each

    def nearest_images(self, number: int) -> np.ndarray:
        """Find the images whose references are most like those of each image.

        Alike is the cosine of tf-idf vectors, of the words of all references of an image.

        Args:
            number: K images to find, fewer than there are.

        Returns:
            (N, K) int64, the most alike first, the earlier of equal ones first.
        """
        counts, num_images = self.index.orders[0], self.index.num_images
        image, word = self.index.image[counts.caption[counts.first]], counts.ngram[counts.first]
        weight = np.add.reduceat(self.weights[0][0], counts.first)
        norm = np.sqrt(np.bincount(image, weights=weight**2, minlength=num_images))
        weight /= np.where(norm > 0, norm, 1.0)[image]
        # Entries are sorted by image; `postings` are their places sorted by word.
        first_of_image = np.searchsorted(image, np.arange(num_images + 1))
        postings = np.argsort(word, kind="stable")
        first_of_word = np.searchsorted(word[postings], np.arange(counts.num_ngrams + 1))
        nearest = np.empty((num_images, number), dtype=np.int64)
        for own in range(num_images):
            entries = slice(first_of_image[own], first_of_image[own + 1])
            lists = [postings[first_of_word[w] : first_of_word[w + 1]] for w in word[entries]]
            held = np.concatenate([np.empty(0, np.int64), *lists])
            products = weight[held] * np.repeat(weight[entries], [len(places) for places in lists])
            cosine = np.bincount(image[held], weights=products, minlength=num_images)
            cosine[own] = -np.inf
            least = -np.partition(-cosine, number - 1)[number - 1]  # of those to be found
            enough = np.flatnonzero(cosine >= least)
            nearest[own] = enough[np.argsort(-cosine[enough], kind="stable")][:number]
        return nearest

    def _dot_products(
        self, order: int, counts: Counts, images: np.ndarray, row_shift: np.ndarray, num_rows: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Give the clipped dot product of each (candidate, reference) row, (P,), and each candidate's norm, (C,)."""
        references, reference_weight = self.index.orders[order], self.weights[order][0]
        known = counts.ngram < references.num_ngrams
        weight = counts.count * self._unknown_idf
        weight[known] = counts.count[known] * self._idf[order][counts.ngram[known]]
        norm = np.sqrt(np.bincount(counts.caption, weights=weight**2, minlength=len(images)))
        candidate, weight = counts.caption[known], weight[known]
        wanted = references.pairs_of(images[candidate], counts.ngram[known])
        first = np.searchsorted(references.pair, wanted, side="left")
        matches = np.searchsorted(references.pair, wanted, side="right") - first
        # One entry a (candidate's n-gram, reference that holds it too).
        entry = np.repeat(first - (np.cumsum(matches) - matches), matches) + np.arange(matches.sum())
        candidate, weight = np.repeat(candidate, matches), np.repeat(weight, matches)
        product = np.minimum(weight, reference_weight[entry]) * reference_weight[entry]
        row = references.caption[entry] + row_shift[candidate]
        return np.bincount(row, weights=product, minlength=num_rows).astype(np.float64), norm


def cider(corpus: Corpus, frequencies: DocumentFrequencies | None = None) -> np.ndarray:
    """Compute CIDEr for each image; the corpus value is the mean.

    Args:
        corpus: N images.
        frequencies: document frequencies from elsewhere; None takes them from the references, as pycocoevalcap does.

    Returns:
        (N,) float64, from 0 to 10.

    Warns:
        UserWarning: once per process, for fewer than 50 images and no `frequencies`: the weights say little, and for
            one image all are 0.
    """
    if frequencies is None:
        warn_if_small(len(corpus))
        scorer = CiderScorer.from_index(corpus.index)
        return scorer.score(corpus.candidate_counts, np.arange(len(corpus)))
    scorer = CiderScorer(corpus.references, frequencies)
    return scorer.score(scorer.index.count(corpus.candidates), np.arange(len(corpus)))


def warn_if_small(num_images: int) -> None:
    """Warn once a process that document frequencies of a handful of images make CIDEr near 0 (0 for one image)."""
    global _has_warned
    if num_images < SMALL_SET and not _has_warned:
        _has_warned = True
        warnings.warn(
            f"CIDEr weighs words by how few of the images they describe; with {num_images} image(s) most weights are "
            f"near 0 and the score says little (it is 0 for one image). Give at least {SMALL_SET} images (recipes: "
            "more data, --max_eval_images, --eval_caption_images), or document frequencies of a larger corpus "
            "(hfcap score: --idf FILE; Python: idf=).",
            UserWarning,
            stacklevel=3,
        )


def _statistics(inputs: Inputs) -> np.ndarray:
    return cider(inputs.corpus, inputs.options.frequencies)[:, None]


def _require(options: Options) -> None:
    options.frequencies  # noqa: B018 (loads and checks them)


CIDER = Metric("cider", {"cider": "CIDEr"}, _statistics, maximum=10.0, require=_require)
CIDER_D = Metric("cider_d", {"cider_d": "CIDEr-D"}, _statistics, maximum=10.0, require=_require)
