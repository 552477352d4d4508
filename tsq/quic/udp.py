"""A UDP socket with receive and transmit timestamps.

Comes in: an address, datagrams to send. Goes out: received datagrams with the kernel's receive time and the address that they were
sent to; the transmit time of sent ones. It must never block, fail because the system has no timestamps, or look into a datagram.
"""

import contextlib
import errno
import os
import select
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from tsq import _fast, sockets
from tsq.errors import ConfigError
from tsq.host import shortage
from tsq.host.reuseport import attach, bind_group, division
from tsq.options import Target

if TYPE_CHECKING:
    from tsq.dataplane.session import Session

_RECEIVE_BUFFER = 1 << 22
_SO_RCVBUFFORCE = 33
_IP_PKTINFO = 8
# Errors of a kernel that lacks an option, or of a filter of system calls that forbids it.
_NOT_HERE = (errno.ENOPROTOOPT, errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EPFNOSUPPORT)
_WILDCARDS = ("0.0.0.0", "::")
# The transmit time is there when the send returns, or soon after. A longer wait would delay the next work.
_STAMP_WAIT_MS = 1
_STAMP_TRIES = 2
# Seconds after which the kernel's transmit path is no longer in the processor's caches.
_COLD_AFTER = 0.001


class NetworkPath(NamedTuple):
    """Where a datagram came from and which of our addresses it was sent to, both packed (`tsq._fast.pack_address`).

    stamp: of a datagram to send, the response in it whose transmit timestamp was requested: the data plane's session
    (at rest: its connection ID), nonce, T3.
    """

    remote: bytes
    local: bytes
    stamp: "tuple[Session | bytes, bytes, int] | None" = None

    def __str__(self) -> str:
        """The peer's address as people write it: 192.0.2.1:4433, [::1]:4433, [fe80::1%2]:4433."""
        if not self.remote:
            return "the connected peer"
        host, port, scope = _fast.unpack_address(self.remote)
        return str(Target(f"{host}%{scope}" if scope else host, port))


# The path of what a connected socket sends.
CONNECTED = NetworkPath(b"", b"")


class Datagram(NamedTuple):
    """A received datagram. received_ns: Unix ns; kernel: whether the kernel took that time."""

    data: bytes
    path: NetworkPath
    received_ns: int
    kernel: bool


class Transmission(NamedTuple):
    """A batch that was sent: how many of its datagrams, the transmit time of the first in Unix ns, whether the kernel took it."""

    sent: int
    at_ns: int
    kernel: bool


class FamilyMissing(ConfigError):
    """This machine, or this process, has no IPv4, or no IPv6, at all."""


