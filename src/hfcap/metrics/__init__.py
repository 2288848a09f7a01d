"""Caption metrics equal to pycocoevalcap's, in Python and NumPy; importing them needs neither torch nor Java."""

from pathlib import Path

from .bootstrap import compare_systems, confidence_intervals
from .caption_sets import SET_METRICS, compute_set_metrics
from .choice import (
    DEFAULT_METRICS,
    METRICS,
    choose_metrics,
    display_name,
    display_order,
    for_people,
    headline,
    lower_is_better,
    metric_names,
    needs_images,
    refuse_unused,
    value_keys,
)
from .compute import compute_metrics
from .diversity import describe_captions
from .idf import DocumentFrequencies, document_frequencies
from .metric import CLIP_MODEL, Metric, Options
from .ptb_tokenizer import tokenize
from .reward import CiderDReward
from .tokenizers import TOKENIZERS, split_captions

__all__ = [
    "CLIP_MODEL",
    "DEFAULT_METRICS",
    "METRICS",
    "SET_METRICS",
    "TOKENIZERS",
    "CiderDReward",
    "DocumentFrequencies",
    "Metric",
    "Options",
    "choose_metrics",
    "compare_systems",
    "compute_metrics",
    "compute_set_metrics",
    "confidence_intervals",
    "describe_captions",
    "display_name",
    "display_order",
    "document_frequencies",
    "for_people",
    "headline",
    "lower_is_better",
    "metric_names",
    "needs_images",
    "path",
    "refuse_unused",
    "split_captions",
    "tokenize",
    "value_keys",
]


def path(name: str) -> str:
    """Give the module of a metric for `evaluate.load`.

    Args:
        name: of a metric of references: "bleu", "meteor", "rouge_l", "cider" or "cider_d".

    Returns:
        The path of a Python file of this package; nothing is downloaded.

    Raises:
        ValueError: no such module.
    """
    folder = Path(__file__).parent / "evaluate_modules"
    names = [metric.key for metric in METRICS if (folder / f"{metric.key}.py").exists()]
    if name not in names:
        raise ValueError(f"no module {name!r}; wanted one of {', '.join(names)}")
    return str(folder / f"{name}.py")
