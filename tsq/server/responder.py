"""From a request to its response, without I/O (docs/reference/protocol.md, Rulings R2, R4 to R7, R13, R14).

Comes in: the bytes of a request and their receive time. Goes out: a Draft, which the send time completes, or the reason why there
is no response. It must never read a clock, and never give a response whose T3 is before its T2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from tsq._fast import pack_response, pack_tlvs, unpack_message
from tsq.errors import MessageError
from tsq.wire.message import Mode, Request, Tlv, decode_request, encode_error, metadata_tlv, padding, tlvs_size
from tsq.wire.signature import Signer
from tsq.wire.tlv import EXACT_T3, PLAIN_REQUEST_SIZE, PLAIN_RESPONSE_SIZE, REPORT_SIZE, STATE_KEYS, ErrorCode, TlvType

# The answer to a Metadata Query: (TLVs, metadata pairs).
ClockInfo = tuple[tuple[Tlv, ...], Mapping[str, str]]


class NoResponse(StrEnum):
    """Why a request gets no timestamps."""

    MALFORMED = "malformed request"
    CANNOT_SIGN = "signature asked for, and there is no key"
    SIGNATURE_QUOTA = "more signatures than a client may ask for"
    CLOCK_WENT_BACK = "clock stepped back during the exchange"
    TOO_LARGE = "request over 2048 bytes on a stream"


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A request without an answer. error: the error message that Stream Mode sends (R4, R6); Datagram Mode sends nothing."""

    reason: NoResponse
    error: bytes = b""


@dataclass(frozen=True, slots=True)
class Draft:
    """A response without its send time. exact: the client asks for its exact T3, and there is room to report one (R12).

    tail: the acknowledgment of Precision Mode, and padding (R7). shortened: something was left out, because it would be too large.
    """

    nonce: bytes
    receive_ns: int
    optional: tuple[Tlv, ...] = ()
    tail: tuple[Tlv, ...] = ()
    signer: Signer | None = None
    exact: bool = False
    shortened: bool = False

    @property
    def size(self) -> int:
        """The size of the response without an exact T3, bytes."""
        signed = 0 if self.signer is None else self.signer.block_size
        return PLAIN_RESPONSE_SIZE + tlvs_size([*self.optional, *self.tail]) + signed

    def within(self, most: int) -> "Draft":
        """The same response in at most so many bytes, if it can be: without optional TLVs, or another length than was asked for."""
        if self.size <= most:
            room = bool(self.tail) or self.size + REPORT_SIZE <= most
            return self if room or not self.exact else replace(self, exact=False)
        shorter = replace(self, tail=(), shortened=True)
        while shorter.optional and shorter.size > most:
            shorter = replace(shorter, optional=shorter.optional[:-1])
        return shorter.within(most) if shorter.size <= most else replace(shorter, exact=False)

    def with_exact_t3(self, sent_at: str) -> "Draft":
        """The same response, with the exact T3 of an earlier one; in Precision Mode in the place of padding."""
        tail = self.tail
        if tail:
            tail = (tail[0], *(padding(tlvs_size(list(tail[1:])) - REPORT_SIZE) or ()))
        return replace(self, optional=(*self.optional, metadata_tlv({EXACT_T3: sent_at})), tail=tail)

    def complete(self, send_ns: int) -> bytes | Unanswered:
        """The response's bytes with T3 = send_ns. Unanswered if T3 would be before T2: the clock was stepped back."""
        if send_ns < self.receive_ns:
            return Unanswered(NoResponse.CLOCK_WENT_BACK)
        message = pack_response(self.nonce, self.receive_ns, send_ns)
        tlvs = self.optional + self.tail
        if tlvs:
            message += pack_tlvs(tlvs)
        if self.signer is not None:
            message += pack_tlvs([self.signer.sign(message)])
        return message


