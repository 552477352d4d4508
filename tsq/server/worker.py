"""A worker: a server on the sockets of its place, for a supervisor.

Comes in: the supervisor's messages, newcomers' datagrams from a worker of the old generation. Goes out: reports; to the new
generation, newcomers' datagrams. It must never serve longer than the supervisor lives.
"""

import asyncio
import logging
import math
import os
import signal
import socket
from collections.abc import Callable, Sequence

from tsq.quic.connection_ids import ConnectionIds
from tsq.quic.secrets import Secrets
from tsq.server.driver import Server
from tsq.server.relay import Giver, Taker
from tsq.server.supervisor_totals import report
from tsq.server.whole import Whole
from tsq.server.worker_link import Link, Message

logger = logging.getLogger(__name__)

# How often a worker that ends with its connections looks whether that is so, seconds.
_DRAIN_STEP = 0.1
# Shares of the drain limit: so long connections may end by themselves; then all are to be closed after their next answers.
_LEFT_IN_PEACE, _ALL_TOLD = 0.1, 0.7
# After the supervisor has given a worker's packets to another one, until the last of them are read from its own socket.
_LINGER = 0.2


class GivenSecrets(Secrets):
    """Secrets that the supervisor made and replaces: all its workers have the same."""

    def refresh(self, now: float) -> None:
        """Nothing: the supervisor does that."""

    def replace(self, masters: Sequence[bytes]) -> None:
        """Use these from now on."""
        self._use(masters)


class Worker:
    """Serves until the supervisor ends it, or is gone. secrets: None where they are from a file. confine: gives up what it does not
    need any more.
    """

    def __init__(
        self,
        server: Server,
        link: Link,
        connection_ids: ConnectionIds,
        secrets: GivenSecrets | None,
        confine: Callable[[], None] = lambda: None,
    ) -> None:
        self._server = server
        self._whole = Whole(server)
        if server.http3:
            server.site.show(self._whole, self._whole.families)
        self._confine = confine
        self._link = link
        self._connection_ids = connection_ids
        self._secrets = secrets
        self._stop = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None
        self._departing: asyncio.Task[None] | None = None
        self._relays: dict[str, Giver | Taker] = {}

    async def run(self) -> None:
        """Serve."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        async with self._server:
            self._confine()
            loop.add_reader(self._link.fileno(), self._receive)
            self._link.send({"ready": os.getpid(), "pages": self._server.http3, "report": report(self._server)})
            await self._stop.wait()
            if self._draining is not None:
                self._draining.cancel()
                await asyncio.sleep(_LINGER)
            loop.remove_reader(self._link.fileno())
            for relay in self._relays.values():
                relay.close()
            last = report(self._server)
        # Closing the connections counts nothing but their end.
        self._link.send({"report": last | {"connections": 0}})
        self._link.close()

    def _receive(self) -> None:
        received = self._link.receive()
        if received is None:
            # The supervisor is gone, and with it whoever could start this worker again.
            self._stop.set()
            return
        message, fds = received
        self._obey(message, fds)

    def _obey(self, message: Message, fds: list[int]) -> None:
        if "ping" in message:
            self._link.send({"ping": message["ping"], "report": report(self._server)})
        if "others" in message:
            self._whole.learn(message["others"])
        if "reload" in message:
            self._link.send({"reloaded": message["reload"], "good": self._server.reload()})
        if "answered" in message:
            self._connection_ids.answered = set(message["answered"])
        if "masters" in message and self._secrets is not None:
            self._secrets.replace([bytes.fromhex(one) for one in message["masters"]])
        if "relay" in message:
            self._relay(message["relay"], [socket.socket(fileno=fd) for fd in fds])
        if "keep" in message:
            self._keep()
        if "drain" in message and self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain(float(message["drain"])))
        if "close" in message:
            self._close(float(message["close"]))

    def _close(self, drain: float) -> None:
        """End, at once or in so many seconds, whatever was said before."""
        if self._departing is not None:
            self._departing.cancel()
        if not drain:
            self._stop.set()
            return
        self._departing = asyncio.get_running_loop().create_task(self._server.drain(drain))
        self._departing.add_done_callback(lambda _: self._stop.set())

    def _relay(self, way: str, ends: list[socket.socket]) -> None:
        """Get, or give away, newcomers' datagrams by this socket."""
        for end in ends:
            if way in self._relays:
                self._relays.pop(way).close()
            if way == "in":
                self._relays[way] = Taker(end, self._server.take_newcomer)
            else:
                giver = self._relays[way] = Giver(end, self._server.counters)
                self._server.relay_newcomers(giver.give)

    def _keep(self) -> None:
        """Pass newcomers to nobody any more."""
        self._server.relay_newcomers(None)
        if "out" in self._relays:
            self._relays.pop("out").close()

    async def _drain(self, limit: float) -> None:
        """Serve the connections until they end. Let them go one after the other, each after an answer; close the rest at the limit.

        The supervisor ends this worker when its packets go to the new generation.
        """
        loop = asyncio.get_running_loop()
        began, total, gone = loop.time(), self._server.connections, 0
        self._server.go_away()
        while self._server.connections:
            passed = (loop.time() - began) / limit if limit else 1.0
            if passed >= 1.0:
                self._server.close_connections()
                break
            share = (passed - _LEFT_IN_PEACE) / (_ALL_TOLD - _LEFT_IN_PEACE)
            wanted = math.ceil(total * min(max(share, 0.0), 1.0))
            gone += self._server.let_go(wanted - gone)
            await asyncio.sleep(_DRAIN_STEP)
        self._link.send({"drained": True, "report": report(self._server)})
