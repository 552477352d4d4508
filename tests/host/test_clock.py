"""SystemClock against the virtual kernel: what a step and a slew do, what they report, and what they leave alone."""

import inspect
import os
import time

import pytest

from tests.support import kernel
from tests.support.kernel import VirtualKernel
from tsq import _fast
from tsq._fast import ns_from_ntp, ntp_from_ns
from tsq.errors import AlreadyRunning, ClockError, NotPermitted
from tsq.host import _clock
from tsq.host import clock as clock_module
from tsq.host.clock import Kernel, SystemClock, build_time_ns, clock_reading, era_pivot_ns, now_ns, precision_ns
from tsq.timing.adjustment import Slew, time_constant
from tsq.timing.local_clock import UNDISCIPLINED

SECOND = 1_000_000_000


@pytest.fixture
def twin() -> VirtualKernel:
    return VirtualKernel(error_ns=0.0)


@pytest.fixture
def clock(twin: VirtualKernel) -> SystemClock:
    return SystemClock(twin)


def test_the_virtual_kernel_has_the_calls_of_the_real_one_with_their_parameters(twin):
    calls = {name: call for name, call in inspect.getmembers(Kernel()) if not name.startswith("_")}
    assert set(calls) > {"read", "adjust", "read_old_slew", "stop_old_slew", "now_ns", "monotonic_ns", "raw_ns"}
    for name in set(calls) - {"adjust"}:
        # The other calls have no parameter.
        assert not inspect.signature(getattr(twin, name)).parameters, name
    with pytest.raises(TypeError, match="tai"):
        twin.adjust(0, tai=37)
    assert (twin.adjust(0), twin.calls) == (twin.read(), [(0, {})])


@pytest.mark.parametrize("offset", [0.6, -0.3, -0.5000000001, 1.0, -2.0, 1e-9, -1e-9, 1_700_000_000.25, -1_700_000_000.75])
def test_a_step_moves_the_clock_by_the_offset_at_once(clock, twin, offset):
    before = twin.now_ns()
    clock.step(offset, max_error=0.001, estimated_error=0.0001)
    assert twin.now_ns() - before == round(offset * 1e9)


def test_a_step_back_is_a_whole_second_back_and_nanoseconds_forward(clock, twin):
    clock.step(-0.3, max_error=0.001, estimated_error=0.0)
    ((modes, values),) = twin.calls
    assert modes == kernel.SETOFFSET | kernel.NANO | kernel.STATUS | kernel.MAXERROR | kernel.ESTERROR
    assert (values["seconds"], values["nanoseconds"]) == (-1, 700_000_000)


def test_a_step_reports_the_errors_and_ends_the_mark_unsynchronized(clock, twin):
    assert not clock.state().synchronized
    clock.step(1.0, max_error=0.00123456, estimated_error=0.0000001)
    state = clock.state()
    assert state.synchronized
    # Rounded up: a bound is never reported too small.
    assert twin.maxerror_us == 1235
    assert twin.esterror_us == 1
    assert (state.max_error, state.estimated_error) == (0.001235, 0.000001)


def test_errors_of_more_than_16_seconds_are_reported_as_16(clock, twin):
    clock.step(1.0, max_error=1e9, estimated_error=20.0)
    assert (twin.maxerror_us, twin.esterror_us) == (16_000_000, 16_000_000)


def test_a_step_cancels_the_rest_of_a_slew(clock, twin):
    clock.slew(0.4, time_constant=5, max_error=0.001, estimated_error=0.0)
    clock.step(1.0, max_error=0.001, estimated_error=0.0)
    assert clock.state().pending == 0.0
    before = twin.error_ns
    twin.run(100)
    assert twin.error_ns == before


@pytest.mark.parametrize("bit", [kernel.INS, kernel.DEL])
@pytest.mark.parametrize("change", ["step", "slew", "slew_phase", "stop_slewing", "mark_unsynchronized"])
def test_an_announced_leap_second_stays_announced(clock, twin, bit, change):
    twin.status |= bit
    errors = {"max_error": 0.1, "estimated_error": 0.1}
    arguments = {"step": (1.0,), "slew": (0.1,), "slew_phase": (0.1,)}.get(change, ())
    more = {"step": errors, "slew": {**errors, "time_constant": 3}}.get(change, {})
    getattr(clock, change)(*arguments, **more)
    assert twin.status & (kernel.INS | kernel.DEL) == bit
    assert clock.state().leap == (1 if bit == kernel.INS else 2)


