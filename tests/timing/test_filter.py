"""The clock filter: the estimate from all samples of a source, and the jitter (RFC 5905 §10)."""

from dataclasses import replace
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.timing.filter import DEFAULT_SERVER_ERROR, estimate
from tsq.timing.sample import Reason, Sample, StampSource, make_sample
from tsq.timing.server_state import ServerState

T = 1_800_000_000_000_000_000


def measured(offset_us, delay_us, **options):
    there = delay_us * 500
    at = there + offset_us * 1000
    return make_sample(T, T + at, T + at, T + 2 * there, **options)


def test_no_samples_give_no_estimate():
    assert estimate([]) is None


def test_rejected_samples_are_not_used():
    failed = Sample(T, reason=Reason.NO_ANSWER)
    # Its delay is the least: it would be the best sample if it were valid.
    implausible = measured(10**12, 2)
    assert not implausible.valid
    assert estimate([failed, implausible]) is None
    assert estimate([failed, implausible, measured(5, 100)]).best == measured(5, 100)


def test_of_samples_of_one_age_that_with_the_least_delay_is_the_best():
    samples = [measured(50, 900), measured(7, 100), measured(-80, 400)]
    found = estimate(samples)
    assert found.best is samples[1]
    assert found.offset == pytest.approx(7e-6)
    assert found.delay == pytest.approx(100e-6)
    # All at the same time but for 0.8 ms, in which the clock may drift by some nanoseconds.
    assert samples[1].root_distance <= found.server_distance <= samples[1].root_distance + 15e-9


def test_of_equal_samples_the_first_is_the_best():
    samples = [measured(1, 100), measured(2, 100)]
    assert estimate(samples).best is samples[0]


def test_the_offset_is_the_middle_of_where_all_samples_meet():
    # 1 ± 50 and 21 ± 50 µs have -29 to 51 µs in common.
    found = estimate([measured(1, 100), measured(21, 100)], 0.0)
    assert found.offset == pytest.approx(11e-6)
    assert found.root_distance == pytest.approx(40e-6, rel=1e-3)
    assert (found.interval.low, found.interval.high) == (pytest.approx(-29e-6, rel=1e-3), pytest.approx(51e-6, rel=1e-3))


def test_jitter_is_the_spread_about_the_best():
    found = estimate([measured(10, 100), measured(13, 200), measured(6, 300)])
    assert found.jitter == pytest.approx(sqrt((3e-6**2 + 4e-6**2) / 2))


@pytest.mark.parametrize("samples", [[measured(5, 100)], [measured(5, 100), measured(5, 200)]])
def test_jitter_is_never_zero(samples):
    assert estimate(samples).jitter == 1e-9


@given(st.lists(st.tuples(st.integers(-1000, 1000), st.integers(1, 1000)), min_size=1, max_size=8), st.randoms())
def test_the_order_of_samples_decides_nothing_but_ties(pairs, rng):
    pairs = list({delay: (offset, delay) for offset, delay in pairs}.values())
    samples = [measured(*pair) for pair in pairs]
    shuffled = samples[:]
    rng.shuffle(shuffled)
    one, other = estimate(samples), estimate(shuffled)
    assert one.best == other.best
    assert one.jitter == pytest.approx(other.jitter)
    assert one.delay == min(sample.delay for sample in samples)


def test_an_estimate_shows_the_sources_of_its_stamps():
    kernel, user = StampSource.KERNEL, StampSource.USER
    assert estimate([measured(0, 10, t1_source=kernel, t4_source=kernel)]).stamps == "kernel"
    assert estimate([measured(0, 10, t1_source=user, t4_source=kernel)]).stamps == "kernel/user"


def at_second(second, offset_us=0, delay_us=100, **options):
    """A sample that was taken so many seconds after T."""
    begin, half = T + round(second * 1e9), delay_us * 500
    at = begin + half + offset_us * 1000
    return make_sample(begin, at, at, begin + 2 * half, **options)


def test_the_best_sample_is_the_one_with_the_least_aged_root_distance():
    # In three seconds the clock may drift by 45 µs.
    good, late = at_second(0, delay_us=2), at_second(3, delay_us=100)
    assert estimate([good, late]).best is good
    assert estimate([good, late], at_ns=T + 1000 * 10**9).best is good
    much_later = at_second(4, delay_us=100)
    assert estimate([good, much_later]).best is much_later


def test_an_old_sample_counts_as_long_as_it_narrows_the_bound():
    report = ServerState(T, stratum=1, error=1e-6)
    old, rest = at_second(0, 0, 2, server=report), [at_second(number, delay_us=200, server=report) for number in range(1, 600)]
    assert estimate([old, rest[0]]).root_distance < estimate([rest[0]]).root_distance / 4
    # The filter considers only the newest 512, unless the last ten seconds have more.
    assert estimate([old, *rest]) == estimate(rest)
    assert estimate([old, *rest[:500]]) != estimate(rest[:500])


