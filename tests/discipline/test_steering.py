"""Steering: time constant, frequency, and slews by the kernel's loop after which a clock that is left alone is no farther off."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.discipline.clock_world import SECOND, Clock
from tsq.discipline.actions import SlewPhase
from tsq.discipline.steering import (
    MOST_PHASE,
    PHASE_END,
    PHASE_LIMIT,
    KernelLoop,
    correction,
    phase,
    time_constant,
    until_next_look,
)

MIDDLE = SECOND // 2


def test_the_time_constant():
    assert time_constant(30e-6, 150e-6, 1000, 32) == 2.0
    assert time_constant(5e-6, 0.03e-6, 10_000, 32) == pytest.approx(166.7, abs=0.1)
    # Calm where polls are rare, quick where they are frequent.
    assert time_constant(5e-6, 0.03e-6, 10_000, 1024) == pytest.approx(333.3, abs=0.1)
    assert time_constant(5e-6, 0.03e-6, 10_000, 1) == pytest.approx(83.3, abs=0.1)
    assert time_constant(5e-6, 0.03e-6, 80, 32) == 20
    assert time_constant(0.0, 0.0, 80, 32) == 2.0


def test_the_correction():
    assert correction(80e-6, 1e-6, 1e-6, 100, 500e-6) == pytest.approx(80e-6 + 1e-8)
    assert correction(80e-6, 1e-3, 1e-3, 1.0, 500e-6) == pytest.approx(580e-6)
    assert correction(80e-6, -5.0, 1e-3, 2.0, 100e-6) == pytest.approx(-20e-6)
    # Thirty times its standard deviation: ten times as fast.
    assert correction(0.0, 30e-6, 1e-6, 100, 500e-6) == pytest.approx(3e-6)
    assert correction(0.0, 30e-6, 0.0, 100, 500e-6) == pytest.approx(15e-6)
    # The oscillator's own error may be beyond what is a slew.
    assert correction(700e-6, 0.0, 1e-6, 100, 500e-6) == 700e-6


def test_what_is_handed_to_the_kernels_loop():
    loop = KernelLoop()
    assert phase(PHASE_LIMIT, loop, MIDDLE) is None
    assert phase(2e-3, loop, MIDDLE) == pytest.approx(4e-3)
    assert phase(9.0, loop, MIDDLE) == MOST_PHASE
    # Backwards a second of the clock is longer.
    assert phase(-9.0, loop, MIDDLE) == pytest.approx(-0.9 * MOST_PHASE)
    loop.set(1e-3)
    assert phase(0.5e-3, loop, MIDDLE) == pytest.approx(2e-3)
    assert phase(PHASE_END, loop, MIDDLE) == 0.0
    loop.set(0.0)
    assert phase(0.5e-3, loop, MIDDLE) is None


@pytest.mark.parametrize("real_ns", [0, 40_000_000, SECOND - 40_000_000])
def test_the_loop_is_left_alone_where_the_kernel_may_begin_a_second(real_ns):
    assert phase(9.0, KernelLoop(), real_ns) is None


@given(st.integers(0, SECOND - 1))
def test_while_the_loop_slews_each_second_is_looked_at_in_its_middle_and_after_its_beginning(here):
    then = (here + until_next_look(here)) % SECOND
    assert then in (SECOND // 2, 5_000_000)
    assert 0 < until_next_look(here) <= SECOND // 2 + 6_000_000


@given(
    st.floats(-0.5, 0.5),
    st.lists(st.integers(1_000_000, 3 * SECOND), max_size=20),
    st.integers(0, SECOND - 1),
)
def test_the_model_is_the_kernels_loop(offset, steps, begin):
    """Against the clock of the tests, which takes its part at each of its seconds."""
    clock = Clock(true_ns=1_800_000_000 * SECOND + begin)
    loop = KernelLoop()
    loop.advance(clock.real_ns)
    clock.perform(SlewPhase(offset))
    loop.set(offset)
    moved, before = 0.0, clock.difference
    for step in steps:
        clock.run_to(clock.true_ns + step)
        moved += loop.advance(clock.real_ns)
        assert moved == pytest.approx((clock.difference - before) / 1e9, abs=2e-6)
        assert loop.pending == pytest.approx(clock.pending / 1e9, abs=1e-6)


@given(st.floats(-3, 3), st.lists(st.integers(100_000_000, 2 * SECOND), max_size=30), st.integers(0, SECOND - 1))
def test_left_alone_at_any_time_the_clock_is_no_farther_off_than_when_the_slew_began(offset, steps, begin):
    clock, loop = Clock(true_ns=1_800_000_000 * SECOND + begin, error_ns=-offset * 1e9), KernelLoop()
    loop.advance(clock.real_ns)
    for step in steps:
        rest = -clock.error(clock.true_ns)
        asked = phase(rest, loop, clock.real_ns)
        if asked is not None:
            clock.perform(SlewPhase(asked))
            loop.set(asked)
        alone = Clock(true_ns=clock.true_ns)
        alone.__dict__.update(clock.__dict__)
        alone.run_to(clock.true_ns + 60 * SECOND)
        assert abs(alone.error(alone.true_ns)) <= abs(offset) + 2e-6
        clock.run_to(clock.true_ns + step)
        loop.advance(clock.real_ns)


def test_a_step_ends_the_loop():
    loop = KernelLoop()
    loop.advance(0)
    loop.set(0.1)
    loop.advance(SECOND)
    assert loop.active
    assert loop.unfinished == pytest.approx(0.025 / 1.025)
    loop.stop()
    assert not loop.active
    assert loop.advance(5 * SECOND) == 0.0


def test_a_long_time_ends_the_loop():
    loop = KernelLoop()
    loop.advance(0)
    loop.set(0.4)
    assert loop.advance(1000 * SECOND) == pytest.approx(0.4)
    assert not loop.active
