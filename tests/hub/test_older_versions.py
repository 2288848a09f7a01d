"""Native exports in the oldest transformers that their card names: they load whole there and say the same."""

import json
import re
import subprocess
import venv
from pathlib import Path
from sysconfig import get_path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoProcessor

from hfcap.generation.inputs import keep_caption_prompt
from hfcap.hub import export, verify
from hfcap.hub.usage import usage_code
from hfcap.models.model_types import MODEL_TYPES, OLDEST_TRANSFORMERS, OWN_TRANSFORMERS, PARTS_OF_OLDEST, spec_of
from tiny.exports import LIVELY_VIT
from tiny.native import BERT, GPT2, LLAMA, QWEN2, build_native

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
SIGLIP = {**LIVELY_VIT, "model_type": "siglip_vision_model"}
REGISTERS = {**LIVELY_VIT, "model_type": "dinov2_with_registers", "num_register_tokens": 2}
# At the default base a rotary setting that is not read would not show.
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 77.0}
PLAIN = {"rope_type": "default", "rope_theta": 77.0}
OPT = {"model_type": "opt", "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXTS = {
    "llama": LLAMA | {"rope_parameters": LINEAR},
    "mistral": LLAMA | {"model_type": "mistral", "rope_parameters": PLAIN},
    "qwen2": QWEN2 | {"rope_parameters": PLAIN},
    "qwen3": QWEN2 | {"model_type": "qwen3", "head_dim": 8, "rope_parameters": PLAIN},
    "gpt2": GPT2 | {"tie_word_embeddings": False},
    "opt": OPT
    | {"word_embed_proj_dim": 32, "max_position_embeddings": 256, "dropout": 0.0, "init_std": 0.2}
    | {"tie_word_embeddings": False},
}
OURS = {
    "ViT": ("llava", LIVELY_VIT, {}),
    "SigLIP": ("llava", SIGLIP, {}),
    "DINOv2": ("llava", LIVELY_VIT | {"model_type": "dinov2"}, {}),
    "registers": ("llava", REGISTERS, {"vision_feature_select_strategy": "full"}),
    "encoder-decoder": ("encoder_decoder", LIVELY_VIT, {}),
}
NATIVE = {name: (name, {}) for name, spec in MODEL_TYPES.items() if spec.oldest_transformers == OLDEST_TRANSFORMERS}
NATIVE |= {f"llava with {name}": ("llava", {"text": text}) for name, text in TEXTS.items()}
NATIVE |= {"BERT": ("vision-encoder-decoder", {"decoder": BERT})}
# What the other process runs: nothing of hfcap, only what the card prints.
CAPTION = """
import json, sys, torch, transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

answers = {"version": transformers.__version__}
for folder, usage, pictures in json.load(open(sys.argv[1])):
    model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    processor, said = AutoProcessor.from_pretrained(folder), []
    for picture in pictures:
        names = {"torch": torch, "model": model, "processor": processor, "picture": Image.open(picture)}
        exec(usage, names)
        said.append(names["caption"])
    answers[folder] = [sorted(info["missing_keys"]), sorted(info["unexpected_keys"]), said]
json.dump(answers, open(sys.argv[2], "w"))
"""


@pytest.fixture(scope="module")
def old_python(tmp_path_factory):
    """Python of an environment of its own with the old release; torch and the rest are those of this one."""
    folder = tmp_path_factory.mktemp("old")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    old = [f"transformers=={OLDEST_TRANSFORMERS}", "huggingface_hub<1", "tokenizers>=0.22,<0.23"]
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", *old], capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        pytest.skip(f"pip cannot install {old[0]}: {done.stderr.strip().splitlines()[-1]}")
    (site,) = folder.glob("lib/python*/site-packages")
    # Behind its own packages, so that those come first.
    here = [Path(place).resolve() for place in (get_path("purelib"), Path(torch.__file__).parents[1])]
    (site / "z_others.pth").write_text("".join(f"{place}\n" for place in dict.fromkeys(here)))
    return python


def make_captioner(kind, build, scene_rows):
    if kind in OURS:
        family, encoder, bridge = OURS[kind]
        return build(family, encoder, **bridge)
    model_type, options = NATIVE[kind]
    captions = [caption for captions in scene_rows["captions"] for caption in captions]
    model, processor = build_native(model_type, captions, **options)
    model.generation_config.update(max_new_tokens=8, num_beams=2)
    return model, processor


