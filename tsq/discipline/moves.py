"""What moved the clock between two readings beside this machine: suspensions, steps, slews and frequencies of other programs.

Comes in: readings, and what the machine itself asked of the kernel. Goes out: moves. It must never take the machine's own actions,
or the time between a reading and an action, for another program's.

    moved = (D₂ - D₁) - u Δ - own steps and slews      D: the clock minus the raw clock, u: the frequency, Δ: the raw time between
"""

from dataclasses import dataclass
from enum import StrEnum
from math import ceil

from tsq.discipline.events import Reading
from tsq.discipline.steering import KernelLoop

_SECOND = 1_000_000_000
# A suspension is longer than the error of the two clocks' readings, ns.
_LEAST_SLEEP = 50_000_000
# What a kernel's clock may differ from its own frequency in a second, and what no reading shows; ns.
_STEADY = 1e-6
_LEAST_MOVE = 20_000
# While the kernel's loop slews, the boundaries of its seconds are not known exactly: a part of what it slews, and ns.
_LOOP_PART = 0.6
_LOOP_LEAST = 1_000_000
# The kernel's loop slews at most an eighth of a second in a second, and finishes the present second after it was cancelled.
_FASTEST_SLEW = 0.126
# A processor that sleeps, or that a busy host does not run, begins and ends the loop's seconds later than the model, ns.
_LATE = 3_000_000_000
_LOOP_ENDS = 2 * _SECOND
# Smaller foreign steps are corrected as any other offset, ns.
LEAST_STEP = 1_000_000
# The kernel's unit of frequency is 1.5e-11, and that of its tick 1e-4.
_SAME_FREQUENCY = 1e-9
_SAME_PENDING = 2_000
# An action takes effect within this time, ns.
_PATIENCE = 5 * _SECOND


class Kind(StrEnum):
    """What moved the clock."""

    SUSPENDED = "the machine was suspended"
    STEPPED = "another program stepped this clock"
    SLEWS = "another program slews this clock"
    FREQUENCY = "another program changed the frequency of this clock"
    LEAP = "the kernel inserted or deleted a leap second"


@dataclass(frozen=True, slots=True)
class Move:
    """One move. amount: seconds, or seconds per second for a frequency; positive: forwards, faster."""

    kind: Kind
    amount: float


