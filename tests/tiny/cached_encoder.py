"""A tiny encoder with what the feature cache asks of one."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from hfcap.data.features import PLAIN, cache_features
from hfcap.data.pictures import load_picture

BLOCK = 4
NUM_IMAGES = 10


class TinyEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 8, stride=8)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, pixel_values):
        features = self.norm(self.convolution(pixel_values)).flatten(2).transpose(1, 2)  # (B, N, D)
        return SimpleNamespace(last_hidden_state=features)


class TinyModel(nn.Module):
    """Counts the images its encoder sees, all square; the cache's test picture is not."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = TinyEncoder()
        self.config = SimpleNamespace(vision_feature_layer=-1)
        self.images_seen = 0

    def get_vision_features(self, pixel_values):
        height, width = pixel_values.shape[-2:]
        self.images_seen += len(pixel_values) * (height == width)
        return self.encoder(pixel_values).last_hidden_state


class TinyImageProcessor:
    def __init__(self, mean=0.5, side=None):
        self.mean, self.side = mean, side

    def to_dict(self):
        return {"mean": self.mean, "side": self.side, "_name_or_path": "anywhere"}

    def __call__(self, images, return_tensors):
        assert return_tensors == "pt"
        if self.side is not None:
            images = [image.resize((self.side, self.side)) for image in images]
        values = np.stack([np.asarray(image, dtype=np.float32) for image in images]) / 255 - self.mean
        return {"pixel_values": torch.from_numpy(values).permute(0, 3, 1, 2)}


def build(tmp_path, scenes, model=None, processor=None, **options):
    model = model or TinyModel()
    cache = cache_features(model, processor or TinyImageProcessor(), scenes, tmp_path, batch_size=3, **options)
    return cache, model.images_seen


def direct(scenes, row, view=PLAIN, processor=None):
    picture = view(load_picture(scenes[row]["image"]), scenes[row]["image_id"])
    model = TinyModel().eval()
    with torch.no_grad():
        return model.get_vision_features((processor or TinyImageProcessor())([picture], "pt")["pixel_values"])[0]
