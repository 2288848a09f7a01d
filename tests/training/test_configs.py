"""Every YAML under configs/train is accepted by its recipe's own parser; the expected memory and time are computed."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaModel, ViTConfig, ViTModel

from hfcap.models.model_types import MODEL_TYPES, model_types_table
from hfcap.training.arguments import (
    CaptionTrainingArguments,
    EncoderArguments,
    EncoderTrainingArguments,
    ModelArguments,
    QLoraArguments,
)
from hfcap.training.config_file import read_config
from hfcap.training.data_arguments import DataArguments
from hfcap.training.dpo import DpoArguments
from hfcap.training.parsing import parse_arguments
from hfcap.training.scst import ScstArguments
from hfcap.training.tagger_arguments import TaggerArguments, TaggerTrainingArguments

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "train").glob("*.yaml"))
CLASSES = {
    "train": (ModelArguments, CaptionTrainingArguments),
    "train_dpo": (ModelArguments, DpoArguments),
    "train_encoder": (EncoderArguments, EncoderTrainingArguments),
    "train_qlora": (QLoraArguments, CaptionTrainingArguments),
    "train_scst": (ModelArguments, ScstArguments),
    "train_tagger": (TaggerArguments, TaggerTrainingArguments),
}
TOKENS = 256


@pytest.fixture(scope="module")
def estimate_training():
    spec = importlib.util.spec_from_file_location("estimate_training", ROOT / "benchmarks" / "estimate_training.py")
    module = sys.modules["estimate_training"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_recipe_that_a_config_names_parses_it(path):
    settings = read_config(path)
    recipe = settings.pop("recipe")
    classes = (DataArguments, *CLASSES[recipe])
    data_args, model_args, args = parse_arguments(*classes, argv=["--config", str(path)], recipe=recipe)
    for name, value in settings.items():
        owner = next(part for part in (data_args, model_args, args) if hasattr(part, name))
        got = getattr(owner, name)
        # YAML 1.1 reads 1e-3 as text; the parser makes a number of it.
        assert got == (float(value) if isinstance(value, str) and isinstance(got, float) else value), name
    # Continued by another run's config, or evaluated later: no two runs share a folder.
    assert args.output_dir == f"outputs/{path.stem.replace('_', '-')}"


def test_the_configs_say_what_the_estimate_says(estimate_training):
    names = estimate_training.names()
    assert len(names) == 18
    for name in names:
        text = (ROOT / "configs" / "train" / f"{name}.yaml").read_text()
        assert f"# {estimate_training.estimate(name).line()}" in text, name


def test_the_page_shows_facts_and_estimates_as_they_are(estimate_training):
    page = (ROOT / "docs" / "models.md").read_text()
    assert model_types_table() in page
    assert estimate_training.table() in page
    assert all(f"`{model_type}`" in page for model_type in MODEL_TYPES)


def _llama(layers):
    return LlamaModel(
        LlamaConfig(
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=64,
        )
    )


def _vit(layers):
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": layers}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return ViTModel(ViTConfig(**sizes, **dropout, image_size=128, patch_size=8))


def _gpt2(layers):
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes = {"n_embd": 128, "n_head": 4, "n_layer": layers, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2Model(GPT2Config(**sizes, **dropout, is_decoder=True, add_cross_attention=True))


def kept_bytes(model, **inputs):
    """Bytes of the tensors that autograd keeps, parameters left out and shared storage counted once."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = (
            tensor.untyped_storage()
        )  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        output = model.train()(**inputs).last_hidden_state
    assert output.requires_grad
    return sum(storage.nbytes() for address, storage in storages.items() if address not in parameters)


@pytest.mark.parametrize("kind", ["llama", "vit", "gpt2"])
def test_activations_are_what_autograd_keeps(estimate_training, kind):
    ids = {"input_ids": torch.zeros(1, TOKENS, dtype=torch.int64), "use_cache": False}
    stack = estimate_training.Stack
    build, stack, tokens, inputs = {
        "llama": (_llama, estimate_training.gated(1, 128, 384, 128, 64, 0), TOKENS, ids),
        "vit": (_vit, stack(1, 128, 512, 128, 128, False), 257, {"pixel_values": torch.randn(1, 3, 128, 128)}),
        "gpt2": (
            _gpt2,
            stack(1, 128, 512, 128, 128, False, cross_width=128, mlp_bytes=estimate_training.GELU_NEW_BYTES),
            TOKENS,
            ids | {"encoder_hidden_states": torch.randn(1, 64, 128)},
        ),
    }[kind]
    one_layer = (kept_bytes(build(4), **inputs) - kept_bytes(build(2), **inputs)) / 2
    expected = tokens * stack.activation_bytes() + 2 * stack.layer_weights()  # autocast's copies of the weights
    assert one_layer == pytest.approx(expected, rel=0.1)
