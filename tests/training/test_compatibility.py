"""The table of what works with what: its tests exist, its page is current, and what it lacks is refused."""

import importlib
import json
from copy import deepcopy
from pathlib import Path

import huggingface_hub
import pytest
import torch
from tiny import TINY_ENCODER, TINY_GPT2, TINY_LLAMA
from transformers import AutoConfig

from hfcap.errors import ConfigError
from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments
from hfcap.training.build import choose_kernels
from hfcap.training.engine import current_backend
from hfcap.training.settings_checks import check_captioner, check_supported
from hfcap.training.support import SUPPORT, support_table
from native_models import build_native

ROOT = Path(__file__).parents[2]


def test_every_cell_names_a_test_that_exists():
    for cells in SUPPORT.values():
        for cell in cells.values():
            assert (ROOT / cell).is_file(), cell


def test_the_page_shows_the_table_as_it_is():
    assert support_table() in (ROOT / "docs" / "compatibility.md").read_text()


@pytest.mark.parametrize(("strategy", "backend"), [("qlora", "fsdp2"), ("full", "fsdp1")])
def test_what_cannot_work_is_refused_before_anything_loads(strategy, backend):
    message = f"'{strategy}' of hfcap_llava is not offered on {backend}: use one of single, ddp"
    with pytest.raises(ConfigError, match=message):
        check_supported(ModelArguments(strategy=strategy), "hfcap_llava", backend)


def test_blip_on_fsdp2_is_refused_before_anything_loads():
    check_supported(ModelArguments(), "blip", "ddp")
    with pytest.raises(ConfigError, match="blip is not offered on fsdp2: use DDP"):
        check_supported(ModelArguments(), "blip", "fsdp2")


@pytest.mark.parametrize(
    ("environment", "backend"),
    [
        ({}, "single"),
        ({"WORLD_SIZE": "2"}, "ddp"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "WORLD_SIZE": "2"}, "fsdp2"),
        ({"ACCELERATE_USE_FSDP": "true", "WORLD_SIZE": "2"}, "fsdp1"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "zero3"),
    ],
)
def test_the_backend_is_read_from_the_launcher(environment, backend):
    assert current_backend(environment) == backend


def test_a_deepspeed_file_decides_the_stage(tmp_path):
    path = tmp_path / "zero.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    environment = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}
    assert current_backend(environment) == "zero2"


def test_flex_attention_is_refused_where_it_cannot_train(monkeypatch):
    args = ModelArguments(attn_implementation="flex_attention")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_supported(args, "hfcap_llava", "single")
    with pytest.raises(ConfigError, match="hfcap_encoder_decoder looks at the image apart"):
        check_supported(args, "hfcap_encoder_decoder", "single")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="flex_attention trains on a GPU alone"):
        check_supported(args, "hfcap_llava", "single")


SCRATCH = {"encoder_config": TINY_ENCODER, "decoder_config": TINY_GPT2, "image_size": 32}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"bridge_config": {"num_bridge_layer": 2}},
            "no 'num_bridge_layer'; did you mean 'num_bridge_layers'",
        ),
        (
            {"bridge_config": {"image_positions_embeddings": True}},
            "no 'image_positions_embeddings'; did you mean 'image_position_embeddings'",
        ),
        ({"family": "llava", "bridge_config": {"num_bridge_layers": 2}}, "hfcap_llava has no 'num_bridge_layers'"),
        (
            {"bridge_config": {"image_size": 64}},
            "bridge_config: leave out 'image_size': the option image_size",
        ),
        ({"bridge_config": {"model_type": "hfcap_llava"}}, "leave out 'model_type': the option family sets it"),
        ({"bridge_config": {"vision_grid": [2, 2]}}, "leave out 'vision_grid': it is measured"),
        ({"decoder_config": TINY_GPT2 | {"num_layer": 7}}, "decoder_config: gpt2 has no 'num_layer'; did you mean"),
        ({"decoder_config": TINY_GPT2 | {"num_layer": None}}, "decoder_config: gpt2 has no 'num_layer'; did you mean"),
        ({"decoder_config": TINY_GPT2 | {"rope_theta": 1e6}}, "decoder_config: gpt2 has no 'rope_theta'"),
        ({"decoder_config": TINY_GPT2 | {"num_beams": 4}}, "decoder_config: gpt2 has no 'num_beams'"),
        ({"decoder_config": TINY_GPT2 | {"use_return_dict": True}}, "gpt2 has no 'use_return_dict'; did you mean"),
        ({"decoder_config": TINY_GPT2 | {"vocab_size": 9}}, "leave out 'vocab_size': the option vocab_size sets it"),
        (
            {"decoder_config": TINY_GPT2 | {"torch_dtype": "float16"}},
            "leave out 'torch_dtype': weights train in float32",
        ),
        ({"decoder_config": TINY_GPT2 | {"add_cross_attention": True}}, "the option family sets it"),
        ({"decoder_config": TINY_LLAMA}, "needs a decoder with cross-attention, and llama has none: .*gpt2 and bert"),
        (
            {"decoder_config": {"model_type": "gpt22"}},
            "unknown model_type 'gpt22'; did you mean 'gpt2'",
        ),
        ({"decoder_config": TINY_GPT2 | {"n_layer": "two"}}, "decoder_config: .*'n_layer' expected int, got str"),
        (
            {"family": "llava", "bridge_config": {"pixel_shuffle_factor": 0}},
            "bridge_config: pixel_shuffle_factor is 0",
        ),
        ({"decoder_config": {"model_type": "vit"}}, "vit is not a causal language model"),
        ({"encoder_config": TINY_ENCODER | {"depth": [1]}}, "convnext has no 'depth'; did you mean 'depths'"),
    ],
)
def test_what_would_go_unread_in_a_configuration_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        check_captioner(ModelArguments(**{"family": "encoder_decoder", **SCRATCH} | settings))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("family", "decoder_config", "bridge_config"),
    [
        ("encoder_decoder", {"model_type": "gpt2", "hidden_size": 32}, {"num_bridge_layers": 2, "image_dropout": 0.1}),
        ("llava", TINY_LLAMA | {"rope_theta": 1e6}, {"pixel_shuffle_factor": 2}),
        # Keys that are no fields, as given and at their default.
        ("llava", TINY_LLAMA | {"attn_implementation": "eager", "rope_scaling": {"rope_type": "default"}}, {}),
        ("llava", TINY_LLAMA | {"partial_rotary_factor": 0.5}, {}),
        ("llava", {"model_type": "gemma3_text", "sliding_window_pattern": 2}, {}),
        ("llava", {"model_type": "gemma3_text", "sliding_window_pattern": 6}, {}),
        ("llava", {"model_type": "cohere2", "sliding_window_pattern": 2}, {}),
        ("llava", {"model_type": "mistral", "num_hidden_layers": 1, "layer_types": ["full_attention"]}, {}),
        ("llava", {"model_type": "falcon", "n_embed": 48, "num_attention_heads": 3}, {}),
        ("llava", {"model_type": "modernbert-decoder", "global_rope_theta": 5e4}, {}),
        ("llava", {"model_type": "zamba2", "attention_hidden_size": 64}, {}),  # computed where it is not given
    ],
)
def test_what_a_configuration_reads_may_stand_there(family, decoder_config, bridge_config):
    settings = SCRATCH | {"decoder_config": decoder_config, "bridge_config": bridge_config}
    given = deepcopy(settings)
    check_captioner(ModelArguments(family=family, **settings))
    assert settings == given


