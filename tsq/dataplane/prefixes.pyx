"""What the server remembers of networks and connection IDs: token buckets by prefix, rules of access, known IDs.

Comes in: packed addresses, hashes of connection IDs, the time. Goes out: the bucket of a /24 (IPv4) or /56 (IPv6), whether an
address is denied, whether an ID is known. The buckets have a fixed number of places; a keyed hash finds them, so nobody can choose
whom he meets there. It must never grow because of strangers.
"""
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from tsq.dataplane.digests cimport table_hash


cdef enum:
    IPV4_SIZE = 16
    IPV6_SIZE = 28
    V4 = 4
    V6 = 16
    V4_PREFIX = 3
    V6_PREFIX = 7
    LEAST_CAPACITY = 64

cdef extern from *:
    """
    static const unsigned char TSQ_MAPPED[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    """
    const uint8_t* MAPPED "TSQ_MAPPED"


cdef int address_of(const uint8_t* remote, size_t size, const uint8_t** out) noexcept nogil:
    """The address in a packed sockaddr; its width. IPv4 in IPv6 (RFC 4291 §2.5.5.2) is IPv4. 0: neither."""
    if size == IPV4_SIZE:
        out[0] = remote + 4
        return V4
    if size != IPV6_SIZE:
        return 0
    out[0] = remote + 8
    if memcmp(out[0], MAPPED, sizeof(MAPPED[0]) * 12) == 0:
        out[0] += 12
        return V4
    return V6


# ------------------------------------------------------------------------------------------------------------- buckets

cdef void refill(const PrefixBuckets* limits, PrefixBucket* bucket, double now) noexcept nogil:
    cdef double passed = now - bucket.at
    if passed <= 0:
        return
    bucket.strangers = <float> min(limits.strangers_burst, bucket.strangers + passed * limits.strangers_rate)
    bucket.validated = <float> min(limits.validated_burst, bucket.validated + passed * limits.validated_rate)
    bucket.at = now


cdef PrefixBucket* bucket_of(
    PrefixBuckets* all_of_them, const TableKey* key, const uint8_t* remote, size_t size, double now
) noexcept nogil:
    """The bucket of a network, refilled up to now. One that has none gets the place that was not used for the longest time."""
    cdef uint8_t prefix[8]
    cdef const uint8_t* address = NULL
    cdef PrefixBucket* found
    cdef PrefixBucket* oldest
    cdef int width = address_of(remote, size, &address), _i
    cdef uint64_t tag
    memset(prefix, 0, sizeof(prefix))
    prefix[7] = <uint8_t> width
    if width:
        memcpy(prefix, address, V4_PREFIX if width == V4 else V6_PREFIX)
    tag = table_hash(key, prefix, sizeof(prefix))
    found = oldest = &all_of_them.buckets[(tag % BUCKET_SETS) * BUCKET_WAYS]
    for _i in range(BUCKET_WAYS):
        if found.tag == tag:
            refill(all_of_them, found, now)
            return found
        if found.at < oldest.at:
            oldest = found
        found += 1
    oldest.tag = tag
    oldest.at = now
    oldest.strangers = <float> all_of_them.strangers_burst
    oldest.validated = <float> all_of_them.validated_burst
    return oldest


# -------------------------------------------------------------------------------------------------------------- access

cdef int access_set(Borders* out, bytes starts, bytes denied, int width) except -1:
    """Take sorted first addresses, each with whether it is denied from there on; the first is the lowest address."""
    cdef uint8_t* addresses = NULL
    cdef uint8_t* flags = NULL
    cdef size_t count = len(denied)
    if count:
        addresses = <uint8_t*> malloc(count * width)
        flags = <uint8_t*> malloc(count)
        if addresses == NULL or flags == NULL:
            free(addresses)
            free(flags)
            raise MemoryError()
        memcpy(addresses, PyBytes_AS_STRING(starts), count * width)
        memcpy(flags, PyBytes_AS_STRING(denied), count)
    free(out.starts)
    free(out.denied)
    out.starts, out.denied, out.count = addresses, flags, <int> count
    return 0


