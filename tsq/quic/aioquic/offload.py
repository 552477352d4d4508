"""The contract between aioquic and the data plane: how one connection's state is handed over and taken back.

Comes in: an aioquic connection, the data plane's table. Goes out: the same connection, which one plane holds at a time
(TRANSITIONS). `take_back` comes before the control plane does anything, `hand_over` after it has sent what it had to send. Both
planes see one packet-number counter and one idle deadline. It must never let a packet number go back.

With `hibernate`, `internals` and `trim`, this is the only module that touches aioquic's private attributes. PRIVATE_NAMES lists
them; the data plane is off where the installed aioquic lacks one (`missing_names`).
"""

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Any

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # compiled, and not in its stub
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionError, QuicConnectionState, QuicReceiveContext
from aioquic.quic.crypto import CryptoContext, CryptoPair, derive_key_iv_hp
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicProtocolVersion, pull_ack_frame
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.tls import Epoch, cipher_suite_hash, hkdf_expand_label
from cryptography.x509 import Certificate

from tsq.dataplane.session import CONNECTION_ID_SIZE, WINDOW_SIZE, Session
from tsq.errors import CertificateError
from tsq.quic.aioquic import internals
from tsq.quic.aioquic.trim import TrimmedConnection
from tsq.quic.sealed_tickets import SealedTickets
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
PRIVATE_NAMES = {
    "connection": (
        "_close_at",
        "_close_pending",
        "_cryptos",
        "_handle_ack_frame",
        "_handshake_confirmed",
        "_host_cids",
        "_idle_timeout",
        "_initialize",
        "_local_initial_source_connection_id",
        "_loss",
        "_network_paths",
        "_packet_number",
        "_peer_cid",
        "_remote_ack_delay_exponent",
        "_replenish_connection_ids",
        "_spaces",
        "_spin_bit",
        "_spin_highest_pn",
        "_state",
        "_version",
        "_write_handshake_done_frame",
    ),
    "recovery": (
        "_cc",
        "_rtt_initial",
        "_rtt_initialized",
        "_rtt_latest",
        "_rtt_min",
        "_rtt_smoothed",
        "_rtt_variance",
    ),
    "congestion": ("_congestion_recovery_start_time",),
    "window": ("_lower", "_received"),
    "keys": ("_update_key_requested",),
}
# Of the next secret (RFC 9001 §6.1, RFC 9369 §3.3.2). These versions' short headers are the same.
_LABELS: Mapping[int, bytes] = {QuicProtocolVersion.VERSION_1: b"quic ku", QuicProtocolVersion.VERSION_2: b"quicv2 ku"}
_LEAST_PEER_FRAME = 128
_MAX_RANGES = 64
_NO_THRESHOLD = 1 << 62
# A peer may make so many key updates at once, and one more in so many seconds: each costs the control plane a millisecond.
_MOST_KEY_UPDATES = 16
_KEY_UPDATE_INTERVAL = 1.0


def missing_names() -> list[str]:
    """The names in PRIVATE_NAMES that the installed aioquic lacks."""
    connection: Any = QuicConnection(configuration=QuicConfiguration())
    owners = {
        "connection": connection,
        "recovery": getattr(connection, "_loss", None),
        "congestion": getattr(getattr(connection, "_loss", None), "_cc", None),
        "window": QuicPacketSpace().received_packets,
        "keys": CryptoPair(),
    }
    return [f"{owner}.{name}" for owner, names in PRIVATE_NAMES.items() for name in names if not hasattr(owners[owner], name)]


@cache
def offload_is_possible() -> bool:
    """Whether the installed aioquic has all names that the data plane needs."""
    return not missing_names()


