"""The table of what works with what: its tests exist, its page is current, and what it lacks is refused."""

import importlib
import json
from copy import deepcopy
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import AutoConfig

from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments
from hfcap.training.build import choose_kernels
from hfcap.training.engine import current_backend
from hfcap.training.part_checks import check_captioner
from hfcap.training.settings_checks import check_supported
from hfcap.training.support import SUPPORT, support_table
from refusals import refused
from tiny.captioners import TINY_ENCODER, TINY_GPT2, TINY_LLAMA
from tiny.native import build_native

ROOT = Path(__file__).parents[2]


def test_every_cell_names_a_test_that_exists():
    for cells in SUPPORT.values():
        for cell in cells.values():
            assert (ROOT / cell).is_file(), cell


def test_the_page_shows_the_table_as_it_is():
    assert support_table() in (ROOT / "docs" / "compatibility.md").read_text()


@pytest.mark.parametrize(("strategy", "backend"), [("qlora", "fsdp2"), ("full", "fsdp1")])
def test_what_cannot_work_is_refused_before_anything_loads(strategy, backend):
    says = (f"'{strategy}' of hfcap_llava", "one of single, ddp")
    with refused(option="training engine", got=backend, says=says):
        check_supported(ModelArguments(strategy=strategy), "hfcap_llava", backend)


def test_blip_on_fsdp2_is_refused_before_anything_loads():
    check_supported(ModelArguments(), "blip", "ddp")
    with refused(option="training engine", got="fsdp2", says=("blip", "DDP")):
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
    with refused(option="attn_implementation", got="flex_attention", says="hfcap_encoder_decoder"):
        check_supported(args, "hfcap_encoder_decoder", "single")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with refused(option="attn_implementation", got="flex_attention", says="GPU"):
        check_supported(args, "hfcap_llava", "single")


SCRATCH = {"encoder_config": TINY_ENCODER, "decoder_config": TINY_GPT2, "image_size": 32}


