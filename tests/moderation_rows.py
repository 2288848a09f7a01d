"""Rows of `tags.jsonl` made up for tests: scores that follow the truth, two tags, no pictures behind them."""

import hashlib
import json
import math
import random

from hfcap.applications.policy import read_policy

POLICY = """\
tags:
  smoking:
    means: somebody smokes
    words:
      - smok(es|ing)
    target: {recall: 0.6}
    action: review
  weapon:
    means: a real gun
    words:
      - guns?
    target: {queue: 10%}
    action: review
slices:
  child:
    - child|kids?
"""


def write_policy(folder):
    path = folder / "policy.yaml"
    path.write_text(POLICY)
    return read_policy(path)


def row(policy, image_id, scores, caption="A man smokes.", **more):
    return {
        "image_id": image_id,
        "path": f"photos/{image_id}.png",
        "image_sha256": hashlib.sha256(image_id.encode()).hexdigest(),
        "scores": scores,
        "evidence": policy.words_in(caption),
        "caption": caption,
        "tagger": {"source": "outputs/tagger", "weights_sha256": "ab" * 32},
        "policy": {"path": policy.path, "sha256": policy.sha256},
    } | more


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def made_up(policy, num_pictures, seed=0, share=0.1, separation=2.0):
    """Return rows and the truth of their tag `smoking`; scores of the two classes overlap."""
    draw = random.Random(seed)
    rows, truth = [], {}
    for number in range(num_pictures):
        image_id = f"{seed}-{number:05d}"
        truth[image_id] = draw.random() < share
        logit = draw.gauss(separation if truth[image_id] else -separation / 2, 1.2)
        scores = {"smoking": round(1 / (1 + math.exp(-logit)), 6), "weapon": round(draw.random(), 6)}
        caption = "A child smokes." if number % 4 == 0 else "A man smokes."
        rows.append(row(policy, image_id, scores, caption))
    return rows, truth


def labels_text(truth, ids, tag="smoking"):
    return "image_id,tag,label\n" + "".join(f"{i},{tag},{'yes' if truth[i] else 'no'}\n" for i in ids)