@pytest.fixture
def pretrained(tmp_path):
    """Configurations of pretrained parts."""
    for part, config in (("encoder", TINY_ENCODER), ("gpt2", TINY_GPT2), ("llama", TINY_LLAMA)):
        AutoConfig.for_model(**config).save_pretrained(tmp_path / part)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "nobody_knows"}')
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "/nonexistent/enc"}, "encoder: /nonexistent/enc cannot be loaded; give a folder or a Hub id"),
        ({"decoder": "owner/nothere"}, "decoder: owner/nothere cannot be loaded"),
        ({"decoder": "other"}, "decoder: .*other cannot be loaded"),
        ({"decoder": "llama"}, "needs a decoder with cross-attention, and llama has none"),
        ({"plain_text": True}, "plain_text: decoder .*gpt2' brings a tokenizer of its own; leave it out"),
        ({"vocab_size": 500}, "vocab_size: decoder .*gpt2' brings a tokenizer of its own"),
    ],
)
def test_a_pretrained_part_that_is_not_there_or_does_not_fit_is_one_line(pretrained, monkeypatch, settings, message):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(pretrained)
    parts = {"encoder": "encoder", "decoder": str(pretrained / "gpt2")}
    check_captioner(ModelArguments(family="encoder_decoder", **parts))
    with pytest.raises(ConfigError, match=message) as error:
        check_captioner(ModelArguments(**{"family": "encoder_decoder", **parts} | settings))
    assert "\n" not in str(error.value) and len(str(error.value)) < 450


def test_compiled_layers_are_refused_where_an_engine_hooks_into_them():
    args = ModelArguments(compile_layers=True)
    check_supported(args, "hfcap_llava", "ddp")
    with pytest.raises(ConfigError, match="compile_layers is not offered on zero3"):
        check_supported(args, "hfcap_llava", "zero3")


def test_flex_attention_is_refused_for_rows_that_are_not_packed():
    model, _ = build_native("gemma3", ["a red circle"] * 9)
    with pytest.raises(ConfigError, match="gemma3 with gemma3_text is not packed"):
        choose_kernels(model, ModelArguments(attn_implementation="flex_attention"))


@pytest.mark.parametrize("name", ["train", "train_scst", "train_qlora"])
def test_every_recipe_asks_whether_cached_features_fit_the_pictures(name, build_tiny, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "recipes")
    for part in build_tiny("llava"):
        part.save_pretrained(tmp_path / "model")
    strategy = [] if name == "train_qlora" else ["--strategy", "frozen_encoder"]
    argv = [
        "--model",
        str(tmp_path / "model"),
        *strategy,
        "--feature_cache",
        "true",
        "--crop",
        "0.7",
        "--use_cpu",
        "1",
    ]
    with pytest.raises(ConfigError, match="crop: cached features"):
        importlib.import_module(name).main([*argv, "--output_dir", str(tmp_path / "run"), "--dry_run"])


def test_a_loss_of_each_process_alone_is_refused():
    with pytest.raises(ConfigError, match="average_tokens_across_devices"):
        CaptionTrainingArguments(use_cpu=True, average_tokens_across_devices=False)


@pytest.mark.parametrize("content", ["{", "[1]", "{}", '{"zero_optimization": 3}', "[" * 99_999])
def test_a_deepspeed_configuration_without_a_stage_is_one_error(tmp_path, content):
    (tmp_path / "ds.json").write_text(content)
    environment = {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(tmp_path / "ds.json"),
    }
    with pytest.raises(ConfigError, match=r"ds.json: no zero_optimization.stage"):
        current_backend(environment)
