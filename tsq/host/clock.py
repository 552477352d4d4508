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
from dataclasses import dataclass
from functools import cache
from math import ceil, isfinite
from pathlib import Path

from tsq._fast import BUILD_TIME, clock_ns
from tsq.discipline.events import Reading
from tsq.errors import ClockError
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
# <linux/timex.h>
_OFFSET, _FREQUENCY, _MAXERROR, _ESTERROR, _STATUS, _TIMECONST, _SETOFFSET = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x100
_NANO, _TICK = 0x2000, 0x4000
_PLL, _INSERT, _DELETE, _UNSYNCHRONIZED, _FREQUENCY_HOLD, _IN_NANOSECONDS = 0x1, 0x10, 0x20, 0x40, 0x80, 0x2000
_LEAP = _INSERT | _DELETE
_LEAP_STATUS = (0, _INSERT, _DELETE)
_MOST_ERROR_US = 16_000_000
_CAP_SYS_TIME = 25
# struct timex: the frequency is in 2^-16 ppm, the tick in µs, 100 in a second (USER_HZ).
_FREQUENCY_UNIT = 65536e6
_TICKS = os.sysconf("SC_CLK_TCK")
# Microseconds that the clock advances in a hundredth of a second, by default. The kernel accepts a tenth more or less.
_USUAL_TICK = 1_000_000 // _TICKS
_MOST_TICK = _USUAL_TICK // 10
# The kernel's own limit for a frequency without the tick.
_MOST_FREQUENCY = 500e-6
# Of the kernel's loop: a quarter of the pending offset each second.
_QUICKEST = 0
# The BSDs have no clock that a slew leaves alone: what a slew does is then allowed for (`ClockReading.raw`).
_HAS_RAW = hasattr(time, "CLOCK_MONOTONIC_RAW")
_RAW = time.CLOCK_MONOTONIC_RAW if _HAS_RAW else time.CLOCK_MONOTONIC
# macOS gives the time in whole microseconds.
_RESOLUTION_NS = max(1, round(time.clock_getres(time.CLOCK_REALTIME) * 1e9))
# Between two marks the clock may differ from its own frequency by this, besides the widths of the readings: ns, and ns per ns.
_MARK_ERROR_NS, _MARK_UNSTEADY = 2_000, 1e-7
# What two differences of CLOCK_BOOTTIME and CLOCK_MONOTONIC may differ by when nothing slept, ns.
_MARK_SLEEP_NS = 1_000_000


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
        frequency=frequency / _FREQUENCY_UNIT + tick * _TICKS / 1e6 - 1,
        pending_ns=offset if status & _IN_NANOSECONDS else offset * 1000,
        synchronized=not status & _UNSYNCHRONIZED,
    )


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
        return _rate(frequency, tick)

    def explains(self, later: "ClockMark") -> bool:
        """Whether the clock only ran on since, with the same frequency, and nothing was slewed; False where that is not sure."""
        elapsed = later.raw_ns - self.raw_ns
        slept = abs(later.asleep_ns - self.asleep_ns)
        moved = later.real_ns - self.real_ns - elapsed - round(self.rate * elapsed)
        allowed = self.width_ns + later.width_ns + _MARK_ERROR_NS + _MARK_UNSTEADY * elapsed
        return later.state == self.state and not self.state[1] and slept <= _MARK_SLEEP_NS and abs(moved) <= allowed


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
        pending = offset if status & _IN_NANOSECONDS else offset * 1000
        return Reading(
            real,
            raw,
            width // 2 + 1,
            asleep,
            frequency=_rate(frequency, tick),
            pending_ns=pending + self._old_slew() * 1000,
            synchronized=not status & _UNSYNCHRONIZED,
            leap=1 if status & _INSERT else 2 if status & _DELETE else 0,
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
        unit = 1e-9 if status & _IN_NANOSECONDS else 1e-6
        return ClockState(
            synchronized=not status & _UNSYNCHRONIZED,
            max_error=maxerror / 1e6,
            estimated_error=esterror / 1e6,
            frequency_ppm=frequency / 65536,
            pending=offset * unit + self._old_slew() / 1e6,
            leap=1 if status & _INSERT else 2 if status & _DELETE else 0,
            tick_ppm=(tick - _USUAL_TICK) * 1e6 / _USUAL_TICK,
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
            _SETOFFSET | _NANO | _STATUS | _MAXERROR | _ESTERROR,
            seconds=seconds,
            nanoseconds=nanoseconds,
            status=self._kept(),
            maxerror=_microseconds(max_error),
            esterror=_microseconds(estimated_error),
        )

    def slew(
        self, offset: float, *, time_constant: int, max_error: float | None = None, estimated_error: float | None = None
    ) -> None:
        """Let the kernel correct `offset` little by little, without a change of frequency. Raises ClockError.

        Without errors, the kernel's error bounds and its "unsynchronized" flag stay as they are.
        """
        modes, kept, errors = _STATUS | _NANO | _OFFSET | _TIMECONST, _LEAP | _UNSYNCHRONIZED, {}
        if max_error is not None and estimated_error is not None:
            modes, kept = modes | _MAXERROR | _ESTERROR, _LEAP
            errors = {"maxerror": _microseconds(max_error), "esterror": _microseconds(estimated_error)}
        status = self._kept(kept) | _PLL | _FREQUENCY_HOLD
        self._kernel.adjust(modes, status=status, offset=round(offset * 1e9), constant=time_constant, **errors)

    def steer(self, frequency: float, *, max_error: float, estimated_error: float, synchronized: bool, leap: int = 0) -> None:
        """Let the clock run faster than the raw clock by `frequency` (seconds per second), and report its errors; all in one call.

        leap: 1 or 2: a leap second is to be inserted, or deleted, at the end of this UTC day; 0: none. A pending slew goes on.
        Raises ClockError.
        """
        tick, rest = _tick_and_rest(frequency)
        status = _PLL | _FREQUENCY_HOLD | _LEAP_STATUS[leap] | (0 if synchronized else _UNSYNCHRONIZED)
        # A tick that another program has changed goes back to its usual length, too: `frequency` is the whole correction.
        modes = _FREQUENCY | _NANO | _STATUS | _MAXERROR | _ESTERROR | (_TICK if tick != self._kernel.read()[-1] else 0)
        self._kernel.adjust(
            modes,
            frequency=round(rest * _FREQUENCY_UNIT),
            tick=tick,
            status=status,
            maxerror=_microseconds(max_error),
            esterror=_microseconds(estimated_error),
        )

    def slew_phase(self, offset: float) -> None:
        """Let the kernel's loop correct `offset` as quickly as it can, a quarter of the rest each second; 0 cancels all slews.

        The kernel takes at most half a second. It ends by itself, also after this process was killed. The frequency, the kernel's
        error bounds and its "unsynchronized" flag stay as they are. Raises ClockError.
        """
        self._kernel.adjust(
            _STATUS | _NANO | _OFFSET | _TIMECONST,
            status=self._kept(_LEAP | _UNSYNCHRONIZED) | _PLL | _FREQUENCY_HOLD,
            offset=round(offset * 1e9),
            constant=_QUICKEST,
        )
        if offset == 0 and self._old_slew():
            self._kernel.stop_old_slew()

    def hasten(self, time_constant: int) -> None:
        """Slew the pending offset with another time constant. Raises ClockError."""
        self._kernel.adjust(_TIMECONST, constant=time_constant)

    def report_error(self, max_error: float, estimated_error: float) -> None:
        """Report to the kernel how wrong the clock can be; its "unsynchronized" flag stays as it is. Raises ClockError."""
        self._kernel.adjust(_MAXERROR | _ESTERROR, maxerror=_microseconds(max_error), esterror=_microseconds(estimated_error))

    def confirm(self, max_error: float, estimated_error: float) -> None:
        """Report how wrong the clock can be, and clear the "unsynchronized" flag. Raises ClockError."""
        self._kernel.adjust(
            _STATUS | _MAXERROR | _ESTERROR,
            status=self._kept() | _PLL | _FREQUENCY_HOLD,
            maxerror=_microseconds(max_error),
            esterror=_microseconds(estimated_error),
        )

    def stop_slewing(self) -> None:
        """Cancel pending slews, also adjtime(3)'s, and let the clock run on. Raises ClockError.

        The kernel still finishes the current second's part.
        """
        status = self._kept(_LEAP | _UNSYNCHRONIZED) | _PLL | _FREQUENCY_HOLD
        self._kernel.adjust(_STATUS | _NANO | _OFFSET, status=status, offset=0)
        if self._old_slew():
            self._kernel.stop_old_slew()

    def mark_unsynchronized(self) -> None:
        """Report that nothing is known of the clock's error. Raises ClockError."""
        status = self._kept() | _UNSYNCHRONIZED
        self._kernel.adjust(_STATUS | _MAXERROR | _ESTERROR, status=status, maxerror=_MOST_ERROR_US, esterror=_MOST_ERROR_US)

    def _old_slew(self) -> int:
        """What adjtime(3) has still to correct, microseconds; 0 also where a kernel does not support the question."""
        try:
            return self._kernel.read_old_slew()
        except ClockError:
            return 0

    def _kept(self, bits: int = _LEAP) -> int:
        """The status bits to keep, such as an announced leap second."""
        return self._kernel.read()[0] & bits


def _rate(frequency: int, tick: int) -> float:
    """How much faster than the raw clock the clock runs with this state of the kernel, seconds per second."""
    return frequency / _FREQUENCY_UNIT + (tick - _USUAL_TICK) / _USUAL_TICK


def _tick_and_rest(frequency: float) -> tuple[int, float]:
    """A frequency as the kernel's tick, and what has to be added to that. Within 500 ppm the tick is the usual one."""
    most = _MOST_TICK / _USUAL_TICK
    if not (isfinite(frequency) and abs(frequency) <= most):
        raise ClockError(f"a frequency correction of {frequency * 1e6:g} ppm", expected=f"at most {most * 1e6:.0f} ppm")
    if abs(frequency) <= _MOST_FREQUENCY:
        return _USUAL_TICK, frequency
    units = round(frequency * _USUAL_TICK)
    return _USUAL_TICK + units, frequency - units / _USUAL_TICK


def _microseconds(seconds: float) -> int:
    """An error bound as the kernel takes it, rounded up."""
    return min(ceil(seconds * 1e6), _MOST_ERROR_US)
