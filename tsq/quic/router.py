"""The server's connection router: which connection a datagram belongs to, and what happens to one that belongs to none.

Comes in: datagrams with their path, the time. Goes out: a connection, which may be new, or a stateless reply or a counted drop, as
admission says (tsq/dataplane/admission.pyx). The cost of ending a connection depends on its own connection IDs only. Every
connection has a deadline. It must never open a connection that admission did not admit.
"""

import time
from collections.abc import Callable

from aioquic.quic.configuration import QuicConfiguration

from tsq.counters import Counters
from tsq.dataplane.admission import Admission
from tsq.dataplane.batches import DataPlane
from tsq.dataplane.session import Session
from tsq.quic import tls
from tsq.quic.access import AccessList
from tsq.quic.aioquic import hibernate, internals
from tsq.quic.budget import Bucket
from tsq.quic.connection_ids import ConnectionIds
from tsq.quic.drops import EXCESSES, Drop
from tsq.quic.gate import Gate
from tsq.quic.handshake_log import HandshakeLog
from tsq.quic.limits import Limits, RetryPolicy
from tsq.quic.sealed_tickets import SealedTickets
from tsq.quic.secrets import Secrets
from tsq.quic.server_connection import Applications, ServerConnection
from tsq.quic.udp import NetworkPath
from tsq.quic.visits import Visits

__all__ = ["CONNECTION_ID_SIZE", "EXCESSES", "Drop", "Limits", "RetryPolicy", "Router"]

CONNECTION_ID_SIZE = 8
# For each new connection so many others come to rest, where many are awake.
_RESTING_EARLY = 4


class _Known(dict[bytes, ServerConnection]):
    """Connections by connection ID. Admission knows the same IDs."""

    def __init__(self, admission: Admission) -> None:
        super().__init__()
        self._admission = admission

    def __setitem__(self, connection_id: bytes, connection: ServerConnection) -> None:
        if connection_id not in self:
            self._admission.add_id(connection_id)
        super().__setitem__(connection_id, connection)

    def discard(self, connection_id: bytes) -> None:
        """Forget an ID, if it is there."""
        if super().pop(connection_id, None) is not None:
            self._admission.discard_id(connection_id)


