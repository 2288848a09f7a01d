"""Pre-training of an encoder by multi-label prediction of caption words.

Gradients through an untrained language model carry little signal for the encoder. One
linear layer on the encoder gives it the same captions much sooner (docs/decisions.md has the figures). Learning visual
words from whole captions, with a maximum over regions, is Fang et al., "From captions to visual concepts and back"
(2015); the smooth maximum is that of Pinheiro and Collobert, "From image-level to pixel-level labeling" (2015).
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction, PreTrainedModel

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.errors import ConfigError
from hfcap.metrics.tokenizers import split_captions
from hfcap.models.image_features import encode_images, measure_image_features
from hfcap.training.argument_checks import check_whole_batch
from hfcap.training.epoch_sampler import EpochSampler
from hfcap.training.finite import FiniteTrainer

FEWEST_IMAGES = 0.002  # a word of fewer images (as a share of all) is too rare to be learned
MOST_IMAGES = 0.9  # one of more images tells nothing: "a", "picture"


def words_of(captions: Sequence[str], tokenizer: str = "ptb") -> set[str]:
    """Words of an image's captions, as the caption metrics split them ("ptb": lower case, without punctuation)."""
    return {word for text in split_captions(list(captions), tokenizer, isolated=True) for word in text.split()}


def choose_words(captions_by_image: Iterable[Sequence[str]], tokenizer: str = "ptb") -> dict[str, float]:
    """Words that the captions of some images have and those of others lack, with the share of images, by alphabet.

    Raises:
        ConfigError: there is none.
    """
    images, num_images = Counter(), 0
    for captions in captions_by_image:
        images.update(words_of(captions, tokenizer))
        num_images += 1
    shares = {word: count / num_images for word, count in sorted(images.items())}
    chosen = {word: share for word, share in shares.items() if FEWEST_IMAGES <= share <= MOST_IMAGES}
    if not chosen:
        raise ConfigError(
            f"none of the captions' words ({len(shares)}) is in {FEWEST_IMAGES:.1%} to {MOST_IMAGES:.0%} of the "
            f"images ({num_images}), so there is nothing to learn",
            option="data",
            fix="use more images",
        )
    return chosen


class CaptionTagger(nn.Module):
    """A vision encoder and one linear layer: a logit per word for each patch, and their smooth maximum.

    The layer begins with each word's frequency as its answer (Lin et al., "Focal loss for dense object detection",
    2017): a rare word would otherwise spend its first hundreds of steps learning that it is rare.

    Args:
        encoder: any vision encoder, CNN or ViT.
        shares: (W,) share of images that have each word, between 0 and 1.
        image_size: side of the pictures in pixels.

    """

    def __init__(self, encoder: PreTrainedModel, shares: Iterable[float], image_size: int):
        super().__init__()
        self.encoder = encoder
        prior = torch.logit(torch.tensor(list(shares)))
        self.head = nn.Linear(measure_image_features(encoder, image_size).width, len(prior))
        with torch.no_grad():
            self.head.bias.copy_(prior)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Tag pictures.

        Args:
            pixel_values: (B, 3, H, W) float.
            labels: (B, W) float, 1 for each word of a picture's captions.

        Returns:
            `logits` (B, W), the log-mean-exp over the patches, and with labels `loss`, their binary cross entropy.

        """
        patches = self.head(encode_images(self.encoder, pixel_values))  # (B, N, W)
        logits = patches.logsumexp(dim=1) - math.log(patches.shape[1])
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.binary_cross_entropy_with_logits(logits, labels), "logits": logits}


@dataclass
class TagCollator:
    """Collate rows `{image, captions}` into `pixel_values` (B, 3, H, W) and `labels` (B, W), both float32.

    Args:
        image_processor: of the encoder.
        words: the words to tag, in the order of their columns.
        word_tokenizer: what splits captions into words (`Trainer` would save a collator's `tokenizer`).
    """

    image_processor: object
    words: Iterable[str]
    word_tokenizer: str = "ptb"

    def __post_init__(self):
        self.columns = {word: column for column, word in enumerate(self.words)}

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """Collate `rows`."""
        labels = torch.zeros(len(rows), len(self.words))
        for row, own in zip(rows, labels, strict=True):
            own[
                [self.columns[word] for word in words_of(row["captions"], self.word_tokenizer) & self.columns.keys()]
            ] = 1
        pixel_values = self.image_processor([row["image"] for row in rows], return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixel_values, "labels": labels}


class TaggingTrainer(FiniteTrainer):
    """`FiniteTrainer` of a `CaptionTagger`; what an epoch draws is a function of (seed, epoch), as for captioners."""

    def _get_train_sampler(self, train_dataset: CaptionDataset | None = None) -> EpochSampler:
        check_whole_batch(len(self.train_dataset), self.args)
        return EpochSampler(len(self.train_dataset), self.args.seed)


def tag_scores(prediction: EvalPrediction) -> dict[str, float]:
    """Precision, recall and F1 of the words whose probability is above a half, over all images and words."""
    said, true = prediction.predictions > 0, prediction.label_ids > 0
    hits = int(np.sum(said & true))
    precision, recall = hits / max(1, int(said.sum())), hits / max(1, int(true.sum()))
    return {"precision": precision, "recall": recall, "f1": 2 * hits / max(1, int(said.sum()) + int(true.sum()))}
