"""Random scenarios from a seeded generator: one client and n servers, f of them liars.

A liar breaks R13: its clock is farther from UTC than it reports. All other faults are no lies, and every server may have them:
asymmetric, lossy or slow links; servers that die, report nothing, or report that they are not synchronized.
"""

from dataclasses import dataclass
from math import copysign
from random import Random

from tests.simulation.network import MS, PPM, SECOND, START_NS, Clock, Link, Plan, Reported, Server
from tsq.timing.filter import DEFAULT_SERVER_ERROR

# RFC 5905's frequency tolerance: honest clocks stay within it.
_TOLERANCE = 15 * PPM
LIES = ("shift", "near", "drift", "jump", "tight", "vague", "smear")


@dataclass
class Scenario:
    """A client's clock and its servers; the lie of each server, None: honest; the polling of each."""

    clock: Clock
    servers: list[Server]
    lies: list[str | None]
    plans: list[Plan]


def scenario(rng: Random, servers: int, liars: int) -> Scenario:
    """A scenario with these numbers of servers and liars, in any order."""
    lies: list[str | None] = [None] * servers
    together = rng.random() < 0.5
    kind, shift = rng.choice(LIES), _shift(rng)
    for place in rng.sample(range(servers), liars):
        # In half of the scenarios all liars agree on one lie: the worst case.
        lies[place] = kind if together else rng.choice(LIES)
    clock = Clock(int(_signed(rng, 10 ** rng.uniform(3, 9.5))), rng.uniform(-_TOLERANCE, _TOLERANCE))
    interval_ns = int(10 ** rng.uniform(6, 9))
    plans = [_plan(rng, interval_ns, chatty=lie is not None and rng.random() < 0.2) for lie in lies]
    duration_ns = max(plan.count for plan in plans) * interval_ns
    return Scenario(
        clock,
        [
            _honest(rng, duration_ns) if lie is None else _liar(rng, lie, shift if together else _shift(rng), duration_ns)
            for lie in lies
        ],
        lies,
        plans,
    )


def _plan(rng: Random, interval_ns: int, chatty: bool) -> Plan:
    count = rng.randint(2, 6)
    # A chatty liar sends as many samples as all other servers together.
    return Plan(count * 8 if chatty else count, interval_ns, timeout_ns=SECOND, stamps_ns=rng.choice([0, 500, 20_000]))


def _shift(rng: Random) -> int:
    return int(_signed(rng, 10 ** rng.uniform(3, 10)))


def _signed(rng: Random, value: float) -> float:
    return copysign(value, rng.random() - 0.5)


def _link(rng: Random) -> Link:
    trip_ns = int(10 ** rng.uniform(3.5, 8.3))
    # Up to all of the delay may be in one direction.
    share = rng.choice([0.0, 1.0, 0.5, rng.random()])
    there_ns = int(trip_ns * share)
    return Link(
        there_ns,
        trip_ns - there_ns,
        queue_ns=trip_ns * rng.choice([0.0, 0.01, 0.3, 2.0]),
        loss=rng.choice([0.0, 0.0, 0.1, 0.5]),
        doubling=rng.choice([0.0, 0.2]),
    )


def _honest(rng: Random, duration_ns: int) -> Server:
    """A server whose clock is within its reported error, sometimes at the limit; without a report, within the assumed error."""
    rate = rng.choice([0.0, _TOLERANCE, -_TOLERANCE, rng.uniform(-_TOLERANCE, _TOLERANCE)])
    silent = rng.random() < 0.15
    drifted_ns = abs(rate) * (duration_ns + 2 * SECOND)
    most_ns = DEFAULT_SERVER_ERROR * 1e9 - drifted_ns if silent else 10 ** rng.uniform(2, 7.5)
    # A report must hold until the next one, so here until the end of the run.
    error_ns = int(_signed(rng, rng.choice([0.0, most_ns, most_ns * rng.random()])))
    reported = None
    if not silent:
        claimed = (abs(error_ns) + drifted_ns) / 1e9 * rng.choice([1.0, 1.0, 1.5, 10.0]) + 1e-9
        reported = Reported(claimed, in_full=claimed > 0.06 or rng.random() < 0.7)
    server = Server(Clock(error_ns, rate), _link(rng), reported)
    server.work_ns, server.early_ns = rng.choice([0, 50_000, 5 * MS]), rng.choice([0, 5_000, 90_000])
    server.sends_exact = rng.random() < 0.7
    if rng.random() < 0.05:
        server.dies_ns = START_NS + int(rng.random() * duration_ns)
    if reported is not None and rng.random() < 0.03:
        # It reports an unsynchronized clock, which may then show any time.
        reported.stratum, reported.leap = rng.choice([(0, 3), (0, None), (3, 3), (16, 0)])
        server.clock.error_ns = _shift(rng)
    return server


def _liar(rng: Random, lie: str, shift_ns: int, duration_ns: int) -> Server:
    """A server whose clock is farther from UTC than it reports."""
    clock = Clock(shift_ns)
    reported = Reported(10 ** rng.uniform(-7, -2.5))
    server = Server(clock, _link(rng), reported)
    match lie:
        case "near":
            # A little beyond the claimed error: its interval may overlap the others'.
            clock.error_ns = int(_signed(rng, reported.error * 1e9 * rng.uniform(1.0, 5.0) + server.link.there_ns))
        case "drift":
            clock.error_ns, clock.rate = 0, _signed(rng, 10 ** rng.uniform(2, 4) * PPM)
        case "jump":
            clock.error_ns = 0
            clock.jumps = [(START_NS + int(rng.random() * duration_ns), shift_ns)]
        case "tight":
            # Its T2 and T3 are false, too, so that the delay seems very small.
            trip_ns = server.link.there_ns + server.link.back_ns
            squeeze_ns = int(trip_ns * rng.uniform(0.3, 0.499))
            server.forge = lambda t2, t3: (t2 - squeeze_ns, t3 + squeeze_ns)
            reported.error = 1e-6
        case "vague":
            reported.error = min(1.4, abs(shift_ns) / 1e9 * rng.uniform(0.2, 0.9) + 1e-6)
        case "smear":
            clock.error_ns = int(_signed(rng, rng.uniform(0, 0.5 * SECOND)))
            reported.smeared = rng.choice([None, False, True])
        case _:
            pass
    return server
