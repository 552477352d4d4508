"""C-level interface of tsq.dataplane.recovery, for the data plane."""
from libc.stdint cimport int64_t, uint8_t

from tsq.dataplane.state cimport AckRanges, State


cdef bint seen(const State* s, int64_t pn) noexcept nogil
cdef void mark(State* s, int64_t pn) noexcept nogil
cdef int put_ack(const State* s, uint8_t* out, double now) noexcept nogil
cdef int parse_ack(const State* s, const uint8_t** at, const uint8_t* end, bint ecn, AckRanges* out) noexcept nogil
cdef void on_ack(State* s, const AckRanges* ranges, double now) noexcept nogil
cdef bint has_room(const State* s, Py_ssize_t size) noexcept nogil
cdef void note_sent(State* s, int64_t pn, Py_ssize_t size, double now) noexcept nogil
cdef double active_at(const State* s) noexcept nogil
cdef double loss_delay(const State* s) noexcept nogil
cdef bint probe_is_due(const State* s, double now) noexcept nogil
cdef double probe_timeout(const State* s) noexcept nogil
cdef double timeout_of(double smoothed, double variance, double max_ack_delay) noexcept nogil
cdef void shrink(State* s, double sent_at, double now) noexcept nogil
