import enum
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hfcap.atomic_files import write_json
from hfcap.provenance import git_state, library_versions, run_record, to_json, without_secrets
from hfcap.runs import ModelSource, data_fingerprint, read_metrics, resolve_model, write_metrics
from refusals import refused


def _touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


# --model


def test_a_run_means_merged_before_model(tmp_path):
    run = tmp_path / "run"
    _touch(run / "model" / "config.json")
    assert resolve_model(run) == ModelSource(str(run / "model"), "model")
    _touch(run / "merged" / "config.json", run / "adapter" / "adapter_config.json")
    assert resolve_model(run) == ModelSource(str(run / "merged"), "merged")
    assert resolve_model(run / "model") == ModelSource(str(run / "model"), "model")
    assert resolve_model(run / "adapter") == ModelSource(str(run / "adapter"), "adapter")


def test_an_unfinished_merge_is_not_taken(tmp_path):
    (tmp_path / "merged").mkdir()
    _touch(tmp_path / "adapter" / "adapter_config.json")
    with refused(option="model", got=str(tmp_path), says=("merged/", f"--model {tmp_path / 'adapter'}")):
        resolve_model(tmp_path)


@pytest.mark.parametrize("folder", ["merged", "model", "."])
def test_an_adapter_beside_a_model_is_refused(tmp_path, folder):
    _touch(tmp_path / folder / "config.json", tmp_path / folder / "adapter_config.json")
    with refused(option="model", got=str(tmp_path / folder), says="adapter_config.json"):
        resolve_model(tmp_path)


def test_names_that_are_no_folder_are_hub_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_model("owner/name-1.0") == ModelSource("owner/name-1.0", "model")
    assert resolve_model("gpt2") == ModelSource("gpt2", "model")


@pytest.mark.parametrize("name", ["./run", "a/b/c", "/nowhere/run", "runs/typo", "outputs/typo", "with space"])
def test_a_folder_that_is_not_there_is_no_hub_id(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "right").mkdir(parents=True)
    says = "runs has right" if name == "runs/typo" else "no such folder"
    with refused(option="model", got=str(Path(name)), says=says):
        resolve_model(name)


def test_a_folder_without_weights_says_what_was_wanted(tmp_path):
    with refused(option="model", got=str(tmp_path), says="wanted merged/config.json"):
        resolve_model(tmp_path)


# metrics.json


def _metrics(path, **changes):
    settings = {
        "metrics": {"cider": {"value": 0.5, "ci95": (0.4, 0.6)}},
        "num_images": 10,
        "tokenizer": "ptb",
        "idf": "references",
        "decoding": {"num_beams": 3},
        "model_artifact": "merged",
    }
    return write_metrics(path, **(settings | changes))


def test_metrics_file_is_the_pinned_schema(tmp_path):
    path = tmp_path / "metrics.json"
    figure = {"value": np.float32(0.5), "ci95": (np.float64(0.25), 1)}
    record = _metrics(path, metrics={"cider": figure})
    assert json.loads(path.read_text()) == {
        "schema_version": 1,
        "metrics": {"cider": {"value": 0.5, "ci95": [0.25, 1.0]}},
        "num_images": 10,
        "tokenizer": "ptb",
        "idf": "references",
        "decoding": {"num_beams": 3},
        "model_artifact": "merged",
    }
    assert read_metrics(path) == record


def test_missing_images_are_counted_in_the_file(tmp_path):
    _metrics(tmp_path / "m.json", num_missing=3)
    assert read_metrics(tmp_path / "m.json")["num_missing"] == 3


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ({"value": float("nan"), "ci95": (0, 1)}, "cider: value is nan"),
        ({"value": "0.5", "ci95": (0, 1)}, "cider: value is '0.5'"),
        ({"value": 0.5}, "cider: ci95 is None; wanted two"),
        ({"value": 0.5, "ci95": (0.6, 0.4)}, r"ci95 is \(0.6, 0.4\); wanted low <= high"),
        ({"value": 0.5, "ci95": (0.4, float("inf"))}, "two finite numbers"),
    ],
)
def test_figures_that_are_none_are_not_written(tmp_path, figure, message):
    with pytest.raises(ValueError, match=message):
        _metrics(tmp_path / "m.json", metrics={"cider": figure})
    assert not (tmp_path / "m.json").exists()


def test_an_unknown_artifact_is_refused(tmp_path):
    with pytest.raises(ValueError, match="model_artifact='best'; wanted one of adapter, merged, model"):
        _metrics(tmp_path / "m.json", model_artifact="best")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema_version": 2}', "schema_version is 2, this hfcap reads 1"),
        ('{"schema_version": 1, "metrics": {}}', "num_images, tokenizer, idf, decoding, model_artifact missing"),
        ("{\n", "line 2: malformed JSON"),
        ("[]", "a JSON list; wanted an object"),
    ],
)
def test_other_metrics_files_are_refused(tmp_path, content, message):
    path = tmp_path / "metrics.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_metrics(path)


