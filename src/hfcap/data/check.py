"""Checks of `hfcap data check`: findings of a data source, as a record for `check.json` and as text."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from datasets import Dataset

from hfcap.counts import counted
from hfcap.data.folders import HIDDEN, passed_over_text
from hfcap.data.image_info import ImageInfo, image_infos, near_duplicates
from hfcap.data.picture_checks import MAX_PIXELS, bad_picture, check_max_pixels, undecoded
from hfcap.data.records import is_blank
from hfcap.data.rows import WHERE, has_ids, one_row_an_image
from hfcap.data.sources import load_rows, source_contents, split_names
from hfcap.errors import beginning, printable
from hfcap.plain_text import COMMON
from hfcap.scripts import num_words

SCHEMA_VERSION = 1
LONG_CAPTION_WORDS = 50  # where no processor says how many tokens a caption has
MAX_LISTED = 50  # findings of one kind that are listed; all are counted

# kind -> (is an error, what it is, what to do)
KINDS = {
    "unreadable_picture": (
        True,
        "pictures that cannot be read",
        "repair or remove them, or train with --on_bad_image skip",
    ),
    "no_captions": (
        True,
        "splits without a picture that has a caption",
        "training cannot start with them; add captions",
    ),
    "shared_id": (True, "image ids in two splits", "'hfcap data split' keeps an image in one split"),
    "shared_picture": (True, "pictures (same file) in two splits", "'hfcap data split' keeps a picture in one split"),
    "id_per_split": (
        False,
        "image ids that stand for different pictures in two splits",
        "training keeps splits apart; 'hfcap data split' makes ids of split and id",
    ),
    "passed_over": (False, "kinds of files that are not read", "see which of them should be"),
    "image_without_caption": (False, "images without any caption", "training leaves them out"),
    "empty_caption": (False, "captions without any text", "training leaves them out"),
    "repeated_caption": (False, "captions that an image has twice", "remove one of the two"),
    "long_caption": (False, "captions longer than training reads", "training cuts them"),
    "special_text": (
        False,
        "captions or prompts with the text of a special token",
        "training reads it as text; remove what other tools left",
    ),
    "same_picture": (False, "pictures (same file) under two ids in one split", "give them one id"),
    "alike_across_splits": (False, "pictures in two splits that look alike", "see whether they are one photo"),
    "alike": (False, "pictures in one split that look alike", "see whether they are one photo"),
}


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        kind: one of `KINDS`.
        images: `(split, image_id)` of one image, or of the two that it is about; none for a file or a split.
        where: file and line of the first.
        text: the reason, the caption, or what the two have in common.
    """

    kind: str
    images: list[tuple[str, str]]
    where: str
    text: str


@dataclass
class SplitSummary:
    """A split, with what is measured in it; all lists are in the order of its images."""

    name: str
    rows: Dataset
    ids: list[str]
    has_ids: bool  # of the source's own; else they are file names, which say little across splits
    captions: list[list[str]]
    where: list[str]
    pictures: list[ImageInfo]
    tokens: list[list[int]] = field(default_factory=list)  # of each caption, EOS included


@dataclass
class Check:
    """What `check_source` found out: facts of every split and the findings, counted and listed by kind."""

    source: str
    splits: list[SplitSummary]
    findings: dict[str, list[Finding]]
    max_caption_tokens: int

    @property
    def has_errors(self) -> bool:
        """Whether anything was found that training stops at, or that makes an evaluation worthless."""
        return any(KINDS[kind][0] for kind, found in self.findings.items() if found)


def check_source(
    source: str,
    *,
    image_folder: str | None = None,
    image_column: str | None = None,
    captions_column: str | None = None,
    max_pixels: int = MAX_PIXELS,
    count_tokens: Callable[[Sequence[str]], list[int]] | None = None,
    max_caption_tokens: int = 64,
    special: re.Pattern = COMMON,
) -> Check:
    """Read every row and picture of every split once, and report what is there.

    Args:
        source: as for `load_captions`, but not "scenes", which is drawn.
        image_folder: as for `load_captions`; so are the columns and `max_pixels`.
        image_column: see there.
        captions_column: see there.
        max_pixels: see there.
        count_tokens: gives the number of tokens of each of some captions, EOS included.
        max_caption_tokens: above so many a caption is too long.
        special: matches the special tokens of the tokenizer that will read the captions.

    Raises:
        ValueError: the source cannot be read, or a row has a value of a wrong type.
    """
    check_max_pixels(max_pixels)
    columns = (image_folder, image_column, captions_column)
    splits = []
    for name in split_names(source, *columns):
        as_they_stand = load_rows(source, name, *columns)
        rows = one_row_an_image(as_they_stand, keep_empty=True)
        ids, captions = rows["image_id"][:], rows["captions"][:]
        where = rows[WHERE][:] if WHERE in rows.column_names else [f"{name}, row {row}" for row in range(len(rows))]
        pictures = image_infos(rows, max_pixels)
        split = SplitSummary(name, rows, ids, has_ids(as_they_stand), captions, where, pictures)
        if count_tokens is not None:
            split.tokens = [count_tokens(texts) if texts else [] for texts in captions]
        splits.append(split)
    findings = {kind: [] for kind in KINDS}
    found = [one for split in splits for one in _in_one_split(split, max_caption_tokens)]
    found += [one for split in splits for one in _special_texts(split, special)]
    found += _without_captions(source, splits) + _passed_over(source, splits)
    for one in found + _across_splits(splits):
        findings[one.kind].append(one)
    return Check(source, splits, findings, max_caption_tokens)


