"""The bound: where true time can be against the raw clock, from the newest samples of a source (docs/explanation/error-bounds.md).

Comes in: intervals of true time minus the raw clock at raw times. Goes out: the interval at another raw time. It must never exclude
the truth while the source is right and the oscillator stays within the assumed rates, nor cost more with a longer run.

    low(t) = max (low_i + g_low (t - t_i))      high(t) = min (high_i + g_high (t - t_i))      g: the frequency of true time
"""

from dataclasses import dataclass
from math import ceil, floor, inf

from tsq.timing.local_clock import MAX_DRIFT

# Before the frequency is known: no usual oscillator is farther from what it is assumed to be, seconds per second.
UNKNOWN = 150e-6
# The newest samples are kept, and of the older ones those that still limit the interval.
_NEWEST = 4
_MOST = 8
# Samples that limit the frequency. An oscillator's frequency wanders by less than the tolerance in that time.
_MOST_ANCHORS = 12
_OLDEST_ANCHOR_NS = 3600 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast true time may run against the raw clock, minus 1."""

    low: float = -UNKNOWN
    high: float = UNKNOWN

    @classmethod
    def around(cls, frequency: float, tolerance: float) -> "Rate":
        """This frequency, and a tolerance on both sides."""
        return cls(frequency - tolerance, frequency + tolerance)

    def hull(self, other: "Rate") -> "Rate":
        """The least range that contains both."""
        return Rate(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True, slots=True)
class RawInterval:
    """True time minus the raw clock lies between low_ns and high_ns at the raw time at_ns."""

    at_ns: int
    low_ns: int
    high_ns: int

    def aged(self, at_ns: int, rate: Rate) -> "RawInterval":
        """The interval at another raw time, rounded outwards."""
        elapsed = at_ns - self.at_ns
        if not elapsed:
            return self
        slow, fast = rate.low * elapsed, rate.high * elapsed
        if elapsed < 0:
            slow, fast = fast, slow
        return RawInterval(at_ns, self.low_ns + floor(slow), self.high_ns + ceil(fast))

    def gap_ns(self, other: "RawInterval") -> int:
        """How far the other one lies above (positive) or below this one; 0: they overlap."""
        return max(0, other.low_ns - self.high_ns) - max(0, self.low_ns - other.high_ns)

    def hull(self, other: "RawInterval") -> "RawInterval":
        """The least interval that contains both, which hold at the same time."""
        return RawInterval(self.at_ns, min(self.low_ns, other.low_ns), max(self.high_ns, other.high_ns))

    def clamp(self, difference_ns: int) -> int:
        """The point of the interval nearest to this one."""
        return min(max(difference_ns, self.low_ns), self.high_ns)

    def distance_from(self, difference_ns: int) -> float:
        """The distance from this point to the farther end, seconds."""
        return max(self.high_ns - difference_ns, difference_ns - self.low_ns) / 1e9

    def shifted(self, by_ns: int) -> "RawInterval":
        """The same interval, moved."""
        return RawInterval(self.at_ns, self.low_ns + by_ns, self.high_ns + by_ns)


@dataclass(slots=True)
class _Kept:
    """The interval of one sample, with the server's own error in it, ns."""

    interval: RawInterval
    own_ns: int


