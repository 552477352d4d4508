"""What a machine that keeps a clock wants to be done.

Goes out: frozen actions, in the order in which they are to be done. In the modes `feed` and `observe` no action touches the clock:
the machine gives `WouldDo` in their place.
"""

from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """The importance of a log line, as in `logging`."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


@dataclass(frozen=True, slots=True)
class Steer:
    """Set the kernel's frequency correction (seconds per second, tick included), and the errors that it reports.

    max_error, estimated_error: seconds. synchronized: whether the kernel shall call its clock synchronized. leap: 0, 1 to be
    inserted, 2 to be deleted, at the end of this UTC day.
    """

    frequency: float
    max_error: float
    estimated_error: float
    synchronized: bool
    leap: int = 0


@dataclass(frozen=True, slots=True)
class SlewPhase:
    """Let the kernel's loop slew this offset in the next seconds, seconds; 0 cancels. It ends by itself, also after a crash."""

    offset: float


@dataclass(frozen=True, slots=True)
class StepClock:
    """Add this offset to the clock at once, seconds. why: for the log."""

    offset: float
    max_error: float
    estimated_error: float
    why: str


@dataclass(frozen=True, slots=True)
class WouldDo:
    """What would have been done in the mode `steer`."""

    action: "Steer | SlewPhase | StepClock"


@dataclass(frozen=True, slots=True)
class Poll:
    """Poll this source now. burst: more polls follow soon."""

    name: str
    burst: bool = False


@dataclass(frozen=True, slots=True)
class SaveDrift:
    """Keep over restarts; the values of `events.SavedDrift`."""

    frequency: float
    uncertainty: float
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Log:
    """A line for the operator. kind: equal for lines that are limited together."""

    level: Level
    kind: str
    text: str


Action = Steer | SlewPhase | StepClock | WouldDo | Poll | SaveDrift | Log
