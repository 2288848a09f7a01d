"""What a training step needs, counted in one forward pass, against counts by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.generation.loading import load_captioner
from hfcap.training.collators import CaptionCollator
from hfcap.training.flops import needed_flops
from hfcap.training.loss import token_loss
from hfcap.training.model_inputs import model_inputs
from hfcap.training.strategies import apply_strategy
from hfcap.training.throughput import measure_matmul


def forward_of(model, processor, rows):
    """A batch of four pictures, and what runs the model on it."""
    batch = CaptionCollator(processor, model.config, "caption")([CaptionDataset(rows)[i] for i in range(4)])

    def forward():
        inputs = model_inputs(batch, model)
        del inputs["labels"]
        model(**inputs)

    return batch, forward


def flops_by_hand(model, batch, encoder_times, text_times, projector_times):
    """Of `build_tiny`'s LLaVA-style captioner, for rows of one image each.

    The encoder's share is what is left when it is run alone under PyTorch's own counter.
    """
    pixels, config = batch["pixel_values"], model.config.text_config
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.get_vision_features(pixels)
    encoder = counter.get_total_flops()
    width, features = config.hidden_size, model.config.image_seq_length * len(pixels)
    projector = sum(2 * layer.weight.numel() * features for layer in linear_layers(model.model.multi_modal_projector))
    is_token = batch["segment_ids"] >= 0
    layers = sum(2 * layer.weight.numel() for layer in linear_layers(model.model.language_model)) * is_token.numel()
    head = 2 * config.vocab_size * width * int((batch["shift_labels"] != -100).sum())
    # A token sees its prefix and its own reference up to itself, so as many keys as its position says; padding sees
    # the padding before it.
    keys = int((batch["position_ids"] + 1)[is_token].sum())
    keys += sum(n * (n + 1) // 2 for n in (~is_token).sum(dim=1).tolist())
    attention = config.num_hidden_layers * 4 * width * keys
    return encoder_times * encoder + projector_times * projector + text_times * (layers + head) + 3 * attention


def linear_layers(module):
    return [part for part in module.modules() if isinstance(part, nn.Linear)]


@pytest.mark.parametrize(
    ("strategy", "times", "tolerance"),
    [
        ("full", (3, 3, 3), 1e-6),
        ("frozen_encoder", (1, 3, 3), 1e-6),
        # The share of what trains is one of parameters, and the projector runs on fewer positions than its share.
        ("projector", (1, 2, 3), 0.1),
    ],
)
def test_needed_flops_are_those_counted_by_hand(build_tiny, scene_rows, strategy, times, tolerance):
    model, processor = build_tiny("llava")
    batch, forward = forward_of(model, processor, scene_rows)
    found = needed_flops(apply_strategy(model, strategy), forward)
    assert found == pytest.approx(flops_by_hand(model, batch, *times), rel=tolerance)


def test_layers_in_4_bits_need_what_others_do(build_tiny, scene_rows, tmp_path):
    for part in build_tiny("llava"):
        part.save_pretrained(tmp_path)
    found = {}
    for strategy in ("lora", "qlora"):
        model, processor = load_captioner(str(tmp_path), load_in_4bit=strategy == "qlora")
        model = apply_strategy(model, strategy, lora_r=4)
        _, forward = forward_of(model, processor, scene_rows)
        found[strategy] = needed_flops(model, forward)
    assert found["qlora"] == pytest.approx(found["lora"], rel=1e-6)


def test_a_projector_inside_a_frozen_encoder_does_not_count_as_encoder():
    """Qwen-VL's merger."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"vision_start_token_id": 90, "vision_end_token_id": 91, "image_token_id": 92, "video_token_id": 93}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 8}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    text = {"model_type": "qwen2_5_vl_text", "num_key_value_heads": 2, "vocab_size": 100, "rope_parameters": rope}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = Qwen2_5_VLConfig(vision_config=vision | {"out_hidden_size": 32}, text_config=sizes | text, **ids)
    model = AutoModelForImageTextToText.from_config(config)
    patches = 16
    input_ids = torch.tensor([[5, 90] + [92] * (patches // 4) + [91, 6, 7, 8]])
    pictures = {"pixel_values": torch.randn(patches, 3 * 2 * 8 * 8), "image_grid_thw": torch.tensor([[1, 4, 4]])}
    inputs = pictures | {"input_ids": input_ids, "mm_token_type_ids": (input_ids == 92).long()}
    found = {}
    for strategy in ("full", "frozen_encoder"):
        apply_strategy(model, strategy)
        found[strategy] = needed_flops(model, lambda: model(**inputs))
    visual = model.model.visual
    model.set_attn_implementation("eager")  # which PyTorch's own counter sees on a CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        visual(pictures["pixel_values"], grid_thw=pictures["image_grid_thw"])
    merger = sum(2 * layer.weight.numel() * patches // 4 for layer in linear_layers(visual.merger))
    assert found["full"] - found["frozen_encoder"] == pytest.approx(2 * (counter.get_total_flops() - merger), rel=1e-6)


def test_flex_attention_needs_what_sdpa_does(build_tiny, scene_rows):
    model, processor = build_tiny("llava")
    _, forward = forward_of(model, processor, scene_rows)
    expected = needed_flops(model, forward)
    model.set_attn_implementation({"text_config": "flex_attention"})
    assert needed_flops(model, forward) == expected
    assert model.config.text_config._attn_implementation == "flex_attention"


@pytest.mark.parametrize("family", ["llava", "encoder_decoder"])
def test_counting_changes_nothing(build_tiny, scene_rows, family):
    """Else a resumed run, whose first batch is counted, would not go on bit for bit."""
    weights = []
    for is_counted in (False, True):
        model, processor = build_tiny(family)
        collator = CaptionCollator(processor, model.config, "caption" if family == "llava" else None)
        inputs = model_inputs(collator([CaptionDataset(scene_rows)[i] for i in range(4)]), model.train())
        labels = inputs.pop("labels")

        torch.manual_seed(1)
        if is_counted:
            measure_matmul(torch.device("cpu"), torch.float32)
            needed_flops(model, lambda model=model, inputs=inputs: model(**inputs))
        hidden = torch.nn.functional.dropout(model(**inputs).logits, 0.1)
        token_loss(SimpleNamespace(logits=hidden), labels).backward()
        weights.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))
