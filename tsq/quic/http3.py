"""HTTP/3 on a server's connection: requests, and WebTransport sessions with datagrams (RFC 9114, RFC 9220, RFC 9297).

Comes in: QUIC events of a connection that negotiated h3, what a Site answers. Goes out: responses and datagrams on that connection.
It must never keep more for a client than HttpLimits says, never wait for a request's body, and never queue a datagram.
"""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from math import inf
from typing import Protocol

from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode
from aioquic.h3.events import DatagramReceived, DataReceived, H3Event, HeadersReceived, WebTransportStreamDataReceived
from aioquic.quic import events

from tsq._fast import unpack_address
from tsq.http import Request, Response
from tsq.quic.aioquic import internals
from tsq.quic.aioquic.http3 import BoundedHttp3
from tsq.quic.server_connection import ServerConnection
from tsq.quic.udp import NetworkPath

_UNIDIRECTIONAL = 2
# A page costs about as much as so many packets of the control plane; so does each KiB of header fields that were decoded.
_REQUEST_UNITS = 2.0
_DATAGRAM_UNITS = 0.5
_FIELDS_A_UNIT = 1024
# RFC 9001 §6.6 forbids 2^23 packets under one key, and pages never need so many.
_MOST_PACKETS = 1 << 22
# RFC 9114 §5.2: the last stream of a request that there can be, so that a GOAWAY with it refuses none.
_LAST_REQUEST = (1 << 62) - 4
# Capsules of a session (draft-ietf-webtrans-http3 §4.6, §5): it should end soon; it has ended.
_DRAIN_SESSION, _CLOSE_SESSION = 0x78AE, 0x2843


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What HTTP/3 may cost a server beside what its connections cost already.

    connections: of all clients. encoded: bytes of a header block. fields: size of a header section (RFC 9114 §4.2.2). sessions:
    WebTransport sessions of one connection. sending: bytes of responses of one connection that are not acknowledged; a request
    beyond that gets status 503. all_sending: the same for all connections. request_timeout: seconds from the first byte of a
    request to the end of its header section. response_timeout: seconds until a response is acknowledged. idle_timeout: seconds
    without a request or a datagram of a session; PING alone does not keep a connection. leave_timeout: seconds that a client has to
    get its last answers when the server goes.
    """

    connections: int = 1000
    encoded: int = 8192
    fields: int = 16384
    sessions: int = 2
    sending: int = 256 * 1024
    all_sending: int = 32 * 1024 * 1024
    request_timeout: float = 10.0
    response_timeout: float = 30.0
    idle_timeout: float = 60.0
    leave_timeout: float = 2.0


class Site(Protocol):
    """What a server answers."""

    def respond(self, request: Request) -> Response:
        """The response to a request."""

    def opens(self, request: Request) -> int:
        """The status for a client that opens a WebTransport session."""

    def datagram(self, data: bytes, received_ns: int) -> Callable[[int], bytes | None] | None:
        """The answer to a session's datagram: makes its bytes from the time at which it is sent. None for no answer."""

    def admits(self, peer: str, cost: float, now: float) -> bool:
        """Whether this client may ask for so much more."""


class Ledger:
    """What all connections with HTTP/3 of one server hold together."""

    def __init__(self) -> None:
        self.connections = 0
        self.sending = 0


