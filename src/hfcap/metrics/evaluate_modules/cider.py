"""CIDEr for `evaluate.load(hfcap.metrics.path("cider"))`."""

from hfcap.metrics import cider, evaluate_module


class Cider(evaluate_module.CaptionMetric):
    """CIDEr as COCO caption evaluation reports it (the CIDEr-D of the paper).

    Similarity of tf-idf weighted n-grams with the references, times 10. Equal to pycocoevalcap with its PTB tokenizer
    to 1e-9. The weights come from the references of all images, so that a handful of images scores near 0: give `idf`
    then.
    """

    metric = cider.CIDER
    bibtex = r"""
@inproceedings{vedantam2015cider,
  title = {CIDEr: Consensus-based image description evaluation},
  author = {Vedantam, Ramakrishna and Zitnick, C. Lawrence and Parikh, Devi},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2015}
}
"""
