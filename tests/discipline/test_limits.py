"""Limits: makestep, maxchange, panic, the sum of steps. They freeze and report; nothing ends."""

import pytest

from tests.discipline.clock_world import SECOND, Clock, Server, World
from tsq.discipline.actions import Level, StepClock
from tsq.discipline.events import MakeStepNow, Unfreeze
from tsq.discipline.limits import Limits, Ruling
from tsq.discipline.settings import ClockSettings, ForeignStep, MakeStep, MaxChange, Mode
from tsq.discipline.status import ClockStatus


def world_of(offset=0.0, **settings) -> World:
    settings = {"foreign_step": ForeignStep.CORRECT} | settings
    return World([Server("a"), Server("b")], clock=Clock(error_ns=offset * SECOND), settings=ClockSettings(**settings))


def test_an_offset_over_the_panic_limit_freezes_and_an_operator_unfreezes():
    world = world_of()
    world.run(60)
    world.clock.step(1500)
    world.run(20)
    assert world.tracking.status is ClockStatus.FROZEN
    assert "panic limit of 1000 s" in world.tracking.frozen
    assert [one.level for one in world.log if one.kind == "frozen"] == [Level.ERROR]
    acted = len(world.actions)
    world.run(60)
    assert len(world.actions) == acted
    # It is still measured and reported.
    assert world.tracking.offset == pytest.approx(-1500, abs=1e-3)
    assert world.tracking.bound >= 1500
    world.give(Unfreeze())
    world.run(10)
    assert world.tracking.frozen == ""
    assert abs(world.error) < 1e-3
    assert (world.broken, world.kernel_broken) == (0, 0)


def test_the_first_update_may_have_any_offset():
    world = world_of(-10_000_000)
    world.run(20)
    assert abs(world.error) < 1e-3
    assert world.tracking.frozen == ""


def test_an_operators_step_unfreezes():
    world = world_of()
    world.run(60)
    world.clock.step(1500)
    world.run(20)
    world.give(MakeStepNow())
    world.run(10)
    assert world.tracking.frozen == ""
    assert abs(world.error) < 1e-3


def test_maxchange_ignores_some_updates_then_freezes():
    world = world_of(maxchange=MaxChange(0.5, 1, 2))
    world.run(60)
    world.clock.step(0.8)
    world.run(1.2)
    assert len(world.texts("ignored")) == 2
    world.run(10)
    assert "largest change of 0.5 s" in world.tracking.frozen
    assert world.did(StepClock) == []
    assert (world.broken, world.kernel_broken) == (0, 0)


def test_maxchange_does_not_judge_what_is_being_slewed_already():
    world = world_of(0.9, maxchange=MaxChange(0.5, 1, 2))
    world.run(60)
    assert world.tracking.frozen == ""
    assert world.texts("ignored") == []
    assert abs(world.error) < 50e-6


def test_steps_that_add_up_freeze():
    world = world_of(-5000, makestep=MakeStep(1.0, -1), step_budget=100.0)
    for _ in range(6):
        world.run(10)
        world.clock.step(30)
    world.run(10)
    assert "the limit of 100 s" in world.tracking.frozen
    # The first one does not count: three more fit.
    assert len(world.did(StepClock)) == 4
    assert world.tracking.accumulated_steps == pytest.approx(5090, abs=0.1)


def test_what_would_freeze_does_not_freeze_where_nothing_is_touched():
    world = world_of(mode=Mode.OBSERVE)
    world.run(60)
    world.clock.step(1500)
    world.run(20)
    assert world.tracking.frozen == ""
    assert any("would be frozen" in text for text in world.texts("frozen"))


@pytest.mark.parametrize(
    ("rule", "updates", "offset", "wanted"),
    [
        (MakeStep(1.0, 3), 0, 1.5, Ruling.STEP),
        (MakeStep(1.0, 3), 2, -1.5, Ruling.STEP),
        (MakeStep(1.0, 3), 3, 1.5, Ruling.SLEW),
        (MakeStep(1.0, 3), 0, 1.0, Ruling.SLEW),
        (MakeStep(1.0, -1), 99, 1.5, Ruling.STEP),
        (MakeStep(1.0, 0), 0, 1.5, Ruling.SLEW),
        (None, 0, 900.0, Ruling.SLEW),
        (MakeStep(1.0, 3), 0, 2000.0, Ruling.STEP),
        (MakeStep(1.0, 3), 1, 2000.0, Ruling.FREEZE),
    ],
)
def test_rulings(rule, updates, offset, wanted):
    limits = Limits(updates=updates)
    assert limits.judge(offset, ClockSettings(makestep=rule), counts=True) is wanted
    assert bool(limits.frozen) is (wanted is Ruling.FREEZE)


def test_a_first_update_that_only_one_source_asks_for_is_limited():
    limits = Limits()
    limits.anew(trusting=False)
    assert limits.judge(2000.0, ClockSettings(), counts=True) is Ruling.FREEZE
    assert "panic" in limits.frozen


def test_ignored_for_ever():
    limits, settings = Limits(updates=5), ClockSettings(maxchange=MaxChange(0.1, 1, -1))
    assert {limits.judge(0.5, settings, counts=True) for _ in range(50)} == {Ruling.IGNORE}


def test_refusals_of_the_kernel_that_are_far_apart_do_not_freeze():
    limits = Limits()
    for hour in range(10):
        limits.failed("Steer", "busy", hour * 3600 * 1_000_000_000)
    assert not limits.frozen
    for second in range(2):
        limits.failed("Steer", "busy", (9 * 3600 + 1 + second) * 1_000_000_000)
    assert "Steer" in limits.frozen


def test_a_step_that_the_kernel_refuses_does_not_count():
    world = World([Server("a"), Server("b")], clock=Clock(error_ns=2 * SECOND), settings=ClockSettings())
    world.failing = True
    world.run(3)
    assert world.did(StepClock)
    assert world.tracking.steps == 0
    assert world.tracking.accumulated_steps == 0.0
    # Nor does the kernel run with a frequency that it refused.
    assert world.tracking.correction == 0.0


def test_a_refused_step_uses_nothing_of_what_may_be_stepped_in_all():
    limits, settings = Limits(), ClockSettings(makestep=MakeStep(1.0, -1), step_budget=10.0)
    limits.stepped(5.0)
    limits.stepped(6.0)
    limits.not_stepped()
    limits.not_stepped()
    assert (limits.steps, limits.accumulated) == (1, 5.0)
    assert limits.judge(8.0, settings, True) is Ruling.STEP


def test_after_an_operators_look_the_next_step_may_have_any_size_whatever_was_stepped_before():
    limits, settings = Limits(), ClockSettings(makestep=MakeStep(1.0, -1), step_budget=10.0)
    for offset in (5.0, 6.0):
        limits.accepted(offset)
        limits.stepped(offset)
    assert limits.judge(8.0, settings, True) is Ruling.FREEZE
    limits.unfreeze()
    assert limits.judge(8000.0, settings, True) is Ruling.STEP
    limits.accepted(8000.0)
    limits.stepped(8000.0)
    assert limits.judge(11.0, settings, True) is Ruling.FREEZE


def test_a_machine_that_was_stepped_at_its_start_may_be_paused_for_long():
    world = World([Server(name) for name in "abc"], clock=Clock(error_ns=2 * SECOND))
    world.run(300)
    world.pause(28_800.0)
    world.run(60)
    assert world.tracking.frozen == ""
    assert world.tracking.steps == 2
    assert abs(world.error) < 100e-6
