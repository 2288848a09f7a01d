"""`recipes/evaluate.py` in this process: where the results go, and which settings it takes."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from hfcap import cli, model_evaluation
from hfcap.content_hashes import captioner_hashes, captions_sha256
from hfcap.data.picture_checks import undecoded
from hfcap.data.scenes import load_scenes
from hfcap.generation.loading import load_captioner
from hfcap.runs import data_fingerprint
from refusals import refused

RECIPE = Path(__file__).parents[1] / "recipes" / "evaluate.py"

COUNTED = """  # the recipe; each process notes how many pictures it captions
import os, runpy
from hfcap.generation import sharded
caption_rows = sharded.caption_rows
def counted(model, processor, rows, *args, **kwargs):
    open("share-" + os.environ["RANK"], "w").write(str(len(rows)))
    return caption_rows(model, processor, rows, *args, **kwargs)
sharded.caption_rows = counted
runpy.run_path(os.environ["RECIPE"], run_name="__main__")
"""


@pytest.fixture
def evaluate():
    # Not imported: its name is that of the library `evaluate`.
    return runpy.run_path(str(RECIPE))["main"]


@pytest.fixture
def folder(scene_rows, tmp_path):
    """Three photos with captions in `validation.jsonl`."""
    lines = []
    for number, row in enumerate(scene_rows.select(range(3))):
        row["image"].save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "captions": row["captions"]}) + "\n")
    (tmp_path / "validation.jsonl").write_text("".join(lines))
    return tmp_path


@pytest.mark.filterwarnings("ignore:CIDEr:UserWarning")
def test_a_model_of_the_hub_on_a_stream_leaves_no_folder_of_its_name(evaluate, folder, build_tiny, monkeypatch):
    for part in build_tiny("encoder_decoder"):
        part.save_pretrained(folder / "weights")
    loaded = []

    def load(source, load_in_4bit):
        loaded.append(source)
        return load_captioner(str(folder / "weights"), load_in_4bit)

    monkeypatch.setattr(model_evaluation, "load_captioner", load)
    monkeypatch.chdir(folder)
    command = ["--model", "owner/cap", "--data", str(folder), "--max_eval_images", "2"]
    evaluate(command)
    captions = (folder / "outputs" / "cap-evaluation" / "captions.jsonl").read_text()
    assert len(captions.splitlines()) == 2
    assert not (folder / "owner").exists()
    evaluate([*command, "--streaming", "true", "--output_dir", "streamed"])
    assert (folder / "streamed" / "captions.jsonl").read_text() == captions
    assert loaded == ["owner/cap", "owner/cap"]


@pytest.mark.filterwarnings("ignore:CIDEr:UserWarning")
def test_the_figures_say_of_what_they_are(evaluate, build_tiny, tmp_path):
    for part in build_tiny("llava"):
        part.save_pretrained(tmp_path / "run" / "model")
    options = [
        "--model",
        str(tmp_path / "run"),
        "--data",
        "scenes",
        "--scenes_image_size",
        "32",
        "--prompt",
        "Say it.",
        "--tokenizer",
        "char",
    ]
    options += ["--eval_split", "test", "--scenes_style", "alt_text", "--max_eval_images", "3"]
    evaluate([*options, "--output_dir", str(tmp_path / "run")])
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    rows = load_scenes("test", 3, "alt_text", image_size=32)
    fingerprint = data_fingerprint(undecoded(rows))
    assert record["data"] == {"name": "scenes", "split": "test", "style": "alt_text", **fingerprint}
    hashes = captioner_hashes(tmp_path / "run" / "model")
    assert {name: record[name] for name in hashes} == hashes and None not in hashes.values()
    lines = map(json.loads, (tmp_path / "run" / "captions.jsonl").read_text().splitlines())
    assert record["captions_hash"] == captions_sha256((line["image_id"], line["caption"]) for line in lines)
    assert (record["prompt"], record["load_in_4bit"]) == ("Say it.", False)
    assert record["tokenizer"] == "char"
    again = [option for option in options if option not in ("--tokenizer", "char")]
    evaluate([*again, "--output_dir", str(tmp_path / "again")])
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert (again["tokenizer"], again["metrics"]) == ("char", record["metrics"])


@pytest.mark.filterwarnings("ignore:CIDEr:UserWarning")
def test_the_command_does_what_the_recipe_does(evaluate, folder, build_tiny, tmp_path):
    for part in build_tiny("llava"):
        part.save_pretrained(folder / "weights")
    options = ["--data", str(folder), "--metrics", "rouge_l", "--output_dir"]
    evaluate(["--model", str(folder / "weights"), *options, str(folder / "one")])
    cli.main(["evaluate", str(folder / "weights"), *options, str(folder / "two")])
    for name in ("captions.jsonl", "metrics.json"):
        assert (folder / "two" / name).read_bytes() == (folder / "one" / name).read_bytes()
    assert list(json.loads((folder / "two" / "metrics.json").read_text())["metrics"]) == ["rouge_l"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:CIDEr:UserWarning")
def test_two_processes_share_the_pictures(evaluate, folder, build_tiny, capsys):
    for part in build_tiny("llava"):
        part.save_pretrained(folder / "weights")
    options = ["--model", str(folder / "weights"), "--data", str(folder), "--output_dir"]
    evaluate([*options, str(folder / "one")])
    shown = capsys.readouterr().out
    shown = shown[shown.index(" " * 28) :].replace(str(folder / "one"), str(folder / "two"))  # from the table on
    (folder / "counted.py").write_text(COUNTED)
    configs = RECIPE.parents[1] / "configs" / "accelerate" / "ddp.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(configs)]
    command += ["--main_process_port", "0", str(folder / "counted.py"), *options, str(folder / "two")]
    environment = os.environ | {"RECIPE": str(RECIPE)}
    process = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]
    assert [(folder / f"share-{rank}").read_text() for rank in range(2)] == ["2", "1"]
    assert process.stdout.endswith(shown)
    assert process.stdout.count("Results in ") == 1
    for name in ("captions.jsonl", "metrics.json"):
        assert (folder / "two" / name).read_bytes() == (folder / "one" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (["--references", "1"], {"option": "--references", "reason": "unknown argument"}),
        (["--mirror", "true"], {"option": "--mirror", "reason": "unknown argument"}),
        (["--train_split", "train"], {"option": "--train_split", "reason": "unknown argument"}),
        (["--batch_size", "0"], {"option": "batch_size", "got": 0, "wanted": "1 or more"}),
        (["--num_beams", "0"], {"option": "num_beams", "got": 0, "wanted": "1 or more"}),
        (["--max_eval_images", "0"], {"option": "max_eval_images", "got": 0, "wanted": "1 or more"}),
        (["--max_pixels", "0"], {"option": "max_pixels", "got": 0, "wanted": "1 or more"}),
        (["--scenes_image_size", "0"], {"option": "scenes_image_size", "got": 0, "wanted": "1 or more"}),
        (["--data", "nowhere/to be found", "--streaming", "true"], {"option": "data", "says": "no file or folder"}),
    ],
)
def test_settings_that_would_be_ignored_or_cannot_be_are_refused(evaluate, options, fields):
    with refused(**fields):
        evaluate(["--model", "owner/cap", *options])
