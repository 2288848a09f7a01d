"""BLEU-1 to BLEU-4 as a module for `evaluate.load(hfcap.metrics.path("bleu"))`."""

import datasets

import evaluate  # `evaluate.Metric`, never `from evaluate import Metric`: evaluate would take that class for this one
from hfcap.metrics import compute_metrics

_CITATION = r"""
@inproceedings{papineni2002bleu,
  title = {BLEU: a method for automatic evaluation of machine translation},
  author = {Papineni, Kishore and Roukos, Salim and Ward, Todd and Zhu, Wei-Jing},
  booktitle = {Proceedings of the 40th Annual Meeting of the Association for Computational Linguistics},
  year = {2002}
}
"""

_DESCRIPTION = """
BLEU-1 to BLEU-4 as COCO caption evaluation reports them: n-gram precision, clipped by the richest reference, with a
penalty for candidates shorter than their closest reference. Equal to pycocoevalcap with its PTB tokenizer to 1e-9.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of str, one caption an image, not tokenized.
    references: list of lists of str, the reference captions of each image.
    reference_length: 'closest' (as COCO), 'shortest' or 'average'.
    tokenizer: "ptb" (English), "intl", "zh" or "char"; see `hfcap.metrics.tokenizers`.

Returns:
    bleu_1, bleu_2, bleu_3, bleu_4: float from 0 to 1, over the corpus.
    bleu_1_per_image, ...: list of float, each image on its own.

Examples:
    >>> import evaluate, hfcap.metrics
    >>> bleu = evaluate.load(hfcap.metrics.path("bleu"))
    >>> result = bleu.compute(predictions=["A dog runs."], references=[["A dog is running.", "The dog runs."]])
    >>> round(result["bleu_1"], 4)
    1.0
"""


class Bleu(evaluate.Metric):
    """BLEU-1 to BLEU-4; see `compute_metrics`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            ),
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[list[str]],
        reference_length: str = "closest",
        tokenizer: str = "ptb",
    ) -> dict:
        return compute_metrics(
            predictions, references, ("bleu",), reference_length=reference_length, tokenizer=tokenizer
        )
