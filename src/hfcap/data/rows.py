"""Grouping of source rows: ids, caption lists, one row per image (and prompt)."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature

from hfcap.counts import counted
from hfcap.data.picture_checks import (
    CHUNK_SIZE,
    MAX_PIXELS,
    NO_PICTURE,
    bad_picture,
    bad_picture_text,
    content_hashes,
    picture_hash,
    why_bad_picture,
)
from hfcap.data.records import SourceRow, is_blank
from hfcap.errors import printable, shown

PAIRED = ("chosen", "rejected")  # columns of preference training, whose texts are joined as captions are
WHERE = "where_it_stands"  # column with file and line, there until the pictures are checked
TEXT = Value("string")
STREAM_FEATURES = Features({"image_id": TEXT, "image": ImageFeature(), "captions": List(TEXT), "prompt": TEXT})


def dataset_of(rows: Iterable[SourceRow]) -> Dataset:
    """Put the rows of a reader into a data set of `image`, `captions`, `prompt` if any has one, and the other columns.

    A column that Arrow cannot hold (values of several types, integers above 64 bits), or whose name another has taken,
    is left out with a warning.
    """
    rows = list(rows)
    columns = {
        "image": ([_undecoded(row.image) for row in rows], ImageFeature()),
        "captions": ([row.captions for row in rows], List(Value("string"))),
        WHERE: ([row.where for row in rows], Value("string")),
    }
    if any(row.image_id is not None for row in rows):
        missing = next((row for row in rows if row.image_id is None), None)
        if missing is not None:
            raise ValueError(f"{missing.where}: no image_id, though other rows have one; add it")
        columns["image_id"] = ([row.image_id for row in rows], Value("string"))
    if any(row.prompt is not None for row in rows):
        columns["prompt"] = ([row.prompt for row in rows], Value("string"))
    for name in {name: None for row in rows for name in row.extra}:
        values = [row.extra.get(name) for row in rows]
        if name in PAIRED:
            values = _paired_values(name, values, [row.where for row in rows])
        try:
            array = pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, RecursionError) as error:
            reason = printable(str(error)[:200])
            warnings.warn(f"column {shown(name)} is left out, Arrow cannot hold its values: {reason}", stacklevel=3)
            continue
        if name in columns:
            warnings.warn(f"column {name!r} is left out, another has its name in these rows", stacklevel=3)
        else:
            columns[name] = (array, None)
    features = {name: feature for name, (_, feature) in columns.items() if feature is not None}
    dataset = Dataset.from_dict(
        {name: values for name, (values, feature) in columns.items() if feature is not None},
        features=Features(features),
    )
    for name, (values, feature) in columns.items():
        if feature is None:
            dataset = dataset.add_column(name, values)
    return dataset


def _paired_values(name: str, values: list, places: list[str]) -> list:
    """Make lists of the texts in a column of `PAIRED`, where some rows have a text and others a list of texts.

    Beside those, a value of another type is missing, with a warning that names the first; a column without any is as
    it was.
    """
    lists = [[value] if isinstance(value, str) else value for value in values]
    odd = [row for row, value in enumerate(lists) if value is not None and not _are_texts(value)]
    if not odd or len(odd) == len([value for value in values if value is not None]):
        return lists
    warnings.warn(
        f"column {name!r}: {counted(len(odd), 'value')} of another type than text or list of texts taken for missing, "
        f"the first is {shown(values[odd[0]])} ({places[odd[0]]})",
        stacklevel=4,
    )
    return [None if row in set(odd) else value for row, value in enumerate(lists)]


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(text is None or isinstance(text, str) for text in value)


def has_ids(dataset: Dataset) -> bool:
    """Tell whether the source gives its images ids; else they are made from file names and contents."""
    return "image_id" in dataset.column_names and any(dataset["image_id"])


def one_row_an_image(dataset: Dataset, keep_empty: bool = False) -> Dataset:
    """Bring rows with `image`, `captions` (lists) and maybe `image_id` and `prompt` into their final form.

    Derives missing ids, drops empty captions (and images left without any) with one warning, and groups the rows of an
    image. Captions for several prompts stay apart: an image has a row for each, `#1`, `#2`, … after its id. Texts in
    the columns `PAIRED` become lists, grouped as captions are. With `keep_empty` nothing is dropped, and a caption of
    None is an empty one. Pictures are not decoded.
    """
    if "prompt" in dataset.column_names and not any(dataset["prompt"]):
        dataset = dataset.remove_columns("prompt")
    if "image_id" in dataset.column_names and not has_ids(dataset):
        dataset = dataset.remove_columns("image_id")
    image_ids = _image_ids(dataset)
    captions = dataset.select_columns(["captions"])["captions"][:]
    prompts = dataset.select_columns(["prompt"])["prompt"][:] if "prompt" in dataset.column_names else None
    captions = [[(text or "").strip() for text in texts] for texts in captions]
    empty = [text for texts in captions for text in texts if is_blank(text)]
    if not keep_empty:
        captions = [[text for text in texts if not is_blank(text)] for texts in captions]
    rows_of_id: dict[str, dict[str | None, list[int]]] = {}
    for row, image_id in enumerate(image_ids):
        prompt = prompts[row] if prompts else None
        rows_of_id.setdefault(image_id, {}).setdefault(prompt, []).append(row)
    _check_same_picture(dataset, {key: list(chain(*groups.values())) for key, groups in rows_of_id.items()})
    paired = {name: texts for name in PAIRED if (texts := _texts_of_rows(dataset, name)) is not None}
    kept, num_without = [], 0
    for image_id, groups in rows_of_id.items():
        full = [rows for rows in groups.values() if any(captions[row] for row in rows)]
        for number, rows in enumerate(full, start=1):
            for texts in (captions, *paired.values()):
                texts[rows[0]] = [text for row in rows for text in texts[row]]
            image_ids[rows[0]] = image_id if len(full) == 1 else f"{image_id}#{number}"
            kept.append(rows[0])
        num_without += not full
        if keep_empty and not full:
            kept.append(next(iter(groups.values()))[0])
    _check_unique([image_ids[row] for row in kept], dataset, kept)
    if not keep_empty:
        warn_of_empty(empty, num_without, len(rows_of_id))
    columns = {"image_id": (image_ids, TEXT), "captions": (captions, List(TEXT))}
    columns |= {name: (texts, List(TEXT)) for name, texts in paired.items()}
    dataset = _with_columns(dataset, columns)
    return dataset if len(kept) == len(dataset) else dataset.select(kept)


def _texts_of_rows(dataset: Dataset, name: str) -> list[list[str | None]] | None:
    """Texts of each row in a column of texts or lists of them; None where it is not there, or holds something else."""
    if name not in dataset.column_names:
        return None
    rows = [value if isinstance(value, list) else [value] for value in dataset.select_columns([name])[name][:]]
    return rows if all(text is None or isinstance(text, str) for row in rows for text in row) else None


def _check_unique(image_ids: list[str], dataset: Dataset, rows: list[int]) -> None:
    """Raise ValueError where an id that was made (`7#1`, `name-hash`) is one of the source's own."""
    seen: dict[str, int] = {}
    for image_id, row in zip(image_ids, rows, strict=True):
        if image_id in seen:
            places = (
                dataset[WHERE]
                if WHERE in dataset.column_names
                else [f"row {number}" for number in range(len(dataset))]
            )
            raise ValueError(
                f"image_id {shown(image_id)} stands for two images ({places[seen[image_id]]}, {places[row]}), "
                "one of them is made of a name and a number; give each image an id of its own"
            )
        seen[image_id] = row


