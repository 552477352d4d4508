"""C-level interface of tsq.dataplane.answers: what one packet asks, and the packet that answers it."""
from libc.stdint cimport int64_t, uint8_t, uint16_t

from tsq._fast cimport NONCE_SIZE, View
from tsq.dataplane.packet cimport Keys
from tsq.dataplane.services cimport Service
from tsq.dataplane.session cimport MAX_FRAMES
from tsq.dataplane.state cimport State


# size: what the answer must have in Precision Mode (R7), 0 in any other.
cdef struct Request:
    uint8_t nonce[NONCE_SIZE]
    bint exact
    uint16_t size


cdef struct Job:
    State* state
    int message
    int64_t received_ns
    int64_t send_ns
    # Requests in the packet; the first one that the next answering packet deals with, and how many it deals with.
    int count
    int first
    int here
    # DATAGRAM frames with a message that R4 calls malformed.
    int malformed
    # Requests in Precision Mode; those whose answers would be too large in it; the size of the UDP datagram with all of them.
    int precise
    int shortened
    Py_ssize_t datagram_size
    # Whether the packet is ack-eliciting (RFC 9000 §13.2.1).
    bint acknowledge
    bint answer
    bint stepped_back
    Service service
    Request requests[MAX_FRAMES]


cdef int take(State* s, Keys* scratch, const View* view, double now, Job* job) noexcept nogil
cdef Py_ssize_t build(State* s, Job* job, uint8_t* out, double now, int64_t clock_ns) noexcept nogil
