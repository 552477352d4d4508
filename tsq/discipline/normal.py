"""The normal distribution: its density φ, its cumulative distribution Φ, and differences of Φ that keep their digits in the tails.

Comes in: floats. Goes out: floats. It must never raise for a finite argument.
"""

from math import erfc, exp, pi, sqrt

_ROOT_HALF = sqrt(0.5)
_PEAK = 1 / sqrt(2 * pi)
# φ is 0 as a float beyond this.
_FARTHEST = 38.5


def density(x: float) -> float:
    """φ(x)."""
    return _PEAK * exp(-0.5 * x * x) if -_FARTHEST < x < _FARTHEST else 0.0


def cumulative(x: float) -> float:
    """Φ(x)."""
    return 0.5 * erfc(-x * _ROOT_HALF)


def between(low: float, high: float) -> float:
    """Φ(high) - Φ(low) for low <= high. Above 0, both are near 1: the difference of the upper tails is exact there."""
    if low > 0:
        return 0.5 * (erfc(low * _ROOT_HALF) - erfc(high * _ROOT_HALF))
    return 0.5 * (erfc(-high * _ROOT_HALF) - erfc(-low * _ROOT_HALF))
