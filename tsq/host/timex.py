"""The kernel's state of its clock in the kernel's own numbers: struct timex of adjtimex(2), <linux/timex.h>.

Comes in: frequencies and bounds of errors in seconds. Goes out: bits and numbers as the kernel takes and gives them, and back. It
must never call the kernel: only `tsq/host/clock.py` does.
"""

import os
from math import ceil, isfinite

from tsq.errors import ClockError

# Bits of what a call changes (modes), and of the status.
OFFSET, FREQUENCY, MAXERROR, ESTERROR, STATUS, TIMECONST, SETOFFSET = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x100
NANO, TICK = 0x2000, 0x4000
PLL, INSERT, DELETE, UNSYNCHRONIZED, FREQUENCY_HOLD, IN_NANOSECONDS = 0x1, 0x10, 0x20, 0x40, 0x80, 0x2000
LEAP = INSERT | DELETE
LEAP_STATUS = (0, INSERT, DELETE)
MOST_ERROR_US = 16_000_000
# The frequency is in 2^-16 ppm, the tick in µs, 100 in a second (USER_HZ).
FREQUENCY_UNIT = 65536e6
TICKS = os.sysconf("SC_CLK_TCK")
# Microseconds that the clock advances in a hundredth of a second, by default. The kernel accepts a tenth more or less.
USUAL_TICK = 1_000_000 // TICKS
_MOST_TICK = USUAL_TICK // 10
# The kernel's own limit for a frequency without the tick.
_MOST_FREQUENCY = 500e-6


def rate(frequency: int, tick: int) -> float:
    """How much faster than the raw clock the clock runs with this state of the kernel, seconds per second."""
    return frequency / FREQUENCY_UNIT + (tick - USUAL_TICK) / USUAL_TICK


def tick_and_rest(frequency: float) -> tuple[int, float]:
    """A frequency as the kernel's tick, and what has to be added to that. Within 500 ppm the tick is the usual one."""
    most = _MOST_TICK / USUAL_TICK
    if not (isfinite(frequency) and abs(frequency) <= most):
        raise ClockError(f"a frequency correction of {frequency * 1e6:g} ppm", expected=f"at most {most * 1e6:.0f} ppm")
    if abs(frequency) <= _MOST_FREQUENCY:
        return USUAL_TICK, frequency
    units = round(frequency * USUAL_TICK)
    return USUAL_TICK + units, frequency - units / USUAL_TICK


def microseconds(seconds: float) -> int:
    """An error bound as the kernel takes it, rounded up."""
    return min(ceil(seconds * 1e6), MOST_ERROR_US)
