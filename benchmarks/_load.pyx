"""Many client sessions over one connected socket, asking as fast as a window or a rate allows: a load for servers.

Comes in: sessions, a socket's file descriptor, the number of requests. Goes out: delays of the answers, counts. Nonces are counted,
not random, so the answers must not be trusted. It must never be part of a client that wants the time.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from tsq._fast cimport (
    EXACT_REQUEST_SIZE, EXACT_SIZE, NONCE_SIZE, PLAIN_REQUEST_SIZE, PLAIN_RESPONSE_SIZE, TLV_HEADER_SIZE, View, monotonic,
    put_plain_request, put_u64,
)
from tsq._sockets cimport C_BATCH, MSG_DONTWAIT, BatchIO, io_free, io_item, io_new, io_receive, io_view, iovec, mmsghdr, sendmmsg
from tsq.dataplane.frames cimport MOST_DATAGRAM_HEADER, put_datagram_header
from tsq.dataplane.packet cimport TAG_SIZE, Keys, keys_free
from tsq.dataplane.recovery cimport has_room
from tsq.dataplane.session cimport (
    CONSUMED, NOT_TAKEN, OPENED, OUT_CAPACITY, Frame, Frames, Opened, Session, begin, commit, finish, is_short, open_packet,
    parse_frames,
)
from tsq.dataplane.state cimport C_CID, AckRanges, State
from tsq.dataplane.table cimport Slot, Table, key_of, table_find, table_free, table_init, table_put

from tsq.errors import ConfigError


cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    short POLLIN
    int poll(pollfd* waiters, unsigned long count, int milliseconds)


cdef enum:
    # Behind the nonce (tsq._fast.put_plain_response).
    T2_AT = 2 * TLV_HEADER_SIZE + NONCE_SIZE
    T3_AT = T2_AT + 8 + TLV_HEADER_SIZE


cdef uint64_t ntp_at(const uint8_t* at) noexcept nogil:
    """The NTP timestamp there."""
    cdef uint64_t number = 0
    cdef int i
    for i in range(8):
        number = (number << 8) | at[i]
    return number


@cython.final
cdef class Asker:
    """Asks on many client sessions over one connected socket, and counts what comes back."""

    cdef dict sessions
    cdef Table table
    cdef State** order
    cdef int* waiting
    # Whose turn it is: each session has its turn, also when a packet for the control plane comes in between.
    cdef int count, cursor
    cdef BatchIO* io
    cdef uint8_t* out
    cdef mmsghdr requests[C_BATCH]
    cdef iovec vectors[C_BATCH]
    cdef Keys scratch
    cdef list rest
    cdef double* sent_at
    cdef double* delays
    cdef double* holds
    cdef bint not_taken
    cdef readonly long sent, answered, lost, exact

    def __cinit__(self, sessions):
        """sessions: {own connection ID (8 bytes): Session}, each active."""
        cdef int i = 0
        self.sessions = dict(sessions)
        self.count = len(self.sessions)
        self.order = <State**> calloc(self.count + 1, sizeof(State*))
        self.waiting = <int*> calloc(self.count + 1, sizeof(int))
        self.out = <uint8_t*> calloc(C_BATCH, OUT_CAPACITY)
        self.io = io_new()
        if table_init(&self.table) or self.order == NULL or self.waiting == NULL or self.out == NULL or self.io == NULL:
            raise MemoryError()
        for connection_id, session in self.sessions.items():
            if len(connection_id) != C_CID:
                raise ConfigError(f"a connection ID of {len(connection_id)} bytes", expected="8 bytes")
            self.order[i] = (<Session> session).state
            if table_put(&self.table, key_of(<const uint8_t*> PyBytes_AS_STRING(connection_id)), i + 1):
                raise MemoryError()
            i += 1
        for i in range(C_BATCH):
            self.vectors[i].iov_base = self.out + i * OUT_CAPACITY
            self.requests[i].msg_hdr.msg_iov = &self.vectors[i]
            self.requests[i].msg_hdr.msg_iovlen = 1

    def __dealloc__(self):
        table_free(&self.table)
        free(self.order)
        free(self.waiting)
        free(self.out)
        free(self.sent_at)
        free(self.delays)
        free(self.holds)
        io_free(self.io)
        keys_free(&self.scratch)

    def run(self, int fd, long total, int window, double rate, double seconds, bint exact, control=None):
        """Send at most `total` requests within `seconds`; the delays of the answers in seconds.

        window: requests in flight on each connection; rate: requests a second over all, 0 for no limit. control: called with each
        packet that the data plane does not take, such as a server's probe; the session must be active again when it returns.
        """
        cdef long i
        cdef double started = monotonic()
        cdef bint over = False
        if not self.count or total < 1 or window < 1 or seconds <= 0:
            raise ConfigError("a load without connections, requests or time", expected="at least one of each")
        free(self.sent_at)
        free(self.delays)
        free(self.holds)
        self.sent = self.answered = self.lost = self.exact = 0
        self.cursor = 0
        memset(self.waiting, 0, self.count * sizeof(int))
        self.sent_at = <double*> calloc(total, sizeof(double))
        self.delays = <double*> calloc(total, sizeof(double))
        self.holds = <double*> calloc(total, sizeof(double))
        if self.sent_at == NULL or self.delays == NULL or self.holds == NULL:
            raise MemoryError()
        while not over:
            with nogil:
                over = self.loop(fd, total, window, rate, seconds, started, exact)
            if self.not_taken:
                self.rest = [io_item(self.io, i)[0] for i in range(self.io.used) if self.io.taken[i] == NOT_TAKEN]
                self.not_taken = False
                for packet in self.rest if control is not None else ():
                    control(packet)
        return [self.delays[i] for i in range(self.answered)]

    @property
    def held(self):
        """T3 - T2 of each answer, in seconds: from the packet's arrival in the server's kernel until its answer is sealed."""
        return [self.holds[i] for i in range(self.answered)]

    cdef bint loop(
        self, int fd, long total, int window, double rate, double seconds, double started, bint exact
    ) noexcept nogil:
        """Send requests and collect answers until the end (true), or until a packet comes that is not taken (false)."""
        cdef double now = monotonic()
        cdef double progress = now
        cdef long allowed
        cdef int batch, tried, i
        cdef pollfd waiter
        waiter.fd = fd
        waiter.events = POLLIN
        while now - started < seconds and self.answered + self.lost < total:
            allowed = total - self.sent
            if rate > 0 and <long> ((now - started) * rate) + 1 - self.sent < allowed:
                allowed = <long> ((now - started) * rate) + 1 - self.sent
            batch = tried = 0
            while batch < allowed and batch < C_BATCH and tried < self.count:
                i = self.cursor
                self.cursor = i + 1 if i + 1 < self.count else 0
                tried += 1
                while self.waiting[i] < window and batch < allowed and batch < C_BATCH:
                    if not self.ask(i, batch, exact):
                        break
                    batch += 1
            if batch:
                sendmmsg(fd, self.requests, batch, MSG_DONTWAIT)
            if not self.collect(fd):
                if monotonic() - progress > 0.25 and self.sent > self.answered + self.lost and batch == 0:
                    # No more answers are coming.
                    self.lost = self.sent - self.answered
                    for i in range(self.count):
                        self.waiting[i] = 0
                    progress = monotonic()
                if batch == 0 and rate > 0:
                    poll(&waiter, 1, 1)
            else:
                progress = monotonic()
            now = monotonic()
            if self.not_taken:
                return False
        return True

    cdef bint ask(self, int index, int slot, bint exact) noexcept nogil:
        cdef State* s = self.order[index]
        cdef uint8_t* out = self.out + slot * OUT_CAPACITY
        cdef double now = monotonic()
        cdef Py_ssize_t end = begin(s, out, now)
        cdef int size = EXACT_REQUEST_SIZE if exact else PLAIN_REQUEST_SIZE
        cdef uint8_t nonce[NONCE_SIZE]
        if not s.active or not has_room(s, end + MOST_DATAGRAM_HEADER + size + TAG_SIZE):
            return False
        # The answer shows which request it is for.
        put_u64(nonce, <uint64_t> index)
        put_u64(nonce + 8, <uint64_t> self.sent)
        end += put_datagram_header(out + end, size)
        end += put_plain_request(out + end, nonce, exact)
        end = finish(s, out, end, 1, now)
        if end == 0:
            return False
        self.vectors[slot].iov_len = end
        self.sent_at[self.sent] = now
        self.sent += 1
        self.waiting[index] += 1
        return True

    cdef int collect(self, int fd) noexcept nogil:
        """Take the packets that have come; how many answers they held."""
        cdef int error = 0
        cdef int count = io_receive(self.io, fd, C_BATCH, &error)
        cdef int answers = 0, i, k
        cdef double now = monotonic()
        cdef View view
        cdef State* s
        cdef Opened opened
        cdef AckRanges ranges
        cdef Frames frames
        cdef Slot* slot
        for i in range(count):
            self.io.taken[i] = CONSUMED
            if not io_view(self.io, i, &view) or view.size < 1 + C_CID or not is_short(view.data):
                continue
            slot = table_find(&self.table, key_of(view.data + 1))
            view.remote_size = view.local_size = 0
            if slot == NULL:
                continue
            s = self.order[slot.entry - 1]
            k = open_packet(s, &self.scratch, &view, now, &opened)
            if k != NOT_TAKEN and k != OPENED:
                continue
            # Leave a PING alone to the control plane: there is no acknowledgment timer here.
            if (
                k == NOT_TAKEN or parse_frames(s, opened.plain, opened.size, &frames, &ranges)
                or (frames.pinged and not frames.count)
            ):
                self.io.taken[i] = NOT_TAKEN
                self.not_taken = True
                continue
            commit(s, &opened, &ranges, now)
            for k in range(frames.count):
                answers += self.answer(<int> slot.entry - 1, &frames.frames[k], now)
        return answers

    cdef int answer(self, int index, const Frame* frame, double now) noexcept nogil:
        cdef uint64_t number = 0
        cdef int i
        if frame.size < PLAIN_RESPONSE_SIZE:
            return 0
        for i in range(8):
            number = (number << 8) | frame.at[TLV_HEADER_SIZE + 8 + i]
        if number >= <uint64_t> self.sent or self.sent_at[number] == 0:
            return 0
        self.delays[self.answered] = now - self.sent_at[number]
        self.sent_at[number] = 0
        self.holds[self.answered] = (<double> (ntp_at(frame.at + T3_AT) - ntp_at(frame.at + T2_AT))) / 4294967296.0
        self.answered += 1
        self.exact += frame.size == PLAIN_RESPONSE_SIZE + EXACT_SIZE
        if self.waiting[index] > 0:
            self.waiting[index] -= 1
        return 1