# run.json


def _record(arguments=None, **further):
    return run_record(arguments or {}, seeds={"training": 1}, data={}, **further)


def test_record_holds_what_decides_a_result(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    monkeypatch.setattr(sys, "argv", ["recipes/train.py", "--num_train_epochs", "3"])
    record = _record({"data": Path("a/b"), "learning_rate": 1e-4}, model_type="hfcap_llava")
    assert record["command"] == ["recipes/train.py", "--num_train_epochs", "3"]
    assert record["arguments"] == {"data": "a/b", "learning_rate": 1e-4}
    assert record["seeds"] == {"training": 1}
    assert record["model_type"] == "hfcap_llava"
    assert record["versions"]["torch"].startswith("2.")
    assert record["versions"]["python"].startswith("3.")
    assert record["machine"]["cores"] >= 1
    assert "x" * 30 not in json.dumps(record)
    write_json(tmp_path / "run.json", record)  # plain JSON, without NaN


def test_no_secret_is_recorded():
    secret = "hf_" + "A1b2" * 8
    arguments = {
        "hub_token": "plain-text",
        "wandb": {"api_key": "plain-text"},
        "note": f"used {secret} here",
        "data": "https://joe:plain-text@example.org/set",
    }
    command = ["train.py", "--hub_token", "plain-text", "--hub-token=plain-text", secret, "--data", "scenes"]
    text = json.dumps(_record(arguments, command=command, more={"password": "plain-text", "list": [secret]}))
    assert "plain-text" not in text
    assert secret not in text
    assert "https://<redacted>@example.org/set" in text
    assert '"--data", "scenes"' in text


def test_what_only_sounds_like_a_secret_stays():
    settings = {
        "max_new_tokens": 20,
        "image_token": "<image>",
        "tokenizer": "bpe",
        "pad_token_id": 0,
        "mask_token": "[MASK]",
    }
    assert without_secrets(settings) == settings


def test_versions_name_only_what_is_installed():
    versions = library_versions()
    assert versions["numpy"] == np.__version__
    assert None not in versions.values()


def test_settings_become_plain_json():
    class Interval(enum.Enum):
        EPOCH = "epoch"

    settings = {"a": Path("x"), "b": (1, 2), "c": {3, 1}, "d": Interval.EPOCH, "e": float("inf"), 5: None, "f": True}
    expected = {"a": "x", "b": [1, 2], "c": [1, 3], "d": "epoch", "e": "inf", "5": None, "f": True}
    assert to_json(settings) == expected
    assert to_json(settings)["f"] is True


def _git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


def test_git_state_sees_changes_and_ignores_foreign_checkouts(tmp_path):
    package, installed = tmp_path / "src", tmp_path / "site-packages"
    _touch(package / "a.py", installed / "b.py")
    assert git_state(package) is None  # no checkout
    _git(tmp_path, "init")
    _git(tmp_path, "add", "src")
    _git(tmp_path, "commit", "-m", "one", "--no-verify")
    _touch(tmp_path / "data" / "photo.jpg")  # untracked, as is `installed`
    state = git_state(package)
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    _touch(package / "new.py")
    assert git_state(package)["dirty"] is True
    (package / "new.py").unlink()
    (package / "a.py").write_text("changed")
    assert git_state(package) == {"commit": state["commit"], "dirty": True}
    assert git_state(installed) is None  # an installed copy inside somebody else's checkout


# Data fingerprint


def _row(image_id="1", captions=("ab", "c"), image=b"picture"):
    return {"image_id": image_id, "captions": list(captions), "image": {"bytes": image, "path": None}}


def test_fingerprint_counts_and_repeats():
    first = data_fingerprint([_row(), _row("2")])
    assert (first["num_images"], first["num_captions"]) == (2, 4)
    assert first == data_fingerprint(iter([_row(), _row("2")]))


@pytest.mark.parametrize(
    "other",
    [
        [_row("2")],
        [_row(captions=("a", "bc"))],
        [_row(image=b"other")],
        [_row(captions=("c", "ab"))],
        [_row(), _row()],
    ],
)
def test_fingerprint_changes_with_ids_captions_pictures_and_order(other):
    assert data_fingerprint([_row()])["sha256"] != data_fingerprint(other)["sha256"]


def test_fingerprint_reads_a_picture_that_lies_in_a_file(tmp_path):
    (tmp_path / "p.jpg").write_bytes(b"picture")
    in_file = _row() | {"image": {"bytes": None, "path": str(tmp_path / "p.jpg")}}
    assert data_fingerprint([in_file]) == data_fingerprint([_row()])
