"""Long runs with one honest server, in worlds with different client clocks. The bound must hold at every checked moment.

    disciplined     the kernel says synchronized: within 15 ppm. Polls of up to 64 s
    undisciplined   the kernel says unsynchronized: off by up to 100 ppm
    slewed          slewed by 50 to 80,000 ppm in mid-run, by the kernel's loop
    chronyd         slewed by changes of the kernel's frequency correction
    stepped         stepped in mid-run, by up to ten seconds
    denied          as slewed, but the kernel's state cannot be read
    contradicted    the kernel says synchronized, but the clock is off by 30 to 500 ppm: checked once the samples show it
    later report    a server that is wrong, notices it, and reports it or is corrected; checked after its report
    era             clocks and true times on both sides of 2036; clocks that are decades wrong
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import copysign, inf
from random import Random

from tests.simulation.network import PPM, SECOND, START_NS, Client, Clock, Link, Plan, Reported, Server
from tsq.client.exchange import Rules
from tsq.timing.filter import Estimate, estimate
from tsq.timing.local_clock import ClockReading
from tsq.timing.sample import Sample

Filter = Callable[[list[Sample], int, ClockReading | None], Estimate | None]
WORLDS = (
    "disciplined", "undisciplined", "slewed", "chronyd", "stepped", "denied", "contradicted", "later report", "era",
)  # fmt: skip
_LOOKS = 12
# Of the local clock's own time.
_TOLERANCE = 15 * PPM / (1 + 15 * PPM)
_UNDISCIPLINED = 100 * PPM / (1 + 100 * PPM)
_HALF_ERA_NS = 2**31 * SECOND


@dataclass
class Result:
    """The results in one world. widths: of the bounds, seconds."""

    exchanges: int = 0
    looks: int = 0
    violations: int = 0
    worst: float = 0.0
    widths: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def whole_filter(samples: list[Sample], at_ns: int, now: ClockReading | None) -> Estimate | None:
    """TSQ's filter."""
    return estimate(samples, at_ns=at_ns, now=now)


def run_world(world: str, rng: Random, exchanges: int, look: Filter = whole_filter) -> Result:
    """Run scenarios in this world until this number of exchanges was made."""
    result = Result()
    while result.exchanges < exchanges:
        _scenario(world, rng, result, look)
    return result


def _scenario(world: str, rng: Random, result: Result, look: Filter) -> None:
    interval_ns = int(10 ** rng.uniform(8, 10.8))
    plan = Plan(rng.randint(2, 30), interval_ns, timeout_ns=2 * SECOND, stamps_ns=rng.choice([0, 2_000, 50_000]))
    duration_ns = plan.count * interval_ns
    clock = _clock(world, rng, duration_ns)
    server = _server(world, rng, duration_ns)
    rules = Rules(precision_ns=1)
    if world == "era":
        # The client knows its build time, and the server's clock is right.
        rules = replace(rules, era_pivot_ns=START_NS + _HALF_ERA_NS - 10 * 366 * 86400 * SECOND, offset_limit=inf)
    run = Client(clock, rng).ask(server, plan, rules)
    result.exchanges += len(run.samples)
    for _ in range(_LOOKS):
        true_ns = START_NS + int(rng.random() * (duration_ns + rng.choice([0, 0, 300 * SECOND])))
        seen = _seen(run.samples, run.came_ns, true_ns)
        if server.later and not _has_report(seen, server.later[-1][1]):
            continue
        reading = clock.reading(true_ns, rng)
        found = look(seen, clock.read(true_ns), reading)
        if found is None or (world == "contradicted" and not found.drift.contradicted):
            continue
        truth_ns = -clock.wrong_ns(true_ns)
        _judge(found, truth_ns, result)


def _has_report(samples: list[Sample], reported: Reported) -> bool:
    """Whether the client has this report."""
    found = [sample.server for sample in samples if sample.valid and sample.server is not None]
    return any(one.error is not None and abs(one.error - reported.error) < 1e-8 for one in found)


def _seen(samples: list[Sample], came_ns: list[int], true_ns: int) -> list[Sample]:
    return [sample for sample, came in zip(samples, came_ns, strict=True) if came <= true_ns]


def _judge(found: Estimate, truth_ns: float, result: Result) -> None:
    result.looks += 1
    # In nanoseconds, exactly: a float of some decades is coarser than the bounds.
    offset, reach = found.offset.as_integer_ratio(), found.root_distance
    error_ns = abs(offset[0] * SECOND / offset[1] - truth_ns) if abs(found.offset) < 1e6 else abs(
        (offset[0] * SECOND - round(truth_ns) * offset[1]) / offset[1]
    )  # fmt: skip
    result.widths.append(reach)
    result.errors.append(error_ns / 1e9)
    # Readings in whole nanoseconds may lose one.
    if error_ns > reach * 1e9 + 1 or not found.interval.low * 1e9 - 1 <= truth_ns <= found.interval.high * 1e9 + 1:
        result.violations += 1
        result.worst = max(result.worst, error_ns / 1e9 / reach)


