"""Blind baselines: the most frequent caption, and a language model without the image."""

from collections import Counter
from collections.abc import Iterable

import torch
from PIL import Image


def most_frequent_caption(captions: Iterable[str]) -> str:
    """Most frequent training caption; among equals, the first in the alphabet."""
    counts = Counter(captions)
    return min(counts, key=lambda caption: (-counts[caption], caption))


class WithoutPicture:
    """The rows of a `CaptionDataset` with every picture replaced by an even grey: what the language model knows alone.

    A grey picture keeps the prompt as it was trained (image tokens included), and tells nothing.
    """

    def __init__(self, data):
        self.data = data
        self.rows = data.rows
        self.with_images = data.with_images  # what captions are compared with

    def __len__(self) -> int:
        """Count the images."""
        return len(self.data)

    def __getitem__(self, index: int) -> dict:
        """Return row `index` with a grey picture of the same size, or with features of zero."""
        row = self.data[index]
        if "vision_features" in row:
            return row | {"vision_features": torch.zeros_like(row["vision_features"])}
        return row | {"image": Image.new("RGB", row["image"].size, (128, 128, 128))}
