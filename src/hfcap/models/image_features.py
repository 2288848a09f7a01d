"""Patch features from any vision encoder: a CNN with a 4-D feature map or a ViT with a token sequence.

Everything here is a function of an encoder, so that the two model families and the feature cache share it.
"""

from dataclasses import dataclass
from math import isqrt

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from .model_utils import in_eval


@dataclass(frozen=True)
class ImageFeatureShape:
    """What an encoder gives for one image: `num_tokens` rows of `width` features.

    `rows` x `columns` is the grid of patches; `num_tokens` exceeds it by the CLS and register tokens that were kept.
    """

    num_tokens: int
    width: int
    rows: int
    columns: int


def get_vision_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Give the config of the vision tower of a two-tower config (CLIP, SigLIP), and any other config unchanged."""
    return getattr(config, "vision_config", None) or config


def get_feature_width(config: PreTrainedConfig) -> int | None:
    """Give the features per patch that the config states, or None where only a run can tell (MobileNetV2)."""
    if getattr(config, "hidden_size", None) is not None:
        return config.hidden_size
    hidden_sizes = getattr(config, "hidden_sizes", None)
    return hidden_sizes[-1] if hidden_sizes else None


def encode_images(
    encoder: PreTrainedModel,
    pixel_values: torch.Tensor,
    feature_layer: int | None = None,
    select_strategy: str = "full",
) -> torch.Tensor:
    """Encode images into patch features.

    Args:
        encoder: any vision model whose output has `last_hidden_state`, (B, D, H, W) or (B, N, D).
        pixel_values: (B, 3, H, W) float.
        feature_layer: index into `hidden_states`, as in LLaVA; None takes `last_hidden_state`. For a CNN -1 means its
            last feature map, since its own `hidden_states` may end before the last convolution.
        select_strategy: "default" drops the CLS and register tokens, "full" keeps them.

    Returns:
        (B, N, D) in the encoder's dtype; the patches of a feature map in row-major order.

    """
    # Convolutions on a CPU run up to four times faster on this layout, and the weights follow the input. A ViT has
    # one convolution and does not care.
    pixel_values = pixel_values.to(memory_format=torch.channels_last)
    needs_hidden_states = feature_layer is not None
    outputs = encoder(pixel_values, output_hidden_states=needs_hidden_states, return_dict=True)
    features = outputs.last_hidden_state
    is_last_map = features.ndim == 4 and feature_layer == -1
    if needs_hidden_states and not is_last_map:
        features = outputs.hidden_states[feature_layer]
    if features.ndim == 4:
        return features.flatten(2).transpose(1, 2)  # (B, D, H, W) -> (B, H * W, D)
    if select_strategy == "default":
        rows, columns = get_patch_grid(encoder.config, features.shape[1], *pixel_values.shape[-2:])
        features = features[:, features.shape[1] - rows * columns :]
    return features


def get_patch_grid(config: PreTrainedConfig, num_tokens: int, height: int, width: int) -> tuple[int, int]:
    """Give (rows, columns) of the patches among the `num_tokens` tokens of a sequence encoder.

    CLS and register tokens stand before the patches in every encoder of transformers that has them, so what exceeds
    the grid of `patch_size` patches is a prefix. Encoders that merge patches (Swin) have fewer tokens than patches.

    Args:
        config: the encoder's config; `patch_size` is used where it has one.
        num_tokens: length of the encoder's output sequence.
        height: of the image, in pixels.
        width: of the image, in pixels.

    """
    patch_size = getattr(config, "patch_size", None)
    if patch_size is None:
        side = isqrt(num_tokens)
        return (side, side) if side * side == num_tokens and height == width else (1, num_tokens)
    patch_height, patch_width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    rows, columns = height // patch_height, width // patch_width
    if num_tokens >= rows * columns:
        return rows, columns
    merge = isqrt(rows * columns // num_tokens)
    return rows // merge, columns // merge


@torch.no_grad()
def measure_image_features(
    encoder: PreTrainedModel,
    image_size: int | tuple[int, int] | list[int],
    feature_layer: int | None = None,
    select_strategy: str = "full",
) -> ImageFeatureShape:
    """Measure with one zero picture what `encode_images` gives for pictures of `image_size` pixels."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    num_channels = getattr(encoder.config, "num_channels", 3)
    pixel_values = torch.zeros(1, num_channels, height, width, dtype=encoder.dtype, device=encoder.device)
    with in_eval(encoder):
        output = encoder(pixel_values, return_dict=True).last_hidden_state
        features = encode_images(encoder, pixel_values, feature_layer, select_strategy)
    if output.ndim == 4 and features.shape[1] == output.shape[2] * output.shape[3]:
        rows, columns = output.shape[2:]
    else:
        rows, columns = get_patch_grid(encoder.config, features.shape[1], height, width)
    return ImageFeatureShape(features.shape[1], features.shape[2], rows, columns)


