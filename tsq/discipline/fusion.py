"""Fusion: what the surviving sources predict, as one prediction (docs/explanation/clock-discipline.md).

Comes in: each survivor's prediction and root distance, and the interval that the majority agrees on. Goes out: one prediction,
inside that interval. It must never follow a source out of the interval.

    weight w_i = part_i / (σ_i² + (Λ_i / 4)²)      Λ_i: the root distance, which bounds the asymmetry that no measurement shows
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

from tsq.discipline.bound import Rate, RawInterval
from tsq.discipline.estimator import Prediction

_ASYMMETRY = 1 / 4
_LEAST_SD = 1e-9
# With fewer votes there is no middle.
_FEW = 3
_FREQUENCY_SDS, _FREQUENCY_LEAST = 5.0, 0.5e-6
_LEAST_FREQUENCY_SD = 1e-12


@dataclass(frozen=True, slots=True)
class Vote:
    """What one survivor says. root_distance, seconds, and part: as they count (`tsq.timing.weight`)."""

    prediction: Prediction
    root_distance: float
    part: float = 1.0


@dataclass(frozen=True, slots=True)
class Fused:
    """True time minus the raw clock at the raw time at_ns, its frequency, and the standard deviations of both, without what is
    unknowable: the noise that steering has to average.
    """

    at_ns: int
    difference_ns: int
    sd: float
    frequency: float
    frequency_sd: float

    def at(self, at_ns: int) -> int:
        """True time minus the raw clock at another raw time, ns."""
        return self.difference_ns + round(self.frequency * (at_ns - self.at_ns))

    def sd_at(self, at_ns: int) -> float:
        """The standard deviation at another raw time, seconds."""
        return sqrt(self.sd**2 + (self.frequency_sd * (at_ns - self.at_ns) / 1e9) ** 2)

    def shifted(self, seconds: int) -> "Fused":
        """The same after a leap second."""
        return replace(self, difference_ns=self.difference_ns + seconds * 1_000_000_000)


def _alike(votes: list[Vote]) -> list[Vote]:
    """Those whose frequency is that of the others: a clock that drifts away is wrong before its interval shows it."""
    if len(votes) < _FEW:
        return votes
    middle = sorted(one.prediction.frequency for one in votes)[len(votes) // 2]
    return [
        one
        for one in votes
        if abs(one.prediction.frequency - middle) <= _FREQUENCY_SDS * one.prediction.frequency_sd + _FREQUENCY_LEAST
    ]


def fuse(votes: Sequence[Vote], agreed: RawInterval, rate: Rate) -> Fused:
    """The weighted mean of the votes at the interval's time; those outside of it count only where all are outside. The frequency is
    one of those that the majority says are possible.
    """
    inside = [one for one in votes if agreed.low_ns <= one.prediction.difference_ns <= agreed.high_ns]
    used = _alike(inside or list(votes))
    base = used[0].prediction.difference_ns
    weight, weighted, squares, rates, rate_weight = 0.0, 0.0, 0.0, 0.0, 0.0
    for one in used:
        found = one.prediction
        sd = max(found.sd, _LEAST_SD)
        share = one.part / (sd**2 + (_ASYMMETRY * one.root_distance) ** 2)
        weight += share
        weighted += share * (found.difference_ns - base)
        squares += (share * sd) ** 2
        rate_share = 1 / max(found.frequency_sd, _LEAST_FREQUENCY_SD) ** 2
        rate_weight += rate_share
        rates += rate_share * found.frequency
    difference_ns = agreed.clamp(base + round(weighted / weight))
    frequency = max(rate.low, min(rates / rate_weight, rate.high))
    return Fused(agreed.at_ns, difference_ns, sqrt(squares) / weight, frequency, 1 / sqrt(rate_weight))