class SharedConnection(TrimmedConnection):
    """A QuicConnection that shares packet numbers and idle deadline with the data plane."""

    session: Session | None = None
    # A server's session tickets; None: it gives none.
    tickets: SealedTickets | None = None
    # Make connection IDs, and the stateless reset token of one; None: both random, which no later process can repeat.
    new_connection_id: Callable[[], bytes] | None = None
    reset_token: Callable[[bytes], bytes] | None = None
    # What a server's client gets after the handshake, so that it needs no Retry the next time; empty: nothing.
    new_token: bytes = b""
    # Judges a server's certificates; why they were refused.
    accept: Callable[[list[Certificate]], CertificateError | None] | None = None
    rejection: CertificateError | None = None
    # While `get_timer` is asked for all but the idle time-out.
    never_idle = False

    def _initialize(self, peer_cid: bytes) -> None:
        # aioquic calls this again after a Retry.
        super()._initialize(peer_cid)
        if self.tickets is not None:
            internals.use_tickets(self, self.tickets)
        if self.accept is not None:
            internals.judge_in_handshake(self)

    def rejects(self, certificates: list[Certificate]) -> bool:
        """Judge a server's certificates; whether they are rejected. `rejection` says why."""
        self.rejection = None if self.accept is None else self.accept(certificates)
        return self.rejection is not None

    def issue_connection_ids(self, new: Callable[[], bytes], reset_token: Callable[[bytes], bytes]) -> None:
        """Make this end's connection IDs with `new`, their tokens with `reset_token`; to be called before the first packet."""
        self.new_connection_id, self.reset_token = new, reset_token
        for one in self._host_cids:
            one.cid = new()
            one.stateless_reset_token = reset_token(one.cid)
        self.host_cid = self._local_initial_source_connection_id = self._host_cids[0].cid

    def _replenish_connection_ids(self) -> None:
        before = len(self._host_cids)
        super()._replenish_connection_ids()
        if self.new_connection_id is not None and self.reset_token is not None:
            for one in self._host_cids[before:]:
                one.cid = self.new_connection_id()
                one.stateless_reset_token = self.reset_token(one.cid)

    def _write_handshake_done_frame(self, builder: Any) -> None:
        super()._write_handshake_done_frame(builder)
        if self.new_token:
            # Where the packet is lost, aioquic sends HANDSHAKE_DONE again, and so this (RFC 9000 §8.1.3, §19.7).
            frame = builder.start_frame(QuicFrameType.NEW_TOKEN, capacity=3 + len(self.new_token))
            frame.push_uint_var(len(self.new_token))
            frame.push_bytes(self.new_token)

    @property
    def _packet_number(self) -> int:
        session = self.session
        return self.__dict__["own_packet_number"] if session is None else session.next_packet_number

    @_packet_number.setter
    def _packet_number(self, value: int) -> None:
        if self.session is None:
            self.__dict__["own_packet_number"] = value
        else:
            # The session refuses a lower number: a number used twice under a key gives the key away.
            self.session.next_packet_number = value

    @property
    def _close_at(self) -> float | None:
        if self.never_idle:
            return inf
        stored: float | None = self.__dict__["own_close_at"]
        session = self.session
        if session is None or stored is None or self._state is not QuicConnectionState.CONNECTED:
            return stored
        # A timer that was set before the data plane's last packet must not end a live connection.
        return max(stored, session.last_activity + self._idle_timeout())

    @_close_at.setter
    def _close_at(self, value: float | None) -> None:
        self.__dict__["own_close_at"] = value

    def timer_but_idle(self) -> float:
        """When aioquic has something to do, besides noticing that the connection is idle; infinity for never."""
        self.never_idle = True
        try:
            due = self.get_timer()
        finally:
            self.never_idle = False
        return inf if due is None else due

    def idle_at(self, idle_timeout: float) -> float:
        """When a connection that the data plane holds is idle. idle_timeout: as the property says, which costs more than this."""
        stored: float | None = self.__dict__["own_close_at"]
        since = -inf if self.session is None else self.session.last_activity
        return max(-inf if stored is None else stored, since + idle_timeout)

    @property
    def idle_timeout(self) -> float:
        """After how many seconds without a packet this connection ends: the lower limit of both ends."""
        seconds: float = self._idle_timeout()
        return seconds

    def _handle_ack_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        """RFC 9000 §13.1: an acknowledgment of a packet that was never sent ends the connection; aioquic does not look."""
        start = buf.tell()
        try:
            ranges, delay = pull_ack_frame(buf)
        except ValueError:
            # Malformed: aioquic raises below.
            ranges, delay = None, 0
        buf.seek(start)
        if ranges is not None and ranges.bounds().stop > self._packet_number:
            raise QuicConnectionError(
                error_code=QuicErrorCode.PROTOCOL_VIOLATION,
                frame_type=frame_type,
                reason_phrase="ACK of a packet that was never sent",
            )
        super()._handle_ack_frame(context, frame_type, buf)
        if ranges is not None and self.session is not None and context.epoch is Epoch.ONE_RTT:
            # It may acknowledge both planes' packets, which share the congestion window and the round trip.
            _hand_recovery(self, self.session)
            self.session.acknowledged([(r.start, r.stop - 1) for r in reversed(ranges)], context.time, delay)
            _take_back_recovery(self, self.session)


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
        space = quic._spaces[Epoch.ONE_RTT]
        largest, largest_at, bits, ack_sent = session.received
        if largest >= 0:
            space.largest_received_packet = largest
            space.largest_received_time = largest_at
            space.expected_packet_number = max(space.expected_packet_number, largest + 1)
            window = space.received_packets
            window._lower = max(window._lower, largest - WINDOW_SIZE + 1)
            window._received = {largest - d for d in range(min(WINDOW_SIZE, largest + 1)) if bits >> d & 1}
            self._queue_acknowledgments(space, session.received)
        if ack_sent:
            space.ack_at = None
        if session.ack_wanted:
            # The acknowledgment is due, or a packet is about to be sent anyway.
            space.ack_at = 0.0
        space.largest_acked_packet = max(space.largest_acked_packet, session.largest_acknowledged)
        # aioquic forgets its own ACK-only packets when an ACK covers them; the data plane took that ACK.
        for number in [n for n, packet in space.sent_packets.items() if not packet.in_flight and n <= session.largest_acknowledged]:
            del space.sent_packets[number]
        quic._spin_bit, quic._spin_highest_pn = session.spin
        _take_back_recovery(quic, session)

    def hand_over(self, now: float) -> None:
        """Give the connection to the data plane, where it is fit for that."""
        quic: Any = self._quic
        if self.holder not in (Holder.AIOQUIC, Holder.CONTROL) or not self._fit():
            return
        session = self._session()
        keys = quic._cryptos[Epoch.ONE_RTT]
        if keys.recv.secret is not self._secret:
            self._hand_keys(session, keys, now)
        path = quic._network_paths[0].addr
        remote, local = (b"", b"") if self._data_plane is None else (path.remote, path.local)
        session.set_path(remote, local, quic._peer_cid.cid)
        session.most_frame = internals.peer_datagram_limit(quic)
        self._list(session)
        self._hand_received(session, quic._spaces[Epoch.ONE_RTT])
        _hand_recovery(quic, session)
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
            and quic._version in _LABELS
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

    def _hand_keys(self, session: Session, keys: Any, now: float) -> None:
        receive, send = keys.recv, keys.send
        if self._secret is None:
            # The keys may have been updated before: header protection keeps its first ones (RFC 9001 §6.1).
            session.set_protection(int(receive.cipher_suite), *keys.protection)
        session.set_keys(receive.key_phase, *_material(receive), *_material(send), *_next_material(receive), now)
        session.set_secrets(int(receive.version), receive.secret, send.secret)
        self._secret = receive.secret

    def _hand_received(self, session: Session, space: Any) -> None:
        largest = space.largest_received_packet
        window = space.received_packets
        bits = 0
        for distance in range(min(WINDOW_SIZE, largest + 1)):
            # A number below the window counts as received (RFC 9000 §12.3).
            if largest - distance in window:
                bits |= 1 << distance
        queue = space.ack_queue
        floor = queue[0].start - 1 if len(queue) else largest
        session.set_received(largest, space.largest_received_time or 0.0, bits, floor)

    def _queue_acknowledgments(self, space: Any, received: tuple[int, float, int, bool]) -> None:
        queue = space.ack_queue
        for first, last in _runs(received[0], received[2]):
            queue.add(first, last + 1)
        while len(queue) > _MAX_RANGES:
            queue.shift()


