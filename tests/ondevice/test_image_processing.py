"""Pixel values without torch against those of the image processors of transformers."""

import numpy as np
import pytest
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    EfficientNetImageProcessorPil,
    MobileNetV2ImageProcessorPil,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
)

from hfcap.ondevice.image_processing import PROCESSORS, ImageProcessor
from refusals import refused

SIZES = [(40, 30), (31, 77), (20, 20), (150, 19), (9, 8)]
STOCK = {
    "ViT": ViTImageProcessorPil(size={"height": 24, "width": 20}),
    "CLIP": CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}),
    "SigLIP": SiglipImageProcessorPil(size={"height": 32, "width": 32}),
    "BiT": BitImageProcessorPil(size={"shortest_edge": 25}, crop_size={"height": 23, "width": 23}),
    "MobileNetV2": MobileNetV2ImageProcessorPil(size={"shortest_edge": 37}, crop_size={"height": 32, "width": 32}),
    "crop of less": MobileNetV2ImageProcessorPil(size={"shortest_edge": 15}, crop_size={"height": 32, "width": 21}),
    "ConvNeXt": ConvNextImageProcessorPil(size={"shortest_edge": 32}),
    "ConvNeXt 384": ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    "EfficientNet": EfficientNetImageProcessorPil(size={"height": 26, "width": 24}),
    "EfficientNet offset": EfficientNetImageProcessorPil(
        size={"height": 9, "width": 9}, do_center_crop=True, rescale_factor=1 / 127.5, rescale_offset=True
    ),
    "EfficientNet without": EfficientNetImageProcessorPil(
        size={"height": 9, "width": 9}, do_rescale=False, rescale_offset=True, include_top=False
    ),
    "as it is": ViTImageProcessorPil(do_resize=False, do_rescale=False, do_normalize=False),
}


def settings_of(processor):
    settings = processor.to_dict()
    return settings | {"image_processor_type": type(processor).__name__.removesuffix("Pil")}


@pytest.mark.parametrize("name", STOCK)
def test_every_value_is_that_of_transformers(name):
    for seed, (width, height) in enumerate(SIZES):
        values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(values)
        wanted = STOCK[name](images=[image], return_tensors="np")["pixel_values"][0]
        found = ImageProcessor(settings_of(STOCK[name]))(image)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted.astype(np.float32))


def test_every_processor_that_is_listed_does_what_the_general_one_does():
    """Those whose class has a procedure of its own would give other values, silently."""
    import transformers
    from transformers.image_processing_backends import PilBackend

    own = {"ConvNextImageProcessor", "MobileNetV2ImageProcessor", "EfficientNetImageProcessor"}  # compared above
    for name in set(PROCESSORS) - own:
        stock = getattr(transformers, f"{name}Pil")
        assert stock._preprocess is PilBackend._preprocess and stock.resize is PilBackend.resize, name


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"image_processor_type": "DonutImageProcessor"}, "image_processor_type"),
        ({"image_processor_type": None}, "image_processor_type"),
        ({"do_pad": True}, "do_pad"),
        ({"image_mean": "absent"}, "image_processor"),
    ],
)
def test_other_processors_are_refused(changes, option):
    settings = settings_of(STOCK["ViT"]) | changes
    if changes.get("image_mean"):
        del settings["image_mean"]
    with refused(option=option):
        ImageProcessor(settings)


CONVNEXT = settings_of(STOCK["ConvNeXt"])


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"resample": 9}, "resample"),
        ({"resample": "bicubic"}, "resample"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_mean": [0.5, 0.5, None]}, "image_mean"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std"),
        ({"image_std": "0.5"}, "image_std"),
        ({"rescale_factor": None}, "rescale_factor"),
        ({"rescale_factor": float("nan")}, "rescale_factor"),
        ({"size": {"longest_edge": 30}}, "size"),
        ({"size": 24}, "size"),
        ({"size": {"height": 24.5, "width": 24}}, "size"),
        ({"size": {"height": 24, "width": 0}}, "size"),
        ({"do_center_crop": True, "crop_size": 24}, "crop_size"),
        ({"do_center_crop": True}, "crop_size"),
        (CONVNEXT | {"crop_pct": 0}, "crop_pct"),
        (CONVNEXT | {"size": {"height": 32, "width": 32}}, "size"),
    ],
    ids=str,
)
def test_a_value_that_a_setting_cannot_have_is_one_line(changes, option):
    settings = settings_of(STOCK["ViT"]) | changes
    with refused(option=option, says=("wanted ", "export the model again")):
        ImageProcessor(settings)


def test_values_of_steps_that_are_off_are_not_looked_at():
    off = {"do_resize": False, "do_rescale": False, "do_normalize": False}
    wrong = {"resample": 9, "image_mean": [0.5], "image_std": None, "rescale_factor": "x", "size": None}
    pixels = ImageProcessor(settings_of(STOCK["ViT"]) | off | wrong)(Image.new("RGB", (4, 3), (7, 8, 9)))
    np.testing.assert_array_equal(pixels[:, 0, 0], [7, 8, 9])


@pytest.mark.parametrize("name", STOCK)
def test_the_size_that_is_said_is_the_size_that_comes_out(name):
    processor = ImageProcessor(settings_of(STOCK[name]))
    shapes = {processor(Image.new("RGB", size)).shape[1:] for size in SIZES}
    assert processor.output_size == (shapes.pop() if len(shapes) == 1 else None)
