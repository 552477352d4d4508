"""A connection that a client opened, served by both planes, without I/O.

Comes in: as in `connection`, and the data plane's table. Goes out: as there. `enter` comes before anything that is done with it,
and `leave` after everything. It must never let the two planes work at the same time.
"""

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicErrorCode

from tsq._datapath import Datapath
from tsq.quic import internals
from tsq.quic.connection import Connection, Outgoing
from tsq.quic.offload import Plane, SharedConnection
from tsq.quic.tickets import TicketStore

_SERVER_STREAMS = 16


class ServerConnection(Connection):
    """A connection that a client opened.

    created: when, for the handshake's deadline. fresh: nothing was answered yet. ids: its connection IDs, kept by the router.
    """

    def __init__(
        self,
        configuration: QuicConfiguration,
        *,
        original_destination: bytes,
        retry_source: bytes | None,
        tickets: TicketStore,
        created: float,
    ) -> None:
        quic = SharedConnection(
            configuration=configuration,
            original_destination_connection_id=original_destination,
            retry_source_connection_id=retry_source,
            session_ticket_fetcher=tickets.take,
            session_ticket_handler=tickets.add,
        )
        super().__init__(quic)
        internals.limit_streams(quic, _SERVER_STREAMS, 0)
        self.created = created
        self.fresh = True
        self.ids: set[bytes] = set()
        self.plane: Plane | None = None
        self._shared = quic

    def attach(self, datapath: Datapath) -> None:
        """Let the data plane serve this connection once it is fit for that."""
        self.plane = Plane(datapath, self._shared)

    def transmit(self, messages: list[bytes], now: float, stamp_for: bytes = b"") -> tuple[Outgoing, int]:
        """As in any connection. Where the data plane can, it seals the messages: aioquic then waits for no acknowledgment of them.

        stamp_for: the nonce whose answer's departure time is wanted.
        """
        if self.plane is None or not messages:
            return super().transmit(messages, now)
        out = self.clear(now)
        sealed = self.plane.seal(messages, now, stamp_for)
        if sealed is not None:
            return [*out, sealed], 0
        if self.plane.active:
            return out, len(messages)
        more, held_back = super().transmit(messages, now)
        return out + more, held_back

    def tell(self) -> str:
        """What is to be told of when an earlier answer left (R12), once; "" for nothing."""
        return "" if self.plane is None else self.plane.tell()

    def clear(self, now: float) -> Outgoing:
        """Let the data plane have the connection, where it can; what the control plane had to send before that."""
        if self.plane is None or self.plane.active or self.terminated is not None:
            return []
        out = self.flush(now)
        self.plane.leave()
        return out

    def enter(self) -> None:
        """To be called before anything is done with the connection: what the data plane knows becomes known here."""
        if self.plane is not None:
            self.plane.enter()

    def leave(self) -> None:
        """To be called when everything is done and sent: the data plane may serve the connection again."""
        if self.plane is not None and self.terminated is None and not self.plane.active:
            self.plane.leave()

    def drop(self) -> None:
        """To be called when the connection is forgotten."""
        if self.plane is not None:
            self.plane.drop()

    def look_after(self) -> None:
        """What only a look from time to time can tell: answers that nobody acknowledged, keys that are used up (after `enter`)."""
        if self.plane is None or self.plane.session is None:
            return
        if self.plane.forged_too_often():
            self.close(QuicErrorCode.AEAD_LIMIT_REACHED, "too many packets that do not open")
        elif self.plane.wants_key_update():
            self.quic.request_key_update()
        self.quic.send_ping(0)
