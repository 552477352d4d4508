"""The daemon's driver: how often the machine is asked and the status is passed on, in one turn of the event loop and after it."""

import asyncio
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest

from tests.support.kernel import VirtualKernel
from tsq.daemon.config import ClockConfig, Config, ControlConfig, FeedConfig
from tsq.daemon.daemon import Daemon
from tsq.discipline.actions import Level, Log, SaveDrift, SlewPhase, Steer, StepClock, WouldDo
from tsq.discipline.events import Polled, SourceAdded, Tick
from tsq.discipline.settings import ClockSettings, Mode, SourceSettings
from tsq.host.clock import SystemClock
from tsq.timing.sample import Reason, Sample

CONFIG = Config(clock=ClockConfig(drift_file=""), feed=FeedConfig(segment=""), control=ControlConfig(socket=""))
CLOCKBOUND = replace(CONFIG, feed=FeedConfig(segment="", clockbound="/nowhere/clockbound"))
GUARD = 20.0
STEER = Steer(1e-6, 1e-3, 1e-5, True)


class Counting:
    """A feed that counts."""

    def __init__(self):
        self.count = 0

    async def start(self):
        """Nothing to begin."""

    def publish(self, status):
        self.count += 1

    def close(self):
        """Nothing to end."""


def run(act, config=CONFIG):
    """Run a daemon with a feed that counts, and `act` inside of it: a coroutine function of (daemon, kernel, feed, events)."""
    kernel, feed, events = VirtualKernel(), Counting(), []

    async def main():
        it = Daemon(config, SystemClock(kernel), lambda: config)
        it._outlets.feeds[FeedConfig()] = [feed]
        it._outlets.change_feeds = lambda config: asyncio.sleep(0)
        handle = it._machine.handle
        it._machine.handle = lambda event: (events.append(event), handle(event))[1]
        begun = asyncio.Event()
        async with asyncio.timeout(GUARD), asyncio.TaskGroup() as group:
            running = group.create_task(it.run(begun.set))
            await begun.wait()
            await turn()
            await act(it, kernel, feed, events)
            it.stop()
            await running

    asyncio.run(main())


async def turn():
    """Let the event loop do what is due."""
    for _ in range(3):
        await asyncio.sleep(0)


def poll_ends(it, name):
    reading = it._clock.daemon_reading()
    it._deliver(Polled(name, Sample(reading.real_ns, reason=Reason.NO_ANSWER), reading))


def test_polls_that_end_in_one_turn_are_one_look_and_one_status():
    async def act(it, kernel, feed, events):
        for name in "abc":
            it._deliver(SourceAdded(name, SourceSettings()))
        await turn()
        kernel.run(16)
        before, events[:] = feed.count, []
        for name in "abc":
            poll_ends(it, name)
        assert feed.count == before
        await turn()
        assert [type(event) for event in events] == [Polled, Polled, Polled, Tick]
        assert feed.count == before + 1

    run(act)


class Polling:
    """A source that is being polled."""

    closed = 0
    busy = True

    def poll(self, *, burst):
        """It has begun already."""

    async def close(self):
        """Nothing to end."""


def test_polls_that_end_soon_after_each_other_are_one_look_and_one_status():
    async def act(it, kernel, feed, events):
        for name in "ab":
            it._deliver(SourceAdded(name, SourceSettings()))
        await turn()
        kernel.run(16)
        other = it._sources._list.entries["b"] = SimpleNamespace(wanted=True, place=None, source=Polling())
        before, events[:] = feed.count, []
        poll_ends(it, "a")
        await turn()
        assert [type(event) for event in events] == [Polled]
        other.source.busy = False
        poll_ends(it, "b")
        await turn()
        assert [type(event) for event in events] == [Polled, Polled, Tick]
        assert feed.count == before + 1

    run(act)


def test_a_poll_that_takes_long_does_not_keep_the_others_back():
    async def act(it, kernel, feed, events):
        it._sources._list.entries["b"] = SimpleNamespace(wanted=True, place=None, source=Polling())
        before = feed.count
        poll_ends(it, "a")
        await turn()
        assert feed.count == before
        assert 0 < it._settling.when() - asyncio.get_running_loop().time() <= 0.1
        it._settling.cancel()
        it._settle()
        assert feed.count == before + 1

    run(act)


def test_another_event_is_not_kept_back_by_a_poll_that_has_not_ended():
    async def act(it, kernel, feed, events):
        it._sources._list.entries["b"] = SimpleNamespace(wanted=True, place=None, source=Polling())
        before = feed.count
        poll_ends(it, "a")
        it._deliver(SourceAdded("c", SourceSettings()))
        await turn()
        assert feed.count == before + 1

    run(act)


