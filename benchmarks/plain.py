"""The codec and the timestamp conversions in plain Python with `struct`, for comparison with the compiled ones.

Comes in: bytes or numbers. Goes out: the same results as from TSQ's codec, by the same rules (docs/reference/protocol.md R4, R9),
so that both do the same work. Must use nothing of TSQ.
"""

import struct
from dataclasses import dataclass, field

NS_PER_S = 1_000_000_000
NTP_UNIX = 2_208_988_800
ERA_UNITS = 1 << 64

NONCE, RECEIVE, SEND = 1, 2, 3
METADATA_QUERY, QUALITY, PRECISION, SOURCE, SIGNATURE_REQUEST, METADATA, SIGNATURE = 247, 248, 250, 251, 252, 253, 255
_SIZES = {NONCE: 16, RECEIVE: 8, SEND: 8, METADATA_QUERY: 0, PRECISION: 0, SIGNATURE_REQUEST: 0}
_ONCE = frozenset((NONCE, RECEIVE, SEND, PRECISION, SIGNATURE_REQUEST, SIGNATURE))
_RESPONSE = struct.Struct("!BB16sBBQBBQ")
_QUALITY = struct.Struct("!BxHH")
_SIGNATURE = struct.Struct("!BIH")


@dataclass(frozen=True, slots=True)
class Request:
    """A request."""

    nonce: bytes
    metadata_query: bool
    precision: bool
    signature: bool
    metadata: dict[str, str] | None
    size: int


@dataclass(frozen=True, slots=True)
class Response:
    """A response; timestamps are NTP numbers."""

    nonce: bytes
    receive_ntp: int
    send_ntp: int
    quality: tuple[int, int, int, str] | None = None
    source: tuple[int, int, str] | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    precision: bool = False
    signature: tuple[int, int, bytes, bytes] | None = None


def ntp_from_ns(unix_ns: int) -> int:
    """NTP timestamp of a Unix time, rounded up, modulo the era."""
    seconds, rest = divmod(unix_ns, NS_PER_S)
    fraction = ((rest << 32) + NS_PER_S - 1) // NS_PER_S
    return ((seconds + NTP_UNIX) << 32 | fraction) % ERA_UNITS


def ns_from_ntp(ntp: int, pivot_ns: int) -> int:
    """Unix time of an NTP timestamp, rounded down, in the era nearest to the pivot."""
    seconds, rest = divmod(pivot_ns, NS_PER_S)
    pivot = (seconds + NTP_UNIX << 32) + ((rest << 32) + NS_PER_S - 1) // NS_PER_S
    difference = (ntp - pivot + ERA_UNITS // 2) % ERA_UNITS - ERA_UNITS // 2
    absolute = pivot + difference
    return ((absolute >> 32) - NTP_UNIX) * NS_PER_S + ((absolute & 0xFFFFFFFF) * NS_PER_S >> 32)


def unpack_message(data: bytes) -> list[tuple[int, bytes]]:
    """The TLVs of a message. Raises ValueError for a malformed one."""
    tlvs: list[tuple[int, bytes]] = []
    seen: set[int] = set()
    at, end = 0, len(data)
    while at < end:
        if end - at < 2:
            raise ValueError(f"one byte after the last TLV, at {at}")
        kind, length = data[at], data[at + 1]
        value = data[at + 2 : at + 2 + length]
        if len(value) != length:
            raise ValueError(f"a TLV that runs past the end, at {at}")
        if SIGNATURE in seen:
            raise ValueError("a TLV after the signature")
        if _SIZES.get(kind, length) != length:
            raise ValueError(f"TLV {kind} of {length} bytes")
        if kind in seen and kind in _ONCE:
            raise ValueError(f"a second TLV {kind}")
        seen.add(kind)
        tlvs.append((kind, value))
        at += 2 + length
    if not tlvs or tlvs[0][0] != NONCE:
        raise ValueError("a message that does not begin with a nonce")
    return tlvs


def pack_tlvs(tlvs: list[tuple[int, bytes]]) -> bytes:
    """Bytes of TLVs."""
    return b"".join(bytes((kind, len(value))) + value for kind, value in tlvs)


def pack_response(nonce: bytes, receive_ns: int, send_ns: int) -> bytes:
    """A plain response."""
    if len(nonce) != 16:
        raise ValueError(f"a nonce of {len(nonce)} bytes")
    return _RESPONSE.pack(NONCE, 16, nonce, RECEIVE, 8, ntp_from_ns(receive_ns), SEND, 8, ntp_from_ns(send_ns))


def decode_request(data: bytes) -> Request:
    """A request from its bytes."""
    tlvs = unpack_message(data)
    kinds = {kind for kind, _ in tlvs}
    metadata = _metadata(tlvs) if METADATA in kinds else None
    return Request(tlvs[0][1], METADATA_QUERY in kinds, PRECISION in kinds, SIGNATURE_REQUEST in kinds, metadata, len(data))


def decode_response(data: bytes) -> Response:
    """A response from its bytes."""
    tlvs = unpack_message(data)
    last = dict(tlvs)
    if RECEIVE not in last or SEND not in last:
        raise ValueError("a response without timestamps")
    return Response(
        tlvs[0][1],
        int.from_bytes(last[RECEIVE], "big"),
        int.from_bytes(last[SEND], "big"),
        _quality(last[QUALITY]) if QUALITY in last else None,
        _source(last[SOURCE]) if SOURCE in last else None,
        _metadata(tlvs) if METADATA in last else {},
        PRECISION in last,
        _signature(data, last[SIGNATURE]) if SIGNATURE in last else None,
    )


def _quality(value: bytes) -> tuple[int, int, int, str]:
    return *_QUALITY.unpack_from(value), value[6:].decode("utf-8", "backslashreplace")


def _source(value: bytes) -> tuple[int, int, str]:
    return value[0], value[1], value[2:].decode("utf-8", "backslashreplace")


def _metadata(tlvs: list[tuple[int, bytes]]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for kind, value in tlvs:
        if kind != METADATA:
            continue
        texts, at = [], 0
        while at < len(value):
            end = at + 1 + value[at]
            if end > len(value):
                raise ValueError("metadata that runs past the end")
            texts.append(value[at + 1 : end].decode("utf-8", "backslashreplace"))
            at = end
        pairs.update(zip(texts[::2], texts[1::2], strict=True))
    return pairs


def _signature(data: bytes, value: bytes) -> tuple[int, int, bytes, bytes]:
    algorithm, key_id, size = _SIGNATURE.unpack_from(value)
    if size != len(value) - _SIGNATURE.size:
        raise ValueError("a signature whose lengths disagree")
    return algorithm, key_id, value[_SIGNATURE.size :], data[: len(data) - 2 - len(value)]
