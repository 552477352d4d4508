"""One QUIC connection that carries TSQ messages, on both planes, without I/O (RFC 9000, RFC 9221; docs/reference/protocol.md).

Comes in: received datagrams, messages to send, the time for timers. Goes out: received messages, datagrams to send, the next
deadline. It must never queue a message that cannot be sent at once, never raise anything but TSQ's errors for what the network
sent, and never read the contents of a message.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicErrorCode

from tsq._fast import DATAGRAM_CAPACITY, FRAME_OVERHEAD, MOST_MESSAGE
from tsq.errors import TransportError
from tsq.quic.aioquic import internals
from tsq.quic.aioquic.offload import HandOver
from tsq.quic.aioquic.shared_connection import SharedConnection
from tsq.quic.budget import Throttle
from tsq.wording import counted

if TYPE_CHECKING:
    from tsq.dataplane.batches import DataPlane

__all__ = ["NO_ERROR", "PROTOCOL_VIOLATION", "Connection", "Message", "Outgoing", "QuicConfiguration"]

NO_ERROR = int(QuicErrorCode.NO_ERROR)
PROTOCOL_VIOLATION = int(QuicErrorCode.PROTOCOL_VIOLATION)

T = TypeVar("T")
Outgoing = list[tuple[bytes, object]]

logger = logging.getLogger(__name__)

# What the data plane puts into one packet: fits beside the longest header and ACK frame that it makes.
_MOST_SEALED = 900
# The largest message on a stream. One in a DATAGRAM frame is smaller than its UDP datagram, of which as much is read.
MAX_STREAM_SIZE = DATAGRAM_CAPACITY
# A peer that knows how to cause a failure must not fill the log with it.
_failures = Throttle(10.0)


@dataclass(frozen=True, slots=True)
class Message:
    """A received message. stream_id: None for Datagram Mode. finished: no more will come on the stream."""

    data: bytes
    stream_id: int | None = None
    finished: bool = True


class Application(Protocol):
    """Another protocol than TSQ on a connection that negotiated it, such as HTTP/3.

    deadline: when `expired` is due; None for never. no_error: the code with which its connections are closed where nothing is
    wrong (RFC 9000 §20.2).
    """

    no_error: int

    @property
    def deadline(self) -> float | None: ...

    def take(self, event: events.QuicEvent) -> None:
        """Take an event of a stream or a datagram."""

    def answer(self, path: object, received_ns: int, clock: Callable[[], int], now: float) -> tuple[bool, float]:
        """Answer what came in one UDP datagram: (whether to send at once, work in units of one packet)."""

    def expired(self, now: float) -> None:
        """Act on deadlines that have passed."""

    def go_away(self) -> None:
        """Tell the peer to ask elsewhere from now on; what it asks all the same is answered."""

    def leave(self, reason: str, now: float) -> None:
        """Take no more, and close the connection when all is answered, or after some time."""

    def drop(self) -> None:
        """Release what it holds."""


_FOR_APPLICATIONS = (
    events.DatagramFrameReceived,
    events.StreamDataReceived,
    events.StreamReset,
    events.StopSendingReceived,
)


class Connection:
    """What client and server connections have in common. `path` is opaque here: it comes in and goes out with datagrams.

    Call `take_back` before anything is done through aioquic, `hand_over` after everything: the planes never work at the same time.
    left_out: how many messages were dropped because one packet brought too many. too_large: how many streams were reset because of
    the size of their message. application: what serves this connection in place of TSQ's messages; None for a connection of TSQ.
    """

    def __init__(self, quic: SharedConnection) -> None:
        internals.check(quic)
        self.quic = quic
        self.plane: HandOver | None = None
        self.handshake: events.HandshakeCompleted | None = None
        self.terminated: events.ConnectionTerminated | None = None
        self.alpn: str | None = None
        self.application: Application | None = None
        self.issued: list[bytes] = []
        self.retired: list[bytes] = []
        self.left_out = self.too_large = 0
        # Both hold streams that are open only: as many as the peer may open.
        self._streams: dict[int, bytearray] = {}
        self._stopped: set[int] = set()

    @property
    def timer(self) -> float | None:
        """When `handle_timer` is due."""
        return None if self.terminated else self.quic.get_timer()

    @property
    def peer_takes_datagrams(self) -> bool:
        """Whether the peer takes DATAGRAM frames that hold at least a plain message."""
        return internals.peer_datagram_limit(self.quic) >= 64

    @property
    def peer_takes_streams(self) -> bool:
        """Whether the peer allows streams."""
        return internals.peer_stream_limit(self.quic) > 0

    def receive_on(self, path: object, data: bytes, now: float) -> list[Message]:
        """Take one UDP datagram that came on this path. Return the messages in it."""
        self._guarded(lambda: self.quic.receive_datagram(data, path, now), None)
        if self.plane is not None and self.plane.rekeyed_too_often(now):
            self.quic.close(error_code=QuicErrorCode.KEY_UPDATE_ERROR, reason_phrase="too many key updates")
        return self._drain()

    def take_account(self) -> tuple[int, tuple[str, ...]]:
        """(frames handled, why packets were dropped) since the last call."""
        quic = self.quic
        account = quic.frames, quic.dropped
        quic.frames, quic.dropped = 0, ()
        return account

    def handle_timer(self, now: float) -> list[Message]:
        """Act on deadlines that have passed."""
        due = self.timer
        if due is not None and due <= now:
            self._guarded(lambda: self.quic.handle_timer(now), None)
        return self._drain()

    @property
    def most_message(self) -> int:
        """The largest message for this peer in a DATAGRAM frame, bytes."""
        return min(MOST_MESSAGE, internals.peer_datagram_limit(self.quic) - FRAME_OVERHEAD)

    def can_send_datagram(self, data: bytes) -> bool:
        """Whether this message fits a DATAGRAM frame that the peer takes (RFC 9221 §3) and a packet."""
        return len(data) <= self.most_message

    def send_datagram(self, data: bytes) -> None:
        """Put a message into the next packet. Raises TransportError where it fits no frame that the peer takes."""
        if not self.can_send_datagram(data):
            # aioquic would keep such a frame for ever, and all behind it.
            raise TransportError(
                f"a message of {len(data)} bytes",
                expected="one that fits a DATAGRAM frame that the peer takes",
                section="RFC 9221 §3",
            )
        self.quic.send_datagram_frame(data)

    def can_send_stream(self, stream_id: int) -> bool:
        """Whether the stream still takes a message: the peer may have cancelled it (RFC 9000 §3.5), or closed it long ago."""
        return internals.stream_takes_data(self.quic, stream_id)

    def send_stream(self, stream_id: int, data: bytes) -> None:
        """Send a whole message, and FIN, on a stream."""
        self.quic.send_stream_data(stream_id, data, end_stream=True)

    def stream_done(self, stream_id: int, finished: bool) -> None:
        """Forget what came on a stream. Stop one that the peer has not finished, so that it does not stay for ever."""
        self._streams.pop(stream_id, None)
        if not finished and internals.stream_is_receiving(self.quic, stream_id):
            self._stopped.add(stream_id)
            self.quic.stop_stream(stream_id, QuicErrorCode.NO_ERROR)

    def _transmit(self, messages: list[bytes], now: float) -> tuple[Outgoing, int]:
        """As `transmit`, through aioquic alone."""
        if self.terminated is not None:
            return [], len(messages)
        for message in messages:
            self.send_datagram(message)
        internals.acknowledge_now(self.quic)
        return self.flush(now), internals.drop_unsent_datagrams(self.quic)

    def attach(self, data_plane: "DataPlane | None") -> None:
        """Let the data plane serve this connection as soon as it is eligible. data_plane: the server's table; None for a client."""
        self.plane = HandOver(data_plane, self.quic)

    def transmit(
        self, messages: list[bytes], now: float, stamp: tuple[bytes, int] | None = None, least: int = 0
    ) -> tuple[Outgoing, int]:
        """(datagrams to send now, how many of these messages were dropped because they could not be sent).

        The data plane seals the messages where it can. Then aioquic expects no acknowledgment of them. stamp: (nonce, T3) of the
        response whose transmit timestamp was requested. least: if it is sealed there, make the datagram with all messages as
        large as this (R7).
        """
        if self.plane is None or not messages or any(len(message) > _MOST_SEALED for message in messages):
            self.take_back()
            return self._transmit(messages, now)
        out = self.clear(now)
        if not self.plane.active:
            more, held_back = self._transmit(messages, now)
            if stamp is not None and len(messages) == len(more) == 1:
                # Everything else has been sent: this datagram holds the response.
                [(data, path)] = more
                more = [(data, self.plane.stamped(path, stamp))]
            return out + more, held_back
        groups = _packets(messages)
        for number, group in enumerate(groups):
            # Of several packets it is not known which one holds the response whose transmit timestamp was requested.
            sealed = self.plane.seal(group, now, stamp, least) if len(groups) == 1 else self.plane.seal(group, now)
            if sealed is None:
                return out, sum(map(len, groups[number:]))
            out.append(sealed)
        return out, 0

    def take_report(self) -> str:
        """The transmit timestamp of an earlier response, to be reported once (R12); "" where there is none."""
        return "" if self.plane is None else self.plane.report()

    def clear(self, now: float) -> Outgoing:
        """Hand the connection over to the data plane, where possible. Return what the control plane had to send before."""
        if self.plane is None or self.plane.active or self.terminated is not None:
            return []
        if self.handshake is not None and not self.plane.path_validated:
            # A client at a new address may be sent three times what it sent (RFC 9000 §8.1): let the response travel with the
            # challenge.
            return []
        out = self.flush(now)
        self.hand_over(now)
        return out

    def take_back(self) -> None:
        """Take the connection back from the data plane. Call this before anything is done through aioquic."""
        if self.plane is not None:
            self.plane.take_back()

    def hand_over(self, now: float) -> None:
        """Hand the connection over to the data plane. Call this when everything is done and sent."""
        if self.plane is not None and self.terminated is None and not self.plane.active:
            self.plane.hand_over(now)

    def drop(self) -> None:
        """Release what the connection holds. Call this when it is forgotten."""
        if self.plane is not None:
            self.plane.drop()

    def flush(self, now: float) -> Outgoing:
        """Datagrams to send when there is no message to send: acknowledgments wait for their time."""
        if self.terminated is not None:
            return []
        nothing: Outgoing = []
        out = self._guarded(lambda: self.quic.datagrams_to_send(now), nothing)
        # Messages have been read already. Connection IDs are left: the peer may use them as soon as they are sent.
        while (event := self.quic.next_event()) is not None:
            self._note(event)
        return out

    def close(self, error_code: int = QuicErrorCode.NO_ERROR, reason: str = "") -> None:
        """Close; `flush` gives the last datagram."""
        self.quic.close(error_code=error_code, reason_phrase=reason)

    def _guarded(self, call: Callable[[], T], otherwise: T) -> T:
        """Call into the QUIC stack. A failure there ends this connection and no other."""
        try:
            return call()
        except Exception as error:
            self.fail(error)
            return otherwise

    def fail(self, error: Exception) -> None:
        """End the connection at once, because of an unexpected failure; nothing is sent."""
        count = _failures.due(time.monotonic())
        if count:
            trace = logger.isEnabledFor(logging.DEBUG)
            logger.error("the QUIC stack failed: %s ended, the last by %r", counted(count, "connection"), error, exc_info=trace)
        self.terminated = events.ConnectionTerminated(QuicErrorCode.INTERNAL_ERROR, None, f"internal error: {error!r}")

    def _drain(self) -> list[Message]:
        messages: list[Message] = []
        touched: dict[int, bool] = {}
        while (event := self.quic.next_event()) is not None:
            if self.application is not None and isinstance(event, _FOR_APPLICATIONS):
                self.application.take(event)
            elif isinstance(event, events.DatagramFrameReceived):
                if len(messages) < self.quic.limits.messages:
                    messages.append(Message(event.data))
                else:
                    self.left_out += 1
            elif isinstance(event, events.StreamDataReceived):
                self._collect(event, touched)
            elif isinstance(event, events.StreamReset):
                self._stopped.discard(event.stream_id)
                self._cancelled(event.stream_id, touched)
            elif isinstance(event, events.StopSendingReceived):
                self._cancelled(event.stream_id, touched)
            else:
                self._note(event)
        for stream_id, finished in touched.items():
            messages.append(Message(bytes(self._streams[stream_id]), stream_id, finished))
        return messages

    def _cancelled(self, stream_id: int, touched: dict[int, bool]) -> None:
        """The peer cancelled a stream, in one direction or both. That is no error."""
        self._streams.pop(stream_id, None)
        touched.pop(stream_id, None)

    def _note(self, event: events.QuicEvent) -> None:
        """Note an event that concerns the whole connection."""
        if isinstance(event, events.ProtocolNegotiated):
            self.alpn = event.alpn_protocol
        elif isinstance(event, events.HandshakeCompleted):
            self.handshake = event
        elif isinstance(event, events.ConnectionIdIssued):
            self.issued.append(event.connection_id)
        elif isinstance(event, events.ConnectionIdRetired):
            self.retired.append(event.connection_id)
        elif isinstance(event, events.ConnectionTerminated):
            self.terminated = event

    def _collect(self, event: events.StreamDataReceived, touched: dict[int, bool]) -> None:
        """Add to a stream's bytes. They are read when the whole datagram has been processed (R2: "in the same read")."""
        if event.stream_id in self._stopped:
            if event.end_stream:
                self._stopped.discard(event.stream_id)
            return
        collected = self._streams.setdefault(event.stream_id, bytearray())
        if len(collected) + len(event.data) > MAX_STREAM_SIZE:
            self.too_large += 1
            self.stream_done(event.stream_id, event.end_stream)
            self.quic.reset_stream(event.stream_id, QuicErrorCode.APPLICATION_ERROR)
            touched.pop(event.stream_id, None)
            return
        collected += event.data
        touched[event.stream_id] = event.end_stream or touched.get(event.stream_id, False)


def _packets(messages: list[bytes]) -> list[list[bytes]]:
    """The messages in groups that fit a packet each, in order."""
    groups: list[list[bytes]] = []
    room = 0
    for message in messages:
        size = len(message) + 1 + FRAME_OVERHEAD
        if size > room:
            groups.append([])
            room = _MOST_SEALED
        groups[-1].append(message)
        room -= size
    return groups
