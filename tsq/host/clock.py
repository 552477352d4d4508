"""The one door to the system clock. Today it reads it; nothing in TSQ sets it.

Comes in: nothing. Goes out: the time in integer Unix ns, the clock's precision. It must never be reached from wire/ or timing/.
"""

from functools import cache

from tsq._fast import clock_ns

_READINGS = 16
_MAX_PRECISION_NS = 10_000_000


def now_ns() -> int:
    """The system clock, Unix ns."""
    return clock_ns()


@cache
def precision_ns() -> int:
    """The clock's precision ρ in ns: the least time between two readings that differ (RFC 5905 §7.3), at least 1 ns."""
    best = _MAX_PRECISION_NS
    for _ in range(_READINGS):
        first = clock_ns()
        second = clock_ns()
        if second > first:
            best = min(best, second - first)
    return best
