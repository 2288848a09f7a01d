"""Packed rows whose prefix has positions in three dimensions or is read in both directions, against stock forwards.

What is expected comes from the stock class alone: one picture and one reference at a time, with the positions, the
mask and the loss of its own. No processor takes part, so that these tests need no torchvision.
"""

from types import SimpleNamespace

import pytest
import torch

from hfcap.models.attention import uses_packed_sdpa
from hfcap.models.model_types import is_packable
from hfcap.training.arguments import ModelArguments
from hfcap.training.build import choose_kernels
from hfcap.training.collators import CaptionCollator
from hfcap.training.loss import token_loss
from hfcap.training.model_inputs import model_inputs
from hfcap.training.throughput import count_batch
from refusals import refused
from tiny.parts import PAD
from tiny.prefixes import CONFIGS, TARGETS, build_prefixed, prefixes_of


def collator_of(model):
    tokenizer = SimpleNamespace(pad_token_id=PAD, get_added_vocab=dict)
    return CaptionCollator(SimpleNamespace(tokenizer=tokenizer), model.config)


def gradients_of(model):
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return gradients


def stock_step(model, spec):
    """Loss and gradients of the stock class."""
    count = sum(len(target) for targets in TARGETS for target in targets)
    total = 0.0
    for prefix, targets in zip(prefixes_of(model), TARGETS, strict=True):
        for target in targets:
            types = prefix.token_types + [spec.caption_token_type] * len(target)
            inputs = {"input_ids": prefix.input_ids + target, spec.token_types: types}
            inputs = {name: torch.tensor([ids]) for name, ids in inputs.items()}
            labels = torch.tensor([[-100] * len(prefix.input_ids) + target])
            loss = model(**inputs, **prefix.vision, labels=labels).loss * len(target) / count
            loss.backward()
            total += loss.item()
    return total, gradients_of(model)


def packed_step(model, images_a_row):
    batch = collator_of(model).collate(prefixes_of(model), TARGETS, images_a_row)
    inputs = model_inputs(batch, model)
    labels = inputs.pop("labels")
    loss = token_loss(model(**inputs), labels)
    loss.backward()
    return loss.item(), gradients_of(model)


@pytest.mark.parametrize("attention", ["sdpa", "packed sdpa", "packed sdpa, checkpointing", "eager"])
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_every_gradient_are_those_of_stock_forwards(name, attention):
    model = build_prefixed(name).train()
    expected, separate = stock_step(model, collator_of(model).spec)
    if attention == "eager":
        model.set_attn_implementation("eager")  # else SDPA, where the type has it
    if "checkpointing" in attention:
        # Renamed in transformers 5.23.
        (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    for images_a_row in (None, [2, 1]):
        if "packed" in attention:
            with uses_packed_sdpa(model):
                loss, packed = packed_step(model, images_a_row)
        else:
            loss, packed = packed_step(model, images_a_row)
        assert loss == pytest.approx(expected, rel=1e-5)
        assert packed.keys() == separate.keys()
        # The bias of keys has a gradient of zero, and noise instead: compare that with the others.
        floor = 1e-3 * max(gradient.norm() for gradient in separate.values())
        for parameter, gradient in separate.items():
            assert (packed[parameter] - gradient).norm() <= 1e-5 * max(gradient.norm(), floor), parameter


def test_the_end_of_a_prefix_does_not_count_as_a_caption():
    model = build_prefixed("paligemma")
    batch = collator_of(model).collate(prefixes_of(model), TARGETS, [2, 1])
    captions, images, tokens, _ = count_batch(batch).tolist()
    assert (captions, images) == (10, 3)
    targets = sum(len(target) for references in TARGETS for target in references)
    assert tokens == targets + sum(len(prefix.input_ids) for prefix in prefixes_of(model))


def test_a_window_shorter_than_a_row_is_refused_where_all_layers_share_a_mask():
    model = build_prefixed("paligemma 2")
    model.config.text_config.sliding_window = 21
    prefix, targets = prefixes_of(model)[2], TARGETS[2]  # 19 tokens, and 5 of the longest reference
    with refused(option="prompt", says=("23 positions", "window of 21", "max_caption_tokens")):
        model_inputs(collator_of(model).collate([prefix], [targets]), model)
    model_inputs(collator_of(model).collate([prefix], [targets[:2]]), model)


def test_a_picture_that_fills_the_window_is_not_packed_and_has_the_stock_loss():
    """PaliGemma 2 with pictures of 896 pixels."""
    model = build_prefixed("paligemma 2")
    model.config.text_config.sliding_window = 16
    assert not is_packable(model.config)
    expected, _ = stock_step(model, collator_of(model).spec)
    loss, _ = packed_step(model, None)
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", [name for name in CONFIGS if not name.startswith("qwen")])
@torch.no_grad()
def test_flex_attention_gives_the_same_logits(name):
    """Uncompiled, and forward alone: there is no backward of it on a CPU."""
    model = build_prefixed(name).eval()
    batch = collator_of(model).collate(prefixes_of(model), TARGETS, [2, 1])
    logits = []
    for attention in (None, "flex_attention"):
        if attention is not None:
            model.set_attn_implementation({"text_config": attention})
        with torch.compiler.set_stance("force_eager"):
            inputs = model_inputs(batch, model)
            del inputs["labels"]
            logits.append(model(**inputs).logits)
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_flex_attention_is_refused_where_transformers_does_not_have_it(name):
    with refused(option="attn_implementation", got="flex_attention", says=(name, "transformers")):
        choose_kernels(build_prefixed(name), ModelArguments(attn_implementation="flex_attention"))
