"""HTML page of `hfcap data check`: findings, figures and example images in one self-contained file."""

import os
from pathlib import Path
from random import Random
from typing import Any

from hfcap.atomic_files import write_atomic
from hfcap.charts import Chart, histogram
from hfcap.data.check import KINDS, MAX_LISTED, Check, SplitSummary, check_record, check_table, finding_text, fix_of
from hfcap.data.picture_checks import undecoded
from hfcap.data.pictures import load_picture
from hfcap.report import page_environment, thumbnail_uri

PAIR_KINDS = ("shared_picture", "same_picture", "alike_across_splits", "alike")
PAIRS_SHOWN = 12


def write_check_page(path: str | os.PathLike, check: Check, num_shown: int = 12, seed: int = 0) -> Path:
    """Write the page atomically; the same check gives the same page. Returns the path.

    Args:
        path: the HTML file.
        check: from `check_source`.
        num_shown: pictures of each split.
        seed: of their drawing.
    """
    found = [(kind, ones) for kind, ones in check.findings.items() if ones]
    text = (
        page_environment()
        .get_template("check.html.jinja")
        .render(
            title=f"{check.source.rstrip('/').rsplit('/', 1)[-1]}: data check",
            record=check_record(check),
            findings=[
                (
                    *KINDS[kind][:1],
                    len(ones),
                    KINDS[kind][1],
                    fix_of(check, kind),
                    [*map(finding_text, ones[:MAX_LISTED])],
                )
                for kind, ones in found
            ],
            table=check_table(check),
            charts=_charts(check),
            pairs=_pairs(check),
            grids=[(split.name, _examples(split, num_shown, seed)) for split in check.splits],
            seed=seed,
        )
    )
    return write_atomic(path, text)


def _charts(check: Check) -> list[tuple[str, str, Chart]]:
    """(heading, label of the x axis, chart), a series per split, of at most three splits."""
    splits = check.splits[:3]
    words = {s.name: [len(text.split()) for texts in s.captions for text in texts if text] for s in splits}
    tokens = {s.name: [count for counts in s.tokens for count in counts] for s in splits}
    counts = {s.name: [len(texts) for texts in s.captions] for s in splits}
    sides = {s.name: [max(one.width, one.height) for one in s.pictures if one.reason is None] for s in splits}
    wanted = [
        ("Caption length", "words", words),
        ("Caption length in tokens", "tokens, end of text included", tokens),
        ("Captions of an image", "captions", counts),
        ("Picture size", "longer side in pixels", sides),
    ]
    charts = []
    for heading, label, values in wanted:
        series = {name: numbers for name, numbers in values.items() if numbers}
        if series:
            charts.append((heading, label, histogram(series, whole=True)))
    return charts


def _pairs(check: Check) -> list[dict[str, Any]]:
    findings = [one for kind in PAIR_KINDS for one in check.findings[kind]][:PAIRS_SHOWN]
    rows = {split.name: {image_id: row for row, image_id in enumerate(split.ids)} for split in check.splits}
    splits = {split.name: split for split in check.splits}

    def side(name: str, image_id: str) -> dict[str, Any]:
        return {"name": f"{name}/{image_id}", "uri": _thumbnail(splits[name], rows[name][image_id])}

    return [{"text": one.text, "sides": [side(*image) for image in one.images]} for one in findings]


def _examples(split: SplitSummary, num_shown: int, seed: int) -> list[dict[str, Any]]:
    drawn = sorted(Random(seed).sample(range(len(split.ids)), min(num_shown, len(split.ids))))
    return [
        {"image_id": split.ids[row], "captions": split.captions[row], "uri": _thumbnail(split, row)} for row in drawn
    ]


def _thumbnail(split: SplitSummary, row: int) -> tuple[str, int, int] | None:
    if split.pictures[row].reason is not None:
        return None
    return thumbnail_uri(load_picture(undecoded(split.rows.select_columns(["image"]))[row]["image"]))
