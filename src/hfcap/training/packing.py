"""Shared-image packing: one prefix, then all references of an image side by side in one row.

A captioning row is a prefix (image tokens and prompt, or just the decoder's start token) followed by several
references. Each reference may look at the prefix and at itself, never at another reference, and its positions continue
from the prefix. The loss and its gradient are those of one row per reference: the prefix is computed once instead of
once a reference.

The last prefix token predicts the first token of every reference, so each reference carries its own copy of it:

    prefix  p0 p1 p2            segment_ids   0  0 | 1  1  1 | 2  2 |
    ref 1   a b                 input_ids    p0 p1 | p2 a  b | p2 c |
    ref 2   c                   shift_labels  .  . | a  b  $ | c  $ |      ($ is EOS, . is -100)
                                position_ids  0  1 | 2  3  4 | 2  3 |
"""

from collections.abc import Sequence

import torch

IGNORE_INDEX = -100
PREFIX_SEGMENT = 0
PADDING_SEGMENT = -1


def pack_references(prefix_ids: Sequence[int], targets: Sequence[Sequence[int]]) -> dict[str, list[int]]:
    """Lay the references of one image behind their common prefix.

    Args:
        prefix_ids: token ids before the caption, at least one (a decoder's start token at the least).
        targets: token ids of each reference, EOS included.

    Returns:
        `input_ids`, `position_ids`, `segment_ids` and `shift_labels`, lists of the same length L, where
        L = len(prefix_ids) - 1 + sum(len(target)). `shift_labels[i]` is what position i must predict, -100 for
        nothing.

    Raises:
        ValueError: no prefix token, no target, or an empty target.
    """
    if not prefix_ids:
        raise ValueError("a packed row needs at least one prefix token (the start token); got none")
    if not targets or not all(targets):
        raise ValueError(f"every target needs at least its EOS token; got lengths {[len(t) for t in targets]}")
    *shared, last = prefix_ids
    row = {
        "input_ids": list(shared),
        "position_ids": list(range(len(shared))),
        "segment_ids": [PREFIX_SEGMENT] * len(shared),
        "shift_labels": [IGNORE_INDEX] * len(shared),
    }
    for segment, target in enumerate(targets, start=PREFIX_SEGMENT + 1):
        row["input_ids"] += [last, *target[:-1]]
        row["position_ids"] += range(len(shared), len(shared) + len(target))
        row["segment_ids"] += [segment] * len(target)
        row["shift_labels"] += target
    return row


def pad_rows(rows: Sequence[dict[str, list[int]]], pad_token_id: int, **further: int) -> dict[str, torch.Tensor]:
    """Right-pad packed rows to one length: tensors (B, L) of int64 under the keys of `pack_references`.

    `further` names other keys of the rows, each with the value it is padded with.
    """
    padding = {
        "input_ids": pad_token_id,
        "position_ids": 0,
        "segment_ids": PADDING_SEGMENT,
        "shift_labels": IGNORE_INDEX,
        **further,
    }
    length = max(len(row["input_ids"]) for row in rows)
    return {
        key: torch.tensor([row[key] + [value] * (length - len(row[key])) for row in rows])
        for key, value in padding.items()
    }


def attention_mask_from_segments(segment_ids: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Build the additive attention mask of packed rows.

    Args:
        segment_ids: (B, L) int64: 0 for the prefix, 1, 2, … for the references, -1 for padding.
        dtype: floating dtype of the mask, the one of the model's hidden states.

    Returns:
        (B, 1, L, L): 0 where query (third axis) may look at key (fourth axis), the dtype's minimum elsewhere. A padded
        query sees the prefix and the padding before it, so that no row of the softmax is empty.
    """
    query, key = segment_ids[:, :, None], segment_ids[:, None, :]
    length = segment_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment_ids.device).tril()
    allowed = ((query == key) | (key == PREFIX_SEGMENT)) & causal  # (B, L, L)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segment_ids.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]
