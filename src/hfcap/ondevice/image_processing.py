"""Pixel values from pictures: the image processors of transformers (their Pillow backend) in Pillow and NumPy.

Followed step by step are `PilBackend._preprocess` of `transformers.image_processing_backends` (5.24), the resizing of
`ConvNextImageProcessorPil` and the scaling of `EfficientNetImageProcessorPil`. Every value is compared by
`tests/ondevice/test_image_processing.py`.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from hfcap.errors import ConfigError

# Image processors that are this procedure and no other; ConvNeXt's differs in `_convnext_resize` alone, EfficientNet's
# in `rescale_offset` and `include_top`, settings that the others do not have.
CONVNEXT = "ConvNextImageProcessor"
PROCESSORS = (
    *("ViTImageProcessor", "CLIPImageProcessor", "SiglipImageProcessor", "DeiTImageProcessor", "BlipImageProcessor"),
    *("BitImageProcessor", "MobileNetV1ImageProcessor", "MobileNetV2ImageProcessor", "PvtImageProcessor", CONVNEXT),
    "EfficientNetImageProcessor",
)
_WANTED = ("do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
# At which size a ConvNeXt processor stops cropping.
_WARPED_FROM = 384


class ImageProcessor:
    """Makes pixel values of pictures.

    Args:
        settings: of the image processor, as `preprocessor_config.json` has them.

    Raises:
        ConfigError: an image processor of another kind, or a setting that is missing or has a value it cannot have.
    """

    def __init__(self, settings: Mapping[str, Any]):
        kind = str(settings.get("image_processor_type")).removesuffix("Fast").removesuffix("Pil")
        if kind not in PROCESSORS:
            raise ConfigError(
                "captioning without torch does not know it",
                option="image_processor_type",
                got=kind,
                wanted=f"one of {', '.join(PROCESSORS)}",
            )
        missing = [name for name in _WANTED if name not in settings]
        if missing:
            raise ConfigError(f"no {', '.join(missing)}", option="image_processor", fix="export the model again")
        if settings.get("do_pad") or settings.get("do_reduce_labels"):
            raise ConfigError("captioning without torch does not pad pictures", option="do_pad", got=True)
        self.settings, self.kind = dict(settings), kind
        _check_values(settings, kind)

    @property
    def output_size(self) -> tuple[int, int] | None:
        """Height and width of all pixel values; None where they depend on the picture."""
        settings = self.settings
        if settings.get("do_center_crop"):
            return settings["crop_size"]["height"], settings["crop_size"]["width"]
        if not settings["do_resize"]:
            return None
        if self.kind == CONVNEXT:
            return settings["size"]["shortest_edge"], settings["size"]["shortest_edge"]
        return (
            None if settings["size"].get("shortest_edge") else (settings["size"]["height"], settings["size"]["width"])
        )

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return the pixel values of an RGB picture, (3, H, W) float32."""
        settings = self.settings
        if settings["do_resize"]:
            image = self._resize(image)
        if settings.get("do_center_crop"):
            size = settings["crop_size"]
            image = center_crop(image, (size["height"], size["width"]))
        values = np.asarray(image).transpose(2, 0, 1)
        if settings["do_rescale"]:
            values = (values.astype(np.float64) * settings["rescale_factor"]).astype(np.float32)
            values -= 1 if settings.get("rescale_offset") else 0
        values = values.astype(np.float32)
        if settings["do_normalize"]:
            values = (values - _per_channel(settings["image_mean"])) / _per_channel(settings["image_std"])
        if settings.get("include_top"):  # as the classifiers of this family were trained
            values = values / _per_channel(settings["image_std"])
        return np.ascontiguousarray(values)

    def _resize(self, image: Image.Image) -> Image.Image:
        size, resample = self.settings["size"], Image.Resampling(self.settings["resample"])
        if self.kind == CONVNEXT:
            return _convnext_resize(image, size["shortest_edge"], self.settings["crop_pct"], resample)
        height, width = size.get("height"), size.get("width")
        if size.get("shortest_edge"):
            height, width = size_of_shortest_edge(image, size["shortest_edge"])
        return image.resize((width, height), resample)


