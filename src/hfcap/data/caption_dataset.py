"""Training data sets: images with references, augmented by (seed, epoch, image_id). Streams: `caption_stream`."""

from dataclasses import dataclass

import datasets
import torch
from PIL import Image

from hfcap.counts import counted
from hfcap.data.augmentation import (
    View,
    color_jitter,
    color_jitter_is_true,
    draw,
    mirror,
    mirror_is_true,
    random_crop,
)
from hfcap.data.features import ComputedFeatures, FeatureCache
from hfcap.data.picture_checks import undecoded
from hfcap.data.pictures import load_picture


@dataclass(frozen=True)
class Augmentation:
    """Random references and image augmentation of a row per epoch, drawn from (seed, epoch, image_id).

    Args:
        references: how many references of an image a step uses; `None` for all.
        mirror: flip pictures from left to right at random where no caption names a side.
        crop: smallest share of a picture's area that a random crop keeps; 1 crops nothing.
        cached_crops: how many crops of a picture a feature cache keeps, beside the whole one.
        color_jitter: largest change of brightness, contrast and saturation, where no caption names a colour or light.
        seed: seed of the draws.
    """

    references: int | None = None
    mirror: bool = False
    crop: float = 1.0
    cached_crops: int = 0
    color_jitter: float = 0.0
    seed: int = 0

    def captions(self, row: dict, epoch: int) -> list[str]:
        """Draw the references of the epoch, in the row's order."""
        captions = row["captions"]
        if self.references is None or len(captions) <= self.references:
            return captions
        chosen = draw(self.seed, epoch, row["image_id"], "references").permutation(len(captions))[: self.references]
        return [captions[i] for i in sorted(chosen)]

    def flips(self, row: dict, epoch: int) -> bool:
        """Draw whether the epoch shows the picture flipped."""
        may_flip = self.mirror and mirror_is_true(row["captions"])
        return may_flip and draw(self.seed, epoch, row["image_id"], "mirror").random() < 0.5

    def cached_views(self) -> list[View]:
        """Return what a feature cache keeps of each picture; every other crop is flipped where pictures may be."""
        whole = [View(), View(flipped=True)] if self.mirror else [View()]
        numbers = range(1, self.cached_crops + 1)
        return whole + [View(self.mirror and n % 2 == 0, self.crop, n, self.seed) for n in numbers]

    def view(self, row: dict, epoch: int) -> View:
        """Draw which of the cached views the epoch shows."""
        flipped = self.flips(row, epoch)
        views = [view for view in self.cached_views() if view.flipped == flipped]
        return views[draw(self.seed, epoch, row["image_id"], "crop").integers(len(views))]

    def picture(self, row: dict, epoch: int) -> Image.Image:
        """Load the row's picture as the epoch shows it."""
        picture = load_picture(row["image"])
        if self.crop < 1:
            picture = random_crop(picture, self.crop, draw(self.seed, epoch, row["image_id"], "crop"))
        if self.color_jitter > 0 and color_jitter_is_true(row["captions"]):
            picture = color_jitter(picture, self.color_jitter, draw(self.seed, epoch, row["image_id"], "color"))
        return mirror(picture) if self.flips(row, epoch) else picture

    def item(self, row: dict, epoch: int) -> dict:
        """Return `{image_id, captions}` and, where the row has one, its `prompt`."""
        item = {"image_id": row["image_id"], "captions": self.captions(row, epoch)}
        return item | {"prompt": row["prompt"]} if row.get("prompt") else item


class CaptionDataset(torch.utils.data.Dataset):
    """Rows `{image_id, captions, image}`, or `vision_features` in place of `image` where a feature cache is given.

    Args:
        rows: data set with the columns `image_id`, `image`, `captions` and maybe `prompt`.
        features: encoder features of exactly these rows, in their order.
        **augmentation: fields of `Augmentation`.
    """

    def __init__(
        self, rows: datasets.Dataset, features: FeatureCache | ComputedFeatures | None = None, **augmentation
    ):
        if features is not None and len(features) != len(rows):
            raise ValueError(
                f"the feature cache holds {counted(len(features), 'image')}, the data set {len(rows)}: rebuild it"
            )
        # Pictures stay encoded until they are asked for; with a cache they are never read.
        self.with_images = undecoded(rows)
        self.rows = self.with_images if features is None else self.with_images.remove_columns("image")
        self.features = features
        self.augmentation = Augmentation(**augmentation)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int] | tuple[int, tuple[int, ...]]) -> dict | list[dict]:
        """Return row `index`, or `(epoch, index)` as samplers yield it; for several indices a list."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        return [self._item(epoch, i) for i in index] if isinstance(index, tuple) else self._item(epoch, index)

    def _item(self, epoch: int, index: int) -> dict:
        row = self.rows[index]
        item = self.augmentation.item(row, epoch)
        if self.features is None:
            return item | {"image": self.augmentation.picture(row, epoch)}
        return item | {"vision_features": self.features.read(index, self.augmentation.view(row, epoch))}