@pytest.mark.parametrize(
    ("settings", "option", "fields"),
    [
        (
            {"bridge_config": {"num_bridge_layer": 2}},
            "bridge_config.num_bridge_layer",
            {"got": 2, "fix": "did you mean 'num_bridge_layers'?"},
        ),
        (
            {"bridge_config": {"image_positions_embeddings": True}},
            "bridge_config.image_positions_embeddings",
            {"fix": "did you mean 'image_position_embeddings'?"},
        ),
        (
            {"family": "llava", "bridge_config": {"num_bridge_layers": 2}},
            "bridge_config.num_bridge_layers",
            {"says": "hfcap_llava"},
        ),
        ({"bridge_config": {"image_size": 64}}, "bridge_config.image_size", {"got": 64, "fix": "remove it"}),
        ({"bridge_config": {"model_type": "hfcap_llava"}}, "bridge_config.model_type", {"says": "the option family"}),
        ({"bridge_config": {"vision_grid": [2, 2]}}, "bridge_config.vision_grid", {"fix": "remove it"}),
        ({"decoder_config": TINY_GPT2 | {"num_layer": 7}}, "decoder_config.num_layer", {"says": "did you mean"}),
        ({"decoder_config": TINY_GPT2 | {"num_layer": None}}, "decoder_config.num_layer", {"says": "did you mean"}),
        ({"decoder_config": TINY_GPT2 | {"rope_theta": 1e6}}, "decoder_config.rope_theta", {"says": "gpt2"}),
        ({"decoder_config": TINY_GPT2 | {"num_beams": 4}}, "decoder_config.num_beams", {"says": "gpt2"}),
        ({"decoder_config": TINY_GPT2 | {"use_return_dict": True}}, "decoder_config.use_return_dict", {"got": True}),
        (
            {"decoder_config": TINY_GPT2 | {"vocab_size": 9}},
            "decoder_config.vocab_size",
            {"says": "option vocab_size"},
        ),
        (
            {"decoder_config": TINY_GPT2 | {"torch_dtype": "float16"}},
            "decoder_config.torch_dtype",
            {"got": "float16", "says": "precision"},
        ),
        (
            {"decoder_config": TINY_GPT2 | {"add_cross_attention": True}},
            "decoder_config.add_cross_attention",
            {"says": "the option family"},
        ),
        ({"decoder_config": TINY_LLAMA}, "family", {"got": "encoder_decoder", "says": ("llama", "gpt2 and bert")}),
        (
            {"decoder_config": {"model_type": "gpt22"}},
            "decoder_config.model_type",
            {"got": "gpt22", "fix": "did you mean 'gpt2'?"},
        ),
        (
            {"decoder_config": TINY_GPT2 | {"n_layer": "two"}},
            "decoder_config",
            {"says": "'n_layer' expected int, got str"},
        ),
        (
            {"family": "llava", "bridge_config": {"pixel_shuffle_factor": 0}},
            "bridge_config",
            {"says": "pixel_shuffle_factor is 0"},
        ),
        ({"decoder_config": {"model_type": "vit"}}, "decoder", {"got": "vit", "says": "causal language model"}),
        ({"decoder_config": {"n_layer": 2}}, "decoder_config.model_type", {"says": "n_layer"}),
        (
            {"encoder_config": TINY_ENCODER | {"depth": [1]}},
            "encoder_config.depth",
            {"got": [1], "fix": "did you mean 'depths'?"},
        ),
    ],
)
def test_what_would_go_unread_in_a_configuration_is_refused(settings, option, fields):
    with refused(option=option, **fields):
        check_captioner(ModelArguments(**{"family": "encoder_decoder", **SCRATCH} | settings))


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
    ("settings", "fields"),
    [
        ({"encoder": "/nonexistent/enc"}, {"fix": "pass a folder or a Hub id (owner/name)"}),
        ({"decoder": "owner/nothere"}, {"says": "cannot be loaded"}),
        ({"decoder": "other"}, {"says": "cannot be loaded"}),
        ({"decoder": "llama"}, {"option": "family", "got": "encoder_decoder", "says": ("cross-attention", "llama")}),
        ({"plain_text": True}, {"fix": "remove it", "says": ("gpt2'", "tokenizer")}),
        ({"vocab_size": 500}, {"fix": "remove it", "says": ("gpt2'", "tokenizer")}),
        ({"chat_template": "{{ messages }}"}, {"fix": "remove it", "says": "plain text"}),
    ],
)
def test_a_pretrained_part_that_is_not_there_or_does_not_fit_is_one_line(pretrained, monkeypatch, settings, fields):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(pretrained)
    parts = {"encoder": "encoder", "decoder": str(pretrained / "gpt2")}
    check_captioner(ModelArguments(family="encoder_decoder", **parts))
    ((option, got),) = settings.items()
    with refused(**{"option": option, "got": got} | fields):
        check_captioner(ModelArguments(**{"family": "encoder_decoder", **parts} | settings))


def test_compiled_layers_are_refused_where_an_engine_hooks_into_them():
    args = ModelArguments(compile_layers=True)
    check_supported(args, "hfcap_llava", "ddp")
    with refused(option="compile_layers", got=True, fix="remove it", says="zero3"):
        check_supported(args, "hfcap_llava", "zero3")


def test_flex_attention_is_refused_for_rows_that_are_not_packed():
    model, _ = build_native("git", ["a red circle"] * 9)
    with refused(option="attn_implementation", got="flex_attention", says="git with git"):
        choose_kernels(model, ModelArguments(attn_implementation="flex_attention"))


@pytest.mark.parametrize("name", ["train", "train_dpo", "train_scst", "train_qlora"])
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
    with refused(option="crop", got=0.7, says="cached_crops"):
        importlib.import_module(name).main([*argv, "--output_dir", str(tmp_path / "run"), "--dry_run"])


def test_a_loss_of_each_process_alone_is_refused():
    with refused(option="average_tokens_across_devices", got=False, fix="remove it"):
        CaptionTrainingArguments(use_cpu=True, average_tokens_across_devices=False)


@pytest.mark.parametrize("content", ["{", "[1]", "{}", '{"zero_optimization": 3}', "[" * 99_999])
def test_a_deepspeed_configuration_without_a_stage_is_one_error(tmp_path, content):
    (tmp_path / "ds.json").write_text(content)
    environment = {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(tmp_path / "ds.json"),
    }
    with refused(option="zero_optimization.stage", says="ds.json"):
        current_backend(environment)
