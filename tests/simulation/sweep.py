"""Many scenarios, checked against the true time of the simulation.

Violations, of honest servers and of selections in which fewer than half of the compared sources lie:

    sample      |θ - truth| > Λ + E at T4                           for each exchange
    estimate    truth outside the source's correctness interval     for each source
    bound       truth outside offset ± root distance                for each selection, also as printed
    pushed      offset outside the span of the honest intervals      for each selection
    accused     an honest source is called a falseticker           for each selection
    unnamed     a liar whose interval overlaps no honest one is not for each selection
    silent      no answer                                           for each selection
"""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

from tests.simulation.network import SECOND, START_NS, Client, Clock
from tests.simulation.scenario import Scenario, scenario
from tests.support.shown import within
from tsq.report.text import agreed_within
from tsq.timing.filter import DEFAULT_SERVER_ERROR, Estimate, estimate
from tsq.timing.intersection import Interval
from tsq.timing.sample import Sample
from tsq.timing.selection import Mark, Selection, Source, Unused, Verdict, select
from tsq.timing.server_state import ServerState

VIOLATIONS = ("sample", "estimate", "bound", "pushed", "accused", "unnamed", "silent")
# The reasons to leave out a source before the comparison.
_NOT_COMPARED = (
    Unused.NO_ESTIMATE, Unused.DUPLICATE, Unused.UNSYNCHRONIZED, Unused.STRATUM, Unused.LEAP_ALARM, Unused.ERROR_BEYOND,
    Unused.DISTANCE,
)  # fmt: skip
# Less the drift during a run.
_ASSUMED_NS = DEFAULT_SERVER_ERROR * SECOND - 2_000_000


