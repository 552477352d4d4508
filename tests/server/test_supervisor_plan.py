"""What a supervisor decides, at virtual time: generations that follow one another, workers that die, events in any order."""

import logging
from random import Random

import pytest

from tsq.server.supervisor_plan import (
    Changed,
    Close,
    Drain,
    Ended,
    Keep,
    Kill,
    Load,
    Plan,
    Relay,
    Say,
    Stage,
    Start,
    Steer,
    Unload,
)

LIMIT = 60.0


def quiet(actions):
    """Without the lines for the log."""
    return [action for action in actions if not isinstance(action, Say)]


def serving(workers: int = 2) -> Plan:
    """A plan whose first generation serves, since 100 s."""
    plan = Plan(workers, LIMIT)
    assert plan.begin(0.0) == [Load(0)]
    assert plan.loaded(0, 0.0) == [Start(slot) for slot in range(workers)]
    for slot in range(workers - 1):
        assert plan.ready(slot, 0.0) == []
    assert plan.ready(workers - 1, 0.0) == [Steer(0, frozenset()), Changed()]
    return plan


def relaying(workers: int = 2, now: float = 100.0) -> Plan:
    """A plan whose next generation is ready at 100 s."""
    plan = serving(workers)
    assert quiet(plan.upgrade(now)) == [Load(1)]
    new = range(workers, 2 * workers)
    assert plan.loaded(1, now) == [Start(slot) for slot in new]
    for slot in new[:-1]:
        assert plan.ready(slot, now) == []
    assert plan.ready(new[-1], now) == [Steer(0, frozenset(new)), *(Relay(slot - workers, slot) for slot in new)]
    return plan


def draining() -> Plan:
    """A plan whose next generation has taken over, at 106 s."""
    plan = relaying()
    assert plan.tick(105.9) == []
    assert quiet(plan.tick(106.0)) == [Steer(1, frozenset({0, 1})), Drain(0), Drain(1), Changed()]
    return plan


# ------------------------------------------------------------------------------------------------------------------ start


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_the_first_generation_serves_when_all_its_workers_are_ready(workers):
    plan = serving(workers)
    assert plan.stage is Stage.STEADY
    assert plan.deadline is None
    assert all(map(plan.serving, range(workers)))


def test_a_first_worker_that_fails_ends_all():
    plan = Plan(2, LIMIT)
    plan.begin(0.0)
    plan.loaded(0, 0.0)
    plan.ready(0, 1.0)
    assert plan.ended(1, "failed: no certificate", 1.0) == [Kill(0), Unload(0), Ended("worker 1 failed: no certificate")]


def test_a_first_program_that_fails_ends_all():
    plan = Plan(2, LIMIT)
    plan.begin(0.0)
    assert plan.unloaded(0, "its program ended with exit status 1", 1.0)[-1] == Ended("its program ended with exit status 1")


def test_a_first_worker_that_takes_too_long_is_killed_and_ends_all():
    plan = Plan(2, LIMIT)
    plan.begin(0.0)
    plan.loaded(0, 0.0)
    plan.ready(0, 1.0)
    assert plan.deadline == 60.0
    assert quiet(plan.tick(60.0)) == [Kill(1)]
    assert isinstance(plan.ended(1, "was ended by SIGKILL", 60.1)[-1], Ended)


# ------------------------------------------------------------------------------------------------------------- a dead worker


def test_a_worker_that_dies_is_started_at_once_and_the_others_are_left_alone():
    plan = serving()
    actions = plan.ended(1, "was ended by SIGKILL", 100.0)
    assert quiet(actions) == [Start(1)]
    assert [action.level for action in actions if isinstance(action, Say)] == [logging.ERROR]
    assert quiet(plan.ready(1, 100.1)) == []
    assert plan.serving(1)


def test_a_worker_that_dies_again_and_again_waits_longer_and_longer():
    plan, now, waits = serving(), 100.0, []
    for _ in range(10):
        started = quiet(plan.ended(1, "ended with exit status 1", now))
        if not started:
            waits.append(plan.deadline - now)
            assert plan.tick(plan.deadline - 0.01) == []
            now = plan.deadline
            started = plan.tick(now)
        assert started == [Start(1)]
        plan.ready(1, now)
        now += 1.0
    assert waits[:4] == [0.25, 0.5, 1.0, 2.0]
    assert max(waits) == waits[-1] == 10.0
    # One that has lived for a while counts as well.
    assert quiet(plan.ended(1, "was ended by SIGSEGV", now + 10.0)) == [Start(1)]


def test_without_its_program_a_worker_waits_for_a_new_one():
    plan = serving()
    assert quiet(plan.unloaded(0, "its program was ended by SIGKILL", 100.0)) == []
    assert quiet(plan.ended(0, "was ended by SIGKILL", 100.1)) == []
    assert quiet(plan.tick(100.25)) == [Load(0)]
    # Its worker is started when the program is there, at the latest some seconds later.
    plan.loaded(0, 100.6)
    assert quiet(plan.tick(plan.deadline)) == [Start(0)]
    assert plan.serving(1)


