"""An NTP server for programs on this machine (NTPv4, RFC 5905): the true time, whatever the system clock shows.

Comes in: each status, requests of clients. Goes out: responses with the true time, its stratum, root delay and root dispersion.
It must never give a time that is not synchronized without saying so, or send more bytes than it received.
"""

import asyncio
import hashlib
import ipaddress
import logging
import socket
import struct
import time
from collections.abc import Callable
from math import ceil, log2
from typing import NamedTuple

from tsq import _sockets
from tsq._fast import ntp_from_ns
from tsq.counters import Counters
from tsq.daemon.feeds.served_time import ServedTime
from tsq.daemon.feeds.usable import is_usable
from tsq.discipline.status import Status, Tracking
from tsq.host._segment import clocks
from tsq.host.clock import precision_ns
from tsq.options import Target
from tsq.quic.udp import Datagram, UdpSocket, sink

logger = logging.getLogger(__name__)

# RFC 5905 §7.3. Leap, version and mode; stratum; poll; precision; root delay and dispersion; reference ID; three timestamps. The
# transmit timestamp follows.
_HEAD = struct.Struct("!BBbbII4sQQQ")
_TRANSMIT_AT = _HEAD.size
_TIMESTAMP = struct.Struct("!Q")
_SIZE = _HEAD.size + _TIMESTAMP.size
_VERSIONS = (1, 2, 3, 4)
_CLIENT, _SERVER = 3, 4
_UNSYNCHRONIZED_STRATUM, _UNSYNCHRONIZED_LEAP = 16, 3
# RFC 5905 §11.1, PHI: how fast the dispersion grows at least.
_LEAST_GROWTH = 15e-6
_MOST_SHORT = 2**32 - 1
_OWN_ID = b"TSQ\0"
# A kernel's receive time that is older than this is not of this clock: it was stepped since.
_OLDEST_NS = 1_000_000_000
# Batches of one wake-up of the event loop.
_MOST_BATCHES = 4

# As `tsq.host._segment.clocks`: raw, monotonic, boot, real.
Clocks = Callable[[], tuple[int, int, int, int]]


class Begun(NamedTuple):
    """A response without its transmit timestamp, which is read last. ahead_ns: the served time minus the raw clock."""

    head: bytes
    ahead_ns: int

    def ended(self, raw_ns: int) -> bytes:
        """The response, to be sent at this reading of the raw clock."""
        return self.head + _TIMESTAMP.pack(ntp_from_ns(self.ahead_ns + raw_ns))


class Responder:
    """Responses without a socket. counters: `ntp_received`, `ntp_answered`, and `ntp_dropped` with a reason."""

    def __init__(self, counters: Counters | None = None, read: Clocks = clocks) -> None:
        self.counters = counters or Counters()
        self._read = read
        self._tracking: Tracking | None = None
        self._served: ServedTime | None = None
        self._precision = round(log2(precision_ns() / 1e9))

    def update(self, tracking: Tracking) -> None:
        """What is known at a new reading."""
        if self._tracking is not None and tracking.raw_ns == self._tracking.raw_ns:
            return
        if tracking.offset is None or not is_usable(tracking, holdover=True):
            self._tracking = None
            return
        self._tracking = tracking
        true_ns = tracking.real_ns + round(tracking.offset * 1e9)
        frequency = tracking.frequency or 0.0
        if self._served is None:
            self._served = ServedTime(tracking.raw_ns, true_ns, frequency)
        else:
            self._served.update(tracking.raw_ns, true_ns, frequency)

    def begin(self, request: bytes, received_ns: int) -> Begun | None:
        """The response to a request that the system clock received at received_ns; None for what is no request."""
        self.counters.add("ntp_received")
        reason = _refusal(request)
        if reason:
            self.counters.add("ntp_dropped", reason)
            return None
        self.counters.add("ntp_answered")
        raw_ns, _, _, real_ns = self._read()
        served = self._served if self._tracking is not None else None
        served_ns = real_ns if served is None else served.at(raw_ns)
        return Begun(_HEAD.pack(*self._fields(request, received_ns, raw_ns, real_ns)), served_ns - raw_ns)

    def _fields(self, request: bytes, received_ns: int, raw_ns: int, real_ns: int) -> tuple[int | bytes, ...]:
        """All fields but the transmit timestamp."""
        head = request[0] & 0x38 | _SERVER
        poll, origin = request[2], int.from_bytes(request[_TRANSMIT_AT : _TRANSMIT_AT + 8])
        poll -= 256 if poll > 127 else 0
        if not 0 <= real_ns - received_ns <= _OLDEST_NS:
            received_ns = real_ns
        tracking, served = self._tracking, self._served
        if tracking is None or served is None:
            received = ntp_from_ns(received_ns)
            return (
                _UNSYNCHRONIZED_LEAP << 6 | head, _UNSYNCHRONIZED_STRATUM, poll, self._precision, 0, _MOST_SHORT, bytes(4), 0,
                origin, received,
            )  # fmt: skip
        # From the system clock to the served one.
        correction_ns = served.at(raw_ns) - real_ns
        received_ns += correction_ns
        age = max(0, raw_ns - tracking.raw_ns) / 1e9
        dispersion = tracking.root_dispersion + max(_LEAST_GROWTH, tracking.bound_rate) * age + abs(served.lag_at(raw_ns)) / 1e9
        reference_ns = min(tracking.updated_real_ns + correction_ns, received_ns) if tracking.updated_real_ns else 0
        return (
            tracking.leap << 6 | head, tracking.stratum, poll, self._precision, _short(tracking.root_delay), _short(dispersion),
            reference_id(tracking), ntp_from_ns(reference_ns) if reference_ns else 0, origin, ntp_from_ns(received_ns),
        )  # fmt: skip


