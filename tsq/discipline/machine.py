"""The machine that keeps a clock: events in, actions out; nothing else (docs/explanation/clock-discipline.md).

Comes in: events in the order of their raw times. Goes out: actions, and the status. It must never read a clock, wait, or log; the
same events give the same actions, bit for bit.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tsq.discipline import steering
from tsq.discipline.actions import Action, Level, SaveDrift
from tsq.discipline.agreement import Agreement, Proposal
from tsq.discipline.context import Context
from tsq.discipline.control import Control
from tsq.discipline.events import (
    Burst,
    Event,
    Failed,
    LeapKnown,
    MakeStepNow,
    Polled,
    Reading,
    Reconfigured,
    SetOnline,
    SourceAdded,
    SourceChanged,
    SourceRemoved,
    Started,
    Stopping,
    Tick,
    Unfreeze,
)
from tsq.discipline.foreign import ForeignMoves
from tsq.discipline.limits import Ruling
from tsq.discipline.moves import Kind
from tsq.discipline.operators import Operators
from tsq.discipline.oscillator import Oscillator
from tsq.discipline.restarts import Restarts
from tsq.discipline.source import RawSample, TrackedSource, in_raw_time
from tsq.discipline.source_table import SourceTable
from tsq.discipline.status import ClockStatus, Status
from tsq.discipline.tracking import tracking
from tsq.timing.sample import Reason, Sample
from tsq.timing.selection import Unused

_SECOND = 1_000_000_000
_RESELECT = 16 * _SECOND
_SAVE_INTERVAL = 3600 * _SECOND
_SAVE_AFTER = 120.0

_MEANING = {ClockStatus.HOLDOVER: "held over without a usable source", ClockStatus.UNSYNCHRONIZED: "not synchronized"}

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
        self._context, self._sources, self._oscillator = Context(), SourceTable(), Oscillator()
        self._agreement = Agreement(self._context, self._sources, self._oscillator)
        self._control = Control(self._context, self._sources, self._oscillator, self._agreement)
        self._restarts = Restarts(self._context, self._sources, self._oscillator, self._agreement, self._control)
        self._foreign = ForeignMoves(self._context, self._agreement, self._control)
        self._operators = Operators(self._context, self._agreement, self._control)
        self._saved_ns: int | None = None
        self._next_tick_ns = 0
        # Whether there is a sample that the sources were not asked about yet: those of one moment are looked at together.
        self._fresh = False
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
            MakeStepNow: self._operators.step_now,
            Unfreeze: self._operators.unfreeze,
            Reconfigured: self._reconfigure,
            Failed: self._control.failed,
            LeapKnown: self._know_leap,
            Stopping: self._stop,
        }

    def handle(self, event: Event) -> list[Action]:
        """What is to be done after this event."""
        self._status, self._context.out = None, []
        self._handlers[type(event)](event)
        return self._context.out

    @property
    def due_ns(self) -> int:
        """The raw time at which a `Tick` is wanted at the latest, ns."""
        due_ns = self._sources.due_ns()
        return self._next_tick_ns if due_ns is None else min(self._next_tick_ns, due_ns)

    def status(self) -> Status:
        """What is known at the last reading."""
        if self._status is None:
            now, oscillator = self._context.now, self._oscillator
            sources = tuple(one.status(now, oscillator.rate_of(one)) for one in self._sources)
            found = tracking(self._context, oscillator, self._agreement, self._control, self._foreign.count)
            self._status = Status(found, sources)
        return self._status

    # Beginning and end.

    def _started(self, event: Started) -> None:
        context, control = self._context, self._control
        context.settings, context.now = event.settings, event.reading
        control.watch.look(event.reading, control.loop)
        self._next_tick_ns = event.reading.raw_ns
        saved = event.saved
        if saved is not None and abs(saved.frequency) < 1 and saved.uncertainty >= 0:
            control.run_freely(self._oscillator.take_saved(saved, event.settings.tolerance))
        if context.steers and event.reading.pending_ns:
            # A slew that another run began: its offset is measured first.
            control.cancel_slew()

    def _stop(self, event: Stopping) -> None:
        """The clock runs on with its frequency alone."""
        if self._agreement.fused is not None and not self._control.limits.frozen:
            self._control.leave()
        if self._oscillator.known:
            self._save(self._context.now.raw_ns)

    # Sources.

    def _add(self, event: SourceAdded) -> None:
        now_ns = self._context.now.raw_ns
        self._sources.add(event, self._oscillator.learner(), now_ns)
        self._poll(now_ns)

    def _remove(self, event: SourceRemoved) -> None:
        if self._sources.remove(event.name):
            self._select(new=False)

    def _change(self, event: SourceChanged) -> None:
        now_ns = self._context.now.raw_ns
        self._sources.change(event, self._oscillator.learner(), now_ns)
        self._poll(now_ns)

    def _ask(self, event: SetOnline | Burst) -> None:
        now_ns = self._context.now.raw_ns
        self._sources.ask(event, now_ns)
        self._select(new=False)
        self._poll(now_ns)

    def _poll(self, now_ns: int) -> None:
        self._context.out += self._sources.polls(now_ns)

    def _polled(self, event: Polled) -> None:
        self._observe(event.reading)
        source = self._sources.get(event.name)
        if source is None:
            return
        now_ns = self._context.now.raw_ns
        self._next_tick_ns = min(self._next_tick_ns, now_ns)
        source.learn(event)
        rate = self._oscillator.rate_of(source)
        raw = in_raw_time(event.sample, event.reading, max(abs(rate.low), abs(rate.high))) if event.sample.valid else None
        unused = self._unused(event, raw, source)
        if unused or raw is None:
            self._poll_failed(source, unused, answered=event.sample.valid)
            return
        if self._agreement.first_ns is None:
            self._agreement.first_ns = raw.center_ns
        source.add(event.sample, raw, now_ns, rate, self._context.settings.tolerance)
        self._restarts.look(source)
        self._fresh = True

    def _poll_failed(self, source: TrackedSource, why: str, answered: bool) -> None:
        reached = source.reach
        source.failed(why, self._context.now.raw_ns, answered=answered)
        if reached and not source.reach:
            self._context.log(Level.WARNING, f"reach {source.name}", f"{source.name} does not answer any more: {why}")
        if source.server is not None and source.server.unusable:
            self._select(new=False)

    def _unused(self, event: Polled, raw: RawSample | None, source: TrackedSource) -> str:
        """Why this sample is not used; empty: it is."""
        sample, fused, anew_ns = event.sample, self._agreement.fused, self._agreement.anew_ns
        if sample.reason is not None:
            return _reason_of(sample)
        if raw is None or raw.center_ns > self._context.now.raw_ns:
            return READINGS
        if sample.server is not None and sample.server.unusable:
            return Unused.UNSYNCHRONIZED.value
        if anew_ns is not None and raw.begin_ns < anew_ns:
            return ACROSS
        begin_ns = sample.t1_ns if fused is None else raw.begin_ns + fused.at(raw.begin_ns)
        if self._control.leap.spoils(begin_ns, begin_ns + raw.end_ns - raw.begin_ns):
            return LEAP_SECOND
        if source.last_raw is not None and raw.center_ns <= source.last_raw.center_ns:
            return OLD
        return ""

    # The raw clock and other programs.

    def _observe(self, reading: Reading) -> None:
        moves = self._control.watch.look(reading, self._control.loop)
        if reading.raw_ns >= self._context.now.raw_ns:
            self._context.now = reading
        for move in moves:
            if move.kind is Kind.SUSPENDED:
                self._restarts.suspended(move)
            elif move.kind is Kind.LEAP:
                self._control.leaped(round(move.amount))
            elif move.kind is Kind.STEPPED:
                self._foreign.stepped(move)
            else:
                self._foreign.slewed(move)

    # Updates of the clock.

    def _select(self, new: bool) -> None:
        """Ask the sources. new: there is a new sample, so that this can be an update of the clock."""
        proposal = self._agreement.ask(begun=self._control.limits.updates > 0)
        if proposal is not None:
            self._use(proposal, new)

    def _use(self, proposal: Proposal, new: bool) -> None:
        context, control, agreement = self._context, self._control, self._agreement
        offset = (proposal.fused.difference_ns - control.clock_ns(context.now)) / 1e9
        agreement.interval = proposal.interval
        limits, ruling = control.limits, Ruling.SLEW
        if not limits.frozen:
            ruling = limits.judge(offset, context.settings, new)
            if not context.steers and ruling is Ruling.FREEZE:
                context.log(Level.WARNING, "frozen", f"the clock would be frozen: {limits.frozen}")
                limits.frozen = ""
                ruling = Ruling.SLEW
        if ruling is Ruling.IGNORE:
            if new:
                context.log(Level.WARNING, "ignored", f"an offset of {offset:+z.6f} s is over the largest change, and ignored")
            return
        agreement.accept(proposal)
        if ruling is Ruling.FREEZE:
            control.freeze()
        elif new and not limits.frozen:
            self._update(proposal, offset, ruling)

    def _update(self, proposal: Proposal, offset: float, ruling: Ruling) -> None:
        context, control, fused = self._context, self._control, proposal.fused
        control.limits.accepted(offset)
        control.updates.add(offset, context.now)
        interval = 2.0**proposal.best.polling.poll if proposal.best is not None else 1.0
        age = self._agreement.age(context.now.raw_ns)
        control.constant = steering.time_constant(fused.sd, fused.frequency_sd, age, interval)
        if ruling is Ruling.STEP:
            done = "stepped" if context.steers else f"not stepped in the mode `{context.settings.mode}`"
            context.log(Level.WARNING, "step", f"the clock is wrong by {offset:+z.6f} s: {done}")
            control.step_by(offset, "an offset over the limit of makestep")

    def _reconfigure(self, event: Reconfigured) -> None:
        self._operators.reconfigure(event)
        self._select(new=False)

    def _know_leap(self, event: LeapKnown) -> None:
        self._control.leap.know(event.leap, event.day)

    # Time passes.

    def _tick(self, event: Tick) -> None:
        self._observe(event.reading)
        now = self._context.now
        if self._fresh or self._agreement.has_waited(now.raw_ns):
            self._fresh = False
            self._select(new=True)
        elif now.raw_ns - self._agreement.selected_ns >= _RESELECT:
            self._select(new=False)
        self._control.follow()
        wait_ns = steering.LEAST_LOOK if self._agreement.waits else self._control.until_next_look()
        self._next_tick_ns = now.raw_ns + wait_ns
        self._report_status()
        self._poll(now.raw_ns)
        self._save_if_due(now.raw_ns)

    def _save_if_due(self, now_ns: int) -> None:
        if not self._oscillator.worth_saving or self._agreement.age(now_ns) < _SAVE_AFTER:
            return
        if self._saved_ns is None or now_ns - self._saved_ns >= _SAVE_INTERVAL:
            self._save(now_ns)

    def _save(self, now_ns: int) -> None:
        found = self._oscillator
        if found.frequency is not None:
            self._saved_ns = now_ns
            self._context.out.append(SaveDrift(found.frequency, found.frequency_sd, found.weights))

    def _report_status(self) -> None:
        """A line when the clock becomes right, or is not any more."""
        offset, bound = self._control.offset_and_bound()
        status = self._control.status(bound)
        if status is self._reported:
            return
        self._reported = status
        numbers = "" if offset is None or bound is None else f": offset {offset:+z.6f} s, bound {bound:.6f} s"
        level = Level.INFO if status is ClockStatus.SYNCHRONIZED else Level.WARNING
        self._context.log(level, "status", f"the clock is {_MEANING.get(status, status.value)}{numbers}")


def _reason_of(sample: Sample) -> str:
    """Why a sample is not used, as an operator needs it: a certificate that is not trusted, and not only "could not be sent"."""
    assert sample.reason is not None
    if not sample.detail:
        return sample.reason.value
    text = sample.detail if sample.reason in _SAID_BY_DETAIL else f"{sample.reason.value}: {sample.detail}"
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."