def _in_one_split(split: SplitSummary, max_caption_tokens: int) -> list[Finding]:
    found = []
    images = undecoded(split.rows.select_columns(["image"]))["image"]
    for row, (image_id, texts) in enumerate(zip(split.ids, split.captions, strict=True)):
        image, where = [(split.name, image_id)], split.where[row]
        if split.pictures[row].reason is not None:
            reason = split.pictures[row].reason
            place = bad_picture(image_id, where, images[row], reason)["where"]
            found.append(Finding("unreadable_picture", image, place, reason))
        if all(map(is_blank, texts)):
            found.append(Finding("image_without_caption", image, where, ""))
        for number, text in enumerate(texts):
            if is_blank(text):
                what = f" is {text!r}, a missing value" if text else ""
                found.append(Finding("empty_caption", image, where, f"caption {number + 1} of {len(texts)}{what}"))
            elif text in texts[:number]:
                found.append(Finding("repeated_caption", image, where, text))
            length, limit, unit = num_words(text), LONG_CAPTION_WORDS, "words"
            if split.tokens:
                length, limit, unit = split.tokens[row][number], max_caption_tokens, "tokens"
            if length > limit:
                found.append(Finding("long_caption", image, where, f"{length} {unit}: {text}"))
    return found


def _without_captions(source: str, splits: list[SplitSummary]) -> list[Finding]:
    return [
        Finding("no_captions", [], source, f"no caption in {counted(len(split.ids), 'image')} of {split.name}")
        for split in splits
        if all(is_blank(text) for texts in split.captions for text in texts)
    ]


def _passed_over(source: str, splits: list[SplitSummary]) -> list[Finding]:
    """List the kinds of files in a folder that are not read, and the pictures that no row names."""
    contents = source_contents(source)
    named = {
        os.path.realpath(image["path"])
        for split in (splits if contents.pictures else ())
        for image in undecoded(split.rows.select_columns(["image"]))["image"]
        if image and image["path"] and image["bytes"] is None
    }
    unnamed = [path for path in contents.pictures if os.path.realpath(path) not in named]
    passed_over = {reason: paths for reason, paths in contents.passed_over.items() if reason != HIDDEN}
    passed_over |= {"pictures that no row names": unnamed} if unnamed else {}
    return [Finding("passed_over", [], source, text) for text in passed_over_text(passed_over)]


def _special_texts(split: SplitSummary, special: re.Pattern) -> list[Finding]:
    """Find captions, and prompts of rows, that hold what a tokenizer may take for a special token."""
    prompts = split.rows["prompt"][:] if "prompt" in split.rows.column_names else [None] * len(split.ids)
    found = []
    for image_id, texts, prompt, where in zip(split.ids, split.captions, prompts, split.where, strict=True):
        named = [("caption", text) for text in texts] + ([("prompt", prompt)] if prompt else [])
        for what, text in named:
            if special.search(text):
                shown = f"{special.search(text)[0]} in the {what}: {text}"
                found.append(Finding("special_text", [(split.name, image_id)], where, shown))
    return found


def fix_of(check: Check, kind: str) -> str:
    """What to do about findings of a kind; of overlong captions also their share, and what would cut none."""
    found, fix = check.findings[kind], KINDS[kind][2]
    if kind != "long_caption" or not found:
        return fix
    number = sum(not is_blank(text) for split in check.splits for texts in split.captions for text in texts)
    tokens = [count for split in check.splits for counts in split.tokens for count in counts]
    needed = f"; max_caption_tokens {max(tokens)} would cut none" if tokens else ", by tokens: --processor counts them"
    return f"{len(found) / number:.1%} of all; {fix}, and they do not teach where a caption ends{needed}"


def _across_splits(splits: list[SplitSummary]) -> list[Finding]:
    """Find shared ids and pictures, and pictures that look alike, within and across splits."""
    places = [(split, row) for split in splits for row in range(len(split.ids))]
    by_id, by_content = defaultdict(list), defaultdict(list)
    for split, row in places:
        by_id[split.ids[row]].append((split, row))
        if _sha256((split, row)):
            by_content[_sha256((split, row))].append((split, row))
    alike = near_duplicates([split.pictures[row] for split, row in places])
    look_alike = {frozenset((places[i][0].name, places[i][1]) for i in pair) for pair in alike}
    found = [
        _shared_id(first, second, look_alike)
        for members in by_id.values()
        for first, second in combinations(members, 2)
        if (first[0].has_ids and second[0].has_ids) or _sha256(first) == _sha256(second) != ""
    ]
    for members in by_content.values():
        for first, second in pairwise(members):
            # An image's rows for several prompts ("7#1", "7#2") share their picture rightly.
            if first[0] is not second[0]:
                found.append(_pair("shared_picture", first, second, "the same file"))
            elif base_id(first) != base_id(second):
                found.append(_pair("same_picture", first, second, "the same file"))
    for i, j in alike:
        kind = "alike" if places[i][0] is places[j][0] else "alike_across_splits"
        found.append(_pair(kind, places[i], places[j], "look alike"))
    return found


