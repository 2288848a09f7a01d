"""CIDEr as a module for `evaluate.load(hfcap.metrics.path("cider"))`."""

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
CIDEr as COCO caption evaluation reports it (the CIDEr-D of the paper): similarity of tf-idf weighted n-grams with the
references, times 10. Equal to pycocoevalcap with its PTB tokenizer to 1e-9. The weights come from the references of
all images, so that a handful of images scores near 0: give `idf` then.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of str, one caption an image, not tokenized.
    references: list of lists of str, the reference captions of each image.
    idf: file of document frequencies (`hfcap.metrics.document_frequencies(...).save(file)`); by default they come from
        `references`.
    tokenizer: "ptb" (English), "intl", "zh" or "char"; see `hfcap.metrics.tokenizers`.

Returns:
    cider: float from 0 to 10, the mean over images.
    cider_per_image: list of float.

Examples:
    >>> import evaluate, hfcap.metrics
    >>> cider = evaluate.load(hfcap.metrics.path("cider"))
    >>> texts = [f"a {colour} dog in the park" for colour in ("red", "black", "white")] * 20
    >>> result = cider.compute(predictions=texts, references=[[text] for text in texts])
    >>> round(result["cider"], 4)
    10.0
"""


class Cider(evaluate.Metric):
    """CIDEr; see `compute_metrics`."""

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
        return compute_metrics(predictions, references, ("cider",), idf=idf, tokenizer=tokenizer)
