"""The server, on asyncio: its addresses, what it starts with and loads again, how it goes.

Comes in: addresses, files, limits. Goes out: a running server, each of whose sockets is an `Endpoint`. It has no rules of the
protocol. It must never leave a socket open after `close`.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType, UnionType
from typing import TYPE_CHECKING, Self, TextIO

from tsq.counters import Counters
from tsq.dataplane.batches import DataPlane
from tsq.errors import ConfigError, TSQError
from tsq.host.clock import now_ns
from tsq.host.identity import machine
from tsq.host.keepers.sync_state import HostClock, SyncState
from tsq.host.key_files import load_signing_keys
from tsq.options import Target, WebOptions, parse_listen
from tsq.quic import tls
from tsq.quic.access import AccessList
from tsq.quic.aioquic import hibernate, offload_check
from tsq.quic.connection import Application
from tsq.quic.connection_ids import ConnectionIds
from tsq.quic.limits import DRAINING
from tsq.quic.router import Limits, Router
from tsq.quic.secrets import Secrets
from tsq.quic.server_connection import ServerConnection
from tsq.quic.udp import Datagram, FamilyMissing, UdpSocket, sink
from tsq.server.clock_watch import ClockWatch
from tsq.server.core import ServerCore
from tsq.server.endpoint import Endpoint
from tsq.server.responder import Responder
from tsq.wire.annotations import annotations_tlv
from tsq.wire.signature import Signer
from tsq.wording import counted

if TYPE_CHECKING:
    from tsq.server.web.site import WebSite

logger = logging.getLogger(__name__)

HTTP3_ALPN = "h3"
_CLOSE_REASON = "server is shutting down"
_MOVE_REASON = "server moves its clients: connect again"
# How often the secrets are looked at, and how often connections are closed while the server drains.
_REFRESH_INTERVAL = 1.0
_DRAIN_INTERVAL = 0.1


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
    what of these. access: which addresses it serves; None: all. metadata: what clients learn of it that ask, such as {"site":
    "us-east"}. counters: what the server did. clock: the clock's quality.
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
        metadata: Mapping[str, str] | None = None,
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
        signing = self._signer() if self._sign_keys else signer
        self.responder = Responder(signing, annotations=annotations_tlv(metadata or {}))
        self._files = (_file_name("certificate_file", certificate_file), _file_name("key_file", key_file))
        self._key_log = key_log
        self._more_alpn = (HTTP3_ALPN,) if http3 else ()
        configuration = self._configuration()
        self._report_expiry(configuration)
        self._data_plane = data_plane
        missing = offload_check.missing_names() if data_plane else []
        if missing:
            logger.error("data plane off: this aioquic has no %s; everything goes through aioquic alone", ", ".join(missing))
            self._data_plane = False
        elif data_plane and not hibernate.rest_is_possible():
            missing = hibernate.missing_names()
            logger.error("idle connections need more memory: this aioquic has no %s", ", ".join(missing))
        where = " ".join(sorted(map(str, [*self._listen, *map(_address, self._sockets)])))
        instance = machine() + b" " + where.encode()
        self._router = Router(configuration, self.counters, limits or Limits(), instance, secrets, connection_ids, access)
        self._endpoints: list[Endpoint] = []
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
    def http3(self) -> bool:
        """Whether it speaks HTTP/3."""
        return bool(self._more_alpn)

    @property
    def site(self) -> "WebSite":
        """The server's pages. `site.start(address)` serves them over HTTP/1.1, too; close it before the server."""
        if self._site is None:
            # Imported only here: a server without pages does without the memory of these modules.
            from tsq.server.web.site import WebSite  # noqa: PLC0415

            self._site = WebSite(
                self, self.responder, lambda: tls.browser_hash(self._router.configuration), self._web, http3=self.http3
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
            if self.http3:
                self.site.start()
            self._refresh()
        except (TSQError, OSError):
            self._watch.stop()
            self._release()
            raise

    def _open(self) -> None:
        absent: list[FamilyMissing] = []
        for existing, newcomers in _pairs(self._sockets, self._data_plane):
            self._add(UdpSocket.passed(existing), None if newcomers is None else UdpSocket.passed(newcomers))
        for target in self._listen:
            try:
                if self._data_plane:
                    self._add(*UdpSocket.divided(target.host, target.port))
                else:
                    self._add(UdpSocket.listening(target.host, target.port))
            except FamilyMissing as error:
                absent.append(error)
        if not self._endpoints:
            raise absent[0]
        for missing in absent:
            logger.warning("%s; the other addresses are served", missing)

    def _add(self, udp: UdpSocket, newcomers: UdpSocket | None = None) -> None:
        spare = sink() if self._data_plane else None
        data_plane = None if not self._data_plane else DataPlane() if spare is None else DataPlane(spare.fileno())
        core = ServerCore(self._router, self.responder, self.counters, now_ns, data_plane)
        self._endpoints.append(Endpoint(udp, core, data_plane, spare, newcomers))

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
        after another, so that their clients do not all come to the other servers at once: those in use right behind an answer.
        Clients of HTTP/3 are told at the beginning to ask elsewhere. Returns when none is left.
        """
        self._router.draining = True
        self.go_away()
        loop, interval = asyncio.get_running_loop(), min(_DRAIN_INTERVAL, seconds / 20)
        begin, end = loop.time() + seconds / 2, loop.time() + seconds
        while (count := self.connections) and (now := loop.time()) < end:
            if now >= begin:
                left = max(1, count * interval // (end - now))
                for endpoint in self._endpoints:
                    left -= endpoint.part(DRAINING, max(0, int(left)))
            await asyncio.sleep(interval)
        for endpoint in self._endpoints:
            endpoint.close_connections(DRAINING)

    def relay_newcomers(self, relay: Callable[[int, Datagram], None] | None) -> None:
        """Give the datagrams of clients without a connection here to this function, with the number of their address.

        None: to nobody, which is so at first.
        """
        for number, endpoint in enumerate(self._endpoints):
            endpoint.relay(None if relay is None else partial(relay, number))

    def take_newcomer(self, number: int, datagram: Datagram) -> None:
        """Handle a datagram that another server on the same addresses received. number: of its address, in their order."""
        if 0 <= number < len(self._endpoints):
            self._endpoints[number].take(datagram)

    def go_away(self) -> None:
        """Tell clients of HTTP/3 to ask elsewhere from now on."""
        for endpoint in self._endpoints:
            endpoint.go_away()

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
            logger.error(
                "the certificate expired %s ago; it is served all the same, and clients will refuse it",
                counted(round(-left), "day"),
            )
        elif left < 14:
            logger.warning("the certificate expires in %s", counted(round(left), "day"))


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


def _pairs(sockets: Sequence[socket.socket], divided: bool) -> list[tuple[socket.socket, socket.socket | None]]:
    """Each socket alone, or, where they may be divided, two of one address: the second is for newcomers."""
    groups: dict[object, list[socket.socket]] = {}
    for number, one in enumerate(sockets):
        groups.setdefault((one.family, one.getsockname()) if divided else number, []).append(one)
    pairs: list[tuple[socket.socket, socket.socket | None]] = []
    for group in groups.values():
        pairs += [(group[0], group[1])] if len(group) == 2 else [(one, None) for one in group]
    return pairs


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
