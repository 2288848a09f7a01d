"""CIDEr-D as a reward: references prepared once, captions scored by the thousand.

Rennie et al., "Self-critical sequence training for image captioning", CVPR 2017.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from .cider import CiderScorer, warn_if_small
from .corpus import check_references
from .idf import DocumentFrequencies
from .ngrams import CandidateCounts
from .tokenizers import split_captions


class CiderDReward:
    """Scores sampled captions against references that stay the same for a whole training run.

    A caption's reward depends on nothing but the caption and its image: not on the batch it comes in.

    Args:
        references: {image_id: reference captions}, not tokenized.
        idf: document frequencies or a file of them; None takes them from `references`, which suits a whole training
            set and nothing smaller.
        tokenizer: see `hfcap.metrics.tokenizers`.

    Raises:
        ValueError: no images, or an image without references.
        TypeError: a reference that is not a string.

    Warns:
        UserWarning: once per process, for fewer than 50 images and no `idf`.
    """

    def __init__(
        self,
        references: Mapping[str, Sequence[str]],
        idf: DocumentFrequencies | str | os.PathLike | None = None,
        tokenizer: str = "ptb",
    ):
        if not references:
            raise ValueError("got references for 0 images; a reward needs at least one")
        for image_id, captions in references.items():
            check_references(image_id, captions)
        if idf is None:
            warn_if_small(len(references))
        elif not isinstance(idf, DocumentFrequencies):
            idf = DocumentFrequencies.load(idf)
        if idf is not None:
            idf.check_tokenizer(tokenizer)
        self._rows = {image_id: row for row, image_id in enumerate(references)}
        self._tokenizer = tokenizer
        captions = [caption for captions in references.values() for caption in captions]
        flat = iter(split_captions(captions, tokenizer, isolated=True))
        self._scorer = CiderScorer([[next(flat) for _ in captions] for captions in references.values()], idf)

    def score(self, candidates: Sequence[str], image_ids: Sequence[str]) -> np.ndarray:
        """Score captions.

        Args:
            candidates: N captions as the model wrote them.
            image_ids: (N,) the image of each; an image may come several times.

        Returns:
            (N,) float32, CIDEr-D from 0 to 10.

        Raises:
            ValueError: differing lengths.
            KeyError: an image id that the references do not have.
        """
        counts, rows = self._counts(candidates, image_ids), self._find_rows(image_ids)
        return self._scorer.score(counts, rows).astype(np.float32)

    def score_against(self, candidates: Sequence[str], image_ids: Sequence[Sequence[str]]) -> np.ndarray:
        """Score each caption against the references of K images, the same number K >= 1 for each.

        Args:
            candidates: N captions as the model wrote them.
            image_ids: for each caption, the ids of K images.

        Returns:
            (N, K) float32, CIDEr-D from 0 to 10.

        Raises:
            ValueError: differing lengths.
            KeyError: an image id that the references do not have.
        """
        counts = self._counts(candidates, image_ids)
        columns = [self._find_rows(column) for column in zip(*image_ids, strict=True)]
        return np.stack([self._scorer.score(counts, rows) for rows in columns], axis=1).astype(np.float32)

    def similar_images(self, number: int) -> dict[str, list[str]]:
        """Give, for each image, the ids of the `number` others that are most alike, or of all where there are fewer.

        Alike is the cosine of the tf-idf vectors of the words of all references of an image.
        """
        ids = list(self._rows)
        nearest = self._scorer.nearest_images(min(number, len(ids) - 1))
        return {image_id: [ids[row] for row in rows] for image_id, rows in zip(ids, nearest, strict=True)}

    def _counts(self, candidates: Sequence[str], image_ids: Sequence) -> CandidateCounts:
        if len(candidates) != len(image_ids):
            raise ValueError(f"got {len(candidates)} candidates and {len(image_ids)} image ids; pass one id each")
        return self._scorer.index.count(split_captions(candidates, self._tokenizer, isolated=True))

    def _find_rows(self, image_ids: Sequence[str]) -> np.ndarray:
        try:
            return np.array([self._rows[image_id] for image_id in image_ids], dtype=np.int64)
        except KeyError as error:
            raise KeyError(f"no references for image {error.args[0]!r}; there are {len(self._rows)} images") from None
