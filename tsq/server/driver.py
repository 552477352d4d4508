"""Sockets and timers of a ServerCore, on asyncio.

Comes in: datagrams. Goes out: responses, sent at once. It has no rules of the protocol. It must never stop because of what one
peer sent, and never queue a response for later.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Sequence
from types import TracebackType, UnionType
from typing import Self, TextIO

from tsq.counters import Counters
from tsq.dataplane.batches import BATCH, DataPlane
from tsq.dataplane.loop import ServingLoop
from tsq.errors import ConfigError, TSQError
from tsq.host._memory import give_back
from tsq.host.clock import now_ns
from tsq.host.identity import machine
from tsq.host.keepers.sync_state import HostClock, SyncState
from tsq.options import Target, parse_listen
from tsq.quic import tls
from tsq.quic.aioquic import offload
from tsq.quic.connection import Outgoing
from tsq.quic.router import Limits, Router
from tsq.quic.server_connection import ServerConnection
from tsq.quic.udp import Datagram, FamilyMissing, NetworkPath, UdpSocket, sink
from tsq.server.clock_watch import ClockWatch
from tsq.server.core import Outcome, ServerCore
from tsq.server.responder import NoResponse, Responder
from tsq.wire.message import Mode
from tsq.wire.signature import Signer

logger = logging.getLogger(__name__)

_CARE_INTERVAL = 1.0
# How many batches with packets for the control plane to handle before timers and other sockets get their turn.
_TURNS = 16
_CLOSE_REASON = "server is shutting down"
# The counters of a DataPlane.
_DATA_PLANE_COUNTS = (
    "taken",
    "answered",
    "held_back",
    "stepped_back",
    "malformed",
    "forged",
    "duplicates",
    "excessive",
    "unstamped",
    "unsent",
    "truncated",
)
# A flood is over when this many connections have ended and fewer than this are half open. Then return memory to the system.
_MANY_FORGOTTEN = 500
_FEW_HALF_OPEN = 50


class Server:
    """A TSQ server, for a program of its own or inside another asyncio program.

        async with tsq.Server(["127.0.0.1:4433"], "cert.pem", "key.pem") as server:
            print(server.addresses)
            await server.wait_closed()

    listen: numeric addresses with ports ("0.0.0.0:443", "[::]:443"; port 0 is any free one). host_clock: the program to ask for the
    quality of this machine's clock, which is reported to clients. sockets: bound UDP sockets to serve as well, which a service
    manager opened; the server closes them. counters: what the server did. clock: the clock's quality.
    Raises ConfigError if the certificate, the key or an address cannot be used.
    """

    def __init__(
        self,
        listen: Sequence[str | Target],
        certificate_file: str | os.PathLike[str],
        key_file: str | os.PathLike[str],
        *,
        limits: Limits | None = None,
        signer: Signer | None = None,
        key_log: TextIO | None = None,
        data_plane: bool = True,
        host_clock: HostClock | None = None,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        # Targets, so that each way to write the wildcard address is recognized.
        self._listen = [] if sockets and not listen else _listen_targets(listen)
        self._sockets = list(sockets)
        _check_type("limits", limits, Limits | None, "a Limits")
        _check_type("host_clock", host_clock, HostClock | None, "a HostClock")
        self.counters = Counters()
        self.responder = Responder(signer)
        self._files = (_file_name("certificate_file", certificate_file), _file_name("key_file", key_file))
        self._key_log = key_log
        configuration = tls.server_configuration(*self._files, key_log=key_log)
        self._report_expiry(configuration)
        self._data_plane = data_plane
        missing = offload.missing_names() if data_plane else []
        if missing:
            logger.error("data plane off: this aioquic has no %s; everything goes through aioquic alone", ", ".join(missing))
            self._data_plane = False
        where = " ".join(sorted(map(str, [*self._listen, *map(_address, self._sockets)])))
        self._router = Router(configuration, self.counters, limits or Limits(), machine() + b" " + where.encode())
        self._endpoints: list[_Endpoint] = []
        self._closed: asyncio.Event | None = None
        self._watch = ClockWatch(host_clock or HostClock(), self.responder)

    def __repr__(self) -> str:
        return f"<Server {' '.join(map(str, self.addresses or self._listen))}, connections: {self.connections}>"

    @property
    def addresses(self) -> list[Target]:
        """The addresses and ports that the server listens on."""
        return [Target(*endpoint.udp.address) for endpoint in self._endpoints]

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._router.connections)

    @property
    def clock(self) -> SyncState | None:
        """The quality of this machine's clock; None if the server asks no program."""
        return self._watch.state

    async def start(self) -> None:
        """Open the sockets and begin to answer. Raises ConfigError if an address cannot be used.

        If the machine has no IPv6, or no IPv4, at all, leave out addresses of that family, as long as others remain.
        """
        self._closed = asyncio.Event()
        await self._watch.start()
        try:
            self._open()
            for endpoint in self._endpoints:
                endpoint.start()
        except (TSQError, OSError):
            self._watch.stop()
            self._release()
            raise

    def _open(self) -> None:
        absent: list[FamilyMissing] = []
        for existing in self._sockets:
            self._add(UdpSocket.passed(existing))
        for target in self._listen:
            try:
                udp = UdpSocket.listening(target.host, target.port)
            except FamilyMissing as error:
                absent.append(error)
                continue
            self._add(udp)
        if not self._endpoints:
            raise absent[0]
        for missing in absent:
            logger.warning("%s; the other addresses are served", missing)

    def _add(self, udp: UdpSocket) -> None:
        spare = sink() if self._data_plane else None
        data_plane = None if not self._data_plane else DataPlane() if spare is None else DataPlane(spare.fileno())
        core = ServerCore(self._router, self.responder, self.counters, now_ns, data_plane)
        self._endpoints.append(_Endpoint(udp, core, data_plane, spare))

    @property
    def certificate_expiry(self) -> float:
        """When the certificate that new connections get expires, Unix seconds."""
        return tls.certificate_expiry(self._router.configuration).timestamp()

    @property
    def send_delay(self) -> tuple[float, int]:
        """(sum in seconds, count) of the times from T3 to the transmit timestamp; of responses whose exact T3 was asked for."""
        planes = [endpoint.data_plane for endpoint in self._endpoints if endpoint.data_plane is not None]
        return sum(plane.send_delay_ns for plane in planes) / 1e9, sum(plane.exact for plane in planes)

    def reload(self) -> bool:
        """Load certificate and key again, for new connections. If they cannot be used, log that and keep the old ones."""
        try:
            configuration = tls.server_configuration(*self._files, key_log=self._key_log)
        except ConfigError as error:
            logger.error("certificate not reloaded, the old one stays: %s", error)
            return False
        self._router.configuration = configuration
        logger.info("certificate reloaded")
        self._report_expiry(configuration)
        return True

    async def close(self) -> None:
        """Close all connections, so that clients learn of it, and close the sockets."""
        for endpoint in self._endpoints:
            endpoint.close_connections(_CLOSE_REASON)
        self._release()
        self._watch.stop()
        if self._closed is not None:
            self._closed.set()

    async def wait_closed(self) -> None:
        """Wait until somebody calls `close`."""
        if self._closed is not None:
            await self._closed.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def _release(self) -> None:
        for endpoint in self._endpoints:
            endpoint.stop()
        self._endpoints.clear()

    def _report_expiry(self, configuration: tls.ServerConfiguration) -> None:
        for warning in configuration.warnings:
            logger.warning("%s", warning)
        left = (tls.certificate_expiry(configuration).timestamp() - time.time()) / 86400
        if left < 0:
            logger.error("the certificate expired %.0f days ago; it is served all the same, and clients will refuse it", -left)
        elif left < 14:
            logger.warning("the certificate expires in %.0f days", left)


