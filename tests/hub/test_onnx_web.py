"""The JavaScript of a card runs in node as printed, and says what hfcap says."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from hfcap import runs
from hfcap.generation.caption import caption_rows
from hfcap.generation.inputs import caption_prompt, keep_caption_prompt
from hfcap.generation.loading import load_captioner
from hfcap.hub.export import export_run
from hfcap.hub.snapshot import GREEDY
from hfcap.hub.usage import web_code
from hub.local_hub import LocalHub
from hub.test_publish import client, judge_run
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
@pytest.mark.parametrize(("family", "options"), [("encoder_decoder", {}), ("llava", {"pixel_shuffle_factor": 2})])
def test_the_snippet_of_the_card_says_what_hfcap_says(make_run, pictures, node_folder, family, options):
    run = make_run(family, name=f"run-{family}", encoder=TINY_ENCODER, **options)
    if family == "llava":  # a prompt that looks like a special token, which finds no picture
        _, processor = load_captioner(str(run / runs.MODEL))
        keep_caption_prompt(processor, "What is <image> in it?")
        processor.save_pretrained(run / runs.MODEL)
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


# As printed in the card, with a Hub of this machine in the place of the real one.
LOCAL_HUB = 'import {{ env }} from "@huggingface/transformers";\nenv.remoteHost = "{url}/";\nenv.cacheDir = "./hub";\n'


@pytest.mark.slow
def test_graphs_are_pushed_beside_the_weights(make_run, pictures, scene_rows, node_folder, tmp_path):
    """`hfcap push` twice, then the card's own code in node, over HTTP."""
    run = make_run("encoder_decoder", encoder=TINY_ENCODER)
    model, processor = load_captioner(str(run / "model"))
    judge_run(run, scene_rows, caption_rows(model, processor, scene_rows))
    expected = caption_rows(model, processor, [{"image": picture} for picture in pictures], **GREEDY)
    with LocalHub() as hub:
        push = [sys.executable, "-m", "hfcap.cli", "push", str(run), "--license", "mit", "--repo"]
        variants = ["--format", "onnx", "--quantize", "none", "float16"]
        for options in (["user/dogs"], ["user/dogs-onnx", *variants]):
            environment = client(hub, tmp_path / "home")
            done = subprocess.run([*push, *options], env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        assert "model.safetensors" in hub.files("models/user/dogs")
        files = hub.files("models/user/dogs-onnx")
        graphs = {f"onnx/{graph}_model{kind}.onnx" for graph in ("encoder", "decoder") for kind in ("", "_fp16")}
        graphs = {name.replace("decoder_model", "decoder_model_merged") for name in graphs}
        assert graphs <= set(files) and "model.safetensors" not in files
        card = files["README.md"].decode()
        snippet = card.split("```js\n")[1].split("```")[0]
        (node_folder / "snippet.mjs").write_text(LOCAL_HUB.format(url=hub.url) + snippet)
        for picture, caption in zip(pictures[:2], expected, strict=False):
            picture.save(node_folder / "PHOTO.jpg", format="PNG")
            done = subprocess.run(["node", "snippet.mjs"], cwd=node_folder, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert done.stdout.strip() == caption
    metadata = yaml.safe_load(card.split("---")[1])
    assert (metadata["library_name"], metadata["license"]) == ("transformers.js", "mit")
    assert 'pipeline("image-to-text", "user/dogs-onnx")' in snippet
    assert "hf download user/dogs-onnx --local-dir captioner" in card
    assert "| fp32 |" in card and "| fp16 |" in card
    assert str(run) not in card
    assert json.loads(files["verification.json"])["weights_hash"]
