"""One model of the oscillator: prediction, the likelihood's derivatives, the update against the exact posterior."""

from math import exp, log, pi, sqrt
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsq.discipline.model import OUTLIER, Likelihood, Model, State, box, point

FIELDS = ("offset", "frequency", "asymmetry", "tt", "tf", "tb", "ff", "fb", "bb")


def values(state):
    return tuple(getattr(state, name) for name in FIELDS)


def model(**changes):
    """A state of microseconds whose θ, f and b depend on one another."""
    mean = {"offset": 3e-6, "frequency": 2e-8, "asymmetry": -1e-6}
    covariance = {"tt": 4e-12, "tf": 1e-14, "tb": -5e-13, "ff": 1e-16, "fb": 2e-15, "bb": 1e-12}
    return Model(**(mean | covariance | changes))


@given(st.floats(0.1, 1000), st.floats(0.1, 1000), st.floats(0, 1e-12))
def test_time_passes_alike_in_one_step_or_two(first, second, wander_squared):
    one, two = model(), model()
    one.advance(first + second, wander_squared)
    two.advance(first, wander_squared)
    two.advance(second, wander_squared)
    assert values(two) == pytest.approx(values(one), rel=1e-9)


def test_a_covariance_that_rounding_broke_gives_no_negative_variance():
    state = State(tt=1e-12, tf=-1.001e-14, ff=1e-16)
    state.advance(100, 0.0)
    assert state.tt > 0


def test_a_wandering_oscillator_spreads_as_predicted():
    # 4000 random walks of the frequency, of 50 s each, in steps of 1 s; θ is the sum of the means within each second.
    rng, wander, seconds = Random(1), 1e-9, 50
    ends = []
    for _ in range(4000):
        offset = frequency = 0.0
        for _ in range(seconds):
            # The step within one second: variance w², its mean a third, and both depend on one another.
            step = rng.gauss(0, wander)
            offset += frequency + step / 2 + rng.gauss(0, wander / sqrt(12))
            frequency += step
        ends.append((offset, frequency))
    state = State()
    state.advance(seconds, wander * wander)
    n = len(ends)
    assert state.tt == pytest.approx(sum(offset * offset for offset, _ in ends) / n, rel=0.1)
    assert state.tf == pytest.approx(sum(offset * frequency for offset, frequency in ends) / n, rel=0.1)
    assert state.ff == pytest.approx(sum(frequency * frequency for _, frequency in ends) / n, rel=0.1)


@given(st.floats(-5, 5), st.floats(0.01, 20))
def test_the_derivatives_of_the_box(away, half_width):
    step = 1e-4
    p, first, second = box(away, half_width, 1.0)
    below, above = box(away - step, half_width, 1.0)[0], box(away + step, half_width, 1.0)[0]
    assert first == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-8)
    assert second == pytest.approx((above - 2 * p + below) / step**2, rel=1e-4, abs=1e-5)


@given(st.floats(-6, 6))
def test_a_narrow_box_is_a_point(away):
    assert box(away, 0.9e-4, 1.0) == pytest.approx(point(away, 1.0))
    # Just above the limit, where the difference of two nearly equal numbers still has its digits.
    assert box(away, 1.1e-4, 1.0) == pytest.approx(point(away, 1.0), rel=1e-5, abs=1e-8)


def exact(prior_mean, prior_variance, likelihood):
    """The posterior's mean, variance and integral, by the sum over a fine grid."""
    sd, count = sqrt(prior_variance), 8001
    total = mean = square = 0.0
    for index in range(count):
        at = prior_mean + sd * (16 * index / (count - 1) - 8)
        prior = exp(-0.5 * ((at - prior_mean) / sd) ** 2) / (sd * sqrt(2 * pi))
        mass = prior * likelihood(at) * 16 * sd / (count - 1)
        total, mean, square = total + mass, mean + mass * at, square + mass * at * at
    mean /= total
    return mean, square / total - mean * mean, total


