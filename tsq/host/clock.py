"""The only module that may set the system clock; it also reads it (adjtimex(2)).

Comes in: offsets in seconds, frequencies, bounds of errors. Goes out: the time in integer Unix ns, the kernel's state of its clock,
and the calls that step, slew or steer it. It must never decide whether to set the clock, and never be imported by wire/ or timing/.
"""

# A step adds the offset at once (ADJ_SETOFFSET). Steering sets the frequency (ADJ_FREQUENCY), which stays until the next change. A
# slew hands the offset to the kernel's phase-locked loop (ADJ_OFFSET, for which STA_PLL must be set; RFC 5905 §11.3): each second
# the kernel corrects 2^-(2 + time constant) of the pending offset, even after this process has ended. All can report the clock's
# error to the kernel (maxerror, estimated error), which clears the kernel's "unsynchronized" flag. To see what a clock really did,
# compare it with CLOCK_MONOTONIC_RAW, which nobody can set or slew.
#
# In the kernel a step disarms an announced leap second, although the announcement stays. Only clearing STA_PLL, or the announcement
# for a second, arms it anew: so a step clears STA_PLL, and everything else keeps it set (tests/kernel/test_steering.py).

import os
import sys
import time
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

from tsq._fast import BUILD_TIME, clock_ns
from tsq.discipline.events import Reading
from tsq.errors import ClockError
from tsq.host.clock_readings import ClockMark, ClockState, TripleReading
from tsq.host.timex import (
    DELETE,
    ESTERROR,
    FREQUENCY,
    FREQUENCY_HOLD,
    FREQUENCY_UNIT,
    IN_NANOSECONDS,
    INSERT,
    LEAP,
    LEAP_STATUS,
    MAXERROR,
    MOST_ERROR_US,
    NANO,
    OFFSET,
    PLL,
    SETOFFSET,
    STATUS,
    TICK,
    TICKS,
    TIMECONST,
    UNSYNCHRONIZED,
    USUAL_TICK,
    microseconds,
    rate,
    tick_and_rest,
)
from tsq.timing.local_clock import ClockReading

if sys.platform == "linux":
    from tsq.host import _clock
else:
    from tsq.host import no_clock as _clock

_READINGS = 16
_MAX_PRECISION_NS = 10_000_000
_BRACKETS = 8
# Two clocks are read again when the first attempt was interrupted for this long, but not for ever.
_WIDE_NS = 1_000
# NTP timestamps repeat after 2^32 seconds. A server may run some years before this package was built, with a clock that is wrong.
_HALF_ERA_NS = 2**31 * 1_000_000_000
_BEFORE_BUILD_NS = 10 * 366 * 86_400 * 1_000_000_000
_MOST_ATTEMPTS = 4
_CAP_SYS_TIME = 25
# Of the kernel's loop: a quarter of the pending offset each second.
_QUICKEST = 0
# The BSDs have no clock that a slew leaves alone: what a slew does is then allowed for (`ClockReading.raw`).
_HAS_RAW = hasattr(time, "CLOCK_MONOTONIC_RAW")
_RAW = time.CLOCK_MONOTONIC_RAW if _HAS_RAW else time.CLOCK_MONOTONIC
# macOS gives the time in whole microseconds.
_RESOLUTION_NS = max(1, round(time.clock_getres(time.CLOCK_REALTIME) * 1e9))


def now_ns() -> int:
    """The system clock, Unix ns."""
    return clock_ns()


def build_time_ns() -> int:
    """When this package was built, Unix ns: no clock that is right says less."""
    return BUILD_TIME * 1_000_000_000


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
        before = time.clock_gettime_ns(_RAW)
        now = clock_ns()
        after = time.clock_gettime_ns(_RAW)
        if best is None or after - before < best[0]:
            best = after - before, now, now - (before + after) // 2
        if best[0] <= _WIDE_NS:
            break
    assert best is not None
    # What clock_getres says can be far too much, a timer's resolution, but never too little.
    width_ns = best[0] // 2 + (1 if _RESOLUTION_NS == 1 else min(_RESOLUTION_NS, precision_ns()))
    try:
        status, offset, frequency, _, _, _, tick = _clock.read()
    except ClockError:
        # Not Linux, or a container that denies the call: nothing is known then, and the clock counts as not synchronized.
        return ClockReading(best[1], best[2], width_ns, raw=_HAS_RAW)
    return ClockReading(
        best[1],
        best[2],
        width_ns,
        frequency=frequency / FREQUENCY_UNIT + tick * TICKS / 1e6 - 1,
        pending_ns=offset if status & IN_NANOSECONDS else offset * 1000,
        synchronized=not status & UNSYNCHRONIZED,
    )


