"""Set the clock once: query the servers, step or slew the clock by the offset on which they agree, and check that it moved.

Comes in: targets, options, the machine's clock. Goes out: a Measurement, then a Change. Holds no rules: `timing/selection.py` finds
the time, `timing/adjustment.py` decides, `host/clock.py` sets the clock. It must never act on an interrupted measurement, never
leave a slew behind when it is interrupted itself, and never report an error bound that was not measured.
"""

# A wait for a slew compares CLOCK_REALTIME with CLOCK_MONOTONIC_RAW. The kernel's pending offset proves nothing: a step, or
# another program's slew, changes it as well. After the slew the servers are queried again.

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import FrameType

from tsq.client.blocking import query_all
from tsq.client.exchange import Checks, Rules
from tsq.client.result import HostResult, selection
from tsq.errors import NotMoved, NotPermitted
from tsq.host.clock import SystemClock
from tsq.host.clock_readings import ClockState, Displacement, TripleReading
from tsq.host.keepers.owner import clock_owner
from tsq.oneshot.slew_check import LEAST_ERROR, STEADY, SlewCheck
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
# A pending offset of an old slew that may be ignored, seconds.
_NOTHING_LEFT = 10e-6
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
    """How to set the clock. dry_run: decide, but set nothing. wait: stay until a slew is complete, and measure again. verifier: use
    answers only whose signatures it accepts.
    """

    client: ClientOptions = field(default_factory=ClientOptions)
    limits: ClockLimits = field(default_factory=ClockLimits)
    criteria: Criteria = field(default_factory=Criteria)
    dry_run: bool = False
    wait: bool = False
    verifier: Checks | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """The servers' results, the kernel's state before (None: it cannot be read), and the action to take.

    hindrances: why this machine's clock must not be set. The action of a dry run ignores them. reading: the clocks after the last
    response; disturbed: by how much others moved the clock until then, seconds.
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
        """How fast the clock drifts, by the samples of the sources that were used."""
        if self.disturbed:
            return None
        pairs = zip(self.selection.verdicts, self.results, strict=True)
        return drift_of([result.samples for verdict, result in pairs if verdict.mark in (Mark.BEST, Mark.COMBINED)])


@dataclass(frozen=True, slots=True)
class Change:
    """What was done. after: the kernel's state afterwards; left: the offset that is left, seconds; interrupted: a slew was
    cancelled. moved: how far the clock really moved, if that was checked; last: the measurement after a completed slew; drift: how
    fast the clock drifts, by the measurements before and after.
    """

    after: ClockState
    left: float
    interrupted: bool = False
    moved: float | None = None
    last: Measurement | None = None
    drift: MeasuredDrift | None = None


class Interruptions:
    """SIGINT, SIGTERM, SIGHUP and SIGQUIT within `caught`: the first raises KeyboardInterrupt and sets `seen`; the others do
    nothing. A SIGHUP that is ignored, as by nohup, stays ignored.

    After `hold` a signal only sets `seen`: no exception may come between a change of the clock and the steps that must follow it.
    """

    def __init__(self) -> None:
        self.seen = False
        self._held = False

    @contextmanager
    def caught(self) -> Iterator["Interruptions"]:
        """Handle the signals in the main thread."""
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
        """Raise again, also for a signal that arrived meanwhile."""
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
    """Query the servers and decide. This changes nothing, with one exception: a slew that is still pending is cancelled, unless
    this is a dry run or the clock must not be set. say: gets the messages for the user.
    """
    interruptions = interruptions or Interruptions()
    before = clock.state_if_readable()
    steady = before
    if before is not None and abs(before.pending) > _NOTHING_LEFT and not options.dry_run and clock.may_set and owner() is None:
        _stop_old_slew(before.pending, clock, say, pause)
        steady = clock.state_if_readable()
    start = clock.reading()
    results = ask(targets, options.client, rules=Rules(offset_limit=_ANY_OFFSET, verifier=options.verifier))
    end = clock.reading()
    moved = end.since(start)
    disturbed = _disturbed(moved, steady, say)
    chosen = widened(selection(results, clock.now_ns(), options.criteria), abs(disturbed))
    circumstances = Circumstances(
        owner(),
        may_set=clock.may_set,
        # Include the time that it took to find the owner.
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
    """Do the action. Raises ClockError if the kernel refuses, and NotMoved if the clock moved by another amount.

    measured: the measurement behind the action. again: measures again; with it, wait for a slew, check it and correct what it left.
    An interruption cancels a slew; a step is never half done. From here on a signal raises nothing; the wait for a slew checks for
    it twice a second.
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
        # The whole offset is still in the clock.
        max_error=action.max_error + abs(action.offset),
        estimated_error=action.estimated_error,
    )
    state = clock.state()
    if interruptions.seen:
        clock.stop_slewing()
        return Change(clock.state(), state.pending, interrupted=True)
    return Change(state, state.pending)


def _step(action: Step, clock: SystemClock) -> float:
    """Step the clock; by how much it moved. Raises NotMoved, with the clock marked unsynchronized, if that is another amount."""
    before = clock.reading()
    clock.step(action.offset, max_error=action.max_error, estimated_error=action.estimated_error)
    moved = clock.reading().since(before)
    if abs(moved.total - action.offset) > LEAST_ERROR + moved.width:
        clock.mark_unsynchronized()
        raise NotMoved(f"the clock was to be stepped by {action.offset:+z.6f} s and moved by {moved.total:+z.6f} s", advice=_ADVICE)
    return moved.total


def forced(options: AdjustOptions) -> AdjustOptions:
    """The same without the panic limit."""
    return replace(options, limits=replace(options.limits, force=True))


