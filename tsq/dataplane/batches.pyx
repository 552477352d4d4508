"""The data plane of a server: answers the requests on one socket in batches, in C.

Comes in: a socket's file descriptor, sessions. Goes out: answers on the same socket, and the unchanged bytes of each datagram that
is not taken. It takes an authentic packet that holds nothing but PADDING, PING, ACK, plain requests (docs/reference/protocol.md R4,
R7, R12) and malformed ones. It drops and counts packets that are forged, duplicate, or too much work. It must never call Python for
a packet, keep an answer that cannot be sent at once, or answer with T3 before T2.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset

from tsq._fast cimport (
    C_FRAME_OVERHEAD, C_MOST_MESSAGE, EXACT_SIZE, EXACT_VALUE_SIZE, NONCE_SIZE, PLAIN_RESPONSE_SIZE, PRECISE_RESPONSE_SIZE, View,
    check_message, leaves_padding, monotonic, ntp_of_ns, put_acknowledgment, put_exact_header, put_plain_response,
    read_plain_request, read_precise_request, realtime_ns,
)
from tsq._sockets cimport (
    C_BATCH, BatchIO, TransmitStamp, io_free, io_item, io_new, io_receive, io_reply, io_send, io_view, read_transmit_stamps,
    refuses_segments, restart_stamps, warm_route, warm_transmit_path,
)
from tsq.dataplane.admission cimport PASSED, Admission
from tsq.dataplane.cache cimport (
    Cache, cache_free, cache_init, give_back, held, let_go, state_at, state_of,
)
from tsq.dataplane.frames cimport MOST_DATAGRAM_HEADER, put_datagram_header
from tsq.dataplane.derivation cimport update_keys
from tsq.dataplane.initials cimport REPLY_CAPACITY
from tsq.dataplane.packet cimport TAG_SIZE, Keys, keys_free
from tsq.dataplane.records cimport (
    C_MOST_IDS, C_REMAINS_SIZE, CHUNK, COLD_RING, CHUNK_WORDS, NO_RECORD, Chunk, Cold, Records, Slab, chunk_of, cold_of,
    cold_probe_is_due, freeze, place_of, is_draining, record_free, record_new, records_free, records_init, records_size, thaw,
)
from tsq.dataplane.recovery cimport active_at, has_room, note_sent, probe_is_due, probe_timeout
from tsq.dataplane.services cimport Service, may_update_keys, parse_service, put_path_responses
from tsq.dataplane.session cimport (
    ANSWER, CLOSED, CONSUMED, DRAINED, DUPLICATE, EXCESSIVE, FORGED, MAX_FRAMES, NOT_TAKEN, OPENED, OUT_CAPACITY, Frames, Opened,
    Session, begin, commit, finish, is_short, open_packet, parse_frames, refuse, seal_close, seal_probe, take_known,
)
from tsq.dataplane.state cimport C_CID, KNOWN_T3, AckRanges, KnownT3, State
from tsq.dataplane.table cimport (
    Slot, Table, key_of, table_expect, table_find, table_free, table_init, table_put, table_remove,
)

from tsq.errors import ConfigError


cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    const uint32_t EPOLLIN
    int epoll_wait(int epoll, epoll_event* events, int most, int milliseconds)


cdef enum:
    MOST_EVENTS = 64
    STAMP_RING = 4096
    # A session's state is fetched into the cache while so many packets before its own are opened.
    AHEAD = 4
    # Batches stay small: a packet is sent after the last one of its batch is sealed, and its T3 was read before that.
    SERVED_AT_ONCE = 32
    # Newcomers' datagrams, each of which may take 10 us, between two looks at the socket of those that are connected.
    JUDGED_AT_ONCE = 4
    # Serve so many full batches, then let timers and other sockets have their turn.
    BATCHES = 16
    STAMP_PATIENCE_NS = 1000000000
    # Answer so many requests in one packet, so that it fits the smallest MTU; more requests get several packets.
    ANSWERED_AT_ONCE = 16
    PATH_DATAGRAM = 1200
    # Messages that Python reads of a packet to a connection at rest, and the largest packet that answers it.
    MOST_READ = 4
    MOST_REPLY = 1200
    # Of a reason for which a connection is closed.
    MOST_REASON = 255
    # Records whose keys are kept expanded.
    HOT = 1024
    # Packets of one sweep.
    MOST_PROBES = 1000
    # Candidates to end next where there are too many records.
    OLDEST = 64

BATCH = SERVED_AT_ONCE
NEWCOMERS_BATCH = JUDGED_AT_ONCE

# Seconds between two packets of a connection at rest that Python reads. A client that sends more gets its connection, and a budget.
cdef double READ_INTERVAL = 1.0
# After so many seconds without a send, the kernel's transmit path is no longer in the processor's caches.
cdef double COLD_AFTER = 0.0005

cdef extern from *:
    """
    #define TSQ_PREFETCH(at) __builtin_prefetch(at)
    """
    void PREFETCH "TSQ_PREFETCH"(const void* at) noexcept nogil

cdef extern from *:
    """
    #define TSQ_TRAILING_ZEROS(bits) __builtin_ctzll(bits)
    """
    int trailing_zeros "TSQ_TRAILING_ZEROS"(uint64_t bits) noexcept nogil


# size: what the answer must have in Precision Mode (R7), 0 in any other.
cdef struct Request:
    uint8_t nonce[NONCE_SIZE]
    bint exact
    uint16_t size


cdef struct Job:
    State* state
    int message
    int64_t received_ns
    int64_t send_ns
    # Requests in the packet; the first one that the next answering packet deals with, and how many it deals with.
    int count
    int first
    int here
    # DATAGRAM frames with a message that R4 calls malformed.
    int malformed
    # Requests in Precision Mode; those whose answers would be too large in it; the size of the UDP datagram with all of them.
    int precise
    int shortened
    Py_ssize_t datagram_size
    # Whether the packet is ack-eliciting (RFC 9000 §13.2.1).
    bint acknowledge
    bint answer
    bint stepped_back
    Service service
    Request requests[MAX_FRAMES]


# A packet whose transmit timestamp a client asked for.
cdef struct TransmitRequest:
    uint32_t id
    uint32_t serial
    int64_t send_ns
    State* state
    uint8_t nonce[8]


# ------------------------------------------------------------------------------------------------------- one request

cdef bint fits_peer(const State* s, uint64_t size) noexcept nogil:
    """Whether a message of this size fits a packet, and a DATAGRAM frame that the peer takes."""
    return size <= C_MOST_MESSAGE and size + C_FRAME_OVERHEAD <= s.most_frame


cdef void promise(const State* s, Job* job, Request* request, uint64_t size) noexcept nogil:
    """Note a Precision Mode request of this size: its answer has the same size, where that is possible (R7)."""
    cdef int64_t gap = <int64_t> size - PRECISE_RESPONSE_SIZE
    job.count += 1
    if not fits_peer(s, size):
        job.shortened += 1
    elif gap >= 0 and leaves_padding(gap):
        request.size = <uint16_t> size
        request.exact = request.exact and gap >= EXACT_SIZE and leaves_padding(gap - EXACT_SIZE)
        job.precise += 1


cdef int parse(const State* s, const uint8_t* plain, Py_ssize_t size, Job* job, AckRanges* ranges) noexcept nogil:
    """As parse_frames; -1 also where a DATAGRAM frame holds neither a plain request nor a malformed message."""
    cdef Frames frames
    cdef Request* request
    cdef Py_ssize_t offset = 0
    cdef int i
    if parse_frames(s, plain, size, &frames, ranges):
        return -1
    job.count = job.malformed = job.first = 0
    for i in range(frames.count):
        request = &job.requests[job.count]
        request.size = 0
        if not read_plain_request(frames.frames[i].at, frames.frames[i].size, request.nonce, &request.exact):
            job.count += 1
        elif not read_precise_request(frames.frames[i].at, frames.frames[i].size, request.nonce, &request.exact):
            promise(s, job, request, frames.frames[i].size)
        elif check_message(frames.frames[i].at, <Py_ssize_t> frames.frames[i].size, &offset):
            job.malformed += 1
        else:
            return -1
    job.acknowledge = frames.pinged or frames.count > 0
    return 0


cdef int take(State* s, Keys* scratch, const View* view, double now, Job* job) noexcept nogil:
    """Open one packet and take note of it; its outcome. ANSWER: the job needs an answering packet."""
    cdef Opened opened
    cdef AckRanges ranges
    cdef int outcome
    job.service.closed = False
    job.service.challenges = job.malformed = job.precise = job.shortened = 0
    job.datagram_size = view.size
    if s.draining:
        return DRAINED
    outcome = open_packet(s, scratch, view, now, &opened)
    if outcome != OPENED:
        return outcome
    if opened.updated and (not may_update_keys(s, now) or update_keys(s, now)):
        return NOT_TAKEN
    if parse(s, opened.plain, opened.size, job, &ranges):
        if not s.serial or parse_service(s, opened.plain, opened.size, &job.service, &ranges):
            return refuse(s, &opened)
        job.count = job.first = job.malformed = job.precise = job.shortened = 0
        job.acknowledge = job.service.acknowledge
    commit(s, &opened, &ranges, now)
    if job.service.closed:
        return CLOSED
    if not job.acknowledge:
        return CONSUMED
    job.state = s
    return ANSWER


cdef int put_response(State* s, uint8_t* out, const Request* request, int64_t received_ns, int64_t send_ns) noexcept nogil:
    """Write one DATAGRAM frame with a response; its size. It also reports an earlier answer's exact T3, once (R12)."""
    cdef bint reported = request.exact and s.known_count > 0
    cdef int plain_size = PLAIN_RESPONSE_SIZE + (EXACT_SIZE if reported else 0)
    cdef int size = request.size if request.size else plain_size
    cdef int header = put_datagram_header(out, size)
    cdef uint8_t* end = out + header
    end += put_plain_response(end, request.nonce, received_ns, send_ns)
    if reported:
        take_known(s, put_exact_header(end))
    if request.size:
        put_acknowledgment(out + header + plain_size, size - (PRECISE_RESPONSE_SIZE - PLAIN_RESPONSE_SIZE) - plain_size)
    return header + size


