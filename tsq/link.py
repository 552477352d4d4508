"""One address of a server: its socket and its session.

Comes in: a target, one of its addresses, options. Goes out: Links, which move datagrams between socket and session, and our own
errors for what the network said. It must never wait, or decide anything about samples: that is for the clients.
"""

import errno
import os
import socket
from dataclasses import replace
from typing import TextIO

from tsq.config import ClientOptions, Target
from tsq.errors import NameNotFound, NothingListens, TransportError, Unreachable
from tsq.exchange import Rules
from tsq.host.clock import clock_reading, era_pivot_ns, precision_ns
from tsq.quic import tls
from tsq.quic.client_connection import ClientConnection
from tsq.quic.tickets import SessionFile, SessionTicket
from tsq.quic.udp import CONNECTED, UdpSocket
from tsq.session import Session

_FAMILIES = {0: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}
_REFUSED = {errno.ECONNREFUSED}
_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.ENETDOWN, errno.EADDRNOTAVAIL}

Address = tuple[int, tuple[object, ...]]


class Link:
    """A session and its socket: moves datagrams between them."""

    def __init__(self, udp: UdpSocket, session: Session, connection: ClientConnection, address: str) -> None:
        self.udp = udp
        self.session = session
        self.connection = connection
        self.address = address

    def pump(self, now: float) -> None:
        """Send what the session wants to send."""
        out = self.session.datagrams(now)
        try:
            if self.session.has_leaving and out:
                # Before the requests leave, so that no movement of the clock is missed.
                reading = clock_reading()
                self.session.departed(self.udp.send_stamped(out), reading)
            elif out:
                self.udp.send([(data, CONNECTED) for data in out])
        except OSError as error:
            self._failed(error)

    def readable(self, now: float, stamps: bool = False) -> None:
        """Feed what has come to the session. stamps: the error queue holds something, such as a departure time that came late."""
        try:
            if stamps:
                self.udp.forget_stamps()
            for datagram in self.udp.receive():
                self.session.receive(datagram, now, clock_reading())
        except OSError as error:
            self._failed(error)

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


def open_link(
    target: Target,
    family: int,
    address: tuple[object, ...],
    options: ClientOptions,
    rules: Rules,
    notices: list[str],
    key_log: TextIO | None = None,
) -> Link:
    """A socket and a session for one address, not started yet. Raises OSError where there is no way to the address."""
    name = options.server_name or target.host
    tickets = _Tickets(target, name, options, notices)
    configuration = tls.client_configuration(name, options.trust, ticket=tickets.taken, key_log=key_log)
    # Who waits longer for the handshake than QUIC does for a sign of life shall not be told that the connection went silent.
    configuration.idle_timeout = max(configuration.idle_timeout, options.timeout + 1.0)
    connection = ClientConnection(configuration, on_ticket=tickets.keep)
    udp = UdpSocket.connected(family, address)
    tickets.connection = connection
    session = Session(connection, rules=rules, stream=options.stream, timeout=options.timeout)
    return Link(udp, session, connection, str(address[0]))


class _Tickets:
    """Between a connection and the session file: takes one ticket, keeps those that come."""

    def __init__(self, target: Target, name: str, options: ClientOptions, notices: list[str]) -> None:
        self.connection: ClientConnection | None = None
        self.taken: SessionTicket | None = None
        self._key = f"{target} {name}"
        self._file: SessionFile | None = None
        self._certificates_expire: float | None = None
        if options.session_file is not None:
            self._file = SessionFile(options.session_file, notices.append)
            self._trust = tls.trust_identity(options.trust)
            self.taken, self._certificates_expire = self._file.take(self._key, self._trust)

    def keep(self, ticket: SessionTicket) -> None:
        """A ticket has come."""
        if self._file is None or self.connection is None:
            return
        # A resumed session shows no certificate: what is known of it from the first one still holds.
        expiry = self.connection.certificates_expire or self._certificates_expire
        self._file.save(self._key, self._trust, ticket, expiry)


def with_precision(rules: Rules | None) -> Rules:
    """These rules, with this machine's clock precision and the present NTP era where they give none."""
    rules = rules or Rules()
    return replace(
        rules,
        precision_ns=precision_ns() if rules.precision_ns is None else rules.precision_ns,
        era_pivot_ns=era_pivot_ns() if rules.era_pivot_ns is None else rules.era_pivot_ns,
    )


def resolve(target: Target, family: int) -> list[Address]:
    """All addresses of a host, as (family, socket address). Raises NameNotFound."""
    try:
        found = socket.getaddrinfo(target.host, target.port, _FAMILIES[family], socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        wanted = {0: "", 4: " (IPv4)", 6: " (IPv6)"}[family]
        raise NameNotFound(
            f"no address{wanted} for {target.host}: {getattr(error, 'strerror', None) or error}",
            advice="is the name right, and does name resolution work here?",
        ) from error
    return [(item[0], item[4]) for item in found]


def network_error(error: OSError) -> TransportError:
    """Our error for what the socket said."""
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
    # The number's own words: those of the error may name the call that failed.
    words = str(error) if error.errno is None else os.strerror(error.errno)
    if error.errno in _UNREACHABLE:
        return Unreachable(f"the address cannot be reached: {words}", advice="check routes and firewalls")
    return TransportError(f"the socket failed: {words}")
