"""`recipes/evaluate.py` in this process: where the results go, and which settings it takes."""

import json
import runpy
from pathlib import Path

import pytest

from hfcap.errors import ConfigError
from hfcap.training.build import load_captioner

RECIPE = Path(__file__).parents[1] / "recipes" / "evaluate.py"


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

    monkeypatch.setitem(evaluate.__globals__, "load_captioner", load)
    monkeypatch.chdir(folder)
    command = ["--model", "owner/cap", "--data", str(folder), "--max_eval_images", "2"]
    evaluate(command)
    captions = (folder / "outputs" / "cap-evaluation" / "captions.jsonl").read_text()
    assert len(captions.splitlines()) == 2
    assert not (folder / "owner").exists()
    evaluate([*command, "--streaming", "true", "--output_dir", "streamed"])
    assert (folder / "streamed" / "captions.jsonl").read_text() == captions
    assert loaded == ["owner/cap", "owner/cap"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--references", "1"], "unknown argument '--references'"),
        (["--mirror", "true"], "unknown argument '--mirror'"),
        (["--train_split", "train"], "unknown argument '--train_split'"),
        (["--batch_size", "0"], "batch_size is 0; wanted 1 or more"),
        (["--num_beams", "0"], "num_beams is 0; wanted 1 or more"),
        (["--max_eval_images", "0"], "max_eval_images is 0; wanted 1 or more"),
        (["--max_pixels", "0"], "max_pixels is 0; wanted 1 or more"),
        (["--scenes_image_size", "0"], "scenes_image_size is 0; wanted 1 or more"),
        (["--data", "nowhere/to be found", "--streaming", "true"], "data: there is no file or folder"),
    ],
)
def test_settings_that_would_be_ignored_or_cannot_be_are_refused(evaluate, options, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(["--model", "owner/cap", *options])
