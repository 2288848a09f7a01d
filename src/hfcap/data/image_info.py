"""Image properties for `hfcap data check` and `split`: readability, size, difference hash, near-duplicates."""

import hashlib
import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from os import cpu_count

import numpy as np
from datasets import Dataset
from PIL import Image

from hfcap.data.picture_checks import MAX_PIXELS, picture_chunks, undecoded, why_bad_picture
from hfcap.data.pictures import load_picture, orientation, read_bytes

HASH_SIDE = 8  # a difference hash has HASH_SIDE ** 2 = 64 bits
THUMBNAIL_SIDE = 16
NEAR_BITS = 8  # largest distance of two hashes whose pictures are compared
NEAR_SHADES = 64  # of 255: largest difference in any cell of the thumbnails of two pictures that look alike
PAIR_BLOCK = 1024


@dataclass(frozen=True)
class ImageInfo:
    """Facts of one picture.

    Attributes:
        reason: why it cannot be read, or None; then everything below but the digest is as for a blank picture.
        sha256: of the encoded file; "" where there is no file.
        width: pixels, upright.
        height: pixels, upright.
        hash: 64-bit difference hash of its brightness.
        thumbnail: (16, 16, 3) uint8, means of the picture's cells.
    """

    reason: str | None
    sha256: str
    width: int
    height: int
    hash: int
    thumbnail: np.ndarray


def image_infos(dataset: Dataset, max_pixels: int = MAX_PIXELS) -> list[ImageInfo]:
    """Read every picture of the column `image` once and return what it found, in row order."""
    images = undecoded(dataset.select_columns(["image"]))
    with ThreadPoolExecutor(cpu_count()) as pool:
        chunks = picture_chunks(images, "looking at pictures")
        return [info for chunk in chunks for info in pool.map(partial(image_info, max_pixels=max_pixels), chunk)]


def image_info(image: dict | None, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Examine one undecoded picture."""
    reason = why_bad_picture(image, max_pixels)
    blank = np.zeros((THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), np.uint8)
    try:
        data = read_bytes(image)
    except (OSError, ValueError):
        return ImageInfo(reason, "", 0, 0, 0, blank)
    digest = hashlib.sha256(data).hexdigest()
    if reason is not None:
        return ImageInfo(reason, digest, 0, 0, 0, blank)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data)) as opened:
            width, height = opened.size
            opened.draft("RGB", (4 * THUMBNAIL_SIDE, 4 * THUMBNAIL_SIDE))  # a JPEG is decoded small
            if orientation(opened) >= 5:  # these swap the sides
                width, height = height, width
            small = load_picture(opened)
    thumbnail = np.asarray(small.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX))
    return ImageInfo(None, digest, width, height, difference_hash(small), thumbnail)


def difference_hash(picture: Image.Image) -> int:
    """Return the 64-bit difference hash (dHash): whether each of 8 x 8 cells is darker than its right neighbour.

    Source: Neal Krawetz, "Kind of Like That", 2013.
    """
    cells = np.asarray(picture.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX), np.int16)
    bits = cells[:, 1:] > cells[:, :-1]  # (8, 8)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_duplicates(infos: list[ImageInfo]) -> list[tuple[int, int]]:
    """Return pairs (i, j), i < j, of readable pictures that look alike and are different files.

    Two pictures look alike where their hashes differ in at most `NEAR_BITS` bits and no cell of their thumbnails by
    more than `NEAR_SHADES`: other sizes, qualities and formats of one photo do, and crops by a few percent. Every pair
    is compared: seconds for 10,000 pictures, and time grows with the square.
    """
    readable = [index for index, one in enumerate(infos) if one.reason is None]
    hashes = np.array([infos[index].hash for index in readable], np.uint64)
    pairs = []
    for start in range(0, len(readable), PAIR_BLOCK):
        block = hashes[start : start + PAIR_BLOCK, None]
        distance = np.bitwise_count(block ^ hashes[None, start:])  # (block, remaining)
        for row, column in np.argwhere(distance <= NEAR_BITS):
            first, second = readable[start + int(row)], readable[start + int(column)]
            if first < second and _look_alike(infos[first], infos[second]):
                pairs.append((first, second))
    return pairs


def _look_alike(first: ImageInfo, second: ImageInfo) -> bool:
    if first.sha256 == second.sha256:
        return False
    return int(np.abs(first.thumbnail.astype(int) - second.thumbnail).max()) <= NEAR_SHADES
