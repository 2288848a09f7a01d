"""ROUGE-L as a module for `evaluate.load(hfcap.metrics.path("rouge_l"))`."""

import datasets

import evaluate  # `evaluate.Metric`, never `from evaluate import Metric`: evaluate would take that class for this one
from hfcap.metrics import compute_metrics

_CITATION = r"""
@inproceedings{lin2004rouge,
  title = {ROUGE: A package for automatic evaluation of summaries},
  author = {Lin, Chin-Yew},
  booktitle = {Text Summarization Branches Out},
  year = {2004}
}
"""

_DESCRIPTION = """
ROUGE-L as COCO caption evaluation reports it: an F-measure (beta 1.2) on the longest common subsequence, with the best
precision and the best recall over the references. Equal to pycocoevalcap with its PTB tokenizer to 1e-9.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of str, one caption an image, not tokenized.
    references: list of lists of str, the reference captions of each image.
    tokenizer: "ptb" (English), "intl", "zh" or "char"; see `hfcap.metrics.tokenizers`.

Returns:
    rouge_l: float from 0 to 1, the mean over images.
    rouge_l_per_image: list of float.

Examples:
    >>> import evaluate, hfcap.metrics
    >>> rouge_l = evaluate.load(hfcap.metrics.path("rouge_l"))
    >>> result = rouge_l.compute(predictions=["A dog runs."], references=[["A dog is running.", "A dog runs fast."]])
    >>> round(result["rouge_l"], 4)
    0.8356
"""


class RougeL(evaluate.Metric):
    """ROUGE-L; see `compute_metrics`."""

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

    def _compute(self, predictions: list[str], references: list[list[str]], tokenizer: str = "ptb") -> dict:
        return compute_metrics(predictions, references, ("rouge_l",), tokenizer=tokenizer)
