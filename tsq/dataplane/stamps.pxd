"""C-level interface of tsq.dataplane.stamps: the transmit timestamps of one socket."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from tsq.dataplane.answers cimport Job
from tsq.dataplane.state cimport State


cdef enum:
    STAMP_RING = 4096


# A packet whose transmit timestamp a client asked for.
cdef struct TransmitRequest:
    uint32_t id
    uint32_t serial
    int64_t send_ns
    State* state
    uint8_t nonce[8]


# next: the number of the next packet with a timestamp; back: the one after the last that came back. exact: how many were noted in a
# session; delay_ns: the sum of their times since T3.
cdef struct Stamps:
    TransmitRequest* requests
    uint32_t next
    uint32_t back
    uint64_t exact
    uint64_t delay_ns


cdef int stamps_init(Stamps* all) noexcept nogil
cdef void stamps_free(Stamps* all) noexcept nogil
cdef bint stamps_request(Stamps* all, const Job* job) noexcept nogil
cdef void stamps_collect(Stamps* all, int fd) noexcept nogil
cdef void stamps_restart(Stamps* all, int fd) noexcept nogil
cdef void stamps_forget(Stamps* all, const State* state) noexcept nogil
