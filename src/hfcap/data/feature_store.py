"""Arrays on disk, written block by block, resumed after a kill, with checksums.

A folder holds `features.npy` (a plain NumPy file) and `meta.json`. While it is being written there are
`features.npy.partial` and `blocks.jsonl`, one line a complete block with its CRC-32; a later run goes on after the
last complete block. `meta.json` is written last, by a rename: without it nothing in the folder is trusted.
"""

import io
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hfcap.counts import counted

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
IMAGES_PER_BLOCK = 64
VERIFY_AT_MOST = 4 * 2**30  # bytes; of larger files as many blocks as fit are checked, evenly spread
DATA_NAME, META_NAME, PARTIAL_NAME, JOURNAL_NAME = "features.npy", "meta.json", "features.npy.partial", "blocks.jsonl"


@dataclass(frozen=True)
class ArraySpec:
    """What is to be stored: an array (num_images, num_tokens, width) of `dtype`, made from what `key` stands for."""

    key: str
    num_images: int
    num_tokens: int
    width: int
    dtype: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(num_images, num_tokens, width)."""
        return (self.num_images, self.num_tokens, self.width)

    @property
    def image_bytes(self) -> int:
        """Size of one image's features."""
        return self.num_tokens * self.width * np.dtype(self.dtype).itemsize

    @property
    def header(self) -> bytes:
        """The NumPy file's header, which depends on shape and dtype alone."""
        file = io.BytesIO()
        description = {"descr": np.dtype(self.dtype).str, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, description)
        return file.getvalue()

    @property
    def total_bytes(self) -> int:
        """Size of the whole file."""
        return len(self.header) + self.num_images * self.image_bytes

    def blocks(self) -> list[range]:
        """Return the images of each block."""
        starts = range(0, self.num_images, IMAGES_PER_BLOCK)
        return [range(start, min(start + IMAGES_PER_BLOCK, self.num_images)) for start in starts]


def is_written(folder: Path) -> bool:
    """Whether the folder claims to be complete; `read_complete` looks closer."""
    return (folder / META_NAME).is_file()


