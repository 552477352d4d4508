"""What a client of HTTP/3 can make a server keep or do: aioquic's client against the server without sockets, in virtual time."""

import logging
import os
import random
import tracemalloc

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, FrameType, H3Connection, Setting, encode_frame
from aioquic.h3.events import DatagramReceived, HeadersReceived
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicErrorCode

from tsq._fast import ntp_from_ns, pack_address
from tsq.counters import Counters
from tsq.dataplane.batches import DataPlane
from tsq.http import Request, Response
from tsq.options import Target, WebOptions
from tsq.quic import tls
from tsq.quic.http3 import Http3, HttpLimits, Ledger
from tsq.quic.router import Limits, Router
from tsq.quic.udp import Datagram, NetworkPath
from tsq.server.core import ServerCore
from tsq.server.responder import NoResponse, Responder
from tsq.server.web.access import Quota
from tsq.server.web.site import WebSite
from tsq.wire.message import decode_response, encode_request
from tsq.wire.signature import HmacSigner

T2 = 1_790_000_000_123_456_789


class Facts:
    """A server that pages may tell about."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.draining = self.secrets_stale = False
        self.addresses = [Target("127.0.0.1", 443)]
        self.connections = 0
        self.clock = None
        self.send_delay = (0.0, 0)
        self.certificate_expiry = 4e9


class Pair:
    """A client's aioquic connection and a server without sockets. now: the time of both, seconds."""

    def __init__(self, certificates, *, alpn: str = "h3", limits: HttpLimits | None = None, **settings) -> None:
        self.now = 1000.0
        self.clock_ns = T2
        self.facts = Facts()
        self.ledger = Ledger()
        configuration = tls.server_configuration(str(certificates.certificate), str(certificates.key), more_alpn=("h3",))
        self.router = Router(configuration, self.facts.counters, Limits())
        self.responder = Responder()
        self.site = WebSite(self.facts, self.responder, lambda: "", WebOptions(), http3=True)
        self.limits = limits or HttpLimits()
        self.router.applications = {"h3": lambda connection: Http3(connection, self.site, self.ledger, self.limits)}
        self.core = ServerCore(self.router, self.responder, self.facts.counters, lambda: self.clock_ns, DataPlane())
        self.path = NetworkPath(pack_address("127.0.0.1", 40000), pack_address("127.0.0.1", 443))
        mine = QuicConfiguration(alpn_protocols=[alpn], max_datagram_frame_size=65536, server_name="localhost", **settings)
        mine.load_verify_locations(cafile=str(certificates.authority))
        self.quic = QuicConnection(configuration=mine)
        self.quic.connect(("127.0.0.1", 443), now=self.now)
        self.http: H3Connection | None = None
        self.seen: list[events.QuicEvent] = []
        self.answers: dict[int, int] = {}
        self.datagrams: list[bytes] = []
        self.exchange()

    def exchange(self) -> None:
        """Move datagrams until both ends are silent."""
        for _ in range(200):
            sent = self.quic.datagrams_to_send(self.now)
            back = []
            for data, _ in sent:
                back += self.core.received(Datagram(data, self.path, self.clock_ns, kernel=True), self.now).datagrams
            for connection in self.router.connections:
                due = self.router.deadline(connection)
                if due is not None and due <= self.now:
                    back += self.core.expired(connection, self.now).datagrams
            for data, _ in back:
                self.quic.receive_datagram(data, ("127.0.0.1", 443), self.now)
            self._read()
            if not sent and not back:
                self.now += 0.03
                if (self.quic.get_timer() or self.now + 1) > self.now:
                    return
                self.quic.handle_timer(self.now)

    def _read(self) -> None:
        while (event := self.quic.next_event()) is not None:
            self.seen.append(event)
            if isinstance(event, events.ProtocolNegotiated) and event.alpn_protocol == "h3":
                self.http = H3Connection(self.quic, enable_webtransport=True)
            for found in self.http.handle_event(event) if self.http else ():
                if isinstance(found, HeadersReceived):
                    self.answers[found.stream_id] = int(dict(found.headers)[b":status"])
                elif isinstance(found, DatagramReceived):
                    self.datagrams.append(found.data)

    def wait(self, seconds: float) -> None:
        """Let time pass; the client stays silent, but for what keeps the connection alive."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 5.0)
            self.quic.send_ping(0)
            self.exchange()

    def request(self, path: str = "/livez", method: str = "GET", *more: tuple[bytes, bytes], end: bool = True) -> int:
        stream_id = self.quic.get_next_available_stream_id()
        fields = [(b":method", method.encode()), (b":scheme", b"https"), (b":authority", b"localhost"), (b":path", path.encode())]
        self.http.send_headers(stream_id, [*fields, *more], end_stream=end)
        return stream_id

    def raw(self, data: bytes, *, end: bool = False, unidirectional: bool = False) -> int:
        stream_id = self.quic.get_next_available_stream_id(is_unidirectional=unidirectional)
        self.quic.send_stream_data(stream_id, data, end)
        return stream_id

    def session(self, *more: tuple[bytes, bytes]) -> int:
        stream_id = self.request("/time", "CONNECT", (b":protocol", b"webtransport"), *more, end=False)
        self.exchange()
        return stream_id

    def say(self, stream_id: int, data: bytes) -> None:
        self.http.send_datagram(stream_id, data)

    @property
    def end(self) -> tuple[int, str] | None:
        """(code, reason) with which the server has closed the connection."""
        closed = [event for event in self.seen if isinstance(event, events.ConnectionTerminated)]
        return (closed[0].error_code, closed[0].reason_phrase) if closed else None

    @property
    def server(self):
        (connection,) = self.router.connections
        return connection


@pytest.fixture
def pair(certificates) -> Pair:
    return Pair(certificates)


def ended_with(pair: Pair, code: int) -> None:
    pair.exchange()
    # aioquic reports the end when the draining period is over.
    for _ in range(5):
        pair.now += 5
        if pair.quic.get_timer() is not None:
            pair.quic.handle_timer(pair.now)
        pair.exchange()
    assert pair.end is not None
    assert pair.end[0] == code, pair.end


def test_a_request_and_a_session_work(pair):
    stream_id = pair.request()
    pair.exchange()
    assert pair.answers == {stream_id: 200}
    session = pair.session()
    assert pair.answers[session] == 200
    nonce = os.urandom(16)
    pair.clock_ns = T2 + 250_000
    pair.say(session, encode_request(nonce))
    pair.exchange()
    response = decode_response(pair.datagrams[0])
    assert response.nonce == nonce
    assert response.receive_ntp == response.send_ntp == ntp_from_ns(pair.clock_ns)


def test_a_header_block_over_the_limit_closes_the_connection(pair):
    pair.raw(encode_uint_var(FrameType.HEADERS) + encode_uint_var(1 << 20) + b"\0" * 30_000)
    ended_with(pair, ErrorCode.H3_EXCESSIVE_LOAD)


def test_so_does_a_small_block_that_decodes_to_much(pair):
    # QPACK: one byte for each copy of an entry of the static table with a long value.
    block = b"\0\0" + bytes([0xC0 | 52]) * 4000
    pair.raw(encode_frame(FrameType.HEADERS, block))
    ended_with(pair, ErrorCode.H3_EXCESSIVE_LOAD)


@pytest.mark.parametrize("kind", [FrameType.SETTINGS, FrameType.MAX_PUSH_ID])
def test_a_control_frame_over_the_limit_closes_the_connection(pair, kind):
    control = pair.http._local_control_stream_id
    pair.quic.send_stream_data(control, encode_uint_var(kind) + encode_uint_var(1 << 20) + b"\1" * 20_000)
    pair.exchange()
    ended_with(pair, ErrorCode.H3_FRAME_UNEXPECTED if kind is FrameType.SETTINGS else ErrorCode.H3_EXCESSIVE_LOAD)


def test_frames_of_unknown_types_are_not_kept(pair):
    stream_id = pair.raw(encode_uint_var(0x21) + encode_uint_var(1 << 30))
    for _ in range(50):
        pair.quic.send_stream_data(stream_id, os.urandom(1000))
        pair.exchange()
    assert pair.end is None
    http = pair.server.application._http
    assert len(http._stream[stream_id].buffer) == 0


def test_the_client_may_not_use_the_dynamic_table(pair):
    # RFC 9204 §4.3.1: set its capacity to 220.
    pair.quic.send_stream_data(pair.http._local_encoder_stream_id, b"\x3f\xbd\x01")
    ended_with(pair, ErrorCode.QPACK_ENCODER_STREAM_ERROR)


def test_nor_make_the_server_use_it(certificates):
    pair = Pair(certificates)
    settings = pair.server.application._http.received_settings
    assert settings[Setting.QPACK_MAX_TABLE_CAPACITY] == settings[Setting.QPACK_BLOCKED_STREAMS] == 0
    ours = pair.http.received_settings
    assert ours[Setting.QPACK_MAX_TABLE_CAPACITY] == ours[Setting.QPACK_BLOCKED_STREAMS] == 0
    assert ours[Setting.MAX_FIELD_SECTION_SIZE] == HttpLimits().fields


def test_a_request_that_takes_too_long_closes_the_connection(pair):
    pair.raw(encode_uint_var(FrameType.HEADERS) + encode_uint_var(100) + b"\0\0")
    pair.exchange()
    pair.wait(9)
    assert pair.router.connections
    pair.wait(3)
    ended_with(pair, ErrorCode.H3_EXCESSIVE_LOAD)
    assert pair.ledger.connections == pair.ledger.sending == 0


def test_a_connection_that_only_pings_is_closed(pair):
    session = pair.session()
    for _ in range(3):
        pair.wait(40)
        pair.say(session, encode_request(os.urandom(16)))
        pair.exchange()
    assert len(pair.datagrams) == 3
    pair.wait(65)
    ended_with(pair, ErrorCode.H3_NO_ERROR)
    assert pair.ledger.connections == 0


def test_streams_are_bounded(pair):
    pair.quic._remote_max_streams_bidi = 1000
    for _ in range(17):
        pair.raw(encode_uint_var(FrameType.HEADERS))
    ended_with(pair, QuicErrorCode.STREAM_LIMIT_ERROR)


def test_unidirectional_streams_are_bounded_and_unknown_ones_are_ignored(pair):
    for _ in range(5):
        pair.raw(encode_uint_var(0x21) + b"x" * 50, unidirectional=True)
    pair.exchange()
    stream_id = pair.request()
    pair.exchange()
    assert pair.answers[stream_id] == 200
    pair.quic._remote_max_streams_uni = 1000
    pair.raw(encode_uint_var(0x21), unidirectional=True)
    ended_with(pair, QuicErrorCode.STREAM_LIMIT_ERROR)


def test_a_client_of_tsq_gets_no_unidirectional_streams(certificates):
    pair = Pair(certificates, alpn="tsq/1")
    pair.raw(b"x", unidirectional=True)
    ended_with(pair, QuicErrorCode.STREAM_LIMIT_ERROR)


def test_a_client_that_reads_nothing_gets_a_bounded_part_of_the_memory(certificates):
    pair = Pair(certificates, max_data=2000, max_stream_data=1000)
    # Frozen: the client grants nothing more.
    pair.quic._write_connection_limits = lambda **_: None
    pair.quic._write_stream_limits = lambda **_: None
    pair.limits = HttpLimits()
    for _ in range(14):
        for _ in range(16):
            if pair.quic._streams_blocked_bidi:
                break
            pair.request("/")
        pair.exchange()
    application = pair.server.application
    assert 0 < sum(size for size, _ in application._sending.values()) <= pair.limits.sending
    assert pair.ledger.sending == sum(size for size, _ in application._sending.values())
    pair.wait(35)
    assert not pair.router.connections
    assert pair.ledger.connections == pair.ledger.sending == 0


def test_beyond_that_requests_get_503(certificates):
    pair = Pair(certificates, limits=HttpLimits(sending=20_000), max_data=2000, max_stream_data=1000)
    pair.quic._write_connection_limits = lambda **_: None
    streams = [pair.request("/"), pair.request("/"), pair.request("/livez")]
    pair.exchange()
    held = pair.server.application._sending
    assert held[streams[0]][0] > 10_000
    assert held[streams[1]][0] == 0
    assert 0 < held[streams[2]][0] < 100


def test_connections_with_http3_are_bounded(certificates):
    pair = Pair(certificates, limits=HttpLimits(connections=0))
    # RFC 9000 §10.2.3: what an application says is not for the handshake's packets.
    ended_with(pair, QuicErrorCode.APPLICATION_ERROR)
    assert pair.ledger.connections == 0


def test_a_client_that_asks_too_often_gets_429_and_no_answers_to_datagrams(pair):
    session = pair.session()
    pair.site._quota = Quota(rate=1.0, burst=10.0)
    for _ in range(50):
        pair.say(session, encode_request(os.urandom(16)))
    pair.exchange()
    stream_id = pair.request()
    pair.exchange()
    assert 9 <= len(pair.datagrams) <= 12
    assert pair.answers[stream_id] == 429
    assert pair.facts.counters.get("unanswered", "more than one client may ask over HTTP/3") >= 38
    pair.now += 20
    pair.say(session, encode_request(os.urandom(16)))
    pair.exchange()
    assert 10 <= len(pair.datagrams) <= 13


def test_datagrams_without_a_session_or_after_its_end_are_not_answered(pair):
    pair.say(0, encode_request(os.urandom(16)))
    pair.exchange()
    session = pair.session()
    pair.say(session, b"\1\2\3")
    pair.say(session + 4, encode_request(os.urandom(16)))
    pair.say(session, b"")
    pair.exchange()
    assert pair.datagrams == []
    pair.say(session, encode_request(os.urandom(16)))
    pair.exchange()
    assert len(pair.datagrams) == 1
    pair.http.send_data(session, b"", end_stream=True)
    pair.exchange()
    pair.say(session, encode_request(os.urandom(16)))
    pair.exchange()
    assert len(pair.datagrams) == 1
    assert pair.end is None
    assert session not in pair.server.application._http._stream


def test_sessions_get_no_signatures(pair):
    pair.responder.signer = HmacSigner(1, b"x" * 32)
    session = pair.session()
    pair.say(session, encode_request(os.urandom(16), signature=True))
    pair.exchange()
    assert pair.datagrams == []
    assert pair.facts.counters.get("unanswered", NoResponse.SIGNATURE_QUOTA) == 1


def test_a_datagram_without_a_stream_closes_the_connection(pair):
    pair.session()
    pair.quic.send_datagram_frame(b"\xff")
    ended_with(pair, ErrorCode.H3_DATAGRAM_ERROR)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200), (b"https://localhost", 200), (b"https://localhost:443", 200), (b"https://localhost:4433", 403),
        (b"http://localhost", 403), (b"https://evil.example", 403), (b"null", 403), (b"", 403), (b"https://localhost@evil", 403),
        (b"https://[", 403),
    ],
)  # fmt: skip
def test_pages_of_other_origins_get_no_session(pair, origin, status):
    session = pair.session(*([] if origin is None else [(b"origin", origin)]))
    assert pair.answers[session] == status


def test_sessions_are_bounded_and_other_protocols_refused(pair):
    assert [pair.answers[pair.session()] for _ in range(3)] == [200, 200, 429]
    stream_id = pair.request("/time", "CONNECT", (b":protocol", b"websocket"), end=False)
    pair.exchange()
    assert pair.answers[stream_id] == 501


def test_streams_of_a_session_are_refused(pair):
    session = pair.session()
    for unidirectional in (False, True):
        stream_id = pair.http.create_webtransport_stream(session, is_unidirectional=unidirectional)
        pair.quic.send_stream_data(stream_id, b"x" * 100)
        pair.exchange()
        stopped = [event for event in pair.seen if isinstance(event, events.StopSendingReceived) and event.stream_id == stream_id]
        assert stopped, unidirectional
    pair.say(session, encode_request(os.urandom(16)))
    pair.exchange()
    assert len(pair.datagrams) == 1


def test_cancelled_requests_leave_nothing_behind(pair):
    for number in range(120):
        whole, at_once = number % 2 == 0, number % 3 == 0
        stream_id = pair.request("/", end=whole) if number % 4 < 2 else pair.raw(encode_uint_var(FrameType.HEADERS) + b"\x20")
        if not at_once:
            pair.exchange()
        if stream_id in pair.quic._streams:
            pair.quic.reset_stream(stream_id, 0)
        if stream_id in pair.quic._streams and number % 5:
            pair.quic.stop_stream(stream_id, 0)
        pair.exchange()
    assert pair.end is None
    application = pair.server.application
    assert len(application._http._stream) <= 3
    assert not application._incomplete
    application._prune()
    assert not application._sending
    assert len(pair.server.quic._streams) <= 6


def test_early_requests_get_no_private_pages(pair):
    request = Request("GET", "/metrics", peer="127.0.0.1", early=True)
    assert pair.site.respond(request).status == 425
    assert pair.site.respond(Request("GET", "/metrics", peer="")).status == 403
    assert pair.site.respond(Request("GET", "/metrics", peer="127.0.0.1")).status == 200


def test_a_page_that_fails_is_a_500_and_logged_once(pair, caplog):
    def fail(_: Request) -> Response:
        raise RuntimeError("broken")

    pair.site._far._pages["/livez"] = fail
    for _ in range(3):
        stream_id = pair.request()
        pair.exchange()
        assert pair.answers[stream_id] == 500
    assert len([record for record in caplog.records if "broken" in record.getMessage()]) == 1


def odd_bytes(source: random.Random) -> bytes:
    """Something like frames of HTTP/3."""
    parts = []
    for _ in range(source.randrange(1, 5)):
        kind = source.choice([0, 1, 3, 4, 5, 7, 0xD, 0x41, 0x21, source.randrange(1 << 20)])
        body = source.choice(
            [b"", source.randbytes(source.randrange(60)), b"\0\0\xd1\xd7\x50\x01a\xc1", b"\0\0" + source.randbytes(20), b"\0\0\xd1"]
        )
        size = len(body) if source.random() < 0.8 else source.randrange(1 << 14)
        parts.append(encode_uint_var(kind) + encode_uint_var(size) + body)
    data = bytearray(b"".join(parts))
    for _ in range(source.randrange(3)):
        data[source.randrange(len(data))] = source.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("seed", range(int(os.environ.get("TSQ_SEEDS", "40"))))
def test_no_bytes_of_a_client_make_the_server_fail(certificates, caplog, seed):
    source = random.Random(seed)
    pair = Pair(certificates)
    with caplog.at_level(logging.ERROR):
        for _ in range(12):
            if pair.end is not None or pair.quic._close_event is not None:
                break
            choice = source.randrange(8)
            if choice < 4:
                pair.raw(odd_bytes(source), end=source.random() < 0.5)
            elif choice == 4 and pair.quic._remote_max_streams_uni > 7:
                pair.raw(encode_uint_var(source.choice([0, 1, 2, 3, 0x54, 0x21])) + odd_bytes(source), unidirectional=True)
            elif choice == 5:
                pair.quic.send_datagram_frame(source.randbytes(source.randrange(40)))
            elif choice == 6 and pair.quic._streams:
                stream_id = source.choice([one for one in pair.quic._streams if one % 4 == 0] or [0])
                if stream_id in pair.quic._streams:
                    pair.quic.reset_stream(stream_id, source.randrange(1 << 16))
            else:
                pair.session()
            pair.exchange()
    assert not [record.getMessage() for record in caplog.records if record.name.startswith("tsq")]
    for connection in pair.router.connections:
        assert connection.terminated is None or connection.terminated.error_code != QuicErrorCode.INTERNAL_ERROR
        pair.router.forget(connection)
    assert pair.ledger.connections == pair.ledger.sending == 0


def test_a_connection_with_http3_costs_a_bounded_amount_of_memory(certificates):
    pairs = [Pair(certificates) for _ in range(3)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for pair in pairs:
            for _ in range(16):
                pair.raw(encode_uint_var(FrameType.HEADERS) + encode_uint_var(8000) + b"\0" * 3000)
                pair.exchange()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert all(pair.end is None for pair in pairs)
    # Both ends: 16 streams of 3000 bytes each, on each side, and what tracks them.
    assert grown / len(pairs) < 16 * 2 * 3 * 3000
