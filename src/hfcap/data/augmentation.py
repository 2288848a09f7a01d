"""Changes to a picture that leave its captions true, off by default."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

SMALLEST_CROP = 0.5  # share of the area; below, captions would name things that are no longer in the picture
LARGEST_JITTER = 0.5  # above, a grey sky is white and a red shirt brown

# Words for left and right: English, German and Dutch, French, Spanish, Portuguese, Italian, Russian; Arabic with its
# prefixes and endings; Chinese, Japanese and Korean, where words have no ends.
_SIDE_WORDS = re.compile(
    r"\b(?:(?:left|right)(?:most|wards?|hand|handed)?|link(?:s|e[nmrs]?)|recht(?:s|e[nmrs]?)|gauches?|droite?s?|"
    r"izquierd[ao]s?|derech[ao]s?|esquerd[ao]s?|direit[ao]s?|sinistr[aeio]|destr[aeio]|(?:с?лев|с?прав|нале|напра)\w+)\b"
    r"|يسار|يمين|[أا]يسر|[أا]يمن|يسرى|يمنى|[左右왼]|오른",
    re.IGNORECASE,
)
_COLORS = (
    "red|green|blue|yellow|orange|purple|violet|pink|brown|black|white|gr[ae]y|gold(?:en)?|silver|beige|tan|turquoise|"
    "teal|cyan|magenta|maroon|navy|cream|blonde?|brunette|crimson|scarlet|khaki|lavender"
)
_LIGHT = (
    "colou?r(?:ed|ful|s)?|dark(?:ened)?|bright(?:ly)?|pale|light(?:ed)?|lit|dim(?:ly)?|shad(?:e|ow|ed|y|ows)|"
    "sun(?:ny|lit|set|rise)|night|dusk|dawn"
)
_COLOR_WORDS = re.compile(rf"\b(?:{_COLORS}|{_LIGHT})(?:ish)?\b", re.IGNORECASE)


def draw(seed: int, epoch: int, image_id: str, purpose: str) -> np.random.Generator:
    """Random generator that depends on its arguments only, so that a resumed run draws what the first one drew."""
    key = hashlib.sha256(f"{seed}|{epoch}|{image_id}|{purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(key[:8], "little"))


@dataclass(frozen=True)
class View:
    """A picture as a feature cache keeps it: whole or a crop of its own, flipped or not.

    Args:
        flipped: whether it is mirrored.
        crop: smallest share of the area that the crop keeps; 1 for the whole picture.
        number: of the crop; each number is another crop of a picture.
        seed: seed of the crops.
    """

    flipped: bool = False
    crop: float = 1.0
    number: int = 0
    seed: int = 0

    def __str__(self) -> str:
        """Return the name of the view's folder."""
        if self.crop == 1:
            return "mirror" if self.flipped else "plain"
        return f"crop{self.crop}-{self.seed}-{self.number}" + ("-mirror" if self.flipped else "")

    def __call__(self, picture: Image.Image, image_id: str) -> Image.Image:
        """Return the picture as this view shows it: a function of the view, the picture and its id."""
        if self.crop < 1:
            picture = random_crop(picture, self.crop, draw(self.seed, self.number, image_id, "crop"))
        return mirror(picture) if self.flipped else picture


def mirror(picture: Image.Image) -> Image.Image:
    """Return the picture flipped from left to right."""
    return ImageOps.mirror(picture)


def mirror_is_true(captions: Iterable[str]) -> bool:
    """Tell whether captions still hold for the picture flipped from left to right: none of them names a side.

    Languages: English, German, Dutch, French, Spanish, Portuguese, Italian, Russian, Arabic, Chinese, Japanese and
    Korean.
    A caption that only "has left" is taken for one that names a side: one picture less is flipped, nothing false is
    learned. Writing in the picture is not considered.
    """
    return not any(_SIDE_WORDS.search(caption) for caption in captions)


def color_jitter_is_true(captions: Iterable[str]) -> bool:
    """Tell whether captions still hold in other light: none of them names a colour, brightness or time of day."""
    return not any(_COLOR_WORDS.search(caption) for caption in captions)


def random_crop(picture: Image.Image, scale: float, generator: np.random.Generator) -> Image.Image:
    """Cut out a part of the picture's own shape, of a share of its area drawn from [scale, 1], at a random place."""
    side = float(np.sqrt(generator.uniform(scale, 1)))
    width, height = max(1, round(picture.width * side)), max(1, round(picture.height * side))
    left = int(generator.integers(picture.width - width + 1))
    top = int(generator.integers(picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))


def color_jitter(picture: Image.Image, strength: float, generator: np.random.Generator) -> Image.Image:
    """Multiply brightness, contrast and saturation by factors drawn from [1 - strength, 1 + strength]; hue stays."""
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(float(generator.uniform(1 - strength, 1 + strength)))
    return picture
