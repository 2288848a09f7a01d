"""A run goes on with the data and weights it began with, and one process at a time trains in its folder."""

import importlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from hfcap.data import picture_checks
from hfcap.data.picture_cache import cache_folder
from hfcap.errors import ConfigError
from hfcap.training import run_folder, run_origins
from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments
from hfcap.training.data_arguments import DataArguments
from hfcap.training.parsing import parse_arguments
from hfcap.training.run_folder import (
    begin_or_resume,
    is_finished,
    keep_part_hashes,
    print_next_command,
    run_lock,
    start_run,
)
from hfcap.training.scst import ScstArguments
from refusals import refused

HOLD = """
import sys
from pathlib import Path
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.run_folder import run_lock
with run_lock(CaptionTrainingArguments(output_dir=sys.argv[1], use_cpu=True)):
    print("held", flush=True)
    sys.stdin.read()
"""


def parse(folder, *argv):
    options = ["--use_cpu", "true", "--output_dir", str(folder), *map(str, argv)]
    return parse_arguments(DataArguments, ModelArguments, CaptionTrainingArguments, argv=options)


def with_prompts(rows, *prompts):
    column = [prompts[row % len(prompts)] for row in range(len(rows))]
    return rows.add_column("prompt", column)


def save_part(folder, value):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "vit"}')
    save_file({"weight": torch.full((2,), value)}, folder / "model.safetensors")


# ---- what a run goes on with


def test_changed_prompts_of_rows_are_other_data(tmp_path, scene_rows):
    first = with_prompts(scene_rows, "Name the shape.", "Count them.")
    other = with_prompts(scene_rows, "Name the shape.", "Where are they?")
    assert not begin_or_resume(tmp_path, parse(tmp_path), (first, scene_rows))
    assert not begin_or_resume(tmp_path, parse(tmp_path), (first, scene_rows))
    fix = "pass another --output_dir, or remove the folder"
    with refused(option="output_dir", got=str(tmp_path), fix=fix, says="the prompts of the train data changed"):
        begin_or_resume(tmp_path, parse(tmp_path), (other, scene_rows))
    with refused(option="output_dir", says="the prompts of the train data changed"):
        begin_or_resume(tmp_path, parse(tmp_path), (scene_rows, scene_rows))
    with refused(option="output_dir", says="the prompts of the eval data changed"):
        begin_or_resume(tmp_path, parse(tmp_path), (first, first))


@pytest.mark.parametrize("name", ["model", "encoder", "decoder"])
def test_replaced_weights_of_a_part_are_noticed(tmp_path, scene_rows, name):
    part, run, rows = tmp_path / name, tmp_path / "run", (scene_rows, scene_rows)
    save_part(part, 1.0)
    parsed = parse(run, f"--{name}", part)
    assert not begin_or_resume(run, parsed, rows)
    assert not begin_or_resume(run, parsed, rows)
    save_part(part, 2.0)
    with refused(option="output_dir", got=str(run), says=f"the weights of {name} changed"):
        begin_or_resume(run, parsed, rows)
    save_part(part, 1.0)
    (part / "config.json").write_text('{"model_type": "vit", "layer_norm_eps": 0.1}')
    with refused(option="output_dir", says=f"the configuration, processor or tokenizer of {name} changed"):
        begin_or_resume(run, parsed, rows)


def parse_scst(folder, *argv):
    options = ["--use_cpu", "true", "--output_dir", str(folder), "--model", str(folder.parent / "base"), *argv]
    return parse_arguments(DataArguments, ModelArguments, ScstArguments, argv=list(map(str, options)))


