"""Peers other than TSQ: a client on plain aioquic, controlled by the test, and servers with wrong answers.

A ForeignClient uses the World's links and timers like a TSQ client. The test decides everything: it opens streams, sends frames,
and chooses ALPN, connection ID lengths and transport parameters.
"""

import ssl
from typing import Any

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.logger import QuicLogger

from tests.support.world import CLIENT, World
from tsq._fast import pack_address
from tsq.quic.udp import Datagram, NetworkPath
from tsq.server.responder import Draft, Responder, Unanswered
from tsq.wire.message import Mode

SERVER = "the server"


def path(number: int) -> NetworkPath:
    """The path of another client."""
    return NetworkPath(pack_address("192.0.2.7", 41000 + number), CLIENT.local)


class ForeignClient:
    """A client on aioquic's public interface alone. `datagram_messages` and `streams` hold what it received."""

    # The World reads this of a session. This client does not use transmit timestamps.
    has_leaving = False

    def __init__(
        self, world: World, *, where: NetworkPath = CLIENT, connect: bool = True, ack_delay: float | None = None, **options: Any
    ) -> None:
        settings: dict[str, Any] = {"alpn_protocols": ["tsq/1"], "max_datagram_frame_size": 65535, **options}
        configuration = QuicConfiguration(is_client=True, server_name="localhost", verify_mode=ssl.CERT_NONE, **settings)
        self.quic = QuicConnection(configuration=configuration)
        if ack_delay is not None:
            self.quic._ack_delay = ack_delay
        self.datagram_messages: list[bytes] = []
        self.streams: dict[int, bytes] = {}
        self.finished: set[int] = set()
        self.reset: dict[int, int] = {}
        self.alpn: str | None = None
        self.established = False
        self.end: events.ConnectionTerminated | None = None
        self._world = world
        # The World has no public method to add a client that is no Channel.
        world._sessions[where] = self  # type: ignore[assignment]
        if connect:
            self.quic.connect(SERVER, world.now)
            world.pump(self)
            world.run(0.1)

    # What the World calls.

    @property
    def deadline(self) -> float | None:
        return None if self.end else self.quic.get_timer()

    def datagrams(self, now: float) -> list[bytes]:
        return [data for data, _ in self.quic.datagrams_to_send(now)]

    def receive(self, datagram: Datagram, now: float) -> None:
        self.quic.receive_datagram(datagram.data, SERVER, now)
        self._drain()

    def handle_timer(self, now: float) -> None:
        self.quic.handle_timer(now)
        self._drain()

    # What tests call.

    def ask(self, *messages: bytes, seconds: float = 0.1) -> list[bytes]:
        """Send these messages as DATAGRAM frames of one packet, let time pass; the answers."""
        before = len(self.datagram_messages)
        for message in messages:
            self.quic.send_datagram_frame(message)
        self._world.pump(self)
        self._world.run(seconds)
        return self.datagram_messages[before:]

    def open(self) -> int:
        """Open a stream; its ID."""
        stream_id = self.quic.get_next_available_stream_id()
        self.streams[stream_id] = b""
        # This sends nothing, but makes aioquic give the next stream another ID.
        self.quic.send_stream_data(stream_id, b"")
        return stream_id

    def write(self, stream_id: int, data: bytes, *, fin: bool, seconds: float = 0.02) -> bytes:
        """Send bytes on a stream, let time pass; all bytes received on it so far."""
        self.quic.send_stream_data(stream_id, data, end_stream=fin)
        self._world.pump(self)
        self._world.run(seconds)
        return self.streams[stream_id]

    def ask_stream(self, message: bytes, *, fin: bool = True) -> bytes:
        """Send one request on its own stream; the answer."""
        return self.write(self.open(), message, fin=fin)

    def _drain(self) -> None:
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, events.DatagramFrameReceived):
                self.datagram_messages.append(event.data)
            elif isinstance(event, events.StreamDataReceived):
                self.streams[event.stream_id] = self.streams.get(event.stream_id, b"") + event.data
                if event.end_stream:
                    self.finished.add(event.stream_id)
            elif isinstance(event, events.StreamReset):
                self.reset[event.stream_id] = event.error_code
            elif isinstance(event, events.ProtocolNegotiated):
                self.alpn = event.alpn_protocol
            elif isinstance(event, events.HandshakeCompleted):
                self.established = True
            elif isinstance(event, events.ConnectionTerminated):
                self.end = event


class WrongServer(Responder):
    """A responder with wrong answers: `answer` makes their bytes from the right answer."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self._answer = answer

    def prepare(self, data: bytes, receive_ns: int, mode: Mode) -> Draft | Unanswered:
        draft = super().prepare(data, receive_ns, mode)
        return _WrongDraft(draft, self._answer) if isinstance(draft, Draft) else draft


class _WrongDraft(Draft):
    __slots__ = ("_answer", "_draft")

    def __init__(self, draft: Draft, answer: Any) -> None:
        super().__init__(draft.nonce, draft.receive_ns)
        object.__setattr__(self, "_draft", draft)
        object.__setattr__(self, "_answer", answer)

    def complete(self, send_ns: int) -> bytes | Unanswered:
        right = self._draft.complete(send_ns)
        return self._answer(right) if isinstance(right, bytes) else right


class Recorder(Responder):
    """The real responder, which also keeps the bytes of each request."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[bytes] = []

    def prepare(self, data: bytes, receive_ns: int, mode: Mode) -> Draft | Unanswered:
        self.requests.append(data)
        return super().prepare(data, receive_ns, mode)


class PacketLog:
    """The frames of a server's packets, from aioquic's own log. Create it before the first connection."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._logger = QuicLogger()
        world.router.configuration.quic_logger = self._logger

    def packets(self, name: str = "packet_sent", packet_type: str = "1RTT") -> list[list[dict[str, Any]]]:
        """The frames of each packet, in order."""
        found = []
        for trace in self._logger.to_dict()["traces"]:
            for event in trace["events"]:
                if event["name"] == f"transport:{name}" and event["data"]["header"]["packet_type"] == packet_type:
                    found.append(event["data"]["frames"])
        return found

    def frames(self, name: str = "packet_sent", packet_type: str = "1RTT") -> list[list[str]]:
        """The frame types of each packet, in order."""
        return [[frame["frame_type"] for frame in packet] for packet in self.packets(name, packet_type)]
