"""Budgets: token buckets, counts that decay, a throttle for log lines.

Comes in: the time, an amount. Goes out: whether that much may be used. It must never read a clock.
"""

import math
from dataclasses import dataclass


class Bucket:
    """Refilled at `rate` a second, up to `burst`."""

    __slots__ = ("_at", "burst", "level", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self.level = burst
        self._at: float | None = None

    def refill(self, now: float, rate: float | None = None) -> float:
        """What is left now. rate: the rate since the last call, where it is not the bucket's own."""
        if self._at is not None and now > self._at:
            self.level = min(self.burst, self.level + (now - self._at) * (self.rate if rate is None else rate))
        self._at = now
        return self.level

    def take(self, amount: float = 1.0) -> None:
        """Use some. Using more than is left empties the bucket."""
        self.level = max(0.0, self.level - amount)


class DecayingCount:
    """A count of recent events, each of which counts less as it gets older. most: the upper bound."""

    __slots__ = ("_at", "_count", "_most", "_seconds")

    def __init__(self, seconds: float, most: float) -> None:
        self._seconds = seconds
        self._most = most
        self._count = 0.0
        self._at = 0.0

    def add(self, now: float) -> None:
        """Count one more event."""
        self._count = min(self.count(now) + 1, self._most)
        self._at = now

    def count(self, now: float) -> float:
        """The count at this time."""
        return self._count * math.exp(min(0.0, self._at - now) / self._seconds)


@dataclass(slots=True)
class _Offence:
    since: float
    served: int = 0
    authentic: int = 0


class ControlBudget:
    """How much work one connection may cause in the control plane.

    A packet costs one unit before it is opened, and more for its contents afterwards. A peer is an offender when its authentic
    packets exceed the budget for `patience` seconds. Forged packets use the budget as well, but make no peer an offender.
    """

    __slots__ = ("_bucket", "_offence", "_patience", "_strained_rate")

    def __init__(self, rate: float, strained_rate: float, burst: float, patience: float) -> None:
        self._bucket = Bucket(rate, burst)
        self._strained_rate = strained_rate
        self._patience = patience
        self._offence: _Offence | None = None

    def admits(self, now: float, *, strained: bool, amount: float = 1.0) -> bool:
        """Whether one more packet may be opened.

        strained: all connections together use much of the control plane. Then a peer that has used half of its burst gets the
        strained rate.
        """
        bucket = self._bucket
        level = bucket.refill(now, self._strained_rate if strained else None)
        half = bucket.burst / 2
        if level < (half if strained else 1.0):
            self._offence = self._offence or _Offence(now)
            return False
        if level >= half * 1.25:
            self._offence = None
        bucket.take(amount)
        if self._offence is not None:
            self._offence.served += 1
        return True

    def opened(self, units: float) -> None:
        """Charge an authentic packet for its contents."""
        self._bucket.take(units)
        if self._offence is not None:
            self._offence.authentic += 1

    @property
    def is_strained(self) -> bool:
        """Whether the peer has lately used more than its budget."""
        return self._offence is not None

    def is_offender(self, now: float) -> bool:
        """Whether the peer itself, and not a forger, has caused too much work for too long."""
        offence = self._offence
        if offence is None or now < offence.since + self._patience:
            return False
        return offence.served > 0 and 4 * offence.authentic >= 3 * offence.served


class Throttle:
    """Lets an event through at most once in `seconds`, and counts the events that it holds back."""

    __slots__ = ("_at", "_held", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._at = -math.inf
        self._held = 0

    def due(self, now: float) -> int:
        """0 where it is too early; else the number of events since the last one that passed, this one included."""
        self._held += 1
        if now < self._at + self._seconds:
            return 0
        self._at = now
        count, self._held = self._held, 0
        return count
