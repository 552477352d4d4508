"""Sockets and timers of a ServerCore, on asyncio.

Comes in: datagrams. Goes out: responses, sent at once. It has no rules of the protocol. It must never stop because of what one
peer sent, and never queue a response for later.
"""

import asyncio
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby, islice
from types import TracebackType, UnionType
from typing import TYPE_CHECKING, Self, TextIO

from tsq.counters import Counters
from tsq.dataplane.batches import BATCH, DataPlane
from tsq.dataplane.loop import ServingLoop
from tsq.errors import ConfigError, TSQError
from tsq.host._memory import give_back
from tsq.host.clock import now_ns
from tsq.host.identity import machine
from tsq.host.keepers.sync_state import HostClock, SyncState
from tsq.host.key_files import load_signing_keys
from tsq.host.memory_use import memory_share
from tsq.options import Target, WebOptions, parse_listen
from tsq.quic import tls
from tsq.quic.access import AccessList
from tsq.quic.aioquic import hibernate, offload
from tsq.quic.connection import Application, Outgoing
from tsq.quic.connection_ids import ConnectionIds
from tsq.quic.limits import DRAINING
from tsq.quic.router import Drop, Limits, Router
from tsq.quic.secrets import Secrets
from tsq.quic.server_connection import ServerConnection
from tsq.quic.udp import Datagram, FamilyMissing, NetworkPath, UdpSocket, sink
from tsq.server.clock_watch import ClockWatch
from tsq.server.core import Outcome, ServerCore
from tsq.server.responder import NoResponse, Responder
from tsq.wire.message import Mode
from tsq.wire.signature import Signer

if TYPE_CHECKING:
    from tsq.server.web.site import WebSite

logger = logging.getLogger(__name__)

