"""What one exchange takes, one after another: as the program that asks sees it, and as its timestamps say.

Comes in: running servers. Goes out, for one core that both ends share and for a core each: the wall time of a compiled client and
of a Python client that blocks; (T4 - T1) - (T3 - T2) and its parts. With a core each, a blocking end sleeps and has to be woken up,
which takes longer than any server here works; on one core the ends take turns. T1 and T4 are the kernel's, but for the plain
program, which has its own client and takes them itself. Answers to NTP and NTS requests are not checked by these clients.
"""

import asyncio
import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aioquic.asyncio.client import connect

from benchmarks.compare.newcomer import TimeClient, client_configuration
from benchmarks.compare.plan import Plan
from benchmarks.compare.record import Run
from benchmarks.compare.rows import (
    DATAGRAM,
    ECHO,
    EXACT,
    NEWCOMER,
    NODE_ECHO,
    NTP,
    NTS,
    ROWS,
    STREAM,
    Server,
    pin,
    start,
    started,
)
from benchmarks.fleet import Fleet
from benchmarks.nts import ntp_request, nts_requests
from benchmarks.peers import BlockingClient
from benchmarks.processes import HOST, Programs, volley
from benchmarks.streams import StreamFleet
from tsq._fast import ns_from_ntp
from tsq.client.exchange import Rules
from tsq.options import ClientOptions, Trust
from tsq.quic.selfsigned import CertificateFiles
from tsq.quic.udp import UdpSocket

ONE, TWO = "one core", "a core each"
COMPILED, PYTHON, DELTA = "wall, compiled client", "wall, Python client", "(T4-T1)-(T3-T2)"
SPANS = ("T1 to T2", "T2 to T3", "T3 to T4", "the client itself")
_ECHO_SIZE = 72
_BOUND = 10.0
_KEPT = 1000

Values = dict[str, list[float]]
Ask = Callable[[int], Values]


@dataclass(slots=True)
class Times:
    """Walls and timestamps of some exchanges."""

    values: Values = field(default_factory=dict)

    def add(self, wall: float, stamps: tuple[int, int, int, int] | None) -> None:
        found = {PYTHON: wall}
        if stamps is not None:
            t1, t2, t3, t4 = stamps
            parts = ((t2 - t1) / 1e9, (t3 - t2) / 1e9, (t4 - t3) / 1e9, wall - (t4 - t1) / 1e9)
            found |= {DELTA: parts[0] + parts[2], **dict(zip(SPANS, parts, strict=True))}
        for name, value in found.items():
            self.values.setdefault(name, []).append(value)