@settings(max_examples=25, deadline=None)
@given(st.floats(-4, 4), st.floats(0.2, 5), st.floats(0.1, 0.9), st.floats(0, 1), st.booleans())
def test_the_update_has_the_moments_of_the_exact_posterior(measured, half_width, softness, share, shapes):
    """Unit prior of θ; the box with soft edges, the normal shape and the outliers are integrated numerically."""
    normal_variance, outlier = (0.3 if shapes else 0.0), 0.02
    share = share if shapes else 0.0
    under = Model(tt=1.0, ff=1e-9)
    weighed = Likelihood(measured, half_width, softness, outlier, normal_variance, share).weigh(under)

    def density(at):
        # The prior is integrated here: only the softness is left in the box, and r² in the normal shape.
        inside = (1 - share) * box(at - measured, half_width, softness)[0]
        if shapes:
            inside += share * point(at - measured, sqrt(normal_variance))[0]
        return (1 - OUTLIER) * inside + OUTLIER * outlier

    mean, variance, total = exact(0.0, 1.0, density)
    assert under.offset == pytest.approx(mean, abs=2e-4)
    assert under.tt == pytest.approx(variance, rel=1e-3, abs=2e-4)
    assert weighed.logarithm == pytest.approx(log(total), abs=1e-3)


def test_a_measurement_says_more_of_what_depends_on_it():
    # θ and f are correlated: a positive surprise raises both; b takes its share by its covariance.
    under = model(tb=0.0, fb=0.0, offset=0.0, asymmetry=0.0, bb=4e-12)
    Likelihood(2e-6, 1e-7, 50e-9, 1e3).weigh(under)
    assert under.offset == pytest.approx(under.asymmetry, rel=1e-6)
    assert 0 < under.offset < 2e-6
    assert under.frequency > 2e-8
    assert under.tb < 0 < under.tt < 4e-12


def test_an_outlier_moves_nothing_and_conflicts():
    under = model()
    before = values(under)
    assert Likelihood(1.0, 1e-6, 50e-9, 1e3).weigh(under).conflicts
    assert values(under) == pytest.approx(before, rel=1e-12)
    assert not Likelihood(2e-6, 1e-6, 50e-9, 1e3).weigh(model()).conflicts


def test_a_state_that_knows_nothing_takes_the_measurement():
    # The outliers' density is wider than such a state, so an honest measurement is none.
    under = Model(tt=1e4, ff=1e-10)
    weighed = Likelihood(50.0, 1e-4, 50e-9, 500.0).weigh(under)
    assert not weighed.conflicts
    assert under.offset == pytest.approx(50.0, abs=0.2)
    # What is left is the possibility that it is an outlier after all.
    assert under.tt < 20


@given(st.floats(-1e5, 1e5), st.floats(1e-9, 1e2), st.floats(1e-9, 1e-1), st.floats(1e-26, 1e9))
def test_no_measurement_breaks_the_state(measured, half_width, softness, variance):
    under = model(tt=variance, tf=0.0, tb=0.0, bb=variance / 2)
    Likelihood(measured, half_width, softness, 1.0, 1e-8, 0.5).weigh(under)
    assert all(abs(value) < 1e12 for value in values(under))
    assert under.tt > 0
    assert under.ff >= 0
    assert under.bb >= 0


def test_a_restart_keeps_the_frequency_and_the_asymmetry():
    under = model()
    under.restart(1.0, 1e-8, 1e-12)
    assert under.offset + under.asymmetry == pytest.approx(1.0)
    assert under.frequency == 2e-8
    assert under.ff == pytest.approx(1e-12 + 1e-16)
    # The variance of the sum is that of the measurement, however uncertain b is.
    assert under.tt + 2 * under.tb + under.bb == pytest.approx(1e-8)


def test_the_first_route_has_no_asymmetry():
    under = model()
    under.drop_asymmetry()
    assert (under.asymmetry, under.tb, under.fb, under.bb) == (0, 0, 0, 0)
    assert under.offset == 3e-6
