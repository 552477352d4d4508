"""The estimator of one source, in small worlds whose truth is known."""

from math import isfinite, sqrt
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsq.discipline.estimator import FREQUENCY_SD, WANDERS, Estimator, Measurement

SECOND = 1_000_000_000
# True time minus the raw clock: the raw clock counts from the boot, true time from 1970.
START = 1_800_000_000 * SECOND


class World:
    """An oscillator and a route. difference_ns: true time minus the raw clock now; frequency: its rate."""

    def __init__(self, seed, jitter=1e-4, base=1e-4, wander=1e-9, frequency=-30e-6, normal=False):
        self.rng = Random(seed)
        self.jitter, self.base, self.wander, self.frequency, self.normal = jitter, base, wander, frequency, normal
        self.raw_ns, self.difference_ns, self.rest = 10**12, START, 0.0
        self.forward = 0.0

    def advance(self, seconds):
        for _ in range(seconds):
            self.frequency += self.rng.gauss(0, self.wander)
            self.raw_ns += SECOND
            moved = self.frequency * SECOND + self.rest
            self.difference_ns += int(moved)
            self.rest = moved - int(moved)

    def delay(self):
        if self.normal:
            return max(0.0, self.rng.gauss(5 * self.jitter, self.jitter)) + self.base
        return self.rng.expovariate(1 / self.jitter) + self.base

    def measure(self):
        there, back = self.delay() + self.forward, self.delay()
        return Measurement(self.raw_ns, self.difference_ns + round((there - back) / 2 * SECOND), there + back)

    def run(self, estimator, count, interval=16):
        """The estimate's errors, in standard deviations, after each measurement."""
        found = []
        for _ in range(count):
            estimator.add(self.measure())
            found.append(self.error(estimator) / estimator.predict(self.raw_ns).sd)
            self.advance(interval)
        return found

    def error(self, estimator):
        return (estimator.predict(self.raw_ns).difference_ns - self.difference_ns) / SECOND


def rms(values):
    return sqrt(sum(value * value for value in values) / len(values))


def test_before_the_first_measurement_nothing_is_known():
    estimator = Estimator()
    assert not estimator.started
    with pytest.raises(ValueError, match="no measurement"):
        estimator.predict(0)
    assert estimator.least_delay == 0
    assert estimator.noise > 0
    assert estimator.wander == pytest.approx(10**-8.5)


def test_the_first_measurement_is_the_estimate():
    estimator = Estimator()
    difference_ns = START + 123_456_789
    estimator.add(Measurement(5 * SECOND, difference_ns, 0.012))
    assert estimator.started
    found = estimator.predict(5 * SECOND)
    assert found.difference_ns == difference_ns
    assert found.sd == pytest.approx(0.012 / sqrt(12))
    assert (found.frequency, found.frequency_sd) == (0, pytest.approx(FREQUENCY_SD))
    assert estimator.least_delay == 0.012
    later = estimator.predict(105 * SECOND)
    assert later.difference_ns == difference_ns
    assert later.sd == pytest.approx(100 * FREQUENCY_SD, rel=0.05)
    assert later.covariance == pytest.approx(100 * FREQUENCY_SD**2, rel=0.05)


def test_what_is_known_beforehand():
    estimator = Estimator(frequency=20e-6, frequency_sd=1e-7)
    estimator.add(Measurement(0, START, 1e-4))
    found = estimator.predict(1000 * SECOND)
    assert found.difference_ns == START + 20_000_000
    assert found.sd < 2e-4


@pytest.mark.parametrize(
    ("jitter", "base", "wander", "normal"),
    [
        (5e-6, 50e-6, 1e-9, False),
        (1e-4, 1e-4, 1e-9, False),
        (1e-3, 1e-2, 1e-9, False),
        (1e-4, 1e-4, 1e-8, False),
        (1e-5, 1e-4, 1e-9, True),
    ],
)
def test_the_estimate_is_right_and_says_how_right(jitter, base, wander, normal):
    errors, ratios, frequencies = [], [], []
    for seed in range(4):
        world, estimator = World(seed, jitter, base, wander, normal=normal), Estimator()
        world.run(estimator, 100)
        ratios += world.run(estimator, 300)
        errors.append(abs(world.error(estimator)))
        found = estimator.predict(world.raw_ns)
        frequencies.append((found.frequency - world.frequency) / found.frequency_sd)
    assert 0.55 < rms(ratios) < 1.4
    assert rms(frequencies) < 2.5
    # Far better than any one measurement.
    assert rms(errors) < jitter / 4 + 16 * wander * 100


