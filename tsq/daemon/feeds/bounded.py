"""Feeds programs that need bounded time: the segment of `tsq.now()`, and that of ClockBound's clients.

Comes in: each status. Goes out: the interval that contains the true time, in shared memory. It must never publish an interval that
a sleep of the machine, a leap second or a missing frequency may have made wrong.
"""

from math import ceil

from tsq.daemon.feeds.trouble import Trouble
from tsq.discipline.status import ClockStatus, Status, Tracking
from tsq.host._segment import clocks, coarse_clock
from tsq.host.clockbound import ClockBound, ClockBoundSegment, ClockBoundStatus
from tsq.host.segment import Segment, TimeStatus, Update

_NS_PER_S = 1_000_000_000
_DAY_NS = 86_400 * _NS_PER_S
# Without an update, an interval holds for so long: while it grows, it stays true.
_VALID_NS = 1000 * _NS_PER_S
# Before a leap second an interval holds for less: until the leap second, or for this long where that may have passed.
_NEAR_LEAP_NS = 10 * _NS_PER_S
# The clock against the raw clock: more than slews can do in a second, and than two readings differ.
_MOVED_NS = 1_000_000
_FASTEST_SLEW = 0.2
# 31 years: ClockBound's clients have no number for "not known".
_UNKNOWN_BOUND_NS = 1_000_000_000 * _NS_PER_S
_MOST_DRIFT_PPB = 999_999_999
# The clock's frequency may change by so much without a new bound, which allows for that.
NOTABLE_FREQUENCY = 1e-9

_STATUSES = {
    ClockStatus.UNSYNCHRONIZED: TimeStatus.UNSYNCHRONIZED,
    ClockStatus.SYNCHRONIZED: TimeStatus.SYNCHRONIZED,
    ClockStatus.HOLDOVER: TimeStatus.HOLDOVER,
    ClockStatus.FROZEN: TimeStatus.FROZEN,
}
_CLOCKBOUND_STATUSES = {
    ClockStatus.UNSYNCHRONIZED: ClockBoundStatus.UNKNOWN,
    ClockStatus.SYNCHRONIZED: ClockBoundStatus.SYNCHRONIZED,
    ClockStatus.HOLDOVER: ClockBoundStatus.FREE_RUNNING,
    ClockStatus.FROZEN: ClockBoundStatus.FREE_RUNNING,
}


def _valid(leap: int, earliest_ns: int, latest_ns: int, rate: float) -> tuple[int, bool]:
    """For how long an interval may be used, ns; and whether a leap second may already be inside of it, counted by nobody yet.

    rate: how fast its later limit moves, besides the raw clock's own rate.
    """
    if leap not in (1, 2):
        return _VALID_NS, False
    passed_ns = earliest_ns % _DAY_NS
    left_ns = _DAY_NS - passed_ns - (latest_ns - earliest_ns)
    if left_ns <= _NEAR_LEAP_NS or passed_ns <= _NEAR_LEAP_NS:
        return _NEAR_LEAP_NS, True
    # Until the later limit gets there.
    return min(_VALID_NS, int(left_ns / (1 + rate)) - 1), False


def update_of(tracking: Tracking) -> Update:
    """What `tsq.now()` may say from this reading on, extrapolated by the raw clock, which nobody steps or slews."""
    earliest_ns, latest_ns = tracking.earliest_ns, tracking.latest_ns
    if tracking.status is ClockStatus.UNSYNCHRONIZED or earliest_ns is None or latest_ns is None:
        return Update(tracking.raw_ns, 0, 0, 0.0, 0.0, tracking.raw_ns + _VALID_NS, TimeStatus.UNSYNCHRONIZED)
    # A middle rate, and how far the limits move from it.
    frequency, growth = (tracking.rate_high + tracking.rate_low) / 2, (tracking.rate_high - tracking.rate_low) / 2
    valid_ns, near = _valid(tracking.leap, earliest_ns, latest_ns, tracking.rate_high)
    if near:
        earliest_ns -= _NS_PER_S if tracking.leap == 1 else 0
        latest_ns += _NS_PER_S if tracking.leap == 2 else 0
    void_ns = tracking.raw_ns + valid_ns
    return Update(tracking.raw_ns, earliest_ns, latest_ns, frequency, growth, void_ns, _STATUSES[tracking.status])


