"""Changes to a picture that leave its captions true, off by default."""

import re
from collections.abc import Iterable

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
