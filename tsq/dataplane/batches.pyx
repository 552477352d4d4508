"""The data plane of a server: answers the requests on one socket in batches, in C.

Comes in: a socket's file descriptor, sessions. Goes out: answers on the same socket, and the unchanged bytes of each datagram that
is not taken. It takes an authentic packet that holds nothing but PADDING, PING, ACK, plain requests (docs/reference/protocol.md R4,
R12) and malformed ones. It drops and counts packets that are forged, duplicate, or too much work. It must never call Python for a
packet, keep an answer that cannot be sent at once, or answer with T3 before T2.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove

from tsq._fast cimport (
    C_BATCH, EXACT_SIZE, NONCE_SIZE, PLAIN_RESPONSE_SIZE, BatchIO, TransmitStamp, View, check_message, io_free, io_item, io_new,
    io_receive, io_reply, io_send, io_view, monotonic, ntp_of_ns, put_exact_header, put_plain_response, read_plain_request,
    read_transmit_stamps, realtime_ns, refuses_segments, restart_stamps, warm_route, warm_transmit_path,
)
from tsq.dataplane.frames cimport MOST_DATAGRAM_HEADER, put_datagram_header
from tsq.dataplane.packet cimport TAG_SIZE, Keys, keys_free
from tsq.dataplane.recovery cimport has_room, probe_timeout
from tsq.dataplane.session cimport (
    ANSWER, CONSUMED, DUPLICATE, EXCESSIVE, FORGED, MAX_FRAMES, NOT_TAKEN, OPENED, OUT_CAPACITY, Frames, Opened, Session, begin,
    commit, finish, is_short, open_packet, parse_frames, refuse, take_known,
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
    # Serve so many full batches, then let timers and other sockets have their turn.
    BATCHES = 16
    STAMP_PATIENCE_NS = 1000000000
    # Answer so many requests in one packet, so that it fits the smallest MTU; more requests get several packets.
    ANSWERED_AT_ONCE = 16

BATCH = SERVED_AT_ONCE

# After so many seconds without a send, the kernel's transmit path is no longer in the processor's caches.
cdef double COLD_AFTER = 0.0005

cdef extern from *:
    """
    #define TSQ_PREFETCH(at) __builtin_prefetch(at)
    """
    void PREFETCH "TSQ_PREFETCH"(const void* at) noexcept nogil


cdef struct Request:
    uint8_t nonce[NONCE_SIZE]
    bint exact


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
    # Whether the packet is ack-eliciting (RFC 9000 §13.2.1).
    bint acknowledge
    bint answer
    bint stepped_back
    Request requests[MAX_FRAMES]


# A packet whose transmit timestamp a client asked for.
cdef struct TransmitRequest:
    uint32_t id
    int64_t send_ns
    State* state
    uint8_t nonce[8]


# ------------------------------------------------------------------------------------------------------- one request

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
        if not read_plain_request(frames.frames[i].at, frames.frames[i].size, request.nonce, &request.exact):
            job.count += 1
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
    cdef int outcome = open_packet(s, scratch, view, now, &opened)
    if outcome != OPENED:
        return outcome
    if parse(s, opened.plain, opened.size, job, &ranges):
        return refuse(s, &opened)
    commit(s, &opened, &ranges, now)
    if not job.acknowledge:
        return CONSUMED
    job.state = s
    return ANSWER


cdef int put_response(State* s, uint8_t* out, const Request* request, int64_t received_ns, int64_t send_ns) noexcept nogil:
    """Write one DATAGRAM frame with a response; its size. It also reports an earlier answer's exact T3, once (R12)."""
    cdef bint reported = request.exact and s.known_count > 0
    cdef int size = PLAIN_RESPONSE_SIZE + (EXACT_SIZE if reported else 0)
    cdef int header = put_datagram_header(out, size)
    cdef uint8_t* end = out + header
    end += put_plain_response(end, request.nonce, received_ns, send_ns)
    if reported:
        take_known(s, put_exact_header(end))
    return header + size


cdef Py_ssize_t build(State* s, Job* job, uint8_t* out, double now, int64_t clock_ns) noexcept nogil:
    """Build and seal the next packet that answers a job; its size, 0 for none.

    It sets job.answer, whether the packet holds answers (else it is an acknowledgment alone), and job.here, how many requests the
    packet deals with, answered or not. clock_ns: T3; 0: read the system clock here.
    """
    cdef Py_ssize_t end = begin(s, out, now)
    cdef int64_t send_ns
    cdef int i
    job.here = job.count - job.first
    if job.here > ANSWERED_AT_ONCE:
        job.here = ANSWERED_AT_ONCE
    # Drop an answer for which the window has no room, never queue it: late time is wrong time. The ACK is sent all the same.
    job.stepped_back = False
    job.answer = has_room(s, end + job.here * (MOST_DATAGRAM_HEADER + PLAIN_RESPONSE_SIZE + EXACT_SIZE) + TAG_SIZE)
    if job.answer:
        send_ns = clock_ns if clock_ns else realtime_ns()
        # The clock may have been stepped back since the request came (docs/reference/protocol.md R8).
        job.answer = send_ns >= job.received_ns
        job.stepped_back = not job.answer
        job.send_ns = send_ns
    if job.answer:
        for i in range(job.first, job.first + job.here):
            end += put_response(s, out + end, &job.requests[i], job.received_ns, send_ns)
    else:
        # The other requests cannot be answered either: one acknowledgment is enough.
        job.here = job.count - job.first
    return finish(s, out, end, job.here if job.answer else 0, now)


