"""Requests and responses: bytes <-> frozen dataclasses (docs/reference/protocol.md R3, R4, R7).

Comes in: the bytes of one message, or the values to encode. Goes out: the other form, or MalformedMessage. Timestamps stay 64-bit
NTP timestamps (R9): their era is the caller's matter. Must never read a clock, touch a socket, or raise anything but MessageError
for bytes from the network.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tsq._fast import pack_tlvs, unpack_message, unpack_tlvs
from tsq.errors import MalformedMessage, MessageError
from tsq.wire.tlv import MAX_VALUE_SIZE, NONCE_SIZE, SATURATED, TlvType

Tlv = tuple[int, bytes]

# The TLV types as plain int: the lookup of an enumeration member costs more than the comparison.
_RECEIVE_TIMESTAMP = int(TlvType.RECEIVE_TIMESTAMP)
_SEND_TIMESTAMP = int(TlvType.SEND_TIMESTAMP)
_METADATA_QUERY = int(TlvType.METADATA_QUERY)
_CLOCK_QUALITY = int(TlvType.CLOCK_QUALITY)
_ERROR = int(TlvType.ERROR)
_PRECISION_MODE = int(TlvType.PRECISION_MODE)
_TIME_SOURCE = int(TlvType.TIME_SOURCE)
_SIGNATURE_REQUEST = int(TlvType.SIGNATURE_REQUEST)
_METADATA = int(TlvType.METADATA)
_SIGNATURE = int(TlvType.SIGNATURE)
_PLAIN_TLVS = 3
_ERROR_REASON_SIZE = 253  # R3: a value of 255 bytes, without code and reserved byte
_SECTION = "docs/reference/protocol.md R4"


class Mode(StrEnum):
    """How a message is carried over QUIC: in a DATAGRAM frame, or on a stream of its own."""

    DATAGRAM = "datagram"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class ClockQuality:
    """Clock Quality Info (248): class, estimated error in µs, drift in ppb (both saturate at 65535), a tag."""

    clock_class: int
    error_us: int
    drift_ppb: int
    tag: str = ""

    def tlv(self) -> Tlv:
        """This information as a TLV."""
        numbers = bytes([self.clock_class, 0]) + _saturated(self.error_us) + _saturated(self.drift_ppb)
        return TlvType.CLOCK_QUALITY, numbers + _text(self.tag, MAX_VALUE_SIZE - 6)


@dataclass(frozen=True, slots=True)
class TimeSource:
    """Time Source Info (251): stratum (0 unsynchronized), source type, a description."""

    stratum: int
    source_type: int
    description: str = ""

    def tlv(self) -> Tlv:
        """This information as a TLV."""
        return TlvType.TIME_SOURCE, bytes([self.stratum, self.source_type]) + _text(self.description, MAX_VALUE_SIZE - 2)


@dataclass(frozen=True, slots=True)
class SignatureBlock:
    """Signature Block (255) as received: algorithm, key id, signature, and the bytes that it covers (R5)."""

    algorithm: int
    key_id: int
    signature: bytes
    covered: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the server sees it. `size`: its length in bytes; in Precision Mode the response has the same (R7)."""

    nonce: bytes
    metadata_query: bool = False
    precision: bool = False
    signature: bool = False
    metadata: Mapping[str, str] | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class Response:
    """A response as the client sees it, with 64-bit NTP timestamps (R9)."""

    nonce: bytes
    receive_ntp: int
    send_ntp: int
    clock_quality: ClockQuality | None = None
    time_source: TimeSource | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    precision: bool = False
    signature: SignatureBlock | None = None


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An Error TLV (249): a Stream Mode response with nothing else in it."""

    code: int
    reason: str


def encode_request(
    nonce: bytes,
    *,
    metadata_query: bool = False,
    signature: bool = False,
    metadata: Mapping[str, str] | None = None,
    precision_size: int | None = None,
) -> bytes:
    """Bytes of a request. precision_size: request Precision Mode, and pad to this size of the expected response (R7)."""
    if len(nonce) != NONCE_SIZE:
        raise MalformedMessage(f"a nonce of {len(nonce)} bytes", expected="16 bytes", section=_SECTION)
    tlvs: list[Tlv] = [(TlvType.NONCE, nonce)]
    if metadata_query:
        tlvs.append((TlvType.METADATA_QUERY, b""))
    if signature:
        tlvs.append((TlvType.SIGNATURE_REQUEST, b""))
    if metadata is not None:
        tlvs.append(metadata_tlv(metadata))
    if precision_size is not None:
        tlvs.append((TlvType.PRECISION_MODE, b""))
        gap = max(precision_size - tlvs_size(tlvs), 0)
        # One byte more where padding cannot fill one: the server pads its response, too.
        tlvs += padding(2 if gap == 1 else gap) or []
    return pack_tlvs(tlvs)


def decode_request(data: bytes) -> Request:
    """Decode a request. Raises MalformedMessage (R4)."""
    tlvs = unpack_message(data)
    nonce = tlvs[0][1]
    if len(tlvs) == 1:
        return Request(nonce, size=len(data))
    kinds = {kind for kind, _ in tlvs}
    return Request(
        nonce=nonce,
        metadata_query=_METADATA_QUERY in kinds,
        precision=_PRECISION_MODE in kinds,
        signature=_SIGNATURE_REQUEST in kinds,
        metadata=_metadata(tlvs) if _METADATA in kinds else None,
        size=len(data),
    )


def decode_response(data: bytes) -> Response | ErrorReply:
    """Decode a response. Raises MalformedMessage (R4), also where T2 or T3 is missing."""
    if data and data[0] == _ERROR:
        return _decode_error(data)
    tlvs = unpack_message(data)
    last = dict(tlvs)
    receive, send = last.get(_RECEIVE_TIMESTAMP), last.get(_SEND_TIMESTAMP)
    if receive is None or send is None:
        raise MalformedMessage("a response without T2 or T3", expected="both timestamps", section=_SECTION)
    receive_ntp, send_ntp = int.from_bytes(receive, "big"), int.from_bytes(send, "big")
    if len(tlvs) == _PLAIN_TLVS:
        return Response(tlvs[0][1], receive_ntp, send_ntp)
    quality, source, signature = last.get(_CLOCK_QUALITY), last.get(_TIME_SOURCE), last.get(_SIGNATURE)
    return Response(
        nonce=tlvs[0][1],
        receive_ntp=receive_ntp,
        send_ntp=send_ntp,
        clock_quality=None if quality is None else _decode_quality(quality),
        time_source=None if source is None else _decode_source(source),
        metadata=_metadata(tlvs) if _METADATA in last else {},
        precision=_PRECISION_MODE in last,
        signature=None if signature is None else _decode_signature(data, signature),
    )


def is_response(data: bytes) -> bool:
    """Whether these bytes are a complete response, as far as one can know before the end of the stream."""
    try:
        decode_response(data)
    except MessageError:
        return False
    return True


def encode_error(code: int, reason: str) -> bytes:
    """Bytes of an error response; the reason is cut to 253 bytes of UTF-8 (R3)."""
    return pack_tlvs([(TlvType.ERROR, bytes([code, 0]) + _text(reason, _ERROR_REASON_SIZE))])


def metadata_tlv(pairs: Mapping[str, str]) -> Tlv:
    """A Metadata TLV (253), keys in lexicographic byte order. Raises MalformedMessage where something is too long."""
    value = bytearray()
    for key, text in sorted((key.encode(), text.encode()) for key, text in pairs.items()):
        if len(key) > MAX_VALUE_SIZE or len(text) > MAX_VALUE_SIZE:
            raise MalformedMessage(f"metadata {key!r}", expected="at most 255 bytes each of key and value")
        value += bytes([len(key)]) + key + bytes([len(text)]) + text
    if len(value) > MAX_VALUE_SIZE:
        raise MalformedMessage(f"metadata of {len(value)} bytes", expected="at most 255 bytes")
    return TlvType.METADATA, bytes(value)


def decode_metadata(value: bytes) -> dict[str, str]:
    """The pairs of a Metadata TLV. Raises MalformedMessage where a length runs past the end or a key has no value."""
    parts: list[str] = []
    at = 0
    while at < len(value):
        end = at + 1 + value[at]
        if end > len(value):
            raise MalformedMessage("a metadata key or value that runs past the end", expected="its bytes", section=_SECTION)
        parts.append(decode_text(value[at + 1 : end]))
        at = end
    if len(parts) % 2:
        raise MalformedMessage("a metadata key without a value", expected="pairs", section=_SECTION)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def padding(size: int) -> list[Tlv] | None:
    """Padding TLVs (254) of exactly `size` bytes; None for 1 byte, since the smallest TLV has 2 (R7), and below 0."""
    if size == 1 or size < 0:
        return None
    out: list[Tlv] = []
    while size:
        # Never leave one byte after a TLV of full size.
        take = size if size <= 2 + MAX_VALUE_SIZE else min(2 + MAX_VALUE_SIZE, size - 2)
        out.append((TlvType.PADDING, bytes(take - 2)))
        size -= take
    return out


def tlvs_size(tlvs: list[Tlv]) -> int:
    """The size of these TLVs on the wire, bytes."""
    return sum(2 + len(value) for _, value in tlvs)


def decode_text(value: bytes) -> str:
    """Text from the network: bytes that are not UTF-8 become visible escapes; never an error."""
    return value.decode("utf-8", "backslashreplace")


def _decode_error(data: bytes) -> ErrorReply:
    tlvs = unpack_tlvs(data)
    if len(tlvs) != 1 or len(tlvs[0][1]) < 2:
        raise MalformedMessage("an Error TLV that is short or not alone", expected="code, reserved, reason", section=_SECTION)
    return ErrorReply(code=tlvs[0][1][0], reason=decode_text(tlvs[0][1][2:]))


def _decode_quality(value: bytes) -> ClockQuality:
    if len(value) < 6:
        raise MalformedMessage(f"Clock Quality Info of {len(value)} bytes", expected="at least 6", section=_SECTION)
    return ClockQuality(
        clock_class=value[0],
        error_us=int.from_bytes(value[2:4], "big"),
        drift_ppb=int.from_bytes(value[4:6], "big"),
        tag=decode_text(value[6:]),
    )


def _decode_source(value: bytes) -> TimeSource:
    if len(value) < 2:
        raise MalformedMessage(f"Time Source Info of {len(value)} bytes", expected="at least 2", section=_SECTION)
    return TimeSource(stratum=value[0], source_type=value[1], description=decode_text(value[2:]))


def _decode_signature(data: bytes, value: bytes) -> SignatureBlock:
    if len(value) < 7 or int.from_bytes(value[5:7], "big") != len(value) - 7:
        raise MalformedMessage("a Signature Block whose lengths disagree", expected="7 bytes and the signature", section=_SECTION)
    return SignatureBlock(
        algorithm=value[0],
        key_id=int.from_bytes(value[1:5], "big"),
        signature=value[7:],
        # R5: the block is the last TLV, and covers all bytes before it.
        covered=data[: len(data) - 2 - len(value)],
    )


def _metadata(tlvs: list[Tlv]) -> dict[str, str]:
    """The pairs of all Metadata TLVs; the last value of a repeated key counts."""
    pairs: dict[str, str] = {}
    for kind, value in tlvs:
        if kind == _METADATA:
            pairs.update(decode_metadata(value))
    return pairs


def _saturated(number: int) -> bytes:
    return max(0, min(number, SATURATED)).to_bytes(2, "big")


def _text(text: str, size: int) -> bytes:
    # Cut between characters: a part of one would not be UTF-8.
    return text.encode()[:size].decode("utf-8", "ignore").encode()
