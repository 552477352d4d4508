"""The machine that keeps a clock, in virtual time: it converges, holds, and never publishes a bound that is false."""

import itertools
import math

import pytest

from tests.discipline.clock_world import SECOND, START, Clock, Server, World
from tsq.discipline.actions import Poll, SlewPhase, Steer, StepClock, WouldDo
from tsq.discipline.events import (
    Burst,
    MakeStepNow,
    Polled,
    Reconfigured,
    SavedDrift,
    SetOnline,
    SourceAdded,
    SourceChanged,
    SourceRemoved,
    Stopping,
    Tick,
)
from tsq.discipline.machine import Discipline
from tsq.discipline.settings import ClockSettings, ForeignStep, MakeStep, Mode, SourceSettings
from tsq.discipline.status import ClockStatus
from tsq.timing.sample import Reason, Sample
from tsq.timing.selection import Criteria, Unused

FOUR = SourceSettings(min_poll=4, max_poll=4)


def steady(ppm: float):
    return lambda seconds: ppm * 1e-6


def servers(number: int = 4, **values) -> list[Server]:
    return [Server(name, **values) for name in "abcdefgh"[:number]]


def assert_bounds_true(world: World) -> None:
    assert world.checked > 50
    assert (world.broken, world.kernel_broken) == (0, 0)


def assert_honest(world: World) -> None:
    assert (world.broken, world.kernel_broken) == (0, 0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("number", [1, 4])
def test_half_a_second_and_80_ppm_are_slewed_away(number, seed):
    world = World(servers(number), clock=Clock(error_ns=0.5 * SECOND, frequency=steady(80)), seed=seed)
    world.run(180)
    assert world.worst(30) < 1e-3
    assert world.worst(45) < 100e-6
    assert world.rms(60, 120) < 50e-6
    assert world.worst(60) < 5e-6
    assert world.did(StepClock) == []
    assert world.tracking.frequency == pytest.approx(80e-6, abs=0.2e-6)
    assert world.tracking.correction == pytest.approx(80e-6, abs=1e-6)
    assert_bounds_true(world)


def test_a_large_offset_is_stepped_in_the_first_updates_only():
    world = World(servers(), clock=Clock(error_ns=-7000 * SECOND))
    world.run(60)
    (_, step), = world.did(StepClock)
    assert step.offset == pytest.approx(7000, abs=1e-3)
    assert world.worst(20) < 100e-6
    assert world.tracking.steps == 1
    assert world.tracking.accumulated_steps == pytest.approx(7000, abs=1e-3)
    assert_bounds_true(world)


def test_without_makestep_a_large_offset_is_slewed():
    world = World(servers(), clock=Clock(error_ns=3 * SECOND), settings=ClockSettings(makestep=None))
    world.run(120)
    assert world.did(StepClock) == []
    assert world.worst(60) < 50e-6
    assert_bounds_true(world)


def test_the_first_one_to_answer_does_not_decide_alone():
    """A liar with a short way answers first: the clock waits for the others."""
    liar = Server("a", base=1e-4, offset=lambda seconds: 500.0)
    world = World([liar, *(Server(name, base=20e-3) for name in "bcd")])
    world.run(60)
    assert world.did(StepClock) == []
    assert world.worst(0) < 1e-3
    assert world.source("a").mark == "x"
    assert_bounds_true(world)


def test_the_first_update_does_not_wait_for_ever():
    silent = Server("a", lost=lambda seconds, dice: True)
    world = World([Server("b"), silent])
    world.clock.step(0.3)
    world.run(30)
    assert world.tracking.status is ClockStatus.SYNCHRONIZED
    assert world.worst(20) < 1e-3


def test_the_first_update_waits_longer_for_a_majority():
    """The first packets to three of four servers are lost: the liar that answers at once decides nothing."""
    liar = Server("a", offset=lambda seconds: 500.0)
    world = World([liar, *(Server(name, lost=lambda seconds, dice: seconds < 7) for name in "bcd")])
    world.run(7)
    assert world.actions == []
    world.run(60)
    assert world.did(StepClock) == []
    assert world.worst(0) < 1e-3
    assert world.source("a").mark == "x"


def test_the_first_update_comes_by_itself_when_the_wait_is_over():
    """The others never say anything, and the one that did is not asked again for long."""
    answering = Server("a", settings=SourceSettings(min_poll=10, max_poll=10))
    world = World([answering, *(Server(name, base=1000.0) for name in "bcd")], clock=Clock(error_ns=2 * SECOND))
    world.run(9)
    assert world.actions == []
    world.run(2)
    (at, _), = world.did(StepClock)
    assert 10 <= at < 11.1
    assert world.tracking.status is ClockStatus.SYNCHRONIZED
    assert_honest(world)


def test_the_clock_is_looked_at_seldom_when_it_is_right_and_often_while_it_is_slewed():
    world = World(servers(settings=FOUR), clock=Clock(error_ns=0.3 * SECOND, frequency=steady(30)))

    def looks(since, until):
        world.run_until(until)
        return sum(isinstance(one, Tick) and since <= at < until for at, one in world.given)

    assert looks(4, 10) >= 11
    assert looks(600, 1240) <= 4 * 640 / 16 + 640 / 4
    assert looks(1240, 1880) <= 4 * 640 / 16 + 640 / 4
    assert_bounds_true(world)


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.FEED])
def test_a_clock_that_is_only_measured_is_looked_at_seldom(mode):
    """When a poll begins, and when it is over."""
    world = World(servers(settings=FOUR), settings=ClockSettings(mode=mode))
    world.run_until(1240)
    assert sum(isinstance(one, Tick) and at >= 600 for at, one in world.given) <= 4 * 640 / 16 + 640 / 16
    assert_bounds_true(world)


