"""C-level interface of tsq.dataplane.records: sessions at rest, in chunks of memory."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tsq.dataplane.packet cimport MAX_CID_SIZE
from tsq.dataplane.state cimport KnownT3, State


cdef enum:
    CHUNK = 1024
    CHUNK_WORDS = 16
    COLD_RING = 4
    COLD_T3 = 2
    C_MOST_IDS = 2
    C_REMAINS_SIZE = 168
    NO_RECORD = 0xFFFFFFFF


# A packet in flight; behind: how many numbers before the next one.
cdef struct ColdSent:
    double at
    uint32_t behind
    uint16_t size


# A session at rest. Behind it lie its keys, as many bytes as its suite needs (`material_size`).
cdef struct Cold:
    double largest_at
    double last_receive
    double first_sent
    double max_ack_delay
    double latest
    double smoothed
    double variance
    double minimum
    double recovery_start
    double next_probe
    double last_keys_until
    double updated_at
    double read_at
    int64_t largest
    int64_t ack_floor
    int64_t spin_pn
    int64_t next_pn
    int64_t largest_acked
    int64_t phase_first_pn
    int64_t key_first_pn
    uint64_t low_bits
    uint64_t high_bits
    int64_t window
    int64_t threshold
    int64_t growth
    uint64_t failed_opens
    uint64_t ids[C_MOST_IDS]
    KnownT3 known[COLD_T3]
    ColdSent ring[COLD_RING]
    float updates_left
    float idle
    uint32_t answered
    uint32_t taken
    uint32_t lost
    uint32_t excessive
    uint16_t suite
    uint16_t remains_size
    uint16_t most_frame
    uint8_t flags
    uint8_t phase
    uint8_t probes
    uint8_t exponent
    uint8_t remote_size
    uint8_t local_size
    uint8_t peer_id_size
    uint8_t ids_count
    uint8_t in_flight_count
    uint8_t known_count
    uint8_t remote[28]
    uint8_t local[20]
    uint8_t peer_id[MAX_CID_SIZE]
    uint8_t remains[C_REMAINS_SIZE]


# seen: second of the last packet, rounded down; idle: seconds until it ends after that; hot: number of its state, from 1.
cdef struct Chunk:
    uint64_t used[CHUNK_WORDS]
    uint64_t waiting[CHUNK_WORDS]
    uint32_t seen[CHUNK]
    uint16_t idle[CHUNK]
    uint16_t hot[CHUNK]
    int count
    uint8_t* data


cdef struct Slab:
    size_t stride
    Chunk** chunks
    uint32_t chunk_count
    uint32_t room
    size_t used


# By the size of their keys: of 16 bytes, and of 32.
cdef struct Records:
    Slab slabs[2]


cdef void records_init(Records* records) noexcept nogil
cdef void records_free(Records* records) noexcept nogil
cdef uint32_t record_new(Records* records, int suite) noexcept nogil
cdef void record_free(Records* records, uint32_t number) noexcept nogil
cdef Chunk* chunk_of(const Records* records, uint32_t number) noexcept nogil
cdef int place_of(uint32_t number) noexcept nogil
cdef Cold* cold_of(const Records* records, uint32_t number) noexcept nogil
cdef bint is_draining(const Cold* c) noexcept nogil
cdef bint cold_probe_is_due(const Cold* c, double now) noexcept nogil
cdef size_t records_size(const Records* records) noexcept nogil
cdef void freeze(const State* s, Cold* c) noexcept nogil
cdef int thaw(const Cold* c, State* s) noexcept nogil
