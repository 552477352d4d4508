"""Leap seconds: announced by a majority or a table on the last day of a month; nothing is steered or measured around one."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.discipline.clock_world import SECOND, Clock, Server, World
from tsq.discipline.actions import SlewPhase, Steer, StepClock
from tsq.discipline.events import LeapKnown
from tsq.discipline.leap import LeapWatch, day_of, is_last_of_month
from tsq.discipline.settings import ClockSettings, Mode, SourceSettings

MIDNIGHT = 1_798_761_600 * SECOND  # 2027-01-01
DAY = 86_400 * SECOND
POLL = SourceSettings(min_poll=2, max_poll=2)


def world_at(end_ns, announcing=4, leap=1, settings=None, happens=None, until=600):
    sources = [Server(name, settings=POLL) for name in "abcd"]
    for one in sources[:announcing]:
        one.leap = lambda seconds: leap if seconds < until else 0
    true = happens if happens is not None else leap in (1, 2) and announcing > 2
    clock = Clock(true_ns=end_ns - 600 * SECOND, frequency=lambda seconds: 30e-6)
    return World(sources, clock=clock, settings=settings, leaps=(end_ns,) if true else ())


def assert_quiet(world):
    """No action from 1 s before to 2 s after the leap second, which begins at second 600 of the world and ends at 601."""
    assert [at for at, _ in world.actions if 599.1 < at < 602.9] == []


def test_an_announced_leap_second_is_inserted_by_the_kernel():
    world = world_at(MIDNIGHT)
    world.run(598)
    assert world.clock.inserts == 1
    assert world.tracking.leap == 1
    world.run(302)
    assert_quiet(world)
    assert world.worst(60) < 20e-6
    assert world.did(StepClock) == []
    assert world.did(SlewPhase) == []
    assert world.texts() == ["a leap second was inserted"]
    assert world.tracking.foreign_moves == 0
    assert world.tracking.leap == 0
    assert world.clock.inserts == 0
    assert (world.broken, world.kernel_broken) == (0, 0)


def test_it_is_not_armed_again_when_sources_go_on_announcing_it():
    world = world_at(MIDNIGHT, until=3000)
    world.run(1500)
    assert world.clock.inserts == 0
    assert world.did(StepClock) == []
    assert world.worst(60) < 20e-6


def test_no_sample_beside_it_is_used():
    world = world_at(MIDNIGHT)
    world.run(900)
    assert {one.last_reason for one in world.machine.status().sources} == {""}
    used = [at for at, name in world.polls if name == "a"]
    assert any(598 < at < 603 for at in used)
    # Every poll was answered, and those beside the leap second are not among the samples that were used.
    found = world.source("a")
    assert found.answers == found.polls
    assert world.broken == 0


def test_a_minority_announces_nothing():
    world = world_at(MIDNIGHT, announcing=2)
    world.run(900)
    assert {one.leap for _, one in world.did(Steer)} == {0}
    assert world.worst(60) < 20e-6
    assert (world.broken, world.kernel_broken) == (0, 0)


def test_not_in_the_middle_of_a_month():
    world = world_at(MIDNIGHT - 10 * DAY, happens=False)
    world.run(900)
    assert {one.leap for _, one in world.did(Steer)} == {0}
    assert world.worst(60) < 20e-6


def test_not_where_it_is_switched_off():
    """The clock does not follow; that is noticed, and corrected like any other offset."""
    world = world_at(MIDNIGHT, settings=ClockSettings(leap=False))
    world.run(700)
    assert {one.leap for _, one in world.did(Steer)} == {0}
    assert world.texts() == ["a leap second has passed, and this clock did not count it"]
    world.run(100)
    assert abs(world.error) < 1e-3


def test_a_table_counts_more_than_the_sources():
    world = world_at(MIDNIGHT, announcing=0, happens=True)
    world.give(LeapKnown(1, day_of(MIDNIGHT) - 1))
    world.run(900)
    assert world.texts() == ["a leap second was inserted"]
    assert world.worst(60) < 20e-6
    world = world_at(MIDNIGHT, happens=False)
    world.give(LeapKnown(0, day_of(MIDNIGHT) - 1))
    world.run(900)
    assert {one.leap for _, one in world.did(Steer)} == {0}
    assert world.worst(60) < 20e-6


def test_sources_that_smear_announce_nothing():
    world = world_at(MIDNIGHT, happens=False)
    for one in world.servers.values():
        one.smeared = True
    world.run(900)
    assert {one.leap for _, one in world.did(Steer)} == {0}


def test_in_observe_mode_the_leap_second_of_the_other_daemon_is_followed():
    world = world_at(MIDNIGHT, settings=ClockSettings(mode=Mode.OBSERVE))
    world.clock.correction = 30e-6
    world.clock.inserts = 1
    world.run(900)
    assert "a leap second was inserted" in world.texts()
    assert abs(world.tracking.offset) < 1e-3
    assert world.broken == 0


@pytest.mark.parametrize("year", [1970, 1972, 1999, 2000, 2024, 2026, 2100])
def test_the_last_days_of_months(year):
    first = datetime(year, 1, 1, tzinfo=UTC)
    for number in range(366):
        day = first + timedelta(number)
        assert is_last_of_month(day_of(int(day.timestamp()) * SECOND)) is ((day + timedelta(1)).day == 1)


def test_the_watch_forgets_what_is_not_announced_any_more():
    watch = LeapWatch()
    noon = MIDNIGHT - DAY // 2
    watch.announce(1, noon)
    assert (watch.at(noon), watch.seconds) == (1, -1)
    watch.announce(2, noon)
    assert (watch.at(noon), watch.seconds) == (2, 1)
    watch.announce(None, noon)
    assert (watch.at(noon), watch.seconds) == (0, 0)
    assert not watch.is_quiet(MIDNIGHT)
    watch.announce(1, noon)
    assert [watch.is_quiet(MIDNIGHT + at * SECOND // 10) for at in (-11, -10, 0, 20, 21)] == [False, True, True, True, False]
    assert watch.spoils(MIDNIGHT - SECOND, MIDNIGHT - SECOND // 2)
    assert not watch.spoils(MIDNIGHT - 3 * SECOND, MIDNIGHT - 2 * SECOND)
    assert watch.at(MIDNIGHT + 3 * SECOND) == 0
