"""C-level interface of tsq.dataplane.initials, for the data plane."""
from libc.stdint cimport uint8_t, uint32_t

from tsq.dataplane.digests cimport HmacKey
from tsq.dataplane.packet cimport MAX_CID_SIZE, Keys


cdef enum:
    VERSION_1 = 0x00000001
    VERSION_2 = 0x6B3343CF
    # A stateless reply never has more bytes: Version Negotiation with two connection IDs of 255 bytes and 8 versions.
    REPLY_CAPACITY = 640
    MOST_VERSIONS = 8
    # The largest datagram that is looked at.
    MOST_DATAGRAM = 2048

# What a packet with a long header is.
cdef enum:
    INITIAL
    ZERO_RTT
    HANDSHAKE
    RETRY
    NEGOTIATION
    FOREIGN


cdef struct LongHeader:
    uint32_t version
    int kind
    const uint8_t* destination
    int destination_size
    const uint8_t* source
    int source_size
    const uint8_t* token
    Py_ssize_t token_size
    # Where the packet number begins, and the size of the whole packet.
    Py_ssize_t number_at
    Py_ssize_t packet_size


# What it takes to open and to make Initial and Retry packets: prepared keys, and keys that each packet replaces.
cdef struct InitialTools:
    HmacKey salt_1
    HmacKey salt_2
    Keys opening
    Keys sealing
    Keys retry_1
    Keys retry_2


cdef int tools_set(InitialTools* tools) noexcept nogil
cdef void tools_free(InitialTools* tools) noexcept nogil
cdef int read_long_header(const uint8_t* data, Py_ssize_t size, LongHeader* out) noexcept nogil
cdef int count_packets(const uint8_t* data, Py_ssize_t size, int most) noexcept nogil
cdef Py_ssize_t open_initial(InitialTools* tools, const LongHeader* header, const uint8_t* data, uint8_t* plain) noexcept nogil
cdef Py_ssize_t put_negotiation(
    uint8_t* out, const LongHeader* header, const uint32_t* versions, int count, uint8_t noise
) noexcept nogil
cdef Py_ssize_t put_retry(
    InitialTools* tools, uint8_t* out, const LongHeader* header, const uint8_t* new_id, int new_id_size, const uint8_t* token,
    Py_ssize_t token_size, uint8_t noise
) noexcept nogil
cdef Py_ssize_t put_close(
    InitialTools* tools, uint8_t* out, const LongHeader* header, int code, const char* reason, int reason_size
) noexcept nogil
