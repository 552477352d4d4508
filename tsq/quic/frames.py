"""Count the frames of a packet and the packets of a datagram before aioquic handles them (RFC 9000 §12.2, §19, RFC 9221 §4).

Comes in: the payload of an opened packet, or a received datagram. Goes out: the number of frames, or which limit they exceed; the
number of packets. It must never judge whether frames are well formed: it stops at the first malformed one, as aioquic does.
"""

from typing import NamedTuple

from tsq.quic.limits import PeerLimits

_PADDING, _CRYPTO, _NEW_TOKEN, _NEW_CONNECTION_ID = 0x00, 0x06, 0x07, 0x18
_ACKS = (0x02, 0x03)
_CLOSES = (0x1C, 0x1D)
_DATAGRAMS = (0x30, 0x31)
_PATHS = (0x1A, 0x1B)
_STREAMS = range(0x08, 0x10)
# Frames that are variable-length integers only: how many.
_INTEGERS = {
    0x01: 0, 0x04: 3, 0x05: 2, 0x10: 1, 0x11: 2, 0x12: 1, 0x13: 1, 0x14: 1, 0x15: 2, 0x16: 1, 0x17: 1, 0x19: 1, 0x1E: 0,
}  # fmt: skip

# The first byte of a long header, and the version.
_VERSION_END = 5
# By version and type bits, the long headers that have a length (RFC 9000 §17.2, RFC 9369 §3.2).
_KINDS: dict[bytes, dict[int, str]] = {
    b"\x00\x00\x00\x01": {0x00: "initial", 0x10: "0-RTT", 0x20: "handshake"},
    b"\x6b\x33\x43\xcf": {0x10: "initial", 0x20: "0-RTT", 0x30: "handshake"},
}


class Contents(NamedTuple):
    """What is in a packet. excess: which limit it exceeds, "" for none."""

    frames: int
    excess: str = ""


class _Reader:
    """Walks through a payload. Raises IndexError at its end."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def integer(self) -> int:
        """RFC 9000 §16."""
        first = self.data[self.at]
        size = 1 << (first >> 6)
        if size == 1:
            self.at += 1
            return first
        end = self.at + size
        if end > len(self.data):
            raise IndexError
        value = int.from_bytes(self.data[self.at : end], "big") & ((1 << (8 * size - 2)) - 1)
        self.at = end
        return value

    def skip(self, count: int) -> None:
        """Step over integers."""
        for _ in range(count):
            self.at += 1 << (self.data[self.at] >> 6)


def contents(payload: bytes, limits: PeerLimits) -> Contents:
    """Count the frames of a packet, until a limit is exceeded."""
    reader = _Reader(payload)
    frames = acks = ranges = 0
    size = len(payload)
    try:
        while reader.at < size:
            frames += 1
            if frames > limits.frames:
                return Contents(frames, "packet with too many frames")
            kind = reader.integer()
            if kind in _ACKS:
                acks += 1
                reader.skip(2)
                more = reader.integer()
                ranges += 1 + more
                if acks > limits.acks or ranges > limits.ack_ranges:
                    return Contents(frames, "packet with too many acknowledgments")
                reader.skip(1 + 2 * more + (3 if kind & 1 else 0))
            elif not _step_over(reader, kind):
                break
    except IndexError:
        pass
    return Contents(frames)


def packets_in(data: bytes, most: int) -> int:
    """How many packets share a datagram, counted up to one more than `most`. What follows a malformed header does not count."""
    size = len(data)
    reader = _Reader(data)
    count = 0
    try:
        while reader.at < size and count <= most:
            first = data[reader.at]
            count += 1
            if not first & 0x80:
                # A short header goes on to the end of the datagram (RFC 9000 §17.3).
                break
            reader.at += _VERSION_END
            version = data[reader.at - 4 : reader.at]
            reader.at += 1 + data[reader.at]
            reader.at += 1 + data[reader.at]
            kind = _KINDS.get(version, {}).get(first & 0x30)
            if kind is None:
                # Version Negotiation, Retry and other versions' packets fill their datagram.
                break
            if kind == "initial":
                reader.at = reader.integer() + reader.at
            reader.at = reader.integer() + reader.at
    except IndexError:
        pass
    return count


def _step_over(reader: _Reader, kind: int) -> bool:
    """Go to the next frame; False where this one is unknown."""
    if kind == _PADDING:
        rest = reader.data[reader.at :]
        reader.at += len(rest) - len(rest.lstrip(b"\0"))
    elif kind in _DATAGRAMS:
        reader.at = reader.integer() + reader.at if kind & 1 else len(reader.data)
    elif kind in _STREAMS:
        reader.skip(2 if kind & 4 else 1)
        reader.at = reader.integer() + reader.at if kind & 2 else len(reader.data)
    elif kind == _CRYPTO:
        reader.skip(1)
        reader.at = reader.integer() + reader.at
    elif kind in _INTEGERS:
        reader.skip(_INTEGERS[kind])
    elif kind == _NEW_CONNECTION_ID:
        reader.skip(2)
        reader.at += 1 + reader.data[reader.at] + 16
    elif kind in _PATHS:
        reader.at += 8
    elif kind == _NEW_TOKEN:
        reader.at = reader.integer() + reader.at
    elif kind in _CLOSES:
        reader.skip(2 if kind == _CLOSES[0] else 1)
        reader.at = reader.integer() + reader.at
    else:
        return False
    return True