def get_image_size(config: PreTrainedConfig, image_size: int | list[int] | None = None) -> int | list[int]:
    """Give `image_size` if stated, else the encoder config's own; pixels, one side or [height, width].

    Raises:
        ValueError: neither is known.

    """
    image_size = image_size if image_size is not None else getattr(config, "image_size", None)
    if image_size is None:
        raise ValueError(
            f"The vision config of type {config.model_type!r} has no `image_size`, got None for ours as well. "
            "Pass `image_size=` (pixels) to the model's config: the number of image tokens follows from it."
        )
    return image_size if isinstance(image_size, int) else list(image_size)


def fill_measured_fields(config: PreTrainedConfig, encoder: PreTrainedModel) -> None:
    """Fill `image_seq_length`, `vision_hidden_size` and `vision_grid` of a model's config, where one of them is None.

    A saved checkpoint has them; a model being built from a fresh config measures its encoder, since no config states
    the width of MobileNetV2, or says how many tokens an encoder puts before its patches.

    Raises:
        ValueError: patches are to be merged, but CLS or register tokens are among them.

    """
    if None not in (config.image_seq_length, config.vision_hidden_size, config.vision_grid):
        return
    shape = measure_image_features(
        encoder,
        get_image_size(encoder.config, config.image_size),
        feature_layer=config.vision_feature_layer,
        select_strategy=config.vision_feature_select_strategy,
    )
    factor = getattr(config, "pixel_shuffle_factor", 1)
    if factor > 1 and shape.num_tokens != shape.rows * shape.columns:
        raise ValueError(
            f"pixel_shuffle_factor={factor} needs a grid of patches, but {shape.num_tokens} image tokens are not "
            f"{shape.rows} x {shape.columns}. Set vision_feature_select_strategy='default' to drop CLS tokens."
        )
    config.vision_hidden_size = shape.width
    config.vision_grid = [shape.rows, shape.columns]
    reduced = -(-shape.rows // factor) * -(-shape.columns // factor)
    config.image_seq_length = reduced if factor > 1 else shape.num_tokens


def shuffle_patches(features: torch.Tensor, rows: int, columns: int, factor: int) -> torch.Tensor:
    """Merge each `factor` x `factor` block of patches into one token with `factor**2` times the features.

    The "pixel shuffle" of InternVL (https://arxiv.org/abs/2404.16821, section 3.1). A grid that is not a multiple of
    `factor` is padded with zeros below and on the right.

    Args:
        features: (B, rows * columns, D), without CLS or register tokens.
        rows: of the patch grid.
        columns: of the patch grid.
        factor: side of a block; 1 changes nothing.

    Returns:
        (B, ceil(rows / factor) * ceil(columns / factor), D * factor**2)

    Raises:
        ValueError: the number of features is not rows * columns.

    """
    batch_size, num_patches, width = features.shape
    if num_patches != rows * columns:
        raise ValueError(
            f"Got {num_patches} features per image for a grid of {rows} x {columns} = {rows * columns} patches. Set "
            "vision_feature_select_strategy='default' to drop CLS tokens, and use images of the config's `image_size`."
        )
    if factor == 1:
        return features
    grid = features.reshape(batch_size, rows, columns, width)
    grid = nn.functional.pad(grid, (0, 0, 0, -columns % factor, 0, -rows % factor))
    rows, columns = grid.shape[1] // factor, grid.shape[2] // factor
    grid = grid.reshape(batch_size, rows, factor, columns, factor, width)
    grid = grid.transpose(2, 3)  # (B, rows, columns, factor, factor, D)
    return grid.reshape(batch_size, rows * columns, factor * factor * width)
