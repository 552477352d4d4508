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


class Looks:
    """What the host says at one look after another; when there is nothing more, `done` is set."""

    def __init__(self, states) -> None:
        self._states = iter(states)
        self._loop = asyncio.get_running_loop()
        self.done = asyncio.Event()

    def __call__(self, _: HostClock):
        state = next(self._states, None)
        if isinstance(state, Exception):
            raise state
        if state is None:
            self._loop.call_soon_threadsafe(self.done.set)
        return state or SYNCHRONIZED


def run(certificates, monkeypatch, states) -> tuple[list[int], Server]:
    """Strata that a server reports, one for each change, and the server."""
    monkeypatch.setattr(server_module, "_STATE_INTERVAL", 0.0)
    said: list[int] = []

    async def main() -> Server:
        looks = Looks(states)
        monkeypatch.setattr(server_module, "sync_state", looks)
        running = Server(["127.0.0.1:0"], str(certificates.certificate), str(certificates.key))
        report = running._report_clock
        monkeypatch.setattr(running, "_report_clock", lambda state: (said.append(state.stratum), report(state)))
        async with running:
            await asyncio.wait_for(looks.done.wait(), 20)
        return running

    return said, asyncio.run(main())


def started(certificates, host_clock: HostClock) -> Server:
    """A server as it is right after its start."""

    async def main() -> Server:
        async with Server(["127.0.0.1:0"], str(certificates.certificate), str(certificates.key), host_clock=host_clock) as running:
            return running

    return asyncio.run(main())


def test_changes_are_said_once_each(certificates, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "tsq")
    said, _ = run(certificates, monkeypatch, [UNSYNCHRONIZED, UNSYNCHRONIZED, SYNCHRONIZED, SYNCHRONIZED, UNSYNCHRONIZED])
    assert said[:3] == [0, 15, 0]
    assert "clients are told so" in caplog.text
    assert "stratum 15, error at most 0.000100 s, by the word of kernel" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), OSError(24, "Too many open files")])
def test_fault_37_a_look_that_fails_makes_the_clock_unsynchronized_and_the_next_one_counts_again(certificates, monkeypatch, error):
    said, running = run(certificates, monkeypatch, [SYNCHRONIZED, error, SYNCHRONIZED])
    assert said == [15, 0, 15]
    assert running.clock.stratum == 15


def test_a_server_that_asks_nobody_says_nothing_of_its_clock(certificates):
    running = started(certificates, HostClock(Keeper.NONE))
    assert running.clock is None
    assert running.responder.about == ()


def test_what_the_operator_declares_is_said(certificates):
    running = started(certificates, HostClock(Keeper.CHRONY, ("127.0.0.1", 9), "/nonexistent", "/nonexistent", LocalClock(3)))
    assert running.clock.stratum == 3
