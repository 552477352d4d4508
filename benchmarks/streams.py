"""A load for Stream Mode: many client connections to one server, through qh3, whose core is compiled.

Comes in: a server's address and CA. Goes out: answers, delays. Each request is a stream of its own, closed with it (or a DATAGRAM
frame, where that is wanted); each connection has a socket of its own. Without qh3 there is no load of streams: `why_not` says so.
"""

import importlib
import importlib.util
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tsq.options import Target

_TIMEOUT = 20.0
_LOST = 0.5
# The interval at which timers and losses are checked.
_LOOK = 0.05
_AT_ONCE = 6
_TLV_NONCE = bytes([1, 16])


def why_not() -> str | None:
    """What is missing; None: nothing."""
    return None if importlib.util.find_spec("qh3") else "qh3 is not installed (pip install --group test)"


@dataclass(slots=True, eq=False)
class _Member:
    """One connection."""

    quic: Any
    socket: socket.socket
    connected: bool = False
    asked_at: float | None = None
    delays: list[float] = field(default_factory=list)


class StreamFleet:
    """Connections until the end of the `with`."""

    def __init__(self, target: Target, ca: str, server_name: str = "localhost", *, datagrams: bool = False) -> None:
        self._datagrams = datagrams
        self._peer = (target.host, target.port)
        configuration = importlib.import_module("qh3.quic.configuration").QuicConfiguration(
            is_client=True, alpn_protocols=["tsq/1"], server_name=server_name, max_datagram_frame_size=65535
        )
        configuration.load_verify_locations(cafile=ca)
        self._connection = importlib.import_module("qh3.quic.connection").QuicConnection
        self._configuration = configuration
        self._members: dict[int, _Member] = {}
        self._position = 0
        self._poll = select.epoll()

    def __enter__(self) -> Self:
        return self

    def __len__(self) -> int:
        return len(self._members)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for member in self._members.values():
            member.quic.close()
            self._send(member)
            member.socket.close()
        self._poll.close()

    def grow(self, count: int) -> None:
        """Connect up to this number."""
        pending: list[_Member] = []
        end = time.monotonic() + _TIMEOUT + count * 0.01
        while pending or len(self._members) < count:
            while len(pending) < _AT_ONCE and len(self._members) < count:
                pending.append(self._connect())
            self._turn(0.05)
            for member in pending:
                self._timer(member)
            pending = [member for member in pending if not member.connected]
            if time.monotonic() > end:
                raise TimeoutError("the handshake did not finish")

    def run(self, seconds: float, at_once: int) -> list[float]:
        """Send requests on all connections in turn, with a limit in flight, for this time; the delays in seconds."""
        end = time.monotonic() + seconds
        return self._ask_until(lambda _: time.monotonic() >= end, at_once)

    def touch(self, at_once: int) -> None:
        """Send one request on each connection."""
        self._ask_until(lambda asked: asked >= len(self._members), at_once)

    def _ask_until(self, over: Callable[[int], bool], at_once: int) -> list[float]:
        members = list(self._members.values())
        for member in members:
            member.delays.clear()
        waiting: set[_Member] = set()
        asked, look = 0, time.monotonic()
        while waiting or not over(asked):
            while len(waiting) < min(at_once, len(members)) and not over(asked):
                member = members[self._position % len(members)]
                self._position += 1
                asked += 1
                if member.asked_at is None:
                    self._ask(member)
                    waiting.add(member)
            self._turn(0.002)
            now = time.monotonic()
            for member in waiting:
                self._timer(member)
            if now > look + _LOOK:
                look = now
                for member in members:
                    self._timer(member)
                for member in waiting:
                    if member.asked_at is not None and member.asked_at < now - _LOST:
                        member.asked_at = None
            waiting = {member for member in waiting if member.asked_at is not None}
        return [delay for member in members for delay in member.delays]

    def _connect(self) -> _Member:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.setblocking(False)
        udp.connect(self._peer)
        member = _Member(self._connection(configuration=self._configuration), udp)
        member.quic.connect(self._peer, time.monotonic())
        self._members[udp.fileno()] = member
        self._poll.register(udp.fileno(), select.EPOLLIN)
        self._send(member)
        return member

    def _ask(self, member: _Member) -> None:
        request = _TLV_NONCE + os.urandom(16)
        if self._datagrams:
            member.quic.send_datagram_frame(request)
        else:
            member.quic.send_stream_data(member.quic.get_next_available_stream_id(), request, end_stream=True)
        member.asked_at = time.monotonic()
        self._send(member)

    def _turn(self, wait: float) -> None:
        for fd, _ in self._poll.poll(wait):
            member = self._members[fd]
            self._receive(member)
            self._events(member)
            self._send(member)

    def _receive(self, member: _Member) -> None:
        while True:
            try:
                data = member.socket.recv(2048)
            except BlockingIOError:
                return
            member.quic.receive_datagram(data, self._peer, time.monotonic())

    def _events(self, member: _Member) -> None:
        while (event := member.quic.next_event()) is not None:
            kind = type(event).__name__
            if kind == "HandshakeCompleted":
                member.connected = True
            elif kind == "ConnectionTerminated":
                raise ConnectionError(f"the server closed a connection: {event.reason_phrase!r}")
            elif member.asked_at is not None and _answers(event, kind):
                member.delays.append(time.monotonic() - member.asked_at)
                member.asked_at = None

    def _timer(self, member: _Member) -> None:
        due, now = member.quic.get_timer(), time.monotonic()
        if due is not None and due <= now:
            member.quic.handle_timer(now)
            self._events(member)
            self._send(member)

    def _send(self, member: _Member) -> None:
        for data, _ in member.quic.datagrams_to_send(time.monotonic()):
            member.socket.send(data)


def _answers(event: Any, kind: str) -> bool:
    return kind == "DatagramFrameReceived" or (kind == "StreamDataReceived" and bool(event.end_stream))