class Http3:
    """HTTP/3 on one connection. Implements `tsq.quic.connection.Application`."""

    no_error = int(ErrorCode.H3_NO_ERROR)

    def __init__(self, connection: ServerConnection, site: Site, ledger: Ledger, limits: HttpLimits) -> None:
        self._connection = connection
        self._quic = connection.quic
        self._site = site
        self._ledger = ledger
        self._limits = limits
        self._http = BoundedHttp3(connection.quic, most_encoded=limits.encoded, most_fields=limits.fields, sessions=limits.sessions)
        self._events: list[H3Event] = []
        # Streams whose header section is not complete, since when; in the order of their age.
        self._incomplete: dict[int, float | None] = {}
        # Responses that are not acknowledged: (bytes, since when).
        self._sending: dict[int, tuple[int, float]] = {}
        self._sessions: set[int] = set()
        self._active_at = connection.created
        # The stream of the newest request; from which on requests are rejected, and until when the connection is closed.
        self._newest = -4
        self._rejects_from: int | None = None
        self._leave_by = inf
        self._reason = ""
        self._goes = False
        self._counted = True
        ledger.connections += 1
        if ledger.connections > limits.connections:
            connection.close(ErrorCode.H3_EXCESSIVE_LOAD, "too many connections with HTTP/3")

    @property
    def deadline(self) -> float:
        """When a request or a response takes too long, or the connection is idle for too long."""
        limits = self._limits
        waits = [since + limits.request_timeout for since in self._incomplete.values() if since is not None]
        waits += [since + limits.response_timeout for _, since in self._sending.values()]
        return min([*waits, self._active_at + limits.idle_timeout, self._leave_by])

    def take(self, event: events.QuicEvent) -> None:
        """Take an event of a stream or a datagram."""
        if isinstance(event, events.StreamDataReceived) and not event.stream_id & _UNIDIRECTIONAL:
            if self._rejects_from is not None and event.stream_id >= self._rejects_from:
                self._reject(event.stream_id)
                return
            self._newest = max(self._newest, event.stream_id)
            self._incomplete.setdefault(event.stream_id, None)
        self._events += self._http.handle_event(event)
        if isinstance(event, events.StreamReset | events.StopSendingReceived):
            self._cancelled(event.stream_id)

    def answer(self, path: object, received_ns: int, clock: Callable[[], int], now: float) -> tuple[bool, float]:
        """Answer what came in one UDP datagram: (whether to send at once, work in units of one packet)."""
        todo, self._events = self._events, []
        if todo:
            self._active_at = now
        work = 0.0
        datagrams: list[bytes] = []
        for event in todo:
            if isinstance(event, HeadersReceived):
                work += _REQUEST_UNITS
                self._headers(event, path, received_ns, clock, now)
            elif isinstance(event, DatagramReceived):
                work += _DATAGRAM_UNITS
                if event.stream_id in self._sessions and len(datagrams) < self._quic.limits.messages:
                    datagrams.append(encode_uint_var(event.stream_id // 4) + event.data)
            elif isinstance(event, DataReceived | WebTransportStreamDataReceived):
                self._data(event)
        self._note_times(now)
        answered = self._answer_datagrams(datagrams, received_ns, clock, now)
        work += self._http.decoded / _FIELDS_A_UNIT
        self._http.decoded = 0
        if internals.packets_sent(self._quic) > _MOST_PACKETS:
            self._connection.close(ErrorCode.H3_NO_ERROR, "the connection is old")
        self._end_when_done()
        return answered or bool(todo), work

    def expired(self, now: float) -> None:
        """End the connection where a request or a response takes too long, or nothing comes."""
        self._prune()
        if self.deadline > now:
            return
        idle = self._active_at + self._limits.idle_timeout <= now
        leaves = self._leave_by <= now
        self._incomplete.clear()
        self._forget_sending()
        # Not again while the connection closes.
        self._active_at = self._leave_by = inf
        if leaves:
            self._connection.close(ErrorCode.H3_NO_ERROR, self._reason)
        elif idle:
            self._connection.close(ErrorCode.H3_NO_ERROR, "idle")
        else:
            self._connection.close(ErrorCode.H3_EXCESSIVE_LOAD, "a request or a response took too long")

    def go_away(self) -> None:
        """Tell the client to send requests elsewhere from now on. Those that it sends all the same are answered."""
        if self._goes:
            return
        self._goes = True
        self._http.send_goaway(_LAST_REQUEST)
        for stream_id in self._sessions:
            self._http.send_data(stream_id, _capsule(_DRAIN_SESSION), end_stream=False)

    def leave(self, reason: str, now: float) -> None:
        """Handle the requests that have begun to come, and none after them; then close the connection."""
        if self._rejects_from is not None:
            return
        self.go_away()
        self._reason, self._rejects_from = reason, self._newest + 4
        self._leave_by = now + self._limits.leave_timeout
        self._http.send_goaway(self._rejects_from)
        for stream_id in self._sessions:
            if internals.stream_takes_data(self._quic, stream_id):
                self._http.send_data(stream_id, _capsule(_CLOSE_SESSION, bytes(4) + reason.encode()), end_stream=True)
        self._sessions.clear()

    def _end_when_done(self) -> None:
        """Close the connection of a server that leaves, when the client has all answers and knows what was not handled."""
        if self._rejects_from is None or self._incomplete:
            return
        self._prune()
        if not self._sending and internals.stream_is_acknowledged(self._quic, self._http.control_stream):
            self._connection.close(ErrorCode.H3_NO_ERROR, self._reason)

    def _reject(self, stream_id: int) -> None:
        """A request that comes too late. The client may send it again, elsewhere (RFC 9114 §4.1.1)."""
        self._quic.reset_stream(stream_id, ErrorCode.H3_REQUEST_REJECTED)
        if internals.stream_is_receiving(self._quic, stream_id):
            self._quic.stop_stream(stream_id, ErrorCode.H3_REQUEST_REJECTED)

    def drop(self) -> None:
        """Release what the connection holds."""
        if self._counted:
            self._counted = False
            self._ledger.connections -= 1
        self._forget_sending()
        self._incomplete.clear()
        self._sessions.clear()
        self._events.clear()

    def _note_times(self, now: float) -> None:
        """Begin to count the time of what came now."""
        for stream_id, since in self._incomplete.items():
            if since is None:
                self._incomplete[stream_id] = now

    def _headers(self, event: HeadersReceived, path: object, received_ns: int, clock: Callable[[], int], now: float) -> None:
        stream_id = event.stream_id
        if self._incomplete.pop(stream_id, False) is False:
            # Trailers.
            return
        fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
        method, target = fields.get(":method", ""), fields.get(":path", "")
        request = Request(
            method,
            target.partition("?")[0],
            fields,
            self._peer(path),
            received_ns,
            early=self._connection.handshake is None,
        )
        if not self._admits(now):
            self._respond(stream_id, request, Response(429, b"too many requests\n"), clock, now)
        elif method == "CONNECT":
            self._connect(stream_id, request, event.stream_ended, clock, now)
            return
        else:
            self._respond(stream_id, request, self._site.respond(request), clock, now)
        if not event.stream_ended:
            # RFC 9114 §4.1: the response is complete, and the rest of the request is of no use.
            self._quic.stop_stream(stream_id, ErrorCode.H3_NO_ERROR)

    def _connect(self, stream_id: int, request: Request, ended: bool, clock: Callable[[], int], now: float) -> None:
        """Open a WebTransport session (draft-ietf-webtrans-http3 §3.2)."""
        if request.headers.get(":protocol") != "webtransport" or ended:
            status = 501
        elif len(self._sessions) >= self._limits.sessions:
            status = 429
        else:
            status = self._site.opens(request)
        if status == 200:
            self._sessions.add(stream_id)
            self._http.send_headers(stream_id, [(b":status", b"200"), (b"sec-webtransport-http3-draft", b"draft02")])
            return
        self._respond(stream_id, request, Response(status), clock, now)
        if not ended:
            self._quic.stop_stream(stream_id, ErrorCode.H3_NO_ERROR)

    def _respond(self, stream_id: int, request: Request, response: Response, clock: Callable[[], int], now: float) -> None:
        if not internals.stream_takes_data(self._quic, stream_id):
            return
        self._prune()
        sending = sum(size for size, _ in self._sending.values())
        body = b"" if request.method == "HEAD" else response.body
        if sending + len(body) > self._limits.sending or self._ledger.sending + len(body) > self._limits.all_sending:
            response, body = Response(503, headers=(("Retry-After", "1"),)), b""
        if response.complete is not None and request.method != "HEAD":
            body = response.complete(clock())
        fields = [(":status", str(response.status)), *response.fields]
        if request.method != "HEAD":
            # RFC 9110 §9.3.2 leaves it out for HEAD where it is not known, and some clients take it for what must come.
            fields.append(("content-length", str(len(body))))
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in fields]
        self._http.send_headers(stream_id, headers, end_stream=not body)
        if body:
            self._http.send_data(stream_id, body, end_stream=True)
        self._sending[stream_id] = (len(body), now)
        self._ledger.sending += len(body)

    def _answer_datagrams(self, datagrams: list[bytes], received_ns: int, clock: Callable[[], int], now: float) -> bool:
        """Answer the datagrams of sessions; whether anything is to be sent."""
        drafts: list[tuple[bytes, Callable[[int], bytes | None]]] = []
        for datagram in datagrams:
            size = 1 << (datagram[0] >> 6)
            draft = self._site.datagram(datagram[size:], received_ns) if self._admits(now) else None
            if draft is not None:
                drafts.append((datagram[:size], draft))
        send_ns = clock() if drafts else 0
        for prefix, draft in drafts:
            data = draft(send_ns)
            if data is not None and self._connection.can_send_datagram(prefix + data):
                self._connection.send_datagram(prefix + data)
        return bool(drafts)

    def _data(self, event: DataReceived | WebTransportStreamDataReceived) -> None:
        """The content of requests and of sessions' streams is not used."""
        stream_id = event.stream_id
        if isinstance(event, WebTransportStreamDataReceived):
            self._incomplete.pop(stream_id, None)
            if internals.stream_is_receiving(self._quic, stream_id):
                self._quic.stop_stream(stream_id, ErrorCode.H3_REQUEST_REJECTED)
            if not stream_id & _UNIDIRECTIONAL:
                self._quic.reset_stream(stream_id, ErrorCode.H3_REQUEST_REJECTED)
                self._http.sends_no_more(stream_id)
        elif stream_id in self._sessions and event.stream_ended:
            self._sessions.discard(stream_id)
            if internals.stream_takes_data(self._quic, stream_id):
                self._http.send_data(stream_id, b"", end_stream=True)

    def _cancelled(self, stream_id: int) -> None:
        """The client cancelled a stream, in one direction or both: end both, so that it may open another."""
        self._incomplete.pop(stream_id, None)
        self._sessions.discard(stream_id)
        if stream_id & _UNIDIRECTIONAL:
            return
        self._quic.reset_stream(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
        self._http.sends_no_more(stream_id)
        if internals.stream_is_receiving(self._quic, stream_id):
            self._quic.stop_stream(stream_id, ErrorCode.H3_REQUEST_CANCELLED)

    def _admits(self, now: float) -> bool:
        """Whether the client may ask once more. It pays by the address of its handshake: that of a packet may be forged."""
        return self._site.admits(_host(self._connection.path), 1.0, now)

    def _prune(self) -> None:
        """Forget responses that have been acknowledged."""
        for stream_id in [one for one in self._sending if not internals.stream_is_sending(self._quic, one)]:
            self._ledger.sending -= self._sending.pop(stream_id)[0]

    def _forget_sending(self) -> None:
        self._ledger.sending -= sum(size for size, _ in self._sending.values())
        self._sending.clear()

    def _peer(self, path: object) -> str:
        """The client's address, where it is the one that the handshake has validated; else ""."""
        host = _host(path)
        return host if host == _host(self._connection.path) else ""


def _capsule(kind: int, value: bytes = b"") -> bytes:
    """RFC 9297 §3.2."""
    return encode_uint_var(kind) + encode_uint_var(len(value)) + value


def _host(path: object) -> str:
    """The numeric address of a path's other end, IPv4 in its own form; "" for an unknown one."""
    if not isinstance(path, NetworkPath) or not path.remote:
        return ""
    try:
        address = ip_address(unpack_address(path.remote)[0].partition("%")[0])
    except ValueError:
        return ""
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
