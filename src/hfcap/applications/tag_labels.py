"""Labels that people gave to pictures, and samples of pictures to label, as CSV or JSONL."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfcap.applications.spreadsheets import plain_cell, safe_cell
from hfcap.applications.tag_rows import Tags
from hfcap.errors import ConfigError, shown
from hfcap.json_files import read_jsonl, read_text
from hfcap.predictions import JSONL_SUFFIXES

ANSWERS = {"yes": True, "no": False, "cannot tell": None}
COLUMNS = ("image_id", "path", "tag", "score", "stratum", "inclusion_probability", "label")


@dataclass(frozen=True)
class Label:
    """What a person says about one tag of one picture.

    Attributes:
        image_id: of a row of `tags.jsonl`.
        tag: of its scores.
        answer: True, False, or None where the person cannot tell.
        score: of the row.
        weight: how many pictures the label stands for, 1 / inclusion probability; 1 without one.
    """

    image_id: str
    tag: str
    answer: bool | None
    score: float
    weight: float = 1.0


@dataclass(frozen=True)
class Labels:
    """The labels of a file.

    Attributes:
        path: of the file.
        labels: one for each picture and tag.
        num_blank: lines whose label is not filled in yet.
    """

    path: str
    labels: tuple[Label, ...]
    num_blank: int = 0

    def of(self, tag: str) -> list[Label]:
        """Return the labels of a tag that are yes or no."""
        return [label for label in self.labels if label.tag == tag and label.answer is not None]

    def num_cannot_tell(self, tag: str) -> int:
        """Return how many labels of a tag are neither yes nor no."""
        return sum(label.tag == tag and label.answer is None for label in self.labels)


def read_labels(path: str | os.PathLike, tags: Tags) -> Labels:
    """Read labels; a picture is named by its `image_id` or its `path`, and a label is yes, no or cannot tell.

    Raises:
        ConfigError: one line with file and place: no such column, a tag or a picture that `tags` lacks, a label that
            is none, two labels that contradict each other, an inclusion probability that is none, or no label.
    """
    by_path = {}
    for row in tags.rows.values():
        by_path.setdefault(row["path"], row["image_id"])
    found: dict[tuple[str, str], tuple[Label, str]] = {}
    num_blank = 0
    for entry, where in _entries(path):
        image_id = _picture_of(entry, where, tags, by_path)
        tag = str(entry.get("tag") or "").strip()
        if tag not in tags.names:
            raise ConfigError(option=f"{where}: tag", got=tag, wanted=f"one of {', '.join(tags.names)}")
        text = str("" if entry.get("label") is None else entry["label"]).strip().lower().replace("_", " ")
        if not text:
            num_blank += 1
            continue
        if text not in ANSWERS:
            raise ConfigError(option=f"{where}: label", got=text, wanted=", ".join(ANSWERS))
        label = Label(image_id, tag, ANSWERS[text], tags.rows[image_id]["scores"][tag], _weight(entry, where))
        other, place = found.setdefault((image_id, tag), (label, where))
        if other.answer != label.answer:
            reason = f"{shown(image_id)} is {text!r} for {tag}, and something else in {place}"
            raise ConfigError(reason, option=where, fix="keep one of the two, or write `cannot tell`")
    if not found:
        raise ConfigError("no label is filled in", option=str(path), wanted="yes, no or cannot tell in each line")
    return Labels(Path(path).as_posix(), tuple(label for label, _ in found.values()), num_blank)


def _picture_of(entry: dict[str, Any], where: str, tags: Tags, by_path: dict[str, str]) -> str:
    cells = (str("" if entry.get(key) is None else entry[key]) for key in ("image_id", "path"))
    # A name may end in a space; elsewhere spaces round it are none of its own.
    image_id, path = (
        cell if cell in names else cell.strip() for cell, names in zip(cells, (tags.rows, by_path), strict=True)
    )
    if not image_id and not path:
        raise ConfigError("no image_id and no path", option=where, fix="fill in one of the two")
    known = image_id if image_id in tags.rows else by_path.get(path) if not image_id else None
    if known is None:
        reason = f"no picture {shown(image_id or path)} in {tags.path}"
        raise ConfigError(reason, option=where, fix="label pictures of that file, or tag it")
    return known


def _weight(entry: dict[str, Any], where: str) -> float:
    value = entry.get("inclusion_probability")
    if value is None or value == "":
        return 1.0
    try:
        probability = float(value)
    except (TypeError, ValueError):
        probability = 0.0
    if not 0 < probability <= 1:
        option = f"{where}: inclusion_probability"
        raise ConfigError(option=option, got=value, wanted="a number above 0, at most 1, as `sample` writes it")
    return 1 / probability


def _entries(path: str | os.PathLike) -> Iterator[tuple[dict[str, Any], str]]:
    try:
        if Path(path).suffix.lower() in JSONL_SUFFIXES:
            yield from read_jsonl(path)
            return
        text = read_text(path)
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)  # as spreadsheets of some countries write
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = reader.fieldnames or ()
    if "tag" not in names or "label" not in names or not {"image_id", "path"} & set(names):
        wanted = "image_id or path, tag, label"
        raise ConfigError(f"columns {', '.join(map(shown, names)) or '(none)'}", option=str(path), wanted=wanted)
    for line in reader:
        named = {name: plain_cell(line[name]) for name in ("image_id", "path") if line.get(name)}
        yield line | named, f"{path}, line {reader.line_num}"


def labels_csv(lines: Sequence[dict[str, Any]]) -> str:
    """Return lines of a sample as CSV with the columns `COLUMNS`, with the byte-order mark that spreadsheets want."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    names = ("image_id", "path", "tag")
    writer.writerows(line | {name: safe_cell(line[name]) for name in names} for line in lines)
    return "\ufeff" + text.getvalue()
