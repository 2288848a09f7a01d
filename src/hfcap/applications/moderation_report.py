"""Figures of tags, labels and decisions: what a queue costs, what it finds, whom it shows for nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hfcap.applications.decisions import DecisionLog
from hfcap.applications.policy import Policy
from hfcap.applications.tag_labels import Label, Labels
from hfcap.applications.tag_rows import Tags
from hfcap.applications.tag_sample import estimated_positives
from hfcap.applications.threshold_file import Thresholds, goes_to_a_person
from hfcap.applications.thresholds import counts, halves, num_at_or_above, precision_at, recall_at
from hfcap.content_hashes import file_sha256
from hfcap.metrics.binomial import upper_bound, wilson_interval

SCHEMA_VERSION = 1
QUEUES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # lengths of the curve, as shares of all pictures


def moderation_record(
    tags: Tags,
    policy: Policy,
    labels: Labels | None = None,
    log: DecisionLog | None = None,
    thresholds: Thresholds | None = None,
) -> dict[str, Any]:
    """Work out the figures of each tag.

    Args:
        tags: scores of all pictures.
        policy: of these rows; its slices are looked for in the captions.
        labels: what people say; without them nothing is known of precision and recall.
        log: decisions.
        thresholds: lowest scores that go to a person; without them the queue is that of the review without them.

    Returns:
        The content of the report's JSON file.
    """
    inside: dict[str, set[str]] = {name: set() for name in policy.slices}
    for image_id, row in tags.rows.items():
        for name in policy.slices_in([row["caption"]] if row.get("caption") else []):
            inside[name].add(image_id)
    by_tag = {}
    for tag in tags.names:
        queue = {image_id for image_id, row in tags.rows.items() if goes_to_a_person(row, tag, thresholds)}
        threshold = None if thresholds is None else thresholds.by_tag.get(tag)
        share = {"length": len(queue), "share": len(queue) / len(tags.rows)}
        entry = {"means": policy.tags[tag].means, "threshold": threshold, "queue": share}
        if labels is not None:
            entry |= _label_figures(tags, tag, labels, queue, thresholds)
        if log is not None:
            entry["decisions"] = _decision_figures(tags, tag, log)
        entry["slices"] = {name: _slice_figures(tag, own, queue, labels, log) for name, own in inside.items()}
        by_tag[tag] = entry
    made_from = {"policy": tags.policy, "tagger": tags.tagger, "labels": labels.path if labels is not None else None}
    made_from["thresholds"] = None if thresholds is None else thresholds.path
    return {"schema_version": SCHEMA_VERSION, "num_pictures": len(tags.rows)} | made_from | {"tags": by_tag}


def _label_figures(
    tags: Tags, tag: str, labels: Labels, queue: set[str], thresholds: Thresholds | None
) -> dict[str, Any]:
    own = labels.of(tag)
    answers = Counter(label.answer for label in own)
    numbers = {"yes": answers[True], "no": answers[False], "cannot_tell": labels.num_cannot_tell(tag)}
    figures: dict[str, Any] = {"labels": numbers}
    if not own:
        return figures
    scores = sorted((row["scores"][tag] for row in tags.rows.values()), reverse=True)
    value, low, high = estimated_positives(own, len(scores))
    if not answers[True]:  # a normal interval would be 0 to 0, and nobody has looked at all of them
        high = len(scores) * upper_bound(*counts(own), 0.975)
    figures["positives"] = {"value": value, "ci95": [low, min(high, float(len(scores)))]}
    if queue:
        # Labels that a threshold was chosen on would flatter it.
        has_chosen = thresholds is not None and tag in thresholds.chosen_by_labels
        judging = halves(own, tags)[1] if has_chosen and thresholds.labels_sha256 == file_sha256(labels.path) else own
        judging = [replace(label, score=float(label.image_id in queue)) for label in judging]
        figures["precision"] = precision_at(1.0, judging).record()
        figures["recall"] = recall_at(1.0, judging, len(queue), len(scores) - len(queue)).record()
    if answers[True]:
        points = [_point(share, scores, own) for share in QUEUES]
        figures["curve"] = list({point["length"]: point for point in points}.values())  # of few, several are one queue
    return figures


def _point(share: float, scores: Sequence[float], labels: Sequence[Label]) -> dict[str, Any]:
    threshold = scores[max(0, min(len(scores), round(share * len(scores))) - 1)]
    length = num_at_or_above(threshold, scores)
    recall = recall_at(threshold, labels, length, len(scores) - length).record()
    return {"queue": length / len(scores), "length": length, "threshold": threshold, "recall": recall}


def _decision_figures(tags: Tags, tag: str, log: DecisionLog) -> dict[str, Any]:
    answers, changed, waiting, earlier = Counter(), 0, 0, 0
    for (image_id, name), state in log.states.items():
        if name != tag or image_id not in tags.rows:
            continue
        waiting += state.appeal is not None
        if state.is_decided:
            answers[state.decisions[-1]["answer"]] += 1
            changed += len(state.decisions) > 1 and state.decisions[-1]["answer"] != state.decisions[-2]["answer"]
            earlier += len(state.decisions) - 1
    figures = {answer: answers[answer] for answer in ("agree", "disagree", "cannot_tell")}
    figures["overruled"] = _rate(answers["disagree"], answers["agree"] + answers["disagree"])
    return figures | {"appeals": {"waiting": waiting, "decided": earlier, "changed": changed}}


def _slice_figures(
    tag: str, inside: set[str], queue: set[str], labels: Labels | None, log: DecisionLog | None
) -> dict[str, Any]:
    """Figures of the pictures of a slice: how many are shown for nothing."""
    figures: dict[str, Any] = {"num_pictures": len(inside), "in_queue": len(inside & queue)}
    if labels is not None and queue:
        wrong = [label for label in labels.of(tag) if label.image_id in inside and not label.answer]
        shown = [replace(label, answer=label.image_id in queue) for label in wrong]
        figures["shown_for_nothing"] = _rate(*counts(shown), num_labels=len(shown))
    if log is not None:
        states = (log.states.get((key, tag)) for key in inside)
        answers = Counter(state.decisions[-1]["answer"] for state in states if state is not None and state.is_decided)
        figures["overruled"] = _rate(answers["disagree"], answers["agree"] + answers["disagree"])
    return figures


def _rate(successes: float, trials: float, num_labels: int | None = None) -> dict[str, Any]:
    """Return a share with Wilson's interval; None without trials."""
    number = int(trials) if num_labels is None else num_labels
    if not trials:
        return {"value": None, "ci95": None, "of": number}
    return {"value": successes / trials, "ci95": list(wilson_interval(successes, trials)), "of": number}
