"""Content hashes of pictures, and the check that finds those which cannot be read."""

import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from os import PathLike, cpu_count

from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm

from hfcap.data.formats import unread_content_fix
from hfcap.data.picture_cache import Examination, PictureCache, PictureKey, key_of_bytes, key_of_file
from hfcap.data.pictures import read_bytes
from hfcap.errors import beginning, printable

CHUNK_SIZE = 256
PROGRESS_FROM = 2000  # images; fewer are read before a bar would be noticed
MAX_LISTED = 20
LONGEST_PATH_SHOWN = 400
MAX_PIXELS = 89_478_485  # Pillow's own: a quarter of a gigabyte as RGB
PILLOW_FACTOR = 2  # Pillow warns above its limit, and refuses above twice that
NO_PICTURE = "no picture"


@dataclass(frozen=True)
class BadImage:
    """A row whose picture cannot be decoded, and why."""

    row: int
    reason: str


def undecoded(dataset: Dataset) -> Dataset:
    """Return the data set with its `image` column as `{"bytes", "path"}`, without reading any picture."""
    return dataset.cast_column("image", ImageFeature(decode=False))


def content_hashes(dataset: Dataset) -> list[str]:
    """Return the sha256 (hex) of each picture's encoded file, in row order; see `picture_hash` where there is none.

    Files that have been read before are not read again (`hfcap.data.picture_cache`).
    """
    return [found.sha256 for found in _examine_all(dataset, "hashing pictures", None)]


def find_bad_images(dataset: Dataset, max_pixels: int = MAX_PIXELS) -> list[BadImage]:
    """Return the rows whose pictures cannot be decoded, or have more than `max_pixels`, in row order.

    A picture is decoded the first time that it is met (`hfcap.data.picture_cache`). JPEG files are decoded at an
    eighth of their size, which still reads the whole file and so sees truncation.
    """
    check_max_pixels(max_pixels)
    reasons = [_why_bad(found, max_pixels) for found in _examine_all(dataset, "checking pictures", max_pixels)]
    return [BadImage(row, reason) for row, reason in enumerate(reasons) if reason is not None]


def _examine_all(dataset: Dataset, doing: str, max_pixels: int | None) -> list[Examination]:
    """Return what is known of each picture, after reading each that the cache does not know once.

    Args:
        dataset: rows with an `image`.
        doing: what the progress bar says.
        max_pixels: pictures of at most so many pixels are decoded; with None none is, hashes are enough.
    """
    images = undecoded(dataset.select_columns(["image"]))
    found = []
    with PictureCache() as cache, ThreadPoolExecutor(cpu_count()) as pool:
        for chunk in picture_chunks(images, doing):
            keys = list(pool.map(_key_of, chunk))
            known = map(cache.find, keys)
            todo = {
                key: image
                for key, image, one in zip(keys, chunk, known, strict=True)
                if one is None or _needs_decoding(one, max_pixels)
            }
            examine = partial(_examine, max_pixels=max_pixels)
            for key, one in zip(todo, pool.map(examine, todo.values()), strict=True):
                cache.add(key, one)
            found += map(cache.find, keys)
    return found


def _key_of(image: dict | None) -> PictureKey:
    if image is not None and image.get("bytes") is not None:
        return key_of_bytes(image["bytes"])
    path = (image or {}).get("path")
    return key_of_file(path) if path else PictureKey("", NO_PICTURE, None)


def _needs_decoding(found: Examination, max_pixels: int | None) -> bool:
    return max_pixels is not None and not found.decoded and found.width * found.height <= max_pixels


def _why_bad(found: Examination, max_pixels: int) -> str | None:
    if found.width * found.height > max_pixels:
        return (
            f"{found.width} x {found.height} pixels, more than max_pixels ({max_pixels:,}): "
            "shrink it, or raise --max_pixels"
        )
    return found.reason


def handle_bad_images(
    dataset: Dataset,
    on_bad_image: str,
    max_pixels: int = MAX_PIXELS,
    places: list[str] | None = None,
    on_skip: Callable[[dict[str, str]], object] | None = None,
) -> Dataset:
    """Return the rows whose pictures can be decoded.

    Args:
        dataset: rows of `image_id` and `image`.
        on_bad_image: "error" raises one ValueError that lists the bad pictures; "skip" leaves them out and warns.
        max_pixels: a picture of more counts as bad.
        places: file and line of each row.
        on_skip: called with `{"image_id", "where", "reason"}` of each picture left out.
    """
    bad = find_bad_images(dataset, max_pixels)
    if not bad:
        return dataset
    rows = undecoded(dataset.select_columns(["image_id", "image"]).select([one.row for one in bad]))
    found = [
        bad_picture(row["image_id"], places[one.row] if places else f"row {one.row}", row["image"], one.reason)
        for one, row in zip(bad, rows, strict=True)
    ]
    lines = [bad_picture_text(one) for one in found[:MAX_LISTED]]
    if len(bad) > MAX_LISTED:
        lines.append(f"and {len(bad) - MAX_LISTED} more")
    text = f"{len(bad)} of {len(dataset)} images cannot be read:\n  " + "\n  ".join(lines)
    if on_bad_image == "error":
        raise ValueError(f"{text}\nRepair or remove them, or pass --on_bad_image skip to skip them.")
    if len(bad) == len(dataset):
        raise ValueError(f"{text}\nNothing is left.")
    warnings.warn(f"skipped {text}", stacklevel=3)
    for one in found if on_skip is not None else ():
        on_skip(one)
    bad_rows = {one.row for one in bad}
    return dataset.select([row for row in range(len(dataset)) if row not in bad_rows])


