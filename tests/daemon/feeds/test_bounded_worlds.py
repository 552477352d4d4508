"""What `tsq.now()` says in virtual worlds: each interval contains the truth for as long as it may be used, whatever is done to the
clock. The machine that keeps the clock, its sources and the kernel's loop are those of tests/discipline/clock_world.py.
"""

import math
import random
from dataclasses import dataclass

import pytest

from tests.discipline.clock_world import SECOND, Clock, Server, World
from tsq.daemon.feeds.bounded import update_of
from tsq.discipline.settings import ClockSettings, Mode, SourceSettings
from tsq.host.segment import TimeStatus, Update

# 2027-02-01 00:00 UTC; a leap second is on the last day of a month.
MIDNIGHT = 1_801_440_000 * SECOND
# Every so many updates are kept until they may not be used any more.
KEPT = 25


@dataclass(frozen=True)
class Published:
    update: Update
    asleep_ns: int


class WatchedWorld(World):
    """Keeps updates of all ages, and looks at each event whether all that may still be used are true."""

    def __init__(self, *arguments, **values) -> None:
        self.published: list[Published] = []
        self.compared, self.wrong, self.ages, self.width, self.widest = 0, [], 0.0, 0.0, 0.0
        super().__init__(*arguments, **values)

    def _check(self) -> None:
        super()._check()
        tracking = self.machine.status().tracking
        if tracking.raw_ns != self.clock.raw_ns or self.blind:
            return
        update = update_of(tracking)
        if update.status is TimeStatus.UNSYNCHRONIZED:
            return
        self.published.append(Published(update, self.clock.asleep_ns))
        self.width = (update.latest_ns - update.earliest_ns) / 1e9
        self.widest = max(self.widest, self.width)
        self._compare()
        if len(self.events) % KEPT:
            self.published.pop()
        self.published = [one for one in self.published if self.clock.raw_ns <= one.update.void_ns]

    def _compare(self) -> None:
        truth = self.utc_ns(self.clock.true_ns)
        for one in self.published:
            update, elapsed = one.update, self.clock.raw_ns - one.update.raw_ns
            if self.clock.raw_ns > update.void_ns or self.clock.asleep_ns != one.asleep_ns:
                continue
            # As docs/reference/now-segment.md has it.
            middle, grown = elapsed + math.floor(elapsed * update.frequency), math.floor(elapsed * update.growth) + 2
            self.compared += 1
            self.ages = max(self.ages, elapsed / 1e9)
            if not update.earliest_ns + middle - grown <= truth <= update.latest_ns + middle + grown:
                self.wrong.append((self.now, elapsed / 1e9, update, truth))


def wandering(seed: int, ppm: float = 20.0):
    """A frequency that walks, and swings by 2 ppm within an hour."""
    dice, steps = random.Random(seed), [ppm]
    for _ in range(400):
        steps.append(steps[-1] + dice.gauss(0, 0.02))
    return lambda seconds: (steps[min(400, int(seconds / 30))] + 2 * math.sin(seconds / 3600 * 2 * math.pi)) * 1e-6


def servers(number: int = 4, **values) -> list[Server]:
    settings = SourceSettings(min_poll=4, max_poll=4)
    return [Server(name, **{"base": 5e-3, "jitter": 1e-3, "settings": settings, **values}) for name in "abcd"[:number]]


def assert_all_true(world: WatchedWorld, compared: int = 1000) -> None:
    assert world.wrong == []
    assert world.compared > compared


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("seed", range(2))
def test_intervals_are_true_while_the_oscillator_wanders(mode, seed):
    clock = Clock(error_ns=0.3 * SECOND, frequency=wandering(seed))
    world = WatchedWorld(servers(), clock=clock, settings=ClockSettings(mode=mode), seed=seed)
    world.run(4000)
    assert_all_true(world, 10_000)
    assert world.ages > 500


def test_intervals_are_true_while_others_step_and_slew_the_clock():
    world = WatchedWorld(servers(), clock=Clock(frequency=wandering(3)), settings=ClockSettings(mode=Mode.FEED))
    dice = random.Random(3)
    world.run(300)
    for _ in range(40):
        world.clock.step(dice.choice([-7200, -0.3, 0.002, 60]))
        world.run(dice.uniform(0, 20))
        world.clock.correction = dice.uniform(-0.08, 0.08)
        world.run(dice.uniform(0, 20))
        world.clock.correction = 0.0
    assert_all_true(world)


def test_intervals_are_true_while_one_of_four_lies_and_others_are_lost():
    sources = servers()
    sources[0].offset = lambda seconds: 0.5 if seconds > 400 else 0.0
    for source in sources:
        source.lost = lambda seconds, dice: dice.random() < 0.1
    world = WatchedWorld(sources, clock=Clock(frequency=wandering(5)))
    world.run(3000)
    assert_all_true(world, 10_000)
    # The jump might have been one of the raw clock: for a moment the interval contains both.
    assert world.widest > 0.5
    assert world.width < 0.05


def test_intervals_are_true_without_sources():
    sources = servers(lost=lambda seconds, dice: 900 < seconds < 2500)
    world = WatchedWorld(sources, clock=Clock(frequency=wandering(5)))
    world.run(4000)
    assert_all_true(world, 10_000)
    assert world.widest < 0.1


def test_fault_59_intervals_are_true_after_a_sleep_or_not_used():
    world = WatchedWorld(servers(), clock=Clock(frequency=wandering(6)))
    for _ in range(6):
        world.run(300)
        world.clock.suspend(3000, rtc_error=0.4)
    world.run(300)
    assert_all_true(world)


@pytest.mark.parametrize("mode", [Mode.STEER, Mode.OBSERVE])
def test_fault_62_intervals_are_true_around_a_leap_second(mode):
    sources = servers(leap=lambda seconds: 1 if seconds < 1800 else 0)
    clock = Clock(true_ns=MIDNIGHT - 1800 * SECOND, frequency=wandering(8))
    world = WatchedWorld(sources, clock=clock, settings=ClockSettings(mode=mode), leaps=(MIDNIGHT,))
    world.run(3600)
    assert_all_true(world)
