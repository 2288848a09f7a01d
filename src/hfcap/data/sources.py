"""Reads a source of captioned images into rows `{image_id, image, captions}`, one row an image.

A reader is one function `(source, split) -> Dataset` that returns rows as it finds them; what rows have to be (ids,
lists of captions, one row an image) is brought about afterwards, by the same functions for every reader.
"""

import re
import warnings
from pathlib import Path

from datasets import Dataset, DatasetDict, List, Value, load_dataset, load_from_disk
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetGenerationError

from hfcap.data.pictures import content_hashes, find_bad_images, undecoded
from hfcap.data.scenes import load_scenes

# Many pictures seen few times: with 3,000 a small network learns them by heart before it knows the shapes.
SCENES_SIZES = {"train": 12000, "validation": 300, "test": 300}
CAPTION_COLUMNS = ("captions", "caption", "text", "sentences")
BAD_IMAGE_CHOICES = ("error", "skip")
MAX_LISTED = 20
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_captions(
    source: str,
    split: str,
    *,
    num_images: int | None = None,
    on_bad_image: str = "error",
    image_column: str | None = None,
    captions_column: str | None = None,
    **scene_options,
) -> Dataset:
    """Load one split of a source of captioned images.

    Args:
        source: "scenes" (the embedded data set), a local folder that `datasets` can read (parquet files, an image
            folder with `metadata.jsonl` or `metadata.csv`, or one written by `save_to_disk`), or the id of a data set
            on the Hub. A folder of the name "scenes" is "./scenes".
        split: name of the split.
        num_images: keep the first so many images; for scenes, how many to draw (by default 12,000 for training, else
            300).
        on_bad_image: what to do with pictures that cannot be decoded: "error" lists them all in one error, "skip"
            leaves them out with a warning. Each picture is decoded once for this check.
        image_column: column of the pictures; by default the only column of type `datasets.Image`.
        captions_column: column of the captions (a string or a list of strings); by default the first there is of
            `captions`, `caption`, `text`, `sentences`.
        **scene_options: `style`, `image_size` and `seed` of `load_scenes`; an error with any other source.

    Returns:
        Rows of `image_id` (str), `image` (`datasets.Image`), `captions` (list of str, none of them empty), then the
        source's other columns. Rows of the same `image_id` have become one with all their captions, in order (other
        columns keep the first row's value). Where the source has no `image_id`, it is the file's name without its
        extension, or a hash of the picture.

    Raises `ValueError`, saying what is there, for a missing folder, split or column, for pictures that cannot be read
    (unless skipped), and for an `image_id` that two different pictures share.

    """
    if on_bad_image not in BAD_IMAGE_CHOICES:
        raise ValueError(f"on_bad_image is {on_bad_image!r}: choose one of {', '.join(BAD_IMAGE_CHOICES)}")
    if num_images is not None and num_images < 1:
        raise ValueError(f"num_images is {num_images}, but a data set needs at least 1 image")
    if source == "scenes":
        # An unknown split gets its one clear error from load_scenes.
        style = scene_options.pop("style", "caption")
        return load_scenes(split, num_images or SCENES_SIZES.get(split, 1), style, **scene_options)
    if scene_options:
        raise ValueError(f"{', '.join(scene_options)}: known to the source 'scenes' only, not to {source!r}")
    dataset = _read_with_datasets(source, split)
    dataset = _rename_columns(dataset, source, image_column, captions_column)
    dataset = one_row_an_image(dataset)
    if num_images is not None:
        dataset = dataset.select(range(min(num_images, len(dataset))))
    return handle_bad_images(dataset, on_bad_image)