@pytest.mark.parametrize("offset", [0.4, -0.4, 0.05, -0.003, 1e-5])
def test_a_slew_corrects_the_clock_and_takes_the_announced_time(clock, twin, offset):
    twin.error_ns = -offset * 1e9
    constant = time_constant(offset)
    clock.slew(offset, time_constant=constant, max_error=0.001, estimated_error=0.0)
    twin.run(1)
    after_a_second = twin.error + offset
    assert after_a_second == pytest.approx(offset * 2.0 ** -(2 + constant), rel=0.02)
    assert abs(after_a_second) <= 5e-3
    twin.run(Slew(offset, constant, 0.0, 0.0).seconds - 1)
    assert abs(twin.error) <= abs(offset) * 0.0101 + 1e-8
    assert clock.state().pending == pytest.approx(-twin.error, abs=1e-8)


def test_a_slew_leaves_the_frequency_alone_also_when_the_loop_was_on_before(clock, twin):
    twin.status |= kernel.PLL
    twin.frequency = 12 << 16
    twin.run(1000)
    clock.slew(0.1, time_constant=4, max_error=0.001, estimated_error=0.0)
    assert clock.state().frequency_ppm == 12.0


def test_the_virtual_kernel_changes_the_frequency_without_freqhold(twin):
    """The reason for STA_FREQHOLD: without it the same calls change the frequency."""
    twin.status |= kernel.PLL
    twin.run(1000)
    twin.adjust(kernel.STATUS | kernel.NANO | kernel.OFFSET, status=kernel.PLL, offset=100_000_000)
    assert twin.frequency != 0


def test_the_virtual_kernel_slews_nothing_without_the_loop(twin):
    """The reason for STA_PLL: without it ADJ_OFFSET does nothing."""
    twin.adjust(kernel.NANO | kernel.OFFSET, offset=100_000_000)
    twin.run(10)
    assert twin.error_ns == 0.0


def test_a_stopped_slew_stays_where_it_is(clock, twin):
    twin.error_ns = -4e8
    clock.slew(0.4, time_constant=5, max_error=0.001, estimated_error=0.0)
    twin.run(30)
    clock.stop_slewing()
    stopped_at = twin.error_ns
    twin.run(1000)
    assert twin.error_ns == stopped_at
    assert clock.state().pending == 0.0
    assert clock.state().synchronized


def test_stopping_does_not_make_a_clock_synchronized(clock):
    clock.stop_slewing()
    assert not clock.state().synchronized


def test_a_clock_with_a_reported_error_becomes_unsynchronized_by_itself(clock, twin):
    clock.step(1.0, max_error=0.5, estimated_error=0.0)
    twin.run(31_000)
    assert clock.state().synchronized
    twin.run(2)
    assert not clock.state().synchronized
    assert clock.state().max_error == 16.0


def test_marked_unsynchronized(clock, twin):
    clock.step(1.0, max_error=0.5, estimated_error=0.0)
    clock.mark_unsynchronized()
    assert not clock.state().synchronized
    assert clock.state().max_error == 16.0


def test_microseconds_of_a_kernel_that_does_not_count_nanoseconds(clock, twin):
    twin.pending_ns = 123_456_789
    assert clock.state().pending == pytest.approx(0.123456, abs=1e-12)
    twin.status |= kernel.IN_NS
    assert clock.state().pending == pytest.approx(0.123456789, abs=1e-12)


def test_readings_tell_steps_from_slews_and_slews_from_the_steady_frequency(clock, twin):
    twin.frequency, twin.drift_ppm = 7 << 16, 30.0
    before = clock.reading()
    clock.slew(0.4, time_constant=3, max_error=0.001, estimated_error=0.0)
    assert clock.reading().since(before).total == 0.0
    twin.run(10)
    left = clock.state().pending
    moved = clock.reading().since(before)
    assert moved.stepped == 0.0
    assert moved.seconds == pytest.approx(10.0003)
    assert moved.beyond(clock.state().rate) == pytest.approx(0.4 - left, abs=1e-7)
    twin.step_by_another(-2.5)
    moved = clock.reading().since(before)
    assert moved.stepped == pytest.approx(-2.5, abs=1e-7)
    assert moved.beyond(clock.state().rate) == pytest.approx(-2.1 - left, abs=1e-7)


