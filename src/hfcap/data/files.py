"""Which files of a source hold captions, in which format, of which split."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hfcap.data.readers import (
    CAPTION_SUFFIXES,
    PICTURE_SUFFIXES,
    check_no_columns,
    place_pictures,
    read_csv,
    read_json_captions,
    read_json_lines,
    read_sidecars,
    read_webdataset,
    walk,
)
from hfcap.data.records import OTHER_CAPTIONS, SourceRow, is_captions, split_of_file, split_of_folders
from hfcap.json_files import names_of

logger = logging.getLogger(__name__)

TABLE_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".json")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
DATASETS_SUFFIXES = (".parquet", ".arrow")
METADATA_NAMES = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class CaptionFile:
    """A file with captions, or a folder with sidecar files, and the split that its name tells (None: its rows may)."""

    path: Path
    split: str | None


def find_caption_files(source: Path) -> list[CaptionFile] | None:
    """Find the files to read; None where the source is one that `datasets` reads.

    In a folder, the first kind that is there counts: what `datasets` wrote or reads (parquet, Arrow), `metadata.jsonl`
    or `.csv` in any subfolder, tar shards in any subfolder, files of captions at the top, pictures with sidecar files.
    Parquet with a tar of the same name beside it is what img2dataset writes: the tar counts.

    Raises:
        ValueError: a file of an unknown kind; a folder with several files of captions for one split, or none at all.
    """
    if source.is_file():
        if source.name.lower().endswith(DATASETS_SUFFIXES):
            return None
        if not source.name.lower().endswith((*TABLE_SUFFIXES, ".txt", *TAR_SUFFIXES)):
            raise ValueError(
                f"{source} is a file of an unknown kind; wanted {', '.join((*TABLE_SUFFIXES, '.tar', '.parquet'))}"
            )
        return [CaptionFile(source, split_of_file(source))]
    files = [parent / name for parent, names in sorted(walk(source)) for name in names]
    tars = [path for path in files if path.name.lower().endswith(TAR_SUFFIXES)]
    described = {path.with_suffix(".parquet") for path in tars}
    others = [path for path in files if path not in described]
    if any(path.name.endswith(DATASETS_SUFFIXES) or path.name == "dataset_dict.json" for path in others):
        return None
    metadata = [path for path in files if path.name in METADATA_NAMES]
    if metadata:
        return [CaptionFile(path, split_of_folders(path.relative_to(source).parts[:-1])) for path in metadata]
    if tars:
        folders = [split_of_folders(path.relative_to(source).parts[:-1]) for path in tars]
        return [CaptionFile(path, folder or split_of_file(path)) for path, folder in zip(tars, folders, strict=True)]
    tables = [path for path in files if path.parent == source and path.name.lower().endswith(TABLE_SUFFIXES)]
    # `hfcap data check X --output X` leaves its findings there.
    tables = [path for path in tables if path.name != "check.json" or not path.with_suffix(".html").exists()]
    if tables:
        return _one_table_a_split(tables, source)
    if not any(path.suffix.lower() in PICTURE_SUFFIXES for path in files):
        raise ValueError(f"{source} cannot be loaded: neither captions nor pictures in it")
    if not any(path.suffix.lower() in CAPTION_SUFFIXES for path in files):
        raise ValueError(
            f'{source} cannot be loaded: pictures without captions; write metadata.jsonl ({{"file_name", "captions"}} '
            "a line) or a .txt file beside each picture"
        )
    return [CaptionFile(source, None)]


def read_caption_files(
    files: list[CaptionFile],
    split: str,
    image_folder: str | None = None,
    image_column: str | None = None,
    captions_column: str | None = None,
) -> Iterator[SourceRow]:
    """Yield the rows of one split.

    Raises:
        ValueError: the split is not there, naming those that are; whatever the readers find.
    """
    there: dict[str, None] = {}
    others: dict[str, None] = {}
    found = False
    for file in files:
        if file.split is not None:
            there[file.split] = None
            if file.split != split:
                continue
        for row in _reader_of(file.path)(file.path, image_folder, image_column, captions_column):
            if captions_column is None:
                others |= dict.fromkeys(name for name in row.extra if is_captions(name))
            own_split = file.split or row.split or "train"
            there[own_split] = None
            if own_split == split:
                found = True
                _check_names(row)
                yield row
    if others:
        logger.info(OTHER_CAPTIONS, files[0].path, names_of(others))
    if not found:
        names = f"{files[0].path} has" if len(files) == 1 else f"the {len(files)} files beside {files[0].path} have"
        raise ValueError(
            f"{names} no split {split!r}; it has: {', '.join(there) or 'no rows'}. "
            "`hfcap data split` makes splits; --train_split and --eval_split name others"
        )


def splits_of_files(files: list[CaptionFile], *columns: str | None) -> list[str]:
    """Return the names of the splits, in the order they are met; `columns` as for `read_caption_files`."""
    found: dict[str, None] = {}
    for file in files:
        rows = [] if file.split else _reader_of(file.path)(file.path, *columns)
        found |= dict.fromkeys([file.split] if file.split else [row.split or "train" for row in rows])
    return list(found)


def _check_names(row: SourceRow) -> None:
    for name in (row.image if isinstance(row.image, str) else row.image["path"], row.where):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name!r}: the name is not UTF-8; rename the file") from None


def _reader_of(path: Path) -> Callable[..., Iterator[SourceRow]]:
    if path.is_dir():
        return _read_sidecars
    if path.name.lower().endswith(TAR_SUFFIXES):
        return _read_webdataset
    suffix = path.suffix.lower()
    read = read_json_captions if suffix == ".json" else read_json_lines if "json" in suffix else read_csv
    return lambda file, image_folder, *columns: place_pictures(read(file, *columns), file, image_folder)


def _read_sidecars(folder: Path, _: str | None = None, *columns: str | None) -> Iterator[SourceRow]:
    check_no_columns(f"pictures of {folder} and their text files have no columns", *(columns or (None, None)))
    return read_sidecars(folder)


def _read_webdataset(
    shard: Path, _: str | None = None, image_column: str | None = None, captions_column: str | None = None
) -> Iterator[SourceRow]:
    check_no_columns(f"{shard} has its pictures as files", image_column, None)
    return read_webdataset(shard, captions_column)


def _one_table_a_split(tables: list[Path], source: Path) -> list[CaptionFile]:
    """Choose files whose names tell a split, else the only file; COCO's other annotations (instances) step back."""
    named = [CaptionFile(path, split_of_file(path)) for path in tables]
    named = [file for file in named if file.split is not None] or named
    chosen = []
    for split in dict.fromkeys(file.split for file in named):
        of_split = [file for file in named if file.split == split]
        captions = [file for file in of_split if file.path.name.startswith("captions")] or of_split
        if len(captions) > 1:
            names = ", ".join(file.path.name for file in captions)
            raise ValueError(
                f"{source} has {len(captions)} files of captions for {split or 'one'} split: {names}; give one of "
                "them, or let their names say train, validation and test"
            )
        chosen += captions
    return chosen
