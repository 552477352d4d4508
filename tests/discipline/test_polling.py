"""When a source is polled."""

import pytest

from tsq.discipline.estimator import Prediction
from tsq.discipline.polling import Polling
from tsq.discipline.settings import SourceSettings

SECOND = 1_000_000_000
NOISE = 100e-6


def known(sd: float) -> Prediction:
    return Prediction(0, 0, sd, 0.0, 0.0)


# Good enough for this interval, and not for a longer one.
GOOD = known(0.3 * NOISE)


def after_burst(settings: SourceSettings) -> tuple[Polling, int]:
    polling, now = Polling(settings, 0), 0
    for _ in range(4):
        now = polling.next_ns
        polling.asked(now)
        polling.answered(now + 10, GOOD, NOISE, 0.0)
    return polling, now


def begun(polling: Polling, count: int, outcome) -> list[int]:
    """When polls begin, in seconds. outcome: what becomes of the poll that began then, and when it is over, ns."""
    found = []
    for _ in range(count):
        now = polling.next_ns
        assert polling.is_due(now)
        found.append(now // SECOND)
        polling.asked(now)
        assert not polling.is_due(now + 100 * SECOND)
        outcome(now // SECOND, now + SECOND // 10)
    return found


def test_a_burst_then_the_interval_doubles_to_the_least_one():
    polling = Polling(SourceSettings(), 0)
    found = begun(polling, 8, lambda _, now: polling.answered(now, GOOD, NOISE, 0.0))
    assert found == [0, 2, 4, 6, 10, 18, 34, 50]


def test_after_the_burst_no_interval_is_longer_than_the_estimate_is_good_for():
    """The frequency is known to 10 ppm at second 16, and to 2.5 ppm at second 30: in 4 and 16 s that is two fifths of the noise."""
    polling = Polling(SourceSettings(), 0)

    def answered(second, now):
        frequency_sd = 100e-6 if second < 16 else 10e-6 if second < 30 else 2.5e-6
        polling.answered(now, Prediction(0, 0, 0.0, 0.0, 0.99 * frequency_sd), NOISE, 0.0)

    found = begun(polling, 18, answered)
    assert found == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 22, 26, 30, 34, 42, 50, 66, 82]


def test_an_estimate_that_does_not_become_good_costs_sixteen_polls_once():
    polling = Polling(SourceSettings(), 0)
    found = begun(polling, 26, lambda _, now: polling.answered(now, known(1.0), NOISE, 0.0))
    assert found == [*range(0, 40, 2), 42, 50, 66, 82, 98, 114]
    polling.soon(polling.next_ns)
    at = polling.next_ns // SECOND
    found = begun(polling, 10, lambda _, now: polling.answered(now, known(1.0), NOISE, 0.0))
    # One more for each interval that keeps it in step with other sources.
    assert [one - at for one in found] == [0, 2, 4, 6, 8, 12, 16, 24, 32, 48]


def test_after_the_burst_a_poll_that_fails_is_repeated_soon():
    polling = Polling(SourceSettings(), 0)

    def outcome(second, now):
        if second in (2, 6, 8):
            polling.failed(now, True)
        else:
            polling.answered(now, GOOD, NOISE, 0.0)

    assert begun(polling, 8, outcome) == [0, 2, 4, 6, 8, 10, 14, 18]


def test_a_burst_begins_with_the_first_answer():
    """A daemon that started before the network did."""
    polling = Polling(SourceSettings(), 0)

    def outcome(second, now):
        if second < 34:
            polling.failed(now, False)
        else:
            polling.answered(now, GOOD, NOISE, 0.0)

    assert begun(polling, 12, outcome) == [0, 2, 4, 6, 10, 18, 34, 36, 38, 40, 42, 46]


def test_sources_stay_in_step_whenever_their_intervals_double():
    """So the clock is looked at once for all of them."""
    for good in range(6, 40, 2):
        polling = Polling(SourceSettings(min_poll=6), 0)

        def answered(second, now, polling=polling, good=good):
            polling.answered(now, GOOD if second >= good else known(1.0), NOISE, 0.0)

        assert {second % 64 for second in begun(polling, 30, answered) if second > 130} == {2}


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
        polling.answered(begun + 10, GOOD, NOISE, 0.0)
    polling.change(SourceSettings(min_poll=4, max_poll=6))
    assert polling.next_ns == begun + 64 * SECOND
    polling.change(SourceSettings(min_poll=8, max_poll=8))
    assert polling.next_ns == begun + 64 * SECOND
