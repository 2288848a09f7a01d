"""The table of what works with what: its tests exist, its page is current, and what it lacks is refused."""

import json
from pathlib import Path

import pytest
import torch

from hfcap.errors import ConfigError
from hfcap.training.arguments import ModelArguments
from hfcap.training.build import choose_kernels
from hfcap.training.compatibility import SUPPORT, UNTESTED, check_supported, current_backend, support_table
from native_models import build_native

ROOT = Path(__file__).parents[2]


def test_every_cell_names_a_test_that_exists():
    for cells in SUPPORT.values():
        for cell in cells.values():
            assert cell == UNTESTED or (ROOT / cell).is_file(), cell


def test_the_page_shows_the_table_as_it_is():
    assert support_table() in (ROOT / "docs" / "compatibility.md").read_text()


def test_qlora_on_fsdp_is_refused_before_anything_loads():
    with pytest.raises(ConfigError, match=r"'qlora' of hfcap_llava is not offered on fsdp: use one of single, ddp"):
        check_supported(ModelArguments(strategy="qlora"), "hfcap_llava", "fsdp")


@pytest.mark.parametrize(
    ("environment", "backend"),
    [
        ({}, "single"),
        ({"WORLD_SIZE": "2"}, "ddp"),
        ({"ACCELERATE_USE_FSDP": "true", "WORLD_SIZE": "2"}, "fsdp"),
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
