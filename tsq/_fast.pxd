"""C-level interface of tsq._fast, for the other extensions."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int CLOCK_REALTIME, CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec* out)


cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    int AF_INET, AF_INET6


cdef extern from *:
    """
    #include <stdint.h>
    #define TSQ_NS_PER_S INT64_C(1000000000)
    """
    const int64_t C_NS_PER_S "TSQ_NS_PER_S"


cdef enum:
    # A QUIC peer sends no larger datagrams over Ethernet. The kernel truncates a larger one, and it is dropped.
    C_CAPACITY = 2048


# A received datagram in somebody's buffers. received_ns: Unix ns; kernel: whether the kernel took that time.
cdef struct View:
    const uint8_t* data
    Py_ssize_t size
    const uint8_t* remote
    size_t remote_size
    const uint8_t* local
    size_t local_size
    int64_t received_ns
    bint kernel


cdef struct Cursor:
    const uint8_t* at
    const uint8_t* end


cdef struct Tlv:
    uint8_t type
    uint8_t length
    const uint8_t* value


# Sizes of plain messages and of their parts, bytes (docs/reference/protocol.md R4, R12).
cdef enum:
    TLV_HEADER_SIZE = 2
    NONCE_SIZE = 16
    TIMESTAMP_SIZE = 8
    # A request: a Nonce, and maybe a Metadata TLV that asks for exact T3.
    PLAIN_REQUEST_SIZE = TLV_HEADER_SIZE + NONCE_SIZE
    EXACT_QUERY_SIZE = 10
    EXACT_REQUEST_SIZE = PLAIN_REQUEST_SIZE + EXACT_QUERY_SIZE
    # A response: Nonce, T2, T3, and maybe a Metadata TLV with an earlier response's exact T3 (its value is hexadecimal).
    PLAIN_RESPONSE_SIZE = PLAIN_REQUEST_SIZE + 2 * (TLV_HEADER_SIZE + TIMESTAMP_SIZE)
    EXACT_HEADER_SIZE = 10
    EXACT_VALUE_SIZE = 32
    EXACT_SIZE = EXACT_HEADER_SIZE + EXACT_VALUE_SIZE
    # A plain response in Precision Mode, without padding (R7).
    PRECISE_RESPONSE_SIZE = PLAIN_RESPONSE_SIZE + TLV_HEADER_SIZE
    # The largest message in a DATAGRAM frame that is sent: it fits the smallest QUIC packet (1200 bytes) beside the longest header,
    # an ACK and the AEAD's tag. A frame of this size needs so many bytes in front of it (RFC 9221 §4).
    C_MOST_MESSAGE = 1100
    C_FRAME_OVERHEAD = 3


cdef int read_plain_request(const uint8_t* data, uint64_t size, uint8_t* nonce, bint* exact) noexcept nogil
cdef int put_plain_request(uint8_t* out, const uint8_t* nonce, bint exact) noexcept nogil
cdef int put_plain_response(uint8_t* out, const uint8_t* nonce, int64_t receive_ns, int64_t send_ns) noexcept nogil
cdef uint8_t* put_exact_header(uint8_t* out) noexcept nogil
cdef int read_precise_request(const uint8_t* data, uint64_t size, uint8_t* nonce, bint* exact) noexcept nogil
cdef bint leaves_padding(int64_t gap) noexcept nogil
cdef void put_acknowledgment(uint8_t* out, int gap) noexcept nogil
cdef int next_tlv(Cursor* cursor, Tlv* tlv) noexcept nogil
cdef int check_message(const uint8_t* data, Py_ssize_t size, Py_ssize_t* offset) noexcept nogil
cdef uint64_t ntp_of_ns(int64_t unix_ns) noexcept nogil
cdef int ns_of_ntp(uint64_t ntp, int64_t pivot_ns, int64_t* out) noexcept nogil
cdef void put_u64(uint8_t* out, uint64_t value) noexcept nogil
cdef int64_t realtime_ns() noexcept nogil
cdef double monotonic() noexcept nogil
