"""A tagger as `recipes/train_tagger.py` saves it, small enough to be built in a second."""

from pathlib import Path

import torch

from hfcap.models.image_classifier import classifier_of_encoder, last_linear
from hfcap.training.tag_calibration import write_calibration
from tiny.parts import build_encoder, build_image_processor, random_images

TAGS = ["star", "heart", "red"]
POLICY = """
tags:
  star: {means: a star, words: ['stars?'], target: {precision: 0.9}, action: review}
  heart: {means: a heart, words: ['hearts?'], target: {recall: 0.9}, action: review}
  red: {means: a red shape, words: [red], target: {queue: 10%}, action: review}
"""


def build_tagger(encoder="mobilenet_v2", tags=TAGS):
    torch.manual_seed(0)
    model = classifier_of_encoder(build_encoder(encoder), tags)
    with torch.no_grad():
        head = last_linear(model)
        head.weight.normal_(0, 1)
        head.weight.div_(model(random_images(8)).logits.std())  # scores neither all alike nor at 0 and 1
    return model


def save_tagger(folder, **parts):
    folder = Path(folder)
    build_tagger(**parts).save_pretrained(folder)
    build_image_processor().save_pretrained(folder)
    write_calibration(folder, {"method": "temperature", "temperature": dict(zip(TAGS, (1.0, 2.0, 4.0), strict=True))})
    (folder / "policy.yaml").write_text(POLICY)
    return folder