@pytest.mark.parametrize("error_ns", [5 * SECOND, -3600 * SECOND])
def test_the_true_time_is_passed_on_however_far_the_clock_is_from_it(error_ns):
    world = World(servers(stratum=2), clock=Clock(error_ns=error_ns), settings=ClockSettings(mode=Mode.FEED))
    world.run(30)
    found = world.tracking
    assert found.status is ClockStatus.UNSYNCHRONIZED
    assert (found.stratum, found.leap) == (3, 0)
    assert found.root_delay / 2 + found.root_dispersion < 0.001
    assert abs(found.offset + error_ns / SECOND) < 0.001


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.FEED])
def test_what_is_not_done_is_not_reported_as_done(mode):
    world = World(servers(), clock=Clock(error_ns=2 * SECOND), settings=ClockSettings(mode=mode))
    world.run(20)
    world.give(MakeStepNow())
    assert world.texts("step")
    assert all(f"not stepped in the mode `{mode}`" in text for text in world.texts("step"))
    assert f"nothing touches it in the mode `{mode}`" in world.texts("operator")[0]
    assert world.tracking.steps == 0


def test_a_frozen_clock_ages_by_the_frequency_that_it_has_and_not_by_the_one_that_was_asked_for():
    world = World(servers(), clock=Clock(frequency=steady(30)), settings=ClockSettings(foreign_step=ForeignStep.CORRECT))
    world.run(60)
    world.clock.step(2000)
    world.run(10)
    assert world.tracking.status is ClockStatus.FROZEN
    world.clock.correction = 400e-6
    world.run(10)
    assert world.tracking.correction == pytest.approx(400e-6)
    before, at = world.tracking, world.clock.raw_ns
    for one in world.servers.values():
        one.lost = lambda seconds, dice: True
    world.run(30)
    truth = world.utc_ns(world.clock.true_ns)
    assert abs(world.clock.real_ns - truth) / 1e9 <= before.bound + before.bound_rate * (world.clock.raw_ns - at) / 1e9
    assert before.bound_rate >= 370e-6


