"""`hfcap data split`: seeded splits by image, written as a folder that `load_captions` reads."""

import hashlib
import json
import logging
import math
import os
import shutil
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from datasets import Dataset, Value, concatenate_datasets
from datasets.features.features import require_decoding

from hfcap.atomic_files import write_json
from hfcap.counts import counted
from hfcap.data.picture_checks import MAX_PIXELS, content_hashes, handle_bad_images, undecoded
from hfcap.data.pictures import read_bytes
from hfcap.data.rows import WHERE, has_ids, one_row_an_image
from hfcap.data.sources import load_rows, split_names
from hfcap.errors import shown
from hfcap.json_files import read_object

RECORD = "split.json"

logger = logging.getLogger(__name__)


def assign_splits(pictures: list[str], shares: Mapping[str, float], seed: int) -> list[str]:
    """Assign each row per split by the content of its picture, so that equal pictures stay together.

    The order of the distinct pictures is drawn by the seed from their sorted contents: the same pictures give the same
    splits wherever they lie and in whichever order they come.

    Args:
        pictures: content hash of each row's picture.
        shares: share of the distinct pictures for each split; they add up to 1.
        seed: seed of the drawing.

    Raises:
        ValueError: shares do not add up to 1, or a split would be empty.
    """
    if not (abs(sum(shares.values()) - 1) <= 1e-6 and min(shares.values()) > 0):  # NaN is neither
        raise ValueError(
            f"shares are {dict(shares)}; wanted positive numbers that add up to 1: change --validation or --test"
        )
    if seed < 0:
        raise ValueError(f"seed is {seed}; wanted 0 or more")
    distinct = sorted(set(pictures))
    order = np.random.default_rng(seed).permutation(len(distinct))
    bounds = np.round(np.cumsum([0, *shares.values()]) * len(distinct)).astype(int)
    split_of = {}
    for name, start, stop in zip(shares, bounds[:-1], bounds[1:], strict=True):
        if start == stop:
            smallest = math.ceil(100 / len(distinct)) / 100
            fix = "lower the shares of the others" if name == "train" else f"pass --{name} {smallest:g}"
            raise ValueError(
                f"split {name!r} would be empty: {shares[name]:g} of {counted(len(distinct), 'picture')} is less "
                "than one; " + (fix if len(distinct) >= len(shares) else f"{len(shares)} splits need as many pictures")
            )
        split_of |= {distinct[index]: name for index in order[start:stop]}
    return [split_of[picture] for picture in pictures]


def split_source(
    source: str, output: str | os.PathLike, shares: Mapping[str, float], seed: int = 0, **options
) -> dict[str, int]:
    """Put all rows of a source, whatever splits it has, into new splits, and write them.

    The folder holds the pictures' files, byte for byte, in `images/`, a `train.jsonl`, `validation.jsonl`, … each with
    `image`, `image_id`, `captions` and the other columns (but further pictures), and `split.json`, which says how it
    was made, of what. It appears whole or not at all.

    Args:
        source: as for `load_captions`.
        output: folder to write; if it is there, it must be the same split of the same rows, and nothing is done.
        shares: see `assign_splits`.
        seed: see there.
        **options: `image_folder`, `image_column`, `captions_column`, `on_bad_image`, `max_pixels` of `load_captions`.

    Returns:
        Number of rows in each split.

    Raises:
        ValueError: as `load_captions`; the folder holds something else.
    """
    output = Path(output)
    record = {"source": str(source), "shares": dict(shares), "seed": seed, "options": options}
    earlier = _earlier_record(output) if output.exists() else None
    checks = {name: options[name] for name in ("on_bad_image", "max_pixels") if name in options}
    columns = {name: value for name, value in options.items() if name not in checks}
    parts = {name: load_rows(source, name, **columns) for name in split_names(source, **columns)}
    if len(parts) > 1:
        logger.info("%s: the rows of its splits (%s) are combined and split again", source, ", ".join(parts))
    if any(map(has_ids, parts.values())):
        parts = _told_apart({name: one_row_an_image(part) for name, part in parts.items()})
    # Ids made from file names are made here, of all rows: each split may have its own 0000.jpg.
    rows = one_row_an_image(concatenate_datasets(list(parts.values())))
    record["rows"] = _fingerprint(rows)
    if earlier is not None:
        _check_same(output, earlier, record)
        return earlier["num_images"]
    places = rows[WHERE][:] if WHERE in rows.column_names else None
    rows = rows.remove_columns([] if places is None else [WHERE])
    further = [name for name, kind in rows.features.items() if name != "image" and require_decoding(kind)]
    if further:
        rows = rows.remove_columns(further)
        names_left_out = ", ".join(further)
        warnings.warn(f"left out {names_left_out}: JSONL holds no pictures; remove to silence this", stacklevel=2)
    rows = handle_bad_images(rows, checks.get("on_bad_image", "error"), checks.get("max_pixels", MAX_PIXELS), places)
    names = assign_splits(content_hashes(rows), shares, seed)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        counts = _write_splits(rows, names, list(shares), temporary)
        write_json(temporary / RECORD, record | {"num_images": counts})
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return counts


