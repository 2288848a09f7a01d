"""Photos named on a command line: files and folders of them, and the ids that their captions go by."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hfcap.data.folders import is_picture, passed_over_text, walk, why_not_read
from hfcap.errors import ConfigError, printable

logger = logging.getLogger(__name__)

MAX_LISTED = 5


@dataclass(frozen=True)
class Photo:
    """A picture file and the name its caption goes by."""

    image_id: str
    path: Path


def find_photos(paths: Sequence[str]) -> list[Photo]:
    """List the files named, and the pictures in folders named and below, each once and in order.

    The id of a file is its name without the extension, in a folder its path from there ("2024/beach"). Where that
    would name two files, the extension stays ("beach.jpg"), and then the path as it was given. A file whose name
    is not UTF-8, which no JSON can hold, is left out and named; hidden files in folders are left out.

    Raises:
        ConfigError: a path does not exist, or a folder holds no picture; no file has a name in UTF-8.
    """
    found: dict[Path, list[str]] = {}  # path: ids to choose from, the shortest first
    unnameable: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = _pictures_in(path)
        elif path.is_file():
            inside = [path]
        else:
            raise ConfigError("no such file or folder", option=str(path))
        for file in inside:
            if not _is_utf8(file):
                unnameable.append(repr(str(file)))
                continue
            name = file.relative_to(path) if path.is_dir() else Path(file.name)
            found.setdefault(file, [name.with_suffix("").as_posix(), name.as_posix(), file.as_posix()])
    if unnameable:
        reason = f"file names that are not UTF-8: {first_of(unnameable)}"
        if not found:
            raise ConfigError(reason, fix="rename the files")
        logger.info("%s; skipped, rename the files to caption them", reason)
    ids = [choices[0] for choices in found.values()]
    for level in (1, 2):
        count = Counter(ids)
        ids = [own if count[own] == 1 else choices[level] for own, choices in zip(ids, found.values(), strict=True)]
    return [Photo(image_id, path) for image_id, path in zip(ids, found, strict=True)]


def _pictures_in(folder: Path) -> list[Path]:
    not_walked: dict[str, list[Path]] = {}
    files = sorted(parent / name for parent, names in walk(folder, not_walked) for name in names)
    inside = [file for file in files if is_picture(file) and file.is_file()]
    passed_over: dict[str, list[Path]] = {}
    for file in files:
        nowhere = "links that lead nowhere" if file.is_symlink() else "pipes and devices"
        reason = nowhere if is_picture(file) else why_not_read(file, "photos", {})
        if not file.is_file() or not is_picture(file):
            passed_over.setdefault(reason, []).append(file)
    others = "; ".join(passed_over_text(passed_over | not_walked))
    if not inside:
        raise ConfigError("no image in this folder" + (f" (not read: {others})" if others else ""), option=str(folder))
    if others:
        logger.info("%s: not read: %s", folder, others)
    return inside


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def first_of(texts: Sequence[str], between: str = ", ") -> str:
    """Return the first few of many texts, and how many more there are."""
    more = f" and {len(texts) - MAX_LISTED} more" if len(texts) > MAX_LISTED else ""
    return between.join(map(printable, texts[:MAX_LISTED])) + more