def test_all_of_the_last_ten_seconds_are_looked_at():
    samples = [at_second(0.002 * number, 0, 2 if number == 4000 else 100) for number in range(5000)]
    assert estimate(samples).best is samples[4000]


def test_lost_samples_do_not_count_for_the_window():
    lost = [Sample(T + 10**12 + number, reason=Reason.NO_ANSWER) for number in range(2000)]
    assert estimate([at_second(0, delay_us=2), *lost]).best.t1_ns == T


def test_the_server_s_own_error_is_part_of_the_root_distance():
    report = ServerState(T, stratum=2, error=0.002)
    found = estimate([at_second(10, server=report)])
    # It has grown by 15 ppm of ten seconds.
    assert found.server_error == pytest.approx(0.00215, rel=1e-4)
    assert found.server_error_known
    assert found.root_distance == pytest.approx(found.server_distance + found.server_error)
    assert found.server is report


def test_an_unknown_error_is_assumed():
    found = estimate([measured(5, 100)])
    assert (found.server, found.server_error, found.server_error_known) == (None, DEFAULT_SERVER_ERROR, False)
    assert found.root_distance == pytest.approx(found.server_distance + DEFAULT_SERVER_ERROR)
    assert estimate([measured(5, 100)], 0.0).root_distance == pytest.approx(found.server_distance)


def test_a_later_report_does_not_improve_an_earlier_sample():
    # +80 ms, before the server was corrected and reported it.
    early, report = at_second(0, 80_000, 2), ServerState(T + 10**9, stratum=1, error=1e-6)
    late = at_second(1, 0, 100, server=report)
    found = estimate([early, late])
    assert found.best is late
    assert found.server_error_known
    assert abs(found.offset) <= found.root_distance < 100e-6
    # Alone, such a sample has the assumed error.
    alone = estimate([early])
    assert (alone.server_error, alone.server_error_known) == (DEFAULT_SERVER_ERROR, False)


def test_a_later_report_of_a_larger_error_counts_for_earlier_samples_too():
    early, late = ServerState(T, stratum=2, error=0.001), ServerState(T + 10**9, stratum=2, error=0.05)
    found = estimate([at_second(0, delay_us=10, server=early), at_second(1, server=late)])
    assert found.server is late
    assert found.server_error == pytest.approx(0.05)
    assert estimate([at_second(0, delay_us=10), at_second(1, server=late)]).server_error == pytest.approx(0.05)


@pytest.mark.parametrize("bad", [{"stratum": 0}, {"leap": 3}, {"stratum": 16}, {"beyond": True, "error": None}])
def test_samples_before_a_report_of_an_unusable_clock_are_not_used(bad):
    first, lost = ServerState(T, stratum=1, error=1e-6), replace(ServerState(T + 10**9, stratum=1, error=1e-6), **bad)
    again = ServerState(T + 2 * 10**9, stratum=1, error=1e-6)
    samples = [at_second(0, 5, 2, server=first), at_second(1, 5, 2, server=lost), at_second(2, 0, 200, server=again)]
    assert estimate(samples).best is samples[2]
    assert estimate(samples).interval == estimate(samples[2:]).interval
    # While that is the newest report, the source cannot be used at all.
    assert estimate(samples[:2]).server is lost


def test_a_newer_report_replaces_an_aged_one_but_not_for_earlier_samples():
    early, late = ServerState(T, stratum=1, error=1e-6), ServerState(T + 32 * 10**9, stratum=1, error=2e-6)
    before, after = at_second(31, server=early), at_second(33, delay_us=90, server=late)
    assert estimate([before]).server_error == pytest.approx(1e-6 + 15e-6 * 31, rel=1e-3)
    assert estimate([before, after, at_second(34, delay_us=200, server=late)]).server_error == pytest.approx(2e-6 + 15e-6, rel=1e-3)
    # The sample with the least delay is older than the newer report, and the clock may have been corrected in between.
    best = at_second(31, delay_us=2, server=early)
    assert estimate([best, after]).best is after
    assert estimate([best]).server_error == pytest.approx(1e-6 + 15e-6 * 31, rel=1e-3)


def test_the_root_distance_ages_by_the_frequency_tolerance_either_way():
    found = estimate([at_second(0)])
    assert found.at_ns == found.best.t4_ns
    for seconds in (100, -100):
        aged = found.root_distance_at(found.at_ns + seconds * 10**9)
        assert aged - found.root_distance == pytest.approx(15e-6 * 100)
