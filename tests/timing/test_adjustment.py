"""The adjustment of the clock: every refusal, steps and slews at their limits."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.errors import ConfigError
from tsq.timing.adjustment import (
    Circumstances,
    ClockLimits,
    LeaveAlone,
    MeasuredDrift,
    Refusal,
    Slew,
    Step,
    decide,
    drift_between,
    drift_of,
    hindrances_of,
    time_constant,
    widened,
)
from tsq.timing.filter import estimate
from tsq.timing.intersection import Interval
from tsq.timing.sample import make_sample
from tsq.timing.selection import Agreed, Mark, NoTime, Selection, Source, Verdict

QUIET = Circumstances()
SILENT = Verdict(Source("b"), Mark.UNUSABLE)
ESTIMATE = estimate([make_sample(1_000, 2_000, 2_000, 3_000)])


def agreed(offset: float, root_distance: float = 0.01, jitter: float = 0.001) -> Selection:
    interval = Interval(offset - root_distance, offset + root_distance)
    return Selection((), 0, Agreed(offset, root_distance, interval, jitter, compared=4, survivors=4))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("offset", "expected"), [(0.0, Slew), (1e-9, Slew), (0.5, Slew), (0.500001, Step), (1000.0, Step), (1000.001, LeaveAlone)]
)
def test_limits_hold_to_the_digit_either_way(offset, expected, sign):
    assert isinstance(decide(agreed(sign * offset), ClockLimits(), QUIET), expected)


def test_limits_are_configurable():
    assert isinstance(decide(agreed(0.2), ClockLimits(step=0.1), QUIET), Step)
    assert isinstance(decide(agreed(1e-9), ClockLimits(step=0.0), QUIET), Step)
    assert decide(agreed(11.0), ClockLimits(panic=10.0), QUIET).reason is Refusal.TOO_FAR
    assert isinstance(decide(agreed(1e9), ClockLimits(force=True), QUIET), Step)


@pytest.mark.parametrize(
    "limits", [{"step": -0.1}, {"step": 0.51}, {"step": math.nan}, {"panic": 0}, {"panic": math.inf}, {"panic": math.nan}]
)
def test_limits_that_make_no_sense_are_refused(limits):
    with pytest.raises(ConfigError):
        ClockLimits(**limits)


@pytest.mark.parametrize("problem", NoTime)
def test_without_an_agreement_the_clock_is_left_alone_and_the_reason_is_given(problem):
    heard = Verdict(Source("a", ESTIMATE), Mark.UNUSABLE)
    action = decide(Selection((heard, SILENT), 0, None, problem), ClockLimits(force=True), QUIET)
    assert action == LeaveAlone(Refusal.NO_TIME, problem.value)


def test_no_answer_at_all_has_its_own_reason():
    action = decide(Selection((SILENT, SILENT), 0, None, NoTime.NO_SOURCE), ClockLimits(force=True), QUIET)
    assert action == LeaveAlone(Refusal.NO_ANSWER)


@pytest.mark.parametrize(
    ("circumstances", "reason"),
    [
        (Circumstances(owner="chronyd, process 7"), Refusal.OWNED),
        (Circumstances(may_set=False), Refusal.NOT_PERMITTED),
        (Circumstances(stepped=-0.0011), Refusal.STEPPED),
        (Circumstances(slewed=-60e-6, seconds=0.3), Refusal.SLEWED),
        (Circumstances(slewed=2.1e-3, seconds=20.0), Refusal.SLEWED),
        (Circumstances(interrupted=True), Refusal.INTERRUPTED),
    ],
)
def test_force_does_not_override_an_owner_a_missing_permission_or_a_moved_clock(circumstances, reason):
    for offset in (0.1, 3.0):
        assert decide(agreed(offset), ClockLimits(force=True), circumstances).reason is reason


@pytest.mark.parametrize(
    ("circumstances", "reasons"),
    [
        (QUIET, []),
        (Circumstances("ntpd", may_set=False), [Refusal.OWNED, Refusal.NOT_PERMITTED]),
        (Circumstances("ntpd"), [Refusal.OWNED]),
        (Circumstances(may_set=False), [Refusal.NOT_PERMITTED]),
    ],
)
def test_a_dry_run_lists_the_hindrances_and_decides_without_them(circumstances, reasons):
    hindrances = hindrances_of(circumstances)
    assert [refusal.reason for refusal in hindrances] == reasons
    real = decide(agreed(3.0), ClockLimits(), circumstances)
    assert real == hindrances[0] if hindrances else isinstance(real, Step)
    assert isinstance(decide(agreed(3.0), ClockLimits(), replace(circumstances, dry_run=True)), Step)


@pytest.mark.parametrize(
    ("offset", "circumstances", "reason"),
    [
        (2000.0, QUIET, Refusal.TOO_FAR), (3.0, Circumstances(stepped=1.0), Refusal.STEPPED),
        (3.0, Circumstances(interrupted=True), Refusal.INTERRUPTED),
    ],
)
def test_a_dry_run_also_refuses_a_bad_measurement(offset, circumstances, reason):
    assert decide(agreed(offset), ClockLimits(), replace(circumstances, dry_run=True)).reason is reason


def test_a_small_difference_between_two_clock_readings_is_no_step():
    assert isinstance(decide(agreed(0.1), ClockLimits(), Circumstances(stepped=0.0009)), Slew)


def test_actions_carry_the_bounds_for_the_kernel():
    step = decide(agreed(3.0, 0.02, 0.003), ClockLimits(), QUIET)
    assert step == Step(3.0, 0.02, 0.003)
    slew = decide(agreed(-0.02, 0.02, 0.003), ClockLimits(), QUIET)
    assert (slew.offset, slew.max_error, slew.estimated_error) == (-0.02, 0.02, 0.003)


@given(st.floats(-0.5, 0.5, allow_nan=False))
def test_a_slew_is_as_fast_as_the_rate_limit_permits(offset):
    constant = time_constant(offset)
    assert 0 <= constant <= 10
    assert abs(offset) / 2 ** (2 + constant) <= 5e-3
    if constant > 0:
        assert abs(offset) / 2 ** (1 + constant) > 5e-3


def test_the_duration_of_a_slew_follows_from_its_time_constant():
    assert Slew(0.001, 0, 0.0, 0.0).seconds == 17
    assert Slew(0.5, time_constant(0.5), 0.0, 0.0).seconds == 588


# -------------------------------------------------------------------------------------------- slews by others, and the drift


@pytest.mark.parametrize("circumstances", [Circumstances(slewed=40e-6, seconds=0.3), Circumstances(slewed=-1.9e-3, seconds=20.0)])
def test_a_slow_slew_by_another_program_is_no_refusal(circumstances):
    assert isinstance(decide(agreed(3.0), ClockLimits(), circumstances), Step)


def test_a_slew_by_another_program_does_not_stop_a_dry_run_and_the_owner_is_reported_first():
    slewed = Circumstances(slewed=1.0, seconds=1.0, dry_run=True)
    assert isinstance(decide(agreed(3.0), ClockLimits(), slewed), Step)
    owned = replace(slewed, dry_run=False, owner="ntpd")
    assert decide(agreed(3.0), ClockLimits(), owned).reason is Refusal.OWNED


def test_a_bound_is_widened_on_both_sides():
    chosen = widened(agreed(3.0, root_distance=0.01), 0.002)
    assert chosen.agreed.root_distance == pytest.approx(0.012)
    assert (chosen.agreed.interval.low, chosen.agreed.interval.high) == pytest.approx((2.988, 3.012))
    none = Selection((SILENT,), 0, None, NoTime.NO_SOURCE)
    assert widened(none, 0.1) is none


@given(
    st.floats(-500, 500), st.floats(-500, 500), st.floats(5, 1000), st.floats(-0.5, 0.5), st.floats(-1, 1), st.floats(-1, 1)
)
def test_two_measurements_show_the_drift_within_its_bound(oscillator, frequency, seconds, slewed, wrong, other):
    """The clock is 0.3 s behind, drifts by its oscillator and its frequency correction, and is slewed in between."""
    unset, rate, bound = oscillator * 1e-6, frequency * 1e-6, 1e-4
    gained = rate * seconds + slewed
    offset = 0.3 - unset * seconds - gained
    drift = drift_between((0.3 + wrong * bound, bound), (offset + other * bound, bound), seconds, gained, rate)
    assert abs(drift.ppm - oscillator - frequency) <= drift.error_ppm + 1e-6
    assert drift.error_ppm == pytest.approx(2 * bound / seconds * 1e6)


def sample(second: int, offset_us: int, delay_us: int = 100):
    t1 = second * 1_000_000_000
    middle = t1 + delay_us * 500 + offset_us * 1000
    return make_sample(t1, middle, middle, t1 + delay_us * 1000)


def test_samples_show_the_drift_and_the_most_certain_source_is_taken():
    exact = [sample(second, -80 * second) for second in range(30)]
    vague = [sample(second, -10 * second, delay_us=50_000) for second in range(30)]
    drift = drift_of([vague, exact, []])
    assert drift.ppm == pytest.approx(80, abs=1)
    assert drift.error_ppm < 10
    assert drift.useful
    assert drift.most_ppm == pytest.approx(drift.ppm + drift.error_ppm)
    assert not drift_of([vague]).useful


def test_too_few_samples_show_no_drift():
    assert drift_of([]) is None
    assert drift_of([[sample(1, 0)]]) is None
    assert drift_of([[sample(1, 0), sample(1, 0)]]) is None
    assert not drift_of([[sample(1, 0), sample(3, 0)]]).useful


def test_the_largest_drift_counts_in_both_directions():
    assert MeasuredDrift(-80.0, 5.0, 30.0).most_ppm == MeasuredDrift(80.0, 5.0, 30.0).most_ppm == 85.0


def test_a_refusal_shows_its_detail():
    assert LeaveAlone(Refusal.OWNED).text == "another program keeps the clock"
    assert LeaveAlone(Refusal.OWNED, "ntpd").text == "another program keeps the clock (ntpd)"
