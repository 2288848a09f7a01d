"""What is asked of a Hub before anything is downloaded: pickled weights, and another base than was trained on."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from PIL import Image
from safetensors.torch import load_file, save_file

from hfcap import runs
from hfcap.errors import VerificationError
from hfcap.hub import adapters
from hfcap.hub.export import export_run
from hub.local_hub import LocalHub, Repo
from hub.test_publish import client
from refusals import refused


@pytest.fixture
def hub():
    with LocalHub() as hub:
        yield hub


def put(hub, name, folder, renamed=()):
    """Put a folder into a repository, some of its files under other names; return its commit."""
    tree = {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        is_lfs = path.suffix in (".safetensors", ".bin")
        key = (hashlib.sha256 if is_lfs else hashlib.sha1)(content).hexdigest()
        hub.blobs[key] = content
        tree[dict(renamed).get(path.name, path.name)] = key
    repo = hub.repos.setdefault(f"models/{name}", Repo())
    return repo.commit(tree, "main")


def test_a_hub_id_of_pickles_is_refused_in_a_line_and_not_downloaded(hub, make_run, tmp_path):
    put(hub, "user/pickled", make_run() / runs.MODEL, {"model.safetensors": "pytorch_model.bin"}.items())
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    command = [sys.executable, "-m", "hfcap.cli", "caption", str(tmp_path / "photo.png"), "--model", "user/pickled"]
    done = subprocess.run(command, env=client(hub, tmp_path / "home"), capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]  # bitsandbytes may say something before
    assert "Traceback" not in done.stderr
    assert line.startswith("error: model is 'user/pickled': pickled weights only (pytorch_model.bin)")
    assert "save_pretrained" in line
    assert not [path for _, path in hub.requests if "/resolve/" in path]


def test_the_revision_asked_for_is_the_one_that_is_looked_at(hub, make_run, tmp_path):
    model = make_run() / runs.MODEL
    pickled = put(hub, "user/base", model, {"model.safetensors": "pytorch_model.bin"}.items())
    put(hub, "user/base", model)
    script = "import sys; from hfcap.checkpoint_files import check_checkpoint; check_checkpoint(*sys.argv[1:])"
    for arguments, is_refused in ((["user/base"], False), (["user/base", pickled], True), (["user/none"], False)):
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, env=client(hub, tmp_path / "home"), capture_output=True, text=True)
        assert ("pickled weights only" in done.stderr) == is_refused == bool(done.returncode), done.stderr


@pytest.fixture
def asked(hub, monkeypatch):
    """Ask the local Hub from this process."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(adapters, "HfApi", lambda: HfApi(endpoint=hub.url, token="hf_writer"))


@pytest.mark.parametrize("as_exported", [False, True])
def test_a_base_on_the_hub_that_is_the_one_trained_on(
    hub, asked, in_process, make_lora_run, tmp_path, capsys, as_exported
):
    run = make_lora_run()
    base = run.parent / "base" / runs.MODEL
    if as_exported:
        base = export_run(base, tmp_path / "native")  # other names of tensors, so other bytes
    commit = put(hub, "user/base", base)
    export_run(run / runs.ADAPTER, tmp_path / "ready", base_model=f"user/base@{commit}")
    assert "Base: the weights of user/base are those of" in capsys.readouterr().out
    assert not [path for _, path in hub.requests if "/resolve/" in path]


def test_another_base_on_the_hub_is_refused_with_both_hashes(hub, asked, in_process, make_lora_run, tmp_path):
    run = make_lora_run()
    base = run.parent / "base" / runs.MODEL
    other = tmp_path / "other"
    other.mkdir()
    tensors = load_file(base / "model.safetensors")
    tensors["model.multi_modal_projector.linear_1.bias"] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    commit = put(hub, "user/base", other)
    there, here = (hash_of(folder / "model.safetensors")[:12] for folder in (other, base))
    says = f"model.safetensors is {there} there and {here} in "
    with refused(VerificationError, option="base of the adapter", got=f"user/base@{commit}", says=says):
        export_run(run / runs.ADAPTER, tmp_path / "ready", base_model=f"user/base@{commit}")
    assert not (tmp_path / "ready").exists()


def test_an_adapter_is_put_on_the_revision_of_its_base(hub, make_lora_run, tmp_path):
    """The base has moved on since: other weights are on its main branch."""
    run = make_lora_run()
    base = run.parent / "base" / runs.MODEL
    commit = put(hub, "user/base", base)
    tensors = load_file(base / "model.safetensors")
    expected = tensors["model.language_model.norm.weight"].clone()
    tensors["model.language_model.norm.weight"] += 1
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    put(hub, "user/base", base)
    settings = json.loads((run / runs.ADAPTER / "adapter_config.json").read_text())
    settings |= {"base_model_name_or_path": "user/base", "revision": commit}
    (run / runs.ADAPTER / "adapter_config.json").write_text(json.dumps(settings))
    script = (
        "import sys; from hfcap.generation.loading import load_captioner; "
        "model, _ = load_captioner(sys.argv[1]); "
        "print(model.get_base_model().model.language_model.norm.weight.mean().item())"
    )
    command = [sys.executable, "-c", script, str(run / runs.ADAPTER)]
    done = subprocess.run(command, env=client(hub, tmp_path / "home"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(expected.mean().item(), abs=1e-5)


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("case", ["sharded otherwise", "no such repository", "no server", "offline"])
def test_a_base_that_cannot_be_compared_is_a_warning(
    hub, asked, in_process, make_lora_run, tmp_path, capsys, monkeypatch, case
):
    run = make_lora_run()
    if case == "sharded otherwise":
        renamed = {"model.safetensors": "model-00001-of-00002.safetensors"}.items()
        put(hub, "user/base", run.parent / "base" / runs.MODEL, renamed)
    if case == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    if case == "no server":
        monkeypatch.setattr(adapters, "HfApi", lambda: HfApi(endpoint="http://127.0.0.1:9"))
    export_run(run / runs.ADAPTER, tmp_path / "ready", base_model="user/base@main")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Warning: ")]
    assert len(lines) == 1 and "the base was not compared with user/base" in lines[0]
