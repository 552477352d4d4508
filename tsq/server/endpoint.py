"""One socket of a server on asyncio: datagrams between it and the ServerCore, and the timers of its connections.

Comes in: datagrams. Goes out: responses, sent at once. It must never stop because of what one peer sent, never let a flood keep
clients of the data plane waiting, and never queue a response for later.
"""

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from itertools import groupby, islice
from math import inf

from tsq.dataplane.batches import BATCH, NEWCOMERS_BATCH, DataPlane
from tsq.dataplane.loop import ServingLoop
from tsq.host._memory import give_back
from tsq.host.memory_use import memory_share
from tsq.options import Target
from tsq.quic.connection import Outgoing
from tsq.quic.router import CONNECTION_ID_SIZE, Drop
from tsq.quic.server_connection import ServerConnection
from tsq.quic.udp import Datagram, NetworkPath, UdpSocket
from tsq.server.core import Outcome, ServerCore
from tsq.server.memory_care import MemoryCare
from tsq.server.responder import NoResponse
from tsq.wire.message import Mode

logger = logging.getLogger(__name__)

_CARE_INTERVAL = 1.0
# Seconds in which a client in use may ask once more before its connection is closed all the same.
_PATIENCE = 2.0
# How many batches with packets for the control plane to handle before timers and other sockets get their turn.
_TURNS = 16
# Seconds from which on a datagram took long in the control plane; and how many may wait for it.
_LONG = 0.0004
_MOST_WAITING = 96
# So many full batches are received before one datagram that takes long.
_BATCHES_BEFORE_ONE = 4
# The counters of a DataPlane.
_DATA_PLANE_COUNTS = (
    "taken",
    "answered",
    "held_back",
    "stepped_back",
    "malformed",
    "shortened",
    "forged",
    "duplicates",
    "excessive",
    "drained",
    "unstamped",
    "unsent",
    "truncated",
    "turned_away",
)