@pytest.mark.parametrize("name", ["", "p"])
def test_a_burst_for_a_pool_is_for_each_of_its_members(name):
    world = World([Server("p/1", settings=FOUR), Server("p/2", settings=FOUR), Server("q", settings=FOUR)])
    world.run(307)
    begun = world.now
    world.give(Burst(name, 3))
    world.run(5)
    asked = [who for at, who in world.polls if begun <= at <= begun + 5]
    assert {who: asked.count(who) for who in ("p/1", "p/2", "q")} == {"p/1": 3, "p/2": 3, "q": 0 if name else 3}


def test_a_clock_that_is_right_to_the_nanosecond_has_no_minus_sign():
    world = World(servers(1), clock=Clock(error_ns=1))
    world.run(60)
    assert world.texts("status")
    assert not [text for text in world.texts() + world.texts("status") if "-0.000000" in text]


@pytest.mark.parametrize("since", [0, 600])
def test_a_liar_of_four_is_rejected_and_named(since):
    found = servers(settings=FOUR)
    found[0].offset = lambda seconds: 0.05 if seconds >= since else 0.0
    world = World(found, clock=Clock(frequency=steady(30)))
    world.run(since + 600)
    assert world.source("a").mark == "x"
    assert Unused.FALSETICKER.value in world.texts("false a")[0]
    assert world.worst(max(since, 60)) < 10e-6
    assert_bounds_true(world)


def test_a_liar_that_drifts_away_moves_the_clock_by_no_more_than_its_root_distance():
    found = servers(settings=FOUR)
    found[0].offset = lambda seconds: max(0.0, seconds - 600) * 5e-6
    world = World(found, clock=Clock(frequency=steady(30)))
    world.run(2400)
    assert world.source("a").mark == "x"
    assert world.worst(600) < 150e-6
    assert_bounds_true(world)


@pytest.mark.parametrize("seed", range(3))
def test_a_liar_that_claims_to_be_perfect_pulls_no_more_than_one_of_three(seed):
    """Its interval overlaps the others', which claim 2 ms: nothing shows that it lies."""
    found = servers(3, error=2e-3)
    found[0].offset, found[0].error = (lambda seconds: 1e-3), 1e-9
    world = World(found, clock=Clock(frequency=steady(30)), seed=seed)
    world.run(240)
    assert world.worst(120) == pytest.approx(1e-3 / 3, rel=0.1)
    assert_bounds_true(world)


def test_the_claims_of_a_trusted_source_are_taken_as_they_are():
    found = servers(3, error=2e-3, offset=lambda seconds: 1e-3)
    found[0] = Server("a", error=1e-6, settings=SourceSettings(min_poll=0, max_poll=0, trust=True))
    world = World(found, clock=Clock(frequency=steady(30)))
    world.run(240)
    assert world.worst(120) < 50e-6
    assert_bounds_true(world)


@pytest.mark.parametrize("smeared", [True, False, None])
def test_the_clock_is_smeared_as_its_sources_are(smeared):
    world = World(servers(3, smeared=smeared))
    assert world.tracking.smeared is None
    world.run(60)
    assert world.tracking.smeared is smeared


def test_two_of_five_in_collusion():
    found = servers(5, settings=FOUR)
    for one in found[:2]:
        one.offset = lambda seconds: 0.03
    world = World(found, clock=Clock(error_ns=0.5 * SECOND))
    world.run(600)
    assert [world.source(name).mark for name in "ab"] == ["x", "x"]
    assert world.worst(60) < 20e-6
    assert_bounds_true(world)


def test_two_of_four_are_no_majority_and_the_clock_is_not_touched():
    found = servers(4)
    for one in found[:2]:
        one.offset = lambda seconds: 0.03
    world = World(found)
    world.run(60)
    assert world.actions == []
    assert world.tracking.status is ClockStatus.UNSYNCHRONIZED
    assert world.tracking.stratum == 0
    assert world.tracking.leap == 3
    assert world.tracking.offset is None
    assert any("no majority" in text for text in world.texts())


