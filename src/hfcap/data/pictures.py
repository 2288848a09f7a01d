"""Pictures of any kind to RGB, upright and with 8 bits a channel."""

import io
import struct
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from hfcap.data import formats  # which registers the plug-ins of further formats
from hfcap.errors import ConfigError

SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
ORIENTATION = 0x0112  # EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_METADATA = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # where Pillow finds an orientation


class PictureError(ConfigError):
    """A picture that is whole, and that the processor of a model cannot take: 900 x 3 pixels, for Qwen-VL."""


def load_picture(image: Image.Image | str | PathLike | bytes | dict) -> Image.Image:
    """Return the picture as a person would see it: upright, RGB, 8 bits a channel.

    The EXIF orientation is applied; transparent parts are laid over white; palette, greyscale, CMYK and 16-bit
    pictures are converted (16 bits to 8 by value / 257; floating-point pixels are taken as 0..255). Of an animation
    the first frame is taken.

    Args:
        image: a PIL image, a file's path, a file's bytes, or the undecoded form of `datasets.Image`,
            `{"bytes": bytes or None, "path": str or None}`.

    Returns:
        A new RGB image; the one passed in is left as it was.

    Raises `OSError` (`PIL.UnidentifiedImageError`, `FileNotFoundError`, a truncated file) where there is no picture.

    """
    if not isinstance(image, Image.Image):
        with _opened(read_bytes(image)) as opened:
            opened.load()
            return load_picture(opened)
    image = _upright(image)
    if image.mode in SIXTEEN_BIT_MODES:
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode == "F":
        image = image.convert("L")
    return image.convert("RGB")


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:  # Pillow names the address of the buffer, which is another one each time
        fix = formats.unread_content_fix(data)
        what = f"no picture that can be read here ({fix})" if fix else "no picture, or a format that cannot be read"
        raise UnidentifiedImageError(what if data else "an empty file") from None


def orientation(image: Image.Image) -> int:
    """Load a picture and return its EXIF orientation, 1 to 8; 1 (upright) where it has none that can be read."""
    image.load()  # a TIFF turns itself here, and forgets its orientation
    try:
        value = image.getexif().get(ORIENTATION)
    # What Pillow raises on EXIF blocks that are cut off, garbage, or text.
    except (SyntaxError, TypeError, ValueError, struct.error):
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _upright(image: Image.Image) -> Image.Image:
    # Not ImageOps.exif_transpose: it writes the whole EXIF block anew, and fails where any other tag in it is odd.
    turn = _TURNS.get(orientation(image))
    if turn is None:
        return image
    image = image.transpose(turn)
    for name in _METADATA:  # or it would be turned again
        image.info.pop(name, None)
    return image


def read_bytes(image: str | PathLike | bytes | dict) -> bytes:
    """Return the encoded file of a picture that has not been decoded (see `load_picture` for the forms)."""
    if isinstance(image, dict):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    if image is None:
        raise OSError("the row has no picture")
    if isinstance(image, bytes):
        return image
    if Path(image).is_fifo():
        raise OSError("a pipe, and no file")  # which would be read for ever
    return Path(image).read_bytes()


def _to_eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.int64)
    # Mode "I" also holds 8-bit values after some conversions.
    wide = image.mode != "I" or (values.size and values.max() > 255)
    values = (values + 128) // 257 if wide else values
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))
