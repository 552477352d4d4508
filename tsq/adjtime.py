"""Setting the clock once: servers are asked, what they agree on is decided about, and the clock is stepped or slewed.

Comes in: targets, options, the machine's clock. Goes out: a Measurement, then a Change. Holds no rules: `timing/selection.py` says
what time it is, `timing/adjustment.py` what to do about it, `host/clock.py` does it. It must never act on a measurement that was
interrupted, and never leave a slew behind when it is interrupted itself.
"""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType

from tsq.client import query_all
from tsq.config import ClientOptions, Target
from tsq.errors import ClockError
from tsq.exchange import Rules
from tsq.host.clock import ClockState, SystemClock
from tsq.host.owner import clock_owner
from tsq.result import HostResult, selection
from tsq.timing.adjustment import REST, Circumstances, ClockAction, ClockLimits, Refuse, Slew, Step, decide, hindering
from tsq.timing.selection import Criteria, Selection

# Whether an offset is too large is for the panic limit to say, not for the single sample.
_ANY_OFFSET = float("inf")
_LOOK_INTERVAL = 0.5
# A slew that takes so many times as long as it should is no slew.
_PATIENCE = 3.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

Ask = Callable[..., list[HostResult]]
Owner = Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class AdjustOptions:
    """How the clock is set. dry_run: what is decided is not done. wait: stay until a slew is done."""

    client: ClientOptions = field(default_factory=ClientOptions)
    limits: ClockLimits = field(default_factory=ClockLimits)
    criteria: Criteria = field(default_factory=Criteria)
    dry_run: bool = False
    wait: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the servers said, what the kernel said before, and what is to be done.

    hindrances: what of this machine forbids setting its clock. A dry run's action is what would be done without them.
    """

    results: Sequence[HostResult]
    selection: Selection
    before: ClockState
    action: ClockAction
    hindrances: tuple[Refuse, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What was done. after: what the kernel says then; rest: the offset that is left, seconds; interrupted: a slew was given up."""

    after: ClockState
    rest: float
    interrupted: bool = False


class Interruptions:
    """SIGINT and SIGTERM within `caught`: the first raises KeyboardInterrupt, and is remembered where somebody catches that. Others
    do not disturb what is done about the first.

    From `hold` on it is only remembered: no exception may come between a change of the clock and what has to follow it.
    """

    def __init__(self) -> None:
        self.seen = False
        self._held = False

    @contextmanager
    def caught(self) -> Iterator["Interruptions"]:
        """Take the signals over, for the main thread."""
        before = {number: signal.signal(number, self._note) for number in _SIGNALS}
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
) -> Measurement:
    """Ask the servers and decide. Nothing is changed."""
    interruptions = interruptions or Interruptions()
    before, epoch_ns = clock.state(), clock.epoch_ns()
    results = ask(targets, options.client, rules=Rules(offset_limit=_ANY_OFFSET))
    chosen = selection(results, clock.now_ns(), options.criteria)
    circumstances = Circumstances(
        owner(),
        may_set=clock.may_set,
        stepped=(clock.epoch_ns() - epoch_ns) / 1e9,
        interrupted=interruptions.seen,
        dry_run=options.dry_run,
    )
    return Measurement(results, chosen, before, decide(chosen, options.limits, circumstances), hindering(circumstances))


def perform(
    action: ClockAction,
    clock: SystemClock,
    *,
    wait: bool = False,
    interruptions: Interruptions | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Change:
    """Do it. Raises ClockError where the kernel refuses. An interrupted slew is given up, a step is never half done.

    What interrupts from here on is remembered, and looked at twice a second by who waits.
    """
    interruptions = interruptions or Interruptions()
    interruptions.hold()
    if isinstance(action, Refuse):
        return Change(clock.state(), 0.0)
    if isinstance(action, Step):
        clock.step(action.offset, max_error=action.max_error, estimated_error=action.estimated_error)
        return Change(clock.state(), 0.0)
    clock.slew(
        action.offset,
        time_constant=action.time_constant,
        max_error=action.max_error + abs(action.offset),
        estimated_error=action.estimated_error,
    )
    if wait:
        _until_slewed(action, clock, interruptions, pause)
    state = clock.state()
    if interruptions.seen:
        clock.stop_slewing()
        return Change(clock.state(), state.rest, interrupted=True)
    return Change(state, state.rest)


def forced(options: AdjustOptions) -> AdjustOptions:
    """The same without the panic limit."""
    return replace(options, limits=replace(options.limits, force=True))


def _until_slewed(action: Slew, clock: SystemClock, interruptions: Interruptions, pause: Callable[[float], None]) -> None:
    """Wait until a hundredth of the slew is left."""
    end = clock.monotonic() + _PATIENCE * action.seconds
    while not interruptions.seen:
        rest = clock.state().rest
        if abs(rest) <= abs(action.offset) * REST:
            clock.tell_error(action.max_error + abs(rest), action.estimated_error)
            return
        if clock.monotonic() > end:
            raise ClockError(f"the slew does not end: {rest:+.6f} s are left", advice="does another program set the clock?")
        pause(_LOOK_INTERVAL)
