"""The behaviour of the local clock between readings: its possible frequency error, slews and steps (RFC 5905 §7.2).

Comes in: readings of the local clock together with the raw clock, which no program adjusts. Goes out: the range of the drift, and
the movement by programs between two readings. Must never read a clock, nor assume a smaller frequency error than the kernel gives.

    movement M = D₂ - D₁ - f Δ      D = REALTIME - MONOTONIC_RAW, f: the kernel's frequency correction, Δ: raw time in between
"""

from collections.abc import Iterable
from dataclasses import dataclass

# RFC 5905 §7.2: PHI, the frequency tolerance of a disciplined clock, 15 ppm.
TOLERANCE = 15e-6
# The frequency tolerance of an undisciplined clock: crystals of PCs and virtual machines are off by up to 100 ppm.
UNDISCIPLINED = 100e-6
# The same while adjtime(2) may slew the clock, and nothing shows it: the BSDs slew by up to 5000 ppm.
SLEWED = UNDISCIPLINED + 5000e-6
# No oscillator is off by more, seconds per second: a larger change means that a clock was set.
MAX_DRIFT = 1e-3
# Few oscillators need a larger correction: a larger kernel frequency may be a slew (chronyd slews this way).
_MAX_CORRECTION = 100e-6
# A clock daemon changes the frequency a little all the time: a slower movement counts as steady.
_NOTABLE_SLEW = 5e-6
# No program slews faster (chronyd: at most 8.3 %): a faster movement is a step, or the machine was suspended.
_FASTEST_SLEW = 0.12
_MIN_STEP_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class ClockReading:
    """One reading of the local clock. at_ns: Unix time, ns. difference_ns: that time minus the raw clock. width_ns: the error of
    the difference, because two clocks cannot be read at the same instant.

    frequency: the kernel's frequency correction, seconds per second. pending_ns: the rest of a slew by the kernel. None: unknown.
    synchronized: whether the kernel reports the clock as synchronized. raw: whether the other clock is one that no program slews.
    """

    at_ns: int
    difference_ns: int
    width_ns: int = 0
    frequency: float | None = None
    pending_ns: int | None = None
    synchronized: bool = False
    raw: bool = True

    @property
    def tolerance(self) -> float:
        """The frequency tolerance φ by the kernel's state, seconds per second."""
        if not self.raw:
            return SLEWED
        return TOLERANCE if self.synchronized else UNDISCIPLINED


@dataclass(frozen=True, slots=True)
class Movement:
    """How far programs moved the clock between two readings; positive: forwards.

    moved_ns: 0 where it is within the error of the readings, width_ns. elapsed_ns: the time in between by the raw clock.
    """

    moved_ns: int = 0
    width_ns: int = 0
    elapsed_ns: int = 0

    @property
    def stepped(self) -> bool:
        """Whether it is faster than any slew. A suspension of the machine looks the same."""
        return abs(self.moved_ns) > _FASTEST_SLEW * abs(self.elapsed_ns) + _MIN_STEP_NS

    @property
    def notable(self) -> bool:
        """Whether it is more than a steady clock shows, so that users should see it."""
        return abs(self.moved_ns) > self.width_ns + _NOTABLE_SLEW * abs(self.elapsed_ns)

    @property
    def rate(self) -> float:
        """The mean rate of the slew, seconds per second."""
        return self.moved_ns / self.elapsed_ns if self.elapsed_ns else 0.0


def movement(first: ClockReading | None, then: ClockReading | None) -> Movement:
    """The movement of the clock between two readings; none where one of them is missing."""
    if first is None or then is None:
        return Movement()
    change_ns = then.difference_ns - first.difference_ns
    elapsed_ns = then.at_ns - first.at_ns - change_ns
    steady = ((first.frequency or 0.0) + (then.frequency or 0.0)) / 2
    moved_ns = change_ns - round(steady * elapsed_ns)
    width_ns = first.width_ns + then.width_ns
    # Within the error of the readings, assume a steady clock.
    return Movement(moved_ns if abs(moved_ns) > width_ns else 0, width_ns, elapsed_ns)


def drift_range(readings: Iterable[ClockReading | None], tolerance: float = TOLERANCE) -> tuple[float, float]:
    """(least, greatest) rate at which the offset may change while no program moves the clock, seconds per second.

    It holds for all the time between the readings. tolerance: the assumed tolerance where there is no reading.
    """
    known = [reading for reading in readings if reading is not None]
    if not known:
        return -tolerance, tolerance
    rates = [reading.frequency or 0.0 for reading in known]
    least, greatest = min(rates), max(rates)
    low, high = least - max(one.tolerance for one in known), greatest + max(one.tolerance for one in known)
    if max(abs(least), abs(greatest)) > _MAX_CORRECTION or not all(one.synchronized for one in known):
        # The correction itself may be wrong: the raw clock may be the better one.
        low, high = min(low, -UNDISCIPLINED), max(high, UNDISCIPLINED)
    # `movement` uses the mean of the two corrections, which is between the least and the greatest.
    return low - greatest, high - least


def greatest_drift(first: ClockReading | None, then: ClockReading | None) -> float:
    """The greatest rate of `drift_range` for two readings, in either direction, seconds per second."""
    if first is not None and then is not None and first.frequency == then.frequency and first.synchronized == then.synchronized:
        # The usual case, computed for every sample: a short way to the same result.
        correction = abs(first.frequency or 0.0)
        if not first.synchronized:
            return max(first.tolerance, then.tolerance) + correction
        if correction <= _MAX_CORRECTION:
            return TOLERANCE
    return max(map(abs, drift_range((first, then))))