def test_a_tick_of_unusual_length_is_part_of_the_steady_rate(clock, twin):
    twin.tick, twin.frequency = 10_002, -(50 << 16)
    assert clock.state().tick_ppm == pytest.approx(200.0)
    before = clock.reading()
    twin.run(10)
    moved = clock.reading().since(before)
    assert moved.slewed == pytest.approx(150e-6 * 10, abs=1e-9)
    assert moved.beyond(clock.state().rate) == pytest.approx(0.0, abs=1e-9)


def test_a_slew_of_adjtime_3_is_seen_and_stopped_as_well(clock, twin):
    twin.old_slew_us = -70_000
    assert clock.state().pending == pytest.approx(-0.07)
    before = clock.reading()
    twin.run(2)
    assert clock.reading().since(before).beyond(0.0) == pytest.approx(-0.001)
    clock.stop_slewing()
    assert clock.state().pending == 0.0
    assert twin.old_slew_us == 0


def test_a_kernel_that_cannot_report_adjtime_3_has_no_such_slew(clock, twin):
    def refuse() -> int:
        raise ClockError("the kernel refuses to change the clock: Invalid argument")

    twin.read_old_slew = refuse
    assert clock.state().pending == 0.0
    clock.stop_slewing()


def test_a_slew_without_errors_reports_none(clock, twin):
    twin.maxerror_us, twin.esterror_us = 700, 70
    for status in (0, kernel.UNSYNC):
        twin.status = status
        clock.slew(0.1, time_constant=3)
        clock.hasten(2)
        assert (twin.maxerror_us, twin.esterror_us) == (700, 70)
        assert twin.status & kernel.UNSYNC == status
        assert twin.constant == 2


def test_errors_are_reported_with_and_without_ending_the_mark_unsynchronized(clock, twin):
    clock.report_error(0.2, 0.01)
    assert not clock.state().synchronized
    assert (twin.maxerror_us, twin.esterror_us) == (200_000, 10_000)
    clock.slew(0.1, time_constant=3)
    clock.confirm(0.3, 0.02)
    assert clock.state().synchronized
    assert (twin.maxerror_us, twin.esterror_us) == (300_000, 20_000)
    assert clock.state().pending == pytest.approx(0.1), "a slew goes on"


STEADY = {"max_error": 0.002, "estimated_error": 0.0003, "synchronized": True}
ALL_MODES = kernel.FREQUENCY | kernel.NANO | kernel.STATUS | kernel.MAXERROR | kernel.ESTERROR


def test_steering_sets_the_frequency_the_errors_and_the_status_in_one_call(clock, twin):
    clock.steer(12.5e-6, **STEADY)
    ((modes, _),) = twin.calls
    assert modes == ALL_MODES
    assert clock.state().frequency_ppm == 12.5
    assert (clock.state().max_error, clock.state().estimated_error, clock.state().synchronized) == (0.002, 0.0003, True)
    before = clock.daemon_reading()
    twin.run(100)
    after = clock.daemon_reading()
    assert after.difference_ns - before.difference_ns == pytest.approx(12.5e-6 * 100e9, abs=2)
    assert after.frequency == pytest.approx(12.5e-6, abs=1e-12)


@pytest.mark.parametrize("ppm", [500, -500, 500.1, -500.1, 549.9, 550.1, 1234.5, -99_950, 100_000])
def test_what_the_frequency_cannot_do_the_tick_does(clock, twin, ppm):
    clock.steer(ppm * 1e-6, **STEADY)
    assert clock.daemon_reading().frequency == pytest.approx(ppm * 1e-6, abs=1e-11)
    assert (twin.tick == 10_000) is (abs(ppm) <= 500)
    assert abs(twin.frequency) <= 500 << 16
    clock.steer(3e-6, **STEADY)
    assert (twin.tick, twin.frequency) == (10_000, 3 << 16), "the tick goes back"
    assert len(twin.calls) == 2


def test_a_tick_that_another_program_set_becomes_the_usual_one(clock, twin):
    twin.tick = 10_003
    clock.steer(100e-6, **STEADY)
    assert (twin.tick, twin.frequency) == (10_000, 100 << 16)
    assert twin.calls[-1][0] == ALL_MODES | kernel.TICK


@pytest.mark.parametrize("frequency", [0.1001, -0.1001, float("nan"), float("inf")])
def test_a_frequency_that_no_kernel_takes_is_an_error_and_changes_nothing(clock, twin, frequency):
    with pytest.raises(ClockError, match=r"frequency correction of .* ppm .expected at most 100000 ppm"):
        clock.steer(frequency, **STEADY)
    assert twin.calls == []


