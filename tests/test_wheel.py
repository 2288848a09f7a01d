"""The built wheel in an environment without a checkout: it holds recipes, configurations and templates."""

import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from hfcap.data.scenes import load_scenes
from tiny.onnx_export import make_export

ROOT = Path(__file__).parents[1]
SMALL = [
    *("--max_train_images", "8", "--max_eval_images", "4", "--max_steps", "2", "--image_size", "32"),
    *("--eval_caption_images", "2", "--vocab_size", "300", "--report_to", "none", "--cpu"),
]


def run(*command, cwd):
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, timeout=600)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Scripts of an environment with hfcap's wheel, and the libraries of this one; a working directory."""
    work = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", work / "dist", ROOT, cwd=work)
    (wheel,) = (work / "dist").glob("*.whl")
    venv.create(work / "venv", with_pip=True)
    python = work / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=work)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=work).strip()
    # An editable installation lies behind a .pth file there, which is not followed from here.
    libraries = dict.fromkeys(path for path in sys.path if path.endswith("site-packages"))
    libraries[sysconfig.get_path("purelib")] = None
    (Path(site) / "libraries.pth").write_text("\n".join(libraries))
    where = run(python, "-c", "import hfcap; print(hfcap.__file__)", cwd=work).strip()
    assert Path(where).is_relative_to(site), where
    return python.parent, work


@pytest.mark.slow
def test_recipes_and_configurations_come_with_the_wheel(installed):
    scripts, work = installed
    assert "scenes_qlora" in run(scripts / "hfcap", "train", "--list", cwd=work)
    run(scripts / "hfcap", "train", "small_from_scratch", "--data", "scenes", *SMALL, cwd=work)
    folder = work / "outputs" / "small-from-scratch"
    assert (folder / "README.md").is_file() and (folder / "report.html").is_file()
    picture = work / "picture.png"
    load_scenes("test", 1, "caption")[0]["image"].save(picture)
    assert str(picture) in run(scripts / "hfcap", "caption", picture, "--model", folder, cwd=work)
    run(scripts / "hfcap", "export", folder, "--to", work / "export", cwd=work)
    assert (work / "export" / "model.safetensors").is_file()


@pytest.mark.slow
def test_captioning_on_device_brings_no_torch(installed, tmp_path):
    """In an environment of its own, from the registry: `pip install "hfcap[ondevice]"`."""
    _, work = installed
    (wheel,) = (work / "dist").glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[ondevice]", cwd=tmp_path)
    # Not `pip list`, which PIP_QUIET in the environment silences.
    listing = "from importlib.metadata import distributions; print(*(one.name.lower() for one in distributions()))"
    names = set(run(python, "-c", listing, cwd=tmp_path).split())
    assert {"hfcap", "onnxruntime", "tokenizers"} <= names
    assert not names & {"torch", "transformers", "datasets", "accelerate", "peft", "evaluate"}
    make_export(tmp_path / "export")
    load_scenes("test", 1, "caption")[0]["image"].save(tmp_path / "picture.png")
    command = (python.parent / "hfcap", "caption", "picture.png", "--model", "export")
    assert run(*command, cwd=tmp_path).startswith("picture.png\t")
    process = subprocess.run(
        [python, "-c", "import hfcap; hfcap.CaptionTrainer"], capture_output=True, text=True, cwd=tmp_path
    )
    assert process.stderr.splitlines()[-1].endswith('; pip install "hfcap[train]"')


@pytest.mark.slow
def test_a_recipe_is_a_module_of_the_wheel(installed):
    scripts, work = installed
    launcher = (scripts / "python", "-m", "accelerate.commands.launch", "--cpu")
    assert "--max_caption_tokens" in run(*launcher, "-m", "hfcap.recipes.train", "--help", cwd=work)


def test_every_package_is_listed():
    """Packages are listed by hand, as they lie in three folders."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {path.parent.relative_to(ROOT / "src") for path in (ROOT / "src" / "hfcap").rglob("__init__.py")}
    assert set(listed) == {".".join(path.parts) for path in found} | {"hfcap.recipes", "hfcap.configs"}
