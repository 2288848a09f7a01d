"""Tar shards in the WebDataset format to `SourceRow`s. Nothing is unpacked to disk."""

import logging
import tarfile
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath

from hfcap.data.folders import CAPTION_SUFFIXES, caption_lines
from hfcap.data.formats import PICTURE_SUFFIXES, unread_picture_fix
from hfcap.data.records import NO_CAPTIONS, SourceRow, is_captions, split_in, texts_of
from hfcap.errors import printable
from hfcap.json_files import check_image_id, json_type, parse_json

logger = logging.getLogger(__name__)


def read_webdataset(path: Path, captions_column: str | None = None) -> Iterator[SourceRow]:
    """Read a tar shard: members of one name up to the first dot are one sample, a picture and its captions.

    Captions stand in a `.txt` or `.caption` member, one per line, or in a `.json` member with the columns of JSONL; in
    that member where `captions_column` is given. Its split and prompt count in either case. Other members are counted
    and named. Source: the WebDataset format, https://github.com/webdataset/webdataset.

    Raises:
        ValueError: a sample without picture or captions, or that comes twice; a member that is no plain file.
    """
    passed_over: Counter[str] = Counter()
    seen: set[str] = set()
    try:
        with tarfile.open(path, "r|*") as archive:
            for key, members in groupby(_members(archive, path, passed_over), key=lambda member: member[0]):
                where = f"{path}, sample {printable(key)}"
                files: dict[str, bytes] = {}
                for _, name, data in members:
                    if name in files or key in seen:
                        raise ValueError(
                            f"{where}: member {printable(name)!r} comes after another {_of_name(name, files)}; "
                            "give each picture a name of its own"
                        )
                    files[name] = data
                seen.add(key)
                yield _sample(files, where, captions_column, passed_over)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a whole tar file ({error}); write it again") from error
    if passed_over:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in passed_over.items())
        logger.info("%s: passed over members that are no picture, text or JSON: %s", path, kinds)
    if not seen:
        logger.warning("%s: no samples in this tar file", path)


def _of_name(name: str, files: dict[str, bytes]) -> str:
    return "of the same name" if name in files else "sample of this name that ended before it"


def _members(archive: tarfile.TarFile, path: Path, passed_over: Counter[str]) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, name and content of each file in a tar."""
    for member in archive:
        archive.members = []  # tarfile remembers every header it has seen; a stream never goes back
        name = PurePosixPath(member.name)
        if member.isdir():
            continue
        if name.name.startswith("."):
            passed_over["hidden"] += 1
            continue
        if name.is_absolute() or ".." in name.parts or not member.isfile():
            raise ValueError(
                f"{path}, member {member.name!r}: a link, a device or a path outside; "
                "wanted plain files with relative paths"
            )
        yield str(name.parent / name.name.split(".", 1)[0]), member.name, archive.extractfile(member).read()


def _sample(files: dict[str, bytes], where: str, captions_column: str | None, passed_over: Counter[str]) -> SourceRow:
    by_suffix: dict[str, list[str]] = {"picture": [], "text": [], ".json": []}
    for name in files:
        suffix = PurePosixPath(name).suffix.lower()
        kind = "picture" if suffix in PICTURE_SUFFIXES else "text" if suffix in CAPTION_SUFFIXES else suffix
        by_suffix.setdefault(kind, []).append(name)
    pictures, texts, records = by_suffix.pop("picture"), by_suffix.pop("text"), by_suffix.pop(".json")
    has_captions = texts or records or captions_column == NO_CAPTIONS
    if len(pictures) != 1 or len(texts) > 1 or len(records) > 1 or not has_captions:
        fixes = "".join(
            f"; {suffix}: {unread_picture_fix(suffix)}" for suffix in by_suffix if unread_picture_fix(suffix)
        )
        raise ValueError(
            f"{where}: {', '.join(files)}; wanted one picture and one .txt, .caption or .json, "
            f"side by side in the tar{fixes}"
        )
    passed_over.update({suffix or "no suffix": len(names) for suffix, names in by_suffix.items()})
    image = {"bytes": files[pictures[0]], "path": pictures[0]}
    entry = parse_json(files[records[0]], f"{where}, {records[0]}") if records else {}
    if not isinstance(entry, dict):
        raise ValueError(f"{where}, {records[0]}: a JSON {json_type(entry)}; wanted an object")
    if texts and captions_column is None:
        entry = {name: value for name, value in entry.items() if not is_captions(name)}
        entry["captions"] = caption_lines(files[texts[0]], f"{where}, {texts[0]}")
    captions, prompt, roles = texts_of(entry, where, None, captions_column)
    image_id = check_image_id(entry[roles.image_id], where) if roles.image_id else None
    return SourceRow(image, captions, where, image_id, split_in(entry, roles), prompt)
