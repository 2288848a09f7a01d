"""Does sharing an image between its references cost quality? Packed references against shuffled pairs.

    python benchmarks/packing_quality.py --data FOLDER --encoder FOLDER --plot docs/packing_quality.svg

Five references of one image are correlated samples: a step over 16 images with five references each sees fewer
pictures than one over 80 pairs of image and caption. Both ways train the same captioner with as many captions
a step, the same number of steps and the same schedule, from the same weights for each seed, and caption the same
validation photos along the way; the rest is `packing_quality.yaml`. A pair is an image with one reference drawn anew
each epoch. Minutes are those of training alone. The runs stay in `--output_dir`, and the
command goes on where it was broken off. The last line is JSON.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hfcap import runs
from hfcap.training.checkpoints import last_complete_checkpoint

ROOT = Path(__file__).parents[1]
REFERENCES = 5
EVALUATIONS = 6

sys.path.insert(0, str(ROOT / "recipes"))
import train  # noqa: E402  (recipes are scripts, not a package)


def settings_of(way: str, images_a_step: int, epochs: int) -> dict[str, int]:
    """What sets the ways apart; both take `images_a_step` x `REFERENCES` captions a step."""
    if way == "packed":
        return {"per_device_train_batch_size": images_a_step, "num_train_epochs": epochs}
    return {
        "references": 1,
        "per_device_train_batch_size": images_a_step * REFERENCES,
        "num_train_epochs": epochs * REFERENCES,
    }


def measure(folder: Path, captions_a_step: int) -> list[dict[str, float]]:
    """Evaluations of a finished run: captions seen, minutes trained, validation loss and CIDEr."""
    state = json.loads((Path(last_complete_checkpoint(folder / runs.CHECKPOINTS)) / "trainer_state.json").read_text())
    minutes = runs.read_run(folder / runs.RUN)["throughput"]["seconds"] / 60
    return [
        {
            "captions": entry["step"] * captions_a_step,
            "minutes": minutes * entry["step"] / state["max_steps"],
            "loss": entry["eval_loss"],
            "cider": 100 * entry["eval_cider"],
        }
        for entry in state["log_history"]
        if "eval_cider" in entry
    ]


def plot(curves: Mapping[str, Sequence[Sequence[dict[str, float]]]], path: Path) -> None:
    """Draw CIDEr against captions seen and against minutes: one line a run, one colour a way."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    for axis, key, label in zip(axes, ("captions", "minutes"), ("captions seen", "minutes of training"), strict=True):
        for color, (way, seeds) in zip(("tab:blue", "tab:orange"), curves.items(), strict=True):
            for number, points in enumerate(seeds):
                name = way if number == 0 else None
                axis.plot([p[key] for p in points], [p["cider"] for p in points], "o-", color=color, label=name)
        axis.set_xlabel(label)
    axes[0].set_ylabel("CIDEr, validation")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Flickr8k, or another source of five references an image")
    parser.add_argument("--encoder", required=True, help="the pretrained encoder, frozen")
    parser.add_argument("--config", default=str(Path(__file__).with_suffix(".yaml")))
    parser.add_argument("--output_dir", default="outputs/packing-quality", type=Path)
    parser.add_argument("--seeds", default=[1, 2, 3], type=int, nargs="+")
    parser.add_argument("--epochs", default=3, type=int, help="passes over all references")
    parser.add_argument("--images", default=16, type=int, help="images a step of the packed way")
    parser.add_argument("--train_images", default=6000, type=int)
    parser.add_argument("--eval_images", default=500, type=int)
    parser.add_argument("--plot", type=Path, help="where to draw the curves (needs matplotlib)")
    args, other = parser.parse_known_args()

    steps = args.epochs * (args.train_images // args.images)
    curves = {"packed": [], "pairs": []}
    for seed in args.seeds:
        for way, finished in curves.items():
            folder = args.output_dir / f"{way}-{seed}"
            settings = settings_of(way, args.images, args.epochs) | {
                "config": args.config,
                "data": args.data,
                "encoder": args.encoder,
                "max_train_images": args.train_images,
                "max_eval_images": args.eval_images,
                "eval_caption_images": args.eval_images,
                "eval_steps": steps // EVALUATIONS,
                "save_steps": steps // EVALUATIONS,
                "seed": seed,
                "output_dir": folder,
            }
            train.main([part for name, value in settings.items() for part in (f"--{name}", str(value))] + other)
            finished.append(measure(folder, args.images * REFERENCES))

    # A run that was broken off and went on may lack its last evaluations: all are compared where all were evaluated.
    shared = min(len(points) for seeds in curves.values() for points in seeds)
    curves = {way: [points[:shared] for points in seeds] for way, seeds in curves.items()}
    print(f"\n{'':8}{'seed':>6}{'minutes':>10}{'loss':>8}{'CIDEr':>8}")
    for way, seeds in curves.items():
        for seed, points in zip(args.seeds, seeds, strict=True):
            last = points[-1]
            print(f"{way:8}{seed:>6}{last['minutes']:>10.1f}{last['loss']:>8.3f}{last['cider']:>8.1f}")
    differences = [p[-1]["cider"] - q[-1]["cider"] for p, q in zip(curves["packed"], curves["pairs"], strict=True)]
    print(
        f"CIDEr, packed less pairs: {statistics.mean(differences):.1f} (by seed {[round(d, 1) for d in differences]})"
    )
    if args.plot:
        plot(curves, args.plot)
    print(json.dumps({"seeds": args.seeds, "steps": steps, "images": args.images, "curves": curves}))


if __name__ == "__main__":
    main()
