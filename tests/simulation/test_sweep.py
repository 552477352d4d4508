"""Simulations: no bound fails while a majority of the compared servers is honest. Without any one rule, some bound fails."""

from pathlib import Path

import pytest

from tests.simulation import filters
from tests.simulation import sweep as sweeping
from tests.simulation.filters import CASES, compared
from tests.simulation.local_clock import WORLDS, run_world
from tests.simulation.scenario import LIES
from tests.simulation.sweep import VIOLATIONS, sweep, table, total
from tests.simulation.votes import VOTES, run_votes
from tsq.timing import ageing, intersection, sample, selection
from tsq.timing import filter as filtering
from tsq.timing.ageing import Drift, UsableSample
from tsq.timing.filter import DEFAULT_SERVER_ERROR, Estimate
from tsq.timing.intersection import Interval
from tsq.timing.local_clock import TOLERANCE, Movement

# `make sim` has a million.
EXCHANGES = 120_000


def test_no_bound_fails_while_an_honest_majority_is_compared():
    tallies = sweep(seed=2, exchanges=EXCHANGES)
    whole = total(tallies)
    assert {kind: whole.counts[kind] for kind in VIOLATIONS} == dict.fromkeys(VIOLATIONS, 0), whole.examples
    assert whole.counts["held"] >= EXCHANGES
    # Every minority of liars occurred, and liars were named.
    for (n, f), tally in tallies.items():
        if 2 * f < n:
            assert tally.counts["majority honest"], (n, f)
    assert whole.counts["named"] > 1000
    assert whole.counts["deceived"], "with a majority of liars no bound failed: the lies are too small to test anything"
    assert len(table(tallies)) == len(tallies) + 2
    assert len(LIES) == 7


def violations(seed: int = 3, exchanges: int = 12_000) -> dict[str, int]:
    whole = total(sweep(seed, exchanges))
    return {kind: whole.counts[kind] for kind in VIOLATIONS if whole.counts[kind]}


def test_the_sweep_is_the_same_for_the_same_seed():
    one, other = sweep(4, 2_000), sweep(4, 2_000)
    assert {key: tally.counts for key, tally in one.items()} == {key: tally.counts for key, tally in other.items()}


def test_an_interval_that_is_too_narrow_is_noticed(monkeypatch):
    def narrowed(self, at_ns):
        return Interval(self.interval.low + 0.3 * self.delay, self.interval.high - 0.3 * self.delay)

    monkeypatch.setattr(Estimate, "interval_at", narrowed)
    assert violations()["bound"]


def test_a_missing_ageing_of_intervals_is_noticed(monkeypatch):
    monkeypatch.setattr(Estimate, "interval_at", lambda self, at_ns: self.interval)
    monkeypatch.setattr(Drift, "over", lambda self, elapsed: (0.0, 0.0))
    assert violations(exchanges=60_000)


