"""One adjustment of the clock: step, slew, or leave alone (after RFC 5905 §11.3).

Comes in: a Selection, limits, the state of this machine. Goes out: a ClockAction, and the measured drift of the clock.
Must never set a clock, and never use an offset without an agreement of the sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil, log

from tsq.errors import ConfigError
from tsq.settings import Setting
from tsq.timing.intersection import Interval
from tsq.timing.sample import Sample
from tsq.timing.selection import Selection

# The kernel's clock discipline accepts no larger offset for a slew, seconds.
MAX_SLEW = 0.5
# The fastest slew, in seconds per second: programs that measure intervals see a slew as a wrong frequency.
_MAX_RATE = 5e-3
_MIN_SHIFT = 2
_MAX_TIME_CONSTANT = 10
# A slew counts as complete when this fraction of it remains.
SLEW_REMAINDER = 0.01
# The largest frequency error of typical oscillators without correction, ppm.
OSCILLATOR_PPM = 100.0
# A measured drift with a larger error, or from a shorter time, gives no better bound than OSCILLATOR_PPM.
_USEFUL_PPM = 50.0
_USEFUL_SECONDS = 5.0


class Refusal(StrEnum):
    """Why the clock was not set."""

    NO_ANSWER = "no server gave the time"
    NO_TIME = "the servers give no time that can be trusted"
    TOO_FAR = "the offset is over the limit"
    STEPPED = "another program set the clock during the measurement"
    SLEWED = "another program slewed the clock during the measurement"
    OWNED = "another program keeps the clock"
    NOT_PERMITTED = "not permitted to set the clock"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class ClockLimits:
    """The offsets from which the clock is stepped, or not set at all; seconds. force: ignore the panic limit."""

    step: float = MAX_SLEW
    panic: float = 1000.0
    force: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.step <= MAX_SLEW:
            raise ConfigError(f"step limit {self.step:g} s", expected="0 to 0.5 s, the kernel's limit for slews")
        if not 0 < self.panic < float("inf"):
            advice = f"to set the clock with any offset, use {Setting.FORCE}"
            raise ConfigError(f"panic limit {self.panic:g} s", expected="a number of seconds above 0", advice=advice)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The state of this machine. owner: the program that controls the clock; may_set: this process has the permission.

    stepped, slewed: how far other programs moved the clock during the measurement, seconds. seconds: the measurement's duration.
    dry_run: the clock will not be set, so an owner, a missing permission or a slew is no obstacle.
    """

    owner: str | None = None
    may_set: bool = True
    stepped: float = 0.0
    slewed: float = 0.0
    seconds: float = 0.0
    interrupted: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """Add the offset to the clock at once."""

    offset: float
    max_error: float
    estimated_error: float


@dataclass(frozen=True, slots=True)
class Slew:
    """Let the kernel correct the offset gradually. max_error: the bound after the slew."""

    offset: float
    time_constant: int
    max_error: float
    estimated_error: float

    @property
    def seconds(self) -> int:
        """How long the slew takes until 1 % of the offset remains."""
        left_each_second = 1 - 2.0 ** -(_MIN_SHIFT + self.time_constant)
        return ceil(log(SLEW_REMAINDER) / log(left_each_second))


@dataclass(frozen=True, slots=True)
class MeasuredDrift:
    """The clock's frequency error, ppm ± error_ppm; positive: it runs fast. seconds: the time span of the measurement."""

    ppm: float
    error_ppm: float
    seconds: float

    @property
    def useful(self) -> bool:
        """Whether it gives a better bound than OSCILLATOR_PPM."""
        return self.error_ppm <= _USEFUL_PPM and self.seconds >= _USEFUL_SECONDS

    @property
    def most_ppm(self) -> float:
        """The largest possible frequency error, in either direction."""
        return abs(self.ppm) + self.error_ppm


@dataclass(frozen=True, slots=True)
class LeaveAlone:
    """Do not set the clock."""

    reason: Refusal
    detail: str = ""

    @property
    def text(self) -> str:
        """The reason with its detail."""
        return f"{self.reason} ({self.detail})" if self.detail else self.reason.value


ClockAction = Step | Slew | LeaveAlone

# Two clocks cannot be read at the same instant: a smaller difference is no step, seconds.
_STEP_TOLERANCE = 1e-3
# Smaller slews (seconds, and seconds per second) only widen the bound; a larger one shows that another program sets the clock.
_SLEW_TOLERANCE = 50e-6
_SLEW_RATE_TOLERANCE = 100e-6


