"""Commands on an ONNX export: `hfcap caption` and `hfcap alt suggest`, in a process without torch as well."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from hfcap import cli
from hfcap.content_hashes import weights_sha256
from hfcap.errors import ConfigError
from hfcap.extras import EXTRAS
from hfcap.generation.loading import load_captioner
from hfcap.hub.export import export_run
from hfcap.ondevice import Captioner
from refusals import refused
from tiny.onnx_export import change, make_export

# A process in which the libraries of training cannot be imported, as where they are not installed.
WITHOUT_TORCH = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {EXTRAS["train"]!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
from hfcap.cli import main
main(sys.argv[1:])
"""
COLORS = {"red": (220, 40, 30), "green": (30, 200, 40), "blue": (20, 40, 90)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Photos and an export in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name, color in COLORS.items():
        Image.new("RGB", (20, 30), color).save(tmp_path / "photos" / f"{name}.png")
    make_export(tmp_path / "export")
    return tmp_path


@pytest.fixture
def captions(folder):
    """What each photo's caption is, in the order of the command."""
    paths = sorted((folder / "photos").glob("*.png"))
    return dict(zip([path.stem for path in paths], Captioner("export").caption(paths), strict=True))


def without_torch(*words):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True, env=environment, timeout=300
    )


def run(capsys, *words):
    cli.main(words)
    return capsys.readouterr()


def test_captions_are_written_and_resumed_without_torch(folder, captions):
    (folder / "photos" / "notes.jpg").write_text("no photo")
    command = ("caption", "photos", "--model", "export", "--output", "captions.jsonl")
    first = without_torch(*command)
    assert first.returncode == 0, first.stderr
    assert "captions.jsonl: 3 of 4 photos have a caption" in first.stdout
    assert "skipped photos/notes.jpg: no picture" in first.stderr
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    assert {row["image_id"]: row["caption"] for row in rows} == captions
    assert {len(row["sha256"]) for row in rows} == {64}
    settings = json.loads((folder / "captions.jsonl.settings.json").read_text())
    assert settings["weights"] == weights_sha256("export")
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:1]))
    again = without_torch(*command)
    assert "1 of 4 photos have a caption already" in again.stdout and "3 of 4 photos have a caption" in again.stdout
    change(folder / "export", "tokenizer_config", x=1)
    other = without_torch(*command)
    assert other.returncode == 2 and "other weights or settings: settings was" in other.stderr


def test_table_json_lines_and_options(folder, captions, capsys):
    table = run(capsys, "caption", "photos", "--model", "export").out
    assert table == "".join(f"photos/{name}.png\t{caption}\n" for name, caption in captions.items())
    lines = run(capsys, "caption", "photos", "--model", "export", "--json", "--batch_size", "1").out.splitlines()
    assert {row["image_id"]: row["caption"] for row in map(json.loads, lines)} == captions
    greedy = run(capsys, "caption", "photos", "--model", "export", "--num_beams", "1", "--max_new_tokens", "3").out
    wanted = Captioner("export").caption(sorted((folder / "photos").iterdir()), num_beams=1, max_new_tokens=3)
    assert [line.split("\t")[1] for line in greedy.splitlines()] == wanted


def test_a_photo_is_described_without_torch(folder, captions):
    done = without_torch("caption", "photos/red.png", "--model", "export", "--describe")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Automatic description, may be wrong.\n")
    assert captions["red"].split()[0] in done.stdout.lower()


def test_alts_are_suggested_without_torch(folder, captions):
    (folder / "page.html").write_text('<p>Look: <img src="photos/red.png"> and <img src="photos/blue.png">.</p>')
    done = without_torch("alt", "suggest", "page.html", "--model", "export", "--output", "alts.jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "alts.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(row["model"]["weights_sha256"] == weights_sha256("export") for row in rows)
    assert all(row["suggestion"] or "the model said nothing that could be an alt" in row["notes"] for row in rows)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("caption", "photos", "--model", "export", "--load_in_4bit"), "leave out --load_in_4bit"),
        (("caption", "photos", "--model", "export", "--prompt", "what?"), "prompt is 'what?'"),
        (("caption", "--data", "photos", "--model", "export"), "--data"),
        (("suggest", "photos", "--model", "export"), "drawn at random"),
        (("alt", "suggest", "--data", "photos", "--model", "export", "--output", "a.jsonl"), "--data"),
    ],
)
def test_what_an_export_cannot_do_is_one_line(folder, capsys, words, says):
    with pytest.raises(SystemExit) as exit_:
        cli.main(list(words))
    error = capsys.readouterr().err.splitlines()[-1]
    assert exit_.value.code == 2 and error.startswith("error: ") and says in error


@pytest.mark.parametrize("command", [("caption",), ("alt", "suggest", "--output", "a.jsonl")])
def test_what_no_extra_would_help_is_refused_before_one_is_asked_for(folder, command):
    done = without_torch(*command, "--data", "photos", "--model", "export")
    assert done.returncode == 2 and "an ONNX export captions photos" in done.stderr


def test_torch_commands_refuse_an_export(folder):
    with refused(option="model", says="an ONNX export"):
        load_captioner("export")
    with refused(option="model", says="an ONNX export"):
        export_run("export", "again", "onnx")


@pytest.mark.parametrize(
    "words",
    [
        ("caption", "photos", "--model", "model"),
        ("evaluate", "model"),
        ("train", "scenes_base"),
        ("export", "model", "--to", "there"),
        ("data", "check", "photos"),
    ],
    ids=lambda words: words[0],
)
def test_commands_that_need_torch_name_the_extra(folder, words):
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    done = without_torch(*words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: needs ") and line.endswith('pip install "hfcap[train]"')


def test_an_export_that_is_half_there_is_an_error_of_the_command(folder):
    (folder / "export" / "hfcap_ondevice.json").unlink()
    with pytest.raises(ConfigError, match=r"hfcap_ondevice.json is missing"):
        Captioner("export")


def test_captioners_in_torch_need_no_onnxruntime():
    code = (
        "import sys; sys.modules['onnxruntime'] = None; import hfcap.generation.captioners, "
        "hfcap.applications.describe, hfcap.applications.suggest_captions"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
