"""Setting the clock once: servers are asked, the clock is stepped or slewed by what they agree on, and it is checked that it moved.

Comes in: targets, options, the machine's clock. Goes out: a Measurement, then a Change. Holds no rules: `timing/selection.py` says
what time it is, `timing/adjustment.py` what to do about it, `host/clock.py` does it. It must never act on a measurement that was
interrupted, never leave a slew behind when it is interrupted itself, and never report an error bound that was not measured.

A slew that is waited for is checked as it goes, CLOCK_REALTIME against CLOCK_MONOTONIC_RAW: what the kernel says is left of it
proves nothing, for a step or another program's slew changes that as well. When it is done the servers are asked again.
"""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import FrameType

from tsq.client.blocking import query_all
from tsq.client.exchange import Rules
from tsq.client.result import HostResult, selection
from tsq.errors import NotMoved, NotPermitted
from tsq.host.clock import ClockState, Displacement, SystemClock, TripleReading
from tsq.host.keepers.owner import clock_owner
from tsq.options import ClientOptions, Target
from tsq.timing.adjustment import (
    MAX_SLEW,
    SLEW_REMAINDER,
    Circumstances,
    ClockAction,
    ClockLimits,
    LeaveAlone,
    MeasuredDrift,
    Slew,
    Step,
    decide,
    drift_between,
    drift_of,
    hindrances_of,
    time_constant,
    widened,
)
from tsq.timing.selection import Criteria, Mark, Selection

# Whether an offset is too large is decided by the panic limit, not for the single sample.
_ANY_OFFSET = float("inf")
_LOOK_INTERVAL = 0.5
# A slew that takes so many times as long as it should does not work.
_PATIENCE = 3.0
# SIGHUP: the terminal was closed.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
# A slew that is stopped goes on to the end of the kernel's second.
_LAST_SECOND = 1.2
# What is left of an old slew and may be ignored, seconds.
_NOTHING_LEFT = 10e-6
# How exactly the kernel slews, as a part of the slew: 1 to 2 % were seen. What it leaves is measured and corrected afterwards.
_SLEW_ERROR = 0.05
# What a clock may move without being suspected, seconds: the least error of a slew, and the least step.
_LEAST_ERROR = 50e-6
# How steadily a clock runs beside CLOCK_MONOTONIC_RAW while nothing is slewed, seconds a second.
_STEADY = 5e-6
_SAME_RATE = 1e-9
# No clock drifts faster than that, seconds a second.
_FASTEST_DRIFT = 1e-3
_ROUNDS = 3
# Below this part of its bound against the servers an offset is not worth another slew.
_WORTH = 0.25