def test_a_steered_clock_is_called_synchronized_or_not_as_the_caller_says(clock, twin):
    for synchronized in (True, False, True):
        clock.steer(0.0, max_error=0.1, estimated_error=0.1, synchronized=synchronized)
        assert clock.daemon_reading().synchronized is synchronized
        assert twin.status & (kernel.PLL | kernel.FREQHOLD) == kernel.PLL | kernel.FREQHOLD


@pytest.mark.parametrize("leap", [0, 1, 2])
def test_steering_announces_a_leap_second_and_takes_it_back(clock, twin, leap):
    clock.steer(0.0, **STEADY, leap=leap)
    assert clock.daemon_reading().leap == clock.state().leap == leap
    clock.steer(0.0, **STEADY)
    assert clock.daemon_reading().leap == 0


@pytest.mark.parametrize(("leap", "sign"), [(1, -1), (2, 1)])
def test_an_announced_leap_second_happens_at_midnight_once(clock, twin, leap, sign):
    day = 86_400 * SECOND
    twin.truth_ns += day - twin.truth_ns % day - 20 * SECOND
    twin._second_ends_ns = twin.truth_ns
    twin.error_ns = 3e5
    clock.steer(20e-6, **STEADY, leap=leap)
    twin.run(18)
    assert abs(twin.error) < 1e-3
    twin.run(4)
    assert twin.error == pytest.approx(sign, abs=2e-3)
    assert twin.leap_state in (kernel.TIME_OOP, kernel.TIME_WAIT)
    clock.steer(20e-6, **STEADY)
    twin.run(86_500)
    assert twin.leap_state == kernel.TIME_OK
    assert twin.error == pytest.approx(sign + 20e-6 * 86_522, abs=1e-2)


def test_a_leap_second_that_is_taken_back_does_not_happen(clock, twin):
    day = 86_400 * SECOND
    twin.truth_ns += day - twin.truth_ns % day - 10 * SECOND
    twin._second_ends_ns = twin.truth_ns
    clock.steer(0.0, **STEADY, leap=1)
    twin.run(5)
    clock.steer(0.0, **STEADY)
    twin.run(20)
    assert twin.error == 0.0


def test_a_leap_second_survives_a_step(clock, twin):
    """In the kernel a step disarms it; clearing STA_PLL in the same call arms it anew."""
    day = 86_400 * SECOND
    twin.truth_ns += day - twin.truth_ns % day - 10 * SECOND
    twin._second_ends_ns = twin.truth_ns
    clock.steer(0.0, **STEADY, leap=1)
    twin.run(3)
    clock.step(0.25, max_error=0.1, estimated_error=0.1)
    twin.run(20)
    assert twin.error == pytest.approx(-0.75)


@pytest.mark.parametrize("offset", [0.4, -0.2, 1e-4])
def test_a_phase_slew_is_quick_keeps_errors_and_frequency_and_ends_by_itself(clock, twin, offset):
    twin.error_ns = -offset * 1e9
    clock.steer(0.0, max_error=0.7, estimated_error=0.5, synchronized=False)
    frequency = twin.frequency
    clock.slew_phase(offset)
    assert (twin.maxerror_us, twin.esterror_us, clock.state().synchronized) == (700_000, 500_000, False)
    assert clock.daemon_reading().pending_ns == round(offset * 1e9)
    twin.run(1)
    assert twin.error == pytest.approx(-offset * 0.75, rel=1e-3)
    twin.run(59)
    assert abs(twin.error) < 2e-8
    assert twin.frequency == frequency


def test_steering_lets_a_phase_slew_go_on(clock, twin):
    twin.error_ns = -1e8
    clock.slew_phase(0.1)
    for _ in range(60):
        twin.run(1)
        clock.steer(0.0, **STEADY)
    assert abs(twin.error) < 1e-8


def test_a_cancelled_phase_slew_stops_at_the_end_of_the_kernels_second_as_does_one_of_adjtime_3(clock, twin):
    twin.error_ns, twin.old_slew_us = -1e8, 5_000
    clock.slew_phase(0.1)
    twin.run(1.5)
    clock.slew_phase(0.0)
    twin.run(0.5)
    stopped = twin.error_ns
    twin.run(50)
    assert twin.error_ns == stopped
    assert clock.daemon_reading().pending_ns == 0


