"""Any events in any order, by seeded dice: nothing is raised, no bound is false, no step goes beyond the limits."""

import math
import random
from dataclasses import fields, replace

import pytest

from tests.discipline.clock_world import SECOND, Clock, Server, World
from tsq.discipline.actions import SlewPhase, Steer, StepClock
from tsq.discipline.events import (
    Burst,
    Failed,
    LeapKnown,
    MakeStepNow,
    Polled,
    Reading,
    Reconfigured,
    SavedDrift,
    SetOnline,
    SourceAdded,
    SourceChanged,
    SourceRemoved,
    Stopping,
    Tick,
    Unfreeze,
)
from tsq.discipline.settings import ClockSettings, ForeignStep, MakeStep, MaxChange, SourceSettings
from tsq.timing.sample import Reason, Sample

NAMES = ["a", "b", "c", "p/1", "p/2"]
BUDGET = 20.0
PANIC = 100.0


def settings(dice: random.Random) -> ClockSettings:
    return ClockSettings(
        makestep=dice.choice([None, MakeStep(1.0, 3), MakeStep(0.1, -1)]),
        maxchange=dice.choice([None, None, MaxChange(5.0, 1, dice.choice([-1, 0, 2]))]),
        panic=PANIC,
        step_budget=BUDGET,
        foreign_step=dice.choice(list(ForeignStep)),
        max_slew_rate=dice.choice([500.0, 50.0]),
    )


def polls(dice: random.Random) -> SourceSettings:
    least = dice.choice([0, 2, 4])
    return SourceSettings(min_poll=least, max_poll=dice.choice([least, 6]))


class Story:
    """One random story. moves: what other programs and the machine's host do, all seen by the daemon."""

    def __init__(self, seed: int) -> None:
        dice = self.dice = random.Random(f"any order {seed}")
        ppm = dice.uniform(-100, 100)
        clock = Clock(
            error_ns=dice.choice([0.0, 0.3, -0.7, 3.0, -50.0]) * SECOND,
            frequency=lambda seconds: (ppm + 0.5 * math.sin(seconds / 500)) * 1e-6,
        )
        servers = [
            Server(
                name, base=10 ** dice.uniform(-4.5, -1.5), jitter=10 ** dice.uniform(-5, -2.5), settings=polls(dice),
                lost=lambda seconds, own: own.random() < self.loss,
            )
            for name in NAMES
        ]
        self.loss = 0.0
        liar = dice.choice([None, *servers])
        if liar is not None:
            since, wrong = dice.choice([0.0, 300.0]), dice.choice([0.02, -3.0, 1000.0])
            liar.offset = lambda seconds: wrong if seconds >= since else 0.0
        saved = dice.choice([None, SavedDrift(ppm * 1e-6, 1e-7), SavedDrift(ppm * 1e-6 + 30e-6, 1e-6)])
        self.world = World(servers, clock=clock, settings=settings(dice), saved=saved, seed=seed)
        if liar is not None:
            self.world.liars.add(liar.name)
        self.asked: list[float] = []
        self.old: list[Polled] = []

    def run(self, number: int) -> None:
        things = [one for name, one in vars(type(self)).items() if name.startswith("do_")]
        for _ in range(number):
            self.dice.choice(things)(self)
            self.world.run(self.dice.choice([0.0, 0.1, 1.0, 7.0, 40.0]))
            self.old += [one for one in self.world.events[-3:] if isinstance(one, Polled)]
        self.world.give(Stopping())

    def a_source(self) -> str:
        return self.dice.choice(NAMES)

    def do_nothing(self) -> None:
        self.world.run(60)

    def do_step(self) -> None:
        self.world.clock.step(self.dice.choice([0.002, -0.5, 2.0, -30.0, 5000.0]))

    def do_frequency(self) -> None:
        self.world.clock.correction = self.dice.uniform(-300e-6, 300e-6)

    def do_slew(self) -> None:
        self.world.clock.pending = self.dice.uniform(-0.3, 0.3) * 1e9

    def do_old_slew(self) -> None:
        self.world.clock.old_slew = self.dice.uniform(-0.01, 0.01) * 1e9

    def do_suspend(self) -> None:
        self.world.clock.suspend(self.dice.choice([0.5, 30.0, 3600.0]), self.dice.uniform(-1, 1))

    def do_pause(self) -> None:
        self.world.pause(self.dice.choice([0.5, 30.0, 3600.0]))

    def do_loss(self) -> None:
        self.loss = self.dice.choice([0.0, 0.0, 0.5, 1.0])

    def do_refuse(self) -> None:
        """The kernel refuses everything for a while."""
        self.world.failing = True
        self.world.run(self.dice.choice([1.0, 20.0]))
        self.world.failing = False

    def do_failed(self) -> None:
        self.world.give(Failed(self.dice.choice(["Steer", "SlewPhase", "StepClock", "?"]), "busy"))

    def do_burst(self) -> None:
        self.world.give(Burst(self.dice.choice(["", "p", "nobody", self.a_source()]), self.dice.choice([1, 4, 100])))

    def do_online(self) -> None:
        self.world.give(SetOnline(self.dice.random() < 0.7, self.dice.choice(["", "p", self.a_source()])))

    def do_make_step(self) -> None:
        self.asked.append(self.world.now)
        self.world.give(MakeStepNow())

    def do_unfreeze(self) -> None:
        self.world.give(Unfreeze())

    def do_reconfigure(self) -> None:
        self.world.give(Reconfigured(settings(self.dice)))

    def do_remove(self) -> None:
        self.world.give(SourceRemoved(self.a_source()))

    def do_add(self) -> None:
        name = self.a_source()
        self.world.give(SourceAdded(name, polls(self.dice), f"{name} 443"))

    def do_change(self) -> None:
        name = self.a_source()
        self.world.give(SourceChanged(name, polls(self.dice), f"{name} 443", self.dice.random() < 0.5))

    def do_leap(self) -> None:
        day = self.world.clock.real_ns // (86_400 * SECOND)
        self.world.give(LeapKnown(self.dice.choice([0, 1, 2, 7]), day + self.dice.choice([-1, 0, 1])))

    def do_repeat(self) -> None:
        """An outcome comes twice, or much later, with the reading of then."""
        if self.old:
            self.world.give(self.dice.choice(self.old))

    def do_rubbish(self) -> None:
        world = self.world
        sample = self.dice.choice([
            Sample(0, reason=Reason.NO_ANSWER),
            Sample(world.clock.real_ns, reason=Reason.MALFORMED, detail=1000 * "x"),
            Sample(world.clock.real_ns + SECOND, world.clock.real_ns, world.clock.real_ns - SECOND, world.clock.real_ns),
        ])
        world.give(Polled(self.dice.choice([*NAMES, "nobody"]), sample, world.clock.reading()))

    def do_late_tick(self) -> None:
        """A reading that is older than the last one."""
        now = self.world.clock.reading()
        self.world.give(Tick(replace(now, real_ns=now.real_ns - SECOND, raw_ns=now.raw_ns - SECOND)))

    def do_blind_tick(self) -> None:
        """The kernel says nothing of its clock."""
        now = self.world.clock.reading()
        self.world.give(Tick(Reading(now.real_ns, now.raw_ns, now.width_ns, now.asleep_ns)))


