"""The client of a program that polls for ever, and calls that block in threads of their own."""

import asyncio
import contextvars
import threading
from contextlib import suppress
from typing import Any

import pytest

from tests.cli.peers import Peer, deaf_port, honest
from tsq.client.in_thread import in_thread
from tsq.client.kept import KeptClient
from tsq.client.resolving import resolve
from tsq.errors import ConnectionLost, NameNotFound, TSQError
from tsq.options import ClientOptions, Target, Trust
from tsq.timing.sample import Reason

GUARD = 30.0


def run(coroutine: Any) -> Any:
    """Run to the end; a hang is a failure."""

    async def guarded() -> Any:
        async with asyncio.timeout(GUARD):
            return await coroutine

    return asyncio.run(guarded())


def kept(target: Target, ca: object, **options: Any) -> KeptClient:
    """A client for this address."""

    async def look_up():
        return resolve(target, 0)

    return KeptClient(target, ClientOptions(trust=Trust(ca_file=str(ca)), **options), look_up)


# ------------------------------------------------------------------------------------------------------------- the client


def test_a_pair_is_two_exchanges_and_one_that_makes_the_second_exact(server, monkeypatch):
    # This machine may be busy.
    monkeypatch.setattr("tsq.client.channel._SHORT_DELAY", 10.0)
    monkeypatch.setattr("tsq.client.asynchronous.LAST_WAIT", GUARD)

    async def use() -> None:
        async with kept(server.target, server.ca) as client:
            for _ in range(3):
                first, second = await client.pair()
                assert (first.valid, second.valid) == (True, True)
                assert (first.exact, second.exact) == (True, True)
                assert first.t4_ns <= second.t1_ns
            assert client._awaited == {}

    run(use())


def test_a_pair_over_a_long_delay_sends_no_third_request(certificates):
    """A delay over 1 ms: the microseconds of the second answer do not matter."""

    def slow(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        threading.Event().wait(0.003)
        return honest(nonce, request, number)

    with Peer(certificates, slow) as peer:

        async def use() -> None:
            async with kept(peer.target, peer.ca) as client:
                counts = []
                for _ in range(6):
                    before = peer.requests
                    assert all(sample.valid for sample in await client.pair())
                    counts.append(peer.requests - before)
                # The first request of all may be sent again.
                assert counts[1:] == [2] * 5
                assert counts[0] in (2, 3)

        run(use())


@pytest.mark.parametrize("lost", [0, 1, 2, 3, 4])
def test_a_lost_request_costs_time_and_no_pair(certificates, lost):
    def all_but_one(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        return [] if number == lost else honest(nonce, request, number)

    with Peer(certificates, all_but_one) as peer:

        async def use() -> None:
            async with kept(peer.target, peer.ca, timeout=6.0) as client:
                for _ in range(3):
                    assert any(sample.valid for sample in await client.pair())
                assert client._awaited == {}

        run(use())


def test_a_server_that_never_answers_has_three_tries(certificates):
    with Peer(certificates, lambda nonce, request, number: []) as peer:

        async def use() -> None:
            async with kept(peer.target, peer.ca, timeout=2.0) as client:
                samples = await client.pair()
                assert {sample.reason for sample in samples} <= {Reason.NO_ANSWER, Reason.NOT_SENT}
                assert 1 <= len(samples) <= 3

        run(use())


def test_a_wrong_answer_is_not_asked_for_again(certificates):
    with Peer(certificates, lambda nonce, request, number: honest(bytes(16), request, number)) as peer:

        async def use() -> None:
            async with kept(peer.target, peer.ca) as client:
                samples = await client.pair()
                assert [sample.reason for sample in samples] == [Reason.WRONG_NONCE] * 2

        run(use())


def test_a_connection_that_is_given_up_in_mid_pair_is_made_again(certificates):
    """The request is under way when the network goes: the pair goes on with another connection."""
    asked = threading.Event()

    def the_second(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        asked.set()
        return honest(nonce, request, number) if number else []

    with Peer(certificates, the_second) as peer:

        async def use() -> None:
            async with kept(peer.target, peer.ca, timeout=20.0) as client:
                task = asyncio.create_task(client.pair())
                await asyncio.to_thread(asked.wait, GUARD)
                client.lose("a test")
                assert any(sample.valid for sample in await task)

        run(use())


def test_the_client_can_be_shut_and_opened_again_with_a_ticket(server):
    async def use() -> None:
        client = kept(server.target, server.ca)
        for number in range(3):
            await client.open()
            assert all(sample.valid for sample in await client.pair())
            assert (client.connected, client.address, client.local_address) == (True, "127.0.0.1", "127.0.0.1")
            assert client.peer is not None
            assert client.tickets
            assert 20 < client.idle_timeout <= 30
            assert client._association.zero_rtt is bool(number)
            client.shut()
            assert (client.connected, client.tickets, client.idle_timeout) == (False, 0, 0.0)

    run(use())


def test_calls_without_a_connection_do_nothing(server):
    async def use() -> None:
        client = kept(server.target, server.ca)
        client.keep_alive()
        client.move()
        client.lose("a test")
        client.shut()
        with pytest.raises(ConnectionLost):
            await client.pair()

    run(use())


def test_a_name_that_cannot_be_looked_up_is_the_error(server):
    async def use() -> None:
        async def nowhere():
            raise NameNotFound("no address")

        client = KeptClient(server.target, ClientOptions(trust=Trust(ca_file=server.ca)), nowhere)
        with pytest.raises(NameNotFound):
            await client.open()
        client.shut()

    run(use())


# ------------------------------------------------------------------------------------------------------------- in a thread


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_the_result_and_the_error_of_a_call_come_back():
    async def use() -> None:
        assert await in_thread(int, "12") == 12
        with pytest.raises(ValueError, match="twelve"):
            await in_thread(int, "twelve")

    run(use())


def test_the_call_runs_in_the_callers_context():
    variable = contextvars.ContextVar("variable", default="none")

    async def use() -> None:
        variable.set("the caller's")
        assert await in_thread(variable.get) == "the caller's"

    run(use())


def test_a_call_that_hangs_keeps_nobody():
    released, begun = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        released.wait(GUARD)

    async def use() -> None:
        task = asyncio.create_task(in_thread(hang))
        async with asyncio.timeout(GUARD):
            while not begun.is_set():
                await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert "hang" in threads()

    run(use())
    # The loop has ended, and the thread has not: its result is for nobody.
    (left,) = [thread for thread in threading.enumerate() if thread.name == "hang"]
    assert left.daemon
    released.set()
    left.join(GUARD)
    assert not left.is_alive()


def test_where_there_can_be_no_thread_the_call_is_made_here(monkeypatch):
    def no_thread(self) -> None:
        raise RuntimeError("can't start new thread")

    async def use() -> None:
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        try:
            assert await in_thread(int, "12") == 12
        finally:
            monkeypatch.undo()

    run(use())


def test_a_deaf_server_ends_in_its_time_and_leaves_no_thread(certificates):
    before = set(threading.enumerate())
    with deaf_port() as (deaf, _):

        async def use() -> None:
            client = kept(deaf, certificates.authority, timeout=0.3)
            with pytest.raises(TSQError):
                await client.open()
            client.shut()

        run(use())
    # A thread ends a little later than what it did.
    for thread in set(threading.enumerate()) - before:
        thread.join(GUARD)
        assert not thread.is_alive(), thread.name
