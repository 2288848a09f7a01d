"""Sources that the `datasets` library reads: folders of parquet, folders of `save_to_disk`, ids on the Hub."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from datasets import (
    Dataset,
    Features,
    IterableDataset,
    List,
    Value,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetGenerationError

from hfcap.data.folders import walk
from hfcap.data.records import (
    CAPTION_COLUMNS,
    NO_CAPTIONS,
    OTHER_CAPTIONS,
    SPLIT_NAMES,
    Roles,
    SourceRow,
    is_captions,
    roles_of,
    split_in,
    split_named,
    split_of_file,
    split_of_folders,
    texts_of,
)
from hfcap.data.shards import Shard
from hfcap.errors import shown
from hfcap.json_files import names_of

SAVED_SHARDS = 64  # parts of a data set that `save_to_disk` wrote

logger = logging.getLogger(__name__)


def read_with_datasets(
    source: str, split: str, image_column: str | None = None, captions_column: str | None = None
) -> Dataset:
    """Return one split with the columns `image`, `captions` (lists), `prompt` where there is one, and the others.

    Where the source has one split and a column `split`, the column tells the rows of each. Where it has several, a row
    whose column names another split than its own is an error.
    """
    dataset, wanted, roles = _choose(_open_all(source), source, split, image_column, captions_column)
    if wanted is not None:
        told = _told_splits(dataset, roles)
        _check_split(source, wanted, list(dict.fromkeys(told)))
        dataset = dataset.select([row for row, name in enumerate(told) if name == wanted])
    elif roles.split is not None:
        for row, told in enumerate(dataset[roles.split][:]):
            _check_agrees(split, {roles.split: told}, roles, f"{source}, {split}, row {row}")
    image_column = roles.image
    used = [name for name in (*roles.captions, roles.prompt) if name is not None]
    texts = dataset.select_columns(used)[:]
    captions, prompts = [], []
    for row in range(len(dataset)):
        entry = {name: texts[name][row] for name in used}
        found, prompt, _ = texts_of(entry, f"{source}, row {row}", captions_column=captions_column)
        captions.append(found)
        prompts.append(prompt)
    dataset = dataset.remove_columns(used)
    for name, own in (("image", image_column), ("image_id", roles.image_id), ("captions", None), ("prompt", None)):
        if own != name and name in dataset.column_names:
            logger.info("%s: column %r is left out; %s", source, name, f"{own or 'another column'} has its part")
            dataset = dataset.remove_columns(name)
        if own not in (None, name):
            dataset = dataset.rename_column(own, name)
    dataset = dataset.add_column("captions", captions, feature=List(Value("string")))
    return dataset.add_column("prompt", prompts, feature=Value("string")) if any(prompts) else dataset


def shards_with_datasets(
    source: str, split: str, image_column: str | None = None, captions_column: str | None = None
) -> list[Shard]:
    """List the shards of one split, as `datasets` finds them; their pictures stay undecoded.

    A folder of `save_to_disk` is mapped into memory, where every part is equally near.
    """
    splits, files = _stream_all(source)
    stream, wanted, roles = _choose(splits, source, split, image_column, captions_column)
    if isinstance(stream, Dataset):
        stream = stream.to_iterable_dataset(num_shards=max(1, min(len(stream), SAVED_SHARDS)))
    stream = stream.cast_column(roles.image, ImageFeature(decode=False))
    count = stream.num_shards
    names = files.get(split, [])
    shards = []
    for index in range(count):
        name = source if count == 1 else f"{source}, shard {index + 1} of {count}"
        if len(names) == count > 1:
            name = names[index]
        rows = partial(_rows_of_part, stream, index, name, split, wanted, roles, captions_column)
        shards.append(Shard(name, rows))
    return shards


def _rows_of_part(
    stream: IterableDataset,
    index: int,
    name: str,
    split: str,
    wanted: str | None,
    roles: Roles,
    captions_column: str | None,
) -> Iterator[SourceRow]:
    part = stream.shard(stream.num_shards, index)
    # Not `iter(part)`: in a loader process that would divide the shard among all loader processes once more.
    for number, batch in enumerate(part.iter(batch_size=1)):
        entry, where = {column: values[0] for column, values in batch.items()}, f"{name}, row {number}"
        if wanted is None:
            _check_agrees(split, entry, roles, where)
        elif (split_in(entry, roles) or "train") != wanted:
            continue
        image_id = entry[roles.image_id] if roles.image_id else None
        if roles.image_id and image_id in (None, ""):
            raise ValueError(f"{where}: no image_id; add one to each row")
        texts = {column: entry[column] for column in (*roles.captions, roles.prompt) if column is not None}
        captions, prompt, _ = texts_of(texts, where, captions_column=captions_column)
        yield SourceRow(
            entry[roles.image], captions, where, None if image_id is None else str(image_id), prompt=prompt
        )


def splits_with_datasets(
    source: str, image_column: str | None = None, captions_column: str | None = None
) -> list[str]:
    """Return the names of the source's splits."""
    splits = _open_all(source)
    only = next(iter(splits.values()))
    roles = _roles(only.features, source, image_column, captions_column)
    if len(splits) == 1 and roles.split is not None:
        return list(dict.fromkeys(_told_splits(only, roles)))
    return list(splits)


