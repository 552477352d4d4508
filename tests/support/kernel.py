"""A model of the kernel's clock, in place of the real one below `tsq/host/clock.py`, after kernel/time/ntp.c.

A step clears the remaining slew and marks the clock unsynchronized, before status and errors are written. ADJ_OFFSET works only
with STA_PLL, and is clamped to 0.5 s; each second the loop corrects 2^-(2 + time constant) of the rest. maxerror grows by 500 µs a
second; at 16 s the clock is unsynchronized. The first adjustment after the loop was switched on changes no frequency; a later one
does, unless STA_FREQHOLD is set. adjtime(3) slews 500 µs a second. Frequency and tick act at once, within 500 ppm and a tenth.

A leap second is armed in the second after STA_INS or STA_DEL was set, and happens when the clock shows midnight of UTC. A step
disarms it for good, unless STA_PLL is cleared (which sets the leap state back), or the bit is cleared for a second.

The model's seconds are whole seconds of true time, not of the clock: only when in a second a slew begins differs by that. What is
due at the end of a second is done when time passes on. The lock of tsq-adjtime is modelled, too.
"""

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from math import ceil

from tsq.errors import AlreadyRunning, ClockError, NotPermitted
from tsq.host import _clock

OFFSET, FREQUENCY, MAXERROR, ESTERROR, STATUS, TIMECONST, SETOFFSET, NANO = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x100, 0x2000
TICK = 0x4000
SINGLESHOT = 0x8001
PLL, INS, DEL, UNSYNC, FREQHOLD, IN_NS = 0x1, 0x10, 0x20, 0x40, 0x80, 0x2000
_READ_ONLY = 0xFF00
_SECOND = 1_000_000_000
_MAX_PHASE = 500_000_000
_MAX_CONSTANT = 10
_MAX_ERROR_US = 16_000_000
_USUAL_TICK = 10_000
_MOST_TICK = 1_000
_MAX_FREQUENCY = 500 << 16
_OLD_SLEW_US = 500
_DAY = 86_400
# Of a leap second, as in <linux/timex.h>: none, to be inserted, to be deleted, in progress, done.
TIME_OK, TIME_INS, TIME_DEL, TIME_OOP, TIME_WAIT = range(5)


