"""A machine's clock and its sources in virtual time, with the kernel's loop, for the tests of the machine that keeps a clock.

True time is UTC in ns. The raw clock runs slow by `frequency`; the clock runs with the kernel's correction, its loop (a quarter of
the rest in each of its seconds) and adjtime(3). Every event's bound is compared with the truth.
"""

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tsq.discipline.actions import Log, Poll, SaveDrift, SlewPhase, Steer, WouldDo
from tsq.discipline.events import Failed, Polled, Reading, SourceAdded, SourceChanged, SourceRemoved, Started, Tick
from tsq.discipline.machine import Discipline
from tsq.discipline.settings import ClockSettings, SourceSettings
from tsq.timing.local_clock import ClockReading
from tsq.timing.sample import Reason, Sample, make_sample
from tsq.timing.server_state import ServerState

SECOND = 1_000_000_000
START = 1_800_000_000 * SECOND


@dataclass
class Clock:
    """The clocks of one machine. true_ns: UTC. error_ns: the clock minus UTC at the start."""

    true_ns: int = START
    error_ns: float = 0.0
    frequency: Callable[[float], float] = lambda seconds: 0.0
    correction: float = 0.0
    inserts: int = 0
    raw: float = 5e12
    # What the machine's own clock gained beside the raw clock.
    difference: float = 0.0
    pending: float = 0.0
    chunk: float = 0.0
    old_slew: float = 0.0
    asleep_ns: int = 0
    synchronized: bool = False
    max_error: float = 16.0
    begun_ns: int = 0
    _second: int = 0

    def __post_init__(self):
        self.begun_ns = self.true_ns
        self.base_ns = self.true_ns - round(self.raw)
        self.difference = self.error_ns
        self._second = self.real_ns // SECOND

    @property
    def raw_ns(self) -> int:
        return round(self.raw)

    @property
    def real_ns(self) -> int:
        return self.base_ns + round(self.raw + self.difference)

    def error(self, utc_ns: int) -> float:
        return (self.real_ns - utc_ns) / 1e9

    def run_to(self, true_ns: int) -> None:
        while self.true_ns < true_ns:
            rate = 1 / (1 + self.frequency((self.true_ns - self.begun_ns) / 1e9))
            # To the next second of the clock, at which the kernel's loop takes its part.
            speed = rate * (1 + self.correction) + self.chunk / 1e9
            left = SECOND - self.real_ns % SECOND
            step = min(true_ns - self.true_ns, max(1, math.ceil(left / speed)), SECOND)
            self.true_ns += step
            raw = step * rate
            self.raw += raw
            old = max(-500e-6 * step, min(self.old_slew, 500e-6 * step))
            self.old_slew -= old
            self.difference += raw * self.correction + self.chunk * step / 1e9 + old
            if self.real_ns // SECOND > self._second:
                self._overflow()
            self._second = self.real_ns // SECOND

    def _overflow(self) -> None:
        self.chunk = self.pending / 4
        self.pending -= self.chunk
        if abs(self.pending) < 4:
            self.pending = 0
        if self.inserts and self.real_ns // SECOND % 86_400 == 0:
            self.difference -= self.inserts * SECOND
            self.inserts = 0

    def step(self, seconds: float) -> None:
        self.difference += seconds * 1e9
        self.pending = self.chunk = self.old_slew = 0.0
        self.synchronized, self.max_error = False, 16.0
        self._second = self.real_ns // SECOND

    def suspend(self, seconds: float, rtc_error: float = 0.0) -> None:
        """The machine sleeps: the raw clock stands still, and the clock is set by the real-time clock."""
        self.pause(seconds)
        self.asleep_ns += round(seconds * 1e9)
        self.difference += (seconds + rtc_error) * 1e9
        self._second = self.real_ns // SECOND

    def pause(self, seconds: float) -> None:
        """Everything stands still, unseen."""
        self.true_ns += round(seconds * 1e9)

    def reading(self) -> Reading:
        pending = round(self.pending + self.old_slew)
        return Reading(
            self.real_ns, self.raw_ns, 50, self.asleep_ns, self.correction, pending, self.synchronized, self.inserts, self.max_error
        )

    def sample_reading(self) -> ClockReading:
        found = self.reading()
        return ClockReading(found.real_ns, found.difference_ns, 50, found.frequency, found.pending_ns, found.synchronized)

    def perform(self, action) -> None:
        if isinstance(action, Steer):
            assert abs(action.frequency) < 0.1
            self.correction = round(action.frequency * 65536e6) / 65536e6
            self.synchronized, self.max_error = action.synchronized, action.max_error
            self.inserts = {0: 0, 1: 1, 2: -1}[action.leap]
        elif isinstance(action, SlewPhase):
            self.pending = max(-0.5, min(action.offset, 0.5)) * 1e9
            if not action.offset:
                self.old_slew = 0.0
        else:
            self.step(action.offset)


