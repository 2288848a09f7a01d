"""Collated batch to model arguments: packed attention mask, position ids, positions whose logits are needed."""

import torch
from peft import PeftModel
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedConfig, PreTrainedModel

from hfcap.errors import ConfigError
from hfcap.models.attention import PACKED_SDPA
from hfcap.models.model_types import is_packable, spec_of
from hfcap.training.packing import (
    IGNORE_INDEX,
    PADDING_SEGMENT,
    PackedRows,
    packed_attention_mask,
    packed_block_mask,
    shared_prefix,
)

Mask = torch.Tensor | BlockMask


def model_inputs(batch: dict[str, torch.Tensor], model: PreTrainedModel | PeftModel) -> dict[str, torch.Tensor]:
    """Turn a collated batch into the model's arguments and `labels`.

    Where the model can be packed, the mask is built here, on the device (`packed_masks`); for other models it is
    (B, L). So are the positions of models with M-RoPE, (3, B, L). Where the head can run on target positions alone it
    does, and `labels` are the (N,) targets in the order of the model's (N, vocabulary) logits; elsewhere they are
    (B, L) for logits of (B, L, vocabulary).

    Raises:
        ConfigError: rows reach past the sliding window of a model that takes one mask for all layers.
    """
    spec, packable = spec_of(model.config), is_packable(model.config)
    inputs = dict(batch)
    segment_ids, image_ids, labels = (inputs.pop(name) for name in ("segment_ids", "image_ids", "shift_labels"))
    prefix = "decoder_" if spec.layout == "encoder_decoder" else ""
    if packable:
        is_two_way = batch[spec.token_types] != spec.caption_token_type if spec.two_way else None
        rows = PackedRows(segment_ids, image_ids, batch[f"{prefix}position_ids"], is_two_way)
        inputs[f"{prefix}attention_mask"] = packed_masks(rows, model)
    else:
        inputs[f"{prefix}attention_mask"] = (segment_ids != PADDING_SEGMENT).long()
    if spec.mrope and packable:  # elsewhere the model derives them itself
        inputs["position_ids"] = mrope_position_ids(batch, model)
    if spec.logits == "targets" and (packable or spec.layout == "decoder_only"):
        keep = labels != IGNORE_INDEX
        inputs[f"{prefix}logits_to_keep"], labels = keep, labels[keep]
    elif spec.logits == "text":
        inputs[f"{prefix}logits_to_keep"] = labels.shape[1]
    return inputs | {"labels": labels, "use_cache": False}


def packed_masks(rows: PackedRows, model: PreTrainedModel | PeftModel) -> Mask | dict[str, Mask]:
    """Build the mask of packed rows for the attention that the language model uses.

    Returns:
        A `BlockMask` for FlexAttention, else a 4-D mask, without the rows that `packed_sdpa` does not need. Where rows
        reach past the sliding window of some of the layers: one for each kind of layer, by the names of `layer_types`.

    Raises:
        ConfigError: they do, and the model takes one mask for all layers.
    """
    spec, config = spec_of(model.config), model.config.get_text_config(decoder=True)
    attention = config._attn_implementation

    def build(window: int | None) -> Mask:
        if attention == "flex_attention":
            return packed_block_mask(rows, window)
        is_causal = rows.is_two_way is None and window is None
        first_query = shared_prefix(rows.segment_ids) if attention == PACKED_SDPA and is_causal else 0
        return packed_attention_mask(rows, window, model.dtype, first_query)

    windows = sliding_windows(config)
    if any(windows.values()):
        positions = int(rows.position_ids.max()) + 1
        windows = {kind: window if window and window < positions else None for kind, window in windows.items()}
    if len(set(windows.values())) == 1:
        return build(next(iter(windows.values())))
    if not spec.mask_per_layer_type:
        raise ConfigError(
            f"a row has {positions} positions, beyond {config.model_type}'s sliding window of "
            f"{config.sliding_window}, and {model.config.model_type} takes one mask for all layers",
            option="prompt",
            fix="shorten it, or lower max_caption_tokens",
        )
    return {kind: build(window) for kind, window in windows.items()}


def sliding_windows(config: PreTrainedConfig) -> dict[str, int | None]:
    """Kinds of layers of a language model (`layer_types`), and how many positions each sees; None: all of them."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"]
    return {kind: window if kind == "sliding_attention" else None for kind in kinds}


def mrope_position_ids(batch: dict[str, torch.Tensor], model: PreTrainedModel | PeftModel) -> torch.Tensor:
    """Positions of packed rows in three dimensions (temporal, height, width), by the model's own `get_rope_index`.

    It numbers a row as if all references were one text, which is right for the prefix and the first of them. Text
    counts by one per token. So every token takes the number at the place that `position_ids` gives it, counted from
    the first token of its image; and each image of a row starts from 0.

    Args:
        batch: collated, `position_ids` (B, L) in one dimension.
        model: a Qwen-VL captioner, wrapped by PEFT or not.

    Returns:
        (3, B, L) int64.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    in_order, _ = base.base_model.get_rope_index(
        batch["input_ids"], mm_token_type_ids=batch["mm_token_type_ids"], image_grid_thw=batch["image_grid_thw"]
    )
    images = batch["image_ids"]
    token = torch.arange(images.shape[1], device=images.device)
    is_first = torch.ones_like(images, dtype=torch.bool)
    is_first[:, 1:] = images[:, 1:] != images[:, :-1]
    first = (token * is_first).cummax(dim=1).values  # (B, L), where the image of each token starts
    place = first + batch["position_ids"]
    return in_order.gather(2, place.expand_as(in_order)) - in_order.gather(2, first.expand_as(in_order))