class Watch:
    """Compares each reading with the one before."""

    def __init__(self) -> None:
        self._last: Reading | None = None
        # What was asked of the kernel; the one before stays possible until a reading shows the newer one.
        self._frequency: float | None = None
        self._old_frequency: float | None = None
        self._since_ns = 0
        self._step_ns = 0
        self._step_since_ns = 0
        self._leap_ns = 0
        # The most that the machine's own loop had to slew in the last seconds.
        self._slewing = 0.0
        self._slewing_since_ns = 0
        # Until when a slew of another program may still be seen.
        self._slewing_until_ns = 0

    def will_steer(self, frequency: float, now_ns: int) -> None:
        """The machine asked for this frequency."""
        if frequency != self._frequency:
            self._old_frequency, self._frequency, self._since_ns = self._frequency, frequency, now_ns

    def will_step(self, offset: float, now_ns: int) -> None:
        """The machine asked for a step."""
        self._step_ns += round(offset * 1e9)
        self._step_since_ns = now_ns

    def will_leap(self, seconds: int) -> None:
        """The kernel is to insert (-1) or delete (1) a leap second soon; 0: it is not."""
        self._leap_ns = seconds * _SECOND

    @property
    def expected_step_ns(self) -> int:
        """The machine's own step that no reading shows yet."""
        return self._step_ns

    def forget_step(self) -> None:
        """The kernel refused the step."""
        self._step_ns = 0

    def forget_frequency(self) -> None:
        """The kernel refused the frequency, or the machine leaves it to others."""
        self._frequency = self._old_frequency = None

    def look(self, reading: Reading, loop: KernelLoop) -> list[Move]:
        """What moved the clock since the last reading. Older readings than the last one are ignored."""
        last = self._last
        if last is None:
            self._last = reading
            loop.advance(reading.real_ns)
            # An earlier run's slew, which is cancelled now, goes on to the end of its second.
            self._slewing, self._slewing_since_ns = abs(reading.pending_ns or 0) / 1e9, reading.raw_ns
            return []
        elapsed = reading.raw_ns - last.raw_ns
        if elapsed <= 0:
            return []
        self._last = reading
        slept = reading.asleep_ns - last.asleep_ns
        if slept > _LEAST_SLEEP + last.width_ns + reading.width_ns:
            self._step_ns = 0
            loop.stop()
            loop.advance(reading.real_ns)
            return [Move(Kind.SUSPENDED, slept / 1e9)]
        moves = self._frequency_moves(reading)
        slewing = abs(loop.pending) + abs(loop.current)
        slewed = loop.advance(reading.real_ns) * 1e9
        frequency = reading.frequency if reading.frequency is not None else self._frequency or 0.0
        before = last.frequency if last.frequency is not None else frequency
        moved = reading.difference_ns - last.difference_ns - round(frequency * elapsed + slewed)
        allowed = ceil(last.width_ns + reading.width_ns + _LEAST_MOVE + (_STEADY + abs(frequency - before)) * elapsed)
        if slewing >= self._slewing or reading.raw_ns - self._slewing_since_ns > _LATE:
            self._slewing, self._slewing_since_ns = slewing, reading.raw_ns
        if self._slewing:
            allowed += ceil(_LOOP_PART * self._slewing * 1e9) + _LOOP_LEAST
        moved = self._without_own(moved, allowed, reading, loop)
        if self._leap_ns and abs(moved - self._leap_ns) <= allowed + LEAST_STEP:
            self._leap_ns = 0
            return [*moves, Move(Kind.LEAP, round(moved / _SECOND))]
        moves += self._slews(reading, loop, slewing)
        if any(one.kind is Kind.SLEWS for one in moves):
            self._slewing_until_ns = reading.raw_ns + _LOOP_ENDS
        if abs(moved) > allowed:
            fastest = _FASTEST_SLEW * elapsed if reading.raw_ns <= self._slewing_until_ns else 0
            if abs(moved) >= LEAST_STEP + fastest:
                loop.stop()
                moves.append(Move(Kind.STEPPED, moved / 1e9))
            elif not moves:
                moves.append(Move(Kind.SLEWS, moved / 1e9))
        return moves

    def _without_own(self, moved: int, allowed: int, reading: Reading, loop: KernelLoop) -> int:
        """The move without the machine's own step, which this reading may show or not yet."""
        if not self._step_ns:
            return moved
        if abs(moved - self._step_ns) <= abs(moved):
            moved -= self._step_ns
            self._step_ns = 0
            loop.stop()
        elif reading.raw_ns - self._step_since_ns > _PATIENCE:
            self._step_ns = 0
        return moved

    def _frequency_moves(self, reading: Reading) -> list[Move]:
        found, wanted = reading.frequency, self._frequency
        if found is None or wanted is None:
            return []
        if abs(found - wanted) <= _SAME_FREQUENCY:
            self._old_frequency = wanted
            return []
        old = self._old_frequency
        if reading.raw_ns - self._since_ns < _PATIENCE and (old is None or abs(found - old) <= _SAME_FREQUENCY):
            return []
        return [Move(Kind.FREQUENCY, found - wanted)]

    def _slews(self, reading: Reading, loop: KernelLoop, slewing: float) -> list[Move]:
        """A slew that the machine did not ask for; while it slews itself, only the kernel's own number counts."""
        pending = reading.pending_ns
        if pending is None:
            return []
        if slewing:
            # The loop's seconds may have begun a little earlier or later than the model's.
            loop.pending = pending / 1e9
            return []
        if abs(pending) <= _SAME_PENDING:
            return []
        return [Move(Kind.SLEWS, pending / 1e9)]
