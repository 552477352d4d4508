"""An attempt to reach a server at one of its addresses: a socket and a channel.

Comes in: a target, one of its addresses, options. Goes out: Attempts, which move datagrams between socket and channel, and our own
errors for what the network said. It must never wait, or decide anything about samples: that is for the clients.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TextIO

from tsq.client.channel import Channel
from tsq.client.exchange import Rules
from tsq.client.network_errors import description, network_error
from tsq.client.resolving import Address
from tsq.errors import ConfigError, ConnectionLost, TransportError, TSQError
from tsq.host.clock import clock_reading, era_pivot_ns, precision_ns
from tsq.options import ClientOptions, Precision, Target
from tsq.quic import tls
from tsq.quic.client_connection import ClientConnection
from tsq.quic.outcome import is_refused
from tsq.quic.tickets import AcceptedTicket, TicketFile, TicketMemory
from tsq.quic.udp import CONNECTED, Datagram, UdpSocket

# How a handshake fails because of a bad ticket. Other errors have other causes.
_TICKET_ERRORS = {TransportError, ConnectionLost}
_SEND_TRIES = 2
# Seconds for the datagrams of one turn.
_TURN = 0.01


class Attempt:
    """A channel and its socket: moves datagrams between them.

    backlog: datagrams that were read and not passed on yet. origin: the whole address, for another attempt.
    """

    def __init__(
        self, udp: UdpSocket, channel: Channel, connection: ClientConnection, address: str, origin: Address | None = None
    ) -> None:
        self.udp = udp
        self.channel = channel
        self.connection = connection
        self.address = address
        self.origin = origin
        self.backlog: deque[Datagram] = deque()

    @property
    def ticket_failed(self) -> bool:
        """Whether the handshake failed, and its session ticket may be the reason: without one it may succeed."""
        error = self.channel.error
        if error is None or not self.connection.has_ticket or self.channel.established:
            return False
        return type(error) in _TICKET_ERRORS and not is_refused(error)

    def pump(self, now: float) -> None:
        """Send what the channel wants to send."""
        out = self.channel.datagrams(now)
        if not out:
            return
        requests = self.channel.has_leaving
        # Before the requests leave, so that no movement of the clock is missed.
        reading = clock_reading() if requests else None
        failure = "no room in the socket's buffer"
        for _ in range(_SEND_TRIES):
            try:
                if not requests:
                    self.udp.send([(data, CONNECTED) for data in out])
                    return
                transmission = self.udp.send_stamped(out)
                if transmission.sent:
                    self.channel.sent(transmission, reading)
                    return
                break
            except OSError as error:
                # The error may be an ICMP report about an earlier datagram; then the next try is the first one for these.
                self._failed(error)
                if self.channel.error is not None:
                    return
                failure = description(error)
        if requests:
            self.channel.not_sent(failure, reading)

    def readable(self, now: float, stamps: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """Pass received datagrams to the channel. stamps: the error queue holds something, such as a late transmit timestamp.

        A flood does not delay the deadlines: after a while the rest stays in the backlog for the next call.
        """
        try:
            if stamps:
                self.udp.discard_transmit_times()
            if not self.backlog:
                self.backlog.extend(self.udp.receive())
        except OSError as error:
            self._failed(error)
        until = now + _TURN
        while self.backlog and self.channel.error is None:
            self.channel.receive(self.backlog.popleft(), now, clock_reading())
            now = clock()
            if now >= until:
                break
        if self.channel.error is not None:
            self.backlog.clear()

    def move(self) -> None:
        """Use a new socket, and a new connection ID, so that observers cannot link the two paths (RFC 9000 §9.5).

        Raises OSError if the address cannot be reached; nothing has changed then.
        """
        assert self.origin is not None
        udp = UdpSocket.connected(*self.origin)
        self.udp.close()
        self.udp = udp
        self.backlog.clear()
        self.connection.change_connection_id()

    def finish(self, now: float) -> None:
        """Close the connection and the socket."""
        if self.channel.error is None:
            self.channel.close()
            self.pump(now)
        self.udp.close()

    def _failed(self, error: OSError) -> None:
        # Once the handshake is done, the peer is known; an ICMP message is not, and may be forged.
        if not self.channel.established:
            self.channel.fail(network_error(error))


def open_attempt(
    target: Target,
    options: ClientOptions,
    rules: Rules,
    notices: list[str],
    key_log: TextIO | None,
    address: Address,
    numbers: Iterator[int],
    *,
    memory: TicketMemory | None = None,
) -> Attempt:
    """A socket and a channel for one address, not started yet. Raises OSError if the address cannot be reached.

    memory: where to keep session tickets if there is no session file.
    """
    name = options.server_name or target.host
    tickets = _Tickets(target, name, options, notices, memory)
    configuration = tls.client_configuration(name, options.trust, ticket=tickets.taken, key_log=key_log)
    # If a handshake may take longer than QUIC's idle time-out, the error must be HandshakeTimeout, not a connection that idled out.
    configuration.idle_timeout = max(configuration.idle_timeout, options.timeout + 1.0)
    connection = ClientConnection(configuration, on_ticket=tickets.keep)
    udp = UdpSocket.connected(*address)
    if udp.missing is not None and udp.missing not in notices:
        notices.append(udp.missing)
    if options.precision is not Precision.OFF:
        rules = replace(rules, precision=options.precision)
    channel = Channel(connection, rules=rules, stream=options.stream, timeout=options.timeout, numbers=numbers)
    return Attempt(udp, channel, connection, str(address[1][0]), address)


class _Tickets:
    """Between a connection and the session file, or a memory: takes one ticket, keeps those that come."""

    def __init__(self, target: Target, name: str, options: ClientOptions, notices: list[str], memory: TicketMemory | None) -> None:
        self.taken: AcceptedTicket | None = None
        self._memory = memory
        self._key = f"{target} {name}"
        self._file: TicketFile | None = None
        self._warn = notices.append
        if options.session_file is not None:
            self._file = TicketFile(os.fspath(options.session_file), notices.append)
            acceptance = tls.acceptance(name, options.trust)
            ticket, expiry = self._file.take(self._key, acceptance)
            self.taken = None if ticket is None else AcceptedTicket(ticket, acceptance, expiry, self._file.token)
        elif memory is not None:
            self.taken = memory.take(tls.acceptance(name, options.trust))

    def keep(self, accepted: AcceptedTicket) -> None:
        """Keep a ticket of a server that was accepted. If that fails, it is only a notice: the time is still used."""
        if self._file is None:
            if self._memory is not None:
                self._memory.keep(accepted)
            return
        try:
            self._file.save(self._key, accepted.acceptance, accepted.ticket, accepted.certificates_expire, accepted.token)
        except (OSError, TSQError) as error:
            words = description(error) if isinstance(error, OSError) else str(error)
            self._warn(f"session file {self._file.path}: the ticket for the next time is not kept: {words}")


def with_precision(rules: Rules | None) -> Rules:
    """These rules, with this machine's clock precision and the present NTP era where they give none."""
    if rules is None:
        rules = Rules()
    elif not isinstance(rules, Rules):
        raise ConfigError(f"rules {rules!r}", expected="a tsq.Rules")
    return replace(
        rules,
        precision_ns=precision_ns() if rules.precision_ns is None else rules.precision_ns,
        era_pivot_ns=era_pivot_ns() if rules.era_pivot_ns is None else rules.era_pivot_ns,
    )
