"""Pictures of any kind to RGB, their content hashes, and the check that finds those which cannot be read."""

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike, cpu_count
from pathlib import Path

import numpy as np
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image, ImageOps
from tqdm.auto import tqdm

SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
CHUNK_SIZE = 256
PROGRESS_FROM = 2000  # images; fewer are read before a bar would be noticed


@dataclass(frozen=True)
class BadImage:
    """A row whose picture cannot be decoded, and why."""

    row: int
    reason: str


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
        with Image.open(io.BytesIO(read_bytes(image))) as opened:
            opened.load()
            return load_picture(opened)
    image = ImageOps.exif_transpose(image)
    if image.mode in SIXTEEN_BIT_MODES:
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode == "F":
        image = image.convert("L")
    return image.convert("RGB")


def mirror(picture: Image.Image) -> Image.Image:
    """Return the picture flipped from left to right."""
    return ImageOps.mirror(picture)


def read_bytes(image: str | PathLike | bytes | dict) -> bytes:
    """Return the encoded file of a picture that has not been decoded (see `load_picture` for the forms)."""
    if isinstance(image, dict):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    if image is None:
        raise OSError("the row has no picture")
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def undecoded(dataset: Dataset) -> Dataset:
    """Return the data set with its `image` column as `{"bytes", "path"}`, without reading any picture."""
    return dataset.cast_column("image", ImageFeature(decode=False))


def content_hashes(dataset: Dataset) -> list[str]:
    """Return the sha256 (hex) of each picture's encoded file, in row order; "unreadable" where a file is missing."""
    images = undecoded(dataset.select_columns(["image"]))
    with ThreadPoolExecutor(cpu_count()) as pool:
        return [
            digest for chunk in _chunks(images, "hashing pictures") for digest in pool.map(_hash_or_unreadable, chunk)
        ]


def find_bad_images(dataset: Dataset) -> list[BadImage]:
    """Decode every picture once and return the rows that fail, in row order.

    JPEG files are decoded at an eighth of their size, which still reads the whole file and so sees truncation.
    """
    images = undecoded(dataset.select_columns(["image"]))
    with ThreadPoolExecutor(cpu_count()) as pool:
        reasons = [reason for chunk in _chunks(images, "checking pictures") for reason in pool.map(_why_bad, chunk)]
    return [BadImage(row, reason) for row, reason in enumerate(reasons) if reason is not None]


def _to_eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.int64)
    # Mode "I" also holds 8-bit values after some conversions.
    wide = image.mode != "I" or (values.size and values.max() > 255)
    values = (values + 128) // 257 if wide else values
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _chunks(images: Dataset, doing: str) -> Iterator[list[dict]]:
    # Whole columns would hold every picture in memory at once.
    hidden = True if len(images) < PROGRESS_FROM else None
    with tqdm(total=len(images), desc=doing, unit="image", disable=hidden) as progress:
        for start in range(0, len(images), CHUNK_SIZE):
            chunk = images[start : start + CHUNK_SIZE]["image"]
            yield chunk
            progress.update(len(chunk))


def _hash_or_unreadable(image: dict | None) -> str:
    try:
        return hashlib.sha256(read_bytes(image)).hexdigest()
    except OSError:
        return "unreadable"


def _why_bad(image: dict | None) -> str | None:
    try:
        with Image.open(io.BytesIO(read_bytes(image))) as opened:
            opened.draft("RGB", (1, 1))
            opened.load()
    # PIL raises SyntaxError, ValueError, struct.error and others on damaged files, besides OSError.
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
