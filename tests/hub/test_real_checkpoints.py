"""Checkpoints as they lie on the Hub, from a Hub on this machine: each has what a folder that we saved has not."""

import json
import shutil
import subprocess
import sys
from itertools import chain

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from hfcap.generation.caption import caption_rows
from hfcap.generation.loading import load_captioner
from hub.local_hub import LocalHub
from hub.test_from_hub import put
from hub.test_publish import client
from tiny.native import LLAMA, PROMPT, build_native

# What a user's process sees: captions of two pictures by each model, or the line of the error.
SCRIPT = """
import json, sys
from hfcap.errors import ConfigError
from hfcap.data.scenes import load_scenes
from hfcap.generation.caption import caption_rows
from hfcap.generation.loading import load_captioner, load_shapes
rows = load_scenes("train", 2, "caption", image_size=32)
said = {}
for name in sys.argv[1:]:
    name, _, what = name.partition(":")
    try:
        model, processor = (load_shapes if what else load_captioner)(name)
        if what:
            said[name] = sorted({parameter.device.type for parameter in model.parameters()})
        else:
            said[name] = caption_rows(model, processor, [rows[0], rows[1]], "describe the picture", max_new_tokens=6)
    except ConfigError as error:
        said[name] = str(error)
print(json.dumps(said))
"""


def ask(hub, home, *names, **environment):
    command = [sys.executable, "-c", SCRIPT, *names]
    done = subprocess.run(
        command, env=client(hub, home, **environment), capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def hub():
    with LocalHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def saved(tmp_path_factory, scene_rows):
    """A tiny LLaVA with a tied head, in bfloat16, as we save it; the weights are exact in float32 too."""
    captions = list(chain.from_iterable(scene_rows["captions"])) + [PROMPT] * 9
    model, processor = build_native("llava", captions, text=LLAMA | {"tie_word_embeddings": True})
    folder = tmp_path_factory.mktemp("saved")
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def as_of_version_4(saved, folder):
    """The same checkpoint with the files that transformers 4 wrote, in two shards, with settings that sample."""
    shutil.copytree(saved, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    assert {name.split(".")[0] for name in names} == {"language_model", "multi_modal_projector", "vision_tower"}
    assert tensors[names[0]].dtype == torch.bfloat16 and "language_model.lm_head.weight" not in names
    weight_map = {}
    for number, own in enumerate((names[::2], names[1::2]), start=1):
        shard = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in own}, folder / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(own, shard)
    total = sum(tensor.nbytes for tensor in tensors.values())
    write(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
    config = json.loads((folder / "config.json").read_text())
    config |= {"torch_dtype": config.pop("dtype", "bfloat16"), "transformers_version": "4.45.0"}
    write(folder / "config.json", config)
    write(folder / "generation_config.json", {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_length": 4096})

    processor = json.loads((folder / "processor_config.json").read_text())
    image_processor = processor.pop("image_processor")
    kind = image_processor["image_processor_type"].removesuffix("Pil")
    write(
        folder / "preprocessor_config.json",
        image_processor | {"image_processor_type": kind, "processor_class": "LlavaProcessor"},
    )
    write(folder / "processor_config.json", processor | {"processor_class": "LlavaProcessor"})
    write(folder / "chat_template.json", {"chat_template": (folder / "chat_template.jinja").read_text()})
    (folder / "chat_template.jinja").unlink()
    return folder


def write(path, content):
    path.write_text(json.dumps(content, indent=2))


def with_vocabulary_files(folder):
    """The tokenizer as vocab.json and merges.txt, without tokenizer.json."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (folder / "tokenizer.json").unlink()
    tokenizer.backend_tokenizer.model.save(str(folder))
    write(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"})


def with_code(folder, model_type):
    """A repository with code of its own, which leaves a file where it is run."""
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "remote.RemoteConfig", "AutoModelForImageTextToText": "remote.RemoteModel"}
    write(folder / "config.json", config | {"model_type": model_type, "auto_map": auto_map})
    (folder / "remote.py").write_text("import os; open(os.environ['HF_HOME'] + '/was_run', 'w')")


def test_captions_are_those_of_the_checkpoint_that_we_saved(hub, saved, scene_rows, tmp_path):
    model, processor = load_captioner(str(saved))
    expected = caption_rows(model, processor, [scene_rows[0], scene_rows[1]], PROMPT, max_new_tokens=6)
    assert expected[0] != expected[1]
    put(hub, "user/v4", as_of_version_4(saved, tmp_path / "v4"))
    put(hub, "user/moved", tmp_path / "v4")
    hub.moved["user/old-name"] = "user/moved"
    with_code(shutil.copytree(tmp_path / "v4", tmp_path / "known"), "llava")
    put(hub, "user/known-type-with-code", tmp_path / "known")
    names = ("user/v4", "user/old-name", "user/known-type-with-code")
    assert ask(hub, tmp_path / "home", *names) == dict.fromkeys(names, expected)
    assert not (tmp_path / "home" / "was_run").exists()


def test_shapes_come_without_a_download_of_weights(hub, saved, tmp_path):
    put(hub, "user/v4", as_of_version_4(saved, tmp_path / "v4"))
    assert ask(hub, tmp_path / "home", "user/v4:shapes") == {"user/v4": ["meta"]}
    asked = [path for _, path in hub.requests if "/resolve/" in path]
    assert asked and not [path for path in asked if ".safetensors" in path]


def test_what_cannot_be_loaded_is_one_line_with_the_way_out(hub, saved, tmp_path):
    folder = as_of_version_4(saved, tmp_path / "v4")
    put(hub, "other/gated", folder)
    hub.repos["models/other/gated"].gated = True
    with_code(shutil.copytree(folder, tmp_path / "code"), "llava_of_its_own")
    put(hub, "user/code", tmp_path / "code")
    with_vocabulary_files(shutil.copytree(folder, tmp_path / "slow"))
    put(hub, "user/slow-tokenizer", tmp_path / "slow")
    shutil.copytree(folder, tmp_path / "cut")
    (tmp_path / "cut" / "model-00002-of-00002.safetensors").unlink()
    put(hub, "user/shard-missing", tmp_path / "cut")

    names = ("other/gated", "user/none", "user/code", "user/slow-tokenizer", "user/shard-missing")
    said = ask(hub, tmp_path / "home", *names)
    said["without token"] = ask(hub, tmp_path / "home", "other/gated", HF_TOKEN="")["other/gated"]
    gated = "its owner decides who may download it; ask for access on its page, and log in (hf auth login)"
    assert said["other/gated"] == said["without token"] == f"model is 'other/gated': {gated}"  # 403, 401
    assert said["user/code"].startswith(
        "model is 'user/code': it runs Python code of its own, which is not run here; "
    )
    assert not (tmp_path / "home" / "was_run").exists()
    assert said["user/slow-tokenizer"].endswith("pip install sentencepiece tiktoken protobuf")
    assert "not a valid model identifier" in said["user/none"]
    assert "model-00002-of-00002.safetensors" in said["user/shard-missing"]
    assert not [line for line in said.values() if "\n" in line]
