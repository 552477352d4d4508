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
from tsq.quic.connection import MAX_STREAM_SIZE, PROTOCOL_VIOLATION, Message, Outgoing
from tsq.quic.frames import packets_in
from tsq.quic.router import Drop, Router
from tsq.quic.server_connection import ServerConnection
from tsq.quic.udp import Datagram, NetworkPath
from tsq.server.responder import Draft, NoResponse, Responder, Unanswered, over_quota, stream_request_ready
from tsq.wire.message import Mode
from tsq.wording import counted

logger = logging.getLogger(__name__)

_MOST_LOOKED_AFTER = 1000
# Connections that are left to the data plane at once: 0.1 ms each.
_MOST_RESTING = 1000
# The cost of so many frames is about that of a packet without any.
_FRAMES_A_UNIT = 16
# A request costs more: it is decoded and answered.
_REQUESTS_A_UNIT = 8
# The cost of a packet where nearly all packets are plain requests.
_UNIT_ALONE = 0.05
# Requests of one client for a signature that wait for the end of its handshake.
_MOST_WAITING = 4
_SIGNATURES_AT_ONCE = 4.0


class Outcome(NamedTuple):
    """What to send at once, and the connection whose deadline may have changed (None where there is none)."""

    datagrams: Outgoing
    connection: ServerConnection | None


