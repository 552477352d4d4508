"""The one door to the system clock: reads it, and is all of TSQ that can set it (adjtimex(2)).

Comes in: offsets in seconds, bounds of their errors. Goes out: the time in integer Unix ns, what the kernel says of its clock, and
the calls that step or slew it. It must never decide whether to, and never be reached from wire/ or timing/.

A step adds the offset at once (ADJ_SETOFFSET). A slew hands the offset to the kernel's phase-locked loop (ADJ_OFFSET, for which
STA_PLL must be set; RFC 5905 §11.3): each second the kernel takes 2^-(2 + time constant) of what is left, also when this process
has ended. Both say how wrong the clock can be (maxerror, estimated error), which ends the kernel's mark "unsynchronized".
"""

import os
import time
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path
from typing import Protocol

from tsq import _clock
from tsq._fast import clock_ns
from tsq.errors import ClockError
from tsq.timing.local_clock import ClockReading

_READINGS = 16
_MAX_PRECISION_NS = 10_000_000
_EPOCH_READINGS = 8
# Two clocks are read again when the first attempt was interrupted for this long, but not for ever.
_WIDE_NS = 1_000
# NTP timestamps repeat after 2^32 seconds. A server may run some years before this package was built, with a clock that is wrong.
_HALF_ERA_NS = 2**31 * 1_000_000_000
_BEFORE_BUILD_NS = 10 * 366 * 86_400 * 1_000_000_000
_MOST_ATTEMPTS = 4
# <linux/timex.h>
_OFFSET, _MAXERROR, _ESTERROR, _STATUS, _TIMECONST, _SETOFFSET, _NANO = 0x1, 0x4, 0x8, 0x10, 0x20, 0x100, 0x2000
_PLL, _INSERT, _DELETE, _UNSYNCHRONIZED, _FREQUENCY_HOLD, _IN_NANOSECONDS = 0x1, 0x10, 0x20, 0x40, 0x80, 0x2000
_LEAP = _INSERT | _DELETE
_MOST_ERROR_US = 16_000_000
_CAP_SYS_TIME = 25
# struct timex: the frequency is in 2^-16 ppm, the tick in µs, 100 in a second (USER_HZ).
_FREQUENCY_UNIT = 65536e6
_TICKS = os.sysconf("SC_CLK_TCK")

# status, offset, freq, maxerror, esterror, constant of struct timex.
Timex = tuple[int, int, int, int, int, int]


def now_ns() -> int:
    """The system clock, Unix ns."""
    return clock_ns()


def build_time_ns() -> int:
    """When this package was built, Unix ns: no clock that is right says less."""
    return _clock.BUILD_TIME * 1_000_000_000


def era_pivot_ns() -> int:
    """The Unix time around which NTP timestamps are read, ns: no matter what the local clock says, they are right from ten years
    before this package was built to 126 years after.
    """
    return build_time_ns() + _HALF_ERA_NS - _BEFORE_BUILD_NS


@cache
def precision_ns() -> int:
    """The clock's precision ρ in ns: the least time between two readings that differ (RFC 5905 §7.3), at least 1 ns."""
    best = _MAX_PRECISION_NS
    for _ in range(_READINGS):
        first = clock_ns()
        second = clock_ns()
        if second > first:
            best = min(best, second - first)
    return best


def clock_reading() -> ClockReading:
    """The clock together with the raw clock, and what the kernel says of how it runs. Some microseconds; changes nothing."""
    best: tuple[int, int, int] | None = None
    for _ in range(_MOST_ATTEMPTS):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        now = clock_ns()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        if best is None or after - before < best[0]:
            best = after - before, now, now - (before + after) // 2
        if best[0] <= _WIDE_NS:
            break
    assert best is not None
    width_ns = best[0] // 2 + 1
    try:
        status, offset, frequency, tick = _clock.running()
    except ClockError:
        # Some containers deny the call: nothing is known then, and the clock counts as not synchronized.
        return ClockReading(best[1], best[2], width_ns)
    return ClockReading(
        best[1],
        best[2],
        width_ns,
        frequency=frequency / _FREQUENCY_UNIT + tick * _TICKS / 1e6 - 1,
        pending_ns=offset if status & _IN_NANOSECONDS else offset * 1000,
        synchronized=not status & _UNSYNCHRONIZED,
    )


@dataclass(frozen=True, slots=True)
class ClockState:
    """What the kernel says of its clock, in seconds and ppm. rest: what a slew has still to correct."""

    synchronized: bool
    max_error: float
    estimated_error: float
    frequency_ppm: float
    rest: float
    leap: int


