"""Ageing of samples: by the clock's drift, by movements of the clock, and by what the samples show."""

from dataclasses import replace
from math import inf

import pytest

from tsq.client.result import HostResult, selection
from tsq.options import Target
from tsq.timing.filter import estimate
from tsq.timing.local_clock import ClockReading
from tsq.timing.sample import make_sample
from tsq.timing.server_state import ServerState

T = 1_800_000_000_000_000_000
SECOND = 1_000_000_000
REPORT = ServerState(T, stratum=1, error=1e-6, drift=0.0)


def read(seconds=0.0, moved_ns=0, **more):
    return ClockReading(T + round(seconds * SECOND), moved_ns, **{"frequency": 0.0, "synchronized": True, **more})


def taken(second, offset_ns=0, delay_ns=100_000, moved_ns=0, during_ns=0, **more):
    """A sample at this second. moved_ns: how far programs had moved the clock by then; during_ns: how far during the exchange."""
    begin, half = T + round(second * SECOND), delay_ns // 2
    at = begin + half + offset_ns
    sent, received = read(second, moved_ns - during_ns, **more), read(second, moved_ns, **more)
    return make_sample(begin, at, at, begin + 2 * half, server=REPORT, sent=sent, received=received)


def width(found):
    return (found.interval.high - found.interval.low) / 2


@pytest.mark.parametrize(("synchronized", "ppm"), [(True, 15), (False, 100)])
def test_a_sample_ages_by_the_frequency_tolerance_of_the_kernels_state(synchronized, ppm):
    sample = taken(0, synchronized=synchronized)
    first, later = (estimate([sample], now=read(seconds, synchronized=synchronized)) for seconds in (0.0001, 1000.0001))
    assert width(later) - width(first) == pytest.approx(ppm * 1e-6 * 1000, rel=1e-6)


def test_a_sample_is_not_aged_by_less_than_a_later_reading_allows():
    assert width(estimate([taken(0)], now=read(1000, synchronized=False))) > 0.1


@pytest.mark.parametrize("moved_ns", [50_000_000, -50_000_000])
def test_a_slew_since_the_sample_shifts_it(moved_ns):
    found = estimate([taken(0)], now=read(10, moved_ns))
    assert found.offset == pytest.approx(-moved_ns / 1e9, abs=1e-6)
    assert found.moved.moved_ns == moved_ns
    assert width(found) < 300e-6


def test_a_slew_between_samples_shifts_the_earlier_one():
    before, after = taken(0, 0, 20_000), taken(10, -50_000_000, moved_ns=50_000_000)
    found = estimate([before, after])
    assert found.interval.low <= -0.05 <= found.interval.high
    assert not found.drift.contradicted


def test_a_slew_while_a_sample_is_taken_widens_it():
    steady, slewed = taken(0), taken(0, during_ns=5_000)
    assert slewed.root_distance - steady.root_distance == pytest.approx(5e-6)


def test_after_a_step_an_earlier_sample_allows_for_a_suspension_too():
    found = estimate([taken(0)], now=read(4, 3 * SECOND))
    assert found.interval.low < -3.0
    assert found.interval.high > 0.0
    # A sample after the step decides it.
    found = estimate([taken(0), taken(4, -3 * SECOND, moved_ns=3 * SECOND)], now=read(5, 3 * SECOND))
    assert found.offset == pytest.approx(-3.0, abs=1e-4)
    assert width(found) < 1e-4


def set_by(second, by_ns):
    """A sample of a clock that was right, and was then set by this amount."""
    begin = T + second * SECOND
    reading = ClockReading(begin + by_ns, by_ns, frequency=0.0, synchronized=True)
    return make_sample(
        begin + by_ns, begin + 50_000, begin + 50_000, begin + by_ns + 100_000, offset_limit=inf, sent=reading, received=reading
    )