@pytest.fixture
def make_export(build, scene_rows, in_process, tmp_path):
    def make(kind, prompt=None):
        model, processor = make_captioner(kind, build, scene_rows)
        if prompt and spec_of(model.config).prompt != "none":
            keep_caption_prompt(processor, prompt)
        for part in (model, processor):
            part.save_pretrained(tmp_path / kind / "tuned")
        return model, processor, export.export_run(tmp_path / kind / "tuned", tmp_path / kind / "ready")

    return make


@pytest.mark.slow
def test_exports_say_the_same_in_the_oldest_version(make_export, old_python, pictures, tmp_path):
    requests, expected, parts = [], {}, set()
    for index, picture in enumerate(pictures[:4]):
        picture.save(tmp_path / f"{index}.png")
    for kind in (*OURS, *NATIVE):
        model, processor, folder = make_export(kind, "describe it")
        record = json.loads((folder / "verification.json").read_text())
        assert record["oldest_transformers"] == OLDEST_TRANSFORMERS, kind
        settings = json.loads((folder / "config.json").read_text())
        parts |= {part["model_type"] for part in settings.values() if isinstance(part, dict) and "model_type" in part}
        prompt = None if MODEL_TYPES[record["model_type"]].layout == "encoder_decoder" else "describe it"
        photos = [str(tmp_path / f"{index}.png") for index in range(4)]
        requests.append([str(folder), usage_code(record["model_type"], prompt), photos])
        expected[str(folder)] = [[], [], verify.captions_here(model, processor, pictures[:4], prompt)]
    assert parts == set(PARTS_OF_OLDEST), "the table names parts that no export here has, or lacks some"
    (tmp_path / "requests.json").write_text(json.dumps(requests))
    command = [old_python, "-c", CAPTION, str(tmp_path / "requests.json"), str(tmp_path / "answers.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads((tmp_path / "answers.json").read_text())
    assert answers.pop("version") == OLDEST_TRANSFORMERS
    assert answers == expected


@pytest.mark.parametrize("kind", ["llava", "paligemma", "SigLIP"])
def test_the_weights_of_a_tower_have_their_older_names(make_export, kind):
    _, _, folder = make_export(kind)
    names = [name for name in load_file(folder / "model.safetensors") if "vision_tower." in name]
    assert names and all("vision_tower.vision_model." in name for name in names)


def test_rotary_positions_are_written_in_both_forms(make_export):
    _, _, folder = make_export("llava with llama")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    assert text["rope_parameters"] == LINEAR
    assert (text["rope_theta"], text["rope_scaling"]) == (77.0, {"rope_type": "linear", "factor": 2.0})
    _, _, folder = make_export("gemma3")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    both = text["rope_parameters"]
    assert text["rope_theta"] == both["full_attention"]["rope_theta"]
    assert text["rope_local_base_freq"] == both["sliding_attention"]["rope_theta"]


def test_the_tokenizer_says_what_version_4_takes_from_defaults(make_export):
    _, _, folder = make_export("gemma3", "describe it")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]
    assert settings["add_prefix_space"] is True
    assert settings["extra_special_tokens"]["image_token"] == "<image_soft_token>"
    _, _, folder = make_export("llava")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["additional_special_tokens"] == ["<image>"] and "extra_special_tokens" not in settings


def test_an_export_makes_masks_of_what_an_assistant_says(make_run, in_process, tmp_path):
    """A processor that was loaded with `backend="pil"`, as training does it, saves that with its tokenizer."""
    run = make_run()
    path = run / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"backend": "pil"}))
    folder = export.export_run(run, tmp_path / "ready")
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    said = [{"type": "text", "text": "a red dot"}]
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "describe it"}]},
        {"role": "assistant", "content": said},
    ]
    batch = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )
    assert 0 < batch["assistant_masks"].sum() < batch["input_ids"].numel()


def test_the_version_that_hfcap_needs_is_the_one_of_the_table():
    assert re.search(r'"transformers>=([\d.]+)"', PYPROJECT.read_text())[1] == OWN_TRANSFORMERS


def test_the_export_and_the_table_name_the_version(make_run, in_process, tmp_path, capsys):
    folder = export.export_run(make_run(), tmp_path / "native")
    assert f"Loads with transformers {OLDEST_TRANSFORMERS} or newer.\n" in capsys.readouterr().out
    assert json.loads((folder / "verification.json").read_text())["oldest_transformers"] == OLDEST_TRANSFORMERS
    export.export_run(make_run(name="shuffled", pixel_shuffle_factor=2), tmp_path / "hfcap")
    assert f"Loads with transformers {OWN_TRANSFORMERS} or newer.\n" in capsys.readouterr().out
