"""Compiled basics: NTP timestamps, TLVs, plain messages, and socket calls with kernel timestamps.

Comes in: bytes, integers, file descriptors. Goes out: bytes, integers, tuples. It knows messages (docs/reference/protocol.md R4,
R12), the timestamp format (R9) and Linux's socket timestamps. It must never know QUIC, keep a connection's state, or read past the
bytes that it was given. System calls run without the interpreter lock.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, EINVAL, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
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
    cdef struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr
    cdef struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    int IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, IP_PKTINFO, IPV6_RECVPKTINFO, IPV6_PKTINFO, IP_RECVERR, IPV6_RECVERR
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)


cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char* text, void* out)
    const char* inet_ntop(int family, const void* address, char* text, socklen_t size)


cdef extern from "<linux/errqueue.h>" nogil:
    cdef struct sock_extended_err:
        uint32_t ee_errno
        uint8_t ee_origin
        uint8_t ee_type
        uint8_t ee_code
        uint32_t ee_info
        uint32_t ee_data
    int SO_EE_ORIGIN_TIMESTAMPING


cdef extern from "<linux/net_tstamp.h>" nogil:
    int SOF_TIMESTAMPING_TX_SOFTWARE, SOF_TIMESTAMPING_SOFTWARE, SOF_TIMESTAMPING_OPT_ID, SOF_TIMESTAMPING_OPT_TSONLY


cdef extern from *:
    """
    #include <stdint.h>
    #define TSQ_NS_PER_S INT64_C(1000000000)
    /* Seconds from 1900-01-01 to 1970-01-01 (RFC 5905 section 6). */
    #define TSQ_NTP_UNIX INT64_C(2208988800)
    /* |seconds| up to here: seconds * 10^9 plus a fraction fits in 64 bits. */
    #define TSQ_SECONDS_MAX INT64_C(9223372035)
    #define TSQ_ERA_SECONDS INT64_C(0x100000000)
    /* SOF_TIMESTAMPING_OPT_RX_FILTER, which headers before Linux 6.12 lack. */
    #define TSQ_RX_FILTER (1 << 17)
    /* UDP_SEGMENT of <linux/udp.h>, which <netinet/udp.h> lacks before glibc 2.33. */
    #define TSQ_UDP_SEGMENT 103
    static const unsigned char tsq_nothing[1200];
    /* A Metadata TLV (type 253) with the key "tsq.t3". An empty value asks for exact T3. A response has a value of 32 bytes. */
    static const unsigned char TSQ_EXACT_QUERY[10] = {253, 8, 6, 't', 's', 'q', '.', 't', '3', 0};
    static const unsigned char TSQ_EXACT_HEADER[10] = {253, 40, 6, 't', 's', 'q', '.', 't', '3', 32};
    """
    const int64_t C_NS_PER_S "TSQ_NS_PER_S"
    const int64_t C_NTP_UNIX "TSQ_NTP_UNIX"
    const int64_t C_SECONDS_MAX "TSQ_SECONDS_MAX"
    const int64_t C_ERA_SECONDS "TSQ_ERA_SECONDS"
    const int C_RX_FILTER "TSQ_RX_FILTER"
    const int UDP_SEGMENT "TSQ_UDP_SEGMENT"
    const uint8_t* NOTHING "tsq_nothing"
    const uint8_t* EXACT_QUERY "TSQ_EXACT_QUERY"
    const uint8_t* EXACT_HEADER "TSQ_EXACT_HEADER"


# A QUIC peer sends no larger datagrams over Ethernet. The kernel truncates a larger one, and it is dropped here.
DATAGRAM_CAPACITY = 2048
BATCH = 64

cdef enum:
    # The size of an answer.
    WARM_SIZE = 80
    # The size of a QUIC packet that fits any path: many times the number of segments that the kernel allows.
    REFUSED_SIZE = 1200
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


# ----------------------------------------------------------------------------------------------- timestamped sockets

cdef int set_option(int fd, int level, int name, int value) except -1:
    if setsockopt(fd, level, name, &value, sizeof(value)) != 0:
        raise OSError(errno, f"setsockopt({level}, {name}) failed")
    return 0


def enable_receive_timestamps(int fd, int family, bint destinations=True):
    """Have the kernel timestamp each received datagram (SO_TIMESTAMPNS) and report its destination address (IP_PKTINFO).

    destinations: False for a socket that is bound to one address.
    """
    set_option(fd, SOL_SOCKET, SO_TIMESTAMPNS, 1)
    if not destinations:
        return
    if family == AF_INET6:
        set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    else:
        set_option(fd, IPPROTO_IP, IP_PKTINFO, 1)


cdef int restart_stamps(int fd) noexcept nogil:
    """Allow transmit timestamp requests for single datagrams, and have the kernel count them from 0; 0, or -1."""
    cdef int off = 0
    cdef int on = SOF_TIMESTAMPING_SOFTWARE | SOF_TIMESTAMPING_OPT_ID | SOF_TIMESTAMPING_OPT_TSONLY
    # Without this, the kernel reports each receive time a second time, beside SO_TIMESTAMPNS. It needs Linux 6.12.
    cdef int once = on | C_RX_FILTER
    # The kernel's counter starts again when the option is switched on.
    if setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &off, sizeof(off)) != 0:
        return -1
    if setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &once, sizeof(once)) == 0:
        return 0
    return setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &on, sizeof(on))


def enable_transmit_timestamps(int fd):
    """Allow transmit timestamp requests for single datagrams (SO_TIMESTAMPING); see `send` and `transmit_times`.

    A second call makes the kernel count from 0 again: it may or may not have counted a send that failed.
    """
    if restart_stamps(fd) != 0:
        raise OSError(errno, "setsockopt(SO_TIMESTAMPING) failed")


cdef BatchIO* io_new() noexcept:
    """Buffers for batches of up to 64 datagrams, in and out; NULL where there is no memory."""
    cdef BatchIO* io = <BatchIO*> calloc(1, sizeof(BatchIO))
    cdef int i
    if io == NULL:
        return NULL
    io.data = <uint8_t*> calloc(C_BATCH, C_STRIDE)
    io.control = <uint8_t*> calloc(C_BATCH, CONTROL_STRIDE)
    if io.data == NULL or io.control == NULL:
        io_free(io)
        return NULL
    for i in range(C_BATCH):
        io.vectors[i].iov_base = io.data + i * C_STRIDE
        io.vectors[i].iov_len = C_CAPACITY
        io.messages[i].msg_hdr.msg_name = &io.names[i]
        io.messages[i].msg_hdr.msg_iov = &io.vectors[i]
        io.messages[i].msg_hdr.msg_iovlen = 1
        io.messages[i].msg_hdr.msg_control = io.control + i * CONTROL_STRIDE
        io.replies[i].msg_hdr.msg_iov = &io.reply_vectors[i]
        io.replies[i].msg_hdr.msg_iovlen = 1
    io.used = C_BATCH
    return io


cdef void io_free(BatchIO* io) noexcept:
    if io != NULL:
        free(io.data)
        free(io.control)
        free(io)


cdef int io_receive(BatchIO* io, int fd, int most, int* error) noexcept nogil:
    """Receive at most `most` datagrams with one recvmmsg, without blocking, and read their control messages.

    Returns how many datagrams came, or -1 with the error's number.
    """
    cdef int count, i
    cdef int64_t now
    for i in range(io.used):
        io.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_in6)
        io.messages[i].msg_hdr.msg_controllen = CONTROL_CAPACITY
        io.messages[i].msg_hdr.msg_flags = 0
    io.used = 0
    count = recvmmsg(fd, io.messages, most, MSG_DONTWAIT, NULL)
    if count < 0:
        error[0] = errno
        return -1
    io.used = count
    now = realtime_ns()
    for i in range(count):
        read_control(&io.messages[i].msg_hdr, now, &io.views[i])
        io.views[i].data = <const uint8_t*> io.vectors[i].iov_base
        io.views[i].size = io.messages[i].msg_len
        io.views[i].remote = <const uint8_t*> &io.names[i]
        io.views[i].remote_size = io.messages[i].msg_hdr.msg_namelen
    return count


cdef void read_control(msghdr* message, int64_t now, View* view) noexcept nogil:
    """Read receive time and destination address of one datagram; the time is `now` where the kernel gives none."""
    cdef cmsghdr* header = CMSG_FIRSTHDR(message)
    cdef timespec stamp
    view.received_ns = now
    view.kernel = False
    view.local = NULL
    view.local_size = 0
    while header != NULL:
        if header.cmsg_level == SOL_SOCKET and header.cmsg_type == SCM_TIMESTAMPNS:
            if header.cmsg_len >= CMSG_LEN(sizeof(stamp)):
                memcpy(&stamp, CMSG_DATA(header), sizeof(stamp))
                view.received_ns = <int64_t> stamp.tv_sec * C_NS_PER_S + stamp.tv_nsec
                view.kernel = True
        elif header.cmsg_level == IPPROTO_IP and header.cmsg_type == IP_PKTINFO:
            if header.cmsg_len >= CMSG_LEN(sizeof(in_pktinfo)):
                view.local = <const uint8_t*> &(<in_pktinfo*> CMSG_DATA(header)).ipi_spec_dst
                view.local_size = sizeof(in_addr)
        elif header.cmsg_level == IPPROTO_IPV6 and header.cmsg_type == IPV6_PKTINFO:
            if header.cmsg_len >= CMSG_LEN(sizeof(in6_pktinfo)):
                view.local = CMSG_DATA(header)
                view.local_size = sizeof(in6_pktinfo)
        header = CMSG_NXTHDR(message, header)


cdef bint io_view(BatchIO* io, int i, View* view) noexcept nogil:
    """View datagram i in the buffers; false for one that was truncated."""
    view[0] = io.views[i]
    return not io.messages[i].msg_hdr.msg_flags & MSG_TRUNC


cdef object io_item(BatchIO* io, int i):
    """Datagram i as ReceiveBatch.receive returns it; None for one that was truncated."""
    cdef View view
    if not io_view(io, i, &view):
        return None
    return (
        PyBytes_FromStringAndSize(<const char*> view.data, view.size),
        PyBytes_FromStringAndSize(<const char*> view.remote, view.remote_size),
        PyBytes_FromStringAndSize(<const char*> view.local, view.local_size) if view.local_size else b"",
        view.received_ns, view.kernel,
    )


cdef void io_reply(BatchIO* io, int slot, int message, uint8_t* data, Py_ssize_t size, bint stamp) noexcept nogil:
    """Set reply `slot` of the next `io_send`: to the source of datagram `message`, from its destination address."""
    cdef msghdr* out = &io.replies[slot].msg_hdr
    cdef size_t used = put_source(io.reply_control[slot], io.views[message].local, io.views[message].local_size)
    if stamp:
        used += put_stamp_request(io.reply_control[slot] + used)
    io.reply_vectors[slot].iov_base = data
    io.reply_vectors[slot].iov_len = size
    out.msg_name = &io.names[message]
    out.msg_namelen = <socklen_t> io.views[message].remote_size
    out.msg_control = io.reply_control[slot] if used else NULL
    out.msg_controllen = used


cdef int io_send(BatchIO* io, int fd, int count) noexcept nogil:
    """Send the first `count` replies without blocking; how many were sent. A reply that cannot be sent at once is lost.

    It is one call, unless a reply cannot be sent at all (a firewall, a lost route): it is skipped, and the rest is sent.
    """
    cdef int at = 0
    cdef int went = 0
    cdef int sent
    while at < count:
        sent = sendmmsg(fd, io.replies + at, count - at, MSG_DONTWAIT)
        if sent > 0:
            at += sent
            went += sent
        elif errno == EAGAIN or errno == ENOBUFS or errno == ENOMEM:
            break
        else:
            at += 1
    return went


cdef void warm_transmit_path(int discard_fd) noexcept nogil:
    """Warm the kernel's transmit path with a throw-away send: its code and data are in the processor's caches then."""
    cdef uint8_t nothing[WARM_SIZE]
    memset(nothing, 0, WARM_SIZE)
    # Ignore a full buffer: the path is warm all the same.
    send_bytes(discard_fd, nothing, WARM_SIZE, MSG_DONTWAIT)


cdef int send_refused(int fd, void* name, size_t name_size, uint8_t* control, size_t used) noexcept nogil:
    """Ask for more segments of one byte than the kernel allows: it looks up the route, builds the packet, and refuses to send it.

    control: control messages of `used` bytes, with room for one more. Returns 1 where the kernel refused the segments (udp(7),
    UDP_SEGMENT), 0 where it had another reason, such as no route, and -1 where it sent them.
    """
    cdef cmsghdr* header = <cmsghdr*> (control + used)
    cdef uint16_t segment = 1
    cdef msghdr refused
    cdef iovec vector
    header.cmsg_level = IPPROTO_UDP
    header.cmsg_type = UDP_SEGMENT
    header.cmsg_len = CMSG_LEN(sizeof(segment))
    memcpy(CMSG_DATA(header), &segment, sizeof(segment))
    memset(&refused, 0, sizeof(refused))
    vector.iov_base = <void*> NOTHING
    vector.iov_len = REFUSED_SIZE
    refused.msg_name = name
    refused.msg_namelen = <socklen_t> name_size
    refused.msg_iov = &vector
    refused.msg_iovlen = 1
    refused.msg_control = control
    refused.msg_controllen = used + CMSG_SPACE(sizeof(segment))
    if sendmsg(fd, &refused, MSG_DONTWAIT) >= 0:
        return -1
    return errno == EINVAL


cdef bint refuses_segments(int discard_fd) noexcept nogil:
    """Whether this kernel refuses too many segments, which `warm_route` relies on."""
    cdef uint8_t control[CONTROL_CAPACITY]
    return send_refused(discard_fd, NULL, 0, control, 0) == 1


cdef int warm_route(BatchIO* io, int fd, int message) noexcept nogil:
    """Warm the route of a reply to datagram `message`, without sending: as `send_refused`. Only where `refuses_segments`."""
    cdef uint8_t control[CONTROL_CAPACITY]
    cdef size_t used = put_source(control, io.views[message].local, io.views[message].local_size)
    return send_refused(fd, &io.names[message], io.views[message].remote_size, control, used)


def warm(int discard_fd):
    """Warm the kernel's transmit path before a send that counts. discard_fd: a socket whose datagrams nobody reads."""
    with nogil:
        warm_transmit_path(discard_fd)


