"""aioquic's own HTTP/3 client, for tests: requests, WebTransport sessions, and whatever bytes a test wants to send."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DatagramReceived, DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, ProtocolNegotiated, QuicEvent, StreamReset

from tsq.options import Target
from tsq.quic.selfsigned import CertificateFiles

PATIENCE = 60.0


@dataclass
class Answer:
    """What came on a stream. over: at its end, or when it was reset."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    began: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def status(self) -> int:
        return int(self.headers.get(":status", "0"))


class Client(QuicConnectionProtocol):
    """A connection that negotiated h3."""

    def __init__(self, *values, **options) -> None:
        super().__init__(*values, **options)
        self.http: H3Connection | None = None
        self.answers: dict[int, Answer] = {}
        self.datagrams: asyncio.Queue[bytes] = asyncio.Queue()
        self.ended: ConnectionTerminated | None = None
        self.end = asyncio.Event()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self.http = H3Connection(self._quic, enable_webtransport=True)
        if isinstance(event, ConnectionTerminated):
            self.ended = event
            self.end.set()
            for answer in self.answers.values():
                answer.over.set()
        if isinstance(event, StreamReset) and event.stream_id in self.answers:
            self.answers[event.stream_id].over.set()
        for found in self.http.handle_event(event) if self.http is not None else ():
            if isinstance(found, DatagramReceived):
                self.datagrams.put_nowait(found.data)
            if not isinstance(found, HeadersReceived | DataReceived) or found.stream_id not in self.answers:
                continue
            answer = self.answers[found.stream_id]
            if isinstance(found, HeadersReceived):
                answer.headers = {name.decode(): value.decode() for name, value in found.headers}
                answer.began.set()
            else:
                answer.body += found.data
            if found.stream_ended:
                answer.over.set()

    def send(self, method: str, path: str, *more: tuple[str, str], end: bool = True) -> tuple[int, Answer]:
        """Send a request; its stream, and what will come."""
        stream_id = self._quic.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path), *more]
        self.answers[stream_id] = answer = Answer()
        self.http.send_headers(stream_id, [(name.encode(), value.encode()) for name, value in fields], end_stream=end)
        self.transmit()
        return stream_id, answer

    def raw(self, data: bytes, *, end: bool = False, unidirectional: bool = False) -> int:
        """Send these bytes on a new stream."""
        stream_id = self._quic.get_next_available_stream_id(is_unidirectional=unidirectional)
        self.answers[stream_id] = Answer()
        self._quic.send_stream_data(stream_id, data, end)
        self.transmit()
        return stream_id

    async def ask(self, path: str, *more: tuple[str, str], method: str = "GET") -> Answer:
        """A whole request and its answer."""
        _, answer = self.send(method, path, *more)
        async with asyncio.timeout(PATIENCE):
            await answer.over.wait()
        return answer

    async def session(self, path: str = "/time", *more: tuple[str, str]) -> tuple[int, Answer]:
        """A WebTransport session: its stream, the answer to CONNECT."""
        stream_id, answer = self.send("CONNECT", path, (":protocol", "webtransport"), *more, end=False)
        async with asyncio.timeout(PATIENCE):
            await answer.began.wait()
        return stream_id, answer

    def say(self, stream_id: int, data: bytes) -> None:
        """Send a datagram of a session."""
        self.http.send_datagram(stream_id, data)
        self.transmit()

    async def heard(self) -> bytes:
        """The next datagram."""
        async with asyncio.timeout(PATIENCE):
            return await self.datagrams.get()

    async def closed(self) -> ConnectionTerminated:
        """Why the server closed the connection."""
        async with asyncio.timeout(PATIENCE):
            await self.end.wait()
        return self.ended


@contextlib.asynccontextmanager
async def client(server: Target, certificates: CertificateFiles, alpn: str = "h3", **settings) -> AsyncIterator[Client]:
    """A connection to this server."""
    configuration = QuicConfiguration(alpn_protocols=[alpn], max_datagram_frame_size=65536, server_name="localhost", **settings)
    configuration.load_verify_locations(cafile=str(certificates.authority))
    async with connect(server.host, server.port, configuration=configuration, create_protocol=Client) as protocol:
        yield protocol
