"""A connection to a server, without I/O.

Comes in: what `connection` takes; session tickets; how to check the server's certificate. Goes out: what `connection` gives; why
the connection ended. It must never let the data plane serve any peer but the one that the socket is connected to.
"""

from collections.abc import Callable

from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import SessionTicket

from tsq.errors import TransportError
from tsq.quic.aioquic import internals
from tsq.quic.aioquic.offload_check import offload_is_possible
from tsq.quic.aioquic.shared_connection import SharedConnection
from tsq.quic.connection import Connection, Message, Outgoing
from tsq.quic.outcome import STATELESS_RESET, why_ended
from tsq.quic.resets import is_reset
from tsq.quic.tickets import MOST_TOKEN, AcceptedTicket
from tsq.quic.tls import ClientConfiguration

# A client's socket is connected: it has one peer, and aioquic never looks into the path.
_SERVER_PATH = "the server"
_CLIENT_ACK_DELAY = 0.02
# Of a packet with one message: headers, tag, and an ACK frame of some ranges. A server's packet may have brought more than that.
_MOST_OVERHEAD = 128
# A server sends one ticket or two. Ignore further ones.
_MOST_TICKETS = 4


class ClientConnection(Connection):
    """A connection to a server. on_ticket: called with each session ticket once the server is accepted.

    equal_datagrams: make a request's UDP datagram at least as large as that of its answer, whose message has the same size (R7).
    tickets: how many session tickets there were. heard: whether the last datagram held a packet of the server's, and not only what
    anybody can send, or what another server of its fleet sends that does not know the connection.
    """

    def __init__(self, configuration: ClientConfiguration, *, on_ticket: Callable[[AcceptedTicket], None] | None = None) -> None:
        self._on_ticket = on_ticket
        self._configuration = configuration
        self._asked = False
        # How long an acknowledgment waits for a request that could carry it, seconds.
        self._ack_wait = _CLIENT_ACK_DELAY
        self._judged = False
        self._unjudged: list[SessionTicket] = []
        self.tickets = 0
        self.heard = self.equal_datagrams = False
        self._token = b""
        quic = SharedConnection(configuration=configuration, session_ticket_handler=self._ticket, token_handler=self._take_token)
        quic.accept = configuration.accept
        super().__init__(quic)
        internals.limit_streams(quic, 0, 0)
        internals.delay_acknowledgments(quic, _CLIENT_ACK_DELAY)

    @property
    def has_ticket(self) -> bool:
        """Whether the handshake is to resume an earlier session."""
        return self.quic.configuration.session_ticket is not None

    @property
    def early_possible(self) -> bool:
        """Whether a session ticket allows a message before the handshake (0-RTT); known once `connect` was called."""
        ticket = self.quic.configuration.session_ticket
        return ticket is not None and bool(ticket.max_early_data_size) and self.peer_takes_datagrams

    @property
    def early_accepted(self) -> bool:
        """Whether the server accepted 0-RTT."""
        return self.handshake is not None and self.handshake.early_data_accepted

    @property
    def confirmed(self) -> bool:
        """Whether the server, too, knows that the handshake is complete."""
        return internals.is_confirmed(self.quic)

    @property
    def resumed(self) -> bool:
        """Whether the TLS session was resumed."""
        return self.handshake is not None and self.handshake.session_resumed

    @property
    def idle_timeout(self) -> float:
        """After how many seconds without a packet the connection ends."""
        return self.quic.idle_timeout

    @property
    def certificates_expire(self) -> float | None:
        """When the first of the server's certificates expires, Unix seconds; None where it showed none (a resumed session)."""
        certificates = internals.peer_certificates(self.quic)
        return min((c.not_valid_after_utc.timestamp() for c in certificates), default=None)

    def connect(self, now: float) -> None:
        """Begin the handshake; `flush` gives its first datagram. A ticket that cannot be used ends the connection at once."""
        try:
            self.quic.connect(_SERVER_PATH, now)
        except Exception as error:
            if not self.has_ticket:
                raise
            # The content of a ticket comes from a server, and through a file: it may be anything.
            self.terminated = ConnectionTerminated(QuicErrorCode.INTERNAL_ERROR, None, f"a ticket that cannot be used: {error!r}")

    @property
    def timer(self) -> float | None:
        """When `handle_timer` is due: aioquic's timer, or the data plane's for an acknowledgment or a probe."""
        plane = self.plane
        if plane is None or not plane.active or self.terminated:
            return super().timer
        probe_at, since = plane.probe_at, plane.waits_to_acknowledge
        due = plane.control_timer
        if probe_at is not None and probe_at < due:
            due = probe_at
        return due if since is None else min(due, since + self._ack_wait)

    def acknowledge_soon(self) -> bool:
        """Nothing follows that could carry an acknowledgment: it is due now. Whether there is something to acknowledge.

        To wait for that as long as RFC 9000 §13.2.1 permits would wake this process up once more.
        """
        plane = self.plane
        if plane is None or plane.waits_to_acknowledge is None:
            return False
        self._ack_wait = 0.0
        return True

    def _must_only_acknowledge(self, now: float) -> bool:
        """Whether all that is due is an acknowledgment, and the data plane can send it: aioquic need not take over for that."""
        plane = self.plane
        if plane is None or (since := plane.waits_to_acknowledge) is None or now < since + self._ack_wait:
            return False
        if self.terminated or now >= plane.control_timer:
            return False
        probe_at = plane.probe_at
        return (probe_at is None or now < probe_at) and not plane.wants_key_update()

    def receive(self, data: bytes, now: float) -> list[Message]:
        """Take one UDP datagram from the server. Return the messages in it."""
        self.heard = False
        if self.plane is not None:
            opened = self.plane.open(data, now)
            if opened is not None:
                # A packet that does not open is dropped there, and changes nothing.
                self.heard = self.plane.last_receive == now
                return [Message(message) for message in opened]
            self.take_back()
        if self.handshake is not None and is_reset(data, internals.peer_reset_token(self.quic)):
            self.terminated = ConnectionTerminated(QuicErrorCode.NO_ERROR, None, STATELESS_RESET)
            return []
        before = self.quic.frames
        messages = self.receive_on(_SERVER_PATH, data, now)
        self.heard = self.quic.frames > before
        return messages

    def handle_timer(self, now: float) -> list[Message]:
        """Act on deadlines that have passed."""
        probe_at = None if self.plane is None else self.plane.probe_at
        if self._must_only_acknowledge(now):
            # `flush` does it.
            return []
        self.take_back()
        if self.plane is not None and self.plane.wants_key_update():
            self.quic.request_key_update()
        if probe_at is not None and probe_at <= now:
            self.quic.send_ping(0)
        return super().handle_timer(now)

    def transmit(
        self, messages: list[bytes], now: float, stamp: tuple[bytes, int] | None = None, least: int = 0
    ) -> tuple[Outgoing, int]:
        """As in `Connection`. The data plane serves from the second request on: for one request, its set-up costs too much."""
        if self.plane is None and self._asked and self.handshake is not None and offload_is_possible():
            self.attach(None)
        self._asked = self._asked or bool(messages)
        self._ack_wait = _CLIENT_ACK_DELAY
        if self.equal_datagrams and self.plane is not None and len(messages) == 1:
            # What the server's last packet had beside its message, this one has at least.
            least = min(self.plane.overhead, _MOST_OVERHEAD) + len(messages[0])
        return super().transmit(messages, now, stamp, least)

    def flush(self, now: float) -> Outgoing:
        """Datagrams to send when there is no message to send. While the data plane serves, aioquic has none."""
        if self.plane is not None and self.plane.active:
            sealed = self.plane.acknowledge(now) if self._must_only_acknowledge(now) else None
            return [] if sealed is None else [sealed]
        out = super().flush(now)
        self.hand_over(now)
        return out

    def send_stream(self, stream_id: int, data: bytes) -> None:
        """Send a whole message, and FIN, on a stream."""
        self.take_back()
        super().send_stream(stream_id, data)

    def write_stream(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """Send bytes on a stream, and FIN only at its end. A client of TSQ sends whole messages; tests of servers do not."""
        self.take_back()
        if self.can_send_stream(stream_id) or stream_id == self.quic.get_next_available_stream_id():
            self.quic.send_stream_data(stream_id, data, end_stream=end)

    def close(self, error_code: int = QuicErrorCode.NO_ERROR, reason: str = "") -> None:
        """Close; `flush` gives the last datagram."""
        self.take_back()
        super().close(error_code, reason)

    def change_connection_id(self) -> None:
        """Use another of the server's connection IDs, if it has given more than one."""
        self.take_back()
        self.quic.change_connection_id()

    def open_stream(self) -> int:
        """The stream for one more request."""
        return self.quic.get_next_available_stream_id()

    def failure(self) -> TransportError | None:
        """Why the connection ends, as an error for a user; None while it goes on. Its last datagram may still have to be sent."""
        end = self.terminated or internals.closing(self.quic)
        if end is None:
            rejection = self._rejection()
            if rejection is None and self._judged:
                self._give_tickets()
            return rejection
        return self.quic.rejection or why_ended(end, self.handshake is not None)

    def _rejection(self) -> TransportError | None:
        """Why the server is rejected. The handshake has checked this; check again, in case it did not."""
        if self._judged or self.handshake is None:
            return None
        accept = self._configuration.accept
        # A resumed session shows no certificate: its ticket is used only where the same trust has accepted the server.
        rejection = None if accept is None or self.resumed else accept(internals.peer_certificates(self.quic))
        self._judged = rejection is None
        return rejection

    def _ticket(self, ticket: SessionTicket) -> None:
        # A ticket may come right after the server's Finished, before the certificate is checked. It waits until then.
        if self.tickets + len(self._unjudged) < _MOST_TICKETS:
            self._unjudged.append(ticket)

    def _take_token(self, token: bytes) -> None:
        """Keep the newest token that the server gives (NEW_TOKEN, RFC 9000 §8.1.3), for the next ticket."""
        if len(token) <= MOST_TOKEN:
            self._token = token

    def _give_tickets(self) -> None:
        """Pass on the tickets of a server that was accepted; the token with the first one, since it is to be used once."""
        waiting, self._unjudged = self._unjudged, []
        accepted = self._configuration.accepted if self.resumed else None
        for ticket in waiting:
            self.tickets += 1
            if self._on_ticket is not None:
                expiry = self.certificates_expire if accepted is None else accepted.certificates_expire
                token, self._token = self._token, b""
                self._on_ticket(AcceptedTicket(ticket, self._configuration.acceptance, expiry, token))
