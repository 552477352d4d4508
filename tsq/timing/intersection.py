"""Where the true offset is when most sources are right (RFC 5905 §11.2.1; docs/explanation/error-bounds.md).

Comes in: correctness intervals. Goes out: the interval on which a majority agrees, or None. It must never give an interval that
could miss the truth while fewer than half of the sources lie.

    majority m = ⌊n / 2⌋ + 1        agreed = [least point in m intervals or more, greatest such point]

RFC 5905 looks for the smallest number of falsetickers that works, and so for the narrowest interval. A liar whose interval overlaps
the others can narrow that one until the truth is outside. So all of the largest minority is granted from the start, and the
midpoints are not counted: where paths are lopsided, the truth may be anywhere in a right source's interval.
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
        """The interval with these ends; what a float cannot hold is rounded outwards."""
        low, high = low_ns / 10**9, high_ns / 10**9
        numerator, denominator = low.as_integer_ratio()
        if numerator * 10**9 > low_ns * denominator:
            low = nextafter(low, -inf)
        numerator, denominator = high.as_integer_ratio()
        if numerator * 10**9 < high_ns * denominator:
            high = nextafter(high, inf)
        return cls(low, high)

    def overlaps(self, other: "Interval") -> bool:
        """Whether they have a point in common."""
        return self.low <= other.high and other.low <= self.high

    def clamp(self, offset: float) -> float:
        """The point of the interval that is nearest to this one."""
        return min(max(offset, self.low), self.high)

    def reach(self, offset: float) -> float:
        """How far the farthest point of the interval is from this one."""
        return max(self.high - offset, offset - self.low)


def with_bound(offset: float, bound: float) -> str:
    """An offset and the bound of its error as text, in seconds with nine decimals; the bound holds for the rounded offset."""
    bound += abs(round(offset, 9) - offset)
    # Less the error of binary fractions, which would make the bound one step too large.
    return f"{offset:+.9f} ± {ceil(bound * 1e9 - 1e-6) / 1e9:.9f} s"


def majority(sources: int) -> int:
    """How many of so many are more than half."""
    return sources // 2 + 1


def agreed(intervals: Sequence[Interval], sources: int | None = None) -> Interval | None:
    """The least interval that holds every point in which a majority of these intervals meet; None where there is no such point.

    sources: how many sources there are in all, where some cannot be compared with these: a majority of all of them must meet at
    some point, and as many of these as a minority of all may lie.
    """
    sources = len(intervals) if sources is None else sources
    wanted = majority(sources)
    needed = max(1, len(intervals) - (sources - wanted))
    # At one point intervals begin before others end: they are closed.
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