cdef bint is_for_session(const View* view) noexcept nogil:
    """Whether a datagram is long enough for a connection ID, and has a short header."""
    return view.size >= 1 + C_CID and is_short(view.data)


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

    sessions: connection ID (8 bytes) -> Session; changed by `add` and `discard`.
    """

    cdef dict sessions
    cdef Table table
    cdef BatchIO* io
    cdef Job* jobs
    cdef uint8_t* out
    cdef Keys scratch
    cdef TransmitRequest* transmit_requests
    cdef State* found[C_BATCH]
    cdef uint32_t next_stamp
    cdef uint32_t stamps_back
    cdef double sent_at
    cdef bint handed_up
    cdef list rest
    cdef int discard_fd
    cdef bint segments_refused
    cdef readonly unsigned long long received, taken, answered, held_back, stepped_back, unsent, truncated, unstamped
    # Transmit timestamps that came back, and the sum of their times since T3, ns.
    cdef readonly unsigned long long exact, send_delay_ns
    cdef readonly unsigned long long forged, duplicates, excessive, malformed, warmed
    cdef public unsigned long long key_update_after, failed_open_limit, excessive_limit
    # Whether to request transmit timestamps: whether this kernel has them.
    cdef public bint stamping

    def __cinit__(self, int discard_fd=-1):
        """discard_fd: a socket whose datagrams nobody reads, to warm the transmit path after a pause; -1: none."""
        self.discard_fd = discard_fd
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
        self.transmit_requests = <TransmitRequest*> calloc(STAMP_RING, sizeof(TransmitRequest))
        self.io = io_new()
        if table_init(&self.table) or self.jobs == NULL or self.out == NULL or self.transmit_requests == NULL:
            raise MemoryError()
        if self.io == NULL:
            raise MemoryError()

    def __dealloc__(self):
        table_free(&self.table)
        free(self.jobs)
        free(self.out)
        free(self.transmit_requests)
        io_free(self.io)
        keys_free(&self.scratch)

    def __len__(self):
        return len(self.sessions)

    def __sizeof__(self):
        """Bytes of the object and of the memory that it allocated itself."""
        return (
            object.__sizeof__(self) + self.table.capacity * sizeof(Slot) + sizeof(BatchIO)
            + C_BATCH * (sizeof(Job) + OUT_CAPACITY) + STAMP_RING * sizeof(TransmitRequest)
        )

    def add(self, bytes connection_id not None, Session session not None):
        """Give packets to this connection ID to this session."""
        if len(connection_id) != C_CID:
            raise ConfigError(f"a connection ID of {len(connection_id)} bytes", expected="8 bytes")
        self.discard(connection_id)
        if table_put(&self.table, key_of(<const uint8_t*> PyBytes_AS_STRING(connection_id)), session.state, 0):
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

    def receive(self, int fd):
        """Serve the datagrams that wait at the socket; (how many came, those that are not taken, as ReceiveBatch gives them).

        It ends with the first batch that is not full (32) or holds a datagram that is not taken, and with the 16th. All answers are
        sent when it returns. Raises OSError as ReceiveBatch.receive does.
        """
        cdef int count, total = 0, error = 0
        cdef list rest
        if self.rest is not None:
            # `wait` has served them.
            rest, self.rest = self.rest, None
            return len(rest), rest
        with nogil:
            count = self.serve_burst(fd, &error, &total)
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

    cdef int serve_burst(self, int fd, int* error, int* total) noexcept nogil:
        """Serve batch after batch, as `receive` says; how many datagrams the last one had, or -1."""
        cdef int count = 0, handed_up = 0
        while total[0] < BATCHES * SERVED_AT_ONCE:
            count = self.serve(fd, error, &handed_up)
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
            state = self.find(&view)
            self.jobs[0].received_ns = view.received_ns
            taken = NOT_TAKEN if state == NULL else take(state, &self.scratch, &view, now, &self.jobs[0])
            if taken == NOT_TAKEN:
                rest.append(item)
                continue
            self.count_outcome(taken, &self.jobs[0])
            while taken == ANSWER:
                size = build(state, &self.jobs[0], self.out, now, clock_ns)
                if size:
                    answers.append((PyBytes_FromStringAndSize(<const char*> self.out, size), remote, local))
                if not self.goes_on(&self.jobs[0]):
                    break
        return answers, rest

    cdef State* find(self, const View* view) noexcept nogil:
        """The session that a datagram's connection ID belongs to, or NULL."""
        cdef Slot* slot
        if not is_for_session(view):
            return NULL
        slot = table_find(&self.table, key_of(view.data + 1))
        return slot.state if slot != NULL else NULL

    cdef int serve(self, int fd, int* error, int* handed_up) noexcept nogil:
        """One batch: receive, open, warm, answer. How many datagrams came, and how many of them are not taken; or -1."""
        cdef int jobs
        cdef double now
        cdef int count = self.receive_batch(fd, error)
        if count <= 0:
            return count
        now = monotonic()
        jobs = self.open_batch(count, now, handed_up)
        if jobs:
            self.warm(fd, now)
            self.answer_batch(fd, jobs, now)
        if self.next_stamp != self.stamps_back:
            self.collect(fd)
        return count

    cdef int receive_batch(self, int fd, int* error) noexcept nogil:
        """Receive one batch and find the sessions that it is for; how many datagrams came, or -1."""
        cdef int count = io_receive(self.io, fd, SERVED_AT_ONCE, error)
        cdef int i
        cdef View view
        if count <= 0:
            # Late transmit timestamps wake the loop as well. Left in the error queue, they would wake it again and again.
            if error[0] == EAGAIN or error[0] == EINTR:
                self.collect(fd)
            return count
        self.received += count
        # Fetch all places in the table first, so that they are in the cache when the sessions are looked up.
        for i in range(count):
            self.io.taken[i] = 0
            if io_view(self.io, i, &view) and is_for_session(&view):
                table_expect(&self.table, key_of(view.data + 1))
        for i in range(count):
            self.found[i] = self.find(&view) if io_view(self.io, i, &view) else NULL
        return count

    cdef int open_batch(self, int count, double now, int* handed_up) noexcept nogil:
        """Open the packets of a batch; how many jobs there are to answer."""
        cdef int jobs = 0, i, outcome
        cdef View view
        for i in range(count if count < AHEAD else AHEAD):
            prefetch(self.found[i])
        for i in range(count):
            if i + AHEAD < count:
                prefetch(self.found[i + AHEAD])
            outcome = NOT_TAKEN
            if self.found[i] != NULL:
                io_view(self.io, i, &view)
                self.jobs[jobs].message = i
                self.jobs[jobs].received_ns = view.received_ns
                outcome = take(self.found[i], &self.scratch, &view, now, &self.jobs[jobs])
            if outcome == NOT_TAKEN:
                handed_up[0] += 1
                continue
            self.io.taken[i] = 1
            self.unstamped += not view.kernel
            self.count_outcome(outcome, &self.jobs[jobs])
            jobs += outcome == ANSWER
        return jobs

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
        """Take T3, seal and send the answers to the first so many jobs."""
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
        self, int fd, bytes data not None, bytes remote not None, bytes local not None, Session session not None,
        bytes nonce not None, int64_t send_ns,
    ):
        """Send one packet of the control plane's, and report its transmit timestamp in a later answer; 1 when sent, else 0.

        send_ns: the T3 in it. An earlier transmit timestamp is not believed.
        """
        cdef int sent
        cdef bint wanted = False
        if len(nonce) != NONCE_SIZE:
            raise ConfigError(f"a nonce of {len(nonce)} bytes", expected="16 bytes")
        memcpy(self.jobs[0].requests[0].nonce, PyBytes_AS_STRING(nonce), NONCE_SIZE)
        self.jobs[0].requests[0].exact = True
        self.jobs[0].count = self.jobs[0].here = 1
        self.jobs[0].first = 0
        self.jobs[0].answer = True
        self.jobs[0].state = session.state
        self.jobs[0].send_ns = send_ns
        # Only this table's `discard` forgets the request when the session ends, and a client may have reached another socket.
        if session.state.owner == <void*> self:
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
                (s.in_flight_count and not s.defer_acks and s.ring[0].at + probe_timeout(s) <= now and s.next_probe <= now)
                or s.next_pn - s.key_first_pn >= <int64_t> self.key_update_after or s.failed_opens >= self.failed_open_limit
                or s.excessive >= self.excessive_limit
            ):
                out.append(session)
        return out


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
                    last = data_plane.serve_burst(events[i].data.fd, &error, &total)
                if last >= 0 and not data_plane.handed_up:
                    continue
                if data_plane.handed_up:
                    data_plane.rest = data_plane.not_taken(last)
            out.append((events[i].data.fd, events[i].events))
        if out or count == 0 or (timeout >= 0 and monotonic() >= end):
            return out
