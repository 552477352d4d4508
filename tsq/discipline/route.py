"""The delays of a source's route: the least one, what delays have above it, and when the route changes.

Comes in: the delay of each exchange, seconds. Goes out: D, M, n of the present route, and changes. It must never see an offset: a
clock that is wrong looks like no other route. docs/explanation/clock-discipline.md explains the rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import sqrt

# From so many delays the excess is known; an older window is used once there are more than LONG.
_ENOUGH = 16
_MOST, _LONG, _NEWEST = 96, 64, 32
_FEW = 4
# Another route: so many delays in a row are all longer than D + so many M. By chance that happens once in 10^8 polls or less.
_LONGER = ((8, 2.0), (16, 1.3), (32, 0.9))
# Delays of a congested route differ more: by over so many times what those of the present route do.
_SPREAD = 1.25
# They also differ by more than this part of what they are longer by.
_FAR = 1 / 4
# After so many delays that are longer it is another route, however they differ.
_LASTING = 48
# The new route's least delay counts for so many delays.
_COUNTED = 8
MOST_COUNTED = 1024
# Mean of an exponential sum's excess over its median (two equal directions).
_MEAN_TO_MEDIAN = 1.19
# The quartiles of a normal distribution are so many standard deviations apart.
_QUARTILES = 1.349
_LEAST_EXCESS = 1e-9
# Timestamps are not exact to more than this, seconds.
STAMP = 50e-9


class Change(Enum):
    """What the newest delay says about the route."""

    NONE = "the same route"
    OTHER = "another route"
    BACK = "the first route again"


@dataclass(slots=True)
class Route:
    """One route. least: D; excess: M, the mean of the delays' excess over D; count: n; least_at_start: D when it was entered."""

    least: float
    excess: float
    count: int
    least_at_start: float
    delays: list[float] = field(default_factory=list)
    # Of the delays, robustly; 0 while there are too few.
    deviation: float = 0.0

    @property
    def spread(self) -> float:
        """How far D may still be above the least possible delay: M / √n."""
        return self.excess / sqrt(self.count)

    def settled(self) -> list[float]:
        """The delays in order, without the newest: a change must not change what "longer" means before it is noticed."""
        return sorted(self.delays[:-_NEWEST] if len(self.delays) > _LONG else self.delays)

    def add(self, delay: float, enough: int) -> None:
        """Count a delay. M is measured from `enough` delays on."""
        self.count = min(self.count + 1, MOST_COUNTED)
        self.least = min(self.least, delay)
        self.delays.append(delay)
        del self.delays[:-_MOST]
        known = len(self.delays)
        if known < enough:
            return
        ordered = self.settled()
        if known >= _ENOUGH:
            self.deviation = (ordered[3 * len(ordered) // 4] - ordered[len(ordered) // 4]) / _QUARTILES
        measured = _MEAN_TO_MEDIAN * (ordered[len(ordered) // 2] - self.least)
        self.excess = max(measured, _LEAST_EXCESS) if known >= _ENOUGH else max(measured, 0.7 * self.excess, _LEAST_EXCESS)


class Routes:
    """The present route of a source, and the first one, whose asymmetry is 0 by definition."""

    def __init__(self, delay: float) -> None:
        self.present = Route(delay, max(delay / 4, _LEAST_EXCESS), 1, delay)
        # Without the present one: None while the first route was never left.
        self.first: Route | None = None
        self._recent = [delay]

    def add(self, delay: float) -> tuple[Change, float]:
        """Count a delay. Gives the change, and by how much D moved with it."""
        self._recent.append(delay)
        del self._recent[:-_LASTING]
        change, moved = self._judge(delay)
        self.present.add(delay, _ENOUGH if self.first is not None else _FEW)
        return change, moved

    def _judge(self, delay: float) -> tuple[Change, float]:
        route = self.present
        if self._is_first(delay):
            self.present, self.first, self._recent = self.first or route, None, [delay]
            del self.present.delays[_LONG:]
            return Change.BACK, 0.0
        if delay < route.least - 2 * max(route.excess, route.spread) and len(route.delays) >= 2 * _ENOUGH:
            self._recent = [delay]
            return Change.OTHER, self._enter(delay, 1)
        for number, excesses in _LONGER:
            if self._is_longer(number, excesses):
                # All of them may straddle the change.
                del self._recent[: -number // 2]
                return Change.OTHER, self._enter(min(self._recent), _COUNTED)
        return Change.NONE, 0.0

    def _is_longer(self, number: int, excesses: float) -> bool:
        """Whether the newest delays are all longer, and differ no more than those of the present route, or that for long."""
        route, longest = self.present, self.present.least + excesses * self.present.excess + 8 * STAMP
        newest = self._recent[-number:]
        if len(route.delays) < _ENOUGH or len(newest) < number or min(newest) <= longest:
            return False
        usual = _SPREAD * _spread(route.settled(), 1 / (number + 1))
        alike = _spread(newest, 0) <= max(usual, _FAR * (min(newest) - route.least))
        return alike or (len(self._recent) == _LASTING and min(self._recent) > longest)

    def _is_first(self, delay: float) -> bool:
        """Whether this delay is too short for the present route, and right for the first one."""
        route, first = self.present, self.first
        if first is None:
            return False
        too_short = delay < route.least - max(route.excess / 4, route.spread)
        if too_short and first.least < route.least and delay < first.least + 4 * first.excess:
            return True
        return route.least_at_start > first.least + first.excess and delay < first.least + first.excess / 2

    def _enter(self, least: float, count: int) -> float:
        """Another route begins. Gives how far its least delay is from the present one's."""
        left = self.present
        if self.first is None:
            self.first = left
        self.present = Route(least, left.excess, count, least)
        return abs(least - left.least)


def _spread(delays: Sequence[float], quantile: float) -> float:
    """How far the median is above this quantile."""
    ordered = sorted(delays)
    return ordered[len(ordered) // 2] - ordered[round(quantile * len(ordered))]
