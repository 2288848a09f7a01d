import pytest
import torch

from hfcap.training.packing import attention_mask_from_segments, pack_references, pad_rows


def test_each_reference_restarts_after_the_prefix():
    row = pack_references([7, 8, 9], [[1, 2, 0], [3, 0]])
    assert row["input_ids"] == [7, 8, 9, 1, 2, 9, 3]
    assert row["shift_labels"] == [-100, -100, 1, 2, 0, 3, 0]
    assert row["position_ids"] == [0, 1, 2, 3, 4, 2, 3]
    assert row["segment_ids"] == [0, 0, 1, 1, 1, 2, 2]


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
    visible = attention_mask_from_segments(batch["segment_ids"])[:, 0] == 0  # (B, L, L)
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
