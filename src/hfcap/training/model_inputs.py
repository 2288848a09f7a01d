"""Collated batch to model arguments: packed attention mask, position ids, positions whose logits are needed."""

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from hfcap.models.attention import PACKED_SDPA
from hfcap.models.model_types import is_packable, spec_of
from hfcap.training.packing import (
    IGNORE_INDEX,
    PADDING_SEGMENT,
    packed_attention_mask,
    packed_block_mask,
    shared_prefix,
)


def model_inputs(batch: dict[str, torch.Tensor], model: PreTrainedModel | PeftModel) -> dict[str, torch.Tensor]:
    """Turn a collated batch into the model's arguments and `labels`.

    The mask is built here, on the device, from `segment_ids` and `image_ids`, where the model can be packed: a
    `BlockMask` for FlexAttention, else 4-D, without the rows that `packed_sdpa` does not need; for other models it is
    (B, L). So are the positions of models with M-RoPE, (3, B, L). Where the head can run on target positions alone it
    does, and `labels` are the (N,) targets in the order of the model's (N, vocabulary) logits; elsewhere they are
    (B, L) for logits of (B, L, vocabulary).
    """
    spec, packable = spec_of(model.config), is_packable(model.config)
    attention = model.config.get_text_config(decoder=True)._attn_implementation
    inputs = dict(batch)
    segment_ids, image_ids, labels = (inputs.pop(name) for name in ("segment_ids", "image_ids", "shift_labels"))
    prefix = "decoder_" if spec.layout == "encoder_decoder" else ""
    if not packable:
        mask = (segment_ids != PADDING_SEGMENT).long()
    elif attention == "flex_attention":
        mask = packed_block_mask(segment_ids, image_ids)
    else:
        first_query = shared_prefix(segment_ids) if attention == PACKED_SDPA else 0
        mask = packed_attention_mask(segment_ids, image_ids, model.dtype, first_query)
    inputs[f"{prefix}attention_mask"] = mask
    if spec.mrope:
        inputs["position_ids"] = mrope_position_ids(batch, model)
    if spec.logits == "targets" and (packable or spec.layout == "decoder_only"):
        keep = labels != IGNORE_INDEX
        inputs[f"{prefix}logits_to_keep"], labels = keep, labels[keep]
    elif spec.logits == "text":
        inputs[f"{prefix}logits_to_keep"] = labels.shape[1]
    return inputs | {"labels": labels, "use_cache": False}


def mrope_position_ids(batch: dict[str, torch.Tensor], model: PreTrainedModel | PeftModel) -> torch.Tensor:
    """Positions of packed rows in three dimensions (temporal, height, width), by the model's own `get_rope_index`.

    It numbers a row as if one text followed the picture: right for the prefix and the first reference. Text goes on by
    one a token, however long. So a token of any reference has the position that stands there for its place behind the
    prefix, which is what `position_ids` counts; and each image of a row starts from 0.

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
