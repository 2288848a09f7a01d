"""Do captions have the length that was asked for, and what does asking cost?

    python benchmarks/length_control.py --model outputs/flickr8k-lengths --data FOLDER --baseline outputs/flickr8k-scst

Captions the photos of a split at each length and as the captioner likes; `--baseline`, another captioner, such as the
one before it learned length tokens, as it likes. A row for each: the share of captions within one word of what was
asked for, mean length, CIDEr, BLEU-4. CIDEr falls with the distance from the references' own lengths, whose mean is
the row to look at. The last line is JSON.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import hfcap.training_setup  # noqa: F401  (before torch)

# isort: split

import torch
from tqdm import tqdm

from hfcap.data.reading import loads_of
from hfcap.data.sources import load_captions
from hfcap.generation.caption import caption_loaded
from hfcap.generation.inputs import caption_prompt
from hfcap.generation.loading import load_captioner
from hfcap.length_tokens import count_words
from hfcap.metrics import compute_metrics
from hfcap.runs import resolve_model

LENGTHS = range(6, 17)


def caption_all(model, processor, rows, batch_size: int, length: int | None, name: str) -> list[str]:
    """Captions of all rows, in order."""
    found = caption_loaded(model, processor, loads_of(rows), caption_prompt(processor), batch_size, length=length)
    return [text for _, text in sorted(tqdm(found, desc=name, total=len(rows), leave=False))]


def judge(captions: Sequence[str], references: Sequence[Sequence[str]], length: int | None) -> dict[str, Any]:
    """One row of the table; metrics in points."""
    words = [count_words(caption) for caption in captions]
    scores = compute_metrics(captions, references, ("cider", "bleu"))
    within = None if length is None else sum(abs(own - length) <= 1 for own in words) / len(words)
    return {
        "length": length,
        "within_one_word": within,
        "mean_words": sum(words) / len(words),
        "cider": 100 * scores["cider"],
        "bleu_4": 100 * scores["bleu_4"],
    }


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="run or folder of a captioner trained with length_tokens")
    parser.add_argument("--baseline", help="run or folder of another captioner")
    parser.add_argument("--data", required=True, help="source of captioned pictures")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--num_images", type=int, default=None, help="the first of the split only")
    parser.add_argument("--batch_size", type=int, default=32)
    args = parser.parse_args()
    rows = load_captions(args.data, args.split, num_images=args.num_images)
    references = rows["captions"]
    results = {}
    if args.baseline is not None:
        model, processor = load_captioner(resolve_model(args.baseline).path)
        captions = caption_all(model, processor, rows, args.batch_size, None, "baseline")
        results["baseline"] = judge(captions, references, None)
    model, processor = load_captioner(resolve_model(args.model).path)
    for length in (None, *LENGTHS):
        name = "its own length" if length is None else f"{length} words"
        captions = caption_all(model, processor, rows, args.batch_size, length, name)
        results[name] = judge(captions, references, length)
    lengths = [count_words(caption) for captions in references for caption in captions]
    print("| asked for | within one word | mean words | CIDEr | BLEU-4 |\n| --- | --- | --- | --- | --- |")
    for name, row in results.items():
        within = "" if row["within_one_word"] is None else f"{row['within_one_word']:.1%}"
        print(f"| {name} | {within} | {row['mean_words']:.1f} | {row['cider']:.1f} | {row['bleu_4']:.1f} |")
    print(f"\nReferences have {sum(lengths) / len(lengths):.1f} words on average; {len(rows)} images")
    print(json.dumps({"images": len(rows), "torch": torch.__version__, "results": results}))


if __name__ == "__main__":
    main()
