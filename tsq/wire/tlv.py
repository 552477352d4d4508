"""Names of the protocol's numbers (docs/reference/protocol.md): TLV types, code points, sizes, metadata keys. Holds no logic."""

from enum import IntEnum

from tsq import _fast

NONCE_SIZE = 16
TLV_HEADER_SIZE = 2
MAX_VALUE_SIZE = 255
PLAIN_REQUEST_SIZE = _fast.REQUEST_SIZE
PLAIN_RESPONSE_SIZE = _fast.RESPONSE_SIZE
# Of the Metadata TLV that reports an exact T3 (R12).
REPORT_SIZE = _fast.REPORT_SIZE
# The error and the drift in Clock Quality Info saturate here: this value means "this much or more".
SATURATED = 65535
# The metadata key of exact T3: the kernel's transmit timestamp of an earlier answer, as in interleaved mode (R12; RFC 9769).
EXACT_T3 = "tsq.t3"
# The metadata keys of the server's report about its clock, in addition to TLVs 248 and 251 (R13).
LEAP = "tsq.leap"
ROOT_DELAY = "tsq.root_delay"
ROOT_DISPERSION = "tsq.root_dispersion"
SMEAR = "tsq.smear"
STATE_KEYS = (LEAP, ROOT_DELAY, ROOT_DISPERSION, SMEAR)


class TlvType(IntEnum):
    """TLV types of the protocol; receivers skip all others (R4)."""

    NONCE = 1
    RECEIVE_TIMESTAMP = 2
    SEND_TIMESTAMP = 3
    METADATA_QUERY = 247
    CLOCK_QUALITY = 248
    ERROR = 249
    PRECISION_MODE = 250
    TIME_SOURCE = 251
    SIGNATURE_REQUEST = 252
    METADATA = 253
    PADDING = 254
    SIGNATURE = 255


class ClockClass(IntEnum):
    """Clock class of a Clock Quality Info TLV (248)."""

    UNKNOWN = 0
    GNSS = 1
    PTP_GRANDMASTER = 2
    NTP_SYNCHRONIZED = 3
    LOCAL_OCXO = 4
    HOLDOVER = 5


class SourceType(IntEnum):
    """Source type of a Time Source Info TLV (251)."""

    GPS = 1
    PTP = 2
    NTP = 3
    MANUAL = 4
    UNKNOWN = 5


class ErrorCode(IntEnum):
    """Code of an Error TLV (249)."""

    MALFORMED_REQUEST = 1
    UNSUPPORTED_TLV = 2
    AUTHENTICATION_REQUIRED = 3


class SignatureAlgorithm(IntEnum):
    """Algorithm of a Signature Block (255)."""

    ED25519 = 1
    HMAC_SHA256 = 2