def one_row_an_image(dataset: Dataset) -> Dataset:
    """Bring rows with `image`, `captions` and maybe `image_id` into the form that `load_captions` promises.

    Derives missing ids, makes lists of single captions, drops empty captions (and images left without any) with one
    warning, and groups the rows of an image. Pictures are not decoded.
    """
    image_ids = _image_ids(dataset)
    captions = [_as_list(value) for value in dataset.select_columns(["captions"])["captions"]]
    num_empty = sum(not (text or "").strip() for texts in captions for text in texts)
    captions = [[text.strip() for text in texts if text and text.strip()] for texts in captions]
    rows_of_id: dict[str, list[int]] = {}
    for row, image_id in enumerate(image_ids):
        rows_of_id.setdefault(image_id, []).append(row)
    _check_same_picture(dataset, rows_of_id)
    kept = []
    for rows in rows_of_id.values():
        captions[rows[0]] = [text for row in rows for text in captions[row]]
        if captions[rows[0]]:
            kept.append(rows[0])
    num_without = len(rows_of_id) - len(kept)
    if num_empty or num_without:
        warnings.warn(
            f"dropped {num_empty} empty captions and {num_without} images without any caption "
            f"(of {len(rows_of_id)} images); remove them from the source to silence this",
            stacklevel=3,
        )
    if not kept:
        raise ValueError(f"none of the {len(rows_of_id)} images has a caption")
    columns = {"image_id": (image_ids, Value("string")), "captions": (captions, List(Value("string")))}
    dataset = _with_columns(dataset, columns)
    return dataset if len(kept) == len(dataset) else dataset.select(kept)


def handle_bad_images(dataset: Dataset, on_bad_image: str) -> Dataset:
    """Return the rows whose pictures can be decoded; with "error", raise a ValueError listing the others."""
    bad = find_bad_images(dataset)
    if not bad:
        return dataset
    ids = dataset.select_columns(["image_id"])["image_id"]
    shown = [f"row {one.row} (image_id {ids[one.row]}): {one.reason}" for one in bad[:MAX_LISTED]]
    if len(bad) > MAX_LISTED:
        shown.append(f"and {len(bad) - MAX_LISTED} more")
    found = f"{len(bad)} of {len(dataset)} images cannot be read:\n  " + "\n  ".join(shown)
    if on_bad_image == "error":
        raise ValueError(f"{found}\nRepair or remove them, or set on_bad_image: skip to train without them.")
    if len(bad) == len(dataset):
        raise ValueError(f"{found}\nNothing is left.")
    warnings.warn(f"skipped {found}", stacklevel=3)
    bad_rows = {one.row for one in bad}
    return dataset.select([row for row in range(len(dataset)) if row not in bad_rows])


def _read_with_datasets(source: str, split: str) -> Dataset:
    folder = Path(source).expanduser()
    if folder.is_file():
        raise ValueError(f"{source} is a file; a data source is a folder, a Hub id or 'scenes'")
    if not folder.is_dir() and not _HUB_ID.fullmatch(source):
        raise ValueError(f"there is no folder {folder.absolute()}")
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            found = load_from_disk(str(folder))
        else:
            found = load_dataset(str(folder) if folder.is_dir() else source)
    except DatasetGenerationError as error:
        cause = str(error.__cause__ or error).split("\n", 1)[0]
        raise ValueError(f"{source} cannot be read: {cause} (the full reason is above)") from error
    # FileNotFoundError covers datasets' DatasetNotFoundError and EmptyDatasetError, OSError the network's errors.
    except OSError as error:
        where = "" if folder.is_dir() else f"there is no folder {folder.absolute()}, and from the Hub: "
        raise ValueError(f"{source} cannot be loaded: {where}{error}") from error
    splits = found if isinstance(found, DatasetDict) else {str(found.split or "train"): found}
    if split not in splits:
        raise ValueError(f"{source} has no split {split!r}; it has: {', '.join(splits)}")
    return splits[split]