cdef Py_ssize_t room_needed(Job* job, Py_ssize_t end) noexcept nogil:
    """Bytes of the frames that answer the next job.here requests; fewer requests where these do not fit the smallest MTU."""
    cdef Py_ssize_t needed = 0, size
    cdef Request* request
    cdef int i
    if not job.precise:
        return job.here * (MOST_DATAGRAM_HEADER + PLAIN_RESPONSE_SIZE + EXACT_SIZE)
    for i in range(job.here):
        request = &job.requests[job.first + i]
        size = MOST_DATAGRAM_HEADER + (request.size if request.size > PLAIN_RESPONSE_SIZE + EXACT_SIZE
                                       else PLAIN_RESPONSE_SIZE + EXACT_SIZE)
        if end + needed + size + TAG_SIZE > PATH_DATAGRAM:
            if i:
                job.here = i
                return needed
            # Beside a long ACK frame.
            request.size = 0
            job.precise -= 1
            job.shortened += 1
            size = MOST_DATAGRAM_HEADER + PLAIN_RESPONSE_SIZE + EXACT_SIZE
        needed += size
    return needed


cdef Py_ssize_t size_to_match(const Job* job) noexcept nogil:
    """The size of the UDP datagram that answers all requests of a packet in Precision Mode; 0 for no matter."""
    if not job.precise or job.here < job.count:
        return 0
    return job.datagram_size if job.datagram_size < PATH_DATAGRAM else PATH_DATAGRAM


