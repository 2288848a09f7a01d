"""`TaggerTrainer`: the HF Trainer for multi-label image classifiers, with a loss over known labels alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction, PreTrainedModel

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.metrics.ranking import average_precision, log_loss
from hfcap.models.model_utils import keep_frozen_in_eval
from hfcap.training.argument_checks import check_whole_batch
from hfcap.training.epoch_sampler import EpochSampler
from hfcap.training.finite import FiniteTrainer
from hfcap.training.packing import IGNORE_INDEX
from hfcap.training.tag_calibration import sigmoid


def tag_loss(
    outputs,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    positive_weights: torch.Tensor | None = None,
    focal_gamma: float = 0.0,
) -> torch.Tensor:
    """Sum of the binary cross entropies over the number of known labels in the whole optimizer step.

    Given to `Trainer` as `compute_loss_func`, which counts the labels that are not -100 over all micro-batches and
    processes; so the same pictures give the same gradient however they are divided, as with
    `hfcap.training.loss.token_loss`.

    Args:
        outputs: model output whose `logits` are (B, T).
        labels: (B, T) float, 1 or 0, -100 where a picture is left out.
        num_items_in_batch: known labels in the optimizer step; those of this batch where it is not given.
        positive_weights: (T,) factors of the losses of positive labels.
        focal_gamma: exponent of the focal loss (Lin et al., "Focal loss for dense object detection", 2017); 0 is none.

    Returns:
        Scalar float32, in nats per label.
    """
    known = labels != IGNORE_INDEX
    logits, targets = outputs.logits.float(), labels.float().clamp(min=0)
    weights = None if positive_weights is None else positive_weights.to(logits.device)
    losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=weights)
    if focal_gamma:
        missed = torch.sigmoid(torch.where(targets > 0, -logits, logits))  # 1 - probability of the true answer
        losses = losses * missed**focal_gamma
    total = torch.where(known, losses, 0).sum()
    return total / (known.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)


class LabeledImages(torch.utils.data.Dataset):
    """A data set of images with their labels beside them, by row: image ids may repeat between splits.

    Args:
        images: `CaptionDataset`, or another data set that takes `index` and `(epoch, index)`.
        labels: (N, T) 1, 0 or NaN, in the order of its rows.
    """

    def __init__(self, images: CaptionDataset, labels: np.ndarray):
        self.images = images
        self.labels = torch.from_numpy(np.nan_to_num(labels, nan=IGNORE_INDEX).astype(np.float32))

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        """Return the item of an image with `labels` (T,) float32, -100 where the image is left out."""
        return self.images[key] | {"labels": self.labels[key[1] if isinstance(key, tuple) else key]}


@dataclass
class LabelCollator:
    """Collate rows into `pixel_values` (B, 3, H, W), or (B, D) of cached features, and `labels` (B, T), float32.

    Args:
        image_processor: of the classifier; None where all rows have cached features.
    """

    image_processor: object

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """Collate items of `LabeledImages`."""
        labels = torch.stack([row["labels"] for row in rows])
        if "vision_features" in rows[0]:
            return {"pixel_values": torch.cat([row["vision_features"] for row in rows]), "labels": labels}
        pixels = self.image_processor([row["image"] for row in rows], return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels.to(memory_format=torch.channels_last), "labels": labels}


class TaggerTrainer(FiniteTrainer):
    """`FiniteTrainer` of a stock image classifier; what an epoch draws is a function of (seed, epoch).

    Args:
        model: the classifier.
        positive_weights: see `tag_loss`.
        focal_gamma: see `tag_loss`.
        kwargs: further arguments of `Trainer`; `data_collator` is a `LabelCollator`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        positive_weights: torch.Tensor | None = None,
        focal_gamma: float = 0.0,
        **kwargs,
    ):
        loss = partial(tag_loss, positive_weights=positive_weights, focal_gamma=focal_gamma)
        super().__init__(model=model, compute_loss_func=loss, compute_metrics=tag_metrics, **kwargs)
        # `Trainer` would hand the number of labels to models that do not know what it is.
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: LabeledImages | None = None) -> EpochSampler:
        check_whole_batch(len(self.train_dataset), self.args)
        return EpochSampler(len(self.train_dataset), self.args.seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute `tag_loss` of a collated batch."""
        if self.model.training:
            keep_frozen_in_eval(self.model)  # BatchNorm as well: its batch statistics depend on how a step is divided
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


def known_labels(label_ids: np.ndarray) -> np.ndarray:
    """Return labels (N, T) with NaN in the place of -100."""
    return np.where(label_ids == IGNORE_INDEX, np.nan, label_ids)


def tag_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Return `map`, the mean average precision of the tags that can be judged, and `log_loss` of known labels."""
    logits, labels = prediction.predictions, known_labels(prediction.label_ids)
    known = ~np.isnan(labels)
    each = []
    for column in range(labels.shape[1]):
        truth = labels[known[:, column], column] > 0
        if truth.any() and not truth.all():
            each.append(average_precision(logits[known[:, column], column], truth))
    return {
        "map": float(np.mean(each)) if each else 0.0,
        "log_loss": log_loss(sigmoid(logits[known]), labels[known] > 0),
    }