def test_twenty_ms_in_one_direction_for_an_hour():
    far = Server("a", base=5e-3, jitter=1e-3, extra=lambda seconds: 0.02 if 3600 <= seconds < 7200 else 0.0, settings=FOUR)
    world = World([far], clock=Clock(frequency=steady(20)))
    world.run(9000)
    assert world.worst(3600) < 0.5e-3
    assert_bounds_true(world)


def test_half_of_the_packets_are_lost():
    world = World(servers(settings=FOUR, lost=lambda seconds, dice: dice.random() < 0.5), clock=Clock(frequency=steady(30)))
    world.run(3600)
    assert world.worst(300) < 20e-6
    assert_bounds_true(world)


def test_an_hour_without_sources():
    lost = {"lost": lambda seconds, dice: 3600 <= seconds < 7200}
    world = World(servers(settings=FOUR, **lost), clock=Clock(frequency=steady(30)))
    world.run(3590)
    before = world.tracking
    world.run(3600)
    held = world.tracking
    assert held.status is ClockStatus.HOLDOVER
    assert held.bound - before.bound == pytest.approx(15e-6 * 3600, rel=0.05)
    assert abs(world.error) < 100e-6
    assert world.clock.synchronized
    assert world.clock.max_error >= held.bound
    world.run(300)
    assert world.tracking.status is ClockStatus.SYNCHRONIZED
    right, held, again = world.texts("status")
    assert right.startswith("the clock is synchronized: offset ")
    assert held.startswith("the clock is held over without a usable source: offset ")
    assert again.startswith("the clock is synchronized: offset ")
    assert_bounds_true(world)


def test_hold_over_ends_when_the_bound_passes_the_limit():
    found = servers(settings=FOUR, lost=lambda seconds, dice: seconds >= 300)
    world = World(found, settings=ClockSettings(criteria=Criteria(max_distance=0.02)))
    world.run(3000)
    assert [status for _, status in world.statuses][-2:] == ["holdover", "unsynchronized"]
    assert world.tracking.stratum == 0
    assert world.tracking.leap == 3
    assert not world.clock.synchronized
    assert_bounds_true(world)


def test_a_suspension_of_eight_hours():
    world = World(servers(settings=FOUR), clock=Clock(frequency=steady(30)))
    world.run(996)
    frequency = world.tracking.frequency
    world.clock.suspend(8 * 3600, rtc_error=0.7)
    begun, acted = world.now, len(world.actions)
    world.run_until(begun + 0.000_3)
    # Nothing is known before the first answer: the clock runs on with its frequency, and is not called right.
    assert world.tracking.bound is None
    assert world.tracking.status is ClockStatus.UNSYNCHRONIZED
    assert [one for _, one in world.actions[acted:]] == [Steer(frequency, 16.0, 16.0, False)]
    world.run_until(begun + 120)
    assert world.worst(begun + 30) < 100e-6
    assert len([at for at, name in world.polls if name == "a" and begun <= at < begun + 7]) == 4
    assert any("suspended for 28800.0 s" in text for text in world.texts("suspended"))
    assert world.tracking.foreign_moves == 0
    assert_bounds_true(world)


def test_a_sample_taken_across_a_suspension_is_not_used():
    world = World([Server("a", base=0.4, settings=FOUR)], clock=Clock())
    world.run(100)
    answers = world.source("a").samples
    assert answers
    world.give(Burst("a", 1))
    world.run(0.3)
    world.clock.suspend(1000)
    world.run(0.7)
    assert world.source("a").last_reason == "taken across a suspension of the machine"
    assert_bounds_true(world)


