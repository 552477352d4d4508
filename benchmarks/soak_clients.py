"""Clients of a soaked server, as a program: some stay connected, others come, ask once and go. Every answer is counted.

    python -m benchmarks.soak_clients SERVER CA CLIENTS NEWCOMERS-A-SECOND DIRECTORY

Standard input: a line is a command: keys, move, rebind, report. Standard output: "ready", and a line of JSON for each report: what
was answered and lost since the last one, since when the oldest request waits. The program ends with its standard input. It must
never ask another machine.
"""

import asyncio
import ipaddress
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path

import tsq
from tsq.client.asynchronous import Client
from tsq.client.attempt import Attempt
from tsq.quic.udp import UdpSocket
from tsq.timing.sample import Sample

_TIMEOUT = 10.0
# Seconds between the requests of a client; every third one is so quiet that the server lets its connection rest.
_BUSY, _QUIET = 0.1, 5.0
_MOST_AT_ONCE = 24
# Every fourth newcomer has a ticket of an earlier one.
_RESUMES = 4


class Clients:
    """The clients; `report` says what has happened since it was called last."""

    def __init__(self, target: str, authority: str, count: int, rate: float, directory: Path) -> None:
        self._target, self._count, self._rate, self._directory = target, count, rate, directory
        self._trust = tsq.Trust(ca_file=authority)
        self._answered: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        self._losses: list[dict[str, object]] = []
        self._under_way: dict[str, float] = {}
        self._wanted: list[list[str]] = [[] for _ in range(count)]
        self._random = random.Random(1)
        self._ready = 0
        self.ready = asyncio.Event()
        self._newcomers: set[asyncio.Task[None]] = set()

    def command(self, word: str) -> None:
        """Have each client do this before its next request."""
        for own in self._wanted:
            own.append(word)

    def report(self) -> str:
        oldest = min(self._under_way.values(), default=None)
        said = {"answered": self._answered, "done": self._done, "losses": self._losses, "oldest": oldest}
        line = json.dumps(said)
        self._answered.clear()
        self._done.clear()
        self._losses.clear()
        return line

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._count):
                group.create_task(self._stay(number))
            await self.ready.wait()
            group.create_task(self._come())

    def _options(self, **more: object) -> tsq.ClientOptions:
        return tsq.ClientOptions(trust=self._trust, server_name="localhost", timeout=_TIMEOUT, **more)

    async def _stay(self, number: int) -> None:
        interval = _BUSY if number % 3 else _QUIET
        async with tsq.connect(self._target, self._options()) as client:
            self._ready += 1
            if self._ready == self._count:
                self.ready.set()
            while True:
                while self._wanted[number]:
                    self._do(client, self._wanted[number].pop(0))
                await self._settle("client", f"client {number}", client.sample())
                await asyncio.sleep(interval * self._random.uniform(0.5, 1.5))

    async def _come(self) -> None:
        """Newcomers at an even rate; those for which there is no room are not made."""
        due, number = time.monotonic(), 0
        while self._rate:
            due = max(due + 1 / self._rate, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if len(self._newcomers) < _MOST_AT_ONCE:
                task = asyncio.create_task(self._visit(number))
                self._newcomers.add(task)
                task.add_done_callback(self._newcomers.discard)
                number += 1

    async def _visit(self, number: int) -> None:
        session = {} if number % _RESUMES else {"session_file": str(self._directory / "session")}

        async def visit() -> Sample:
            async with tsq.connect(self._target, self._options(**session)) as client:
                return await client.sample()

        await self._settle("newcomer", f"newcomer {number}", visit())

    async def _settle(self, kind: str, who: str, asked: Awaitable[Sample]) -> None:
        """Count one answer, or one loss."""
        began = self._under_way[who] = time.monotonic()
        try:
            sample = await asked
            why = "" if sample.valid else f"{sample.reason}: {sample.detail}"
        except tsq.TSQError as error:
            why = f"{type(error).__name__}: {error}"
        del self._under_way[who]
        if why:
            self._losses.append({"began": began, "at": time.monotonic(), "who": who, "why": why})
        else:
            self._answered[kind] += 1

    def _do(self, client: Client, word: str) -> None:
        association = client._association
        attempt = None if association is None else association.chosen
        if attempt is None or attempt.channel.error is not None or not attempt.channel.established:
            return
        if word == "keys":
            attempt.connection.take_back()
            attempt.connection.quic.request_key_update()
        else:
            client._closing(attempt)
            self._move(attempt, same_id=word == "rebind")
            client._opened(attempt)
        self._done[word] += 1

    @staticmethod
    def _move(attempt: Attempt, *, same_id: bool) -> None:
        """Go on from another port: as a client that knows it, with another connection ID, or as behind a NAT."""
        if not same_id:
            attempt.move()
            return
        assert attempt.origin is not None
        old, attempt.udp = attempt.udp, UdpSocket.connected(*attempt.origin)
        old.close()


async def main() -> None:
    """Run until the end of standard input."""
    server, authority, count, rate, directory = sys.argv[1:]
    if not ipaddress.ip_address(tsq.parse_target(server).host).is_loopback:
        raise SystemExit(f"{server} found, a loopback address expected: this is a load")
    clients = Clients(server, authority, int(count), float(rate), Path(directory))
    running = asyncio.create_task(clients.run())
    ready = asyncio.create_task(clients.ready.wait())
    await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        print("ready", flush=True)
    while not running.done() and (word := (await asyncio.to_thread(sys.stdin.readline)).strip()):
        if word == "report":
            print(clients.report(), flush=True)
        else:
            clients.command(word)
    if running.done():
        await running
    running.cancel()
    await asyncio.wait([running])


if __name__ == "__main__":
    asyncio.run(main())
