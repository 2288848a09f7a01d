"""What is frozen stays in eval(), BatchNorm always does, and activation checkpointing changes no gradient."""

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from tiny.parts import (
    BOS,
    BRIDGE,
    ENCODER_CONFIGS,
    IMAGE_ID,
    build_encoder_decoder,
    build_llava,
    random_images,
    random_words,
)

FAMILIES = ["llava", "encoder_decoder"]


def build(family, encoder="mobilenet_v2", text=None):
    if family == "llava":
        return build_llava(encoder, text or "llama")
    return build_encoder_decoder(encoder, text or "gpt2", **BRIDGE)


def enable_checkpointing(model):
    # The second is the name before transformers 5.23.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def compute_loss(model, seed=0):
    torch.manual_seed(seed)  # the same dropout
    if hasattr(model, "lm_head"):
        head = torch.tensor([[BOS] + [IMAGE_ID] * model.config.image_seq_length])
        input_ids = torch.cat([head.expand(2, -1), random_words(2, 5)], dim=1)
        labels = input_ids.masked_fill(input_ids == IMAGE_ID, -100)
        return model(input_ids=input_ids, pixel_values=random_images(2), labels=labels).loss
    return model(pixel_values=random_images(2), labels=random_words(2, 5)).loss


@pytest.mark.parametrize("is_frozen", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_batchnorm_never_drifts(family, is_frozen):
    model = build(family)
    encoder = model.model.vision_tower if family == "llava" else model.encoder
    encoder.requires_grad_(not is_frozen)
    norms = [module for module in encoder.modules() if isinstance(module, _BatchNorm)]
    assert len(norms) > 10
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    assert not any(norm.training for norm in norms)
    loss = compute_loss(model)
    loss.backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    has_gradient = any(parameter.grad is not None for parameter in encoder.parameters())
    assert has_gradient != is_frozen
    # Without the rule they do drift: the check above can fail.
    torch.nn.Module.train(encoder)
    compute_loss(model)
    assert not all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_modules_stay_in_eval(family):
    model = build(family, "vit")
    text = model.model.language_model if family == "llava" else model.decoder
    text.requires_grad_(False)
    model.train()
    assert model.training
    assert not any(module.training for module in text.modules())
    trained = model.model.vision_tower if family == "llava" else model.encoder
    assert all(module.training for module in trained.modules() if list(module.parameters()))
    # One trained weight inside wakes the modules around it, not their frozen neighbours.
    last = list(text.parameters())[-1]
    last.requires_grad_(True)
    model.train()
    assert text.training
    frozen = [module for module in text.modules() if list(module.parameters()) and not _has_trained(module)]
    assert frozen
    assert not any(module.training for module in frozen)
    model.eval()
    assert not any(module.training for module in model.modules())


def _has_trained(module):
    return any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_follows_the_module_it_stands_in(family):
    model = build(family, "vit", "gpt2").train()
    text = model.model.language_model if family == "llava" else model.decoder
    dropouts = [module for module in text.modules() if isinstance(module, torch.nn.Dropout)]
    assert dropouts
    assert all(module.training for module in dropouts)
    text.requires_grad_(False)
    model.train()
    assert not any(module.training for module in dropouts)


@pytest.mark.parametrize("encoder", ENCODER_CONFIGS)
@pytest.mark.parametrize(("family", "text"), [("llava", "llama"), ("encoder_decoder", "gpt2")])
def test_activation_checkpointing_changes_no_gradient(family, text, encoder):
    gradients = []
    for is_checkpointed in (False, True):
        model = build(family, encoder, text)
        if is_checkpointed:
            enable_checkpointing(model)
        model.train()
        compute_loss(model).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    plain, checkpointed = gradients
    assert sum(gradient is not None for gradient in plain.values()) > 10
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("family", "text"), [("llava", "qwen3"), ("llava", "gpt2"), ("encoder_decoder", "bert")])
def test_activation_checkpointing_of_the_other_decoders(family, text):
    test_activation_checkpointing_changes_no_gradient(family, text, "vit")


def test_bridge_layers_are_checkpointed(monkeypatch):
    model = build("encoder_decoder", "vit").train()
    enable_checkpointing(model)
    calls = []
    for layer in model.bridge_layers:
        checkpoint = layer._gradient_checkpointing_func
        monkeypatch.setattr(
            layer, "_gradient_checkpointing_func", lambda *args, run=checkpoint: calls.append(1) or run(*args)
        )
    compute_loss(model).backward()
    assert len(calls) == len(model.bridge_layers) == 2