cdef void access_free(AccessTable* table) noexcept nogil:
    free(table.v4.starts)
    free(table.v4.denied)
    free(table.v6.starts)
    free(table.v6.denied)


cdef bint is_denied(const AccessTable* table, const uint8_t* remote, size_t size) noexcept nogil:
    """Whether this address is denied: the rule of the last border that is not above it."""
    cdef const uint8_t* address = NULL
    cdef int width = address_of(remote, size, &address)
    cdef const Borders* borders = &table.v4 if width == V4 else &table.v6
    cdef int low = 0, high = borders.count, middle
    if not width or not borders.count:
        return False
    while high - low > 1:
        middle = (low + high) // 2
        if memcmp(borders.starts + middle * width, address, width) <= 0:
            low = middle
        else:
            high = middle
    return borders.denied[low]


# -------------------------------------------------------------------------------------------------- known connection IDs

cdef int known_init(KnownIds* ids) noexcept nogil:
    ids.capacity, ids.used = LEAST_CAPACITY, 0
    ids.places = <KnownId*> calloc(ids.capacity, sizeof(KnownId))
    return 0 if ids.places != NULL else -1


cdef void known_free(KnownIds* ids) noexcept nogil:
    free(ids.places)
    ids.places = NULL


cdef KnownId* known_find(const KnownIds* ids, uint64_t hash) noexcept nogil:
    """The place of this hash, or NULL."""
    cdef size_t at = hash & (ids.capacity - 1)
    while ids.places[at].hash:
        if ids.places[at].hash == hash:
            return &ids.places[at]
        at = (at + 1) & (ids.capacity - 1)
    return NULL


cdef void put_known(KnownIds* ids, const KnownId* known) noexcept nogil:
    cdef size_t at = known.hash & (ids.capacity - 1)
    while ids.places[at].hash:
        at = (at + 1) & (ids.capacity - 1)
    ids.places[at] = known[0]


cdef int resize(KnownIds* ids, size_t capacity) noexcept nogil:
    cdef KnownIds larger
    cdef size_t i
    larger.capacity, larger.used = capacity, ids.used
    larger.places = <KnownId*> calloc(capacity, sizeof(KnownId))
    if larger.places == NULL:
        return -1
    for i in range(ids.capacity):
        if ids.places[i].hash:
            put_known(&larger, &ids.places[i])
    free(ids.places)
    ids[0] = larger
    return 0


cdef int known_add(KnownIds* ids, uint64_t hash) noexcept nogil:
    """Note one more holder of this ID; 0, or -1 where there is no memory."""
    cdef KnownId* found = known_find(ids, hash)
    cdef KnownId new
    if found != NULL:
        found.holders += 1
        return 0
    if 2 * (ids.used + 1) > ids.capacity and resize(ids, 2 * ids.capacity):
        return -1
    new.hash, new.holders, new.passed, new.last = hash, 1, 0, 0
    put_known(ids, &new)
    ids.used += 1
    return 0


cdef void known_remove(KnownIds* ids, uint64_t hash) noexcept nogil:
    """Note one holder less; without any, the ID is forgotten, and those behind it move up."""
    cdef KnownId* found = known_find(ids, hash)
    cdef KnownId moved
    cdef size_t at
    if found == NULL:
        return
    found.holders -= 1
    if found.holders:
        return
    ids.used -= 1
    at = found - ids.places
    ids.places[at].hash = 0
    at = (at + 1) & (ids.capacity - 1)
    while ids.places[at].hash:
        moved = ids.places[at]
        ids.places[at].hash = 0
        put_known(ids, &moved)
        at = (at + 1) & (ids.capacity - 1)
    if ids.capacity > LEAST_CAPACITY and 8 * ids.used < ids.capacity:
        # Where there is no memory for a smaller table, the larger one stays.
        resize(ids, ids.capacity // 2)
