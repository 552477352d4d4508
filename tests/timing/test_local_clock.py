"""The local clock: movements, steps, and the range of its drift."""

import pytest

from tsq.timing.local_clock import (
    SLEWED,
    TOLERANCE,
    UNDISCIPLINED,
    ClockReading,
    Movement,
    drift_range,
    greatest_drift,
    movement,
)

T = 1_800_000_000_000_000_000
SECOND = 1_000_000_000


def read(seconds=0.0, difference_ns=0, **more):
    return ClockReading(T + round(seconds * SECOND), difference_ns, **{"frequency": 0.0, "synchronized": True, **more})


def test_a_steady_clock_does_not_move():
    # The kernel corrects the raw clock by 40 ppm; that is no slew.
    moved = movement(read(frequency=40e-6), read(10.0004, 400_000, frequency=40e-6))
    assert moved.moved_ns == 0
    assert moved.elapsed_ns == 10 * SECOND


def test_a_slew_is_what_the_clock_moves_beyond_the_kernels_frequency():
    moved = movement(read(frequency=40e-6), read(10, 50_400_000, frequency=40e-6))
    assert moved.moved_ns == pytest.approx(50_000_000, rel=1e-3)
    assert moved.notable
    assert not moved.stepped
    assert moved.rate == pytest.approx(5e-3, rel=0.01)


def test_a_slew_that_the_kernel_makes_by_its_frequency_is_seen_where_the_frequency_changes():
    moved = movement(read(frequency=0.0), read(10, 0, frequency=1000e-6))
    assert moved.moved_ns == -5_000_000


def test_a_difference_within_the_error_of_the_readings_is_no_movement():
    assert movement(read(width_ns=100), read(1, 150, width_ns=100)) == Movement(0, 200, SECOND - 150)
    assert movement(read(width_ns=100), read(1, 250, width_ns=100)).moved_ns == 250
    assert not movement(read(width_ns=100), read(1, 250, width_ns=100)).notable


@pytest.mark.parametrize(("step_ns", "stepped"), [(3 * SECOND, True), (-3 * SECOND, True), (2_000_000, True), (900_000, False)])
def test_a_movement_faster_than_any_slew_is_a_step(step_ns, stepped):
    assert movement(read(), read(0.001 + step_ns / SECOND, step_ns)).stepped is stepped


def test_without_two_readings_there_is_no_movement():
    assert movement(None, read()) == movement(read(), None) == Movement()
    assert Movement().rate == 0.0


def test_the_frequency_tolerance_follows_from_the_kernels_state():
    assert drift_range([]) == (-TOLERANCE, TOLERANCE)
    assert drift_range([None], 40e-6) == (-40e-6, 40e-6)
    assert drift_range([read(frequency=40e-6)]) == pytest.approx((-TOLERANCE, TOLERANCE))
    assert drift_range([read(synchronized=False)]) == (-UNDISCIPLINED, UNDISCIPLINED)
    # One unsynchronized reading is enough.
    assert drift_range([read(), read(synchronized=False)]) == (-UNDISCIPLINED, UNDISCIPLINED)
    assert drift_range([read(frequency=None, synchronized=False)]) == (-UNDISCIPLINED, UNDISCIPLINED)


def test_a_correction_that_changes_may_be_a_slew():
    # Either correction may be the right one.
    low, high = drift_range([read(frequency=0.0), read(frequency=60e-6)])
    assert (low, high) == pytest.approx((-75e-6, 75e-6))


def test_a_correction_larger_than_any_clock_needs_may_be_a_slew():
    low, high = drift_range([read(frequency=1000e-6)])
    assert (low, high) == pytest.approx((-1100e-6, 15e-6))


def test_the_correction_of_an_unsynchronized_clock_may_be_wrong():
    low, high = drift_range([read(frequency=80e-6, synchronized=False)])
    # The raw clock may be off by 100 ppm, or the corrected one.
    assert (low, high) == pytest.approx((-180e-6, 100e-6))


def test_without_a_raw_clock_a_slew_that_nothing_shows_is_in_the_drift():
    """The BSDs: adjtime(2) slews both clocks that can be compared, by up to 5000 ppm; a crystal is off by up to 100 ppm."""
    readings = [ClockReading(T + second * SECOND, 0, raw=False) for second in range(2)]
    assert movement(*readings).moved_ns == 0
    assert greatest_drift(*readings) == SLEWED == pytest.approx(5100e-6)
    assert drift_range(readings) == (-SLEWED, SLEWED)
    # One of them is enough.
    assert greatest_drift(readings[0], read(1)) >= SLEWED