@dataclass
class VirtualKernel:
    """A kernel clock with a known error. `error_ns`: clock minus true time; `truth_ns` advances with `run`.

    drift_ppm: the frequency error of the oscillator, in every clock. slew_error: the fraction by which the kernel slews too far.
    permitted: this process has CAP_SYS_TIME; promised: what it seems to have, if that differs. deaf: steps are accepted but not
    done, as in some sandboxes. unreadable: even reading the state is refused, as by system call filters. running: the process that
    holds the lock; daemon: it is tsqd. calls: the modes and values of each change. leap_ns: what leap seconds have added to
    UTC, -1 s after one that was inserted; a test that has one sets it at midnight.
    """

    truth_ns: int = 1_800_000_000 * _SECOND
    error_ns: float = 0.0
    drift_ppm: float = 0.0
    slew_error: float = 0.0
    permitted: bool = True
    promised: bool | None = None
    deaf: bool = False
    unreadable: bool = False
    running: int | None = None
    daemon: bool = False
    status: int = UNSYNC
    frequency: int = 0
    maxerror_us: int = _MAX_ERROR_US
    esterror_us: int = _MAX_ERROR_US
    constant: int = 2
    pending_ns: int = 0
    tick: int = _USUAL_TICK
    old_slew_us: int = 0
    leap_ns: int = 0
    leap_state: int = TIME_OK
    asleep_ns: int = 0
    calls: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    _reference_ns: int = 0
    _boot_ns: int = 1_000 * _SECOND
    # How far CLOCK_MONOTONIC and CLOCK_MONOTONIC_RAW are ahead of true time.
    _monotonic_error_ns: float = 0.0
    _raw_error_ns: float = 0.0

    # The slews of the current second, seconds per second.
    _slewing: float = 0.0
    # When the clock shows this Unix second, the leap second happens.
    _leap_second: int | None = None

    def __post_init__(self) -> None:
        self._started_ns = self._second_ends_ns = self.truth_ns

    # The interface for tsq/host/clock.py.

    def now_ns(self) -> int:
        return self.truth_ns + round(self.error_ns)

    def monotonic_ns(self) -> int:
        return self.truth_ns - self._started_ns + self._boot_ns + round(self._monotonic_error_ns)

    def raw_ns(self) -> int:
        return self.truth_ns - self._started_ns + round(self._raw_error_ns)

    def clocks(self) -> tuple[int, int, int, int, int]:
        monotonic = self.monotonic_ns()
        return self.now_ns(), self.raw_ns(), 0, monotonic, monotonic + self.asleep_ns

    def lock(self) -> AbstractContextManager[str]:
        return self._held(daemon=False)

    def daemon_lock(self) -> AbstractContextManager[str]:
        return self._held(daemon=True)

    @contextmanager
    def _held(self, daemon: bool) -> Iterator[str]:
        if self.running is not None:
            name = "tsqd keeps" if self.daemon else "another tsq-adjtime sets"
            raise AlreadyRunning(f"{name} this clock (process {self.running}, lock none)")
        self.running, self.daemon = 1, daemon
        try:
            yield ""
        finally:
            self.running = None

    def read_old_slew(self) -> int:
        return self.old_slew_us

    def stop_old_slew(self) -> None:
        if not self.permitted:
            raise NotPermitted("not permitted to set the clock")
        self.calls.append((SINGLESHOT, {}))
        self.old_slew_us = 0

    def may_adjust(self) -> bool:
        return self.permitted if self.promised is None else self.promised

    def read(self):
        if self.unreadable:
            raise NotPermitted("not permitted to set the clock")
        offset = self.pending_ns if self.status & IN_NS else self.pending_ns // 1000
        return self.status, offset, self.frequency, self.maxerror_us, self.esterror_us, self.constant, self.tick

    def adjust(self, modes, **values):
        # The compiled call's own parameters: whatever it would not take is an error here as well.
        inspect.signature(_clock.adjust).bind(modes, **values)
        if not self.permitted:
            raise NotPermitted("not permitted to set the clock")
        if modes & TICK and abs(values["tick"] - _USUAL_TICK) > _MOST_TICK:
            raise ClockError("the kernel refuses to change the clock: Invalid argument")
        self.calls.append((modes, values))
        if modes & SETOFFSET:
            self._inject(values)
        if modes & STATUS:
            self._change_status(values["status"])
        if modes & NANO:
            self.status |= IN_NS
        if modes & FREQUENCY:
            self.frequency = max(-_MAX_FREQUENCY, min(values["frequency"], _MAX_FREQUENCY))
        if modes & MAXERROR:
            self.maxerror_us = values["maxerror"]
        if modes & ESTERROR:
            self.esterror_us = values["esterror"]
        if modes & TIMECONST:
            constant = values["constant"] + (0 if self.status & IN_NS else 4)
            self.constant = max(0, min(constant, _MAX_CONSTANT))
        if modes & OFFSET:
            self._change_offset(values["offset"] * (1 if self.status & IN_NS else 1000))
        if modes & TICK:
            self.tick = values["tick"]
        return self.read()

    # The interface for tests.

    @property
    def synchronized(self) -> bool:
        return not self.status & UNSYNC

    @property
    def error(self) -> float:
        """Clock minus true time, in seconds."""
        return (self.error_ns - self.leap_ns) / 1e9

    @property
    def rate(self) -> float:
        """How much faster than the raw clock the clock runs now, seconds per second."""
        return self._steady + self._slewing

    def run(self, seconds: float) -> None:
        """Let true time pass."""
        self.advance(round(seconds * 1e9))

    def advance(self, nanoseconds: int) -> None:
        """Let true time pass, ns."""
        end = self.truth_ns + nanoseconds
        while self.truth_ns < end:
            if self.truth_ns >= self._second_ends_ns:
                self._end_second()
                self._second_ends_ns += ((self.truth_ns - self._second_ends_ns) // _SECOND + 1) * _SECOND
            until = min(end, self._second_ends_ns)
            left = self._until_leap()
            if left is not None and self.truth_ns + left <= until:
                self._pass(left)
                self._leap()
            else:
                self._pass(until - self.truth_ns)

    def suspend(self, seconds: float, rtc_error: float = 0.0) -> None:
        """The machine sleeps: only CLOCK_REALTIME and CLOCK_BOOTTIME go on, by the real-time clock, which is off by its error."""
        elapsed_ns, error_ns = round(seconds * 1e9), round(rtc_error * 1e9)
        self._stand_still(elapsed_ns)
        self.error_ns += elapsed_ns + error_ns
        self.asleep_ns += elapsed_ns + error_ns

    def pause(self, seconds: float) -> None:
        """The virtual machine is stopped, as for a snapshot or a migration: no clock of it goes on."""
        self._stand_still(round(seconds * 1e9))

    def stall(self, seconds: float) -> None:
        """The host does not run the virtual machine, whose clocks go on: what the kernel does each second it does at the end."""
        self._pass(round(seconds * 1e9))
        while self.truth_ns >= self._second_ends_ns:
            self._end_second()
            self._second_ends_ns += _SECOND

    def step_by_another(self, seconds: float) -> None:
        """Another program sets the clock, as date(1) does."""
        self._clear()
        self.error_ns += seconds * 1e9

    def _stand_still(self, elapsed_ns: int) -> None:
        self.truth_ns += elapsed_ns
        self._second_ends_ns += elapsed_ns
        self.error_ns -= elapsed_ns
        self._raw_error_ns -= elapsed_ns
        self._monotonic_error_ns -= elapsed_ns

    @property
    def _steady(self) -> float:
        return self.frequency / 65536e6 + (self.tick - _USUAL_TICK) / _USUAL_TICK

    def _pass(self, nanoseconds: int) -> None:
        """Let time pass within a second of the model."""
        self.truth_ns += nanoseconds
        drift = self.drift_ppm * 1e-6
        # What is slewed in a second does not depend on the oscillator.
        gained = nanoseconds * (drift + self._steady + drift * self._steady + self._slewing)
        self._raw_error_ns += nanoseconds * drift
        self._monotonic_error_ns += gained
        self.error_ns += gained

    def _end_second(self) -> None:
        """second_overflow() of ntp.c."""
        self._arm_leap()
        self.maxerror_us += 500
        if self.maxerror_us > _MAX_ERROR_US:
            self.maxerror_us = _MAX_ERROR_US
            self.status |= UNSYNC
        chunk = self._chunk()
        self.pending_ns -= chunk
        old = max(-_OLD_SLEW_US, min(self.old_slew_us, _OLD_SLEW_US))
        self.old_slew_us -= old
        self._slewing = (chunk * (1 + self.slew_error) + old * 1000) / 1e9

    def _arm_leap(self) -> None:
        second = self.now_ns() // _SECOND
        if self.leap_state == TIME_OK and self.status & INS:
            self.leap_state, self._leap_second = TIME_INS, second + _DAY - second % _DAY
        elif self.leap_state == TIME_OK and self.status & DEL:
            self.leap_state, self._leap_second = TIME_DEL, second + _DAY - (second + 1) % _DAY
        elif self.leap_state in (TIME_INS, TIME_DEL) and not self._leap_announced():
            self.leap_state, self._leap_second = TIME_OK, None
        elif self.leap_state == TIME_OOP:
            self.leap_state, self._leap_second = TIME_WAIT, None
        elif self.leap_state == TIME_WAIT and not self.status & (INS | DEL):
            self.leap_state = TIME_OK

    def _leap_announced(self) -> bool:
        return bool(self.status & (INS if self.leap_state == TIME_INS else DEL))

    def _until_leap(self) -> int | None:
        """True nanoseconds until the clock shows the second of the leap; None: none is armed, or the clock is beyond it."""
        if self._leap_second is None or self.leap_state not in (TIME_INS, TIME_DEL):
            return None
        left = self._leap_second * _SECOND - self.now_ns()
        return None if left < 0 else ceil(left / ((1 + self.drift_ppm * 1e-6) * (1 + self._steady) + self._slewing))

    def _leap(self) -> None:
        inserts, announced = self.leap_state == TIME_INS, self._leap_announced()
        self._leap_second = None
        self.leap_state = TIME_OK if not announced else TIME_OOP if inserts else TIME_WAIT
        if announced:
            self.error_ns += -_SECOND if inserts else _SECOND

    def _chunk(self) -> int:
        shift = 2 + self.constant
        return self.pending_ns >> shift if self.pending_ns >= 0 else -(-self.pending_ns >> shift)

    def _inject(self, values) -> None:
        if not 0 <= values["nanoseconds"] < _SECOND:
            raise ClockError("the kernel refuses to change the clock: Invalid argument")
        if not self.deaf:
            self.error_ns += values["seconds"] * _SECOND + values["nanoseconds"]
        self._clear()

    def _clear(self) -> None:
        """The effects of every step."""
        self.pending_ns = self.old_slew_us = 0
        self._slewing, self._leap_second = 0.0, None
        self.status |= UNSYNC
        self.maxerror_us = self.esterror_us = _MAX_ERROR_US

    def _change_status(self, status: int) -> None:
        if self.status & PLL and not status & PLL:
            self.leap_state, self._leap_second = TIME_OK, None
        if not self.status & PLL and status & PLL:
            self._reference_ns = self.truth_ns
        self.status = self.status & _READ_ONLY | status & ~_READ_ONLY

    def _change_offset(self, offset_ns: int) -> None:
        if not self.status & PLL:
            return
        self.pending_ns = max(-_MAX_PHASE, min(offset_ns, _MAX_PHASE))
        seconds = (self.truth_ns - self._reference_ns) // _SECOND
        if self.status & FREQHOLD:
            seconds = 0
        self._reference_ns = self.truth_ns
        seconds = min(seconds, 1 << (3 + self.constant))
        # Scaled ppm: offset * seconds / 2^(2 * (SHIFT_PLL + 1 + constant)) in ns/s, times 65536/1000.
        gained = self.pending_ns * seconds / 2 ** (2 * (4 + self.constant))
        self.frequency = max(-_MAX_FREQUENCY, min(self.frequency + round(gained * 65.536), _MAX_FREQUENCY))
