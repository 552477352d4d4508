"""How the local clock runs: what the kernel says of it, and how an offset changes while it runs on (RFC 5905 §7.2).

Comes in: readings of the local clock together with the raw clock, which nobody adjusts. Goes out: the frequency error that is
possible, and how far the clock was slewed or stepped between two readings. It must never read a clock, and never assume a
frequency error that is smaller than the kernel's state allows.

    difference D = REALTIME - MONOTONIC_RAW        of one reading
    movement M = D₂ - D₁ - f Δ                     f: the kernel's frequency correction, Δ: raw time between the readings

A steady clock has M = 0. What is left is a slew or a step by a program.
"""

from collections.abc import Iterable
from dataclasses import dataclass

# RFC 5905 §7.2: frequency tolerance of a clock that is disciplined, 15 ppm.
TOLERANCE = 15e-6
# Of a clock that is not: crystals of PCs and virtual machines are off by up to this.
UNDISCIPLINED = 100e-6
# Few oscillators need a larger correction: a kernel frequency beyond it may be a slew (chronyd slews so).
_MOST_CORRECTION = 100e-6
# What keeps a clock changes its frequency by a little all the time: less than this is steady.
_NOTABLE_SLEW = 5e-6
# No program slews faster than this (chronyd: at most 8.3 %); what moves faster was stepped, or the machine was suspended.
_FASTEST_SLEW = 0.12
_LEAST_STEP_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class ClockReading:
    """The local clock at one moment. at_ns: the time, Unix ns; difference_ns: that minus the raw clock; width_ns: by how much
    the difference may be wrong, because two clocks are not read at once.

    frequency: the kernel's frequency correction, seconds a second; pending_ns: what the kernel has still to slew. None: the
    kernel does not say. synchronized: whether the kernel holds the clock for synchronized.
    """

    at_ns: int
    difference_ns: int
    width_ns: int = 0
    frequency: float | None = None
    pending_ns: int | None = None
    synchronized: bool = False

    @property
    def tolerance(self) -> float:
        """By how much the clock's frequency may be wrong, seconds a second, as far as the kernel's state says."""
        return TOLERANCE if self.synchronized else UNDISCIPLINED


@dataclass(frozen=True, slots=True)
class Movement:
    """By how much programs moved the clock between two readings; positive: forwards.

    moved_ns: 0 where the readings cannot tell it from nothing. width_ns: by how much it may be wrong. elapsed_ns: by the raw clock.
    """

    moved_ns: int = 0
    width_ns: int = 0
    elapsed_ns: int = 0

    @property
    def stepped(self) -> bool:
        """Whether no slew is that fast. A machine that was suspended looks the same."""
        return abs(self.moved_ns) > _FASTEST_SLEW * abs(self.elapsed_ns) + _LEAST_STEP_NS

    @property
    def notable(self) -> bool:
        """Whether it is more than a steady clock may seem to move, and worth telling."""
        return abs(self.moved_ns) > self.width_ns + _NOTABLE_SLEW * abs(self.elapsed_ns)

    @property
    def rate(self) -> float:
        """The mean rate of the slew, seconds a second."""
        return self.moved_ns / self.elapsed_ns if self.elapsed_ns else 0.0


def movement(first: ClockReading | None, then: ClockReading | None) -> Movement:
    """By how much the clock was moved between two readings; nothing where one of them is missing."""
    if first is None or then is None:
        return Movement()
    change_ns = then.difference_ns - first.difference_ns
    elapsed_ns = then.at_ns - first.at_ns - change_ns
    steady = ((first.frequency or 0.0) + (then.frequency or 0.0)) / 2
    moved_ns = change_ns - round(steady * elapsed_ns)
    width_ns = first.width_ns + then.width_ns
    # Within what the readings can tell apart, a steady clock is assumed.
    return Movement(moved_ns if abs(moved_ns) > width_ns else 0, width_ns, elapsed_ns)


def drift_range(readings: Iterable[ClockReading | None], tolerance: float = TOLERANCE) -> tuple[float, float]:
    """(least, greatest) rate at which the offset may change while the clock runs steadily, seconds a second.

    It holds for all the time between the readings. tolerance: what is assumed without any.
    """
    known = [reading for reading in readings if reading is not None]
    if not known:
        return -tolerance, tolerance
    rates = [reading.frequency or 0.0 for reading in known]
    least, greatest = min(rates), max(rates)
    low, high = least - max(one.tolerance for one in known), greatest + max(one.tolerance for one in known)
    if max(abs(least), abs(greatest)) > _MOST_CORRECTION or not all(one.synchronized for one in known):
        # The correction may be wrong altogether: the raw clock may be the better one.
        low, high = min(low, -UNDISCIPLINED), max(high, UNDISCIPLINED)
    # `movement` takes the mean of the two readings' corrections, which is between the least and the greatest.
    return low - greatest, high - least


def greatest_drift(first: ClockReading | None, then: ClockReading | None) -> float:
    """The greatest of what `drift_range` gives for two readings, either way, seconds a second."""
    if first is not None and then is not None and first.frequency == then.frequency and first.synchronized == then.synchronized:
        # As nearly always; every sample asks.
        correction = abs(first.frequency or 0.0)
        if not first.synchronized:
            return UNDISCIPLINED + correction
        if correction <= _MOST_CORRECTION:
            return TOLERANCE
    return max(map(abs, drift_range((first, then))))
