"""A connection to the server under test, on which anything can be sent, and what came back.

Comes in: a Wire, which moves datagrams and tells the time; messages to send, well formed or not. Goes out: what the server sent.
It must never send faster than the pace, wait longer than its time-out, or accept a certificate that the trust does not.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from tsq.conformance.findings import Findings
from tsq.conformance.judge import Answer, judge, plain, read_tlvs
from tsq.errors import HandshakeTimeout, NoAnswer, TransportError
from tsq.quic.client_connection import ClientConnection
from tsq.quic.connection import Message
from tsq.quic.tickets import AcceptedTicket
from tsq.quic.tls import ALPN, ClientConfiguration
from tsq.wire.tlv import NONCE_SIZE

# A datagram may be lost: a question is repeated so often before the server counts as silent.
_TRIES = 3
_MOST_OUT = 64


class Wire(Protocol):
    """A path to the server: a socket, or a network in virtual time."""

    def now(self) -> float:
        """Monotonic seconds."""

    def exchange(self, out: list[bytes], until: float) -> list[bytes]:
        """Send these datagrams; wait until others come, or until this time. Return those that came. Raises TransportError."""

    def close(self) -> None:
        """Release it."""


@dataclass(slots=True)
class Site:
    """The server under test.

    open_wire: makes a new path. configuration: of one client connection, with the trust that the user chose; None or a ticket.
    timeout: seconds for a handshake and for an answer. pace: seconds between messages at least. limit: seconds for everything.
    """

    open_wire: Callable[[], Wire]
    configuration: Callable[[AcceptedTicket | None], ClientConfiguration]
    note: Findings = field(default_factory=Findings)
    timeout: float = 2.0
    pace: float = 0.02
    limit: float = 60.0
    alpn: str | None = None
    datagrams: bool = True
    streams: bool = True
    tickets: list[AcceptedTicket] = field(default_factory=list)
    next_send: float = 0.0
    ends: float | None = None

    def connect(
        self, alpn: list[str] | None = ALPN, *, datagram_limit: int | None = None, ticket: AcceptedTicket | None = None
    ) -> "Link":
        """A new connection, not begun yet. alpn: what to offer; None: nothing. datagram_limit: the largest DATAGRAM frame."""
        configuration = self.configuration(ticket)
        configuration.alpn_protocols = alpn
        if datagram_limit is not None:
            configuration.max_datagram_frame_size = datagram_limit
        wire = self.open_wire()
        if self.ends is None:
            self.ends = wire.now() + self.limit
        return Link(self, wire, ClientConnection(configuration, on_ticket=self.tickets.append))

    def link(self) -> "Link":
        """A new connection, ready. Raises TransportError."""
        link = self.connect()
        try:
            link.handshake()
        except TransportError:
            link.close()
            raise
        return link


class Link:
    """One connection. Use it as a context, so that it is closed. last_sent: the UDP datagrams of the last message."""

    def __init__(self, site: Site, wire: Wire, connection: ClientConnection) -> None:
        self.connection = connection
        self.last_sent: list[bytes] = []
        self._site = site
        self._wire = wire
        self._came: list[Message] = []
        self._nonces: set[bytes] = set()
        self._begun = False
        self._began_at = 0.0

    def __enter__(self) -> "Link":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def handshake(self) -> None:
        """Connect. Raises a TransportError that says why it failed."""
        if not self._begun:
            self._begin()
        if not self._wait(self._site.timeout, lambda: self.connection.handshake is not None):
            raise HandshakeTimeout(f"no answer to the QUIC handshake in {self._site.timeout:g} s")
        # The certificate is judged where the failure is asked for.
        self._check()

    def send_early(self, message: bytes) -> bool:
        """Begin with a message in the first flight (0-RTT), if the ticket allows that; whether it does."""
        self._take_turn()
        self._begin()
        possible = self.connection.early_possible
        out, _ = self.connection.transmit([message] if possible else [], self._wire.now())
        self._take(self._wire.exchange([data for data, _ in out], self._wire.now()))
        return possible

    def early_answer(self, nonce: bytes) -> Answer | None:
        """The answer to the message of the first flight."""
        if not self._wait(self._site.timeout, lambda: self._position(nonce, strict=True) is not None):
            return None
        at = self._position(nonce, strict=True)
        return None if at is None else self._answer(self._came.pop(at).data, nonce, self._began_at)

    def close(self) -> None:
        """Close connection and path."""
        try:
            if self.connection.terminated is None:
                self.connection.close()
                self._wire.exchange(self._flushed(), self._wire.now())
        except TransportError:
            pass
        finally:
            self._wire.close()

    def send(self, message: bytes) -> None:
        """Send a message in a DATAGRAM frame. Raises TransportError where it cannot be sent."""
        self._take_turn()
        out, held_back = self.connection.transmit([message], self._wire.now())
        if held_back:
            raise TransportError("the connection's window has no room for a datagram")
        self.last_sent = [data for data, _ in out]
        self._take(self._wire.exchange(self.last_sent, self._wire.now()))

    def send_raw(self, datagrams: Iterable[bytes]) -> None:
        """Send UDP datagrams as they are, such as packets again or changed."""
        self._take_turn()
        self._take(self._wire.exchange(list(datagrams), self._wire.now()))

    def sealed(self, message: bytes) -> list[bytes]:
        """The UDP datagrams of a message that is not sent."""
        self._take_turn()
        return [data for data, _ in self.connection.transmit([message], self._wire.now())[0]]

    def ask(self, message: bytes, nonce: bytes, *, strict: bool = False) -> Answer | None:
        """Send a request with this nonce, again if it may be lost; its answer, judged, or None.

        strict: wait for a message that has the nonce. Else one with a nonce that was never sent is the answer, too: a wrong one.
        """
        sent_at = self._wire.now()
        self._nonces.add(nonce)
        for _ in range(_TRIES):
            self.send(message)
            if self._wait(self._site.timeout / _TRIES, lambda: self._position(nonce, strict=strict) is not None):
                at = self._position(nonce, strict=strict)
                assert at is not None
                return self._answer(self._came.pop(at).data, nonce, sent_at)
        return None

    def ask_plain(self, *, strict: bool = False) -> Answer | None:
        """The answer to a request with nothing but a nonce."""
        nonce = os.urandom(NONCE_SIZE)
        return self.ask(plain(nonce), nonce, strict=strict)

    def others_before_next(self) -> list[bytes]:
        """Send a plain request; what came in datagrams up to its answer, beside that. Raises NoAnswer where it gets none.

        So a message that was sent before has had its time, and the server is shown to be still there.
        """
        if (self.ask_plain(strict=True) if self._site.datagrams else self.ask_stream_plain()) is None:
            raise NoAnswer("a plain request was not answered any more", expected="an answer")
        others = [message.data for message in self._came if message.stream_id is None]
        self._came = [message for message in self._came if message.stream_id is not None]
        return others

    def open_stream(self, data: bytes, *, fin: bool) -> int:
        """Begin a stream with these bytes; its ID."""
        stream_id = self.connection.open_stream()
        self.write(stream_id, data, fin=fin)
        return stream_id

    def write(self, stream_id: int, data: bytes, *, fin: bool) -> None:
        """Send bytes on a stream."""
        self._take_turn()
        self.connection.write_stream(stream_id, data, end=fin)
        self._take(self._wire.exchange(self._flushed(), self._wire.now()))

    def ask_stream(self, message: bytes, nonce: bytes, *, fin: bool = True) -> tuple[Answer | None, bool]:
        """Send a request on a stream of its own; (its answer, judged, or None; whether the server ended the stream)."""
        sent_at = self._wire.now()
        stream_id = self.open_stream(message, fin=fin)

        def ended() -> bool:
            return any(one.stream_id == stream_id and one.finished for one in self._came)

        def answered() -> bool:
            return ended() or any(one.stream_id == stream_id and read_tlvs(one.data) for one in self._came)

        if self._wait(self._site.timeout, answered) and not ended():
            # FIN may come in a packet of its own.
            self._wait(self._site.timeout / _TRIES, ended)
        came = [one for one in self._came if one.stream_id == stream_id]
        self._came = [one for one in self._came if one.stream_id != stream_id]
        if came:
            self.connection.stream_done(stream_id, came[-1].finished)
        if not came or not came[-1].data:
            return None, bool(came) and came[-1].finished
        return self._answer(came[-1].data, nonce, sent_at, stream=True), came[-1].finished

    def ask_stream_plain(self) -> Answer | None:
        """The answer to a plain request on a stream."""
        nonce = os.urandom(NONCE_SIZE)
        return self.ask_stream(plain(nonce), nonce)[0]

    def settle(self, seconds: float) -> None:
        """Let time pass, for what comes by itself, such as session tickets."""
        self._wait(seconds, lambda: False)

    def now(self) -> float:
        """Monotonic seconds."""
        return self._wire.now()

    def _begin(self) -> None:
        self._begun = True
        self._began_at = self._wire.now()
        self.connection.connect(self._began_at)

    def _position(self, nonce: bytes, *, strict: bool) -> int | None:
        """The place of the datagram that answers this nonce."""
        for at, one in enumerate(self._came):
            known = one.data[2 : 2 + NONCE_SIZE] in self._nonces
            if one.stream_id is None and (nonce in one.data or not (strict or known)):
                return at
        return None

    def _answer(self, data: bytes, nonce: bytes, sent_at: float, *, stream: bool = False) -> Answer:
        answer = Answer(data, nonce, self._wire.now() - sent_at, stream, read_tlvs(data))
        judge(answer, self._site.note)
        return answer

    def _take_turn(self) -> None:
        """Wait until the pace allows one more message."""
        site = self._site
        wait = site.next_send - self._wire.now()
        if wait > 0:
            self._wait(wait, lambda: False)
        self._check()
        site.next_send = self._wire.now() + site.pace

    def _wait(self, seconds: float, done: Callable[[], bool]) -> bool:
        """Serve the connection until something is so, for at most this time; whether it is. Raises where the connection ends."""
        until = self._wire.now() + seconds
        while not done():
            now = self._wire.now()
            timer = self.connection.timer
            if timer is not None and timer <= now:
                self._came += self.connection.handle_timer(now)
            out = self._flushed()
            self._check()
            if done() or now >= until:
                break
            timer = self.connection.timer
            self._take(self._wire.exchange(out, until if timer is None else min(until, max(timer, now))))
        return done()

    def _take(self, datagrams: list[bytes]) -> None:
        for data in datagrams:
            self._came += self.connection.receive(data, self._wire.now())

    def _flushed(self) -> list[bytes]:
        return [data for data, _ in self.connection.flush(self._wire.now())][:_MOST_OUT]

    def _check(self) -> None:
        """Raise where the connection has ended, or the time for all tests."""
        failure = self.connection.failure()
        if failure is not None:
            raise failure
        if self._site.ends is not None and self._wire.now() > self._site.ends:
            raise OutOfTime(f"all tests together took more than {self._site.limit:g} s")


class OutOfTime(TransportError):
    """The time for all tests is over."""