def test_a_daemons_reading_shows_sleep_and_not_a_pause(clock, twin):
    twin.drift_ppm = 10.0
    before = clock.daemon_reading()
    twin.suspend(8 * 3600, rtc_error=0.4)
    woken = clock.daemon_reading()
    assert woken.asleep_ns - before.asleep_ns == (8 * 3600 + 0.4) * SECOND
    assert woken.raw_ns == before.raw_ns
    assert woken.difference_ns - before.difference_ns == pytest.approx((8 * 3600 + 0.4) * 1e9, abs=2)
    assert twin.error == pytest.approx(0.4)
    twin.pause(60)
    paused = clock.daemon_reading()
    assert (paused.raw_ns, paused.real_ns, paused.asleep_ns) == (woken.raw_ns, woken.real_ns, woken.asleep_ns)
    assert twin.error == pytest.approx(0.4 - 60)
    twin.run(1)
    assert clock.daemon_reading().raw_ns - paused.raw_ns == pytest.approx(SECOND * (1 + 10e-6), abs=2)


def test_a_daemons_reading_of_a_kernel_that_refuses_to_be_read(clock, twin):
    twin.unreadable = True
    reading = clock.daemon_reading()
    assert (reading.real_ns, reading.frequency, reading.pending_ns) == (twin.now_ns(), None, None)
    assert (reading.synchronized, reading.leap, reading.max_error) == (False, 0, 16.0)


def test_a_daemons_reading_counts_the_slew_of_adjtime_3_and_the_kernels_units(clock, twin):
    twin.pending_ns, twin.old_slew_us = 123_456_789, -2_000
    assert clock.daemon_reading().pending_ns == 121_456_000
    twin.status |= kernel.IN_NS
    assert clock.daemon_reading().pending_ns == 121_456_789


def test_a_daemons_reading_of_the_real_clocks():
    clock = SystemClock()
    first, second = clock.daemon_reading(), clock.daemon_reading()
    assert second.raw_ns > first.raw_ns
    assert abs(second.difference_ns - first.difference_ns) < SECOND
    assert abs(second.asleep_ns - first.asleep_ns) < SECOND
    assert 0 < second.width_ns < SECOND
    assert abs(second.real_ns - time.time_ns()) < 60 * SECOND
    boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert abs(second.asleep_ns - boot) < SECOND
    assert abs(second.frequency - _clock.read()[2] / 65536e6) < 1e-3


def test_a_daemon_and_tsq_adjtime_exclude_each_other(clock, twin):
    with clock.daemon_lock() as warning:
        assert warning == ""
        for lock in (clock.alone, clock.daemon_lock):
            with pytest.raises(AlreadyRunning, match="tsqd keeps this clock"), lock():
                pytest.fail("two hold the lock")
    with clock.alone(), pytest.raises(AlreadyRunning, match="tsq-adjtime sets this clock"), clock.daemon_lock():
        pytest.fail("two hold the lock")


def test_without_the_capability_nothing_changes(clock, twin):
    twin.permitted = False
    assert not clock.may_set
    for change in (clock.stop_slewing, clock.mark_unsynchronized, lambda: clock.step(1.0, max_error=1, estimated_error=1)):
        with pytest.raises(NotPermitted, match="not permitted to set the clock"):
            change()
    assert twin.calls == []


def test_any_user_can_read_the_real_kernel_and_no_test_changes_it():
    clock = SystemClock()
    state = clock.state()
    assert 0 <= state.max_error <= 16.0
    assert abs(state.frequency_ppm) <= 500
    assert abs(clock.now_ns() - now_ns()) < 60_000_000_000
    assert not clock.may_set
    for change in (
        clock.stop_slewing,
        clock.mark_unsynchronized,
        lambda: clock.step(0.0, max_error=1, estimated_error=1),
        lambda: clock.slew(0.0, time_constant=2, max_error=1, estimated_error=1),
        lambda: clock.slew(0.0, time_constant=2),
        lambda: clock.report_error(1, 1),
        lambda: clock.confirm(1, 1),
        lambda: clock.hasten(2),
        lambda: clock.steer(clock.daemon_reading().frequency, max_error=1, estimated_error=1, synchronized=False),
        lambda: clock.slew_phase(0.0),
        _clock.stop_old_slew,
    ):
        with pytest.raises(NotPermitted):
            change()
    assert isinstance(NotPermitted("found"), ClockError)


def test_the_real_clock_does_not_jump_between_two_readings():
    clock = SystemClock()
    before = clock.reading()
    moved = clock.reading().since(before)
    assert abs(moved.beyond(clock.state().rate)) < 1e-3
    assert moved.width >= 0
    assert _clock.read_old_slew() == 0 or isinstance(_clock.read_old_slew(), int)


