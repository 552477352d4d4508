"""A connection that a client opened, served by both planes, without I/O.

Comes in: what `connection` takes, and the data plane's table. Goes out: what `connection` gives. Call `take_back` before anything
is done with it, and `hand_over` after everything. It must never let the two planes work at the same time.
"""

from collections.abc import Callable, Mapping
from math import inf

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import HandshakeCompleted
from aioquic.quic.packet import QuicErrorCode

from tsq.dataplane.batches import DataPlane
from tsq.dataplane.session import Session
from tsq.quic.aioquic import hibernate, internals
from tsq.quic.aioquic.shared_connection import SharedConnection
from tsq.quic.aioquic.trim import release
from tsq.quic.budget import Bucket, ControlBudget
from tsq.quic.connection import Application, Connection, Message, Outgoing
from tsq.quic.limits import PeerLimits
from tsq.quic.sealed_tickets import SealedTickets
from tsq.quic.udp import CONNECTED, NetworkPath

# Makes what serves connections of one ALPN protocol.
Applications = Mapping[str, Callable[["ServerConnection"], Application]]

_SERVER_STREAMS = 16
# Of a client that may choose another protocol: HTTP/3 needs three (RFC 9114 §6.2), and may add some of unknown types.
_APPLICATION_STREAMS = 8
# RFC 9000 §2.1.
_UNIDIRECTIONAL = 2
# Of a connection that is to be closed, seconds: how long nothing comes after an answer when the client has all that it asked for;
# and after which that is not waited for any more.
_SILENCE, _MOST_WAIT = 0.25, 1.0


