"""Other programs move the clock: steps are undone, slews and frequencies corrected, a fight freezes; own ones are not foreign."""

import pytest

from tests.discipline.clock_world import SECOND, Clock, Server, World
from tsq.discipline.actions import SlewPhase, StepClock
from tsq.discipline.events import Failed, MakeStepNow, Reading, Tick, Unfreeze
from tsq.discipline.moves import Kind, Watch
from tsq.discipline.settings import ClockSettings, ForeignStep, Mode, SourceSettings
from tsq.discipline.status import ClockStatus
from tsq.discipline.steering import KernelLoop


def steady_world(**settings) -> World:
    world = World([Server("a"), Server("b")], clock=Clock(frequency=lambda seconds: 80e-6), settings=ClockSettings(**settings))
    world.run(200.5)
    return world


@pytest.mark.parametrize("offset", [2.0, -0.01, -3600.0, 0.0012])
def test_a_foreign_step_is_stepped_back_at_once(offset):
    world = steady_world()
    world.clock.step(offset)
    begun = world.now
    world.run(60)
    (at, back), = world.did(StepClock, begun)
    assert at - begun < 1.1
    assert back.offset == pytest.approx(-offset, abs=30e-6)
    assert world.worst(begun + 1.2) < 30e-6
    assert world.tracking.foreign_moves == 1
    assert world.texts("foreign step") == [f"another program steps this clock by {offset:+.6f} s: it is stepped back"]
    assert world.tracking.status is ClockStatus.SYNCHRONIZED
    assert world.clock.synchronized
    assert (world.broken, world.kernel_broken) == (0, 0)


def test_a_small_foreign_step_is_corrected_by_frequency():
    world = steady_world()
    world.clock.step(0.0003)
    begun = world.now
    world.run(60)
    assert world.did(StepClock) == []
    assert world.worst(begun + 20) < 20e-6
    assert world.tracking.foreign_moves == 1


def test_or_it_is_corrected_as_any_other_offset():
    world = steady_world(foreign_step=ForeignStep.CORRECT)
    world.clock.step(2.0)
    begun = world.now
    world.run(60)
    assert world.did(StepClock) == []
    assert world.worst(begun + 35) < 100e-6
    assert (world.broken, world.kernel_broken) == (0, 0)


def test_a_fight_freezes_the_clock_until_an_operator_has_looked():
    world = steady_world()
    for _ in range(5):
        world.clock.step(2.0)
        world.run(10)
    assert world.tracking.status is ClockStatus.FROZEN
    assert "another program steps this clock" in world.tracking.frozen
    acted = len(world.actions)
    world.run(60)
    assert len(world.actions) == acted
    assert world.tracking.offset == pytest.approx(-2.0, abs=1e-3)
    assert not world.clock.synchronized
    world.give(Unfreeze())
    world.run(60)
    assert world.tracking.frozen == ""
    assert abs(world.error) < 50e-6
    assert (world.broken, world.kernel_broken) == (0, 0)


def test_seldom_steps_are_undone_for_ever():
    world = steady_world()
    for _ in range(7):
        world.clock.step(0.5)
        world.run(100)
    assert len(world.did(StepClock)) == 7
    assert world.tracking.frozen == ""


@pytest.mark.parametrize("slew", ["old_slew", "pending"])
def test_a_foreign_slew_is_cancelled_and_corrected(slew):
    world = steady_world()
    setattr(world.clock, slew, 0.01 * SECOND)
    begun = world.now
    world.run(60)
    assert world.did(SlewPhase, begun)[0][1] == SlewPhase(0.0)
    assert world.worst(begun) < 3e-3
    assert world.worst(begun + 20) < 20e-6
    assert world.tracking.foreign_moves == 1
    assert "slews this clock" in world.texts("foreign slew")[0]
    assert (world.broken, world.kernel_broken) == (0, 0)


def test_a_foreign_frequency_is_corrected():
    world = steady_world()
    world.clock.correction = -300e-6
    begun = world.now
    world.run(60)
    assert world.worst(begun + 30) < 20e-6
    assert "sets its frequency off by -3" in world.texts("foreign slew")[0]
    assert world.tracking.foreign_moves == 1


def test_before_the_first_update_a_foreign_step_is_no_matter():
    world = World([Server("a", lost=lambda seconds, dice: seconds < 10)], clock=Clock())
    world.run(3)
    world.clock.step(0.2)
    world.run(40)
    assert world.did(StepClock) == []
    assert abs(world.error) < 50e-6


def test_in_other_modes_steps_are_only_counted():
    world = steady_world(mode=Mode.OBSERVE)
    world.clock.step(2.0)
    world.run(10)
    assert world.tracking.foreign_moves == 1
    assert world.clock.error(world.clock.true_ns) > 1.9


def test_own_slews_and_steps_are_not_foreign():
    world = World([Server("a"), Server("b")], clock=Clock(error_ns=0.9 * SECOND, frequency=lambda seconds: -200e-6))
    world.run(60)
    assert len(world.did(SlewPhase)) > 5
    world.clock.step(0.8)
    world.run(0.2)
    world.give(MakeStepNow())
    world.run(60)
    assert len(world.texts("foreign")) == 1
    assert abs(world.error) < 50e-6


def test_a_reading_from_before_an_own_step_shows_it_later():
    """Two outcomes arrive together; the second one's reading is older than the step that the first one asked for."""
    world = World([Server("a", settings=SourceSettings(min_poll=4, max_poll=4))], clock=Clock(error_ns=-5 * SECOND))
    before = world.clock.reading()
    while not world.did(StepClock):
        world.run(1e-6)
    elapsed = world.clock.raw_ns - before.raw_ns + 500
    world.give(Tick(Reading(before.real_ns + elapsed, before.raw_ns + elapsed, 50, 0, 0.0, 0)))
    assert abs(world.tracking.offset) < 1e-3
    world.run(30)
    assert len(world.did(StepClock)) == 1
    assert world.texts("foreign") == []
    assert world.worst(1) < 1e-3


