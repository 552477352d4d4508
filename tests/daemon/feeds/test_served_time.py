"""The time that the NTP server gives: it reaches each new estimate, and gets there without a jump."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.daemon.feeds.served_time import ServedTime

SECOND = 1_000_000_000
ESTIMATES = st.lists(st.tuples(st.integers(1, 64 * SECOND), st.integers(-2_000_000, 2_000_000)), min_size=1, max_size=20)


def test_it_goes_on_with_the_frequency_of_the_oscillator():
    served = ServedTime(5 * SECOND, 1000 * SECOND, 100e-6)
    assert served.at(5 * SECOND) == 1000 * SECOND
    assert served.at(15 * SECOND) == 1010 * SECOND + 1_000_000
    assert served.lag_at(15 * SECOND) == 0


@pytest.mark.parametrize("change", [1_000_000, -1_000_000])
def test_a_small_change_is_slewed_at_200_ppm(change):
    served = ServedTime(0, 0)
    served.update(0, change, 0.0)
    assert served.at(0) == 0
    sign = 1 if change > 0 else -1
    for seconds in (1, 2, 5, 6, 100):
        done = min(seconds * 200_000, 1_000_000)
        assert served.at(seconds * SECOND) == seconds * SECOND + sign * done
        assert served.lag_at(seconds * SECOND) == sign * (1_000_000 - done)


@pytest.mark.parametrize(("change", "stepped"), [(10_000_000, False), (10_000_001, True), (-10_000_001, True), (-SECOND, True)])
def test_a_large_change_is_a_step(change, stepped):
    served = ServedTime(0, 0)
    served.update(7, 7 + change, 0.0)
    assert (served.at(7) == 7 + change) == stepped
    assert (served.lag_at(7) == 0) == stepped


@given(ESTIMATES, st.floats(-1e-4, 1e-4))
def test_small_changes_never_make_it_jump_or_run_more_than_200_ppm_off(estimates, frequency):
    served, raw, offset = ServedTime(0, 0, frequency), 0, 0
    for elapsed, change in estimates:
        before_ns = served.at(raw)
        raw += elapsed
        there = served.at(raw)
        assert abs(there - before_ns - elapsed * (1 + frequency)) <= elapsed * 200e-6 + 2
        offset = max(-5_000_000, min(5_000_000, offset + change))
        true_ns = raw + round(raw * frequency) + offset
        served.update(raw, true_ns, frequency)
        if abs(true_ns - there) <= 10_000_000:
            assert served.at(raw) == there
        assert served.at(raw) + served.lag_at(raw) == true_ns
    # In the end it is the newest estimate.
    late = raw + 60 * SECOND
    assert abs(served.at(late) - (true_ns + (late - raw) * (1 + frequency))) <= 2