class Endpoint:
    """One socket: moves datagrams between it and the core, and has the timers of its connections.

    newcomers: a second one of the same address, for the first packets of handshakes; what comes by it waits for the others.
    """

    def __init__(
        self,
        udp: UdpSocket,
        core: ServerCore,
        data_plane: DataPlane | None,
        sink: socket.socket | None,
        newcomers: UdpSocket | None = None,
    ) -> None:
        self.udp = udp
        self._newcomers = newcomers
        self._sink = sink
        self._core = core
        self.data_plane = data_plane
        self._care: asyncio.TimerHandle | None = None
        self._counted = dict.fromkeys(_DATA_PLANE_COUNTS, 0)
        if data_plane is not None:
            core.counters.before_reading(self._count)
        self._loop = asyncio.get_running_loop()
        self._timers: dict[ServerConnection, asyncio.TimerHandle] = {}
        core.router.when_forgotten(self._forgotten)
        self._truncated = 0
        self._memory = MemoryCare()
        self._handed_up: deque[tuple[bytes, bytes, bytes, int, bool]] = deque()

    def start(self) -> None:
        """Begin to answer."""
        if self.data_plane is None:
            self._loop.add_reader(self.udp.fileno(), self._readable)
        else:
            for udp, batch in self._divided():
                self._loop.add_reader(udp.fileno(), self._serve, udp.fileno(), batch)
                if isinstance(self._loop, ServingLoop):
                    self._loop.serving.serve(udp.fileno(), self.data_plane)
            if self._newcomers is not None:
                self.data_plane.divide(self.udp.fileno(), self._newcomers.fileno())
            self.udp.stamp_sent()
            self.data_plane.stamping = self.udp.stamps_sent
        self._care = self._loop.call_later(_CARE_INTERVAL, self._look_after)
        if self.udp.missing is not None and (self.data_plane is not None or not self.udp.stamps_received):
            logger.warning("%s: %s", Target(*self.udp.address), self.udp.missing)

    def stop(self) -> None:
        """Stop answering."""
        for udp, _ in self._divided():
            if isinstance(self._loop, ServingLoop):
                self._loop.serving.leave(udp.fileno())
            self._loop.remove_reader(udp.fileno())
        if self._care is not None:
            self._care.cancel()
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()
        self._handed_up.clear()
        for udp, _ in self._divided():
            udp.close()
        if self._sink is not None:
            self._sink.close()

    def _divided(self) -> list[tuple[UdpSocket, int]]:
        """The sockets, and how many datagrams of each are one batch."""
        return [(self.udp, BATCH), *([] if self._newcomers is None else [(self._newcomers, NEWCOMERS_BATCH)])]

    def close_connections(self, reason: str) -> None:
        """Close all connections of this socket."""
        now = self._loop.time()
        for connection in list(self._timers):
            self._send(self._core.close_connection(connection, reason, now))
        if self.data_plane is not None:
            self._close_resting(reason, self.data_plane.resting, now, inf)

    def _close_resting(self, reason: str, most: int, now: float, heard_before: float) -> int:
        """Close so many connections at rest from which the last packet came before this time; how many."""
        data_plane, count = self.data_plane, 0
        while data_plane is not None and count < most:
            before = data_plane.resting
            packets = data_plane.close_resting(reason.encode(), min(BATCH, most - count), now, heard_before)
            self._send([(data, NetworkPath(remote, local)) for data, remote, local in packets])
            if data_plane.resting == before:
                break
            count += before - data_plane.resting
        return count

    def go_away(self) -> None:
        """Tell the clients that can be told so to ask elsewhere from now on."""
        now = self._loop.time()
        for connection in [one for one in self._timers if one.application is not None]:
            self._conclude(self._core.go_away(connection, now))

    def part(self, reason: str, most: int) -> int:
        """Close so many more connections of this socket: those in use each after its next answer, the others at once; how many.

        So no answer is lost: who asks often asks again soon, and who asks seldom is not asking just now. An answer is waited for a
        while only.
        """
        now = self._loop.time()
        for connection in [one for one in self._timers if one.leaving and now >= one.leaving_since + _PATIENCE]:
            self._send(self._core.close_connection(connection, reason, now))
        chosen = list(islice((one for one in self._timers if not one.leaving), most))
        for connection in chosen:
            self._conclude(self._core.let_go(connection, reason, now))
        count = len(chosen) + self._close_resting(reason, most - len(chosen), now, now - _PATIENCE)
        return count + self._let_go_resting(reason, most - count, now)

    def let_go(self, reason: str, most: int) -> int:
        """Close so many more connections of this socket, each after its next answer; how many it has for that."""
        now = self._loop.time()
        chosen = list(islice((one for one in self._timers if not one.leaving), max(0, most)))
        for connection in chosen:
            self._conclude(self._core.let_go(connection, reason, now))
        return len(chosen) + self._let_go_resting(reason, most - len(chosen), now)

    def _let_go_resting(self, reason: str, most: int, now: float) -> int:
        """As `let_go`, of connections at rest."""
        if self.data_plane is None or most <= 0:
            return 0
        woken = [self._core.router.wake(one, now) for one in self.data_plane.some_resting(most)]
        for connection in woken:
            if connection is not None:
                self._conclude(self._core.let_go(connection, reason, now))
        return len(woken) - woken.count(None)

    def relay(self, relay: Callable[[Datagram], None] | None) -> None:
        """Give newcomers' datagrams to this function; None: to nobody any more."""
        self._core.relay = relay
        self._core.router.admission.relaying = relay is not None

    def take(self, datagram: Datagram) -> None:
        """Handle a datagram that did not come by this socket, but to its address."""
        self._conclude(self._core.received(datagram, self._loop.time()))

    def _readable(self) -> None:
        try:
            datagrams = self.udp.receive()
        except OSError as error:
            # An ICMP error for an earlier response. Its client is gone; the connection will time out.
            logger.debug("socket error: %s", error)
            return
        if self.udp.truncated != self._truncated:
            self._core.counters.add("dropped", "datagram over 2048 bytes", self.udp.truncated - self._truncated)
            self._truncated = self.udp.truncated
        for datagram in datagrams:
            self._conclude(self._core.received(datagram, self._loop.time()))

    def _serve(self, fd: int, batch: int) -> None:
        """Let the data plane answer, and the control plane handle the packets that the data plane returns."""
        data_plane = self.data_plane
        if data_plane is None:
            return
        for turn in range(_TURNS):
            try:
                count, rest = data_plane.receive(fd)
            except OSError as error:
                logger.debug("socket error: %s", error)
                break
            self._handed_up.extend(rest)
            full = count > 0 and not count % batch
            if full and len(self._handed_up) < _MOST_WAITING and turn % _BATCHES_BEFORE_ONE:
                # A flood: more of it is waiting, and clients of the data plane among it.
                continue
            self._work_off()
            if not self._handed_up and (not rest or count % batch):
                # The data plane took the whole batch, or the socket is empty.
                return
        if self._handed_up:
            self._loop.call_soon(self._serve, fd, batch)

    def _work_off(self) -> None:
        """Give datagrams to the control plane, up to the first one that takes long, as handshakes do.

        The clients of the data plane wait meanwhile: they are served before the next one.
        """
        while self._handed_up:
            if self._newcomers is not None and self._is_ahead(self._handed_up[0][0]):
                self._catch_up(self._newcomers.fileno())
            now = self._loop.time()
            data, remote, local, received_ns, kernel = self._handed_up.popleft()
            self._conclude(self._core.received(Datagram(data, NetworkPath(remote, local), received_ns, kernel), now))
            if len(self._handed_up) < _MOST_WAITING and self._loop.time() > now + _LONG:
                return

    def _is_ahead(self, data: bytes) -> bool:
        """Whether the end of this packet's handshake may still wait at the newcomers' socket: without it, it cannot be opened."""
        return not data[:1] >= b"\x80" and self._core.router.is_half_open(data[1 : 1 + CONNECTION_ID_SIZE])

    def _catch_up(self, fd: int) -> None:
        """Receive what waits at the newcomers' socket, and put what the control plane gets in the order in which it came."""
        count, turns = 1, 0
        while self.data_plane is not None and count > 0 and turns < _TURNS:
            try:
                count, rest = self.data_plane.receive(fd)
            except OSError as error:
                logger.debug("socket error: %s", error)
                break
            self._handed_up.extend(rest)
            turns += 1
        self._handed_up = deque(sorted(self._handed_up, key=lambda item: item[3]))

    def _count(self) -> None:
        """Add the data plane's counts since the last call."""
        data_plane, counters = self.data_plane, self._core.counters
        if data_plane is None:
            return
        now = {name: getattr(data_plane, name) for name in _DATA_PLANE_COUNTS}
        new = {name: now[name] - self._counted[name] for name in _DATA_PLANE_COUNTS}
        self._counted = now
        dropped = new["forged"] + new["duplicates"] + new["excessive"] + new["drained"]
        requests = new["answered"] + new["held_back"] + new["stepped_back"] + new["malformed"]
        counters.add("datagrams", amount=new["taken"] + dropped + new["turned_away"])
        counters.add("taken", amount=new["taken"])
        counters.add("user-space receive times", amount=new["unstamped"])
        counters.add("requests", Mode.DATAGRAM, requests)
        counters.add("answered", amount=new["answered"])
        counters.add("unanswered", NoResponse.MALFORMED, new["malformed"])
        counters.add("shortened", amount=new["shortened"])
        counters.add("unanswered", NoResponse.CLOCK_WENT_BACK, new["stepped_back"])
        counters.add("unanswered", "congestion window or amplification limit", new["held_back"])
        counters.add("unsent", "no room in the socket, or unreachable", new["unsent"])
        counters.add("dropped", "datagram over 2048 bytes", new["truncated"])
        counters.add("dropped", "packet that does not open", new["forged"])
        counters.add("dropped", Drop.CAME_BEFORE, new["duplicates"])
        counters.add("dropped", "packet that is too much work", new["excessive"])
        counters.add("dropped", "packet of a connection that its client has closed", new["drained"])

    def _look_after(self) -> None:
        """The coarse timer of the data plane."""
        self._care = self._loop.call_later(_CARE_INTERVAL, self._look_after)
        router = self._core.router
        router.admission.set_memory(memory_share())
        # Other servers may have to read our tokens, and this machine's clock may have been set since the start.
        router.admission.unix_offset = time.time() - self._loop.time()
        if self._memory.is_due(router.forgotten, router.half_open):
            give_back()
        for outcome in self._core.look_after(self._loop.time()):
            self._conclude(outcome)

    def _expired(self, connection: ServerConnection) -> None:
        self._timers.pop(connection, None)
        now = self._loop.time()
        due = self._core.router.deadline(connection)
        if due is not None and due > now:
            # The deadline has moved to a later time.
            self._keep(connection)
            return
        self._conclude(self._core.expired(connection, now))

    def _conclude(self, outcome: Outcome) -> None:
        """Send the datagrams, and update the connection's timer even if sending fails."""
        try:
            self._send(outcome.datagrams)
        except Exception as error:
            # The batch contains datagrams of other connections, too.
            logger.error("answers that could not be sent: %r", error, exc_info=logger.isEnabledFor(logging.DEBUG))
        finally:
            if outcome.connection is not None:
                self._keep(outcome.connection)

    def _forgotten(self, connection: ServerConnection) -> None:
        handle = self._timers.pop(connection, None)
        if handle is not None:
            handle.cancel()

    def _keep(self, connection: ServerConnection) -> None:
        """Set the connection's timer, or cancel it if the connection is gone."""
        due = self._core.router.deadline(connection)
        if due is None:
            self._forgotten(connection)
            return
        handle = self._timers.get(connection)
        # If the deadline is later than the timer, the timer fires and is set again: setting it for each packet would cost more.
        if handle is None or due < handle.when():
            if handle is not None:
                handle.cancel()
            self._timers[connection] = self._loop.call_at(due, self._expired, connection)

    def _send_run(self, datagrams: list[tuple[bytes, NetworkPath]]) -> int:
        """Send datagrams of which all, or none, need a transmit time; how many were sent. Raises OSError."""
        if datagrams[0][1].stamp is None:
            return self.udp.send(datagrams)
        sent = 0
        for data, path in datagrams:
            if path.stamp is not None and self.data_plane is not None:
                sent += self.data_plane.send_stamped(self.udp.fileno(), data, path.remote, path.local, *path.stamp)
        return sent

    def _send(self, out: Outgoing) -> None:
        """Send at once, or drop."""
        datagrams = [(data, path) for data, path in out if isinstance(path, NetworkPath)]
        if not datagrams:
            return
        sent = 0
        try:
            # In this order: a connection's end comes after its last answer.
            for _, run in groupby(datagrams, key=lambda item: item[1].stamp is None):
                sent += self._send_run(list(run))
        except OSError as error:
            logger.debug("send failed: %s", error)
        if sent < len(datagrams):
            self._core.counters.add("unsent", "no room in the socket, or unreachable", len(datagrams) - sent)