def test_the_shape_of_the_delays_is_learned():
    """Delays far above the least one, and no offset that depends on them: without the normal shape sigma is too small by half."""
    normal, exponential = Estimator(), Estimator()
    World(1, 1e-5, normal=True).run(normal, 300)
    # The offset of one measurement: (there - back) / 2.
    assert normal.noise == pytest.approx(1e-5 / sqrt(2), rel=0.35)
    World(1, 1e-4).run(exponential, 300)
    assert exponential.noise == pytest.approx(2e-4 / sqrt(12), rel=0.35)


@pytest.mark.parametrize("wander", [1e-9, 1e-8, 1e-7])
def test_the_wander_is_learned(wander):
    found = []
    for seed in range(3):
        world, estimator = World(seed, 2e-5, wander=wander), Estimator()
        world.run(estimator, 400)
        found.append(estimator.wander)
    assert sorted(found)[1] == pytest.approx(wander, rel=0.6)


def test_weights_survive_a_restart():
    world, before = World(1, 2e-5, wander=1e-8), Estimator()
    world.run(before, 400)
    found = before.predict(world.raw_ns)
    after = Estimator(found.frequency, 1e-7, before.weights)
    assert after.wander == pytest.approx(before.wander, rel=0.05)
    after.add(world.measure())
    assert after.weights == pytest.approx(before.weights, abs=2e-3)


@pytest.mark.parametrize("weights", [(), (1.0,), (float("nan"),) * 7, (0.0,) * 7, (-1.0, *(1.0,) * 6), (float("inf"),) * 7])
def test_unusable_weights_are_equal_ones(weights):
    assert Estimator(weights=weights).weights == pytest.approx([1 / len(WANDERS)] * len(WANDERS))


def test_a_leap_second_moves_the_estimate_and_nothing_else():
    world, estimator, other = World(2), Estimator(), Estimator()
    world.run(estimator, 100)
    again = World(2)
    again.run(other, 100)
    estimator.shift(-1)
    assert estimator.predict(world.raw_ns).difference_ns == other.predict(world.raw_ns).difference_ns - SECOND
    assert estimator.predict(world.raw_ns).sd == other.predict(world.raw_ns).sd
    world.difference_ns -= SECOND
    again_ratios, ratios = again.run(other, 50), world.run(estimator, 50)
    assert ratios == pytest.approx(again_ratios)


@pytest.mark.parametrize("jump", [3600 * SECOND, -7 * SECOND, 40_000_000])
def test_a_jump_is_followed_from_the_second_measurement_on(jump):
    """A paused virtual machine: the raw clock stood still, or it counts from elsewhere."""
    world, estimator = World(3), Estimator()
    world.run(estimator, 200)
    world.difference_ns += jump
    estimator.add(world.measure())
    # One measurement may be a server's fault.
    assert abs(world.error(estimator)) > abs(jump) / SECOND / 2
    world.advance(16)
    second = world.measure()
    estimator.add(second)
    assert abs(world.error(estimator)) <= second.delay / 2 + 1e-6
    world.run(estimator, 20)
    assert abs(world.error(estimator)) < 1e-4
    assert abs(estimator.predict(world.raw_ns).frequency - world.frequency) < 1e-6


def test_one_wrong_measurement_moves_nothing():
    world, estimator = World(4), Estimator()
    world.run(estimator, 200)
    before = estimator.predict(world.raw_ns)
    wrong = world.measure()
    estimator.add(Measurement(wrong.at_ns, wrong.difference_ns + 5 * SECOND, wrong.delay))
    after = estimator.predict(world.raw_ns)
    assert abs(after.difference_ns - before.difference_ns) < 1000
    assert after.sd < 2 * before.sd
    # The one before does not count any more after a right one.
    world.advance(16)
    estimator.add(world.measure())
    world.advance(16)
    estimator.add(Measurement(world.raw_ns, world.difference_ns + 5 * SECOND, wrong.delay))
    assert abs(world.error(estimator)) < 1e-4


