"""The states of the records that were used last, with their keys expanded: as fast as a session that never rests.

Comes in: numbers of records. Goes out: their states, which stay where they are until the caller's next turn. Where there is no
room, a state that was not used lately goes back to its record (the clock algorithm, close to least recently used). It must never
take a state that is in use in this turn.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from tsq.dataplane.packet cimport keys_free
from tsq.dataplane.records cimport COLD_RING, NO_RECORD, Chunk, Records, chunk_of, cold_of, freeze, place_of, thaw
from tsq.dataplane.recovery cimport active_at
from tsq.dataplane.state cimport State


cdef extern from "<stdlib.h>" nogil:
    void* aligned_alloc(size_t alignment, size_t size)

cdef extern from "<openssl/crypto.h>" nogil:
    void cleanse "OPENSSL_cleanse"(void* at, size_t size)


cdef enum:
    CACHE_LINE = 64
    # An odd number of lines: states do not compete for the same few sets of the processor's cache.
    MANY_SEALED = 1 << 20
    STRIDE = ((sizeof(State) + CACHE_LINE - 1) // CACHE_LINE | 1) * CACHE_LINE


cdef int cache_init(Cache* cache, int size) noexcept nogil:
    """An empty cache for so many states; 0, or -1 where there is no memory. Memory is used when a state is."""
    memset(cache, 0, sizeof(Cache))
    cache.states = <uint8_t*> aligned_alloc(CACHE_LINE, <size_t> size * STRIDE)
    cache.record = <uint32_t*> calloc(size, sizeof(uint32_t))
    cache.recent = <uint8_t*> calloc(size, 1)
    cache.turns = <uint32_t*> calloc(size, sizeof(uint32_t))
    if cache.states == NULL or cache.record == NULL or cache.recent == NULL or cache.turns == NULL:
        return -1
    cache.size = size
    cache.turn = 1
    return 0


cdef void cache_free(Cache* cache) noexcept nogil:
    cdef int i
    for i in range(cache.made):
        wipe(state_at(cache, i))
    free(cache.states)
    free(cache.record)
    free(cache.recent)
    free(cache.turns)
    memset(cache, 0, sizeof(Cache))


cdef void wipe(State* s) noexcept nogil:
    keys_free(&s.receive)
    keys_free(&s.send)
    cleanse(s, sizeof(State))


cdef State* state_at(const Cache* cache, int at) noexcept nogil:
    return <State*> (cache.states + <size_t> at * STRIDE)


cdef State* held(const Cache* cache, const Records* records, uint32_t number) noexcept nogil:
    """The state that holds this record, or NULL."""
    cdef int hot = chunk_of(records, number).hot[place_of(number)]
    return state_at(cache, hot - 1) if hot else NULL


cdef void release(Cache* cache, Chunk* chunk, int place, int at) noexcept nogil:
    cdef State* s = state_at(cache, at)
    s.active = False
    cache.serial += 1
    s.serial = cache.serial
    cache.record[at] = NO_RECORD
    chunk.hot[place] = 0


cdef void give_back(Cache* cache, Records* records, uint32_t number) noexcept nogil:
    """Write the record's state, where it has one, back into the record."""
    cdef Chunk* chunk = chunk_of(records, number)
    cdef int place = place_of(number)
    cdef int at = chunk.hot[place] - 1
    cdef State* s
    if at < 0:
        return
    s = state_at(cache, at)
    freeze(s, cold_of(records, number))
    chunk.seen[place] = <uint32_t> active_at(s)
    # The sweep looks whether its peer has to be probed, or a limit is reached.
    if s.in_flight_count or s.excessive or s.failed_opens or s.next_pn - s.key_first_pn > MANY_SEALED:
        chunk.waiting[place >> 6] |= <unsigned long long> 1 << (place & 63)
    else:
        chunk.waiting[place >> 6] &= ~(<unsigned long long> 1 << (place & 63))
    release(cache, chunk, place, at)


cdef void let_go(Cache* cache, Records* records, uint32_t number) noexcept nogil:
    """Forget the record's state, where it has one: the record ends."""
    cdef Chunk* chunk = chunk_of(records, number)
    cdef int place = place_of(number)
    cdef int at = chunk.hot[place] - 1
    if at < 0:
        return
    wipe(state_at(cache, at))
    release(cache, chunk, place, at)


cdef int find_room(Cache* cache, Records* records) noexcept nogil:
    """A state to use, or -1 where all are in use in this turn."""
    cdef int at, turn
    if cache.made < cache.size:
        at = cache.made
        memset(state_at(cache, at), 0, sizeof(State))
        cache.record[at] = NO_RECORD
        cache.made += 1
        return at
    for turn in range(3 * cache.size):
        at = cache.hand
        cache.hand = at + 1 if at + 1 < cache.size else 0
        if cache.record[at] == NO_RECORD:
            return at
        if cache.turns[at] == cache.turn:
            continue
        if cache.recent[at]:
            cache.recent[at] = 0
            continue
        # As long as there are others, not one with more in flight than a record has room for.
        if turn < 2 * cache.size and state_at(cache, at).in_flight_count > COLD_RING:
            continue
        give_back(cache, records, cache.record[at])
        return at
    return -1


cdef State* state_of(Cache* cache, Records* records, uint32_t number) noexcept nogil:
    """The record's state, which the record is expanded into where it has none; NULL where there is no room."""
    cdef Chunk* chunk = chunk_of(records, number)
    cdef int place = place_of(number)
    cdef int at = chunk.hot[place] - 1
    cdef State* s
    if at < 0:
        at = find_room(cache, records)
        if at < 0:
            return NULL
        s = state_at(cache, at)
        if thaw(cold_of(records, number), s):
            s.active = False
            return NULL
        cache.serial += 1
        s.serial = cache.serial
        cache.record[at] = number
        chunk.hot[place] = at + 1
    cache.recent[at] = 1
    cache.turns[at] = cache.turn
    return state_at(cache, at)