@cython.final
cdef class ReceiveBatch:
    """Receives batches of up to 64 datagrams, always into the same buffers."""

    cdef BatchIO* io
    cdef readonly unsigned long long truncated

    def __cinit__(self):
        self.io = io_new()
        if self.io == NULL:
            raise MemoryError()

    def __dealloc__(self):
        io_free(self.io)

    def receive(self, int fd):
        """The datagrams that wait at the socket, at most 64, without blocking.

        A list of (data, remote, local, received_ns, kernel): remote a packed socket address (empty when the socket is connected
        and the kernel gives none), local the packed address that the datagram was sent to (empty where unknown), received_ns Unix
        time in ns, kernel whether the kernel took that time (else it was read after the call). Raises OSError, also for an ICMP
        error of a connected socket. An empty list: nothing waits.
        """
        cdef int count, i
        cdef int error = 0
        with nogil:
            count = io_receive(self.io, fd, C_BATCH, &error)
        if count < 0:
            if error == EAGAIN or error == EINTR:
                return []
            raise OSError(error, "recvmmsg failed")
        out = []
        for i in range(count):
            item = io_item(self.io, i)
            if item is None:
                self.truncated += 1
            else:
                out.append(item)
        return out


cdef size_t put_source(uint8_t* control, const uint8_t* local, size_t size) noexcept nogil:
    """Write the source address as a control message; its size, 0 for an address of another size than an IPv4 or IPv6 one."""
    cdef cmsghdr* header = <cmsghdr*> control
    cdef in_pktinfo v4
    if size == sizeof(in_addr):
        memset(&v4, 0, sizeof(v4))
        memcpy(&v4.ipi_spec_dst, local, sizeof(in_addr))
        header.cmsg_level = IPPROTO_IP
        header.cmsg_type = IP_PKTINFO
        header.cmsg_len = CMSG_LEN(sizeof(v4))
        memcpy(CMSG_DATA(header), &v4, sizeof(v4))
        return CMSG_SPACE(sizeof(v4))
    if size == sizeof(in6_pktinfo):
        header.cmsg_level = IPPROTO_IPV6
        header.cmsg_type = IPV6_PKTINFO
        header.cmsg_len = CMSG_LEN(sizeof(in6_pktinfo))
        memcpy(CMSG_DATA(header), local, sizeof(in6_pktinfo))
        return CMSG_SPACE(sizeof(in6_pktinfo))
    return 0


