"""The server's role without I/O: request -> response (docs/reference/protocol.md, Rulings R2, R4 to R7, R13).

Comes in: the bytes of a request and when they were received. Goes out: a Draft that is finished by the send time, the last thing
that happens to it, or the reason why there is no answer. It must never read a clock, and never give an answer whose T3 is before
its T2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from tsq._fast import pack_response, pack_tlvs, unpack_message
from tsq.errors import MessageError
from tsq.wire.message import Mode, Request, Tlv, decode_request, encode_error, metadata_tlv, padding, tlvs_size
from tsq.wire.signature import Signer
from tsq.wire.tlv import EXACT_T3, PLAIN_REQUEST_SIZE, PLAIN_RESPONSE_SIZE, STATE_KEYS, ErrorCode, TlvType

# The answer to a Metadata Query: TLVs, metadata pairs.
About = tuple[tuple[Tlv, ...], Mapping[str, str]]


class NoResponse(StrEnum):
    """Why a request gets no timestamps."""

    MALFORMED = "malformed request"
    CANNOT_SIGN = "signature asked for, and there is no key"
    CLOCK_WENT_BACK = "clock stepped back during the exchange"


@dataclass(frozen=True, slots=True)
class Refusal:
    """No answer. error: what Stream Mode says about it (R4, R6); Datagram Mode says nothing."""

    reason: NoResponse
    error: bytes = b""


@dataclass(frozen=True, slots=True)
class Draft:
    """A response that lacks its send time. exact: the client wants to know when it really leaves (R12)."""

    nonce: bytes
    receive_ns: int
    optional: tuple[Tlv, ...] = ()
    tail: tuple[Tlv, ...] = ()
    signer: Signer | None = None
    exact: bool = False

    def telling(self, told: str) -> "Draft":
        """The same response, with when an earlier one left."""
        return replace(self, optional=(*self.optional, metadata_tlv({EXACT_T3: told})))

    def complete(self, send_ns: int) -> bytes | Refusal:
        """The response's bytes with T3 = send_ns; refused where that would be before T2 (the clock was stepped back)."""
        if send_ns < self.receive_ns:
            return Refusal(NoResponse.CLOCK_WENT_BACK)
        message = pack_response(self.nonce, self.receive_ns, send_ns)
        rest = self.optional + self.tail
        if rest:
            message += pack_tlvs(rest)
        if self.signer is not None:
            message += pack_tlvs([self.signer.sign(message)])
        return message


@dataclass(slots=True)
class Responder:
    """Answers requests.

    signer: for requests that ask for a signature. about: the TLVs that answer a Metadata Query. pairs: metadata about the clock,
    for whoever asks for its keys with it (R13). All may be replaced at any time. What `tell` says has an end, by the time at which
    requests come: a state of the clock that is not renewed is not repeated for ever.
    """

    signer: Signer | None = None
    about: tuple[Tlv, ...] = ()
    pairs: Mapping[str, str] = field(default_factory=dict)
    _until_ns: int | None = None
    _later: About = ((), MappingProxyType({}))

    def tell(self, about: tuple[Tlv, ...], pairs: Mapping[str, str], *, until_ns: int, later: About) -> None:
        """Answer requests about the clock with this until a time, Unix ns; with `later` from then on."""
        self.about, self.pairs, self._until_ns, self._later = about, pairs, until_ns, later

    def prepare(self, data: bytes, receive_ns: int, mode: Mode) -> Draft | Refusal:
        """The answer to one request, all but its send time."""
        try:
            request = decode_request(data)
        except MessageError as error:
            reply = encode_error(ErrorCode.MALFORMED_REQUEST, str(error)) if mode is Mode.STREAM else b""
            return Refusal(NoResponse.MALFORMED, reply)
        if len(data) == PLAIN_REQUEST_SIZE:
            return Draft(request.nonce, receive_ns)
        if request.signature and self.signer is None:
            reply = encode_error(ErrorCode.AUTHENTICATION_REQUIRED, "no signing key") if mode is Mode.STREAM else b""
            return Refusal(NoResponse.CANNOT_SIGN, reply)
        signer = self.signer if request.signature else None
        about = self._about(request, receive_ns)
        exact = request.metadata is not None and request.metadata.get(EXACT_T3) == ""
        if not request.precision:
            return Draft(request.nonce, receive_ns, about, (), signer, exact)
        optional, tail = _same_length(request, list(about), signer)
        # Where the length is promised (R7), nothing can be told.
        return Draft(request.nonce, receive_ns, tuple(optional), tuple(tail), signer, exact and not tail)

    def _about(self, request: Request, receive_ns: int) -> tuple[Tlv, ...]:
        """What the answer to this request says of the clock: nothing that was not asked for."""
        if not request.metadata_query:
            return ()
        over = self._until_ns is not None and receive_ns > self._until_ns
        about, pairs = self._later if over else (self.about, self.pairs)
        asked = request.metadata or {}
        told = {key: pairs[key] for key in STATE_KEYS if key in pairs and asked.get(key) == ""}
        return (*about, metadata_tlv(told)) if told else about


def stream_request_ready(data: bytes, finished: bool) -> bool:
    """Whether what came on a stream is to be answered now: at its FIN, or when it is a whole message already (R2)."""
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
            # Not to be met: an ordinary response, which does not claim Precision Mode.
            return everything, []
        optional = optional[:-1]
