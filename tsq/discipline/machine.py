"""The machine that keeps a clock: events in, actions out; nothing else (docs/explanation/clock-discipline.md).

Comes in: events in the order of their raw times. Goes out: actions, and the status. It must never read a clock, wait, or log; the
same events give the same actions, bit for bit.
"""

from collections.abc import Callable, Mapping
from math import ceil, floor, hypot, sqrt
from typing import Any

from tsq.discipline import steering
from tsq.discipline.actions import Action, Level, Log, Poll, SaveDrift, SlewPhase, Steer, StepClock, WouldDo
from tsq.discipline.bound import UNKNOWN, Rate, RawInterval
from tsq.discipline.choice import Choice, choose
from tsq.discipline.events import (
    Burst,
    Event,
    Failed,
    LeapKnown,
    MakeStepNow,
    Polled,
    Reading,
    Reconfigured,
    SavedDrift,
    SetOnline,
    SourceAdded,
    SourceChanged,
    SourceRemoved,
    Started,
    Stopping,
    Tick,
    Unfreeze,
)
from tsq.discipline.fusion import Fused, Vote, fuse
from tsq.discipline.leap import LeapWatch
from tsq.discipline.limits import Limits, Ruling
from tsq.discipline.moves import Kind, Move, Watch
from tsq.discipline.settings import ClockSettings, ForeignStep, Mode
from tsq.discipline.source import MOST_CONTRADICTIONS, Learner, RawSample, TrackedSource, in_raw_time
from tsq.discipline.status import ClockStatus, SourceStatus, Status, Tracking
from tsq.timing.intersection import Interval, agreed, majority
from tsq.timing.sample import Reason, Sample
from tsq.timing.selection import Mark, Unused

_SECOND = 1_000_000_000
_TICK = _SECOND
_RESELECT = 16 * _SECOND
# The first update waits so long for the other sources: one that answers first may be wrong.
_WAIT = 4 * _SECOND
_SAVE_INTERVAL = 3600 * _SECOND
# Known well enough to be kept over a restart.
_WORTH_SAVING = 0.5e-6
_SAVE_AFTER = 120 * _SECOND
# What an earlier run learned may have changed since; a source that comes later begins with what the others know.
_SAVED_SD, _SHARED_SD, _SHARED_TIMES = 2e-6, 0.1e-6, 4.0
# The frequency is known when the majority agrees on it within this many times the tolerance.
_KNOWN_TIMES = 4.0
_KERNEL_MOST = 16.0
_UNKNOWN_STRATUM, _LAST_STRATUM = 14, 15
# chrony's average of the last offsets.
_RMS_PART = 0.1
# Moves of one kind are counted and logged once in this time.
_MOVE_INTERVAL = 10 * _SECOND

_MEANING = {ClockStatus.HOLDOVER: "held over without a usable source", ClockStatus.UNSYNCHRONIZED: "not synchronized"}

NO_SELECT = "measured only (noselect)"
OFFLINE = "offline"
ACROSS = "taken across a suspension of the machine"
LEAP_SECOND = "taken beside a leap second"
READINGS = "the clock was set during the exchange"
OLD = "older than one before"
# These reasons say less than their details do, which are sentences of their own.
_SAID_BY_DETAIL = (Reason.NO_ANSWER, Reason.NOT_SENT, Reason.CONNECTION_LOST)
_LONGEST_REASON = 300