class Kernel(Protocol):
    """The calls behind the door: the kernel's, or those of a simulated one."""

    def read(self) -> Timex:
        """As `tsq._clock.read`."""

    def adjust(
        self,
        modes: int,
        *,
        offset: int = 0,
        maxerror: int = 0,
        esterror: int = 0,
        status: int = 0,
        constant: int = 0,
        seconds: int = 0,
        nanoseconds: int = 0,
    ) -> Timex:
        """As `tsq._clock.adjust`."""

    def now_ns(self) -> int:
        """The clock that is set, Unix ns."""

    def monotonic_ns(self) -> int:
        """A clock that nobody sets."""

    def may_adjust(self) -> bool:
        """Whether `adjust` is allowed, as far as can be seen without trying."""


class _ThisKernel:
    """The kernel that this process runs on."""

    read = staticmethod(_clock.read)
    adjust = staticmethod(_clock.adjust)
    now_ns = staticmethod(clock_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)

    def may_adjust(self) -> bool:
        """Whether this process has CAP_SYS_TIME; a container may promise it and not keep it."""
        for line in Path("/proc/thread-self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_SYS_TIME & 1)
        return False


class SystemClock:
    """This machine's clock: what it says, and the only ways to change it."""

    def __init__(self, kernel: Kernel | None = None) -> None:
        self._kernel = kernel or _ThisKernel()

    @property
    def may_set(self) -> bool:
        """Whether this process is allowed to, as far as can be seen without trying."""
        return self._kernel.may_adjust()

    def now_ns(self) -> int:
        """The time, Unix ns."""
        return self._kernel.now_ns()

    def monotonic(self) -> float:
        """Seconds of a clock that nobody steps."""
        return self._kernel.monotonic_ns() / 1e9

    def epoch_ns(self) -> int:
        """The time at which the monotonic clock was 0, Unix ns: changes when somebody steps the clock (or the machine slept), never
        when it is slewed.
        """
        best: tuple[int, int] | None = None
        for _ in range(_EPOCH_READINGS):
            before = self._kernel.monotonic_ns()
            now = self._kernel.now_ns()
            after = self._kernel.monotonic_ns()
            # The narrowest bracket: a process that is put aside between two readings sees a false step.
            if best is None or after - before < best[0]:
                best = after - before, now - (before + after) // 2
        assert best is not None
        return best[1]

    def state(self) -> ClockState:
        """What the kernel says of its clock."""
        status, offset, frequency, maxerror, esterror, _ = self._kernel.read()
        unit = 1e-9 if status & _IN_NANOSECONDS else 1e-6
        leap = 1 if status & _INSERT else 2 if status & _DELETE else 0
        return ClockState(not status & _UNSYNCHRONIZED, maxerror / 1e6, esterror / 1e6, frequency / 65536, offset * unit, leap)

    def step(self, offset: float, *, max_error: float, estimated_error: float) -> None:
        """Add `offset` to the clock at once. Raises ClockError. What was left of a slew is given up."""
        seconds, nanoseconds = divmod(round(offset * 1e9), 1_000_000_000)
        self._kernel.adjust(
            _SETOFFSET | _NANO | _STATUS | _MAXERROR | _ESTERROR,
            seconds=seconds,
            nanoseconds=nanoseconds,
            status=self._kept(),
            maxerror=_microseconds(max_error),
            esterror=_microseconds(estimated_error),
        )

    def slew(self, offset: float, *, time_constant: int, max_error: float, estimated_error: float) -> None:
        """Let the kernel correct `offset` little by little. Raises ClockError. The clock's frequency is not touched."""
        self._kernel.adjust(
            _STATUS | _NANO | _OFFSET | _TIMECONST | _MAXERROR | _ESTERROR,
            status=self._kept() | _PLL | _FREQUENCY_HOLD,
            offset=round(offset * 1e9),
            constant=time_constant,
            maxerror=_microseconds(max_error),
            esterror=_microseconds(estimated_error),
        )

    def tell_error(self, max_error: float, estimated_error: float) -> None:
        """Say how wrong the clock can be now. Raises ClockError."""
        self._kernel.adjust(_MAXERROR | _ESTERROR, maxerror=_microseconds(max_error), esterror=_microseconds(estimated_error))

    def stop_slewing(self) -> None:
        """Let the clock run on as it is: what is left of a slew is given up. Raises ClockError."""
        status = self._kept(_LEAP | _UNSYNCHRONIZED) | _PLL | _FREQUENCY_HOLD
        self._kernel.adjust(_STATUS | _NANO | _OFFSET, status=status, offset=0)

    def mark_unsynchronized(self) -> None:
        """Say that nothing is known of the clock's error. Raises ClockError."""
        status = self._kept() | _UNSYNCHRONIZED
        self._kernel.adjust(_STATUS | _MAXERROR | _ESTERROR, status=status, maxerror=_MOST_ERROR_US, esterror=_MOST_ERROR_US)

    def _kept(self, bits: int = _LEAP) -> int:
        """Those of the status bits that stay as they are: an announced leap second is not ours to take back."""
        return self._kernel.read()[0] & bits


def _microseconds(seconds: float) -> int:
    """An error bound as the kernel takes it, rounded up."""
    return min(ceil(seconds * 1e6), _MOST_ERROR_US)
