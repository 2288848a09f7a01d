"""Clopper–Pearson and Wilson bounds, against published figures and against sums of binomial probabilities."""

import math
import random

import pytest

from hfcap.metrics.binomial import (
    exact_interval,
    lower_bound,
    regularized_beta,
    trials_needed,
    upper_bound,
    wilson_interval,
)


def at_least(successes, trials, p):
    return sum(math.comb(trials, i) * p**i * (1 - p) ** (trials - i) for i in range(successes, trials + 1))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", Stat. Med. 17, 1998: table I, method 5
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
        (29, 29, 0.8806, 1.0),
    ],
)
def test_exact_intervals_are_those_of_newcombe(successes, trials, low, high):
    assert exact_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_those_of_newcombe(successes, trials, low, high):
    # The same table, method 3.
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_bounds_are_where_the_binomial_tail_has_the_probability_left():
    draw = random.Random(0)
    for _ in range(100):
        trials = draw.randint(1, 200)
        successes = draw.randint(1, trials)
        assert at_least(successes, trials, lower_bound(successes, trials, 0.9)) == pytest.approx(0.1, abs=1e-9)
        if successes < trials:
            tail = 1 - at_least(successes + 1, trials, upper_bound(successes, trials))
            assert tail == pytest.approx(0.05, abs=1e-9)


def test_extremes():
    assert lower_bound(0, 10) == 0 and upper_bound(10, 10) == 1 and wilson_interval(0, 0) == (0.0, 1.0)
    assert lower_bound(29, 29) == pytest.approx(0.05 ** (1 / 29))
    assert lower_bound(999_000, 1_000_000) == pytest.approx(0.999, abs=1e-4)
    assert regularized_beta(0.0, 2, 3) == 0 and regularized_beta(1.0, 2, 3) == 1
    for successes, trials in ((-1, 10), (11, 10), (math.nan, 10)):
        with pytest.raises(ValueError, match="wanted 0 <= successes"):
            lower_bound(successes, trials)
    with pytest.raises(ValueError, match="confidence"):
        lower_bound(1, 2, 1.0)


def test_trials_needed_is_the_smallest_number_that_does():
    assert trials_needed(1.0, 0.9) == 29  # 0.9 ** 29 is the first power below 0.05
    assert trials_needed(0.95, 0.9) is not None
    number = trials_needed(0.95, 0.9)
    assert lower_bound(0.95 * number, number) >= 0.9 > lower_bound(0.95 * (number - 1), number - 1)
    assert trials_needed(0.9, 0.9) is None and trials_needed(0.5, 0.9) is None