def _told_splits(dataset: Dataset, roles: Roles) -> list[str]:
    return [split_in({roles.split: told}, roles) or "train" for told in dataset[roles.split][:]]


def _check_agrees(split: str, entry: Mapping[str, Any], roles: Roles, where: str) -> None:
    """Raise ValueError where a row's column names another split than the one of several that the row is in."""
    told = split_in(entry, roles)
    if told is not None and split_named(split) in SPLIT_NAMES and told != split_named(split):
        raise ValueError(
            f"{where}: the column {roles.split} is {shown(told)}, but the row is in the split {split!r}; remove the "
            "column, or give all files names without a split, so that the column tells it"
        )


def _choose(
    splits: Mapping[str, Dataset | IterableDataset],
    source: str,
    split: str,
    image_column: str | None,
    captions_column: str | None,
) -> tuple[Dataset | IterableDataset, str | None, Roles]:
    """Return the split, None and the columns' parts, or everything and the split's name where a column has to tell."""
    only = next(iter(splits.values()))
    rows = only if len(splits) == 1 else splits.get(split, only)
    if rows.features is None:  # a source that does not say; the first rows do
        rows = rows._resolve_features()
    told = len(splits) == 1 and roles_of(tuple(rows.features), image_column, captions_column).split is not None
    if not told:
        _check_split(source, split, list(splits))
    return rows, split_named(split) if told else None, _roles(rows.features, source, image_column, captions_column)


def _open_all(source: str) -> Mapping[str, Dataset]:
    with _one_line_errors(source):
        saved = _saved(source)
        path, options = _loader(source)
        found = load_dataset(path, streaming=False, **options) if saved is None else saved
    return found if isinstance(found, Mapping) else {str(found.split or "train"): found}


def _stream_all(source: str) -> tuple[Mapping[str, Dataset | IterableDataset], Mapping[str, list[str]]]:
    """Return the splits, and the files of each where `datasets` tells them."""
    with _one_line_errors(source):
        saved = _saved(source)
        if saved is not None:
            return saved if isinstance(saved, Mapping) else {str(saved.split or "train"): saved}, {}
        path, options = _loader(source)
        builder = load_dataset_builder(path, **options)  # what load_dataset(streaming=True) uses
        splits = builder.as_streaming_dataset()
    return splits, {str(name): list(files) for name, files in (builder.config.data_files or {}).items()}