@pytest.mark.parametrize(("reason", "detail", "shown"), [
    (Reason.NOT_SENT, "the server's certificate has expired", "the server's certificate has expired"),
    (Reason.NO_ANSWER, "no answer in 3 s", "no answer in 3 s"),
    (Reason.CONNECTION_LOST, "", "connection lost"),
    (Reason.MALFORMED, "12 bytes", "malformed answer: 12 bytes"),
    (Reason.NOT_SENT, 400 * "x", 297 * "x" + "..."),
])
def test_why_a_source_gives_no_time_is_told_as_exactly_as_it_is_known(reason, detail, shown):
    world = World([Server("a", settings=FOUR)], clock=Clock())
    world.run(10)
    failed = Sample(world.clock.real_ns, reason=reason, detail=detail)
    for _ in range(8):
        world.give(Polled("a", failed, world.clock.reading(), "a 443"))
    assert world.source("a").last_reason == shown
    assert world.texts("reach a") == [f"a does not answer any more: {shown}"]


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("paused", [600.0, 28_800.0, 3.0])
def test_a_paused_virtual_machine_is_noticed_and_corrected(number, paused):
    world = World(servers(number, settings=FOUR), clock=Clock(frequency=steady(30)))
    world.run(1000)
    world.pause(paused)
    begun = world.now
    world.run(200)
    assert any("stood still" in text for text in world.texts("jump"))
    if number == 1 and paused > 1000:
        # A single source may be wrong: the limit counts.
        assert "panic" in world.tracking.frozen
    else:
        assert len(world.did(StepClock, begun)) == 1
        assert world.worst(begun + 60) < 50e-6
    assert_bounds_true(world)


def test_a_server_whose_clock_is_set_is_no_paused_machine():
    found = servers(settings=FOUR)
    found[1].offset = lambda seconds: 3.0 if seconds > 500 else 0.0
    world = World(found)
    world.run(1500)
    assert world.texts("jump") == []
    assert world.source("b").mark == "x"
    assert world.worst(60) < 10e-6
    # Its contradictions ask for some more polls, not for ever.
    assert len([at for at, _ in world.polls if 600 < at < 1240]) < 4 * 42
    assert_bounds_true(world)


def test_the_temperature_swings():
    frequency = lambda seconds: 10e-6 + 0.5e-6 * math.sin(2 * math.pi * seconds / 3600)  # noqa: E731
    world = World(servers(settings=FOUR), clock=Clock(frequency=frequency))
    world.run(7200)
    assert world.worst(600) < 50e-6
    assert_bounds_true(world)


def test_the_era_of_2036():
    """NTP's timestamps begin anew on 2036-02-07 06:28:16; Unix time goes on."""
    rollover = (2**32 - 2_208_988_800) * SECOND
    world = World(servers(), clock=Clock(true_ns=rollover - 60 * SECOND))
    world.run(180)
    assert world.worst(30) < 10e-6
    assert world.texts() == []
    assert_bounds_true(world)


@pytest.mark.parametrize("ppm", [-400, 130, 700])
def test_an_oscillator_that_is_far_off(ppm):
    world = World(servers(), clock=Clock(error_ns=0.2 * SECOND, frequency=steady(ppm)), saved=SavedDrift(ppm * 1e-6, 1e-6))
    world.run(120)
    assert world.worst(60) < 10e-6
    assert world.tracking.correction == pytest.approx(ppm * 1e-6, abs=2e-6)
    assert_bounds_true(world)


def test_a_drift_file_that_is_wrong_does_not_break_the_bound():
    world = World(servers(settings=FOUR, base=5e-3), clock=Clock(frequency=steady(60)), saved=SavedDrift(10e-6, 1e-9))
    world.run(1200)
    assert world.worst(900) < 100e-6
    assert_bounds_true(world)


def test_a_drift_file_helps():
    """The frequency is right from the first second."""
    saved = SavedDrift(80e-6, 0.01e-6, (0.1,) * 7)
    world = World(servers(), clock=Clock(error_ns=1000, frequency=steady(80)), saved=saved)
    assert [one for _, one in world.actions] == [Steer(80e-6, 16.0, 16.0, False)]
    world.run(60)
    assert world.worst(0) < 20e-6
    assert_bounds_true(world)


