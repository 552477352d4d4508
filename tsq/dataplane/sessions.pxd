"""C-level interface of tsq.dataplane.sessions: the sessions of one server by connection ID, and those at rest."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from tsq._fast cimport View
from tsq.dataplane.cache cimport Cache
from tsq.dataplane.packet cimport Keys
from tsq.dataplane.records cimport Records
from tsq.dataplane.session cimport Frames, Opened, is_short
from tsq.dataplane.stamps cimport Stamps
from tsq.dataplane.state cimport C_CID, AckRanges, State
from tsq.dataplane.table cimport Slot, Table


cdef enum:
    # Records whose keys are kept expanded.
    HOT = 1024

cdef extern from *:
    """
    #define TSQ_PREFETCH(at) __builtin_prefetch(at)
    """
    void PREFETCH "TSQ_PREFETCH"(const void* at) noexcept nogil


cdef inline bint is_for_session(const View* view) noexcept nogil:
    """Whether a datagram is long enough for a connection ID, and has a short header."""
    return view.size >= 1 + C_CID and is_short(view.data)


cdef class Sessions:
    cdef dict sessions
    cdef Table table
    cdef Records records
    cdef Cache cache
    cdef Stamps stamps
    cdef Keys scratch
    # The packet that `read` opened.
    cdef State* read_state
    cdef Opened read_packet
    cdef AckRanges read_ranges
    cdef Frames read_frames
    cdef readonly unsigned long long resting, closed
    cdef public unsigned long long key_update_after, failed_open_limit, excessive_limit

    cdef Slot* slot_for(self, const View* view) noexcept nogil
    cdef State* state_for(self, const Slot* slot, const View* view, double now) noexcept nogil
    cdef void drain(self, const Slot* slot, State* s, double now) noexcept nogil
    cdef bint near_limit(self, int64_t sealed, uint64_t failed, uint64_t excessive) noexcept nogil
    cdef uint32_t number_of(self, bytes connection_id)
    cdef double heard(self, uint32_t number) noexcept nogil
    cdef void unlist(self, uint32_t number) noexcept nogil
    cdef void remove(self, uint32_t number) noexcept nogil
