import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from hfcap import runs
from hfcap.content_hashes import captions_sha256, settings_sha256, weights_identity, weights_sha256
from hfcap.data.picture_checks import content_hashes, undecoded
from hfcap.data.sources import load_captions


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "git"}')
    save_file({"a": np.zeros(3, np.float32)}, folder / "model.safetensors")
    return folder


def test_a_copy_has_the_same_weights_and_one_changed_value_has_others(model, tmp_path):
    before = weights_sha256(model)
    copy = shutil.copytree(model, tmp_path / "another_name")
    assert len(before) == 64 and weights_sha256(copy) == before == weights_identity(copy)
    save_file({"a": np.array([0, 0, 1e-6], np.float32)}, copy / "model.safetensors")
    assert weights_sha256(copy) != before


def test_an_adapter_is_its_base_too(model, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"lora": np.ones(3, np.float32)}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    before = weights_sha256(adapter)
    (model / "config.json").write_text("{}")
    assert weights_sha256(adapter) == before
    save_file({"a": np.ones(3, np.float32)}, model / "model.safetensors")
    assert weights_sha256(adapter) != before


def test_settings_are_what_loading_reads_and_no_records(model):
    before = settings_sha256(model)
    (model / "metrics.json").write_text("{}")
    save_file({"a": np.ones(3, np.float32)}, model / "model.safetensors")
    assert settings_sha256(model) == before
    for name in ("generation_config.json", "processor_config.json", "tokenizer.json", "chat_template.jinja"):
        (model / name).write_text("{}")
        assert settings_sha256(model) != before, name
        before = settings_sha256(model)


def test_what_is_not_there_has_no_hash(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert weights_sha256(tmp_path) is None
    assert weights_identity("owner/not-in-any-cache") is None


def test_the_commit_says_what_a_hub_id_is(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--owner--cap"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "snapshots" / commit / "config.json").write_text("{}")
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert weights_identity("owner/cap") == commit


def test_captions_are_one_content_in_any_order():
    assert captions_sha256([("1", "a"), ("2", "b")]) == captions_sha256([("2", "b"), ("1", "a")])
    assert captions_sha256([("1", "a"), ("2", "b")]) != captions_sha256([("1", "b"), ("2", "a")])


def test_a_fingerprint_of_known_picture_hashes_is_that_of_the_pictures_themselves(tmp_path, scene_rows):
    """Of rows in memory, as scenes are drawn, and of files in a folder."""
    lines = []
    for number, row in enumerate(scene_rows.select(range(4))):
        row["image"].save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "captions": row["captions"]}) + "\n")
    (tmp_path / "validation.jsonl").write_text("".join(lines))
    for rows in (scene_rows, load_captions(str(tmp_path), "validation")):
        read_again = runs.data_fingerprint(undecoded(rows))
        assert runs.data_fingerprint(rows.remove_columns("image"), content_hashes(rows)) == read_again
        others = content_hashes(rows)[::-1]
        assert runs.data_fingerprint(rows.remove_columns("image"), others) != read_again
