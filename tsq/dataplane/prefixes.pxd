"""C-level interface of tsq.dataplane.prefixes, for the data plane."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tsq.dataplane.digests cimport TableKey


cdef enum:
    BUCKET_SETS = 4096
    BUCKET_WAYS = 4


# What one network may still begin: handshakes of clients whose address is not validated, and of the others.
cdef struct PrefixBucket:
    uint64_t tag
    double at
    float strangers
    float validated


cdef struct PrefixBuckets:
    double strangers_rate
    double strangers_burst
    double validated_rate
    double validated_burst
    PrefixBucket buckets[BUCKET_SETS * BUCKET_WAYS]


# Rules by address: between one border and the next, all addresses have the same rule.
cdef struct Borders:
    int count
    uint8_t* starts
    uint8_t* denied


cdef struct AccessTable:
    Borders v4
    Borders v6


cdef PrefixBucket* bucket_of(
    PrefixBuckets* all_of_them, const TableKey* key, const uint8_t* remote, size_t size, double now
) noexcept nogil
cdef int access_set(Borders* out, bytes starts, bytes denied, int width) except -1
cdef void access_free(AccessTable* table) noexcept nogil
cdef bint is_denied(const AccessTable* table, const uint8_t* remote, size_t size) noexcept nogil


# Connection IDs by a keyed hash, with how many hold each, how many long headers came for it, and the end of the last Initial.
cdef struct KnownId:
    uint64_t hash
    uint32_t holders
    uint32_t passed
    uint64_t last


cdef struct KnownIds:
    size_t capacity
    size_t used
    KnownId* places


cdef int known_init(KnownIds* ids) noexcept nogil
cdef void known_free(KnownIds* ids) noexcept nogil
cdef KnownId* known_find(const KnownIds* ids, uint64_t hash) noexcept nogil
cdef int known_add(KnownIds* ids, uint64_t hash) noexcept nogil
cdef void known_remove(KnownIds* ids, uint64_t hash) noexcept nogil
