"""Runs a discipline over recorded events, and compares its actions with the recorded ones (docs/reference/recordings.md).

Comes in: files that a `Recorder` wrote, oldest first; what makes a machine. Goes out: a frozen Report. Actions are equal if they
are so bit for bit. It must never call actions equal that were not compared, and for files that are no recordings raise nothing but
ConfigError.
"""

import gzip
import json
import lzma
import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol, cast

from tsq.discipline.actions import Action
from tsq.discipline.events import Event, Polled, Started
from tsq.discipline.recording import Part, Record, TornLine, encode, line, parse
from tsq.discipline.status import ClockStatus, Status
from tsq.errors import ConfigError
from tsq.host import files

# No line of a recorder is nearly as long.
_MOST_LINE = 4 * 1024 * 1024


class Machine(Protocol):
    """What is run: `discipline.machine.Discipline`, of any version."""

    def handle(self, event: Event) -> Sequence[Action]:
        """The actions for an event."""

    def status(self) -> Status:
        """What is known after it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first event for which the actions differ. place: FILE:LINE. recorded, replayed: the actions, as in the recording."""

    place: str
    number: int
    event: str
    recorded: tuple[str, ...]
    replayed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """What the replayed machine made of a run; seconds. None: there is nothing to take it from.

    seconds: of the raw clock. synchronized_after: from the start to the first synchronized status. The offsets and bounds are those
    of the replayed machine's updates, from then on.
    """

    seconds: float = 0.0
    polls: int = 0
    samples: int = 0
    updates: int = 0
    synchronized_after: float | None = None
    rms_offset: float | None = None
    max_offset: float | None = None
    mean_bound: float | None = None
    max_bound: float | None = None
    steps: int = 0
    accumulated_steps: float = 0.0
    foreign_moves: int = 0
    frequency: float | None = None
    status: str = ""
    frozen: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the daemon. events: that were replayed; compared: of these, whose actions were compared; missing: not recorded.

    different: how many events have other actions now; first: the first of them.
    """

    name: str
    version: str
    events: int
    compared: int
    missing: int
    reasons: tuple[str, ...]
    different: int
    first: Difference | None
    figures: Figures

    @property
    def complete(self) -> bool:
        """Whether the actions of all events were compared."""
        return self.compared == self.events and not self.missing


@dataclass(frozen=True, slots=True)
class Report:
    """The runs of a recording, oldest first."""

    runs: tuple[Run, ...]

    @property
    def equal(self) -> bool:
        """Whether all compared actions are equal, bit for bit, and there were some to compare."""
        return any(run.compared for run in self.runs) and not any(run.different for run in self.runs)

    @property
    def complete(self) -> bool:
        """Whether all events of all runs were compared."""
        return all(run.complete for run in self.runs)


def series(path: str) -> list[str]:
    """The files of one recorder, oldest first: PATH.2, PATH.1, PATH."""
    number = 1
    while os.path.exists(f"{path}.{number}"):
        number += 1
    return [*(f"{path}.{one}" for one in range(number - 1, 0, -1)), path]


def replay(paths: Sequence[str], discipline_factory: Callable[[], Machine]) -> Report:
    """Run new machines over these files, oldest first. Raises ConfigError where they are no recording, or not in order.

    A machine that has not all events of its run begins with what the recording says about the setup; its actions are not compared.
    """
    runs: list[_Replayed] = []
    for place, value in _lines(paths):
        if isinstance(value, Part):
            if not runs or runs[-1].part.run != value.run:
                runs.append(_Replayed(value, discipline_factory))
            runs[-1].begin(value, place)
        else:
            runs[-1].handle(value, place)
    return Report(tuple(run.result() for run in runs))


def _lines(paths: Sequence[str]) -> Iterator[tuple[str, Part | Record]]:
    """The parts and records with their places. The last line before a part, or of all, may be torn: the daemon was killed."""
    torn: ConfigError | None = None
    begun = False
    for path in paths:
        for number, text in _read(path):
            place = f"{path}:{number}"
            try:
                value = parse(text)
            except ConfigError as error:
                placed = ConfigError(f"{place}: {error.found}", expected=error.expected, advice=error.advice)
                if begun and torn is None and isinstance(error, TornLine):
                    torn = placed
                    continue
                raise torn or placed from error
            if torn is not None and not isinstance(value, Part):
                raise torn
            if not begun and not isinstance(value, Part):
                raise ConfigError(f"{place}: an event", expected="the beginning of a recording; the files must be in order")
            torn, begun = None, True
            yield place, value
    if not begun:
        raise ConfigError(f"{', '.join(paths) or 'no file'}: no events", expected="a recording of tsqd")


def _read(path: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not empty, with their numbers. The file may be compressed."""
    try:
        with _opened(path) as stream:
            number = 0
            while text := stream.readline(_MOST_LINE):
                number += 1
                if len(text) == _MOST_LINE:
                    raise ConfigError(f"{path}:{number}: a line of more than {_MOST_LINE} bytes", expected="a recording of tsqd")
                if text.strip():
                    yield number, text
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {files.why(error)}", expected="a recording of tsqd") from error
    except (EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise ConfigError(
            f"cannot read {path}: {error}", expected="a recording of tsqd, plain or complete as .xz or .gz"
        ) from error


def _opened(path: str) -> BinaryIO:
    if path.endswith(".xz"):
        return cast(BinaryIO, lzma.open(path))
    if path.endswith(".gz"):
        return cast(BinaryIO, gzip.open(path))
    return open(path, "rb")


@dataclass(slots=True)
class _Sums:
    """What figures are made of."""

    first_ns: int | None = None
    last_ns: int = 0
    polls: int = 0
    samples: int = 0
    updates: int = 0
    synchronized_ns: int | None = None
    squares: float = 0.0
    max_offset: float = 0.0
    offsets: int = 0
    bound: float = 0.0
    max_bound: float = 0.0
    bounds: int = 0
    steps: int = 0
    accumulated_steps: float = 0.0
    foreign_moves: int = 0
    # Of machines that ended at gaps.
    earlier: tuple[int, float, int] = (0, 0.0, 0)
    last: Status | None = None

    def note(self, event: Event, status: Status) -> None:
        """Take the status after an event into account."""
        tracking = status.tracking
        self.last = status
        self.last_ns = tracking.raw_ns
        if self.first_ns is None:
            self.first_ns = tracking.raw_ns
        if isinstance(event, Polled):
            self.polls += 1
            self.samples += event.sample.valid
        if self.synchronized_ns is None and tracking.status is ClockStatus.SYNCHRONIZED:
            self.synchronized_ns = tracking.raw_ns
        steps, accumulated, moves = self.earlier
        self.steps, self.accumulated_steps = steps + tracking.steps, accumulated + tracking.accumulated_steps
        self.foreign_moves = moves + tracking.foreign_moves

    def updated(self, status: Status) -> None:
        """Take an update of the clock into account."""
        self.updates += 1
        tracking = status.tracking
        if self.synchronized_ns is None:
            return
        if tracking.offset is not None:
            self.squares += tracking.offset**2
            self.max_offset = max(self.max_offset, abs(tracking.offset))
            self.offsets += 1
        if tracking.bound is not None:
            self.bound += tracking.bound
            self.max_bound = max(self.max_bound, tracking.bound)
            self.bounds += 1

    def figures(self) -> Figures:
        """The figures."""
        tracking = None if self.last is None else self.last.tracking
        first_ns = self.first_ns or 0
        return Figures(
            seconds=(self.last_ns - first_ns) / 1e9 if self.first_ns is not None else 0.0,
            polls=self.polls,
            samples=self.samples,
            updates=self.updates,
            synchronized_after=None if self.synchronized_ns is None else (self.synchronized_ns - first_ns) / 1e9,
            rms_offset=math.sqrt(self.squares / self.offsets) if self.offsets else None,
            max_offset=self.max_offset if self.offsets else None,
            mean_bound=self.bound / self.bounds if self.bounds else None,
            max_bound=self.max_bound if self.bounds else None,
            steps=self.steps,
            accumulated_steps=self.accumulated_steps,
            foreign_moves=self.foreign_moves,
            frequency=None if tracking is None else tracking.frequency,
            status="" if tracking is None else tracking.status.value,
            frozen="" if tracking is None else tracking.frozen,
        )


@dataclass(slots=True)
class _Replayed:
    """A run that is being replayed."""

    part: Part
    factory: Callable[[], Machine]
    machine: Machine | None = None
    exact: bool = True
    handled: int = 0
    events: int = 0
    compared: int = 0
    missing: int = 0
    reasons: dict[str, None] = field(default_factory=dict)
    different: int = 0
    first: Difference | None = None
    seen_updates: int = 0
    sums: _Sums = field(default_factory=_Sums)

    def begin(self, part: Part, place: str) -> None:
        """Go on with a part: with the same machine where nothing is missing."""
        if part.first < self.handled:
            raise ConfigError(
                f"{place}: event {part.first} of a run after its event {self.handled - 1}", expected="files in order, oldest first"
            )
        missing = part.first - self.handled
        if self.machine is None or missing:
            # Without a setup there is nothing to begin with: the next part may have one.
            self.machine = self.factory() if part.setup or not part.first else None
            self.exact = not part.first
            self.seen_updates = 0
            self.sums.earlier = (self.sums.steps, self.sums.accumulated_steps, self.sums.foreign_moves)
            for event in part.setup:
                self._give(event, place)
        if missing:
            self.missing += missing
            self.reasons[part.why if part.missed == missing and part.why else "earlier files are not there"] = None
        self.handled = part.first

    def handle(self, record: Record, place: str) -> None:
        """Give the machine an event, and compare."""
        if self.machine is None:
            self.handled += 1
            self.missing += 1
            return
        if not self.handled and not isinstance(record.event, Started):
            raise ConfigError(f"{place}: {type(record.event).__name__}", expected="Started, as the first event of a run")
        actions = self._give(record.event, place)
        number, self.handled = self.handled, self.handled + 1
        self.events += 1
        if not self.exact:
            return
        self.compared += 1
        # Texts, not values: -0.0 equals 0.0, and NaN does not equal NaN.
        if line(Record(record.event, actions)) != line(record):
            self.different += 1
            if self.first is None:
                self.first = Difference(place, number, type(record.event).__name__, _texts(record.actions), _texts(actions))

    def result(self) -> Run:
        """All of it."""
        return Run(
            self.part.run,
            self.part.version,
            self.events,
            self.compared,
            self.missing,
            tuple(self.reasons),
            self.different,
            self.first,
            self.sums.figures(),
        )

    def _give(self, event: Event, place: str) -> tuple[Action, ...]:
        if self.machine is None:
            return ()
        try:
            actions = tuple(self.machine.handle(event))
            status = self.machine.status()
        except Exception as error:
            raise ConfigError(
                f"{place}: the discipline fails on {type(event).__name__}: {error!r}", expected="actions for every event"
            ) from error
        self.sums.note(event, status)
        if status.tracking.updates != self.seen_updates:
            self.seen_updates = status.tracking.updates
            self.sums.updated(status)
        return actions


def _texts(actions: Sequence[Action]) -> tuple[str, ...]:
    return tuple(json.dumps(encode(action)) for action in actions)