def _listen_targets(listen: Sequence[str | Target]) -> list[Target]:
    """Raises ConfigError where these are not addresses to listen on, each once."""
    if isinstance(listen, str | bytes | Target) or not isinstance(listen, Sequence):
        raise ConfigError(f"listen {listen!r}", expected='a list of addresses, such as ["0.0.0.0:443"]')
    if not listen:
        raise ConfigError("no address to listen on", expected="at least one")
    for item in listen:
        _check_type("address to listen on", item, str | Target, 'text such as "0.0.0.0:443", or a Target')
    targets = [parse_listen(str(item)) for item in listen]
    for number, target in enumerate(targets):
        if target.port and target in targets[:number]:
            raise ConfigError(f"address {target} to listen on is given twice", expected="each address once")
    return targets


def _address(existing: socket.socket) -> str:
    """A passed socket's address; of one that cannot be used, `UdpSocket.passed` says why."""
    name = existing.getsockname()
    return str(Target(*name[:2])) if isinstance(name, tuple) and len(name) in (2, 4) else str(name)


def _file_name(name: str, value: str | os.PathLike[str]) -> str:
    """A file's name as text, from text or a pathlib.Path."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    _check_type(name, text, str, "the path of a file, as text")
    return text


def _check_type(name: str, value: object, kind: type | UnionType, expected: str) -> None:
    if not isinstance(value, kind):
        raise ConfigError(f"{name} {value!r}", expected=expected)


class _Endpoint:
    """One socket: moves datagrams between it and the core, and has the timers of its connections."""

    def __init__(self, udp: UdpSocket, core: ServerCore, data_plane: DataPlane | None, sink: socket.socket | None) -> None:
        self.udp = udp
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
        self._forgotten_before = 0

    def start(self) -> None:
        """Begin to answer."""
        self._loop.add_reader(self.udp.fileno(), self._readable if self.data_plane is None else self._serve)
        if self.data_plane is not None:
            if isinstance(self._loop, ServingLoop):
                self._loop.serving.serve(self.udp.fileno(), self.data_plane)
            self.udp.stamp_sent()
            self.data_plane.stamping = self.udp.stamps_sent
            self._care = self._loop.call_later(_CARE_INTERVAL, self._look_after)
        if self.udp.missing is not None and (self.data_plane is not None or not self.udp.stamps_received):
            logger.warning("%s: %s", Target(*self.udp.address), self.udp.missing)

    def stop(self) -> None:
        """Stop answering."""
        if isinstance(self._loop, ServingLoop):
            self._loop.serving.leave(self.udp.fileno())
        self._loop.remove_reader(self.udp.fileno())
        if self._care is not None:
            self._care.cancel()
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()
        self.udp.close()
        if self._sink is not None:
            self._sink.close()

    def close_connections(self, reason: str) -> None:
        """Close all connections of this socket."""
        now = self._loop.time()
        for connection in list(self._timers):
            self._send(self._core.close_connection(connection, reason, now))

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

    def _serve(self) -> None:
        """Let the data plane answer, and the control plane handle the packets that the data plane returns."""
        data_plane = self.data_plane
        if data_plane is None:
            return
        for _ in range(_TURNS):
            try:
                count, rest = data_plane.receive(self.udp.fileno())
            except OSError as error:
                logger.debug("socket error: %s", error)
                return
            now = self._loop.time()
            for data, remote, local, received_ns, kernel in rest:
                self._conclude(self._core.received(Datagram(data, NetworkPath(remote, local), received_ns, kernel), now))
            if not rest or count % BATCH:
                # The data plane took the whole batch, or the socket is empty.
                return

    def _count(self) -> None:
        """Add the data plane's counts since the last call."""
        data_plane, counters = self.data_plane, self._core.counters
        if data_plane is None:
            return
        now = {name: getattr(data_plane, name) for name in _DATA_PLANE_COUNTS}
        new = {name: now[name] - self._counted[name] for name in _DATA_PLANE_COUNTS}
        self._counted = now
        dropped = new["forged"] + new["duplicates"] + new["excessive"]
        requests = new["answered"] + new["held_back"] + new["stepped_back"] + new["malformed"]
        counters.add("datagrams", amount=new["taken"] + dropped)
        counters.add("taken", amount=new["taken"])
        counters.add("user-space receive times", amount=new["unstamped"])
        counters.add("requests", Mode.DATAGRAM, requests)
        counters.add("answered", amount=new["answered"])
        counters.add("unanswered", NoResponse.MALFORMED, new["malformed"])
        counters.add("unanswered", NoResponse.CLOCK_WENT_BACK, new["stepped_back"])
        counters.add("unanswered", "congestion window or amplification limit", new["held_back"])
        counters.add("unsent", "no room in the socket, or unreachable", new["unsent"])
        counters.add("dropped", "datagram over 2048 bytes", new["truncated"])
        counters.add("dropped", "packet that does not open", new["forged"])
        counters.add("dropped", "packet that came before", new["duplicates"])
        counters.add("dropped", "packet that is too much work", new["excessive"])

    def _look_after(self) -> None:
        """The coarse timer of the data plane."""
        self._care = self._loop.call_later(_CARE_INTERVAL, self._look_after)
        router = self._core.router
        if router.forgotten >= self._forgotten_before + _MANY_FORGOTTEN and router.half_open < _FEW_HALF_OPEN:
            self._forgotten_before = router.forgotten
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

    def _send(self, out: Outgoing) -> None:
        """Send at once, or drop."""
        datagrams = [(data, path) for data, path in out if isinstance(path, NetworkPath)]
        if not datagrams:
            return
        sent = 0
        try:
            sent = self.udp.send([item for item in datagrams if item[1].stamp is None])
            for data, path in datagrams:
                if path.stamp is not None and self.data_plane is not None:
                    sent += self.data_plane.send_stamped(self.udp.fileno(), data, path.remote, path.local, *path.stamp)
        except OSError as error:
            logger.debug("send failed: %s", error)
        if sent < len(datagrams):
            self._core.counters.add("unsent", "no room in the socket, or unreachable", len(datagrams) - sent)