def read_complete(folder: Path, key: str) -> ArraySpec | None:
    """Return what the folder holds if it is complete, undamaged and of this key, else None; an info log says why."""
    if not is_written(folder):
        return None
    try:
        meta = json.loads((folder / META_NAME).read_text(encoding="utf-8"))
        spec, checksums = ArraySpec(**meta["array"]), meta["crc32"]
        problem = _find_damage(folder / DATA_NAME, spec, checksums)
    except (ValueError, KeyError, TypeError, OSError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem is None and spec.key != key:
        problem = f"its key is {spec.key}, wanted {key}"
    if problem is not None:
        logger.info("computing the features in %s again: %s", folder, problem)
        return None
    return spec


def write_array(
    folder: Path,
    spec: ArraySpec,
    compute: Callable[[range], np.ndarray],
    facts: dict,
    on_progress: Callable[[int], None],
    num_arrays: int = 1,
) -> None:
    """Write the array, going on after the last complete block of an interrupted run; `meta.json` comes last.

    Args:
        folder: of this array alone; made if missing.
        spec: what is written.
        compute: gives the features (len(images), num_tokens, width) of consecutive images.
        facts: anything to keep in `meta.json` besides what reading needs.
        on_progress: called with the number of images done, once for those found and then after each block.
        num_arrays: how many of this size are to be written one after the other, with this one.

    Raises:
        OSError: there is less free disk than these arrays need; the message has both numbers.

    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / META_NAME).unlink(missing_ok=True)  # from now on the folder is incomplete
    (folder / DATA_NAME).unlink(missing_ok=True)
    checksums = _recover(folder, spec)
    _check_free_space(folder, spec, len(checksums), num_arrays)
    blocks = spec.blocks()
    on_progress(sum(len(block) for block in blocks[: len(checksums)]))
    mode = "r+b" if checksums else "wb"
    with open(folder / PARTIAL_NAME, mode) as data, open(folder / JOURNAL_NAME, mode) as journal:
        for file, first in ((data, spec.header), (journal, _journal_line(asdict(spec)))):
            if not checksums:
                file.write(first)
            file.seek(0, os.SEEK_END)
        for block in blocks[len(checksums) :]:
            encoded = np.ascontiguousarray(compute(block), dtype=spec.dtype).tobytes()
            checksums.append(zlib.crc32(encoded))
            data.write(encoded)
            _to_disk(data)  # before the journal says so
            journal.write(_journal_line(checksums[-1]))
            _to_disk(journal)
            on_progress(len(block))
    os.replace(folder / PARTIAL_NAME, folder / DATA_NAME)
    _write_meta(folder, {"schema_version": SCHEMA_VERSION, "array": asdict(spec), **facts, "crc32": checksums})
    (folder / JOURNAL_NAME).unlink()


def open_array(folder: Path) -> np.ndarray:
    """Return the memory-mapped array (num_images, num_tokens, width) of a complete folder."""
    return np.load(folder / DATA_NAME, mmap_mode="r")


def _find_damage(path: Path, spec: ArraySpec, checksums: list[int]) -> str | None:
    size = path.stat().st_size
    if size != spec.total_bytes:
        return f"{path.name} has {size} bytes, wanted {spec.total_bytes}"
    blocks = spec.blocks()
    if len(checksums) != len(blocks):
        return f"{len(checksums)} checksums for {len(blocks)} blocks"
    checked = max(1, VERIFY_AT_MOST // (IMAGES_PER_BLOCK * spec.image_bytes))
    chosen = range(len(blocks))
    if checked < len(blocks):
        chosen = sorted(set(np.linspace(0, len(blocks) - 1, checked, dtype=int).tolist()))
    with open(path, "rb") as data:
        if data.read(len(spec.header)) != spec.header:
            return f"{path.name} has another header"
        for number in chosen:
            if _checksum(data, spec, blocks[number]) != checksums[number]:
                return f"block {number} of {path.name} is damaged"
    return None


def _recover(folder: Path, spec: ArraySpec) -> list[int]:
    """Return the checksums of the complete blocks that a run before left, and cut off whatever follows them."""
    partial, journal = folder / PARTIAL_NAME, folder / JOURNAL_NAME
    if not (partial.is_file() and journal.is_file()):
        return []
    lines = journal.read_bytes().splitlines(keepends=True)
    if not lines or lines[0] != _journal_line(asdict(spec)):
        return []
    checksums: list[int] = []
    with open(partial, "rb") as data:
        if data.read(len(spec.header)) != spec.header:
            return []
        for line, block in zip(lines[1:], spec.blocks(), strict=False):
            checksum = _checksum(data, spec, block)
            if line != _journal_line(checksum):
                break
            checksums.append(checksum)
    num_images = min(len(checksums) * IMAGES_PER_BLOCK, spec.num_images)
    os.truncate(partial, len(spec.header) + num_images * spec.image_bytes)
    os.truncate(journal, sum(len(line) for line in lines[: len(checksums) + 1]))
    if checksums:
        logger.info("going on after %d of %d images in %s", num_images, spec.num_images, folder)
    return checksums


def _checksum(data: io.BufferedReader, spec: ArraySpec, block: range) -> int:
    data.seek(len(spec.header) + block.start * spec.image_bytes)
    return zlib.crc32(data.read(len(block) * spec.image_bytes))


def _check_free_space(folder: Path, spec: ArraySpec, done: int, num_arrays: int) -> None:
    needed = num_arrays * spec.total_bytes - done * IMAGES_PER_BLOCK * spec.image_bytes
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"the features of {counted(spec.num_images, 'image')}, in {counted(num_arrays, 'view')}, need "
            f"{needed / 1e6:,.1f} MB, but {folder} has {free / 1e6:,.1f} MB free: choose another cache_dir, fewer "
            "images, fewer cached_crops, or no feature cache"
        )


def _journal_line(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode() + b"\n"


def _write_meta(folder: Path, meta: dict) -> None:
    temporary = folder / (META_NAME + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(meta, file, indent=1)
        _to_disk(file)
    os.replace(temporary, folder / META_NAME)


def _to_disk(file: io.IOBase) -> None:
    file.flush()
    os.fsync(file.fileno())
