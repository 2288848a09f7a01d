"""Several captions of one picture in one row equal separate rows, in both families and on both attention backends."""

import pytest
import torch

from tiny.parts import (
    BOS,
    BRIDGE,
    DECODER_CONFIGS,
    IMAGE_ID,
    LANGUAGE_MODEL_CONFIGS,
    build_encoder_decoder,
    build_llava,
    random_images,
    random_words,
)

LENGTHS = (5, 3, 4)
BACKENDS = ["sdpa", "eager"]


def build_segments(prefix_length):
    """Segment 0 is the shared prefix, 1, 2, ... are the captions; (1, L) segments and positions."""
    segments = [0] * prefix_length
    positions = list(range(prefix_length))
    for segment, length in enumerate(LENGTHS, start=1):
        segments += [segment] * length
        positions += range(prefix_length, prefix_length + length)
    return torch.tensor([segments]), torch.tensor([positions])


def build_mask(segments):
    """(1, 1, L, L) bool: each token sees the prefix and its own segment, up to itself."""
    length = segments.shape[1]
    query, key = segments[:, :, None], segments[:, None, :]
    mask = ((query == key) | (key == 0)) & torch.ones(length, length, dtype=torch.bool).tril()
    return mask[:, None]


def as_additive(mask):
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("language_model", LANGUAGE_MODEL_CONFIGS)
@torch.no_grad()
def test_packed_llava_row_equals_separate_rows(language_model, backend):
    model, images = build_llava("vit", language_model), random_images(1)
    model.set_attn_implementation(backend)
    prefix = torch.tensor([[BOS] + [IMAGE_ID] * model.config.image_seq_length + [7]])
    captions = random_words(1, sum(LENGTHS)).split(LENGTHS, dim=1)
    segments, position_ids = build_segments(prefix.shape[1])
    mask = build_mask(segments)
    inputs = {"input_ids": torch.cat([prefix, *captions], dim=1), "pixel_values": images, "position_ids": position_ids}
    packed = model(**inputs, attention_mask=mask).logits
    torch.testing.assert_close(model(**inputs, attention_mask=as_additive(mask)).logits, packed)
    start = prefix.shape[1]
    for caption in captions:
        separate = model(input_ids=torch.cat([prefix, caption], dim=1), pixel_values=images).logits
        end = start + caption.shape[1]
        torch.testing.assert_close(packed[:, start:end], separate[:, prefix.shape[1] :], atol=1e-5, rtol=1e-5)
        start = end
    causal = model(input_ids=inputs["input_ids"], pixel_values=images).logits
    assert (causal - packed).abs().max() > 0.01  # the mask matters, else the comparison proves nothing


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("decoder", DECODER_CONFIGS)
@torch.no_grad()
def test_packed_decoder_row_equals_separate_rows(decoder, backend):
    model, images = build_encoder_decoder("vit", decoder, **BRIDGE), random_images(1)
    model.set_attn_implementation(backend)
    captions = random_words(1, sum(LENGTHS)).split(LENGTHS, dim=1)
    segments, position_ids = build_segments(0)
    mask = build_mask(segments)
    keep = segments != 2
    inputs = {
        "decoder_input_ids": torch.cat(captions, dim=1),
        "pixel_values": images,
        "decoder_position_ids": position_ids,
    }
    packed = model(**inputs, decoder_attention_mask=mask).logits
    torch.testing.assert_close(model(**inputs, decoder_attention_mask=as_additive(mask)).logits, packed)
    kept = model(**inputs, decoder_attention_mask=mask, decoder_logits_to_keep=keep).logits
    torch.testing.assert_close(kept, packed[keep])
    start = 0
    for caption in captions:
        separate = model(decoder_input_ids=caption, pixel_values=images).logits
        end = start + caption.shape[1]
        torch.testing.assert_close(packed[:, start:end], separate, atol=1e-5, rtol=1e-5)
        start = end
    causal = model(decoder_input_ids=inputs["decoder_input_ids"], pixel_values=images).logits
    assert (causal - packed).abs().max() > 0.01


@pytest.mark.parametrize("encoder", ["vit", "siglip", "dinov2"])
@pytest.mark.parametrize("family", ["llava", "encoder_decoder"])
@torch.no_grad()
def test_sdpa_equals_eager(family, encoder):
    if family == "llava":
        model = build_llava(encoder)
        head = torch.tensor([[BOS] + [IMAGE_ID] * model.config.image_seq_length])
        inputs = {"input_ids": torch.cat([head, random_words(1, 5)], dim=1)}
    else:
        model = build_encoder_decoder(encoder, **BRIDGE)
        inputs = {"decoder_input_ids": random_words(1, 5)}
    logits = []
    for backend in BACKENDS:
        model.set_attn_implementation(backend)
        # Attention layers read the backend from the config object they were built with.
        parts = [module.config for module in model.modules() if hasattr(module, "config")]
        assert {config._attn_implementation for config in parts} == {backend}
        logits.append(model(**inputs, pixel_values=random_images(1)).logits)
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)
