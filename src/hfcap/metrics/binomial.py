"""Intervals for proportions: exact bounds (Clopper and Pearson, 1934) and Wilson's interval (1927).

C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
Biometrika 26. Their bounds are quantiles of beta distributions, found here by bisection of the regularized incomplete
beta function, whose continued fraction is 26.5.8 in Abramowitz and Stegun, "Handbook of mathematical functions".

Counts may be fractions. With sampling weights they are effective counts (Korn and Graubard, "Confidence intervals for
proportions with small expected number of positive counts estimated from survey data", Survey Methodology 24, 1998).
"""

import math

_TINY = 1e-300


def lower_bound(successes: float, trials: float, confidence: float = 0.95) -> float:
    """Return the one-sided exact lower bound of a proportion: in `confidence` of all cases the true one is above it.

    Raises:
        ValueError: not 0 <= successes <= trials, or a confidence that is not between 0 and 1.
    """
    _check(successes, trials, confidence)
    if successes <= 0:
        return 0.0
    return _beta_quantile(1 - confidence, successes, trials - successes + 1)


def upper_bound(successes: float, trials: float, confidence: float = 0.95) -> float:
    """Return the one-sided exact upper bound; raises as `lower_bound`."""
    _check(successes, trials, confidence)
    if successes >= trials:
        return 1.0
    return _beta_quantile(confidence, successes + 1, trials - successes)


def exact_interval(successes: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the two-sided Clopper–Pearson interval; raises as `lower_bound`."""
    one_sided = 1 - (1 - confidence) / 2
    return lower_bound(successes, trials, one_sided), upper_bound(successes, trials, one_sided)


def wilson_interval(successes: float, trials: float) -> tuple[float, float]:
    """Return the two-sided 95 % interval of Wilson, "Probable inference", JASA 22; (0, 1) without trials."""
    _check(successes, trials, 0.95)
    if not trials:
        return 0.0, 1.0
    z = 1.959963984540054
    share, square = successes / trials, z * z / trials
    middle, half = share + square / 2, z * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))


def trials_needed(share: float, target: float, confidence: float = 0.95, most: int = 1_000_000) -> int | None:
    """Return the trials of which `share` must succeed for a lower bound of `target`; None where `most` do not do."""

    def reaches(trials: int) -> bool:
        return lower_bound(min(share * trials, trials), trials, confidence) >= target

    if share <= target or not reaches(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def _check(successes: float, trials: float, confidence: float) -> None:
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials; wanted 0 <= successes <= trials")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; wanted a number between 0 and 1")


def _beta_quantile(probability: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    while high - low > 1e-14:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if regularized_beta(middle, a, b) < probability else (low, middle)
    return (low + high) / 2


def regularized_beta(x: float, a: float, b: float) -> float:
    """Return I_x(a, b), the distribution function of the beta distribution, for 0 <= x <= 1 and a, b > 0."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side only
        return 1 - regularized_beta(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    """Evaluate 1 / (1 + d1 / (1 + d2 / ...)) from the front (Lentz, 1976)."""
    value, c, d = 1.0, math.inf, 1.0
    for step in range(1, 100_000):
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + term * d or _TINY)
        c = 1 + term / c or _TINY
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            return value
    raise ArithmeticError(f"the beta distribution of {a} and {b} does not converge at {x}")
