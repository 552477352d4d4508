"""The sessions of one server by connection ID: those that Python holds, and connections at rest.

Comes in: sessions, connection IDs, packets. Goes out: the state that a packet is for. A connection at rest is a record
(tsq.dataplane.records), for which there is no Python object. Only one thread may use it at a time. It must never let anything refer
to a session that has ended, or give a packet to another connection.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from tsq._fast cimport C_FRAME_OVERHEAD, C_MOST_MESSAGE, EXACT_VALUE_SIZE, View
from tsq._sockets cimport C_BATCH
from tsq.dataplane.cache cimport cache_free, cache_init, give_back, held, let_go, state_of
from tsq.dataplane.frames cimport MOST_DATAGRAM_HEADER, put_datagram_header
from tsq.dataplane.packet cimport TAG_SIZE, keys_free
from tsq.dataplane.records cimport (
    C_MOST_IDS, C_REMAINS_SIZE, NO_RECORD, Chunk, Cold, Records, chunk_of, cold_of, freeze, is_draining, place_of, record_free,
    record_new, records_free, records_init, records_size, thaw,
)
from tsq.dataplane.recovery cimport active_at, has_room, probe_is_due, probe_timeout
from tsq.dataplane.session cimport (
    OPENED, OUT_CAPACITY, Session, begin, commit, finish, open_packet, parse_frames, take_known,
)
from tsq.dataplane.stamps cimport STAMP_RING, TransmitRequest, stamps_forget, stamps_free, stamps_init
from tsq.dataplane.state cimport C_CID, State
from tsq.dataplane.table cimport Slot, key_of, table_find, table_free, table_init, table_put, table_remove

from tsq.errors import ConfigError


cdef enum:
    # Messages that Python reads of a packet to a connection at rest, and the largest packet that answers it.
    MOST_READ = 4
    MOST_REPLY = 1200

# Seconds between two packets of a connection at rest that Python reads. A client that sends more gets its connection, and a budget.
cdef double READ_INTERVAL = 1.0


cdef void prefetch_record(const Records* records, uint32_t number) noexcept nogil:
    """Fetch a record into the cache, unless a state holds it."""
    cdef const uint8_t* at
    cdef int i
    if chunk_of(records, number).hot[place_of(number)]:
        return
    at = <const uint8_t*> cold_of(records, number)
    for i in range(14):
        PREFETCH(at + 64 * i)


cdef class Sessions:
    """Sessions by connection ID.

    sessions: connection ID (8 bytes) -> Session; changed by `add` and `discard`. Connections at rest are records (`rest`, `wake`).
    resting: how many; closed: how many have ended because the peer closed them.
    """

    def __cinit__(self, *args, int hot=HOT, **named):
        """hot: how many connections at rest keep their keys expanded, so that they are answered fastest; at least two batches.

        The other arguments are those of a class that adds something to this one.
        """
        if not 2 * C_BATCH <= hot <= 0xFFFF:
            raise ConfigError(f"{hot} states", expected=f"{2 * C_BATCH} to 65535")
        # Update keys long before 2^23 packets (AES-GCM); close at the lowest limit of failed opens of all suites (RFC 9001 §6.6).
        self.key_update_after = 1 << 22
        self.failed_open_limit = (<unsigned long long> 1) << 36
        # More than a faulty client would send by accident.
        self.excessive_limit = 64
        self.sessions = {}
        records_init(&self.records)
        if table_init(&self.table) or cache_init(&self.cache, hot) or stamps_init(&self.stamps):
            raise MemoryError()

    def __dealloc__(self):
        table_free(&self.table)
        cache_free(&self.cache)
        records_free(&self.records)
        stamps_free(&self.stamps)
        keys_free(&self.scratch)

    def __len__(self):
        return len(self.sessions) + self.resting

    def __sizeof__(self):
        """Bytes of the object and of the memory that it allocated itself."""
        return (
            object.__sizeof__(self) + self.table.capacity * sizeof(Slot) + records_size(&self.records)
            + self.cache.made * sizeof(State) + STAMP_RING * sizeof(TransmitRequest)
        )

    def add(self, bytes connection_id not None, Session session not None):
        """Give packets to this connection ID to this session."""
        if len(connection_id) != C_CID:
            raise ConfigError(f"a connection ID of {len(connection_id)} bytes", expected="8 bytes")
        self.discard(connection_id)
        if table_put(&self.table, key_of(<const uint8_t*> PyBytes_AS_STRING(connection_id)), <uint64_t> session.state):
            raise MemoryError()
        self.sessions[connection_id] = session
        session.state.listed += 1
        session.state.owner = <void*> self

    def discard(self, bytes connection_id not None):
        """Give packets to this connection ID to no session."""
        session = self.sessions.pop(connection_id, None)
        if session is None:
            return
        (<Session> session).state.listed -= 1
        if not (<Session> session).state.listed:
            (<Session> session).state.owner = NULL
        table_remove(&self.table, key_of(<const uint8_t*> PyBytes_AS_STRING(connection_id)))
        stamps_forget(&self.stamps, (<Session> session).state)

    cdef Slot* slot_for(self, const View* view) noexcept nogil:
        """Where a datagram's connection ID stands in the table, or NULL. What it refers to is fetched into the cache."""
        cdef Slot* slot
        if not is_for_session(view):
            return NULL
        slot = table_find(&self.table, key_of(view.data + 1))
        if slot != NULL and slot.entry & 1:
            prefetch_record(&self.records, <uint32_t> (slot.entry >> 1))
        return slot

    cdef State* state_for(self, const Slot* slot, const View* view, double now) noexcept nogil:
        """The session that a datagram belongs to; NULL where there is none. A record that was idle for too long is none."""
        cdef uint32_t number
        cdef Chunk* chunk
        cdef State* s
        if slot == NULL:
            return NULL
        if not slot.entry & 1:
            return <State*> slot.entry
        number = <uint32_t> (slot.entry >> 1)
        s = state_of(&self.cache, &self.records, number)
        if s != NULL and s.draining:
            return s
        # A spare connection ID is for the control plane: the peer begins to use it.
        if s == NULL or s.own_id != key_of(view.data + 1):
            return NULL
        chunk = chunk_of(&self.records, number)
        return s if now < active_at(s) + chunk.idle[place_of(number)] else NULL

    cdef void drain(self, const Slot* slot, State* s, double now) noexcept nogil:
        """Keep a record whose peer has closed the connection for three probe timeouts, to send nothing more (RFC 9000 §10.2.2)."""
        cdef uint32_t number = <uint32_t> (slot.entry >> 1)
        cdef double period = 3 * probe_timeout(s)
        s.draining = True
        s.last_receive, s.first_sent = now, 0
        s.in_flight_count = 0
        chunk_of(&self.records, number).idle[place_of(number)] = <uint16_t> (period + 0.999 if period < 60 else 60)
        chunk_of(&self.records, number).seen[place_of(number)] = <uint32_t> now
        self.closed += 1

    def due(self, double now):
        """Sessions that need the control plane.

        These are sessions whose oldest unacknowledged answer is older than the probe timeout (RFC 9002 §6.2) and that have not been
        probed, sessions near a limit of their keys (RFC 9001 §6.6), and sessions that sent too many packets that are too much work.
        """
        cdef State* s
        out = []
        for session in self.sessions.values():
            s = (<Session> session).state
            if (
                probe_is_due(s, now)
                or self.near_limit(s.next_pn - s.key_first_pn, s.failed_opens, s.excessive)
            ):
                out.append(session)
        return out

    cdef bint near_limit(self, int64_t sealed, uint64_t failed, uint64_t excessive) noexcept nogil:
        """Whether the control plane has to update keys, or to end the connection."""
        return (
            sealed >= <int64_t> self.key_update_after or failed >= self.failed_open_limit or excessive >= self.excessive_limit
        )

    # ------------------------------------------------------------------------------------------------ connections at rest

    def rest(self, Session session not None, ids not None, bytes remains not None, double idle, double since):
        """Make a record of a session, under these connection IDs, the one in use first. The session cannot be used any more.

        remains: what else to keep, as it is. idle: seconds after the last packet at which the connection ends.
        since: when the control plane had the last one. Raises MemoryError where there is no memory; then nothing has changed.
        """
        cdef State* s = session.state
        cdef uint32_t number
        cdef Cold* cold
        cdef Chunk* chunk
        cdef int i = 0, place
        if not s.active or s.client or s.defer_acks or not 0 < len(ids) <= C_MOST_IDS or len(remains) > C_REMAINS_SIZE:
            raise ConfigError("a session that cannot rest", expected="a server's session that is in use, and its connection IDs")
        for item in ids:
            if not isinstance(item, bytes) or len(item) != C_CID:
                raise ConfigError("a connection ID that is not 8 bytes", expected="8 bytes")
        number = record_new(&self.records, s.suite)
        if number == NO_RECORD:
            raise MemoryError()
        cold, chunk, place = cold_of(&self.records, number), chunk_of(&self.records, number), place_of(number)
        memset(cold, 0, sizeof(Cold))
        for item in ids:
            cold.ids[i] = key_of(<const uint8_t*> PyBytes_AS_STRING(item))
            i += 1
        cold.ids_count = <uint8_t> i
        cold.remains_size = <uint16_t> len(remains)
        memcpy(cold.remains, PyBytes_AS_STRING(remains), len(remains))
        if since > s.last_receive:
            s.last_receive = since
        freeze(s, cold)
        chunk.seen[place] = <uint32_t> active_at(s)
        chunk.idle[place] = <uint16_t> min(max(idle + 0.999, 1.0), 65535.0)
        if s.in_flight_count:
            chunk.waiting[place >> 6] |= (<uint64_t> 1) << (place & 63)
        for i in range(cold.ids_count):
            if table_put(&self.table, cold.ids[i], (<uint64_t> number << 1) | 1):
                self.unlist(number)
                record_free(&self.records, number)
                if session in self.sessions.values():
                    table_put(&self.table, cold.ids[0], <uint64_t> s)
                raise MemoryError()
        self.sessions.pop(ids[0], None)
        stamps_forget(&self.stamps, s)
        s.active = False
        s.listed = 0
        s.owner = NULL
        keys_free(&s.receive)
        keys_free(&s.send)
        self.resting += 1

    def wake(self, bytes connection_id not None):
        """(session, connection IDs, remains) of the connection with this ID, which rests no more; None where none is at rest."""
        cdef uint32_t number = self.number_of(connection_id)
        cdef Cold* cold
        cdef int i
        if number == NO_RECORD:
            return None
        give_back(&self.cache, &self.records, number)
        cold = cold_of(&self.records, number)
        if is_draining(cold):
            return None
        session = Session()
        if thaw(cold, (<Session> session).state):
            raise MemoryError()
        (<Session> session).state.serial = 0
        ids = tuple([PyBytes_FromStringAndSize(<const char*> &cold.ids[i], C_CID) for i in range(cold.ids_count)])
        remains = PyBytes_FromStringAndSize(<const char*> cold.remains, cold.remains_size)
        self.remove(number)
        self.add(ids[0], session)
        return session, ids, remains

    def rests(self, bytes connection_id not None, double now):
        """Whether a connection with this ID is at rest here. One that was idle for too long has ended (RFC 9000 §10.1)."""
        cdef uint32_t number = self.number_of(connection_id)
        return number != NO_RECORD and now < self.heard(number) + chunk_of(&self.records, number).idle[place_of(number)]

    cdef double heard(self, uint32_t number) noexcept nogil:
        """When the idle timeout of a record began."""
        cdef State* s = held(&self.cache, &self.records, number)
        cdef Cold* cold
        if s != NULL:
            return active_at(s)
        cold = cold_of(&self.records, number)
        return max(cold.first_sent, cold.last_receive)

    def read(self, bytes data not None, bytes remote not None, bytes local not None, double now):
        """The messages in a packet of a connection at rest, as often as once a second; else None: then it is for its connection.

        The packet holds nothing else but an acknowledgment, PING and PADDING. Nothing is noted until `reply` is called.
        """
        cdef View view
        cdef Slot* slot
        cdef State* s
        cdef int i
        view.data, view.size = <const uint8_t*> PyBytes_AS_STRING(data), len(data)
        view.remote, view.remote_size = <const uint8_t*> PyBytes_AS_STRING(remote), len(remote)
        view.local, view.local_size = <const uint8_t*> PyBytes_AS_STRING(local), len(local)
        self.read_state = NULL
        self.cache.turn += 1
        slot = self.slot_for(&view)
        if slot == NULL or not slot.entry & 1:
            return None
        s = self.state_for(slot, &view, now)
        if s == NULL or s.draining or now < s.read_at + READ_INTERVAL:
            return None
        if open_packet(s, &self.scratch, &view, now, &self.read_packet) != OPENED or self.read_packet.updated:
            return None
        if parse_frames(s, self.read_packet.plain, self.read_packet.size, &self.read_frames, &self.read_ranges):
            return None
        if not 0 < self.read_frames.count <= MOST_READ:
            return None
        self.read_state = s
        return [
            PyBytes_FromStringAndSize(<const char*> self.read_frames.frames[i].at, <Py_ssize_t> self.read_frames.frames[i].size)
            for i in range(self.read_frames.count)
        ]

    def take_report(self):
        """An earlier answer's transmit timestamp, of the connection of the packet that `read` opened; as Session.report."""
        cdef uint8_t out[EXACT_VALUE_SIZE]
        if self.read_state == NULL or not self.read_state.known_count:
            return ""
        take_known(self.read_state, out)
        return PyBytes_FromStringAndSize(<const char*> out, EXACT_VALUE_SIZE).decode("ascii")

    @property
    def most_message(self):
        """The largest message for the client whose packet `read` opened, bytes."""
        if self.read_state == NULL:
            return 0
        return min(<int> C_MOST_MESSAGE, self.read_state.most_frame - <int> C_FRAME_OVERHEAD)

    def reply(self, list messages not None, double now, Py_ssize_t least=0):
        """Note the packet that `read` opened; (packet with an ACK and these answers, connection ID, whether the answers fit).

        Where the congestion window or the packet has no room for the answers, they are dropped. least: as in Session.seal.
        """
        cdef uint8_t out[OUT_CAPACITY]
        cdef State* s = self.read_state
        cdef Py_ssize_t end, size = 0
        cdef bint fits
        cdef bytes message
        if s == NULL:
            raise ConfigError("a reply to nothing", expected="a packet that was read")
        self.read_state = NULL
        commit(s, &self.read_packet, &self.read_ranges, now)
        s.read_at = now
        end = begin(s, out, now)
        for message in messages:
            size += len(message) + MOST_DATAGRAM_HEADER
        if least > MOST_REPLY:
            least = MOST_REPLY
        fits = end + size + TAG_SIZE <= MOST_REPLY and (not messages or has_room(s, max(end + size + TAG_SIZE, least)))
        for message in messages if fits else ():
            end += put_datagram_header(out + end, len(message))
            memcpy(out + end, PyBytes_AS_STRING(message), len(message))
            end += len(message)
        if fits and end + TAG_SIZE < least:
            memset(out + end, 0, least - TAG_SIZE - end)
            end = least - TAG_SIZE
        size = finish(s, out, end, <int> len(messages) if fits else 0, now)
        return (
            PyBytes_FromStringAndSize(<const char*> out, size), PyBytes_FromStringAndSize(<const char*> &s.own_id, C_CID),
            bool(fits),
        )

    cdef uint32_t number_of(self, bytes connection_id):
        cdef Slot* slot
        if len(connection_id) != C_CID:
            return NO_RECORD
        slot = table_find(&self.table, key_of(<const uint8_t*> PyBytes_AS_STRING(connection_id)))
        return <uint32_t> (slot.entry >> 1) if slot != NULL and slot.entry & 1 else <uint32_t> NO_RECORD

    cdef void unlist(self, uint32_t number) noexcept nogil:
        """Take the connection IDs of a record out of the table."""
        cdef Cold* cold = cold_of(&self.records, number)
        cdef Slot* slot
        cdef int i
        for i in range(cold.ids_count):
            slot = table_find(&self.table, cold.ids[i])
            if slot != NULL and slot.entry == ((<uint64_t> number << 1) | 1):
                table_remove(&self.table, cold.ids[i])

    cdef void remove(self, uint32_t number) noexcept nogil:
        """Forget a record."""
        let_go(&self.cache, &self.records, number)
        self.unlist(number)
        record_free(&self.records, number)
        self.resting -= 1
