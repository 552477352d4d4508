"""Why datagrams are dropped, as the counters name it.

Comes in: nothing. Goes out: `Drop`. It must never give two reasons one name.
"""

from enum import StrEnum

from tsq.quic.limits import DRAINING, FULL


class Drop(StrEnum):
    """Why a datagram was dropped."""

    TOO_SHORT = "too short for a QUIC packet"
    UNKNOWN_CONNECTION = "unknown connection ID"
    UNKNOWN_VERSION = "unknown version"
    SMALL_INITIAL = "Initial under 1200 bytes"
    NOT_INITIAL = "handshake packet of no connection"
    TOO_MANY_CONNECTIONS = FULL
    DRAINING = DRAINING
    INVALID_TOKEN = "invalid Retry token"
    USED_TOKEN = "Retry token that was used before"
    NETWORK_OVER_BUDGET = "more handshakes than one network may begin"
    MEMORY_SHORT = "memory is short"
    DENIED = "address that is denied"
    UNREADABLE_INITIAL = "Initial that cannot be opened"
    TOO_MANY_HANDSHAKES = "too many handshakes under way"
    TOO_MANY_PACKETS = "datagram with too many packets"
    TOO_MANY_FRAMES = "packet with too many frames"
    TOO_MANY_ACKS = "packet with too many acknowledgments"
    HANDSHAKE_DATA = "handshake data beyond the limits"
    OVER_BUDGET = "more packets than one connection may cost"
    CAME_BEFORE = "packet that came before"
    OVERLOADED = "more packets than the control plane takes"


# Of these, the reasons that an attack causes.
EXCESSES = (
    Drop.TOO_MANY_PACKETS, Drop.TOO_MANY_FRAMES, Drop.TOO_MANY_ACKS, Drop.HANDSHAKE_DATA, Drop.OVER_BUDGET, Drop.OVERLOADED,
)  # fmt: skip