def test_the_package_knows_when_it_was_built():
    assert build_time_ns() == _fast.BUILD_TIME * 1_000_000_000
    assert 1_700_000_000 * 1_000_000_000 < build_time_ns() <= now_ns()


def test_precision_is_positive():
    assert precision_ns() >= 1


def test_a_reading_has_the_clock_the_raw_clock_and_the_kernels_state():
    status, _, frequency, _, _, _, tick = _clock.read()
    before = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
    reading = clock_reading()
    after = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
    assert reading.synchronized is not bool(status & kernel.UNSYNC)
    assert reading.frequency == pytest.approx(frequency / 65536e6 + tick * os.sysconf("SC_CLK_TCK") / 1e6 - 1, abs=1e-4)
    # The clocks are read one after another.
    assert abs(reading.difference_ns - (before + after) // 2) < SECOND
    assert 0 < reading.width_ns < SECOND


def test_a_kernel_that_does_not_answer_leaves_a_clock_that_counts_as_not_synchronized(monkeypatch):
    def denied():
        raise ClockError("the kernel refuses")

    monkeypatch.setattr(_clock, "read", denied)
    reading = clock_reading()
    assert (reading.frequency, reading.pending_ns, reading.synchronized) == (None, None, False)
    assert reading.tolerance == UNDISCIPLINED


def test_of_several_attempts_to_read_two_clocks_at_once_the_quickest_counts(monkeypatch):
    raw = iter([0, 9_000, 20_000, 20_500])
    monkeypatch.setattr(time, "clock_gettime_ns", lambda which: next(raw))
    monkeypatch.setattr(clock_module, "clock_ns", lambda: 1_000_000)
    reading = clock_reading()
    assert (reading.difference_ns, reading.width_ns) == (1_000_000 - 20_250, 251)


def test_the_era_does_not_depend_on_the_clock():
    built = build_time_ns()
    for years in (-9, 0, 1, 13, 100, 125):
        true_ns = built + years * 365 * 86400 * SECOND
        assert abs(ns_from_ntp(ntp_from_ns(true_ns), era_pivot_ns()) - true_ns) <= 1


@pytest.mark.parametrize("state", [{}, {"frequency": -50 << 16}, {"tick": 10_003, "frequency": 20 << 16}, {"drift_ppm": 80.0}])
def test_a_clock_that_nobody_touches_is_explained_by_an_earlier_mark(state):
    twin = VirtualKernel(**state)
    clock = SystemClock(twin)
    mark = clock.mark()
    for seconds in (1, 4, 16, 600):
        twin.run(seconds)
        assert mark.explains(clock.mark())


TOUCHES = {
    "a step": lambda twin: setattr(twin, "error_ns", twin.error_ns + 10_000),
    "a step back": lambda twin: setattr(twin, "error_ns", twin.error_ns - 10_000),
    "a frequency": lambda twin: twin.adjust(kernel.FREQUENCY, frequency=1),
    "a tick": lambda twin: twin.adjust(kernel.TICK, tick=10_001),
    "a slew by the kernel's loop": lambda twin: twin.adjust(
        kernel.OFFSET | kernel.STATUS | kernel.NANO | kernel.TIMECONST, status=kernel.PLL, offset=10_000, constant=0
    ),
    "a slew by adjtime": lambda twin: setattr(twin, "old_slew_us", 100),
    "a leap second that was announced": lambda twin: twin.adjust(kernel.STATUS, status=twin.status | kernel.INS),
    "a sleep": lambda twin: setattr(twin, "asleep_ns", twin.asleep_ns + SECOND),
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_a_clock_that_was_touched_is_not_explained_by_an_earlier_mark(twin, clock, touch):
    twin.run(10)
    mark = clock.mark()
    touch(twin)
    twin.run(4)
    assert not mark.explains(clock.mark())


def test_where_the_kernel_says_nothing_there_is_no_mark(twin, clock):
    twin.unreadable = True
    assert clock.mark() is None


def test_the_real_clock_has_a_mark_that_explains_the_next_one_or_somebody_touches_it():
    clock = SystemClock()
    mark = clock.mark()
    later = clock.mark()
    assert later is not None
    # This machine's clock may be kept by another program at this very moment.
    assert mark.explains(later) or mark.state != later.state or mark.state[1]
