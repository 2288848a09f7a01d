"""The recipes and `hfcap caption`, unchanged, on native captioners as they come from transformers."""

import importlib
import json
import runpy
from itertools import chain
from pathlib import Path

import pytest
import yaml

from hfcap import cli
from hfcap.data.scenes import load_scenes
from native_models import build_native

RECIPES = Path(__file__).parents[1] / "recipes"

SETTINGS = {
    "scenes_image_size": 32,
    "max_train_images": 12,
    "max_eval_images": 4,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "eval_caption_images": 2,
    "learning_rate": 1e-2,
    "disable_tqdm": True,
    "use_cpu": True,
}


def captions_of(folder):
    return {row["image_id"]: row["caption"] for row in map(json.loads, (folder / "captions.jsonl").open())}


@pytest.mark.parametrize(
    ("model_type", "recipe"),
    [
        ("blip", "train"),
        pytest.param("git", "train", marks=pytest.mark.slow),
        pytest.param("vision-encoder-decoder", "train", marks=pytest.mark.slow),
        pytest.param("idefics3", "train_qlora", marks=pytest.mark.slow),
        pytest.param("blip-2", "train_qlora", marks=pytest.mark.slow),
        pytest.param("paligemma", "train_qlora", marks=pytest.mark.slow),
    ],
)
def test_a_native_captioner_goes_through_the_recipes(model_type, recipe, scene_rows, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    model, processor = build_native(model_type, list(chain.from_iterable(scene_rows["captions"])))
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    run = tmp_path / "run"
    settings = SETTINGS | {"model": str(tmp_path / "base"), "output_dir": str(run)}
    if model_type != "vision-encoder-decoder":
        settings["prompt"] = "a picture of"
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    importlib.import_module(recipe).main(["--config", str(tmp_path / "run.yaml")])
    assert (run / ("model" if recipe == "train" else "merged")).is_dir()
    assert {"report.html", "metrics.json", "README.md", "run.json"} <= {path.name for path in run.iterdir()}

    # The run's own captions again, from the folder alone: by evaluate.py, and by the command line.
    monkeypatch.setattr(
        "sys.argv",
        [
            "evaluate.py",
            "--model",
            str(run),
            "--data",
            "scenes",
            "--scenes_image_size",
            "32",
            "--max_eval_images",
            "4",
        ],
    )
    runpy.run_path(str(RECIPES / "evaluate.py"))["main"]()
    assert captions_of(run / "evaluation") == captions_of(run)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for row in load_scenes("validation", 4, "caption", image_size=32):
        row["image"].save(pictures / f"{row['image_id']}.png")
    capsys.readouterr()
    cli.main(["caption", str(pictures), "--model", str(run), "--json"])
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    assert {line["image_id"]: line["caption"] for line in lines} == captions_of(run)
