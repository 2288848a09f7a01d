"""BLEU-1 to BLEU-4 for `evaluate.load(hfcap.metrics.path("bleu"))`."""

from hfcap.metrics import bleu, evaluate_module


class Bleu(evaluate_module.CaptionMetric):
    """BLEU-1 to BLEU-4 as COCO caption evaluation reports them.

    N-gram precision, clipped by the richest reference, with a penalty for candidates shorter than their closest
    reference. Equal to pycocoevalcap with its PTB tokenizer to 1e-9.
    """

    metric = bleu.BLEU
    bibtex = r"""
@inproceedings{papineni2002bleu,
  title = {BLEU: a method for automatic evaluation of machine translation},
  author = {Papineni, Kishore and Roukos, Salim and Ward, Todd and Zhu, Wei-Jing},
  booktitle = {Proceedings of the 40th Annual Meeting of the Association for Computational Linguistics},
  year = {2002}
}
"""
