"""What is wrong with the bytes of one response, by the draft's formats (§6.3.2), whatever the request asked for.

Comes in: the bytes of a response, the nonce of its request, local times of both. Goes out: findings. It must never raise for what
a server sent, and never judge a rule that the response does not touch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tsq.conformance.findings import Findings
from tsq.wire.tlv import NONCE_SIZE, TlvType

Tlv = tuple[int, bytes]
# A server's clock may be slewed while a request waits, and its times are rounded.
_SLACK = 0.001
_ERA = 1 << 64
_UNITS = 1 << 32
_STAMP_SIZE = 8
_QUALITY_HEAD, _SOURCE_HEAD, _BLOCK_HEAD, _ERROR_HEAD = 6, 2, 7, 2
_REQUESTS_ONLY = (TlvType.METADATA_QUERY, TlvType.SIGNATURE_REQUEST)
_REQUIRED = (TlvType.NONCE, TlvType.RECEIVE_TIMESTAMP, TlvType.SEND_TIMESTAMP)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, or what came in place of one. tlvs: None where the bytes are not TLVs. stream: it came on a stream.

    elapsed: seconds from before the request was sent until the response was there.
    """

    data: bytes
    nonce: bytes
    elapsed: float
    stream: bool
    tlvs: tuple[Tlv, ...] | None = None

    @property
    def kinds(self) -> list[int]:
        """The types, in order."""
        return [kind for kind, _ in self.tlvs or ()]

    def value(self, kind: int) -> bytes | None:
        """The first value of this type."""
        return next((value for one, value in self.tlvs or () if one == kind), None)

    @property
    def is_error(self) -> bool:
        """Whether it begins with an Error TLV."""
        return self.kinds[:1] == [TlvType.ERROR]

    @property
    def covered(self) -> bytes:
        """The bytes before the Signature Block (§8)."""
        block = self.value(TlvType.SIGNATURE) or b""
        return self.data[: len(self.data) - 2 - len(block)]

    def described(self) -> str:
        """What it is, for a report."""
        if self.tlvs is None:
            return f"{len(self.data)} bytes that are no TLVs"
        return f"TLVs {' '.join(map(str, self.kinds))}" if self.tlvs else "an empty message"


def read_tlvs(data: bytes) -> tuple[Tlv, ...] | None:
    """The TLVs of a message, one after the other; None where they do not fill it exactly."""
    found = []
    at = 0
    while at < len(data):
        end = at + 2 + data[at + 1] if at + 1 < len(data) else len(data) + 1
        if end > len(data):
            return None
        found.append((data[at], data[at + 2 : end]))
        at = end
    return tuple(found)


def judge(answer: Answer, note: Findings) -> None:
    """Note what this response says about the statements that each response is subject to."""
    what = answer.described()
    if not answer.stream:
        note.check("6.3.2-24", not answer.is_error, what, "no Error TLV in a datagram")
    note.check("6.3.2-3", answer.tlvs is not None, what, "whole TLVs")
    if answer.tlvs is None:
        return
    if answer.is_error:
        _error(answer, note)
        return
    _required(answer, note)
    _order(answer, note)
    for kind, value in answer.tlvs:
        _value(kind, value, note)


def _error(answer: Answer, note: Findings) -> None:
    value = answer.value(TlvType.ERROR) or b""
    note.check("6.3.2-20", len(answer.kinds) == 1, answer.described(), "an Error TLV alone")
    whole = len(value) >= _ERROR_HEAD
    note.check("6.3.2-21", whole and value[1] == 0, f"value {value[:_ERROR_HEAD].hex(' ')} ...", "code, then a zero byte")
    note.check("6.3.2-23", _is_text(value[2:]), f"a reason of {len(value[2:])} bytes", "at most 253 bytes of UTF-8")


def _required(answer: Answer, note: Findings) -> None:
    nonce, kinds = answer.value(TlvType.NONCE), answer.kinds
    note.check("6.3.2-a", nonce == answer.nonce, f"nonce {_hex(nonce)}", f"nonce {answer.nonce.hex()}")
    stamps = [value for kind, value in answer.tlvs or () if kind in _REQUIRED[1:]]
    whole = sorted(kind for kind in kinds if kind in _REQUIRED[1:]) == [2, 3] and all(len(one) == _STAMP_SIZE for one in stamps)
    note.check("6.3.2-b", whole, answer.described(), "T2 and T3, once each, of 8 bytes")
    if whole:
        t2, t3 = (int.from_bytes(answer.value(kind) or b"", "big") for kind in _REQUIRED[1:])
        held = seconds_between(t2, t3)
        fits = 0 <= held <= answer.elapsed + _SLACK
        note.check(
            "6.2-a", fits, f"T3 - T2 = {held:.9f} s of {answer.elapsed:.6f} s", "0, or a part of the time until the response"
        )


