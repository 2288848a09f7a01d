"""Thresholds from labels: the score above which pictures go to a person, with bounds that other labels confirm.

Labels are split in two by the picture's hash. One half orders candidate thresholds from the safest to the boldest; the
other tests them in that order and stops at the first whose exact 95 % bound misses the target. Tests in an order that
was fixed before need no correction for their number (Maurer, Hothorn and Lehmacher, 1995; for thresholds: Angelopoulos
et al., "Learn then test", arXiv 2110.01052). Each tag has a test of its own: of 20 tags, one may miss its target.
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import neg
from typing import Any

from hfcap.applications.policy import Target
from hfcap.applications.tag_labels import Label, Labels
from hfcap.applications.tag_rows import Tags
from hfcap.counts import counted
from hfcap.errors import ConfigError
from hfcap.metrics.binomial import lower_bound, trials_needed, upper_bound

CONFIDENCE = 0.95
CANDIDATES = 10


@dataclass(frozen=True)
class Proportion:
    """A proportion and its one-sided 95 % lower bound.

    Attributes:
        value: the estimate; NaN without trials.
        lower: the bound.
        trials: labels that it rests on; effective ones where their weights differ.
        labels: labels that it rests on.
    """

    value: float
    lower: float
    trials: float
    labels: int

    def record(self) -> dict[str, Any]:
        """Return it for a JSON file."""
        value = None if math.isnan(self.value) else self.value
        return {"value": value, "lower_95": self.lower, "num_labels": self.labels}


def precision_at(threshold: float, labels: Sequence[Label]) -> Proportion:
    """Return how many of the pictures at the threshold or above show what the tag means."""
    return _proportion([label for label in labels if label.score >= threshold])


def recall_at(threshold: float, labels: Sequence[Label], num_above: int, num_below: int) -> Proportion:
    """Return how many of the pictures that show it are at the threshold or above.

    With labels of one weight the bound is exact, over the positive ones. Else a stratum of large weight without a
    positive label would count as having none; there the positives above are bounded from below, those below from
    above, each at 97.5 %, from the number of pictures on each side.

    Args:
        threshold: lowest score that goes to a person.
        labels: yes or no.
        num_above: pictures at the threshold or above, labelled or not.
        num_below: pictures below.
    """
    positive = [label for label in labels if label.answer]
    found = _proportion([replace(label, answer=label.score >= threshold) for label in positive])
    if not num_below and positive:
        return replace(found, lower=1.0)  # a queue of all pictures misses none
    if len({label.weight for label in labels}) < 2:
        return found
    above, below = (
        counts([label for label in labels if (label.score >= threshold) == is_above]) for is_above in (True, False)
    )
    one_side = 1 - (1 - CONFIDENCE) / 2
    fewest_found = num_above * (lower_bound(*above, one_side) if above[1] else 0.0)
    most_missed = num_below * (upper_bound(*below, one_side) if below[1] else 1.0)
    lower = fewest_found / (fewest_found + most_missed) if fewest_found else 0.0
    return Proportion(found.value, min(lower, found.lower), found.trials, found.labels)


def counts(labels: Sequence[Label]) -> tuple[float, float]:
    """Return the effective numbers of positive labels and of labels; see Kish, "Survey sampling", 1965."""
    weights = [label.weight for label in labels]
    if len(set(weights)) < 2:
        return float(sum(bool(label.answer) for label in labels)), float(len(labels))
    trials = sum(weights) ** 2 / sum(weight**2 for weight in weights)
    share = sum(label.weight for label in labels if label.answer) / sum(weights)
    return min(share, 1.0) * trials, trials


def _proportion(labels: Sequence[Label]) -> Proportion:
    successes, trials = counts(labels)
    if not trials:
        return Proportion(math.nan, 0.0, 0.0, 0)
    return Proportion(successes / trials, lower_bound(successes, trials, CONFIDENCE), trials, len(labels))


def num_at_or_above(threshold: float, scores: Sequence[float]) -> int:
    """Return how many of the scores, in falling order, are not below the threshold."""
    return bisect_right(scores, -threshold, key=neg)


def halves(labels: Sequence[Label], tags: Tags) -> tuple[list[Label], list[Label]]:
    """Split labels into those that choose and those that judge, by the picture's hash: copies stay together."""
    sides: tuple[list[Label], list[Label]] = ([], [])
    for label in labels:
        digest = hashlib.sha256(f"judge/{tags.rows[label.image_id]['image_sha256']}".encode()).digest()
        sides[digest[0] % 2].append(label)
    return sides


def choose_threshold(tag: str, target: Target, tags: Tags, labels: Labels | None) -> dict[str, Any]:
    """Choose the threshold of a tag.

    Returns:
        Its record in `thresholds.json`.

    Raises:
        ConfigError: labels of one class only, or too few, or a tagger that is not good enough; the line says how many
            labels the target needs.
    """
    scores = sorted((row["scores"][tag] for row in tags.rows.values()), reverse=True)
    own = labels.of(tag) if labels is not None else []
    if target.kind == "queue":
        threshold, judged, num_choosing = _queue_threshold(tag, target.value, scores), own, 0
    else:
        _check_both_classes(tag, own, labels)
        choosing, judged = halves(own, tags)
        num_choosing = len(choosing)
        threshold = _tested(tag, target, scores, choosing, judged)
    num_above = num_at_or_above(threshold, scores)
    record = {"threshold": threshold, "target": {target.kind: target.value}, "queue": num_above / len(scores)}
    if own:
        record["precision"] = precision_at(threshold, judged).record()
        record["recall"] = recall_at(threshold, judged, num_above, len(scores) - num_above).record()
        record["labels"] = {"choosing": num_choosing, "judging": len(judged)}
    return record


