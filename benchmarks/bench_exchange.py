"""One exchange on an established connection over loopback: TSQ and a plain aioquic program, each with its server and client.

The load: one client, one exchange after another. Each server is a process of its own; the clients run in this process: TSQ's on
asyncio (`tsq.connect`) or blocking (as in tsq-client), the plain one on asyncio. All figures are for one exchange. Both ends have
the same clock, so the true offset is 0 and |offset| is the error; a round's figure is the median of its exchanges.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from aioquic.asyncio.client import connect

import tsq
from benchmarks.compare.newcomer import TimeClient, client_configuration
from benchmarks.conftest import Show
from benchmarks.measure import PLAIN, SIDES, TSQ, Comparison, Round, Side, alternate, cpu_of
from benchmarks.peers import HOST, BlockingClient, Peers
from tsq.options import Target

ROUNDS = 30
EXCHANGES = 20

# Makes one exchange; gives its offset in seconds.
Ask = Callable[[], Awaitable[float]]


class Meter:
    """The figures of a round of exchanges: wall time, CPU time of each end, offset error."""

    def __init__(self, server_pid: int) -> None:
        self._pid = server_pid
        self._offsets: list[float] = []
        self._server, self._client, self._wall = cpu_of(server_pid), time.process_time(), time.perf_counter()

    def add(self, offset: float) -> None:
        self._offsets.append(abs(offset))

    def round(self) -> Round:
        wall, client = time.perf_counter() - self._wall, time.process_time() - self._client
        # The server's work after its last answer counts, too.
        time.sleep(0.002)
        server = cpu_of(self._pid) - self._server
        count = len(self._offsets)
        return {
            "wall": wall / count,
            "server CPU": server / count,
            "client CPU": client / count,
            "|offset|": statistics.median(self._offsets),
        }


async def open_tsq(stack: AsyncExitStack, peers: Peers, stream: bool) -> Ask:
    options = peers.options(stream=stream)
    client = await stack.enter_async_context(tsq.connect(Target(HOST, peers.tsq.target.port), options))

    async def ask() -> float:
        sample = await client.sample()
        assert sample.offset is not None
        return sample.offset

    return ask


async def open_plain(stack: AsyncExitStack, peers: Peers, stream: bool) -> Ask:
    configuration = client_configuration(peers.ca)
    client = await stack.enter_async_context(
        connect(HOST, peers.plain.port, configuration=configuration, create_protocol=TimeClient)
    )
    assert isinstance(client, TimeClient)

    async def ask() -> float:
        return (await client.ask(stream)).offset

    return ask


def on_loop(runner: asyncio.Runner, ask: Ask, server_pid: int) -> Side:
    """Rounds of exchanges on an event loop."""

    async def exchanges() -> Round:
        meter = Meter(server_pid)
        for _ in range(EXCHANGES):
            meter.add(await ask())
        return meter.round()

    return lambda: runner.run(exchanges())


def blocking(client: BlockingClient, server_pid: int) -> Side:
    """Rounds of exchanges without an event loop."""

    def exchanges() -> Round:
        meter = Meter(server_pid)
        for _ in range(EXCHANGES):
            meter.add(client.exchange().offset or 0.0)
        return meter.round()

    return exchanges


def compare_asyncio(peers: Peers, stream: bool, rounds: int) -> Comparison:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        ours = runner.run(open_tsq(stack, peers, stream))
        theirs = runner.run(open_plain(stack, peers, stream))
        try:
            sides = {TSQ: on_loop(runner, ours, peers.tsq.pid), PLAIN: on_loop(runner, theirs, peers.plain.pid)}
            return alternate(sides, rounds, warmup=3)
        finally:
            runner.run(stack.aclose())


def compare_blocking(peers: Peers, stream: bool, rounds: int) -> Comparison:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        client = BlockingClient(peers.tsq.target.port, peers.options(stream=stream))
        theirs = runner.run(open_plain(stack, peers, stream))
        try:
            sides = {TSQ: blocking(client, peers.tsq.pid), PLAIN: on_loop(runner, theirs, peers.plain.pid)}
            return alternate(sides, rounds, warmup=3)
        finally:
            client.close()
            runner.run(stack.aclose())


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("mode", ["Datagram", "Stream"])
def test_exchange_on_asyncio(side: str, mode: str, peers: Peers, show: Show) -> None:
    show(f"exchange: {mode} Mode, asyncio client", side, ROUNDS, lambda rounds: compare_asyncio(peers, mode == "Stream", rounds))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("mode", ["Datagram", "Stream"])
def test_exchange_blocking(side: str, mode: str, peers: Peers, show: Show) -> None:
    show(f"exchange: {mode} Mode, blocking client", side, ROUNDS, lambda rounds: compare_blocking(peers, mode == "Stream", rounds))