class PlainClient:
    """Asks a server that answers each datagram with one; T2 and T3 are read where NTP has them."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._udp = UdpSocket.connected(socket.AF_INET, (HOST, port))
        self._requests = requests
        self._asked = 0

    def ask(self, count: int) -> Values:
        times = Times()
        for _ in range(count):
            start = time.perf_counter()
            transmission = self._udp.send_stamped([self._requests[self._asked % len(self._requests)]])
            self._asked += 1
            if not select.select([self._udp.fileno()], [], [], _BOUND)[0]:
                raise RuntimeError("no answer")
            (answer,) = self._udp.receive()
            wall = time.perf_counter() - start
            times.add(wall, self._stamps(answer.data, transmission.at_ns, answer.received_ns))
        return times.values

    @staticmethod
    def _stamps(answer: bytes, t1_ns: int, t4_ns: int) -> tuple[int, int, int, int] | None:
        received, sent = int.from_bytes(answer[32:40], "big"), int.from_bytes(answer[40:48], "big")
        return (t1_ns, ns_from_ntp(received, t4_ns), ns_from_ntp(sent, t4_ns), t4_ns) if received else None

    def close(self) -> None:
        self._udp.close()


class TsqClient:
    """TSQ's blocking client. exact: a sample's stamps are those that the next answer completes."""

    def __init__(self, port: int, ca: str, *, stream: bool, exact: bool) -> None:
        options = ClientOptions(trust=Trust(ca_file=ca), server_name="localhost", stream=stream)
        self._client = BlockingClient(port, options, Rules(exact=exact, state_interval=None))
        self._exact = exact

    def ask(self, count: int) -> Values:
        times = Times()
        self._client.rest(0.0)
        before = 0.0
        for _ in range(count):
            start = time.perf_counter()
            sample = self._client.exchange()
            wall = time.perf_counter() - start
            if self._exact:
                revised = self._client.channel.exchange.revised
                if revised is not None and before:
                    late = revised[1]
                    times.add(before, (late.t1_ns, late.t2_ns or 0, late.t3_ns or 0, late.t4_ns or 0))
            else:
                times.add(wall, (sample.t1_ns, sample.t2_ns or 0, sample.t3_ns or 0, sample.t4_ns or 0))
            before = wall
        return times.values

    def close(self) -> None:
        self._client.close()


class NewcomerClient:
    """The plain program's own client."""

    def __init__(self, port: int, ca: str) -> None:
        self._runner = asyncio.Runner()
        self._stack = contextlib.AsyncExitStack()
        self._client = self._runner.run(self._connect(port, ca))

    async def _connect(self, port: int, ca: str) -> TimeClient:
        client = await self._stack.enter_async_context(
            connect(HOST, port, configuration=client_configuration(ca), create_protocol=TimeClient)
        )
        assert isinstance(client, TimeClient)
        return client

    def ask(self, count: int) -> Values:
        return self._runner.run(self._ask(count))

    async def _ask(self, count: int) -> Values:
        times = Times()
        for _ in range(count):
            start = time.perf_counter()
            stamps = await self._client.ask()
            times.add(time.perf_counter() - start, tuple(stamps))
        return times.values

    def close(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()


def python_client(row: str, server: Server, files: CertificateFiles) -> tuple[Ask, Callable[[], None]]:
    """The Python client of a row: what asks, what ends it."""
    port, ca = server.target.port, str(files.authority)
    requests = {ECHO: [bytes(_ECHO_SIZE)], NODE_ECHO: [bytes(_ECHO_SIZE)], NTP: [ntp_request()]}
    client: PlainClient | NewcomerClient | TsqClient
    if row in (ECHO, NODE_ECHO, NTP, NTS):
        client = PlainClient(port, requests.get(row) or nts_requests(server.establishment, 8))
    elif row == NEWCOMER:
        client = NewcomerClient(port, ca)
    else:
        client = TsqClient(port, ca, stream=row == STREAM, exact=row == EXACT)
    return client.ask, client.close


@contextlib.contextmanager
def compiled_client(
    row: str, server: Server, files: CertificateFiles, programs: Programs | None
) -> Iterator[Callable[[int], list[float]]]:
    """The compiled client of a row: gives delays. For streams it is qh3's, driven by Python."""
    authority = str(files.authority)
    if row in (ECHO, NODE_ECHO, NTP, NTS):
        assert programs is not None
        found = {NTP: [ntp_request()]}.get(row) or (nts_requests(server.establishment, 8) if row == NTS else [bytes(_ECHO_SIZE)])
        yield lambda count: list(volley(programs, server.target.port, 1, max(0.03, count * 4e-5), found).delays)
    elif row == STREAM:
        with StreamFleet(server.target, authority) as streams:
            streams.grow(1)
            yield lambda count: streams.run(count * 4e-4, 1)
    else:
        with Fleet(server.target, authority, 1) as fleet:
            yield lambda count: fleet.run(count, seconds=_BOUND, exact=row == EXACT)


def measure(
    run: Run, plan: Plan, files: CertificateFiles, directory: Path, programs: Programs | None, say: Callable[[str], None]
) -> None:
    """Both columns of both loads."""
    cores = sorted(os.sched_getaffinity(0))
    loads = {ONE: cores[0], TWO: cores[-1]} if len(cores) > 1 else {ONE: cores[0]}
    found: dict[tuple[str, str, str], list[list[float]]] = {}
    with contextlib.ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, cores)
        sides = []
        for row in ROWS:
            if row in run.skipped:
                continue
            say(f"starting {row}")
            server = start(row, files, directory, programs)
            stack.enter_context(server.process)
            server = started(server)
            pin(server.process.pid, cores[0])
            ask, close = python_client(row, server, files)
            stack.callback(close)
            sides.append((row, ask, stack.enter_context(compiled_client(row, server, files, programs))))
        for number in range(plan.delay_rounds):
            say(f"round {number + 1} of {plan.delay_rounds}")
            for load, core in loads.items():
                os.sched_setaffinity(0, {core})
                for row, ask, compiled in sides if number % 2 == 0 else sides[::-1]:
                    ask(5)
                    for quantity, values in ask(_share(row, plan.delay_exchanges)).items():
                        found.setdefault((row, load, quantity), []).append(values)
                    compiled(5)
                    found.setdefault((row, load, COMPILED), []).append(compiled(_share(row, 2 * plan.delay_exchanges))[:_KEPT])
    for (row, load, quantity), rounds in found.items():
        run.add("delay", row, load, quantity, "s", rounds)


def _share(row: str, count: int) -> int:
    """Servers in Python are asked less often: their exchanges take longer."""
    return count if row in (ECHO, NODE_ECHO, NTP, NTS, DATAGRAM, EXACT) else max(5, count // 2)
