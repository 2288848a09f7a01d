"""What the collator is fed: one image with its references, chosen by (seed, epoch, image_id) and nothing else."""

import hashlib
from collections.abc import Iterator

import datasets
import numpy as np
import torch
from PIL import ImageOps

from hfcap.data.features import FeatureCache, mirror_is_true
from hfcap.data.pictures import load_picture


def draw(seed: int, epoch: int, image_id: str, purpose: str) -> np.random.Generator:
    """Random generator that depends on its arguments only, so that a resumed run draws what the first one drew."""
    key = hashlib.sha256(f"{seed}|{epoch}|{image_id}|{purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(key[:8], "little"))


class CaptionDataset(torch.utils.data.Dataset):
    """Rows `{image_id, captions, image}`, or `vision_features` in place of `image` where a feature cache is given.

    Args:
        rows: data set with the columns `image_id`, `image` and `captions`.
        features: cached encoder features of exactly these rows, in their order.
        references: how many references of an image a step uses, drawn anew each epoch; `None` for all.
        mirror: flip pictures from left to right at random where no caption names a side.
        seed: seed of these draws.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        features: FeatureCache | None = None,
        references: int | None = None,
        mirror: bool = False,
        seed: int = 0,
    ):
        if features is not None and len(features) != len(rows):
            raise ValueError(
                f"the feature cache holds {len(features)} images, the data set {len(rows)}: build it anew"
            )
        # Pictures stay encoded until they are asked for; with a cache they are never read.
        self.rows = rows if features is None else rows.remove_columns("image")
        self.features = features
        self.references = references
        self.mirror = mirror
        self.seed = seed

    def __len__(self) -> int:
        """Count the images."""
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        """Return row `index`, or `(epoch, index)` as `EpochSampler` yields it."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        row = self.rows[index]
        image_id, captions = row["image_id"], row["captions"]
        if self.references is not None and len(captions) > self.references:
            chosen = draw(self.seed, epoch, image_id, "references").permutation(len(captions))[: self.references]
            captions = [captions[i] for i in sorted(chosen)]
        flip = (
            self.mirror
            and mirror_is_true(row["captions"])
            and draw(self.seed, epoch, image_id, "mirror").random() < 0.5
        )
        item = {"image_id": image_id, "captions": captions}
        if self.features is not None:
            return item | {"vision_features": self.features.read(index, view="mirror" if flip else "plain")}
        picture = load_picture(row["image"])
        return item | {"image": ImageOps.mirror(picture) if flip else picture}


class EpochSampler(torch.utils.data.Sampler):
    """Shuffle by (seed, epoch) and yield `(epoch, index)`: workers and resumed runs need no other state."""

    def __init__(self, num_rows: int, seed: int):
        self.num_rows = num_rows
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; `Trainer` calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Count the rows."""
        return self.num_rows

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield `(epoch, index)` for each row once."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_rows)
        return iter([(self.epoch, int(index)) for index in order])
