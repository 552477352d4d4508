"""Which plane holds a connection: the contract between aioquic and the data plane.

Comes in: an aioquic connection, the data plane's table. Goes out: the same connection, which one plane holds at a time
(TRANSITIONS). `take_back` comes before the control plane does anything, `hand_over` after it has sent what it had to send;
`transfer` has what is handed over. It must never let both planes work at once, or hand over a connection that is not fit.

Only this package touches aioquic's private attributes; those that this module touches stand in `offload_check`.
"""

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

from aioquic.quic.connection import QuicConnectionState
from aioquic.tls import Epoch

from tsq.dataplane.session import CONNECTION_ID_SIZE, Session
from tsq.quic.aioquic import internals
from tsq.quic.aioquic.shared_connection import SharedConnection
from tsq.quic.aioquic.transfer import (
    KEY_UPDATE_LABELS,
    hand_keys,
    hand_received,
    hand_recovery,
    take_back_received,
    take_back_recovery,
)
from tsq.quic.udp import NetworkPath

if TYPE_CHECKING:
    from tsq.dataplane.batches import DataPlane


class Holder(Enum):
    """Who has a connection: opens its 1-RTT packets, counts its acknowledgments, seals its answers."""

    AIOQUIC = "the control plane; there is no session yet, and aioquic counts packet numbers"
    CONTROL = "the control plane; both planes count packet numbers in the session"
    DATA = "the data plane"
    ENDED = "neither: the connection is forgotten"


class Event(Enum):
    """What moves a connection."""

    SHARE = "the first hand-over, or the first answer whose transmit timestamp is wanted: the session is made"
    HAND_OVER = "the control plane has sent all that it had to, and the connection is fit for the data plane"
    TAKE_BACK = "the control plane has to do something: a packet that was not taken, a timer, a close"
    REST = "the connection is quiet: the data plane keeps its session alone (`hibernate`)"
    WAKE = "a connection that was at rest is made again: the data plane has its session"
    DROP = "the connection is forgotten"


# The only moves that there are.
TRANSITIONS: Mapping[tuple[Holder, Event], Holder] = {
    (Holder.AIOQUIC, Event.SHARE): Holder.CONTROL,
    (Holder.AIOQUIC, Event.DROP): Holder.ENDED,
    (Holder.CONTROL, Event.HAND_OVER): Holder.DATA,
    (Holder.CONTROL, Event.DROP): Holder.ENDED,
    (Holder.AIOQUIC, Event.WAKE): Holder.DATA,
    (Holder.DATA, Event.TAKE_BACK): Holder.CONTROL,
    (Holder.DATA, Event.REST): Holder.ENDED,
    (Holder.DATA, Event.DROP): Holder.ENDED,
}

# As in tsq.dataplane.batches.DataPlane (RFC 9001 §6.6).
KEY_UPDATE_AFTER = 1 << 22
FAILED_OPEN_LIMIT = 1 << 36
_LEAST_PEER_FRAME = 128
# A peer may make so many key updates at once, and one more in so many seconds: each costs the control plane a millisecond.
_MOST_KEY_UPDATES = 16
_KEY_UPDATE_INTERVAL = 1.0


