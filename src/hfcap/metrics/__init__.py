"""Caption metrics equal to pycocoevalcap's, in Python and NumPy; importing them needs neither torch nor Java."""

from .bootstrap import compare_systems, confidence_intervals
from .compute import METRICS, compute_metrics
from .idf import DocumentFrequencies, document_frequencies
from .ptb_tokenizer import tokenize

__all__ = [
    "METRICS",
    "DocumentFrequencies",
    "compare_systems",
    "compute_metrics",
    "confidence_intervals",
    "document_frequencies",
    "tokenize",
]
