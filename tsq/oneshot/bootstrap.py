"""Set a clock that is so wrong that no certificate is valid by it, as after the boot of a machine without a battery.

Comes in: targets, options, the machine's clock, the earliest possible times. Goes out: a Bootstrap. It must never set the clock by
a time for which no certificates were checked, never believe a single server, and never keep a step that the servers do not confirm.
"""

# 1. Query the servers without a check of certificates. At least three must be usable, and a majority of all named servers must
#    agree. The claimed time must not be before the earliest possible time: when TSQ was built, or a saved time.
# 2. Query them again, with the whole check of certificates, names and signatures, for the claimed time. Again a majority of all
#    named servers must pass and agree, and on the claimed time.
# 3. Step the clock; it stays marked unsynchronized.
# 4. Query them once more, with the usual check, by the new clock. If a majority of all named servers does not pass and agree with
#    the clock, step it back.

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
from tsq.wording import counted

LEAST_SERVERS = 3
# How far the time that is proven may be from the time for which certificates were checked, seconds; those are valid for days.
_SAME = 60.0


@dataclass(frozen=True, slots=True)
class Floor:
    """The earliest time that is possible, Unix ns. origin: why it cannot be earlier."""

    at_ns: int
    origin: str


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """The result. measurement: the last one, but with the kernel's state before any change; checked: whether its certificates
    were checked; stepped: by how much the clock was stepped and stays so, seconds; failed: why the clock is unchanged.
    """

    measurement: Measurement
    checked: bool
    stepped: float = 0.0
    failed: str = ""


def bootstrap(
    targets: Sequence[Target],
    options: AdjustOptions,
    clock: SystemClock,
    not_before: Sequence[Floor],
    *,
    interruptions: Interruptions | None = None,
    ask: Ask = query_all,
    owner: Owner = clock_owner,
    say: Callable[[str], None] = lambda text: None,
) -> Bootstrap:
    """Set a clock that may be wrong by decades. Raises ClockError if the kernel refuses; the clock is unchanged then, and after
    an interruption. Raises NotMoved if a step moved the clock by another amount.
    """
    interruptions = interruptions or Interruptions()

    def asked(trust: Trust) -> Measurement:
        so = replace(forced(options), client=replace(options.client, trust=trust))
        found = measure(targets, so, clock, interruptions=interruptions, ask=ask, owner=owner, say=say)
        if interruptions.seen:
            # The results may be incomplete.
            raise KeyboardInterrupt
        return found

    claim = asked(Trust(insecure=True))
    claimed_ns = _agreed_ns(claim, clock)
    problem = _unfit(claim.selection, len(targets)) or _too_early(claimed_ns, not_before)
    if problem:
        return Bootstrap(
            claim, checked=False, failed=f"the servers claim no time for which certificates could be checked: {problem}"
        )
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
    """Step, and query with the usual check of certificates. Step back unless the servers confirm the clock."""
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
        problem = f"the clock is off by {last.selection.agreed.offset:+z.6f} s again"
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
    """Why these servers are not enough to set a wrong clock; empty if they are."""
    if chosen.agreed is None:
        return "" if chosen.problem is None else chosen.problem.value
    agreeing = chosen.agreed.compared - len(chosen.falsetickers)
    if chosen.agreed.compared < LEAST_SERVERS:
        servers = counted(chosen.agreed.compared, "server")
        return f"{servers} can be used, at least {LEAST_SERVERS} are needed"
    if agreeing <= named // 2:
        return f"{agreeing} of {counted(named, 'server')} agree, which is no majority of those that were named"
    return ""


def _too_early(claimed_ns: int, not_before: Sequence[Floor]) -> str:
    for floor in not_before:
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
