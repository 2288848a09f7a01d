"""What labels a threshold needs: even labels against those of `hfcap moderate sample`, on pictures made up for it.

    python benchmarks/label_simulation.py --runs 100

In each run 3,000 pictures get scores that overlap, 6 % of them positive. A threshold is asked for, and where one is
given, the truth about all pictures says whether it keeps its target. Prints a table, and one JSON line last.
"""

import argparse
import hashlib
import json
import math
import random

from hfcap.applications.policy import Target
from hfcap.applications.tag_labels import Label, Labels
from hfcap.applications.tag_rows import Tags
from hfcap.applications.tag_sample import draw_sample, estimated_positives
from hfcap.applications.thresholds import choose_threshold
from hfcap.errors import ConfigError

TAG = "tag"
PICTURES, POSITIVE = 3000, 0.06
SETTINGS = [("precision", 0.8, "even", 1200), ("precision", 0.8, "sample", 600)]
SETTINGS += [("recall", 0.6, "even", 1200), ("recall", 0.6, "sample", 600)]


def made_up(seed: int) -> tuple[Tags, dict[str, bool]]:
    draw, rows, truth = random.Random(seed), {}, {}
    for number in range(PICTURES):
        image_id = f"{seed}-{number}"
        truth[image_id] = draw.random() < POSITIVE
        score = 1 / (1 + math.exp(-draw.gauss(2.0 if truth[image_id] else -1.0, 1.2)))
        sha256 = hashlib.sha256(image_id.encode()).hexdigest()
        rows[image_id] = {"path": image_id, "image_sha256": sha256, "scores": {TAG: round(score, 6)}}
    return Tags("made up", rows, (TAG,), {}, {}), truth


def labels_of(tags: Tags, truth: dict[str, bool], way: str, number: int, seed: int) -> list[Label]:
    if way == "even":
        chosen = [(image_id, 1.0) for image_id in random.Random(seed).sample(sorted(truth), number)]
    else:
        sample = draw_sample(tags, TAG, number, seed)
        chosen = [(line["image_id"], 1 / line["inclusion_probability"]) for line in sample]
    return [Label(key, TAG, truth[key], tags.rows[key]["scores"][TAG], weight) for key, weight in chosen]


def simulate(kind: str, target: float, way: str, number: int, runs: int) -> dict:
    figures = {"target": f"{kind} {target}", "labels": f"{number} {way}", "kept": 0, "missed": 0, "refused": 0}
    figures["estimate_covers"] = 0
    for seed in range(runs):
        tags, truth = made_up(seed)
        labels = labels_of(tags, truth, way, number, seed)
        positives = sum(truth.values())
        _, low, high = estimated_positives(labels, PICTURES)
        figures["estimate_covers"] += low <= positives <= high
        try:
            record = choose_threshold(TAG, Target(kind, target), tags, Labels("made up", tuple(labels)))
        except ConfigError:
            figures["refused"] += 1
            continue
        queue = [key for key in truth if tags.rows[key]["scores"][TAG] >= record["threshold"]]
        found = sum(truth[key] for key in queue)
        reached = found / (len(queue) if kind == "precision" else positives)
        figures["kept" if reached >= target else "missed"] += 1
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100, help="per setting (default: 100)")
    args = parser.parse_args()
    results = [simulate(*setting, args.runs) for setting in SETTINGS]
    for result in results:
        print("; ".join(f"{name} {value}" for name, value in result.items()))
    print(json.dumps({"benchmark": "label_simulation", "runs": args.runs, "results": results}))


if __name__ == "__main__":
    main()
