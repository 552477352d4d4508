"""The delays of a route, and when it changes."""

from random import Random

import pytest

from tsq.discipline.route import MOST_COUNTED, Change, Routes

JITTER = 1e-3
BASE = 20e-3


def delays(rng, count, base=BASE, jitter=JITTER):
    return [base + rng.expovariate(1 / jitter) + rng.expovariate(1 / jitter) for _ in range(count)]


def settled(seed, count=200):
    """Routes that have seen this many delays of the first route."""
    rng = Random(seed)
    first, *rest = delays(rng, count)
    routes = Routes(first)
    for delay in rest:
        assert routes.add(delay) == (Change.NONE, 0.0)
    return routes, rng


@pytest.mark.parametrize("seed", range(5))
def test_the_least_delay_and_the_mean_excess(seed):
    routes, _ = settled(seed, 1500)
    route = routes.present
    assert route.count == MOST_COUNTED
    assert BASE <= route.least < BASE + 0.3 * JITTER
    assert route.excess == pytest.approx(2 * JITTER, rel=0.35)
    # Of the sum of two exponential delays: √2 times the jitter.
    assert route.deviation == pytest.approx(1.4 * JITTER, rel=0.4)
    assert route.spread == route.excess / 32


def test_the_first_delays_only_lower_the_excess_slowly():
    routes = Routes(10e-3)
    excesses = []
    for _ in range(16):
        routes.add(10e-3)
        excesses.append(routes.present.excess)
    assert excesses[0] == excesses[2] == 2.5e-3
    assert excesses[3] == pytest.approx(0.7 * 2.5e-3)
    assert excesses[4] == pytest.approx(0.7**2 * 2.5e-3)
    assert excesses[-1] == 1e-9


@pytest.mark.parametrize("seed", range(8))
def test_a_steady_route_is_never_left(seed):
    settled(seed, 3000)


@pytest.mark.parametrize("seed", range(8))
def test_a_much_longer_route_is_noticed_at_the_eighth_delay(seed):
    routes, rng = settled(seed)
    least = routes.present.least
    longer = delays(rng, 40, BASE + 10 * JITTER)
    seen = [routes.add(delay) for delay in longer]
    noticed = next(number for number, (change, _) in enumerate(seen, 1) if change is not Change.NONE)
    # Later only where the first ones happened to differ more than usual.
    assert 8 <= noticed <= 16
    change, moved = seen[noticed - 1]
    assert change is Change.OTHER
    # Its least delay is that of the newest four: older ones may have seen both routes.
    assert moved == pytest.approx(min(longer[noticed - 4 : noticed]) - least)
    assert routes.first is not None
    assert routes.first.least == least


@pytest.mark.parametrize("seed", range(8))
def test_a_slightly_longer_route_is_noticed_after_more_delays(seed):
    """By one and a half of the mean excess: hardly any eight delays show it, and 32 do."""
    routes, rng = settled(seed)
    seen = [routes.add(delay)[0] for delay in delays(rng, 64, BASE + 3 * JITTER)]
    noticed = seen.index(Change.OTHER) + 1
    assert 8 < noticed <= 64


@pytest.mark.parametrize("seed", range(8))
def test_congestion_is_no_other_route_for_as_long_as_it_looks_like_congestion(seed):
    """Delays that are longer and differ far more: D stays, so the box stays wide enough to contain the truth."""
    routes, rng = settled(seed)
    for delay in delays(rng, 32, BASE):
        assert routes.add(delay + 5 * JITTER + rng.gammavariate(4, 10 * JITTER))[0] is Change.NONE
    assert routes.present.least < BASE + JITTER


def test_whatever_lasts_is_another_route():
    routes, _rng = settled(1)
    seen = [routes.add(BASE + (6 if number % 2 else 60) * JITTER)[0] for number in range(48)]
    assert seen == [Change.NONE] * 47 + [Change.OTHER]
    assert routes.present.least == BASE + 6 * JITTER


@pytest.mark.parametrize("seed", range(8))
def test_the_first_route_is_known_again(seed):
    routes, rng = settled(seed)
    before = routes.present
    for delay in delays(rng, 60, BASE + 20 * JITTER):
        routes.add(delay)
    held = routes.present
    assert held is not before
    assert routes.add(BASE + 0.5 * JITTER) == (Change.BACK, 0.0)
    assert routes.present is before
    assert routes.first is None


def test_the_excess_is_held_until_the_new_route_has_its_own():
    routes, rng = settled(3)
    longer = iter(delays(rng, 80, BASE + 20 * JITTER, 5 * JITTER))
    while routes.add(next(longer))[0] is not Change.OTHER:
        held = routes.present.excess
    for _ in range(14):
        assert routes.present.excess == held
        routes.add(next(longer))
    assert len(routes.present.delays) == 15
    assert routes.present.excess == held
    for delay in longer:
        routes.add(delay)
    assert routes.present.excess == pytest.approx(10 * JITTER, rel=0.6)


def test_an_unknown_faster_route():
    routes, _ = settled(2)
    least = routes.present.least
    assert routes.add(BASE - 8 * JITTER) == (Change.OTHER, pytest.approx(least - BASE + 8 * JITTER))
    assert routes.present.count == 2
    assert routes.present.least == BASE - 8 * JITTER
    # A delay that is less by little is one of the same route.
    routes, _rng = settled(2)
    assert routes.add(routes.present.least - JITTER) == (Change.NONE, 0.0)
    assert routes.first is None


def test_one_delay_of_a_new_source_may_be_far_too_long():
    routes = Routes(1.0)
    for delay in delays(Random(1), 20):
        assert routes.add(delay)[0] is Change.NONE
    assert routes.present.least < BASE + JITTER


def test_a_return_is_noticed_though_the_least_delay_sank_in_small_steps():
    routes, rng = settled(4)
    before = routes.present
    for delay in delays(rng, 20, BASE + 20 * JITTER):
        routes.add(delay)
    step = (routes.present.least - before.least) / 200
    least = routes.present.least
    for number in range(200):
        if routes.add(least - number * step)[0] is Change.BACK:
            break
    assert routes.present is before