def _order(answer: Answer, note: Findings) -> None:
    kinds, what = answer.kinds, answer.described()
    note.check("6.3.2-1", kinds[:1] == [TlvType.NONCE], what, "the Nonce first")
    note.check("6.3.2-13", not set(kinds) & {int(kind) for kind in _REQUESTS_ONLY}, what, "neither 247 nor 252 in a response")
    if len(kinds) > len(_REQUIRED):
        note.check("6.3.2-9", kinds[:3] == [int(kind) for kind in _REQUIRED], what, "1 2 3, then optional TLVs")
    if TlvType.SIGNATURE in kinds:
        last = kinds.index(TlvType.SIGNATURE) == len(kinds) - 1
        note.check("6.3.2-6,6.3.2-41", last, what, "255 last")
    rest = [kind for kind in kinds if kind != TlvType.SIGNATURE]
    if TlvType.PADDING in rest:
        padding = set(rest[rest.index(TlvType.PADDING) :])
        note.check("6.3.2-38", padding == {TlvType.PADDING}, what, "254 after all others but 255")
        note.check("6.3.2-40", 0 not in kinds, what, "no type 0")
    if TlvType.CLOCK_QUALITY in kinds:
        place, signature = kinds.index(TlvType.CLOCK_QUALITY), [*kinds, TlvType.SIGNATURE].index(TlvType.SIGNATURE)
        after_times = TlvType.SEND_TIMESTAMP in kinds[:place]
        note.check("6.3.2-19", after_times and place < signature, what, "248 after 3 and before 255")


def _value(kind: int, value: bytes, note: Findings) -> None:
    found = f"{len(value)} bytes: {value[:24].hex(' ')}"
    if kind == TlvType.CLOCK_QUALITY:
        whole = len(value) >= _QUALITY_HEAD and _is_text(value[_QUALITY_HEAD:])
        note.check("6.3.2-c", whole, f"248 with {found}", "6 bytes and UTF-8")
    elif kind == TlvType.TIME_SOURCE:
        whole = len(value) >= _SOURCE_HEAD and _is_text(value[_SOURCE_HEAD:])
        note.check("6.3.2-c", whole, f"251 with {found}", "2 bytes and UTF-8")
    elif kind == TlvType.METADATA:
        pairs = metadata_pairs(value)
        note.check("6.3.2-d", pairs is not None, f"253 with {found}", "pairs of UTF-8 texts, each after its length")
        if pairs is not None:
            keys = [key for key, _ in pairs]
            note.check("6.3.2-34,6.3.2-35", keys == sorted(keys), f"keys {keys!r}", "keys in byte order")
    elif kind == TlvType.PADDING:
        note.check("6.3.2-37", not any(value), f"254 with {found}", "zero bytes")
    elif kind == TlvType.PRECISION_MODE:
        note.check("6.4-2", not value, f"250 with {found}", "an empty value")
    elif kind == TlvType.SIGNATURE:
        whole = len(value) >= _BLOCK_HEAD and int.from_bytes(value[5:_BLOCK_HEAD], "big") == len(value) - _BLOCK_HEAD
        note.check("6.3.2-e", whole, f"255 with {found}", "7 bytes, and as many as the last two of them say")
        note.check("6.3.2-45", value[:1] in (b"\x01", b"\x02"), f"algorithm {value[:1].hex()}", "1 (Ed25519) or 2 (HMAC-SHA256)")


def metadata_pairs(value: bytes) -> Sequence[tuple[bytes, bytes]] | None:
    """The pairs of a Metadata TLV as bytes; None where they are not whole, or no UTF-8."""
    parts = []
    at = 0
    while at < len(value):
        end = at + 1 + value[at]
        part = value[at + 1 : end]
        if end > len(value) or not _is_text(part):
            return None
        parts.append(part)
        at = end
    return None if len(parts) % 2 else list(zip(parts[::2], parts[1::2], strict=True))


def seconds_between(earlier: int, later: int) -> float:
    """Seconds from one NTP timestamp to another one, at most half an era apart in either direction."""
    step = (later - earlier) % _ERA
    return (step - _ERA if step >= _ERA // 2 else step) / _UNITS


def plain(nonce: bytes) -> bytes:
    """A request with nothing but the Nonce."""
    return packed([(TlvType.NONCE, nonce)])


def packed(tlvs: Sequence[Tlv]) -> bytes:
    """The bytes of TLVs, whatever is wrong with them."""
    return b"".join(bytes([kind, len(value)]) + value for kind, value in tlvs)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _hex(value: bytes | None) -> str:
    return "missing" if value is None else value.hex()[: 2 * NONCE_SIZE]
