"""The server's work without I/O: datagrams in, datagrams out; router and responder put together.

Comes in: received datagrams, the monotonic time, a clock to stamp T3 with. Goes out: datagrams to send at once, and which
connection to look after. It must never touch a socket, and never keep an answer that cannot leave at once.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

from tsq._datapath import Datapath
from tsq.metrics import Counters
from tsq.quic.connection import Message, Outgoing
from tsq.quic.router import Router
from tsq.quic.server_connection import ServerConnection
from tsq.quic.udp import Datagram
from tsq.responder import Draft, Refusal, Responder, stream_request_ready
from tsq.wire.message import Mode

logger = logging.getLogger(__name__)

_MOST_LOOKED_AFTER = 1000


class Outcome(NamedTuple):
    """What to send at once, and the connection whose deadline may have changed (None where there is none)."""

    datagrams: Outgoing
    connection: ServerConnection | None


class Service:
    """A server but for its sockets and timers.

    clock: the host's time in Unix ns, read as late as can be. datapath: the data plane of the socket; without one, the control
    plane does everything.
    """

    def __init__(
        self,
        router: Router,
        responder: Responder,
        counters: Counters,
        clock: Callable[[], int],
        datapath: Datapath | None = None,
    ) -> None:
        self.router = router
        self.responder = responder
        self.counters = counters
        self._clock = clock
        self._datapath = datapath

    def received(self, datagram: Datagram, now: float) -> Outcome:
        """Deal with one datagram."""
        self.counters.add("datagrams")
        if not datagram.kernel:
            self.counters.add("user-space receive times")
        router = self.router
        connection = router.route(datagram.data, datagram.path, now)
        if connection is None:
            replies: Outgoing = list(router.replies)
            router.replies.clear()
            return Outcome(replies, None)
        if connection.fresh and self._datapath is not None:
            connection.attach(self._datapath)
        connection.enter()
        shaken = connection.handshake is not None
        messages = connection.receive_on(datagram.path, datagram.data, now)
        if any(self._is_due(message) for message in messages):
            out = self._answer(connection, messages, datagram.received_ns, now)
        elif connection.handshake is not None and not shaken:
            # What ends the handshake is sent at once, and the acknowledgment goes with it.
            out = connection.transmit([], now)[0]
        else:
            out = connection.flush(now)
        if not out and connection.fresh:
            router.unreadable(connection)
            return Outcome(out, None)
        connection.fresh = False
        router.refresh(connection)
        connection.leave(now)
        return Outcome(out, connection)

    def expired(self, connection: ServerConnection, now: float) -> Outcome:
        """A connection's deadline has passed."""
        if self.router.overdue(connection, now):
            logger.debug("handshake took too long")
            self.router.forget(connection)
            return Outcome([], None)
        connection.enter()
        connection.handle_timer(now)
        out = connection.flush(now)
        self.router.refresh(connection)
        connection.leave(now)
        return Outcome(out, connection)

    def look_after(self, now: float) -> list[Outcome]:
        """Probe, rekey or end connections that the data plane cannot go on with by itself; to be called every second or so."""
        if self._datapath is None:
            return []
        due = set(self._datapath.due(now))
        outcomes = []
        all_due = [c for c in self.router.connections if c.plane is not None and c.plane.session in due]
        # A few at a time, so that answers do not wait behind them.
        for connection in all_due[:_MOST_LOOKED_AFTER]:
            out = connection.look_after(now)
            self.router.refresh(connection)
            connection.leave(now)
            outcomes.append(Outcome(out, connection))
        return outcomes

    def goodbye(self, connection: ServerConnection, reason: str, now: float) -> Outgoing:
        """Close a connection for good."""
        connection.enter()
        connection.close(reason=reason)
        out = connection.flush(now)
        self.router.forget(connection)
        return out

    def _is_due(self, message: Message) -> bool:
        """Datagrams at once; streams at FIN, or when what came is a whole request (R2)."""
        return message.stream_id is None or stream_request_ready(message.data, message.finished)

    def _answer(self, connection: ServerConnection, messages: list[Message], received_ns: int, now: float) -> Outgoing:
        """Answer all requests of one datagram in one go: drafts first, then the time, then the packet."""
        due = [message for message in messages if self._is_due(message)]
        drafts = [(message, self._draft(message, received_ns)) for message in due]
        # What else is to be sent goes first, so that nothing but sealing comes between T3 and the wire.
        out = [] if any(message.stream_id is not None for message in due) else connection.clear(now)
        send_ns = self._clock()
        datagrams: list[bytes] = []
        stamp: tuple[bytes, int] | None = None
        for message, draft in drafts:
            if isinstance(draft, Draft) and draft.exact and message.stream_id is None:
                told = connection.tell()
                draft = draft.telling(told) if told else draft  # noqa: PLW2901
                stamp = (draft.nonce, send_ns)
            response = draft.complete(send_ns) if isinstance(draft, Draft) else draft
            if isinstance(response, Refusal):
                self.counters.add("unanswered", response.reason)
                if message.stream_id is None:
                    continue
                response = response.error
            else:
                self.counters.add("answered")
            if message.stream_id is not None:
                connection.send_stream(message.stream_id, response)
                connection.stream_done(message.stream_id, message.finished)
            elif connection.can_send_datagram(response):
                datagrams.append(response)
            else:
                self.counters.add("answered", amount=-1)
                self.counters.add("unanswered", "peer takes no datagram of this size")
        more, held_back = connection.transmit(datagrams, now, stamp)
        if held_back:
            self.counters.add("answered", amount=-held_back)
            self.counters.add("unanswered", "congestion window or amplification limit", held_back)
        return out + more

    def _draft(self, message: Message, received_ns: int) -> Draft | Refusal:
        mode = Mode.DATAGRAM if message.stream_id is None else Mode.STREAM
        self.counters.add("requests", mode)
        return self.responder.prepare(message.data, received_ns, mode)
