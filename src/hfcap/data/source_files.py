"""Caption files of a source: format and split of each."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hfcap.counts import counted
from hfcap.data.folders import (
    OTHER,
    captioned_pictures,
    is_picture,
    passed_over_text,
    read_sidecars,
    walk,
    why_not_read,
)
from hfcap.data.readers import check_no_columns, place_pictures, read_csv, read_json_captions, read_json_lines
from hfcap.data.records import (
    OTHER_CAPTIONS,
    SourceRow,
    is_captions,
    split_named,
    split_of_file,
    split_of_folders,
    split_word,
)
from hfcap.data.shards import Shard
from hfcap.data.tars import read_webdataset
from hfcap.errors import shown
from hfcap.json_files import names_of

logger = logging.getLogger(__name__)

TABLE_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".json")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
DATASETS_SUFFIXES = (".parquet", ".arrow")
METADATA_NAMES = ("metadata.jsonl", "metadata.csv")


OWN_NAMES = {"check.json", "check.html", "split.json"}  # what `hfcap data` writes beside captions
TEXTS_LOOKED_INTO = 20  # text files without a picture that may be a table; folders of captions hold more


@dataclass(frozen=True)
class SourceFile:
    """A file with captions, or a folder with sidecar files, and the split that its name tells (None: its rows may)."""

    path: Path
    split: str | None


@dataclass(frozen=True)
class Contents:
    """What is read of a source, and what is not.

    Attributes:
        files: files with captions; None where `datasets` reads the source.
        what: what is read, in words.
        passed_over: files of the folder that are not read, by the reason.
        pictures: pictures of the folder, for files of captions that may or may not name each.
    """

    files: list[SourceFile] | None
    what: str = ""
    passed_over: dict[str, list[Path]] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)


def contents_of(source: Path) -> Contents:
    """Find the files to read in a file or a folder; with `*.SUFFIX` behind a folder, those of this suffix only.

    In a folder, the first kind that is there counts: what `datasets` wrote or reads (parquet, Arrow), `metadata.jsonl`
    or `.csv` in any subfolder, tar shards in any subfolder, tables of captions at the top, pictures with sidecar
    files. What only describes pictures steps back: img2dataset's parquet and `_stats.json`, a JSON file beside a
    picture of its name, and, where there are pictures with sidecar files, parquet without pictures and tables whose
    columns are not recognised.

    Raises:
        ValueError: a file of an unknown kind; a folder with several files of captions for one split, with two metadata
            files, or with nothing to read.
    """
    if source.is_file():
        if source.name.lower().endswith(DATASETS_SUFFIXES):
            return Contents(None)
        if not source.name.lower().endswith((*TABLE_SUFFIXES, ".txt", *TAR_SUFFIXES)):
            raise ValueError(
                f"{source} is a file of an unknown kind; wanted {', '.join((*TABLE_SUFFIXES, '.tar', '.parquet'))}"
            )
        return Contents([SourceFile(source, split_of_file(source))])
    only = source.name[1:].lower() if source.name.startswith("*.") else None
    folder = source if only is None else source.parent
    not_walked: dict[str, list[Path]] = {}
    files = [parent / name for parent, names in sorted(walk(folder, not_walked)) for name in names]
    beside = captioned_pictures(files)
    kind, found = _chosen(folder, files, beside, only)
    read = set(beside) if kind == "sidecars" else {file.path for file in found or ()}
    if kind == "datasets":
        read = {path for path in files if path.name.endswith((*DATASETS_SUFFIXES, ".json"))}
    passed_over = _passed_over(files, read, folder, kind, beside) | not_walked
    if kind == "sidecars" and found is None:
        raise ValueError(_nothing_to_read(folder, files, passed_over))
    if kind != "datasets":
        _check_split_words({path.parent.relative_to(folder) for path in read}, folder)
    pictures = [path for path in files if is_picture(path)] if kind == "tables" else []
    return Contents(found, _in_words(kind, found, folder), passed_over, pictures)


def _check_split_words(parents: set[Path], folder: Path) -> None:
    """Raise ValueError where two words mean one split: `val` and `dev` would become one set of validation."""
    places: dict[str, dict[str, Path]] = {}
    for parent in sorted(parents):
        word = split_word(parent.parts)
        if word is not None and word != "restval":  # which Karpathy's splits add to the training set
            places.setdefault(split_named(word), {}).setdefault(word, parent)
    for split, found in places.items():
        if len(found) > 1:
            names = " and ".join(str(folder / parent) for parent in found.values())
            raise ValueError(f"{names} would both be the split {split!r}; rename one of the two, or move it elsewhere")


def _passed_over(
    files: list[Path], read: set[Path], folder: Path, kind: str, beside: Mapping[Path, Path]
) -> dict[str, list[Path]]:
    passed_over: dict[str, list[Path]] = {}
    stems = {path.with_suffix("") for path in files if is_picture(path)}
    records = _download_records(files, beside)
    for path in files:
        if path in read:
            continue
        reason = None if path.name in OWN_NAMES else why_not_read(path, kind, beside)
        if path in beside:
            reason = f"text files with the name of a picture: to read them, pass '{folder}/*{path.suffix.lower()}'"
        elif path.suffix.lower() == ".json" and path.with_suffix("") in stems:
            reason = "JSON files with the name of a picture"
        elif path in records:
            reason = "img2dataset's records of its downloads"
        elif reason == OTHER and path.name.lower().endswith((*TABLE_SUFFIXES, ".parquet")):
            reason = "tables: to read one, pass its path"
        if reason is not None:
            passed_over.setdefault(reason, []).append(path)
    return passed_over


def _chosen(
    folder: Path, files: list[Path], beside: Mapping[Path, Path], only: str | None
) -> tuple[str, list[SourceFile] | None]:
    """Return the kind of captions that counts, and its files (None: those that `datasets` reads, or none at all)."""
    wanted = [path for path in files if only is None or path.name.lower().endswith(only)]
    tars = [path for path in wanted if path.name.lower().endswith(TAR_SUFFIXES)]
    described = _download_records(files, beside)
    if any(_is_for_datasets(path, described, beside) for path in wanted):
        return "datasets", None
    metadata = [path for path in wanted if path.name.lower() in METADATA_NAMES]
    if metadata:
        _check_one_a_folder(metadata, folder)
        return "tables", [SourceFile(path, split_of_folders(path.relative_to(folder).parts[:-1])) for path in metadata]
    if tars:
        folders = [split_of_folders(path.relative_to(folder).parts[:-1]) for path in tars]
        return "tars", [
            SourceFile(path, part or split_of_file(path)) for path, part in zip(tars, folders, strict=True)
        ]
    tables = [path for path in wanted if path.parent == folder and path.name.lower().endswith(TABLE_SUFFIXES)]
    tables = _tables_of_captions(tables, files, beside, only is not None)
    if not tables and not beside:
        orphans = [path for path in wanted if path.parent == folder and path.suffix.lower() == ".txt"]
        tables = [path for path in orphans if _holds_captions(path)] if len(orphans) <= TEXTS_LOOKED_INTO else []
    if tables:
        return "tables", _one_table_a_split(tables, folder)
    texts = [path for path in beside if only is None or path.suffix.lower() == only]
    return "sidecars", [SourceFile(folder, None)] if texts else None


def _check_one_a_folder(metadata: list[Path], source: Path) -> None:
    """Raise ValueError where one folder has two metadata files: each picture would get its captions twice."""
    by_folder: dict[Path, Path] = {}
    for path in metadata:
        other = by_folder.setdefault(path.parent, path)
        if other != path:
            raise ValueError(
                f"{path.parent} has both {other.name} and {path.name}; remove one of the two, or read one with "
                f"'{source}/*{path.suffix.lower()}'"
            )


def _download_records(files: list[Path], beside: Mapping[Path, Path]) -> set[Path]:
    """Return the tables of img2dataset about its downloads: `00000.parquet` and `00000_stats.json` of each shard."""
    shards = {path.with_suffix("") for path in files if path.name.lower().endswith(TAR_SUFFIXES)}
    shards |= {path.parent for path in beside}
    return {Path(f"{shard}{end}") for shard in shards for end in (".parquet", "_stats.json")}


def _is_for_datasets(path: Path, described: set[Path], beside: Mapping[Path, Path]) -> bool:
    if path.name == "dataset_dict.json" or path.suffix == ".arrow":
        return True
    return path.suffix == ".parquet" and path not in described and (not beside or _has_pictures(path))


def _has_pictures(parquet: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return b'"Image"' in (pq.read_schema(parquet).metadata or {}).get(b"huggingface", b"")
    except (OSError, pa.ArrowException):
        return True  # `datasets` says what is wrong with it


def _tables_of_captions(
    tables: list[Path], files: list[Path], beside: Mapping[Path, Path], chosen: bool
) -> list[Path]:
    """Leave out tables at the top of a folder that do not hold captions of it, as far as can be told."""
    names = {path.name for path in files}
    stems = {path.with_suffix("") for path in files if is_picture(path)}

    def is_table(path: Path) -> bool:
        of_own = path.name in OWN_NAMES and (path.name != "check.json" or "check.html" in names)
        stats = path.name.endswith("_stats.json")  # img2dataset's
        return not (of_own or stats or (path.suffix.lower() == ".json" and path.with_suffix("") in stems))

    found = [path for path in tables if is_table(path)]
    return [path for path in found if _holds_captions(path)] if beside and not chosen else found


def _holds_captions(path: Path) -> bool:
    """Tell whether the first row of a table has a picture's path and captions in columns that are recognised."""
    try:
        return next(_table_reader(path)(path, None, None), None) is not None
    except ValueError:
        return False


