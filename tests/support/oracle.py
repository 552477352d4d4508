"""The oracle for the compiled leaves: the rules R4 and R9 of docs/reference/protocol.md in plain Python, and nothing else.

Comes in: the arguments of the functions in `tsq._fast`. Goes out: the right answer, or None where there is none. It is slow on
purpose: integers and fractions of any size cannot overflow, wrap or lose a bit.
"""

from fractions import Fraction
from math import ceil, floor

NS = 10**9
ERA = 1 << 64  # units of 2^-32 s
UNITS_PER_SECOND = 1 << 32
# Seconds from 1900-01-01 to 1970-01-01: 70 years, of which 17 are leap years.
UNIX_EPOCH = (70 * 365 + 17) * 86400
INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1
# Beyond this the compiled code may answer "out of range": one second less than the whole seconds within 64-bit nanoseconds.
SAFE_NS = 9_223_372_035 * NS

Tlv = tuple[int, bytes]

NONCE, T2, T3, METADATA_QUERY, QUALITY, ERROR, PRECISION, SOURCE, SIGNATURE_REQUEST, METADATA, PADDING, SIGNATURE = (
    1, 2, 3, 247, 248, 249, 250, 251, 252, 253, 254, 255,
)  # fmt: skip
_FIXED_LENGTHS = {NONCE: 16, T2: 8, T3: 8, METADATA_QUERY: 0, PRECISION: 0, SIGNATURE_REQUEST: 0}
_ONCE = {NONCE, T2, T3, PRECISION, SIGNATURE_REQUEST, SIGNATURE}


def ntp_from_ns(unix_ns: int) -> int:
    """R9: rounded up, modulo the era."""
    return ceil(_units(unix_ns)) % ERA


def ns_from_ntp(ntp: int, pivot_ns: int) -> int:
    """R9: rounded down, in the era nearest to the pivot; of two equally near ones, the earlier."""
    pivot = _units(pivot_ns)
    era = floor(pivot / ERA)
    candidates = [ntp + (era + step) * ERA for step in (-1, 0, 1)]
    nearest = min(candidates, key=lambda candidate: (abs(candidate - pivot), candidate))
    return floor(Fraction(nearest * NS, UNITS_PER_SECOND)) - UNIX_EPOCH * NS


def fits(unix_ns: int) -> bool | None:
    """Whether a time fits into 64-bit nanoseconds; None beyond SAFE_NS, where both answers are right."""
    if not INT64_MIN <= unix_ns <= INT64_MAX:
        return False
    return True if -SAFE_NS <= unix_ns <= SAFE_NS else None


def pack(tlvs: list[Tlv]) -> bytes:
    """The bytes of these TLVs."""
    return b"".join(bytes([kind, len(value)]) + value for kind, value in tlvs)


def unpack(data: bytes) -> list[Tlv] | None:
    """The TLVs that fill these bytes exactly, or None."""
    out = []
    while data:
        if len(data) == 1 or len(data) < 2 + data[1]:
            return None
        out.append((data[0], data[2 : 2 + data[1]]))
        data = data[2 + data[1] :]
    return out


def unpack_message(data: bytes) -> list[Tlv] | None:
    """The TLVs of a well-formed message (R4), or None."""
    tlvs = unpack(data)
    if not tlvs or tlvs[0][0] != NONCE:
        return None
    kinds = [kind for kind, _ in tlvs]
    if any(len(value) != _FIXED_LENGTHS.get(kind, len(value)) for kind, value in tlvs):
        return None
    if any(kinds.count(kind) > 1 for kind in _ONCE):
        return None
    return None if SIGNATURE in kinds[:-1] else tlvs


def metadata_good(value: bytes) -> bool:
    """Whether a Metadata value is complete pairs of key and value."""
    parts = 0
    while value:
        if len(value) < 1 + value[0]:
            return False
        value = value[1 + value[0] :]
        parts += 1
    return parts % 2 == 0


def request_good(data: bytes) -> bool:
    """Whether these bytes are a valid request."""
    tlvs = unpack_message(data)
    return tlvs is not None and all(metadata_good(value) for kind, value in tlvs if kind == METADATA)


def response_good(data: bytes) -> bool:
    """Whether these bytes are a valid response or error reply. Of a repeated type, the last TLV counts."""
    if data[:1] == bytes([ERROR]):
        tlvs = unpack(data)
        return tlvs is not None and len(tlvs) == 1 and len(tlvs[0][1]) >= 2
    tlvs = unpack_message(data)
    if tlvs is None or not all(metadata_good(value) for kind, value in tlvs if kind == METADATA):
        return False
    last = dict(tlvs)
    block = last.get(SIGNATURE)
    return (
        T2 in last
        and T3 in last
        and len(last.get(QUALITY, bytes(6))) >= 6
        and len(last.get(SOURCE, bytes(2))) >= 2
        and (block is None or (len(block) >= 7 and int.from_bytes(block[5:7], "big") == len(block) - 7))
    )


def _units(unix_ns: int) -> Fraction:
    """Units of 2^-32 s since 1900, exactly."""
    return Fraction((unix_ns + UNIX_EPOCH * NS) * UNITS_PER_SECOND, NS)
