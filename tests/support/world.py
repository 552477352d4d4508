"""A server and clients in virtual time, on links that delay, lose and record datagrams.

Nothing sleeps or opens a socket. Times are ns of one virtual clock; the server's clock has an offset to it.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tsq._fast import pack_address
from tsq.client.channel import Channel
from tsq.client.exchange import Rules
from tsq.counters import Counters
from tsq.dataplane.batches import DataPlane
from tsq.quic import tls
from tsq.quic.client_connection import ClientConnection
from tsq.quic.connection_ids import ConnectionIds
from tsq.quic.router import Limits, Router
from tsq.quic.secrets import Secrets
from tsq.quic.selfsigned import CertificateFiles
from tsq.quic.server_connection import ServerConnection
from tsq.quic.udp import Datagram, NetworkPath, Transmission
from tsq.server.core import ServerCore
from tsq.server.responder import Responder

START_NS = 1_800_000_000_000_000_000
# Connections never rest: tests look at them.
AWAKE = 1e9
CLIENT = NetworkPath(pack_address("192.0.2.2", 40000), b"\xc0\x00\x02\x01")


@dataclass(order=True)
class _Event:
    at_ns: int
    number: int
    action: Callable[[], None] = field(compare=False)


class World:
    """One server, and clients made by `session`. `run` lets virtual time pass.

    to_server, to_client: functions (data, number of the datagram in that direction) -> the delays in ns of the copies that arrive;
    an empty list loses the datagram. Tests replace them. rest_after: seconds after which quiet connections rest.
    """

    def __init__(
        self,
        certificates: CertificateFiles,
        *,
        limits: Limits | None = None,
        data_plane: bool = False,
        rest_after: float = AWAKE,
        secrets: Secrets | None = None,
        connection_ids: ConnectionIds | None = None,
        **responder: Any,
    ) -> None:
        self.certificates = certificates
        self.now_ns = START_NS
        self.server_offset_ns = 0
        self.to_server: Callable[[bytes, int], list[int]] = lambda data, number: [1_000_000]
        self.to_client: Callable[[bytes, int], list[int]] = lambda data, number: [1_000_000]
        self.sent: list[tuple[str, bytes]] = []
        self.counters = Counters()
        configuration = tls.server_configuration(str(certificates.certificate), str(certificates.key))
        limits = replace(limits or Limits(), rest_after=rest_after)
        self.router = Router(configuration, self.counters, limits, b"", secrets, connection_ids)
        self.responder = Responder(**responder)
        self.data_plane = DataPlane() if data_plane else None
        self.core = ServerCore(self.router, self.responder, self.counters, self.server_clock, self.data_plane)
        self._events: list[_Event] = []
        self._number = 0
        self._numbers = {"client": 0, "server": 0}
        self._sessions: dict[NetworkPath, Channel] = {}
        self._timers: dict[int, float] = {}
        self._look_after()

    @property
    def now(self) -> float:
        """Monotonic seconds."""
        return (self.now_ns - START_NS) / 1e9 + 1000.0

    def server_clock(self) -> int:
        return self.now_ns + self.server_offset_ns

    def channel(
        self, *, path: NetworkPath = CLIENT, rules: Rules | None = None, ticket: Any = None, on_ticket: Any = None, **options: Any
    ) -> Channel:
        """A client's channel that verifies the server, already started."""
        configuration = tls.client_configuration(
            "localhost", tls.Trust(ca_file=str(self.certificates.authority)), ticket=ticket
        )
        session = Channel(ClientConnection(configuration, on_ticket=on_ticket), rules=rules, **options)
        self._sessions[path] = session
        session.start(self.now)
        self.pump(session)
        return session

    def ask(self, session: Channel, count: int = 1) -> None:
        """Send this number of requests together."""
        for _ in range(count):
            session.ask(self.now)
        self.pump(session)

    def exchange(self, session: Channel, seconds: float = 1.0) -> None:
        """Send one request and let time pass."""
        self.ask(session)
        self.run(seconds)

    def pump(self, session: Channel) -> None:
        """Send the channel's datagrams."""
        path = next(path for path, other in self._sessions.items() if other is session)
        out = session.datagrams(self.now)
        if session.has_leaving and out:
            session.sent(Transmission(len(out), self.now_ns, kernel=True))
        for data in out:
            self._transmit("client", data, self.to_server, lambda data=data: self.deliver_to_server(data, path))
        self._arm(("session", path), session.deadline, lambda: self._session_timer(session))

    def deliver_to_server(self, data: bytes, path: NetworkPath = CLIENT) -> list[bytes]:
        """Hand a datagram to the server; the datagrams that it sends at once (the client receives them, too)."""
        arrived = (data, path.remote, path.local, self.server_clock(), True)
        answers, rest = [], [arrived]
        if self.data_plane is not None:
            answers, rest = self.data_plane.process(rest, self.now, self.server_clock())
        out = [(answer, NetworkPath(remote, local)) for answer, remote, local in answers]
        self._from_server(out, None)
        for data, remote, local, received_ns, kernel in rest:
            more, connection = self.core.received(Datagram(data, NetworkPath(remote, local), received_ns, kernel), self.now)
            self._from_server(more, connection)
            out += more
        return [data for data, _ in out]

    def _look_after(self) -> None:
        for out, connection in self.core.look_after(self.now):
            self._from_server(out, connection)
        self._at(self.now_ns + 1_000_000_000, self._look_after)

    def run(self, seconds: float = 1.0) -> None:
        """Let virtual time pass."""
        end_ns = self.now_ns + round(seconds * 1e9)
        while self._events and self._events[0].at_ns <= end_ns:
            event = heapq.heappop(self._events)
            self.now_ns = max(self.now_ns, event.at_ns)
            event.action()
        self.now_ns = end_ns

    def _from_server(self, out: Any, connection: ServerConnection | None) -> None:
        for data, path in out:
            self._transmit("server", data, self.to_client, lambda data=data, path=path: self._deliver_to_client(data, path))
        if connection is not None:
            deadline = self.router.deadline(connection)
            self._arm(("connection", id(connection)), deadline, lambda: self._server_timer(connection))

    def _deliver_to_client(self, data: bytes, path: NetworkPath) -> None:
        # The path may have a tag for the TX timestamp request; compare the addresses alone.
        session = self._sessions.get(NetworkPath(path.remote, path.local))
        if session is not None:
            session.receive(Datagram(data, path, self.now_ns, True), self.now)
            self.pump(session)

    def _session_timer(self, session: Channel) -> None:
        session.handle_timer(self.now)
        self.pump(session)

    def _server_timer(self, connection: ServerConnection) -> None:
        self._from_server(*self.core.expired(connection, self.now))

    def _transmit(self, side: str, data: bytes, link: Callable[[bytes, int], list[int]], arrive: Callable[[], None]) -> None:
        self.sent.append((side, data))
        number = self._numbers[side]
        self._numbers[side] += 1
        for delay_ns in link(data, number):
            self._at(self.now_ns + delay_ns, arrive)

    def _arm(self, key: Any, deadline: float | None, action: Callable[[], None]) -> None:
        """Set the one timer of this key: an earlier timer of the key has no effect any more."""
        self._timers[key] = deadline
        if deadline is None:
            return

        def fire() -> None:
            if self._timers.get(key) == deadline:
                action()

        # A little later than the deadline, so that a rounded float cannot be before it.
        self._at(max(self.now_ns, START_NS + round((deadline - 1000.0) * 1e9) + 1000), fire)

    def _at(self, at_ns: int, action: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, _Event(at_ns, self._number, action))
