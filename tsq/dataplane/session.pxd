"""C-level interface of tsq.dataplane.session, for the table of sessions and the load."""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from tsq._fast cimport View
from tsq.dataplane.packet cimport MAX_HEADER_SIZE, TAG_SIZE, Keys
from tsq.dataplane.state cimport AckRanges, State


cdef enum:
    # A packet of 1,280 bytes has room for no more requests.
    MAX_FRAMES = 64
    MAX_PLAIN = 2048
    # A power of two would put a batch's packets into the same few sets of the cache.
    OUT_CAPACITY = 2048 + 192

# The outcome of a datagram.
cdef enum:
    NOT_TAKEN = 0
    CONSUMED = 1
    ANSWER = 2
    OPENED = 3
    # Dropped, and counted by reason: it does not open; it is a duplicate; it is too much work for the control plane.
    FORGED = 4
    DUPLICATE = 5
    EXCESSIVE = 6
    # Of connections at rest: the peer has closed it; a packet after that.
    CLOSED = 7
    DRAINED = 8


# An authentic packet. earlier: it was sealed with the last phase's keys; updated: with the next phase's.
cdef struct Opened:
    int64_t pn
    Py_ssize_t size
    bint earlier
    bint updated
    uint8_t header[MAX_HEADER_SIZE]
    uint8_t plain[MAX_PLAIN + TAG_SIZE]


cdef struct Frame:
    const uint8_t* at
    uint64_t size


# The DATAGRAM frames of a packet.
cdef struct Frames:
    int count
    bint pinged
    Frame frames[MAX_FRAMES]


cdef bint is_short(const uint8_t* packet) noexcept nogil
cdef int open_packet(State* s, Keys* scratch, const View* view, double now, Opened* opened) noexcept nogil
cdef int parse_frames(const State* s, const uint8_t* plain, Py_ssize_t size, Frames* out, AckRanges* ranges) noexcept nogil
cdef int refuse(State* s, const Opened* opened) noexcept nogil
cdef void commit(State* s, const Opened* opened, const AckRanges* ranges, double now) noexcept nogil
cdef void take_known(State* s, uint8_t* out) noexcept nogil
cdef Py_ssize_t begin(const State* s, uint8_t* out, double now) noexcept nogil
cdef Py_ssize_t finish(State* s, uint8_t* out, Py_ssize_t plain_end, int answers, double now) noexcept nogil

cdef Py_ssize_t seal_close(State* s, uint8_t* out, const uint8_t* reason, Py_ssize_t size, double now) noexcept nogil
cdef Py_ssize_t seal_probe(State* s, uint8_t* out, double now) noexcept nogil


# overhead: bytes around the only message of the last packet that `open` opened, without its PADDING; 0: there was none.
cdef class Session:
    cdef State* state
    cdef readonly Py_ssize_t overhead
    cdef Keys scratch
