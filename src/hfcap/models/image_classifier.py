"""Image classifiers of transformers with a new multi-label head, their pooled features, and where a label was seen.

The model that is trained is the one that ships: the stock `...ForImageClassification` of the encoder's type. Each of
them is an encoder, a pooling, and a layer named `classifier`; that is all this module knows of them.
"""

import copy
from collections.abc import Sequence
from functools import wraps

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import ImageClassifierOutput

from hfcap.errors import ConfigError

from .image_features import get_patch_grid

MULTI_LABEL = "multi_label_classification"


def classifier_config(config: PreTrainedConfig, labels: Sequence[str]) -> PreTrainedConfig:
    """Give the configuration of the stock classifier of an encoder, with a multi-label head over `labels`.

    A vision tower alone (`clip_vision_model`) becomes part of the two-tower configuration that its classifier takes.

    Raises:
        ConfigError: transformers has no image classifier of this type.
    """
    if config.model_type.endswith("_vision_model"):
        both = config.model_type.removesuffix("_vision_model")
        if both in CONFIG_MAPPING:
            config = CONFIG_MAPPING[both](vision_config=config.to_dict())
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ConfigError(
            f"transformers has no image classifier of the type {config.model_type!r}",
            option="encoder",
            fix="pass an encoder of a type that AutoModelForImageClassification knows (vit, mobilenet_v2, siglip, …)",
        )
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = MULTI_LABEL
    return config


def classifier_of_encoder(encoder: PreTrainedModel, labels: Sequence[str]) -> PreTrainedModel:
    """Build the stock classifier around the weights of an encoder, with a new head, in float32.

    Raises:
        ConfigError: see `classifier_config`.
    """
    model = AutoModelForImageClassification.from_config(classifier_config(copy.deepcopy(encoder.config), labels))
    # The encoder may end with a pooling layer of its own, which the classifier does not have.
    missing = body(model).load_state_dict(encoder.state_dict(), strict=False).missing_keys
    if missing:
        raise ConfigError(f"the {encoder.config.model_type} encoder has no {missing[0]}", option="model")
    return model.float().eval()


def body(model: PreTrainedModel) -> nn.Module:
    """Return the encoder inside a classifier: the largest of its parts."""
    parts = [part for name, part in model.named_children() if name != "classifier"]
    return max(parts, key=lambda part: sum(p.numel() for p in part.parameters()))


def start_head(model: PreTrainedModel, shares: Sequence[float]) -> None:
    """Let a new head begin with each label's frequency as its answer, whatever the picture.

    A rare label would otherwise spend its first hundreds of steps learning that it is rare (Lin et al., "Focal loss
    for dense object detection", 2017).

    Args:
        model: the classifier; its head is linear.
        shares: share of the pictures that have each label, between 0 and 1.
    """
    head = last_linear(model)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.logit(torch.tensor(list(shares), dtype=torch.float64)))


def last_linear(model: PreTrainedModel) -> nn.Linear:
    """Return the last linear layer of the head, whose rows are the labels."""
    return [layer for layer in model.classifier.modules() if isinstance(layer, nn.Linear)][-1]


class PooledFeatures(nn.Module):
    """A classifier without its head, as `hfcap.data.features.cache_features` takes models.

    What is cached is what the head gets, (1, D) per picture: one vector in place of a map, whatever the labels.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.encoder = body(model)  # its weights are those that the features depend on
        self.config = model.config
        self._classifier = [model]  # in a list: not a part of this module, whose head would count as its weights

    def get_vision_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return what the head gets for pictures (B, 3, H, W), as (B, 1, D)."""
        return pooled_features(self._classifier[0], pixel_values)[:, None]


def pooled_features(model: PreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Return what a classifier's head gets for pictures (B, 3, H, W), as (B, D)."""
    seen = []
    hook = model.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        # Convolutions on a CPU run up to four times faster on this layout.
        model(pixel_values.to(memory_format=torch.channels_last))
    finally:
        hook.remove()
    return seen[0].flatten(1)


def accept_pooled_features(model: PreTrainedModel) -> None:
    """Let a classifier take cached features (B, D) as `pixel_values`; pictures (B, 3, H, W) go through as before.

    Neither weights nor names change, so that what is saved is the classifier.
    """
    classify = model.forward

    @wraps(classify)  # `Trainer` reads the signature
    def forward(pixel_values: torch.Tensor, *args, **kwargs) -> ImageClassifierOutput:
        if pixel_values.ndim == 4:
            return classify(pixel_values, *args, **kwargs)
        return ImageClassifierOutput(logits=model.classifier(pixel_values))

    model.forward = forward


@torch.no_grad()
def classify(model: PreTrainedModel, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the logits (B, labels) of pictures (B, 3, H, W), and the evidence for each label at each place.

    The evidence (B, labels, H', W') is a class activation map: the head, which is linear, is put on every patch in the
    place of their mean (Zhou et al., "Learning deep features for discriminative localization", 2016). It is None where
    the mean over the patches is not the logit, so that a map would not say what the classifier saw.
    """
    seen = []
    hook = body(model).register_forward_hook(lambda module, inputs, outputs: seen.append(outputs))
    try:
        # Convolutions on a CPU run up to four times faster on this layout.
        logits = model(pixel_values.to(memory_format=torch.channels_last)).logits.float()
    finally:
        hook.remove()
    features = getattr(seen[-1], "last_hidden_state", None)
    head = last_linear(model) if hasattr(model, "classifier") else None
    if features is None or head is None:
        return logits, None
    if features.ndim == 3:
        rows, columns = get_patch_grid(model.config, features.shape[1], *pixel_values.shape[-2:])
        if rows * columns != features.shape[1]:
            return logits, None
        features = features.transpose(1, 2).unflatten(2, (rows, columns))  # (B, N, D) -> (B, D, rows, columns)
    if features.shape[1] != head.in_features:
        return logits, None
    maps = torch.einsum("bdhw,ld->blhw", features.float(), head.weight.float())
    means = maps.mean(dim=(2, 3)) + (0 if head.bias is None else head.bias)
    return logits, maps if torch.allclose(means, logits, rtol=1e-3, atol=1e-3) else None
