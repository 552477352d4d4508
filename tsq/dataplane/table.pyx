"""Entries by connection ID: a hash table with linear probing, at most four fifths full.

Comes in: connection IDs of 8 bytes. This end chose them at random, so each is its own hash. Goes out: slots, which the next change
of the table may move. It must never own what an entry refers to.
"""
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from tsq.dataplane.state cimport C_CID


cdef extern from *:
    """
    #define TSQ_TABLE_PREFETCH(at) __builtin_prefetch(at)
    """
    void prefetch "TSQ_TABLE_PREFETCH"(const void* at) noexcept nogil


cdef enum:
    FIRST_CAPACITY = 64


cdef int table_init(Table* table) noexcept nogil:
    """An empty table; 0, or -1 where there is no memory."""
    table.slots = <Slot*> calloc(FIRST_CAPACITY, sizeof(Slot))
    table.capacity = FIRST_CAPACITY if table.slots != NULL else 0
    table.used = 0
    return 0 if table.slots != NULL else -1


cdef void table_free(Table* table) noexcept nogil:
    free(table.slots)
    table.slots = NULL
    table.capacity = table.used = 0


cdef uint64_t key_of(const uint8_t* connection_id) noexcept nogil:
    """A connection ID of 8 bytes as a key."""
    cdef uint64_t key
    memcpy(&key, connection_id, C_CID)
    return key


cdef Slot* slot_of(const Table* table, uint64_t key) noexcept nogil:
    """The key's slot, or the free slot for it."""
    cdef size_t mask = table.capacity - 1
    cdef size_t at = key & mask
    while table.slots[at].entry != 0 and table.slots[at].key != key:
        at = (at + 1) & mask
    return &table.slots[at]


cdef Slot* table_find(const Table* table, uint64_t key) noexcept nogil:
    """The key's slot, or NULL."""
    cdef Slot* slot = slot_of(table, key)
    return slot if slot.entry != 0 else NULL


cdef void table_expect(const Table* table, uint64_t key) noexcept nogil:
    """Fetch the key's slot into the cache: it will be looked up soon."""
    prefetch(&table.slots[key & (table.capacity - 1)])


cdef int grow(Table* table) noexcept nogil:
    cdef Table larger
    cdef size_t i
    larger.capacity = 2 * table.capacity
    larger.used = table.used
    larger.slots = <Slot*> calloc(larger.capacity, sizeof(Slot))
    if larger.slots == NULL:
        return -1
    for i in range(table.capacity):
        if table.slots[i].entry != 0:
            slot_of(&larger, table.slots[i].key)[0] = table.slots[i]
    free(table.slots)
    table[0] = larger
    return 0


cdef int table_put(Table* table, uint64_t key, uint64_t entry) noexcept nogil:
    """Enter this under a key, or replace what was there; 0, or -1 where there is no memory. entry: not 0."""
    cdef Slot* slot = slot_of(table, key)
    if slot.entry == 0:
        if 5 * (table.used + 1) > 4 * table.capacity:
            if grow(table):
                return -1
            slot = slot_of(table, key)
        table.used += 1
    slot.key = key
    slot.entry = entry
    return 0


cdef void table_remove(Table* table, uint64_t key) noexcept nogil:
    """Remove a key without a tombstone: entries behind the hole move up when that brings them nearer to their own place."""
    cdef size_t mask = table.capacity - 1
    cdef Slot* found = table_find(table, key)
    cdef size_t hole, at, home
    if found == NULL:
        return
    table.used -= 1
    at = hole = found - table.slots
    while True:
        table.slots[hole].entry = 0
        while True:
            at = (at + 1) & mask
            if table.slots[at].entry == 0:
                return
            home = table.slots[at].key & mask
            if ((at - home) & mask) >= ((at - hole) & mask):
                break
        table.slots[hole] = table.slots[at]
        hole = at