def warn_of_empty(empty: Sequence[str], num_without: int, num_images: int, stacklevel: int = 4) -> None:
    """Warn of captions (blank texts) and images that were dropped; raise ValueError if no image is left."""
    if num_images == num_without:
        raise ValueError(f"no caption in {counted(num_images, 'image')}")
    if empty or num_without:
        missing = [text for text in empty if text]
        kinds = " or ".join(map(repr, dict.fromkeys(missing)))
        of_these = f" ({len(missing)} of them {kinds}, a missing value)" if missing else ""
        warnings.warn(
            f"dropped {counted(len(empty), 'empty caption')}{of_these} and {counted(num_without, 'image')} without "
            f"any caption (of {counted(num_images, 'image')}); remove them from the source to silence this",
            stacklevel=stacklevel,
        )


def stream_of(rows: Iterable[SourceRow], is_part: bool = False) -> Iterator[dict]:
    """Yield rows of `STREAM_FEATURES` and `WHERE`, otherwise like those of `one_row_an_image`; `prompt` may be None.

    No picture is decoded, so that a resumed stream is soon past the rows that were seen. Only rows of an image that
    stand together are grouped. Without an `image_id` a row is known by its file's name, so two pictures of one name
    are told apart only where they stand together (an error). A part of a stream (`is_part`) may have no captions at
    all; a whole one must have some.
    """
    empty: list[str] = []
    num_without = num_images = 0
    for image_id, found in groupby(rows, key=_stream_id):
        group = list(found)
        where, image = group[0].where, _undecoded(group[0].image)
        num_images += 1
        _check_one_picture(image_id, group)
        empty += [(text or "").strip() for row in group for text in row.captions if is_blank(text)]
        by_prompt: dict[str | None, list[str]] = {}
        for row in group:
            texts = [text.strip() for text in row.captions if not is_blank(text)]
            by_prompt.setdefault(row.prompt, []).extend(texts)
        full = {prompt: texts for prompt, texts in by_prompt.items() if texts}
        num_without += not full
        for number, (prompt, texts) in enumerate(full.items(), start=1):
            own_id = image_id if len(full) == 1 else f"{image_id}#{number}"
            yield {"image_id": own_id, "image": image, "captions": texts, "prompt": prompt, WHERE: where}
    if not is_part or num_without < num_images:
        warn_of_empty(empty, num_without, num_images, stacklevel=2)  # whose caller's caller is `datasets`
    elif num_images:
        warnings.warn(f"no caption in {counted(num_images, 'image')} of a shard ({where})", stacklevel=2)


