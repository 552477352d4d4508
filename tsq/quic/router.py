"""The server's connection router: which connection a datagram belongs to, and what happens to one that belongs to none.

Comes in: datagrams with their path, the time. Goes out: a connection, stateless replies (Version Negotiation, Retry, refusal,
reset), or a counted drop. It must never keep anything for a datagram too small to be an Initial (RFC 9000 §14.1), nor reply with
more bytes than came. The cost of ending a connection depends on its own connection IDs only. Every connection has a deadline.
"""

import logging
import os
import time
from collections.abc import Callable
from enum import StrEnum

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # compiled, and not in its stub
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from tsq._fast import unpack_address
from tsq.counters import Counters
from tsq.quic import initial, tls
from tsq.quic.aioquic import internals
from tsq.quic.budget import Bucket, DecayingCount, Throttle
from tsq.quic.frames import contents, packets_in
from tsq.quic.handshake_log import HandshakeLog
from tsq.quic.limits import FULL, Limits, RetryPolicy
from tsq.quic.resets import StatelessResets, reset_key
from tsq.quic.server_connection import ServerConnection
from tsq.quic.tickets import TicketStore
from tsq.quic.udp import NetworkPath
from tsq.settings import Setting

__all__ = ["CONNECTION_ID_SIZE", "EXCESSES", "Drop", "Limits", "RetryPolicy", "Router"]

CONNECTION_ID_SIZE = 8
_MIN_INITIAL_SIZE = 1200
# Seconds: how long a failed handshake counts as load, and the time between two reports of a full server.
_LOAD_FADES = 5.0
_REPORT_INTERVAL = 60.0

logger = logging.getLogger(__name__)


class Drop(StrEnum):
    """Why a datagram was dropped."""

    TOO_SHORT = "too short for a QUIC packet"
    UNKNOWN_CONNECTION = "unknown connection ID"
    UNKNOWN_VERSION = "unknown version"
    SMALL_INITIAL = "Initial under 1200 bytes"
    NOT_INITIAL = "handshake packet of no connection"
    TOO_MANY_CONNECTIONS = FULL
    INVALID_TOKEN = "invalid Retry token"
    UNREADABLE_INITIAL = "Initial that cannot be opened"
    TOO_MANY_HANDSHAKES = "too many handshakes under way"
    TOO_MANY_PACKETS = "datagram with too many packets"
    TOO_MANY_FRAMES = "packet with too many frames"
    TOO_MANY_ACKS = "packet with too many acknowledgments"
    HANDSHAKE_DATA = "handshake data beyond the limits"
    OVER_BUDGET = "more packets than one connection may cost"
    OVERLOADED = "more packets than the control plane takes"


# Of these, the reasons that an attack causes.
EXCESSES = (
    Drop.TOO_MANY_PACKETS, Drop.TOO_MANY_FRAMES, Drop.TOO_MANY_ACKS, Drop.HANDSHAKE_DATA, Drop.OVER_BUDGET, Drop.OVERLOADED,
)  # fmt: skip


