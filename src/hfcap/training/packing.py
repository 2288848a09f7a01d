"""Shared-image packing: one prefix, then all references of an image side by side in one row.

A captioning row is a prefix (image tokens and prompt, or just the decoder's start token) followed by several
references. Each reference may look at the prefix and at itself, never at another reference, and its positions continue
from the prefix. The loss and its gradient are those of one row per reference: the prefix is computed once instead of
once per reference.

The last prefix token predicts the first token of every reference, so each reference carries its own copy of it:

    prefix  p0 p1 p2            segment_ids   0  0 | 1  1  1 | 2  2 |
    ref 1   a b                 input_ids    p0 p1 | p2 a  b | p2 c |
    ref 2   c                   shift_labels  .  . | a  b  $ | c  $ |      ($ is EOS, . is -100)
                                position_ids  0  1 | 2  3  4 | 2  3 |

Several images may share a row (`join_images`), so that rows of a common length need no padding. Segments and positions
start anew with each image, and nothing looks across images; the pair (image, segment) says what a token belongs to:

                                image_ids     0  0  0  0  0  0  0 | 1  1  1  1 | 2 …
                                segment_ids   0  0  1  1  1  2  2 | 0  0  1  1 | 0 …
                                position_ids  0  1  2  3  4  2  3 | 0  1  2  3 | 0 …
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

IGNORE_INDEX = -100
PREFIX_SEGMENT = 0
PADDING_SEGMENT = -1


def pack_references(prefix_ids: Sequence[int], targets: Sequence[Sequence[int]]) -> dict[str, list[int]]:
    """Lay the references of one image behind their common prefix.

    Args:
        prefix_ids: token ids before the caption, at least one (a decoder's start token at the least).
        targets: token ids of each reference, EOS included.

    Returns:
        `input_ids`, `position_ids`, `segment_ids`, `image_ids` (all 0) and `shift_labels`, lists of the same length L,
        where L = `packed_length(…)`. `shift_labels[i]` is what position i must predict, -100 for nothing.

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
    return row | {"image_ids": [0] * len(row["input_ids"])}


def packed_length(prefix_length: int, target_lengths: Sequence[int]) -> int:
    """Tokens of the row that `pack_references` gives for a prefix and targets of these lengths."""
    return prefix_length - 1 + sum(target_lengths)


def join_images(rows: Sequence[dict[str, list[int]]]) -> dict[str, list[int]]:
    """Lay rows of one image each behind one another; `image_ids` count them."""
    joined = {key: [value for row in rows for value in row[key]] for key in rows[0]}
    return joined | {"image_ids": [image for image, row in enumerate(rows) for _ in row["image_ids"]]}


def pad_rows(
    rows: Sequence[dict[str, list[int]]], pad_token_id: int, pad_to_multiple_of: int = 1, **further: int
) -> dict[str, torch.Tensor]:
    """Right-pad packed rows to one length: tensors (B, L) of int64 under the keys of `pack_references`.

    L is the next multiple of `pad_to_multiple_of`. `further` names other keys of the rows, each with the value it is
    padded with.
    """
    padding = {
        "input_ids": pad_token_id,
        "position_ids": 0,
        "segment_ids": PADDING_SEGMENT,
        "image_ids": PADDING_SEGMENT,
        "shift_labels": IGNORE_INDEX,
        **further,
    }
    longest = max(len(row["input_ids"]) for row in rows)
    length = longest + -longest % pad_to_multiple_of
    return {
        key: torch.tensor([row[key] + [value] * (length - len(row[key])) for row in rows])
        for key, value in padding.items()
    }


def shared_prefix(segment_ids: torch.Tensor) -> int:
    """Count the first positions that belong to a prefix in every row of `segment_ids` (B, L)."""
    return int((segment_ids != PREFIX_SEGMENT).int().argmax(dim=1).min())


def may_attend(
    segment_ids: torch.Tensor, image_ids: torch.Tensor
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Give the one rule of packed rows as FlexAttention's `mask_mod(batch, head, query, key) -> bool`.

    A query sees the keys of its own image that stand before it or where it is, if they are in the prefix or in its own
    segment. Padding is an image of its own, so that no row of the softmax is empty.

    Args:
        segment_ids: (B, L) int64: 0 for the prefix, 1, 2, … for the references, -1 for padding.
        image_ids: (B, L) int64: which image of the row, -1 for padding.
    """

    def rule(batch, head, query, key):
        of_query, of_key = segment_ids[batch, query], segment_ids[batch, key]
        same_image = image_ids[batch, query] == image_ids[batch, key]
        return same_image & ((of_query == of_key) | (of_key == PREFIX_SEGMENT)) & (query >= key)

    return rule


def packed_attention_mask(
    segment_ids: torch.Tensor, image_ids: torch.Tensor, dtype: torch.dtype = torch.float32, first_query: int = 0
) -> torch.Tensor:
    """Build the additive attention mask of packed rows, for SDPA and eager attention.

    Args:
        segment_ids: (B, L) int64, see `may_attend`.
        image_ids: (B, L) int64.
        dtype: floating dtype of the mask, the one of the model's hidden states.
        first_query: the mask is for queries from this position on.

    Returns:
        (B, 1, L - first_query, L): 0 where query (third axis) may look at key (fourth axis), the dtype's minimum
        elsewhere.
    """
    size, length = segment_ids.shape
    batch = torch.arange(size, device=segment_ids.device)[:, None, None]
    token = torch.arange(length, device=segment_ids.device)
    query = token[first_query:, None]
    allowed = may_attend(segment_ids, image_ids)(batch, None, query, token)  # (B, queries, L)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segment_ids.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def packed_block_mask(segment_ids: torch.Tensor, image_ids: torch.Tensor) -> BlockMask:
    """Build the same mask for FlexAttention, which skips blocks of tokens where nobody sees anybody.

    The cost of attention grows with what is seen, not with the square of the row, and no (L, L) tensor of scores
    exists; the rule itself is evaluated for all pairs, once a batch for all layers.
    """
    size, length = segment_ids.shape
    rule = may_attend(segment_ids, image_ids)
    return create_block_mask(rule, size, None, length, length, device=segment_ids.device)
