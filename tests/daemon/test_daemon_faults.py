"""The daemon's driver when a part of it has a fault: it goes on, or ends with the clock left to run with its frequency alone."""

import asyncio
from dataclasses import replace

import pytest

from tests.support.kernel import IN_NS, PLL, UNSYNC, VirtualKernel
from tsq.daemon.config import ClockConfig, Config, ControlConfig, FeedConfig
from tsq.daemon.daemon import Daemon
from tsq.discipline.actions import SaveDrift
from tsq.discipline.events import Burst, SavedDrift, Tick
from tsq.errors import ClockError, ConfigError
from tsq.host.clock import SystemClock
from tsq.host.drift_file import DriftFile

CONFIG = Config(clock=ClockConfig(drift_file=""), feed=FeedConfig(segment=""), control=ControlConfig(socket=""))
GUARD = 20.0


class Faulty:
    """A feed that cannot publish."""

    count = 0

    async def start(self):
        """Nothing to begin."""

    def publish(self, status):
        self.count += 1
        raise RuntimeError("a feed's own fault")

    def close(self):
        """Nothing to end."""


def daemon(kernel, config=CONFIG, again=None):
    return Daemon(config, SystemClock(kernel), again or (lambda: config))


def test_a_feed_that_raises_does_not_stop_the_looks_at_the_clock(caplog, monkeypatch):
    monkeypatch.setattr("tsq.daemon.daemon._PUBLISH_INTERVAL", 0.0)
    monkeypatch.setattr("tsq.daemon.daemon._LONGEST_WAIT", 0.02)
    kernel, feed = VirtualKernel(), Faulty()

    async def run():
        it = daemon(kernel)
        it._outlets.feeds[FeedConfig()] = [feed]

        def publish(status):
            if feed.count == 3:
                it.stop()
            Faulty.publish(feed, status)

        feed.publish = publish
        # It is configured with no feed: this one is put beside those.
        it._outlets.change_feeds = lambda config: asyncio.sleep(0)
        async with asyncio.timeout(GUARD):
            await it.run()

    asyncio.run(run())
    assert feed.count > 3
    assert sum("the feed Faulty has a fault" in one.getMessage() for one in caplog.records) == 1


def test_a_fault_of_the_machine_ends_the_daemon_without_a_slew(caplog):
    kernel = VirtualKernel(status=PLL | IN_NS)
    kernel.frequency = 400 << 16

    async def run():
        it = daemon(kernel)
        handle = it._machine.handle

        def broken(event):
            if isinstance(event, Tick):
                kernel.pending_ns = 300_000_000
                raise ValueError("a fault in a rule")
            return handle(event)

        it._machine.handle = broken
        async with asyncio.timeout(GUARD):
            await it.run()

    with pytest.raises(ClockError, match=r"a fault in tsqd.*a fault in a rule"):
        asyncio.run(run())
    assert kernel.pending_ns == 0
    assert kernel.status & UNSYNC
    assert any("it ends" in one.getMessage() for one in caplog.records)


def test_sources_that_cannot_be_closed_do_not_keep_the_machine_from_its_last_event():
    kernel = VirtualKernel()
    seen = []

    async def run():
        it = daemon(kernel)
        handle = it._machine.handle
        it._machine.handle = lambda event: (seen.append(type(event).__name__), handle(event))[1]

        really = it._sources.close

        async def close():
            await really()
            raise OSError("no descriptors")

        it._sources.close = close
        it.stop()
        async with asyncio.timeout(GUARD):
            await it.run()

    asyncio.run(run())
    assert seen[-1] == "Stopping"


def test_a_reload_that_fails_halfway_is_made_up_by_the_next_one():
    kernel = VirtualKernel()
    new = replace(CONFIG, feed=FeedConfig(segment="", sock=("/nowhere/sock",)))

    async def run():
        it = daemon(kernel, again=lambda: new)

        async def refuse(config):
            raise ConfigError("a feed that cannot be opened")

        it._outlets.change_feeds = refuse
        with pytest.raises(ConfigError):
            await it.reload()
        assert it.config == CONFIG
        assert it.counters.failed_reloads == 1

    asyncio.run(run())


def test_two_reloads_at_once_are_made_one_after_the_other():
    first, second = (replace(CONFIG, feed=FeedConfig(segment="", sock=(path,))) for path in ("/nowhere/1", "/nowhere/2"))
    read, order = iter([first, second]), []

    async def run():
        it = daemon(VirtualKernel(), again=lambda: next(read))
        may_end = asyncio.Event()

        async def change(config):
            order.append(f"begin {config.sock[0]}")
            await may_end.wait()
            order.append(f"end {config.sock[0]}")

        it._outlets.change_feeds = change
        reloads = [asyncio.create_task(it.reload()) for _ in range(2)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert order == ["begin /nowhere/1"]
        may_end.set()
        async with asyncio.timeout(GUARD):
            await asyncio.gather(*reloads)
        assert it.config == second
        assert it.counters.reloads == 2

    asyncio.run(run())
    assert order == ["begin /nowhere/1", "end /nowhere/1", "begin /nowhere/2", "end /nowhere/2"]


@pytest.mark.parametrize("earlier", [None, 1_700_000_000_000_000_000])
def test_a_clock_of_which_nothing_is_known_is_no_floor_for_the_next_start(earlier, tmp_path):
    """It may be years ahead: the time that an earlier run was sure of stays."""
    path = str(tmp_path / "drift.json")
    if earlier is not None:
        DriftFile(path).save(SavedDrift(1e-6, 1e-8, (), earlier))

    async def run():
        it = daemon(VirtualKernel(), replace(CONFIG, clock=ClockConfig(drift_file=path)))
        it._machine.handle = lambda event: [SaveDrift(2e-6, 1e-8, ())] if isinstance(event, Tick) else []
        it.stop()
        async with asyncio.timeout(GUARD):
            await it.run()

    asyncio.run(run())
    saved = DriftFile(path).load()
    assert saved.frequency == 2e-6
    assert saved.saved_ns == (earlier or 0)


def test_a_notice_of_a_step_is_a_look_at_the_clock():
    seen = []

    async def run():
        it = daemon(VirtualKernel())
        handle = it._machine.handle
        it._machine.handle = lambda event: (seen.append(type(event)), handle(event))[1]

        def begun():
            assert it._notice is not None
            looks = seen.count(Tick)
            it._clock_set()
            assert seen.count(Tick) == looks + 1
            it.stop()

        async with asyncio.timeout(GUARD):
            await it.run(begun)
        assert it._notice is None

    asyncio.run(run())


def test_what_an_operator_asks_for_is_for_the_clock_as_it_is_now():
    seen = []

    async def run():
        kernel = VirtualKernel()
        it = daemon(kernel)
        handle = it._machine.handle
        it._machine.handle = lambda event: (seen.append(event), handle(event))[1]

        def begun():
            kernel.run(3)
            it.submit(Burst())
            it.stop()

        async with asyncio.timeout(GUARD):
            await it.run(begun)
        place = seen.index(Burst())
        assert seen[place - 1].reading.raw_ns == kernel.raw_ns()

    asyncio.run(run())
