"""Exactly the parameters and buffers meant to change do."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from hfcap.errors import VerificationError
from hfcap.generation import loading
from hfcap.generation.loading import load_captioner
from hfcap.models.model_types import MODEL_TYPES
from hfcap.models.quantization import four_bit_config
from hfcap.training.collators import CaptionCollator
from hfcap.training.merge import merge_adapter
from hfcap.training.strategies import (
    TRAINED_PARTS,
    apply_strategy,
    check_only_lm_is_four_bit,
    four_bit_parts,
    parameter_table,
    part_of,
)
from refusals import refused
from tiny.training import make_trainer

FACTS_OF = {"llava": MODEL_TYPES["hfcap_llava"], "encoder_decoder": MODEL_TYPES["hfcap_encoder_decoder"]}


def train(model, processor, rows, tmp_path, **arguments):
    settings = {"per_device_train_batch_size": 8, "max_steps": 2, "learning_rate": 1e-2} | arguments
    trainer = make_trainer(model, CaptionCollator(processor, model.config), rows, tmp_path / "run", **settings)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("family", "strategy"),
    [
        ("llava", "full"),
        ("llava", "frozen_encoder"),
        ("llava", "projector"),
        ("encoder_decoder", "full"),
        ("encoder_decoder", "frozen_encoder"),
    ],
)
def test_the_trained_parts_change_and_no_others(build_tiny, scene_rows, tmp_path, family, strategy):
    model, processor = build_tiny(family)
    model = apply_strategy(model, strategy)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, processor, scene_rows, tmp_path)
    # ConvNeXt normalises its pooled output, which the captioner does not read.
    unread = tuple(f"{tower}.layernorm.{kind}" for tower in ("vision_tower", "encoder") for kind in ("weight", "bias"))
    for name, tensor in model.state_dict().items():
        should_change = part_of(name, FACTS_OF[family]) in TRAINED_PARTS[strategy] and not name.endswith(unread)
        assert torch.equal(tensor, before[name]) != should_change, name


def test_lora_trains_its_matrices_and_the_projector(build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("llava")
    model = apply_strategy(model, "lora", lora_r=4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, processor, scene_rows, tmp_path)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    expected = {name for name in before if "lora_" in name or "modules_to_save.default" in name}
    assert changed == expected


def test_qlora_quantises_the_language_model_alone(four_bit_model):
    model, _ = four_bit_model
    check_only_lm_is_four_bit(model)
    assert set(four_bit_parts(model)) == {"lm"}
    assert model.model.multi_modal_projector.linear_1.weight.dtype == torch.float32


def test_what_qlora_trains_is_float32_where_4_bit_layers_compute_in_bfloat16(
    build_tiny, scene_rows, tmp_path, monkeypatch
):
    """As on a GPU: a projector of bfloat16 would lose the small updates."""
    model, processor = build_tiny("llava")
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    monkeypatch.setattr(loading, "compute_dtype", lambda: torch.bfloat16)
    model, processor = load_captioner(str(tmp_path / "base"), load_in_4bit=True)
    layer = model.model.language_model.layers[0].mlp.up_proj
    assert (type(layer).__name__, layer.compute_dtype) == ("Linear4bit", torch.bfloat16)
    model = apply_strategy(model, "qlora", lora_r=4)
    trained = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    assert any("multi_modal_projector" in name for name in trained)
    assert set(trained.values()) == {torch.float32}
    # Under autocast, as a GPU trains, and without it, as it captions.
    trainer = train(model, processor, scene_rows, tmp_path, precision="bfloat16", max_steps=1)
    assert trainer.evaluate()["eval_loss"] > 0


def test_a_wrong_skip_list_is_found(build_tiny, tmp_path):
    model, processor = build_tiny("llava")
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    wrong = four_bit_config(FACTS_OF["llava"], torch.float32)
    wrong.llm_int8_skip_modules = ["vision_tower", "multi_modal_projector", "lm_head"]
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "base", quantization_config=wrong)
    with pytest.raises(RuntimeError, match="in the projector"):
        check_only_lm_is_four_bit(model)


def test_qlora_trains_saves_merges_and_reloads(four_bit_model, scene_rows, tmp_path):
    model, processor = four_bit_model
    model = apply_strategy(model, "qlora", lora_r=4)
    processor.caption_prompt = "alt text"
    trainer = train(model, processor, scene_rows, tmp_path)
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    trainer.save_model(str(adapter))

    # The adapter on the same 4-bit base is the trained model again.
    batch = CaptionCollator(processor, model.config)(
        [{"image": r["image"], "captions": r["captions"]} for r in scene_rows.select([0])]
    )
    inputs = {key: batch[key] for key in ("input_ids", "position_ids", "pixel_values")}
    reloaded, _ = load_captioner(str(adapter), load_in_4bit=True)
    with torch.no_grad():
        expected = model.eval()(**inputs).logits
        torch.testing.assert_close(reloaded.eval()(**inputs).logits, expected)
        # The merge is onto the original weights: near the 4-bit model, and not the base.
        merge_adapter(str(tmp_path / "base"), adapter, merged)
        merged_model, _ = load_captioner(str(merged))
        base, _ = load_captioner(str(tmp_path / "base"))
        from_merged = (merged_model.eval()(**inputs).logits - expected).abs().mean()
        from_base = (base.eval()(**inputs).logits - expected).abs().mean()
    assert from_merged < 0.5 * from_base
    merged_processor = load_captioner(str(merged))[1]
    assert merged_processor.caption_prompt == processor.caption_prompt == "alt text"
    assert not list(merged.glob("adapter*")), "an adapter beside merged weights would be applied twice"


def test_an_untrained_adapter_is_not_merged(four_bit_model, tmp_path):
    model, _ = four_bit_model
    apply_strategy(model, "qlora", lora_r=4).save_pretrained(tmp_path / "adapter")
    four_bit_model[1].save_pretrained(tmp_path / "adapter")
    with refused(VerificationError, option="adapter", got=str(tmp_path / "adapter"), says="zero"):
        merge_adapter(str(tmp_path / "base"), tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("encoder_rate", [1e-5, 0.0])
def test_each_part_has_its_learning_rate(build_tiny, scene_rows, tmp_path, encoder_rate):
    model, processor = build_tiny("llava")
    trainer = train(
        model,
        processor,
        scene_rows,
        tmp_path,
        encoder_learning_rate=encoder_rate,
        projector_learning_rate=1e-3,
        lr_scheduler_type="constant",
    )
    rates = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    expected = {"encoder": encoder_rate, "projector": 1e-3, "lm": 1e-2}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == expected[part_of(name, FACTS_OF["llava"])], name


def test_the_table_counts_four_bit_weights_in_full(build_tiny, four_bit_model):
    counts = [line.split()[1] for line in parameter_table(build_tiny("llava")[0]).splitlines()]
    assert [line.split()[1] for line in parameter_table(four_bit_model[0]).splitlines()] == counts
