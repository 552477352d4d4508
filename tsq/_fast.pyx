"""Compiled basics: NTP timestamps, TLVs, plain messages, packed addresses.

Comes in: bytes, integers. Goes out: bytes, integers, tuples. It knows messages (docs/reference/protocol.md R4, R12), the timestamp
format (R9) and socket addresses. It must never know QUIC, keep a connection's state, read past the bytes that it was given, or need
more of a system than POSIX has.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from tsq.errors import ConfigError, MalformedMessage


cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        uint8_t s6_addr[16]
    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)


cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char* text, void* out)
    const char* inet_ntop(int family, const void* address, char* text, socklen_t size)


cdef extern from *:
    """
    #include <stdint.h>
    #ifndef TSQ_BUILD_TIME
    #error "TSQ_BUILD_TIME is set by setup.py"
    #endif
    /* Seconds from 1900-01-01 to 1970-01-01 (RFC 5905 section 6). */
    #define TSQ_NTP_UNIX INT64_C(2208988800)
    /* |seconds| up to here: seconds * 10^9 plus a fraction fits in 64 bits. */
    #define TSQ_SECONDS_MAX INT64_C(9223372035)
    #define TSQ_ERA_SECONDS INT64_C(0x100000000)
    /* A Metadata TLV (type 253) with the key "tsq.t3". An empty value asks for exact T3. A response has a value of 32 bytes. */
    static const unsigned char TSQ_EXACT_QUERY[10] = {253, 8, 6, 't', 's', 'q', '.', 't', '3', 0};
    static const unsigned char TSQ_EXACT_HEADER[10] = {253, 40, 6, 't', 's', 'q', '.', 't', '3', 32};
    """
    long long TSQ_BUILD_TIME
    const int64_t C_NTP_UNIX "TSQ_NTP_UNIX"
    const int64_t C_SECONDS_MAX "TSQ_SECONDS_MAX"
    const int64_t C_ERA_SECONDS "TSQ_ERA_SECONDS"
    const uint8_t* EXACT_QUERY "TSQ_EXACT_QUERY"
    const uint8_t* EXACT_HEADER "TSQ_EXACT_HEADER"


# When this package was built, Unix seconds: no correct clock shows an earlier time.
BUILD_TIME = TSQ_BUILD_TIME
DATAGRAM_CAPACITY = C_CAPACITY

cdef enum:
    TYPE_NONCE = 1
    TYPE_RECEIVE = 2
    TYPE_SEND = 3
    TYPE_METADATA_QUERY = 247
    TYPE_PRECISION = 250
    TYPE_PADDING = 254
    TYPE_SIGNATURE_REQUEST = 252
    TYPE_SIGNATURE = 255

# Results of check_message; _MALFORMED has a sentence for each.
cdef enum:
    MESSAGE_OK = 0
    MESSAGE_TRUNCATED = 1
    MESSAGE_TRAILING_BYTE = 2
    MESSAGE_NO_NONCE = 3
    MESSAGE_NONCE_SIZE = 4
    MESSAGE_TIMESTAMP_SIZE = 5
    MESSAGE_FLAG_SIZE = 6
    MESSAGE_REPEATED = 7
    MESSAGE_AFTER_SIGNATURE = 8

_MALFORMED = {
    MESSAGE_TRUNCATED: ("a TLV that runs past the end of the message", "its whole value"),
    MESSAGE_TRAILING_BYTE: ("one byte after the last TLV", "type and length, or the end"),
    MESSAGE_NO_NONCE: ("a message that does not begin with a Nonce", "TLV type 1 first"),
    MESSAGE_NONCE_SIZE: ("a Nonce of another length", "16 bytes"),
    MESSAGE_TIMESTAMP_SIZE: ("a timestamp of another length", "8 bytes"),
    MESSAGE_FLAG_SIZE: ("a value in a TLV that has none", "length 0"),
    MESSAGE_REPEATED: ("a second TLV of a type that stands once", "one"),
    MESSAGE_AFTER_SIGNATURE: ("a TLV after the Signature Block", "the end"),
}


# ---------------------------------------------------------------------------------------------------- timestamps (R9)

cdef int64_t floor_div(int64_t a, int64_t b) noexcept nogil:
    # C divides towards zero; times before 1970 need the floor. b > 0.
    cdef int64_t q = a / b
    return q - 1 if a % b < 0 else q


cdef uint64_t ntp_of_ns(int64_t unix_ns) noexcept nogil:
    cdef int64_t seconds = floor_div(unix_ns, C_NS_PER_S)
    # Use the remainder, not seconds * 10^9: that product overflows at the lower end of the range.
    cdef int64_t remainder = unix_ns % C_NS_PER_S
    cdef uint64_t rest = <uint64_t> (remainder + C_NS_PER_S if remainder < 0 else remainder)
    # Round up: ns_of_ntp rounds down, so ns -> NTP -> ns is exact. rest < 10^9, so the fraction fits in 32 bits.
    cdef uint64_t fraction = ((rest << 32) + <uint64_t> (C_NS_PER_S - 1)) / <uint64_t> C_NS_PER_S
    return (<uint64_t> (seconds + C_NTP_UNIX) << 32) | fraction


cdef int ns_of_ntp(uint64_t ntp, int64_t pivot_ns, int64_t* out) noexcept nogil:
    # The era is the one that puts the timestamp nearest to the pivot: their difference modulo 2^64 units of 2^-32 s, read as a
    # signed number. Unsigned arithmetic wraps by definition; nothing here overflows a signed type.
    cdef uint64_t pivot = ntp_of_ns(pivot_ns)
    cdef uint64_t difference = ntp - pivot
    cdef int64_t whole = <int64_t> (difference >> 32)
    cdef int64_t seconds = floor_div(pivot_ns, C_NS_PER_S) + C_NTP_UNIX
    cdef uint64_t low = (pivot & 0xFFFFFFFFu) + (difference & 0xFFFFFFFFu)
    if whole >= C_ERA_SECONDS / 2:
        whole -= C_ERA_SECONDS
    seconds += whole + <int64_t> (low >> 32) - C_NTP_UNIX
    if seconds < -C_SECONDS_MAX or seconds > C_SECONDS_MAX:
        return -1
    out[0] = seconds * C_NS_PER_S + <int64_t> (((low & 0xFFFFFFFFu) * <uint64_t> C_NS_PER_S) >> 32)
    return 0


cdef int64_t realtime_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return <int64_t> now.tv_sec * C_NS_PER_S + now.tv_nsec


cdef double monotonic() noexcept nogil:
    """CLOCK_MONOTONIC in seconds, as time.monotonic."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double> now.tv_sec + <double> now.tv_nsec * 1e-9