def test_the_search_for_the_smallest_number_of_falsetickers_breaks_the_bound(monkeypatch):
    # The search of RFC 5905 §11.2.1: the fewest falsetickers, and so the narrowest interval.
    def narrowest(intervals, sources):
        for liars in range((len(intervals) + 1) // 2):
            monkeypatch.setattr(intersection, "majority", lambda count, liars=liars: count - liars)
            found = intersection.agreed(intervals)
            if found is not None:
                return found
        return None

    monkeypatch.setattr(selection, "agreed", narrowest)
    assert violations()["bound"]


@pytest.mark.parametrize("kind", LIES)
def test_every_kind_of_lie_deceives_a_client_that_asks_only_liars(kind, monkeypatch):
    monkeypatch.setattr("tests.simulation.scenario.LIES", (kind,))
    rng = sweeping.Random(kind)
    tally = sweeping.Tally()
    for _ in range(40):
        sweeping.judge(sweeping.scenario(rng, 3, 3), rng, tally)
    assert tally.counts["deceived"], kind


# ------------------------------------------------------------------------------------------------- the client's own clock

# `make sim` has ten times as many.
WORLD_EXCHANGES = 12_000


@pytest.mark.parametrize("world", WORLDS)
def test_no_bound_fails_whatever_the_clients_clock_does(world):
    found = run_world(world, sweeping.Random(f"2 {world}"), WORLD_EXCHANGES)
    assert (found.violations, found.worst) == (0, 0.0)
    assert found.looks > WORLD_EXCHANGES / 12


def rfc_5905(samples, at_ns, now):
    """The filter of RFC 5905: the least delay among the newest eight, aged by 15 ppm, and the newest report of the server."""
    valid = [each for each in samples if each.valid][-8:]
    if not valid:
        return None
    best = min(valid, key=lambda each: each.delay)
    report = best.server or next((each.server for each in reversed(valid) if each.server is not None), None)
    own = DEFAULT_SERVER_ERROR if report is None or report.error is None else report.error_at(best.t4_ns)
    distance = best.delay / 2 + own + TOLERANCE * abs(at_ns - best.t1_ns) / 1e9
    interval = Interval(best.offset - distance, best.offset + distance)
    return Estimate(best.offset, distance, best.delay, 1e-9, best, at_ns=at_ns, interval=interval, drift=Drift(contradicted=True))


@pytest.mark.parametrize("world", [each for each in WORLDS if each not in ("disciplined", "era")])
def test_the_filter_of_the_rfc_alone_fails_in_these_worlds(world):
    assert run_world(world, sweeping.Random(f"2 {world}"), 3000, rfc_5905).violations


@pytest.mark.parametrize(
    ("world", "module", "name", "replacement"),
    [
        ("slewed", ageing, "movement", lambda first, then: Movement()),
        ("stepped", ageing, "movement", lambda first, then: Movement()),
        ("undisciplined", ageing, "drift_range", lambda readings, tolerance: (-TOLERANCE, TOLERANCE)),
        ("chronyd", ageing, "drift_range", lambda readings, tolerance: (-TOLERANCE, TOLERANCE)),
        ("later report", filtering, "_usable", lambda window, assumed: [newest_report(each, window) for each in window]),
    ],
)
def test_each_of_the_rules_is_needed(world, module, name, replacement, monkeypatch):
    monkeypatch.setattr(module, name, replacement)
    assert run_world(world, sweeping.Random(f"2 {world}"), 12_000).violations


def newest_report(each, window):
    report = window[-1].server
    error = DEFAULT_SERVER_ERROR if report is None else report.error_at(each.t4_ns)
    return UsableSample(each, error, report is not None)


def test_a_slew_during_the_exchange_counts_for_the_sample(monkeypatch):
    monkeypatch.setattr(sample, "movement", lambda first, then: Movement())
    assert run_world("slewed", sweeping.Random("2 slewed"), 30_000).violations


@pytest.mark.parametrize("kind", VOTES)
def test_a_minority_decides_neither_the_time_nor_leap_stratum_and_smearing(kind):
    found = run_votes(kind, sweeping.Random(f"2 {kind}"), 4000)
    assert {name: count for name, count in found.violations.items() if count} == {}
    assert found.answered > 1000


@pytest.mark.parametrize(
    ("kind", "wrong", "name", "replacement"),
    [
        ("tight", "leap", "_majority_value", lambda found, needed: max((each for each in found if each is not None), default=None)),
        ("tight", "stratum", "_stratum", lambda compared, needed: min(each.server.stratum for each in compared)),
        ("smear", "bound", "agreed", lambda intervals, sources: intersection.agreed(intervals)),
    ],
)
def test_each_of_the_votes_is_needed(kind, wrong, name, replacement, monkeypatch):
    monkeypatch.setattr(selection, name, replacement)
    assert run_votes(kind, sweeping.Random(f"2 {kind}"), 4000).violations[wrong]


def test_at_long_intervals_the_aged_distance_gives_a_far_better_bound_than_the_delay():
    found = compared(CASES["8 samples, one in 64 s"], runs=60)
    assert [figures.violations for figures in found.values()] == [0, 0, 0, 0]
    assert found["all, middle"].bound < found["least delay"].bound / 10


def test_the_intersection_of_all_samples_gives_a_bound_no_wider_than_the_best_sample():
    for case in CASES.values():
        found = compared(case, runs=40)
        assert found["all, middle"].violations == 0
        assert found["all, middle"].bound <= found["least aged"].bound * 1.02


def test_the_table_of_the_page_about_bounds_is_what_the_simulation_gives():
    page = (Path(__file__).parents[2] / "docs/explanation/error-bounds.md").read_text(encoding="utf-8")
    assert "\n".join(filters.table()) in page
