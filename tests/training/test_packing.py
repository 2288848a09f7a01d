import shutil

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_mask

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.training.collators import CaptionCollator
from hfcap.training.model_inputs import model_inputs
from hfcap.training.packing import (
    PackedRows,
    join_images,
    may_attend,
    pack_references,
    packed_attention_mask,
    packed_block_mask,
    packed_length,
    pad_rows,
)


def rows_of(batch, is_two_way=None):
    return PackedRows(batch["segment_ids"], batch["image_ids"], batch["position_ids"], is_two_way)


def test_each_reference_restarts_after_the_prefix():
    row = pack_references([7, 8, 9], [[1, 2, 0], [3, 0]])
    assert row["input_ids"] == [7, 8, 9, 1, 2, 9, 3]
    assert row["shift_labels"] == [-100, -100, 1, 2, 0, 3, 0]
    assert row["position_ids"] == [0, 1, 2, 3, 4, 2, 3]
    assert row["segment_ids"] == [0, 0, 1, 1, 1, 2, 2]
    assert len(row["input_ids"]) == packed_length(3, [3, 2])


def test_a_start_token_alone_is_a_prefix():
    row = pack_references([5], [[1, 0], [2, 0]])
    assert row["input_ids"] == [5, 1, 5, 2]
    assert row["position_ids"] == [0, 1, 0, 1]
    assert row["shift_labels"] == [1, 0, 2, 0]


@pytest.mark.parametrize(
    ("prefix", "targets", "message"),
    [([], [[1]], "start token"), ([1], [], "EOS"), ([1], [[2], []], r"lengths \[1, 0\]")],
)
def test_rows_without_prefix_or_target_are_refused(prefix, targets, message):
    with pytest.raises(ValueError, match=message):
        pack_references(prefix, targets)


def test_mask_shows_the_prefix_and_the_own_reference_only():
    rows = [pack_references([7, 8, 9], [[1, 2, 0], [3, 0]]), pack_references([7, 8, 9], [[1, 0]])]
    batch = pad_rows(rows, pad_token_id=0)
    visible = packed_attention_mask(rows_of(batch))[:, 0] == 0  # (B, L, L)
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0, 0],
            [1, 1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 1, 0, 0],
            [1, 1, 0, 0, 0, 1, 0],
            [1, 1, 0, 0, 0, 1, 1],
        ]
    ).bool()
    assert torch.equal(visible[0], expected)
    # Nobody but padding looks at padding, and no padded query is left with an empty softmax.
    padding = batch["segment_ids"][1] == -1
    assert not visible[1][~padding][:, padding].any()
    assert visible[1].any(dim=-1).all()


def test_a_prefix_that_is_read_in_both_directions_sees_its_last_token_and_no_reference_does():
    batch = pad_rows([pack_references([7, 8, 9], [[1, 0], [3, 0]], whole_prefix=True)], pad_token_id=0)
    assert batch["input_ids"].tolist() == [[7, 8, 9, 9, 1, 9, 3]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 2, 3, 2, 3]]
    assert batch["shift_labels"].tolist() == [[-100, -100, -100, 1, 0, 3, 0]]
    is_two_way = torch.tensor([[1, 1, 1, 0, 0, 0, 0]]).bool()
    visible = packed_attention_mask(rows_of(batch, is_two_way))[0, 0] == 0
    expected = torch.tensor(
        [
            [1, 1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0, 0],
            [1, 1, 0, 1, 0, 0, 0],
            [1, 1, 0, 1, 1, 0, 0],
            [1, 1, 0, 0, 0, 1, 0],
            [1, 1, 0, 0, 0, 1, 1],
        ]
    ).bool()
    assert torch.equal(visible, expected)


