"""CIDEr-D as a module for `evaluate.load(hfcap.metrics.path("cider_d"))`."""

import datasets

import evaluate  # `evaluate.Metric`, never `from evaluate import Metric`: evaluate would take that class for this one
from hfcap.metrics import compute_metrics

_CITATION = r"""
@inproceedings{vedantam2015cider,
  title = {CIDEr: Consensus-based image description evaluation},
  author = {Vedantam, Ramakrishna and Zitnick, C. Lawrence and Parikh, Devi},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2015}
}
"""

_DESCRIPTION = """
CIDEr-D of the paper, which is what pycocoevalcap calls CIDEr: the same value as the module `cider`, under its exact
name. As a reward for training it wants document frequencies of the training set: give `idf`.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of str, one caption an image, not tokenized.
    references: list of lists of str, the reference captions of each image.
    idf: file of document frequencies (`hfcap.metrics.document_frequencies(...).save(file)`); by default they come from
        `references`.
    tokenizer: "ptb" (English), "intl", "zh" or "char"; see `hfcap.metrics.tokenizers`.

Returns:
    cider_d: float from 0 to 10, the mean over images.
    cider_d_per_image: list of float.

Examples:
    >>> import evaluate, hfcap.metrics
    >>> cider_d = evaluate.load(hfcap.metrics.path("cider_d"))
    >>> texts = [f"a {colour} dog in the park" for colour in ("red", "black", "white")] * 20
    >>> result = cider_d.compute(predictions=texts, references=[[text] for text in texts])
    >>> round(result["cider_d"], 4)
    10.0
"""


class CiderD(evaluate.Metric):
    """CIDEr-D; see `compute_metrics`."""

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
        self, predictions: list[str], references: list[list[str]], idf: str | None = None, tokenizer: str = "ptb"
    ) -> dict:
        return compute_metrics(predictions, references, ("cider_d",), idf=idf, tokenizer=tokenizer)
