"""Sessions at rest: records of fixed size, in chunks of 1024, and their way from and to a session's state.

Comes in: states. Goes out: records by number, states that go on where they were. A record has raw keys; a state has expanded ones.
A record has room for four packets in flight: of more, the oldest count as lost (RFC 9002 §6). Freed memory is overwritten, since it
held keys. It must never lower a packet number, nor allocate for one record alone.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from tsq.dataplane.packet cimport IV_SIZE, key_size, keys_set_aead, keys_set_protection, secret_size
from tsq.dataplane.recovery cimport shrink, timeout_of
from tsq.dataplane.state cimport MOST_KEY, MOST_SECRET, KnownT3, RawKeys, State


cdef extern from "<openssl/crypto.h>" nogil:
    void cleanse "OPENSSL_cleanse"(void* at, size_t size)


cdef extern from *:
    """
    #define TSQ_LOWEST_BIT(bits) __builtin_ctzll(bits)
    """
    int lowest_bit "TSQ_LOWEST_BIT"(uint64_t bits) noexcept nogil


cdef enum:
    AES_128_GCM = 0x1301
    # Flags of a record.
    SPIN = 1
    ACK_SENT = 2
    ACK_WANTED = 4
    ROUND_TRIP_KNOWN = 8
    VERSION_2 = 16
    DRAINING = 32

cdef uint64_t ALL = ~(<uint64_t> 0)

# Bytes of a record with keys of 16 and of 32 bytes, and of what stands beside it.
RECORD_SIZES = (sizeof(Cold) + material_size(AES_128_GCM), sizeof(Cold) + material_size(0x1302))
BESIDE_SIZE = sizeof(Chunk) / CHUNK


# ------------------------------------------------------------------------------------------------------------- memory

cdef size_t material_size(int suite) noexcept nogil:
    """Bytes of all keys of a record: four packet keys with their IVs, header protection keys, secrets."""
    if suite == AES_128_GCM:
        return 4 * (16 + IV_SIZE) + 2 * 16 + 2 * 32
    return 4 * (MOST_KEY + IV_SIZE) + 2 * MOST_KEY + 2 * MOST_SECRET


cdef void records_init(Records* records) noexcept nogil:
    memset(records, 0, sizeof(Records))
    records.slabs[0].stride = (sizeof(Cold) + material_size(AES_128_GCM) + 7) & ~(<size_t> 7)
    records.slabs[1].stride = (sizeof(Cold) + material_size(0) + 7) & ~(<size_t> 7)


cdef void chunk_free(Slab* slab, uint32_t at) noexcept nogil:
    cdef Chunk* chunk = slab.chunks[at]
    if chunk == NULL:
        return
    cleanse(chunk.data, CHUNK * slab.stride)
    free(chunk.data)
    free(chunk)
    slab.chunks[at] = NULL


cdef void records_free(Records* records) noexcept nogil:
    cdef int i
    cdef uint32_t at
    for i in range(2):
        for at in range(records.slabs[i].chunk_count):
            chunk_free(&records.slabs[i], at)
        free(records.slabs[i].chunks)
    records_init(records)


cdef size_t records_size(const Records* records) noexcept nogil:
    """Bytes of all chunks."""
    cdef size_t size = 0
    cdef int i
    cdef uint32_t at
    for i in range(2):
        size += records.slabs[i].chunk_count * sizeof(Chunk*)
        for at in range(records.slabs[i].chunk_count):
            if records.slabs[i].chunks[at] != NULL:
                size += sizeof(Chunk) + CHUNK * records.slabs[i].stride
    return size


cdef int chunk_new(Slab* slab, uint32_t at) noexcept nogil:
    """Make the chunk with this number; 0 or -1."""
    cdef Chunk** chunks = slab.chunks
    cdef Chunk* chunk
    if at == slab.chunk_count:
        if at & 63 == 0:
            chunks = <Chunk**> realloc(chunks, (at + 64) * sizeof(Chunk*))
            if chunks == NULL:
                return -1
            slab.chunks = chunks
        chunks[at] = NULL
        slab.chunk_count += 1
    chunk = <Chunk*> calloc(1, sizeof(Chunk))
    if chunk == NULL:
        return -1
    chunk.data = <uint8_t*> malloc(CHUNK * slab.stride)
    if chunk.data == NULL:
        free(chunk)
        return -1
    chunks[at] = chunk
    return 0


cdef uint32_t record_new(Records* records, int suite) noexcept nogil:
    """The number of a new record, or NO_RECORD where there is no memory. In the lowest chunk with room: others become empty."""
    cdef uint32_t class_ = suite != AES_128_GCM
    cdef Slab* slab = &records.slabs[class_]
    cdef uint32_t at = slab.room
    cdef Chunk* chunk
    cdef int word = 0, place
    while at < slab.chunk_count and slab.chunks[at] != NULL and slab.chunks[at].count == CHUNK:
        at += 1
    if (at == slab.chunk_count or slab.chunks[at] == NULL) and chunk_new(slab, at):
        return NO_RECORD
    slab.room = at
    chunk = slab.chunks[at]
    while chunk.used[word] == ALL:
        word += 1
    place = 64 * word + lowest_bit(~chunk.used[word])
    chunk.used[word] |= (<uint64_t> 1) << (place & 63)
    chunk.hot[place] = 0
    chunk.count += 1
    slab.used += 1
    return ((at * CHUNK + place) << 1) | class_


cdef void record_free(Records* records, uint32_t number) noexcept nogil:
    cdef Slab* slab = &records.slabs[number & 1]
    cdef uint32_t at = (number >> 1) / CHUNK
    cdef Chunk* chunk = slab.chunks[at]
    cdef int place = place_of(number)
    cleanse(chunk.data + place * slab.stride, slab.stride)
    chunk.used[place >> 6] &= ~((<uint64_t> 1) << (place & 63))
    chunk.waiting[place >> 6] &= ~((<uint64_t> 1) << (place & 63))
    chunk.count -= 1
    slab.used -= 1
    if at < slab.room:
        slab.room = at
    if chunk.count == 0:
        chunk_free(slab, at)


cdef Chunk* chunk_of(const Records* records, uint32_t number) noexcept nogil:
    return records.slabs[number & 1].chunks[(number >> 1) / CHUNK]


cdef int place_of(uint32_t number) noexcept nogil:
    return (number >> 1) & (CHUNK - 1)


cdef Cold* cold_of(const Records* records, uint32_t number) noexcept nogil:
    return <Cold*> (chunk_of(records, number).data + place_of(number) * records.slabs[number & 1].stride)


# ------------------------------------------------------------------------------------------------------- to and from states

cdef bint is_draining(const Cold* c) noexcept nogil:
    """Whether the peer has closed the connection."""
    return c.flags & DRAINING != 0


cdef uint8_t* put_raw(uint8_t* at, const RawKeys* keys, int size) noexcept nogil:
    memcpy(at, keys.key, size)
    memcpy(at + size, keys.iv, IV_SIZE)
    return at + size + IV_SIZE


cdef const uint8_t* get_raw(const uint8_t* at, RawKeys* keys, int size) noexcept nogil:
    memcpy(keys.key, at, size)
    memcpy(keys.iv, at + size, IV_SIZE)
    return at + size + IV_SIZE


cdef void freeze_keys(const State* s, uint8_t* at) noexcept nogil:
    cdef int size = key_size(s.suite), secret = secret_size(s.suite)
    at = put_raw(at, &s.current_keys, size)
    at = put_raw(at, &s.sending_keys, size)
    at = put_raw(at, &s.next_keys, size)
    at = put_raw(at, &s.last_keys, size)
    memcpy(at, s.protection, size)
    memcpy(at + size, s.protection + MOST_KEY, size)
    at += 2 * size
    memcpy(at, s.secrets, secret)
    memcpy(at + secret, s.secrets + MOST_SECRET, secret)


cdef int thaw_keys(const uint8_t* at, State* s) noexcept nogil:
    """Set raw and expanded keys; 0, or -1 where OpenSSL fails."""
    cdef int size = key_size(s.suite), secret = secret_size(s.suite)
    at = get_raw(at, &s.current_keys, size)
    at = get_raw(at, &s.sending_keys, size)
    at = get_raw(at, &s.next_keys, size)
    at = get_raw(at, &s.last_keys, size)
    memcpy(s.protection, at, size)
    memcpy(s.protection + MOST_KEY, at + size, size)
    at += 2 * size
    memcpy(s.secrets, at, secret)
    memcpy(s.secrets + MOST_SECRET, at + secret, secret)
    if keys_set_aead(&s.receive, s.suite, s.current_keys.key, s.current_keys.iv, False):
        return -1
    if keys_set_aead(&s.send, s.suite, s.sending_keys.key, s.sending_keys.iv, True):
        return -1
    if keys_set_protection(&s.receive, s.suite, s.protection):
        return -1
    return keys_set_protection(&s.send, s.suite, s.protection + MOST_KEY)


cdef bint cold_probe_is_due(const Cold* c, double now) noexcept nogil:
    """The same as `probe_is_due`, without expanding the record (RFC 9002 §6.2)."""
    if not c.in_flight_count or c.next_probe > now:
        return False
    return c.ring[0].at + timeout_of(c.smoothed, c.variance, c.max_ack_delay) <= now


cdef void freeze_ring(const State* s, Cold* c) noexcept nogil:
    """The newest packets in flight. The first of the older ones reduces the congestion window, as a loss does."""
    cdef int dropped = s.in_flight_count - COLD_RING if s.in_flight_count > COLD_RING else 0
    cdef State lowered
    cdef int i
    c.window, c.threshold, c.recovery_start = s.window, s.threshold, s.recovery_start
    c.lost = <uint32_t> s.lost + dropped
    c.in_flight_count = <uint8_t> (s.in_flight_count - dropped)
    if dropped and s.ring[dropped - 1].at > s.recovery_start:
        lowered.window, lowered.threshold, lowered.recovery_start = s.window, s.threshold, s.recovery_start
        shrink(&lowered, s.ring[dropped - 1].at, s.ring[s.in_flight_count - 1].at)
        c.window, c.threshold, c.recovery_start = lowered.window, lowered.threshold, lowered.recovery_start
    for i in range(c.in_flight_count):
        c.ring[i].at = s.ring[dropped + i].at
        c.ring[i].size = s.ring[dropped + i].size
        c.ring[i].behind = <uint32_t> (s.next_pn - s.ring[dropped + i].pn)


cdef void thaw_ring(const Cold* c, State* s) noexcept nogil:
    cdef int i
    s.in_flight = 0
    s.in_flight_count = c.in_flight_count
    for i in range(c.in_flight_count):
        s.ring[i].at = c.ring[i].at
        s.ring[i].size = c.ring[i].size
        s.ring[i].pn = c.next_pn - c.ring[i].behind
        s.in_flight += c.ring[i].size


cdef void freeze(const State* s, Cold* c) noexcept nogil:
    """Write a state into its record. What belongs to the record alone is left: connection IDs, idle timeout, the remains."""
    cdef int older = s.known_count - COLD_T3 if s.known_count > COLD_T3 else 0
    c.flags = (SPIN if s.spin else 0) | (ACK_SENT if s.ack_sent else 0) | (ACK_WANTED if s.ack_wanted else 0)
    c.flags |= (ROUND_TRIP_KNOWN if s.round_trip_known else 0) | (VERSION_2 if s.version_2 else 0)
    c.flags |= DRAINING if s.draining else 0
    c.suite, c.phase, c.exponent, c.probes = <uint16_t> s.suite, s.phase, s.ack_delay_exponent, <uint8_t> s.probes
    c.remote_size, c.local_size, c.peer_id_size, c.most_frame = s.remote_size, s.local_size, s.peer_id_size, s.most_frame
    memcpy(c.remote, s.remote, sizeof(c.remote))
    memcpy(c.local, s.local, sizeof(c.local))
    memcpy(c.peer_id, s.peer_id, sizeof(c.peer_id))
    c.largest, c.largest_at, c.low_bits, c.high_bits = s.largest, s.largest_at, s.low_bits, s.high_bits
    c.ack_floor, c.spin_pn, c.last_receive, c.first_sent = s.ack_floor, s.spin_pn, s.last_receive, s.first_sent
    c.next_pn, c.largest_acked, c.phase_first_pn, c.key_first_pn = s.next_pn, s.largest_acked, s.phase_first_pn, s.key_first_pn
    c.latest, c.smoothed, c.variance, c.minimum = s.latest, s.smoothed, s.variance, s.minimum
    c.max_ack_delay, c.growth, c.next_probe = s.max_ack_delay, s.growth, s.next_probe
    c.answered, c.taken = <uint32_t> s.answered, <uint32_t> s.taken
    c.failed_opens, c.excessive = s.failed_opens, <uint32_t> s.excessive
    c.last_keys_until, c.updates_left, c.updated_at = s.last_keys_until, <float> s.updates_left, s.updated_at
    c.read_at = s.read_at
    c.known_count = <uint8_t> (s.known_count - older)
    memcpy(c.known, &s.known[older], c.known_count * sizeof(KnownT3))
    freeze_ring(s, c)
    freeze_keys(s, <uint8_t*> c + sizeof(Cold))


cdef int thaw(const Cold* c, State* s) noexcept nogil:
    """Write a record into a state, which may hold another session's; 0, or -1 where OpenSSL fails."""
    s.active = True
    s.client = s.defer_acks = False
    s.other_in_flight = 0
    s.own_id = c.ids[0]
    s.spin, s.ack_sent, s.ack_wanted = c.flags & SPIN, c.flags & ACK_SENT != 0, c.flags & ACK_WANTED != 0
    s.round_trip_known, s.version_2 = c.flags & ROUND_TRIP_KNOWN != 0, c.flags & VERSION_2 != 0
    s.draining = c.flags & DRAINING != 0
    s.suite, s.phase, s.ack_delay_exponent, s.probes = c.suite, c.phase, c.exponent, c.probes
    s.remote_size, s.local_size, s.peer_id_size, s.most_frame = c.remote_size, c.local_size, c.peer_id_size, c.most_frame
    memcpy(s.remote, c.remote, sizeof(c.remote))
    memcpy(s.local, c.local, sizeof(c.local))
    memcpy(s.peer_id, c.peer_id, sizeof(c.peer_id))
    s.largest, s.largest_at, s.low_bits, s.high_bits = c.largest, c.largest_at, c.low_bits, c.high_bits
    s.ack_floor, s.spin_pn, s.last_receive, s.first_sent = c.ack_floor, c.spin_pn, c.last_receive, c.first_sent
    s.next_pn, s.largest_acked, s.phase_first_pn, s.key_first_pn = c.next_pn, c.largest_acked, c.phase_first_pn, c.key_first_pn
    s.window, s.threshold, s.recovery_start = c.window, c.threshold, c.recovery_start
    s.latest, s.smoothed, s.variance, s.minimum = c.latest, c.smoothed, c.variance, c.minimum
    s.max_ack_delay, s.growth, s.next_probe = c.max_ack_delay, c.growth, c.next_probe
    s.answered, s.taken, s.lost = c.answered, c.taken, c.lost
    s.failed_opens, s.excessive = c.failed_opens, c.excessive
    s.last_keys_until, s.updates_left, s.updated_at = c.last_keys_until, c.updates_left, c.updated_at
    s.read_at = c.read_at
    s.known_count = c.known_count
    memcpy(s.known, c.known, c.known_count * sizeof(KnownT3))
    thaw_ring(c, s)
    return thaw_keys(<const uint8_t*> c + sizeof(Cold), s)
