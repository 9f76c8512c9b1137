"""The beta distribution, without SciPy."""

from __future__ import annotations

import math

_TINY = 1e-300


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), for x in 0..1 and a, b > 0.

    By its continued fraction (DLMF 8.17.22), on the side of the mean where that converges fast.
    """
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(1 - x, b, a)
    log_factor = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log_factor) / (a * _continued_fraction(x, a, b))


def beta_ppf(p: float, a: float, b: float) -> float:
    """The x with beta_cdf(x, a, b) = p, by bisection down to the resolution of a float."""
    if p <= 0:
        return 0.0
    if p >= 1:
        return 1.0
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        if beta_cdf(middle, a, b) < p:
            low = middle
        else:
            high = middle


def _continued_fraction(x: float, a: float, b: float) -> float:
    """1 + d1 / (1 + d2 / (1 + ...)), evaluated from the front by Lentz's method."""
    value, numerator_ratio, denominator_ratio = 1.0, 1.0, 0.0
    for n in range(1, 1000):
        d = _coefficient(n, x, a, b)
        denominator_ratio = 1 / ((1 + d * denominator_ratio) or _TINY)
        numerator_ratio = (1 + d / numerator_ratio) or _TINY
        change = numerator_ratio * denominator_ratio
        value *= change
        if abs(change - 1) < 1e-15:
            break
    return value


def _coefficient(n: int, x: float, a: float, b: float) -> float:
    m = n // 2
    if n % 2:
        return -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
    return m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
