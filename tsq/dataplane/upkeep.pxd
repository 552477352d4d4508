"""C-level interface of tsq.dataplane.upkeep: what is done for all connections at rest."""
from libc.stdint cimport uint32_t

from tsq.dataplane.sessions cimport Sessions


cdef enum:
    # Candidates to end next where there are too many records.
    OLDEST = 64


cdef class Upkeep(Sessions):
    cdef uint32_t oldest[OLDEST]
    cdef uint32_t oldest_seen
    cdef int oldest_count
    cdef readonly unsigned long long timed_out

    cdef void end_idle(self, double now) noexcept nogil
    cdef void end_if_idle(self, uint32_t number, double now) noexcept nogil
    cdef look_after(self, uint32_t number, double now, list probes, list ids)
    cdef close_record(self, uint32_t number, bytes reason, double now, list packets)
    cdef uint32_t seen_last(self, uint32_t number) noexcept nogil
    cdef void find_oldest(self) noexcept nogil
