"""What `from hfcap import …` gives: a captioner trained, saved, loaded and used in Python alone."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hfcap
from hfcap.data.scenes import load_scenes
from hfcap.errors import ConfigError
from hfcap.generation.inputs import keep_caption_prompt
from tiny_training import STEPS_ALONE


def test_importing_hfcap_loads_nothing_heavy():
    loaded = "import sys, hfcap; print(sorted({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, timeout=60)
    assert process.stdout.strip() == "[]", process.stderr


def test_all_public_names_exist():
    assert set(hfcap.__all__) <= set(dir(hfcap))
    for name in hfcap.__all__:
        assert getattr(hfcap, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'load_caption'"):
        hfcap.load_caption  # noqa: B018


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures with .txt files beside them, split in folders."""
    folder = tmp_path_factory.mktemp("photos")
    for split, number in (("train", 8), ("validation", 4)):
        for row in load_scenes(split, number, "caption", image_size=32):
            path = folder / split / f"{row['image_id'].replace('/', '_')}.png"
            path.parent.mkdir(exist_ok=True)
            row["image"].save(path)
            path.with_suffix(".txt").write_text("\n".join(row["captions"]))
    return folder


def test_train_save_load_and_caption(folder, build_tiny, tmp_path):
    model, processor = build_tiny("llava")
    keep_caption_prompt(processor, "describe it")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "base")
    args = hfcap.CaptionTrainingArguments(output_dir=str(tmp_path / "checkpoints"), max_steps=2, **STEPS_ALONE)
    rows = hfcap.load_captions(str(folder), "train"), hfcap.load_captions(str(folder), "validation")
    trainer = hfcap.CaptionTrainer(
        model=str(tmp_path / "base"), args=args, train_dataset=rows[0], eval_dataset=rows[1]
    )
    trainer.train()
    assert trainer.data_collator.prompt == "describe it" and trainer.data_collator.packing
    metrics = trainer.evaluate()
    assert {"eval_loss", "eval_cider", "eval_bleu_4"} <= set(metrics)

    trainer.save_model(str(tmp_path / "trained"))
    model, processor = hfcap.load_captioner(str(tmp_path / "trained"))
    pictures = sorted((folder / "validation").glob("*.png"))
    captions = hfcap.caption(model, processor, pictures, batch_size=2)
    by_name = dict(trainer.sample_captions)
    assert captions == [by_name[image_id] for image_id in sorted(by_name)]
    scores = hfcap.compute_metrics(captions, [row["captions"] for row in rows[1]])
    assert scores["bleu_4"] == metrics["eval_bleu_4"] and scores["cider"] == metrics["eval_cider"]


def test_a_trainer_loads_a_run_folder_and_names_a_missing_one(build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("encoder_decoder")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "run" / "model")
    args = hfcap.CaptionTrainingArguments(output_dir=str(tmp_path / "checkpoints"), **STEPS_ALONE)
    trainer = hfcap.CaptionTrainer(str(tmp_path / "run"), args, scene_rows, scene_rows)
    assert type(trainer.model) is type(model)
    with pytest.raises(ConfigError, match="model: no folder"):
        hfcap.CaptionTrainer(str(tmp_path / "nowhere"), args, scene_rows, scene_rows)


def test_the_examples_of_the_readme_run(folder, build_tiny, tmp_path, monkeypatch, capsys):
    """As printed; a tiny captioner has the place of the Hub's, and of the run folder."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    training, captioning = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[:2]
    monkeypatch.chdir(tmp_path)
    model, processor = build_tiny("llava")
    for place in ("HuggingFaceTB/SmolVLM-256M-Instruct", "outputs/scenes-qlora/model"):
        for part in (model, processor):
            part.save_pretrained(place)
    Path("my_photos").symlink_to(folder)
    shutil.copy(next((folder / "validation").glob("*.png")), "PHOTO.jpg")
    exec(training, {})
    assert (tmp_path / "outputs" / "mine" / "checkpoint-3" / "model.safetensors").is_file()
    capsys.readouterr()
    exec(captioning, {})
    first, cider = capsys.readouterr().out.splitlines()
    assert first.startswith("['") and float(cider) >= 0
