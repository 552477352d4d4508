"""Setting a clock that is so wrong that no certificate is valid by it: the boot of a machine without a battery, in 1970.

Comes in: targets, options, the machine's clock, floors. Goes out: a Bootstrap. Its laws:

1. The servers are asked for a time without checking certificates. At least three must be usable and a majority of all that were
   named must agree. The time that they claim must not be before a floor: when TSQ was built, or a time that was saved.
2. They are asked again, now with the whole check of certificates, names and signatures, for the claimed time. Again a majority of
   all that were named must pass and agree, and on the time that was claimed.
3. The clock is stepped, and stays marked unsynchronized.
4. They are asked once more, with the check that every client makes, by the new clock. Only when a majority of all that were named
   passes and agrees with the clock is it success; anything else puts the clock back.

It must never let the first of these decide anything by itself, and never believe a single server, whatever its certificate says.
"""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tsq.client.blocking import query_all
from tsq.host.clock import SystemClock
from tsq.host.keepers.owner import clock_owner
from tsq.oneshot.adjtime import AdjustOptions, Ask, Interruptions, Measurement, Owner, forced, measure, perform
from tsq.options import Target, Trust
from tsq.timing.adjustment import MAX_SLEW, LeaveAlone, Slew, Step
from tsq.timing.selection import Selection

LEAST_SERVERS = 3
# How far the time that is proven may be from the time for which certificates were checked, seconds; those are valid for days.
_SAME = 60.0


@dataclass(frozen=True, slots=True)
class Floor:
    """A time before which it cannot be, Unix ns. origin: who says so."""

    at_ns: int
    origin: str


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What came of it. measurement: the last one, but with what the kernel said before any change; checked: whether the
    certificates behind it were checked; stepped: by how much the clock was set and stays set, seconds; failed: why the clock is as
    it was.
    """

    measurement: Measurement
    checked: bool
    stepped: float = 0.0
    failed: str = ""


def bootstrap(
    targets: Sequence[Target],
    options: AdjustOptions,
    clock: SystemClock,
    floors: Sequence[Floor],
    *,
    interruptions: Interruptions | None = None,
    ask: Ask = query_all,
    owner: Owner = clock_owner,
    say: Callable[[str], None] = lambda text: None,
) -> Bootstrap:
    """Set a clock that may be wrong by decades. Raises ClockError where the kernel refuses; the clock is then as it was; so it is
    where it is interrupted. Raises NotMoved where a step did not move the clock by what it should.
    """
    interruptions = interruptions or Interruptions()

    def asked(trust: Trust) -> Measurement:
        so = replace(forced(options), client=replace(options.client, trust=trust))
        found = measure(targets, so, clock, interruptions=interruptions, ask=ask, owner=owner, say=say)
        if interruptions.seen:
            # What there is by then may be a part.
            raise KeyboardInterrupt
        return found

    claim = asked(Trust(insecure=True))
    claimed_ns = _agreed_ns(claim, clock)
    problem = _unfit(claim.selection, len(targets)) or _too_early(claimed_ns, floors)
    if problem:
        return Bootstrap(claim, checked=False, failed=f"no time is claimed for which certificates could be checked: {problem}")
    say(f"the servers claim that it is {_written(claimed_ns)}; checking their certificates for that time")
    proof = asked(replace(options.client.trust, valid_at=claimed_ns / 1e9))
    problem = _unfit(proof.selection, len(targets))
    proven_ns = _agreed_ns(proof, clock)
    if not problem and abs(proven_ns - claimed_ns) > _SAME * 1e9:
        problem = f"the servers claimed {_written(claimed_ns)} and now say {_written(proven_ns)}"
    if problem or isinstance(proof.action, LeaveAlone):
        return Bootstrap(proof, checked=True, failed=problem and f"for that time: {problem}")
    if isinstance(proof.action, Slew) or options.dry_run:
        return Bootstrap(proof, checked=True)
    done = _confirmed(proof.action, proof, lambda: asked(options.client.trust), len(targets), clock, interruptions)
    return replace(done, measurement=replace(done.measurement, before=proof.before))


def _confirmed(
    action: Step,
    proof: Measurement,
    ask_by_the_clock: Callable[[], Measurement],
    named: int,
    clock: SystemClock,
    interruptions: Interruptions,
) -> Bootstrap:
    """Step, and ask with the check that every client makes; put the clock back unless all is well then."""
    perform(action, clock, measured=proof, interruptions=interruptions)
    try:
        clock.mark_unsynchronized()
        interruptions.release()
        last = ask_by_the_clock()
        interruptions.hold()
    except BaseException:
        interruptions.hold()
        _put_back(action, clock)
        raise
    problem = _unfit(last.selection, named)
    if not problem and last.selection.agreed is not None and abs(last.selection.agreed.offset) > MAX_SLEW:
        problem = f"the clock is off by {last.selection.agreed.offset:+.6f} s again"
    if not problem and isinstance(last.action, LeaveAlone):
        problem = last.action.reason.value
    if problem:
        _put_back(action, clock)
        return Bootstrap(last, checked=True, failed=f"by the new clock: {problem}; the clock was put back")
    return Bootstrap(last, checked=True, stepped=action.offset)


def _put_back(action: Step, clock: SystemClock) -> None:
    clock.step(-action.offset, max_error=action.max_error, estimated_error=action.estimated_error)
    clock.mark_unsynchronized()


def _unfit(chosen: Selection, named: int) -> str:
    """Why what these servers say cannot be trusted with a wrong clock; empty where it can."""
    if chosen.agreed is None:
        return "" if chosen.problem is None else chosen.problem.value
    agreeing = chosen.agreed.compared - len(chosen.falsetickers)
    if chosen.agreed.compared < LEAST_SERVERS:
        servers = "1 server" if chosen.agreed.compared == 1 else f"{chosen.agreed.compared} servers"
        return f"{servers} can be used, at least {LEAST_SERVERS} are needed"
    if agreeing <= named // 2:
        return f"{agreeing} of {named} servers agree, that is no majority of those that were named"
    return ""


def _too_early(claimed_ns: int, floors: Sequence[Floor]) -> str:
    for floor in floors:
        if claimed_ns < floor.at_ns:
            return f"they claim {_written(claimed_ns)}, which is before {_written(floor.at_ns)}, when {floor.origin}"
    return ""


def _agreed_ns(found: Measurement, clock: SystemClock) -> int:
    agreed = found.selection.agreed
    return 0 if agreed is None else clock.now_ns() + round(agreed.offset * 1e9)


def _written(at_ns: int) -> str:
    """A time in UTC for people."""
    seconds = at_ns // 1_000_000_000
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