@pytest.mark.parametrize("by_s", [-3600, 3600, -2, 0.2])
def test_an_estimate_without_a_time_is_for_the_clock_after_it_was_set(by_s):
    by_ns = round(by_s * SECOND)
    samples = [set_by(0, 0), set_by(1, 0), set_by(2, by_ns), set_by(3, by_ns)]
    for found in (estimate(samples), selection([HostResult(Target("a"), address="a", samples=tuple(samples))]).agreed):
        assert found.offset == pytest.approx(-by_s, abs=1e-4)
        # The server's own error of 10 ms is assumed.
        assert found.root_distance < 0.0102
    assert estimate(samples).at_ns == samples[-1].t4_ns
    # The same, with the answers in another order than the requests.
    assert estimate([samples[3], samples[2], samples[0], samples[1]]).at_ns == samples[-1].t4_ns


@pytest.mark.parametrize("slewed_ns", [30_000_000, -30_000_000])
@pytest.mark.parametrize("at", [None, 61])
def test_sources_that_were_asked_before_and_after_a_slew_agree(slewed_ns, at):
    """Asked one after the other, and compared without another reading of the clock."""
    first, second = taken(0), taken(60, -slewed_ns, moved_ns=slewed_ns)
    results = [HostResult(Target(name), address=name, samples=(one,)) for name, one in (("a", first), ("b", second))]
    chosen = selection(results, None if at is None else T + at * SECOND)
    assert chosen.problem is None
    assert chosen.agreed.survivors == 2
    assert chosen.agreed.offset == pytest.approx(-slewed_ns / 1e9, abs=1e-4)


def drifting(ppm, count=10, **more):
    return [taken(number, -round(number * ppm * 1000), **more) for number in range(count)]


@pytest.mark.parametrize("ppm", [80, -80, 400])
def test_samples_that_contradict_the_assumed_drift_widen_it(ppm):
    found = estimate(drifting(ppm), now=read(100))
    assert found.drift.contradicted
    assert abs(found.drift.shown - ppm * 1e-6) <= found.drift.shown_error
    # The clock drifts on in the 91 s after the last sample.
    assert found.interval.low <= -100 * ppm * 1e-6 <= found.interval.high


@pytest.mark.parametrize("ppm", [80, -80])
def test_a_frequency_that_the_samples_show_may_wander_as_that_of_a_disciplined_clock(ppm):
    # A long run shows the past frequency to a fraction of a ppm, but not the future frequency.
    found = estimate([taken(100 * number, -round(100 * number * ppm * 1000)) for number in range(20)], now=read(1900.001))
    assert found.drift.contradicted
    assert found.drift.shown_error < 1e-6
    assert found.drift.low <= -(ppm + 14) * 1e-6
    assert found.drift.high >= -(ppm - 14) * 1e-6


@pytest.mark.parametrize("ppm", [15, -15, 0])
def test_samples_within_the_assumed_drift_show_none(ppm):
    found = estimate(drifting(ppm, 100), now=read(100))
    assert (found.drift.shown, found.drift.contradicted) == (None, False)
    assert found.drift.most == pytest.approx(15e-6)


def test_the_interval_allows_for_a_drift_that_is_not_proven_yet():
    # In two seconds 80 ppm are 160 µs, and each sample may be wrong by 100.
    found = estimate(drifting(80, 3, delay_ns=200_000), now=read(60))
    assert not found.drift.contradicted
    assert found.interval.low <= -0.0048 <= found.interval.high


def test_after_an_unexplained_jump_a_sample_ages_by_the_largest_observed_rate():
    samples = [taken(0), taken(1, 500_000_000), taken(2)]
    found = estimate(samples)
    assert found.drift.set
    assert found.drift.shown is None
    assert abs(found.offset) <= width(found) < 0.001
    later = estimate(samples, now=read(3))
    assert later.interval.low <= -0.49
    assert later.interval.high >= 0.49


def test_contradicting_samples_of_the_same_moment_give_their_hull():
    one = taken(0)
    found = estimate([one, replace(one, t2_ns=one.t2_ns + SECOND, t3_ns=one.t3_ns + SECOND)])
    assert found.interval.low <= 0.0
    assert found.interval.high >= 1.0


def test_an_estimate_of_a_long_run_looks_at_a_bounded_number_of_samples():
    looked = 0

    class Counted(list):
        def __reversed__(self):
            nonlocal looked
            for sample in super().__reversed__():
                looked += 1
                yield sample

    samples = Counted(drifting(10, 3000))
    estimate(samples)
    assert looked < 600
