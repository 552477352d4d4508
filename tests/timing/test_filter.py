"""The clock filter: the sample with the least delay, and the jitter of the others about it (RFC 5905 §10)."""

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.timing.filter import estimate
from tsq.timing.sample import Reason, Sample, StampSource, make_sample

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
