"""How well metrics agree with people: Kendall's tau-c between each metric and human ratings of captions.

    python benchmarks/human_agreement.py ratings.jsonl --references references.jsonl --metrics bleu,meteor,cider

`ratings.jsonl` has one caption per line, {"image": id, "caption": text, "ratings": [numbers]}; an image may have
several captions, and a caption several ratings. References are read as by `hfcap score`, and images matched as there:
by id, file name, or number with or without leading zeros and COCO's prefix. As papers on caption metrics
do, each rating is paired with the value of its caption. CIDEr takes its document frequencies from these references.
The intervals come from 1,000 bootstrap samples of the images, drawn with all their captions and ratings. A metric of
which less is better is negated. Prints a table, and one JSON line last. Needs `pip install "hfcap[benchmarks]"`.
"""

import argparse
import json
import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import kendalltau

from hfcap.cli_options import positive
from hfcap.counts import counted
from hfcap.errors import ConfigError, as_config_error, run_main
from hfcap.image_matching import same_images
from hfcap.json_files import read_jsonl
from hfcap.metrics import (
    Options,
    choose_metrics,
    compute_metrics,
    display_name,
    document_frequencies,
    lower_is_better,
    metric_names,
    needs_images,
    refuse_unused,
)
from hfcap.predictions import Row, read_references

LARGEST = 1e300  # of a rating; JSON knows whole numbers of any length


@dataclass(frozen=True)
class Rated:
    """A caption of an image, and what people gave it."""

    image: str
    caption: str
    ratings: list[float]


def read_ratings(path: str) -> list[Rated]:
    rows = []
    for row, where in read_jsonl(path):
        image, caption, ratings = (row.get(key) for key in ("image", "caption", "ratings"))
        numbers = isinstance(ratings, list) and ratings and all(map(is_number, ratings))
        if not isinstance(image, str | int) or not isinstance(caption, str) or not numbers:
            raise ConfigError(option=where, got=row, wanted='{"image": id, "caption": text, "ratings": [numbers]}')
        rows.append(Rated(str(image), caption, ratings))
    if not rows:
        raise ConfigError("it has no ratings", option=path)
    return rows


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def with_ids_of(references: list[Row], rows: list[Rated]) -> list[Rated]:
    """Give the ratings the image ids of the references. Raises ConfigError where an image has no references."""
    same = same_images((row.image for row in rows), references)
    unknown = sorted({row.image for row in rows if len(same[row.image]) != 1})
    if unknown:
        raise ConfigError(
            f"no references of {counted(len(unknown), 'rated image')} (first: {unknown[0]})", option="--references"
        )
    return [replace(row, image=same[row.image][0]) for row in rows]


def values_of(rows: list[Rated], references: dict[str, list[str]], metrics: tuple[str, ...], **options) -> dict:
    """Value of each caption by metric, (N,); a value of which less is better is negated."""
    options["idf"] = document_frequencies(list(references.values()))
    result = compute_metrics(
        [row.caption for row in rows], [references[row.image] for row in rows], metrics, **options
    )
    keys = [key for key in result if not key.endswith("_per_image")]
    return {key: np.array(result[f"{key}_per_image"]) * (-1 if lower_is_better(key) else 1) for key in keys}


def agreement(rows: list[Rated], values: np.ndarray, num_resamples: int, seed: int = 0) -> dict:
    """Tau-c over all ratings, with its 95 % interval over images; None where all values or ratings are equal."""
    images = list(dict.fromkeys(row.image for row in rows))
    pairs = {image: ([], []) for image in images}
    for row, value in zip(rows, values, strict=True):
        pairs[row.image][0].extend([value] * len(row.ratings))
        pairs[row.image][1].extend(row.ratings)
    groups = [np.array(pairs[image], dtype=np.float64) for image in images]
    random = np.random.default_rng(seed)
    drawn = [random.integers(len(groups), size=len(groups)) for _ in range(num_resamples)]
    samples = [tau_c(np.concatenate([groups[place] for place in draw], axis=1)) for draw in drawn]
    usable = [sample for sample in samples if sample is not None]
    interval = np.percentile(usable, [2.5, 97.5]).tolist() if usable else None
    return {"tau_c": tau_c(np.concatenate(groups, axis=1)), "ci95": interval}


def tau_c(pairs: np.ndarray) -> float | None:
    tau = float(kendalltau(*pairs, variant="c").statistic)
    return None if math.isnan(tau) else tau


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", help="JSONL {image, caption, ratings}")
    parser.add_argument("--references", required=True, help="JSONL {image_id, captions}, COCO or Karpathy JSON")
    parser.add_argument("--metrics", default="bleu,rouge_l,cider", help="metrics of references, separated by commas")
    parser.add_argument("--chair_synonyms", help="words for each object of chair")
    parser.add_argument("--num_resamples", type=positive, default=1000, help="bootstrap samples of the images")
    args = parser.parse_args()
    names = metric_names(args.metrics)
    with as_config_error():
        if needs_images(names):
            raise ConfigError("it looks at images", option="--metrics", got=args.metrics, fix="remove clip_score")
        choose_metrics(names, Options(chair_synonyms=args.chair_synonyms))
        refuse_unused("--chair_synonyms", args.chair_synonyms, names, ("chair",))
        references = read_references(args.references, None)
        rows = with_ids_of(references, read_ratings(args.ratings))
    captions = {row.image_id: row.captions for row in references}
    values = values_of(rows, captions, names, chair_synonyms=args.chair_synonyms)
    result = {key: agreement(rows, column, args.num_resamples) for key, column in values.items()}
    for key, figure in result.items():
        shown = "undefined" if figure["tau_c"] is None else f"{figure['tau_c']:6.3f}, {figure['ci95']}"
        print(f"{display_name(key):<12} {shown}")
    ratings = sum(len(row.ratings) for row in rows)
    print(
        json.dumps({"images": len({row.image for row in rows}), "captions": len(rows), "ratings": ratings, **result})
    )


if __name__ == "__main__":
    run_main(main)
