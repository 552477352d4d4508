"""A connection that a client opened, served by both planes, without I/O.

Comes in: what `connection` takes, and the data plane's table. Goes out: what `connection` gives. Call `take_back` before anything
is done with it, and `hand_over` after everything. It must never let the two planes work at the same time.
"""

from collections.abc import Callable

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicErrorCode

from tsq.quic.aioquic import internals
from tsq.quic.aioquic.offload import SharedConnection
from tsq.quic.aioquic.trim import release
from tsq.quic.budget import ControlBudget
from tsq.quic.connection import Connection, Outgoing
from tsq.quic.limits import PeerLimits
from tsq.quic.tickets import TicketStore
from tsq.quic.udp import CONNECTED, NetworkPath

_SERVER_STREAMS = 16


class ServerConnection(Connection):
    """A connection that a client opened.

    created: when, for the handshake's deadline. arrived: datagrams that came before the handshake was complete. reset_token: makes
    the tokens of its connection IDs (`resets`). fresh: nothing was answered yet. ids: its connection IDs, kept by the router.
    path: where its first datagram came from. budget: what it may still cost the control plane. validated: the client has shown
    that it receives at its address (RFC 9000 §8.1).
    """

    def __init__(
        self,
        configuration: QuicConfiguration,
        *,
        original_destination: bytes,
        retry_source: bytes | None,
        tickets: TicketStore,
        created: float,
        reset_token: Callable[[bytes], bytes],
        limits: PeerLimits | None = None,
        path: NetworkPath = CONNECTED,
    ) -> None:
        quic = SharedConnection(
            configuration=configuration,
            original_destination_connection_id=original_destination,
            retry_source_connection_id=retry_source,
            session_ticket_fetcher=tickets.take,
            session_ticket_handler=tickets.add,
        )
        super().__init__(quic)
        limits = limits or PeerLimits()
        quic.limits = limits
        quic.issue_reset_tokens(reset_token)
        internals.limit_streams(quic, _SERVER_STREAMS, 0)
        self.created = created
        self.path = path
        self.arrived = 0
        self.fresh = True
        self.ids: set[bytes] = set()
        self.validated = retry_source is not None
        self.budget = ControlBudget(limits.control_rate, limits.strained_rate, limits.control_burst, limits.offence)

    def drop(self) -> None:
        """Release everything. Call this when the connection is forgotten; it cannot be used any more."""
        super().drop()
        release(self.quic)

    def _cancelled(self, stream_id: int, touched: dict[int, bool]) -> None:
        super()._cancelled(stream_id, touched)
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
