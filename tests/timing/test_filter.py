"""The clock filter: the sample with the least delay, and the jitter of the others about it (RFC 5905 §10)."""

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


def test_nothing_comes_of_nothing():
    assert estimate([]) is None


def test_rejected_samples_say_nothing():
    failed = Sample(T, reason=Reason.NO_ANSWER)
    # Its delay is the least: it would win were it asked.
    implausible = measured(10**12, 2)
    assert not implausible.valid
    assert estimate([failed, implausible]) is None
    assert estimate([failed, implausible, measured(5, 100)]).best == measured(5, 100)


def test_the_least_delay_wins():
    samples = [measured(50, 900), measured(7, 100), measured(-80, 400)]
    found = estimate(samples)
    assert found.best is samples[1]
    assert found.offset == pytest.approx(7e-6)
    assert found.delay == pytest.approx(100e-6)
    assert found.server_distance == samples[1].root_distance


def test_of_equal_delays_the_first_wins():
    assert estimate([measured(1, 100), measured(2, 100)]).offset == pytest.approx(1e-6)


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


def test_stamps_say_who_took_them():
    kernel, user = StampSource.KERNEL, StampSource.USER
    assert estimate([measured(0, 10, t1_source=kernel, t4_source=kernel)]).stamps == "kernel"
    assert estimate([measured(0, 10, t1_source=user, t4_source=kernel)]).stamps == "kernel/user"


def at_second(second, offset_us=0, delay_us=100, **options):
    """A sample that was taken so many seconds after T."""
    begin, half = T + round(second * 1e9), delay_us * 500
    at = begin + half + offset_us * 1000
    return make_sample(begin, at, at, begin + 2 * half, **options)


def test_old_samples_are_left_out_as_long_as_eight_newer_ones_remain():
    # The oldest has the least delay, but its word is hours old.
    best, *rest = at_second(0, 50, 2), *(at_second(3600 * hour, delay_us=100 + hour) for hour in range(1, 9))
    assert estimate([best, *rest]).best is rest[0]
    assert estimate([best, *rest[:7]]).best is best


def test_all_of_the_last_ten_seconds_count():
    samples = [at_second(0, delay_us=2), *(at_second(0.1 * number, delay_us=100) for number in range(1, 100))]
    assert estimate(samples).best is samples[0]
    assert estimate([*samples, at_second(10.05)]).best is samples[1]


def test_lost_samples_are_not_of_the_eight():
    lost = [Sample(T + 10**12 + number, reason=Reason.NO_ANSWER) for number in range(20)]
    assert estimate([at_second(0, delay_us=2), at_second(100), *lost]).best.t1_ns == T


def test_the_server_s_own_error_is_part_of_the_root_distance():
    word = ServerState(T, stratum=2, error=0.002)
    found = estimate([at_second(10, server=word)])
    # It has grown by 15 ppm of ten seconds.
    assert found.server_error == pytest.approx(0.00215, rel=1e-4)
    assert found.server_error_known
    assert found.root_distance == pytest.approx(found.server_distance + found.server_error)
    assert found.server is word


def test_an_unknown_error_is_assumed():
    found = estimate([measured(5, 100)])
    assert (found.server, found.server_error, found.server_error_known) == (None, DEFAULT_SERVER_ERROR, False)
    assert found.root_distance == pytest.approx(found.server_distance + DEFAULT_SERVER_ERROR)
    assert estimate([measured(5, 100)], 0.0).root_distance == found.server_distance


def test_the_newest_word_says_what_the_server_is_and_the_sample_s_own_how_exact_it_was():
    early, late = ServerState(T, stratum=2, error=0.001), ServerState(T + 10**9, stratum=0, error=5.0)
    found = estimate([at_second(0, delay_us=10, server=early), at_second(1, server=late)])
    assert found.server.stratum == 0
    assert found.server_error == pytest.approx(0.001, rel=1e-3)
    # A sample that came before any word takes the one that came.
    assert estimate([at_second(0, delay_us=10), at_second(1, server=early)]).server_error == pytest.approx(0.001, rel=1e-3)


def test_a_newer_word_takes_the_place_of_one_that_has_grown_but_not_for_samples_before_it():
    early, late = ServerState(T, stratum=1, error=1e-6), ServerState(T + 32 * 10**9, stratum=1, error=2e-6)
    before, after = at_second(31, server=early), at_second(33, delay_us=90, server=late)
    assert estimate([before]).server_error == pytest.approx(1e-6 + 15e-6 * 31, rel=1e-3)
    assert estimate([before, after, at_second(34, delay_us=200, server=late)]).server_error == pytest.approx(2e-6 + 15e-6, rel=1e-3)
    # The one with the least delay came before the newer word, which may be that of a clock corrected since.
    best = at_second(31, delay_us=2, server=early)
    assert estimate([best, after]).server_error == pytest.approx(1e-6 + 15e-6 * 31, rel=1e-3)


def test_the_root_distance_ages_by_the_frequency_tolerance_either_way():
    found = estimate([at_second(0)])
    assert found.at_ns == found.best.t4_ns
    for seconds in (100, -100):
        aged = found.root_distance_at(found.at_ns + seconds * 10**9)
        assert aged - found.root_distance == pytest.approx(15e-6 * 100)
