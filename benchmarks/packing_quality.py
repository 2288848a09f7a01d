"""Does sharing an image between its references cost quality? Five references of an image per step, two, and one.

    python benchmarks/packing_quality.py --data FOLDER --encoder FOLDER --plot docs/packing_quality.svg

Five references of one image are correlated samples: a step over 16 images with five references each sees fewer
pictures than one over 80 pairs of image and caption. All ways train the same captioner with as many captions per step,
the same number of steps and the same schedule, from the same weights for each seed, and caption the same validation
photos along the way; the rest is `packing_quality.yaml`. Where a step takes some of an image's references, they are
redrawn each epoch.

The runs stay in `--output_dir`, and the command goes on where it was broken off. They may share the machine with other
work: minutes are captions over captions per second, and those are measured at the end, in short runs of the ways in
turn; leave the machine alone then. The last line is JSON.
"""

import argparse
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from hfcap import runs
from hfcap.recipes import train
from hfcap.training.checkpoints import last_complete_checkpoint

ALL = 5  # references per image
EVALUATIONS = 6
TIMED_STEPS, TIMED_ROUNDS = 60, 3


def settings_of(references: int, captions_a_step: int, passes: int) -> dict[str, Any]:
    """What sets the ways apart: how the captions of a step, and of so many passes over all, are spread over images."""
    images, epochs = captions_a_step // references, passes * ALL / references
    one_way = {"per_device_train_batch_size": images, "num_train_epochs": epochs}
    return one_way if references == ALL else one_way | {"references": references}


def run_recipe(settings: Mapping[str, Any], other: Sequence[str]) -> None:
    train.main([part for name, value in settings.items() for part in (f"--{name}", str(value))] + [*other])


def curve_of(folder: Path, captions_a_step: int) -> list[dict[str, float]]:
    """Captions seen and CIDEr of a finished run: at its evaluations, and at its end."""
    state = json.loads((Path(last_complete_checkpoint(folder / runs.CHECKPOINTS)) / "trainer_state.json").read_text())
    evaluations = [(entry["step"], entry["eval_cider"]) for entry in state["log_history"] if "eval_cider" in entry]
    end = state["max_steps"], runs.read_metrics(folder / runs.METRICS_JSON)["metrics"]["cider"]["value"]
    return [{"captions": step * captions_a_step, "cider": 100 * cider} for step, cider in [*evaluations, end]]


def captions_a_second(
    folder: Path, ways: Sequence[int], common: Mapping[str, Any], captions_a_step: int, other: Sequence[str]
) -> dict[int, float]:
    """Median captions a second of each way: short runs, in turn, without an evaluation."""
    rates = {references: [] for references in ways}
    quiet = {"eval_strategy": "no", "save_strategy": "no", "max_eval_images": 2, "eval_caption_images": 2}
    for _ in range(TIMED_ROUNDS):
        for references, measured in rates.items():
            shutil.rmtree(folder, ignore_errors=True)
            way = settings_of(references, captions_a_step, 1) | {"max_steps": TIMED_STEPS}
            run_recipe({**common, **way, **quiet, "output_dir": folder}, other)
            measured.append(runs.read_run(folder / runs.RUN_JSON)["throughput"]["captions_per_second"])
    return {references: statistics.median(measured) for references, measured in rates.items()}


def plot(curves: Mapping[int, Sequence[Sequence[dict[str, float]]]], path: Path) -> None:
    """Draw CIDEr against captions seen and against minutes: one line a run, one colour a way."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    for axis, key, label in zip(axes, ("captions", "minutes"), ("captions seen", "minutes of training"), strict=True):
        for way, (references, seeds) in enumerate(curves.items()):
            for number, points in enumerate(seeds):
                name = f"{references} of an image per step" if number == 0 else None
                axis.plot([p[key] for p in points], [p["cider"] for p in points], "o-", color=f"C{way}", label=name)
        axis.set_xlabel(label)
    axes[0].set_ylabel("CIDEr, validation")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Flickr8k, or another source of five references per image")
    parser.add_argument("--encoder", required=True, help="the pretrained encoder, frozen")
    parser.add_argument("--config", default=str(Path(__file__).with_suffix(".yaml")))
    parser.add_argument("--output_dir", default="outputs/packing-quality", type=Path)
    parser.add_argument("--references", default=[ALL, 2, 1], type=int, nargs="+", help="of an image in a step")
    parser.add_argument("--seeds", default=[1, 2, 3], type=int, nargs="+")
    parser.add_argument("--passes", default=3, type=int, help="passes over all references")
    parser.add_argument("--captions", default=80, type=int, help="captions per step")
    parser.add_argument("--train_images", default=6000, type=int)
    parser.add_argument("--eval_images", default=500, type=int)
    parser.add_argument("--plot", type=Path, help="where to draw the curves (needs matplotlib)")
    args, other = parser.parse_known_args()

    steps = args.passes * (args.train_images * ALL // args.captions)
    common = {
        "config": args.config,
        "data": args.data,
        "encoder": args.encoder,
        "max_train_images": args.train_images,
        "max_eval_images": args.eval_images,
        "eval_caption_images": args.eval_images,
        "eval_steps": steps // EVALUATIONS,
        "save_steps": steps // EVALUATIONS,
    }
    curves = {references: [] for references in args.references}
    for seed in args.seeds:
        for references, finished in curves.items():
            folder = args.output_dir / f"{references}-references-seed-{seed}"
            run_recipe(
                {**common, **settings_of(references, args.captions, args.passes), "seed": seed, "output_dir": folder},
                other,
            )
            finished.append(curve_of(folder, args.captions))
    rates = captions_a_second(args.output_dir / "timed", args.references, common, args.captions, other)

    for references, seeds in curves.items():
        for point in chain.from_iterable(seeds):
            point["minutes"] = point["captions"] / rates[references] / 60
    print(f"\n{'references':>10}{'images per step':>15}{'captions/s':>12}{'minutes':>9}   CIDEr, by seed")
    for references, seeds in curves.items():
        ends = [points[-1] for points in seeds]
        images, rate, minutes = args.captions // references, rates[references], ends[0]["minutes"]
        by_seed = "  ".join(f"{end['cider']:.1f}" for end in ends)
        print(f"{references:>10}{images:>15}{rate:>12.0f}{minutes:>9.1f}   {by_seed}")
    if args.plot:
        plot(curves, args.plot)
    print(json.dumps({"seeds": args.seeds, "captions_a_second": rates, "curves": curves}))


if __name__ == "__main__":
    main()