def _hand_recovery(quic: Any, session: Session) -> None:
    """Give the session the congestion window and the round trip that aioquic has."""
    loss = quic._loss
    session.set_recovery(
        loss.congestion_window,
        loss.bytes_in_flight,
        _NO_THRESHOLD if loss._cc.ssthresh is None else loss._cc.ssthresh,
        loss._cc._congestion_recovery_start_time,
        quic._spaces[Epoch.ONE_RTT].ack_eliciting_in_flight > 0,
    )
    known = loss._rtt_initialized
    guess = loss._rtt_initial
    session.set_round_trip(
        known,
        loss._rtt_latest if known else guess,
        loss._rtt_smoothed if known else guess,
        # With this, a probe waits for twice the guess (RFC 9002 §6.2.2).
        loss._rtt_variance if known else guess / 4,
        loss._rtt_min if known else 0.0,
        loss.max_ack_delay,
        quic._remote_ack_delay_exponent,
    )


def _take_back_recovery(quic: Any, session: Session) -> None:
    """Give aioquic the congestion window and the round trip that the session has now."""
    loss = quic._loss
    window, threshold, since = session.congestion
    loss._cc.congestion_window = window
    loss._cc.ssthresh = None if threshold == _NO_THRESHOLD else threshold
    loss._cc._congestion_recovery_start_time = since
    known, latest, smoothed, variance, minimum = session.round_trip
    if known:
        loss._rtt_initialized = True
        loss._rtt_latest, loss._rtt_smoothed, loss._rtt_variance, loss._rtt_min = latest, smoothed, variance, minimum


def _material(context: CryptoContext) -> tuple[bytes, bytes]:
    """Key and IV of a direction (RFC 9001 §5.1)."""
    if context.cipher_suite is None or context.secret is None or context.version is None:
        raise ValueError("keys that are not there yet")
    return derive_key_iv_hp(cipher_suite=context.cipher_suite, secret=context.secret, version=context.version)[:2]


def _next_material(context: CryptoContext) -> tuple[bytes, bytes]:
    """Key and IV of a direction after the next key update (RFC 9001 §6.1)."""
    if context.cipher_suite is None or context.secret is None or context.version is None:
        raise ValueError("keys that are not there yet")
    algorithm = cipher_suite_hash(context.cipher_suite)
    secret = hkdf_expand_label(algorithm, context.secret, _LABELS[context.version], b"", algorithm.digest_size)
    key, iv, _ = derive_key_iv_hp(cipher_suite=context.cipher_suite, secret=secret, version=context.version)
    return key, iv


def _runs(largest: int, bits: int) -> Iterator[tuple[int, int]]:
    """(first, last) of each run of received numbers."""
    distance = 0
    while distance < WINDOW_SIZE and distance <= largest:
        if not bits >> distance & 1:
            distance += 1
            continue
        last = largest - distance
        while distance < WINDOW_SIZE and distance <= largest and bits >> distance & 1:
            distance += 1
        yield largest - distance + 1, last