class History:
    """The samples of one source that limit where true time is."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []
        # Samples of the last hour, at growing distances: they limit the frequency.
        self._anchors: list[_Kept] = []
        # What the samples show beyond the assumed rates.
        self._shown: Rate | None = None
        self._jumped = False
        # The newest result of `at`, with what it was asked for.
        self._found: tuple[int, Rate, tuple[RawInterval, Rate]] | None = None

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def first_ns(self) -> int | None:
        """The raw time of the oldest sample that counts."""
        return self._kept[0].interval.at_ns if self._kept else None

    def clear(self) -> None:
        """Forget all samples."""
        self._kept.clear()
        self._anchors.clear()
        self._shown, self._jumped, self._found = None, False, None

    def add(self, at_ns: int, middle_ns: int, reach: float, own_error: float, rate: Rate) -> None:
        """A sample, newer than all before. reach: its half width without the server's own error; both in seconds.

        A larger error that the server reports now counts for the older samples too: it may not have known it then.
        """
        self._found = None
        own_ns = ceil(own_error * 1e9)
        for kept in (*self._kept, *self._anchors):
            if own_ns > kept.own_ns:
                more, one = own_ns - kept.own_ns, kept.interval
                kept.interval, kept.own_ns = RawInterval(one.at_ns, one.low_ns - more, one.high_ns + more), own_ns
        half_ns = ceil(reach * 1e9) + own_ns
        interval = RawInterval(at_ns, middle_ns - half_ns, middle_ns + half_ns)
        self._kept.append(_Kept(interval, own_ns))
        self._anchor(_Kept(interval, own_ns))
        self._look(rate)
        if len(self._kept) > _MOST:
            self._drop(at_ns, rate)

    def at(self, at_ns: int, rate: Rate) -> tuple[RawInterval, Rate] | None:
        """The interval at a raw time, and the rates at which it ages: the assumed ones, and those that the samples show."""
        if not self._kept:
            return None
        if self._found is None or self._found[:2] != (at_ns, rate):
            ages = rate if self._shown is None else rate.hull(self._shown)
            self._found = at_ns, rate, (self._common(at_ns, ages), ages)
        return self._found[2]

    def _common(self, at_ns: int, rate: Rate) -> RawInterval:
        """What the samples have in common at a raw time; all of it where they contradict one another."""
        kept = [one.interval for one in self._kept]
        slow, fast, base_ns = rate.low, rate.high, kept[0].low_ns
        # Which limits it is seen without rounding; all of them are near to one another.
        lowest = highest = kept[0]
        most, least = -inf, inf
        for one in kept:
            elapsed = at_ns - one.at_ns
            low = one.low_ns - base_ns + (slow if elapsed >= 0 else fast) * elapsed
            high = one.high_ns - base_ns + (fast if elapsed >= 0 else slow) * elapsed
            if low > most:
                most, lowest = low, one
            if high < least:
                least, highest = high, one
        low_ns, high_ns = lowest.aged(at_ns, rate).low_ns, highest.aged(at_ns, rate).high_ns
        if low_ns > high_ns:
            # The server's clock or the raw clock was set: either may have been right.
            aged = [one.aged(at_ns, rate) for one in kept]
            low_ns, high_ns = min(one.low_ns for one in aged), max(one.high_ns for one in aged)
        return RawInterval(at_ns, low_ns, high_ns)

    def proven(self) -> Rate | None:
        """The mean frequency since the oldest anchors, as the intervals of two samples limit it. None: they limit nothing, or
        contradict one another: a clock was set.
        """
        low, high = -MAX_DRIFT, MAX_DRIFT
        before: list[RawInterval] = []
        for anchor in self._anchors:
            late = anchor.interval
            at_ns, low_ns, high_ns = late.at_ns, late.low_ns, late.high_ns
            for early in before:
                elapsed = at_ns - early.at_ns
                if elapsed <= 0:
                    continue
                slow, fast = (low_ns - early.high_ns) / elapsed, (high_ns - early.low_ns) / elapsed
                # Of all pairs of a dozen, for each sample: `max` and `min` would cost more than the rest.
                low = max(low, slow)
                high = min(high, fast)
            before.append(late)
        return Rate(low, high) if -MAX_DRIFT < low <= high < MAX_DRIFT else None

    def _anchor(self, new: _Kept) -> None:
        """Keep some samples of the last hour: the narrower ones, at distances that grow with their age."""
        anchors, now_ns = self._anchors, new.interval.at_ns
        anchors.append(new)
        while now_ns - anchors[0].interval.at_ns > _OLDEST_ANCHOR_NS:
            del anchors[0]
        if len(anchors) <= _MOST_ANCHORS:
            return
        # The pair that is closest for its age loses the wider one.
        ages = [max(now_ns - one.interval.at_ns, 1) for one in anchors]
        place = min(range(1, len(anchors) - 1), key=lambda at: ages[at - 1] / ages[at])
        del anchors[place if _width(anchors[place]) >= _width(anchors[place - 1]) else place - 1]

    def shift(self, seconds: int) -> None:
        """True time was set by whole seconds: a leap second."""
        self._found = None
        for kept in (*self._kept, *self._anchors):
            kept.interval = kept.interval.shifted(seconds * 1_000_000_000)

    def _look(self, rate: Rate) -> None:
        """Whether the samples contradict the assumed rates: two samples bound the frequency between them."""
        low, high, self._jumped = rate.low, rate.high, False
        least, most = rate.low, rate.high
        before: list[RawInterval] = []
        for kept in self._kept:
            new = kept.interval
            for old in before:
                elapsed = new.at_ns - old.at_ns
                if elapsed <= 0:
                    continue
                slow, fast = (new.low_ns - old.high_ns) / elapsed, (new.high_ns - old.low_ns) / elapsed
                if slow <= most and fast >= least:
                    continue
                if slow > MAX_DRIFT or fast < -MAX_DRIFT:
                    self._jumped = True
                else:
                    low, high = min(low, max(slow, -MAX_DRIFT)), max(high, min(fast, MAX_DRIFT))
            before.append(new)
        self._shown = Rate(low, high) if low < rate.low or high > rate.high else None

    def _drop(self, at_ns: int, rate: Rate) -> None:
        """Drop one of the older samples: one that limits nothing, if their order is not in doubt."""
        if self._jumped:
            del self._kept[0]
            return
        older = [kept.interval.aged(at_ns, rate) for kept in self._kept[:-_NEWEST]]
        lowest = max(range(len(older)), key=lambda place: older[place].low_ns)
        highest = min(range(len(older)), key=lambda place: older[place].high_ns)
        del self._kept[next(place for place in range(len(older)) if place not in (lowest, highest))]


def _width(kept: _Kept) -> int:
    return kept.interval.high_ns - kept.interval.low_ns