def test_the_drift_is_kept_every_hour_and_at_the_end():
    world = World(servers(settings=FOUR), clock=Clock(frequency=steady(25)))
    world.run(600)
    assert len(world.saves) == 1
    assert world.saves[0].frequency == pytest.approx(25e-6, abs=0.3e-6)
    assert 0 < world.saves[0].uncertainty < 0.5e-6
    assert sum(world.saves[0].weights) == pytest.approx(1)
    world.run(2 * 3600)
    assert len(world.saves) == 3
    world.give(Stopping())
    assert len(world.saves) == 4
    assert world.actions[-1][1].frequency == world.saves[-1].frequency


def test_the_end_cancels_a_slew():
    world = World(servers(), clock=Clock(error_ns=0.5 * SECOND))
    world.run(3)
    world.give(Stopping())
    slew, steer = (one for _, one in world.actions[-2:])
    assert slew == SlewPhase(0.0)
    assert steer.frequency == world.tracking.frequency
    assert world.saves == []


@pytest.mark.parametrize("seconds", [0.5, 1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13])
def test_killed_in_mid_slew_the_clock_is_no_farther_off_than_when_the_slew_began(seconds):
    world = World(servers(), clock=Clock(error_ns=0.5 * SECOND))
    world.run(seconds)
    clock, begun = world.clock, world.clock.true_ns
    for second in range(1, 61):
        clock.run_to(begun + second * SECOND)
        # The kernel's own bound grows by 500 ppm.
        assert abs(clock.error(clock.true_ns)) <= clock.max_error + second * 500e-6
    # The frequency's part is not a slew of the kernel: 60 s at some ppm.
    allowed = 60 * abs(clock.correction - world.tracking.frequency) + 60 * 60e-6
    assert abs(clock.error(clock.true_ns)) <= 0.5 + allowed


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.FEED])
def test_other_modes_touch_nothing_and_say_what_they_would_do(mode):
    world = World(servers(), clock=Clock(error_ns=2 * SECOND, frequency=steady(30)), settings=ClockSettings(mode=mode))
    world.run(60)
    assert {type(one) for _, one in world.actions} == {WouldDo}
    assert {type(one.action) for _, one in world.actions} == {StepClock, SlewPhase, Steer}
    assert world.tracking.mode is mode
    assert world.tracking.offset == pytest.approx(-world.error, abs=50e-6)
    assert world.tracking.steps == 0
    assert_bounds_true(world)


def test_beside_another_daemon_that_steers_nothing_is_reported_as_foreign():
    world = World(servers(), clock=Clock(frequency=steady(30)), settings=ClockSettings(mode=Mode.OBSERVE))
    for ppm in (10, 20, 30, 40):
        world.clock.correction = ppm * 1e-6
        world.clock.pending = 2e6
        world.run(20)
    assert world.texts("foreign") == []
    assert world.tracking.foreign_moves == 0


def test_the_same_events_give_the_same_actions():
    found = servers(settings=SourceSettings(min_poll=0, max_poll=6), lost=lambda seconds, dice: dice.random() < 0.2)
    world = World(found, clock=Clock(error_ns=0.3 * SECOND, frequency=steady(30)))
    world.run(600)
    again = Discipline()
    first, second = [], []
    for event in world.events:
        first += again.handle(event)
    twice = Discipline()
    for event in world.events:
        second += twice.handle(event)
    assert first == second
    steers = [one for one in first if isinstance(one, Steer)]
    assert steers == [one for _, one in world.did(Steer)]
    assert again.status() == world.machine.status()


def test_the_poll_interval_grows_with_what_is_known():
    found = servers(2, base=10e-3, jitter=1e-3, settings=SourceSettings(min_poll=4, max_poll=10))
    world = World(found, clock=Clock(frequency=steady(10)))
    world.run(4 * 3600)
    assert world.source("a").poll > 5
    assert world.worst(3600) < 1e-3
    assert_bounds_true(world)