class Kernel:
    """The calls of the kernel that this process runs on, as `_clock.pyi` declares them. A simulation has the same methods."""

    read = staticmethod(_clock.read)
    adjust = staticmethod(_clock.adjust)
    read_old_slew = staticmethod(_clock.read_old_slew)
    stop_old_slew = staticmethod(_clock.stop_old_slew)
    clocks = staticmethod(_clock.clocks)
    now_ns = staticmethod(clock_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)

    def lock(self) -> AbstractContextManager[str]:
        """The lock of all that set this clock."""
        # Only programs that set the clock need this module.
        from tsq.host import lock  # noqa: PLC0415

        return lock.held()

    def daemon_lock(self) -> AbstractContextManager[str]:
        """The same lock, held by a daemon."""
        from tsq.host import lock  # noqa: PLC0415

        return lock.held(program=lock.DAEMON)

    def raw_ns(self) -> int:
        """CLOCK_MONOTONIC_RAW."""
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)

    def may_adjust(self) -> bool:
        """Whether this process has CAP_SYS_TIME; a container may show it and refuse the call. Without /proc, root has it."""
        try:
            status = Path("/proc/thread-self/status").read_text(encoding="ascii", errors="replace")
        except OSError:
            return os.geteuid() == 0
        for line in status.splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_SYS_TIME & 1)
        return False