cdef Py_ssize_t build_path_responses(State* s, Job* job, uint8_t* out, Py_ssize_t end, double now) noexcept nogil:
    """Finish a packet with the answers to path challenges, in a datagram of 1200 bytes (RFC 9000 §8.2.2)."""
    job.answer = job.stepped_back = False
    job.here = 0
    if not has_room(s, PATH_DATAGRAM):
        # An acknowledgment alone. The peer asks again.
        return finish(s, out, end, 0, now)
    end += put_path_responses(out + end, &job.service)
    memset(out + end, 0, PATH_DATAGRAM - TAG_SIZE - end)
    note_sent(s, s.next_pn, PATH_DATAGRAM, now)
    return finish(s, out, PATH_DATAGRAM - TAG_SIZE, 0, now)


cdef Py_ssize_t build(State* s, Job* job, uint8_t* out, double now, int64_t clock_ns) noexcept nogil:
    """Build and seal the next packet that answers a job; its size, 0 for none.

    It sets job.answer, whether the packet holds answers (else it is an acknowledgment alone), and job.here, how many requests the
    packet deals with, answered or not. clock_ns: T3; 0: read the system clock here.
    """
    cdef Py_ssize_t end = begin(s, out, now)
    cdef Py_ssize_t needed, matched
    cdef int64_t send_ns
    cdef int i
    if job.service.challenges:
        return build_path_responses(s, job, out, end, now)
    job.here = job.count - job.first
    if job.here > ANSWERED_AT_ONCE:
        job.here = ANSWERED_AT_ONCE
    # Drop an answer for which the window has no room, never queue it: late time is wrong time. The ACK is sent all the same.
    job.stepped_back = False
    needed = end + room_needed(job, end) + TAG_SIZE
    matched = size_to_match(job)
    job.answer = has_room(s, needed if needed > matched else matched)
    if job.answer:
        send_ns = clock_ns if clock_ns else realtime_ns()
        # The clock may have been stepped back since the request came (docs/reference/protocol.md R8).
        job.answer = send_ns >= job.received_ns
        job.stepped_back = not job.answer
        job.send_ns = send_ns
    if job.answer:
        for i in range(job.first, job.first + job.here):
            end += put_response(s, out + end, &job.requests[i], job.received_ns, send_ns)
        if end + TAG_SIZE < matched:
            # Headers and ACK frames differ, too: PADDING frames make up for that.
            memset(out + end, 0, matched - TAG_SIZE - end)
            end = matched - TAG_SIZE
    else:
        # The other requests cannot be answered either: one acknowledgment is enough.
        job.here = job.count - job.first
    return finish(s, out, end, job.here if job.answer else 0, now)


cdef bint is_for_session(const View* view) noexcept nogil:
    """Whether a datagram is long enough for a connection ID, and has a short header."""
    return view.size >= 1 + C_CID and is_short(view.data)


cdef void prefetch_record(const Records* records, uint32_t number) noexcept nogil:
    """Fetch a record into the cache, unless a state holds it."""
    cdef const uint8_t* at
    cdef int i
    if chunk_of(records, number).hot[place_of(number)]:
        return
    at = <const uint8_t*> cold_of(records, number)
    for i in range(14):
        PREFETCH(at + 64 * i)


