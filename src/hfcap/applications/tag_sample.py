"""Which pictures to label: strata by score, drawn so that what is rare is seen and nothing is judged unseen.

Most pictures show nothing of a tag, so that labels of pictures drawn evenly hardly hold a positive one; labels of the
highest scores alone say nothing about what the tagger misses. Strata of the ranks get labels by the root of their
size, and the file says how likely each picture was drawn; weights of one over that likelihood give back the whole
(Horvitz and Thompson, "A generalization of sampling without replacement from a finite universe", JASA 47, 1952; for
this use, Liu, "Estimating the prevalence of rare events", 2019).
"""

import hashlib
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hfcap.applications.tag_labels import Label
from hfcap.applications.tag_rows import Tags
from hfcap.errors import ConfigError

MOST_STRATA = 8
FEWEST_PER_STRATUM = 10


def draw_sample(tags: Tags, tag: str, num_labels: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw pictures to label for a tag; the same seed draws the same, whatever the order of the rows.

    The strata are the lower half of the ranks by score, the quarter above it, the eighth above that, and so on. Equal
    shares would bound a precision best and the positives missed in the lower half worst, shares by size the other way
    round; the root of the size serves both. What a small stratum cannot use goes to the others.

    Returns:
        Lines for `tag_labels.labels_csv`, by falling score, with `stratum` 1 the highest.

    Raises:
        ConfigError: more labels than pictures.
    """
    if num_labels > len(tags.rows):
        raise ConfigError(
            option="--n", got=num_labels, wanted=f"at most {len(tags.rows)}, the pictures of {tags.path}"
        )
    ranked = sorted(tags.rows, key=lambda image_id: (-tags.rows[image_id]["scores"][tag], _draw(seed, tag, image_id)))
    strata = _strata(len(ranked), num_labels)
    counts = _shared_out(num_labels, [end - start for start, end in strata])
    lines = []
    for number, ((start, end), count) in enumerate(zip(strata, counts, strict=True), start=1):
        # Another draw than that of ties, or tied pictures would not be drawn evenly.
        drawn = sorted(ranked[start:end], key=lambda image_id: _draw(seed, f"{tag}/drawn", image_id))[:count]
        lines += [_line(tags, tag, image_id, number, count / (end - start)) for image_id in drawn]
    return sorted(lines, key=lambda line: (-line["score"], line["image_id"]))


def _line(tags: Tags, tag: str, image_id: str, stratum: int, probability: float) -> dict[str, Any]:
    row = tags.rows[image_id]
    drawn = {"stratum": stratum, "inclusion_probability": probability, "label": ""}
    return {"image_id": image_id, "path": row["path"], "tag": tag, "score": row["scores"][tag]} | drawn


def _strata(num_pictures: int, num_labels: int) -> list[tuple[int, int]]:
    """Return (start, end) of the ranks of each stratum, the highest first."""
    number = max(1, min(MOST_STRATA, num_labels // FEWEST_PER_STRATUM))
    edges = [num_pictures]
    while len(edges) < number and edges[-1] // 2 >= math.ceil(num_labels / number):
        edges.append(edges[-1] // 2)
    edges = [0, *reversed(edges)]
    return list(pairwise(edges))


def _shared_out(num_labels: int, sizes: Sequence[int]) -> list[int]:
    """Share labels out among strata by the roots of their sizes, one or more for each."""
    counts = [0] * len(sizes)
    for _ in range(num_labels):
        with_room = (stratum for stratum, size in enumerate(sizes) if counts[stratum] < size)
        counts[min(with_room, key=lambda stratum: counts[stratum] / math.sqrt(sizes[stratum]))] += 1
    return counts


def _draw(seed: int, what: str, image_id: str) -> bytes:
    return hashlib.sha256(f"{seed}/{what}/{image_id}".encode()).digest()


def estimated_positives(labels: Sequence[Label], num_pictures: int) -> tuple[float, float, float]:
    """Estimate how many of all pictures show what a tag means, with a 95 % interval (Horvitz and Thompson).

    Labels of one weight are taken for one stratum, and labels that all have the same for an even draw. The interval is
    the normal one, not below the positives seen; a stratum without a positive label adds nothing to it, so that it is
    too narrow for rare tags.
    """
    total, variance, weights = 0.0, 0.0, {label.weight for label in labels}
    for own in sorted(weights):
        answers = [label.answer for label in labels if label.weight == own]
        weight = own if len(weights) > 1 else num_pictures / len(answers)
        count, positive = len(answers), sum(answers)
        total += weight * positive
        if count > 1:
            spread = positive * (count - positive) / (count * (count - 1))  # the sample variance of 0s and 1s
            variance += (weight * count) ** 2 * (1 - 1 / weight) * spread / count
    half = 1.959963984540054 * math.sqrt(variance)
    return total, max(float(sum(label.answer for label in labels)), total - half), total + half