class SystemClock:
    """This machine's clock: what it says, and the only ways to change it."""

    def __init__(self, kernel: Kernel | None = None) -> None:
        self._kernel = kernel or Kernel()

    @property
    def may_set(self) -> bool:
        """Whether this process may set the clock, as far as can be seen without trying. A process that may not even read the
        kernel's state, as under a filter of system calls, may set nothing.
        """
        return self._kernel.may_adjust() and self.state_if_readable() is not None

    def now_ns(self) -> int:
        """The time, Unix ns."""
        return self._kernel.now_ns()

    def monotonic(self) -> float:
        """Seconds of a clock that nobody steps."""
        return self._kernel.monotonic_ns() / 1e9

    def alone(self) -> AbstractContextManager[str]:
        """No other tsq-adjtime sets this clock until the end of the `with`; see `tsq.host.lock.held`."""
        return self._kernel.lock()

    def daemon_lock(self) -> AbstractContextManager[str]:
        """The same, for the daemon: neither it nor a tsq-adjtime begins while the other holds the lock."""
        return self._kernel.daemon_lock()

    def raw_ns(self) -> int:
        """The raw clock, which nobody sets or slews."""
        return self._kernel.raw_ns()

    def daemon_reading(self) -> Reading:
        """The clock and the raw clock at one instant, how long the machine slept, and what the kernel says of its clock.

        Where the kernel refuses to say anything, as under a filter of system calls, the clock counts as not synchronized.
        """
        real, raw, width, monotonic, boot = self._kernel.clocks()
        asleep = boot - monotonic
        try:
            status, offset, frequency, maxerror, _, _, tick = self._kernel.read()
        except ClockError:
            return Reading(real, raw, width // 2 + 1, asleep)
        pending = offset if status & IN_NANOSECONDS else offset * 1000
        return Reading(
            real,
            raw,
            width // 2 + 1,
            asleep,
            frequency=rate(frequency, tick),
            pending_ns=pending + self._old_slew() * 1000,
            synchronized=not status & UNSYNCHRONIZED,
            leap=1 if status & INSERT else 2 if status & DELETE else 0,
            max_error=maxerror / 1e6,
        )

    def mark(self) -> ClockMark | None:
        """How the clock is now, to be compared with a later mark; None where the kernel refuses to say."""
        real, raw, width, monotonic, boot = self._kernel.clocks()
        try:
            status, offset, frequency, _, _, _, tick = self._kernel.read()
        except ClockError:
            return None
        return ClockMark(real, raw, width // 2 + 1, boot - monotonic, (status, offset, frequency, tick))

    def reading(self) -> TripleReading:
        """The clock beside those that cannot be set. Differences show what was done to it (`TripleReading.since`)."""
        best: TripleReading | None = None
        for _ in range(_BRACKETS):
            raw = self._kernel.raw_ns()
            monotonic = self._kernel.monotonic_ns()
            real = self._kernel.now_ns()
            monotonic_after = self._kernel.monotonic_ns()
            raw_after = self._kernel.raw_ns()
            # The narrowest bracket: a process that is interrupted between two readings sees a false step.
            if best is None or raw_after - raw < best.width_ns:
                best = TripleReading(real, (monotonic + monotonic_after) // 2, (raw + raw_after) // 2, raw_after - raw)
        assert best is not None
        return best

    def state(self) -> ClockState:
        """The kernel's state of its clock."""
        status, offset, frequency, maxerror, esterror, _, tick = self._kernel.read()
        unit = 1e-9 if status & IN_NANOSECONDS else 1e-6
        return ClockState(
            synchronized=not status & UNSYNCHRONIZED,
            max_error=maxerror / 1e6,
            estimated_error=esterror / 1e6,
            frequency_ppm=frequency / 65536,
            pending=offset * unit + self._old_slew() / 1e6,
            leap=1 if status & INSERT else 2 if status & DELETE else 0,
            tick_ppm=(tick - USUAL_TICK) * 1e6 / USUAL_TICK,
        )

    def state_if_readable(self) -> ClockState | None:
        """The same; None if the kernel refuses the call, as under a filter of system calls."""
        try:
            return self.state()
        except ClockError:
            return None

    def step(self, offset: float, *, max_error: float, estimated_error: float) -> None:
        """Add `offset` to the clock at once. Raises ClockError. A pending slew is cancelled."""
        seconds, nanoseconds = divmod(round(offset * 1e9), 1_000_000_000)
        self._kernel.adjust(
            SETOFFSET | NANO | STATUS | MAXERROR | ESTERROR,
            seconds=seconds,
            nanoseconds=nanoseconds,
            status=self._kept(),
            maxerror=microseconds(max_error),
            esterror=microseconds(estimated_error),
        )

    def slew(
        self, offset: float, *, time_constant: int, max_error: float | None = None, estimated_error: float | None = None
    ) -> None:
        """Let the kernel correct `offset` little by little, without a change of frequency. Raises ClockError.

        Without errors, the kernel's error bounds and its "unsynchronized" flag stay as they are.
        """
        modes, kept, errors = STATUS | NANO | OFFSET | TIMECONST, LEAP | UNSYNCHRONIZED, {}
        if max_error is not None and estimated_error is not None:
            modes, kept = modes | MAXERROR | ESTERROR, LEAP
            errors = {"maxerror": microseconds(max_error), "esterror": microseconds(estimated_error)}
        status = self._kept(kept) | PLL | FREQUENCY_HOLD
        self._kernel.adjust(modes, status=status, offset=round(offset * 1e9), constant=time_constant, **errors)

    def steer(self, frequency: float, *, max_error: float, estimated_error: float, synchronized: bool, leap: int = 0) -> None:
        """Let the clock run faster than the raw clock by `frequency` (seconds per second), and report its errors; all in one call.

        leap: 1 or 2: a leap second is to be inserted, or deleted, at the end of this UTC day; 0: none. A pending slew goes on.
        Raises ClockError.
        """
        tick, rest = tick_and_rest(frequency)
        status = PLL | FREQUENCY_HOLD | LEAP_STATUS[leap] | (0 if synchronized else UNSYNCHRONIZED)
        # A tick that another program has changed goes back to its usual length, too: `frequency` is the whole correction.
        modes = FREQUENCY | NANO | STATUS | MAXERROR | ESTERROR | (TICK if tick != self._kernel.read()[-1] else 0)
        self._kernel.adjust(
            modes,
            frequency=round(rest * FREQUENCY_UNIT),
            tick=tick,
            status=status,
            maxerror=microseconds(max_error),
            esterror=microseconds(estimated_error),
        )

    def slew_phase(self, offset: float) -> None:
        """Let the kernel's loop correct `offset` as quickly as it can, a quarter of the rest each second; 0 cancels all slews.

        The kernel takes at most half a second. It ends by itself, also after this process was killed. The frequency, the kernel's
        error bounds and its "unsynchronized" flag stay as they are. Raises ClockError.
        """
        self._kernel.adjust(
            STATUS | NANO | OFFSET | TIMECONST,
            status=self._kept(LEAP | UNSYNCHRONIZED) | PLL | FREQUENCY_HOLD,
            offset=round(offset * 1e9),
            constant=_QUICKEST,
        )
        if offset == 0 and self._old_slew():
            self._kernel.stop_old_slew()

    def hasten(self, time_constant: int) -> None:
        """Slew the pending offset with another time constant. Raises ClockError."""
        self._kernel.adjust(TIMECONST, constant=time_constant)

    def report_error(self, max_error: float, estimated_error: float) -> None:
        """Report to the kernel how wrong the clock can be; its "unsynchronized" flag stays as it is. Raises ClockError."""
        self._kernel.adjust(MAXERROR | ESTERROR, maxerror=microseconds(max_error), esterror=microseconds(estimated_error))

    def confirm(self, max_error: float, estimated_error: float) -> None:
        """Report how wrong the clock can be, and clear the "unsynchronized" flag. Raises ClockError."""
        self._kernel.adjust(
            STATUS | MAXERROR | ESTERROR,
            status=self._kept() | PLL | FREQUENCY_HOLD,
            maxerror=microseconds(max_error),
            esterror=microseconds(estimated_error),
        )

    def stop_slewing(self) -> None:
        """Cancel pending slews, also adjtime(3)'s, and let the clock run on. Raises ClockError.

        The kernel still finishes the current second's part.
        """
        status = self._kept(LEAP | UNSYNCHRONIZED) | PLL | FREQUENCY_HOLD
        self._kernel.adjust(STATUS | NANO | OFFSET, status=status, offset=0)
        if self._old_slew():
            self._kernel.stop_old_slew()

    def mark_unsynchronized(self) -> None:
        """Report that nothing is known of the clock's error. Raises ClockError."""
        status = self._kept() | UNSYNCHRONIZED
        self._kernel.adjust(STATUS | MAXERROR | ESTERROR, status=status, maxerror=MOST_ERROR_US, esterror=MOST_ERROR_US)

    def _old_slew(self) -> int:
        """What adjtime(3) has still to correct, microseconds; 0 also where a kernel does not support the question."""
        try:
            return self._kernel.read_old_slew()
        except ClockError:
            return 0

    def _kept(self, bits: int = LEAP) -> int:
        """The status bits to keep, such as an announced leap second."""
        return self._kernel.read()[0] & bits
