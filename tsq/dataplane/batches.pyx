"""The data plane of a server: answers the requests on one socket in batches, in C.

Comes in: a socket's file descriptor, sessions. Goes out: answers on the same socket, and the unchanged bytes of each datagram that
is not taken (tsq.dataplane.answers). It drops and counts packets that are forged, duplicate, or too much work. It must never call
Python for a packet, keep an answer that cannot be sent at once, or answer with T3 before T2.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from tsq._fast cimport NONCE_SIZE, View, monotonic, realtime_ns
from tsq._sockets cimport (
    C_BATCH, BatchIO, io_free, io_item, io_new, io_receive, io_reply, io_send, io_view, refuses_segments, warm_route,
    warm_transmit_path,
)
from tsq.dataplane.admission cimport PASSED, Admission
from tsq.dataplane.answers cimport Job, build, take
from tsq.dataplane.cache cimport held
from tsq.dataplane.initials cimport REPLY_CAPACITY
from tsq.dataplane.records cimport NO_RECORD
from tsq.dataplane.session cimport (
    ANSWER, CLOSED, DRAINED, DUPLICATE, EXCESSIVE, FORGED, NOT_TAKEN, OUT_CAPACITY, Session,
)
from tsq.dataplane.sessions cimport HOT, PREFETCH, is_for_session
from tsq.dataplane.stamps cimport stamps_collect, stamps_request, stamps_restart
from tsq.dataplane.state cimport State
from tsq.dataplane.table cimport Slot, key_of, table_expect
from tsq.dataplane.upkeep cimport Upkeep

from tsq.errors import ConfigError


cdef enum:
    # A session's state is fetched into the cache while so many packets before its own are opened.
    AHEAD = 4
    # Batches stay small: a packet is sent after the last one of its batch is sealed, and its T3 was read before that.
    SERVED_AT_ONCE = 32
    # Newcomers' datagrams, each of which may take 10 us, between two looks at the socket of those that are connected.
    JUDGED_AT_ONCE = 4
    # Serve so many full batches, then let timers and other sockets have their turn.
    BATCHES = 16

BATCH = SERVED_AT_ONCE
NEWCOMERS_BATCH = JUDGED_AT_ONCE

# After so many seconds without a send, the kernel's transmit path is no longer in the processor's caches.
cdef double COLD_AFTER = 0.0005


cdef void prefetch(const State* s) noexcept nogil:
    """Fetch what a packet will touch, the state up to the ring's first entries; NULL: nothing."""
    cdef const uint8_t* at = <const uint8_t*> s
    cdef const uint8_t* end = <const uint8_t*> &s.ring[1] if s != NULL else at
    while at < end:
        PREFETCH(at)
        at += 64


@cython.final
cdef class DataPlane(Upkeep):
    """The sessions of one server's socket by connection ID, and its batches. Only one thread may use it at a time.

    drained: packets that came after the peer closed the connection.
    """

    def __cinit__(self, int discard_fd=-1, *, int hot=HOT):
        """discard_fd: a socket whose datagrams nobody reads, to warm the transmit path after a pause; -1: none.

        hot: as in Sessions.
        """
        self.discard_fd = discard_fd
        self.own_fd = self.newcomers_fd = -1
        self.stamping = True
        self.segments_refused = discard_fd >= 0 and refuses_segments(discard_fd)
        self.jobs = <Job*> calloc(C_BATCH, sizeof(Job))
        self.out = <uint8_t*> calloc(C_BATCH, OUT_CAPACITY)
        self.replies = <uint8_t*> calloc(C_BATCH, REPLY_CAPACITY)
        self.io = io_new()
        if self.jobs == NULL or self.out == NULL or self.replies == NULL or self.io == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.jobs)
        free(self.out)
        free(self.replies)
        io_free(self.io)

    def __sizeof__(self):
        """Bytes of the object and of the memory that it allocated itself."""
        return Upkeep.__sizeof__(self) + sizeof(BatchIO) + C_BATCH * (sizeof(Job) + OUT_CAPACITY + REPLY_CAPACITY)

    @property
    def exact(self):
        """Transmit timestamps that came back, and were noted in a session."""
        return self.stamps.exact

    @property
    def send_delay_ns(self):
        """The sum of their times since T3."""
        return self.stamps.delay_ns

    def guard(self, Admission admission not None):
        """Ask this before a datagram that belongs to no session goes to the control plane."""
        if self.admission is not admission:
            admission.add_table(self, &self.table)
            self.admission = admission
            self.guarded = True

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
        if self.stamps.next != self.stamps.back:
            stamps_collect(&self.stamps, fd)
        return count

    cdef int receive_batch(self, int fd, int most, int* error) noexcept nogil:
        """Receive one batch and find the sessions that it is for; how many datagrams came, or -1."""
        cdef int count = io_receive(self.io, fd, most, error)
        cdef int i
        cdef View view
        if count <= 0:
            # Late transmit timestamps wake the loop as well. Left in the error queue, they would wake it again and again.
            if fd != self.newcomers_fd and (error[0] == EAGAIN or error[0] == EINTR):
                stamps_collect(&self.stamps, fd)
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
        cdef bint wanted
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
                    wanted = self.stamping and stamps_request(&self.stamps, &self.jobs[i])
                    io_reply(self.io, packets, self.jobs[i].message, out, size, wanted)
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
            stamps_restart(&self.stamps, fd)

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
            wanted = self.stamping and stamps_request(&self.stamps, &self.jobs[0])
        self.io.views[0].local = <const uint8_t*> PyBytes_AS_STRING(local)
        self.io.views[0].local_size = len(local)
        self.io.views[0].remote_size = min(<size_t> len(remote), sizeof(self.io.names[0]))
        memcpy(&self.io.names[0], PyBytes_AS_STRING(remote), self.io.views[0].remote_size)
        io_reply(self.io, 0, 0, <uint8_t*> PyBytes_AS_STRING(data), len(data), wanted)
        with nogil:
            sent = io_send(self.io, fd, 1)
            if not sent:
                stamps_restart(&self.stamps, fd)
            elif wanted:
                stamps_collect(&self.stamps, fd)
        self.io.views[0].local = NULL
        return sent
