"""One world of clock_worlds.py, in which the machine of tsq/discipline keeps a clock as the kernel would have it.

The clock obeys the machine's actions: its frequency correction, the kernel's loop for a phase (time constant 0: a quarter of the
rest in each of its seconds), steps. Truth is known, so the clock's error is compared with the published bound at each event.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil
from random import Random

from tests.simulation.clock_figures import Figures, judge
from tests.simulation.clock_worlds import World
from tsq.discipline.actions import Poll, SlewPhase, Steer, StepClock
from tsq.discipline.events import Event, Polled, Reading, SourceAdded, Started, Tick
from tsq.discipline.machine import Discipline
from tsq.discipline.settings import ClockSettings, MakeStep, SourceSettings
from tsq.timing.local_clock import ClockReading
from tsq.timing.sample import Reason, Sample, make_sample
from tsq.timing.server_state import ServerState

SECOND = 1_000_000_000
START = 1_800_000_000 * SECOND
# What the raw clock shows at the start.
BOOTED = 1000 * SECOND
NAME = "server"
# chrony's default: an offset of 0.1 s is slewed.
SLEWED = MakeStep(1.0, 3)
STEPPED = MakeStep(0.01, 3)
_LEAST_PENDING = 1e-9
_SOON = 50_000


class VirtualClock:
    """The oscillator, the raw clock that counts it, and the clock that the kernel makes of it.

    error: the clock minus true time, seconds; raw_error: the raw clock minus the true time since the start. oscillator: how fast it
    runs, minus 1. frequency: the correction; pending, slewing: of the kernel's loop, seconds, and seconds per second.
    """

    def __init__(self, error: float, oscillator: float) -> None:
        self.true_ns = 0
        self.error, self.raw_error, self.oscillator = error, 0.0, oscillator
        self.frequency = self.pending = self.slewing = 0.0
        self.synchronized = False

    @property
    def real_ns(self) -> int:
        """What the clock shows, Unix ns."""
        return START + self.true_ns + round(self.error * SECOND)

    @property
    def raw_ns(self) -> int:
        """What the raw clock shows."""
        return BOOTED + self.true_ns + round(self.raw_error * SECOND)

    @property
    def rate(self) -> float:
        """How fast the clock runs, minus 1."""
        return (1 + self.oscillator) * (1 + self.frequency + self.slewing) - 1

    def advance(self, to_ns: int) -> None:
        """Let true time pass."""
        while self.true_ns < to_ns:
            before, rate = self.real_ns, self.rate
            # The next second of the clock, or the end, whatever comes first.
            step_ns = min(to_ns - self.true_ns, ceil((SECOND - before % SECOND) / (1 + rate)))
            self.error += rate * step_ns / SECOND
            self.raw_error += self.oscillator * step_ns / SECOND
            self.true_ns += step_ns
            if self.real_ns // SECOND > before // SECOND:
                self.slewing = self.pending / 4 if abs(self.pending) > _LEAST_PENDING else 0.0
                self.pending -= self.slewing

    def reading(self) -> Reading:
        """As tsq/host/clock.py reads it."""
        return Reading(
            self.real_ns, self.raw_ns, 0, 0, self.frequency, round(self.pending * SECOND), self.synchronized
        )

    def read(self) -> ClockReading:
        """The same, as samples carry it."""
        found = self.reading()
        return ClockReading(found.real_ns, found.difference_ns, 0, found.frequency, found.pending_ns, found.synchronized)


@dataclass
class Kept:
    """What became of a clock. errors: of the clock at each second; rates: how fast it ran then; bounds: each published one, and
    times, since the start, seconds.

    broken: over how many of these the clock's error was.
    """

    errors: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    bounds: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    polls: int = 0
    broken: int = 0
    figures: Figures | None = None


class Run:
    """Keeps the clock of one world."""

    def __init__(self, world: World, seed: int, makestep: MakeStep = SLEWED) -> None:
        self.world, self.makestep = world, makestep
        self.rng = Random(f"{world.name} {seed}")
        self.frequencies: Iterator[float] = iter(list(world.frequencies(self.rng)))
        self.clock = VirtualClock(world.offset, next(self.frequencies))
        self.machine = Discipline()
        self.kept = Kept()
        self._record()

    def run(self, seconds: int | None = None) -> Kept:
        """All of it, with its figures, or so many seconds."""
        world = self.world
        self._handle(Started("simulation", ClockSettings(makestep=self.makestep), self.clock.reading()))
        self._handle(SourceAdded(NAME, SourceSettings(world.min_poll, world.max_poll)))
        end = world.seconds if seconds is None else min(seconds, world.seconds)
        while self.clock.true_ns < (end - 1) * SECOND:
            # No two readings are taken at the same time.
            wait_ns = max(self.machine.due_ns - self.clock.raw_ns, _SOON)
            self._advance(min(self.clock.true_ns + ceil(wait_ns / (1 + self.clock.oscillator)), (end - 1) * SECOND))
            self._handle(Tick(self.clock.reading()))
        if end == world.seconds:
            self.kept.figures = judge(world, self.kept.errors, self.kept.rates, self.kept.polls)
        return self.kept

    def _advance(self, to_ns: int) -> None:
        """Let true time pass; write down each second; the oscillator, and other programs, change between seconds.

        A step ends it: the kernel gives notice of one.
        """
        clock = self.clock
        while clock.true_ns < to_ns:
            whole_ns = (clock.true_ns // SECOND + 1) * SECOND
            clock.advance(min(whole_ns, to_ns))
            if clock.true_ns == whole_ns and whole_ns < self.world.seconds * SECOND:
                clock.oscillator = next(self.frequencies)
                if self.world.stepped and whole_ns == self.world.late * SECOND:
                    clock.error += self.world.stepped
                    self._record()
                    return
                self._record()

    def _record(self) -> None:
        self.kept.errors.append(self.clock.error)
        self.kept.rates.append(self.clock.rate)

    def _handle(self, event: Event) -> None:
        actions = self.machine.handle(event)
        for action in actions:
            if isinstance(action, Steer):
                self.clock.frequency, self.clock.synchronized = action.frequency, action.synchronized
            elif isinstance(action, SlewPhase):
                self.clock.pending = action.offset
            elif isinstance(action, StepClock):
                self.clock.error += action.offset
                self.clock.pending = self.clock.slewing = 0.0
        self._compare()
        for action in actions:
            if isinstance(action, Poll):
                self._exchange(action.name)

    def _compare(self) -> None:
        """The daemon publishes its status after it has done what the machine asked for."""
        found = self.machine.status().tracking
        if found.bound is not None:
            self.kept.bounds.append(found.bound)
            self.kept.times.append(self.clock.true_ns / SECOND)
            self.kept.broken += abs(self.clock.error) > found.bound

    def _exchange(self, name: str) -> None:
        """A poll, and its outcome."""
        clock, world, second = self.clock, self.world, self.clock.true_ns // SECOND
        if not world.silent or second < world.judged.start:
            self.kept.polls += 1
        lost = world.lost(self.rng, second)
        outcome = Sample(clock.real_ns, reason=Reason.NO_ANSWER) if lost else self._sample(second)
        self._handle(Polled(name, outcome, clock.reading()))

    def _sample(self, second: int) -> Sample:
        clock, world = self.clock, self.world
        there, back = world.delay(self.rng, second, True), world.delay(self.rng, second, False)
        sent, t1_ns = clock.read(), clock.real_ns
        self._advance(clock.true_ns + round(there * SECOND))
        t2_ns = START + clock.true_ns
        self._advance(clock.true_ns + round(back * SECOND))
        server = ServerState(told_ns=clock.real_ns, stratum=1, leap=0, error=1e-6, drift=0.0)
        return make_sample(t1_ns, t2_ns, t2_ns, clock.real_ns, sent=sent, received=clock.read(), server=server)