def _signed(rng: Random, value: float) -> float:
    return copysign(value, rng.random() - 0.5)


def _clock(world: str, rng: Random, duration_ns: int) -> Clock:
    clock = Clock(int(_signed(rng, 10 ** rng.uniform(3, 9.5))), rng.uniform(-_TOLERANCE, _TOLERANCE))
    clock.frequency, clock.synchronized = rng.uniform(-50, 50) * PPM, True
    # The rate includes the kernel's correction, and may be anything within the tolerance.
    if rng.random() < 0.5:
        clock.rate = _signed(rng, _TOLERANCE)
    match world:
        case "undisciplined" | "denied":
            clock.synchronized = False
            clock.frequency = rng.choice([0.0, rng.uniform(-50, 50) * PPM])
            clock.rate = rng.choice([_signed(rng, _UNDISCIPLINED), rng.uniform(-1, 1) * _UNDISCIPLINED])
            if world == "denied":
                clock.denied = True
                clock.rate = (1 + rng.uniform(-1, 1) * _UNDISCIPLINED) * (1 + clock.frequency) - 1
        case "contradicted":
            clock.rate = _signed(rng, rng.uniform(30, 500) * PPM)
        case "stepped":
            steps = [int(_signed(rng, 10 ** rng.uniform(5, 10))) for _ in range(rng.randint(1, 2))]
            clock.jumps = [(START_NS + int(rng.random() * duration_ns), step_ns) for step_ns in steps]
        case "era":
            clock.error_ns = int(rng.choice([-57, -30, -1e-6, 40, 73, 100]) * 366 * 86400 * SECOND) + rng.randrange(SECOND)
        case _:
            pass
    if world in ("slewed", "chronyd", "denied"):
        clock.synchronized = rng.random() < 0.5 and world != "denied"
        # A slew by frequency of less than 100 ppm that lasts for the whole run looks like a steady frequency.
        least, most = (200, 5_000) if world == "chronyd" else (50, 80_000)
        for _ in range(rng.randint(1, 3)):
            begin_ns = START_NS + int((rng.random() * 1.2 - 0.2) * duration_ns)
            end_ns = begin_ns + int(rng.random() * duration_ns)
            clock.slews.append((begin_ns, end_ns, _signed(rng, rng.choice([5_000, least * (most / least) ** rng.random()]) * PPM)))
        clock.by_frequency = world == "chronyd"
        if clock.by_frequency:
            clock.slews = clock.slews[:1]
    return clock


def _server(world: str, rng: Random, duration_ns: int) -> Server:
    trip_ns = int(10 ** rng.uniform(4.5, 8))
    there_ns = int(trip_ns * rng.choice([0.0, 1.0, 0.5, rng.random()]))
    link = Link(there_ns, trip_ns - there_ns, queue_ns=trip_ns * rng.choice([0.0, 0.1, 1.0]), loss=rng.choice([0.0, 0.1]))
    error_ns = int(_signed(rng, 10 ** rng.uniform(2, 6)))
    server = Server(Clock(error_ns), link, Reported(abs(error_ns) / 1e9 + 1e-9))
    if world == "later report":
        _corrected(rng, server, duration_ns)
    return server


def _corrected(rng: Random, server: Server, duration_ns: int) -> None:
    """Make its clock wrong at first. The client rarely asks for the state; a later report must not improve an earlier sample."""
    at_ns = START_NS + int(rng.random() * duration_ns / 2)
    wrong_ns = int(_signed(rng, 10 ** rng.uniform(6, 9)))
    kind = rng.choice(["silent", "honest", "noticed"])
    right = server.reported
    assert right is not None
    if kind == "noticed":
        # It reported a small error, was wrong, and later reports the true error.
        server.clock = Clock(wrong_ns)
        server.later = [(at_ns, Reported(min(abs(wrong_ns) / 1e9 + 1e-6, 1.4)))]
        return
    # It was wrong, and reported nothing or the true error. Then it was corrected.
    server.reported = None if kind == "silent" else Reported(min(abs(wrong_ns) / 1e9 + 1e-6, 1.4))
    server.clock = Clock(wrong_ns, jumps=[(at_ns, server.clock.error_ns - wrong_ns)])
    server.later = [(at_ns, right)]