cdef size_t put_stamp_request(uint8_t* control) noexcept nogil:
    cdef cmsghdr* header = <cmsghdr*> control
    cdef uint32_t flags = SOF_TIMESTAMPING_TX_SOFTWARE
    header.cmsg_level = SOL_SOCKET
    header.cmsg_type = SO_TIMESTAMPING
    header.cmsg_len = CMSG_LEN(sizeof(flags))
    memcpy(CMSG_DATA(header), &flags, sizeof(flags))
    return CMSG_SPACE(sizeof(flags))


def send(int fd, list datagrams not None, bint stamp=False):
    """Send (data, remote, local) in order with one sendmmsg; (how many were sent, clock just before the call in Unix ns).

    remote: packed socket address, or b"" on a connected socket. local: packed address to send from, or b"". At most 64 in a call.
    stamp: request a transmit timestamp for each datagram (`transmit_times`), after `enable_transmit_timestamps`. A full send buffer
    is no error: fewer are sent. Raises OSError when the first cannot be sent for another reason.
    """
    cdef mmsghdr messages[C_BATCH]
    cdef iovec vectors[C_BATCH]
    cdef uint8_t control[C_BATCH][CONTROL_CAPACITY]
    cdef int count = 0
    cdef int sent
    cdef int64_t before
    cdef size_t used
    cdef bytes data, remote, local
    if len(datagrams) > C_BATCH:
        raise ConfigError(f"{len(datagrams)} datagrams in one call", expected=f"at most {C_BATCH}")
    memset(messages, 0, sizeof(messages))
    # The list keeps the bytes alive that the vectors point to.
    for data, remote, local in datagrams:
        if data is None or remote is None or local is None:
            raise ConfigError("None as data or address", expected="bytes")
        memset(control[count], 0, CONTROL_CAPACITY)
        vectors[count].iov_base = PyBytes_AS_STRING(data)
        vectors[count].iov_len = PyBytes_GET_SIZE(data)
        messages[count].msg_hdr.msg_iov = &vectors[count]
        messages[count].msg_hdr.msg_iovlen = 1
        if PyBytes_GET_SIZE(remote):
            messages[count].msg_hdr.msg_name = PyBytes_AS_STRING(remote)
            messages[count].msg_hdr.msg_namelen = <socklen_t> PyBytes_GET_SIZE(remote)
        used = put_source(control[count], <const uint8_t*> PyBytes_AS_STRING(local), PyBytes_GET_SIZE(local))
        if stamp:
            used += put_stamp_request(control[count] + used)
        if used:
            messages[count].msg_hdr.msg_control = control[count]
            messages[count].msg_hdr.msg_controllen = used
        count += 1
    with nogil:
        before = realtime_ns()
        sent = sendmmsg(fd, messages, count, MSG_DONTWAIT) if count else 0
    if sent < 0:
        if errno == EAGAIN or errno == ENOBUFS or errno == EINTR:
            return 0, before
        raise OSError(errno, "sendmmsg failed")
    return sent, before


