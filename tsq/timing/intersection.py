"""The intersection algorithm, with a fixed majority (RFC 5905 §11.2.1; docs/explanation/error-bounds.md#several-servers).

Comes in: correctness intervals. Goes out: the interval on which a majority agrees, or None. Must never give an interval without
the true offset while fewer than half of the sources are falsetickers. So, unlike RFC 5905, it does not look for the smallest
possible number of falsetickers, and does not count midpoints.

    majority m = ⌊n / 2⌋ + 1        agreed = [least point in m intervals or more, greatest such point]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf, nextafter


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed interval of offsets, seconds."""

    low: float
    high: float

    @classmethod
    def of_ns(cls, low_ns: int, high_ns: int) -> "Interval":
        """The interval with these ends, rounded outwards to floats."""
        low, high = low_ns / 10**9, high_ns / 10**9
        numerator, denominator = low.as_integer_ratio()
        if numerator * 10**9 > low_ns * denominator:
            low = nextafter(low, -inf)
        numerator, denominator = high.as_integer_ratio()
        if numerator * 10**9 < high_ns * denominator:
            high = nextafter(high, inf)
        return cls(low, high)

    def overlaps(self, other: "Interval") -> bool:
        """Whether the two have a common point."""
        return self.low <= other.high and other.low <= self.high

    def clamp(self, offset: float) -> float:
        """The point of the interval nearest to this offset."""
        return min(max(offset, self.low), self.high)

    def distance_from(self, offset: float) -> float:
        """The distance from this offset to the farther end of the interval."""
        return max(self.high - offset, offset - self.low)


def with_bound(offset: float, bound: float) -> str:
    """An offset and the bound of its error as text, in seconds with nine decimals; the bound holds for the rounded offset."""
    bound += abs(round(offset, 9) - offset)
    # Less the error of binary fractions, which would make the bound one step too large.
    return f"{offset:+z.9f} ± {ceil(bound * 1e9 - 1e-6) / 1e9:.9f} s"


def majority(sources: int) -> int:
    """The least number that is more than half of the sources."""
    return sources // 2 + 1


def agreed(intervals: Sequence[Interval], sources: int | None = None) -> Interval | None:
    """The hull of all points that a majority of these intervals contains; None where there is no such point.

    sources: the number of all sources, where some cannot be compared with these. Then a majority of all must contain one point,
    and of these intervals as many may be falsetickers as a minority of all sources is.
    """
    sources = len(intervals) if sources is None else sources
    wanted = majority(sources)
    needed = max(1, len(intervals) - (sources - wanted))
    # Intervals are closed: at the same point, count the beginnings before the ends.
    edges = sorted([(each.low, 0) for each in intervals] + [(each.high, 1) for each in intervals])
    depth, deepest, low, high = 0, 0, None, None
    for at, ends in edges:
        if not ends:
            depth += 1
            deepest = max(deepest, depth)
            if depth >= needed and low is None:
                low = at
        else:
            if depth >= needed:
                high = at
            depth -= 1
    return None if low is None or high is None or deepest < wanted else Interval(low, high)
