"""The agreed interval: the hull of the points of a majority, with the truth in it while a majority is right."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.timing.intersection import Interval, agreed, majority

offsets = st.floats(-100, 100, allow_nan=False).map(lambda value: round(value, 3))


@st.composite
def intervals(draw, least=1, most=9):
    found = []
    for _ in range(draw(st.integers(least, most))):
        low, high = sorted((draw(offsets), draw(offsets)))
        found.append(Interval(low, high))
    return found


@st.composite
def honest_and_liars(draw):
    """(truth, intervals in any order): more than half of them hold the truth."""
    truth = draw(offsets)
    honest = draw(st.integers(1, 6))
    around = [Interval(truth - abs(draw(offsets)), truth + abs(draw(offsets))) for _ in range(honest)]
    lies = draw(intervals(least=1, most=honest - 1)) if honest > 1 else []
    return truth, draw(st.permutations([*around, *lies])), around


@pytest.mark.parametrize(("sources", "more"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (8, 5), (9, 5)])
def test_a_majority_is_more_than_half(sources, more):
    assert majority(sources) == more


def covered(point, among):
    return sum(each.low <= point <= each.high for each in among)


@given(intervals())
def test_the_agreed_interval_is_the_hull_of_the_points_of_a_majority(found):
    # All edges are candidates for the ends: the number of intervals changes nowhere else.
    points = [point for each in found for point in (each.low, each.high) if covered(point, found) >= majority(len(found))]
    expected = Interval(min(points), max(points)) if points else None
    assert agreed(found) == expected


@given(honest_and_liars())
def test_a_minority_of_liars_neither_excludes_the_truth_nor_extends_the_interval_beyond_the_honest(case):
    truth, found, honest = case
    common = agreed(found)
    assert common is not None
    assert common.low <= truth <= common.high
    assert min(each.low for each in honest) <= common.low
    assert common.high <= max(each.high for each in honest)
    # No interval with the truth in it belongs to a falseticker.
    assert all(each.overlaps(common) for each in honest)


def test_the_order_of_sources_decides_nothing_and_touching_intervals_meet():
    found = [Interval(0, 1), Interval(1, 2), Interval(1, 1)]
    assert agreed(found) == agreed(found[::-1]) == Interval(1, 1)
    assert agreed([Interval(0, 1), Interval(1.001, 2)]) is None
    assert agreed([]) is None


def test_two_of_four_liars_leave_no_majority():
    assert agreed([Interval(0, 1), Interval(0, 1), Interval(5, 6), Interval(5, 6)]) is None


def test_a_liar_inside_cannot_narrow_the_interval_until_it_excludes_the_truth():
    # The truth is 9. Without an allowed falseticker, the result would be [9.5, 10].
    honest, liar = [Interval(0, 10), Interval(8, 20)], Interval(9.5, 11)
    common = agreed([*honest, liar])
    assert common == Interval(8, 11)
    assert common.low <= 9 <= common.high


def test_midpoints_do_not_count():
    # Asymmetric paths: both sources are right, and their common points exclude both midpoints.
    assert agreed([Interval(-10, 1), Interval(0, 11)]) == Interval(0, 1)


def test_clamp_and_reach():
    assert [Interval(1, 3).clamp(offset) for offset in (0, 2, 4)] == [1, 2, 3]
    assert [Interval(1, 3).distance_from(offset) for offset in (1, 2, 4)] == [2, 1, 3]


@given(st.integers(-(10**19), 10**19), st.integers(0, 10**6))
def test_ends_in_nanoseconds_that_no_float_holds_are_rounded_outwards(low_ns, width_ns):
    found = Interval.of_ns(low_ns, low_ns + width_ns)
    # The floats' own values, exactly: seconds of decades are 100 ns and more apart.
    assert Fraction(found.low) <= Fraction(low_ns, 10**9)
    assert Fraction(found.high) >= Fraction(low_ns + width_ns, 10**9)


def test_ends_that_a_float_would_round_inwards():
    inwards = [ns for ns in range(10**18 + 1, 10**18 + 2000) if Fraction(ns / 10**9) > Fraction(ns, 10**9)]
    outwards = [ns for ns in range(10**18 + 1, 10**18 + 2000) if Fraction(ns / 10**9) < Fraction(ns, 10**9)]
    assert min(len(inwards), len(outwards)) > 100
    for low_ns, high_ns in zip(inwards, outwards, strict=False):
        found = Interval.of_ns(low_ns, high_ns)
        assert Fraction(found.low) <= Fraction(low_ns, 10**9)
        assert Fraction(found.high) >= Fraction(high_ns, 10**9)
