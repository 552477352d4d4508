"""One source: samples in raw time, what is used of them, and what is reported."""

import math
from dataclasses import replace

import pytest

from tsq.discipline.bound import Rate
from tsq.discipline.events import Polled, Reading
from tsq.discipline.settings import SourceSettings
from tsq.discipline.source import Learner, TrackedSource, in_raw_time
from tsq.timing.local_clock import ClockReading
from tsq.timing.sample import make_sample
from tsq.timing.server_state import ServerState

SECOND = 1_000_000_000
TRUE = 1_800_000_000 * SECOND
RAW = 5_000 * SECOND
BASE = TRUE - RAW


def sample_at(seconds, *, error=0.0, moved=0.0, offset=0.0, there=100e-6, back=100e-6, server=None, readings=True):
    """An exchange at a raw time: the clock is off by `error`, and stepped by `moved` in the middle of it."""
    raw1 = RAW + round(seconds * 1e9)
    raw4 = raw1 + round((there + back) * 1e9)
    stamp = raw1 + round((there + offset) * 1e9) + BASE
    first, last = BASE + round(error * 1e9), BASE + round((error + moved) * 1e9)
    sent = ClockReading(raw1 + first, first, 50) if readings else None
    received = ClockReading(raw4 + last, last, 50) if readings else None
    return make_sample(
        raw1 + first, stamp, stamp, raw4 + last, precision_ns=30, offset_limit=math.inf, server=server, sent=sent, received=received
    )


def reading_at(seconds, error=0.0):
    raw = RAW + round(seconds * 1e9)
    return Reading(raw + BASE + round(error * 1e9), raw, 50)


@pytest.mark.parametrize("error", [0.0, 5.0, -1e6])
@pytest.mark.parametrize("moved", [0.0, 0.01, 3.0])
def test_steps_and_wrong_clocks_do_not_change_a_sample_in_raw_time(error, moved):
    found = in_raw_time(sample_at(10, error=error, moved=moved), reading_at(10.1), 150e-6)
    assert found.middle_ns == pytest.approx(BASE, abs=300)
    assert found.delay == pytest.approx(200e-6, abs=1e-6)
    assert (found.begin_ns, found.end_ns) == (RAW + 10 * SECOND, RAW + 10 * SECOND + 200_000)
    assert 100e-6 < found.reach < 102e-6
    assert found.center_ns == RAW + 10 * SECOND + 100_000


def test_a_step_back_during_the_exchange_is_seen_through():
    """By the clock, the answer came before the request; the sample has a reason then, and by its readings it would be right."""
    sample = replace(sample_at(10, moved=-1.0), reason=None)
    assert in_raw_time(sample, reading_at(10.1), 150e-6).delay == pytest.approx(200e-6, abs=1e-6)


def test_readings_that_contradict_the_stamps_are_not_used():
    good = sample_at(10)
    bad = replace(good, received=replace(good.received, difference_ns=good.received.difference_ns + 500_000))
    assert in_raw_time(bad, reading_at(10.1), 150e-6) is None
    assert in_raw_time(replace(good, t2_ns=None), reading_at(10.1), 150e-6) is None


def test_a_late_reading_is_traced_back_by_the_frequency_and_a_very_late_one_is_not_used():
    good = sample_at(10)
    for late, wanted in ((0.2, BASE), (0.3, None)):
        gained = round(late * 400e-6 * 1e9)
        received = ClockReading(
            good.received.at_ns + round(late * 1e9), good.received.difference_ns + gained, 50, frequency=400e-6
        )
        found = in_raw_time(replace(good, received=received), reading_at(11), 150e-6)
        assert found is wanted or found.middle_ns == pytest.approx(wanted, abs=100)
        assert found is None or found.reach > 100e-6 + late * 400e-6


def test_without_readings_the_outcomes_own_is_taken():
    found = in_raw_time(sample_at(10, error=0.2, readings=False), reading_at(10.01, 0.2), 15e-6)
    assert found.middle_ns == BASE
    assert found.reach >= 100e-6


def test_the_sample_allows_for_the_raw_clocks_own_frequency():
    sure = in_raw_time(sample_at(10, there=0.5, back=0.5), reading_at(12), 15e-6)
    unsure = in_raw_time(sample_at(10, there=0.5, back=0.5), reading_at(12), 500e-6)
    assert unsure.reach - sure.reach == pytest.approx(400e-6, abs=1e-6)


def tracked(**settings) -> TrackedSource:
    source = TrackedSource("a", SourceSettings(**settings), "a 443", Learner(0.0, 150e-6, ()), RAW)
    source.polling.asked(RAW)
    return source