class SegmentFeed:
    """The file that `tsq.now()` reads."""

    def __init__(self, path: str) -> None:
        self._segment = Segment(path)
        self._trouble = Trouble(f"bounded time in {path}")
        self._asleep_ns: int | None = None

    async def start(self) -> None:
        """Nothing to begin."""

    def publish(self, status: Status) -> None:
        """Write what is known."""
        raw_ns, monotonic_ns, boot_ns, real_ns = clocks()
        tracking, asleep_ns = status.tracking, boot_ns - monotonic_ns
        update = update_of(tracking)
        slept = self._asleep_ns is not None and abs(asleep_ns - self._asleep_ns) > _MOVED_NS
        if slept and _moved(tracking, raw_ns, real_ns):
            # The machine slept after the reading, and nobody has looked at its clock since.
            update = Update(raw_ns, 0, 0, 0.0, 0.0, raw_ns + _VALID_NS, TimeStatus.DISRUPTED)
        else:
            self._asleep_ns = asleep_ns
        try:
            self._segment.write(update, real_ns - monotonic_ns, asleep_ns)
        except OSError as error:
            self._trouble.failed(error)
        else:
            self._trouble.over()

    def close(self) -> None:
        """Stop writing."""
        self._segment.close()


def bound_of(tracking: Tracking, as_of_ns: int, *, moved: bool) -> ClockBound:
    """The bound of the system clock at as_of_ns. moved: the clock was moved after the reading."""
    status = _CLOCKBOUND_STATUSES[tracking.status]
    if tracking.bound is None or moved or status is ClockBoundStatus.UNKNOWN:
        return ClockBound(as_of_ns, as_of_ns + _VALID_NS, _UNKNOWN_BOUND_NS, 0, ClockBoundStatus.UNKNOWN)
    bound_ns = ceil(tracking.bound * 1e9)
    valid_ns, near = _valid(tracking.leap, tracking.real_ns - bound_ns, tracking.real_ns + bound_ns, tracking.bound_rate)
    bound_ns += _NS_PER_S if near else 0
    drift_ppb = min(_MOST_DRIFT_PPB, ceil((tracking.bound_rate + NOTABLE_FREQUENCY) * 1e9))
    return ClockBound(as_of_ns, as_of_ns + valid_ns, bound_ns, drift_ppb, status)


class ClockBoundFeed:
    """The file that ClockBound's clients read."""

    def __init__(self, path: str) -> None:
        self._segment = ClockBoundSegment(path)
        self._trouble = Trouble(f"ClockBound's segment {path}")

    async def start(self) -> None:
        """Nothing to begin."""

    def publish(self, status: Status) -> None:
        """Write what is known."""
        tracking = status.tracking
        coarse_ns, step_ns = coarse_clock()
        raw_ns, _, _, real_ns = clocks()
        # The coarse clock is behind by up to a step, in the reader too: earlier is safe.
        as_of_ns = max(0, coarse_ns - max(0, raw_ns - tracking.raw_ns) - step_ns)
        try:
            self._segment.write(bound_of(tracking, as_of_ns, moved=_moved(tracking, raw_ns, real_ns)))
        except OSError as error:
            self._trouble.failed(error)
        else:
            self._trouble.over()

    def close(self) -> None:
        """Stop writing."""
        self._segment.close()


def _moved(tracking: Tracking, raw_ns: int, real_ns: int) -> bool:
    """Whether the clock was stepped, or the raw clock stood still, after the reading."""
    elapsed_ns = raw_ns - tracking.raw_ns
    return abs(real_ns - tracking.real_ns - elapsed_ns) > _MOVED_NS + _FASTEST_SLEW * abs(elapsed_ns)