def clock_ns():
    """The system clock now: integer nanoseconds since 1970, read as late as Python can."""
    return realtime_ns()


def ntp_from_ns(unix_ns):
    """NTP timestamp (64-bit, 32.32, modulo the era) of a Unix time in ns, rounded up (docs/reference/protocol.md R9)."""
    return ntp_of_ns(whole(unix_ns))


cdef object whole(object number):
    """The number, which must be an int: a float would lose 240 ns of a time without an error in C."""
    if not isinstance(number, int):
        raise TypeError(f"{type(number).__name__} found, int expected")
    return number


def ns_from_ntp(ntp, pivot_ns):
    """Unix time in ns, rounded down, of an NTP timestamp, in the era that lies nearest to pivot_ns (R9).

    Raises MalformedMessage where that time cannot be held in 64-bit nanoseconds (before 1677 or after 2262).
    """
    cdef int64_t out = 0
    if ns_of_ntp(whole(ntp), whole(pivot_ns), &out):
        raise MalformedMessage(
            "a timestamp outside 64-bit nanoseconds", expected="1677 to 2262", section="docs/reference/protocol.md R9"
        )
    return out


# -------------------------------------------------------------------------------------------------------- TLVs (R4)

cdef void put_u64(uint8_t* out, uint64_t value) noexcept nogil:
    cdef int i
    for i in range(8):
        out[i] = <uint8_t> (value >> (56 - 8 * i))