def _rename_columns(dataset: Dataset, source: str, image_column: str | None, captions_column: str | None) -> Dataset:
    there = "; it has: " + ", ".join(f"{name} ({_type_name(kind)})" for name, kind in dataset.features.items())
    pictures = [name for name, kind in dataset.features.items() if isinstance(kind, ImageFeature)]
    if image_column is None:
        if not pictures:
            raise ValueError(f"{source} has no column of type Image{there}")
        if len(pictures) > 1 and "image" not in pictures:
            raise ValueError(f"{source} has {len(pictures)} columns of type Image: set image_column{there}")
        image_column = "image" if "image" in pictures else pictures[0]
    elif image_column not in pictures:
        raise ValueError(f"{source} has no column {image_column!r} of type Image{there}")
    if captions_column is None:
        captions_column = next((name for name in CAPTION_COLUMNS if name in dataset.features), None)
        if captions_column is None:
            looked_for = ", ".join(CAPTION_COLUMNS)
            raise ValueError(f"{source} has no column of captions ({looked_for}): set captions_column{there}")
    elif captions_column not in dataset.features:
        raise ValueError(f"{source} has no column {captions_column!r}{there}")
    kind = dataset.features[captions_column]
    item = getattr(kind, "feature", kind)
    if not isinstance(item, Value) or "string" not in item.dtype:
        raise ValueError(
            f"captions of {source} are of type {_type_name(kind)}, wanted a string or a list of strings{there}"
        )
    for old, new in ((image_column, "image"), (captions_column, "captions")):
        if old != new:
            taken = [new] if new in dataset.column_names else []
            dataset = dataset.remove_columns(taken).rename_column(old, new)
    return dataset


def _type_name(kind: object) -> str:
    return kind.dtype if isinstance(kind, Value) else re.sub(r"\(.*", "", repr(kind))


def _image_ids(dataset: Dataset) -> list[str]:
    if "image_id" in dataset.column_names:
        ids = dataset.select_columns(["image_id"])["image_id"][:]
        missing = [row for row, image_id in enumerate(ids) if image_id is None or str(image_id) == ""]
        if missing:
            raise ValueError(f"{len(missing)} of {len(ids)} rows have no image_id, the first is row {missing[0]}")
        return [str(image_id) for image_id in ids]
    hashes = content_hashes(dataset)
    paths = undecoded(dataset.select_columns(["image"]))
    stems = [Path((row["image"] or {}).get("path") or "").stem for row in paths]
    contents_of_stem: dict[str, set[str]] = {}
    for stem, content in zip(stems, hashes, strict=True):
        contents_of_stem.setdefault(stem, set()).add(content)
    ids = []
    for stem, content in zip(stems, hashes, strict=True):
        # Different pictures of the same name (a/1.jpg and b/1.jpg) must not be taken for one.
        alone = stem and len(contents_of_stem[stem]) == 1
        ids.append(stem if alone else f"{stem}-{content[:16]}".lstrip("-"))
    return ids


def _check_same_picture(dataset: Dataset, rows_of_id: dict[str, list[int]]) -> None:
    repeated = {image_id: rows for image_id, rows in rows_of_id.items() if len(rows) > 1}
    if not repeated:
        return
    rows = [row for found in repeated.values() for row in found]
    content = dict(zip(rows, content_hashes(dataset.select(rows)), strict=True))
    clashes = [image_id for image_id, found in repeated.items() if len({content[row] for row in found}) > 1]
    if clashes:
        image_id = clashes[0]
        raise ValueError(
            f"{len(clashes)} image_ids stand for different pictures, the first is {image_id!r} "
            f"(rows {', '.join(map(str, repeated[image_id][:5]))}): give each picture an id of its own"
        )


def _as_list(value: str | list[str] | None) -> list[str | None]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _with_columns(dataset: Dataset, columns: dict[str, tuple[list, object]]) -> Dataset:
    """Set columns that are not yet there with these very values; others are kept as they are, and come last."""
    for name, (values, feature) in columns.items():
        there = name in dataset.column_names
        if there and dataset.features[name] == feature and dataset.select_columns([name])[name][:] == values:
            continue
        dataset = dataset.remove_columns([name] if there else []).add_column(name, values, feature=feature)
    first = ["image_id", "image", "captions"]
    return dataset.select_columns([*first, *(name for name in dataset.column_names if name not in first)])
