"""An attempt to reach a server at one of its addresses: a socket and a session.

Comes in: a target, one of its addresses, options. Goes out: Attempts, which move datagrams between socket and session, and our own
errors for what the network said. It must never wait, or decide anything about samples: that is for the clients.
"""

import errno
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TextIO

from tsq.client.channel import Channel
from tsq.client.exchange import Rules
from tsq.errors import ConnectionLost, NameNotFound, NothingListens, TransportError, TSQError, Unreachable
from tsq.host import shortage
from tsq.host.clock import clock_reading, era_pivot_ns, precision_ns
from tsq.options import ClientOptions, Target
from tsq.quic import tls
from tsq.quic.client_connection import ClientConnection
from tsq.quic.tickets import AcceptedTicket, TicketFile
from tsq.quic.udp import CONNECTED, Datagram, UdpSocket

_FAMILIES = {0: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}
_REFUSED = {errno.ECONNREFUSED}
_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.ENETDOWN, errno.EADDRNOTAVAIL}

# How a handshake fails with a ticket that is not good; other errors have nothing to do with it.
_TICKET_ERRORS = {TransportError, ConnectionLost}
_SEND_TRIES = 2
# Seconds for the datagrams of one turn.
_TURN = 0.01

Address = tuple[int, tuple[object, ...]]


