"""Caption metrics equal to pycocoevalcap's, in Python and NumPy; importing them needs neither torch nor Java."""

from pathlib import Path

from .bootstrap import compare_systems, confidence_intervals
from .compute import METRICS, compute_metrics
from .diversity import describe_captions
from .idf import DocumentFrequencies, document_frequencies
from .ptb_tokenizer import tokenize
from .reward import CiderDReward
from .tokenizers import TOKENIZERS, split_captions

__all__ = [
    "METRICS",
    "TOKENIZERS",
    "CiderDReward",
    "DocumentFrequencies",
    "compare_systems",
    "compute_metrics",
    "confidence_intervals",
    "describe_captions",
    "document_frequencies",
    "path",
    "split_captions",
    "tokenize",
]


def path(name: str) -> str:
    """Give the module of a metric for `evaluate.load`.

    Args:
        name: "bleu", "meteor", "rouge_l", "cider" or "cider_d".

    Returns:
        The path of a Python file of this package; nothing is downloaded.

    Raises:
        ValueError: no such module.
    """
    if name not in METRICS:
        raise ValueError(f"no module {name!r}; wanted one of {', '.join(METRICS)}")
    return str(Path(__file__).parent / "evaluate_modules" / f"{name}.py")
