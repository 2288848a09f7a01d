"""What only other processes can show: exports load where hfcap is not, and what does not load is said."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

from hfcap.errors import VerificationError
from hfcap.hub import snapshot, verify
from hfcap.hub.export import export_run
from hfcap.hub.remote_code import add_code
from hfcap.hub.usage import usage_code
from tiny.captioners import TINY_ENCODER

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("family", ["llava", "encoder_decoder"])
@pytest.mark.parametrize("form", ["native", "hfcap", "remote-code"])
def test_every_form_loads_in_a_clean_process(make_run, tmp_path, family, form):
    options = {} if form == "native" else {"encoder": TINY_ENCODER}
    folder = export_run(make_run(family, **options), tmp_path / "ready", form)
    assert (form == "remote-code") == ("auto_map" in json.loads((folder / "config.json").read_text()))


def test_an_adapter_is_loaded_onto_its_base_there(make_lora_run, tmp_path):
    folder = export_run(make_lora_run(), tmp_path / "ready", base_model="someone/base@v1")
    assert json.loads((folder / "verification.json").read_text())["class"] == "PeftModel"


def test_hfcap_is_not_to_be_had_in_that_process(make_run, pictures):
    run = make_run(encoder=TINY_ENCODER)
    with pytest.raises(VerificationError, match=r"does not load in a clean process: .*hfcap_llava"):
        verify.reload_in_clean_process(run / "model", pictures, "")


def test_a_module_that_was_not_pushed_along_is_noticed(make_run, tmp_path, pictures):
    folder = shutil.copytree(make_run(encoder=TINY_ENCODER) / "model", tmp_path / "code")
    add_code(folder, "hfcap_llava")
    (folder / "image_features.py").unlink()
    with pytest.raises(VerificationError, match=r"does not load in a clean process: .*image_features"):
        verify.reload_in_clean_process(folder, pictures, "", remote_code=True)


@pytest.mark.parametrize("encoder", [None, TINY_ENCODER])
def test_an_export_can_be_loaded_in_four_bits(make_run, tmp_path, pictures, encoder):
    pytest.importorskip("bitsandbytes")
    folder = export_run(make_run(**({"encoder": encoder} if encoder else {})), tmp_path / "ready")
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["model.vision_tower", "model.multi_modal_projector", "lm_head"],
    )
    model = AutoModelForImageTextToText.from_pretrained(folder, quantization_config=config, use_safetensors=True)
    four_bit = {name for name, p in model.named_parameters() if type(p).__name__ == "Params4bit"}
    assert len(four_bit) == 14
    assert all("language_model" in name for name in four_bit)
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    captions = snapshot.captions(
        usage_code(model.config.model_type, "describe it"), model, processor, pictures, **snapshot.GREEDY
    )
    assert len(set(captions)) > 2


def test_a_wrong_export_ends_with_one_line_and_exit_code_1(make_run, tmp_path):
    """On the command line, with an image processor that reads pictures otherwise than it says."""
    run = make_run()
    spoil = (
        "from transformers import ProcessorMixin\n"
        "save = ProcessorMixin.save_pretrained\n"
        "def spoiled(self, folder, **kwargs):\n"
        "    self.image_processor.image_mean = [0.0, 0.0, 0.0]\n"
        "    save(self, folder, **kwargs)\n"
        "ProcessorMixin.save_pretrained = spoiled\n"
        "from hfcap.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", spoil, "export", str(run), "--to", str(tmp_path / "ready")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: export verification failed: image processor: image_mean was [0.5")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*ready*"))


def test_the_python_in_the_docs_runs_as_printed(make_run, tmp_path, pictures):
    """In a folder with the export and a photo, where hfcap is not available."""
    export_run(make_run(), tmp_path / "hub-ready")
    pictures[0].save(tmp_path / "PHOTO.jpg")
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(snippets) == 2
    blocked = "import sys\nsys.modules['hfcap'] = None\n"
    command = [sys.executable, "-c", blocked + "\n".join(snippets)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
