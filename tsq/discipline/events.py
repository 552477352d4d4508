"""What a machine that keeps a clock is given: readings of the clock, samples, and what operators ask for.

Comes in: nothing; these are values. Goes out: frozen events, which `recording.py` writes and reads. The machine's own time is the
raw clock (CLOCK_MONOTONIC_RAW), which no program steps or slews: raw_ns, integer ns.
"""

from dataclasses import dataclass

from tsq.discipline.settings import ClockSettings, SourceSettings
from tsq.timing.sample import Sample


@dataclass(frozen=True, slots=True)
class Reading:
    """The clock and the raw clock at one instant, and the kernel's state.

    real_ns: the clock, Unix ns. raw_ns: the raw clock. width_ns: how far apart the two readings may be. asleep_ns: how long the
    machine has been suspended since it was booted (CLOCK_BOOTTIME - CLOCK_MONOTONIC). frequency: the kernel's frequency correction
    with its tick, seconds per second; pending_ns: the rest of a slew by the kernel's loop, and of adjtime(3); None: not readable.
    leap: 1 to be inserted, 2 to be deleted, as the kernel has it.
    """

    real_ns: int
    raw_ns: int
    width_ns: int = 0
    asleep_ns: int = 0
    frequency: float | None = None
    pending_ns: int | None = None
    synchronized: bool = False
    leap: int = 0
    max_error: float = 16.0

    @property
    def difference_ns(self) -> int:
        """The clock minus the raw clock."""
        return self.real_ns - self.raw_ns


@dataclass(frozen=True, slots=True)
class Started:
    """The first event. version: of TSQ; saved: what an earlier run learned about this clock (`SavedDrift`), if anything."""

    version: str
    settings: ClockSettings
    reading: Reading
    saved: "SavedDrift | None" = None


@dataclass(frozen=True, slots=True)
class SavedDrift:
    """What is kept over restarts. frequency: how fast true time runs against the raw clock, minus 1; positive: the clock is slow.

    uncertainty: its standard deviation. weights: of the models of wander, in their order. saved_ns: when, Unix ns.
    """

    frequency: float
    uncertainty: float
    weights: tuple[float, ...] = ()
    saved_ns: int = 0


@dataclass(frozen=True, slots=True)
class SourceAdded:
    """A source to be polled. name: as the operator knows it, unique. address: empty while unknown."""

    name: str
    settings: SourceSettings
    address: str = ""


@dataclass(frozen=True, slots=True)
class SourceRemoved:
    """A source that is not polled any more."""

    name: str


@dataclass(frozen=True, slots=True)
class SourceChanged:
    """Another server stands behind the name now, or its settings changed. same_server: what was measured stays right."""

    name: str
    settings: SourceSettings
    address: str
    same_server: bool


@dataclass(frozen=True, slots=True)
class Polled:
    """The outcome of one poll. sample: the best of its exchanges, with `sent` and `received` readings; invalid ones have a reason.

    reading: the clock when the outcome was known. state_unknown: the server did not answer the question about its own clock.
    """

    name: str
    sample: Sample
    reading: Reading
    address: str = ""
    state_unknown: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: when the machine is due, and soon after each poll."""

    reading: Reading


@dataclass(frozen=True, slots=True)
class SetOnline:
    """An operator, or the network's state, says whether a source can be reached. name: of a source or a pool; empty for all."""

    online: bool
    name: str = ""


@dataclass(frozen=True, slots=True)
class Burst:
    """An operator asks for some polls in quick succession. name: of a source or a pool; empty for all."""

    name: str = ""
    count: int = 4


@dataclass(frozen=True, slots=True)
class MakeStepNow:
    """An operator asks to correct the whole offset by a step."""


@dataclass(frozen=True, slots=True)
class Unfreeze:
    """An operator has looked at what froze the clock, and lets the machine go on."""


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """New settings of the clock."""

    settings: ClockSettings


@dataclass(frozen=True, slots=True)
class Failed:
    """An action that the machine asked for was refused by the kernel. text: why."""

    action: str
    text: str


@dataclass(frozen=True, slots=True)
class LeapKnown:
    """A table of leap seconds says what the end of this UTC day (days since 1970) brings: 0 nothing, 1 inserted, 2 deleted."""

    leap: int
    day: int


@dataclass(frozen=True, slots=True)
class Stopping:
    """The last event: what the machine learned is kept, and the clock is left to run with its frequency alone."""


Event = (
    Started
    | Tick
    | Polled
    | SourceAdded
    | SourceRemoved
    | SourceChanged
    | SetOnline
    | Burst
    | MakeStepNow
    | Unfreeze
    | Reconfigured
    | Failed
    | LeapKnown
    | Stopping
)
