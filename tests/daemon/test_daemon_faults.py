"""The daemon's driver when a part of it has a fault: it goes on, or ends with the clock left to run with its frequency alone."""

import asyncio
from dataclasses import replace

import pytest

from tests.support.kernel import IN_NS, PLL, UNSYNC, VirtualKernel
from tsq.daemon.config import ClockConfig, Config, ControlConfig, FeedConfig
from tsq.daemon.daemon import Daemon
from tsq.discipline.events import Tick
from tsq.errors import ClockError, ConfigError
from tsq.host.clock import SystemClock

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


def test_a_feed_that_raises_does_not_stop_the_looks_at_the_clock(caplog):
    kernel, feed = VirtualKernel(), Faulty()

    async def run():
        it = daemon(kernel)
        it._feeds[FeedConfig()] = [feed]

        def publish(status):
            if feed.count == 3:
                it.stop()
            Faulty.publish(feed, status)

        feed.publish = publish
        # It is configured with no feed: this one is put beside those.
        it._change_feeds = lambda config: asyncio.sleep(0)
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

        it._change_feeds = refuse
        with pytest.raises(ConfigError):
            await it.reload()
        assert it.config == CONFIG
        assert it.counters.failed_reloads == 1

    asyncio.run(run())
