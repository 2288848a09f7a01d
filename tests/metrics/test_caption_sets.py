"""Metrics of sets of captions against values by hand, and against the figures of people's captions."""

import math

import numpy as np
import pytest

from hfcap.metrics import compute_metrics, compute_set_metrics
from hfcap.metrics.bootstrap import intervals
from hfcap.metrics.caption_sets import (
    SET_METRICS,
    SetInputs,
    cider_kernels,
    score_sets,
    self_cider,
    uniform_frequencies,
)
from hfcap.metrics.metric import Options

SAME = ["a dog runs on grass"] * 3
APART = ["a dog runs on grass", "two men ride brown horses", "children play near some water"]


def test_captions_that_are_all_one_have_no_diversity_and_captions_without_a_common_word_have_all():
    result = compute_set_metrics([SAME, APART], idf=uniform_frequencies())
    assert result["self_cider_per_image"] == pytest.approx([0, 1], abs=1e-6)
    assert result["self_cider"] == pytest.approx(0.5, abs=1e-6)
    assert result["distinct_1_per_image"] == [5 / 15, 1]
    assert result["distinct_2_per_image"] == [4 / 12, 1]
    assert result["mbleu_4_per_image"] == pytest.approx([1, 0], abs=1e-6)


def test_the_kernel_by_hand():
    """Of "a b" and "a c" the words have the cosine 1/2, the bigrams 0; there are no longer n-grams."""
    (kernel,) = cider_kernels([["a b", "a c"]], uniform_frequencies())
    assert kernel == pytest.approx(np.array([[2, 0.5], [0.5, 2]]) / 4)
    low, high = math.sqrt(1.5), math.sqrt(2.5)  # roots of the eigenvalues, times 2
    assert self_cider(kernel) == pytest.approx(-math.log(high / (low + high)) / math.log(2))


def test_rare_words_weigh_more_in_the_kernel():
    sets = [["a dog", "a cat"], ["a horse", "a horse"]]
    by_sets = cider_kernels(sets)[0]
    assert by_sets[0, 1] == 0  # "a" stands in both documents, so that it weighs nothing
    assert cider_kernels(sets, uniform_frequencies())[0][0, 1] == pytest.approx(0.5 / 4)


def test_mbleu_is_the_bleu_of_each_caption_against_the_others():
    sets = [
        ["a dog runs on green grass", "a dog runs on grass"],
        ["two men", "two men on a horse there", "a man on a horse"],
    ]
    pairs = [(caption, [*captions[:k], *captions[k + 1 :]]) for captions in sets for k, caption in enumerate(captions)]
    expected = compute_metrics(*zip(*pairs, strict=True), metrics=("bleu",))["bleu_4"]
    assert compute_set_metrics(sets)["mbleu_4"] == pytest.approx(expected, abs=1e-12)


def test_first_best_and_mean_are_ciders_of_single_captions():
    references = [["a dog runs on grass", "the dog is on grass"], ["two men ride horses", "men on horses in a field"]]
    sets = [["a cat", "a dog runs on grass", "a dog"], ["two men", "men on horses"]]
    result = compute_set_metrics(sets, references)
    single = [
        [compute_metrics([a, b], references, metrics=("cider",))["cider_per_image"] for b in sets[1]] for a in sets[0]
    ]
    first, second = [row[0][0] for row in single], [pair[1] for pair in single[0]]
    assert result["cider_first_per_image"] == pytest.approx([first[0], second[0]])
    assert result["cider_best_per_image"] == pytest.approx([max(first), max(second)])
    assert result["cider_mean_per_image"] == pytest.approx([sum(first) / 3, sum(second) / 2])


def test_a_set_of_one_has_no_diversity_and_is_compared_with_nothing():
    result = compute_set_metrics([["a dog"], SAME])
    assert result["self_cider_per_image"][0] == 0
    assert result["mbleu_4"] == pytest.approx(1, abs=1e-6)
    assert "cider_best" not in result


def test_a_caption_without_words_is_a_caption():
    assert compute_set_metrics([["", ""], ["a dog", ""]])["self_cider_per_image"][0] == 0


def test_intervals_come_as_for_other_metrics():
    sets = [SAME, APART] * 10
    found = intervals(score_sets(SetInputs(sets, sets, Options())), num_resamples=50)
    assert set(found) == {key for metric in SET_METRICS for key in metric.names}
    assert all(low <= figure["value"] <= high for figure in found.values() for low, high in [figure["ci95"]])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([],), ValueError, "got 0 sets"),
        (([[]],), ValueError, r"image 0 \(captions\) has 0"),
        ((["a dog"],), TypeError, "wanted a list of str"),
        (([["a"]], []), ValueError, "got 1 sets and references for 0 images"),
        (([["a"]], [[]]), ValueError, r"image 0 \(references\) has 0"),
    ],
)
def test_wrong_inputs(arguments, error, message):
    with pytest.raises(error, match=message):
        compute_set_metrics(*arguments)
