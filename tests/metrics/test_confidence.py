"""Risk-coverage and reliability against values by hand."""

import numpy as np
import pytest

from hfcap.metrics.confidence import area_under_risk_coverage, reliability, risk_coverage


def test_risk_by_coverage_and_its_area_by_hand():
    curve = risk_coverage([0.2, 0.9, 0.5], [1.0, 0.0, 0.5])
    assert curve == pytest.approx([0, 0.25, 0.5])
    result = area_under_risk_coverage([0.2, 0.9, 0.5], [1.0, 0.0, 0.5])
    assert (result["aurc"], result["random"], result["difference"]) == pytest.approx((0.25, 0.5, -0.25))


def test_a_confidence_that_orders_beats_chance_and_one_that_does_not_has_0_in_its_interval():
    random = np.random.default_rng(0)
    risk = random.random(300)
    low, high = area_under_risk_coverage(-risk, risk, num_resamples=200)["ci95"]
    assert low < high < 0
    low, high = area_under_risk_coverage(random.random(300), risk, num_resamples=200)["ci95"]
    assert low < 0 < high
    assert area_under_risk_coverage(risk, risk, num_resamples=200)["ci95"][0] > 0


def test_bins_have_equal_numbers_the_least_sure_first():
    bins = reliability([0.9, 0.1, 0.5, 0.3], [4.0, 1.0, 3.0, 2.0], num_bins=2)
    assert bins == [
        {"count": 2, "confidence": pytest.approx(0.2), "quality": 1.5},
        {"count": 2, "confidence": pytest.approx(0.7), "quality": 3.5},
    ]
    assert len(reliability([0.1], [1.0])) == 1


@pytest.mark.parametrize(("confidence", "risk"), [([], []), ([1.0], [])])
def test_wrong_inputs(confidence, risk):
    with pytest.raises(ValueError, match="one of each per item"):
        area_under_risk_coverage(confidence, risk)
