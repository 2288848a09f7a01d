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

Where the whole prefix is read in both directions (PaliGemma), its first tokens see the last one. It stands there once
more, in a segment of its own (E): no reference sees it, since each has its copy.

                                input_ids    p0 p1 p2 | p2 a  b | p2 c |
                                segment_ids   0  0  E | 1  1  1 | 2  2 |
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

IGNORE_INDEX = -100
PREFIX_SEGMENT = 0
PADDING_SEGMENT = -1
PREFIX_END_SEGMENT = -2


def pack_references(
    prefix_ids: Sequence[int], targets: Sequence[Sequence[int]], whole_prefix: bool = False
) -> dict[str, list[int]]:
    """Lay the references of one image behind their common prefix.

    Args:
        prefix_ids: token ids before the caption, at least one (a decoder's start token at the least).
        targets: token ids of each reference, EOS included.
        whole_prefix: keep the last prefix token in the prefix as well, because the prefix is read in both directions.

    Returns:
        `input_ids`, `position_ids`, `segment_ids`, `image_ids` (all 0) and `shift_labels`, lists of the same length L,
        where L = `packed_length(…)`, and one more with `whole_prefix`. `shift_labels[i]` is what position i must
        predict, -100 for nothing.

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
    if whole_prefix:
        row["input_ids"].append(last)
        row["position_ids"].append(len(shared))
        row["segment_ids"].append(PREFIX_END_SEGMENT)
        row["shift_labels"].append(IGNORE_INDEX)
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


@dataclass(frozen=True)
class PackedRows:
    """What a mask of packed rows follows from; all tensors are (B, L).

    Attributes:
        segment_ids: int64, 0 for the prefix, 1, 2, … for the references, -1 for padding, -2 for the last token of a
            prefix that is read in both directions.
        image_ids: int64, which image of the row, -1 for padding.
        position_ids: int64, in one dimension; needed for a sliding window alone.
        is_two_way: bool, tokens that are read in both directions: each run of them sees itself whole. None: there are
            no such.
    """

    segment_ids: torch.Tensor
    image_ids: torch.Tensor
    position_ids: torch.Tensor | None = None
    is_two_way: torch.Tensor | None = None


def may_attend(
    rows: PackedRows, sliding_window: int | None = None
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Give the one rule of packed rows as FlexAttention's `mask_mod(batch, head, query, key) -> bool`.

    A query sees the keys of its own image that stand before it or where it is, if they are in the prefix or in its own
    segment, and those of its own run of tokens that are read in both directions; of all these, none that stands
    `sliding_window` positions or more before it, as in stock Gemma 3. Padding is an image of its own, so that no row
    of the softmax is empty.
    """
    segment_ids, image_ids, position_ids = rows.segment_ids, rows.image_ids, rows.position_ids
    runs = None if rows.is_two_way is None else _number_runs(rows.is_two_way)

    def rule(batch, head, query, key):
        of_query, of_key = segment_ids[batch, query], segment_ids[batch, key]
        allowed = ((of_query == of_key) | (of_key == PREFIX_SEGMENT)) & (query >= key)
        if runs is not None:
            allowed = allowed | ((runs[batch, query] == runs[batch, key]) & (runs[batch, query] > 0))
        if sliding_window is not None:
            allowed = allowed & (position_ids[batch, query] - position_ids[batch, key] < sliding_window)
        return allowed & (image_ids[batch, query] == image_ids[batch, key])

    return rule


def _number_runs(is_member: torch.Tensor) -> torch.Tensor:
    """Number the runs of True in each row of (B, L) from 1; 0 between them."""
    is_first = is_member.clone()
    is_first[:, 1:] &= ~is_member[:, :-1]
    return is_first.cumsum(dim=1) * is_member


def packed_attention_mask(
    rows: PackedRows,
    sliding_window: int | None = None,
    dtype: torch.dtype = torch.float32,
    first_query: int = 0,
) -> torch.Tensor:
    """Build the additive attention mask of packed rows, for SDPA and eager attention.

    Args:
        rows: what the mask follows from.
        sliding_window: of the layers that the mask is for; None: they see all positions.
        dtype: floating dtype of the mask, the one of the model's hidden states.
        first_query: the mask is for queries from this position on.

    Returns:
        (B, 1, L - first_query, L): 0 where query (third axis) may look at key (fourth axis), the dtype's minimum
        elsewhere.
    """
    size, length = rows.segment_ids.shape
    device = rows.segment_ids.device
    batch = torch.arange(size, device=device)[:, None, None]
    token = torch.arange(length, device=device)
    query = token[first_query:, None]
    allowed = may_attend(rows, sliding_window)(batch, None, query, token)  # (B, queries, L)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def packed_block_mask(rows: PackedRows, sliding_window: int | None = None) -> BlockMask:
    """Build the same mask for FlexAttention, which skips blocks of tokens where nobody sees anybody.

    The cost of attention grows with what is seen, not with the square of the row, and no (L, L) tensor of scores
    exists; the rule itself is evaluated for all pairs, once per batch for all layers.
    """
    size, length = rows.segment_ids.shape
    rule = may_attend(rows, sliding_window)
    return create_block_mask(rule, size, None, length, length, device=rows.segment_ids.device)
