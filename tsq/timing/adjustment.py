"""What to do about the clock, once: step it, slew it, or leave it alone (RFC 5905 §11.3, in spirit).

Comes in: what the sources agreed on, limits, what is known of this machine. Goes out: a ClockAction, and how fast the clock drifts.
It must never act, and never let an offset through that no selection has agreed on.

    |offset| over the panic limit: refused, unless forced
    |offset| over the step limit: a step
    else a slew: each second the kernel takes 2^-n of what is left, n as small as keeps that under 5000 ppm
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

# What the kernel's loop takes at once, seconds: a larger offset cannot be slewed.
MOST_SLEWED = 0.5
# How fast a slew may go, seconds a second: programs that measure spans see it as a wrong frequency.
_MOST_RATE = 5e-3
_LEAST_SHIFT = 2
_MOST_TIME_CONSTANT = 10
# The part of a slew that may be left when it counts as done.
REST = 0.01
# How far the clocks of usual machines are off when nothing corrects their frequency, ppm.
OSCILLATOR_PPM = 100.0
# A measured drift that is less certain than this, or seen for a shorter time, says no more than OSCILLATOR_PPM does.
_USEFUL_PPM = 50.0
_USEFUL_SECONDS = 5.0


class Refusal(StrEnum):
    """Why the clock is left alone."""

    NO_ANSWER = "no server gave the time"
    NO_TIME = "the servers give no time that can be trusted"
    TOO_FAR = "the offset is over the limit"
    STEPPED = "somebody else set the clock while it was being measured"
    SLEWED = "another program slewed the clock while it was being measured"
    OWNED = "another program keeps the clock"
    NOT_PERMITTED = "this process may not set the clock"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class ClockLimits:
    """When to step and when to refuse; seconds."""

    step: float = MOST_SLEWED
    panic: float = 1000.0
    force: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.step <= MOST_SLEWED:
            raise ConfigError(f"step limit {self.step:g} s", expected="0 to 0.5 s; the kernel slews no more")
        if not 0 < self.panic < float("inf"):
            advice = f"to set the clock whatever the offset is, use {Setting.FORCE}"
            raise ConfigError(f"panic limit {self.panic:g} s", expected="a number of seconds above 0", advice=advice)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known of this machine. owner: the program that keeps the clock; stepped, slewed: by how much others moved the clock
    during the measurement, which took so many seconds; dry_run: nothing is going to be done, so that only a step can forbid it.
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
    """Let the kernel correct the offset little by little. max_error: when it is done."""

    offset: float
    time_constant: int
    max_error: float
    estimated_error: float

    @property
    def seconds(self) -> int:
        """How long it takes until a hundredth is left."""
        left_each_second = 1 - 2.0 ** -(_LEAST_SHIFT + self.time_constant)
        return ceil(log(REST) / log(left_each_second))


@dataclass(frozen=True, slots=True)
class Drift:
    """How fast the clock gains on the true time while nobody corrects it, ppm ± ppm, measured over so many seconds."""

    ppm: float
    error_ppm: float
    seconds: float

    @property
    def useful(self) -> bool:
        """Whether it says more than what is known of clocks in general."""
        return self.error_ppm <= _USEFUL_PPM and self.seconds >= _USEFUL_SECONDS

    @property
    def most_ppm(self) -> float:
        """The most that the clock gains or loses."""
        return abs(self.ppm) + self.error_ppm


@dataclass(frozen=True, slots=True)
class Refuse:
    """Leave the clock alone."""

    reason: Refusal
    detail: str = ""

    @property
    def text(self) -> str:
        """The reason with its detail."""
        return f"{self.reason} ({self.detail})" if self.detail else self.reason.value


ClockAction = Step | Slew | Refuse

# A clock that nobody steps stays this near to itself, as far as two clocks can be read together: seconds.
_STILL = 1e-3
# Slews below this, in seconds and seconds a second, widen the bound; faster ones are another program's work.
_HARDLY_SLEWED = 50e-6
_SLOWLY = 100e-6


def decide(selection: Selection, limits: ClockLimits, circumstances: Circumstances) -> ClockAction:
    """What to do about the clock. The checks are in the order in which a user has to see to them."""
    agreed = selection.agreed
    if circumstances.interrupted:
        return Refuse(Refusal.INTERRUPTED)
    if agreed is None and all(verdict.source.estimate is None for verdict in selection.verdicts):
        return Refuse(Refusal.NO_ANSWER)
    if agreed is None:
        return Refuse(Refusal.NO_TIME, "" if selection.problem is None else selection.problem.value)
    if abs(agreed.offset) > limits.panic and not limits.force:
        return Refuse(Refusal.TOO_FAR, f"{agreed.offset:+.6f} s, limit {limits.panic:g} s")
    if abs(circumstances.stepped) > _STILL:
        return Refuse(Refusal.STEPPED, f"by {circumstances.stepped:+.6f} s")
    hindrances = hindering(circumstances)
    if hindrances and not circumstances.dry_run:
        return hindrances[0]
    if abs(circumstances.slewed) > max(_HARDLY_SLEWED, _SLOWLY * circumstances.seconds) and not circumstances.dry_run:
        return Refuse(Refusal.SLEWED, f"by {circumstances.slewed:+.6f} s in {circumstances.seconds:.1f} s")
    if abs(agreed.offset) > limits.step:
        return Step(agreed.offset, agreed.root_distance, agreed.jitter)
    return Slew(agreed.offset, time_constant(agreed.offset), agreed.root_distance, agreed.jitter)


def hindering(circumstances: Circumstances) -> tuple[Refuse, ...]:
    """What of this machine forbids setting its clock, whatever the offset is; first what a user has to see to first."""
    owned = () if circumstances.owner is None else (Refuse(Refusal.OWNED, circumstances.owner),)
    return owned if circumstances.may_set else (*owned, Refuse(Refusal.NOT_PERMITTED))


def time_constant(offset: float) -> int:
    """The least time constant that slews no faster than allowed."""
    constants = range(_MOST_TIME_CONSTANT + 1)
    slow_enough = (number for number in constants if abs(offset) * 2.0 ** -(_LEAST_SHIFT + number) <= _MOST_RATE)
    return next(slow_enough, _MOST_TIME_CONSTANT)


def widened(selection: Selection, by: float) -> Selection:
    """The same with a bound that is wider by so many seconds: the clock moved so far while it was measured."""
    agreed = selection.agreed
    if agreed is None or by == 0:
        return selection
    interval = Interval(agreed.interval.low - by, agreed.interval.high + by)
    return replace(selection, agreed=replace(agreed, root_distance=agreed.root_distance + by, interval=interval))


def drift_between(before: tuple[float, float], after: tuple[float, float], seconds: float, gained: float, rate: float) -> Drift:
    """The drift that two measurements show, each an offset and its bound, that were so many seconds apart.

    gained: what the clock gained in between on a clock that nobody sets, by slews, steps and frequency; rate: how fast it gains on
    that clock when nothing is slewed, seconds a second.
    """
    # The offset falls by all that the clock gains on the true time; what remains is the drift of the clock that nobody sets.
    unset = (before[0] - after[0] - gained) / seconds
    return Drift((rate + unset) * 1e6, (before[1] + after[1]) / seconds * 1e6, seconds)


def drift_of(sources: Sequence[Sequence[Sample]]) -> Drift | None:
    """The drift that the samples of these sources show; None where they were taken within too short a time."""
    found = [_drift(samples) for samples in sources]
    return min((drift for drift in found if drift is not None), key=lambda drift: drift.error_ppm, default=None)


def _drift(samples: Sequence[Sample]) -> Drift | None:
    """From the best samples of the first and of the last third."""
    good = [(s.t4_ns, s.offset, s.root_distance) for s in samples if s.valid]
    usable = [(at, offset, bound) for at, offset, bound in good if at is not None and offset is not None and bound is not None]
    third = max(1, len(usable) // 3)
    if len(usable) < 2:
        return None
    first, last = (min(part, key=lambda item: item[2]) for part in (usable[:third], usable[-third:]))
    seconds = (last[0] - first[0]) / 1e9
    if seconds <= 0:
        return None
    return Drift((first[1] - last[1]) / seconds * 1e6, (first[2] + last[2]) / seconds * 1e6, seconds)
