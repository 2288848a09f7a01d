"""Folders of pictures: the walk over their files, text files beside pictures, and what of a folder is not read."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from hfcap.data.formats import PICTURE_SUFFIXES, unread_picture_fix
from hfcap.data.records import SourceRow, split_of_folders
from hfcap.errors import printable
from hfcap.json_files import decode_text

CAPTION_SUFFIXES = {".txt", ".caption"}
HIDDEN = "hidden files or folders"
CLOSED = "folders that may not be read: change their permissions"
OTHER = "other files"
ARCHIVE_SUFFIXES = {".zip", ".rar", ".7z", ".gz", ".bz2", ".xz", ".zst"}


def walk(folder: Path, passed_over: dict[str, list[Path]] | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder, from `folder` down, with its files' names in order; hidden files and folders are left out.

    Links to folders are followed, but for those that lead back to a folder above them. What is hidden, and folders
    that may not be read, are added to `passed_over`, by the reason.

    Raises:
        OSError: `folder` itself may not be read.
    """
    passed_over = {} if passed_over is None else passed_over

    def closed(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise error
        passed_over.setdefault(CLOSED, []).append(Path(error.filename))

    for parent, folders, names in os.walk(folder, followlinks=True, onerror=closed):
        if hidden := [Path(parent, name) for name in sorted((*folders, *names)) if name[0] == "."]:
            passed_over.setdefault(HIDDEN, []).extend(hidden)
        folders[:] = [name for name in sorted(folders) if name[0] != "." and not _leads_back(Path(parent, name))]
        yield Path(parent), [name for name in sorted(names) if name[0] != "."]


def _leads_back(folder: Path) -> bool:
    return folder.is_symlink() and folder.resolve() in {above.resolve() for above in folder.absolute().parents}


def is_picture(path: Path) -> bool:
    """Tell whether a file's name is that of a picture that can be opened here."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def texts_beside(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    """Return the pictures among the files of one folder, each with the text files of its name.

    Names that differ in case only are the same (`DOG.JPG`, `dog.txt`), unless the text file is another picture's by
    its very name.
    """
    paths = list(paths)
    pictures = [path for path in paths if is_picture(path)]
    exact: dict[str, list[Path]] = defaultdict(list)
    in_lower_case: dict[str, list[Path]] = defaultdict(list)
    taken = {path.stem for path in pictures}
    for path in paths:
        if path.suffix.lower() in CAPTION_SUFFIXES:
            exact[path.stem].append(path)
            if path.stem not in taken:
                in_lower_case[path.stem.lower()].append(path)
    return {path: exact.get(path.stem) or in_lower_case.get(path.stem.lower(), []) for path in pictures}


def read_sidecars(folder: Path) -> Iterator[SourceRow]:
    """Read pictures with a text file of the same name (`dog.jpg`, `dog.txt` or `dog.caption`), one caption per line.

    A folder's name may tell the split. A picture without a text file has no captions.

    Raises:
        ValueError: a picture with two text files.
    """
    seen: set[tuple[str | None, Path]] = set()  # a link may lead to a folder that is there as well
    for parent, names in walk(folder):
        split = split_of_folders(parent.relative_to(folder).parts)
        for path, texts in texts_beside(parent / name for name in names).items():
            place = (split, parent.resolve() / path.name)
            if place in seen:
                continue
            seen.add(place)
            if len(texts) > 1:
                raise ValueError(f"{texts[0]} and {texts[1]} both caption {path.name}; keep one of the two")
            captions = caption_lines(texts[0].read_bytes(), str(texts[0])) if texts else []
            yield SourceRow(str(path), captions, printable(str(path)), split=split)


def caption_lines(data: bytes, where: str) -> list[str]:
    """Return the captions in the content of a text file, one per line; `where` names the file in errors."""
    # Not `splitlines`, which ends a line at U+2028, U+0085 and form feeds as well: no editor does.
    return [line for line in re.split(r"\r\n?|\n", decode_text(data, where)) if line.strip()]


def captioned_pictures(files: Iterable[Path]) -> dict[Path, Path]:
    """Return the text files that stand beside a picture of their name, each with that picture."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        by_folder[path.parent].append(path)
    pairs = [pair for paths in by_folder.values() for pair in texts_beside(paths).items()]
    return {text: picture for picture, texts in pairs for text in texts}


def why_not_read(path: Path, kind: str, beside: Mapping[Path, Path]) -> str | None:
    """Return why a file of a folder is not read, and the fix if there is one; None for a picture that rows may name.

    Args:
        path: a file that is not among the captions' files.
        kind: what is read: "sidecars", "tables", "tars", "datasets", or "photos" without captions.
        beside: from `captioned_pictures`.
    """
    suffix = path.suffix.lower()
    fix = unread_picture_fix(suffix)
    if fix is not None:
        return f"pictures of formats that are not read here: {fix}"
    if suffix in PICTURE_SUFFIXES:
        return None if kind in ("sidecars", "tables") else "pictures"
    if suffix in CAPTION_SUFFIXES and kind != "photos":
        return f"text files {'with the name of a picture' if path in beside else 'without a picture of their name'}"
    return "archives: unpack them" if suffix in ARCHIVE_SUFFIXES else OTHER


def passed_over_text(passed_over: Mapping[str, list[Path]]) -> list[str]:
    """Return in words what was passed over: for each reason, how many files of which suffixes, the first, the fix."""
    parts = []
    for reason, paths in passed_over.items():
        suffixes = list(dict.fromkeys(path.suffix.lower() or "no suffix" for path in paths))
        kinds = ", ".join([*suffixes[:5], *(["…"] if len(suffixes) > 5 else [])])
        what, _, fix = reason.partition(": ")
        first = f"{'first ' if len(paths) > 1 else ''}{printable(paths[0].name)}"
        parts.append(f"{what}: {len(paths):,} ({kinds}; {first})" + (f", {fix}" if fix else ""))
    return parts
