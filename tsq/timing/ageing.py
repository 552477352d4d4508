"""Ageing of samples: the correctness interval of a sample at another time than its own (RFC 5905 §7.2, §10).

Comes in: usable samples of one source, and a local time. Goes out: the interval of each sample at that time, and the range of the
clock's drift. Must never assume a smaller drift than the samples show, and never give an interval that excludes the true offset.

    offset(t) = offset(T4) + g (t - T4) - M        g: drift; M: how far programs moved the clock since (`local_clock.movement`)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, inf

from tsq.timing.local_clock import MAX_DRIFT, TOLERANCE, UNDISCIPLINED, ClockReading, drift_range, movement
from tsq.timing.sample import Sample


@dataclass(frozen=True, slots=True)
class UsableSample:
    """A sample, and the own error of its server at T4, seconds. known: the server reported that error; else it is assumed."""

    sample: Sample
    own_error: float
    known: bool


@dataclass(frozen=True, slots=True)
class AgedSample:
    """The interval of the offset from one sample, ns, moved to another time; the drift over elapsed_ns is not in it yet."""

    sample: Sample
    own_error: float
    low_ns: int
    high_ns: int
    elapsed_ns: int

    def ends(self, drift: "Drift") -> tuple[int, int]:
        """(low, high) with the drift, ns, rounded outwards."""
        # The sample's dispersion allows for its tolerance alone; the drift may be larger.
        beyond = max(0.0, drift.most - self.sample.tolerance) * abs((self.sample.t4_ns or 0) - self.sample.t1_ns)
        rates = drift.over(self.elapsed_ns)
        return self.low_ns + floor(min(rates) - beyond), self.high_ns + ceil(max(rates) + beyond)

    def width_ns(self, drift: "Drift") -> int:
        """Twice the aged root distance."""
        low_ns, high_ns = self.ends(drift)
        return high_ns - low_ns


@dataclass(frozen=True, slots=True)
class Drift:
    """The rate at which the offset may change: low to high, seconds per second.

    slowest, fastest: the limits that the samples alone give. contradicted: the samples exclude the assumed rates.
    """

    low: float = -TOLERANCE
    high: float = TOLERANCE
    slowest: float = -inf
    fastest: float = inf
    contradicted: bool = False

    @property
    def most(self) -> float:
        """The greatest rate, in either direction."""
        return max(abs(self.low), abs(self.high))

    def over(self, elapsed: float) -> tuple[float, float]:
        """The two limits of the offset's change in this span of local time, in the unit of the span; not sorted."""
        return self.low * elapsed, self.high * elapsed

    @property
    def shown(self) -> float | None:
        """The clock's frequency error where the samples prove more than 15 ppm; positive: it runs fast, and the offset falls."""
        beyond = self.slowest > TOLERANCE or self.fastest < -TOLERANCE
        return -(self.slowest + self.fastest) / 2 if beyond and not self.set else None

    @property
    def shown_error(self) -> float:
        """The error bound of `shown`."""
        return (self.fastest - self.slowest) / 2

    @property
    def set(self) -> bool:
        """Whether no drift can explain the samples: one of the two clocks was set between them."""
        return self.contradicted and (self.slowest > self.fastest or self.slowest > MAX_DRIFT or self.fastest < -MAX_DRIFT)


def aged(judged: Sequence[UsableSample], at_ns: int, now: ClockReading | None) -> list[AgedSample]:
    """The interval of each sample at this local time. now: a reading of the clock at about that time, if there is one."""
    found = []
    for one in judged:
        sample = one.sample
        assert sample.t2_ns is not None
        assert sample.t3_ns is not None
        assert sample.t4_ns is not None
        # Integers: a float of many seconds is coarser than the bound.
        twice_ns = (sample.t2_ns - sample.t1_ns) + (sample.t3_ns - sample.t4_ns)
        reach_ns = ceil(((sample.root_distance or 0.0) + one.own_error) * 1e9)
        low_ns, high_ns = twice_ns // 2 - reach_ns, -(-twice_ns // 2) + reach_ns
        moved = movement(sample.received, now)
        elapsed_ns = at_ns - sample.t4_ns - moved.moved_ns
        if moved.moved_ns:
            moved_low_ns, moved_high_ns = low_ns - moved.moved_ns - moved.width_ns, high_ns - moved.moved_ns + moved.width_ns
            # A step changes the offset, a suspension of the machine does not. The readings cannot tell them apart: allow for both.
            low_ns = min(low_ns, moved_low_ns) if moved.stepped else moved_low_ns
            high_ns = max(high_ns, moved_high_ns) if moved.stepped else moved_high_ns
            # The raw clock stops while the machine is suspended.
            elapsed_ns = max(elapsed_ns, at_ns - sample.t4_ns) if moved.stepped else elapsed_ns
        found.append(AgedSample(sample, one.own_error, low_ns, high_ns, elapsed_ns))
    return found


def drift(found: Sequence[AgedSample], now: ClockReading | None) -> Drift:
    """The range of the drift: from the kernel's state, widened where the samples contradict it.

    Two samples of one source bound the drift between them: the line through both offsets stays inside both intervals.
    """
    tolerance = max(one.sample.tolerance for one in found)
    low, high = drift_range([*(one.sample.received for one in found), now], tolerance)
    slowest, fastest = -inf, inf
    wrong: list[tuple[float, float]] = []
    for place, one in enumerate(found):
        for other in found[place + 1 :]:
            early, late = (one, other) if one.elapsed_ns > other.elapsed_ns else (other, one)
            span_ns = early.elapsed_ns - late.elapsed_ns
            if span_ns:
                slow, fast = (late.low_ns - early.high_ns) / span_ns, (late.high_ns - early.low_ns) / span_ns
                slowest, fastest = max(slowest, slow), min(fastest, fast)
                if slow > high or fast < low:
                    wrong.append((slow, fast))
    if not wrong and slowest <= fastest < slowest + 2 * MAX_DRIFT:
        # The assumed range may be wrong before the samples prove it. The middle of what they allow is the most likely drift, once
        # they allow no impossible one. If the middle is outside of the assumed range, assume an undisciplined clock.
        if not low <= (slowest + fastest) / 2 <= high:
            low, high = min(low, -UNDISCIPLINED), max(high, UNDISCIPLINED)
    elif wrong and slowest <= fastest:
        # One frequency explains all samples. It may wander by the tolerance of a disciplined clock.
        low, high = min(low, slowest - TOLERANCE), max(high, fastest + TOLERANCE)
    elif wrong:
        low, high = min(low, *(slow for slow, _ in wrong)), max(high, *(fast for _, fast in wrong))
    return Drift(low, high, slowest, fastest, bool(wrong))


def common(found: Sequence[AgedSample], range_: Drift) -> tuple[int, int]:
    """(low, high), ns: the intersection of all aged intervals; their hull where it is empty."""
    ends = [one.ends(range_) for one in found]
    low_ns, high_ns = max(low for low, _ in ends), min(high for _, high in ends)
    if low_ns > high_ns:
        return min(low for low, _ in ends), max(high for _, high in ends)
    return low_ns, high_ns
