"""Many clients that poll one server for ever, as a program: each poll, request and connection is counted.

    python -m tests.support.many_clients SERVER CA CLIENTS INTERVAL

Standard output: a line of JSON with the counts when all clients have been answered, and one for each line of standard input. They
are those since the line before. The program ends with its standard input.
"""

import asyncio
import json
import random
import sys
from collections import Counter

from tsq.client.kept import KeptClient
from tsq.client.resolving import resolve
from tsq.errors import TSQError
from tsq.options import ClientOptions, Target, Trust, parse_target
from tsq.timing.sample import Reason

# Handshakes at once, so that none waits for the processor until it fails.
_AT_ONCE = 8
# Seconds; a poll may take all of it. Some polls' worth of faults must fit.
_TIMEOUT = 12.0
_LOST = (Reason.NO_ANSWER, Reason.NOT_SENT, Reason.CONNECTION_LOST)


class Many:
    """The clients. counts: polls, those without an answer (failed), requests, those without an answer (lost), new connections."""

    def __init__(self, target: Target, authority: str, count: int, interval: float) -> None:
        self._target, self._count, self._interval = target, count, interval
        self._options = ClientOptions(trust=Trust(ca_file=authority), server_name="localhost", timeout=_TIMEOUT)
        self.counts: Counter[str] = Counter()
        self._connecting = asyncio.Semaphore(_AT_ONCE)
        self._connected = 0
        self.all_connected = asyncio.Event()
        self._random = random.Random(1)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._count):
                group.create_task(self._follow())

    async def _look_up(self) -> list:
        return resolve(self._target, 0)

    async def _follow(self) -> None:
        client = KeptClient(self._target, self._options, self._look_up)
        async with self._connecting:
            await client.open()
            await self._poll(client)
        port = self._port(client)
        self._connected += 1
        if self._connected == self._count:
            self.all_connected.set()
        while True:
            await asyncio.sleep(self._interval * self._random.uniform(0.5, 1.5))
            await self._poll(client)
            if (now := self._port(client)) != port:
                port = now
                self.counts["connections"] += 1

    async def _poll(self, client: KeptClient) -> None:
        self.counts["polls"] += 1
        try:
            samples = await client.pair()
        except TSQError as error:
            self.counts["failed"] += 1
            print(f"a poll failed: {error}", file=sys.stderr)
            return
        self.counts["requests"] += len(samples)
        self.counts["lost"] += sum(sample.reason in _LOST for sample in samples)
        self.counts["failed"] += all(sample.reason in _LOST for sample in samples)

    @staticmethod
    def _port(client: KeptClient) -> int:
        """The local port: each connection has a socket of its own."""
        chosen = None if client._association is None else client._association.chosen
        return 0 if chosen is None else chosen.udp.address[1]


async def main() -> None:
    server, authority, count, interval = sys.argv[1:]
    many = Many(parse_target(server), authority, int(count), float(interval))
    running = asyncio.create_task(many.run())
    waiting = asyncio.create_task(many.all_connected.wait())
    await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
    while not running.done():
        print(json.dumps(many.counts), flush=True)
        many.counts.clear()
        if not await asyncio.to_thread(sys.stdin.readline):
            break
    if running.done():
        await running
    # Whoever is under way is dropped.
    running.cancel()
    await asyncio.wait([running])


if __name__ == "__main__":
    asyncio.run(main())
