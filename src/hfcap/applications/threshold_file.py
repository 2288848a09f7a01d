"""`thresholds.json`: the thresholds of a policy's tags, and what they were made from."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hfcap.applications.policy import Policy, Target
from hfcap.applications.tag_labels import Labels
from hfcap.applications.tag_rows import Tags
from hfcap.applications.thresholds import CONFIDENCE, choose_threshold
from hfcap.content_hashes import file_sha256
from hfcap.errors import ConfigError
from hfcap.json_files import read_object

SCHEMA_VERSION = 1
FILE = "thresholds.json"


def threshold_record(
    tags: Tags, policy: Policy, labels: Labels | None, names: tuple[str, ...], target: Target | None
) -> tuple[dict[str, Any], list[ConfigError]]:
    """Choose the threshold of each tag.

    Args:
        tags: scores of all pictures.
        policy: has the targets.
        labels: what people say, or None where all targets are queues.
        names: of the tags.
        target: for all of them, in the place of the policy's own.

    Returns:
        The content of `thresholds.json`, and why tags are not in it.
    """
    chosen, refused = {}, []
    for name in names:
        try:
            chosen[name] = choose_threshold(name, target or policy.tags[name].target, tags, labels)
        except ConfigError as error:
            refused.append(error)
    source = None
    if labels is not None:
        source = {"path": labels.path, "sha256": file_sha256(labels.path), "num_blank": labels.num_blank}
    record = {"schema_version": SCHEMA_VERSION, "confidence": CONFIDENCE, "num_pictures": len(tags.rows)}
    return record | {"policy": tags.policy, "tagger": tags.tagger} | {"labels": source, "tags": chosen}, refused


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of a file.

    Attributes:
        path: of the file.
        by_tag: the lowest score that goes to a person.
        chosen_by_labels: tags whose threshold depends on labels.
        labels_sha256: of the file of these labels, or None.
    """

    path: str
    by_tag: dict[str, float]
    chosen_by_labels: frozenset[str] = frozenset()
    labels_sha256: str | None = None


def read_thresholds(path: str | os.PathLike, tags: Tags) -> Thresholds:
    """Read `thresholds.json` for these rows.

    Raises:
        ConfigError: malformed, or made for another policy or tagger.
    """
    try:
        content = read_object(path)
        by_tag = {tag: float(entry["threshold"]) for tag, entry in content["tags"].items()}
        by_labels = frozenset(tag for tag, entry in content["tags"].items() if "queue" not in entry["target"])
        labels_sha256 = (content["labels"] or {}).get("sha256")
        policy, tagger = content["policy"]["sha256"], content["tagger"].get("weights_sha256")
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"no thresholds ({error!r})", option=str(path), fix="run `hfcap moderate threshold`"
        ) from None
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for what, own, wanted in (
        ("policy", policy, tags.policy["sha256"]),
        ("tagger", tagger, tags.tagger.get("weights_sha256")),
    ):
        if own != wanted:
            reason = f"made for another {what} than that of {tags.path}"
            raise ConfigError(reason, option=str(path), fix="run `hfcap moderate threshold` again")
    return Thresholds(str(path), by_tag, by_labels, labels_sha256)


def goes_to_a_person(row: Mapping[str, Any], tag: str, thresholds: Thresholds | None) -> bool:
    """Tell whether a tag of a picture is in the queue of the review.

    Without thresholds it is what the row calls `review` or `unsure`, and where a row says nothing, each.
    """
    if thresholds is not None:
        return tag in thresholds.by_tag and row["scores"][tag] >= thresholds.by_tag[tag]
    return row.get("decision", {}).get(tag, "review") != "none"


def tags_without_threshold(thresholds: Thresholds | None, names: tuple[str, ...]) -> str | None:
    """Say which of the tags have no threshold, so that none of their pictures is in the queue; None where all have.

    Raises:
        ConfigError: none of them has one.
    """
    missing = [] if thresholds is None else [name for name in names if name not in thresholds.by_tag]
    if not missing:
        return None
    reason = f"no threshold for {', '.join(missing)}"
    if len(missing) == len(names):
        raise ConfigError(reason, option=thresholds.path, fix="label more pictures, or leave --thresholds out")
    return f"{thresholds.path}: {reason}, whose pictures are not in the queue"
