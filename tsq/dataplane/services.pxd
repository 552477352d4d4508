"""C-level interface of tsq.dataplane.services: what the data plane does by itself for connections at rest."""
from libc.stdint cimport uint8_t

from tsq.dataplane.state cimport AckRanges, State


cdef enum:
    MOST_CHALLENGES = 4
    CHALLENGE_SIZE = 8


# What a packet asks for. closed: the peer has closed the connection.
cdef struct Service:
    bint closed
    bint acknowledge
    int challenges
    uint8_t challenge[MOST_CHALLENGES][CHALLENGE_SIZE]


cdef int parse_service(const State* s, const uint8_t* plain, Py_ssize_t size, Service* out, AckRanges* ranges) noexcept nogil
cdef bint may_update_keys(State* s, double now) noexcept nogil
cdef Py_ssize_t put_path_responses(uint8_t* out, const Service* service) noexcept nogil
