"""What the `hfcap moderate` commands print."""

from collections.abc import Mapping
from typing import Any

from hfcap.counts import counted
from hfcap.errors import beginning

NO_TAG = "Outside the queue no tag was found and nobody is asked to look; such a picture may still show one."
NO_SLICE = "slices unknown: no caption names one; `hfcap moderate tag --model CAPTIONER` writes captions"
NOTE_ON_TESTS = "each bound is 95 % sure for its own tag; that all {} hold at once is less sure"


def threshold_lines(record: Mapping[str, Any]) -> list[str]:
    """Return a line for each tag of `thresholds.json`, and what the bounds mean."""
    lines = []
    for tag, entry in record["tags"].items():
        ((kind, wanted),) = entry["target"].items()
        target = f"{kind} {wanted:g} wanted"
        parts = [f"{tag}: {entry['threshold']:.4g} ({target})", f"queue {percent(entry['queue'])} of all pictures"]
        parts += [proportion(name, entry[name]) for name in ("precision", "recall") if name in entry]
        lines.append("; ".join(parts))
    if any("precision" in entry for entry in record["tags"].values()) and len(record["tags"]) > 1:
        lines.append(f"note: {NOTE_ON_TESTS.format(len(record['tags']))}")
    return lines


def proportion(name: str, record: Mapping[str, Any]) -> str:
    """Return a proportion with its bound, or that nothing is known of it."""
    if record["value"] is None:
        return f"{name} unknown (no label)"
    rests_on = counted(record["num_labels"], "label")
    return f"{name} {record['value']:.3f} (95 % sure: {record['lower_95']:.3f} or more; {rests_on})"


def percent(share: float) -> str:
    """Return a share for people, "4.7 %"."""
    return f"{100 * share:.1f} %"


def may_show(tag: str) -> str:
    """Return a tag as it is said of a picture: never as a fact."""
    return f"may show: {tag.replace('_', ' ')}"


def evidence_text(caption: str | None, words: list[str]) -> list[str]:
    """Return the caption and its words for a tag, as lines."""
    said = f"caption, by a program, may be wrong: {beginning(caption, 400)}" if caption else "no caption"
    return [said, f"words for it: {', '.join(words)}" if words else "no word for it in the caption"]