Ask = Callable[..., list[HostResult]]
Owner = Callable[[], str | None]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class AdjustOptions:
    """How the clock is set. dry_run: what is decided is not done. wait: stay until a slew is done, and measure again."""

    client: ClientOptions = field(default_factory=ClientOptions)
    limits: ClockLimits = field(default_factory=ClockLimits)
    criteria: Criteria = field(default_factory=Criteria)
    dry_run: bool = False
    wait: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the servers said, what the kernel said before (None: it cannot be read), and what is to be done.

    hindrances: what of this machine forbids setting its clock. A dry run's action is what would be done without them. reading: the
    clocks when the servers had been asked; disturbed: by how much others moved the clock until then, seconds.
    """

    results: Sequence[HostResult]
    selection: Selection
    before: ClockState | None
    action: ClockAction
    hindrances: tuple[LeaveAlone, ...] = ()
    reading: TripleReading | None = None
    disturbed: float = 0.0

    @property
    def drift(self) -> MeasuredDrift | None:
        """How fast the clock drifts, as the samples of the sources that were used show it."""
        if self.disturbed:
            return None
        pairs = zip(self.selection.verdicts, self.results, strict=True)
        return drift_of([result.samples for verdict, result in pairs if verdict.mark in (Mark.BEST, Mark.COMBINED)])


@dataclass(frozen=True, slots=True)
class Change:
    """What was done. after: what the kernel says then; left: the offset that is left, seconds; interrupted: a slew was given up.

    moved: what the clock was really moved by, as far as that was looked at; last: the measurement after a slew that was waited for;
    drift: how fast the clock drifts, from the measurements before and after.
    """

    after: ClockState
    left: float
    interrupted: bool = False
    moved: float | None = None
    last: Measurement | None = None
    drift: MeasuredDrift | None = None


class Interruptions:
    """SIGINT, SIGTERM, SIGHUP and SIGQUIT within `caught`: the first raises KeyboardInterrupt, and is remembered where somebody
    catches that. Others do not disturb what is done about the first. A SIGHUP that is ignored, as by nohup, stays ignored.

    From `hold` on it is only remembered: no exception may come between a change of the clock and what has to follow it.
    """

    def __init__(self) -> None:
        self.seen = False
        self._held = False

    @contextmanager
    def caught(self) -> Iterator["Interruptions"]:
        """Take the signals over, for the main thread."""
        without_terminal = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        heard = [number for number in _SIGNALS if not (number == signal.SIGHUP and without_terminal)]
        before = {number: signal.signal(number, self._note) for number in heard}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def hold(self) -> None:
        """Raise no more."""
        self._held = True

    def release(self) -> None:
        """Raise again; also for what came meanwhile."""
        self._held = False
        if self.seen:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        first, self.seen = not self.seen, True
        if first and not self._held:
            raise KeyboardInterrupt


def measure(
    targets: Sequence[Target],
    options: AdjustOptions,
    clock: SystemClock,
    *,
    interruptions: Interruptions | None = None,
    ask: Ask = query_all,
    owner: Owner = clock_owner,
    say: Say = lambda text: None,
    pause: Callable[[float], None] = time.sleep,
) -> Measurement:
    """Ask the servers and decide. Nothing is changed, but for a slew that is still under way: that is stopped by who may set the
    clock and is going to. say: takes what a user must know.
    """
    interruptions = interruptions or Interruptions()
    before = clock.state_if_readable()
    steady = before
    if before is not None and abs(before.pending) > _NOTHING_LEFT and not options.dry_run and clock.may_set and owner() is None:
        _stop_old_slew(before.pending, clock, say, pause)
        steady = clock.state_if_readable()
    start = clock.reading()
    results = ask(targets, options.client, rules=Rules(offset_limit=_ANY_OFFSET))
    end = clock.reading()
    moved = end.since(start)
    disturbed = _disturbed(moved, steady, say)
    chosen = widened(selection(results, clock.now_ns(), options.criteria), abs(disturbed))
    circumstances = Circumstances(
        owner(),
        may_set=clock.may_set,
        # Also what happened while the owner was looked for.
        stepped=clock.reading().since(start).stepped,
        # A tick of unusual length may be the owner's way to correct the clock's frequency for good.
        slewed=disturbed and moved.slewed - (0.0 if steady is None else steady.rate) * moved.seconds,
        seconds=moved.seconds,
        interrupted=interruptions.seen,
        dry_run=options.dry_run,
    )
    action = decide(chosen, options.limits, circumstances)
    return Measurement(results, chosen, before, action, hindrances_of(circumstances), end, disturbed)


def perform(
    action: ClockAction,
    clock: SystemClock,
    *,
    measured: Measurement | None = None,
    again: Callable[[], Measurement] | None = None,
    interruptions: Interruptions | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Change:
    """Do it. Raises ClockError where the kernel refuses, NotMoved where the clock did not move by that, or not by that alone.

    measured: what the action comes from. again: measures again; with it a slew is waited for, checked and corrected. An interrupted
    slew is given up, a step is never half done. What interrupts from here on is remembered, and looked at twice a second while a
    slew is waited for.
    """
    interruptions = interruptions or Interruptions()
    interruptions.hold()
    if isinstance(action, LeaveAlone):
        return Change(clock.state(), 0.0)
    if measured is not None and measured.reading is not None:
        _check_untouched(clock, measured.reading)
    if isinstance(action, Step):
        moved = _step(action, clock)
        return Change(clock.state(), 0.0, moved=moved)
    if again is not None:
        return _correct(action, clock, measured, again, interruptions, pause)
    clock.slew(
        action.offset,
        time_constant=action.time_constant,
        # Nothing is corrected yet.
        max_error=action.max_error + abs(action.offset),
        estimated_error=action.estimated_error,
    )
    state = clock.state()
    if interruptions.seen:
        clock.stop_slewing()
        return Change(clock.state(), state.pending, interrupted=True)
    return Change(state, state.pending)


def _step(action: Step, clock: SystemClock) -> float:
    """Step the clock, and look whether it moved; by how much. Raises NotMoved; the clock is marked unsynchronized then."""
    before = clock.reading()
    clock.step(action.offset, max_error=action.max_error, estimated_error=action.estimated_error)
    moved = clock.reading().since(before)
    if abs(moved.total - action.offset) > _LEAST_ERROR + moved.width:
        clock.mark_unsynchronized()
        raise NotMoved(f"the clock was to be stepped by {action.offset:+.6f} s and moved by {moved.total:+.6f} s", advice=_WHO)
    return moved.total


def forced(options: AdjustOptions) -> AdjustOptions:
    """The same without the panic limit."""
    return replace(options, limits=replace(options.limits, force=True))


def slewing(options: AdjustOptions) -> AdjustOptions:
    """The same, but whatever can be slewed is slewed: what follows a slew is no step, however low the limit is."""
    return replace(options, limits=replace(options.limits, step=MAX_SLEW))


_WHO = "does another program set the clock? Find out, then try again"


def _stop_old_slew(left: float, clock: SystemClock, say: Say, pause: Callable[[float], None]) -> None:
    """Stop what an earlier run, or another program, has begun and not finished: a clock that is slewed cannot be measured."""
    with suppress(NotPermitted):
        clock.stop_slewing()
        say(f"a slew of the clock was still under way and was stopped, {left:+.6f} s of it were left")
        pause(_LAST_SECOND)


def _disturbed(moved: Displacement, steady: ClockState | None, say: Say) -> float:
    """How far the clock moved while it was measured, beyond its steady frequency and what can be read; `say` gets it."""
    disturbed = moved.beyond(0.0 if steady is None else steady.frequency_ppm * 1e-6)
    if abs(disturbed) <= moved.width + _STEADY * moved.seconds:
        return 0.0
    if steady is None:
        why = "and the kernel cannot be asked why"
    elif steady.tick_ppm:
        why = f"its tick makes it run {steady.tick_ppm:+.0f} ppm"
    else:
        why = "the kernel is slewing it" if abs(steady.pending) > _NOTHING_LEFT else "another program sets or slews it"
    say(f"the clock moved by {disturbed:+.6f} s while it was measured, {why}: the bound is wider by that")
    return disturbed


def _check_untouched(clock: SystemClock, measured: TripleReading) -> None:
    """Raises NotMoved where another program set the clock since it was measured."""
    moved = clock.reading().since(measured)
    beyond = moved.beyond(clock.state().rate)
    if abs(beyond) > _LEAST_ERROR + moved.width + _STEADY * moved.seconds:
        raise NotMoved(f"the clock moved by {beyond:+.6f} s after it was measured, and was left as it is", advice=_WHO)


def _correct(
    first: Slew,
    clock: SystemClock,
    measured: Measurement | None,
    again: Callable[[], Measurement],
    interruptions: Interruptions,
    pause: Callable[[float], None],
) -> Change:
    """Slew, check, measure again, and slew what is left; the bound of the last measurement is reported to the kernel."""
    start = clock.reading()
    rate = clock.state().rate
    needed = first.max_error + abs(first.offset)
    if clock.state().max_error < needed:
        # What was reported to the kernel before is too small.
        clock.report_error(needed, first.estimated_error)
    action, rounds = first, 0
    while True:
        left = _slew_and_wait(action, clock, interruptions, pause)
        done = clock.reading().since(start).beyond(rate)
        if left is not None:
            return Change(clock.state(), left, interrupted=True, moved=done)
        found = _asked_again(again, interruptions)
        if found is None:
            return Change(clock.state(), 0.0, interrupted=True, moved=done)
        elapsed = clock.reading().since(start).seconds
        action, rounds = _next(found, abs(first.offset) + first.max_error + _FASTEST_DRIFT * elapsed), rounds + 1
        if rounds == _ROUNDS or abs(action.offset) <= _WORTH * _distance(found):
            break
    assert found.reading is not None
    _check_untouched(clock, found.reading)
    clock.confirm(action.max_error + abs(action.offset), action.estimated_error)
    return Change(clock.state(), action.offset, moved=done, last=found, drift=_drift(measured, found, rate))


def _distance(found: Measurement) -> float:
    """How exactly the offset against the servers' clocks is known: their own errors are the same before and after a slew."""
    estimates = [verdict.source.estimate for verdict in found.selection.survivors]
    return max((one.server_distance for one in estimates if one is not None), default=0.0) + abs(found.disturbed)


