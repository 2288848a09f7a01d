"""The report of `hfcap moderate report` as an HTML page and as text. It shows no picture."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfcap.applications.moderation_texts import NO_SLICE, NO_TAG, may_show, percent, proportion
from hfcap.atomic_files import write_atomic
from hfcap.counts import counted
from hfcap.errors import beginning
from hfcap.report import page_environment


def write_moderation_page(path: str | os.PathLike, record: Mapping[str, Any]) -> Path:
    """Write the page atomically; the same record gives the same page. Returns the path."""
    environment = page_environment()
    environment.filters |= {"percent": percent, "rate": rate_text, "may_show": may_show, "rule": queue_rule}
    page = environment.get_template("moderation.html.jinja")
    curves = {tag: _curve(entry["curve"]) for tag, entry in record["tags"].items() if "curve" in entry}
    return write_atomic(path, page.render(record=record, curves=curves, no_tag=NO_TAG))


def _curve(points: list[dict[str, Any]]) -> dict[str, str]:
    """Return SVG paths in a 100 x 100 drawing with y downwards: the recall and its bound over the queue's length."""

    def path(values: list[float]) -> str:
        steps = zip(points, values, strict=True)
        return "M0 100" + "".join(f"L{100 * point['queue']:.2f} {100 - 100 * value:.2f}" for point, value in steps)

    recalls = [point["recall"] for point in points]
    return {"recall": path([r["value"] for r in recalls]), "bound": path([r["lower_95"] for r in recalls])}


def rate_text(rate: Mapping[str, Any], none: str = "unknown") -> str:
    """Return a share with its interval; `none` where it is one of nothing."""
    if rate["value"] is None:
        return none
    low, high = rate["ci95"]
    return f"{percent(rate['value'])} ({percent(low)} to {percent(high)}; of {rate['of']})"


def report_lines(record: Mapping[str, Any]) -> list[str]:
    """Return the report for the terminal."""
    lines = [counted(record["num_pictures"], "picture")]
    for tag, entry in record["tags"].items():
        lines += ["", f"{may_show(tag)} ({beginning(entry['means'], 100)})"]
        lines += [f"  {line}" for line in _tag_lines(entry, queue_rule(entry, record["thresholds"]))]
        if entry["slices"] and not any(figures["num_pictures"] for figures in entry["slices"].values()):
            lines.append(f"  {NO_SLICE}")
            continue
        for name, figures in entry["slices"].items():
            if not figures["num_pictures"]:
                lines.append(f"  slice {name}: no picture")
                continue
            parts = [f"{figures['in_queue']} of {figures['num_pictures']} in the queue"]
            if "shown_for_nothing" in figures:
                parts.append(f"in it though labelled no: {rate_text(figures['shown_for_nothing'], 'no such label')}")
            if "overruled" in figures:
                parts.append(f"overruled: {rate_text(figures['overruled'], 'no decision')}")
            lines.append(f"  slice {name}: {'; '.join(parts)}")
    return lines


def queue_rule(entry: Mapping[str, Any], thresholds: str | None) -> str:
    """Return which pictures are in the queue of a tag, in words."""
    if entry["threshold"] is not None:
        return f"score {entry['threshold']:.4g} or more"
    return f"no threshold in {thresholds}" if thresholds is not None else "what the rows call review or unsure"


def _tag_lines(entry: Mapping[str, Any], why: str) -> list[str]:
    queue = entry["queue"]
    lines = [f"{counted(queue['length'], 'picture')} ({percent(queue['share'])}) in the queue: {why}"]
    if "labels" in entry:
        lines.append("labels: {yes} yes, {no} no, {cannot_tell} cannot tell".format(**entry["labels"]))
    if "positives" in entry:
        low, high = entry["positives"]["ci95"]
        value = entry["positives"]["value"]
        lines.append(f"estimated to show it: {counted(round(value), 'picture')} ({low:.0f} to {high:.0f})")
    lines += [proportion(name, entry[name]) for name in ("precision", "recall") if name in entry]
    for point in entry.get("curve", ()):
        recall = point["recall"]
        found = f"recall {recall['value']:.3f} ({recall['lower_95']:.3f} or more)"
        lines.append(f"queue of {percent(point['queue'])}, {counted(point['length'], 'picture')}: {found}")
    if "decisions" in entry:
        own = entry["decisions"]
        lines.append("decisions: {agree} agree, {disagree} disagree, {cannot_tell} cannot tell".format(**own))
        lines.append(f"overruled (people disagreed): {rate_text(own['overruled'], 'no decision')}")
        lines.append(
            "appeals: {waiting} waiting, {decided} decided, {changed} changed the decision".format(**own["appeals"])
        )
    return lines
