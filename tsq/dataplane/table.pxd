"""C-level interface of tsq.dataplane.table: entries by connection ID."""
from libc.stdint cimport uint8_t, uint64_t


# entry: 0 in a free slot.
cdef struct Slot:
    uint64_t key
    uint64_t entry


cdef struct Table:
    Slot* slots
    size_t capacity
    size_t used


cdef int table_init(Table* table) noexcept nogil
cdef void table_free(Table* table) noexcept nogil
cdef uint64_t key_of(const uint8_t* connection_id) noexcept nogil
cdef Slot* table_find(const Table* table, uint64_t key) noexcept nogil
cdef void table_expect(const Table* table, uint64_t key) noexcept nogil
cdef int table_put(Table* table, uint64_t key, uint64_t entry) noexcept nogil
cdef void table_remove(Table* table, uint64_t key) noexcept nogil
