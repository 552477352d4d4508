"""What was read from a clock, as values, and what two readings say of what the clock did meanwhile.

Comes in: times in integer ns, the kernel's state. Goes out: how far a clock was stepped and slewed, whether it only ran on. It must
never read a clock.
"""

from dataclasses import dataclass

from tsq.host.timex import rate

# Between two marks the clock may differ from its own frequency by this, besides the widths of the readings: ns, and ns per ns.
_MARK_ERROR_NS, _MARK_UNSTEADY = 2_000, 1e-7
# What two differences of CLOCK_BOOTTIME and CLOCK_MONOTONIC may differ by when nothing slept, ns.
_MARK_SLEEP_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class ClockState:
    """The kernel's state of its clock, in seconds and ppm. pending: the offset that slews have not corrected yet, by the kernel's
    loop and by adjtime(3); tick_ppm: the rate that a tick of unusual length adds to the frequency.
    """

    synchronized: bool
    max_error: float
    estimated_error: float
    frequency_ppm: float
    pending: float
    leap: int
    tick_ppm: float = 0.0

    @property
    def rate(self) -> float:
        """How much faster than CLOCK_MONOTONIC_RAW the clock runs when nothing is slewed, seconds a second."""
        return (self.frequency_ppm + self.tick_ppm) * 1e-6


@dataclass(frozen=True, slots=True)
class Displacement:
    """What a clock did between two readings, against CLOCK_MONOTONIC_RAW; seconds. stepped: what was added at once, or slept by the
    machine; slewed: by frequency and slews; width: how wrong both can be.
    """

    seconds: float
    stepped: float
    slewed: float
    width: float

    @property
    def total(self) -> float:
        """What the clock gained in all."""
        return self.stepped + self.slewed

    def beyond(self, rate: float) -> float:
        """What the clock gained beyond this steady rate (seconds a second), steps and all."""
        return self.total - rate * self.seconds


@dataclass(frozen=True, slots=True)
class TripleReading:
    """CLOCK_REALTIME, CLOCK_MONOTONIC and CLOCK_MONOTONIC_RAW at one moment, ns. width_ns: how far apart the readings can be."""

    real_ns: int
    monotonic_ns: int
    raw_ns: int
    width_ns: int

    def since(self, earlier: "TripleReading") -> Displacement:
        """What the clock did from an earlier reading to this one."""
        real, monotonic = self.real_ns - earlier.real_ns, self.monotonic_ns - earlier.monotonic_ns
        raw = self.raw_ns - earlier.raw_ns
        return Displacement(raw / 1e9, (real - monotonic) / 1e9, (monotonic - raw) / 1e9, (self.width_ns + earlier.width_ns) / 1e9)


@dataclass(frozen=True, slots=True)
class ClockMark:
    """How the clock was left (`SystemClock.mark`). state: the kernel's status, pending offset, frequency and tick."""

    real_ns: int
    raw_ns: int
    width_ns: int
    asleep_ns: int
    state: tuple[int, int, int, int]

    @property
    def rate(self) -> float:
        """How much faster than the raw clock it runs with this state, seconds per second."""
        _, _, frequency, tick = self.state
        return rate(frequency, tick)

    def explains(self, later: "ClockMark") -> bool:
        """Whether the clock only ran on since, with the same frequency, and nothing was slewed; False where that is not sure."""
        elapsed = later.raw_ns - self.raw_ns
        slept = abs(later.asleep_ns - self.asleep_ns)
        moved = later.real_ns - self.real_ns - elapsed - round(self.rate * elapsed)
        allowed = self.width_ns + later.width_ns + _MARK_ERROR_NS + _MARK_UNSTEADY * elapsed
        return later.state == self.state and not self.state[1] and slept <= _MARK_SLEEP_NS and abs(moved) <= allowed