class Router:
    """Connections by connection ID. `configuration` may be replaced at any time; it holds for later connections.

    instance: distinguishes this server from others with the same private key, also after a restart. forgotten: how many connections
    have ended so far.
    """

    def __init__(self, configuration: QuicConfiguration, counters: Counters, limits: Limits, instance: bytes = b"") -> None:
        self.configuration = configuration
        self.limits = limits
        self.replies: list[tuple[bytes, NetworkPath]] = []
        self.forgotten = 0
        self._counters = counters
        # Made once: existing connections keep their tokens when the certificate is renewed.
        self._resets = StatelessResets(reset_key(tls.private_key_bytes(configuration), instance))
        self._tickets = TicketStore()
        self._tokens = QuicRetryTokenHandler()
        self._by_id: dict[bytes, ServerConnection] = {}
        self._connections: dict[ServerConnection, None] = {}
        self._half_open: dict[ServerConnection, None] = {}
        # Those of them whose client's address is not validated.
        self._unvalidated: dict[ServerConnection, None] = {}
        # At most twice the number that turns Retry on, so that Retry is off again seconds after a flood.
        self._failed = DecayingCount(_LOAD_FADES, 2.0 * limits.half_open)
        self._newcomers = Bucket(limits.newcomers, limits.newcomers)
        self._full = Throttle(_REPORT_INTERVAL)
        self._log = HandshakeLog()
        self._watchers: list[Callable[[ServerConnection], None]] = []

    @property
    def connections(self) -> list[ServerConnection]:
        """All connections, oldest first."""
        return list(self._connections)

    @property
    def half_open(self) -> int:
        """How many connections have not finished their handshake."""
        return len(self._half_open)

    def when_forgotten(self, watcher: Callable[[ServerConnection], None]) -> None:
        """Call this with every connection that is forgotten, whatever the reason."""
        self._watchers.append(watcher)

    def route(self, data: bytes, path: NetworkPath, now: float) -> ServerConnection | None:
        """The connection that this datagram belongs to, which may be a new one; None where it belongs to none (see `replies`)."""
        if len(data) < 1 + CONNECTION_ID_SIZE:
            return self._drop(Drop.TOO_SHORT)
        if not data[0] & 0x80:
            connection_id = data[1 : 1 + CONNECTION_ID_SIZE]
            return self._by_id.get(connection_id) or self._unknown(data, connection_id, path, now)
        buffer = Buffer(data=data)
        try:
            header = pull_quic_header(buffer, host_cid_length=CONNECTION_ID_SIZE)
        except ValueError:
            return self._drop(Drop.TOO_SHORT)
        most = self.limits.peer.packets
        if header.packet_length < len(data) and packets_in(data, most) > most:
            return self._drop(Drop.TOO_MANY_PACKETS)
        connection = self._by_id.get(header.destination_cid)
        return connection if connection is not None else self._stranger(header, data, buffer.tell(), path, now)

    def refresh(self, connection: ServerConnection) -> None:
        """Note what changed on a connection. Call this after anything was done with it."""
        if connection not in self._connections:
            return
        for connection_id in connection.issued:
            connection.ids.add(connection_id)
            self._by_id[connection_id] = connection
        for connection_id in connection.retired:
            connection.ids.discard(connection_id)
            self._by_id.pop(connection_id, None)
        connection.issued.clear()
        connection.retired.clear()
        if connection.handshake is not None and connection in self._half_open:
            del self._half_open[connection]
            self._unvalidated.pop(connection, None)
            self._counters.add("handshakes", "resumed" if connection.handshake.session_resumed else "full")
        if connection.terminated is not None:
            self.forget(connection)

    def deadline(self, connection: ServerConnection) -> float | None:
        """When the connection needs attention: its own timer, or its handshake's deadline; None once it is forgotten."""
        if connection not in self._connections:
            return None
        try:
            due = connection.timer
        except Exception as error:
            connection.fail(error)
            due = None
        if due is None:
            # Nothing would ever look at it again.
            self.forget(connection)
        elif connection in self._half_open:
            due = min(due, connection.created + self.limits.handshake_timeout)
        return due

    def knows(self, connection: ServerConnection) -> bool:
        """Whether this connection is still there."""
        return connection in self._connections

    def overdue(self, connection: ServerConnection, now: float) -> bool:
        """Whether a connection's handshake has taken too long."""
        return connection in self._half_open and now >= connection.created + self.limits.handshake_timeout

    def unreadable(self, connection: ServerConnection, now: float) -> None:
        """Drop a new connection whose first datagram caused no reply: its handshake cannot go on."""
        self._half_open.pop(connection, None)
        self.forget(connection)
        self._failed.add(now)
        self._drop(Drop.UNREADABLE_INITIAL)

    def forget(self, connection: ServerConnection) -> None:
        """Drop a connection at once, sending nothing."""
        # Remove it from every table first, in case the rest fails.
        for connection_id in connection.ids:
            self._by_id.pop(connection_id, None)
        connection.ids.clear()
        self._unvalidated.pop(connection, None)
        if connection not in self._connections:
            return
        del self._connections[connection]
        self.forgotten += 1
        if connection in self._half_open:
            del self._half_open[connection]
            self._counters.add("handshakes", "failed")
            self._log.failed(connection.path, connection.terminated or internals.closing(connection.quic), time.monotonic())
        for watcher in self._watchers:
            watcher(connection)
        try:
            connection.drop()
        except Exception as error:
            # It is in no table any more: nothing else is affected.
            connection.fail(error)

    def _unknown(self, data: bytes, connection_id: bytes, path: NetworkPath, now: float) -> ServerConnection | None:
        """A packet of an unknown connection. Reply with a stateless reset, where one may be sent."""
        reset = self._resets.answer(data, connection_id, now)
        if reset is not None:
            self.replies.append((reset, path))
            self._counters.add("stateless resets")
        return self._drop(Drop.UNKNOWN_CONNECTION)

    def _stranger(
        self, header: QuicHeader, data: bytes, number_offset: int, path: NetworkPath, now: float
    ) -> ServerConnection | None:
        """A packet with a long header and an unknown connection ID."""
        if header.packet_type == QuicPacketType.VERSION_NEGOTIATION:
            return self._drop(Drop.UNKNOWN_VERSION)
        if len(data) < _MIN_INITIAL_SIZE:
            return self._drop(Drop.SMALL_INITIAL)
        if header.version is None or header.version not in self.configuration.supported_versions:
            versions = encode_quic_version_negotiation(
                source_cid=header.destination_cid,
                destination_cid=header.source_cid,
                supported_versions=self.configuration.supported_versions,
            )
            self.replies.append((versions, path))
            return self._drop(Drop.UNKNOWN_VERSION)
        if header.packet_type != QuicPacketType.INITIAL:
            return self._drop(Drop.NOT_INITIAL)
        if len(self._connections) >= self.limits.max_connections:
            self._report_full(now)
            self._refuse(header, data, number_offset, path, now)
            return self._drop(Drop.TOO_MANY_CONNECTIONS)
        original = self._original_destination(header, path, now) if header.token else None
        if original is None and self._asks_for_retry(now):
            if header.token:
                return self._drop(Drop.INVALID_TOKEN)
            self.replies.append((self._retry(header, header.version, path, now), path))
            return None
        # Before a connection is made, which costs ten times as much.
        payload = initial.payload(data[: header.packet_length], number_offset, header.destination_cid, header.version)
        excess = "" if payload is None else contents(payload, self.limits.peer).excess
        if payload is None or excess:
            # It counts as load, which turns Retry on.
            self._failed.add(now)
            return self._drop(Drop(excess) if excess else Drop.UNREADABLE_INITIAL)
        if original is None and not self._newcomer_has_room(now):
            return self._drop(Drop.TOO_MANY_HANDSHAKES)
        if self.half_open >= self.limits.most_half_open:
            self.forget(next(iter(self._unvalidated), None) or next(iter(self._half_open)))
        if original is not None:
            return self._open(original, header.destination_cid, (header.destination_cid,), path, now)
        return self._open(header.destination_cid, None, (header.destination_cid,), path, now)

    def _newcomer_has_room(self, now: float) -> bool:
        """Whether a handshake may begin for a client whose address is not validated."""
        if self.half_open < self.limits.half_open:
            return True
        if self._newcomers.refill(now) < 1:
            return False
        self._newcomers.take()
        return True

    def _refuse(self, header: QuicHeader, data: bytes, number_offset: int, path: NetworkPath, now: float) -> None:
        """Tell a client that there is no room for its connection, so that it need not wait for a time-out (RFC 9000 §20.1).

        One small datagram for an Initial that opens, and no more of them in a second than handshakes of strangers may begin.
        """
        if header.version is None or self._newcomers.refill(now) < 1:
            return
        self._newcomers.take()
        destination, source = header.destination_cid, header.source_cid
        if initial.payload(data[: header.packet_length], number_offset, destination, header.version) is None:
            return
        self.replies.append((initial.connection_refused(destination, source, header.version, FULL), path))
        self._counters.add("refused")

    def _report_full(self, now: float) -> None:
        count = self._full.due(now)
        if count:
            logger.warning(
                "all %d connections are in use: new clients are refused (%d attempts since the last such line); %s allows more",
                self.limits.max_connections,
                count,
                Setting.MAX_CONNECTIONS,
            )

    def _original_destination(self, header: QuicHeader, path: NetworkPath, now: float) -> bytes | None:
        """The original destination connection ID in a valid Retry token, which validates the client's address; else None.

        Treat a token that is not ours as absent (RFC 9000 §8.1.3).
        """
        try:
            return self._tokens.validate_token(
                address=unpack_address(path.remote)[:2], destination_cid=header.destination_cid, token=header.token, now=now
            )
        except ValueError:
            return None

    def _asks_for_retry(self, now: float) -> bool:
        policy = self.limits.retry
        if policy is not RetryPolicy.AUTO:
            return policy is RetryPolicy.ALWAYS
        return self.half_open + self._failed.count(now) >= self.limits.half_open

    def _retry(self, header: QuicHeader, version: int, path: NetworkPath, now: float) -> bytes:
        source_id = os.urandom(CONNECTION_ID_SIZE)
        token = self._tokens.create_token(
            address=unpack_address(path.remote)[:2],
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=source_id,
            now=now,
        )
        self._counters.add("retries")
        return encode_quic_retry(
            version=version,
            source_cid=source_id,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )

    def _open(
        self, original: bytes, retry_source: bytes | None, ids: tuple[bytes, ...], path: NetworkPath, now: float
    ) -> ServerConnection:
        connection = ServerConnection(
            self.configuration,
            original_destination=original,
            retry_source=retry_source,
            tickets=self._tickets,
            created=now,
            reset_token=self._resets.token,
            limits=self.limits.peer,
            path=path,
        )
        connection.ids = {connection.quic.host_cid, *ids}
        for connection_id in connection.ids:
            self._by_id[connection_id] = connection
        self._connections[connection] = None
        self._half_open[connection] = None
        if not connection.validated:
            self._unvalidated[connection] = None
        return connection

    def _drop(self, reason: Drop) -> ServerConnection | None:
        self._counters.add("dropped", reason)
        return None