def test_what_the_kernel_refuses_is_not_taken_for_a_foreign_move():
    world = World([Server("a")], clock=Clock(error_ns=-5 * SECOND))
    world.failing = True
    world.run(30)
    assert "the kernel refuses" in world.tracking.frozen
    assert world.texts("foreign") == []
    assert len(world.texts("refused")) >= 3
    world.failing = False
    world.give(Unfreeze())
    world.run(30)
    assert abs(world.error) < 100e-6


def test_failures_of_each_action_are_survived():
    world = steady_world()
    for action in ("StepClock", "SlewPhase"):
        world.give(Failed(action, "not permitted"))
        world.run(10)
    assert world.tracking.frozen == ""
    assert world.worst(205) < 20e-6


# The watch alone.

REAL, RAW = 1_800_000_000 * SECOND, 5_000 * SECOND


def reading(seconds: float, moved: float = 0.0, **values) -> Reading:
    at = round(seconds * 1e9)
    return Reading(REAL + at + round(moved * 1e9), RAW + at, 100, **values)


def test_the_watch_tells_moves_from_its_own_actions():
    watch, loop = Watch(), KernelLoop()
    assert watch.look(reading(0, frequency=0.0, pending_ns=0), loop) == []
    assert watch.look(reading(1, frequency=0.0, pending_ns=0), loop) == []
    watch.will_step(0.5, RAW + SECOND)
    watch.will_steer(100e-6, RAW + SECOND)
    # Neither is done yet; then both are.
    assert watch.look(reading(1.5, frequency=0.0, pending_ns=0), loop) == []
    assert watch.look(reading(2, 0.5, frequency=100e-6, pending_ns=0), loop) == []
    assert watch.expected_step_ns == 0
    assert watch.look(reading(3, 0.5001, frequency=100e-6, pending_ns=0), loop) == []
    (found,) = watch.look(reading(4, 0.5002 - 0.25, frequency=100e-6, pending_ns=0), loop)
    assert found.kind is Kind.STEPPED
    assert found.amount == pytest.approx(-0.25, abs=1e-6)


def test_a_foreign_step_together_with_an_own_one():
    watch, loop = Watch(), KernelLoop()
    watch.look(reading(0, frequency=0.0), loop)
    watch.will_step(0.5, RAW)
    (found,) = watch.look(reading(1, 0.7, frequency=0.0), loop)
    assert (found.kind, round(found.amount, 6)) == (Kind.STEPPED, 0.2)


def test_a_foreign_step_and_frequency_are_both_seen():
    watch, loop = Watch(), KernelLoop()
    watch.look(reading(0, frequency=50e-6), loop)
    watch.will_steer(50e-6, RAW)
    watch.look(reading(10, 500e-6, frequency=50e-6), loop)
    moves = watch.look(reading(11, 550e-6 + 1.0, frequency=80e-6), loop)
    assert [one.kind for one in moves] == [Kind.FREQUENCY, Kind.STEPPED]
    assert moves[0].amount == pytest.approx(30e-6)


def test_a_suspension_is_no_step():
    watch, loop = Watch(), KernelLoop()
    watch.look(reading(0), loop)
    (found,) = watch.look(reading(1, 3600.3, asleep_ns=3600 * SECOND), loop)
    assert (found.kind, found.amount) == (Kind.SUSPENDED, 3600)
    assert watch.look(reading(2, 3600.3, asleep_ns=3600 * SECOND), loop) == []


def test_without_readings_of_the_kernel_steps_are_still_seen():
    watch, loop = Watch(), KernelLoop()
    watch.will_steer(100e-6, RAW)
    watch.look(reading(0), loop)
    assert watch.look(reading(1, 100e-6), loop) == []
    assert [one.kind for one in watch.look(reading(2, 200e-6 + 0.05), loop)] == [Kind.STEPPED]


def test_an_older_reading_is_ignored():
    watch, loop = Watch(), KernelLoop()
    watch.look(reading(5), loop)
    assert watch.look(reading(4, 9.0), loop) == []
    assert watch.look(reading(6), loop) == []


def test_a_second_of_the_loop_that_ends_late_is_no_step_of_another_program():
    """The processor slept over the end of the loop's second: the clock was slewed on for 0.3 s more."""
    watch, loop = Watch(), KernelLoop()
    reading = Reading(10 * SECOND, 10 * SECOND, 50, pending_ns=0, frequency=0.0)
    assert watch.look(reading, loop) == []
    loop.set(0.4)
    raw, real = reading.raw_ns, reading.real_ns
    for seconds, moved, pending in [(1.5, 0.05, 0.3), (1.0, 0.1, 0.0), (0.7, 0.03, 0.0), (1.0, 0.0, 0.0)]:
        raw += round(seconds * SECOND)
        real += round((seconds + moved) * SECOND)
        assert watch.look(Reading(real, raw, 50, pending_ns=round(pending * 1e9), frequency=0.0), loop) == []
        if pending:
            loop.set(0.0)
    for _ in range(4):
        raw, real = raw + SECOND, real + SECOND
        assert watch.look(Reading(real, raw, 50, pending_ns=0, frequency=0.0), loop) == []
    (move,) = watch.look(Reading(real + SECOND + 30_000_000, raw + SECOND, 50, pending_ns=0, frequency=0.0), loop)
    assert move.kind is Kind.STEPPED