def _nothing_to_read(folder: Path, files: list[Path], passed_over: Mapping[str, list[Path]]) -> str:
    others = f" (not read: {'; '.join(passed_over_text(passed_over))})" if passed_over else ""
    if not any(map(is_picture, files)):
        return f"{folder} cannot be loaded: neither captions nor pictures in it{others}"
    return (
        f'{folder} cannot be loaded: pictures without captions; write metadata.jsonl ({{"file_name", "captions"}} '
        f"per line) or a .txt file beside each picture{others}"
    )


def _in_words(kind: str, found: list[SourceFile] | None, folder: Path) -> str:
    if kind == "datasets":
        return "parquet or Arrow files"
    if kind == "sidecars":
        return "pictures and the text files beside them"
    names = [str(file.path.relative_to(folder)) for file in found or ()]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def read_caption_files(
    files: list[SourceFile],
    split: str,
    image_folder: str | None = None,
    image_column: str | None = None,
    captions_column: str | None = None,
) -> Iterator[SourceRow]:
    """Yield the rows of one split.

    Raises:
        ValueError: the split is not there, naming those that are; a row says another split than its file's name;
            whatever the readers find.
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
            own_split = _split_of_row(row, file)
            there[own_split] = None
            if own_split == split:
                found = True
                _check_names(row)
                yield row
    if others:
        logger.info(OTHER_CAPTIONS, files[0].path, names_of(others))
    if not found:
        if split in there:
            empty = next(file.path for file in files if file.split == split)
            raise ValueError(f"{empty} has no rows, and so the split {split!r} has none; add pictures with captions")
        names = f"{files[0].path} has" if len(files) == 1 else f"the {len(files)} files beside {files[0].path} have"
        raise ValueError(
            f"{names} no split {split!r}; it has: {', '.join(there) or 'no rows'}. "
            "`hfcap data split` makes splits; to read another one, name it (recipes: --train_split, --eval_split; "
            "hfcap score: --split)"
        )


def _split_of_row(row: SourceRow, file: SourceFile) -> str:
    """Return the split of a row. Raises ValueError where its column and the file's name, or its folder's, disagree."""
    if file.split is not None and row.split not in (None, file.split):
        raise ValueError(
            f"{row.where}: split is {shown(row.split)}, and the name of the file or of its folder says "
            f"{file.split!r}; rename it, so that the column tells the split, or remove the column"
        )
    return file.split or row.split or "train"


def shards_of_files(files: list[SourceFile], split: str, *columns: str | None) -> list[Shard]:
    """List the shards of one split: each tar file is one; other files, which are read together, are one.

    Tar files whose names tell no split are shards of "train"; for another split they are read together, so that it is
    noticed where none of them has it. `split` and `columns` are as for `read_caption_files`.
    """
    of_split = [file for file in files if file.split in (None, split)]
    are_tars = all(file.path.name.lower().endswith(TAR_SUFFIXES) for file in of_split)
    if are_tars and len(of_split) > 1 and (split == "train" or all(file.split for file in of_split)):
        return [Shard(str(file.path), partial(_rows_of_split, file, split, *columns)) for file in of_split]
    name = (
        str(files[0].path) if len(files) == 1 else f"{files[0].path} and {counted(len(files) - 1, 'file')} beside it"
    )
    return [Shard(name, partial(read_caption_files, files, split, *columns))]


def _rows_of_split(file: SourceFile, split: str, *columns: str | None) -> Iterator[SourceRow]:
    for row in _reader_of(file.path)(file.path, *columns):
        if _split_of_row(row, file) == split:
            _check_names(row)
            yield row


def splits_of_files(files: list[SourceFile], *columns: str | None) -> list[str]:
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
    read = _table_reader(path)
    return lambda file, image_folder, *columns: place_pictures(read(file, *columns), file, image_folder)


def _table_reader(path: Path) -> Callable[..., Iterator[SourceRow]]:
    suffix = path.suffix.lower()
    return read_json_captions if suffix == ".json" else read_json_lines if "json" in suffix else read_csv


def _read_sidecars(folder: Path, _: str | None = None, *columns: str | None) -> Iterator[SourceRow]:
    check_no_columns(f"pictures of {folder} and their text files have no columns", *(columns or (None, None)))
    return read_sidecars(folder)


def _read_webdataset(
    shard: Path, _: str | None = None, image_column: str | None = None, captions_column: str | None = None
) -> Iterator[SourceRow]:
    check_no_columns(f"{shard} has its pictures as files", image_column, None)
    return read_webdataset(shard, captions_column)


def _one_table_a_split(tables: list[Path], source: Path) -> list[SourceFile]:
    """Choose files whose names tell a split, else the only file; COCO's other annotations (instances) step back."""
    named = [SourceFile(path, split_of_file(path)) for path in tables]
    named = [file for file in named if file.split is not None] or named
    chosen = []
    for split in dict.fromkeys(file.split for file in named):
        of_split = [file for file in named if file.split == split]
        captions = [file for file in of_split if file.path.name.startswith("captions")] or of_split
        if len(captions) > 1:
            names = ", ".join(file.path.name for file in captions)
            raise ValueError(
                f"{source} has {len(captions)} files of captions for {split or 'one'} split: {names}; pass one of "
                "them, or let their names say train, validation and test"
            )
        chosen += captions
    return chosen
