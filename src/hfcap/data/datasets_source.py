"""Sources that the `datasets` library reads: folders of parquet, folders of `save_to_disk`, ids on the Hub."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from datasets import Dataset, Features, IterableDataset, List, Value, load_dataset, load_from_disk
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetGenerationError

from hfcap.data.records import CAPTION_COLUMNS, SourceRow, caption_columns, split_named, split_of_file, texts_of


def read_with_datasets(
    source: str, split: str, image_column: str | None = None, captions_column: str | None = None
) -> Dataset:
    """Return one split with the columns `image`, `captions` (lists), `prompt` where there is one, and the others.

    Where the source has one split and a column `split`, the column tells the rows of each.
    """
    dataset, wanted = _open(source, split, streaming=False)
    if wanted is not None:
        told = dataset["split"][:]
        _check_split(source, wanted, list(dict.fromkeys(split_named(str(name)) for name in told)))
        dataset = dataset.select([row for row, name in enumerate(told) if split_named(str(name)) == wanted])
    image_column = _image_column(dataset.features, source, image_column)
    columns = _caption_columns(dataset.features, source, captions_column)
    used = [name for name in (*columns, "prompt") if name in dataset.column_names]
    texts = dataset.select_columns(used)[:]
    captions, prompts = [], []
    for row in range(len(dataset)):
        entry = {name: texts[name][row] for name in used}
        found, prompt, _ = texts_of(entry, captions_column, f"{source}, row {row}")
        captions.append(found)
        prompts.append(prompt)
    if image_column != "image":
        dataset = dataset.remove_columns(["image"] if "image" in dataset.column_names else [])
        dataset = dataset.rename_column(image_column, "image")
    dataset = dataset.remove_columns([name for name in dataset.column_names if name in (*used, "captions")])
    dataset = dataset.add_column("captions", captions, feature=List(Value("string")))
    return dataset.add_column("prompt", prompts, feature=Value("string")) if any(prompts) else dataset


def stream_with_datasets(
    source: str, split: str, image_column: str | None = None, captions_column: str | None = None
) -> Iterator[SourceRow]:
    """Yield the rows of one split, one at a time, with pictures undecoded."""
    stream, wanted = _open(source, split, streaming=True)
    if stream.features is None:  # a source that does not say; the first rows do
        stream = stream._resolve_features()
    image_column = _image_column(stream.features, source, image_column)
    _caption_columns(stream.features, source, captions_column)
    stream = stream.cast_column(image_column, ImageFeature(decode=False))
    for number, entry in enumerate(stream):
        where = f"{source}, row {number}"
        if wanted is not None and split_named(str(entry["split"])) != wanted:
            continue
        image_id = entry.get("image_id")
        if "image_id" in entry and image_id in (None, ""):
            raise ValueError(f"{where}: no image_id; give each row one")
        captions, prompt, _ = texts_of(entry, captions_column, where)
        yield SourceRow(
            entry[image_column], captions, where, None if image_id is None else str(image_id), prompt=prompt
        )


def splits_with_datasets(source: str) -> list[str]:
    """Return the names of the source's splits."""
    splits = _open_all(source, streaming=False)
    only = next(iter(splits.values()))
    if len(splits) == 1 and "split" in only.column_names:
        return list(dict.fromkeys(split_named(str(name)) for name in only["split"]))
    return list(splits)


def _open(source: str, split: str, streaming: bool) -> tuple[Dataset | IterableDataset, str | None]:
    """Return the split and None, or everything and the split's name where a column `split` has to tell its rows."""
    splits = _open_all(source, streaming)
    only = next(iter(splits.values()))
    if len(splits) == 1 and "split" in (only.column_names or []):
        return only, split_named(split)
    _check_split(source, split, list(splits))
    return splits[split], None


def _open_all(source: str, streaming: bool) -> Mapping[str, Dataset | IterableDataset]:
    path = Path(source).expanduser()
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            found = load_from_disk(str(path))
        elif path.is_file():
            data_files = {split_of_file(path) or "train": str(path)}
            found = load_dataset(path.suffix[1:].lower(), data_files=data_files, streaming=streaming)
        else:
            # Absolute, because "parquet" or "csv" alone would name a builder of `datasets` and not the folder here.
            found = load_dataset(str(path.absolute()) if path.is_dir() else source, streaming=streaming)
    except DatasetGenerationError as error:
        cause = str(error.__cause__ or error).split("\n", 1)[0]
        raise ValueError(f"{source} cannot be read: {cause} (the full reason is above)") from error
    # FileNotFoundError covers datasets' DatasetNotFoundError and EmptyDatasetError, OSError the network's errors.
    except OSError as error:
        where = "" if path.exists() else f"there is no folder {path.absolute()}, and from the Hub: "
        raise ValueError(f"{source} cannot be loaded: {where}{error}") from error
    return found if isinstance(found, Mapping) else {str(found.split or "train"): found}


def _check_split(source: str, split: str, there: list[str]) -> None:
    if split not in there:
        raise ValueError(
            f"{source} has no split {split!r}; it has: {', '.join(there)}. "
            "`hfcap data split` makes splits; --train_split and --eval_split name others"
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


def _caption_columns(features: Features, source: str, captions_column: str | None) -> list[str]:
    columns = caption_columns(features, captions_column)
    if columns:
        return columns
    if captions_column is not None:
        raise ValueError(f"{source} has no column {captions_column!r}{_there(features)}")
    looked_for = ", ".join(("messages", *CAPTION_COLUMNS))
    raise ValueError(f"{source} has no column of captions ({looked_for}): set captions_column{_there(features)}")


def _there(features: Features) -> str:
    return "; it has: " + ", ".join(f"{name} ({_type_name(kind)})" for name, kind in features.items())


def _type_name(kind: object) -> str:
    return kind.dtype if isinstance(kind, Value) else re.sub(r"\(.*", "", repr(kind))