def _told_apart(parts: dict[str, Dataset]) -> dict[str, Dataset]:
    """Put the split's name before each id where an id stands for different pictures in two splits (`val/0`)."""
    splits_of_id: dict[str, list[tuple[str, int]]] = {}
    for name, part in parts.items():
        for row, image_id in enumerate(part["image_id"][:]):
            splits_of_id.setdefault(image_id, []).append((name, row))
    shared = [places for places in splits_of_id.values() if len(places) > 1]
    rows = {name: [row for places in shared for split, row in places if split == name] for name in parts}
    contents = {
        (name, row): content
        for name, part in parts.items()
        for row, content in zip(rows[name], content_hashes(part.select(rows[name])), strict=True)
    }
    clashes = [places for places in shared if len({contents[place] for place in places}) > 1]
    if not clashes:
        return parts
    first = parts[clashes[0][0][0]]["image_id"][clashes[0][0][1]]
    logger.info(
        "%d image ids stand for different pictures in two splits (the first is %s): the ids written begin with the "
        "name of the split they were in",
        len(clashes),
        shown(first),
    )
    told_apart = {}
    for name, part in parts.items():
        ids = [f"{name}/{image_id}" for image_id in part["image_id"][:]]
        told_apart[name] = part.remove_columns("image_id").add_column("image_id", ids, feature=Value("string"))
    return told_apart


def _write_splits(rows: Dataset, names: list[str], splits: list[str], folder: Path) -> dict[str, int]:
    (folder / "images").mkdir(parents=True)
    counts = dict.fromkeys(splits, 0)
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(folder / f"{name}.jsonl", "w", encoding="utf-8")) for name in splits}
        for number, (row, name) in enumerate(zip(undecoded(rows), names, strict=True)):
            image = row.pop("image")
            # Numbered, because ids may hold any character and two may differ in case only.
            path = Path("images", f"{number:07d}{Path(image['path'] or '').suffix.lower()[:8]}")
            (folder / path).write_bytes(read_bytes(image))
            # An image that was in two splits has its captions from both.
            entry = {"image": str(path)} | row | {"captions": list(dict.fromkeys(row["captions"]))}
            files[name].write(json.dumps(entry, ensure_ascii=False, default=str) + "\n")
            counts[name] += 1
    return counts


def _fingerprint(rows: Dataset) -> dict[str, int | str]:
    """Say which rows were split; pictures are known by their ids, since reading all again would take as long."""
    ids, captions = rows["image_id"][:], rows["captions"][:]
    digest = hashlib.sha256(json.dumps([ids, captions]).encode()).hexdigest()[:16]
    return {"images": len(ids), "captions": sum(map(len, captions)), "sha256": digest}


def _earlier_record(output: Path) -> dict:
    try:
        record = read_object(output / RECORD)
        if "num_images" not in record:
            raise ValueError("not written by this command")
        return record
    except (OSError, ValueError):
        raise ValueError(f"{output} is there and holds no {RECORD}; pass another folder, or remove it") from None


def _check_same(output: Path, earlier: dict, record: dict) -> None:
    # Earlier versions did not write `rows`.
    changed = [name for name in record if name in earlier and earlier[name] != record[name]]
    if changed:
        raise ValueError(
            f"{output} holds another split: {changed[0]} was {earlier.get(changed[0])!r}, is {record[changed[0]]!r}; "
            "pass another folder, or remove it"
        )
