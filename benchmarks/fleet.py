"""Many client connections to one server on one socket: real handshakes through aioquic, then load through the data plane.

Comes in: a server's address and CA, the number of connections. Goes out: delays of answers, counters. Packets for the control plane
(probes, key updates, closes) go to aioquic, as in any client.
"""

import select
import socket
import time
from types import TracebackType
from typing import Self

from aioquic.quic import events

from benchmarks.compiled import Asker
from tsq.dataplane.session import Session
from tsq.options import Target, Trust
from tsq.quic import tls
from tsq.quic.aioquic.offload import HandOver
from tsq.quic.aioquic.shared_connection import SharedConnection
from tsq.quic.udp import CONNECTED, Datagram, UdpSocket

_TIMEOUT = 20.0
# Seconds that a server gives a handshake, and some more.
_HANDSHAKE = 8.0
# Concurrent handshakes: enough that neither end waits for the other.
_AT_ONCE = 16
_ID = slice(1, 9)
# Acknowledgments sent at once, and a second.
_BURST, _ACKS = 64, 30_000.0
# Time for the acknowledgments after a handshake: tickets, connection IDs, HANDSHAKE_DONE.
_SETTLE = 0.3


class _Member:
    """A connection and its data plane session."""

    def __init__(self, quic: SharedConnection) -> None:
        self.quic = quic
        self.plane = HandOver(None, quic)
        self.confirmed = False
        self.begun = time.monotonic()

    def hand_over(self) -> None:
        """Hand over to the data plane, on a connected socket."""
        self.plane.hand_over(time.monotonic())

    def drain(self) -> list[bytes]:
        """Handle aioquic's events; the new connection IDs."""
        issued = []
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, events.ConnectionTerminated):
                raise ConnectionError(f"the server closed a connection: {event.reason_phrase!r}")
            if isinstance(event, events.ConnectionIdIssued):
                issued.append(event.connection_id)
            elif isinstance(event, events.HandshakeCompleted):
                self.confirmed = True
        return issued


def _connected(target: Target, source: str | None) -> UdpSocket:
    if source is None:
        return UdpSocket.connected(socket.AF_INET, (target.host, target.port))
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind((source, 0))
    bound.connect((target.host, target.port))
    return UdpSocket(socket.AF_INET, destinations=False, existing=bound)


class Fleet:
    """`count` connections for the time of the `with`."""

    def __init__(self, target: Target, ca: str, count: int, server_name: str = "localhost", source: str | None = None) -> None:
        """source: this end's address, of which a server limits what one network may begin; None: the system's choice."""
        self.udp = _connected(target, source)
        self.udp.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._configuration = tls.client_configuration(server_name, Trust(ca_file=ca))
        self._members: dict[bytes, _Member] = {}
        # Of connections whose aioquic objects are gone.
        self._slim: dict[bytes, Session] = {}
        self._all: list[_Member] = []
        self._count = count
        # Handshakes that the server did not end in time.
        self.restarted = 0
        self._poller = select.poll()
        self._poller.register(self.udp.fileno(), select.POLLIN)
        self.asker = Asker({})

    def run(self, total: int, *, window: int = 1, rate: float = 0.0, seconds: float = 10.0, exact: bool = False) -> list[float]:
        """Send requests; the delays of the answers in seconds (see Asker.run; `asker` has the counters)."""
        return self.asker.run(self.udp.fileno(), total, window, rate, seconds, exact, self._control)

    def __enter__(self) -> Self:
        self.grow(self._count)
        return self

    def __len__(self) -> int:
        return len(self._slim) + len(self._all)

    def grow(self, count: int) -> None:
        """Connect up to this number. `asker` then uses all connections."""
        fresh: list[_Member] = []
        pending: list[_Member] = []
        last = time.monotonic()
        while pending or len(self) < count:
            while len(pending) < _AT_ONCE and len(self) < count:
                member = _Member(SharedConnection(configuration=self._configuration))
                self._all.append(member)
                self._members[member.quic.host_cid] = member
                member.quic.connect(CONNECTED, time.monotonic())
                fresh.append(member)
                pending.append(member)
            self._turn(pending, 0.05)
            for member in [one for one in pending if time.monotonic() > one.begun + _HANDSHAKE]:
                # The server has forgotten it: begin another one.
                self.restarted += 1
                for members in (pending, fresh, self._all):
                    members.remove(member)
                self._members = {name: one for name, one in self._members.items() if one is not member}
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
            # The confirmation of their handshake was lost, and is sent again.
            self._turn(unfit, 0.03)
        self.asker = self.askers()[0]

    def settle(self, seconds: float) -> None:
        """Receive, acknowledge and answer what the control planes still have to say, for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._turn(self._all, 0.02)

    def slim(self) -> None:
        """Keep no more than the data plane's session of each connection: packets for the control plane are dropped from now on.

        A connection whose control plane does not come to an end of its work is left out.
        """
        end = time.monotonic() + _HANDSHAKE
        while (unfit := [member for member in self._all if not member.plane.active]) and time.monotonic() < end:
            self._turn(unfit, 0.03)
            for member in unfit:
                member.hand_over()
        fit = [member for member in self._all if member.plane.active]
        self._slim |= {member.quic.host_cid: member.plane.session for member in fit if member.plane.session is not None}
        self._all.clear()
        self._members.clear()

    def acknowledge(self) -> None:
        """Acknowledge what came last on connections without aioquic, as any client does some time after an answer."""
        self._acknowledge(list(self._slim.values()))

    def _acknowledge(self, sessions: list[Session]) -> None:
        now = time.monotonic()
        packets = [packet for session in sessions if session.ack_wanted and (packet := session.acknowledge(now)) is not None]
        for at in range(0, len(packets), _BURST):
            self.udp.send([(packet, CONNECTED) for packet in packets[at : at + _BURST]])
            # The server's socket has to hold them.
            time.sleep(_BURST / _ACKS)

    def askers(self, size: int | None = None) -> list[Asker]:
        """Askers with this number of connections each. Earlier ones must not be used any more."""
        sessions = [*self._slim.items(), *((member.quic.host_cid, member.plane.session) for member in self._all)]
        step = max(1, size or len(sessions))
        chunks = [sessions[at : at + step] for at in range(0, len(sessions), step)] or [[]]
        return [Asker({name: session for name, session in chunk if session is not None}) for chunk in chunks]

    def sessions(self) -> dict[bytes, Session]:
        """By own connection ID, of connections with aioquic objects."""
        return {member.quic.host_cid: member.plane.session for member in self._all if member.plane.session is not None}

    def ask_through(
        self, asker: Asker, total: int, *, window: int = 1, rate: float = 0.0, seconds: float = 10.0, exact: bool = False
    ) -> list[float]:
        """Like `run`, on the connections of one asker."""
        return asker.run(self.udp.fileno(), total, window, rate, seconds, exact, self._control)

    def taken_back(self) -> list[_Member]:
        """Give all connections back to aioquic, for packets that the data plane does not make. `run` must not be used any more."""
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
        """Handle timers and send for these connections; receive for all."""
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
        # Long headers have the length of the connection ID before it (RFC 9000 §17.2).
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
        """Give a packet to aioquic."""
        member = self._members.get(packet[_ID])
        if member is None:
            session = self._slim.get(packet[_ID])
            if session is not None and session.open(packet, time.monotonic()) is not None:
                self._acknowledge([session])
            return
        member.plane.take_back()
        member.quic.receive_datagram(packet, CONNECTED, time.monotonic())
        self._send(member)
        member.hand_over()