def _next(found: Measurement, most: float) -> Slew:
    """What the measurement after a slew leaves to do. Raises NotMoved where that is more than there was to do at first."""
    action = found.action
    if isinstance(action, Slew) and abs(action.offset) <= most + action.max_error:
        return action
    reason = action.text if isinstance(action, LeaveAlone) else f"the servers say that it is wrong by {action.offset:+.6f} s again"
    raise NotMoved(f"the clock was slewed, and could not be confirmed afterwards: {reason}", advice=_WHO)


def _slew_and_wait(action: Slew, clock: SystemClock, interruptions: Interruptions, pause: Callable[[float], None]) -> float | None:
    """Slew, and wait until a hundredth is left, which is given up. None; or what was left when it was interrupted.

    Raises NotMoved as soon as the clock does not move as the kernel says that it slews.
    """
    start, rate = clock.reading(), clock.state().rate
    clock.slew(action.offset, time_constant=action.time_constant)
    end = clock.monotonic() + _PATIENCE * action.seconds
    constant, left = action.time_constant, action.offset
    while not interruptions.seen:
        state = clock.state()
        _check_slew(action.offset, left, state, clock.reading().since(start), rate, constant, clock)
        left = state.pending
        if abs(left) <= abs(action.offset) * SLEW_REMAINDER:
            break
        if clock.monotonic() > end:
            clock.stop_slewing()
            raise NotMoved(f"the slew does not end: {left:+.6f} s are left", advice=_WHO)
        faster = time_constant(left)
        if faster < constant:
            constant = faster
            clock.hasten(constant)
        pause(_LOOK_INTERVAL)
    left = clock.state().pending
    clock.stop_slewing()
    if interruptions.seen:
        return left
    pause(_LAST_SECOND)
    last = replace(clock.state(), pending=left)
    _check_slew(action.offset, left, last, clock.reading().since(start), rate, constant, clock)
    return None


