"""Limits on what peers may cost a server, each with its reason.

Comes in: what an operator chose. Goes out: plain values. It holds no state and decides nothing.
"""

from dataclasses import dataclass, field, fields
from enum import StrEnum
from math import isfinite

from tsq.errors import ConfigError

# The reason that a server gives with CONNECTION_REFUSED where all its connections are in use.
FULL = "connection limit reached"
# The same where it is about to go, and where it has closed a connection for that.
DRAINING = "server is draining"


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
    handshakes: handshakes a second that clients whose address is validated may begin, by a token of a Retry or of an earlier
    connection.
    arrivals: clients without a token that arrive within half a second before all must show that they receive (Retry): about so many
    at once, or twice as many a second. Each would cost a handshake, which clients that are connected have to wait for.
    prefix_newcomers: handshakes a second that clients of one network (/24, /56) may begin while their addresses are not validated,
    twice as many at once. Beyond that they get a Retry, so that nobody can shut out a network by forging its addresses.
    prefix_handshakes: the same for those whose address is validated. Beyond that they are dropped.
    queue_delay: seconds that strangers' datagrams wait in the socket before a Retry is required.
    memory: the used share of the machine's or the container's memory before a Retry is required. At a tenth more, new clients are
    refused, and those that are connected stay.
    strangers: packets a second of all handshakes of such clients together, without the first packet of each.
    all_control: packets a second that the control plane takes of all connections before it keeps each to its strained rate.
    most_control: packets a second that it takes at all; the rest of the core is the data plane's.
    signatures: signed responses a second for one client, and four times as many at once; all_signatures: for all clients together.
    An Ed25519 signature costs 50 µs of the control plane.
    awake: connections that are not at rest; each needs 33 KiB. Beyond these, new clients are refused.
    rest_after: seconds without work for the control plane after which a connection is left to the data plane alone, where it needs
    less than a kibibyte. early_rest: the same where many are awake, for those whose clients have done nothing but connect.
    rebuilds: such connections a second that are made again for a packet that needs the control plane.
    peer: what one connection may cost.
    """

    max_connections: int = 100_000
    half_open: int = 200
    handshake_timeout: float = 5.0
    retry: RetryPolicy = RetryPolicy.AUTO
    most_half_open: int = 1000
    newcomers: float = 300.0
    handshakes: float = 500.0
    arrivals: int = 20
    prefix_newcomers: float = 100.0
    prefix_handshakes: float = 300.0
    queue_delay: float = 0.02
    memory: float = 0.85
    strangers: float = 2000.0
    all_control: float = 3000.0
    most_control: float = 5000.0
    signatures: float = 8.0
    all_signatures: float = 2000.0
    awake: int = 10_000
    rest_after: float = 2.0
    early_rest: float = 0.5
    rebuilds: float = 200.0
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
