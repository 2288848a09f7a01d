"""METEOR 1.5 as a module for `evaluate.load(hfcap.metrics.path("meteor"))`."""

import datasets

import evaluate  # `evaluate.Metric`, never `from evaluate import Metric`: evaluate would take that class for this one
from hfcap.metrics import compute_metrics

_CITATION = r"""
@inproceedings{denkowski2014meteor,
  title = {Meteor Universal: Language Specific Translation Evaluation for Any Target Language},
  author = {Denkowski, Michael and Lavie, Alon},
  booktitle = {Proceedings of the EACL 2014 Workshop on Statistical Machine Translation},
  year = {2014}
}
"""

_DESCRIPTION = """
METEOR 1.5 as COCO caption evaluation reports it: an alignment by exact words, stems, synonyms and paraphrases. Needs
Java and `pip install "hfcap[meteor]"`.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of str, one caption an image, not tokenized.
    references: list of lists of str, the reference captions of each image.

Returns:
    meteor: float from 0 to 1, over the corpus.
    meteor_per_image: list of float.

Examples:
    >>> import evaluate, hfcap.metrics
    >>> meteor = evaluate.load(hfcap.metrics.path("meteor"))
    >>> result = meteor.compute(predictions=["A dog runs."], references=[["A dog runs."]])  # doctest: +SKIP
    >>> round(result["meteor"], 4)  # doctest: +SKIP
    1.0
"""


class Meteor(evaluate.Metric):
    """METEOR 1.5; see `compute_metrics`."""

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

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict:
        return compute_metrics(predictions, references, ("meteor",))
