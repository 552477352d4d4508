"""The bound never excludes the truth: histories of samples with any delays, and whole worlds with any faults of a minority."""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.discipline.clock_world import SECOND, Clock, Server, World
from tsq.discipline.bound import UNKNOWN, History, Rate, RawInterval
from tsq.discipline.events import Burst, MakeStepNow
from tsq.discipline.settings import ClockSettings, MakeStep, SourceSettings

times = st.lists(st.integers(SECOND // 100, 2000 * SECOND), min_size=1, max_size=30)


@given(
    times,
    st.floats(-100e-6, 100e-6),
    st.floats(0, 15e-6),
    st.integers(0, 2**32),
)
def test_a_history_never_excludes_the_truth(gaps, frequency, tolerance, seed):
    """The oscillator wanders inside the tolerance; the server is wrong by no more than it says."""
    dice = random.Random(seed)
    history, assumed = History(), Rate.around(frequency, tolerance)
    raw, truth = 10 * SECOND, 1_800_000_000 * SECOND
    for gap in gaps:
        raw += gap
        truth += round(gap * dice.uniform(assumed.low, assumed.high))
        there, back, own = (dice.expovariate(1 / 1e-3) for _ in range(3))
        middle = truth + round((there - back) / 2 * 1e9 + dice.uniform(-own, own) * 1e9)
        history.add(raw, middle, (there + back) / 2 + 2e-9, own, assumed)
        assert len(history) <= 9
        later = dice.randrange(0, 100 * SECOND)
        for at, now in ((raw, truth), (raw + later, truth + round(later * dice.uniform(assumed.low, assumed.high)))):
            found, rate = history.at(at, assumed)
            # Rounding the truth to whole ns at each step is not the history's fault.
            assert found.low_ns - len(gaps) <= now <= found.high_ns + len(gaps)
            assert rate.low <= assumed.low
            assert rate.high >= assumed.high


@given(
    times,
    st.floats(-100e-6, 100e-6),
    st.integers(0, 2**32),
)
def test_the_frequency_that_samples_prove_is_the_true_one(gaps, frequency, seed):
    dice = random.Random(seed)
    history, raw = History(), 10 * SECOND
    for gap in gaps:
        raw += gap
        there, back, own = (dice.expovariate(1 / 1e-3) for _ in range(3))
        middle = round(frequency * raw + ((there - back) / 2 + dice.uniform(-own, own)) * 1e9)
        history.add(raw, middle, (there + back) / 2 + 2e-9, own, Rate.around(frequency, 1e-6))
    proven = history.proven()
    if len(gaps) == 1:
        assert proven is None
    assert proven is None or proven.low <= frequency <= proven.high


def test_samples_over_a_long_time_prove_the_frequency():
    history, rate = History(), Rate.around(0.0, 15e-6)
    for number in range(200):
        history.add(number * 16 * SECOND, (-1) ** number * 2_000_000, 10e-3, 0.0, rate)
    proven = history.proven()
    assert proven.high - proven.low < 30e-6, "2 x 20 ms in 3,184 s, and some more"


def test_more_samples_make_it_smaller():
    history, rate = History(), Rate.around(0.0, 15e-6)
    widths = []
    for number in range(8):
        history.add(number * SECOND, (-1) ** number * 50_000, 100e-6, 0.0, rate)
        found, _ = history.at(number * SECOND, rate)
        widths.append(found.high_ns - found.low_ns)
    assert widths[0] == 200_000
    assert widths[1] == 100_000 + 15_000
    assert max(widths[1:]) <= 115_000


def test_an_oscillator_beyond_the_tolerance_is_noticed():
    """800 ppm: two samples show it, and the interval ages by what they show."""
    history, rate = History(), Rate.around(0.0, UNKNOWN)
    for number in range(3):
        history.add(number * SECOND, number * 800_000, 50e-6, 0.0, rate)
    found, shown = history.at(2 * SECOND, rate)
    assert found.low_ns <= 1_600_000 <= found.high_ns
    assert shown.high >= 800e-6
    later, _ = history.at(10 * SECOND, rate)
    assert later.low_ns <= 8_000_000 <= later.high_ns


def test_contradictions_give_the_hull_until_the_old_samples_are_gone():
    history, rate = History(), Rate.around(0.0, 15e-6)
    for number in range(6):
        history.add(number * SECOND, 0, 50e-6, 0.0, rate)
    for number in range(6, 16):
        history.add(number * SECOND, 5 * SECOND, 50e-6, 0.0, rate)
        found, _ = history.at(number * SECOND, rate)
        assert found.low_ns <= 5 * SECOND <= found.high_ns
        assert (found.low_ns <= 0) is (number < 13)


def test_a_larger_error_that_is_reported_later_counts_for_older_samples():
    history, rate = History(), Rate()
    history.add(0, 0, 10e-6, 1e-6, rate)
    history.add(SECOND, 0, 1e-3, 500e-6, rate)
    found, _ = history.at(SECOND, rate)
    assert found.low_ns <= -510_000


def test_a_leap_second_shifts_everything():
    history, rate = History(), Rate()
    history.add(0, 0, 10e-6, 0.0, rate)
    before, _ = history.at(SECOND, rate)
    history.shift(-1)
    assert history.at(SECOND, rate)[0] == before.shifted(-SECOND)
    history.clear()
    assert history.at(SECOND, rate) is None
    assert history.first_ns is None


def test_intervals():
    one = RawInterval(0, -10, 20)
    assert one.aged(SECOND, Rate(-1e-9, 2e-9)) == RawInterval(SECOND, -11, 22)
    assert one.aged(-SECOND, Rate(-1e-9, 2e-9)) == RawInterval(-SECOND, -12, 21)
    assert one.gap_ns(RawInterval(0, 25, 30)) == 5
    assert one.gap_ns(RawInterval(0, -30, -15)) == -5
    assert one.gap_ns(RawInterval(0, 20, 30)) == 0
    assert [one.clamp(at) for at in (-11, 0, 21)] == [-10, 0, 20]
    assert one.distance_from(0) == 20e-9
    assert one.hull(RawInterval(0, -5, 30)) == RawInterval(0, -10, 30)


def always(value: float):
    return lambda seconds: value


def losing(part: float):
    return lambda seconds, dice: dice.random() < part


def for_300_s(value: float, since: float):
    return lambda seconds: value if since < seconds < since + 300 else 0.0


def lie(wrong: float, since: float, rate: float):
    return lambda seconds: wrong + (seconds - since) * rate if seconds > since else 0.0


def any_world(seed: int) -> World:
    """Any number of sources of which a minority lies, any delays, losses, routes, wander, steps by others, suspensions, pauses."""
    dice = random.Random(seed)
    number = dice.randint(1, 6)
    base = 10 ** dice.uniform(-4.3, -1.7)
    found = [
        Server(
            name,
            base=base * dice.uniform(0.5, 2),
            jitter=base * dice.uniform(0.05, 1),
            error=dice.choice([None, 5e-6, 1e-3]),
            settings=SourceSettings(min_poll=dice.randint(0, 4), max_poll=dice.randint(4, 7)),
        )
        for name in "abcdef"[:number]
    ]
    for one in found:
        own = (one.error or 0.01) * 0.9
        one.offset = always(dice.uniform(-own, own))
        one.lost = losing(dice.uniform(0, 0.6))
        if dice.random() < 0.3:
            one.extra = for_300_s(base * dice.uniform(0, 10), dice.uniform(0, 600))
    for liar in found[: (number - 1) // 2]:
        liar.offset = lie(dice.uniform(-0.2, 0.2), dice.uniform(-300, 600), dice.uniform(-1e-3, 1e-3))
        liar.extra = lambda seconds: 0.0
    ppm, swing = dice.uniform(-120e-6, 120e-6), dice.uniform(0, 5e-6)
    error = dice.choice([0, 0.2, -30, 4000])
    clock = Clock(error_ns=error * SECOND, frequency=lambda seconds: ppm + swing * ((seconds // 100) % 2))
    rules = ClockSettings(makestep=dice.choice([MakeStep(), None, MakeStep(0.1, -1)]))
    world = World(found, clock=clock, settings=rules, seed=seed)
    world.liars = {one.name for one in found[: (number - 1) // 2]}
    for _ in range(6):
        world.run(dice.uniform(50, 250))
        what = dice.randrange(7)
        if what == 0:
            world.clock.step(dice.choice([-3, 0.2, -0.01, 0.0004]))
        elif what == 1:
            world.clock.suspend(dice.uniform(1, 10_000), dice.uniform(-2, 2))
        elif what == 2:
            world.clock.pending += dice.uniform(-0.1, 0.1) * SECOND
        elif what == 3:
            world.clock.correction = dice.uniform(-500e-6, 500e-6)
        elif what == 4:
            world.give(MakeStepNow())
        elif what == 5:
            world.pause(10 ** dice.uniform(0, 4))
        else:
            world.give(Burst())
    return world


@settings(max_examples=40, deadline=None, derandomize=True)
@example(143)
@example(861)
@given(st.integers(0, 2**32))
def test_no_published_bound_is_false_in_any_world(seed):
    world = any_world(seed)
    assert world.checked > 50
    assert (world.broken, world.kernel_broken) == (0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_a_dead_daemons_kernel_goes_on_with_a_true_bound(seed):
    """What the kernel was last given, with its own 500 ppm, holds for as long as nobody is there."""
    world = World([Server(name) for name in "abc"], clock=Clock(error_ns=0.4 * SECOND, frequency=lambda seconds: 90e-6), seed=seed)
    world.run([2.5, 7.5, 20.5, 100.5][seed])
    clock, begun, error = world.clock, world.clock.true_ns, world.clock.max_error
    for seconds in (1, 5, 10, 60, 600):
        clock.run_to(begun + seconds * SECOND)
        assert abs(clock.error(clock.true_ns)) <= error + 500e-6 * (seconds + 1)