def bad_picture(image_id: str, where: str, image: dict | None, reason: str) -> dict[str, str]:
    """Return the record of a picture that cannot be read; `where` names its file as well as that of its caption."""
    path = printable((image or {}).get("path") or "")
    if path and path not in where and path not in reason:
        where = f"{where}, picture {beginning(path, LONGEST_PATH_SHOWN)}"
    return {"image_id": image_id, "where": where, "reason": reason}


def bad_picture_text(bad: dict[str, str]) -> str:
    """Return one line on a picture that cannot be read, from its record."""
    return f"{bad['where']} (image_id {beginning(bad['image_id'])}): {bad['reason']}"


def check_max_pixels(max_pixels: int) -> None:
    """Raise ValueError for a limit that Pillow's own, lower one would make void."""
    pillow = Image.MAX_IMAGE_PIXELS
    if max_pixels < 1 or (pillow is not None and max_pixels > PILLOW_FACTOR * pillow):
        limit = "any" if pillow is None else f"{PILLOW_FACTOR * pillow:,}"
        raise ValueError(
            f"max_pixels is {max_pixels:,}; wanted 1 to {limit}, above which Pillow itself refuses: shrink the "
            "pictures, or raise PIL.Image.MAX_IMAGE_PIXELS"
        )


def why_bad_picture(image: str | PathLike | bytes | dict | None, max_pixels: int = MAX_PIXELS) -> str | None:
    """Return why an undecoded picture (see `read_bytes`) cannot be read, or None if it can."""
    return _why_bad(_examine(image, max_pixels), max_pixels)


def _examine(image: str | PathLike | bytes | dict | None, max_pixels: int | None) -> Examination:
    """Read an undecoded picture, and decode it if it has at most `max_pixels` (None: hash it only)."""
    try:
        data = read_bytes(image)
    except (OSError, ValueError) as error:
        path = image.get("path") if isinstance(image, dict) else image
        digest = hashlib.sha256(f"no file: {path}".encode()).hexdigest() if path else NO_PICTURE
        return Examination(digest, decoded=True, reason=_error_text(error), lasting=False)
    digest = hashlib.sha256(data).hexdigest()
    if max_pixels is None:
        return Examination(digest)
    if not data:
        return Examination(digest, decoded=True, reason="the file is empty")
    size = (0, 0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as opened:
                size = opened.size
                if size[0] * size[1] > max_pixels:
                    return Examination(digest, *size)
                opened.draft("RGB", (1, 1))
                opened.load()
    except UnidentifiedImageError:
        fix = unread_content_fix(data)
        reason = (
            f"not a picture (the file begins with {data[:12]!r})"
            if fix is None
            else f"not a picture that can be read here ({fix})"
        )
        return Examination(digest, decoded=True, reason=reason)
    # PIL raises SyntaxError, ValueError, struct.error and others on damaged files, besides OSError.
    except Exception as error:
        lasting = not isinstance(error, MemoryError)
        return Examination(digest, *size, decoded=True, reason=_error_text(error), lasting=lasting)
    return Examination(digest, *size, decoded=True)


def _error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {beginning(str(error), LONGEST_PATH_SHOWN)}"


def picture_chunks(images: Dataset, doing: str) -> Iterator[list[dict]]:
    """Yield the column `image` in parts, with a bar that says what is being done where there are many."""
    # Whole columns would hold every picture in memory at once.
    hidden = True if len(images) < PROGRESS_FROM else None
    with tqdm(total=len(images), desc=doing, unit="image", disable=hidden) as progress:
        for start in range(0, len(images), CHUNK_SIZE):
            chunk = images[start : start + CHUNK_SIZE]["image"]
            yield chunk
            progress.update(len(chunk))


def picture_hash(image: dict | None) -> str:
    """Return the sha256 (hex) of an undecoded picture's file; of its path where there is no such file.

    Two absent files are two pictures. A row without picture and path has `NO_PICTURE`.
    """
    return _examine(image, None).sha256
