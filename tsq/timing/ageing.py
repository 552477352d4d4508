"""What a sample says about a later time: its correctness interval, carried on while the local clock ran (RFC 5905 §7.2, §10).

Comes in: valid samples of one source, each with its server's own error; the time that the answer is for. Goes out: where the
offset is at that time by each sample, and how fast the clock may have run. It must never age a sample at less than the samples
themselves show, and never give an interval in which the offset cannot be.

    offset at t = offset at T4 + g (t - T4) - M        g: the drift; M: how far programs moved the clock meanwhile

Two samples of one source bound the drift between them: their intervals are the ends of all the lines that both allow. Where that
contradicts what is assumed of the clock, the assumption is wrong, and the range of the drift is widened to what was seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, inf

from tsq.timing.local_clock import TOLERANCE, UNDISCIPLINED, ClockReading, drift_range, movement
from tsq.timing.sample import Sample

# No oscillator is off by more, seconds a second: one of the clocks was set.
_MOST_DRIFT = 1e-3


@dataclass(frozen=True, slots=True)
class Judged:
    """A sample, and what its server's own error is taken for at its T4, seconds; known: whether the server told it."""

    sample: Sample
    own_error: float
    known: bool


@dataclass(frozen=True, slots=True)
class Aged:
    """Where the offset is by one sample, ns: at the time that was asked for, but for the drift of elapsed_ns."""

    sample: Sample
    own_error: float
    low_ns: int
    high_ns: int
    elapsed_ns: int

    def ends(self, drift: "Drift") -> tuple[int, int]:
        """(low, high) with the drift, ns, rounded outwards."""
        beyond = max(0.0, drift.most - self.sample.tolerance) * abs((self.sample.t4_ns or 0) - self.sample.t1_ns)
        rates = drift.over(self.elapsed_ns)
        return self.low_ns + floor(min(rates) - beyond), self.high_ns + ceil(max(rates) + beyond)

    def width_ns(self, drift: "Drift") -> int:
        """Twice the aged root distance."""
        low_ns, high_ns = self.ends(drift)
        return high_ns - low_ns


@dataclass(frozen=True, slots=True)
class Drift:
    """How fast the offset may change while the clock runs on: between low and high, seconds a second.

    slowest, fastest: what the samples show by themselves, whatever is assumed. contradicted: they do not fit what is assumed.
    """

    low: float = -TOLERANCE
    high: float = TOLERANCE
    slowest: float = -inf
    fastest: float = inf
    contradicted: bool = False

    @property
    def most(self) -> float:
        """The greatest rate, either way."""
        return max(abs(self.low), abs(self.high))

    def over(self, elapsed: float) -> tuple[float, float]:
        """By how much the offset may change in this span of the local clock's time, in its unit; in no order."""
        return self.low * elapsed, self.high * elapsed

    @property
    def shown(self) -> float | None:
        """The clock's frequency error where the samples show one above 15 ppm; positive: it runs fast, and the offset falls."""
        beyond = self.slowest > TOLERANCE or self.fastest < -TOLERANCE
        return -(self.slowest + self.fastest) / 2 if beyond and not self.set else None

    @property
    def shown_error(self) -> float:
        """By how much `shown` may be wrong."""
        return (self.fastest - self.slowest) / 2

    @property
    def set(self) -> bool:
        """Whether no drift explains the samples: one of the two clocks was set between them."""
        return self.contradicted and (self.slowest > self.fastest or self.slowest > _MOST_DRIFT or self.fastest < -_MOST_DRIFT)


def aged(judged: Sequence[Judged], at_ns: int, now: ClockReading | None) -> list[Aged]:
    """What each sample says about this local time. now: a reading of the clock at about that time, where there is one."""
    found = []
    for one in judged:
        sample = one.sample
        assert sample.t2_ns is not None
        assert sample.t3_ns is not None
        assert sample.t4_ns is not None
        # Integers: a float of many seconds is coarser than a bound may be.
        twice_ns = (sample.t2_ns - sample.t1_ns) + (sample.t3_ns - sample.t4_ns)
        reach_ns = ceil(((sample.root_distance or 0.0) + one.own_error) * 1e9)
        low_ns, high_ns = twice_ns // 2 - reach_ns, -(-twice_ns // 2) + reach_ns
        moved = movement(sample.received, now)
        elapsed_ns = at_ns - sample.t4_ns - moved.moved_ns
        if moved.moved_ns:
            moved_low_ns, moved_high_ns = low_ns - moved.moved_ns - moved.width_ns, high_ns - moved.moved_ns + moved.width_ns
            # After a suspension the offset is as before, after a step it is not; which of them it was cannot be seen.
            low_ns = min(low_ns, moved_low_ns) if moved.stepped else moved_low_ns
            high_ns = max(high_ns, moved_high_ns) if moved.stepped else moved_high_ns
            # The raw clock stands still in a suspended machine.
            elapsed_ns = max(elapsed_ns, at_ns - sample.t4_ns) if moved.stepped else elapsed_ns
        found.append(Aged(sample, one.own_error, low_ns, high_ns, elapsed_ns))
    return found


def drift(found: Sequence[Aged], now: ClockReading | None) -> Drift:
    """How fast the clock may have run: by the kernel's state, and never less than the samples show."""
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
    if not wrong and slowest <= fastest < slowest + 2 * _MOST_DRIFT:
        # What is assumed may be wrong before it is contradicted. The middle of what the samples allow is the likeliest drift, as
        # soon as they allow no more than a clock may have. Where that is not what is assumed, the clock may be as bad as any.
        if not low <= (slowest + fastest) / 2 <= high:
            low, high = min(low, -UNDISCIPLINED), max(high, UNDISCIPLINED)
    elif wrong and slowest <= fastest:
        # One frequency explains all samples. It may wander by as much as a disciplined clock's.
        low, high = min(low, slowest - TOLERANCE), max(high, fastest + TOLERANCE)
    elif wrong:
        low, high = min(low, *(slow for slow, _ in wrong)), max(high, *(fast for _, fast in wrong))
    return Drift(low, high, slowest, fastest, bool(wrong))


def common(found: Sequence[Aged], range_: Drift) -> tuple[int, int]:
    """(low, high), ns: where all the aged intervals meet; all that they span where they do not."""
    ends = [one.ends(range_) for one in found]
    low_ns, high_ns = max(low for low, _ in ends), min(high for _, high in ends)
    if low_ns > high_ns:
        return min(low for low, _ in ends), max(high for _, high in ends)
    return low_ns, high_ns
