"""ROUGE-L for `evaluate.load(hfcap.metrics.path("rouge_l"))`."""

from hfcap.metrics import evaluate_module, rouge_l


class RougeL(evaluate_module.CaptionMetric):
    """ROUGE-L as COCO caption evaluation reports it.

    An F-measure (beta 1.2) on the longest common subsequence, with the best precision and the best recall over the
    references. Equal to pycocoevalcap with its PTB tokenizer to 1e-9.
    """

    metric = rouge_l.ROUGE_L
    bibtex = r"""
@inproceedings{lin2004rouge,
  title = {ROUGE: A package for automatic evaluation of summaries},
  author = {Lin, Chin-Yew},
  booktitle = {Text Summarization Branches Out},
  year = {2004}
}
"""