def test_a_sliding_window_counts_positions_back_from_a_token_also_in_a_picture():
    """The picture is tokens 1 to 3, and a second one token 5; the window has 2 positions."""
    row = pack_references([7, 8, 8, 8, 9, 8, 9], [[1, 0], [3, 0]])
    batch = pad_rows([row], pad_token_id=0)
    is_two_way = (batch["input_ids"] == 8) & (batch["segment_ids"] == 0)
    visible = packed_attention_mask(rows_of(batch, is_two_way), sliding_window=2)[0, 0] == 0
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 0, 0, 0, 0, 0, 0],
            [0, 0, 1, 1, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 1, 1, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 1, 1, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 1, 1, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 1, 1, 0, 0],
            [0, 0, 0, 0, 0, 1, 0, 0, 1, 0],
            [0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
        ]
    ).bool()
    assert torch.equal(visible, expected)


def test_rows_are_padded_to_a_multiple():
    rows = [pack_references([7, 8, 9], [[1, 2, 0], [3, 0]])]  # 7 tokens
    for multiple, length in ((1, 7), (4, 8), (7, 7), (128, 128)):
        batch = pad_rows(rows, pad_token_id=0, pad_to_multiple_of=multiple)
        assert {tensor.shape for tensor in batch.values()} == {(1, length)}
        assert (batch["segment_ids"] != -1).sum() == 7


def test_images_that_share_a_row_do_not_see_each_other():
    rows = [pack_references([7, 8, 9], [[1, 2, 0], [3, 0]]), pack_references([7, 8], [[1, 0]])]
    joined = join_images(rows)
    assert joined["input_ids"] == [7, 8, 9, 1, 2, 9, 3, 7, 8, 1]
    assert joined["image_ids"] == [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]
    assert joined["position_ids"] == [0, 1, 2, 3, 4, 2, 3, 0, 1, 2]
    batch = pad_rows([joined, rows[0]], pad_token_id=0)
    visible = packed_attention_mask(rows_of(batch))[:, 0] == 0
    alone = [pad_rows([row], pad_token_id=0) for row in rows]
    masks = [packed_attention_mask(rows_of(row))[0, 0] == 0 for row in alone]
    assert torch.equal(visible[0], torch.block_diag(*masks))
    assert torch.equal(visible[1, :7, :7], masks[0])
    assert visible.any(dim=-1).all()


def test_flex_attention_gets_the_same_mask():
    """The rule itself, and the blocks made from it."""
    rows = [pack_references([7, 8, 9], [[1] * 60, [3] * 70]), pack_references([7] * 9, [[1] * n for n in (40, 55)])]
    batch = pad_rows([join_images(rows * 2), rows[1]], pad_token_id=0)
    visible = packed_attention_mask(rows_of(batch)) == 0  # (B, 1, L, L)
    size, length = batch["segment_ids"].shape
    rule = may_attend(rows_of(batch))
    assert torch.equal(create_mask(rule, size, None, length, length, device="cpu"), visible)
    blocks = packed_block_mask(rows_of(batch))
    padded = torch.nn.functional.pad(visible, (0, -length % 128, 0, -length % 128))
    seen = padded.unflatten(3, (-1, 128)).unflatten(2, (-1, 128)).any(dim=5).any(dim=3)
    assert torch.equal(blocks.to_dense().bool(), seen)
    assert not seen.tril().all()  # some blocks below the diagonal are skipped


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler (g++) on a CPU")
def test_flex_attention_gives_the_same_logits(build_tiny, scene_rows):
    """Forward, as compiled for a CPU, which has no backward of it; the GPU's kernel is not run here."""
    model, processor = build_tiny("llava")
    data, collator = CaptionDataset(scene_rows), CaptionCollator(processor, model.config, "caption")
    batch = collator([[data[0], data[1], data[2]], [data[3]]])  # three pictures in a row, and one with padding
    logits = []
    for attention in ("sdpa", "flex_attention"):
        model.eval().set_attn_implementation({"text_config": attention})
        inputs = model_inputs(batch, model)
        assert isinstance(inputs["attention_mask"], BlockMask) == (attention == "flex_attention")
        del inputs["labels"]
        with torch.no_grad():
            logits.append(model(**inputs).logits)
    torch.testing.assert_close(*logits)
