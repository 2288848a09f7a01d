"""A merge is base + adapter, tensor by tensor, or it is refused by name."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hfcap.errors import VerificationError
from hfcap.generation.loading import load_captioner
from hfcap.training.merge import check_merge, load_base, merge_adapter, read_adapter
from hfcap.training.strategies import apply_strategy
from refusals import refused
from tiny.captioners import build_joined, captions_of

QUERY = "model.language_model.layers.0.self_attn.q_proj.weight"
PROJECTOR = "model.multi_modal_projector.linear_1.weight"


@pytest.fixture(scope="module")
def folders(tmp_path_factory, scene_rows):
    """A base, and an adapter for it whose trainable weights were moved at random."""
    base, adapter = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("adapter")
    model, processor = build_joined("llava", captions_of(scene_rows))
    for part in (model, processor):
        part.save_pretrained(base)
    torch.manual_seed(0)
    model = apply_strategy(model, "lora", lora_r=4, lora_alpha=8)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    for part in (model, processor):
        part.save_pretrained(adapter)
    return base, adapter


@pytest.fixture
def states(folders):
    """State dicts of base and merge, each its own copy, and the adapter."""
    base, adapter = folders
    before = load_base(str(base)).state_dict()
    after = merge_adapter(str(base), adapter).state_dict()
    return before, {name: tensor.clone() for name, tensor in after.items()}, read_adapter(adapter)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_right_merge_passes(states, dtype):
    before, after, adapter = states
    assert len(adapter.lora) == 14
    assert PROJECTOR in adapter.saved
    check_merge(before, {name: tensor.to(dtype) for name, tensor in after.items()}, adapter)


def test_a_merge_with_another_scale_is_refused(states):
    before, after, adapter = states
    after[QUERY] = before[QUERY] + 1.01 * (after[QUERY] - before[QUERY])
    with pytest.raises(VerificationError, match=r"q_proj\.weight is not W \+ 2 B A: off by up to"):
        check_merge(before, after, adapter)


def test_an_adapter_that_was_not_applied_is_named(states):
    before, _, adapter = states
    with pytest.raises(VerificationError, match=r"k_proj\.weight is as before the merge.*and 13 more|and 11 more"):
        check_merge(before, before, adapter)


def test_a_projector_that_was_not_taken_over_is_named(states):
    before, after, adapter = states
    with pytest.raises(VerificationError, match=r"linear_1\.weight is not the adapter's, it is the base's"):
        check_merge(before, after | {PROJECTOR: before[PROJECTOR]}, adapter)


def test_a_tensor_that_should_have_stayed_is_named(states):
    before, after, adapter = states
    name = "model.language_model.norm.weight"
    with pytest.raises(VerificationError, match=f"{name} changed, and the adapter does not adapt it"):
        check_merge(before, after | {name: after[name] + 1e-3}, adapter)
    del after[name]
    with pytest.raises(VerificationError, match=f"{name} is in one of base and merge only"):
        check_merge(before, after, adapter)


@pytest.mark.parametrize("lost", ["multi_modal_projector", "layers.0.self_attn.q_proj.lora_B"])
def test_an_adapter_that_is_not_whole_is_refused(folders, tmp_path, lost):
    adapter = shutil.copytree(folders[1], tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor for name, tensor in tensors.items() if lost not in name}, file)
    part = "q_proj.weight" if "q_proj" in lost else lost
    with refused(VerificationError, option="adapter", got=str(adapter), says=(part, "missing")):
        merge_adapter(str(folders[0]), adapter)


@pytest.mark.parametrize("setting", [{"use_dora": True}, {"rank_pattern": {"q_proj": 8}}, {"peft_type": "IA3"}])
def test_an_adapter_of_another_kind_is_refused(folders, tmp_path, setting):
    adapter = shutil.copytree(folders[1], tmp_path / "adapter")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | setting))
    ((option, got),) = setting.items()
    with refused(option=option, got=got):
        merge_adapter(str(folders[0]), adapter)


def test_rank_stabilised_lora_has_its_own_scale(folders, tmp_path):
    adapter = shutil.copytree(folders[1], tmp_path / "adapter")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_rslora": True}))
    assert read_adapter(adapter).scale == 4.0
    merge_adapter(str(folders[0]), adapter)  # checks PEFT's merge against that scale


def test_a_base_that_is_gone_or_quantised_is_refused_with_the_fix(folders, tmp_path):
    with refused(option="base of the adapter", got="nowhere/base", says="pass --base_model"):
        merge_adapter("nowhere/base", folders[1])
    base = shutil.copytree(folders[0], tmp_path / "base")
    file = base / "config.json"
    settings = json.loads(file.read_text()) | {"quantization_config": {"quant_method": "bitsandbytes"}}
    file.write_text(json.dumps(settings))
    with refused(option="base of the adapter", got=str(base), says=("quantized", "--base_model")):
        merge_adapter(str(base), folders[1])


def test_a_merge_can_be_saved_and_loaded(folders, tmp_path):
    merged = merge_adapter(*map(str, folders), tmp_path / "merged")
    loaded, _ = load_captioner(str(tmp_path / "merged"))
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)