cdef int next_tlv(Cursor* cursor, Tlv* tlv) noexcept nogil:
    """Step over one TLV: 1 a TLV, 0 the end, negative: what is wrong. The cursor never passes its end."""
    cdef Py_ssize_t left = cursor.end - cursor.at
    if left == 0:
        return 0
    if left == 1:
        return -MESSAGE_TRAILING_BYTE
    if left - 2 < cursor.at[1]:
        return -MESSAGE_TRUNCATED
    tlv.type = cursor.at[0]
    tlv.length = cursor.at[1]
    tlv.value = cursor.at + 2
    cursor.at += 2 + tlv.length
    return 1


cdef int check_message(const uint8_t* data, Py_ssize_t size, Py_ssize_t* offset) noexcept nogil:
    """Check every rule of R4; on an error offset[0] is where the offending TLV begins."""
    cdef Cursor cursor
    cdef Tlv tlv
    cdef uint8_t seen[256]
    cdef int step
    memset(seen, 0, sizeof(seen))
    cursor.at = data
    cursor.end = data + size
    while True:
        offset[0] = cursor.at - data
        step = next_tlv(&cursor, &tlv)
        if step < 0:
            return -step
        if step == 0:
            return MESSAGE_OK if offset[0] else MESSAGE_NO_NONCE
        if seen[TYPE_SIGNATURE]:
            return MESSAGE_AFTER_SIGNATURE
        if offset[0] == 0 and tlv.type != TYPE_NONCE:
            return MESSAGE_NO_NONCE
        if tlv.type == TYPE_NONCE and tlv.length != NONCE_SIZE:
            return MESSAGE_NONCE_SIZE
        if (tlv.type == TYPE_RECEIVE or tlv.type == TYPE_SEND) and tlv.length != TIMESTAMP_SIZE:
            return MESSAGE_TIMESTAMP_SIZE
        if tlv.type == TYPE_METADATA_QUERY or tlv.type == TYPE_PRECISION or tlv.type == TYPE_SIGNATURE_REQUEST:
            if tlv.length != 0:
                return MESSAGE_FLAG_SIZE
        if seen[tlv.type] and (
            tlv.type == TYPE_NONCE or tlv.type == TYPE_RECEIVE or tlv.type == TYPE_SEND or tlv.type == TYPE_PRECISION
            or tlv.type == TYPE_SIGNATURE_REQUEST
        ):
            return MESSAGE_REPEATED
        seen[tlv.type] = 1


cdef object malformed(int what, Py_ssize_t offset):
    found, expected = _MALFORMED[what]
    return MalformedMessage(f"{found} at byte {offset}", expected=expected, section="docs/reference/protocol.md R4")


cdef list split(bytes data):
    cdef Cursor cursor
    cdef Tlv tlv
    cdef int step
    cdef list out = []
    cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(data)
    cursor.at = start
    cursor.end = start + PyBytes_GET_SIZE(data)
    while True:
        step = next_tlv(&cursor, &tlv)
        if step == 0:
            return out
        if step < 0:
            raise malformed(-step, cursor.at - start)
        out.append((tlv.type, PyBytes_FromStringAndSize(<const char*> tlv.value, tlv.length)))


def unpack_tlvs(bytes data not None):
    """The TLVs of `data` as a list of (type, value), whatever they mean. Raises MalformedMessage unless they fill it exactly."""
    return split(data)


def unpack_message(bytes data not None):
    """The TLVs of a TSQ message as a list of (type, value). Raises MalformedMessage for anything that R4 calls malformed."""
    cdef Py_ssize_t offset = 0
    cdef int what = check_message(<const uint8_t*> PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &offset)
    if what:
        raise malformed(what, offset)
    return split(data)