cdef bint read_transmit_stamp(msghdr* message, TransmitStamp* out) noexcept nogil:
    """Read one entry of the error queue; false for one that is no transmit timestamp."""
    cdef cmsghdr* header = CMSG_FIRSTHDR(message)
    cdef timespec stamp
    cdef sock_extended_err extended
    cdef bint have_stamp = False, have_id = False
    while header != NULL:
        if header.cmsg_level == SOL_SOCKET and header.cmsg_type == SCM_TIMESTAMPING:
            if header.cmsg_len >= CMSG_LEN(sizeof(stamp)):
                memcpy(&stamp, CMSG_DATA(header), sizeof(stamp))
                have_stamp = stamp.tv_sec != 0 or stamp.tv_nsec != 0
        elif (header.cmsg_level == IPPROTO_IP and header.cmsg_type == IP_RECVERR) or (
            header.cmsg_level == IPPROTO_IPV6 and header.cmsg_type == IPV6_RECVERR
        ):
            if header.cmsg_len >= CMSG_LEN(sizeof(extended)):
                memcpy(&extended, CMSG_DATA(header), sizeof(extended))
                have_id = extended.ee_origin == SO_EE_ORIGIN_TIMESTAMPING
        header = CMSG_NXTHDR(message, header)
    if have_stamp and have_id:
        out.id = extended.ee_data
        out.at_ns = <int64_t> stamp.tv_sec * C_NS_PER_S + stamp.tv_nsec
        return True
    return False