class Attempt:
    """A session and its socket: moves datagrams between them.

    backlog: datagrams that were read, and not looked at yet. origin: the whole address, for another attempt.
    """

    def __init__(
        self, udp: UdpSocket, session: Channel, connection: ClientConnection, address: str, origin: Address | None = None
    ) -> None:
        self.udp = udp
        self.session = session
        self.connection = connection
        self.address = address
        self.origin = origin
        self.backlog: deque[Datagram] = deque()

    @property
    def ticket_failed(self) -> bool:
        """Whether the handshake failed, and its session ticket may be the reason: without one it may succeed."""
        return self.connection.has_ticket and not self.session.established and type(self.session.error) in _TICKET_ERRORS

    def pump(self, now: float) -> None:
        """Send what the session wants to send."""
        out = self.session.datagrams(now)
        if not out:
            return
        requests = self.session.has_leaving
        # Before the requests leave, so that no movement of the clock is missed.
        reading = clock_reading() if requests else None
        failure = "no room in the socket's buffer"
        for _ in range(_SEND_TRIES):
            try:
                if not requests:
                    self.udp.send([(data, CONNECTED) for data in out])
                    return
                departure = self.udp.send_stamped(out)
                if departure.sent:
                    self.session.departed(departure, reading)
                    return
                break
            except OSError as error:
                # It may be what ICMP said of an earlier datagram; then the next try is the first one for these.
                self._failed(error)
                if self.session.error is not None:
                    return
                failure = _words(error)
        if requests:
            self.session.not_departed(failure, reading)

    def readable(self, now: float, stamps: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """Feed what has come to the session. stamps: the error queue holds something, such as a departure time that came late.

        A flood does not keep the deadlines waiting: after a while the rest stays in the backlog for the next call.
        """
        try:
            if stamps:
                self.udp.discard_transmit_times()
            if not self.backlog:
                self.backlog.extend(self.udp.receive())
        except OSError as error:
            self._failed(error)
        until = now + _TURN
        while self.backlog and self.session.error is None:
            self.session.receive(self.backlog.popleft(), now, clock_reading())
            now = clock()
            if now >= until:
                break
        if self.session.error is not None:
            self.backlog.clear()

    def finish(self, now: float) -> None:
        """Close the connection and the socket."""
        if self.session.error is None:
            self.session.close()
            self.pump(now)
        self.udp.close()

    def _failed(self, error: OSError) -> None:
        # Once the handshake is done, the peer is known; an ICMP message is not, and may be forged.
        if not self.session.established:
            self.session.fail(network_error(error))


def open_attempt(
    target: Target,
    options: ClientOptions,
    rules: Rules,
    notices: list[str],
    key_log: TextIO | None,
    address: Address,
    numbers: Iterator[int],
) -> Attempt:
    """A socket and a session for one address, not started yet. Raises OSError where there is no way to the address."""
    name = options.server_name or target.host
    tickets = _Tickets(target, name, options, notices)
    configuration = tls.client_configuration(name, options.trust, ticket=tickets.taken, key_log=key_log)
    # Who waits longer for the handshake than QUIC does for a sign of life shall not be told that the connection went silent.
    configuration.idle_timeout = max(configuration.idle_timeout, options.timeout + 1.0)
    connection = ClientConnection(configuration, on_ticket=tickets.keep)
    udp = UdpSocket.connected(*address)
    if udp.missing is not None and udp.missing not in notices:
        notices.append(udp.missing)
    session = Channel(connection, rules=rules, stream=options.stream, timeout=options.timeout, numbers=numbers)
    return Attempt(udp, session, connection, str(address[1][0]), address)


class _Tickets:
    """Between a connection and the session file: takes one ticket, keeps those that come."""

    def __init__(self, target: Target, name: str, options: ClientOptions, notices: list[str]) -> None:
        self.taken: AcceptedTicket | None = None
        self._key = f"{target} {name}"
        self._file: TicketFile | None = None
        self._warn = notices.append
        if options.session_file is not None:
            self._file = TicketFile(options.session_file, notices.append)
            acceptance = tls.acceptance(name, options.trust)
            ticket, expiry = self._file.take(self._key, acceptance)
            self.taken = None if ticket is None else AcceptedTicket(ticket, acceptance, expiry)

    def keep(self, accepted: AcceptedTicket) -> None:
        """A ticket of a server that was accepted has come. One that cannot be kept costs no time: it is a notice."""
        if self._file is None:
            return
        try:
            self._file.save(self._key, accepted.acceptance, accepted.ticket, accepted.certificates_expire)
        except (OSError, TSQError) as error:
            words = _words(error) if isinstance(error, OSError) else str(error)
            self._warn(f"session file {self._file.path}: the ticket for the next time is not kept: {words}")


def with_precision(rules: Rules | None) -> Rules:
    """These rules, with this machine's clock precision and the present NTP era where they give none."""
    rules = rules or Rules()
    return replace(
        rules,
        precision_ns=precision_ns() if rules.precision_ns is None else rules.precision_ns,
        era_pivot_ns=era_pivot_ns() if rules.era_pivot_ns is None else rules.era_pivot_ns,
    )


def resolve(target: Target, family: int) -> list[Address]:
    """All addresses of a host, as (family, socket address). Raises NameNotFound, and TransportError where memory is short."""
    try:
        found = socket.getaddrinfo(target.host, target.port, _FAMILIES[family], socket.SOCK_DGRAM)
    except UnicodeError as error:
        raise NameNotFound(
            f"no address for {target.host}: it is no host name", expected="labels of 1 to 63 characters between the dots"
        ) from error
    except (LookupError, ImportError, MemoryError) as error:
        raise network_error(error) from error
    except OSError as error:
        wanted = {0: "", 4: " (IPv4)", 6: " (IPv6)"}[family]
        raise NameNotFound(
            f"no address{wanted} for {target.host}: {error.strerror or error}",
            advice="is the name right, and does name resolution work here?",
        ) from error
    return [(item[0], item[4]) for item in found]


def network_error(error: OSError | LookupError | ImportError | MemoryError) -> TransportError:
    """Our error for what the socket said, or for what the system has too little of. Another error is a fault: it is raised."""
    missing = shortage.explained(error)
    if missing is not None:
        return TransportError(missing)
    if not isinstance(error, OSError):
        raise error
    if error.errno in _REFUSED:
        return NothingListens(
            "nothing listens on this UDP port (ICMP port unreachable)",
            advice="is the server running, and is the port right? A firewall may answer so, too",
        )
    if error.errno == errno.EINVAL:
        # What connect and send say of a blackhole route, and of an IPv6 link-local address alone.
        return Unreachable(
            "the address cannot be reached: this machine has no way out for it",
            advice="is there a blackhole route to it, or does an fe80:: address lack its interface, as in fe80::1%eth0?",
        )
    if error.errno == errno.EAFNOSUPPORT:
        return Unreachable(
            "the address cannot be reached: there are no addresses of its kind on this machine",
            advice="is IPv6, or IPv4, off here or forbidden to this process?",
        )
    words = _words(error)
    if error.errno in _UNREACHABLE:
        return Unreachable(f"the address cannot be reached: {words}", advice="check routes and firewalls")
    return TransportError(f"the socket failed: {words}")


def _words(error: OSError) -> str:
    # By the number: the text of the error itself may name the call that failed.
    return str(error) if error.errno is None else os.strerror(error.errno)