@dataclass(slots=True)
class Responder:
    """Answers requests.

    signer: for requests that ask for a signature. clock_info: the TLVs that answer a Metadata Query. pairs: metadata about the
    clock, for requests that ask for its keys (R13). annotations: the operator's Metadata, for each Metadata Query (R14). All may be
    replaced at any time. What `set_clock_info` sets expires: from then on, requests get the expired clock info.
    """

    signer: Signer | None = None
    clock_info: tuple[Tlv, ...] = ()
    pairs: Mapping[str, str] = field(default_factory=dict)
    annotations: tuple[Tlv, ...] = ()
    _until_ns: int | None = None
    _expired: ClockInfo = ((), MappingProxyType({}))

    def set_clock_info(self, info: ClockInfo, *, until_ns: int, expired: ClockInfo) -> None:
        """Answer Metadata Queries with `info` until this time, Unix ns, and with `expired` after it."""
        self.clock_info, self.pairs = info
        self._until_ns, self._expired = until_ns, expired

    def prepare(self, data: bytes, receive_ns: int, mode: Mode) -> Draft | Unanswered:
        """The answer to one request, without its send time."""
        try:
            request = decode_request(data)
        except MessageError as error:
            reply = encode_error(ErrorCode.MALFORMED_REQUEST, str(error)) if mode is Mode.STREAM else b""
            return Unanswered(NoResponse.MALFORMED, reply)
        if len(data) == PLAIN_REQUEST_SIZE:
            return Draft(request.nonce, receive_ns)
        if request.signature and self.signer is None:
            reply = encode_error(ErrorCode.AUTHENTICATION_REQUIRED, "no signing key") if mode is Mode.STREAM else b""
            return Unanswered(NoResponse.CANNOT_SIGN, reply)
        signer = self.signer if request.signature else None
        clock_info = self._clock_info(request, receive_ns)
        exact = request.metadata is not None and request.metadata.get(EXACT_T3) == ""
        if not request.precision:
            return Draft(request.nonce, receive_ns, clock_info, (), signer, exact)
        optional, tail = _same_length(request, list(clock_info), signer)
        # Of a response of the promised length (R7), padding may give an exact T3 its place.
        exact = exact and (not tail or padding(tlvs_size(tail[1:]) - REPORT_SIZE) is not None)
        return Draft(request.nonce, receive_ns, tuple(optional), tuple(tail), signer, exact)

    def wants_signature(self, data: bytes) -> bool:
        """Whether this is a request that would get a signature."""
        try:
            return self.signer is not None and len(data) != PLAIN_REQUEST_SIZE and decode_request(data).signature
        except MessageError:
            return False

    def _clock_info(self, request: Request, receive_ns: int) -> tuple[Tlv, ...]:
        """The clock info in the response to this request: nothing that was not asked for."""
        if not request.metadata_query:
            return ()
        over = self._until_ns is not None and receive_ns > self._until_ns
        clock_info, pairs = self._expired if over else (self.clock_info, self.pairs)
        asked = request.metadata or {}
        reported = {key: pairs[key] for key in STATE_KEYS if key in pairs and asked.get(key) == ""}
        about_clock = (*clock_info, metadata_tlv(reported)) if reported else clock_info
        # Last: what Precision Mode omits first.
        return about_clock + self.annotations


def over_quota(mode: Mode) -> Unanswered:
    """No answer: the client has asked for too many signatures (R6)."""
    reply = encode_error(ErrorCode.AUTHENTICATION_REQUIRED, "too many signatures") if mode is Mode.STREAM else b""
    return Unanswered(NoResponse.SIGNATURE_QUOTA, reply)


def stream_request_ready(data: bytes, finished: bool) -> bool:
    """Whether to answer a stream now: at its FIN, or as soon as it holds a whole message (R2)."""
    if finished:
        return True
    try:
        unpack_message(data)
    except MessageError:
        return False
    return True


def _same_length(request: Request, optional: list[Tlv], signer: Signer | None) -> tuple[list[Tlv], list[Tlv]]:
    """(optional TLVs, acknowledgment and padding) that make the response as long as its request (R7)."""
    acknowledgment: list[Tlv] = [(TlvType.PRECISION_MODE, b"")]
    fixed = PLAIN_RESPONSE_SIZE + tlvs_size(acknowledgment) + (signer.block_size if signer else 0)
    everything = list(optional)
    while True:
        gap = request.size - fixed - tlvs_size(optional)
        if gap >= 0:
            fill = padding(gap)
            return (everything, []) if fill is None else (optional, acknowledgment + fill)
        if not optional:
            # The length cannot be met: an ordinary response, which does not claim Precision Mode.
            return everything, []
        optional = optional[:-1]