@dataclass
class Tally:
    """The results of the runs with the same numbers of servers and liars."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def violation(self, kind: str, seed: object) -> None:
        self.counts[kind] += 1
        if len(self.examples) < 5:
            self.examples.append(f"{kind}: scenario {seed}")

    @property
    def violations(self) -> int:
        return sum(self.counts[kind] for kind in VIOLATIONS)


def judge(case: Scenario, rng: Random, tally: Tally, seed: object = None) -> Selection:
    """Run one scenario, and count the results."""
    client = Client(case.clock, rng)
    runs = [client.ask(server, plan) for server, plan in zip(case.servers, case.plans, strict=True)]
    sources = []
    lies: list[str | None] = []
    exchanges = 0
    for number, (run, server, lie) in enumerate(zip(runs, case.servers, case.lies, strict=True)):
        found = estimate(run.samples)
        reported = run.exchange.server
        if lie is None and reported is None and abs(server.clock.wrong_ns(START_NS)) > _ASSUMED_NS:
            # Its report was lost, and the assumption in its place is wrong.
            lie = "report lost"  # noqa: PLW2901
        lies.append(lie)
        sources.append(Source(f"server {number}", found, f"192.0.2.{number}"))
        tally.counts["requests"] += run.sent
        exchanges += sum(sample.valid for sample in run.samples)
        if lie is None and (reported is None or (reported.stratum not in (0, 16) and reported.leap != 3)):
            _judge_source(case.clock, run.samples, found, reported, tally, seed)
    chosen = select(sources)
    compared = [(v, lie) for v, lie in zip(chosen.verdicts, lies, strict=True) if v.unused not in _NOT_COMPARED]
    liars = sum(lie is not None for _, lie in compared)
    tally.counts["runs"] += 1
    tally.counts["exchanges"] += exchanges
    if not compared:
        tally.counts["nobody"] += 1
    elif 2 * liars < len(compared):
        tally.counts["majority honest"] += 1
        tally.counts["held"] += exchanges
        _judge_selection(case.clock, chosen, compared, tally, seed)
    elif chosen.agreed is None:
        tally.counts["refused"] += 1
    else:
        truth = case.clock.offset_at(chosen.at_ns)
        tally.counts["right" if chosen.agreed.interval.low <= truth <= chosen.agreed.interval.high else "deceived"] += 1
    return chosen


def _judge_source(
    clock: Clock, samples: list[Sample], found: Estimate | None, reported: ServerState | None, tally: Tally, seed: object
) -> None:
    for sample in samples:
        if sample.valid:
            report = sample.server or reported
            own = None if report is None else report.error_at(sample.t4_ns)
            bound = sample.root_distance + (DEFAULT_SERVER_ERROR if own is None else own)
            if abs(sample.offset - clock.offset_at(sample.t4_ns)) > bound:
                tally.violation("sample", seed)
    if found is not None and abs(found.offset - clock.offset_at(found.at_ns)) > found.root_distance:
        tally.violation("estimate", seed)


def _judge_selection(
    clock: Clock, chosen: Selection, compared: list[tuple[Verdict, str | None]], tally: Tally, seed: object
) -> None:
    found = chosen.agreed
    if found is None:
        tally.violation("silent", seed)
        return
    truth = clock.offset_at(chosen.at_ns)
    ((offset, root_distance),) = within(agreed_within(found))
    inside = found.interval.low <= truth <= found.interval.high
    if not inside or abs(found.offset - truth) > found.root_distance or abs(offset - truth) > root_distance:
        tally.violation("bound", seed)
    honest = [verdict.interval for verdict, lie in compared if lie is None]
    span = Interval(min(one.low for one in honest), max(one.high for one in honest))
    if not span.low <= found.offset <= span.high:
        tally.violation("pushed", seed)
    for verdict, lie in compared:
        # Servers that smear are not compared, but count as usable; here all of them lie.
        named = verdict.mark is Mark.FALSETICKER or verdict.unused is Unused.SMEAR
        if lie is None and named:
            tally.violation("accused", seed)
        if lie is not None:
            tally.counts["liars"] += 1
            tally.counts["named"] += named
            if not named and not verdict.interval.overlaps(span):
                tally.violation("unnamed", seed)


def sweep(seed: int, exchanges: int, most_servers: int = 9) -> dict[tuple[int, int], Tally]:
    """Scenarios of every n and f, in rounds, until this number of exchanges was made with an honest majority."""
    tallies = {(n, f): Tally() for n in range(1, most_servers + 1) for f in range(n + 1)}
    number = 0
    while sum(tally.counts["held"] for tally in tallies.values()) < exchanges:
        for (n, f), tally in tallies.items():
            # With a majority of liars there is nothing to prove.
            if 2 * f < n or number % 4 == 0:
                # A text as the seed gives the same numbers everywhere.
                name = f"{seed} {number} {n} {f}"
                rng = Random(name)
                judge(scenario(rng, n, f), rng, tally, name)
        number += 1
    return tallies


def table(tallies: dict[tuple[int, int], Tally]) -> list[str]:
    """A line for each n and f, and the total.

    held: runs with an honest majority. untrue: liars, and servers whose report was lost while the assumption in its place is wrong.
    others: the runs without an honest majority: no answer; a bound that holds anyway; one that does not.
    """
    head = (
        "n", "f", "runs", "exchanges", "held", "their exchanges", "answered", "violations", "untrue", "named", "others: none",
        "right", "wrong",
    )  # fmt: skip
    rows = [head]
    for (n, f), tally in [*tallies.items(), (("all", ""), total(tallies))]:
        counts = tally.counts
        held = counts["majority honest"]
        cells = (
            n, f, counts["runs"], counts["exchanges"], held, counts["held"], held - counts["silent"], tally.violations,
            counts["liars"], counts["named"], counts["refused"], counts["right"], counts["deceived"],
        )  # fmt: skip
        rows.append(tuple(map(str, cells)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def total(tallies: dict[tuple[int, int], Tally]) -> Tally:
    """The sum of all tallies."""
    whole = Tally()
    for tally in tallies.values():
        whole.counts += tally.counts
        whole.examples += tally.examples
    return whole