# ---------------------------------------------------------------------------------------------------------------- upgrades


def test_a_generation_follows_another():
    plan = draining()
    # During the drain, each end is reflected in what the kernel does.
    assert plan.drained(0) == [Steer(1, frozenset({1})), Close(0)]
    assert quiet(plan.ended(0, "ended", 110.0)) == [Steer(1, frozenset({1}))]
    assert plan.drained(1) == [Steer(1, frozenset()), Close(1)]
    assert quiet(plan.ended(1, "ended", 112.0)) == [Steer(1, frozenset()), Unload(0)]
    assert plan.stage is Stage.STEADY
    assert plan.deadline is None
    # And back again.
    assert quiet(plan.upgrade(200.0)) == [Load(0)]


def test_unknown_connections_are_ended_by_the_only_worker_that_can_have_them():
    plan = serving()
    assert [plan.answered(slot) for slot in (0, 1)] == [{0, 2}, {1, 3}]
    plan = relaying()
    assert [plan.answered(slot) for slot in range(4)] == [{0}, {1}, {2}, {3}]
    plan = draining()
    plan.drained(0)
    assert [plan.answered(slot) for slot in range(4)] == [{0}, {1}, {0, 2}, {3}]


@pytest.mark.parametrize("when", ["loading", "starting", "partly ready", "relaying"])
def test_a_new_generation_that_fails_leaves_the_old_one_serving(when):
    plan = serving()
    plan.upgrade(100.0)
    if when == "loading":
        actions = plan.unloaded(1, "its program ended with exit status 1", 101.0)
        expected = [Unload(1)]
    else:
        plan.loaded(1, 101.0)
        if when != "starting":
            plan.ready(2, 101.0)
        if when == "relaying":
            plan.ready(3, 101.0)
        actions = plan.ended(3, "failed: no such file", 102.0)
        expected = [Kill(2), Unload(1)] if when != "relaying" else [Kill(2), Unload(1), Steer(0, frozenset()), Keep(0), Keep(1)]
    *first, changed = quiet(actions)
    assert first == expected
    assert changed.trouble.startswith("the new generation of workers failed, the old one goes on: ")
    assert plan.stage is Stage.STEADY
    assert plan.serving(0)
    assert plan.serving(1)
    # What its processes do from now on has no meaning.
    assert plan.ended(2, "was ended by SIGKILL", 102.1) == []
    assert plan.deadline is None
    assert quiet(plan.upgrade(200.0)) == [Load(1)]


def test_a_new_generation_that_never_gets_ready_is_given_up():
    plan = serving()
    plan.upgrade(100.0)
    assert plan.deadline == 160.0
    actions = quiet(plan.tick(160.0))
    assert Unload(1) in actions
    assert "was not ready in 60 s" in actions[-1].trouble
    assert plan.stage is Stage.STEADY


def test_an_old_worker_that_dies_during_the_relay_makes_the_new_generation_take_over_at_once():
    plan = relaying()
    actions = quiet(plan.ended(0, "was ended by SIGSEGV", 101.0))
    assert actions == [Steer(1, frozenset({1})), Drain(1), Changed()]


def test_connections_that_do_not_end_are_ended_some_time_after_the_limit():
    plan = draining()
    assert plan.deadline == 106.0 + LIMIT + 5.0
    assert quiet(plan.tick(plan.deadline)) == [Kill(0), Kill(1)]
    plan.ended(0, "was ended by SIGKILL", 172.0)
    assert quiet(plan.ended(1, "was ended by SIGKILL", 172.0))[-1] == Unload(0)


def test_a_new_worker_that_dies_while_the_old_ones_drain_is_started_anew_and_gets_the_relay():
    plan = draining()
    assert quiet(plan.ended(2, "was ended by SIGSEGV", 120.0)) == [Start(2)]
    assert quiet(plan.ready(2, 120.1)) == [Relay(0, 2)]


def test_a_worker_that_is_started_anew_while_it_is_replaced_passes_its_newcomers_on():
    plan = serving()
    plan.ended(0, "was ended by SIGSEGV", 99.0)
    plan.upgrade(100.0)
    plan.loaded(1, 101.0)
    plan.ready(2, 101.0)
    assert plan.ready(3, 101.0)[1:] == [Relay(1, 3)]
    assert quiet(plan.ready(0, 101.1)) == [Relay(0, 2)]


def test_upgrades_wait_for_one_another():
    plan = draining()
    assert quiet(plan.upgrade(107.0)) == []
    assert quiet(plan.upgrade(108.0)) == []
    plan.ended(0, "ended", 110.0)
    assert quiet(plan.ended(1, "ended", 111.0)) == [Steer(1, frozenset()), Unload(0), Load(0)]
    assert plan.stage is Stage.LOADING


# --------------------------------------------------------------------------------------------------------------------- end


