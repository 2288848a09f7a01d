"""Loading of captioned images from any source into rows `{image_id, image, captions}`.

What a source is, is recognised here by names and content. Each file format has one reader (`hfcap.data.readers`) that
returns rows as it finds them; what rows have to be (ids, lists of captions, one row per image) is brought about
afterwards, by the same functions for every reader (`hfcap.data.rows`).
"""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import chain
from pathlib import Path

from datasets import Dataset, Features, IterableDataset, Value
from datasets.exceptions import DatasetGenerationError

from hfcap.data.datasets_source import read_with_datasets, shards_with_datasets, splits_with_datasets
from hfcap.data.folders import passed_over_text
from hfcap.data.picture_checks import MAX_PIXELS, check_max_pixels, handle_bad_images
from hfcap.data.records import SourceRow, split_named
from hfcap.data.rows import (
    STREAM_FEATURES,
    WHERE,
    dataset_of,
    is_readable,
    one_row_an_image,
    stream_of,
)
from hfcap.data.scenes import load_scenes
from hfcap.data.shards import Shard, read_shard
from hfcap.data.source_files import (
    TAR_SUFFIXES,
    Contents,
    SourceFile,
    contents_of,
    read_caption_files,
    shards_of_files,
    splits_of_files,
)

logger = logging.getLogger(__name__)

# Many pictures seen few times: with 3,000 a small network learns them by heart before it knows the shapes.
SCENES_SIZES = {"train": 12000, "validation": 300, "test": 300}
BAD_IMAGE_CHOICES = ("error", "skip", "keep")
CACHE_FORMAT = 3  # part of the cache's key: raise it when the rows made of tar shards change
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_captions(
    source: str,
    split: str,
    *,
    num_images: int | None = None,
    image_folder: str | None = None,
    image_column: str | None = None,
    captions_column: str | None = None,
    on_bad_image: str = "error",
    max_pixels: int = MAX_PIXELS,
    on_skip: Callable[[dict[str, str]], object] | None = None,
    streaming: bool = False,
    **scene_options,
) -> Dataset | IterableDataset:
    """Load one split of a source of captioned images.

    Args:
        source: one of
            - "scenes", the embedded data set (a folder of that name is "./scenes"),
            - the id of a data set on the Hub,
            - a folder: parquet files, one written by `save_to_disk`, an image folder with `metadata.jsonl` or
              `metadata.csv`, pictures with `.txt` or `.caption` files beside them, tar shards (WebDataset), or
              captions' files named by split (`train.jsonl`, `captions_val2017.json`, `test.csv`); where it is of
              several kinds, `FOLDER/*.txt`, `FOLDER/*.csv`, … chooses one,
            - a file: JSONL, CSV, COCO annotation JSON, Karpathy's JSON, a tar shard, parquet.
        split: name of the split. A file tells its split by its name (`val`, `dev` are "validation"), by its folder's,
            or row by row in a column `split`; without any it is "train".
        num_images: keep the first so many images; for scenes, how many to draw (by default 12,000 for training, else
            300).
        image_folder: folder of the pictures that a file of captions names; by default found beside the file.
        image_column: column of the pictures; by default the only column of type `datasets.Image`, in files of captions
            the first there is of `hfcap.data.records.IMAGE_COLUMNS`.
        captions_column: column of the captions; by default recognised, see `hfcap.data.records.roles_of`.
        on_bad_image: what to do with pictures that cannot be decoded: "error" lists them all in one error, "skip"
            leaves them out with a warning. A picture is decoded the first time that it is checked, and again when its
            file has changed (`hfcap.data.picture_cache`); in a stream each time. "keep" opens none.
        max_pixels: a picture of more pixels counts as one that cannot be decoded.
        on_skip: called with `{"image_id", "where", "reason"}` for each picture left out.
        streaming: return an `IterableDataset` that holds one image at a time, with the shards of `source_shards`
            (one if `num_images` is given). Only rows of an image that stand together in a shard are grouped; pictures
            are checked as they come; the other columns are left out.
        **scene_options: `style`, `image_size` and `seed` of `load_scenes`; an error with any other source.

    Returns:
        Rows of `image_id` (str), `image` (`datasets.Image`), `captions` (list of str, none of them empty), `prompt`
        (str or None) where the source has any, then the source's other columns (not those of tar shards). Rows of
        the same `image_id` have become one with all their captions, in order; so have texts in columns `chosen` and
        `rejected`, which are always lists (other columns keep the first row's value). Captions for several prompts
        stay apart, with `#1`, `#2`, … after the image's id. Where the source has no `image_id`, it is the file's name
        without its extension, or a hash of the picture.

    Raises `ValueError`, saying what is there, for a missing folder, split or column, for pictures that cannot be read
    (unless skipped), and for an `image_id` that two different pictures share.

    """
    if on_bad_image not in BAD_IMAGE_CHOICES:
        raise ValueError(f"on_bad_image is {on_bad_image!r}: choose one of {', '.join(BAD_IMAGE_CHOICES)}")
    if num_images is not None and num_images < 1:
        raise ValueError(f"num_images is {num_images}, but a data set needs at least 1 image")
    check_max_pixels(max_pixels)
    if source == "scenes":
        if streaming:
            raise ValueError("streaming: the source 'scenes' is drawn, not read; remove it")
        columns = {"image_folder": image_folder, "image_column": image_column, "captions_column": captions_column}
        for name, value in columns.items():
            if value is not None:
                raise ValueError(f"{name} is {value!r}, but the source 'scenes' is drawn, not read; remove it")
        # An unknown split gets its one clear error from load_scenes.
        style = scene_options.pop("style", "caption")
        return load_scenes(split, num_images or SCENES_SIZES.get(split, 1), style, **scene_options)
    if scene_options:
        raise ValueError(f"{', '.join(scene_options)}: known to the source 'scenes' only, not to {source!r}")
    where = (source, split, image_folder, image_column, captions_column)
    if streaming:
        checks = {"on_bad_image": on_bad_image, "max_pixels": max_pixels, "on_skip": on_skip}
        return _stream(where, num_images, checks)
    dataset = one_row_an_image(load_rows(*where))
    if num_images is not None:
        dataset = dataset.select(range(min(num_images, len(dataset))))
    places = None
    if WHERE in dataset.column_names:
        places = dataset[WHERE][:]
        dataset = dataset.remove_columns(WHERE)
    return dataset if on_bad_image == "keep" else handle_bad_images(dataset, on_bad_image, max_pixels, places, on_skip)