def pictures_of(rows: Iterable[SourceRow]) -> Iterator[tuple[str, dict, str]]:
    """Yield id, undecoded picture and place of each image of a stream, with captions or not; see `stream_of`."""
    for image_id, found in groupby(rows, key=_stream_id):
        group = list(found)
        _check_one_picture(image_id, group)
        yield image_id, _undecoded(group[0].image), group[0].where


def _check_one_picture(image_id: str, group: Sequence[SourceRow]) -> None:
    images = [_undecoded(row.image) for row in group]
    if any(image != images[0] for image in images) and len(set(map(picture_hash, images))) > 1:
        raise ValueError(_clash(image_id, [row.where for row in group]))


def is_readable(
    image_id: str,
    image: dict,
    where: str,
    on_bad_image: str = "error",
    max_pixels: int = MAX_PIXELS,
    on_skip: Callable[[dict[str, str]], object] | None = None,
) -> bool:
    """Whether the picture of a row of `stream_of` can be decoded; with `on_bad_image` "error" one that cannot raises.

    Raises:
        ValueError: it cannot.
    """
    reason = why_bad_picture(image, max_pixels)
    if reason is None:
        return True
    bad = bad_picture(image_id, where, image, reason)
    text = bad_picture_text(bad)
    if on_bad_image == "error":
        raise ValueError(f"{text}; repair or remove it, or pass --on_bad_image skip to skip such pictures")
    warnings.warn(f"skipped {text}", stacklevel=1)  # `datasets` calls this function
    if on_skip is not None:
        on_skip(bad)
    return False


def _stream_id(row: SourceRow) -> str:
    image = _undecoded(row.image)
    content = row.image_id or Path(image["path"] or "").stem or _content(image)
    return row.where if content == NO_PICTURE else content if row.image_id or image["path"] else content[:16]