HTTP3_ALPN = "h3"
_CARE_INTERVAL = 1.0
# How many batches with packets for the control plane to handle before timers and other sockets get their turn.
_TURNS = 16
# Seconds from which on a datagram took long in the control plane; and how many may wait for it.
_LONG = 0.0004
_MOST_WAITING = 96
# So many full batches are received before one datagram that takes long.
_BATCHES_BEFORE_ONE = 4
_CLOSE_REASON = "server is shutting down"
_MOVE_REASON = "server moves its clients: connect again"
# How often the secrets are looked at, and how often connections are closed while the server drains.
_REFRESH_INTERVAL = 1.0
_DRAIN_INTERVAL = 0.1
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
    "drained",
    "unstamped",
    "unsent",
    "truncated",
    "turned_away",
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
    manager opened; the server closes them. signer: signs responses, for clients that ask for it; sign_keys: files that tsq-keygen
    wrote, of which the first key signs. secrets: keys of a fleet, instead of the server's own. connection_ids: the form of its
    connection IDs. http3: speak HTTP/3 on the same port, too: health, status, metrics, and the time for browsers; web: who may see
    what of these. access: which addresses it serves; None: all. counters: what the server did. clock: the clock's quality.
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
        sign_keys: Sequence[str | os.PathLike[str]] = (),
        key_log: TextIO | None = None,
        data_plane: bool = True,
        host_clock: HostClock | None = None,
        sockets: Sequence[socket.socket] = (),
        secrets: Secrets | None = None,
        connection_ids: ConnectionIds | None = None,
        http3: bool = False,
        web: WebOptions | None = None,
        access: AccessList | None = None,
    ) -> None:
        # Targets, so that each way to write the wildcard address is recognized.
        self._listen = [] if sockets and not listen else _listen_targets(listen)
        self._sockets = list(sockets)
        _check_type("limits", limits, Limits | None, "a Limits")
        _check_type("access", access, AccessList | None, "an AccessList")
        _check_type("host_clock", host_clock, HostClock | None, "a HostClock")
        _check_type("secrets", secrets, Secrets | None, "a Secrets")
        _check_type("connection_ids", connection_ids, ConnectionIds | None, "a ConnectionIds")
        _check_type("http3", http3, bool, "True or False")
        _check_type("web", web, WebOptions | None, "a WebOptions")
        self.counters = Counters()
        self._sign_keys = [_file_name("sign_keys", one) for one in sign_keys]
        if signer is not None and self._sign_keys:
            raise ConfigError("a signer together with files of keys", expected="one of them")
        self.responder = Responder(self._signer() if self._sign_keys else signer)
        self._files = (_file_name("certificate_file", certificate_file), _file_name("key_file", key_file))
        self._key_log = key_log
        self._more_alpn = (HTTP3_ALPN,) if http3 else ()
        configuration = self._configuration()
        self._report_expiry(configuration)
        self._data_plane = data_plane
        missing = offload.missing_names() if data_plane else []
        if missing:
            logger.error("data plane off: this aioquic has no %s; everything goes through aioquic alone", ", ".join(missing))
            self._data_plane = False
        elif data_plane and not hibernate.rest_is_possible():
            missing = hibernate.missing_names()
            logger.error("idle connections need more memory: this aioquic has no %s", ", ".join(missing))
        where = " ".join(sorted(map(str, [*self._listen, *map(_address, self._sockets)])))
        instance = machine() + b" " + where.encode()
        self._router = Router(configuration, self.counters, limits or Limits(), instance, secrets, connection_ids, access)
        self._endpoints: list[_Endpoint] = []
        self._closed: asyncio.Event | None = None
        self._refreshing: asyncio.TimerHandle | None = None
        self._watch = ClockWatch(host_clock or HostClock(), self.responder)
        self._web = web or WebOptions()
        self._site: WebSite | None = None
        if http3:
            self._router.applications = {HTTP3_ALPN: self._http3()}

    def __repr__(self) -> str:
        return f"<Server {' '.join(map(str, self.addresses or self._listen))}, connections: {self.connections}>"

    @property
    def addresses(self) -> list[Target]:
        """The addresses and ports that the server listens on."""
        return [Target(*endpoint.udp.address) for endpoint in self._endpoints]

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return self._router.count

    @property
    def clock(self) -> SyncState | None:
        """The quality of this machine's clock; None if the server asks no program."""
        return self._watch.state

    @property
    def site(self) -> "WebSite":
        """The server's pages. `site.start(address)` serves them over HTTP/1.1, too; close it before the server."""
        if self._site is None:
            # Imported only here: a server without pages does without the memory of these modules.
            from tsq.server.web.site import WebSite  # noqa: PLC0415

            self._site = WebSite(
                self, self.responder, lambda: tls.browser_hash(self._router.configuration), self._web, http3=bool(self._more_alpn)
            )
        return self._site

    def _http3(self) -> Callable[[ServerConnection], Application]:
        """What makes HTTP/3 on a connection."""
        from tsq.quic.http3 import Http3, HttpLimits, Ledger  # noqa: PLC0415 - as above

        site, ledger, limits = self.site, Ledger(), HttpLimits()
        return lambda connection: Http3(connection, site, ledger, limits)

    def _configuration(self) -> tls.ServerConfiguration:
        return tls.server_configuration(*self._files, key_log=self._key_log, more_alpn=self._more_alpn)

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
            if self._more_alpn:
                self.site.start()
            self._refresh()
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

    @property
    def draining(self) -> bool:
        """Whether it takes no new connections because it is about to go: no balancer should send it clients any more."""
        return self._router.draining

    @property
    def secrets_stale(self) -> bool:
        """Whether the file of its secrets cannot be used, and the old ones stay."""
        return self._router.secrets.stale

    def reload(self) -> bool:
        """Load certificate, key and signing keys again, and secrets, where they are from a file.

        What cannot be used is logged, and the old one stays. Whether certificate and keys are the new ones.
        """
        self._router.secrets.reload()
        try:
            configuration = self._configuration()
        except ConfigError as error:
            logger.error("certificate not reloaded, the old one stays: %s", error)
            return False
        self._router.configuration = configuration
        logger.info("certificate reloaded")
        self._report_expiry(configuration)
        return self._reload_signer()

    def _reload_signer(self) -> bool:
        try:
            if self._sign_keys:
                self.responder.signer = self._signer()
        except ConfigError as error:
            logger.error("signing keys not reloaded, the old ones stay: %s", error)
            return False
        return True

    def _signer(self) -> Signer:
        """The current one of the signing keys."""
        keys = load_signing_keys(self._sign_keys)
        logger.info("responses are signed with key %d; other keys: %s", keys[0].key_id, [key.key_id for key in keys[1:]] or "none")
        return keys[0]

    async def drain(self, seconds: float) -> None:
        """Prepare to go: refuse new connections, serve those that there are, and close them before so many seconds have passed.

        In the first half of that time a balancer learns that the server is not ready. In the second half connections are closed one
        after another, so that their clients do not all come to the other servers at once. Returns when none is left.
        """
        self._router.draining = True
        loop, interval = asyncio.get_running_loop(), min(_DRAIN_INTERVAL, seconds / 20)
        begin, end = loop.time() + seconds / 2, loop.time() + seconds
        while (count := self.connections) and (now := loop.time()) < end:
            if now >= begin:
                left = max(1, count * interval // (end - now))
                for endpoint in self._endpoints:
                    left -= endpoint.close_connections(DRAINING, int(left))
            await asyncio.sleep(interval)
        for endpoint in self._endpoints:
            endpoint.close_connections(DRAINING)

    def relay_newcomers(self, relay: Callable[[int, Datagram], None]) -> None:
        """Give the datagrams of clients without a connection here to this function, with the number of their address."""
        for number, endpoint in enumerate(self._endpoints):
            endpoint.relay(partial(relay, number))

    def take_newcomer(self, number: int, datagram: Datagram) -> None:
        """Handle a datagram that another server on the same addresses received. number: of its address, in their order."""
        if 0 <= number < len(self._endpoints):
            self._endpoints[number].take(datagram)

    def let_go(self, most: int) -> int:
        """Close so many more connections, each after its next answer, so that clients connect again, to whoever serves new ones.

        How many it has for that: those at rest have to be made again first, some hundred a second.
        """
        left = most
        for endpoint in self._endpoints:
            left -= endpoint.let_go(_MOVE_REASON, left)
        return most - left

    def close_connections(self) -> None:
        """Close all connections, so that clients learn of it."""
        for endpoint in self._endpoints:
            endpoint.close_connections(_CLOSE_REASON)

    async def close(self) -> None:
        """Close all connections, so that clients learn of it, and close the sockets."""
        if self._site is not None:
            self._site.close()
        # What admission has counted since its last report.
        self._router.look_after(asyncio.get_running_loop().time())
        self.close_connections()
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

    def _refresh(self) -> None:
        loop = asyncio.get_running_loop()
        self._refreshing = loop.call_later(_REFRESH_INTERVAL, self._refresh)
        self._router.secrets.refresh(loop.time())

    def _release(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
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
        self._handed_up: deque[tuple[bytes, bytes, bytes, int, bool]] = deque()

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
        self._handed_up.clear()
        self.udp.close()
        if self._sink is not None:
            self._sink.close()

    def close_connections(self, reason: str, most: int | None = None) -> int:
        """Close all connections of this socket, or the oldest of them; how many."""
        now = self._loop.time()
        closing = list(self._timers)[:most]
        for connection in closing:
            self._send(self._core.close_connection(connection, reason, now))
        count = len(closing)
        while self.data_plane is not None and self.data_plane.resting and (most is None or count < most):
            packets = self.data_plane.close_resting(reason.encode(), BATCH if most is None else min(BATCH, most - count), now)
            self._send([(data, NetworkPath(remote, local)) for data, remote, local in packets])
            count += len(packets)
        return count

    def let_go(self, reason: str, most: int) -> int:
        """Close so many more connections of this socket, each after its next answer; how many it has for that."""
        now = self._loop.time()
        chosen = list(islice((one for one in self._timers if not one.leaving), max(0, most)))
        if self.data_plane is not None and len(chosen) < most:
            woken = (self._core.router.wake(one, now) for one in self.data_plane.some_resting(most - len(chosen)))
            chosen += [connection for connection in woken if connection is not None]
        for connection in chosen:
            self._conclude(self._core.let_go(connection, reason, now))
        return len(chosen)

    def relay(self, relay: Callable[[Datagram], None]) -> None:
        """Give newcomers' datagrams to this function."""
        self._core.relay = relay
        self._core.router.admission.relaying = True

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

    def _serve(self) -> None:
        """Let the data plane answer, and the control plane handle the packets that the data plane returns."""
        data_plane = self.data_plane
        if data_plane is None:
            return
        for turn in range(_TURNS):
            try:
                count, rest = data_plane.receive(self.udp.fileno())
            except OSError as error:
                logger.debug("socket error: %s", error)
                break
            self._handed_up.extend(rest)
            full = count > 0 and not count % BATCH
            if full and len(self._handed_up) < _MOST_WAITING and turn % _BATCHES_BEFORE_ONE:
                # A flood: more of it is waiting, and clients of the data plane among it.
                continue
            self._work_off()
            if not self._handed_up and (not rest or count % BATCH):
                # The data plane took the whole batch, or the socket is empty.
                return
        if self._handed_up:
            self._loop.call_soon(self._serve)

    def _work_off(self) -> None:
        """Give datagrams to the control plane, up to the first one that takes long, as handshakes do.

        The clients of the data plane wait meanwhile: they are served before the next one.
        """
        waiting = self._handed_up
        while waiting:
            now = self._loop.time()
            data, remote, local, received_ns, kernel = waiting.popleft()
            self._conclude(self._core.received(Datagram(data, NetworkPath(remote, local), received_ns, kernel), now))
            if len(waiting) < _MOST_WAITING and self._loop.time() > now + _LONG:
                return

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