class UdpSocket:
    """One non-blocking UDP socket with timestamps on, as far as the system has them.

    stamps_received, stamps_sent: whether the kernel takes these times; where it does not, they are read in user space.
    """

    def __init__(self, family: int, *, destinations: bool = True, existing: socket.socket | None = None) -> None:
        self.socket = existing or socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self._calls = sockets.calls
        self._batch = self._calls.ReceiveBatch()
        self._stamped = 0
        self.stamps_sent = False
        self._connected = False
        self._sink: socket.socket | None = None
        self._sent_at = 0.0
        try:
            self.stamps_received = self._prepare(family, destinations)
        except OSError:
            self.socket.close()
            raise

    def _prepare(self, family: int, destinations: bool) -> bool:
        """Ask the kernel for receive times and `destinations`. Return whether it takes the times. Raises OSError."""
        try:
            self._calls.enable_receive_timestamps(self.socket.fileno(), family, destinations)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
        else:
            return True
        if destinations and family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif destinations:
            self.socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        return False

    @property
    def missing(self) -> str | None:
        """What the system lacks, as a sentence for a user; None where it lacks nothing."""
        if self.stamps_received and self.stamps_sent:
            return None
        which = "receive or send" if not (self.stamps_received or self.stamps_sent) else "send"
        which = "receive" if self.stamps_sent else which
        return f"the kernel gives no {which} times for datagrams here: they are taken in user space, which is less exact"

    @classmethod
    def listening(cls, host: str, port: int) -> "UdpSocket":
        """A socket bound to a numeric address. Raises ConfigError where that cannot be had."""
        address = _fast.unpack_address(_fast.pack_address(host, port))[:2]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            # A socket on all addresses must learn which one a datagram was sent to, to answer from it.
            udp = cls(family, destinations=address[0] in _WILDCARDS)
        except OSError as error:
            raise _bind_error(host, port, error) from error
        try:
            if family == socket.AF_INET6:
                # So that 0.0.0.0 and [::] can be listened on side by side.
                udp.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            _enlarge(udp.socket)
            udp.socket.bind(address)
        except OSError as error:
            udp.close()
            raise _bind_error(host, port, error) from error
        return udp

    @classmethod
    def divided(cls, host: str, port: int) -> "tuple[UdpSocket, UdpSocket | None]":
        """As `listening`, and a socket at the same address that gets newcomers' packets alone: a flood of them fills no other.

        None instead where the system cannot tell them apart. Raises ConfigError where the address cannot be had.
        """
        try:
            first, second = cls.group(host, port, 2)
        except ConfigError:
            return cls.listening(host, port), None
        try:
            attach(first, division())
        except OSError:
            first.close()
            second.close()
            return cls.listening(host, port), None
        return cls.passed(first), cls.passed(second)

    @staticmethod
    def group(host: str, port: int, count: int) -> list[socket.socket]:
        """Sockets that share a numeric address (`reuseport`), for as many workers. Raises ConfigError where that cannot be had."""
        address = _fast.unpack_address(_fast.pack_address(host, port))[:2]
        try:
            members = bind_group(socket.AF_INET6 if ":" in host else socket.AF_INET, address, count)
        except OSError as error:
            raise _bind_error(host, port, error) from error
        for member in members:
            _enlarge(member)
        return members

    @classmethod
    def passed(cls, existing: socket.socket) -> "UdpSocket":
        """A socket that another process has bound, as a service manager does. Raises ConfigError where it is no such socket."""
        kind, family = existing.type, existing.family
        try:
            name = existing.getsockname() if kind == socket.SOCK_DGRAM and family in (socket.AF_INET, socket.AF_INET6) else ("", 0)
            if not name[1]:
                raise ConfigError(f"a passed socket ({family!r}, {kind!r}, address {name[0]!r})", expected="a bound UDP socket")
            # One for both families has addresses such as ::ffff:192.0.2.1, in both directions.
            udp = cls(family, destinations=name[0] in _WILDCARDS, existing=existing)
        except OSError as error:
            raise ConfigError(
                f"a passed socket cannot be used: {error.strerror or error}", expected="a bound UDP socket"
            ) from error
        _enlarge(udp.socket)
        return udp

    @classmethod
    def connected(cls, family: int, address: tuple[object, ...]) -> "UdpSocket":
        """A socket connected to one peer, so that ICMP errors reach it; sent datagrams are stamped. Raises OSError."""
        udp = cls(family, destinations=False)
        try:
            udp.socket.connect(address)
            udp.stamp_sent()
        except OSError:
            udp.close()
            raise
        udp._connected = True
        udp._sink = sink()
        return udp

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that the socket is bound to."""
        name = self.socket.getsockname()
        return name[0], name[1]

    @property
    def truncated(self) -> int:
        """How many received datagrams were too large, and dropped."""
        return self._batch.truncated

    def fileno(self) -> int:
        """The file descriptor, for polling."""
        return self.socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()
        if self._sink is not None:
            self._sink.close()

    def receive(self) -> list[Datagram]:
        """The datagrams that wait, at most 64. Raises OSError where ICMP reported an error."""
        return [
            Datagram(data, NetworkPath(remote, local), received_ns, kernel)
            for data, remote, local, received_ns, kernel in self._batch.receive(self.socket.fileno())
        ]

    def send(self, datagrams: list[tuple[bytes, NetworkPath]]) -> int:
        """Send at once. Return how many were sent. The rest is lost: the socket's buffer had no room."""
        sent = 0
        fd = self.socket.fileno()
        for start in range(0, len(datagrams), self._calls.BATCH):
            part = [(data, path.remote, path.local) for data, path in datagrams[start : start + self._calls.BATCH]]
            sent += self._calls.send(fd, part)[0]
        return sent

    def send_stamped(self, datagrams: list[bytes]) -> Transmission:
        """Send to the connected peer. Return the transmit time of the first: the kernel's, or else a time read before the call."""
        fd = self.socket.fileno()
        if not self._connected or len(datagrams) > self._calls.BATCH:
            raise ConfigError("a batch that cannot be stamped", expected="a connected socket and at most 64 datagrams")
        self._warm()
        first_id = self._stamped
        sent, before_ns = 0, 0
        if not self.stamps_sent:
            sent, before_ns = self._calls.send(fd, [(data, b"", b"") for data in datagrams])
            return Transmission(sent, before_ns, False)
        try:
            sent, before_ns = self._calls.send(fd, [(data, b"", b"") for data in datagrams], True)
        finally:
            if sent < len(datagrams):
                # The kernel may have counted what failed: let it count from 0 again.
                self._calls.enable_transmit_timestamps(fd)
                self._calls.transmit_times(fd)
                self._stamped = 0
            else:
                self._stamped = (self._stamped + sent) % 2**32
        if sent == len(datagrams):
            left_ns = self._transmit_time(first_id, before_ns)
            if left_ns is not None:
                return Transmission(sent, left_ns, True)
        return Transmission(sent, before_ns, False)

    def _warm(self) -> None:
        """Warm the kernel's transmit path after a pause, by a throw-away send. A cold path would look like a longer one."""
        now = time.monotonic()
        if self._sink is not None and now - self._sent_at > _COLD_AFTER:
            self._calls.warm(self._sink.fileno())
        self._sent_at = now

    def stamp_sent(self) -> None:
        """Ask the kernel for transmit times, where it has them. Raises OSError."""
        try:
            self._calls.enable_transmit_timestamps(self.socket.fileno())
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
        else:
            self.stamps_sent = True

    def discard_transmit_times(self) -> None:
        """Empty the error queue of transmit times that came too late."""
        self._calls.transmit_times(self.socket.fileno())

    def _transmit_time(self, wanted: int, before_ns: int) -> int | None:
        """The transmit time with this id. One from before the send is another datagram's: the kernel may count differently."""
        fd = self.socket.fileno()
        for attempt in range(_STAMP_TRIES):
            for number, left_ns in self._calls.transmit_times(fd):
                if number == wanted and left_ns >= before_ns:
                    return left_ns
            if attempt + 1 < _STAMP_TRIES:
                poller = select.poll()
                poller.register(fd, 0)
                poller.poll(_STAMP_WAIT_MS)
        return None