def test_the_first_polls_are_a_burst():
    world = World([Server("a", settings=SourceSettings())], clock=Clock(frequency=steady(80)))
    world.run(200)
    begun = [at for at, _ in world.polls]
    # More of them while the frequency is not known; then the least interval.
    assert begun[:5] == pytest.approx([0, 2, 4, 6, 8], abs=0.1)
    assert 10 <= sum(at < 60 for at in begun) <= 4 + 16 + 4
    assert [after - before for before, after in itertools.pairwise(begun[-8:])] == pytest.approx([16] * 7, abs=0.1)


def test_the_first_polls_with_a_frequency_that_is_known():
    saved = SavedDrift(80e-6, 0.01e-6)
    world = World([Server("a", base=2e-3, jitter=500e-6, settings=FOUR)], clock=Clock(frequency=steady(80)), saved=saved)
    world.run(60)
    known = len(world.polls)
    world = World([Server("a", base=2e-3, jitter=500e-6, settings=FOUR)], clock=Clock(frequency=steady(80)))
    world.run(60)
    assert 8 <= known < len(world.polls)


def test_an_offline_source_is_not_polled_and_not_used():
    world = World(servers(2, settings=FOUR))
    world.run(60)
    world.give(SetOnline(False))
    polls = len(world.polls)
    world.run(120)
    assert len(world.polls) == polls
    assert world.source("a").unused == "offline"
    assert world.tracking.status is ClockStatus.HOLDOVER
    world.give(SetOnline(True, "a"))
    world.run(30)
    assert {name for _, name in world.polls[polls:]} == {"a"}
    assert world.tracking.status is ClockStatus.SYNCHRONIZED


def test_sources_come_change_and_go():
    world = World(servers(2, settings=FOUR))
    world.run(60)
    world.servers["c"] = Server("c", settings=FOUR)
    world.give(SourceAdded("c", FOUR, "c 443"))
    world.run(60)
    assert world.source("c").mark in "*+"
    world.give(SourceChanged("c", FOUR, "c2 443", same_server=False))
    assert world.source("c").samples == 0
    world.give(SourceChanged("b", SourceSettings(min_poll=5, max_poll=5), "b 443", same_server=True))
    assert world.source("b").samples > 0
    assert world.source("b").poll == 5
    for name in "abc":
        world.give(SourceRemoved(name))
    assert world.machine.status().sources == ()
    world.run(100)
    assert world.tracking.status is ClockStatus.HOLDOVER
    assert_bounds_true(world)


def test_an_outcome_of_a_source_that_is_gone_is_ignored():
    world = World(servers(1))
    world.run(10)
    late = next(event for event in world.events if isinstance(event, Polled))
    world.give(SourceRemoved("a"))
    world.give(late)
    assert world.machine.status().sources == ()


