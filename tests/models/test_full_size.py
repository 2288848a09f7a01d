"""The configurations that transformers itself gives each native type, at their full size, on the meta device.

They show what tiny models cannot: that the names in the table are those of the real modules, that LoRA finds the
layers that it is to adapt, and that there are as many weights as the makers of the checkpoints count.
"""

import json

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageTextToText

from hfcap.generation.settings import image_token_ids
from hfcap.hub.older_versions import with_older_settings
from hfcap.models.model_types import MODEL_TYPES, setting_at, spec_of
from hfcap.training.meta_run import unknown_fields
from hfcap.training.strategies import count_parameters, lora_targets, part_of, projector_modules

LLAMA = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
BERT = {"query", "key", "value", "dense"}
PARTS = {"gemma4": {"vision_config": {}, "audio_config": {}}}  # the default of both is None
PARTS["vision-encoder-decoder"] = {
    "encoder": {"model_type": "vit"},
    "decoder": {"model_type": "gpt2", "is_decoder": True, "add_cross_attention": True},
}
# Linear layers of the language model by the ends of their names.
ADAPTED = {
    "qwen3_5": LLAMA | {"in_proj_a", "in_proj_b", "in_proj_qkv", "in_proj_z", "out_proj"},
    "gemma4": LLAMA | {"per_layer_input_gate", "per_layer_model_projection", "per_layer_projection"},
    "lfm2_vl": {"q_proj", "k_proj", "v_proj", "out_proj", "w1", "w2", "w3"},  # its default has no convolutions
    "blip-2": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "blip": BERT,
    "git": BERT,
    "vision-encoder-decoder": {"c_attn", "q_attn", "c_proj", "c_fc"},
}
# Millions of weights of parts that are published ones: CLIP-L/14, Llama 2, InternViT-300M, Qwen2-72B, Gemma 4 E2B
# ("5.1B with embeddings"), ViT-g/14 of EVA-CLIP, OPT-125M, ViT-B/16.
SIZES = {
    "llava": {"encoder": 304, "lm": 6738},
    "internvl": {"encoder": 304},
    "qwen2_vl": {"lm": 72706},
    "gemma4": {"lm": 5077},
    "blip-2": {"encoder": 986, "lm": 125},
    "blip": {"encoder": 86},
    "git": {"encoder": 86},
    "vision-encoder-decoder": {"encoder": 86},
}
# Modules that not every model of a type has: a head that is tied, a bridge between equal widths, parts for videos.
OPTIONAL = ("lm_head.", "enc_to_dec_proj.", "git.img_temporal_embedding.", "model.visual.deepstack_merger_list.")
NATIVE = [model_type for model_type in MODEL_TYPES if not model_type.startswith("hfcap_")]


@pytest.fixture(params=NATIVE)
def model(request):
    config = CONFIG_MAPPING[request.param](**PARTS.get(request.param, {}))
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def test_the_facts_are_those_of_the_real_modules(model):
    spec, modules = spec_of(model.config), dict(model.named_modules())
    names = [name for name, _ in model.named_parameters()]
    for part in ("encoder", "projector", "lm"):
        for prefix in getattr(spec, part):
            assert prefix in OPTIONAL or any(name.startswith(prefix) for name in names), prefix
    assert any(head in modules for head in spec.head)
    if spec.image_tokens and model.config.model_type != "blip-2":  # whose default is None
        assert image_token_ids(model.config)
    assert spec.generate_by is None or hasattr(model, spec.generate_by)
    # Nothing is taken for a projector only because it has no other name (as Gemma 4's encoder of sounds was).
    unnamed = {name for name in names if part_of(name, spec) == "projector" and not name.startswith(spec.projector)}
    assert unnamed <= {"query_tokens", "model.image_newline"}
    assert unknown_fields(model.config) in ("", "decoder.add_cross_attention")


def test_lora_adapts_every_linear_layer_of_the_language_model(model):
    spec, model_type = spec_of(model.config), model.config.model_type
    targets = lora_targets(model)  # full names, which PEFT takes as they are
    assert {name.rpartition(".")[2] for name in targets} == ADAPTED.get(model_type, LLAMA)
    assert all(part_of(name, spec) == "lm" for name in targets)
    total, _ = count_parameters(model)
    assert bool(projector_modules(model)) == bool(set(spec.projector) - set(OPTIONAL))
    for part, millions in SIZES.get(model_type, {}).items():
        assert round(total[part] / 1e6) == millions


@pytest.mark.parametrize("model_type", NATIVE)
def test_an_exported_configuration_has_its_rotary_positions(model_type, tmp_path):
    config = CONFIG_MAPPING[model_type](**PARTS.get(model_type, {}))
    config.save_pretrained(tmp_path)
    expected = AutoConfig.from_pretrained(tmp_path).get_text_config(decoder=True)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(with_older_settings(config, settings)))
    found = AutoConfig.from_pretrained(tmp_path).get_text_config(decoder=True)
    assert setting_at(found, "rope_parameters") == setting_at(expected, "rope_parameters")
