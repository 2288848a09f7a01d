"""Does preference training make captions truer than more training on the same references?

    python benchmarks/preferences.py --seeds 0 1 2

The captioner is one trained quickly on the embedded data set (6,000 pictures), or that of `--model`. For each seed its
training goes on by `configs/train/scenes_dpo.yaml`, and as a control by cross entropy with the same settings, pictures
and number of steps. The script counts the captions of the validation pictures that are right in every fact, and those
that name a pair of colour and shape that is not in the picture; also on the pictures with a pair that training never
showed. Differences are paired over pictures and averaged over seeds, with 95 % intervals over pictures. Other options
are passed to both recipes. The last line is JSON.
"""

import argparse
import json
from pathlib import Path

import hfcap.training_setup  # noqa: F401  (before torch)

# isort: split

import numpy as np

from hfcap.data.scene_checking import read_caption, wrong_facts
from hfcap.data.scene_facts import Scene, scene_from_json
from hfcap.data.scenes import load_scenes
from hfcap.metrics.ranking import draws, with_interval
from hfcap.recipes import train, train_dpo, train_encoder
from hfcap.shipped import find_config
from hfcap.training.config_file import read_config
from hfcap.training.dpo import DpoArguments

NUM_PICTURES = 500
QUICK = ["--max_train_images=6000", f"--max_eval_images={NUM_PICTURES}", "--num_train_epochs=3"]


def settings_of(config: str, *left_out: str) -> list[str]:
    """Settings of a shipped configuration as options, without some of them."""
    settings = read_config(find_config(f"configs/train/{config}.yaml"))
    return [
        f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"
        for name, value in settings.items()
        if name not in ("recipe", "output_dir", *left_out)
    ]


def train_base(folder: Path) -> Path:
    """Train an encoder and a captioner on it, less well than `scenes_base.yaml`; return the captioner's run folder."""
    own = [*settings_of("scenes_encoder"), *QUICK, f"--output_dir={folder / 'encoder'}"]
    train_encoder.main(own)
    own = [*settings_of("scenes_base", "encoder_training", "encoder"), *QUICK]
    return train.main([*own, f"--encoder={folder / 'encoder' / 'model'}", f"--output_dir={folder / 'base'}"])


def captions_of(folder: Path, column: str) -> dict[str, str]:
    """Captions of a finished run by picture."""
    lines = (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["image_id"]: row[column] for row in map(json.loads, lines)}


def figures_of(caption: str, references: list[str], scene: Scene) -> tuple[bool, bool]:
    """Whether a caption is right in every fact, and whether it names a pair of colour and shape that is not there."""
    there = {(group.color, group.shape) for group in scene.groups}
    said = {(group.color, group.shape) for group in read_caption(caption).groups}
    return not wrong_facts(caption, scene, references), bool(said - there)


def judge(captions: dict[str, str], rows) -> np.ndarray:
    """Percentages by picture, (N, 2): right, invents a pair."""
    found = [figures_of(captions[row["image_id"]], row["captions"], scene_from_json(row["scene"])) for row in rows]
    return 100.0 * np.array(found)


def summed_up(values: np.ndarray, held_out: np.ndarray) -> dict[str, dict]:
    """Means over pictures with intervals; `values` is (seeds, N, 2)."""
    summary = {}
    for name, of in (("all", np.ones_like(held_out)), ("held_out", held_out)):
        own = values[:, of].mean(axis=0)  # (N, 2)
        times = draws(len(own))
        for column, figure in enumerate(("right", "invents_a_pair")):
            resampled = times @ own[:, column] / times.sum(axis=1)
            summary[f"{figure}, {name}"] = with_interval(own[:, column].mean(), resampled)
    return summary


def main() -> None:
    """Train, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="run folder of a captioner of the embedded data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of both trainings")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/preferences"), help="folder of the runs")
    args, more = parser.parse_known_args()

    model = args.model or train_base(args.output_dir)
    rows = load_scenes("validation", NUM_PICTURES, "caption", image_size=32).remove_columns("image")
    found: dict[str, list[np.ndarray]] = {"before": [], "preferences": [], "cross entropy": []}
    for seed in args.seeds:
        own = [f"--model={model}", f"--seed={seed}", f"--max_eval_images={NUM_PICTURES}", *more]
        folder = train_dpo.main(
            [*settings_of("scenes_dpo", "model"), *own, f"--output_dir={args.output_dir / f'dpo-{seed}'}"]
        )
        found["before"].append(judge(captions_of(folder, "caption_before"), rows))
        found["preferences"].append(judge(captions_of(folder, "caption"), rows))
        settings = settings_of("scenes_dpo", "model", "rejected", "beta", "rpo_alpha")
        settings += [f"--lr_scheduler_type={DpoArguments.lr_scheduler_type}"]
        folder = train.main([*settings, *own, f"--output_dir={args.output_dir / f'control-{seed}'}"])
        found["cross entropy"].append(judge(captions_of(folder, "caption"), rows))

    values = {name: np.stack(own) for name, own in found.items()}
    values["preferences - before"] = values["preferences"] - values["before"]
    values["preferences - cross entropy"] = values["preferences"] - values["cross entropy"]
    held_out = np.array(rows["held_out"])
    result = {name: summed_up(own, held_out) for name, own in values.items()}
    for name, figures in result.items():
        print(name)
        for figure, value in figures.items():
            print(f"    {figure:28} {value['value']:6.1f} ({value['ci95'][0]:.1f} to {value['ci95'][1]:.1f})")
    by_seed = {name: own.mean(axis=1).tolist() for name, own in values.items()}
    print(json.dumps({"seeds": args.seeds, "pictures": len(rows), "figures": result, "by_seed": by_seed}))


if __name__ == "__main__":
    main()
