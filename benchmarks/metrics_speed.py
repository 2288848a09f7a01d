"""Time the metrics against pycocoevalcap, alternating, on COCO val2017: one caption of each image against the others.

    python benchmarks/metrics_speed.py --annotations captions_val2017.json

Needs Java and pycocoevalcap (`pip install "hfcap[meteor]"`); without them, or with --ours_only, hfcap alone is timed.
Each round of hfcap starts with an empty word cache. The last line is JSON: seconds are medians of wall-clock time.
"""

import argparse
import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hfcap.metrics import CiderDReward, compute_metrics
from hfcap.metrics.bleu import bleu
from hfcap.metrics.bootstrap import resample
from hfcap.metrics.cider import cider
from hfcap.metrics.compute import score
from hfcap.metrics.corpus import Corpus, build_corpus
from hfcap.metrics.metric import Inputs
from hfcap.metrics.ptb_tokenizer import forget_words
from hfcap.metrics.rouge_l import rouge_l

Captions = list[list[str]]
SCALES = (5_000, 10_000, 20_000, 50_000)


def read_captions(path: Path) -> Captions:
    images: dict[int, list[str]] = {}
    for annotation in json.loads(path.read_text())["annotations"]:
        images.setdefault(annotation["image_id"], []).append(annotation["caption"])
    return list(images.values())


def timed(stage: str, seconds: dict[str, float], function: Callable, *args):
    start = time.perf_counter()
    result = function(*args)
    seconds[stage] = time.perf_counter() - start
    return result


def time_hfcap(images: Captions) -> dict[str, float]:
    seconds: dict[str, float] = {}
    forget_words()
    corpus: Corpus = timed("tokenizer", seconds, build_corpus, [c[0] for c in images], [c[1:] for c in images])
    # BLEU comes first and so pays for counting the n-grams, which CIDEr uses again.
    timed("bleu", seconds, bleu, corpus)
    timed("rouge_l", seconds, rouge_l, corpus)
    timed("cider", seconds, cider, corpus)
    return seconds


def time_pycocoevalcap(images: Captions) -> dict[str, float]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    def tokenize(captions: Captions) -> dict[int, list[str]]:
        return PTBTokenizer().tokenize({i: [{"caption": c} for c in texts] for i, texts in enumerate(captions)})

    seconds: dict[str, float] = {}
    both = [[captions[1:] for captions in images], [captions[:1] for captions in images]]
    gts, res = timed("tokenizer", seconds, lambda: [tokenize(captions) for captions in both])
    timed("bleu", seconds, lambda: Bleu(4).compute_score(gts, res, verbose=0))
    timed("rouge_l", seconds, Rouge().compute_score, gts, res)
    timed("cider", seconds, Cider().compute_score, gts, res)
    return seconds


def time_bootstrap(images: Captions) -> float:
    scores = score(Inputs([c[0] for c in images], [c[1:] for c in images]), ("bleu", "rouge_l", "cider"))
    start = time.perf_counter()
    for entry in scores:
        resample(entry, 1000)
    return time.perf_counter() - start


def time_reward(images: Captions, batches: int = 40) -> float:
    """Give captions per second: 64 images x 5 samples per batch, each a caption of the image with a word exchanged."""
    random = np.random.default_rng(0)
    reward = CiderDReward({str(index): captions[1:] for index, captions in enumerate(images)})
    drawn = []
    for _ in range(batches):
        ids = np.repeat(random.choice(len(images), 64, replace=False), 5)
        samples = [images[i][random.integers(len(images[i]))].split() for i in ids]
        for words in samples:
            words[random.integers(len(words))] = str(random.choice(images[random.integers(len(images))][0].split()))
        drawn.append(([" ".join(words) for words in samples], [str(i) for i in ids]))
    forget_words()
    start = time.perf_counter()
    for candidates, ids in drawn:
        reward.score(candidates, ids)
    return batches * 320 / (time.perf_counter() - start)


def time_scale(images: Captions, num_images: int) -> dict[str, float]:
    """Time `compute_metrics` on copies of the images; every copy has some words of its own, as new images would."""
    many = []
    for index in range(num_images):
        captions = images[index % len(images)]
        copy = index // len(images)
        place = "".join(chr(97 + int(digit)) for digit in str(index))
        many.append(captions if copy == 0 else [f"{caption} {place}" for caption in captions])
    start = time.perf_counter()
    compute_metrics([captions[0] for captions in many], [captions[1:] for captions in many])
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def run_scale(annotations: Path, num_images: int) -> dict[str, float]:
    """Time one scale in a process of its own, so that the peak memory is its own."""
    command = [sys.executable, __file__, "--annotations", str(annotations), "--scale", str(num_images)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def time_import() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import hfcap.metrics"], check=True)
    return time.perf_counter() - start


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    result = {stage: statistics.median(entry[stage] for entry in rounds) for stage in rounds[0]}
    return result | {"total": statistics.median(sum(entry.values()) for entry in rounds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True, help="COCO captions, captions_val2017.json")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each, alternating")
    parser.add_argument("--ours_only", action="store_true", help="leave pycocoevalcap out")
    parser.add_argument("--scale", type=int, help="only time hfcap on this many images")
    args = parser.parse_args()
    images = read_captions(args.annotations)
    if args.scale:
        print(json.dumps(time_scale(images, args.scale)))
        return
    original = not args.ours_only and shutil.which("java") and importlib.util.find_spec("pycocoevalcap")
    ours, theirs = [], []
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
        ours.append(time_hfcap(images))
        if original:
            theirs.append(time_pycocoevalcap(images))
    result = {"images": len(images), "cores": os.cpu_count(), "hfcap": medians(ours)}
    if theirs:
        result["pycocoevalcap"] = medians(theirs)
        ratios = [sum(b.values()) / sum(a.values()) for a, b in zip(ours, theirs, strict=True)]
        result["times_faster"] = {"median": statistics.median(ratios), "rounds": ratios}
    result["bootstrap_seconds"] = time_bootstrap(images)
    result["reward_captions_per_second"] = time_reward(images)
    result["import_seconds"] = time_import()
    result["scale"] = {}
    for num_images in SCALES:
        print(f"{num_images} images", file=sys.stderr)
        result["scale"][num_images] = run_scale(args.annotations, num_images)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
