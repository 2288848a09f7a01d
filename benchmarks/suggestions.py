"""Judge `hfcap suggest` against other ways to several captions, and the model's probability as a confidence.

    taskset -c 0 python benchmarks/suggestions.py --model RUN --data FOLDER --tune_images 100 --num_images 300 --grid

For models of hfcap's own types. The first --tune_images of the split are for choosing: --grid varies the weights of
agreement and similarity with them. All other figures are of the next --num_images. CIDEr weighs words by the
references of the whole split. Each picture is encoded once for all ways; "ms" is processor time per photo of the
decoding alone, by one thread. "alike" is the share of pairs that are equal or
one word apart, "fewer" the number of images with fewer captions than asked for.

The second part is about the confidence of the captions that `hfcap caption` gives: AURC with the risk 1 - CIDEr
against the random line, ten bins, and whether the probability of a content word tells words that no reference has
(AUROC; chance is .5).

The last line is JSON.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch

from hfcap.applications.doubt import content_words
from hfcap.applications.suggestions import suggestions, within_one_word
from hfcap.data.pictures import load_picture
from hfcap.data.reading import loads_of
from hfcap.data.sources import load_captions
from hfcap.generation.caption import decode_stream, generate_tokens
from hfcap.generation.loading import load_captioner
from hfcap.generation.sampling import Sampling, sample_stream
from hfcap.generation.word_probabilities import scored_caption_stream
from hfcap.metrics import document_frequencies, split_captions
from hfcap.metrics.caption_sets import compute_set_metrics
from hfcap.metrics.confidence import area_under_risk_coverage, reliability
from hfcap.samples import Sample

TEMPERATURES = (0.3, 0.5, 0.7, 1.0)
AGREEMENT_WEIGHTS = (0.0, 0.5, 1.0, 2.0)
UNLIKE_WEIGHTS = (0.0, 0.25, 0.5, 1.0)
RESAMPLES = 1000


def interval(values: Sequence[float]) -> list[float]:
    """95 % bootstrap interval of a mean."""
    values, random = np.asarray(values), np.random.default_rng(0)
    means = [values[random.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    return np.percentile(means, [2.5, 97.5]).tolist()


class Captioner:
    """A model with the encoded pictures of some images; each way to captions is timed.

    Args:
        model: captioner of a type of hfcap's own.
        processor: its processor.
        rows: with `image` and `image_id`.
    """

    def __init__(self, model, processor, rows):
        self.model, self.processor = model, processor
        self.keys = rows["image_id"]
        start = time.process_time()
        with torch.inference_mode():
            self.rows = [self._encoded(row) for row in rows]
        self.encode_ms = 1000 * (time.process_time() - start) / len(rows)

    def _encoded(self, row: dict) -> dict:
        picture = self.processor.image_processor([load_picture(row["image"])], return_tensors="pt")
        return {"vision_features": self.model.get_vision_features(picture["pixel_values"])[0]}

    def timed(self, stream: Callable) -> tuple[list, float]:
        """Results in order, and milliseconds per photo."""
        start = time.process_time()
        found = dict(stream())
        ms = 1000 * (time.process_time() - start) / len(self.rows)
        return [found[index] for index in range(len(self.rows))], ms

    def samples(self, sampling: Sampling, seed: int) -> tuple[list[list[Sample]], float]:
        """Draw samples for each picture."""
        return self.timed(
            lambda: sample_stream(
                self.model, self.processor, loads_of(self.rows), self.keys.__getitem__, sampling, seed
            )
        )

    def beams(self, number: int) -> tuple[list[list[str]], float]:
        """Give the best captions of beam search with as many beams."""
        settings = copy.deepcopy(self.model.generation_config)
        settings.update(num_beams=number, num_return_sequences=number, early_stopping=True)

        def decode(batch):
            tokens = generate_tokens(self.model, self.processor, [prefix for _, prefix in batch], settings)
            texts = self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            return [[text.strip() for text in texts[i : i + number]] for i in range(0, len(texts), number)]

        return self.timed(
            lambda: decode_stream(self.model, self.processor, loads_of(self.rows), None, 8, None, decode)
        )


def figures_of(sets: list[list[str]], references, frequencies, greedy: np.ndarray, ms: float) -> dict:
    """Return a row of the table."""
    found = compute_set_metrics([captions or [""] for captions in sets], references, idf=frequencies)
    words = [[text.split() for text in split_captions(captions, isolated=True)] for captions in sets]
    pairs = [within_one_word(a, b) for of_image in words for a, b in combinations(of_image, 2)]
    names = ("cider_first", "cider_best", "cider_mean", "self_cider", "mbleu_4", "distinct_2")
    difference = np.array(found["cider_first_per_image"]) - greedy
    return {name: found[name] for name in names} | {
        "first_minus_greedy": float(difference.mean()),
        "first_minus_greedy_ci95": interval(difference),
        "alike": float(np.mean(pairs)) if pairs else 0.0,
        "fewer": sum(len(captions) < max(map(len, sets)) for captions in sets),
        "ms": ms,
    }


def chosen(samples: list[list[Sample]], number: int, **weights) -> list[list[str]]:
    """Return the captions that `hfcap suggest` would give."""
    return [[found.caption for found in suggestions(of_image, number, **weights)] for of_image in samples]


def line(name: str, row: dict) -> str:
    """Return a row of the table as text; all but ms times 100."""
    low, high = (100 * bound for bound in row["first_minus_greedy_ci95"])
    first = f"{100 * row['cider_first']:.1f} ({100 * row['first_minus_greedy']:+.1f}; {low:+.1f} to {high:+.1f})"
    others = [100 * row[name] for name in ("cider_best", "cider_mean", "self_cider", "mbleu_4", "distinct_2", "alike")]
    cells = [name, first, *(f"{value:.1f}" for value in others), str(row["fewer"]), f"{row['ms']:.0f}"]
    return f"| {' | '.join(cells)} |"


def compare(captioner: Captioner, references, frequencies, number: int, seed: int) -> dict:
    """Print and return the table."""
    greedy, ms = captioner.samples(Sampling(1, temperature=0), seed)
    sets = [[sample.caption for sample in of_image] for of_image in greedy]
    inputs = {"references": references, "frequencies": frequencies}
    own = np.array(compute_set_metrics(sets, references, idf=frequencies)["cider_first_per_image"])
    table = {"greedy": figures_of(sets, **inputs, greedy=own, ms=ms)}
    sets, ms = captioner.beams(number)
    table[f"beam search, {number} best"] = figures_of(sets, **inputs, greedy=own, ms=ms)
    for name, sampling in (("sampling", Sampling(number)), ("top-p 0.9", Sampling(number, top_p=0.9))):
        samples, ms = captioner.samples(sampling, seed)
        sets = [[sample.caption for sample in of_image] for of_image in samples]
        table[name] = figures_of(sets, **inputs, greedy=own, ms=ms)
    for temperature in TEMPERATURES:
        samples, ms = captioner.samples(Sampling(temperature=temperature), seed)
        sets, choice_ms = captioner.timed(lambda found=samples: enumerate(chosen(found, number)))
        table[f"suggest, temperature {temperature}"] = figures_of(sets, **inputs, greedy=own, ms=ms + choice_ms)
    print(f"\n{len(references)} images, {number} captions each; all but ms and fewer times 100")
    print(
        "| | first CIDEr (minus greedy; 95 %) | best | mean | self-CIDEr | mBLEU-4 | distinct-2 | alike | fewer | ms |"
    )
    print("| --- | --- |" + " ---: |" * 8)
    for name, row in table.items():
        print(line(name, row))
    return table


def tune(captioner: Captioner, references, frequencies, number: int, seed: int, temperature: float) -> None:
    """Print what the weights do at one temperature."""
    samples, _ = captioner.samples(Sampling(temperature=temperature), seed)
    print(f"\n{len(references)} images for choosing, temperature {temperature}: agreement, unlike, first, best, mean, "
          "self-CIDEr, mBLEU-4, distinct-2")  # fmt: skip
    for agreement in AGREEMENT_WEIGHTS:
        for unlike in UNLIKE_WEIGHTS:
            sets = chosen(samples, number, agreement=agreement, unlike=unlike)
            found = compute_set_metrics([of_image or [""] for of_image in sets], references, idf=frequencies)
            names = ("cider_first", "cider_best", "cider_mean", "self_cider", "mbleu_4", "distinct_2")
            print(agreement, unlike, *(f"{100 * found[name]:.1f}" for name in names), sep="\t")


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Probability that an item with the label has the higher score; ties count half, and one label alone is chance."""
    if labels.all() or not labels.any():
        return 0.5
    positive, negative = scores[labels], np.sort(scores[~labels])
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(below.mean() / 2 / len(negative))