class HandOver:
    """One connection, and which plane holds it.

    data_plane: the table of the server's socket; None for a client, whose socket is connected and has one connection. active:
    whether the data plane serves the connection now.
    """

    def __init__(self, data_plane: "DataPlane | None", quic: SharedConnection) -> None:
        self._data_plane = data_plane
        self._quic = quic
        self.holder = Holder.AIOQUIC
        self.active = False
        self._id = b""
        self._secret: bytes | None = None
        self._secret_seen: bytes | None = None
        self._key_updates_left = float(_MOST_KEY_UPDATES)
        self._key_updated_at = 0.0
        # Of aioquic while it is not asked for anything: when it has something to do, and the idle time-out.
        self._asleep: tuple[float, float] | None = None

    @property
    def session(self) -> Session | None:
        """The session; None before `Event.SHARE`."""
        return self._quic.session

    @property
    def path_validated(self) -> bool:
        """Whether the peer's address is validated."""
        paths: Any = self._quic._network_paths
        return bool(paths) and bool(paths[0].is_validated)

    def seal(
        self, messages: list[bytes], now: float, stamp: tuple[bytes, int] | None = None, least: int = 0
    ) -> tuple[bytes, object] | None:
        """(packet with these messages, path to send it on); None where the data plane does not serve, or has no room.

        stamp: (nonce, T3) of the answer, to request its transmit timestamp (docs/reference/protocol.md R12). least: make the packet
        as large as this (R7).
        """
        session = self._quic.session
        if not self.active or session is None:
            return None
        packet = session.seal(messages, now, least)
        if packet is None:
            return None
        path: Any = self._quic.get_peer_address()
        return packet, NetworkPath(path.remote, path.local, (session, *stamp)) if stamp is not None else path

    def stamped(self, path: object, stamp: tuple[bytes, int]) -> object:
        """The path for a datagram of the control plane's, with a transmit timestamp request, as for the first answer (0-RTT)."""
        if self._data_plane is None or self.holder is Holder.ENDED or not isinstance(path, NetworkPath):
            return path
        session = self._session()
        self._list(session)
        return NetworkPath(path.remote, path.local, (session, *stamp))

    def acknowledge(self, now: float) -> tuple[bytes, object] | None:
        """(packet that acknowledges what was received, path to send it on); None where the data plane does not serve."""
        session = self._quic.session
        packet = session.acknowledge(now) if self.active and session is not None else None
        return None if packet is None else (packet, self._quic.get_peer_address())

    def probe(self, now: float) -> tuple[bytes, object] | None:
        """(probe packet, path to send it on); None where the data plane does not serve."""
        session = self._quic.session
        packet = session.probe(now) if self.active and session is not None else None
        return None if packet is None else (packet, self._quic.get_peer_address())

    def open(self, packet: bytes, now: float) -> list[bytes] | None:
        """The messages in a packet from the connected peer; None for a packet that belongs to the control plane."""
        session = self._quic.session
        if session is None or not self.active or packet[1 : 1 + CONNECTION_ID_SIZE] != self._quic.host_cid:
            return None
        return session.open(packet, now)

    @property
    def overhead(self) -> int:
        """Bytes around the only message of the peer's last packet, without PADDING frames; 0 where that is not known."""
        session = self._quic.session
        return session.overhead if session is not None and self.active else 0

    @property
    def last_receive(self) -> float | None:
        """When the data plane last took a packet of the peer's, monotonic seconds; None without a data plane."""
        session = self._quic.session
        return session.last_receive if session is not None and self.active else None

    @property
    def probe_at(self) -> float | None:
        """Time at which to probe the peer for an acknowledgment, monotonic seconds; None for never."""
        session = self._quic.session
        return session.probe_at if session is not None and self.active else None

    @property
    def waits_to_acknowledge(self) -> float | None:
        """Since when the data plane has something to acknowledge, monotonic seconds; None where it has nothing."""
        session = self._quic.session
        return session.last_receive if session is not None and self.active and session.ack_wanted else None

    def report(self) -> str:
        """An earlier answer's transmit timestamp, which is reported once; "" where there is nothing to report."""
        return self._quic.session.report() if self.active and self._quic.session is not None else ""

    @property
    def control_timer(self) -> float:
        """When aioquic has something to do while the data plane serves the connection; infinity for never."""
        if self._asleep is None:
            self._asleep = self._quic.timer_but_idle(), self._quic.idle_timeout
        due, idle_timeout = self._asleep
        return min(due, self._quic.idle_at(idle_timeout))

    def _move(self, event: Event) -> None:
        self._asleep = None
        self.holder = TRANSITIONS[self.holder, event]
        self.active = self.holder is Holder.DATA
        if self._quic.session is not None:
            self._quic.session.active = self.holder is Holder.DATA

    def take_back(self) -> None:
        """Give the control plane what the data plane has received and acknowledged."""
        session = self._quic.session
        if self.holder is not Holder.DATA or session is None:
            return
        self._move(Event.TAKE_BACK)
        quic: Any = self._quic
        take_back_received(quic, session)
        quic._spin_bit, quic._spin_highest_pn = session.spin
        take_back_recovery(quic, session)

    def hand_over(self, now: float) -> None:
        """Give the connection to the data plane, where it is fit for that."""
        quic: Any = self._quic
        if self.holder not in (Holder.AIOQUIC, Holder.CONTROL) or not self._fit():
            return
        session = self._session()
        keys = quic._cryptos[Epoch.ONE_RTT]
        if keys.recv.secret is not self._secret:
            hand_keys(session, keys, now, first=self._secret is None)
            self._secret = keys.recv.secret
        path = quic._network_paths[0].addr
        remote, local = (b"", b"") if self._data_plane is None else (path.remote, path.local)
        session.set_path(remote, local, quic._peer_cid.cid)
        session.most_frame = internals.peer_datagram_limit(quic)
        self._list(session)
        hand_received(session, quic._spaces[Epoch.ONE_RTT])
        hand_recovery(quic, session)
        session.set_spin(bool(quic._spin_bit), quic._spin_highest_pn)
        self._move(Event.HAND_OVER)

    def drop(self) -> None:
        """Take the connection out of the data plane for good."""
        if self.holder is Holder.ENDED:
            return
        self._move(Event.DROP)
        if self._data_plane is not None and self._id:
            self._data_plane.discard(self._id)
            self._id = b""

    def rest(self, ids: tuple[bytes, ...], remains: bytes, idle: float, since: float) -> None:
        """Leave the connection to the data plane alone, which keeps `remains` for `wake`. Raises MemoryError without a change."""
        session = self._quic.session
        if self.holder is not Holder.DATA or self._data_plane is None or session is None:
            return
        session.key_updates = (self._key_updates_left, self._key_updated_at)
        self._data_plane.rest(session, ids, remains, idle, since)
        self._move(Event.REST)
        self._id = b""

    def wake(self) -> None:
        """Take up a connection that was at rest: the data plane holds its session, under the connection ID in use."""
        session = self._quic.session
        if self.holder is not Holder.AIOQUIC or session is None:
            return
        self._move(Event.WAKE)
        self._id = self._quic.host_cid
        self._secret = self._secret_seen = self._quic._cryptos[Epoch.ONE_RTT].recv.secret
        self._key_updates_left, self._key_updated_at = session.key_updates

    def wants_key_update(self) -> bool:
        """Whether so many packets were sealed under one key that a key update is due (RFC 9001 §6.6)."""
        session = self._quic.session
        limit = KEY_UPDATE_AFTER if self._data_plane is None else self._data_plane.key_update_after
        return session is not None and session.counts["sealed"] >= limit

    def rekeyed_too_often(self, now: float) -> bool:
        """Whether the peer updates its keys too often; to be called after each packet of the control plane's.

        RFC 9001 §6.2 makes a peer wait for the other end's confirmation; even then updates may keep the control plane busy.
        """
        keys = self._quic._cryptos.get(Epoch.ONE_RTT)
        secret = None if keys is None else keys.recv.secret
        if secret is None or secret is self._secret_seen:
            return False
        first, self._secret_seen = self._secret_seen is None, secret
        if first:
            return False
        regained = (now - self._key_updated_at) / _KEY_UPDATE_INTERVAL
        self._key_updates_left = min(self._key_updates_left + regained, _MOST_KEY_UPDATES) - 1
        self._key_updated_at = now
        return self._key_updates_left < 0

    def forged_too_often(self) -> bool:
        """Whether so many packets failed to open that the connection must end (RFC 9001 §6.6)."""
        session = self._quic.session
        limit = FAILED_OPEN_LIMIT if self._data_plane is None else self._data_plane.failed_open_limit
        return session is not None and session.counts["failed_opens"] >= limit

    def overworked(self) -> bool:
        """Whether the peer sent so many packets that are too much work for the control plane that the connection must end."""
        session = self._quic.session
        if self._data_plane is None or session is None:
            return False
        return session.counts["excessive"] >= self._data_plane.excessive_limit

    def _fit(self) -> bool:
        quic: Any = self._quic
        return bool(
            quic._handshake_confirmed
            and quic._state is QuicConnectionState.CONNECTED
            and not quic._close_pending
            and quic._version in KEY_UPDATE_LABELS
            and self.path_validated
            and not quic._cryptos[Epoch.ONE_RTT]._update_key_requested
            and len(quic.host_cid) == CONNECTION_ID_SIZE
            and internals.peer_datagram_limit(quic) >= _LEAST_PEER_FRAME
        )

    def _session(self) -> Session:
        """The connection's session, made at the first call."""
        quic: Any = self._quic
        if self.holder is Holder.AIOQUIC:
            session = Session()
            session.next_packet_number = quic._packet_number
            session.client = quic.configuration.is_client
            quic.session = session
            self._move(Event.SHARE)
        found: Session = quic.session
        return found

    def _list(self, session: Session) -> None:
        """Enter the session in the table, under the connection ID that the peer uses."""
        if self._data_plane is not None and self._quic.host_cid != self._id:
            self._data_plane.discard(self._id)
            self._id = self._quic.host_cid
            self._data_plane.add(self._id, session)
