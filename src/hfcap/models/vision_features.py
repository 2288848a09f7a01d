"""Features of a frozen encoder outside of the model: extraction, and input in place of pixels.

hfcap's own models take such features as `vision_features`. Native ones know pixels alone, and what transformers calls
`mm_encoder_outputs` comes from behind the projector, which trains. So features are given to them as `pixel_values`, of
shape (B, N, D), and the encoder hands them through. All else is the model's own code, in training and in `generate`.
"""

from collections.abc import Mapping
from functools import wraps

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hfcap.errors import ConfigError
from hfcap.models.model_types import spec_of

ENCODER_NAMES = ("vision_tower", "vision_model", "encoder")


def find_encoder(model: nn.Module) -> nn.Module:
    """Return the vision encoder inside a captioner, under PEFT as well."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for owner in (base, getattr(base, "model", None)):
        for name in ENCODER_NAMES:
            if isinstance(getattr(owner, name, None), nn.Module):
                return getattr(owner, name)
    raise ValueError(f"{type(model).__name__} has no vision encoder named {', '.join(ENCODER_NAMES)}, or model.…")


def encoder_features(model: nn.Module, encoder: nn.Module, pictures: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return what the encoder gives to the rest of the captioner, (B, N, D), all its tokens and before the projector.

    Args:
        model: captioner.
        encoder: its encoder, `find_encoder(model)`.
        pictures: what the image processor gives; `pixel_values` (B, 3, H, W).

    Raises:
        ConfigError: a native model whose encoder takes more than pixels, or whose projector takes several layers.
    """
    if hasattr(model, "get_vision_features"):
        return model.get_vision_features(pictures["pixel_values"])
    if set(pictures) != {"pixel_values"} or pictures["pixel_values"].ndim != 4:
        raise ConfigError(
            f"the encoder of this {model.config.model_type} takes {', '.join(sorted(pictures))}, and only features of "
            "images of one size can be cached",
            option="feature_cache",
            fix="set feature_cache: false",
        )
    layer = _feature_layer(model)
    if layer is None:
        return encoder(pictures["pixel_values"]).last_hidden_state
    return encoder(pictures["pixel_values"], output_hidden_states=True).hidden_states[layer]


def accept_cached_features(model: PreTrainedModel) -> None:
    """Let the encoder of a native captioner hand through `pixel_values` that are features (B, N, D).

    Pictures (B, 3, H, W) are encoded as before. Neither weights nor names change, so that what is saved is the model.
    Types that take `vision_features` stay as they are.
    """
    if spec_of(model.config).feature_input != "pixel_values":
        return
    encoder, layer = find_encoder(model), _feature_layer(model)
    encode = encoder.forward

    @wraps(encode)  # `generate` reads the signature
    def forward(pixel_values: torch.Tensor, *args, **kwargs) -> BaseModelOutputWithPooling:
        if pixel_values.ndim == 4:
            return encode(pixel_values, *args, **kwargs)
        features = pixel_values.to(encoder.dtype)
        if layer is None:
            return BaseModelOutputWithPooling(last_hidden_state=features)
        # As stock models do, the hidden states that nobody asks for are None.
        hidden_states = [None] * (encoder.config.num_hidden_layers + 1)
        hidden_states[layer] = features
        return BaseModelOutputWithPooling(hidden_states=tuple(hidden_states))

    encoder.forward = forward


def _feature_layer(model: nn.Module) -> int | None:
    """Layer that the projector of a native model takes; None for the encoder's last hidden state."""
    layer = getattr(model.config, "vision_feature_layer", None)
    if layer is None or isinstance(layer, int):
        return layer
    raise ConfigError(
        "the feature cache holds one layer", option="vision_feature_layer", got=layer, fix="set feature_cache: false"
    )