def _undecoded(image: object) -> dict:
    return image if isinstance(image, dict) else {"bytes": None, "path": image}


def _content(image: object) -> str:
    return picture_hash(_undecoded(image))


def _image_ids(dataset: Dataset) -> list[str]:
    if "image_id" in dataset.column_names:
        ids = dataset.select_columns(["image_id"])["image_id"][:]
        missing = [row for row, image_id in enumerate(ids) if image_id is None or str(image_id) == ""]
        if missing:
            raise ValueError(f"{len(missing)} of {len(ids)} rows have no image_id, the first is row {missing[0]}")
        return [str(image_id) for image_id in ids]
    paths, files = _paths(dataset)
    stems = [Path(path or "").stem for path in paths]
    rows_of_stem: dict[str, list[int]] = {}
    for row, stem in enumerate(stems):
        rows_of_stem.setdefault(stem, []).append(row)
    # A name is enough where it stands for one file: only the others are read.
    unsure = [row for stem, rows in rows_of_stem.items() if not stem or not _one_file(files, rows) for row in rows]
    contents = dict(zip(unsure, content_hashes(dataset.select(unsure)), strict=True))
    contents_of_stem: dict[str, set[str]] = {}
    for row, content in contents.items():
        contents_of_stem.setdefault(stems[row], set()).add(content)
    ids = []
    for row, stem in enumerate(stems):
        # Different pictures of the same name (a/1.jpg and b/1.jpg) must not be taken for one.
        alone = stem and len(contents_of_stem.get(stem, ())) <= 1
        content = f"row-{row}" if contents.get(row) == NO_PICTURE else contents.get(row, "")[:16]
        ids.append(stem if alone else f"{stem}-{content}".lstrip("-"))
    return ids


def _paths(dataset: Dataset) -> tuple[list[str | None], list[str | None]]:
    """Return each picture's path, and again where it is a file's and not the name of embedded bytes; reads neither."""
    paths, files = [], []
    for batch in dataset.select_columns(["image"]).with_format("arrow").iter(CHUNK_SIZE):
        path = pc.struct_field(batch["image"], "path")
        is_file = pc.is_null(pc.struct_field(batch["image"], "bytes"))
        paths += path.to_pylist()
        files += pc.if_else(is_file, path, None).to_pylist()
    return paths, files


def _one_file(files: list[str | None], rows: list[int]) -> bool:
    return len(rows) == 1 or (len({files[row] for row in rows}) == 1 and files[rows[0]] is not None)


def _check_same_picture(dataset: Dataset, rows_of_id: dict[str, list[int]]) -> None:
    _, files = _paths(dataset)
    repeated = {image_id: rows for image_id, rows in rows_of_id.items() if not _one_file(files, rows)}
    if not repeated:
        return
    rows = [row for found in repeated.values() for row in found]
    content = dict(zip(rows, content_hashes(dataset.select(rows)), strict=True))
    clashes = [image_id for image_id, found in repeated.items() if len({content[row] for row in found}) > 1]
    if clashes:
        places = dataset[WHERE] if WHERE in dataset.column_names else range(len(dataset))
        found = [str(places[row]) for row in repeated[clashes[0]][:5]]
        raise ValueError(_clash(clashes[0], found, len(clashes)))


def _clash(image_id: str, places: list[str], count: int = 1) -> str:
    return (
        f"{count} image_ids stand for different pictures, the first is {shown(image_id)} "
        f"({', '.join(places[:5])}): give each picture an id of its own"
    )


def _with_columns(dataset: Dataset, columns: dict[str, tuple[list, object]]) -> Dataset:
    """Set columns that are not yet there with these very values; others are kept as they are, and come last."""
    for name, (values, feature) in columns.items():
        there = name in dataset.column_names
        if there and dataset.features[name] == feature and dataset.select_columns([name])[name][:] == values:
            continue
        dataset = dataset.remove_columns([name] if there else []).add_column(name, values, feature=feature)
    first = ["image_id", "image", "captions"]
    return dataset.select_columns([*first, *(name for name in dataset.column_names if name not in first)])
