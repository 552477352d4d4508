"""The normal distribution, and its tails."""

from math import erfc, exp, isclose, pi, sqrt
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.discipline.normal import between, cumulative, density

UNIT = NormalDist()


@given(st.floats(-6, 6))
def test_density_and_distribution(x):
    assert density(x) == pytest.approx(UNIT.pdf(x), rel=1e-12)
    assert cumulative(x) == pytest.approx(UNIT.cdf(x), rel=1e-9, abs=1e-15)


def test_far_out_the_density_is_0_and_nothing_raises():
    for x in (1e3, -1e3, 1e200, -1e200, float("inf")):
        assert density(x) == 0
    assert cumulative(-1e200) == 0
    assert cumulative(1e200) == 1
    assert between(1e200, 1e201) == 0
    assert between(-1e201, 1e201) == 1


@given(st.floats(-30, 30), st.floats(1e-3, 5))
def test_a_difference_is_the_same_on_both_sides(low, width):
    high = low + width
    assert between(low, high) == pytest.approx(between(-high, -low), rel=1e-12)


@given(st.floats(0, 34), st.floats(1e-3, 2e-3))
def test_a_difference_keeps_its_digits_in_the_tail(low, width):
    # Simpson's rule: exact to 8 digits for a span as narrow as this one, where Φ itself is 1 to 16 digits.
    middle, high = low + width / 2, low + width
    integral = (high - low) / 6 * (density(low) + 4 * density(middle) + density(high))
    assert isclose(between(low, high), integral, rel_tol=2e-8)


def test_a_difference_across_0():
    assert between(-1, 2) == pytest.approx(UNIT.cdf(2) - UNIT.cdf(-1), rel=1e-14)
    assert between(10, 11) == pytest.approx(0.5 * (erfc(10 / sqrt(2)) - erfc(11 / sqrt(2))), rel=1e-14)
    assert density(1.5) == pytest.approx(exp(-1.125) / sqrt(2 * pi), rel=1e-15)