cdef void prefetch(const State* s) noexcept nogil:
    """Fetch what a packet will touch, the state up to the ring's first entries; NULL: nothing."""
    cdef const uint8_t* at = <const uint8_t*> s
    cdef const uint8_t* end = <const uint8_t*> &s.ring[1] if s != NULL else at
    while at < end:
        PREFETCH(at)
        at += 64


# ------------------------------------------------------------------------------------------------------------ the table

@cython.final
cdef class DataPlane:
    """The sessions of one server's socket by connection ID, and its batches. Only one thread may use it at a time.

    sessions: connection ID (8 bytes) -> Session; changed by `add` and `discard`. Connections at rest are records (`rest`, `wake`),
    for which there is no Python object. resting: how many; timed_out: how many have ended because they were idle;
    closed: because the peer closed them; drained: packets that came after that.
    """

    cdef dict sessions
    cdef Table table
    cdef Records records
    cdef Cache cache
    cdef uint32_t oldest[OLDEST]
    cdef uint32_t oldest_seen
    cdef int oldest_count
    cdef BatchIO* io
    cdef Job* jobs
    cdef uint8_t* out
    # Stateless replies of a batch: which datagram each is for.
    cdef uint8_t* replies
    cdef Py_ssize_t reply_sizes[C_BATCH]
    cdef int replied[C_BATCH]
    cdef int reply_count
    cdef Admission admission
    cdef bint guarded
    cdef Keys scratch
    cdef TransmitRequest* transmit_requests
    # The packet that `read` opened.
    cdef State* read_state
    cdef Opened read_packet
    cdef AckRanges read_ranges
    cdef Frames read_frames
    cdef Slot* slots[C_BATCH]
    cdef State* found[C_BATCH]
    cdef uint32_t next_stamp
    cdef uint32_t stamps_back
    cdef double sent_at
    cdef bint handed_up
    cdef list left
    cdef int discard_fd
    # Where there is a socket for newcomers alone: the other one, and this one.
    cdef int own_fd
    cdef int newcomers_fd
    cdef bint segments_refused
    cdef readonly unsigned long long received, taken, answered, held_back, stepped_back, unsent, truncated, unstamped
    # Transmit timestamps that came back, and the sum of their times since T3, ns.
    cdef readonly unsigned long long exact, send_delay_ns
    cdef readonly unsigned long long resting, timed_out, closed, drained
    cdef readonly unsigned long long forged, duplicates, excessive, malformed, warmed
    # Requests whose answers left something out, because they would have been too large for the peer or the path.
    cdef readonly unsigned long long shortened
    # Datagrams that admission dropped or answered.
    cdef readonly unsigned long long turned_away
    cdef public unsigned long long key_update_after, failed_open_limit, excessive_limit
    # Whether to request transmit timestamps: whether this kernel has them.
    cdef public bint stamping

    def __cinit__(self, int discard_fd=-1, int hot=HOT):
        """discard_fd: a socket whose datagrams nobody reads, to warm the transmit path after a pause; -1: none.

        hot: how many connections at rest keep their keys expanded, so that they are answered fastest; at least two batches.
        """
        if not 2 * C_BATCH <= hot <= 0xFFFF:
            raise ConfigError(f"{hot} states", expected=f"{2 * C_BATCH} to 65535")
        self.discard_fd = discard_fd
        self.own_fd = self.newcomers_fd = -1
        self.stamping = True
        self.segments_refused = discard_fd >= 0 and refuses_segments(discard_fd)
        # Update keys long before 2^23 packets (AES-GCM); close at the lowest limit of failed opens of all suites (RFC 9001 §6.6).
        self.key_update_after = 1 << 22
        self.failed_open_limit = (<unsigned long long> 1) << 36
        # More than a faulty client would send by accident.
        self.excessive_limit = 64
        self.sessions = {}
        self.jobs = <Job*> calloc(C_BATCH, sizeof(Job))
        self.out = <uint8_t*> calloc(C_BATCH, OUT_CAPACITY)
        self.replies = <uint8_t*> calloc(C_BATCH, REPLY_CAPACITY)
        self.transmit_requests = <TransmitRequest*> calloc(STAMP_RING, sizeof(TransmitRequest))
        self.io = io_new()
        records_init(&self.records)
        if table_init(&self.table) or cache_init(&self.cache, hot) or self.jobs == NULL or self.out == NULL:
            raise MemoryError()
        if self.io == NULL or self.transmit_requests == NULL or self.replies == NULL:
            raise MemoryError()

    def __dealloc__(self):
        table_free(&self.table)
        cache_free(&self.cache)
        records_free(&self.records)
        free(self.jobs)
        free(self.out)
        free(self.replies)
        free(self.transmit_requests)
        io_free(self.io)
        keys_free(&self.scratch)

    def __len__(self):
        return len(self.sessions) + self.resting

    def __sizeof__(self):
        """Bytes of the object and of the memory that it allocated itself."""
        return (
            object.__sizeof__(self) + self.table.capacity * sizeof(Slot) + records_size(&self.records)
            + self.cache.made * sizeof(State) + sizeof(BatchIO)
            + C_BATCH * (sizeof(Job) + OUT_CAPACITY + REPLY_CAPACITY) + STAMP_RING * sizeof(TransmitRequest)
        )

    def guard(self, Admission admission not None):
        """Ask this before a datagram that belongs to no session goes to the control plane."""
        if self.admission is not admission:
            admission.add_table(self, &self.table)
            self.admission = admission
            self.guarded = True

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
        self.forget_transmit_requests((<Session> session).state)

    def divide(self, int fd, int newcomers):
        """Serve `fd` first whenever `newcomers` is served: a socket at the same address, for newcomers alone."""
        self.own_fd, self.newcomers_fd = fd, newcomers

    def receive(self, int fd):
        """Serve the datagrams that wait at the socket; (how many came, those that are not taken, as ReceiveBatch gives them).

        It ends with the first batch that is not full (32) or holds a datagram that is not taken, and with the 16th. All answers are
        sent when it returns. Raises OSError as ReceiveBatch.receive does.
        """
        cdef int count, total = 0, error = 0
        cdef list rest
        if self.left is not None:
            # `wait` has served them.
            rest, self.left = self.left, None
            return len(rest), rest
        with nogil:
            count = self.serve_socket(fd, &error, &total)
        if count < 0 and error != EAGAIN and error != EINTR:
            raise OSError(error, "recvmmsg failed")
        return total, self.not_taken(count)

    cdef list not_taken(self, int count):
        """The datagrams of the last batch that are not taken, as `receive` returns them."""
        cdef list rest = []
        cdef int i
        for i in range(count):
            if not self.io.taken[i]:
                item = io_item(self.io, i)
                if item is None:
                    self.truncated += 1
                else:
                    rest.append(item)
        return rest

    cdef int serve_socket(self, int fd, int* error, int* total) noexcept nogil:
        """Serve batch after batch; how many datagrams the last one had, or -1."""
        return self.serve_newcomers(error, total) if fd == self.newcomers_fd else self.serve_burst(fd, error, total)

    cdef int serve_newcomers(self, int* error, int* total) noexcept nogil:
        """As serve_burst, at the newcomers' socket, but between two small batches those that are connected are served."""
        cdef int count = 0, handed_up = 0, others
        while total[0] < BATCHES * SERVED_AT_ONCE:
            others = 0
            count = self.serve_burst(self.own_fd, error, &others)
            if self.handed_up:
                total[0] += others
                return count
            count = self.serve(self.newcomers_fd, JUDGED_AT_ONCE, error, &handed_up)
            total[0] += count if count > 0 else 0
            if count < JUDGED_AT_ONCE or handed_up:
                break
        self.handed_up = handed_up > 0
        return count

    cdef int serve_burst(self, int fd, int* error, int* total) noexcept nogil:
        """Serve batch after batch, as `receive` says; how many datagrams the last one had, or -1."""
        cdef int count = 0, handed_up = 0
        while total[0] < BATCHES * SERVED_AT_ONCE:
            count = self.serve(fd, SERVED_AT_ONCE, error, &handed_up)
            total[0] += count if count > 0 else 0
            if count < SERVED_AT_ONCE or handed_up:
                break
        self.handed_up = handed_up > 0
        return count

    def process(self, list datagrams not None, double now, int64_t clock_ns):
        """As `receive`, without a socket: (answers, datagrams that are not taken). For simulations, which have their own time.

        datagrams: (data, remote, local, received_ns, kernel). answers: (data, remote, local). now: monotonic seconds. clock_ns: T3,
        Unix ns.
        """
        cdef bytes data, remote, local
        cdef View view
        cdef Slot* slot
        cdef State* state
        cdef Py_ssize_t size
        cdef list answers = []
        cdef list rest = []
        cdef int taken
        for item in datagrams:
            data, remote, local, view.received_ns, view.kernel = item
            if data is None or remote is None or local is None:
                raise TypeError("None found, bytes expected")
            view.data, view.size = <const uint8_t*> PyBytes_AS_STRING(data), len(data)
            view.remote, view.remote_size = <const uint8_t*> PyBytes_AS_STRING(remote), len(remote)
            view.local, view.local_size = <const uint8_t*> PyBytes_AS_STRING(local), len(local)
            self.received += 1
            self.cache.turn += 1
            slot = self.slot_for(&view)
            state = self.state_for(slot, &view, now)
            self.jobs[0].received_ns = view.received_ns
            taken = NOT_TAKEN if state == NULL else take(state, &self.scratch, &view, now, &self.jobs[0])
            if taken == CLOSED:
                self.drain(slot, state, now)
            if taken == NOT_TAKEN:
                self.reply_count = 0
                if not self.turns_away(0, &view, slot, now):
                    rest.append(item)
                elif self.reply_count:
                    answers.append((PyBytes_FromStringAndSize(<const char*> self.replies, self.reply_sizes[0]), remote, local))
                continue
            self.count_outcome(taken, &self.jobs[0])
            while taken == ANSWER:
                size = build(state, &self.jobs[0], self.out, now, clock_ns)
                if size:
                    answers.append((PyBytes_FromStringAndSize(<const char*> self.out, size), remote, local))
                if not self.goes_on(&self.jobs[0]):
                    break
        return answers, rest

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

    cdef int serve(self, int fd, int most, int* error, int* handed_up) noexcept nogil:
        """One batch: receive, open, warm, answer. How many datagrams came, and how many of them are not taken; or -1."""
        cdef int jobs
        cdef double now
        cdef int count = self.receive_batch(fd, most, error)
        if count <= 0:
            return count
        if fd == self.newcomers_fd:
            # All answers leave by one socket, which counts those with a timestamp.
            fd = self.own_fd
        now = monotonic()
        jobs = self.open_batch(count, now, handed_up)
        if jobs:
            self.warm(fd, now)
        if jobs or self.reply_count:
            self.answer_batch(fd, jobs, now)
        if self.next_stamp != self.stamps_back:
            self.collect(fd)
        return count

    cdef int receive_batch(self, int fd, int most, int* error) noexcept nogil:
        """Receive one batch and find the sessions that it is for; how many datagrams came, or -1."""
        cdef int count = io_receive(self.io, fd, most, error)
        cdef int i
        cdef View view
        if count <= 0:
            # Late transmit timestamps wake the loop as well. Left in the error queue, they would wake it again and again.
            if fd != self.newcomers_fd and (error[0] == EAGAIN or error[0] == EINTR):
                self.collect(fd)
            return count
        self.received += count
        # Fetch all places in the table first, so that they are in the cache when the sessions are looked up.
        for i in range(count):
            self.io.taken[i] = 0
            if io_view(self.io, i, &view) and is_for_session(&view):
                table_expect(&self.table, key_of(view.data + 1))
        for i in range(count):
            self.slots[i] = self.slot_for(&view) if io_view(self.io, i, &view) else NULL
        return count

    cdef int open_batch(self, int count, double now, int* handed_up) noexcept nogil:
        """Open the packets of a batch; how many jobs there are to answer."""
        cdef int jobs = 0, i, outcome
        cdef bint whole
        cdef View view
        self.reply_count = 0
        self.cache.turn += 1
        for i in range(count):
            io_view(self.io, i, &view)
            self.found[i] = self.state_for(self.slots[i], &view, now)
        for i in range(count if count < AHEAD else AHEAD):
            prefetch(self.found[i])
        for i in range(count):
            if i + AHEAD < count:
                prefetch(self.found[i + AHEAD])
            outcome = NOT_TAKEN
            # One that was truncated goes up, to be counted.
            whole = io_view(self.io, i, &view)
            if self.found[i] != NULL:
                self.jobs[jobs].message = i
                self.jobs[jobs].received_ns = view.received_ns
                outcome = take(self.found[i], &self.scratch, &view, now, &self.jobs[jobs])
                if outcome == CLOSED:
                    self.drain(self.slots[i], self.found[i], now)
            if outcome == NOT_TAKEN and not (whole and self.turns_away(i, &view, self.slots[i], now)):
                handed_up[0] += 1
                continue
            self.io.taken[i] = 1
            self.unstamped += not view.kernel
            self.count_outcome(outcome, &self.jobs[jobs])
            jobs += outcome == ANSWER
        return jobs

    cdef bint turns_away(self, int message, const View* view, const Slot* slot, double now) noexcept nogil:
        """Whether admission drops a datagram that is not taken, or answers it. The answer waits in `replies`."""
        cdef Py_ssize_t size = 0
        if not self.guarded:
            return False
        if slot != NULL:
            # Of a session's packets, only those from a denied address: it may have moved there.
            if not self.admission.denies(view.remote, view.remote_size):
                return False
        else:
            if view.kernel:
                self.admission.note_wait(<double> (realtime_ns() - view.received_ns) / 1e9, now)
            if self.admission.judge_at(
                view.data, view.size, view.remote, view.remote_size, now, True,
                self.replies + self.reply_count * REPLY_CAPACITY, &size
            ) == PASSED:
                return False
        self.turned_away += 1
        if size:
            self.replied[self.reply_count] = message
            self.reply_sizes[self.reply_count] = size
            self.reply_count += 1
        return True

    cdef void warm(self, int fd, double now) noexcept nogil:
        """Warm the kernel's transmit path after a pause; else the first answer leaves some microseconds later after its T3."""
        cdef int outcome
        if self.discard_fd < 0 or now - self.sent_at <= COLD_AFTER:
            return
        warm_transmit_path(self.discard_fd)
        if self.segments_refused:
            outcome = warm_route(self.io, fd, self.jobs[0].message)
            self.warmed += outcome == 1
            # Never again if the kernel did send it.
            self.segments_refused = outcome >= 0

    cdef void answer_batch(self, int fd, int jobs, double now) noexcept nogil:
        """Take T3, seal and send the answers to the first so many jobs, then the stateless replies of the batch."""
        cdef int packets = 0, i
        cdef Py_ssize_t size
        cdef uint8_t* out
        for i in range(jobs):
            while True:
                if packets == C_BATCH:
                    self.send(fd, packets, now)
                    packets = 0
                out = self.out + packets * OUT_CAPACITY
                size = build(self.jobs[i].state, &self.jobs[i], out, now, 0)
                if size:
                    io_reply(self.io, packets, self.jobs[i].message, out, size, self.request_transmit_timestamp(&self.jobs[i]))
                    packets += 1
                if not self.goes_on(&self.jobs[i]):
                    break
        for i in range(self.reply_count):
            if packets == C_BATCH:
                self.send(fd, packets, now)
                packets = 0
            io_reply(self.io, packets, self.replied[i], self.replies + i * REPLY_CAPACITY, self.reply_sizes[i], False)
            packets += 1
        if packets:
            self.send(fd, packets, now)

    cdef void send(self, int fd, int packets, double now) noexcept nogil:
        """Send the first so many packets of `out`."""
        cdef int sent = io_send(self.io, fd, packets)
        self.sent_at = now
        self.unsent += packets - sent
        if sent < packets:
            self.resynchronize(fd)

    cdef void count_outcome(self, int outcome, const Job* job) noexcept nogil:
        """Count a datagram that is not handed up. `goes_on` counts its answers."""
        if outcome == FORGED:
            self.forged += 1
        elif outcome == DUPLICATE:
            self.duplicates += 1
        elif outcome == EXCESSIVE:
            self.excessive += 1
        elif outcome == DRAINED:
            self.drained += 1
        elif outcome != NOT_TAKEN:
            self.taken += 1
            self.malformed += job.malformed

    cdef bint goes_on(self, Job* job) noexcept nogil:
        """Count the requests that the last packet of `build` dealt with; whether the job has more."""
        if job.answer:
            self.answered += job.here
        elif job.stepped_back:
            self.stepped_back += job.here
        else:
            self.held_back += job.here
        self.shortened += job.shortened
        job.shortened = 0
        job.first += job.here
        return job.first < job.count

    # ------------------------------------------------------------------------------------------------ exact T3 (R12)

    cdef void resynchronize(self, int fd) noexcept nogil:
        """Count timestamped packets from 0 again, here and in the kernel: it may or may not have counted a send that failed."""
        cdef TransmitStamp stamps[C_BATCH]
        cdef int i
        if self.next_stamp == 0:
            return
        restart_stamps(fd)
        while read_transmit_stamps(fd, stamps, C_BATCH) == C_BATCH:
            pass
        for i in range(STAMP_RING):
            self.transmit_requests[i].state = NULL
        self.next_stamp = self.stamps_back = 0

    def send_stamped(
        self, int fd, bytes data not None, bytes remote not None, bytes local not None, session not None,
        bytes nonce not None, int64_t send_ns,
    ):
        """Send one packet of the control plane's, and report its transmit timestamp in a later answer; 1 when sent, else 0.

        session: or the connection ID of a connection at rest. send_ns: the T3 in it. An earlier transmit timestamp is not believed.
        """
        cdef int sent
        cdef State* state = NULL
        cdef uint32_t number
        cdef bint wanted = False
        if len(nonce) != NONCE_SIZE:
            raise ConfigError(f"a nonce of {len(nonce)} bytes", expected="16 bytes")
        memcpy(self.jobs[0].requests[0].nonce, PyBytes_AS_STRING(nonce), NONCE_SIZE)
        self.jobs[0].requests[0].exact = True
        self.jobs[0].count = self.jobs[0].here = 1
        self.jobs[0].first = 0
        self.jobs[0].answer = True
        if isinstance(session, Session):
            state = (<Session> session).state
        else:
            number = self.number_of(session)
            state = held(&self.cache, &self.records, number) if number != NO_RECORD else NULL
        self.jobs[0].state = state
        self.jobs[0].send_ns = send_ns
        # Only this table's `discard` forgets the request when the session ends, and a client may have reached another socket.
        if state != NULL and (state.owner == <void*> self or state.serial):
            wanted = self.request_transmit_timestamp(&self.jobs[0])
        self.io.views[0].local = <const uint8_t*> PyBytes_AS_STRING(local)
        self.io.views[0].local_size = len(local)
        self.io.views[0].remote_size = min(<size_t> len(remote), sizeof(self.io.names[0]))
        memcpy(&self.io.names[0], PyBytes_AS_STRING(remote), self.io.views[0].remote_size)
        io_reply(self.io, 0, 0, <uint8_t*> PyBytes_AS_STRING(data), len(data), wanted)
        with nogil:
            sent = io_send(self.io, fd, 1)
            if not sent:
                self.resynchronize(fd)
            elif wanted:
                self.collect(fd)
        self.io.views[0].local = NULL
        return sent

    cdef bint request_transmit_timestamp(self, const Job* job) noexcept nogil:
        """Whether to request a transmit timestamp for this packet; if so, remember the session and the nonce."""
        cdef TransmitRequest* asked
        cdef int i
        if not job.answer or not self.stamping:
            return False
        for i in range(job.first, job.first + job.here):
            if job.requests[i].exact:
                asked = &self.transmit_requests[self.next_stamp % STAMP_RING]
                asked.id = self.next_stamp
                asked.state = job.state
                asked.serial = job.state.serial
                asked.send_ns = job.send_ns
                memcpy(asked.nonce, job.requests[i].nonce, 8)
                self.next_stamp += 1
                return True
        return False

    cdef void collect(self, int fd) noexcept nogil:
        """Read transmit timestamps from the error queue, and note each one in its session."""
        cdef TransmitStamp stamps[C_BATCH]
        cdef int count, i
        cdef TransmitRequest* asked
        cdef State* s
        while True:
            count = read_transmit_stamps(fd, stamps, C_BATCH)
            for i in range(count):
                self.stamps_back = stamps[i].id + 1
                asked = &self.transmit_requests[stamps[i].id % STAMP_RING]
                if asked.state == NULL or asked.id != stamps[i].id:
                    continue
                s = asked.state
                asked.state = NULL
                # The state holds another connection by now.
                if s.serial != asked.serial:
                    continue
                # A time before the packet's T3, or long after it, belongs to another packet.
                if stamps[i].at_ns < asked.send_ns or stamps[i].at_ns - asked.send_ns > STAMP_PATIENCE_NS:
                    continue
                if s.known_count == KNOWN_T3:
                    memmove(&s.known[0], &s.known[1], (KNOWN_T3 - 1) * sizeof(KnownT3))
                    s.known_count -= 1
                memcpy(s.known[s.known_count].nonce, asked.nonce, 8)
                s.known[s.known_count].ntp = ntp_of_ns(stamps[i].at_ns)
                s.known_count += 1
                self.exact += 1
                self.send_delay_ns += stamps[i].at_ns - asked.send_ns
            if count < C_BATCH:
                return

    cdef void forget_transmit_requests(self, State* state) noexcept:
        """Forget the requests of a session that ends: its memory will be used for something else."""
        cdef int i
        for i in range(STAMP_RING):
            if self.transmit_requests[i].state == state:
                self.transmit_requests[i].state = NULL

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
        self.forget_transmit_requests(s)
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

    def rests(self, bytes connection_id not None):
        """Whether a connection with this ID is at rest here."""
        return self.number_of(connection_id) != NO_RECORD

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
        cdef State* s = held(&self.cache, &self.records, number)
        cdef Cold* cold
        cdef double since
        if s != NULL:
            since = active_at(s)
        else:
            cold = cold_of(&self.records, number)
            since = max(cold.first_sent, cold.last_receive)
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