def doubt(tokenizer, captions: list[Sample], references) -> dict:
    """Say whether improbable content words are those that no reference has."""
    found = []
    for number, (sample, texts) in enumerate(zip(captions, references, strict=True)):
        known = set(" ".join(split_captions(texts, isolated=True)).split())
        found += [(number, -value, word.lower() not in known) for word, value in content_words(tokenizer, sample)]
    image, score, wrong = (np.array(column) for column in zip(*found, strict=True))
    places = [np.flatnonzero(image == number) for number in range(len(captions))]
    random, values = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([places[number] for number in random.integers(len(captions), size=len(captions))])
        values.append(auroc(score[drawn], wrong[drawn]))
    return {
        "words": len(found),
        "wrong": float(wrong.mean()),
        "auroc": auroc(score, wrong),
        "auroc_ci95": np.percentile(values, [2.5, 97.5]).tolist(),
        "reliability": reliability(np.exp(-score), 1.0 - wrong),
    }


def judge_confidence(captioner: Captioner, references, frequencies) -> dict:
    """Print and return the figures of the confidence of the captions that `hfcap caption` gives."""
    tokenizer = captioner.processor.tokenizer
    captions, _ = captioner.timed(
        lambda: scored_caption_stream(captioner.model, captioner.processor, loads_of(captioner.rows))
    )
    sets = [[sample.caption] for sample in captions]
    cider = compute_set_metrics(sets, references, idf=frequencies)["cider_first_per_image"]
    confidence = [sample.log_probability for sample in captions]
    result = area_under_risk_coverage(confidence, 1 - np.array(cider))
    result["reliability"] = reliability(np.exp(confidence), cider)
    result["words"] = doubt(tokenizer, captions, references)
    low, high = result["ci95"]
    print(f"\nhfcap caption: CIDEr {100 * np.mean(cider):.1f}")
    print(f"AURC {result['aurc']:.3f}, random {result['random']:.3f}, difference {result['difference']:+.3f} "
          f"({low:+.3f} to {high:+.3f})")  # fmt: skip
    for part in result["reliability"]:
        print(f"| {part['count']} | {part['confidence']:.3f} | {100 * part['quality']:.1f} |")
    words = result["words"]
    low, high = words["auroc_ci95"]
    print(f"{words['words']} content words, {words['wrong']:.1%} in no reference: AUROC {words['auroc']:.3f} "
          f"({low:.3f} to {high:.3f})")  # fmt: skip
    for part in words["reliability"]:
        print(f"| {part['count']} | {part['confidence']:.3f} | {part['quality']:.1%} |")
    return result