class ServerConnection(Connection):
    """A connection that a client opened.

    created: when, for the handshake's deadline. arrived: datagrams that came before the handshake was complete.
    new_connection_id, reset_token: make its connection IDs and their tokens (`connection_ids`, `resets`). fresh: nothing was
    answered yet. rebuilt: it was at rest. ids: its connection IDs, kept by the router. path: where its first datagram came
    from. budget: what it may still cost the control plane. validated: the client has shown that it receives at its address (RFC
    9000 §8.1), by a Retry if nothing else is given. new_token: what it gets for the next time. leaving: why it is closed when
    the client has its next answers, empty where it is not; leaving_since: when that began. applications: other protocols than
    TSQ, by ALPN.
    """

    def __init__(
        self,
        configuration: QuicConfiguration,
        *,
        original_destination: bytes,
        retry_source: bytes | None,
        tickets: SealedTickets,
        created: float,
        new_connection_id: Callable[[], bytes],
        reset_token: Callable[[bytes], bytes],
        limits: PeerLimits | None = None,
        path: NetworkPath = CONNECTED,
        validated: bool | None = None,
        new_token: bytes = b"",
        applications: Applications | None = None,
    ) -> None:
        quic = SharedConnection(
            configuration=configuration,
            original_destination_connection_id=original_destination,
            retry_source_connection_id=retry_source,
        )
        super().__init__(quic)
        limits = limits or PeerLimits()
        quic.limits = limits
        quic.new_token = new_token
        quic.tickets = tickets
        quic.issue_connection_ids(new_connection_id, reset_token)
        self._applications = applications or {}
        internals.limit_streams(quic, _SERVER_STREAMS, _APPLICATION_STREAMS if self._applications else 0)
        self.created = created
        self.path = path
        self.arrived = 0
        self.fresh, self.rebuilt = True, False
        self.leaving = ""
        self.leaving_since = 0.0
        self._leaves_at = inf
        self.ids: set[bytes] = set()
        self.validated = retry_source is not None if validated is None else validated
        # Signed responses that the client may still get; requests for them that wait until the handshake is complete.
        self.signatures: Bucket | None = None
        self.waiting: list[tuple[Message, int]] = []
        self.budget = ControlBudget(limits.control_rate, limits.strained_rate, limits.control_burst, limits.offence)

    @property
    def timer(self) -> float | None:
        """When `handle_timer` is due."""
        due, later = super().timer, None if self.application is None else self.application.deadline
        return due if due is None else min(due, self._leaves_at, inf if later is None else later)

    def handle_timer(self, now: float) -> list[Message]:
        """Act on deadlines that have passed."""
        messages = super().handle_timer(now)
        if self.application is not None:
            self.application.expired(now)
        if self._leaves_at <= now:
            self._leaves_at = inf
            self.part(self.leaving)
        return messages

    def leave(self, reason: str, now: float) -> None:
        """Close it after its next answer; HTTP/3, when all requests are answered."""
        if not self.leaving:
            self.leaving, self.leaving_since = reason, now
        if self.application is not None:
            self.application.leave(reason, now)

    def leaves_now(self, now: float) -> bool:
        """Whether to close it right behind an answer. At first it is closed when nothing comes for a while after one.

        Clients ask two or three times in a row: the first answer warms the path for the next one.
        """
        if now >= self.leaving_since + _MOST_WAIT:
            return True
        self._leaves_at = now + _SILENCE
        return False

    def part(self, reason: str) -> None:
        """Close it, where nothing is wrong."""
        self.close(QuicErrorCode.NO_ERROR if self.application is None else self.application.no_error, reason)

    def hand_over(self, now: float) -> None:
        """As in Connection. The data plane serves TSQ only."""
        if self.application is None:
            super().hand_over(now)

    def _note(self, event: events.QuicEvent) -> None:
        super()._note(event)
        if isinstance(event, events.ProtocolNegotiated):
            make = self._applications.get(event.alpn_protocol or "")
            self.application = None if make is None else make(self)

    def _collect(self, event: events.StreamDataReceived, touched: dict[int, bool]) -> None:
        if event.stream_id & _UNIDIRECTIONAL:
            # They are open to clients that choose another protocol only.
            self.close(QuicErrorCode.STREAM_LIMIT_ERROR, "TSQ has no unidirectional streams")
            return
        super()._collect(event, touched)

    def drop(self) -> None:
        """Release everything. Call this when the connection is forgotten; it cannot be used any more."""
        super().drop()
        if self.application is not None:
            self.application.drop()
        release(self.quic)

    def rest(self, now: float) -> bool:
        """Leave this connection to the data plane alone, where nothing is under way; whether that was done. Then drop it."""
        handshake = self.handshake
        if (
            handshake is None
            or self.plane is None
            or not self.plane.active
            or self.terminated is not None
            or self._streams
            or self._stopped
            or self.issued
            or self.retired
            or self.budget.is_strained
            or self.waiting
            or (self.signatures is not None and self.signatures.refill(now) < self.signatures.burst)
        ):
            return False
        resumed, early = handshake.session_resumed, handshake.early_data_accepted
        remains = hibernate.rest(self.quic, self.alpn, resumed=resumed, early=early)
        if remains is None:
            return False
        self.plane.rest(remains.ids, remains.state, remains.idle_timeout, remains.active_at)
        return True

    def wake(self, data_plane: DataPlane, session: Session, ids: tuple[bytes, ...], remains: bytes, now: float) -> None:
        """Become the connection that was at rest in this data plane; to be called on a new object, before anything else."""
        path = NetworkPath(*session.path)
        self.path = path
        alpn, resumed, early = hibernate.revive(self.quic, session, ids, remains, path, now)
        self.alpn = alpn
        self.handshake = HandshakeCompleted(alpn_protocol=alpn, early_data_accepted=early, session_resumed=resumed)
        self.validated, self.fresh, self.rebuilt = True, False, True
        self.ids = set(ids)
        self.attach(data_plane)
        if self.plane is not None:
            self.plane.wake()

    def _cancelled(self, stream_id: int, touched: dict[int, bool]) -> None:
        super()._cancelled(stream_id, touched)
        if stream_id & _UNIDIRECTIONAL:
            return
        # End both directions, so that the client may open another stream.
        self.quic.reset_stream(stream_id, QuicErrorCode.NO_ERROR)
        if stream_id not in self._stopped:
            self.stream_done(stream_id, finished=False)

    def look_after(self, now: float) -> Outgoing:
        """Check what no packet triggers: unacknowledged responses, keys near their limit, too much work. Return what to send."""
        if self.plane is None:
            return []
        if self.plane.forged_too_often():
            self.take_back()
            self.close(QuicErrorCode.AEAD_LIMIT_REACHED, "too many packets that do not open")
        elif self.plane.overworked():
            # RFC 9000 §21.9 names this code for a peer that makes work without end.
            self.take_back()
            self.close(QuicErrorCode.PROTOCOL_VIOLATION, "too many packets that are too much work")
        elif self.plane.wants_key_update():
            self.take_back()
            self.quic.request_key_update()
            self.quic.send_ping(0)
        else:
            # The data plane probes by itself: a thousand silent clients must not all reach the control plane.
            probe = self.plane.probe(now)
            return [] if probe is None else [probe]
        return self.flush(now)
