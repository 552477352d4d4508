"""When a source is polled."""

import pytest

from tsq.discipline.estimator import Prediction
from tsq.discipline.polling import Polling
from tsq.discipline.settings import SourceSettings

SECOND = 1_000_000_000
NOISE = 100e-6


def known(sd: float) -> Prediction:
    return Prediction(0, 0, sd, 0.0, 0.0)


def after_burst(settings: SourceSettings) -> tuple[Polling, int]:
    polling, now = Polling(settings, 0), 0
    for _ in range(4):
        now = polling.next_ns
        polling.asked(now)
        polling.answered(now + 10, known(1.0), NOISE, 0.0)
    return polling, now


def test_a_burst_then_the_interval_doubles_to_the_least_one():
    polling, begun = Polling(SourceSettings(), 0), []
    for _ in range(8):
        now = polling.next_ns
        assert polling.is_due(now)
        begun.append(now // SECOND)
        polling.asked(now)
        assert not polling.is_due(now + 100 * SECOND)
        polling.answered(now + SECOND // 10, known(1.0), NOISE, 0.0)
    assert begun == [0, 2, 4, 6, 10, 18, 34, 50]


@pytest.mark.parametrize(("sd", "polls"), [(NOISE / 5.1, [4, 4, 4, 5, 5, 5, 5, 6]), (NOISE / 4.9, [4] * 8)])
def test_longer_when_the_estimate_is_five_times_as_good_as_a_sample(sd, polls):
    polling, now = after_burst(SourceSettings())
    found = []
    for _ in polls:
        polling.asked(now)
        polling.answered(now, known(sd), NOISE, 0.0)
        found.append(polling.poll)
    assert found == polls


def test_shorter_at_once():
    polling, now = after_burst(SourceSettings())
    for _ in range(24):
        polling.asked(now)
        polling.answered(now, known(NOISE / 10), NOISE, 0.0)
    assert polling.poll == 10
    polling.asked(now)
    # Its frequency is bad: 2^6 s later it is off by two fifths of a sample's noise.
    polling.answered(now, Prediction(0, 0, 0.0, 0.0, 0.4 * NOISE / 65), NOISE, 0.0)
    assert polling.poll == 6
    polling.asked(now)
    polling.answered(now, known(0.0), NOISE, 1e-3)
    assert polling.poll == 4


def test_without_an_answer_it_asks_earlier_but_not_for_ever():
    polling, now = after_burst(SourceSettings(min_poll=1, max_poll=10))
    polling.poll = 3
    intervals = []
    for reachable in (True, True, True, False):
        now = polling.next_ns
        polling.asked(now)
        polling.failed(now + SECOND, reachable)
        intervals.append((polling.next_ns - now) // SECOND)
    assert intervals == [4, 2, 2, 16]


def test_an_outcome_that_never_comes_does_not_end_the_polls():
    polling = Polling(SourceSettings(), 0)
    polling.asked(0)
    assert polling.due_ns == 300 * SECOND


def test_a_burst_keeps_its_distance():
    polling, now = after_burst(SourceSettings())
    polling.soon(now + SECOND, 2)
    assert polling.next_ns == now + 2 * SECOND
    polling.asked(polling.next_ns)
    polling.soon(now + 2 * SECOND, 2)
    polling.answered(now + 2 * SECOND, known(1.0), NOISE, 0.0)
    assert polling.next_ns == now + 4 * SECOND


def test_other_limits():
    polling, _ = after_burst(SourceSettings())
    polling.change(SourceSettings(min_poll=6, max_poll=8))
    assert polling.poll == 6
    polling.reset(10**12)
    assert (polling.poll, polling.burst) == (6, 4)


def test_a_shorter_limit_shortens_the_wait_that_has_begun():
    polling, begun = after_burst(SourceSettings(min_poll=10, max_poll=10))
    while polling.next_ns - begun < 1000 * SECOND:
        begun = polling.next_ns
        polling.asked(begun)
        polling.answered(begun + 10, known(1.0), NOISE, 0.0)
    polling.change(SourceSettings(min_poll=4, max_poll=6))
    assert polling.next_ns == begun + 64 * SECOND
    polling.change(SourceSettings(min_poll=8, max_poll=8))
    assert polling.next_ns == begun + 64 * SECOND