def pack_tlvs(tlvs):
    """Bytes of a sequence of (type, value). Raises MalformedMessage for a type or a value that does not fit in one byte."""
    cdef Py_ssize_t total = 0
    cdef list checked = []
    cdef bytes value
    for kind, value in tlvs:
        if value is None or not 0 <= whole(kind) <= 255 or PyBytes_GET_SIZE(value) > 255:
            raise MalformedMessage(
                f"TLV type {kind} with {0 if value is None else len(value)} bytes",
                expected="a type of 0 to 255 and a value of at most 255 bytes", section="docs/reference/protocol.md R4",
            )
        checked.append((kind, value))
        total += 2 + PyBytes_GET_SIZE(value)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, total)
    cdef uint8_t* at = <uint8_t*> PyBytes_AS_STRING(out)
    for kind, value in checked:
        at[0] = <uint8_t> kind
        at[1] = <uint8_t> PyBytes_GET_SIZE(value)
        memcpy(at + 2, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        at += 2 + PyBytes_GET_SIZE(value)
    return out


# ------------------------------------------------------------------------------------------- plain messages (R4, R12)

REQUEST_SIZE = PLAIN_REQUEST_SIZE
RESPONSE_SIZE = PLAIN_RESPONSE_SIZE
REPORT_SIZE = EXACT_SIZE
MOST_MESSAGE = C_MOST_MESSAGE
FRAME_OVERHEAD = C_FRAME_OVERHEAD


cdef uint8_t* put_header(uint8_t* out, uint8_t kind, uint8_t length) noexcept nogil:
    """Write a TLV's type and length; where its value begins."""
    out[0] = kind
    out[1] = length
    return out + TLV_HEADER_SIZE


cdef int read_plain_request(const uint8_t* data, uint64_t size, uint8_t* nonce, bint* exact) noexcept nogil:
    """Read a request that is a nonce alone, or a nonce and a request for exact T3; 0, or -1 for any other message."""
    if size != PLAIN_REQUEST_SIZE and size != EXACT_REQUEST_SIZE:
        return -1
    if data[0] != TYPE_NONCE or data[1] != NONCE_SIZE:
        return -1
    exact[0] = size == EXACT_REQUEST_SIZE
    if exact[0] and memcmp(data + PLAIN_REQUEST_SIZE, EXACT_QUERY, EXACT_QUERY_SIZE) != 0:
        return -1
    memcpy(nonce, data + TLV_HEADER_SIZE, NONCE_SIZE)
    return 0


cdef int put_plain_request(uint8_t* out, const uint8_t* nonce, bint exact) noexcept nogil:
    """Write a request; its size."""
    memcpy(put_header(out, TYPE_NONCE, NONCE_SIZE), nonce, NONCE_SIZE)
    if not exact:
        return PLAIN_REQUEST_SIZE
    memcpy(out + PLAIN_REQUEST_SIZE, EXACT_QUERY, EXACT_QUERY_SIZE)
    return EXACT_REQUEST_SIZE


cdef int put_plain_response(uint8_t* out, const uint8_t* nonce, int64_t receive_ns, int64_t send_ns) noexcept nogil:
    """Write nonce, T2 and T3; their size."""
    cdef uint8_t* at = put_header(out, TYPE_NONCE, NONCE_SIZE)
    memcpy(at, nonce, NONCE_SIZE)
    at = put_header(at + NONCE_SIZE, TYPE_RECEIVE, TIMESTAMP_SIZE)
    put_u64(at, ntp_of_ns(receive_ns))
    at = put_header(at + TIMESTAMP_SIZE, TYPE_SEND, TIMESTAMP_SIZE)
    put_u64(at, ntp_of_ns(send_ns))
    return PLAIN_RESPONSE_SIZE


cdef uint8_t* put_exact_header(uint8_t* out) noexcept nogil:
    """Write the TLV for an exact T3 up to its value; where the value begins, which has EXACT_VALUE_SIZE bytes."""
    memcpy(out, EXACT_HEADER, EXACT_HEADER_SIZE)
    return out + EXACT_HEADER_SIZE


cdef int read_precise_request(const uint8_t* data, uint64_t size, uint8_t* nonce, bint* exact) noexcept nogil:
    """Read a Nonce, maybe a request for exact T3, a Precision Mode request, and padding (R7); 0, or -1 for any other message."""
    cdef const uint8_t* at = data + PLAIN_REQUEST_SIZE
    cdef const uint8_t* end = data + size
    if size < PLAIN_REQUEST_SIZE + TLV_HEADER_SIZE or data[0] != TYPE_NONCE or data[1] != NONCE_SIZE:
        return -1
    exact[0] = end - at >= EXACT_QUERY_SIZE and memcmp(at, EXACT_QUERY, EXACT_QUERY_SIZE) == 0
    if exact[0]:
        at += EXACT_QUERY_SIZE
    if end - at < TLV_HEADER_SIZE or at[0] != TYPE_PRECISION or at[1] != 0:
        return -1
    at += TLV_HEADER_SIZE
    while at < end:
        if end - at < TLV_HEADER_SIZE or at[0] != TYPE_PADDING or end - at - TLV_HEADER_SIZE < at[1]:
            return -1
        at += TLV_HEADER_SIZE + at[1]
    memcpy(nonce, data + TLV_HEADER_SIZE, NONCE_SIZE)
    return 0


cdef bint leaves_padding(int64_t gap) noexcept nogil:
    """Whether padding fills a gap of so many bytes: the smallest one has 2 (R7)."""
    return gap == 0 or gap >= TLV_HEADER_SIZE


cdef void put_acknowledgment(uint8_t* out, int gap) noexcept nogil:
    """Write the acknowledgment of Precision Mode, and padding that fills a gap of so many bytes (R7)."""
    cdef int take
    out = put_header(out, TYPE_PRECISION, 0)
    while gap:
        # Never leave one byte after a TLV of full size.
        take = gap if gap <= TLV_HEADER_SIZE + 255 else min(TLV_HEADER_SIZE + 255, gap - TLV_HEADER_SIZE)
        put_header(out, TYPE_PADDING, <uint8_t> (take - TLV_HEADER_SIZE))
        memset(out + TLV_HEADER_SIZE, 0, take - TLV_HEADER_SIZE)
        out += take
        gap -= take


def pack_response(bytes nonce not None, int64_t receive_ns, int64_t send_ns):
    """A plain response: nonce (16 bytes), T2, T3 as Unix ns. Raises MalformedMessage for another nonce size."""
    if PyBytes_GET_SIZE(nonce) != NONCE_SIZE:
        raise malformed(MESSAGE_NONCE_SIZE, 0)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, PLAIN_RESPONSE_SIZE)
    put_plain_response(<uint8_t*> PyBytes_AS_STRING(out), <const uint8_t*> PyBytes_AS_STRING(nonce), receive_ns, send_ns)
    return out