@pytest.fixture
def own_reward(tmp_path, monkeypatch):
    """A reward in a module of its own, and how it is written anew, as another process would read it."""

    def write(code):
        (tmp_path / "own_reward_code.py").write_text(code)
        for name in ("own_reward", "own_reward_code"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()

    (tmp_path / "own_reward.py").write_text("from own_reward_code import brevity\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return write


def test_changed_code_of_a_reward_is_noticed(tmp_path, scene_rows, own_reward):
    run, rows = tmp_path / "run", (scene_rows, scene_rows)
    save_part(tmp_path / "base", 1.0)
    own_reward("def brevity(captions, **_):\n    return [-len(c) for c in captions]\n")
    parsed = parse_scst(run, "--rewards", "cider_d", "own_reward:brevity")
    assert not begin_or_resume(run, parsed, rows)
    assert not begin_or_resume(run, parsed, rows)
    record = json.loads((run / "run.json").read_text())
    assert set(record["origins"]) == {"model", "reward own_reward:brevity"}
    own_reward("def brevity(captions, **_):\n    return [-2 * len(c) for c in captions]\n")
    with refused(option="output_dir", got=str(run), says="the content of reward own_reward:brevity changed"):
        begin_or_resume(run, parsed, rows)


def test_changed_code_that_a_reward_imports_is_noticed(tmp_path, own_reward):
    (tmp_path / "own_parts").mkdir()
    for name, code in {
        "__init__.py": "import json\n",
        "weights.py": "from . import base\n",
        "base.py": "PER_WORD = 1\n",
        "unused.py": "",
    }.items():
        (tmp_path / "own_parts" / name).write_text(code)
    own_reward(
        "import own_parts.weights as weights\n\ndef brevity(captions, **_):\n"
        "    return [weights.base.PER_WORD for _ in captions]\n"
    )
    before = run_origins.code_sha256("own_reward:brevity")
    (tmp_path / "own_parts" / "unused.py").write_text("PER_WORD = 2\n")
    assert run_origins.code_sha256("own_reward:brevity") == before
    (tmp_path / "own_parts" / "base.py").write_text("PER_WORD = 2\n")
    assert run_origins.code_sha256("own_reward:brevity") != before


@pytest.mark.parametrize("use", [["--rewards", "clip_score"], ["--metrics", "cider,clip_score"]])
def test_a_replaced_clip_model_is_noticed_where_it_is_used(tmp_path, scene_rows, use):
    run, rows = tmp_path / "run", (scene_rows, scene_rows)
    save_part(tmp_path / "base", 1.0)
    save_part(tmp_path / "clip", 1.0)
    (tmp_path / "clip" / "config.json").write_text('{"model_type": "clip"}')
    parsed = parse_scst(run, "--clip_model", tmp_path / "clip", *use)
    assert not begin_or_resume(run, parsed, rows)
    assert not begin_or_resume(run, parsed, rows)
    save_file({"weight": torch.zeros(2)}, tmp_path / "clip" / "model.safetensors")
    with refused(option="output_dir", got=str(run), says="the weights of clip_model changed"):
        begin_or_resume(run, parsed, rows)


def test_a_clip_model_that_nothing_uses_is_not_asked_for(tmp_path, scene_rows, monkeypatch):
    asked = []
    monkeypatch.setattr(run_origins, "captioner_hashes", lambda name: asked.append(name) or {"weights_hash": "0"})
    parsed = parse(tmp_path / "run", "--encoder", "owner/encoder")
    begin_or_resume(tmp_path / "run", parsed, (scene_rows, scene_rows))
    assert asked == ["owner/encoder"]


def test_changed_synonyms_of_chair_are_noticed(tmp_path, scene_rows):
    pytest.importorskip("pycocoevalcap")
    run, words, rows = tmp_path / "run", tmp_path / "words.txt", (scene_rows, scene_rows)
    words.write_text("dog, puppy\n")
    parsed = parse(run, "--metrics", "cider,chair", "--chair_synonyms", words)
    assert not begin_or_resume(run, parsed, rows)
    words.write_text("dog, puppy, hound\n")
    with refused(option="output_dir", got=str(run), says="the content of chair_synonyms changed"):
        begin_or_resume(run, parsed, rows)


def test_a_run_begun_before_rewards_were_hashed_is_watched_from_then(tmp_path, scene_rows, own_reward):
    run, rows = tmp_path / "run", (scene_rows, scene_rows)
    save_part(tmp_path / "base", 1.0)
    own_reward("def brevity(captions, **_):\n    return [-len(c) for c in captions]\n")
    parsed = parse_scst(run, "--rewards", "own_reward:brevity")
    begin_or_resume(run, parsed, rows)
    record = json.loads((run / "run.json").read_text())
    del record["origins"]["reward own_reward:brevity"]
    (run / "run.json").write_text(json.dumps(record))
    assert not begin_or_resume(run, parsed, rows)
    own_reward("def brevity(captions, **_):\n    return [1.0 for c in captions]\n")
    with refused(option="output_dir", says="the content of reward own_reward:brevity changed"):
        begin_or_resume(run, parsed, rows)


def test_a_model_that_is_a_run_counts_by_what_is_loaded_from_it(tmp_path, scene_rows):
    run, rows = tmp_path / "run", (scene_rows, scene_rows)
    save_part(tmp_path / "base" / "merged", 1.0)
    save_part(tmp_path / "base" / "model", 1.0)
    parsed = parse(run, "--model", tmp_path / "base")
    begin_or_resume(run, parsed, rows)
    save_part(tmp_path / "base" / "model", 2.0)
    assert not begin_or_resume(run, parsed, rows)
    save_part(tmp_path / "base" / "merged", 2.0)
    with refused(option="output_dir", says="the weights of model changed"):
        begin_or_resume(run, parsed, rows)


def test_a_part_that_is_trained_first_is_recorded_when_it_is_there(tmp_path, scene_rows):
    run, encoder = tmp_path / "run", tmp_path / "encoder"
    parsed = parse(run, "--encoder", encoder, "--encoder_training", "encoder.yaml")
    begin_or_resume(run, parsed, (scene_rows, scene_rows))
    assert json.loads((run / "run.json").read_text())["origins"]["encoder"]["weights_hash"] is None
    save_part(encoder, 1.0)
    keep_part_hashes(run, parsed)
    assert not begin_or_resume(run, parsed, (scene_rows, scene_rows))
    save_part(encoder, 2.0)
    with refused(option="output_dir", says="the weights of encoder changed"):
        keep_part_hashes(run, parsed)


def test_a_run_that_an_earlier_version_began_goes_on_and_is_watched_from_then(tmp_path, scene_rows):
    run, rows = tmp_path / "run", (with_prompts(scene_rows, "a"), scene_rows)
    save_part(tmp_path / "base", 1.0)
    parsed = parse(run, "--model", tmp_path / "base")
    begin_or_resume(run, parsed, rows)
    record = json.loads((run / "run.json").read_text())
    del record["origins"], record["data"]["train"]["prompts_sha256"]
    (run / "run.json").write_text(json.dumps(record))
    assert not begin_or_resume(run, parsed, rows)
    save_part(tmp_path / "base", 2.0)
    with refused(option="output_dir", says="the weights of model changed"):
        begin_or_resume(run, parsed, rows)


def test_a_folder_that_is_gone_is_not_looked_for_on_the_hub(tmp_path, scene_rows, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_part(tmp_path / "clients" / "acme", 1.0)
    parsed = parse("run", "--encoder", "clients/acme")
    begin_or_resume(tmp_path / "run", parsed, (scene_rows, scene_rows))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(
        run_origins, "captioner_hashes", lambda name: {"weights_hash": "0" * 40, "settings_hash": None}
    )
    with refused(option="output_dir", says=("clients/acme, is on the Hub", "no such folder")):
        begin_or_resume(tmp_path / "run", parsed, (scene_rows, scene_rows))


def test_other_settings_are_found_before_the_data_are_read(tmp_path, scene_rows):
    begin_or_resume(tmp_path, parse(tmp_path, "--data", tmp_path / "photos"), (scene_rows, scene_rows))
    with refused(option="output_dir", got=str(tmp_path), says="lora_r was 16, is 3"):
        start_run(tmp_path, parse(tmp_path, "--data", tmp_path / "photos", "--lora_r", 3))


# ---- how often pictures are read


@pytest.fixture
def photos(tmp_path):
    """Three photos to train on and two to evaluate, with their captions beside them."""
    for number, split in enumerate(["train"] * 3 + ["validation"] * 2):
        path = tmp_path / "photos" / split / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 6), (40 * number, 0, 0)).save(path)
        path.with_suffix(".txt").write_text(f"thing {number}")
    return tmp_path / "photos"


@pytest.fixture
def reads(monkeypatch):
    """What is read and what is decoded, one entry each time."""
    seen = []
    read_bytes, load = picture_checks.read_bytes, Image.open
    monkeypatch.setattr(picture_checks, "read_bytes", lambda image: [seen.append("read"), read_bytes(image)][1])
    monkeypatch.setattr(Image, "open", lambda *given, **options: [seen.append("decoded"), load(*given, **options)][1])
    return seen


def finish(run):
    """Leave what the recipe of encoders leaves."""
    (run / "model").mkdir()
    (run / "model" / "model.safetensors").write_bytes(b"weights")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"scores": {}}))


