"""aioquic's connection, with what it shares with the data plane: packet numbers, the idle deadline, the congestion window.

Comes in: what comes into a QuicConnection; the session, once there is one. Goes out: the same packets, with connection IDs, session
tickets and address validation tokens of this end's own making. It must never use a packet number that the session has used, end a
connection that the data plane serves as idle, or believe an acknowledgment of a packet that was never sent.

Only this package touches aioquic's private attributes; those that this module touches stand in `offload_check`.
"""

from collections.abc import Callable
from math import inf
from typing import Any

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # compiled, and not in its stub
from aioquic.quic.connection import QuicConnectionError, QuicConnectionState, QuicReceiveContext
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, pull_ack_frame
from aioquic.tls import Epoch
from cryptography.x509 import Certificate

from tsq.dataplane.session import Session
from tsq.errors import CertificateError
from tsq.quic.aioquic import internals
from tsq.quic.aioquic.transfer import hand_recovery, take_back_recovery
from tsq.quic.aioquic.trim import TrimmedConnection
from tsq.quic.sealed_tickets import SealedTickets


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
            hand_recovery(self, self.session)
            self.session.acknowledged([(r.start, r.stop - 1) for r in reversed(ranges)], context.time, delay)
            take_back_recovery(self, self.session)