def main() -> None:
    """Print the tables and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="run folder or model folder")
    parser.add_argument("--data", required=True, help="source of captioned images")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--num_images", type=int, default=300)
    parser.add_argument("--tune_images", type=int, default=100)
    parser.add_argument("--grid", action="store_true", help="also vary the weights on the first --tune_images")
    parser.add_argument("--tune_temperature", type=float, default=0.5)
    parser.add_argument("--n", type=int, default=5, help="captions per image")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, processor = load_captioner(args.model)
    model.eval()
    rows = load_captions(args.data, args.split)
    frequencies = document_frequencies(rows["captions"])
    for_choosing = rows.select(range(args.tune_images))
    rows = rows.select(range(args.tune_images, min(len(rows), args.tune_images + args.num_images)))
    if args.grid:
        captioner = Captioner(model, processor, for_choosing)
        tune(captioner, for_choosing["captions"], frequencies, args.n, args.seed, args.tune_temperature)
    captioner = Captioner(model, processor, rows)
    table = compare(captioner, rows["captions"], frequencies, args.n, args.seed)
    print(f"encoding: {captioner.encode_ms:.0f} ms per photo")
    confidence = judge_confidence(captioner, rows["captions"], frequencies)
    people = compute_set_metrics(rows["captions"], idf=frequencies)
    record = {"num_images": len(rows), "tune_images": args.tune_images, "n": args.n, "seed": args.seed}
    record |= {"encode_ms": captioner.encode_ms, "table": table, "confidence": confidence}
    record |= {"people": {key: value for key, value in people.items() if not key.endswith("_per_image")}}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
