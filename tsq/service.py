"""The server's work without I/O: datagrams in, datagrams out; router and responder put together.

Comes in: received datagrams, the monotonic time, a clock to stamp T3 with. Goes out: datagrams to send at once, and which
connection to look after. It must never touch a socket, and never keep an answer that cannot leave at once.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

from tsq.metrics import Counters
from tsq.quic.connection import Message, Outgoing, ServerConnection
from tsq.quic.router import Router
from tsq.quic.udp import Datagram
from tsq.responder import Draft, Refusal, Responder, stream_request_ready
from tsq.wire.message import Mode

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What to send at once, and the connection whose deadline may have changed (None where there is none)."""

    datagrams: Outgoing
    connection: ServerConnection | None


class Service:
    """A server but for its sockets and timers. clock: the host's time in Unix ns, read as late as can be."""

    def __init__(self, router: Router, responder: Responder, counters: Counters, clock: Callable[[], int]) -> None:
        self.router = router
        self.responder = responder
        self.counters = counters
        self._clock = clock

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
        shaken = connection.handshake is not None
        messages = connection.receive_on(datagram.path, datagram.data, now)
        if any(self._is_due(message) for message in messages):
            out = self._answer(connection, messages, datagram.received_ns, now)
        elif connection.handshake is not None and not shaken:
            # What ends the handshake is sent at once, and the acknowledgment goes with it.
            out = connection.transmit(now)[0]
        else:
            out = connection.flush(now)
        if not out and connection.fresh:
            router.unreadable(connection)
            return Outcome(out, None)
        connection.fresh = False
        router.refresh(connection)
        return Outcome(out, connection)

    def expired(self, connection: ServerConnection, now: float) -> Outcome:
        """A connection's deadline has passed."""
        if self.router.overdue(connection, now):
            logger.debug("handshake took too long")
            self.router.forget(connection)
            return Outcome([], None)
        connection.handle_timer(now)
        out = connection.flush(now)
        self.router.refresh(connection)
        return Outcome(out, connection)

    def goodbye(self, connection: ServerConnection, reason: str, now: float) -> Outgoing:
        """Close a connection for good."""
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
        send_ns = self._clock()
        sent = 0
        for message, draft in drafts:
            response = draft.complete(send_ns) if isinstance(draft, Draft) else draft
            sent += self._put(connection, message, response)
        for message in due:
            if message.stream_id is not None:
                connection.stream_done(message.stream_id, message.finished)
        out, held_back = connection.transmit(now)
        self.counters.add("answered", amount=sent - held_back)
        if held_back:
            self.counters.add("unanswered", "congestion window or amplification limit", held_back)
        return out

    def _draft(self, message: Message, received_ns: int) -> Draft | Refusal:
        mode = Mode.DATAGRAM if message.stream_id is None else Mode.STREAM
        self.counters.add("requests", mode)
        return self.responder.prepare(message.data, received_ns, mode)

    def _put(self, connection: ServerConnection, message: Message, response: bytes | Refusal) -> int:
        """Put an answer into the next packet; how many answers that makes."""
        if isinstance(response, Refusal):
            self.counters.add("unanswered", response.reason)
            if message.stream_id is not None:
                connection.send_stream(message.stream_id, response.error)
            return 0
        if message.stream_id is not None:
            connection.send_stream(message.stream_id, response)
            return 1
        if not connection.can_send_datagram(response):
            self.counters.add("unanswered", "peer takes no datagram of this size")
            return 0
        connection.send_datagram(response)
        return 1
