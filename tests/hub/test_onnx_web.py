"""The JavaScript of a card runs in node as printed, and says what hfcap says."""

import shutil
import subprocess

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from hfcap.generation.caption import caption_rows
from hfcap.generation.inputs import caption_prompt
from hfcap.generation.loading import load_captioner
from hfcap.hub.export import export_run
from hfcap.hub.snapshot import GREEDY
from hfcap.hub.usage import web_code
from tiny.captioners import TINY_ENCODER

PACKAGE = "@huggingface/transformers@4.3.2"
# As printed in the card, with a folder in the place of the Hub.
OFFLINE = (
    'import { env } from "@huggingface/transformers";\nenv.allowRemoteModels = false;\nenv.localModelPath = "./";\n'
)


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory):
    """A folder in which node finds transformers.js."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", PACKAGE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot install {PACKAGE}: {done.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("family", ["encoder_decoder", "llava"])
def test_the_snippet_of_the_card_says_what_hfcap_says(make_run, pictures, node_folder, family):
    run = make_run(family, name=f"run-{family}", encoder=TINY_ENCODER)
    shutil.rmtree(node_folder / "user", ignore_errors=True)
    export_run(run, node_folder / "user" / "dogs", "onnx")
    model, processor = load_captioner(str(run / "model"))
    prompt = caption_prompt(processor)
    # Of the size that the captioner takes: sharp would resize otherwise than Pillow.
    expected = caption_rows(model, processor, [{"image": picture} for picture in pictures], prompt, **GREEDY)
    assert len(set(expected)) > 1
    (node_folder / "snippet.mjs").write_text(OFFLINE + web_code(model.config.model_type, prompt, "user/dogs"))
    for picture, caption in zip(pictures, expected, strict=True):
        picture.save(node_folder / "PHOTO.jpg", format="PNG")  # without loss
        done = subprocess.run(["node", "snippet.mjs"], cwd=node_folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == caption
