"""A model of the kernel's clock, in place of the real one below `tsq/host/clock.py`, after kernel/time/ntp.c.

A step clears the remaining slew and marks the clock unsynchronized, before status and errors are written. ADJ_OFFSET works only
with STA_PLL, and is clamped to 0.5 s; each second the loop corrects 2^-(2 + time constant) of the rest. maxerror grows by 500 µs a
second; at 16 s the clock is unsynchronized. The first adjustment after the loop was switched on changes no frequency; a later one
does, unless STA_FREQHOLD is set. adjtime(3) slews 500 µs a second. The lock of tsq-adjtime is modelled, too.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tsq.errors import AlreadyRunning, ClockError, NotPermitted
from tsq.host import _clock

OFFSET, FREQUENCY, MAXERROR, ESTERROR, STATUS, TIMECONST, SETOFFSET, NANO = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x100, 0x2000
SINGLESHOT = 0x8001
PLL, INS, DEL, UNSYNC, FREQHOLD, IN_NS = 0x1, 0x10, 0x20, 0x40, 0x80, 0x2000
_READ_ONLY = 0xFF00
_SECOND = 1_000_000_000
_MAX_PHASE = 500_000_000
_MAX_CONSTANT = 10
_MAX_ERROR_US = 16_000_000
_USUAL_TICK = 10_000
_OLD_SLEW_US = 500


@dataclass
class VirtualKernel:
    """A kernel clock with a known error. `error_ns`: clock minus true time; `truth_ns` advances with `run`.

    drift_ppm: the frequency error of the oscillator, in every clock. slew_error: the fraction by which the kernel slews too far.
    permitted: this process has CAP_SYS_TIME; promised: what it seems to have, if that differs. deaf: steps are accepted but not
    done, as in some sandboxes. unreadable: even reading the state is refused, as by system call filters. running: the process that
    holds the lock. calls: the modes and values of each change.
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
    status: int = UNSYNC
    frequency: int = 0
    maxerror_us: int = _MAX_ERROR_US
    esterror_us: int = _MAX_ERROR_US
    constant: int = 2
    pending_ns: int = 0
    tick: int = _USUAL_TICK
    old_slew_us: int = 0
    calls: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    _reference_ns: int = 0
    _boot_ns: int = 1_000 * _SECOND
    # How far CLOCK_MONOTONIC and CLOCK_MONOTONIC_RAW are ahead of true time.
    _monotonic_error_ns: float = 0.0
    _raw_error_ns: float = 0.0

    def __post_init__(self) -> None:
        self._started_ns = self.truth_ns

    # The interface for tsq/host/clock.py.

    def now_ns(self) -> int:
        return self.truth_ns + round(self.error_ns)

    def monotonic_ns(self) -> int:
        return self.truth_ns - self._started_ns + self._boot_ns + round(self._monotonic_error_ns)

    def raw_ns(self) -> int:
        return self.truth_ns - self._started_ns + round(self._raw_error_ns)

    @contextmanager
    def lock(self) -> Iterator[str]:
        if self.running is not None:
            raise AlreadyRunning(f"another tsq-adjtime sets this clock (process {self.running}, lock none)")
        self.running = 1
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
        self.calls.append((modes, values))
        if modes & SETOFFSET:
            self._inject(values)
        if modes & STATUS:
            self._change_status(values["status"])
        if modes & NANO:
            self.status |= IN_NS
        if modes & MAXERROR:
            self.maxerror_us = values["maxerror"]
        if modes & ESTERROR:
            self.esterror_us = values["esterror"]
        if modes & TIMECONST:
            constant = values["constant"] + (0 if self.status & IN_NS else 4)
            self.constant = max(0, min(constant, _MAX_CONSTANT))
        if modes & OFFSET:
            self._change_offset(values["offset"] * (1 if self.status & IN_NS else 1000))
        return self.read()

    # The interface for tests.

    @property
    def synchronized(self) -> bool:
        return not self.status & UNSYNC

    @property
    def error(self) -> float:
        """Clock minus true time, in seconds."""
        return self.error_ns / 1e9

    def run(self, seconds: int) -> None:
        """Let whole seconds of true time pass."""
        for _ in range(seconds):
            self.truth_ns += _SECOND
            chunk = self._chunk()
            self.pending_ns -= chunk
            old = max(-_OLD_SLEW_US, min(self.old_slew_us, _OLD_SLEW_US))
            self.old_slew_us -= old
            slewed = chunk * (1 + self.slew_error) + old * 1000
            steady = self.frequency * 1000 / 65536 + (self.tick - _USUAL_TICK) * 100_000
            self._raw_error_ns += self.drift_ppm * 1000
            self._monotonic_error_ns += self.drift_ppm * 1000 + steady + slewed
            self.error_ns += self.drift_ppm * 1000 + steady + slewed
            self.maxerror_us += 500
            if self.maxerror_us > _MAX_ERROR_US:
                self.maxerror_us = _MAX_ERROR_US
                self.status |= UNSYNC

    def step_by_another(self, seconds: float) -> None:
        """Another program sets the clock, as date(1) does."""
        self._clear()
        self.error_ns += seconds * 1e9

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
        self.status |= UNSYNC
        self.maxerror_us = self.esterror_us = _MAX_ERROR_US

    def _change_status(self, status: int) -> None:
        if self.status & PLL and not status & PLL:
            self.status |= UNSYNC
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
        self.frequency = max(-500 << 16, min(self.frequency + round(gained * 65.536), 500 << 16))
