"""Cache of what reading each picture found (content hash, size, whether it can be decoded), kept between processes.

A picture file is known by its path, size, modification time and inode; embedded bytes (tar shards, parquet) by their
SHA-256. Each folder of pictures has one file here, and embedded pictures have sixteen, by the first digit of their
hash. A file is replaced whole, and starts with a checksum: what is damaged or cannot be read is computed again. The
least recently used files go when all of them exceed `MAX_BYTES`. The cache is safe to remove at any time.
"""

import hashlib
import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import datasets
import PIL
from PIL import Image, ImageFile

from hfcap.atomic_files import write_atomic

logger = logging.getLogger(__name__)

FOLDER = "hfcap-pictures"  # in the cache of `datasets`
FORMAT_VERSION = 1  # raise it when what is kept, or how pictures are checked, changes
MAX_BYTES = 256 * 2**20  # some two million pictures


class PictureKey(NamedTuple):
    """What a picture is known by.

    Attributes:
        group: the folder of its file (absolute); of embedded bytes a part of their hash.
        name: the file's name in the folder, or the SHA-256 of the bytes.
        stamp: size, modification time in ns, and inode of the file; none of bytes. None if there is no such file:
            nothing is kept then.
    """

    group: str
    name: str
    stamp: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Examination:
    """What reading a picture found.

    Attributes:
        sha256: of the encoded file, in hex.
        width: pixels as stored; 0 where it has not been opened, or cannot be.
        height: the same.
        decoded: whether it was decoded, or could not be; else only what stands before is known.
        reason: why it cannot be read, or None.
        lasting: whether the same bytes always give this; not where the file could not be read, or memory ran out.
    """

    sha256: str
    width: int = 0
    height: int = 0
    decoded: bool = False
    reason: str | None = None
    lasting: bool = True


class PictureCache:
    """Examinations by `PictureKey`; as a context it saves new ones at its end, also when it is interrupted."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, list]] = {}  # by group and name: stamp and examination
        self._new: dict[str, dict[str, list]] = {}
        self._passing: dict[PictureKey, Examination] = {}  # not to be saved

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.save()

    def find(self, key: PictureKey) -> Examination | None:
        """Return what is known of a picture; None if it has not been examined, or has changed since."""
        if key in self._passing:
            return self._passing[key]
        if key.stamp is None:
            return None
        if key.group not in self._known:
            self._known[key.group] = _load(key.group)
        stamp, values = self._known[key.group].get(key.name, (None, None))
        return None if stamp is None or tuple(stamp) != key.stamp else Examination(*values)

    def add(self, key: PictureKey, found: Examination) -> None:
        """Keep an examination; for as long as this object lives where it may be another the next time."""
        if key.stamp is None or not found.lasting:
            self._passing[key] = found
            return
        entry = [key.stamp, (found.sha256, found.width, found.height, found.decoded, found.reason)]
        self._known.setdefault(key.group, {})[key.name] = entry
        self._new.setdefault(key.group, {})[key.name] = entry

    def save(self) -> None:
        """Write what is new, with what other processes have written meanwhile. A disk that cannot take it is no error.

        Files that are no longer in their folder are dropped.
        """
        try:
            for group, new in self._new.items():
                entries = _load(group) | new
                if os.path.isabs(group):
                    there = set(os.listdir(group))
                    entries = {name: entry for name, entry in entries.items() if name in there}
                body = json.dumps({"group": group, "pictures": entries}, separators=(",", ":")).encode()
                write_atomic(_file_of(group), _checksum(body) + b"\n" + body, sync=False)
            if self._new:
                _remove_oldest()
        except OSError as error:
            logger.warning("pictures will be checked again at the next start, their check cannot be kept: %s", error)
        self._new = {}


def key_of_file(path: str | os.PathLike) -> PictureKey:
    """Return the key of a picture's file, without reading it."""
    folder, name = os.path.split(os.path.abspath(path))
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # no such file, or a name that no file can have
        return PictureKey(folder, name, None)
    return PictureKey(folder, name, (status.st_size, status.st_mtime_ns, status.st_ino))


def key_of_bytes(data: bytes) -> PictureKey:
    """Return the key of an encoded picture that is embedded in its source."""
    digest = hashlib.sha256(data).hexdigest()
    return PictureKey(f"content-{digest[0]}", digest, ())


def cache_folder() -> Path:
    """Return where the cache is: in that of `datasets`, which HF_HOME and HF_DATASETS_CACHE place."""
    return Path(datasets.config.HF_DATASETS_CACHE) / FOLDER


def _file_of(group: str) -> Path:
    return cache_folder() / f"{hashlib.sha256(_reader() + os.fsencode(group)).hexdigest()[:32]}.json"


def _reader() -> bytes:
    """What decides which pictures can be decoded, besides the pictures: a plug-in more, and a bad one may be good."""
    Image.init()
    settings = (sorted(Image.OPEN), ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
    return f"{FORMAT_VERSION} {PIL.__version__} {settings}\n".encode()


def _load(group: str) -> dict[str, list]:
    file = _file_of(group)
    try:
        checksum, _, body = file.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        logger.info("checking pictures again: %s", error)
        return {}
    if checksum != _checksum(body):
        logger.info("checking pictures again: %s is damaged", file)
        return {}
    with suppress(OSError):  # a cache that others own
        os.utime(file)
    return json.loads(body)["pictures"]


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _remove_oldest() -> None:
    """Remove the least recently used files until all together fit into `MAX_BYTES`."""
    files = []
    for file in cache_folder().glob("*.json"):
        with suppress(FileNotFoundError):  # another process removed it
            files.append((file.stat().st_mtime_ns, file.stat().st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= MAX_BYTES:
            return
        file.unlink(missing_ok=True)
        total -= size
