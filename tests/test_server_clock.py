"""The server's looks at its host's clock: at start, again and again, and what becomes of them when they fail."""

import asyncio
import logging

import pytest

from tests.support.kernel import VirtualKernel
from tsq import server as server_module
from tsq.config import LocalClock
from tsq.host.clock import SystemClock
from tsq.host.sync_state import HostClock, Keeper, by_kernel
from tsq.server import Server

UNSYNCHRONIZED = by_kernel(SystemClock(VirtualKernel()).state())
SYNCHRONIZED = by_kernel(SystemClock(VirtualKernel(status=0, maxerror_us=100)).state())


def run(certificates, monkeypatch, states, host_clock=None) -> tuple[list[int], Server]:
    """Strata that a server says, one for each look, and the server."""
    monkeypatch.setattr(server_module, "_STATE_INTERVAL", 0.0)
    said: list[int] = []
    looks = iter(states)
    done = asyncio.Event()

    def look(_: HostClock):
        state = next(looks, None)
        if state is None:
            done_soon()
            return SYNCHRONIZED
        if isinstance(state, Exception):
            raise state
        return state

    async def main() -> Server:
        nonlocal done_soon
        loop = asyncio.get_running_loop()
        done_soon = lambda: loop.call_soon_threadsafe(done.set)  # noqa: E731
        files = str(certificates.certificate), str(certificates.key)
        running = Server(["127.0.0.1:0"], *files, host_clock=host_clock)
        before = running._report_clock
        monkeypatch.setattr(running, "_report_clock", lambda state: (said.append(state.stratum), before(state)))
        async with running:
            if running.clock is not None:
                await asyncio.wait_for(done.wait(), 20)
        return running

    done_soon = None
    monkeypatch.setattr(server_module, "sync_state", look if host_clock is None else server_module.sync_state)
    return said, asyncio.run(main())


def test_changes_are_said_once_each(certificates, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "tsq")
    states = [UNSYNCHRONIZED, UNSYNCHRONIZED, SYNCHRONIZED, SYNCHRONIZED, UNSYNCHRONIZED]
    said, _ = run(certificates, monkeypatch, states)
    assert said[:3] == [0, 15, 0]
    assert "clients are told so" in caplog.text
    assert "stratum 15, error at most 0.000100 s, by the word of kernel" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), OSError(24, "Too many open files")])
def test_fault_37_a_look_that_fails_makes_the_clock_unsynchronized_and_the_next_one_counts_again(certificates, monkeypatch, error):
    said, running = run(certificates, monkeypatch, [SYNCHRONIZED, error, SYNCHRONIZED])
    assert said == [15, 0, 15]
    assert running.clock.stratum == 15


def test_a_server_that_asks_nobody_says_nothing_of_its_clock(certificates, monkeypatch):
    said, running = run(certificates, monkeypatch, [], HostClock(Keeper.NONE))
    assert said == []
    assert running.clock is None
    assert running.responder.about == ()


def test_what_the_operator_declares_is_said(certificates, monkeypatch):
    monkeypatch.setattr(server_module, "_STATE_INTERVAL", 60.0)
    files = str(certificates.certificate), str(certificates.key)
    host_clock = HostClock(Keeper.CHRONY, ("127.0.0.1", 9), "/nonexistent", "/nonexistent", LocalClock(3))

    async def main() -> Server:
        async with Server(["127.0.0.1:0"], *files, host_clock=host_clock) as running:
            return running

    assert asyncio.run(main()).clock.stratum == 3
