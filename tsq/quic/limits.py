"""Limits on what peers may cost a server, each with its reason.

Comes in: what an operator chose. Goes out: plain values. It holds no state and decides nothing.
"""

from dataclasses import dataclass, field, fields
from enum import StrEnum
from math import isfinite

from tsq.errors import ConfigError

# The reason that a server gives with CONNECTION_REFUSED where all its connections are in use.
FULL = "connection limit reached"


class RetryPolicy(StrEnum):
    """When a client must validate its address by a Retry before the server keeps anything for it (RFC 9000 §8.1.2)."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


def _check_numbers(limits: "PeerLimits | Limits") -> None:
    """Raises ConfigError if a limit with a number as its default is something else, negative or not finite."""
    for one in fields(limits):
        value, default = getattr(limits, one.name), one.default
        if type(default) is int and (type(value) is not int or value < 0):
            raise ConfigError(f"{one.name} {value!r}", expected="a whole number, 0 or more")
        if type(default) is float and (type(value) not in (int, float) or not isfinite(value) or value < 0):
            raise ConfigError(f"{one.name} {value!r}", expected="a number, 0 or more")


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """What one peer may make an endpoint keep or do. The values leave real peers room: nobody has to tune them.

    packets: in one datagram; an Initial, a 0-RTT, a Handshake and a 1-RTT packet may share one.
    frames: in one packet, runs of PADDING included. Chrome cuts a ClientHello into some 45, other stacks send ten at most.
    ack_ranges: in one packet, of all its ACK frames; the data plane takes as many.
    acks: ACK frames in one packet; real stacks send one.
    messages: requests of one packet that are answered: as many as fit a packet of 1200 bytes, and some more.
    excessive_packets: authenticated packets beyond these limits; the connection is closed after so many.
    crypto_bytes: TLS bytes in the Initial and in the Handshake packets of a peer, from the first to the last. A ClientHello with
    post-quantum key shares has about 2 KiB.
    crypto_later: TLS bytes in 1-RTT packets that are not yet a whole message: session tickets, for a client.
    crypto_gaps: pieces of TLS bytes that are kept because others before them are missing.
    stream_ahead, stream_gaps: the same for a stream, whose messages have 2 KiB at most.
    control_rate: packets a second that the control plane takes of one connection, about a fifth of a core. Plain requests are not
    among them: the data plane answers those. A client that asks on streams, one request after the other, stays below it.
    strained_rate: the same while all connections together use much of the control plane.
    control_burst: so many at once, for a handshake with losses, a migration, a client that was asleep.
    handshake_packets: datagrams of one client until its handshake is complete. Ten are usual.
    offence: seconds after which a connection that stays beyond control_rate is closed. Until then its excess packets are dropped.
    sent_packets: packets of this end that are remembered though they ask for no acknowledgment.
    connection_ids: sequence numbers of the peer's connection IDs that are remembered after they are retired.
    """

    packets: int = 8
    frames: int = 64
    ack_ranges: int = 64
    acks: int = 4
    messages: int = 64
    excessive_packets: int = 16
    crypto_bytes: int = 16 * 1024
    crypto_later: int = 4 * 1024
    crypto_gaps: int = 32
    stream_ahead: int = 4 * 1024
    stream_gaps: int = 16
    control_rate: float = 2000.0
    strained_rate: float = 250.0
    control_burst: float = 1000.0
    handshake_packets: int = 100
    offence: float = 10.0
    sent_packets: int = 128
    connection_ids: int = 64

    def __post_init__(self) -> None:
        _check_numbers(self)


# A server's certificates may be many: aioquic itself sends 16 KiB at most, other servers more.
CLIENT_LIMITS = PeerLimits(crypto_bytes=128 * 1024, crypto_later=16 * 1024, crypto_gaps=128)

# Bytes out of order that all connections of this process keep together.
MOST_KEPT = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server spends on clients before it knows them. handshake_timeout in seconds; half_open: number of unfinished
    handshakes above which a Retry is required.

    most_half_open: largest number of unfinished handshakes. A new one replaces the oldest whose client's address is not validated.
    newcomers: handshakes a second that such clients may begin while more than half_open are unfinished. The rest of the machine's
    time is for connected clients. A handshake costs about a millisecond. As many clients a second are refused by a full server.
    strangers: packets a second of all handshakes of such clients together, without the first packet of each.
    all_control: packets a second that the control plane takes of all connections before it keeps each to its strained rate.
    most_control: packets a second that it takes at all; the rest of the core is the data plane's.
    peer: what one connection may cost.
    """

    max_connections: int = 10_000
    half_open: int = 200
    handshake_timeout: float = 5.0
    retry: RetryPolicy = RetryPolicy.AUTO
    most_half_open: int = 1000
    newcomers: float = 300.0
    strangers: float = 2000.0
    all_control: float = 3000.0
    most_control: float = 5000.0
    peer: PeerLimits = field(default_factory=PeerLimits)

    def __post_init__(self) -> None:
        _check_numbers(self)
        if self.max_connections < 1:
            raise ConfigError(f"max_connections {self.max_connections}", expected="1 or more")
        if not isinstance(self.retry, RetryPolicy):
            policies = ", ".join(f"RetryPolicy.{policy.name}" for policy in RetryPolicy)
            raise ConfigError(f"retry {self.retry!r}", expected=policies)
        if not isinstance(self.peer, PeerLimits):
            raise ConfigError(f"peer {self.peer!r}", expected="a PeerLimits")
