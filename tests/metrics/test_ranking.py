"""Average precision, its intervals, and calibration error, by hand."""

import numpy as np
import pytest

from hfcap.metrics.ranking import average_precision, draws, paired_difference, reliability, tag_figures

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
LABELS = np.array([True, False, True, False, False])


def test_average_precision_by_hand():
    assert average_precision(SCORES, LABELS) == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_pictures_of_one_score_are_taken_together():
    # Whatever the order of the rows: three have the word, one of them rightly; the rest come at the prevalence.
    scores = np.array([1, 1, 1, 0, 0])
    for order in ([0, 1, 2, 3, 4], [1, 3, 0, 4, 2]):
        labels = np.array([True, False, False, True, False])
        assert average_precision(scores[order], labels[order]) == pytest.approx(0.5 * 1 / 3 + 0.5 * 2 / 5)


def test_a_constant_score_has_the_prevalence():
    assert average_precision(np.zeros(5), LABELS) == pytest.approx(0.4)


def test_resampled_values_are_those_of_repeated_pictures():
    times = np.array([[2, 0, 1, 3, 0], [1, 1, 1, 1, 1]], dtype=np.float32)
    repeated = np.repeat(np.arange(5), times[0].astype(int))
    values = average_precision(SCORES, LABELS, times)
    assert values[0] == pytest.approx(average_precision(SCORES[repeated], LABELS[repeated]))
    assert values[1] == pytest.approx(average_precision(SCORES, LABELS))


def test_a_sample_without_a_positive_picture_has_no_value():
    assert np.isnan(average_precision(SCORES, LABELS, np.array([[0, 3, 0, 1, 1]])))[0]


def test_figures_leave_out_unknown_labels_and_tags_that_cannot_be_judged():
    labels = np.array([[1, 0], [np.nan, 0], [1, 0], [0, 0], [0, np.nan]])
    figures = tag_figures(np.stack([SCORES, SCORES], axis=1), labels, ["dog", "cat"])
    assert set(figures) == {"map", "average_precision_dog", "prevalence_dog"}
    assert figures["average_precision_dog"]["value"] == pytest.approx(1.0)
    assert figures["prevalence_dog"]["value"] == pytest.approx(0.5)
    assert tag_figures(SCORES[:, None], np.zeros((5, 1)), ["dog"]) == {}


def test_a_paired_difference_is_narrower_than_its_parts():
    random = np.random.default_rng(0)
    labels = random.random(400) < 0.2
    first = labels + random.normal(0, 1, 400)
    second = first + random.normal(0, 0.05, 400)
    low, high = paired_difference(first, second, labels)["ci95"]
    whole = np.percentile(average_precision(first, labels, draws(400)), [2.5, 97.5])
    assert low < 0 < high or abs(low) < 0.05
    assert high - low < (whole[1] - whole[0]) / 3


def test_reliability_by_hand():
    error, bins = reliability(np.array([0.05, 0.05, 0.95, 1.0]), np.array([False, True, True, True]))
    assert [own["count"] for own in bins] == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert bins[0]["share"] == 0.5
    assert bins[1]["share"] is None
    assert error == pytest.approx(0.5 * 0.45 + 0.5 * 0.025)