def test_a_change_of_the_survivors_does_not_make_the_clock_jump():
    """Two sources with asymmetric ways disagree by 400 µs; the one that was followed vanishes."""
    near = Server("a", base=200e-6, extra=lambda seconds: 0.4e-3, lost=lambda seconds, dice: seconds > 300, settings=FOUR)
    other = Server("b", base=400e-6, settings=FOUR)
    world = World([near, other])
    world.run(900)
    pairs = [pair for pair in itertools.pairwise(world.errors) if pair[0][0] > 60 and pair[1][0] - pair[0][0] > 0.5]
    changes = [abs(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairs]
    assert max(changes) < 200e-6
    assert world.did(SlewPhase, 60) == []
    assert_bounds_true(world)


def test_an_unsynchronized_server_is_not_used_and_says_why():
    world = World([Server("a", stratum=0), *servers(4)[1:]])
    world.run(30)
    assert world.source("a").mark == "?"
    assert world.source("a").unused == Unused.UNSYNCHRONIZED.value
    assert world.tracking.stratum == 2


def test_no_select_prefer_and_trust():
    measured = Server("a", settings=SourceSettings(min_poll=0, max_poll=0, no_select=True))
    liked = Server("b", settings=SourceSettings(min_poll=0, max_poll=0, prefer=True))
    world = World([measured, liked, Server("c")])
    world.run(60)
    assert [world.source(name).mark for name in "abc"] == ["?", "*", "-"]
    assert world.source("a").offset is not None
    trusted = Server("a", settings=SourceSettings(min_poll=0, max_poll=0, trust=True))
    others = [Server(name, offset=lambda seconds: 0.5) for name in "bcd"]
    world = World([trusted, *others])
    world.run(60)
    assert [world.source(name).mark for name in "abcd"] == ["*", "x", "x", "x"]
    assert world.worst(20) < 20e-6
    assert_bounds_true(world)


def test_fewer_sources_than_required():
    world = World(servers(2), settings=ClockSettings(criteria=Criteria(min_sources=3)))
    world.run(30)
    assert world.actions == []
    assert world.tracking.status is ClockStatus.UNSYNCHRONIZED


def test_an_operator_steps_the_clock():
    world = World(servers(), clock=Clock(error_ns=0.4 * SECOND))
    world.give(MakeStepNow())
    assert world.did(StepClock) == []
    assert "not known" in world.texts("operator")[0]
    world.run(2)
    world.give(MakeStepNow())
    assert abs(world.error) < 1e-3
    world.run(60)
    assert len(world.did(StepClock)) == 1
    assert world.worst(20) < 20e-6
    assert_bounds_true(world)


def test_other_settings():
    world = World(servers(), clock=Clock(error_ns=0.5 * SECOND))
    world.run(2)
    world.give(Reconfigured(ClockSettings(mode=Mode.OBSERVE)))
    assert world.did(SlewPhase)[-1][1] == SlewPhase(0.0)
    acted = len(world.actions)
    world.run(10)
    assert all(isinstance(one, WouldDo) for _, one in world.actions[acted:])
    world.give(Reconfigured(ClockSettings(makestep=MakeStep(0.1, -1))))
    world.run(10)
    assert len(world.did(StepClock)) == 1


def test_the_kernel_is_not_called_synchronized_without_rtc_sync():
    world = World(servers(), settings=ClockSettings(rtc_sync=False))
    world.run(30)
    assert not world.clock.synchronized
    assert world.tracking.status is ClockStatus.SYNCHRONIZED


def test_the_tracking_is_what_an_ntp_server_reports():
    world = World(servers(stratum=3))
    world.run(60)
    found = world.tracking
    assert found.stratum == 4
    assert found.leap == 0
    assert found.reference in "abcd"
    assert found.reference_address == f"{found.reference} 443"
    # The bound of the clock has its own distance from the estimate in it; what is passed on has not.
    assert 0 < found.root_delay / 2 + found.root_dispersion <= found.bound
    assert found.updated_real_ns > START
    assert found.rms_offset < 20e-6
    one = world.source(found.reference)
    assert one.mark == "*"
    assert one.reach == 0xFF
    assert one.interval_low <= one.offset <= one.interval_high
    assert one.root_distance >= one.delay / 2


def test_a_poll_is_never_asked_twice():
    world = World(servers(2, base=3.0))
    world.run(100)
    asked = set()
    for event in world.events:
        for action in [] if not isinstance(event, Polled) else [event.name]:
            asked.discard(action)
    again = Discipline()
    for event in world.events:
        if isinstance(event, Polled):
            asked.discard(event.name)
        for action in again.handle(event):
            if isinstance(action, Poll):
                assert action.name not in asked
                asked.add(action.name)


def test_there_is_always_a_time_for_the_next_tick():
    world = World([])
    assert world.machine.due_ns <= world.clock.raw_ns
    world.run(10)
    assert 0 < world.machine.due_ns - world.clock.raw_ns <= 16 * SECOND