def test_another_frequency_is_learned_from_three_measurements():
    """A virtual machine on another host: 60 ppm more."""
    world, estimator = World(5), Estimator()
    world.run(estimator, 200)
    world.frequency += 60e-6
    world.run(estimator, 12)
    assert abs(estimator.predict(world.raw_ns).frequency - world.frequency) < 3e-6
    world.run(estimator, 30)
    assert abs(world.error(estimator)) < 1e-4


def test_a_frequency_jump_of_1_ppm_is_no_outlier_for_long():
    world, estimator = World(6), Estimator()
    world.run(estimator, 300)
    world.frequency += 1e-6
    worst = []
    for _ in range(60):
        estimator.add(world.measure())
        worst.append(abs(world.error(estimator)))
        world.advance(16)
    assert max(worst) < 250e-6
    assert max(worst[30:]) < 60e-6


def test_after_a_suspension_the_next_measurement_gives_the_offset():
    world, estimator = World(7), Estimator()
    estimator.forget_offset()
    world.run(estimator, 200)
    frequency = estimator.predict(world.raw_ns).frequency
    estimator.forget_offset()
    world.difference_ns += 8 * 3600 * SECOND
    found = world.measure()
    estimator.add(found)
    assert estimator.predict(world.raw_ns).difference_ns == pytest.approx(found.difference_ns, abs=2)
    assert estimator.predict(world.raw_ns).frequency == pytest.approx(frequency)
    # Only the next one.
    before = estimator.predict(world.raw_ns).difference_ns
    estimator.add(Measurement(world.raw_ns, before + SECOND, 2e-4))
    assert abs(estimator.predict(world.raw_ns).difference_ns - before) < 1_000_000


@pytest.mark.parametrize("seed", range(4))
def test_twenty_ms_in_one_direction_do_not_move_the_estimate(seed):
    world, estimator = World(seed, 1e-3, 1e-2), Estimator()
    world.run(estimator, 300)
    world.forward = 20e-3
    worst = 0.0
    for _ in range(225):
        estimator.add(world.measure())
        worst = max(worst, abs(world.error(estimator)))
        world.advance(16)
    # The measured offsets are wrong by 10 ms.
    assert worst < 0.5e-3
    assert estimator.predict(world.raw_ns).asymmetry == pytest.approx(10e-3, abs=1e-3)
    world.forward = 0.0
    estimator.add(world.measure())
    world.advance(16)
    estimator.add(world.measure())
    assert estimator.predict(world.raw_ns).asymmetry == 0
    assert abs(world.error(estimator)) < 0.5e-3


def test_a_time_before_the_last_measurement_is_refused():
    estimator = Estimator()
    estimator.add(Measurement(SECOND, START, 1e-4))
    with pytest.raises(ValueError, match="before the last measurement"):
        estimator.predict(SECOND - 1)
    with pytest.raises(ValueError, match="before the last measurement"):
        estimator.add(Measurement(SECOND - 1, START, 1e-4))


def test_the_same_measurements_give_the_same_estimate_bit_for_bit():
    one, two = Estimator(), Estimator()
    assert World(8).run(one, 100) == World(8).run(two, 100)
    assert one.weights == two.weights


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**13),
            st.integers(-(10**18), 10**18) | st.integers(-1000, 1000),
            st.floats(0, 10) | st.floats(0, 1e-6),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_no_sequence_of_measurements_breaks_it(steps):
    estimator, at_ns = Estimator(), 0
    for elapsed, difference_ns, delay in steps:
        at_ns += elapsed
        estimator.add(Measurement(at_ns, START + difference_ns, delay))
        found = estimator.predict(at_ns + SECOND)
        assert isfinite(found.sd)
        assert isfinite(found.frequency)
        assert found.frequency_sd >= 0
        assert sum(estimator.weights) == pytest.approx(1)
        assert 0.9e-10 < estimator.wander < 1.1e-7
        assert estimator.noise > 0