def slewing(options: AdjustOptions) -> AdjustOptions:
    """The same, but slew every offset that can be slewed: a slew must not be followed by a step, however low the limit is."""
    return replace(options, limits=replace(options.limits, step=MAX_SLEW))


_ADVICE = "does another program set the clock? Find out, then try again"


def _stop_old_slew(left: float, clock: SystemClock, say: Say, pause: Callable[[float], None]) -> None:
    """Cancel the slew that an earlier run, or another program, left pending: a clock that is slewed cannot be measured."""
    with suppress(NotPermitted):
        clock.stop_slewing()
        say(f"an earlier slew was still pending and was cancelled with {left:+z.6f} s left")
        pause(_LAST_SECOND)


def _disturbed(moved: Displacement, steady: ClockState | None, say: Say) -> float:
    """How far the clock moved during the measurement, beyond its steady frequency and the precision of the readings."""
    disturbed = moved.beyond(0.0 if steady is None else steady.frequency_ppm * 1e-6)
    if abs(disturbed) <= moved.width + STEADY * moved.seconds:
        return 0.0
    if steady is None:
        why = "and the kernel's state cannot be read"
    elif steady.tick_ppm:
        why = f"its tick makes it run {steady.tick_ppm:+z.0f} ppm"
    else:
        why = "the kernel is slewing it" if abs(steady.pending) > _NOTHING_LEFT else "another program sets or slews it"
    say(f"the clock moved by {disturbed:+z.6f} s while it was measured, {why}: the bound is wider by that")
    return disturbed


def _check_untouched(clock: SystemClock, measured: TripleReading) -> None:
    """Raises NotMoved if another program set the clock since the measurement."""
    moved = clock.reading().since(measured)
    beyond = moved.beyond(clock.state().rate)
    if abs(beyond) > LEAST_ERROR + moved.width + STEADY * moved.seconds:
        raise NotMoved(f"the clock moved by {beyond:+z.6f} s after it was measured, and was left as it is", advice=_ADVICE)


def _correct(
    first: Slew,
    clock: SystemClock,
    measured: Measurement | None,
    again: Callable[[], Measurement],
    interruptions: Interruptions,
    pause: Callable[[float], None],
) -> Change:
    """Slew, check, measure again, and slew the offset that is left. Report the last measurement's bound to the kernel."""
    start = clock.reading()
    rate = clock.state().rate
    needed = first.max_error + abs(first.offset)
    if clock.state().max_error < needed:
        # The kernel's present bound is too small.
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
    """The bound against the servers' clocks. Their own errors do not count: they are the same before and after a slew."""
    estimates = [verdict.source.estimate for verdict in found.selection.survivors]
    return max((one.server_distance for one in estimates if one is not None), default=0.0) + abs(found.disturbed)


def _next(found: Measurement, most: float) -> Slew:
    """The slew that remains by the measurement after a slew. Raises NotMoved if it is larger than the first one."""
    action = found.action
    if isinstance(action, Slew) and abs(action.offset) <= most + action.max_error:
        return action
    reason = (
        action.text if isinstance(action, LeaveAlone) else f"the servers report that it is wrong by {action.offset:+z.6f} s again"
    )
    raise NotMoved(f"the clock was slewed, and could not be confirmed afterwards: {reason}", advice=_ADVICE)


def _slew_and_wait(action: Slew, clock: SystemClock, interruptions: Interruptions, pause: Callable[[float], None]) -> float | None:
    """Slew, wait until a hundredth is left, and cancel that. None, or the offset that was left at an interruption.

    Raises NotMoved as soon as the clock does not move as the kernel's state predicts.
    """
    check = SlewCheck(action.offset, action.time_constant, clock.state().rate, clock.reading())
    clock.slew(action.offset, time_constant=action.time_constant)
    end = clock.monotonic() + _PATIENCE * action.seconds
    while not interruptions.seen:
        _look(check, clock, _LOOK_INTERVAL)
        if abs(check.left) <= abs(action.offset) * SLEW_REMAINDER:
            break
        if clock.monotonic() > end:
            clock.stop_slewing()
            raise NotMoved(f"the slew does not end: {check.left:+z.6f} s are left", advice=_ADVICE)
        faster = time_constant(check.left)
        if faster < check.constant:
            check.constant = faster
            clock.hasten(faster)
        pause(_LOOK_INTERVAL)
    left = clock.state().pending
    clock.stop_slewing()
    if interruptions.seen:
        return left
    pause(_LAST_SECOND)
    _look(check, clock, _LAST_SECOND, left)
    return None


def _look(check: SlewCheck, clock: SystemClock, paused: float, left: float | None = None) -> None:
    """Compare the clock with the kernel's state, after so many seconds. left: what was pending when the slew was stopped."""
    before, state, after = clock.reading(), clock.state(), clock.reading()
    if left is not None:
        state = replace(state, pending=left)
    last = check.left
    trouble = check.look(before, state, after, paused)
    if trouble:
        if abs(state.pending) <= abs(last) and state.pending * check.offset >= 0:
            # The pending slew is still ours.
            clock.stop_slewing()
        raise NotMoved(f"{trouble} (the whole slew: {check.offset:+z.6f} s)", advice=_ADVICE)


def _asked_again(again: Callable[[], Measurement], interruptions: Interruptions) -> Measurement | None:
    """Measure once more; None if that was interrupted. No slew is pending by now."""
    try:
        interruptions.release()
        found = again()
        interruptions.hold()
    except KeyboardInterrupt:
        interruptions.hold()
        return None
    return None if interruptions.seen else found


def _drift(before: Measurement | None, after: Measurement, rate: float) -> MeasuredDrift | None:
    """From two measurements and the clock's movement in between: by the most certain source that was used in both."""
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