def _check_slew(
    offset: float, before: float, state: ClockState, moved: Displacement, rate: float, constant: int, clock: SystemClock
) -> None:
    """Raises NotMoved where the clock did not move by what the kernel took of the slew. before: what was left at the last look."""
    taken, done = offset - state.pending, moved.beyond(rate)
    # What is taken at the beginning of a second moves the clock during that second.
    second = abs(state.pending) / (2.0 ** (2 + constant) - 1)
    inexact = _LEAST_ERROR + _SLEW_ERROR * abs(taken) + moved.width + _STEADY * moved.seconds
    behind, ahead = (inexact + second, inexact) if offset >= 0 else (inexact, inexact + second)
    turned, stepped = state.rate - rate, abs(moved.stepped) > _LEAST_ERROR + moved.width
    if -behind <= done - taken <= ahead and abs(turned) <= _SAME_RATE and not stepped:
        return
    if abs(state.pending) <= abs(before) and state.pending * offset >= 0:
        # It is still our own.
        clock.stop_slewing()
    if stepped:
        found = f"another program stepped the clock by {moved.stepped:+.6f} s while it was slewed"
    elif abs(turned) > _SAME_RATE:
        found = f"another program changed the clock's frequency by {turned * 1e6:+.3f} ppm while it was slewed"
    else:
        found = f"the clock moved by {done:+.6f} s while it was slewed, where {taken:+.6f} s were expected"
    raise NotMoved(f"{found} (the whole slew: {offset:+.6f} s)", advice=_WHO)


def _asked_again(again: Callable[[], Measurement], interruptions: Interruptions) -> Measurement | None:
    """Measure once more; None where that was interrupted. Nothing is being slewed by now."""
    try:
        interruptions.release()
        found = again()
        interruptions.hold()
    except KeyboardInterrupt:
        interruptions.hold()
        return None
    return None if interruptions.seen else found


def _drift(before: Measurement | None, after: Measurement, rate: float) -> MeasuredDrift | None:
    """From two measurements and what the clock did in between: the most certain of the sources that were used in both."""
    if before is None or before.reading is None or after.reading is None:
        return None
    moved = after.reading.since(before.reading)
    earlier = {verdict.source.name: verdict.source.estimate for verdict in before.selection.survivors}
    found = []
    for verdict in after.selection.survivors:
        one, two = earlier.get(verdict.source.name), verdict.source.estimate
        if one is not None and two is not None:
            ends = (one.offset, one.server_distance), (two.offset, two.server_distance + moved.width)
            found.append(drift_between(*ends, moved.seconds, moved.total, rate))
    return min(found, key=lambda drift: drift.error_ppm, default=None)
