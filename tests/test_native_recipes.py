"""The recipes and `hfcap caption`, unchanged, on native captioners as they come from transformers."""

import importlib
import json
import logging
import runpy
import shutil
from itertools import chain
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from hfcap import cli
from hfcap.data.scenes import load_scenes
from tiny.native import build_native

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


@pytest.mark.parametrize(
    ("model_type", "recipe", "strategy"),
    [
        ("llava", "train", "frozen_encoder"),
        pytest.param("llava", "train", "lora", marks=pytest.mark.slow),
        pytest.param("llava", "train_qlora", "qlora", marks=pytest.mark.slow),
        pytest.param("paligemma", "train", "projector", marks=pytest.mark.slow),
    ],
)
def test_a_run_on_cached_features_resumes_and_leaves_a_stock_model(
    model_type, recipe, strategy, scene_rows, tmp_path, capsys, caplog, monkeypatch
):
    monkeypatch.syspath_prepend(str(RECIPES))
    model, processor = build_native(model_type, list(chain.from_iterable(scene_rows["captions"])))
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    settings = SETTINGS | {
        "model": str(tmp_path / "base"),
        "output_dir": str(tmp_path / "run"),
        "strategy": strategy,
        "feature_cache": True,
        "cache_dir": str(tmp_path / "features"),
        "prompt": "a picture of",
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 5,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    main = importlib.import_module(recipe).main
    run = main(["--config", str(tmp_path / "run.yaml")])
    saved = "model" if strategy in ("frozen_encoder", "projector") else "adapter"
    (file,) = (run / saved).glob("*.safetensors")
    weights, captions = load_file(file), captions_of(run)
    if saved == "model":
        base = load_file(tmp_path / "base" / "model.safetensors")
        assert weights.keys() == base.keys()
        assert all(weights[n].equal(base[n]) for n in base if "vision_tower" in n)
        assert not all(weights[n].equal(base[n]) for n in base)
    assert len(list((tmp_path / "features").glob("*/"))) == 2  # of the training and the evaluation split

    # Interrupted after the first of three steps, and started again.
    for path in run.iterdir():
        if path.name not in ("run.json", "checkpoints"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for step in (2, 3):
        shutil.rmtree(run / "checkpoints" / f"checkpoint-{step}")
    with caplog.at_level(logging.INFO, logger="hfcap.training.run_folder"):
        main(["--config", str(tmp_path / "run.yaml")])
    assert f"{run}: going on from checkpoint-1" in caplog.messages
    again = load_file(file)
    assert all(again[name].equal(weights[name]) for name in weights)
    assert captions_of(run) == captions
    capsys.readouterr()

    # By whoever has the run folder alone, and pictures: no cache, no trick.
    arguments = ["--data", "scenes", "--scenes_image_size", "32", "--max_eval_images", "4"]
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--model", str(run), *arguments])
    runpy.run_path(str(RECIPES / "evaluate.py"))["main"]()
    assert captions_of(run / "evaluation") == captions