def _shared_id(
    first: tuple[SplitSummary, int], second: tuple[SplitSummary, int], look_alike: set[frozenset]
) -> Finding:
    """Say whether an id in two splits is one image in both, or only a number that each split begins anew."""
    known = all(split.pictures[row].reason is None for split, row in (first, second))
    same = _sha256(first) == _sha256(second) or frozenset((s.name, row) for s, row in (first, second)) in look_alike
    kind = "id_per_split" if known and not same else "shared_id"
    return _pair(kind, first, second, f"image_id {first[0].ids[first[1]]}")


def _sha256(place: tuple[SplitSummary, int]) -> str:
    return place[0].pictures[place[1]].sha256


def base_id(place: tuple[SplitSummary, int]) -> str:
    """Return the image's id without the `#1` that tells its prompts apart."""
    image_id = place[0].ids[place[1]]
    head, mark, number = image_id.rpartition("#")
    return head if mark and number.isdigit() else image_id


def _pair(kind: str, first: tuple[SplitSummary, int], second: tuple[SplitSummary, int], text: str) -> Finding:
    images = [(split.name, split.ids[row]) for split, row in (first, second)]
    return Finding(kind, images, first[0].where[first[1]], text)


def check_record(check: Check) -> dict[str, Any]:
    """Return the content of `check.json`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "source": check.source,
        "has_errors": check.has_errors,
        "splits": {split.name: _split_record(split) for split in check.splits},
        "findings": {
            kind: {
                "count": len(found),
                "is_error": KINDS[kind][0],
                "what": KINDS[kind][1],
                "fix": fix_of(check, kind),
                "examples": [asdict(one) for one in found[:MAX_LISTED]],
            }
            for kind, found in check.findings.items()
        },
    }


def _split_record(split: SplitSummary) -> dict[str, Any]:
    readable = [one for one in split.pictures if one.reason is None]
    texts = [text for captions in split.captions for text in captions if not is_blank(text)]
    record = {
        "num_images": len(split.ids),
        "num_captions": len(texts),
        "captions_per_image": _spread([sum(not is_blank(text) for text in captions) for captions in split.captions]),
        "words_per_caption": _spread([num_words(text) for text in texts]),
        "width": _spread([one.width for one in readable]),
        "height": _spread([one.height for one in readable]),
    }
    if split.tokens:
        record["tokens_per_caption"] = _spread([count for counts in split.tokens for count in counts])
    return record


def _spread(values: list[int]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def check_table(check: Check) -> list[list[str]]:
    """Return the splits as a table: header, then a row per split, each spread as smallest, median, largest."""
    parts = check_record(check)["splits"]
    columns = {
        "captions per image": "captions_per_image",
        "words per caption": "words_per_caption",
        "tokens per caption": "tokens_per_caption",
        "width": "width",
        "height": "height",
    }
    columns = {title: key for title, key in columns.items() if any(key in part for part in parts.values())}
    table = [["split", "images", "captions", *columns]]
    for name, part in parts.items():
        spreads = [_range_text(part.get(key)) for key in columns.values()]
        table.append([name, f"{part['num_images']:,}", f"{part['num_captions']:,}", *spreads])
    return table


def check_text(check: Check) -> str:
    """Return the check as people read it in a terminal."""
    table = check_table(check)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    lines += ["(smallest, median, largest)", ""]
    for kind, found in check.findings.items():
        if found:
            is_error, what, _ = KINDS[kind]
            lines.append(f"{'ERROR' if is_error else 'note '}  {what}: {len(found):,} ({fix_of(check, kind)})")
            num_shown = len(found) if kind == "passed_over" else 3
            lines += [f"         {finding_text(one)}" for one in found[:num_shown]]
            lines += [f"         and {len(found) - num_shown:,} more"] if len(found) > num_shown else []
    if not any(check.findings.values()):
        lines.append("No problems found.")
    return "\n".join(lines)


def finding_text(finding: Finding) -> str:
    """Return one line on a finding: images, what about them, and where they stand."""
    images = " and ".join(f"{beginning(split)}/{beginning(image_id)}" for split, image_id in finding.images)
    # A reason may end with the picture's path, or with what to do.
    longest = 300 if finding.kind in ("unreadable_picture", "passed_over") else 100
    text = printable(finding.text if len(finding.text) <= longest else finding.text[: longest - 1] + "…")
    return f"{images}: {text}".removesuffix(": ").removeprefix(": ") + f" ({printable(finding.where)})"


def _range_text(spread: dict[str, float] | None) -> str:
    return "-" if spread is None else f"{spread['min']}, {spread['median']:g}, {spread['max']}"
