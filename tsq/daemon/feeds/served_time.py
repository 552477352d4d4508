"""The time that an NTP server gives: the true time as it was last estimated, without jumps.

Comes in: estimates of the true time at readings of the raw clock. Goes out: the time for any later reading, and how far it still is
from the newest estimate. It must never read a clock.
"""

from dataclasses import dataclass

# A difference up to this is slewed, at this rate: as fast as no oscillator drifts, and slow for a client that polls each second.
_MOST_SLEWED_NS = 10_000_000
_SLEW_RATE = 200e-6


@dataclass(slots=True)
class ServedTime:
    """A clock that is derived from the raw clock. raw_ns, served_ns: where it was set; lag_ns: what was to be added then."""

    raw_ns: int
    served_ns: int
    frequency: float = 0.0
    lag_ns: int = 0

    def update(self, raw_ns: int, true_ns: int, frequency: float) -> None:
        """There is a new estimate: at raw_ns it was true_ns, and goes on with this frequency."""
        served_ns = self.at(raw_ns)
        lag_ns = true_ns - served_ns
        if abs(lag_ns) > _MOST_SLEWED_NS:
            # A leap second, or an estimate that was wrong: clients see a step, and count it as one.
            served_ns, lag_ns = true_ns, 0
        self.raw_ns, self.served_ns, self.frequency, self.lag_ns = raw_ns, served_ns, frequency, lag_ns

    def at(self, raw_ns: int) -> int:
        """The served time, Unix ns."""
        elapsed_ns = raw_ns - self.raw_ns
        return self.served_ns + elapsed_ns + round(elapsed_ns * self.frequency) + self.lag_ns - self.lag_at(raw_ns)

    def lag_at(self, raw_ns: int) -> int:
        """What is still to be added to it, ns."""
        done_ns = min(abs(self.lag_ns), round(max(0, raw_ns - self.raw_ns) * _SLEW_RATE))
        return self.lag_ns - done_ns if self.lag_ns >= 0 else self.lag_ns + done_ns
