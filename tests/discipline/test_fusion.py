"""Fusion: weighted by what is known, never outside of the agreed interval, nor after a clock that drifts away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.discipline.bound import Rate, RawInterval
from tsq.discipline.estimator import Prediction
from tsq.discipline.fusion import Fused, Vote
from tsq.discipline.fusion import fuse as fuse_within

AT, BASE = 1_000_000_000, 1_800_000_000_000_000_000
WIDE = RawInterval(AT, BASE - 10**9, BASE + 10**9)


def fuse(votes, agreed) -> Fused:
    return fuse_within(votes, agreed, Rate(-1e-3, 1e-3))


def vote(offset=0.0, sd=1e-6, frequency=0.0, frequency_sd=1e-8, distance=100e-6) -> Vote:
    return Vote(Prediction(AT, BASE + round(offset * 1e9), sd, frequency, frequency_sd), distance)


def test_one_vote_is_the_result():
    found = fuse([vote(5e-6, 2e-6, 3e-6, 1e-7)], WIDE)
    assert found.difference_ns == BASE + 5000
    assert (found.sd, found.frequency, found.frequency_sd) == pytest.approx((2e-6, 3e-6, 1e-7))
    assert found.at(AT + 10**9) == BASE + 8000
    assert found.sd_at(AT) == found.sd
    assert found.sd_at(AT + 100 * 10**9) == pytest.approx((2e-6**2 + 1e-5**2) ** 0.5)
    assert found.shifted(-1).difference_ns == BASE + 5000 - 10**9


def test_the_near_source_counts_most():
    """The floor of each weight is what its asymmetry may hide: a far source does not move a near one's microseconds."""
    near, far = vote(0.0, 1e-6, distance=100e-6), vote(1e-3, 1e-6, distance=10e-3)
    assert abs(fuse([near, far, far, far], WIDE).difference_ns - BASE) < 500


def test_a_part_of_a_weight():
    """What holdover leaves of it."""
    held = Vote(vote(30e-6).prediction, 100e-6, 0.5)
    assert fuse([vote(0.0), held], WIDE).difference_ns == BASE + 10_000


def test_equal_votes_average():
    found = fuse([vote(10e-6), vote(-10e-6), vote(20e-6), vote(-20e-6)], WIDE)
    assert found.difference_ns == BASE
    assert found.sd == pytest.approx(0.5e-6)
    assert found.frequency_sd == pytest.approx(0.5e-8)


def test_outside_of_the_agreed_interval_nothing_counts():
    narrow = RawInterval(AT, BASE - 100_000, BASE + 100_000)
    assert fuse([vote(0.0), vote(0.05)], narrow).difference_ns == BASE
    assert fuse([vote(0.05), vote(0.04)], narrow).difference_ns == narrow.high_ns


def test_a_clock_that_drifts_away_does_not_count():
    """However well it seems to know its frequency."""
    honest = [vote(0.0, frequency=1e-6, frequency_sd=1e-7) for _ in range(2)]
    found = fuse([*honest, vote(50e-6, frequency=900e-6, frequency_sd=1e-10)], WIDE)
    assert found.frequency == pytest.approx(1e-6)
    assert found.difference_ns == BASE


def test_the_frequency_is_one_that_the_majority_allows():
    votes = [vote(frequency=900e-6)]
    assert fuse_within(votes, WIDE, Rate(-15e-6, 15e-6)).frequency == 15e-6
    assert fuse_within(votes, WIDE, Rate(950e-6, 960e-6)).frequency == 950e-6


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1e-2), st.floats(0, 1.0)), min_size=1, max_size=8), st.floats(0, 0.1))
def test_it_is_always_inside(values, width):
    interval = RawInterval(AT, BASE - round(width * 1e9), BASE + round(width * 1e9))
    found = fuse([vote(offset, sd, distance=distance) for offset, sd, distance in values], interval)
    assert interval.low_ns <= found.difference_ns <= interval.high_ns