def decide(selection: Selection, limits: ClockLimits, circumstances: Circumstances) -> ClockAction:
    """The action for this selection. The checks stand in the order in which a user must solve the problems.

    |offset| > panic limit: not set, unless forced. |offset| > step limit: step. Else slew (`time_constant`).
    """
    agreed = selection.agreed
    if circumstances.interrupted:
        return LeaveAlone(Refusal.INTERRUPTED)
    if agreed is None and all(verdict.source.estimate is None for verdict in selection.verdicts):
        return LeaveAlone(Refusal.NO_ANSWER)
    if agreed is None:
        return LeaveAlone(Refusal.NO_TIME, "" if selection.problem is None else selection.problem.value)
    if abs(agreed.offset) > limits.panic and not limits.force:
        return LeaveAlone(Refusal.TOO_FAR, f"{agreed.offset:+z.6f} s, limit {limits.panic:g} s")
    if abs(circumstances.stepped) > _STEP_TOLERANCE:
        return LeaveAlone(Refusal.STEPPED, f"by {circumstances.stepped:+z.6f} s")
    hindrances = hindrances_of(circumstances)
    if hindrances and not circumstances.dry_run:
        return hindrances[0]
    if abs(circumstances.slewed) > max(_SLEW_TOLERANCE, _SLEW_RATE_TOLERANCE * circumstances.seconds) and not circumstances.dry_run:
        return LeaveAlone(Refusal.SLEWED, f"by {circumstances.slewed:+z.6f} s in {circumstances.seconds:.1f} s")
    if abs(agreed.offset) > limits.step:
        return Step(agreed.offset, agreed.root_distance, agreed.jitter)
    return Slew(agreed.offset, time_constant(agreed.offset), agreed.root_distance, agreed.jitter)


def hindrances_of(circumstances: Circumstances) -> tuple[LeaveAlone, ...]:
    """What forbids setting the clock of this machine, for any offset, in the order in which a user must solve it."""
    owned = () if circumstances.owner is None else (LeaveAlone(Refusal.OWNED, circumstances.owner),)
    return owned if circumstances.may_set else (*owned, LeaveAlone(Refusal.NOT_PERMITTED))


def time_constant(offset: float) -> int:
    """The least n with |offset| 2^-(2 + n) <= 5000 ppm: each second the kernel corrects that part of the remaining offset."""
    constants = range(_MAX_TIME_CONSTANT + 1)
    slow_enough = (number for number in constants if abs(offset) * 2.0 ** -(_MIN_SHIFT + number) <= _MAX_RATE)
    return next(slow_enough, _MAX_TIME_CONSTANT)


def widened(selection: Selection, by: float) -> Selection:
    """The same selection with a bound wider by this many seconds, for a clock that moved so far during the measurement."""
    agreed = selection.agreed
    if agreed is None or by == 0:
        return selection
    interval = Interval(agreed.interval.low - by, agreed.interval.high + by)
    return replace(selection, agreed=replace(agreed, root_distance=agreed.root_distance + by, interval=interval))


def drift_between(
    before: tuple[float, float], after: tuple[float, float], seconds: float, gained: float, rate: float
) -> MeasuredDrift:
    """The drift between two measurements, each (offset, bound), this many seconds apart.

    gained: how far the system clock moved against the raw clock in between, by slews, steps and frequency correction. rate: the
    frequency correction alone, seconds per second.
    """
    # The offset falls by all that the system clock gains on true time; without `gained`, what remains is the raw clock's drift.
    raw = (before[0] - after[0] - gained) / seconds
    return MeasuredDrift((rate + raw) * 1e6, (before[1] + after[1]) / seconds * 1e6, seconds)


def drift_of(sources: Sequence[Sequence[Sample]]) -> MeasuredDrift | None:
    """The most exact drift from the samples of one of these sources; None where their time span is too short."""
    found = [_drift(samples) for samples in sources]
    return min((drift for drift in found if drift is not None), key=lambda drift: drift.error_ppm, default=None)


def _drift(samples: Sequence[Sample]) -> MeasuredDrift | None:
    """The drift between the best sample of the first third and that of the last third."""
    good = [(s.t4_ns, s.offset, s.root_distance) for s in samples if s.valid]
    usable = [(at, offset, bound) for at, offset, bound in good if at is not None and offset is not None and bound is not None]
    third = max(1, len(usable) // 3)
    if len(usable) < 2:
        return None
    first, last = (min(part, key=lambda item: item[2]) for part in (usable[:third], usable[-third:]))
    seconds = (last[0] - first[0]) / 1e9
    if seconds <= 0:
        return None
    return MeasuredDrift((first[1] - last[1]) / seconds * 1e6, (first[2] + last[2]) / seconds * 1e6, seconds)
