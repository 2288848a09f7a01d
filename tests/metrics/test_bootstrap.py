"""Bootstrap: intervals agree with theory and with a plain loop, and differences are found where they are."""

import numpy as np
import pytest

from hfcap.metrics import compare_systems, compute_metrics, confidence_intervals
from hfcap.metrics.bootstrap import resample
from hfcap.metrics.compute import score
from hfcap.metrics.metric import Inputs

WORDS = np.array(["a", "the", "dog", "cat", "man", "red", "small", "runs", "sits", "on", "under", "grass", "with"])


def make_captions(seed: int, num_images: int = 120) -> tuple[list[str], list[list[str]]]:
    random = np.random.default_rng(seed)

    def caption():
        return " ".join(random.choice(WORDS, size=random.integers(4, 10)))

    return [caption() for _ in range(num_images)], [[caption() for _ in range(3)] for _ in range(num_images)]


def test_values_are_those_of_compute_metrics_and_inside_their_interval():
    predictions, references = make_captions(0)
    intervals = confidence_intervals(predictions, references)
    values = compute_metrics(predictions, references)
    assert set(intervals) == {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"}
    for key, entry in intervals.items():
        assert entry["value"] == values[key]
        assert entry["ci95"][0] < entry["value"] < entry["ci95"][1]


def test_interval_of_a_mean_has_the_width_of_the_normal_approximation():
    predictions, references = make_captions(1, num_images=400)
    per_image = compute_metrics(predictions, references)["rouge_l_per_image"]
    low, high = confidence_intervals(predictions, references, ("rouge_l",), num_resamples=4000)["rouge_l"]["ci95"]
    expected = 2 * 1.96 * np.std(per_image) / np.sqrt(400)
    assert high - low == pytest.approx(expected, rel=0.06)


def test_bleu_of_a_resample_is_bleu_of_the_drawn_images():
    predictions, references = make_captions(2, num_images=30)
    (scores,) = score(Inputs(predictions, references), ("bleu",))
    drawn = np.random.default_rng(7).integers(30, size=(5, 30))  # the draw that seed 7 makes
    for values, images in zip(resample(scores, 5, seed=7), drawn, strict=True):
        again = compute_metrics([predictions[i] for i in images], [references[i] for i in images], ("bleu",))
        assert values == pytest.approx([again[f"bleu_{order}"] for order in (1, 2, 3, 4)], abs=1e-12)


def test_pieces_do_not_change_the_draw(monkeypatch):
    predictions, references = make_captions(3, num_images=20)
    (scores,) = score(Inputs(predictions, references), ("rouge_l",))
    whole = resample(scores, 50)
    monkeypatch.setattr("hfcap.metrics.bootstrap._CHUNK", 60)
    assert resample(scores, 50) == pytest.approx(whole, abs=1e-14)


def test_comparison_finds_the_better_system():
    predictions, references = make_captions(4)
    better = list(predictions)
    better[::2] = [captions[0] for captions in references[::2]]
    entry = compare_systems(predictions, better, references, ("bleu", "cider"))["cider"]
    assert entry["difference"] == entry["b"] - entry["a"] > 0
    assert 0 < entry["ci95"][0] < entry["difference"] < entry["ci95"][1]
    assert entry["p_value"] == pytest.approx(2 / 1001)
    mirrored = compare_systems(better, predictions, references, ("cider",))["cider"]
    assert mirrored["ci95"] == pytest.approx([-entry["ci95"][1], -entry["ci95"][0]])


def test_a_system_does_not_differ_from_itself():
    predictions, references = make_captions(5)
    entry = compare_systems(predictions, predictions, references, ("bleu",))["bleu_4"]
    assert (entry["difference"], entry["ci95"], entry["p_value"]) == (0.0, [0.0, 0.0], 1.0)


def test_p_values_of_equal_systems_are_spread_evenly():
    # Two systems of the same quality: about a tenth of the p-values are below 0.1, not half and not none.
    small = 0
    for seed in range(60):
        first, references = make_captions(100 + seed, num_images=60)
        second, _ = make_captions(200 + seed, num_images=60)
        entry = compare_systems(first, second, references, ("rouge_l",), num_resamples=300)["rouge_l"]
        small += entry["p_value"] < 0.1
    assert 1 <= small <= 15


def test_number_of_resamples_is_checked():
    with pytest.raises(ValueError, match="num_resamples is 0, wanted at least 1"):
        confidence_intervals(["a b"], [["a b"]], ("rouge_l",), num_resamples=0)
