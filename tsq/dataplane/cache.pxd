"""C-level interface of tsq.dataplane.cache: the states of records that are in use."""
from libc.stdint cimport uint8_t, uint32_t

from tsq.dataplane.records cimport Records
from tsq.dataplane.state cimport State


# record: which record each state holds, or NO_RECORD. recent: used since the hand last passed. turn: the turn in which it was used.
cdef struct Cache:
    uint8_t* states
    uint32_t* record
    uint8_t* recent
    uint32_t* turns
    int size
    int made
    int hand
    uint32_t turn
    uint32_t serial


cdef int cache_init(Cache* cache, int size) noexcept nogil
cdef void cache_free(Cache* cache) noexcept nogil
cdef State* state_at(const Cache* cache, int at) noexcept nogil
cdef State* state_of(Cache* cache, Records* records, uint32_t number) noexcept nogil
cdef State* held(const Cache* cache, const Records* records, uint32_t number) noexcept nogil
cdef void give_back(Cache* cache, Records* records, uint32_t number) noexcept nogil
cdef void let_go(Cache* cache, Records* records, uint32_t number) noexcept nogil