# ------------------------------------------------------------------------------------------------------- addresses

def pack_address(str host not None, int port, uint32_t scope_id=0):
    """A numeric IPv4 or IPv6 address and a port as the bytes of a sockaddr, as all socket calls here have them."""
    cdef sockaddr_in v4
    cdef sockaddr_in6 v6
    cdef bytes text = host.encode("ascii", "replace")
    if b"\0" in text:
        raise ConfigError(f"address {host!r}", expected="a numeric IPv4 or IPv6 address")
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port}", expected="0 to 65535")
    memset(&v4, 0, sizeof(v4))
    memset(&v6, 0, sizeof(v6))
    if inet_pton(AF_INET, PyBytes_AS_STRING(text), &v4.sin_addr) == 1:
        v4.sin_family = AF_INET
        v4.sin_port = htons(port)
        return PyBytes_FromStringAndSize(<const char*> &v4, sizeof(v4))
    if inet_pton(AF_INET6, PyBytes_AS_STRING(text), &v6.sin6_addr) == 1:
        v6.sin6_family = AF_INET6
        v6.sin6_port = htons(port)
        v6.sin6_scope_id = scope_id
        return PyBytes_FromStringAndSize(<const char*> &v6, sizeof(v6))
    raise ConfigError(f"address {host!r}", expected="a numeric IPv4 or IPv6 address")


def unpack_address(bytes packed not None):
    """(host, port, scope id) of a packed sockaddr. Raises ConfigError for other bytes."""
    cdef sockaddr_in v4
    cdef sockaddr_in6 v6
    cdef char text[64]
    if PyBytes_GET_SIZE(packed) == sizeof(v4):
        memcpy(&v4, PyBytes_AS_STRING(packed), sizeof(v4))
        if v4.sin_family == AF_INET and inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text)) != NULL:
            return (<bytes> text).decode("ascii"), ntohs(v4.sin_port), 0
    elif PyBytes_GET_SIZE(packed) == sizeof(v6):
        memcpy(&v6, PyBytes_AS_STRING(packed), sizeof(v6))
        if v6.sin6_family == AF_INET6 and inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text)) != NULL:
            return (<bytes> text).decode("ascii"), ntohs(v6.sin6_port), v6.sin6_scope_id
    raise ConfigError(f"{len(packed)} bytes as an address", expected="a packed IPv4 or IPv6 socket address")
