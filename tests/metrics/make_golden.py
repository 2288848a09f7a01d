"""Make the golden values of this folder with the original: pycocoevalcap 1.2 and its CoreNLP 3.4.1 jar, on Java.

    pip install pycocoevalcap==1.2
    python tests/metrics/make_golden.py
    python tests/metrics/make_golden.py --compare captions_val2017.json     # prints the largest differences instead

Needs Java (made with OpenJDK 17). Writes `golden_tokens.json` and `golden_metrics.json`; the fast tests compare with
them, and the slow tests run the functions here to compare with the original directly.
"""

import argparse
import json
import os
import random
from pathlib import Path

import numpy as np
from hostile_strings import hostile_strings

from hfcap.metrics import compute_metrics, tokenize

FOLDER = Path(__file__).parent
ORIGIN = "pycocoevalcap 1.2 with stanford-corenlp-3.4.1.jar on OpenJDK 17, tests/metrics/make_golden.py"


def original_tokens(captions: list[str]) -> list[str]:
    """Tokenize with the original; captions must hold no line break other than a newline."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # Java reads and prints text in the locale's encoding, which would lose all but ASCII under "C".
    os.environ["LC_ALL"] = "C.UTF-8"
    tokenized = PTBTokenizer().tokenize({0: [{"caption": caption} for caption in captions]})[0]
    # Empty lines at the end are not printed.
    return tokenized + [""] * (len(captions) - len(tokenized))


def original_metrics(candidates: list[str], references: list[list[str]]) -> dict[str, dict]:
    """Score tokenized captions with the original: {key: {"value": float, "per_image": [float]}}."""
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    result = {}
    for option in ("closest", "shortest", "average"):
        scorer = BleuScorer(n=4)
        for candidate, captions in zip(candidates, references, strict=True):
            scorer += (candidate, captions)
        values, per_image = scorer.compute_score(option=option)
        for order in range(4):
            key = f"bleu_{order + 1}" + ("" if option == "closest" else f"_{option}")
            result[key] = {"value": values[order], "per_image": per_image[order]}
    gts = dict(enumerate(references))
    res = {index: [candidate] for index, candidate in enumerate(candidates)}
    for key, metric in (("rouge_l", Rouge()), ("cider", Cider())):
        value, per_image = metric.compute_score(gts, res)
        result[key] = {"value": float(value), "per_image": [float(score) for score in per_image]}
    return result


def original_meteor(candidates: list[str], references: list[list[str]]) -> dict:
    """Score tokenized captions with the original METEOR: {"value": float, "per_image": [float]}."""
    from pycocoevalcap.meteor.meteor import Meteor

    value, per_image = Meteor().compute_score(
        dict(enumerate(references)), {index: [candidate] for index, candidate in enumerate(candidates)}
    )
    return {"value": value, "per_image": per_image}


def made_captions(num_images: int = 80, seed: int = 11) -> tuple[list[str], list[list[str]]]:
    """Put sentences together: candidates, and one to six references per image; some empty, some with hard words."""
    chooser = random.Random(seed)
    things = [
        "dog",
        "cat",
        "man",
        "woman",
        "bus",
        "horse",
        "kite",
        "T-shirt",
        "surfboard",
        "U.S.",
        "flag",
        "boy's",
        "bike",
        "3-year-old",
    ]
    actions = [
        "stands near",
        "doesn't see",
        "jumps over",
        "is looking at",
        "holds",
        "sits on",
        "eats w/",
        "drives past",
    ]
    places = ["in the park.", "at 12:30 p.m.", "on a street, at night", "(indoors)", "by the 1/2 wall", "", "No. 5"]

    def sentence(subject: str) -> str:
        words = [
            chooser.choice(["a", "the", "A", "two"]),
            subject,
            chooser.choice(actions),
            "a",
            chooser.choice(things),
        ]
        return " ".join([*words, chooser.choice(places)]).strip()

    candidates, references = [], []
    for _ in range(num_images):
        subject = chooser.choice(things)
        references.append([sentence(subject) for _ in range(chooser.randint(1, 6))])
        candidates.append(sentence(subject))
    candidates[3], candidates[5], references[7][0] = "", "...", ""
    candidates[9], candidates[11] = references[9][0], "dog"
    return candidates, references


def read_images(path: Path) -> list[list[str]]:
    """Read the captions of each image from a COCO annotation file or a folder of parquet files (`captions`)."""
    if path.is_dir():
        import pyarrow.parquet

        tables = [pyarrow.parquet.read_table(file, columns=["captions"]) for file in sorted(path.rglob("*.parquet"))]
        return [captions for table in tables for captions in table["captions"].to_pylist()]
    images: dict[int, list[str]] = {}
    for annotation in json.loads(path.read_text())["annotations"]:
        images.setdefault(annotation["image_id"], []).append(annotation["caption"])
    return list(images.values())


def compare(images: list[list[str]], meteor: bool) -> dict[str, float]:
    """Score the first caption of each image against the others; give the largest absolute differences."""
    captions = [caption for captions in images for caption in captions]
    differing = sum(a != b for a, b in zip(tokenize(captions), original_tokens(captions), strict=True))
    candidates, references = [captions[0] for captions in images], [captions[1:] for captions in images]
    flat = iter(original_tokens([caption for captions in references for caption in captions]))
    tokenized = [[next(flat) for _ in captions] for captions in references]
    metrics = original_metrics(original_tokens(candidates), tokenized)
    if meteor:
        metrics["meteor"] = original_meteor(original_tokens(candidates), tokenized)
    result = {"captions": len(captions), "differently tokenized": differing}
    for option in ("closest", "shortest", "average"):
        names = ("bleu", "rouge_l", "cider", "meteor")[: 4 if meteor else 3] if option == "closest" else ("bleu",)
        ours = compute_metrics(candidates, references, names, reference_length=option)
        for key in (key for key in ours if not key.endswith("_per_image")):
            name = key if option == "closest" else f"{key}_{option}"
            result[name] = abs(ours[key] - metrics[name]["value"])
            difference = np.abs(np.subtract(ours[f"{key}_per_image"], metrics[name]["per_image"])).max()
            result[f"{name} per image"] = float(difference)
    return result


def write_golden() -> None:
    strings = hostile_strings()
    pairs = list(zip(strings, original_tokens(strings), strict=True))
    lines = ",\n".join(json.dumps(pair, ensure_ascii=True) for pair in pairs if len(pair[0]) < 1000)
    (FOLDER / "golden_tokens.json").write_text(f'{{"origin": {json.dumps(ORIGIN)}, "pairs": [\n{lines}\n]}}\n')

    candidates, references = made_captions()
    flat = original_tokens([caption for captions in references for caption in captions])
    tokenized = [[flat.pop(0) for _ in captions] for captions in references]
    metrics = original_metrics(original_tokens(candidates), tokenized)
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in metrics.items())
    (FOLDER / "golden_metrics.json").write_text(f'{{"origin": {json.dumps(ORIGIN)}, "metrics": {{\n{lines}\n}}}}\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", type=Path, help="captions to compare on: COCO annotations or a parquet folder")
    parser.add_argument("--meteor", action="store_true", help="compare METEOR as well (minutes)")
    args = parser.parse_args()
    if args.compare is None:
        write_golden()
        return
    for name, difference in compare(read_images(args.compare), args.meteor).items():
        print(f"{name:<28} {difference:.3g}")


if __name__ == "__main__":
    main()