def start(run, photos, reads, *options):
    reads.clear()
    _, finished = start_run(run, parse(run, "--data", photos, *options))
    return finished, reads.count("read"), reads.count("decoded")


def test_the_first_start_reads_each_picture_once_and_later_ones_none(tmp_path, photos, reads):
    run = tmp_path / "run"
    assert start(run, photos, reads) == (False, 5, 5)
    assert start(run, photos, reads) == (False, 0, 0)
    assert start(tmp_path / "another", photos, reads) == (False, 0, 0)
    finish(run)
    assert start(run, photos, reads) == (True, 0, 0)


def test_a_finished_run_decodes_nothing_without_the_cache_and_notices_other_pictures(tmp_path, photos, reads):
    run = tmp_path / "run"
    start(run, photos, reads)
    finish(run)
    shutil.rmtree(cache_folder())
    assert start(run, photos, reads) == (True, 5, 0)
    Image.new("RGB", (9, 6), "blue").save(photos / "train" / "0.png")
    with refused(option="output_dir", says="the train data changed"):
        start(run, photos, reads)


def test_a_finished_stream_decodes_nothing(tmp_path, photos, reads):
    run, options = tmp_path / "run", ("--streaming", "true", "--max_steps", 1)
    start(run, photos, reads, *options)
    finish(run)
    assert start(run, photos, reads, *options)[::2] == (True, 0)