cdef int read_transmit_stamps(int fd, TransmitStamp* out, int most) noexcept nogil:
    """Read at most 64 entries of the error queue, without blocking; how many transmit timestamps it had, or -1 for an error."""
    cdef mmsghdr messages[C_BATCH]
    cdef uint8_t control[C_BATCH][CONTROL_CAPACITY]
    cdef int count, i
    cdef int found = 0
    memset(messages, 0, sizeof(messages))
    for i in range(C_BATCH):
        messages[i].msg_hdr.msg_control = control[i]
        messages[i].msg_hdr.msg_controllen = CONTROL_CAPACITY
    count = recvmmsg(fd, messages, most if most < C_BATCH else C_BATCH, MSG_ERRQUEUE | MSG_DONTWAIT, NULL)
    if count < 0:
        return 0 if errno == EAGAIN or errno == EINTR else -1
    for i in range(count):
        found += read_transmit_stamp(&messages[i].msg_hdr, &out[found])
    return found


def transmit_times(int fd):
    """Empty the error queue without blocking; its transmit timestamps as a list of (id, at_ns).

    id counts the datagrams that were sent with `stamp` on this socket, from 0 and modulo 2^32. at_ns: the kernel's software
    timestamp, Unix time in ns.
    """
    cdef TransmitStamp stamps[C_BATCH]
    cdef int count, i
    out = []
    while True:
        with nogil:
            count = read_transmit_stamps(fd, stamps, C_BATCH)
        if count < 0:
            raise OSError(errno, "recvmmsg of the error queue failed")
        for i in range(count):
            out.append((stamps[i].id, stamps[i].at_ns))
        if count < C_BATCH:
            return out
