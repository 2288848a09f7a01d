"""The table of what works with what: its tests exist, its page is current, and what it lacks is refused."""

import json
from pathlib import Path

import pytest
import torch

from hfcap.errors import ConfigError
from hfcap.training.arguments import ModelArguments
from hfcap.training.build import choose_kernels
from hfcap.training.compatibility import SUPPORT, check_supported, current_backend, support_table
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


def test_compiled_layers_are_refused_where_an_engine_hooks_into_them():
    args = ModelArguments(compile_layers=True)
    check_supported(args, "hfcap_llava", "ddp")
    with pytest.raises(ConfigError, match="compile_layers is not offered on zero3"):
        check_supported(args, "hfcap_llava", "zero3")


def test_flex_attention_is_refused_for_rows_that_are_not_packed():
    model, _ = build_native("gemma3", ["a red circle"] * 9)
    with pytest.raises(ConfigError, match="gemma3 with gemma3_text is not packed"):
        choose_kernels(model, ModelArguments(attn_implementation="flex_attention"))