@dataclass
class Server:
    """A source. offset: what its clock is ahead of UTC, by seconds since the start. delays: (there, back), seconds."""

    name: str
    base: float = 100e-6
    jitter: float = 20e-6
    offset: Callable[[float], float] = lambda seconds: 0.0
    extra: Callable[[float], float] = lambda seconds: 0.0
    error: float | None = 20e-6
    stratum: int = 1
    leap: Callable[[float], int] = lambda seconds: 0
    lost: Callable[[float, random.Random], bool] = lambda seconds, dice: False
    settings: SourceSettings = field(default_factory=lambda: SourceSettings(min_poll=0, max_poll=0))
    smeared: bool | None = None


class World:
    """A machine with sources. `run` lets time pass; `worst`, `rms` look at the clock's error; `broken` counts false bounds."""

    def __init__(self, servers, *, clock=None, settings=None, saved=None, seed=1, leaps=()):
        self.dice = random.Random(seed)
        self.clock = clock or Clock()
        self.servers = {one.name: one for one in servers}
        self.machine = Discipline()
        self.leaps = leaps
        self.log: list[Log] = []
        self.actions: list[tuple[float, object]] = []
        self.saves: list[SaveDrift] = []
        self.polls: list[tuple[float, str]] = []
        self.errors: list[tuple[float, float]] = []
        self.statuses: list[tuple[float, str]] = []
        self.events: list[object] = []
        self.given: list[tuple[float, object]] = []
        self.checked = self.broken = 0
        self.false: list[tuple[float, float, float]] = []
        self.kernel_broken = 0
        self.failing = False
        # Between a pause that the machine cannot see and the next sample of a right source that it knows, no bound can be true.
        self.blind = False
        self._paused_ns = 0
        self._known: set[str] = set()
        # A bound holds while the sources that lie are a minority of those that it was made of.
        self.liars: set[str] = set()
        self._majority = True
        self._queue: list[tuple[int, int, object]] = []
        self._number = 0
        self._tick_at = None
        self.give(Started("1", settings or ClockSettings(), self.clock.reading(), saved))
        for one in servers:
            self.give(SourceAdded(one.name, one.settings, f"{one.name} 443"))

    @property
    def now(self) -> float:
        return (self.clock.true_ns - self.clock.begun_ns) / 1e9

    @property
    def tracking(self):
        return self.machine.status().tracking

    def source(self, name):
        return next(one for one in self.machine.status().sources if one.name == name)

    @property
    def error(self) -> float:
        return self.clock.error(self.utc_ns(self.clock.true_ns))

    def utc_ns(self, true_ns: int) -> int:
        """UTC, which falls back by a second at each leap second. true_ns counts on."""
        return true_ns - sum(SECOND for at in self.leaps if true_ns >= at)

    def texts(self, kind=None):
        """The lines of one kind; without one, all but those about the status."""
        return [one.text for one in self.log if (one.kind != "status" if kind is None else one.kind.startswith(kind))]

    def did(self, kind, since=0.0):
        return [(at, one) for at, one in self.actions if isinstance(one, kind) and at >= since]

    def give(self, event):
        self.events.append(event)
        self.given.append((self.now, event))
        if isinstance(event, SourceAdded | SourceRemoved) or (isinstance(event, SourceChanged) and not event.same_server):
            self._known.discard(event.name)
        refused = False
        for action in self.machine.handle(event):
            if isinstance(action, Log):
                self.log.append(action)
            elif isinstance(action, Poll):
                self.polls.append((self.now, action.name))
                self._ask(action.name)
            elif isinstance(action, SaveDrift):
                self.saves.append(action)
            else:
                self.actions.append((self.now, action))
                if self.failing:
                    refused = True
                    self._push(self.clock.true_ns, ("failed", type(action).__name__))
                elif not isinstance(action, WouldDo):
                    self.clock.perform(action)
        if not refused:
            # The driver hands a refusal back before anything is published.
            self._check()
        due = self.machine.due_ns - self.clock.raw_ns
        at = self.clock.true_ns + max(due, 1000)
        if self._tick_at is None or at < self._tick_at:
            self._tick_at = at
            self._push(at, ("tick",))

    def pause(self, seconds: float) -> None:
        self.clock.pause(seconds)
        self.blind, self._paused_ns = True, self.clock.raw_ns
        self._known = {one.name for one in self.machine.status().sources if one.samples}

    def run(self, seconds: float) -> None:
        end = self.clock.true_ns + round(seconds * 1e9)
        while self._queue and self._queue[0][0] <= end:
            at, _, what = heapq.heappop(self._queue)
            self.clock.run_to(at)
            self._do(what)
        self.clock.run_to(end)

    def run_until(self, seconds: float) -> None:
        self.run(seconds - self.now)

    def rms(self, since: float, until: float = math.inf) -> float:
        found = [error for at, error in self.errors if since <= at < until]
        return math.sqrt(sum(error**2 for error in found) / len(found))

    def worst(self, since: float, until: float = math.inf) -> float:
        return max(abs(error) for at, error in self.errors if since <= at < until)

    def _push(self, at, what):
        self._number += 1
        heapq.heappush(self._queue, (at, self._number, what))

    def _do(self, what):
        if what[0] == "tick":
            if self._tick_at is not None and self.clock.true_ns < self._tick_at:
                return
            self._tick_at = None
            self.give(Tick(self.clock.reading()))
        elif what[0] == "failed":
            self.give(Failed(what[1], "not permitted"))
        else:
            self._answer(*what[1:])

    def _ask(self, name):
        one, now = self.servers[name], self.now
        there = one.base + self.dice.expovariate(1 / one.jitter) + one.extra(now)
        back = one.base + self.dice.expovariate(1 / one.jitter)
        sent, t1, true1 = self.clock.sample_reading(), self.clock.real_ns, self.clock.true_ns
        if one.lost(now, self.dice):
            self._push(true1 + SECOND // 2, ("answer", name, sent, t1, None, None))
            return
        at = true1 + round(there * 1e9)
        stamp = self.utc_ns(at) + round(one.offset(now) * 1e9)
        self._push(at + round(back * 1e9), ("answer", name, sent, t1, stamp, stamp))

    def _answer(self, name, sent, t1, t2, t3):
        one = self.servers[name]
        if t2 is None:
            sample = Sample(t1, reason=Reason.NO_ANSWER, sent=sent)
        else:
            t4 = self.clock.real_ns
            state = ServerState(t4, stratum=one.stratum, error=one.error, leap=one.leap(self.now), smeared=one.smeared)
            received = self.clock.sample_reading()
            sample = make_sample(
                t1, t2, t3, t4, precision_ns=30, offset_limit=math.inf, server=state, sent=sent, received=received
            )
            if sent.at_ns - sent.difference_ns >= self._paused_ns and name in self._known - self.liars:
                self.blind = False
        self.give(Polled(name, sample, self.clock.reading(), f"{name} 443"))

    def _check(self):
        found = self.machine.status().tracking
        self.errors.append((self.now, self.error))
        if not self.statuses or self.statuses[-1][1] != found.status.value:
            self.statuses.append((self.now, found.status.value))
        marks = {one.name: one.mark for one in self.machine.status().sources if one.mark != "?"}
        if "*" in marks.values():
            self._majority = 2 * len(self.liars & set(marks)) < len(marks)
        if found.bound is None or self.blind or not self._majority:
            return
        # The status holds at its own reading: an action after it is judged at the next one.
        truth = self.utc_ns(self.clock.true_ns)
        if found.raw_ns == self.clock.raw_ns and found.real_ns == self.clock.real_ns:
            self.checked += 1
            if abs(found.real_ns - truth) / 1e9 > found.bound:
                self.broken += 1
                self.false.append((self.now, (found.real_ns - truth) / 1e9, found.bound))
            # What the kernel says is set by the tick that follows a poll at once.
            said = isinstance(self.events[-1], Tick) and self.clock.synchronized
            self.kernel_broken += said and abs(self.error) > self.clock.max_error
