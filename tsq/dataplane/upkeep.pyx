"""Looks after all connections at rest: probes them, ends those that are idle, or that have to go, or that were used least recently.

Comes in: the time, how many have to end. Goes out: packets to send, connection IDs of those that the control plane must look after.
It must never expand a record for nothing, or forget one whose state knows of later packets.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.math cimport INFINITY
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tsq.dataplane.cache cimport give_back, held, state_at, state_of
from tsq.dataplane.records cimport (
    CHUNK, CHUNK_WORDS, COLD_RING, NO_RECORD, Chunk, Cold, Slab, chunk_of, cold_of, cold_probe_is_due, place_of,
)
from tsq.dataplane.recovery cimport active_at, probe_is_due
from tsq.dataplane.session cimport OUT_CAPACITY, seal_close, seal_probe
from tsq.dataplane.sessions cimport Sessions
from tsq.dataplane.state cimport C_CID, State

from tsq.errors import ConfigError


cdef enum:
    # Of a reason for which a connection is closed.
    MOST_REASON = 255
    # Packets of one sweep.
    MOST_PROBES = 1000

cdef extern from *:
    """
    #define TSQ_TRAILING_ZEROS(bits) __builtin_ctzll(bits)
    """
    int trailing_zeros "TSQ_TRAILING_ZEROS"(uint64_t bits) noexcept nogil


cdef class Upkeep(Sessions):
    """Sessions, and what is done for those at rest from time to time. timed_out: how many have ended because they were idle."""

    def sweep(self, double now):
        """End connections at rest that were idle for too long, and probe those that acknowledge nothing. Once a second is enough.

        (probes to send: (data, remote, local); connection IDs of those that the control plane must look after).
        """
        cdef list probes = []
        cdef list ids = []
        cdef Slab* slab
        cdef Chunk* chunk
        cdef uint32_t at
        cdef int class_, word, place
        cdef uint64_t bits
        self.cache.turn += 1
        with nogil:
            self.end_idle(now)
        for class_ in range(2):
            slab = &self.records.slabs[class_]
            for at in range(slab.chunk_count):
                chunk = slab.chunks[at]
                for word in range(CHUNK_WORDS if chunk != NULL else 0):
                    bits = chunk.waiting[word]
                    while bits:
                        place = 64 * word + trailing_zeros(bits)
                        bits &= bits - 1
                        self.look_after(((at * CHUNK + place) << 1) | class_, now, probes, ids)
        for word in range(self.cache.made):
            if self.cache.record[word] != NO_RECORD:
                self.look_after(self.cache.record[word], now, probes, ids)
        return probes, ids

    cdef void end_idle(self, double now) noexcept nogil:
        cdef Slab* slab
        cdef uint32_t at
        cdef int class_, word, place
        cdef uint64_t bits
        for class_ in range(2):
            slab = &self.records.slabs[class_]
            for at in range(slab.chunk_count):
                for word in range(CHUNK_WORDS):
                    # The chunk is freed with its last record.
                    if slab.chunks[at] == NULL:
                        break
                    bits = slab.chunks[at].used[word]
                    while bits:
                        place = 64 * word + trailing_zeros(bits)
                        bits &= bits - 1
                        if <double> slab.chunks[at].seen[place] + slab.chunks[at].idle[place] <= now:
                            self.end_if_idle(((at * CHUNK + place) << 1) | class_, now)

    cdef void end_if_idle(self, uint32_t number, double now) noexcept nogil:
        """End a record that was idle for too long, unless its state knows of later packets."""
        cdef Chunk* chunk = chunk_of(&self.records, number)
        cdef int place = place_of(number)
        cdef double since = self.heard(number)
        chunk.seen[place] = <uint32_t> since
        if since + chunk.idle[place] <= now:
            self.remove(number)
            self.timed_out += 1

    cdef look_after(self, uint32_t number, double now, list probes, list ids):
        """Probe the peer of a record, or list the record's connection ID, where that is due."""
        cdef uint8_t out[OUT_CAPACITY]
        cdef Cold* cold = cold_of(&self.records, number)
        cdef State* s = held(&self.cache, &self.records, number)
        cdef Py_ssize_t size
        cdef bint due
        if s != NULL:
            due = self.near_limit(s.next_pn - s.key_first_pn, s.failed_opens, s.excessive)
        else:
            due = self.near_limit(cold.next_pn - cold.key_first_pn, cold.failed_opens, cold.excessive)
        if due:
            ids.append(PyBytes_FromStringAndSize(<const char*> &cold.ids[0], C_CID))
        # Very many may be in flight: a record is not expanded for nothing.
        if len(probes) >= MOST_PROBES or (s == NULL and not cold_probe_is_due(cold, now)):
            return
        if s == NULL:
            # The states of the records before this one are free again, or a search for room would pass all of them.
            self.cache.turn += 1
            s = state_of(&self.cache, &self.records, number)
            if s == NULL:
                return
        if not probe_is_due(s, now):
            return
        size = seal_probe(s, out, now)
        if size:
            probes.append((
                PyBytes_FromStringAndSize(<const char*> out, size), s.remote[:s.remote_size], s.local[:s.local_size],
            ))

    def some_resting(self, int most):
        """A connection ID of each of so many connections at rest."""
        cdef list ids = []
        cdef Slab* slab
        cdef Cold* cold
        cdef uint32_t at
        cdef int class_, place
        for class_ in range(2):
            slab = &self.records.slabs[class_]
            for at in range(slab.chunk_count):
                for place in range(CHUNK if slab.chunks[at] != NULL else 0):
                    if len(ids) >= most:
                        return ids
                    if slab.chunks[at].used[place >> 6] >> (place & 63) & 1:
                        cold = cold_of(&self.records, ((at * CHUNK + place) << 1) | class_)
                        ids.append(PyBytes_FromStringAndSize(<const char*> &cold.ids[0], C_CID))
        return ids

    def close_resting(self, bytes reason not None, int most, double now, double heard_before=INFINITY):
        """End at most so many connections at rest; packets to send, (data, remote, local), that tell their peers.

        heard_before: only those from which the last packet came before this time.
        """
        cdef list packets = []
        cdef Slab* slab
        cdef uint32_t at, number
        cdef int class_, place
        if len(reason) > MOST_REASON:
            raise ConfigError(f"a reason of {len(reason)} bytes", expected=f"at most {MOST_REASON}")
        for class_ in range(2):
            slab = &self.records.slabs[class_]
            for at in range(slab.chunk_count):
                for place in range(CHUNK):
                    if slab.chunks[at] == NULL:
                        break
                    if not slab.chunks[at].used[place >> 6] >> (place & 63) & 1:
                        continue
                    if most <= 0:
                        return packets
                    number = ((at * CHUNK + place) << 1) | class_
                    if heard_before < INFINITY:
                        give_back(&self.cache, &self.records, number)
                        if cold_of(&self.records, number).last_receive >= heard_before:
                            continue
                    most -= 1
                    self.cache.turn += 1
                    self.close_record(number, reason, now, packets)
        return packets

    cdef close_record(self, uint32_t number, bytes reason, double now, list packets):
        cdef uint8_t out[OUT_CAPACITY]
        cdef State* s = state_of(&self.cache, &self.records, number)
        cdef Py_ssize_t size
        if s != NULL and not s.draining:
            size = seal_close(s, out, <const uint8_t*> PyBytes_AS_STRING(reason), len(reason), now)
            if size:
                packets.append((
                    PyBytes_FromStringAndSize(<const char*> out, size), s.remote[:s.remote_size], s.local[:s.local_size],
                ))
        self.remove(number)

    def cool(self):
        """Write the states back to their records, where these have room for what is in flight, as when others need the states."""
        cdef int at
        for at in range(self.cache.made):
            if self.cache.record[at] != NO_RECORD and state_at(&self.cache, at).in_flight_count <= COLD_RING:
                give_back(&self.cache, &self.records, self.cache.record[at])

    def end_oldest(self):
        """End the connection at rest that was used least recently; whether there was one."""
        cdef Chunk* chunk
        cdef uint32_t number
        cdef int place
        while self.resting:
            if not self.oldest_count:
                with nogil:
                    self.find_oldest()
            self.oldest_count -= 1
            number = self.oldest[self.oldest_count]
            chunk = self.records.slabs[number & 1].chunks[(number >> 1) / CHUNK]
            if chunk == NULL:
                continue
            place = place_of(number)
            # It may have ended or come back to life since it was noted.
            if chunk.used[place >> 6] >> (place & 63) & 1 and self.seen_last(number) == self.oldest_seen:
                self.remove(number)
                return True
        return False

    cdef uint32_t seen_last(self, uint32_t number) noexcept nogil:
        """The second of a record's last packet."""
        cdef State* s = held(&self.cache, &self.records, number)
        cdef Chunk* chunk = chunk_of(&self.records, number)
        if s != NULL:
            chunk.seen[place_of(number)] = <uint32_t> active_at(s)
        return chunk.seen[place_of(number)]

    cdef void find_oldest(self) noexcept nogil:
        """Note some of the records that were used least recently, in the same second."""
        cdef Slab* slab
        cdef Chunk* chunk
        cdef uint32_t at
        cdef int class_, place
        self.oldest_count = 0
        for place in range(self.cache.made):
            if self.cache.record[place] != NO_RECORD:
                self.seen_last(self.cache.record[place])
        for class_ in range(2):
            slab = &self.records.slabs[class_]
            for at in range(slab.chunk_count):
                chunk = slab.chunks[at]
                for place in range(CHUNK if chunk != NULL else 0):
                    if not chunk.used[place >> 6] >> (place & 63) & 1:
                        continue
                    if self.oldest_count and chunk.seen[place] > self.oldest_seen:
                        continue
                    if self.oldest_count and chunk.seen[place] < self.oldest_seen:
                        self.oldest_count = 0
                    self.oldest_seen = chunk.seen[place]
                    if self.oldest_count < OLDEST:
                        self.oldest[self.oldest_count] = ((at * CHUNK + place) << 1) | class_
                        self.oldest_count += 1