def sink() -> socket.socket | None:
    """A socket that sends to itself and is never read, to warm the kernel's transmit path; None on a machine without loopback."""
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    except OSError:
        return None
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
    except OSError:
        sock.close()
        return None
    return sock


def _enlarge(sock: socket.socket) -> None:
    """Set a receive buffer for a burst of a thousand clients, above the system's limit where that is permitted."""
    for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, _RECEIVE_BUFFER)
            return


def _bind_error(host: str, port: int, error: OSError) -> ConfigError:
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if error.errno in _NO_FAMILY:
        family = "IPv6" if ":" in host else "IPv4"
        return FamilyMissing(
            f"cannot listen on {shown}: there is no {family} here", advice=f"leave this address out, or allow {family}"
        )
    missing = shortage.explained(error)
    if missing is not None:
        return ConfigError(f"cannot listen on {shown}: {missing}")
    advice = {
        "Address already in use": "another program has the port: `ss -ulpn` names it",
        "Permission denied": "ports below 1024 need root or CAP_NET_BIND_SERVICE",
        "Cannot assign requested address": "no interface of this machine has that address",
    }.get(os.strerror(error.errno or 0), "choose another address or port")
    words = os.strerror(error.errno) if error.errno is not None else str(error)
    return ConfigError(f"cannot listen on {shown}: {words}", advice=advice)