def load_rows(
    source: str,
    split: str,
    image_folder: str | None = None,
    image_column: str | None = None,
    captions_column: str | None = None,
) -> Dataset:
    """Load one split as it stands in the source, for `one_row_an_image`.

    The column `WHERE` says where each row stands, in sources made of files.
    """
    files = _caption_files(source)
    if files is None:
        return read_with_datasets(source, split, image_column, captions_column)
    rows = partial(read_caption_files, files, split_named(split), image_folder, image_column, captions_column)
    if all(file.path.name.lower().endswith(TAR_SUFFIXES) for file in files):
        return _cached_dataset(files, rows)
    return dataset_of(rows())


def split_names(
    source: str,
    image_folder: str | None = None,
    image_column: str | None = None,
    captions_column: str | None = None,
) -> list[str]:
    """Return the names of the splits a source has, reading captions' files where their names do not tell.

    Raises:
        ValueError: it has no rows; whatever the readers find.
    """
    files = _caption_files(source)
    if files is None:
        names = splits_with_datasets(source, image_column, captions_column)
    else:
        names = splits_of_files(files, image_folder, image_column, captions_column)
    if not names:
        raise ValueError(f"{source} has no rows; training needs pictures with captions")
    return names


def source_shards(
    source: str,
    split: str,
    image_folder: str | None = None,
    image_column: str | None = None,
    captions_column: str | None = None,
) -> list[Shard]:
    """List the shards of one split, whose rows are as they stand there, ungrouped; see `hfcap.data.shards`.

    No shard is opened, but for the first of a source of `datasets` that does not tell its columns.
    """
    files = _caption_files(source)
    if files is not None:
        return shards_of_files(files, split_named(split), image_folder, image_column, captions_column)
    return shards_with_datasets(source, split, image_column, captions_column)


def source_contents(source: str) -> Contents:
    """Say which files of a source are read and which are not; of the Hub's nothing is known here.

    Raises:
        ValueError: there is no such file or folder, or nothing in it that can be read.
    """
    path = Path(source).expanduser()
    if path.exists() or (path.name.startswith("*.") and path.parent.is_dir()):
        return contents_of(path)
    if not _HUB_ID.fullmatch(source):
        raise ValueError(f"there is no file or folder {path.absolute()}")
    return Contents(None)


def _caption_files(source: str) -> list[SourceFile] | None:
    contents = source_contents(source)
    if contents.passed_over:
        _say_once(f"{source}: read {contents.what}; not read: {'; '.join(passed_over_text(contents.passed_over))}")
    return contents.files


@cache
def _say_once(text: str) -> None:  # a source is opened for each split
    logger.info(text)


def _cached_dataset(files: list[SourceFile], rows: Callable[[], Iterator[SourceRow]]) -> Dataset:
    """Copy rows with embedded pictures into the cache of `datasets`, so that they need not be in memory."""
    stamps = [(file.path.stat().st_size, file.path.stat().st_mtime_ns) for file in files]
    try:
        return Dataset.from_generator(
            _plain_rows,
            features=Features({**STREAM_FEATURES, WHERE: Value("string")}),
            gen_kwargs={"rows": rows, "key": (CACHE_FORMAT, stamps)},
        )
    except DatasetGenerationError as error:
        raise error.__cause__ or error from None


def _plain_rows(rows: Callable[[], Iterator[SourceRow]], key: object) -> Iterator[dict]:
    for row in rows():
        row_fields = {name: getattr(row, name) for name in STREAM_FEATURES}
        yield {**row_fields, WHERE: row.where}


def _stream(where: tuple, num_images: int | None, checks: dict) -> IterableDataset:
    shards = source_shards(*where)
    options = {"shards": shards, "is_part": len(shards) > 1}
    if num_images is not None:  # the first images are the same for any number of readers: one shard, a tuple
        options = {"shards": tuple(shards)}
    # Its features are told at the end: `datasets` would decode pictures for a filter, or never (5.2).
    rows = IterableDataset.from_generator(_unchecked_rows, gen_kwargs=options)
    if checks["on_bad_image"] != "keep":
        # Not by the generator, which a resumed stream calls for the rows of a shard that were seen.
        rows = rows.filter(is_readable, input_columns=["image_id", "image", WHERE], fn_kwargs=checks)
    rows = rows.select_columns(list(STREAM_FEATURES)).cast(STREAM_FEATURES)
    return rows if num_images is None else rows.take(num_images)


def _unchecked_rows(shards: Sequence[Shard], is_part: bool = False) -> Iterator[dict]:
    yield from stream_of(chain.from_iterable(map(read_shard, shards)), is_part)
