"""Seeded samples: the distribution, the log-probabilities, and independence of the batch."""

import math
from dataclasses import replace

import pytest
import torch

from hfcap.data.reading import loads_of
from hfcap.generation.caption import caption_rows
from hfcap.generation.sampling import Sampling, SeededChoice, random_numbers, sample_stream

FIVE = Sampling(num_samples=5)


@pytest.fixture
def rows(scene_rows):
    return [{"image": row["image"]} for row in scene_rows.select(range(5))]


def samples_of(model, processor, rows, sampling=FIVE, seed=0, batch_size=2, key_of=str):
    found = dict(sample_stream(model, processor, loads_of(rows), key_of, sampling, seed, batch_size=batch_size))
    return [found[index] for index in range(len(rows))]


def choices(probabilities, sampling, steps=1000):
    """Tokens chosen by evenly spread numbers: the distribution itself."""
    numbers = (torch.arange(steps, dtype=torch.float64)[:, None] + 0.5) / steps
    choice = SeededChoice(numbers, sampling, end_ids=[0])
    scores = choice(None, torch.tensor(probabilities).log().expand(steps, -1))
    assert ((scores == 0).sum(dim=1) == 1).all() and (scores.isinf().sum(dim=1) == len(probabilities) - 1).all()
    chosen = scores.argmax(dim=1)
    logs = choice.log_probabilities[0]
    assert torch.allclose(logs.exp(), torch.tensor(probabilities)[chosen])
    return (torch.bincount(chosen, minlength=len(probabilities)) / steps).tolist()


def test_tokens_are_drawn_by_their_probability():
    half = [math.sqrt(p) for p in (0.1, 0.5, 0.4)]
    assert choices([0.1, 0.5, 0.4], FIVE) == pytest.approx([0.1, 0.5, 0.4], abs=0.002)
    assert choices([0.1, 0.5, 0.4], replace(FIVE, temperature=2.0)) == pytest.approx(
        [p / sum(half) for p in half], abs=0.002
    )
    assert choices([0.1, 0.5, 0.4], replace(FIVE, temperature=0)) == [0, 1, 0]
    assert choices([0.1, 0.5, 0.4], replace(FIVE, top_p=0.8)) == pytest.approx([0, 5 / 9, 4 / 9], abs=0.002)
    assert choices([0.1, 0.5, 0.4], replace(FIVE, end_bias=math.log(9))) == pytest.approx(
        [0.9 / 1.8, 0.5 / 1.8, 0.4 / 1.8], abs=0.002
    )


def test_a_token_without_probability_is_never_drawn():
    numbers = torch.tensor([[0.0], [1 - 2**-53]], dtype=torch.float64)
    choice = SeededChoice(numbers, FIVE, end_ids=[])
    scores = choice(None, torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]] * 2))
    assert scores.argmax(dim=1).tolist() == [1, 2]


def test_numbers_depend_on_seed_and_key_alone():
    first = random_numbers(0, "a", (3, 4))
    assert (first == random_numbers(0, "a", (3, 4))).all()
    assert all((first != random_numbers(*other, (3, 4))).all() for other in ((1, "a"), (0, "b")))


@pytest.mark.parametrize("family", ["llava", "encoder_decoder"])
def test_samples_do_not_depend_on_the_batch(build_tiny, rows, family):
    model, processor = build_tiny(family)
    alone = samples_of(model, processor, rows, batch_size=1)
    for batch_size in (2, 5):
        found = samples_of(model, processor, rows, batch_size=batch_size)
        assert [[s.caption for s in of_row] for of_row in found] == [[s.caption for s in of_row] for of_row in alone]
    assert len({sample.caption for of_row in alone for sample in of_row}) > 10
    backwards = samples_of(model, processor, rows[::-1], key_of=lambda index: str(4 - index))
    assert [s.caption for s in backwards[0]] == [s.caption for s in alone[4]]
    other = samples_of(model, processor, rows, seed=1)
    assert [s.caption for s in other[0]] != [s.caption for s in alone[0]]


@pytest.mark.parametrize("family", ["llava", "encoder_decoder"])
def test_without_temperature_it_is_greedy_decoding(build_tiny, rows, family):
    model, processor = build_tiny(family)
    found = samples_of(model, processor, rows, Sampling(num_samples=1, temperature=0))
    assert [of_row[0].caption for of_row in found] == caption_rows(model, processor, rows, num_beams=1)


def test_log_probabilities_are_those_of_the_model_whatever_the_temperature(build_tiny, rows):
    model, processor = build_tiny("encoder_decoder")
    model.eval()
    end = model.generation_config.eos_token_id
    pixels = processor.image_processor([rows[0]["image"]], return_tensors="pt")["pixel_values"]
    for sample in samples_of(model, processor, rows[:1], replace(FIVE, temperature=0.5, end_bias=3.0))[0]:
        ids = list(sample.tokens)
        assert (ids[-1] == end) is not sample.is_cut
        inputs = torch.tensor([[model.config.decoder_start_token_id, *ids[:-1]]])
        with torch.inference_mode():
            logs = model(pixel_values=pixels, decoder_input_ids=inputs).logits[0].log_softmax(dim=-1)
        expected = logs[range(len(ids)), ids].tolist()
        assert sample.log_probabilities == pytest.approx(expected, abs=1e-4)
        assert sample.log_probability == pytest.approx(sum(expected) / len(expected), abs=1e-4)


def test_what_is_to_be_avoided_is_not_drawn_and_the_model_keeps_its_settings(build_tiny, rows):
    model, processor = build_tiny("encoder_decoder")
    before = model.generation_config.to_dict()
    avoid = tuple((number,) for text, number in processor.tokenizer.get_vocab().items() if "e" in text.lower())

    def have_e(sampling):
        return [
            "e" in sample.caption.lower()
            for of_row in samples_of(model, processor, rows, sampling)
            for sample in of_row
        ]

    assert any(have_e(FIVE))
    assert not any(have_e(replace(FIVE, avoid=avoid)))
    assert model.generation_config.to_dict() == before


def test_a_caption_without_an_end_is_cut(build_tiny, rows):
    model, processor = build_tiny("encoder_decoder")
    ended = samples_of(model, processor, rows, replace(FIVE, end_bias=100.0))
    cut = samples_of(model, processor, rows, replace(FIVE, end_bias=-100.0))
    assert all(not s.is_cut and len(s.log_probabilities) == 1 and not s.caption for of_row in ended for s in of_row)
    assert all(s.is_cut and len(s.log_probabilities) == 8 for of_row in cut for s in of_row)
