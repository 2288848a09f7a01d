"""CIDEr-D for `evaluate.load(hfcap.metrics.path("cider_d"))`."""

from hfcap.metrics import cider, evaluate_module


class CiderD(evaluate_module.CaptionMetric):
    """CIDEr-D of the paper, which is what pycocoevalcap calls CIDEr.

    The same value as the module `cider`, under its exact name. As a reward for training it wants document frequencies
    of the training set: give `idf`.
    """

    metric = cider.CIDER_D
    bibtex = r"""
@inproceedings{vedantam2015cider,
  title = {CIDEr: Consensus-based image description evaluation},
  author = {Vedantam, Ramakrishna and Zitnick, C. Lawrence and Parikh, Devi},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2015}
}
"""