def feed(source, seconds, **values):
    state = values.pop("state", ServerState(TRUE, stratum=1, error=10e-6))
    sample = sample_at(seconds, server=state, **values)
    reading = reading_at(seconds + 0.001)
    source.learn(Polled("a", sample, reading, "a 443"))
    raw = in_raw_time(sample, reading, 150e-6)
    return source.add(sample, raw, reading.raw_ns, source.rate or Rate(), 15e-6)


def test_what_a_source_reports():
    source = tracked()
    for number in range(20):
        assert feed(source, number * 16) == 0
    source.failed("no answer in time", RAW, answered=False)
    found = source.status(reading_at(320), source.rate or Rate())
    assert (found.polls, found.answers, found.reach) == (21, 20, 0b11111110)
    assert found.last_reason == "no answer in time"
    assert found.offset == pytest.approx(0, abs=1e-6)
    assert found.interval_low < -100e-6 < 100e-6 < found.interval_high
    assert found.root_distance == pytest.approx(max(-found.interval_low, found.interval_high) + abs(found.offset), abs=1e-6)
    assert found.server_error == 10e-6
    assert found.age == pytest.approx(16, abs=0.01)
    assert found.span == pytest.approx(19 * 16)
    assert found.jitter < 10e-6
    assert source.rate is not None
    # What the samples' intervals do not exclude, with the tolerance on both sides.
    assert source.rate.low < -15e-6 < 15e-6 < source.rate.high
    limits = source.history.proven()
    assert source.rate.high - source.rate.low == pytest.approx(limits.high - limits.low + 30e-6)


def test_a_source_without_samples_reports_no_numbers():
    found = tracked().status(reading_at(0), Rate())
    assert {found.offset, found.root_distance, found.delay, found.age, found.server_error, found.stratum} == {None}


def test_contradictions_are_counted_until_the_old_is_confirmed_or_gone():
    source = tracked()
    feed(source, 0)
    feed(source, 16)
    assert feed(source, 32, offset=0.5) > 0.49e9
    assert feed(source, 48, offset=0.5) > 0.49e9
    assert source.contradictions == 2
    assert source.jumped_ns == pytest.approx(0.5e9, abs=1e6)
    assert feed(source, 64) == 0
    assert source.contradictions == 0
    for number in range(9):
        feed(source, 80 + number * 16, offset=-0.5)
    assert source.contradictions == 9
    source.settle()
    assert feed(source, 300, offset=-0.5) == 0


def test_what_a_frequency_may_explain_is_no_contradiction():
    source = tracked()
    feed(source, 0)
    assert feed(source, 16, offset=0.01) == 0


def test_samples_from_before_a_server_noticed_that_it_was_wrong_are_dropped():
    source = tracked()
    feed(source, 0)
    feed(source, 16)
    lost = ServerState(TRUE, stratum=0)
    source.learn(Polled("a", sample_at(32, server=lost), reading_at(32), "a 443"))
    feed(source, 48, offset=0.0001, state=ServerState(TRUE + 48 * SECOND, stratum=1, error=10e-6))
    assert len(source.history) == 1


def test_the_servers_error_grows_with_the_age_of_its_report():
    """Also where a step of the clock hides that age."""
    source, state = tracked(), ServerState(TRUE, stratum=1, error=10e-6, drift=1e-3)
    feed(source, 0, state=state)
    young = source.history.at(RAW, Rate())[0]
    again = tracked()
    feed(again, 0, state=state)
    again.history.clear()
    feed(again, 100, state=state, error=-100.0)
    old = again.history.at(RAW + 100 * SECOND, Rate())[0]
    assert (old.high_ns - old.low_ns) - (young.high_ns - young.low_ns) >= 2 * 0.99 * 100e-3 * 1e9


def test_after_a_suspension_only_the_frequency_is_kept():
    source = tracked()
    for number in range(20):
        feed(source, number * 16)
    source.restart(RAW + 400 * SECOND)
    assert not source.usable
    assert len(source.history) == 0
    assert source.polling.burst == 4
    assert source.rate is not None
    feed(source, 401, offset=7200.0)
    assert source.usable
    found = source.predict(RAW + 402 * SECOND)
    assert found.difference_ns == pytest.approx(BASE + 7200 * SECOND, abs=10_000)
    assert abs(found.frequency) < 5e-6


def test_limits_of_the_frequency_follow_an_oscillator_that_changes():
    """By 40 ppm in three hours: no single frequency explains an hour, and what held in the first one does not hold in the last."""
    source, offset, frequency, contradicted = tracked(), 0.0, 0.0, 0
    for second in range(0, 3 * 3600, 16):
        feed(source, second, offset=offset, state=ServerState(TRUE, stratum=1, error=10e-6, drift=0.0))
        contradicted += source.history.proven() is None
        if source.rate is not None:
            assert source.rate.low < frequency < source.rate.high
        frequency = 40e-6 * second / (3 * 3600)
        offset += frequency * 16
    assert contradicted > 100
    assert frequency > 39e-6
