"""The updates of a clock: how many, when the last one was, how large the offsets were.

Comes in: the offset of each update. Goes out: counts and averages for reports. It must never change what is done to the clock.
"""

from dataclasses import dataclass
from math import sqrt

from tsq.discipline.events import Reading

# chrony's average of the last offsets.
_RMS_PART = 0.1


@dataclass(slots=True)
class Updates:
    """count: since the start. at_ns, real_ns: the last one, by the raw clock and by the clock. interval: between the last two."""

    count: int = 0
    at_ns: int = 0
    real_ns: int = 0
    interval: float | None = None
    last_offset: float | None = None
    _mean_square: float | None = None

    @property
    def rms_offset(self) -> float | None:
        """The weighted mean of the offsets, as chronyc shows it."""
        return None if self._mean_square is None else sqrt(self._mean_square)

    def add(self, offset: float, reading: Reading) -> None:
        """The clock was updated."""
        self.interval = (reading.raw_ns - self.at_ns) / 1e9 if self.count else None
        self.count += 1
        self.at_ns, self.real_ns, self.last_offset = reading.raw_ns, reading.real_ns, offset
        before = self._mean_square
        self._mean_square = offset**2 if before is None else before + _RMS_PART * (offset**2 - before)