@pytest.mark.parametrize("plan", [serving, relaying, draining])
def test_at_the_end_all_connections_are_closed(plan):
    plan = plan()
    present = [slot for slot in range(4) if plan.serving(slot) or plan.stage is Stage.DRAINING]
    actions = plan.stop(150.0)
    assert actions == [Close(slot) for slot in present]
    for slot in present[:-1]:
        assert plan.ended(slot, "ended", 150.1) == []
    assert plan.ended(present[-1], "ended", 150.2) == [Ended()]


def test_at_the_end_a_worker_that_hangs_is_killed():
    plan = serving()
    plan.stop(150.0)
    plan.ended(0, "ended", 150.1)
    assert plan.deadline == 155.0
    assert plan.tick(155.0) == [Kill(1)]
    assert plan.ended(1, "was ended by SIGKILL", 155.1) == [Ended()]


class Processes:
    """Programs and workers that get ready, die, drain and hang at random, as a plan wants them; what must hold is checked."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.workers = self.random.choice([1, 2, 3])
        self.plan = Plan(self.workers, LIMIT)
        self.now = 0.0
        self.programs: set[int] = set()
        self.loaded: set[int] = set()
        self.alive: dict[int, str] = {}
        self.killed: list[int] = []
        self.relays: dict[int, int] = {}
        self.steered: int | None = None
        self.over = False

    def perform(self, actions) -> None:
        waiting = list(actions)
        while waiting or self.killed:
            if waiting:
                self.do(waiting.pop(0))
            else:
                waiting += self.end(self.killed.pop(0), "was ended by SIGKILL")

    def do(self, action) -> None:
        match action:
            case Load(generation):
                assert generation not in self.programs
                self.programs.add(generation)
            case Unload(generation):
                self.programs.discard(generation)
                self.loaded.discard(generation)
            case Start(slot):
                assert slot not in self.alive, "two workers have one place"
                assert slot // self.workers in self.loaded
                self.alive[slot] = "starting"
            case Kill(slot):
                self.killed.append(slot)
            case Drain(slot) | Close(slot):
                self.alive[slot] = "draining" if isinstance(action, Drain) else "closing"
            case Relay(source, target):
                assert {source // self.workers, target // self.workers} == {0, 1}
                assert target not in self.relays, "newcomers go round in a circle"
                self.relays[source] = target
            case Keep(slot):
                del self.relays[slot]
            case Steer(newcomers, living):
                self.steered = newcomers
                assert living <= set(self.alive), "packets go to a worker that is gone"
                assert all(slot // self.workers != newcomers for slot in living)
            case Ended():
                self.over = True

    def load(self, generation: int):
        self.loaded.add(generation)
        return self.plan.loaded(generation, self.now)

    def unload(self, generation: int):
        self.programs.discard(generation)
        self.loaded.discard(generation)
        return self.plan.unloaded(generation, "ended", self.now)

    def ready(self, slot: int):
        self.alive[slot] = "serving"
        return self.plan.ready(slot, self.now)

    def end(self, slot: int, why: str = "ended"):
        self.alive.pop(slot, None)
        self.relays.pop(slot, None)
        return self.plan.ended(slot, why, self.now)

    def step(self) -> None:
        """Something happens."""
        self.now += self.random.choice([0.0, 0.05, 1.0, 3.0, 30.0])
        events = [(self.plan.tick, self.now), (self.plan.upgrade, self.now)]
        events += [(self.load, generation) for generation in self.programs - self.loaded]
        for slot, state in self.alive.items():
            if state == "starting":
                events += [(self.ready, slot)] * 4
            if state == "draining":
                events.append((self.plan.drained, slot))
            if state == "closing" or self.random.random() < 0.1:
                events.append((self.end, slot))
        if self.programs and self.random.random() < 0.05:
            events.append((self.unload, self.random.choice(sorted(self.programs))))
        event, argument = self.random.choice(events)
        self.perform(event(argument))

    def check(self) -> None:
        """Each place of the generation that gets newcomers has a worker, or will have one; none passes them to a dead one."""
        if self.plan.stage is Stage.STEADY:
            assert not self.relays
        if self.steered is not None:
            assert self.steered == self.plan.newest
            own = range(self.steered * self.workers, (self.steered + 1) * self.workers)
            assert not {"EMPTY", "ENDING", "LEFT"} & {self.plan._places[slot].phase.name for slot in own}


@pytest.mark.parametrize("seed", range(300))
def test_whatever_happens_newcomers_have_workers_and_no_process_is_lost(seed):
    it = Processes(seed)
    it.perform(it.plan.begin(0.0))
    for _ in range(200):
        it.step()
        if it.over:
            assert it.steered is None, "only a first generation may end all"
            return
        it.check()
    it.now += 1000.0
    it.perform(it.plan.stop(it.now))
    for slot in list(it.alive):
        it.perform(it.end(slot))
    assert it.over


def test_a_second_order_to_end_ends_a_drain():
    plan = serving()
    assert plan.stop(150.0, 30.0) == [Close(0, 30.0), Close(1, 30.0)]
    assert plan.deadline == 185.0
    assert plan.stop(160.0) == [Close(0), Close(1)]
    assert plan.deadline == 165.0