STEERED = replace(CONFIG, clock=ClockConfig(drift_file="", settings=ClockSettings(mode=Mode.STEER)))
OBSERVED = replace(CONFIG, clock=ClockConfig(drift_file="", settings=ClockSettings(mode=Mode.OBSERVE)))
OBSERVED_BOUND = replace(CLOCKBOUND, clock=OBSERVED.clock)


def moved(kernel):
    kernel.error_ns += 50_000


def slept(kernel):
    kernel.asleep_ns += 10**9


def retuned(kernel):
    kernel.frequency += 1


@pytest.mark.parametrize(("touch", "looks"), [(None, 0), (moved, 1), (slept, 1), (retuned, 1)])
def test_a_glance_leads_to_a_look_where_somebody_touched_the_clock(touch, looks):
    async def act(it, kernel, feed, events):
        it._machine._next_tick_ns = kernel.raw_ns() + 16 * 10**9
        it._disarm()
        it._arm()
        kernel.run(4)
        if touch is not None:
            touch(kernel)
        events.clear()
        it._disarm()
        it._glance()
        assert [type(event) for event in events] == [Tick] * looks
        assert it._tick is not None

    run(act, STEERED)


@pytest.mark.parametrize(
    ("config", "blind", "pause"),
    [(STEERED, False, 4), (STEERED, True, 1), (OBSERVED, False, 16), (OBSERVED, True, 1), (OBSERVED_BOUND, False, 4)],
)
def test_the_clock_is_glanced_at_where_somebody_relies_on_it_or_no_notice_comes(config, blind, pause):
    async def act(it, kernel, feed, events):
        if blind:
            it._close_notice()
        it._disarm()
        it._machine._next_tick_ns = kernel.raw_ns() + 60 * 10**9
        begun = asyncio.get_running_loop().time()
        it._arm()
        assert begun + pause - 0.5 <= it._tick.when() <= asyncio.get_running_loop().time() + pause + 0.5

    run(act, config)


def test_a_look_comes_when_it_is_due_though_nobody_touched_the_clock():
    async def act(it, kernel, feed, events):
        it._machine._next_tick_ns = kernel.raw_ns() + 16 * 10**9
        it._disarm()
        it._arm()
        kernel.run(14)
        it._disarm()
        begun = asyncio.get_running_loop().time()
        it._glance()
        assert begun + 1.5 <= it._tick.when() <= asyncio.get_running_loop().time() + 2.5

    run(act, STEERED)


def test_a_look_that_shows_nothing_new_is_not_passed_on_until_the_time_for_it_is_over():
    async def act(it, kernel, feed, events):
        before = feed.count
        for _ in range(3):
            kernel.run(4)
            it._look()
        assert feed.count == before
        kernel.run(5)
        it._look()
        assert feed.count == before + 1

    run(act)


@pytest.mark.parametrize(
    ("config", "action", "news"),
    [
        (CONFIG, STEER, False),
        (CONFIG, replace(STEER, frequency=STEER.frequency + 0.9e-9, max_error=2e-3), False),
        (CONFIG, replace(STEER, frequency=STEER.frequency + 1.1e-9), True),
        (CONFIG, replace(STEER, synchronized=False), True),
        (CONFIG, replace(STEER, leap=1), True),
        (CONFIG, SlewPhase(0.01), True),
        (CONFIG, StepClock(0.1, 1e-3, 1e-3, "why"), True),
        (CONFIG, Log(Level.INFO, "kind", "text"), True),
        (CONFIG, SaveDrift(1e-6, 1e-8, ()), False),
        (CONFIG, WouldDo(STEER), False),
        (CLOCKBOUND, WouldDo(STEER), True),
    ],
)
def test_what_a_look_leads_to_is_passed_on_where_it_changes_what_others_know(config, action, news):
    async def act(it, kernel, feed, events):
        it._perform = lambda action: None
        it._is_news(STEER)
        it._publish()
        before = feed.count
        it._machine.handle = lambda event: [action]
        kernel.run(1)
        it._look()
        assert feed.count == before + news

    run(act, config)


def test_frequencies_that_change_little_by_little_are_passed_on_when_they_have_changed_much():
    async def act(it, kernel, feed, events):
        it._perform = lambda action: None
        it._is_news(STEER)
        it._publish()
        # No look but those of this test.
        it._machine._next_tick_ns = kernel.raw_ns() + 3600 * 10**9
        before, steps = feed.count, count(1)
        it._machine.handle = lambda event: [replace(STEER, frequency=STEER.frequency + next(steps) * 0.4e-9)]
        for _ in range(4):
            it._look()
        assert feed.count == before + 1

    run(act)


def test_who_asks_for_the_status_gets_that_of_now():
    async def act(it, kernel, feed, events):
        kernel.run(12)
        assert it.status().tracking.raw_ns == kernel.raw_ns()
        looks = len(events)
        kernel.run(0.5)
        it.status()
        assert len(events) == looks

    run(act)
