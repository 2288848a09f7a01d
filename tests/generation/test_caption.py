"""Captions do not depend on how rows are batched, read or stored."""

import threading
import time

import pytest
import torch

from hfcap.data.reading import read_ahead
from hfcap.generation import caption
from hfcap.generation.caption import batches_by_length, caption_rows, caption_stream
from hfcap.generation.inputs import CaptionPrefix

PROMPTS = ("caption", None, "a much longer instruction", "caption", "say what is there", None, "caption")


@pytest.fixture
def build_lively(build_tiny):
    """Tiny captioners whose weights are so large that captions differ from picture to picture."""

    def build(family):
        model, processor = build_tiny(family)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(8)
        model.generation_config.suppress_tokens = [*(model.generation_config.suppress_tokens or []), 0, 1, 2]
        return model, processor

    return build


@pytest.fixture
def rows(scene_rows):
    return [{"image": row["image"]} for row in scene_rows.select(range(7))]


@pytest.fixture
def rows_with_prompts(rows):
    return [row | ({"prompt": prompt} if prompt else {}) for row, prompt in zip(rows, PROMPTS, strict=True)]


@pytest.mark.parametrize("family", ["llava", "encoder_decoder"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_captions_are_the_same_for_any_batch_size(build_lively, rows, rows_with_prompts, family, num_beams):
    model, processor = build_lively(family)
    rows = rows_with_prompts if family == "llava" else rows
    prompt = "the prompt of the run" if family == "llava" else None
    settings = {"num_beams": num_beams, "max_new_tokens": 6}
    alone = [caption_rows(model, processor, [row], prompt, **settings)[0] for row in rows]
    for batch_size in (2, 3, 16):
        assert caption_rows(model, processor, rows, prompt, batch_size, **settings) == alone
    assert len(set(alone)) > 3


@pytest.mark.parametrize("family", ["llava", "encoder_decoder"])
def test_cached_features_give_the_captions_of_the_pictures(build_lively, rows, family):
    model, processor = build_lively(family)
    pixel_values = processor.image_processor([row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        features = model.eval().get_vision_features(pixel_values)
    cached = [{"vision_features": feature} for feature in features]
    for settings in ({}, {"num_beams": 3}):
        assert caption_rows(model, processor, cached, **settings) == caption_rows(model, processor, rows, **settings)


def test_a_batch_holds_prompts_of_one_length_and_no_caption_is_lost(build_tiny, rows_with_prompts, monkeypatch):
    model, processor = build_tiny("llava")
    seen, original = [], caption.generate_tokens

    def record(model, processor, prefixes, *settings):
        seen.append([len(prefix.input_ids) for prefix in prefixes])
        return original(model, processor, prefixes, *settings)

    monkeypatch.setattr(caption, "generate_tokens", record)
    found = dict(caption_stream(model, processor, rows_with_prompts, "caption", batch_size=2))
    assert sorted(found) == list(range(7))
    assert all(len(set(lengths)) == 1 for lengths in seen)
    assert sorted(map(len, seen)) == [1, 1, 1, 2, 2]  # five of one length, and two others


def test_many_lengths_do_not_wait_for_ever():
    prefixes = ((i, CaptionPrefix([0] * (1 + i), {})) for i in range(100))
    batches = batches_by_length(prefixes, batch_size=2)
    first = next(batches)
    assert next(prefixes)[0] == caption.MAX_WAITING * 2
    assert len(first) == 1


def test_reading_ahead_keeps_the_order_and_stays_within_its_depth():
    started, lock = [], threading.Lock()

    def slow_square(number):
        with lock:
            started.append(number)
        time.sleep(0.01 if number % 2 else 0)
        return number**2

    results = read_ahead(slow_square, range(20), depth=3)
    assert next(results) == 0
    assert max(started) <= 3
    assert list(results) == [number**2 for number in range(1, 20)]


class Broken(list):
    def __getitem__(self, index):
        if index == 4:
            raise OSError("truncated")
        return super().__getitem__(index)


def test_a_row_that_cannot_be_read_stops_the_run_or_is_left_out(build_tiny, rows):
    model, processor = build_tiny("llava")
    model.train()
    with pytest.raises(OSError, match="truncated"):
        caption_rows(model, processor, Broken(rows), batch_size=2)
    assert model.training
    bad = []
    found = caption_stream(
        model, processor, Broken(rows), None, 2, lambda index, error: bad.append((index, str(error)))
    )
    assert sorted(index for index, _ in found) == [0, 1, 2, 3, 5, 6]
    assert bad == [(4, "truncated")]
    assert model.training
