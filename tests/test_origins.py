"""Folder or Hub id is decided once, where the run starts; any other working directory finds the same."""

import json
from pathlib import Path

import pytest

from hfcap.content_hashes import weights_sha256
from hfcap.hub.adapters import recorded_base
from hfcap.hub.verification_images import data_arguments
from hfcap.origins import adapter_base, data_settings, find_origins, hub_ids, is_on_hub, part_name, public_record


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Start in tmp_path/work; calling it changes to another directory."""
    (tmp_path / "work").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return lambda: monkeypatch.chdir(tmp_path / "other")


def folder(path):
    Path(path).mkdir(parents=True)
    return path


def record(**arguments):
    """What a run started here records."""
    return {"command": ["train.py"], "arguments": arguments, "origins": find_origins(arguments)}


def test_a_folder_of_two_parts_stays_a_folder_wherever_the_record_is_read(elsewhere):
    encoder = folder("clients/acme-confidential")
    run = record(encoder=encoder, decoder="openai-community/gpt2", data="scenes", model=None)
    elsewhere()
    assert not is_on_hub(run, "encoder") and is_on_hub(run, "decoder") and not is_on_hub(run, "data")
    assert hub_ids(run) == ["openai-community/gpt2"]
    assert part_name(run, "encoder") == "acme-confidential"
    public = json.dumps(public_record(run))
    assert "clients" not in public and "work" not in public and "train.py" not in public
    assert public_record(run)["arguments"]["decoder"] == "openai-community/gpt2"


def test_a_hub_id_stays_one_where_a_folder_has_its_name(elsewhere):
    run = record(decoder="openai-community/gpt2", data="owner/photos")
    folder("openai-community/gpt2")
    folder("owner/photos")
    assert hub_ids(run) == ["openai-community/gpt2"]
    assert public_record(run)["arguments"] == {"decoder": "openai-community/gpt2", "data": "owner/photos"}


def test_a_part_that_is_trained_first_is_a_folder_before_it_is_there(elsewhere):
    origins = find_origins({"encoder": "parts/encoder", "encoder_training": "encoder.yaml"})
    assert origins == {"encoder": {"kind": "folder", "path": str(Path.cwd() / "parts/encoder")}}
    origins = find_origins({"model": "parts/base", "base_config": "base.yaml"})
    assert origins["model"]["kind"] == "folder"


def test_only_settings_that_are_paths_lose_their_way(elsewhere):
    run = record(
        prompt="Is it red/blue or green?",
        image_folder="/home/someone/photos",
        output_dir="outputs/run/checkpoints",
        cache_dir="/home/someone/features",
        hub_model_id="me/captioner",
        model="outputs/base/model",
        bridge_config={"activation": "gelu/tanh"},
    )
    assert public_record(run)["arguments"] == {
        "prompt": "Is it red/blue or green?",
        "image_folder": "photos",
        "output_dir": "checkpoints",
        "cache_dir": "features",
        "hub_model_id": "me/captioner",
        "model": "base",
        "bridge_config": {"activation": "gelu/tanh"},
    }


def test_a_record_without_origins_is_judged_by_form_as_before(elsewhere):
    folder("clients/encoder")
    arguments = {"encoder": "clients/encoder", "decoder": "owner/decoder", "model": "outputs/base"}
    assert hub_ids({"arguments": arguments}) == ["owner/decoder"]


# ---- bases of adapters


def adapter(run, base, **arguments):
    """An adapter in a run folder; `arguments` are those of its `run.json`."""
    path = folder(Path(run, "adapter"))
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "revision": None}))
    (path / "adapter_model.safetensors").write_bytes(b"1")
    if arguments:
        Path(run, "run.json").write_text(json.dumps(record(**arguments)))
    return path.absolute()


def base_model(path):
    folder(path)
    Path(path, "config.json").write_text("{}")
    Path(path, "model.safetensors").write_bytes(b"2")
    return Path(path).absolute()


def test_the_base_of_an_adapter_is_found_from_any_directory(elsewhere):
    base = base_model("outputs/base/model")
    new = adapter("outputs/new", str(base), model="outputs/base", output_dir="outputs/new/checkpoints")
    # As an earlier hfcap wrote it.
    old = adapter("outputs/old", "outputs/base/model", model="outputs/base", output_dir="outputs/old/checkpoints")
    record = json.loads((old.parent / "run.json").read_text())
    del record["origins"]
    (old.parent / "run.json").write_text(json.dumps(record))
    elsewhere()
    for path in (new, old):
        assert adapter_base(path) == (str(base), None)
        assert recorded_base(path).name == str(base)
    assert weights_sha256(new) == weights_sha256(old)


def test_the_base_is_found_after_the_whole_project_was_moved(elsewhere, tmp_path):
    base = base_model("outputs/base/model")
    adapter("outputs/run", str(base), model="outputs/base", output_dir="outputs/run/checkpoints")
    elsewhere()
    (tmp_path / "work").rename(tmp_path / "moved")
    found, _ = adapter_base(tmp_path / "moved/outputs/run/adapter")
    assert found == str(tmp_path / "moved/outputs/base/model")


def test_a_base_of_two_parts_is_not_asked_for_on_the_hub(elsewhere):
    base = base_model("models/base")
    path = adapter("run", "models/base", model="models/base", output_dir="run/checkpoints")
    elsewhere()
    assert adapter_base(path) == (str(base), None)


def test_a_base_on_the_hub_stays_one_where_a_folder_has_its_name(elsewhere):
    path = adapter("run", "owner/base", model="owner/base", output_dir="run/checkpoints")
    base_model("owner/base")
    assert adapter_base(path) == ("owner/base", None)


# ---- data


def test_the_data_of_a_run_are_found_from_any_directory(elsewhere, tmp_path):
    photos, pictures = Path(folder("clients/photos")).absolute(), Path(folder("pictures")).absolute()
    run = folder("outputs/run")
    arguments = {"data": "clients/photos", "image_folder": "pictures", "output_dir": "outputs/run/checkpoints"}
    recorded = record(**arguments)
    path = Path(run).absolute()
    elsewhere()
    settings = data_settings(recorded, path)
    assert (settings["data"], settings["image_folder"]) == (str(photos), str(pictures))
    assert data_arguments(recorded, path).data == str(photos)
    del recorded["origins"]
    assert data_settings(recorded, path)["data"] == str(photos)
    (tmp_path / "work").rename(tmp_path / "moved")
    moved = data_settings(recorded, tmp_path / "moved/outputs/run")
    assert moved["data"] == str(tmp_path / "moved/clients/photos")