def _raw_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def _refusal(request: bytes) -> str:
    """Why this is no request of a client; empty if it is one."""
    if len(request) < _SIZE:
        return "short"
    if request[0] >> 3 & 7 not in _VERSIONS:
        return "version"
    if request[0] & 7 != _CLIENT:
        return "mode"
    return ""


def _short(seconds: float) -> int:
    """NTP's short format, rounded up: 16 bits of seconds, 16 bits of their fraction."""
    return min(_MOST_SHORT, ceil(max(0.0, seconds) * 65536))


def reference_id(tracking: Tracking) -> bytes:
    """Four bytes that tell where the time comes from (RFC 5905 §7.3): an IPv4 address, or the first bytes of an IPv6 one's hash.

    A loopback address would look like a loop to a client on this machine.
    """
    try:
        address = ipaddress.ip_address(tracking.reference_address)
    except ValueError:
        return _OWN_ID
    if address.is_loopback or address.is_unspecified:
        return _OWN_ID
    if isinstance(address, ipaddress.IPv4Address):
        return address.packed
    return hashlib.md5(address.packed, usedforsecurity=False).digest()[:4]


class NtpFeed:
    """The server on a socket of an event loop."""

    def __init__(self, listen: Target, counters: Counters | None = None) -> None:
        self._listen = listen
        self._responder = Responder(counters)
        self._udp: UdpSocket | None = None
        self._sink: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def counters(self) -> Counters:
        """What was received, answered and dropped."""
        return self._responder.counters

    @property
    def address(self) -> Target:
        """Where it listens; with the port that the system chose for port 0."""
        return self._listen if self._udp is None else Target(*self._udp.address)

    async def start(self) -> None:
        """Listen. Raises ConfigError where the address cannot be had."""
        self._udp = UdpSocket.listening(self._listen.host, self._listen.port)
        self._sink = sink()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._udp.fileno(), self._readable)
        logger.info("NTP server on %s", self.address)

    def publish(self, status: Status) -> None:
        """Serve this time from now on."""
        self._responder.update(status.tracking)

    def close(self) -> None:
        """Stop listening."""
        if self._udp is not None:
            assert self._loop is not None
            self._loop.remove_reader(self._udp.fileno())
            self._udp.close()
            self._udp = None
            if self._sink is not None:
                self._sink.close()

    def _readable(self) -> None:
        for _ in range(_MOST_BATCHES):
            if self._udp is None:
                return
            try:
                datagrams = self._udp.receive()
            except OSError as error:
                # An ICMP error of a client that has gone.
                logger.debug("NTP server: %s", error)
                return
            if not datagrams:
                return
            for datagram in datagrams:
                self._respond(self._udp, datagram)

    def _respond(self, udp: UdpSocket, datagram: Datagram) -> None:
        begun = self._responder.begin(datagram.data, datagram.received_ns)
        if begun is None:
            return
        fd, (remote, local, _) = udp.fileno(), datagram.path
        if self._sink is not None:
            # A cold transmit path would make the response leave later than it says, by as much as half of all else.
            _sockets.warm(self._sink.fileno())
        begun.ended(_raw_ns())
        try:
            sent, _ = _sockets.send(fd, [(begun.ended(_raw_ns()), remote, local)])
        except OSError as error:
            logger.debug("NTP server: %s", error)
            sent = 0
        if not sent:
            self.counters.add("ntp_dropped", "not sent")
