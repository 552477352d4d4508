"""`python -m tests.simulation --filters` compares clock filters: the bound, and the error.

Each filter gets the same exchanges and uses: the sample with the least delay, as in RFC 5905; the sample with the least aged root
distance; the intersection of all aged intervals, with the best sample's offset, or with the middle.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from statistics import median

from tests.simulation.network import MS, PPM, SECOND, Client, Clock, Link, Plan, Reported, Server
from tsq.client.exchange import Rules
from tsq.timing.filter import estimate
from tsq.timing.local_clock import TOLERANCE
from tsq.timing.sample import Sample

US = 1000
RUNS = 600
Answer = tuple[float, float]
_NEWEST = 8


@dataclass(frozen=True)
class Case:
    """The polling of a client, and its path."""

    count: int
    interval_ns: int
    trip_ns: int = 400 * US
    queue_ns: float = 100 * US


CASES = {
    "8 samples, one in 64 s": Case(8, 64 * SECOND),
    "60 samples, one in a second": Case(60, SECOND),
    "8 samples, one in 4 s": Case(8, 4 * SECOND),
    "4 samples, one in 0.1 s": Case(4, 100 * MS),
    "8 in 64 s, long queues": Case(8, 64 * SECOND, 20 * MS, 10 * MS),
    "60 in a second, long queues": Case(60, SECOND, 20 * MS, 10 * MS),
}


def _bound(sample: Sample, at_ns: int) -> float:
    assert sample.t4_ns is not None
    assert sample.server is not None
    own = sample.server.error_at(sample.t4_ns) or 0.0
    return (sample.root_distance or 0.0) + own + TOLERANCE * abs(at_ns - sample.t4_ns) / 1e9


def least_delay(samples: list[Sample], at_ns: int) -> Answer:
    """RFC 5905 §10."""
    best = min(samples[-_NEWEST:], key=lambda sample: sample.delay or 0.0)
    return best.offset or 0.0, _bound(best, at_ns)


def least_aged(samples: list[Sample], at_ns: int) -> Answer:
    """The least aged root distance."""
    best = min(samples, key=lambda sample: _bound(sample, at_ns))
    return best.offset or 0.0, _bound(best, at_ns)


def best_of_all(samples: list[Sample], at_ns: int) -> Answer:
    """The intersection of all intervals, and its point nearest to the best sample's offset."""
    found = estimate(samples, at_ns=at_ns)
    assert found is not None
    offset = found.interval.clamp(found.best.offset or 0.0)
    return offset, found.interval.distance_from(offset)


def middle_of_all(samples: list[Sample], at_ns: int) -> Answer:
    """The intersection of all intervals, and its middle: TSQ's filter."""
    found = estimate(samples, at_ns=at_ns)
    assert found is not None
    return found.offset, found.root_distance


FILTERS: dict[str, Callable[[list[Sample], int], Answer]] = {
    "least delay": least_delay,
    "least aged": least_aged,
    "all, best's offset": best_of_all,
    "all, middle": middle_of_all,
}


@dataclass
class Figures:
    """Medians over the runs, seconds, and how many bounds failed."""

    bound: float
    error: float
    violations: int


def compared(case: Case, runs: int = RUNS, seed: int = 1) -> dict[str, Figures]:
    """Each filter's figures for the same runs, at the time of the last sample."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in FILTERS}
    for number in range(runs):
        rng = Random(f"{seed} {number}")
        clock = Clock(rng.randrange(SECOND), rng.uniform(-10, 10) * PPM)
        there_ns = int(case.trip_ns * rng.uniform(0.4, 0.6))
        link = Link(there_ns, case.trip_ns - there_ns, case.queue_ns)
        server = Server(Clock(rng.randint(-5 * US, 5 * US)), link, Reported(6e-6), work_ns=20 * US)
        run = Client(clock, rng).ask(server, Plan(case.count, case.interval_ns), Rules(precision_ns=1))
        true_ns = max(run.came_ns)
        for name, answer in FILTERS.items():
            offset, bound = answer(run.samples, clock.read(true_ns))
            seen[name].append((bound, abs(offset + clock.wrong_ns(true_ns) / 1e9)))
    return {
        name: Figures(
            median(bound for bound, _ in found),
            median(error for _, error in found),
            sum(error > bound + 1e-9 for bound, error in found),
        )
        for name, found in seen.items()
    }


def table(runs: int = RUNS) -> list[str]:
    """The table in docs/explanation/error-bounds.md."""
    lines = ["| run | filter | bound | error | bounds that failed |", "|---|---|---|---|---|"]
    for title, case in CASES.items():
        for name, figures in compared(case, runs).items():
            bound, error = f"{figures.bound * 1e6:.0f} µs", f"{figures.error * 1e6:.0f} µs"
            lines.append(f"| {title} | {name} | {bound} | {error} | {figures.violations} of {runs} |")
    return lines