def _check_values(settings: Mapping[str, Any], kind: str) -> None:
    """Check the values that pictures are changed by; those of a step that is switched off are not looked at."""

    def refuse_unless(fits: bool, name: str, wanted: str) -> None:
        if not fits:
            fix = "change it in preprocessor_config.json or processor_config.json, and export the model again"
            raise ConfigError(option=name, got=settings.get(name), wanted=wanted, fix=fix)

    if settings["do_resize"]:
        filters = [int(one) for one in Image.Resampling]
        refuse_unless(_is_whole(settings["resample"]) and settings["resample"] in filters, "resample", "0 to 5")
        size = settings["size"]
        edge = isinstance(size, Mapping) and _has_sizes(size, "shortest_edge") and not size.get("longest_edge")
        whole = isinstance(size, Mapping) and _has_sizes(size, "height", "width") and not size.get("shortest_edge")
        refuse_unless(edge or (whole and kind != CONVNEXT), "size", "shortest_edge, or height and width")
        if kind == CONVNEXT and size["shortest_edge"] < _WARPED_FROM:
            crop_pct = settings.get("crop_pct")
            refuse_unless(_is_number(crop_pct) and 0 < crop_pct <= 1, "crop_pct", "a number above 0, at most 1")
    if settings.get("do_center_crop"):
        crop = settings.get("crop_size")
        refuse_unless(
            isinstance(crop, Mapping) and _has_sizes(crop, "height", "width"), "crop_size", "height and width"
        )
    if settings["do_rescale"]:
        refuse_unless(_is_number(settings["rescale_factor"]), "rescale_factor", "a number")
    if settings["do_normalize"]:
        refuse_unless(_is_per_channel(settings["image_mean"]), "image_mean", "a number, or three")
    if settings["do_normalize"] or settings.get("include_top"):
        deviations = settings["image_std"]
        fits = _is_per_channel(deviations) and np.all(np.asarray(deviations) > 0)
        refuse_unless(fits, "image_std", "a number above 0, or three")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _has_sizes(size: Mapping[str, Any], *names: str) -> bool:
    return all(_is_whole(size.get(name)) and size[name] > 0 for name in names)


def _is_per_channel(value: Any) -> bool:
    return _is_number(value) or (isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value)))


def size_of_shortest_edge(image: Image.Image, shortest_edge: int) -> tuple[int, int]:
    """Return height and width of a picture whose shorter side becomes `shortest_edge`; the other is rounded down."""
    short, long = sorted(image.size)
    long = int(shortest_edge * long / short)
    return (long, shortest_edge) if image.width <= image.height else (shortest_edge, long)


def center_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the middle of a picture, (height, width), with black around it where it is smaller."""
    height, width = size
    left, top = (image.width - width) // 2, (image.height - height) // 2
    if left < 0 or top < 0:
        whole = Image.new(image.mode, (max(width, image.width), max(height, image.height)))
        pads = [math.ceil((new - old) / 2) for new, old in zip(whole.size, image.size, strict=True)]
        whole.paste(image, tuple(pads))
        image, left, top = whole, left + pads[0], top + pads[1]
    return image.crop((left, top, left + width, top + height))


def _convnext_resize(image: Image.Image, edge: int, crop_pct: float, resample: Image.Resampling) -> Image.Image:
    if edge >= _WARPED_FROM:
        return image.resize((edge, edge), resample)
    height, width = size_of_shortest_edge(image, int(edge / crop_pct))
    return center_crop(image.resize((width, height), resample), (edge, edge))


def _per_channel(value: float | list[float]) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, np.float32), (3,))[:, None, None]