# -------------------------------------------------------------------------------------------------------------- waiting

def wait(int epoll, dict serving not None, double timeout):
    """Wait for events of an epoll instance, and serve meanwhile; [(file descriptor, events)] for the caller to handle.

    serving: file descriptor -> DataPlane. Datagrams to these sockets are answered without Python. Such a socket is among the events
    when it has a datagram that is not taken, which `receive` then returns, or an event that is no datagram. timeout: seconds, below
    0 for none. An interrupted call returns early.
    """
    cdef epoll_event events[MOST_EVENTS]
    cdef double end = monotonic() + timeout
    cdef double left
    cdef int count, milliseconds, i, error, total, last
    cdef DataPlane data_plane
    cdef list out = []
    while True:
        milliseconds = -1
        if timeout >= 0:
            left = end - monotonic()
            # Round up, as selectors does: a timer must not be looked at before it is due.
            milliseconds = <int> (left * 1000 + 1) if left > 0 else 0
        with nogil:
            count = epoll_wait(epoll, events, MOST_EVENTS, milliseconds)
        if count < 0:
            if errno == EINTR:
                return out
            raise OSError(errno, "epoll_wait failed")
        for i in range(count):
            found = serving.get(events[i].data.fd)
            if found is not None and events[i].events == EPOLLIN:
                data_plane = found
                error = total = 0
                with nogil:
                    last = data_plane.serve_socket(events[i].data.fd, &error, &total)
                if last >= 0 and not data_plane.handed_up:
                    continue
                if data_plane.handed_up:
                    # Its other socket may have had some, too.
                    data_plane.left = (data_plane.left or []) + data_plane.not_taken(last)
            out.append((events[i].data.fd, events[i].events))
        if out or count == 0 or (timeout >= 0 and monotonic() >= end):
            return out
