"""The last hours of a server in a bounded number of points: its clock, its counters, its connections.

Comes in: the present state, every few seconds. Goes out: points, at most CAPACITY. As time passes, points get farther apart: two
become one that holds the worse clock of both. It must never read a clock, grow, or make a bound smaller.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tsq.host.keepers.sync_state import SyncState

# Even, so that all but the first pair up when there is one more.
CAPACITY = 360
# Seconds between two points at first, and at most: then the points cover at least a day.
LEAST_INTERVAL = 5.0
MOST_INTERVAL = 320.0
# What is counted: name in the points, name of the counter.
COUNTED = {
    "answered": "answered",
    "requests": "requests",
    "handshakes": "handshakes",
    "dropped": "dropped",
    "http": "http requests",
}


@dataclass(frozen=True, slots=True)
class Point:
    """The state at a time, Unix seconds. error: largest bound of the clock's error since the last point; None: not synchronized.

    correction: what was still to be added to the clock, as reported; None where that is not known. uptime: seconds since the start.
    """

    at: float
    uptime: float
    error: float | None
    correction: float | None
    counts: Mapping[str, int]
    connections: int

    def joined(self, later: "Point") -> "Point":
        """One point for both: the later one's counts, the worse clock."""
        if self.error is None or later.error is None:
            return replace(later, error=None, correction=None)
        worse = self if self.error > later.error else later
        return replace(later, error=worse.error, correction=worse.correction)


class History:
    """Points at regular intervals of uptime; the last one is the newest state."""

    def __init__(self) -> None:
        self.interval = LEAST_INTERVAL
        self._points: list[Point] = []

    @property
    def points(self) -> list[Point]:
        """Oldest first."""
        return list(self._points)

    def add(self, point: Point) -> None:
        """Add the present state. Points that are closer than the interval become one."""
        points = self._points
        if len(points) > 1 and point.uptime < points[-2].uptime + self.interval:
            points[-1] = points[-1].joined(point)
            return
        points.append(point)
        if len(points) <= CAPACITY:
            return
        if self.interval >= MOST_INTERVAL:
            del points[0]
            return
        self.interval *= 2
        # The first one stays: it is where the counts begin.
        self._points = points[:1] + [one.joined(two) for one, two in zip(points[1::2], points[2::2], strict=True)]

    def rate(self, name: str, seconds: float = 60.0) -> float:
        """How many a second, over about the last so many seconds; 0 where too little is known."""
        if len(self._points) < 2:
            return 0.0
        last = self._points[-1]
        first = next((one for one in self._points if one.uptime >= last.uptime - max(seconds, self.interval)), self._points[0])
        if first is last:
            first = self._points[-2]
        span = last.uptime - first.uptime
        return (last.counts[name] - first.counts[name]) / span if span > 0 else 0.0


def point(at: float, uptime: float, state: SyncState | None, counts: Mapping[str, int], connections: int) -> Point:
    """The present state as a point."""
    known = state is not None and state.synchronized
    error = state.error if state is not None and known else None
    return Point(at, uptime, error, None if state is None or not known else state.correction, counts, connections)
