"""The sweep over n servers of which f lie: no bound fails while an honest majority is compared; and the sweep would notice."""

import pytest

from tests.simulation import sweep as sweeping
from tests.simulation.scenario import LIES
from tests.simulation.sweep import VIOLATIONS, sweep, table, total
from tsq.timing import intersection, selection
from tsq.timing.filter import Estimate

# `make sim` has a million.
EXCHANGES = 120_000


def test_no_bound_fails_while_an_honest_majority_is_compared():
    tallies = sweep(seed=2, exchanges=EXCHANGES)
    whole = total(tallies)
    assert {kind: whole.counts[kind] for kind in VIOLATIONS} == dict.fromkeys(VIOLATIONS, 0), whole.examples
    assert whole.counts["held"] >= EXCHANGES
    # Each number of liars that is a minority was met, and liars were found out.
    for (n, f), tally in tallies.items():
        if 2 * f < n:
            assert tally.counts["majority honest"], (n, f)
    assert whole.counts["named"] > 1000
    assert whole.counts["deceived"], "where most lie, some bound is wrong: else the liars are too tame"
    assert len(table(tallies)) == len(tallies) + 2
    assert len(LIES) == 7


def violations(seed: int = 3, exchanges: int = 12_000) -> dict[str, int]:
    whole = total(sweep(seed, exchanges))
    return {kind: whole.counts[kind] for kind in VIOLATIONS if whole.counts[kind]}


def test_the_sweep_is_the_same_for_the_same_seed():
    one, other = sweep(4, 2_000), sweep(4, 2_000)
    assert {key: tally.counts for key, tally in one.items()} == {key: tally.counts for key, tally in other.items()}


def test_half_the_delay_too_little_is_noticed(monkeypatch):
    monkeypatch.setattr(Estimate, "root_distance_at", lambda self, at_ns: self.root_distance - 0.3 * self.delay)
    assert violations()["bound"]


def test_an_age_that_is_not_counted_is_noticed(monkeypatch):
    monkeypatch.setattr(Estimate, "root_distance_at", lambda self, at_ns: self.root_distance)
    assert violations(exchanges=60_000)


def test_the_smallest_number_of_falsetickers_that_works_is_not_enough(monkeypatch):
    # RFC 5905 §11.2.1's search: as few falsetickers as will do, so as narrow an interval as will do.
    def narrowest(intervals):
        for liars in range((len(intervals) + 1) // 2):
            monkeypatch.setattr(intersection, "majority", lambda count, liars=liars: count - liars)
            found = intersection.agreed(intervals)
            if found is not None:
                return found
        return None

    monkeypatch.setattr(selection, "agreed", narrowest)
    assert violations()["bound"]


@pytest.mark.parametrize("kind", LIES)
def test_every_kind_of_lie_deceives_somebody_who_asks_only_liars(kind, monkeypatch):
    monkeypatch.setattr("tests.simulation.scenario.LIES", (kind,))
    rng = sweeping.Random(kind)
    tally = sweeping.Tally()
    for _ in range(40):
        sweeping.judge(sweeping.scenario(rng, 3, 3), rng, tally)
    assert tally.counts["deceived"], kind
