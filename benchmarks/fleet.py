"""Many client connections to one server on one socket: real handshakes through aioquic, then load through the data plane.

Comes in: a server's address and CA, how many. Goes out: delays of answers, counts. What the data plane does not take (probes, key
updates, closes) goes to aioquic, as in any client.
"""

import select
import socket
import time
from types import TracebackType
from typing import Self

from aioquic.quic import events

from benchmarks.compiled import Asker
from tsq.options import Target, Trust
from tsq.quic import tls
from tsq.quic.aioquic.offload import Plane, SharedConnection
from tsq.quic.udp import CONNECTED, Datagram, UdpSocket

_TIMEOUT = 20.0
# Handshakes under way at a time: so that neither end waits for the other.
_AT_ONCE = 6
_ID = slice(1, 9)
# Time for what a handshake leaves behind to be acknowledged: tickets, connection IDs, HANDSHAKE_DONE.
_SETTLE = 0.3


class _Member:
    """One connection and its session."""

    def __init__(self, quic: SharedConnection) -> None:
        self.quic = quic
        self.plane = Plane(None, quic)
        self.confirmed = False

    def hand_over(self) -> None:
        """To the data plane, on a socket that knows its peer."""
        self.plane.hand_over(time.monotonic())

    def drain(self) -> list[bytes]:
        """Note what happened; connection IDs that came into use."""
        issued = []
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, events.ConnectionTerminated):
                raise ConnectionError(f"the server closed a connection: {event.reason_phrase!r}")
            if isinstance(event, events.ConnectionIdIssued):
                issued.append(event.connection_id)
            elif isinstance(event, events.HandshakeCompleted):
                self.confirmed = True
        return issued


class Fleet:
    """`count` connections, connected when the `with` begins, closed when it ends."""

    def __init__(self, target: Target, ca: str, count: int, server_name: str = "localhost") -> None:
        self.udp = UdpSocket.connected(socket.AF_INET, (target.host, target.port))
        self.udp.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._configuration = tls.client_configuration(server_name, Trust(ca_file=ca))
        self._members: dict[bytes, _Member] = {}
        self._all: list[_Member] = []
        self._count = count
        self._poller = select.poll()
        self._poller.register(self.udp.fileno(), select.POLLIN)
        self.asker = Asker({})

    def run(self, total: int, *, window: int = 1, rate: float = 0.0, seconds: float = 10.0, exact: bool = False) -> list[float]:
        """Ask; the delays in seconds of the answers that came (see Asker.run; `asker` has the counts)."""
        return self.asker.run(self.udp.fileno(), total, window, rate, seconds, exact, self._control)

    def __enter__(self) -> Self:
        self.grow(self._count)
        return self

    def __len__(self) -> int:
        return len(self._all)

    def grow(self, count: int) -> None:
        """Connect until there are so many. `asker` then asks on all."""
        fresh: list[_Member] = []
        pending: list[_Member] = []
        last = time.monotonic()
        while pending or len(self._all) < count:
            while len(pending) < _AT_ONCE and len(self._all) < count:
                member = _Member(SharedConnection(configuration=self._configuration))
                self._all.append(member)
                self._members[member.quic.host_cid] = member
                member.quic.connect(CONNECTED, time.monotonic())
                fresh.append(member)
                pending.append(member)
            self._turn(pending, 0.05)
            waiting = [member for member in pending if not member.confirmed]
            if len(waiting) < len(pending):
                last = time.monotonic()
            elif time.monotonic() - last > _TIMEOUT:
                raise TimeoutError("the handshake did not finish")
            pending = waiting
        end = time.monotonic() + _SETTLE
        while time.monotonic() < end:
            self._turn(fresh, 0.03)
        unfit = fresh
        while unfit:
            for member in unfit:
                member.hand_over()
            unfit = [member for member in unfit if member.plane.session is None]
            if unfit and time.monotonic() > end + _TIMEOUT:
                raise RuntimeError(f"{len(unfit)} connections are not fit for the data plane")
            # What confirms their handshake was lost, and comes again.
            self._turn(unfit, 0.03)
        self.asker = self.askers()[0]

    def askers(self, size: int | None = None) -> list[Asker]:
        """What asks on so many connections each; all others that were made before are of no use any more."""
        sessions = [(member.quic.host_cid, member.plane.session) for member in self._all]
        step = max(1, size or len(sessions))
        chunks = [sessions[at : at + step] for at in range(0, len(sessions), step)] or [[]]
        return [Asker({name: session for name, session in chunk if session is not None}) for chunk in chunks]

    def ask_through(self, asker: Asker, total: int, *, window: int = 1, seconds: float = 10.0, exact: bool = False) -> list[float]:
        """As `run`, on an asker's connections."""
        return asker.run(self.udp.fileno(), total, window, 0.0, seconds, exact, self._control)

    def taken_back(self) -> list[_Member]:
        """All connections, with aioquic again: for packets that no data plane makes. `run` is of no use any more."""
        for member in self._all:
            member.plane.take_back()
        return self._all

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for member in self._all:
            member.plane.take_back()
            member.quic.close()
            self._send(member)
        self.udp.close()

    def _turn(self, members: list[_Member], wait: float) -> None:
        """Timers and sending of these, receiving of all."""
        for member in members:
            now = time.monotonic()
            if (due := member.quic.get_timer()) is not None and due <= now:
                member.quic.handle_timer(now)
            self._send(member)
        if self._poller.poll(wait * 1000):
            for datagram in self.udp.receive():
                self._received(datagram)

    def _received(self, datagram: Datagram) -> None:
        data = datagram.data
        # Long headers name the length of the connection ID first (RFC 9000 §17.2).
        member = self._members.get(data[6:14] if data[0] & 0x80 else data[_ID])
        if member is not None:
            member.plane.take_back()
            member.quic.receive_datagram(data, CONNECTED, time.monotonic())
            for connection_id in member.drain():
                self._members[connection_id] = member
            self._send(member)
            if member.plane.session is not None:
                member.hand_over()

    def _send(self, member: _Member) -> None:
        self.udp.send([(data, CONNECTED) for data, _ in member.quic.datagrams_to_send(time.monotonic())])
        for connection_id in member.drain():
            self._members[connection_id] = member

    def _control(self, packet: bytes) -> None:
        """A packet that the data plane does not take."""
        member = self._members.get(packet[_ID])
        if member is None:
            return
        member.plane.take_back()
        member.quic.receive_datagram(packet, CONNECTED, time.monotonic())
        self._send(member)
        member.hand_over()