class ServerCore:
    """A server without its sockets and timers.

    clock: the host's time in Unix ns; read it as late as possible. data_plane: the data plane of the socket; without one, the
    control plane handles all packets. relay: gets the datagrams of clients that have no connection here, if somebody else serves
    new clients.
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
        self.relay: Callable[[Datagram], None] | None = None
        self._clock = clock
        self._data_plane = data_plane
        if data_plane is not None:
            data_plane.guard(router.admission)
            router.add_plane(data_plane)
        self._everything = Bucket(router.limits.all_control, 2 * router.limits.all_control)
        self._utmost = Bucket(router.limits.most_control, router.limits.most_control / 4)
        self._strangers = Bucket(router.limits.strangers, router.limits.strangers / 4)
        self._signatures = Bucket(router.limits.all_signatures, router.limits.all_signatures)
        self._unrouted = Throttle(10.0)
        # Without a data plane, the control plane answers plain requests, too.
        self._unit = 1.0 if data_plane is not None else _UNIT_ALONE

    def received(self, datagram: Datagram, now: float) -> Outcome:
        """Handle one datagram."""
        self.counters.add("datagrams")
        if not datagram.kernel:
            self.counters.add("user-space receive times")
        answered = self._answer_resting(datagram, now)
        if answered is not None:
            return Outcome(answered, None)
        if self.relay is not None and self.router.is_newcomer(datagram.data):
            self.relay(datagram)
            return Outcome([], None)
        try:
            connection = self.router.route(datagram.data, datagram.path, now, judged=self._data_plane is not None)
        except Exception as error:
            count = self._unrouted.due(now)
            if count:
                trace = logger.isEnabledFor(logging.DEBUG)
                logger.error(
                    "%s could not be dealt with, the last because of %r", counted(count, "datagram"), error, exc_info=trace
                )
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

    def _answer_resting(self, datagram: Datagram, now: float) -> Outgoing | None:
        """Answer a packet of a connection at rest that needs the responder alone; None for all other packets."""
        data_plane, path = self._data_plane, datagram.path
        if data_plane is None or not data_plane.resting or not isinstance(path, NetworkPath) or self._utmost.refill(now) < 1:
            return None
        messages = data_plane.read(datagram.data, path.remote, path.local, now)
        if messages is None or any(self.responder.wants_signature(message) for message in messages):
            return None
        self._charge(1 + len(messages) / _REQUESTS_A_UNIT)
        self.counters.add("requests", Mode.DATAGRAM, len(messages))
        most = data_plane.most_message
        drafts = [self._prepare(message, datagram.received_ns, Mode.DATAGRAM, most) for message in messages]
        send_ns = self._clock()
        responses: list[bytes] = []
        stamp: tuple[bytes, int] | None = None
        for draft in drafts:
            if isinstance(draft, Draft) and draft.exact:
                sent_at = data_plane.take_report()
                draft = draft.with_exact_t3(sent_at) if sent_at else draft  # noqa: PLW2901
                stamp = (draft.nonce, send_ns)
            response = draft.complete(send_ns) if isinstance(draft, Draft) else draft
            if isinstance(response, Unanswered):
                self.counters.add("unanswered", response.reason)
            else:
                responses.append(response)
        least = len(datagram.data) if _promises_length(drafts) else 0
        packet, connection_id, fits = data_plane.reply(responses, now, least)
        if fits:
            self.counters.add("answered", amount=len(responses))
        else:
            self.counters.add("unanswered", "congestion window or amplification limit", len(responses))
        wanted = (connection_id, *stamp) if stamp is not None and fits else None
        return [(packet, NetworkPath(path.remote, path.local, wanted))]

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
        self.router.look_after(now)
        if self._data_plane is None:
            return []
        due = set(self._data_plane.due(now))
        all_due = [c for c in self.router.connections if c.plane is not None and c.plane.session in due]
        # Handle a limited number at a time, so that responses are not delayed.
        out = [self._visit(c, now, partial(c.look_after, now), take_back=False) for c in all_due[:_MOST_LOOKED_AFTER]]
        return out + self._sweep(self._data_plane, now)

    def _sweep(self, data_plane: DataPlane, now: float) -> list[Outcome]:
        """End and probe connections at rest, and let more of them rest."""
        probes, due = data_plane.sweep(now)
        out = [Outcome([(data, NetworkPath(remote, local)) for data, remote, local in probes], None)]
        for connection_id in due[:_MOST_LOOKED_AFTER]:
            connection = self.router.wake(connection_id, now)
            if connection is not None:
                out.append(self._visit(connection, now, partial(connection.look_after, now), take_back=False))
        self.router.rest(now, _MOST_RESTING)
        return out

    def _visit(self, connection: ServerConnection, now: float, work: Callable[[], Outgoing], *, take_back: bool = True) -> Outcome:
        """Do some work on one connection. Each packet and each timer reaches a connection through this function only.

        An error ends this connection and no other. Afterwards the connection is in all tables and has a deadline, or it is in none,
        so the caller can update its timer. take_back: False if `work` takes the connection back itself.
        """
        out: Outgoing = []
        self.router.visited(connection, now)
        try:
            if take_back:
                connection.take_back()
            out = work()
            self.router.refresh(connection)
            if self.router.knows(connection) and not connection.leaving:
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
        if connection.handshake is None:
            messages = self._let_wait(connection, messages, datagram.received_ns)
        if connection.application is not None:
            out = self._apply(connection, datagram, now)
        elif any(self._is_due(message) for message in messages):
            out = self._answer(connection, messages, datagram.received_ns, now, len(datagram.data))
            if connection.leaving and connection.leaves_now(now):
                # The client has its answer, and the next request is some time away.
                connection.take_back()
                connection.part(connection.leaving)
                out += connection.flush(now)
        elif connection.handshake is not None and not was_complete:
            # Send the end of the handshake at once, together with the acknowledgment.
            out = connection.transmit([], now)[0]
        else:
            out = connection.flush(now)
        if connection.handshake is not None and connection.waiting:
            waiting, connection.waiting = connection.waiting, []
            for message, received_ns in waiting:
                out += self._answer(connection, [message], received_ns, now)
        if not out and connection.fresh:
            self.router.unreadable(connection, now)
        connection.fresh = False
        return out

    def _apply(self, connection: ServerConnection, datagram: Datagram, now: float) -> Outgoing:
        """Let another protocol than TSQ answer."""
        if connection.application is None or connection.terminated is not None:
            return []
        at_once, work = connection.application.answer(datagram.path, datagram.received_ns, self._clock, now)
        if work:
            connection.budget.opened(work * self._unit)
            self._charge(work * self._unit)
        return connection.transmit([], now)[0] if at_once else connection.flush(now)

    def _let_wait(self, connection: ServerConnection, messages: list[Message], received_ns: int) -> list[Message]:
        """The messages to answer now: a request for a signature waits until the handshake is complete.

        Early data may be a replay (RFC 9001 §9.2), and must not cost a signature.
        """
        now = []
        for message in messages:
            if not self._is_due(message) or not self.responder.wants_signature(message.data):
                now.append(message)
            elif len(connection.waiting) < _MOST_WAITING:
                connection.waiting.append((message, received_ns))
            else:
                self.counters.add("unanswered", NoResponse.SIGNATURE_QUOTA)
        return now

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
        if connection.too_large:
            self.counters.add("requests", Mode.STREAM, connection.too_large)
            self.counters.add("unanswered", NoResponse.TOO_LARGE, connection.too_large)
            connection.too_large = 0
        if connection.left_out:
            self.counters.add("requests", Mode.DATAGRAM, connection.left_out)
            self.counters.add("unanswered", "too many requests in one packet", connection.left_out)
            connection.left_out = 0

    def _close(self, connection: ServerConnection, code: int, reason: str, now: float) -> Outgoing:
        connection.close(code, reason)
        return connection.flush(now)

    def let_go(self, connection: ServerConnection, reason: str, now: float) -> Outcome:
        """Close a connection after its next answer, so that its client connects again, to whoever serves new clients."""

        def work() -> Outgoing:
            connection.leave(reason, now)
            return connection.flush(now)

        return self._visit(connection, now, work)

    def go_away(self, connection: ServerConnection, now: float) -> Outcome:
        """Tell a client to ask elsewhere from now on, where its protocol has words for that: HTTP/3 has, TSQ has not."""

        def work() -> Outgoing:
            if connection.application is not None:
                connection.application.go_away()
            return connection.flush(now)

        return self._visit(connection, now, work)

    def close_connection(self, connection: ServerConnection, reason: str, now: float) -> Outgoing:
        """Close a connection, and forget it."""

        def work() -> Outgoing:
            out: Outgoing = []
            if connection.application is not None:
                # RFC 9114 §5.3: the client learns which of its requests were not handled.
                connection.application.leave(reason, now)
                out = connection.flush(now)
            connection.part(reason)
            return out + connection.flush(now)

        out = self._visit(connection, now, work).datagrams
        self.router.forget(connection)
        return out

    def _is_due(self, message: Message) -> bool:
        """Whether to answer now: a datagram always, a stream at its FIN or when it contains a whole request (R2)."""
        return message.stream_id is None or stream_request_ready(message.data, message.finished)

    def _answer(
        self, connection: ServerConnection, messages: list[Message], received_ns: int, now: float, size: int = 0
    ) -> Outgoing:
        """Answer all requests of one datagram together: prepare drafts, read the clock, seal the packet. size: of the datagram."""
        due = [message for message in messages if self._is_due(message)]
        drafts = [(message, self._draft(connection, message, received_ns, now)) for message in due]
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
        least = size if _promises_length([draft for _, draft in drafts]) else 0
        more, held_back = connection.transmit(datagrams, now, stamp, least)
        self.counters.add("answered", amount=answered + len(datagrams) - held_back)
        self.counters.add("unanswered", "congestion window or amplification limit", held_back)
        return out + more

    def _draft(self, connection: ServerConnection, message: Message, received_ns: int, now: float) -> Draft | Unanswered:
        mode = Mode.DATAGRAM if message.stream_id is None else Mode.STREAM
        self.counters.add("requests", mode)
        most = connection.most_message if mode is Mode.DATAGRAM else MAX_STREAM_SIZE
        draft = self._prepare(message.data, received_ns, mode, most)
        if isinstance(draft, Draft) and draft.signer is not None and not self._may_sign(connection, now):
            return over_quota(mode)
        return draft

    def _prepare(self, data: bytes, received_ns: int, mode: Mode, most: int) -> Draft | Unanswered:
        """The answer to a request in at most so many bytes, if that is possible."""
        draft = self.responder.prepare(data, received_ns, mode)
        if not isinstance(draft, Draft):
            return draft
        draft = draft.within(most)
        self.counters.add("shortened", amount=draft.shortened)
        return draft

    def _may_sign(self, connection: ServerConnection, now: float) -> bool:
        """Whether this client gets one more signature, which is charged."""
        own = connection.signatures
        if own is None:
            rate = self.router.limits.signatures
            own = connection.signatures = Bucket(rate, _SIGNATURES_AT_ONCE * rate)
        if own.refill(now) < 1 or self._signatures.refill(now) < 1:
            return False
        own.take()
        self._signatures.take()
        return True


def _promises_length(drafts: list[Draft | Unanswered]) -> bool:
    """Whether one of these responses is as long as its request (R7): then the UDP datagrams are to be so, too."""
    return any(isinstance(draft, Draft) and draft.tail for draft in drafts)
