"""The server without I/O: combines router and responder.

Comes in: received datagrams, the monotonic time, a clock for T3. Goes out: datagrams to send at once, and the connection whose
timer to update. It must never use a socket, and never keep a response that cannot be sent at once.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tsq.counters import Counters
from tsq.dataplane.batches import DataPlane
from tsq.quic.budget import Bucket, Throttle
from tsq.quic.connection import NO_ERROR, PROTOCOL_VIOLATION, Message, Outgoing
from tsq.quic.frames import packets_in
from tsq.quic.router import Drop, Router
from tsq.quic.server_connection import ServerConnection
from tsq.quic.udp import Datagram
from tsq.server.responder import Draft, Responder, Unanswered, stream_request_ready
from tsq.wire.message import Mode

logger = logging.getLogger(__name__)

_MOST_LOOKED_AFTER = 1000
# The cost of so many frames is about that of a packet without any.
_FRAMES_A_UNIT = 16
# A request costs more: it is decoded and answered.
_REQUESTS_A_UNIT = 8
# The cost of a packet where nearly all packets are plain requests.
_UNIT_ALONE = 0.05


class Outcome(NamedTuple):
    """What to send at once, and the connection whose deadline may have changed (None where there is none)."""

    datagrams: Outgoing
    connection: ServerConnection | None


class ServerCore:
    """A server without its sockets and timers.

    clock: the host's time in Unix ns; read it as late as possible. data_plane: the data plane of the socket; without one, the
    control plane handles all packets.
    """

    def __init__(
        self,
        router: Router,
        responder: Responder,
        counters: Counters,
        clock: Callable[[], int],
        data_plane: DataPlane | None = None,
    ) -> None:
        self.router = router
        self.responder = responder
        self.counters = counters
        self._clock = clock
        self._data_plane = data_plane
        self._everything = Bucket(router.limits.all_control, 2 * router.limits.all_control)
        self._utmost = Bucket(router.limits.most_control, router.limits.most_control / 4)
        self._strangers = Bucket(router.limits.strangers, router.limits.strangers / 4)
        self._unrouted = Throttle(10.0)
        # Without a data plane, the control plane answers plain requests, too.
        self._unit = 1.0 if data_plane is not None else _UNIT_ALONE

    def received(self, datagram: Datagram, now: float) -> Outcome:
        """Handle one datagram."""
        self.counters.add("datagrams")
        if not datagram.kernel:
            self.counters.add("user-space receive times")
        try:
            connection = self.router.route(datagram.data, datagram.path, now)
        except Exception as error:
            count = self._unrouted.due(now)
            if count:
                trace = logger.isEnabledFor(logging.DEBUG)
                logger.error("%d datagram(s) could not be dealt with, the last because of %r", count, error, exc_info=trace)
            connection = None
        if connection is None:
            replies: Outgoing = list(self.router.replies)
            self.router.replies.clear()
            return Outcome(replies, None)
        excess = self._excess(connection, datagram.data, now)
        if excess is None:
            return self._visit(connection, now, lambda: self._receive(connection, datagram, now))
        # The connection has not changed, so its timer stays. A dropped packet must cost as little as possible.
        self.counters.add("dropped", excess)
        if connection.budget.is_offender(now):
            return self._visit(connection, now, lambda: self._close(connection, PROTOCOL_VIOLATION, "too many packets", now))
        return Outcome([], None)

    def expired(self, connection: ServerConnection, now: float) -> Outcome:
        """Handle a connection whose deadline has passed."""
        if not self.router.knows(connection):
            return Outcome([], None)
        if self.router.overdue(connection, now):
            logger.debug("handshake took too long")
            self.router.forget(connection)
            return Outcome([], None)

        def work() -> Outgoing:
            connection.handle_timer(now)
            return connection.flush(now)

        return self._visit(connection, now, work)

    def look_after(self, now: float) -> list[Outcome]:
        """Send probes, update keys, or close connections, where the data plane cannot do so. Call this about once a second."""
        if self._data_plane is None:
            return []
        due = set(self._data_plane.due(now))
        all_due = [c for c in self.router.connections if c.plane is not None and c.plane.session in due]
        # Handle a limited number at a time, so that responses are not delayed.
        return [self._visit(c, now, partial(c.look_after, now), take_back=False) for c in all_due[:_MOST_LOOKED_AFTER]]

    def _visit(self, connection: ServerConnection, now: float, work: Callable[[], Outgoing], *, take_back: bool = True) -> Outcome:
        """Do some work on one connection. Each packet and each timer reaches a connection through this function only.

        An error ends this connection and no other. Afterwards the connection is in all tables and has a deadline, or it is in none,
        so the caller can update its timer. take_back: False if `work` takes the connection back itself.
        """
        out: Outgoing = []
        try:
            if take_back:
                connection.take_back()
            out = work()
            self.router.refresh(connection)
            if self.router.knows(connection):
                connection.hand_over(now)
        except Exception as error:
            connection.fail(error)
            self.router.forget(connection)
        return Outcome(out, connection)

    def _excess(self, connection: ServerConnection, data: bytes, now: float) -> Drop | None:
        """Why the control plane must drop a datagram, by the budget of this connection or of all. None if it may handle it."""
        if connection.fresh:
            # The router has accepted it. A new connection has no deadline until this packet is handled.
            connection.arrived = 1
            self._charge(self._unit)
            return None
        if connection.handshake is None:
            connection.arrived += 1
            if connection.arrived > self.router.limits.peer.handshake_packets:
                return Drop.OVER_BUDGET
            if not connection.validated:
                if self._strangers.refill(now) < 1:
                    return Drop.OVERLOADED
                self._strangers.take()
        units = self._unit * packets_in(data, self.router.limits.peer.packets)
        if not connection.budget.admits(now, strained=self._everything.refill(now) < 1, amount=units):
            return Drop.OVER_BUDGET
        if self._utmost.refill(now) < 1:
            return Drop.OVERLOADED
        self._charge(units)
        return None

    def _charge(self, units: float) -> None:
        """Charge the budget that all connections share."""
        self._everything.take(units)
        self._utmost.take(units)

    def _receive(self, connection: ServerConnection, datagram: Datagram, now: float) -> Outgoing:
        """Give a datagram to its connection. Returns the datagrams to send."""
        if connection.fresh and self._data_plane is not None:
            connection.attach(self._data_plane)
        was_complete = connection.handshake is not None
        messages = connection.receive_on(datagram.path, datagram.data, now)
        self._account(connection, len(messages) + connection.left_out)
        if any(self._is_due(message) for message in messages):
            out = self._answer(connection, messages, datagram.received_ns, now)
        elif connection.handshake is not None and not was_complete:
            # Send the end of the handshake at once, together with the acknowledgment.
            out = connection.transmit([], now)[0]
        else:
            out = connection.flush(now)
        if not out and connection.fresh:
            self.router.unreadable(connection, now)
        connection.fresh = False
        return out

    def _account(self, connection: ServerConnection, requests: int) -> None:
        """Count the refused parts of a datagram, and charge the connection's budget for the work."""
        frames, refused = connection.take_account()
        for reason in refused:
            self.counters.add("dropped", Drop(reason))
        if frames or refused:
            # The work of packets that decrypted.
            units = (frames / _FRAMES_A_UNIT + requests / _REQUESTS_A_UNIT) * self._unit
            connection.budget.opened(units)
            self._charge(units)
        if connection.left_out:
            self.counters.add("requests", Mode.DATAGRAM, connection.left_out)
            self.counters.add("unanswered", "too many requests in one packet", connection.left_out)
            connection.left_out = 0

    def _close(self, connection: ServerConnection, code: int, reason: str, now: float) -> Outgoing:
        connection.close(code, reason)
        return connection.flush(now)

    def close_connection(self, connection: ServerConnection, reason: str, now: float) -> Outgoing:
        """Close a connection, and forget it."""
        out = self._visit(connection, now, lambda: self._close(connection, NO_ERROR, reason, now)).datagrams
        self.router.forget(connection)
        return out

    def _is_due(self, message: Message) -> bool:
        """Whether to answer now: a datagram always, a stream at its FIN or when it contains a whole request (R2)."""
        return message.stream_id is None or stream_request_ready(message.data, message.finished)

    def _answer(self, connection: ServerConnection, messages: list[Message], received_ns: int, now: float) -> Outgoing:
        """Answer all requests of one datagram together: prepare drafts, read the clock, seal the packet."""
        due = [message for message in messages if self._is_due(message)]
        drafts = [(message, self._draft(message, received_ns)) for message in due]
        # Send everything else first, so that after T3 only the packet is encrypted and sent.
        out = [] if any(message.stream_id is not None for message in due) else connection.clear(now)
        send_ns = self._clock()
        datagrams: list[bytes] = []
        stamp: tuple[bytes, int] | None = None
        answered = 0
        for message, draft in drafts:
            if isinstance(draft, Draft) and draft.exact and message.stream_id is None:
                sent_at = connection.take_report()
                draft = draft.with_exact_t3(sent_at) if sent_at else draft  # noqa: PLW2901
                stamp = (draft.nonce, send_ns)
            if message.stream_id is not None and not connection.can_send_stream(message.stream_id):
                connection.stream_done(message.stream_id, message.finished)
                self.counters.add("unanswered", "stream cancelled by the client")
                continue
            response = draft.complete(send_ns) if isinstance(draft, Draft) else draft
            if isinstance(response, Unanswered):
                self.counters.add("unanswered", response.reason)
                if message.stream_id is None:
                    continue
                response = response.error
            elif message.stream_id is not None:
                answered += 1
            if message.stream_id is not None:
                connection.send_stream(message.stream_id, response)
                connection.stream_done(message.stream_id, message.finished)
            elif connection.can_send_datagram(response):
                datagrams.append(response)
            else:
                self.counters.add("unanswered", "peer takes no datagram of this size")
        more, held_back = connection.transmit(datagrams, now, stamp)
        self.counters.add("answered", amount=answered + len(datagrams) - held_back)
        self.counters.add("unanswered", "congestion window or amplification limit", held_back)
        return out + more

    def _draft(self, message: Message, received_ns: int) -> Draft | Unanswered:
        mode = Mode.DATAGRAM if message.stream_id is None else Mode.STREAM
        self.counters.add("requests", mode)
        return self.responder.prepare(message.data, received_ns, mode)