def assert_within_limits(story: Story) -> None:
    world = story.world
    for at, action in world.actions:
        for field in fields(action):
            value = getattr(action, field.name)
            assert not isinstance(value, float) or math.isfinite(value), (at, action)
        if isinstance(action, Steer):
            assert abs(action.frequency) <= 1e-3
            assert 0 <= action.estimated_error <= action.max_error <= 16
        elif isinstance(action, SlewPhase):
            assert abs(action.offset) <= 0.5
        elif isinstance(action, StepClock):
            assert 0 <= action.max_error <= 16
            if "makestep" in action.why:
                assert abs(action.offset) > 0.1, (at, action)
            elif "operator" in action.why:
                assert at in story.asked
            else:
                assert action.why == "another program stepped this clock"


@pytest.mark.parametrize("seed", range(25))
def test_no_order_of_events_is_an_error_or_makes_a_bound_false(seed):
    story = Story(seed)
    story.run(60)
    world = story.world
    assert_within_limits(story)
    assert world.checked
    assert (world.broken, world.false[:3]) == (0, [])


@pytest.mark.parametrize("seed", range(6))
def test_after_any_order_of_events_the_clock_is_right_again(seed):
    story = Story(1000 + seed)
    story.run(40)
    world = story.world
    story.loss = 0.0
    for name in NAMES:
        world.give(SourceAdded(name, SourceSettings(min_poll=0, max_poll=0), f"{name} 443"))
    world.give(SetOnline(True))
    world.give(Reconfigured(ClockSettings(foreign_step=ForeignStep.CORRECT)))
    world.give(Unfreeze())
    world.run(900)
    assert world.tracking.status.value == "synchronized", world.tracking
    assert abs(world.error) <= world.tracking.bound
    assert abs(world.error) < 0.03
