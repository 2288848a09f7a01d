"""Which images share a row is known before an epoch, and the same for whoever asks."""

import time

import numpy as np
import pytest
import torch

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.plan import RowSampler, count_rows, image_lengths, plan_rows, train_sampler
from refusals import refused


@pytest.fixture
def lengths():
    return np.random.default_rng(0).integers(60, 140, 500)


def test_every_image_is_in_one_row_and_no_row_is_too_long(lengths):
    num_rows = count_rows(lengths, 1000)
    assert num_rows <= 1.03 * lengths.sum() / 1000  # hardly a row more than there must be
    for epoch in range(3):
        rows = plan_rows(lengths, num_rows, seed=5, epoch=epoch)
        assert sorted(image for row in rows for image in row) == list(range(500))
        totals = [lengths[row].sum() for row in rows]
        assert max(totals) <= 1000
        assert min(totals) > 0.9 * max(totals)


def test_a_plan_is_a_function_of_seed_and_epoch(lengths):
    plans = {key: plan_rows(lengths, 60, *key) for key in ((0, 0), (0, 1), (1, 0))}
    assert plan_rows(lengths, 60, 0, 1) == plans[0, 1]
    together = [{frozenset(row[i : i + 2]) for row in plan for i in range(len(row) - 1)} for plan in plans.values()]
    # Other company in another epoch, not just another order of the rows.
    assert len(together[0] & together[1]) < 0.2 * len(together[0])
    assert len(together[0] & together[2]) < 0.2 * len(together[0])


def test_the_number_of_rows_is_the_smallest_that_keeps_to_the_budget():
    draw = np.random.default_rng(1)
    for _ in range(300):
        lengths = draw.integers(1, 30, draw.integers(1, 25))
        budget = int(lengths.max() + draw.integers(0, 40))
        num_rows = 1
        while max(lengths[row].sum() for row in plan_rows(lengths, num_rows, 0, 0)) > budget:
            num_rows += 1
        assert count_rows(lengths, budget) == num_rows


def test_images_that_cannot_share_a_row_are_counted_in_no_time():
    start = time.perf_counter()
    assert count_rows(np.full(20_000, 650), 1024) == 20_000
    assert time.perf_counter() - start < 5  # one row more at a time took minutes


def test_the_order_is_that_of_data_seed_where_it_is_given(tmp_path, build_tiny, scene_rows):
    model, processor = build_tiny("llava")
    data, collator = CaptionDataset(scene_rows), CaptionCollator(processor, model.config)
    orders = {}
    for data_seed in (None, 0, 1):
        args = CaptionTrainingArguments(output_dir=str(tmp_path), seed=1, data_seed=data_seed)
        orders[data_seed] = list(train_sampler(data, collator, args))
    assert orders[None] == orders[1] != orders[0]


def test_a_budget_below_one_image_is_refused(lengths):
    with refused(option="max_row_tokens", got=100, wanted=f"{lengths.max()} or more"):
        count_rows(lengths, 100)


def test_lengths_are_those_of_the_collated_rows(build_tiny, scene_rows):
    model, processor = build_tiny("llava")
    rows = scene_rows.add_column("prompt", ["", "caption"] * 12)
    data, collator = CaptionDataset(rows), CaptionCollator(processor, model.config, "Describe.")
    collated = [int((collator([data[i]])["segment_ids"] >= 0).sum()) for i in range(len(data))]
    assert image_lengths(data, collator).tolist() == collated
    drawn = CaptionDataset(rows, references=2)
    longest = image_lengths(drawn, collator)
    for epoch in range(3):
        tokens = [collator([drawn[epoch, i]])["segment_ids"].shape[1] for i in range(len(drawn))]
        assert all(np.array(tokens) <= longest)


def test_rows_hold_their_images_in_the_order_of_the_pictures(build_tiny, scene_rows):
    model, processor = build_tiny("llava")
    data, collator = CaptionDataset(scene_rows), CaptionCollator(processor, model.config, "Describe.")
    sampler = RowSampler(image_lengths(data, collator), 400, seed=0)
    keys = list(sampler)
    assert len(keys) == len(sampler) < len(data)
    batch = collator([data[key] for key in keys])
    assert batch["input_ids"].shape[1] <= 400
    images = [index for _, row in keys for index in row]
    alone = torch.cat([collator([data[index]])["pixel_values"] for index in images])
    assert torch.equal(batch["pixel_values"], alone)
    first_words = batch["input_ids"][
        (batch["position_ids"] == collator.prefix_length(None)) & (batch["segment_ids"] == 1)
    ]
    expected = [collator.targets(data[index]["captions"])[0][0] for index in images]
    assert first_words.tolist() == expected


@pytest.mark.parametrize(
    ("family", "packing", "says"),
    [("encoder_decoder", True, "encoder-decoder"), ("llava", False, "packing: auto")],
)
def test_where_images_cannot_share_a_row_it_says_so(tmp_path, build_tiny, scene_rows, family, packing, says):
    model, processor = build_tiny(family)
    args = CaptionTrainingArguments(output_dir=str(tmp_path), max_row_tokens=500)
    with refused(option="max_row_tokens", got=500, says=says):
        train_sampler(CaptionDataset(scene_rows), CaptionCollator(processor, model.config, packing=packing), args)