class Discipline:
    """Keeps one clock. The first event is `Started`."""

    def __init__(self) -> None:
        self._settings = ClockSettings()
        self._now = Reading(0, 0)
        self._out: list[Action] = []
        self._sources: dict[str, TrackedSource] = {}
        self._watch, self._loop, self._leap, self._limits = Watch(), steering.KernelLoop(), LeapWatch(), Limits()
        self._leap_counted = False
        # What was assumed about the frequency beforehand, and what is known now.
        self._prior, self._prior_sd = 0.0, UNKNOWN
        self._weights: tuple[float, ...] = ()
        self._frequency: float | None = None
        self._frequency_sd, self._known = UNKNOWN, False
        # How fast true time may run against the raw clock, as the majority says.
        self._rate = Rate()
        self._fused: Fused | None = None
        self._constant = 2.0
        # Whether the remaining offset is for the kernel's loop.
        self._slews = False
        # Where the majority says that true time is, and how fast that ages.
        self._agreed: RawInterval | None = None
        self._choice: Choice | None = None
        self._best: TrackedSource | None = None
        self._stratum = 0
        self._coasting = True
        self._selected_ns = 0
        self._first_ns: int | None = None
        self._anew_ns: int | None = None
        self._correction: float | None = None
        self._updates, self._updated_ns, self._updated_real_ns = 0, 0, 0
        self._interval: float | None = None
        self._last_offset: float | None = None
        self._mean_square: float | None = None
        self._saved_ns: int | None = None
        self._foreign, self._seen = 0, dict[Kind, int]()
        self._next_tick_ns = 0
        self._status: Status | None = None
        self._reported = ClockStatus.UNSYNCHRONIZED
        self._handlers: Mapping[type[Event], Callable[[Any], None]] = {
            Started: self._started,
            Tick: self._tick,
            Polled: self._polled,
            SourceAdded: self._add,
            SourceRemoved: self._remove,
            SourceChanged: self._change,
            SetOnline: self._ask,
            Burst: self._ask,
            MakeStepNow: self._step_now,
            Unfreeze: self._unfreeze,
            Reconfigured: self._reconfigure,
            Failed: self._failed,
            LeapKnown: self._know_leap,
            Stopping: self._stop,
        }

    def handle(self, event: Event) -> list[Action]:
        """What is to be done after this event."""
        self._status, self._out = None, []
        self._handlers[type(event)](event)
        return self._out

    @property
    def due_ns(self) -> int:
        """The raw time at which a `Tick` is wanted at the latest, ns."""
        return min([self._next_tick_ns, *(one.polling.due_ns for one in self._sources.values() if one.online)])

    # Beginning and end.

    def _started(self, event: Started) -> None:
        self._settings, self._now = event.settings, event.reading
        self._watch.look(event.reading, self._loop)
        self._next_tick_ns = event.reading.raw_ns
        saved = event.saved
        if saved is not None and abs(saved.frequency) < 1 and saved.uncertainty >= 0:
            self._take_saved(saved)
        if self._settings.mode is Mode.STEER and event.reading.pending_ns:
            # A slew that another run began: its offset is measured first.
            self._do(SlewPhase(0.0))

    def _take_saved(self, saved: SavedDrift) -> None:
        self._prior, self._prior_sd, self._weights = saved.frequency, max(saved.uncertainty, _SAVED_SD), saved.weights
        self._prior_sd = min(self._prior_sd, UNKNOWN)
        self._frequency, self._frequency_sd, self._rate = self._prior, self._prior_sd, self._assumed()
        self._do(Steer(self._prior, _KERNEL_MOST, _KERNEL_MOST, False))

    def _stop(self, event: Stopping) -> None:
        """The clock runs on with its frequency alone."""
        if self._fused is not None and not self._limits.frozen:
            if self._loop.active:
                self._do(SlewPhase(0.0))
            self._do(self._steer_action(self._fused.frequency))
        if self._known and self._frequency is not None:
            self._save(self._now.raw_ns)

    # Sources.

    def _learner(self) -> Learner:
        """For a source that was not measured yet, with what is known of the oscillator."""
        if self._known and self._frequency is not None:
            return Learner(self._frequency, max(_SHARED_TIMES * self._frequency_sd, _SHARED_SD), self._weights)
        return Learner(self._prior, self._prior_sd, self._weights)

    def _add(self, event: SourceAdded) -> None:
        now_ns = self._now.raw_ns
        self._sources[event.name] = TrackedSource(event.name, event.settings, event.address, self._learner(), now_ns)
        self._poll(now_ns)

    def _remove(self, event: SourceRemoved) -> None:
        if self._sources.pop(event.name, None) is not None:
            self._select(self._now, new=False)

    def _change(self, event: SourceChanged) -> None:
        source = self._sources.get(event.name)
        if source is None:
            self._add(SourceAdded(event.name, event.settings, event.address))
        elif event.same_server:
            source.settings, source.address = event.settings, event.address
            source.polling.change(event.settings)
        else:
            new = TrackedSource(event.name, event.settings, event.address, self._learner(), self._now.raw_ns)
            new.online = source.online
            self._sources[event.name] = new
            self._poll(self._now.raw_ns)

    def _ask(self, event: SetOnline | Burst) -> None:
        now_ns = self._now.raw_ns
        for source in self._sources.values():
            if event.name not in ("", source.name):
                continue
            if isinstance(event, Burst):
                source.polling.soon(now_ns, event.count)
            elif event.online != source.online:
                source.online = event.online
                if event.online:
                    source.polling.soon(now_ns)
                else:
                    source.reach = 0
        self._select(self._now, new=False)
        self._poll(now_ns)

    def _poll(self, now_ns: int) -> None:
        for source in self._sources.values():
            if source.online and source.polling.is_due(now_ns):
                source.polling.asked(now_ns)
                self._out.append(Poll(source.name, source.polling.burst > 0))

    def _polled(self, event: Polled) -> None:
        self._observe(event.reading)
        source = self._sources.get(event.name)
        if source is None:
            return
        now_ns = self._now.raw_ns
        self._next_tick_ns = min(self._next_tick_ns, now_ns)
        source.learn(event)
        rate = self._rate_of(source)
        raw = in_raw_time(event.sample, event.reading, max(abs(rate.low), abs(rate.high))) if event.sample.valid else None
        unused = self._unused(event, raw, source)
        if unused or raw is None:
            reached = source.reach
            source.failed(unused, now_ns, answered=event.sample.valid)
            if reached and not source.reach:
                self._log(Level.WARNING, f"reach {source.name}", f"{source.name} does not answer any more: {unused}")
            if source.server is not None and source.server.unusable:
                self._select(self._now, new=False)
            return
        if self._first_ns is None:
            self._first_ns = raw.center_ns
        source.add(event.sample, raw, now_ns, rate, self._settings.tolerance)
        if source.contradictions and self._has_jumped(source):
            self._restart_after_jump()
        elif source.contradictions > MOST_CONTRADICTIONS and not self._may_have_jumped(source):
            source.settle()
        self._select(self._now, new=True)

    def _unused(self, event: Polled, raw: RawSample | None, source: TrackedSource) -> str:
        """Why this sample is not used; empty: it is."""
        sample = event.sample
        if sample.reason is not None:
            return _reason_of(sample)
        if raw is None or raw.center_ns > self._now.raw_ns:
            return READINGS
        if sample.server is not None and sample.server.unusable:
            return Unused.UNSYNCHRONIZED.value
        if self._anew_ns is not None and raw.begin_ns < self._anew_ns:
            return ACROSS
        begin_ns = sample.t1_ns if self._fused is None else raw.begin_ns + self._fused.at(raw.begin_ns)
        if self._leap.spoils(begin_ns, begin_ns + raw.end_ns - raw.begin_ns):
            return LEAP_SECOND
        if source.last_raw is not None and raw.center_ns <= source.last_raw.center_ns:
            return OLD
        return ""

    # The raw clock and other programs.

    def _observe(self, reading: Reading) -> None:
        moves = self._watch.look(reading, self._loop)
        if reading.raw_ns >= self._now.raw_ns:
            self._now = reading
        for move in moves:
            if move.kind is Kind.SUSPENDED:
                self._suspended(move)
            elif move.kind is Kind.LEAP:
                self._leaped(move)
            elif move.kind is Kind.STEPPED:
                self._foreign_step(move)
            else:
                self._foreign_slew(move)

    def _suspended(self, move: Move) -> None:
        """The raw clock stood still, for a time that only a measurement can tell."""
        self._log(Level.INFO, "suspended", f"{move.kind} for {move.amount:.1f} s: the clock is measured anew")
        for source in self._sources.values():
            source.restart(self._now.raw_ns)
        self._measure_anew(trusting=True)
        if self._now.pending_ns:
            # A slew of this machine's own, which the sleep has interrupted.
            self._do(SlewPhase(0.0))
        if self._frequency is not None and not self._limits.frozen:
            self._do(Steer(self._frequency, _KERNEL_MOST, _KERNEL_MOST, False))
            self._correction = self._frequency

    def _measure_anew(self, trusting: bool) -> None:
        """Nothing is known but the frequency: the next update is like the first one."""
        self._anew_ns = self._now.raw_ns
        self._fused = self._agreed = self._choice = self._best = self._first_ns = None
        self._limits.anew(trusting)

    def _has_jumped(self, source: TrackedSource) -> bool:
        """Whether a majority of the sources says that the raw clock stood still or jumped, and agrees by how much."""
        if source.contradictions == 1:
            for other in self._sources.values():
                other.polling.soon(self._now.raw_ns, 2)
        voters = [one for one in self._sources.values() if one.usable]
        # A single source must say so twice.
        wanted = 1 if len(voters) > 1 else 2
        changed = [one for one in voters if one.contradictions >= wanted]
        if len(changed) < majority(len(voters)):
            return False
        found = [one.last_interval.aged(self._now.raw_ns, self._rate) for one in changed]
        base = found[0].low_ns
        intervals = [Interval.of_ns(one.low_ns - base, one.high_ns - base) for one in found]
        return agreed(intervals, len(voters)) is not None

    def _may_have_jumped(self, source: TrackedSource) -> bool:
        """Whether a source that contradicts itself may be right, and the raw clock wrong: too few others have answered since."""
        voters = [one for one in self._sources.values() if one.usable]
        if source.was_false or source not in voters:
            return False
        others = [one for one in voters if not one.contradictions and one.last_interval.at_ns > source.contradicted_ns]
        return len(others) < majority(len(voters))

    def _restart_after_jump(self) -> None:
        changed = [one for one in self._sources.values() if one.contradictions]
        moved = sorted(one.jumped_ns for one in changed)[len(changed) // 2] / 1e9
        text = f"the machine stood still or was moved: all sources agree that the time is {moved:+.6f} s from what was expected"
        self._log(Level.WARNING, "jump", text)
        if self._known and self._frequency is not None:
            self._prior = self._frequency
        self._prior_sd, self._known = UNKNOWN, False
        self._rate = self._assumed()
        for source in self._sources.values():
            newest = source in changed
            source.restart(self._now.raw_ns, self._learner())
            if newest:
                source.keep_last(self._rate)
        self._measure_anew(trusting=len(changed) > 1)
        self._first_ns = self._now.raw_ns
        # The newest samples are kept: what is refused are older ones that come late.
        self._anew_ns = min(one.last_raw.begin_ns for one in changed if one.last_raw is not None)

    def _foreign_step(self, move: Move) -> None:
        self._count(move.kind)
        steers = self._settings.mode is Mode.STEER
        text = f"another program steps this clock by {move.amount:+.6f} s"
        known = self._fused is not None and self._limits.updates > 0
        if not steers or self._limits.frozen or not known or self._settings.foreign_step is ForeignStep.CORRECT:
            self._log(Level.WARNING if steers else Level.INFO, "foreign step", text)
        elif self._limits.undoes(self._now.raw_ns):
            self._log(Level.WARNING, "foreign step", f"{text}: it is stepped back")
            self._step(-move.amount, "another program stepped this clock", counts=False)
        else:
            self._log(Level.WARNING, "foreign step", text)
            self._freeze()

    def _foreign_slew(self, move: Move) -> None:
        if self._settings.mode is not Mode.STEER or self._fused is None or self._limits.frozen:
            return
        slews = move.kind is Kind.SLEWS
        if self._count(move.kind):
            amount = (
                f"slews this clock by {move.amount:+.6f} s" if slews else f"sets its frequency off by {move.amount * 1e6:+.3f} ppm"
            )
            self._log(Level.WARNING, "foreign slew", f"another program {amount}: it is corrected")
        if slews and self._now.pending_ns:
            self._do(SlewPhase(0.0))

    def _count(self, kind: Kind) -> bool:
        """Counts a foreign move; whether it is a new one."""
        now_ns = self._now.raw_ns
        new = kind is Kind.STEPPED or now_ns - self._seen.get(kind, -_MOVE_INTERVAL) >= _MOVE_INTERVAL
        self._seen[kind] = now_ns
        self._foreign += new
        return new

    def _leaped(self, move: Move) -> None:
        """The clock and true time were set by the same second."""
        seconds = round(move.amount)
        self._log(Level.INFO, "leap", f"a leap second was {'inserted' if seconds < 0 else 'deleted'}")
        self._leap_counted = True
        self._set_true_time(seconds)

    def _set_true_time(self, seconds: int) -> None:
        """True time was set by a leap second: what is known about it moves along."""
        for source in self._sources.values():
            source.shift(seconds)
        by_ns = seconds * _SECOND
        if self._fused is not None:
            self._fused = self._fused.shifted(seconds)
        if self._agreed is not None:
            self._agreed = self._agreed.shifted(by_ns)

    # What the sources say together.

    def _assumed(self) -> Rate:
        """How fast true time may run against the raw clock, before that was measured."""
        return Rate.around(self._prior, max(UNKNOWN, self._settings.tolerance))

    def _rate_of(self, source: TrackedSource) -> Rate:
        """The same as a source measured it itself. One that is wrong must not age the samples of others."""
        return self._rate if source.rate is None else source.rate

    def _agree_on_rate(self, voters: list[TrackedSource], found: list[tuple[RawInterval, Rate] | None]) -> None:
        """The majority's limits of the frequency; a source that does not know it yet votes for all that is possible."""
        assumed = self._assumed()
        shown = [
            assumed if here is None else here[1] if one.rate is not None else here[1].hull(assumed)
            for one, here in zip(voters, found, strict=True)
        ]
        common = agreed([Interval(one.low, one.high) for one in shown])
        if common is None:
            common = Interval(min(one.low for one in shown), max(one.high for one in shown))
        self._rate = Rate(common.low, common.high)

    def _select(self, reading: Reading, new: bool) -> None:
        """Ask the sources. new: there is a new sample, so that this can be an update of the clock."""
        self._selected_ns = now_ns = reading.raw_ns
        voters = [one for one in self._sources.values() if one.usable]
        found = [one.history.at(now_ns, self._rate_of(one)) for one in voters]
        choice = choose(
            [one.as_source(reading, interval) for one, interval in zip(voters, found, strict=True)],
            [one.settings for one in voters],
            reading.real_ns,
            self._settings.criteria,
        )
        self._mark(voters, choice)
        self._choice = choice
        self._coasting = choice.agreed is None
        if choice.agreed is None or not self._is_ready(now_ns):
            return
        self._agree_on_rate(voters, found)
        interval = choice.agreed.interval
        base = reading.difference_ns
        common = RawInterval(now_ns, base + floor(interval.low * 1e9), base + ceil(interval.high * 1e9))
        votes = []
        for place in choice.survivors:
            here = found[place]
            if here is not None:
                prediction = voters[place].predict(now_ns)
                votes.append(Vote(prediction, here[0].distance_from(here[0].clamp(prediction.difference_ns))))
        self._use(fuse(votes, common, self._rate), common, voters, new)

    def _is_ready(self, now_ns: int) -> bool:
        """The first update waits until all sources were asked: the first one to answer may be wrong."""
        if self._limits.updates or self._fused is not None:
            return True
        waiting = any(one.online and not one.heard and not one.settings.no_select for one in self._sources.values())
        return not waiting or (self._first_ns is not None and now_ns - self._first_ns >= _WAIT)

    def _use(self, fused: Fused, common: RawInterval, voters: list[TrackedSource], new: bool) -> None:
        reading = self._now
        offset = (fused.difference_ns - self._clock_ns(reading)) / 1e9
        self._agreed = common
        ruling = Ruling.SLEW
        if not self._limits.frozen:
            ruling = self._limits.judge(offset, self._settings, new)
            if self._settings.mode is not Mode.STEER and ruling is Ruling.FREEZE:
                self._log(Level.WARNING, "frozen", f"the clock would be frozen: {self._limits.frozen}")
                self._limits.frozen = ""
                ruling = Ruling.SLEW
        if ruling is Ruling.IGNORE:
            if new:
                self._log(Level.WARNING, "ignored", f"an offset of {offset:+.6f} s is over the largest change, and ignored")
            return
        self._fused, self._best = fused, voters[self._choice.best] if self._choice and self._choice.best is not None else None
        self._learn_frequency(fused)
        self._stratum = self._own_stratum()
        if ruling is Ruling.FREEZE:
            self._freeze()
        elif new:
            self._update(offset, ruling)

    def _update(self, offset: float, ruling: Ruling) -> None:
        now_ns = self._now.raw_ns
        if self._limits.frozen:
            return
        assert self._fused is not None
        self._limits.accepted(offset)
        self._interval = (now_ns - self._updated_ns) / 1e9 if self._updates else None
        self._updates += 1
        self._updated_ns, self._updated_real_ns, self._last_offset = now_ns, self._now.real_ns, offset
        before = self._mean_square
        self._mean_square = offset**2 if before is None else before + _RMS_PART * (offset**2 - before)
        interval = 2.0**self._best.polling.poll if self._best is not None else 1.0
        self._constant = steering.time_constant(self._fused.sd, self._fused.frequency_sd, self._age(now_ns), interval)
        if ruling is Ruling.STEP:
            self._log(Level.WARNING, "step", f"the clock is wrong by {offset:+.6f} s: stepped")
            self._step(offset, "an offset over the limit of makestep")

    def _learn_frequency(self, fused: Fused) -> None:
        self._frequency, self._frequency_sd = fused.frequency, fused.frequency_sd
        tolerance = self._settings.tolerance
        self._known = fused.frequency_sd <= tolerance and self._rate.high - self._rate.low <= _KNOWN_TIMES * tolerance
        if self._best is not None:
            self._weights = self._best.estimator.weights

    def _own_stratum(self) -> int:
        found = self._choice.agreed.stratum if self._choice is not None and self._choice.agreed is not None else None
        if found is None and self._best is not None:
            found = self._best.stratum
        return min(_LAST_STRATUM, (_UNKNOWN_STRATUM if found is None else found) + 1)

    def _mark(self, voters: list[TrackedSource], choice: Choice) -> None:
        """Each source's mark, and a line for each that changed for good or ill."""
        ready = self._is_ready(self._now.raw_ns)
        marks = {one.name: mark for one, mark in zip(voters, choice.marks, strict=True)}
        for source in self._sources.values():
            mark, why = marks.get(source.name, (Mark.UNUSABLE, self._why(source)))
            source.mark, source.unused = mark.value, why
            is_false = mark is Mark.FALSETICKER and choice.agreed is not None
            if not ready or is_false == source.is_false or (source.is_false and choice.agreed is None):
                continue
            source.is_false = is_false
            if is_false:
                self._log(Level.WARNING, f"false {source.name}", f"{source.name} is not used: {why}")
            else:
                self._log(Level.INFO, f"false {source.name}", f"{source.name} is not a falseticker any more")
        before = None if self._choice is None else self._choice.problem
        if ready and choice.problem is not None and voters and choice.problem is not before:
            self._log(Level.WARNING, "no majority", f"the sources give no time: {choice.problem.value}")

    def _why(self, source: TrackedSource) -> str:
        """Why a source has no vote."""
        if source.settings.no_select:
            return NO_SELECT
        if not source.online:
            return OFFLINE
        if source.server is not None and source.server.unusable:
            return Unused.UNSYNCHRONIZED.value
        return source.last_reason or Unused.NO_ESTIMATE.value

    # The clock.

    def _tick(self, event: Tick) -> None:
        self._observe(event.reading)
        now_ns = self._now.raw_ns
        self._next_tick_ns = now_ns + _TICK
        if now_ns - self._selected_ns >= _RESELECT:
            self._select(self._now, new=False)
        self._steer()
        if self._loop.active or self._slews:
            self._next_tick_ns = now_ns + steering.until_next_look(self._now.real_ns)
        self._report_status()
        self._poll(now_ns)
        self._save_if_due(now_ns)

    def _clock_ns(self, reading: Reading) -> int:
        """The clock minus the raw clock, with a step that this reading does not show yet."""
        return reading.difference_ns + self._watch.expected_step_ns

    def _age(self, now_ns: int) -> float:
        return 0.0 if self._first_ns is None else (now_ns - self._first_ns) / 1e9

    def _steer(self) -> None:
        reading, fused = self._now, self._fused
        self._slews = False
        if fused is None or self._limits.frozen or not self._updates:
            return
        true_ns = reading.raw_ns + fused.at(reading.raw_ns)
        self._announce(true_ns)
        if self._leap.is_quiet(true_ns):
            return
        offset = (fused.at(reading.raw_ns) - self._clock_ns(reading)) / 1e9
        phase = steering.phase(offset, self._loop, reading.real_ns)
        self._slews = abs(offset) > steering.PHASE_LIMIT
        if phase is not None:
            self._do(SlewPhase(phase))
        frequency = fused.frequency
        if not self._loop.active and phase in (None, 0.0):
            sd = fused.sd_at(reading.raw_ns)
            frequency = steering.correction(frequency, offset, sd, self._constant, self._settings.max_slew_rate * 1e-6)
        self._do(self._steer_action(frequency))

    def _know_leap(self, event: LeapKnown) -> None:
        self._leap.know(event.leap, event.day)

    def _announce(self, true_ns: int) -> None:
        found = self._choice.agreed if self._choice is not None else None
        if found is not None:
            self._leap.announce(None if found.smeared else found.leap, true_ns)
        seconds = self._leap.seconds
        if seconds and not self._leap.at(true_ns):
            if not self._leap_counted:
                self._log(Level.WARNING, "leap", "a leap second has passed, and this clock did not count it")
                self._set_true_time(seconds)
            self._leap_counted = False
        armed = self._settings.mode is Mode.STEER and self._settings.leap
        self._watch.will_leap(self._leap.seconds if armed or self._now.leap else 0)

    def _steer_action(self, frequency: float) -> Steer:
        assert self._fused is not None
        offset, bound = self._offset_and_bound()
        estimated = hypot(offset or 0.0, self._fused.sd_at(self._now.raw_ns))
        most = _KERNEL_MOST
        if bound is not None:
            # If nobody looks after it any more, the kernel's loop slews all that it was handed: past the truth, if that is more.
            past = max(0.0, abs((offset or 0.0) - self._loop.left) - abs(offset or 0.0))
            most = min(most, bound + past + self._bound_rate(frequency) * _TICK / _SECOND)
        synchronized = self._clock_status(bound) in (ClockStatus.SYNCHRONIZED, ClockStatus.HOLDOVER)
        leap = self._leap.at(self._now.raw_ns + self._fused.at(self._now.raw_ns)) if self._settings.leap else 0
        return Steer(frequency, most, min(estimated, most), synchronized and self._settings.rtc_sync, leap)

    def _do(self, action: Steer | SlewPhase | StepClock) -> None:
        """Let the driver do this, or say that it would be done; and remember what the kernel was asked for."""
        if self._settings.mode is not Mode.STEER:
            self._out.append(WouldDo(action))
            return
        self._out.append(action)
        now_ns = self._now.raw_ns
        if isinstance(action, Steer):
            self._correction = action.frequency
            self._watch.will_steer(action.frequency, now_ns)
        elif isinstance(action, SlewPhase):
            self._loop.set(action.offset)
        else:
            self._watch.will_step(action.offset, now_ns)
            self._loop.stop()

    def _step(self, offset: float, why: str, counts: bool = True) -> None:
        reading = self._now
        distance = 0.0
        if self._agreed is not None and self._fused is not None:
            here = self._agreed.aged(reading.raw_ns, self._rate)
            distance = here.distance_from(self._clock_ns(reading) + round(offset * 1e9))
        sd = self._fused.sd_at(reading.raw_ns) if self._fused is not None else 0.0
        self._do(StepClock(offset, min(distance + 1e-6, _KERNEL_MOST), min(sd, _KERNEL_MOST), why))
        if self._settings.mode is Mode.STEER:
            self._limits.stepped(offset, counts)

    def _freeze(self) -> None:
        """Stop touching the clock, in a state that lasts: no slew, and the frequency that is right."""
        self._log(Level.ERROR, "frozen", f"the clock is not touched until `tsqctl unfreeze`: {self._limits.frozen}")
        if self._loop.active:
            self._do(SlewPhase(0.0))
        if self._fused is not None:
            self._do(self._steer_action(self._fused.frequency))
        self._watch.forget_frequency()

    def _step_now(self, event: MakeStepNow) -> None:
        if self._fused is None:
            self._log(Level.WARNING, "operator", "the clock cannot be stepped: its offset is not known")
            return
        if self._limits.frozen:
            self._unfreeze()
        offset = (self._fused.at(self._now.raw_ns) - self._clock_ns(self._now)) / 1e9
        self._log(Level.INFO, "operator", f"the clock is stepped by {offset:+.6f} s, as asked")
        self._step(offset, "an operator asked for it", counts=False)

    def _unfreeze(self, event: Unfreeze | None = None) -> None:
        if self._limits.frozen:
            self._log(Level.INFO, "operator", f"the clock is kept again; it was frozen: {self._limits.frozen}")
        self._limits.unfreeze()

    def _reconfigure(self, event: Reconfigured) -> None:
        settings = event.settings
        before = self._settings.mode
        if before is Mode.STEER and settings.mode is not before:
            if self._loop.active:
                self._do(SlewPhase(0.0))
            self._watch.forget_frequency()
            self._loop.stop()
        self._settings = settings
        self._select(self._now, new=False)

    def _failed(self, event: Failed) -> None:
        self._log(Level.ERROR, "refused", f"the kernel refused {event.action}: {event.text}")
        if event.action == StepClock.__name__:
            self._watch.forget_step()
        elif event.action == SlewPhase.__name__:
            self._loop.stop()
        else:
            self._watch.forget_frequency()
        was = self._limits.frozen
        self._limits.failed(event.action, event.text, self._now.raw_ns)
        if self._limits.frozen and not was:
            # What the kernel does not refuse must not go on for ever either.
            self._freeze()

    # What is kept, and what is reported.

    def _save_if_due(self, now_ns: int) -> None:
        if not self._known or self._frequency_sd > _WORTH_SAVING or self._age(now_ns) * _SECOND < _SAVE_AFTER:
            return
        if self._saved_ns is None or now_ns - self._saved_ns >= _SAVE_INTERVAL:
            self._save(now_ns)

    def _save(self, now_ns: int) -> None:
        if self._frequency is not None:
            self._saved_ns = now_ns
            self._out.append(SaveDrift(self._frequency, self._frequency_sd, self._weights))

    def _report_status(self) -> None:
        """A line when the clock becomes right, or is not any more."""
        offset, bound = self._offset_and_bound()
        status = self._clock_status(bound)
        if status is self._reported:
            return
        self._reported = status
        numbers = "" if offset is None or bound is None else f": offset {offset:+.6f} s, bound {bound:.6f} s"
        level = Level.INFO if status is ClockStatus.SYNCHRONIZED else Level.WARNING
        self._log(level, "status", f"the clock is {_MEANING.get(status, status.value)}{numbers}")

    def _log(self, level: Level, kind: str, text: str) -> None:
        self._out.append(Log(level, kind, text))

    def _limits_of_truth(self) -> RawInterval | None:
        """Where true time minus the raw clock can be now."""
        now, common = self._now, self._agreed
        if self._fused is None or common is None:
            return None
        common = common.aged(now.raw_ns, self._rate)
        for source in self._sources.values():
            if source.contradictions and self._may_have_jumped(source):
                common = common.hull(source.last_interval.aged(now.raw_ns, self._rate))
        return common

    def _offset_and_bound(self) -> tuple[float | None, float | None]:
        """What is to be added to the clock, and how wrong the clock can be, seconds."""
        now, fused, common = self._now, self._fused, self._limits_of_truth()
        if fused is None or common is None:
            return None, None
        clock_ns = self._clock_ns(now)
        bound = common.distance_from(clock_ns) + now.width_ns / 1e9
        return (fused.at(now.raw_ns) - clock_ns) / 1e9, bound

    def _bound_rate(self, correction: float | None) -> float:
        """How fast the bound grows when nothing is measured, nor steered."""
        rate = self._rate
        runs = correction if correction is not None else self._now.frequency or 0.0
        return max(rate.high - runs, runs - rate.low)

    def _clock_status(self, bound: float | None) -> ClockStatus:
        if self._limits.frozen:
            return ClockStatus.FROZEN
        if bound is None or not self._updates or bound > self._settings.criteria.max_distance:
            return ClockStatus.UNSYNCHRONIZED
        return ClockStatus.HOLDOVER if self._coasting else ClockStatus.SYNCHRONIZED

    def status(self) -> Status:
        """What is known at the last reading."""
        if self._status is None:
            sources = tuple(one.status(self._now, self._rate_of(one)) for one in self._sources.values())
            self._status = Status(self._tracking(sources), sources)
        return self._status

    def _tracking(self, sources: tuple[SourceStatus, ...]) -> Tracking:
        now, fused = self._now, self._fused
        offset, bound = self._offset_and_bound()
        interval = self._limits_of_truth()
        status = self._clock_status(bound)
        running = self._correction if self._settings.mode is Mode.STEER else now.frequency
        usable = bound is not None and self._updates > 0 and bound <= self._settings.criteria.max_distance
        best = self._best
        delay = best.last_raw.delay if best is not None and best.last_raw is not None else 0.0
        return Tracking(
            self._settings.mode,
            status,
            now.real_ns,
            now.raw_ns,
            offset,
            None if fused is None else fused.sd_at(now.raw_ns),
            bound,
            self._bound_rate(running),
            self._frequency,
            None if self._frequency is None else self._frequency_sd,
            running,
            stratum=self._stratum if usable else 0,
            leap=self._leap.leap if usable else 3,
            root_delay=delay if usable else 0.0,
            root_dispersion=max(0.0, bound - delay / 2) if usable and bound is not None else _KERNEL_MOST,
            reference="" if best is None else best.name,
            reference_address="" if best is None else best.address,
            last_offset=self._last_offset,
            rms_offset=None if self._mean_square is None else sqrt(self._mean_square),
            update_interval=self._interval,
            updated_real_ns=self._updated_real_ns,
            updates=self._updates,
            steps=self._limits.steps,
            accumulated_steps=self._limits.accumulated,
            frozen=self._limits.frozen,
            foreign_moves=self._foreign,
            earliest_ns=None if interval is None else now.raw_ns + interval.low_ns,
            latest_ns=None if interval is None else now.raw_ns + interval.high_ns,
            rate_low=self._rate.low,
            rate_high=self._rate.high,
        )


def _reason_of(sample: Sample) -> str:
    """Why a sample is not used, as an operator needs it: a certificate that is not trusted, and not only "could not be sent"."""
    assert sample.reason is not None
    if not sample.detail:
        return sample.reason.value
    text = sample.detail if sample.reason in _SAID_BY_DETAIL else f"{sample.reason.value}: {sample.detail}"
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."
