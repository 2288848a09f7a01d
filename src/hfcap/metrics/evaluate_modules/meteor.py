"""METEOR 1.5 for `evaluate.load(hfcap.metrics.path("meteor"))`."""

from hfcap.metrics import evaluate_module, meteor


class Meteor(evaluate_module.CaptionMetric):
    """METEOR 1.5 as COCO caption evaluation reports it.

    An alignment by exact words, stems, synonyms and paraphrases. Needs `pip install "hfcap[meteor]"`.
    """

    metric = meteor.METEOR
    bibtex = r"""
@inproceedings{denkowski2014meteor,
  title = {Meteor Universal: Language Specific Translation Evaluation for Any Target Language},
  author = {Denkowski, Michael and Lavie, Alon},
  booktitle = {Proceedings of the EACL 2014 Workshop on Statistical Machine Translation},
  year = {2014}
}
"""