def test_bad_pictures_that_are_skipped_are_checked_once_as_well(tmp_path, photos, reads):
    run, options = tmp_path / "run", ("--on_bad_image", "skip")
    (photos / "train" / "1.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="skipped 1 of 3"):
        start(run, photos, reads, *options)
    finish(run)
    with pytest.warns(UserWarning, match="skipped 1 of 3"):
        assert start(run, photos, reads, *options) == (True, 0, 0)


# ---- one process at a time


@pytest.fixture
def hold():
    """Start processes that hold the lock of a run folder."""
    processes = []

    def start(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow  # starts a process that loads torch
def test_a_second_process_is_refused_until_the_first_one_has_ended_or_died(tmp_path, hold, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_PATIENCE", 0.0)
    run = tmp_path / "run"
    first = hold(run)
    with refused(option="output_dir", got=str(run), says="another process"), run_lock(parse(run)[-1]):
        pass
    assert run.is_dir()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    with run_lock(parse(run)[-1]):
        (run / "run.json").write_text("{}")
    with run_lock(parse(run)[-1]):
        pass
    assert (run / "run.json").is_file()


def test_a_second_run_in_the_same_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_PATIENCE", 0.0)
    args = parse(tmp_path / "run")[-1]
    with run_lock(args):
        with refused(option="output_dir", got=str(tmp_path / "run"), says="another process"), run_lock(args):
            pass
        with run_lock(parse(tmp_path / "other")[-1]):
            pass
    assert not (tmp_path / "run").exists()  # nothing was written into it


def test_a_dry_run_and_a_finished_run_need_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_PATIENCE", 0.0)
    run = tmp_path / "run"
    with run_lock(parse(run)[-1]), run_lock(parse(run, "--dry_run", "true")[-1]):
        for name in ("run.json", "metrics.json", "report.html", "README.md"):
            (run / name).write_text("{}")
        assert is_finished(run)
        with run_lock(parse(run)[-1]), run_lock(parse(run)[-1]):
            pass


def test_a_refused_run_does_not_end_the_lock_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_PATIENCE", 0.0)
    args = parse(tmp_path / "run")[-1]
    with run_lock(args):
        for _ in range(2):
            with refused(option="output_dir", says="another process"), run_lock(args):
                pass


@pytest.mark.parametrize("has_trained", [False, True])
def test_a_run_that_is_refused_before_it_trains_may_be_put_right(tmp_path, scene_rows, has_trained):
    """As when the parts that `run.json` names cannot be joined."""
    folder, rows = tmp_path / "run", (scene_rows, scene_rows)
    with refused(option="image_size"), run_lock(parse(folder)[-1]):
        begin_or_resume(folder, parse(folder), rows)
        (folder / "checkpoints" / ("checkpoint-1" if has_trained else "")).mkdir(parents=True)
        raise ConfigError(option="image_size", got=32)
    assert folder.exists() == has_trained


def test_a_refused_command_leaves_the_run_that_was_there(tmp_path, scene_rows):
    rows = (scene_rows, scene_rows)
    assert not begin_or_resume(tmp_path, parse(tmp_path), rows)
    with refused(option="output_dir"), run_lock(parse(tmp_path)[-1]):
        begin_or_resume(tmp_path, parse(tmp_path, "--lora_r", "3"), rows)
    assert (tmp_path / "run.json").is_file()


def test_a_run_goes_on_with_its_feature_cache_elsewhere(tmp_path, scene_rows):
    rows = (scene_rows, scene_rows)
    assert not begin_or_resume(tmp_path, parse(tmp_path), rows)
    assert not begin_or_resume(tmp_path, parse(tmp_path, "--cache_dir", str(tmp_path / "elsewhere")), rows)


def test_the_next_command_can_be_pasted(tmp_path, capsys):
    print_next_command(tmp_path / "a user's run")
    assert shlex.split(capsys.readouterr().out.splitlines()[-1])[-1] == str(tmp_path / "a user's run")
