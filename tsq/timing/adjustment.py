"""What to do about the clock, once: step it, slew it, or leave it alone (RFC 5905 §11.3, in spirit).

Comes in: what the sources agreed on, limits, what is known of this machine. Goes out: a ClockAction. It must never act, and never
let an offset through that nobody vouches for.

    |offset| over the panic limit: refused, unless forced
    |offset| over the step limit: a step
    else a slew: each second the kernel takes 2^-n of what is left, n as small as keeps that under 5000 ppm
"""

from dataclasses import dataclass
from enum import StrEnum
from math import ceil, log

from tsq.errors import ConfigError
from tsq.timing.selection import Selection

# What the kernel's loop takes at once, seconds: a larger offset cannot be slewed.
MOST_SLEWED = 0.5
# How fast a slew may go, seconds a second: programs that measure spans see it as a wrong frequency.
_MOST_RATE = 5e-3
_LEAST_SHIFT = 2
_MOST_TIME_CONSTANT = 10
# What is left of a slew that counts as done.
REST = 0.01


class Refusal(StrEnum):
    """Why the clock is left alone."""

    NO_ANSWER = "no server gave the time"
    NO_TIME = "the servers give no time that can be trusted"
    TOO_FAR = "the offset is over the limit"
    STEPPED = "somebody else set the clock while it was being measured"
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
            advice = "to set the clock whatever the offset is, use --force"
            raise ConfigError(f"panic limit {self.panic:g} s", expected="a number of seconds above 0", advice=advice)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known of this machine. owner: the program that keeps the clock; stepped: by how much others set the clock during the
    measurement, seconds; dry_run: nothing is going to be done, so that nothing here can forbid it.
    """

    owner: str | None = None
    may_set: bool = True
    stepped: float = 0.0
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
class Refuse:
    """Leave the clock alone."""

    reason: Refusal
    detail: str = ""


ClockAction = Step | Slew | Refuse

# A clock that nobody steps stays this near to itself, as far as two clocks can be read together: seconds.
_STILL = 1e-3


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
