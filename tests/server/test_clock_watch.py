"""How the server polls its host's clock: at start, periodically, and if polls fail, hang or give impossible states."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.support.kernel import VirtualKernel
from tsq.errors import ClockError
from tsq.host.clock import SystemClock, now_ns
from tsq.host.keepers.sync_state import HostClock, Keeper, SyncState, by_kernel, unsynchronized
from tsq.options import LocalClock
from tsq.server import clock_watch
from tsq.server.clock_info import clock_info
from tsq.server.clock_watch import ClockWatch
from tsq.server.driver import Server
from tsq.server.responder import Draft, Responder
from tsq.wire.message import Mode, decode_response, encode_request

UNSYNCHRONIZED = by_kernel(SystemClock(VirtualKernel()).state())
SYNCHRONIZED = by_kernel(SystemClock(VirtualKernel(status=0, maxerror_us=100)).state())
NOWHERE = {"chrony": ("127.0.0.1", 9), "chrony_socket": "/nonexistent/chrony", "ntpd_rs": "/nonexistent/ntpd-rs"}


class Polls:
    """The states of successive polls. After the last one, `done` is set, and polls hang until `release`."""

    def __init__(self, states) -> None:
        self._states = iter(states)
        self._loop = asyncio.get_running_loop()
        self.done = asyncio.Event()
        self.release = threading.Event()

    def __call__(self, _: HostClock) -> SyncState:
        state = next(self._states, None)
        if isinstance(state, Exception):
            raise state
        if state is None:
            self._loop.call_soon_threadsafe(self.done.set)
            self.release.wait(20)
        return state or SYNCHRONIZED


def reported_stratum(responder: Responder, after_ns: int = 0) -> int:
    """The stratum in the answer to a request that is received this much later than now."""
    request = encode_request(bytes(16), metadata_query=True)
    draft = responder.prepare(request, now_ns() + after_ns, Mode.DATAGRAM)
    assert isinstance(draft, Draft)
    return decode_response(draft.complete(draft.receive_ns)).time_source.stratum


def watched(
    monkeypatch, states, until: Callable[[Polls, ClockWatch, Responder], object] | None = None, *, patience: float = 20.0
) -> list[int]:
    """The strata that clients get while polls give these states, without repetitions. Then wait for `until`.

    patience: how long a poll is waited for; in the usual case so long that none is late.
    """
    monkeypatch.setattr(clock_watch, "_INTERVAL", 0.0)
    monkeypatch.setattr(clock_watch, "_FIRST_PATIENCE", 20.0)
    monkeypatch.setattr(clock_watch, "_PATIENCE", patience)
    reported: list[int] = []

    async def main() -> None:
        polls = Polls(states)
        monkeypatch.setattr(clock_watch, "sync_state", polls)
        responder = Responder()
        watch = ClockWatch(HostClock(), responder)
        real = watch._publish

        def tell(*arguments) -> None:
            real(*arguments)
            stratum = reported_stratum(responder)
            if reported[-1:] != [stratum]:
                reported.append(stratum)

        monkeypatch.setattr(watch, "_publish", tell)
        await watch.start()
        await asyncio.wait_for(polls.done.wait(), 20)
        if until is not None:
            await until(polls, watch, responder)
        watch.stop()
        polls.release.set()

    asyncio.run(main())
    return reported


def started(certificates, host_clock: HostClock) -> Server:
    """A server right after its start."""

    async def main() -> Server:
        async with Server(["127.0.0.1:0"], str(certificates.certificate), str(certificates.key), host_clock=host_clock) as running:
            return running

    return asyncio.run(main())


def test_each_change_is_logged_once(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "tsq")
    states = [UNSYNCHRONIZED, UNSYNCHRONIZED, SYNCHRONIZED, SYNCHRONIZED, UNSYNCHRONIZED, SYNCHRONIZED]
    assert watched(monkeypatch, states) == [0, 15, 0, 15]
    assert caplog.text.count("clients learn this") == 2
    assert caplog.text.count("stratum 15, error at most 0.000100 s, according to kernel") == 2


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"), OSError(24, "Too many open files"), ClockError("Operation not permitted"),
        ValueError("cannot convert float NaN to integer"), OverflowError("cannot convert float infinity to integer"),
    ],
)  # fmt: skip
def test_fault_37_a_failed_poll_makes_the_clock_unsynchronized_until_the_next_good_poll(monkeypatch, caplog, error):
    assert watched(monkeypatch, [SYNCHRONIZED, error, error, error, SYNCHRONIZED]) == [15, 0, 15]
    # Repeated failures are one change, and one line.
    assert caplog.text.count("the state of this machine's clock is unknown") == 1


@pytest.mark.parametrize(
    "impossible",
    [{"root_dispersion": float("nan")}, {"root_delay": float("inf")}, {"stratum": 300}, {"drift_ppm": float("nan")}],
    ids=str,
)
def test_a_state_that_cannot_be_encoded_makes_the_clock_unsynchronized_and_polling_continues(monkeypatch, impossible):
    assert watched(monkeypatch, [SYNCHRONIZED, replace(SYNCHRONIZED, **impossible), SYNCHRONIZED])[:2] == [15, 0]


def test_a_poll_that_hangs_makes_the_clock_unsynchronized_and_its_late_result_is_used(monkeypatch):
    monkeypatch.setattr(clock_watch, "_MOST_AGE", 0.0)

    async def until(polls: Polls, watch: ClockWatch, responder: Responder) -> None:
        while reported_stratum(responder) != 0:
            await asyncio.sleep(0)
        polls.release.set()
        while reported_stratum(responder) != 15:
            await asyncio.sleep(0)

    assert watched(monkeypatch, [SYNCHRONIZED], until, patience=0.0)[:3] == [15, 0, 15]


def test_the_error_of_a_state_grows_while_the_next_one_is_late(monkeypatch):
    errors: list[int] = []

    async def until(polls: Polls, watch: ClockWatch, responder: Responder) -> None:
        request = encode_request(bytes(16), metadata_query=True)
        while len(errors) < 3:
            error = decode_response(responder.prepare(request, now_ns(), Mode.DATAGRAM).complete(now_ns())).clock_quality.error_us
            if errors[-1:] != [error]:
                errors.append(error)
            await asyncio.sleep(0)

    drifting = by_kernel(SystemClock(VirtualKernel(status=0, maxerror_us=100)).state())
    assert watched(monkeypatch, [drifting], until, patience=0.0) == [15]
    assert errors == sorted(set(errors))


def test_clock_info_expires_without_a_timer(monkeypatch):
    """As after a suspend: the server answers the first request before it does anything else."""
    # So long that it makes no difference how long the test takes to ask.
    monkeypatch.setattr(clock_watch, "_VALID", 400.0)

    async def until(polls: Polls, watch: ClockWatch, responder: Responder) -> None:
        assert reported_stratum(responder, 300 * 10**9) == 15
        assert reported_stratum(responder, 500 * 10**9) == 0
        assert reported_stratum(responder, 10**18) == 0

    watched(monkeypatch, [SYNCHRONIZED], until)


def test_if_no_thread_can_be_started_the_declared_state_is_reported(monkeypatch):
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> SyncState | None:
        watch = ClockWatch(HostClock(Keeper.KERNEL, local=LocalClock(4)), Responder())
        monkeypatch.setattr(threading.Thread, "start", refused)
        await watch.start()
        watch.stop()
        return watch.state

    state = asyncio.run(main())
    assert state is not None
    assert (state.stratum, state.trouble) == (4, "can't start new thread")


def test_a_server_without_a_keeper_reports_nothing_about_its_clock(certificates):
    running = started(certificates, HostClock(Keeper.NONE))
    assert running.clock is None
    assert running.responder.clock_info == ()


def test_the_declared_state_is_reported(certificates):
    running = started(certificates, HostClock(Keeper.CHRONY, ("127.0.0.1", 9), "/nonexistent", "/nonexistent", LocalClock(3)))
    assert running.clock.stratum == 3


def test_a_server_starts_and_ends_although_chronyd_hangs(certificates):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        running = started(certificates, HostClock(Keeper.CHRONY, silent.getsockname(), "/nonexistent", "/nonexistent"))
    assert running.clock is not None
    assert running.clock.stratum == 0


@pytest.fixture(autouse=True)
def no_thread_outlives_the_test() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name == "clock":
            thread.join(20)


def test_an_unsynchronized_state_gives_clock_info():
    assert clock_info(unsynchronized("kernel"))[0]
