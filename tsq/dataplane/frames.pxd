"""C-level interface of tsq.dataplane.frames, for the data plane."""
from libc.stdint cimport uint8_t, uint64_t


# Frame types (RFC 9000 §19, RFC 9221 §4).
cdef enum:
    PADDING = 0x00
    PING = 0x01
    ACK = 0x02
    ACK_ECN = 0x03
    PATH_CHALLENGE = 0x1A
    PATH_RESPONSE = 0x1B
    CLOSE = 0x1C
    CLOSE_APPLICATION = 0x1D
    DATAGRAM = 0x30
    DATAGRAM_WITH_LENGTH = 0x31
    # Type and length of a DATAGRAM frame of at most 16,383 bytes.
    MOST_DATAGRAM_HEADER = 3

cdef enum:
    # The control plane gets no packet with more work.
    MOST_WORK = 128

cdef int put_datagram_header(uint8_t* out, uint64_t size) noexcept nogil
cdef int frames_work(const uint8_t* plain, Py_ssize_t size) noexcept nogil

# What `frames_excess` finds.
cdef enum:
    NO_EXCESS
    TOO_MANY_FRAMES_HERE
    TOO_MANY_ACK_RANGES

cdef int frames_excess(const uint8_t* plain, Py_ssize_t size, int most_frames, int most_acks, int most_ranges) noexcept nogil
