"""The class behind the modules of `evaluate_modules/`; it needs the libraries evaluate and datasets."""

import inspect

import datasets

import evaluate

from .compute import compute_metrics
from .metric import Metric

_INPUTS = """
Args:
    predictions: list of str, one caption per image, not tokenized.
    references: list of lists of str, the reference captions of each image.
    options: those of `hfcap.metrics.metric.Options` that concern the metric: tokenizer, reference_length (BLEU), idf
        (CIDEr).

Returns:
    {keys}: float from 0 to {maximum:g}, over the corpus.
    The same with "_per_image": list of float, each image alone.

Examples:
    >>> import evaluate, hfcap.metrics
    >>> metric = evaluate.load(hfcap.metrics.path("{key}")){skip}
    >>> texts = [f"a {{colour}} dog in the park" for colour in ("red", "black", "white")] * 20{skip}
    >>> result = metric.compute(predictions=texts, references=[[text] for text in texts]){skip}
    >>> round(result["{first}"], 4){skip}
    {maximum}
"""


class CaptionMetric(evaluate.Metric):
    """A metric of captions and references as the library evaluate wants it.

    A module imports `evaluate_module`, never this class by name: evaluate takes the first metric class that it finds
    among a module's names.

    The docstring of a module's class is its description for people.

    Attributes:
        metric: the metric it computes.
        bibtex: the paper.
    """

    metric: Metric
    bibtex: str

    def _info(self) -> evaluate.MetricInfo:
        metric = self.metric
        features = {
            "predictions": datasets.Value("string"),
            "references": datasets.Sequence(datasets.Value("string")),
        }
        inputs = _INPUTS.format(
            keys=", ".join(metric.names),
            first=next(iter(metric.names)),
            key=metric.key,
            maximum=metric.maximum,
            skip="  # doctest: +SKIP" if metric.key == "meteor" else "",  # which needs an extra
        )
        return evaluate.MetricInfo(
            description=inspect.getdoc(self),
            citation=self.bibtex,
            inputs_description=inputs,
            features=datasets.Features(features),
        )

    def _compute(self, predictions: list[str], references: list[list[str]], **options) -> dict:
        return compute_metrics(predictions, references, (self.metric.key,), **options)
