"""C-level interface of tsq._fast, for the other extensions."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int CLOCK_REALTIME, CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec* out)


cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len


cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        uint16_t sa_family
    cdef struct sockaddr_storage:
        uint16_t ss_family
    cdef struct msghdr:
        void* msg_name
        socklen_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    cdef struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    int AF_INET, AF_INET6, SOL_SOCKET, MSG_DONTWAIT, MSG_ERRQUEUE, MSG_TRUNC, MSG_CTRUNC
    int SO_TIMESTAMPNS, SCM_TIMESTAMPNS, SO_TIMESTAMPING, SCM_TIMESTAMPING
    cmsghdr* CMSG_FIRSTHDR(msghdr* message)
    cmsghdr* CMSG_NXTHDR(msghdr* message, cmsghdr* previous)
    unsigned char* CMSG_DATA(cmsghdr* header)
    size_t CMSG_LEN(size_t length)
    size_t CMSG_SPACE(size_t length)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t length)
    int recvmmsg(int fd, mmsghdr* messages, unsigned int count, int flags, timespec* timeout)
    ssize_t send_bytes "send"(int fd, const void* data, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    int sendmmsg(int fd, mmsghdr* messages, unsigned int count, int flags)


cdef enum:
    C_CAPACITY = 2048
    # Between the starts of two buffers: a power of two would put all of them into the same few sets of the cache.
    C_STRIDE = 2048 + 192
    C_BATCH = 64
    CONTROL_CAPACITY = 256
    CONTROL_STRIDE = 256 + 64


cdef struct View:
    const uint8_t* data
    Py_ssize_t size
    const uint8_t* remote
    size_t remote_size
    const uint8_t* local
    size_t local_size
    int64_t received_ns
    bint kernel


cdef struct BatchIO:
    uint8_t* data
    uint8_t* control
    mmsghdr messages[C_BATCH]
    iovec vectors[C_BATCH]
    sockaddr_storage names[C_BATCH]
    View views[C_BATCH]
    uint8_t taken[C_BATCH]
    int used
    mmsghdr replies[C_BATCH]
    iovec reply_vectors[C_BATCH]
    uint8_t reply_control[C_BATCH][CONTROL_CAPACITY]


cdef struct TransmitStamp:
    uint32_t id
    int64_t at_ns


cdef BatchIO* io_new() noexcept
cdef void io_free(BatchIO* io) noexcept
cdef int io_receive(BatchIO* io, int fd, int most, int* error) noexcept nogil
cdef bint io_view(BatchIO* io, int i, View* view) noexcept nogil
cdef object io_item(BatchIO* io, int i)
cdef void io_reply(BatchIO* io, int slot, int message, uint8_t* data, Py_ssize_t size, bint stamp) noexcept nogil
cdef int io_send(BatchIO* io, int fd, int count) noexcept nogil
cdef void warm_transmit_path(int discard_fd) noexcept nogil
cdef bint refuses_segments(int discard_fd) noexcept nogil
cdef int warm_route(BatchIO* io, int fd, int message) noexcept nogil
cdef int restart_stamps(int fd) noexcept nogil
cdef int read_transmit_stamps(int fd, TransmitStamp* out, int most) noexcept nogil


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
