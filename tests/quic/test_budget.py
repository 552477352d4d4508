"""What a connection may cost the control plane, and what counts as load."""

import pytest

from tsq.quic.budget import Bucket, ControlBudget, DecayingCount, Throttle


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate():
    bucket = Bucket(10.0, 50.0)
    served = 0
    while bucket.refill(100.0) >= 1:
        bucket.take()
        served += 1
    assert served == 50
    assert bucket.refill(100.5) == pytest.approx(5.0)
    assert bucket.refill(1000.0) == 50.0
    # A clock that goes back gives nothing, and takes nothing.
    assert bucket.refill(0.0) == 50.0
    bucket.take(1e9)
    assert bucket.level == 0.0


def test_events_fade_and_are_never_more_than_the_most():
    recent = DecayingCount(5.0, 400.0)
    for _ in range(10_000):
        recent.add(100.0)
    assert recent.count(100.0) == 400
    assert recent.count(105.0) == pytest.approx(400 / 2.718281828)
    assert recent.count(150.0) < 1


def served(budget, start, seconds, rate, *, authentic=True, strained=False):
    """How many packets of so many a second are served."""
    count = 0
    for number in range(round(seconds * rate)):
        if budget.admits(start + number / rate, strained=strained):
            count += 1
            if authentic:
                budget.opened(0.0)
    return count


def test_a_connection_gets_its_burst_and_its_rate():
    budget = ControlBudget(250.0, 50.0, 1000.0, 10.0)
    assert served(budget, 0.0, 10.0, 2000) == pytest.approx(1000 + 2500, abs=3)


def test_under_strain_it_gets_half_of_its_burst_and_the_strained_rate():
    budget = ControlBudget(250.0, 50.0, 1000.0, 10.0)
    assert served(budget, 0.0, 10.0, 2000, strained=True) == pytest.approx(500 + 500, abs=3)


def test_a_client_at_a_sane_rate_is_always_served():
    budget = ControlBudget(250.0, 50.0, 1000.0, 10.0)
    assert served(budget, 0.0, 60.0, 128) == 60 * 128
    assert served(budget, 60.0, 60.0, 48, strained=True) == 60 * 48
    assert not budget.is_offender(120.0)


def test_who_goes_on_asking_for_too_much_is_an_offender():
    budget = ControlBudget(250.0, 50.0, 1000.0, 10.0)
    served(budget, 0.0, 5.0, 2000)
    assert not budget.is_offender(5.0)
    served(budget, 5.0, 10.0, 2000)
    assert budget.is_offender(15.0)


def test_forged_packets_make_nobody_an_offender():
    budget = ControlBudget(250.0, 50.0, 1000.0, 10.0)
    served(budget, 0.0, 30.0, 2000, authentic=False)
    assert not budget.is_offender(30.0)


def test_who_stops_is_forgiven():
    budget = ControlBudget(250.0, 50.0, 1000.0, 10.0)
    served(budget, 0.0, 5.0, 2000)
    assert served(budget, 60.0, 1.0, 100) == 100
    assert not budget.is_offender(70.0)


def test_what_is_said_seldom_says_how_much_was_held_back():
    seldom = Throttle(60.0)
    assert [seldom.due(now) for now in (5.0, 6.0, 64.0, 66.0, 67.0, 127.0)] == [1, 0, 0, 3, 0, 2]