def _queue_threshold(tag: str, share: float, scores: Sequence[float]) -> float:
    """Return the lowest score at which the queue is not longer than the share; pictures of one score go together."""
    room = math.floor(share * len(scores) + 1e-9)
    fitting = [scores[last] for last in range(room) if last + 1 == len(scores) or scores[last] > scores[last + 1]]
    if not fitting:
        highest = counted(scores.count(scores[0]), "picture")
        reason = f"{tag}: {highest} with the highest score, more than {share:.3g} of all"
        raise ConfigError(reason, fix="allow a longer queue")
    return fitting[-1]


def _check_both_classes(tag: str, own: Sequence[Label], labels: Labels | None) -> None:
    if labels is None:
        raise ConfigError(f"{tag}: precision and recall are measured on labels", fix="pass them with --labels")
    answers = {label.answer for label in own}
    if len(answers) < 2:
        answer = "yes" if True in answers else "no"
        only = f"{counted(len(own), 'label')}, all of them {answer}" if answers else "no label"
        fix = "label pictures that show it and others; `hfcap moderate sample` chooses some"
        raise ConfigError(f"{tag}: {only}", option=labels.path, fix=fix)


def _tested(
    tag: str, target: Target, scores: Sequence[float], choosing: Sequence[Label], judged: Sequence[Label]
) -> float:
    def measured(threshold: float, labels: Sequence[Label]) -> Proportion:
        if target.kind == "precision":
            return precision_at(threshold, labels)
        num_above = num_at_or_above(threshold, scores)
        return recall_at(threshold, labels, num_above, len(scores) - num_above)

    passed = None
    candidates = _candidates(target, choosing, measured)
    for threshold in candidates:
        if measured(threshold, judged).lower < target.value:
            break
        passed = threshold
    if passed is None:
        raise _too_few(tag, target, candidates, measured, len(choosing), judged)
    return passed


def _candidates(
    target: Target, choosing: Sequence[Label], measured: Callable[[float, Sequence[Label]], Proportion]
) -> list[float]:
    """Return thresholds to test, the safest first, from labels that test none of them.

    For a precision the safest has the best lower bound, and bolder ones are lower; for a recall the safest is the
    lowest, and bolder ones are higher. The boldest is the last whose estimate reaches the target.
    """
    positive = sorted({label.score for label in choosing if label.answer})
    if not positive:
        return []
    found = {threshold: measured(threshold, choosing) for threshold in positive}
    if target.kind == "precision":
        safest = max(positive, key=lambda threshold: (found[threshold].lower, -threshold))
        bolder = [t for t in reversed(positive) if t < safest and found[t].value >= target.value]
    else:
        safest = positive[0]
        bolder = [t for t in positive[1:] if found[t].value >= target.value]
    ordered = [safest, *bolder]
    step = max(1, math.ceil((len(ordered) - 1) / (CANDIDATES - 1)))
    return ordered[::step] + (ordered[-1:] if (len(ordered) - 1) % step else [])


def _too_few(
    tag: str,
    target: Target,
    candidates: Sequence[float],
    measured: Callable[[float, Sequence[Label]], Proportion],
    num_choosing: int,
    judged: Sequence[Label],
) -> ConfigError:
    """Return the error of a target that the judging labels do not confirm, with the labels that it would need."""
    kind = "labels at the threshold or above" if target.kind == "precision" else "labels that are yes"
    least = trials_needed(1.0, target.value, CONFIDENCE)
    if not candidates:
        reason = f"{tag}: no picture with a yes among {counted(num_choosing, 'label')} for choosing the threshold"
        return ConfigError(reason, fix=f"label more; a {target.kind} of {target.value:g} needs 2 x {least} {kind}")
    threshold = candidates[0]
    seen = measured(threshold, judged)
    what = f"{seen.value:.3f}" if seen.labels else "unknown"
    reason = (
        f"{tag}: {target.kind} {what} at {threshold:.4g} from {seen.labels} {kind} among the {len(judged)} that judge"
        f"; its lower 95 % bound is {seen.lower:.3f}, wanted {target.value:g}"
    )
    return ConfigError(reason, fix=_what_would_do(target, threshold, seen, least, kind))


def _what_would_do(target: Target, threshold: float, seen: Proportion, least: int, kind: str) -> str:
    """Return the fix of a target that is missed: more labels, if more could do."""
    needed = trials_needed(seen.value, target.value, CONFIDENCE) if seen.labels else least
    if needed is None:
        # Labels that might as well come from a tagger that reaches it; and a recall has lower thresholds left.
        if target.kind == "recall" or upper_bound(seen.value * seen.trials, seen.trials, CONFIDENCE) >= target.value:
            return f"at least {2 * least} {kind} are needed (half of them judge), and few that speak against it"
        return "no number of labels gets there: lower the target, or train a better tagger"
    if seen.labels:
        needed = math.ceil(needed * seen.labels / seen.trials)
    if needed <= seen.labels:  # the bound over unequal weights is wider than a count of labels says
        return f"label more pictures below {threshold:.4g}, where many are left unseen"
    return f"about {2 * needed} {kind} are needed (half of them judge), if it stays as good"