class Router:
    """Connections by connection ID. `configuration` may be replaced at any time; it holds for later connections.

    instance: distinguishes this server from others with the same private key, also after a restart. secrets: of this server or a
    fleet. connection_ids: makes connection IDs. access: which addresses may use the server; None: all. forgotten: how many
    connections have ended, or come to rest, so far. admission: what decides about strangers. applications: other protocols than
    TSQ, by ALPN.
    """

    def __init__(
        self,
        configuration: QuicConfiguration,
        counters: Counters,
        limits: Limits,
        instance: bytes = b"",
        secrets: Secrets | None = None,
        connection_ids: ConnectionIds | None = None,
        access: AccessList | None = None,
    ) -> None:
        self.secrets = Secrets.random() if secrets is None else secrets
        self.connection_ids = ConnectionIds() if connection_ids is None else connection_ids
        key = tls.private_key_bytes(configuration)
        self._gate = Gate(key, counters, limits, instance, self.secrets, self.connection_ids, access)
        self.admission = self._gate.admission
        self.replies: list[tuple[bytes, NetworkPath]] = []
        self.forgotten = 0
        self.applications: Applications = {}
        self._counters = counters
        self._resets = self._gate.resets
        self._tickets = SealedTickets(self.secrets, lambda reason: counters.add("tickets refused", reason))
        self._by_id = _Known(self.admission)
        # Where connections rest. This router keeps nothing of them.
        self._planes: list[DataPlane] = []
        self._connections: dict[ServerConnection, None] = {}
        self._half_open: dict[ServerConnection, None] = {}
        # Those of them whose client's address is not validated.
        self._unvalidated: dict[ServerConnection, None] = {}
        self.configuration = configuration
        self._log = HandshakeLog()
        self._watchers: list[Callable[[ServerConnection], None]] = []
        self._rebuilds = Bucket(limits.rebuilds, limits.rebuilds)
        self._visits = Visits()

    @property
    def draining(self) -> bool:
        """Whether it takes no new connections because it is about to end."""
        return self._gate.draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._gate.draining = draining
        self._tell_admission()

    @property
    def limits(self) -> Limits:
        """What strangers and clients may cost."""
        return self._gate.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._gate.limits = limits
        self._tell_admission()

    @property
    def configuration(self) -> QuicConfiguration:
        """What new connections get."""
        return self._configuration

    @configuration.setter
    def configuration(self, configuration: QuicConfiguration) -> None:
        self._configuration = configuration
        self.admission.set_versions(configuration.supported_versions)

    @property
    def connections(self) -> list[ServerConnection]:
        """All connections that are not at rest, oldest first."""
        return list(self._connections)

    @property
    def count(self) -> int:
        """How many connections there are, with those at rest."""
        return len(self._connections) + sum(plane.resting for plane in self._planes)

    @property
    def half_open(self) -> int:
        """How many connections have not finished their handshake."""
        return len(self._half_open)

    def when_forgotten(self, watcher: Callable[[ServerConnection], None]) -> None:
        """Call this with every connection that is forgotten here, whatever the reason: it has ended, or it is at rest."""
        self._watchers.append(watcher)

    def route(self, data: bytes, path: NetworkPath, now: float, *, judged: bool = False) -> ServerConnection | None:
        """The connection that this datagram belongs to, which may be a new one; None where it belongs to none (see `replies`).

        judged: a data plane has asked admission already.
        """
        long = bool(data) and bool(data[0] & 0x80)
        connection_id = data[6 : 6 + data[5]] if long and len(data) > 5 else data[1 : 1 + CONNECTION_ID_SIZE]
        connection = self._by_id.get(connection_id)
        if connection is not None and judged:
            return connection
        # What was admitted a moment ago is admitted again, unless its connection has ended since.
        reason, reply = self.admission.judge(data, path.remote, now)
        if reply is not None:
            self.replies.append((reply, path))
        if reason is not None:
            if reason == Drop.TOO_MANY_CONNECTIONS:
                self._gate.report_full(now)
            return None
        if connection is not None:
            return connection
        if not long:
            return self._short(data, connection_id, path, now)
        if any(plane.rests(connection_id, now) for plane in self._planes):
            # Its keys for such packets are gone.
            return self._drop(Drop.NOT_INITIAL)
        if (closed := self._takes_none(now)) is not None:
            return self._drop(closed)
        if self.half_open >= self.limits.most_half_open:
            self.forget(next(iter(self._unvalidated), None) or next(iter(self._half_open)))
        return self._open(data, connection_id, path, now)

    def look_after(self, now: float) -> None:
        """Call this about once a second."""
        self._gate.look_after(now)
        self._tell_admission()

    def add_plane(self, data_plane: DataPlane) -> None:
        """Let connections rest in this data plane."""
        self._planes.append(data_plane)

    def visited(self, connection: ServerConnection, now: float) -> None:
        """Note that the control plane works on a connection, which must not rest for a while."""
        if connection in self._connections:
            self._visits.note(connection, now)

    def rest(self, now: float, most: int) -> int:
        """Leave connections that the control plane has not worked on lately to the data plane; how many. At most this number."""
        return self._rest(self._visits.quiet(now, self.limits, most), now)

    def _rest(self, quiet: list[ServerConnection], now: float) -> int:
        if not hibernate.rest_is_possible():
            return 0
        count = 0
        for connection in quiet:
            self.visited(connection, now)
            try:
                rests = connection.rest(now)
            except MemoryError:
                self._gate.is_short_of_memory(now)
                self._tell_admission()
                break
            except Exception as error:
                connection.fail(error)
                self.forget(connection)
                continue
            if rests:
                self._leave(connection)
                count += 1
        return count

    def is_half_open(self, connection_id: bytes) -> bool:
        """Whether this is a connection in its handshake."""
        return bool(self._half_open) and self._by_id.get(connection_id) in self._half_open

    def wake(self, connection_id: bytes, now: float) -> ServerConnection | None:
        """The connection with this ID, made again where it was at rest; None where there is none, or too many were made lately."""
        for plane in self._planes:
            if not plane.rests(connection_id, now):
                continue
            if self._rebuilds.refill(now) < 1:
                return None
            self._rebuilds.take()
            found = plane.wake(connection_id)
            if found is not None:
                return self._rebuild(plane, *found, now)
        return None

    def is_newcomer(self, data: bytes) -> bool:
        """Whether a datagram is of a handshake that has not begun here."""
        # RFC 8999 §5.1: the length of the destination connection ID, and the ID, after the version.
        return bool(data) and bool(data[0] & 0x80) and (len(data) < 7 or data[6 : 6 + data[5]] not in self._by_id)

    def refresh(self, connection: ServerConnection) -> None:
        """Note what changed on a connection. Call this after anything was done with it."""
        if connection not in self._connections:
            return
        for connection_id in connection.issued:
            connection.ids.add(connection_id)
            self._by_id[connection_id] = connection
        for connection_id in connection.retired:
            connection.ids.discard(connection_id)
            self._by_id.discard(connection_id)
        connection.issued.clear()
        connection.retired.clear()
        if connection.handshake is not None and connection in self._half_open:
            del self._half_open[connection]
            self._unvalidated.pop(connection, None)
            self._tell_admission()
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
        self.admission.failed(now)
        self._counters.add("dropped", Drop.UNREADABLE_INITIAL)

    def forget(self, connection: ServerConnection) -> None:
        """Drop a connection at once, sending nothing."""
        # Remove it from every table first, in case the rest fails.
        for connection_id in connection.ids:
            self._by_id.discard(connection_id)
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
        self._tell_admission()
        self._release(connection)

    def _release(self, connection: ServerConnection) -> None:
        """Let go of a connection that is in no table any more."""
        self._visits.forget(connection)
        for watcher in self._watchers:
            watcher(connection)
        try:
            connection.drop()
        except Exception as error:
            # It is in no table any more: nothing else is affected.
            connection.fail(error)

    def _tell_admission(self) -> None:
        """Keep what admission knows of the connections up to date."""
        self._gate.tell(half_open=len(self._half_open), awake=len(self._connections))

    def _leave(self, connection: ServerConnection) -> None:
        """Forget an object whose connection is at rest."""
        for connection_id in connection.ids:
            self._by_id.discard(connection_id)
        connection.ids.clear()
        self._connections.pop(connection, None)
        self._tell_admission()
        self.forgotten += 1
        self._counters.add("rested")
        self._release(connection)

    def _rebuild(
        self, plane: DataPlane, session: Session, ids: tuple[bytes, ...], remains: bytes, now: float
    ) -> ServerConnection | None:
        """A connection that was at rest."""
        connection = self._new(ids[0], None, NetworkPath(*session.path), now)
        try:
            connection.wake(plane, session, ids, remains, now)
        except Exception as error:
            connection.fail(error)
            plane.discard(ids[0])
            self._release(connection)
            return None
        for connection_id in ids:
            self._by_id[connection_id] = connection
        self._connections[connection] = None
        self._counters.add("rebuilt")
        self.visited(connection, now)
        return connection

    def _short(self, data: bytes, connection_id: bytes, path: NetworkPath, now: float) -> ServerConnection | None:
        """A packet with a short header, and none of the connections that are awake."""
        connection = self.wake(connection_id, now)
        if connection is not None:
            return connection
        if any(plane.rests(connection_id, now) for plane in self._planes):
            return self._drop(Drop.OVERLOADED)
        return self._unknown(data, connection_id, path, now)

    def _unknown(self, data: bytes, connection_id: bytes, path: NetworkPath, now: float) -> ServerConnection | None:
        """A packet of an unknown connection. Reply with a stateless reset, where one may be sent."""
        self.replies += [(reset, path) for reset in self._gate.resets_for(data, connection_id, now)]
        return self._drop(Drop.UNKNOWN_CONNECTION)

    def _is_full(self, now: float) -> bool:
        """Whether there is no room for one more connection, and none could be made."""
        if self._gate.memory_is_short(now) or len(self._connections) >= self.limits.awake:
            return True
        return self.count >= self.limits.max_connections and not self._make_room()

    def _make_room(self) -> bool:
        """End the connection at rest that was used least recently; its next packet is answered with a stateless reset."""
        for plane in sorted(self._planes, key=lambda plane: -plane.resting):
            if plane.end_oldest():
                self._counters.add("evicted")
                return True
        return False

    def _takes_none(self, now: float) -> Drop | None:
        """Why there is no new connection at all."""
        if self.draining:
            # It is refused, not ignored: a client that learns of it at once asks another server before its next poll.
            return Drop.DRAINING
        if self._is_full(now):
            self._gate.report_full(now)
            return Drop.TOO_MANY_CONNECTIONS
        return None

    def _open(self, data: bytes, connection_id: bytes, path: NetworkPath, now: float) -> ServerConnection:
        """A connection for an Initial that was admitted."""
        validated, original = self.admission.validated(data, path.remote, now)
        token = self.admission.new_token(path.remote, now)
        self._rest(self._visits.early(now, self.limits, _RESTING_EARLY), now)
        retry_source = None if original is None else connection_id
        connection = self._new(original or connection_id, retry_source, path, now, validated=validated, new_token=token)
        connection.ids = {connection.quic.host_cid, connection_id}
        for known in connection.ids:
            self._by_id[known] = connection
        self._connections[connection] = None
        self._half_open[connection] = None
        if not connection.validated:
            self._unvalidated[connection] = None
        self.visited(connection, now)
        self._tell_admission()
        return connection

    def _new(
        self,
        original: bytes,
        retry_source: bytes | None,
        path: NetworkPath,
        now: float,
        *,
        validated: bool = False,
        new_token: bytes = b"",
    ) -> ServerConnection:
        return ServerConnection(
            self.configuration,
            original_destination=original,
            retry_source=retry_source,
            tickets=self._tickets,
            created=now,
            new_connection_id=self.connection_ids.new,
            reset_token=self._resets.token,
            limits=self.limits.peer,
            path=path,
            validated=validated,
            new_token=new_token,
            applications=self.applications,
        )

    def _drop(self, reason: Drop) -> ServerConnection | None:
        self._counters.add("dropped", reason)
        return None
