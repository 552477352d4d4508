"""How a clock is to be kept: the settings of the machine and of its sources, checked.

Comes in: values from a configuration. Goes out: frozen settings, or a ConfigError. It must never read a file.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite

from tsq.errors import ConfigError
from tsq.timing.selection import Criteria

# 2^10 s, as chrony's default maxpoll.
MAX_POLL = 10
DEFAULT_MIN_POLL = 4


class Mode(StrEnum):
    """What the daemon does with the clock."""

    # It keeps the clock.
    STEER = "steer"
    # Another daemon keeps the clock, and gets what was measured.
    FEED = "feed"
    # Nothing is touched.
    OBSERVE = "observe"


class ForeignStep(StrEnum):
    """What to do when another program stepped the clock."""

    # Step it back at once, by what was measured against the raw clock.
    UNDO = "undo"
    # Correct it as any other offset: by `makestep` or a slew.
    CORRECT = "correct"


@dataclass(frozen=True, slots=True)
class MakeStep:
    """Step an offset over `threshold` seconds in the first `updates` updates of the clock; 0: never; -1: always."""

    threshold: float = 1.0
    updates: int = 3

    def __post_init__(self) -> None:
        if not (isfinite(self.threshold) and self.threshold > 0):
            raise ConfigError(f"a threshold of {self.threshold:g} s for steps", expected="a number of seconds above 0")
        if self.updates < -1:
            raise ConfigError(f"steps in {self.updates} updates", expected="-1 (always), 0 (never) or more")


@dataclass(frozen=True, slots=True)
class MaxChange:
    """Refuse an offset over `offset` seconds after the first `start` updates; freeze when that happens more than `ignore` times."""

    offset: float = 1000.0
    start: int = 1
    ignore: int = 2

    def __post_init__(self) -> None:
        if not self.offset > 0:
            raise ConfigError(f"a largest change of {self.offset:g} s", expected="a number of seconds above 0")
        if self.start < 0 or self.ignore < -1:
            raise ConfigError(
                f"a largest change with start {self.start} and ignore {self.ignore}", expected="start 0 or more, ignore -1 or more"
            )


@dataclass(frozen=True, slots=True)
class ClockSettings:
    """How the clock is kept.

    panic: freeze when an offset over this many seconds would have to be corrected after the first update. step_budget: freeze when
    the daemon's steps add up to more seconds, without the first one after a start, a suspension or an unfreeze. max_slew_rate: of
    slews by frequency, ppm. tolerance: how fast the clock's error may grow while nothing is measured, seconds per second. leap:
    whether an announced leap second is handed to the kernel. rtc_sync: keep the kernel's "synchronized" flag set, so that it copies
    the time to the real-time clock every 11 minutes.
    """

    mode: Mode = Mode.STEER
    makestep: MakeStep | None = field(default_factory=MakeStep)
    maxchange: MaxChange | None = None
    panic: float = 1000.0
    step_budget: float = 1800.0
    max_slew_rate: float = 500.0
    foreign_step: ForeignStep = ForeignStep.UNDO
    tolerance: float = 15e-6
    leap: bool = True
    rtc_sync: bool = True
    criteria: Criteria = field(default_factory=Criteria)

    def __post_init__(self) -> None:
        if not self.panic > 0:
            raise ConfigError(f"a panic limit of {self.panic:g} s", expected="a number of seconds above 0")
        if not self.step_budget > 0:
            raise ConfigError(f"a limit of {self.step_budget:g} s for all steps", expected="a number of seconds above 0")
        if not 1 <= self.max_slew_rate <= 500:
            raise ConfigError(f"a slew rate of {self.max_slew_rate:g} ppm", expected="1 to 500 ppm")
        if not 1e-7 <= self.tolerance <= 1e-3:
            raise ConfigError(f"a tolerance of {self.tolerance * 1e6:g} ppm", expected="0.1 to 1000 ppm")


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """One source. min_poll, max_poll: the poll interval, as powers of 2 in seconds. prefer: use it before the others. trust: its
    time may not be excluded by sources without `trust`. no_select: measure it only. server_error: assumed where it reports none.
    """

    min_poll: int = DEFAULT_MIN_POLL
    max_poll: int = MAX_POLL
    prefer: bool = False
    trust: bool = False
    no_select: bool = False
    server_error: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.min_poll <= self.max_poll <= MAX_POLL:
            raise ConfigError(
                f"minpoll {self.min_poll} with maxpoll {self.max_poll}", expected=f"0 <= minpoll <= maxpoll <= {MAX_POLL}"
            )
        if not 0 <= self.server_error <= 1:
            raise ConfigError(f"a server error of {self.server_error:g} s", expected="0 to 1 second")
