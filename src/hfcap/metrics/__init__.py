"""Caption metrics equal to pycocoevalcap's, in Python and NumPy; importing them needs neither torch nor Java."""

from .compute import METRICS, compute_metrics
from .idf import DocumentFrequencies, document_frequencies
from .ptb_tokenizer import tokenize

__all__ = ["METRICS", "DocumentFrequencies", "compute_metrics", "document_frequencies", "tokenize"]
