"""Packed rows that leave out what nobody reads have the loss and the gradient of stock SDPA over the whole row."""

from contextlib import nullcontext

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hfcap.models import HfcapLlavaForConditionalGeneration
from hfcap.models.attention import PACKED_SDPA, uses_packed_sdpa
from hfcap.models.model_types import PACKABLE_DECODERS
from hfcap.training.loss import token_loss
from hfcap.training.model_inputs import model_inputs
from hfcap.training.packing import PackedRows, pack_references, packed_attention_mask, pad_rows, shared_prefix
from tiny.parts import BOS, EOS, IMAGE_ID, PAD, build_encoder, build_llava, enlarge_new_parts, random_images

# Prompts of two lengths, one to three references, so that some rows are padded.
ROWS = (([7], [[8, 9, 10, EOS], [11, EOS]]), ([12, 13, 14], [[15, EOS]]), ([7], [[16, 17, EOS], [18, EOS], [EOS]]))
IMAGE_TOKENS = 16
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
OPT = {"word_embed_proj_dim": 32, "ffn_dim": 64, "dropout": 0.0}
GPT2 = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
LLAMA = {"num_key_value_heads": 2, "intermediate_size": 64, "head_dim": 8}
# A GPT-2 has no `mlp` of Llama's kind of layer list, an OPT no `mlp`: they compute the whole last layer.
OTHERS = {"opt": OPT, "gpt2": GPT2}


def build(decoder):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        decoder,
        **SIZES,
        **OTHERS.get(decoder, LLAMA),
        vocab_size=48,
        initializer_range=0.2,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    language_model = AutoModelForCausalLM.from_config(config)
    model = HfcapLlavaForConditionalGeneration.from_parts(build_encoder("vit"), language_model, IMAGE_ID)
    return enlarge_new_parts(model).train()


def build_batch():
    prefix = [BOS] + [IMAGE_ID] * IMAGE_TOKENS
    batch = pad_rows([pack_references(prefix + prompt, targets) for prompt, targets in ROWS], pad_token_id=PAD)
    return batch | {"pixel_values": random_images(len(ROWS))}


def one_step(model, context):
    """Loss, gradients, rows of the mask, and positions that the last layer's down projection saw."""
    model.zero_grad()
    last = getattr(model.model.language_model, "layers", [None])[-1]
    seen = []
    if hasattr(last, "mlp"):
        hook = last.mlp.down_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    with context(model):
        inputs = model_inputs(build_batch(), model)
        labels = inputs.pop("labels")
        loss = token_loss(model(**inputs), labels)
        loss.backward()
    if hasattr(last, "mlp"):
        hook.remove()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), gradients, inputs["attention_mask"].shape[2], set(seen)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("decoder", PACKABLE_DECODERS)
def test_loss_and_gradient_are_those_of_stock_sdpa(decoder, checkpointing):
    model = build(decoder)
    if checkpointing:
        # Renamed in transformers 5.23.
        (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    length = build_batch()["input_ids"].shape[1]
    causal = 1 + IMAGE_TOKENS + min(len(prompt) for prompt, _ in ROWS) - 1  # the last prefix token opens references
    loss, gradients, mask_rows, seen = one_step(model, lambda _: nullcontext())
    packed_loss, packed_gradients, packed_mask_rows, packed_seen = one_step(model, uses_packed_sdpa)
    assert packed_loss == pytest.approx(loss, rel=1e-6)
    assert packed_gradients.keys() == gradients.keys()
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    for name, gradient in gradients.items():  # of some biases of keys it is zero but for rounding
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-5, atol=1e-6 * largest, msg=name)
    assert (mask_rows, packed_mask_rows) == (length, length - causal)
    if decoder not in OTHERS:
        assert (seen, packed_seen) == ({length}, {length - causal})


def test_the_model_is_as_before_afterwards():
    model = build_llava()
    with pytest.raises(RuntimeError, match="on purpose"), uses_packed_sdpa(model):
        assert model.config.text_config._attn_implementation == PACKED_SDPA
        raise RuntimeError("on purpose")
    assert model.config.text_config._attn_implementation == "sdpa"
    layer = model.model.language_model.layers[-1]
    assert not hasattr(layer.self_attn, "prefix_is_unread")
    assert not layer._forward_pre_hooks
    assert not layer.mlp._forward_pre_hooks
    assert not layer.mlp._forward_hooks


@torch.no_grad()
def test_captions_within_it_are_stock():
    model = build_llava()
    inputs = {"input_ids": build_batch()["input_ids"][:1, :18], "pixel_values": random_images(1)}
    settings = {"do_sample": False, "max_new_tokens": 8, "num_beams": 3}
    expected = model.generate(**inputs, **settings)
    with uses_packed_sdpa(model):
        assert torch.equal(model.generate(**inputs, **settings), expected)


def test_the_mask_of_the_last_queries_is_that_of_all_without_the_first():
    batch = build_batch()
    rows = PackedRows(batch["segment_ids"], batch["image_ids"])
    first = shared_prefix(rows.segment_ids)
    assert first == 1 + IMAGE_TOKENS
    whole = packed_attention_mask(rows)
    assert torch.equal(packed_attention_mask(rows, first_query=first), whole[:, :, first:])