def _saved(source: str) -> Dataset | Mapping[str, Dataset] | None:
    path = Path(source).expanduser()
    is_saved = (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
    return load_from_disk(str(path)) if is_saved else None


def _loader(source: str) -> tuple[str, dict[str, Any]]:
    """Return the path and the options of `load_dataset` for a file, a folder or an id on the Hub."""
    path = Path(source).expanduser()
    if path.is_file():
        return path.suffix[1:].lower(), {"data_files": {split_of_file(path) or "train": str(path)}}
    if files := _parquet_among_others(path):
        return "parquet", {"data_files": files}
    # Absolute, because "parquet" or "csv" alone would name a builder of `datasets` and not the folder here.
    return (str(path.absolute()) if path.is_dir() else source), {}


@contextmanager
def _one_line_errors(source: str) -> Iterator[None]:
    path = Path(source).expanduser()
    try:
        yield
    except DatasetGenerationError as error:
        cause = str(error.__cause__ or error).split("\n", 1)[0]
        raise ValueError(f"{source} cannot be read: {cause} (the full reason is above)") from error
    except (
        LookupError,
        TypeError,
        RecursionError,
    ) as error:  # load_from_disk on files of others
        raise ValueError(f"{source} cannot be read: its files are not as datasets writes them ({error!r})") from error
    # FileNotFoundError covers datasets' DatasetNotFoundError and EmptyDatasetError, OSError the network's errors.
    except OSError as error:
        where = "" if path.exists() else f"there is no folder {path.absolute()}, and from the Hub: "
        raise ValueError(f"{source} cannot be loaded: {where}{error}") from error


def _parquet_among_others(path: Path) -> dict[str, list[str]] | None:
    """Return the parquet files of a folder by split where files of other kinds are more: `datasets` reads the most."""
    folder = path.parent if path.name == "*.parquet" else path
    if not folder.is_dir():
        return None
    files = [parent / name for parent, names in walk(folder) for name in names]
    parquet = [file for file in files if file.suffix.lower() == ".parquet"]
    if not parquet or (folder == path and len({file.suffix for file in files} - {".md", ".json"}) == 1):
        return None
    by_split: dict[str, list[str]] = {}
    for file in parquet:
        split = split_of_folders(file.relative_to(folder).parts[:-1]) or split_of_file(file) or "train"
        by_split.setdefault(split, []).append(str(file))
    return by_split


def _check_split(source: str, split: str, there: list[str]) -> None:
    if split not in there:
        raise ValueError(
            f"{source} has no split {split!r}; it has: {', '.join(there)}. "
            "`hfcap data split` makes splits; to read another one, name it (recipes: --train_split, --eval_split; "
            "hfcap score: --split)"
        )


def _image_column(features: Features, source: str, image_column: str | None) -> str:
    pictures = [name for name, kind in features.items() if isinstance(kind, ImageFeature)]
    if image_column is not None and image_column not in pictures:
        raise ValueError(f"{source} has no column {image_column!r} of type Image{_there(features)}")
    if image_column is None and not pictures:
        raise ValueError(f"{source} has no column of type Image{_there(features)}")
    if image_column is None and len(pictures) > 1 and "image" not in pictures:
        raise ValueError(f"{source} has {len(pictures)} columns of type Image: set image_column{_there(features)}")
    return image_column or ("image" if "image" in pictures else pictures[0])


def _roles(features: Features, source: str, image_column: str | None, captions_column: str | None) -> Roles:
    """Tell which column plays which part; that of the pictures by its type."""
    if image_column is None or image_column != captions_column:
        image_column = _image_column(features, source, image_column)
    try:
        roles = roles_of(tuple(features), image_column, captions_column)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    if captions_column == NO_CAPTIONS:
        return roles
    others = [name for name in features if name not in roles.used and is_captions(name)]
    if roles.captions:
        if others and captions_column is None:
            logger.info(OTHER_CAPTIONS, source, names_of(others))
        return roles
    if captions_column is not None:
        raise ValueError(f"{source} has no column {captions_column!r}{_there(features)}")
    looked_for = ", ".join(("messages", *CAPTION_COLUMNS))
    raise ValueError(f"{source} has no column of captions ({looked_for}): set captions_column{_there(features)}")


def _there(features: Features) -> str:
    return "; it has: " + ", ".join(f"{name} ({_type_name(kind)})" for name, kind in features.items())


def _type_name(kind: object) -> str:
    return kind.dtype if isinstance(kind, Value) else re.sub(r"\(.*", "", repr(kind))
