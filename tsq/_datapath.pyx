"""Compiled data plane: established connections' 1-RTT packets are opened, answered and sealed here, in batches.

Comes in: a socket's file descriptor, sessions with the state that the control plane hands over. Goes out: answers on the same
socket, and every datagram that is not taken, with its bytes as they came. A packet is taken when it is authentic, in order of the
rules, and holds nothing but PADDING, PING, ACK and requests that have nothing to decide (protocol R4, R12); nothing of a session
changes before the whole packet has been parsed. It must never call Python for a packet, use a packet number twice, keep an answer
that cannot leave at once, or answer with T3 before T2.

RFC 9000 §12.3, §13, §19.3; RFC 9001 §5, §6; RFC 9002 §6; RFC 9221 §5.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memmove, memset

from tsq._fast cimport (
    C_BATCH, MSG_DONTWAIT, BatchIO, Departed, View, clock_gettime, drain_departures, io_free, io_item, io_new, io_receive, io_reply,
    io_send, io_view, ntp_of_ns, restart_stamps,
    iovec, mmsghdr, put_u64, realtime_ns, sendmmsg, timespec,
)
from tsq._packet cimport (
    IV_SIZE, MAX_CID_SIZE, MAX_HEADER_SIZE, TAG_SIZE, Keys, aead_open, decode_pn, get_varint, keys_complete, keys_free,
    keys_set_aead, keys_set_protection, put_varint, seal, unprotect,
)

from tsq.errors import ConfigError


cdef extern from "<time.h>" nogil:
    int CLOCK_MONOTONIC


cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    short POLLIN
    int poll(pollfd* waiters, unsigned long count, int milliseconds)


CONNECTION_ID_SIZE = 8
BATCH = 32
WINDOW_SIZE = 128

cdef enum:
    C_CID = 8
    C_WINDOW = 128
    RING = 32
    MAX_REQUESTS = 16
    MAX_ACK_RANGES = 64
    SENT_ACK_RANGES = 32
    MAX_PLAIN = 2048
    OUT_CAPACITY = 2048
    MAX_SEALED = 1200
    KNOWN_T3 = 4
    STAMP_RING = 4096
    # What is sealed behind a packet delays it, and its T3 has been taken by then: batches stay small.
    SERVED_AT_ONCE = 32
    STAMP_PATIENCE_NS = 1000000000
    MOST_BACKOFF = 10
    REQUEST_SIZE = 18
    EXACT_REQUEST_SIZE = 28
    RESPONSE_SIZE = 38
    EXACT_SIZE = 42
    PN_SIZE = 4
    PACKET_THRESHOLD = 3
    MINIMUM_WINDOW = 2400

# What became of a datagram.
cdef enum:
    NOT_TAKEN = 0
    CONSUMED = 1
    ANSWER = 2
    OPENED = 3

cdef extern from *:
    """
    /* Metadata TLV that asks for exact T3: type 253, 8 bytes, key length 6, "tsq.t3", an empty value. */
    static const unsigned char TSQ_T3_WISH[10] = {253, 8, 6, 't', 's', 'q', '.', 't', '3', 0};
    /* Its answer up to the value: type 253, 40 bytes, key length 6, "tsq.t3", value length 32. */
    static const unsigned char TSQ_T3_HEAD[10] = {253, 40, 6, 't', 's', 'q', '.', 't', '3', 32};
    static const char TSQ_HEX[] = "0123456789abcdef";
    #define TSQ_PREFETCH(at) __builtin_prefetch(at)
    """
    void PREFETCH "TSQ_PREFETCH"(const void* at) noexcept nogil
    const uint8_t* T3_WISH "TSQ_T3_WISH"
    const uint8_t* T3_HEAD "TSQ_T3_HEAD"
    const char* HEX "TSQ_HEX"


cdef struct Sent:
    int64_t pn
    double at
    uint16_t size


cdef struct KnownT3:
    uint8_t nonce[8]
    uint64_t ntp


cdef struct State:
    # What every packet touches comes first, and together: a server of thousands finds it in no cache.
    bint active
    uint8_t phase
    bint client
    bint spin
    bint defer_acks
    bint ack_sent
    bint ack_wanted
    uint8_t remote_size
    uint8_t local_size
    uint8_t peer_id_size
    uint8_t remote[28]
    uint8_t local[20]
    uint8_t peer_id[MAX_CID_SIZE]
    Keys receive
    Keys send
    # Received packet numbers: the largest, when it came, and a bit for each of the 128 up to it (bit d: largest - d).
    int64_t largest
    double largest_at
    uint64_t low_bits
    uint64_t high_bits
    int64_t ack_floor
    int64_t spin_pn
    double last_receive
    double first_sent
    # Sent packet numbers.
    int64_t next_pn
    int64_t largest_acked
    int in_flight_count
    int64_t in_flight
    int64_t window
    double loss_delay
    uint64_t answered
    uint64_t taken
    Sent ring[RING]
    # What few packets touch.
    double recovery_start
    double probe_timeout
    double next_probe
    int probes
    int64_t key_first_pn
    uint64_t failed_opens
    uint64_t lost
    int known_count
    KnownT3 known[KNOWN_T3]
    int suite
    uint8_t next_key[32]
    uint8_t next_iv[IV_SIZE]
    int index
    int listed


cdef struct Request:
    uint8_t nonce[16]
    bint exact


cdef struct Job:
    State* state
    int message
    int64_t received_ns
    int64_t send_ns
    int count
    bint answer
    bint stepped_back
    Request requests[MAX_REQUESTS]


cdef struct Opened:
    int64_t pn
    Py_ssize_t size
    uint8_t header[MAX_HEADER_SIZE]
    uint8_t plain[MAX_PLAIN + TAG_SIZE]


cdef struct Frame:
    const uint8_t* at
    uint64_t size


cdef struct Frames:
    int count
    bint pinged
    Frame frames[MAX_REQUESTS]


cdef struct Slot:
    uint64_t key
    State* state


cdef struct AckRanges:
    int count
    int64_t first[MAX_ACK_RANGES]
    int64_t last[MAX_ACK_RANGES]


cdef struct StampWish:
    uint32_t id
    int64_t send_ns
    State* state
    uint8_t nonce[8]


# --------------------------------------------------------------------------------------------- received packet numbers

cdef bint bit(const State* s, int64_t distance) noexcept nogil:
    if distance < 64:
        return (s.low_bits >> distance) & 1
    return (s.high_bits >> (distance - 64)) & 1


cdef bint seen(const State* s, int64_t pn) noexcept nogil:
    """Whether this number was received, or is too old to tell (RFC 9000 §12.3)."""
    cdef int64_t distance = s.largest - pn
    if distance < 0:
        return False
    return distance >= C_WINDOW or bit(s, distance)


cdef void mark(State* s, int64_t pn) noexcept nogil:
    cdef int64_t shift = pn - s.largest
    if shift <= 0:
        if -shift < 64:
            s.low_bits |= (<uint64_t> 1) << (-shift)
        elif -shift < C_WINDOW:
            s.high_bits |= (<uint64_t> 1) << (-shift - 64)
        return
    if shift >= C_WINDOW:
        s.low_bits = s.high_bits = 0
    elif shift >= 64:
        s.high_bits = s.low_bits << (shift - 64)
        s.low_bits = 0
    else:
        s.high_bits = (s.high_bits << shift) | (s.low_bits >> (64 - shift))
        s.low_bits <<= shift
    s.low_bits |= 1
    s.largest = pn


# ------------------------------------------------------------------------------------------------- sent packet numbers

cdef void on_ack(State* s, const AckRanges* ranges, double now) noexcept nogil:
    """Take acknowledged packets out of the ring, and those that are lost by packet or time threshold (RFC 9002 §6.1)."""
    cdef int i, k
    cdef int kept = 0
    cdef bint gone
    if ranges.count and ranges.last[0] > s.largest_acked:
        s.largest_acked = ranges.last[0]
    for i in range(s.in_flight_count):
        gone = False
        for k in range(ranges.count):
            if ranges.first[k] <= s.ring[i].pn <= ranges.last[k]:
                gone = True
                break
        if not gone and s.ring[i].pn < s.largest_acked and (
            s.ring[i].pn <= s.largest_acked - PACKET_THRESHOLD or s.ring[i].at <= now - s.loss_delay
        ):
            gone = True
            s.lost += 1
            if s.ring[i].at > s.recovery_start:
                # One reduction for each round trip (RFC 9002 §7.3.2).
                s.recovery_start = now
                if s.window > MINIMUM_WINDOW:
                    s.window = s.window / 2 if s.window / 2 > MINIMUM_WINDOW else MINIMUM_WINDOW
        if gone:
            s.in_flight -= s.ring[i].size
        else:
            s.ring[kept] = s.ring[i]
            kept += 1
    if kept < s.in_flight_count:
        s.probes = 0
        s.next_probe = 0
    s.in_flight_count = kept


cdef int parse_ack(const State* s, const uint8_t** at, const uint8_t* end, bint ecn, AckRanges* out) noexcept nogil:
    """An ACK frame after its type (RFC 9000 §19.3); 0, or -1 for one that the control plane is to judge."""
    cdef uint64_t largest = 0, delay = 0, count = 0, span = 0, gap = 0
    cdef int64_t low
    cdef uint64_t i
    cdef int _counter
    if get_varint(at, end, &largest) or get_varint(at, end, &delay) or get_varint(at, end, &count) or get_varint(at, end, &span):
        return -1
    # A number that was never sent is the control plane's to punish (RFC 9000 §13.1).
    if <int64_t> largest >= s.next_pn or span > largest or count >= MAX_ACK_RANGES:
        return -1
    out.last[0] = <int64_t> largest
    low = <int64_t> (largest - span)
    out.first[0] = low
    for i in range(1, count + 1):
        if get_varint(at, end, &gap) or get_varint(at, end, &span):
            return -1
        # Both are below 2^62: no sum here overflows.
        low -= <int64_t> gap + 2
        out.last[i] = low
        low -= <int64_t> span
        if low < 0:
            return -1
        out.first[i] = low
    out.count = <int> count + 1
    if ecn:
        for _counter in range(3):
            if get_varint(at, end, &gap):
                return -1
    return 0


# -------------------------------------------------------------------------------------------------------------- opening

cdef int read_request(const uint8_t* data, uint64_t size, Request* out) noexcept nogil:
    """A request with nothing to decide: a nonce alone, or with the wish for exact T3; 0, or -1."""
    if size != REQUEST_SIZE and size != EXACT_REQUEST_SIZE:
        return -1
    if data[0] != 1 or data[1] != 16:
        return -1
    out.exact = size == EXACT_REQUEST_SIZE
    if out.exact and memcmp(data + REQUEST_SIZE, T3_WISH, EXACT_REQUEST_SIZE - REQUEST_SIZE) != 0:
        return -1
    memcpy(out.nonce, data + 2, 16)
    return 0


cdef int parse_frames(const State* s, const uint8_t* plain, Py_ssize_t size, Frames* out, AckRanges* ranges) noexcept nogil:
    """All frames of a packet, changing nothing; 0, or -1 for a packet that the control plane is to have."""
    cdef const uint8_t* at = plain
    cdef const uint8_t* end = plain + size
    cdef uint64_t length = 0
    cdef uint8_t kind
    out.count = 0
    out.pinged = False
    ranges.count = 0
    if size == 0:
        return -1
    while at < end:
        kind = at[0]
        at += 1
        if kind == 0x00:
            continue
        if kind == 0x01:
            out.pinged = True
        elif kind == 0x02 or kind == 0x03:
            if ranges.count or parse_ack(s, &at, end, kind == 0x03, ranges):
                return -1
        elif kind == 0x30 or kind == 0x31:
            length = end - at
            if kind == 0x31 and get_varint(&at, end, &length):
                return -1
            if <uint64_t> (end - at) < length or out.count == MAX_REQUESTS:
                return -1
            out.frames[out.count].at = at
            out.frames[out.count].size = length
            out.count += 1
            at += length
        else:
            return -1
    if ranges.count and s.defer_acks:
        return -1
    # A PING alone is acknowledged in the control plane's time.
    return -1 if out.pinged and not out.count else 0


cdef int parse(const State* s, const uint8_t* plain, Py_ssize_t size, Job* job, AckRanges* ranges) noexcept nogil:
    """As parse_frames, where every DATAGRAM frame is a request with nothing to decide."""
    cdef Frames frames
    cdef int i
    if parse_frames(s, plain, size, &frames, ranges):
        return -1
    for i in range(frames.count):
        if read_request(frames.frames[i].at, frames.frames[i].size, &job.requests[i]):
            return -1
    job.count = frames.count
    return 0


cdef void prefetch(const State* s) noexcept nogil:
    cdef const uint8_t* at = <const uint8_t*> s
    cdef int line
    for line in range(7):
        PREFETCH(at + 64 * line)


cdef bint is_short(const uint8_t* packet) noexcept nogil:
    """Whether the packet has a short header (RFC 9000 §17.3)."""
    return not packet[0] & 0x80


cdef int open_packet(State* s, Keys* scratch, const View* view, Opened* opened) noexcept nogil:
    """Open one short-header packet, changing nothing but counters; NOT_TAKEN, CONSUMED or OPENED."""
    cdef uint64_t truncated = 0
    cdef int pn_size, header_size
    cdef Keys* keys = &s.receive
    if not s.active or view.remote_size != s.remote_size or view.local_size != s.local_size:
        return NOT_TAKEN
    if memcmp(view.remote, s.remote, s.remote_size) != 0:
        return NOT_TAKEN
    if s.local_size and memcmp(view.local, s.local, s.local_size) != 0:
        return NOT_TAKEN
    pn_size = unprotect(&s.receive, view.data, view.size, 1 + C_CID, opened.header, &truncated)
    # Without the fixed bit it is no packet of this version (RFC 9000 §17.3.1).
    if pn_size < 0 or not view.data[0] & 0x40:
        return CONSUMED
    header_size = 1 + C_CID + pn_size
    opened.pn = decode_pn(truncated, pn_size, s.largest + 1)
    if ((opened.header[0] >> 2) & 1) != s.phase:
        # The next phase's keys were made when this one's were: a forged phase bit costs no derivation (RFC 9001 §6.3).
        if keys_set_aead(scratch, s.suite, s.next_key, s.next_iv, False):
            return NOT_TAKEN
        keys = scratch
    opened.size = aead_open(
        keys, opened.header, header_size, opened.pn, view.data + header_size, view.size - header_size, opened.plain
    )
    if opened.size < 0:
        s.failed_opens += 1
        return CONSUMED
    if keys == scratch or opened.header[0] & 0x18:
        # A true key update, or an authentic peer that sets reserved bits: the control plane's business.
        return NOT_TAKEN
    return CONSUMED if seen(s, opened.pn) else OPENED


cdef void commit(State* s, const Opened* opened, const AckRanges* ranges, double now) noexcept nogil:
    """Take note of a packet that was parsed as a whole."""
    mark(s, opened.pn)
    s.taken += 1
    s.last_receive = now
    if opened.pn == s.largest:
        s.largest_at = now
    if opened.pn > s.spin_pn:
        s.spin_pn = opened.pn
        # The server reflects the bit, the client inverts it (RFC 9000 §17.4).
        s.spin = ((opened.header[0] >> 5) & 1) ^ s.client
    if ranges.count:
        on_ack(s, ranges, now)


cdef int take(State* s, Keys* scratch, const View* view, double now, Job* job) noexcept nogil:
    """Open one request packet and take note of it; NOT_TAKEN, CONSUMED or ANSWER."""
    cdef Opened opened
    cdef AckRanges ranges
    cdef int outcome = open_packet(s, scratch, view, &opened)
    if outcome != OPENED:
        return outcome
    if parse(s, opened.plain, opened.size, job, &ranges):
        return NOT_TAKEN
    commit(s, &opened, &ranges, now)
    if job.count == 0:
        return CONSUMED
    job.state = s
    return ANSWER


# -------------------------------------------------------------------------------------------------------------- sealing

cdef int put_ack(const State* s, uint8_t* out, double now) noexcept nogil:
    """An ACK frame of what was received: the run up to the largest, and up to 32 runs below it; its size."""
    cdef uint8_t rest[SENT_ACK_RANGES * 4]
    cdef int distance = 0, run = 0, gap, count = 0, used = 0, size, first
    cdef double delay = (now - s.largest_at) * 1e6
    while distance < C_WINDOW and distance <= s.largest and bit(s, distance):
        distance += 1
    first = distance - 1
    while count < SENT_ACK_RANGES:
        gap = 0
        while distance < C_WINDOW and distance <= s.largest and not bit(s, distance):
            distance += 1
            gap += 1
        if distance >= C_WINDOW or distance > s.largest or s.largest - distance <= s.ack_floor:
            break
        run = 0
        while distance < C_WINDOW and distance <= s.largest and bit(s, distance):
            distance += 1
            run += 1
        used += put_varint(rest + used, gap - 1)
        used += put_varint(rest + used, run - 1)
        count += 1
    out[0] = 0x02
    size = 1 + put_varint(out + 1, <uint64_t> s.largest)
    size += put_varint(out + size, <uint64_t> (delay if delay > 0 else 0) >> 3)
    size += put_varint(out + size, count)
    size += put_varint(out + size, first)
    memcpy(out + size, rest, used)
    return size + used


cdef void put_hex(uint8_t* out, const uint8_t* data, int size) noexcept nogil:
    cdef int i
    for i in range(size):
        out[2 * i] = HEX[data[i] >> 4]
        out[2 * i + 1] = HEX[data[i] & 15]


cdef void take_known(State* s, uint8_t* out) noexcept nogil:
    """Write the oldest departure time that was not told yet (32 hex digits), and forget it. There must be one."""
    cdef uint8_t ntp[8]
    put_hex(out, s.known[0].nonce, 8)
    put_u64(ntp, s.known[0].ntp)
    put_hex(out + 16, ntp, 8)
    s.known_count -= 1
    memmove(&s.known[0], &s.known[1], s.known_count * sizeof(KnownT3))


cdef int put_response(State* s, uint8_t* out, const Request* request, int64_t received_ns, int64_t send_ns) noexcept nogil:
    """One DATAGRAM frame with a response; its size. An earlier answer's exact T3 goes with it, once (R12)."""
    cdef bint told = request.exact and s.known_count > 0
    cdef int size = RESPONSE_SIZE + (EXACT_SIZE if told else 0)
    cdef int head = 1
    cdef uint8_t* at
    out[0] = 0x31
    head += put_varint(out + 1, size)
    at = out + head
    at[0] = 1
    at[1] = 16
    memcpy(at + 2, request.nonce, 16)
    at[18] = 2
    at[19] = 8
    put_u64(at + 20, ntp_of_ns(received_ns))
    at[28] = 3
    at[29] = 8
    put_u64(at + 30, ntp_of_ns(send_ns))
    if told:
        memcpy(at + RESPONSE_SIZE, T3_HEAD, 10)
        take_known(s, at + RESPONSE_SIZE + 10)
    return head + size


cdef Py_ssize_t begin(const State* s, uint8_t* out, double now) noexcept nogil:
    """Write a packet's plain header and its ACK frame; how many bytes that makes."""
    cdef Py_ssize_t size = 1 + s.peer_id_size + PN_SIZE
    cdef int i
    out[0] = 0x40 | (<int> s.spin << 5) | (s.phase << 2) | (PN_SIZE - 1)
    memcpy(out + 1, s.peer_id, s.peer_id_size)
    for i in range(PN_SIZE):
        out[1 + s.peer_id_size + i] = <uint8_t> (s.next_pn >> (8 * (PN_SIZE - 1 - i)))
    return size + (put_ack(s, out + size, now) if s.largest >= 0 else 0)


cdef bint has_room(const State* s, Py_ssize_t size) noexcept nogil:
    """Whether the congestion window and the ring admit one more packet of this size."""
    return s.in_flight_count < RING and s.in_flight + size <= s.window


cdef Py_ssize_t finish(State* s, uint8_t* out, Py_ssize_t plain_end, int answers, double now) noexcept nogil:
    """Seal what `begin` began, and note it as in flight when it holds answers; the packet's size, 0 where OpenSSL fails."""
    cdef Py_ssize_t header_size = 1 + s.peer_id_size + PN_SIZE
    cdef int64_t pn = s.next_pn
    cdef Py_ssize_t size
    # Counted before it is used: whatever happens below, this number is never used again.
    s.next_pn = pn + 1
    size = seal(&s.send, out, header_size, pn, plain_end - header_size)
    if size < 0:
        return 0
    s.ack_sent = True
    s.ack_wanted = False
    if answers:
        # The first one sent since the last receipt restarts the idle timer (RFC 9000 §10.1).
        if s.first_sent <= s.last_receive:
            s.first_sent = now
        s.ring[s.in_flight_count].pn = pn
        s.ring[s.in_flight_count].at = now
        s.ring[s.in_flight_count].size = <uint16_t> size
        s.in_flight_count += 1
        s.in_flight += size
        s.answered += answers
    return size


cdef Py_ssize_t build(State* s, Job* job, uint8_t* out, double now, int64_t clock_ns) noexcept nogil:
    """Build and seal the packet that answers a job; its size, 0 for none. job.answer tells whether it holds the answers.

    clock_ns: T3, for who has a clock of his own; 0: the system clock, read here.
    """
    cdef Py_ssize_t end = begin(s, out, now)
    cdef int64_t send_ns
    cdef int i
    # What the window does not admit is dropped, never queued: late time is wrong time. The ACK goes all the same.
    job.stepped_back = False
    job.answer = has_room(s, end + job.count * (RESPONSE_SIZE + 3 + EXACT_SIZE) + TAG_SIZE)
    if job.answer:
        send_ns = clock_ns if clock_ns else realtime_ns()
        # The clock may have been stepped back since the request came (docs/reference/protocol.md R8).
        job.answer = send_ns >= job.received_ns
        job.stepped_back = not job.answer
        job.send_ns = send_ns
    if job.answer:
        for i in range(job.count):
            end += put_response(s, out + end, &job.requests[i], job.received_ns, send_ns)
    return finish(s, out, end, job.count if job.answer else 0, now)


# ------------------------------------------------------------------------------------------------------------- Python's view

@cython.final
cdef class Session:
    """One connection's keys, packet numbers and path. Made and kept in step by tsq.quic.offload; nobody else writes to it."""

    cdef State* state
    cdef Keys scratch

    def __cinit__(self):
        self.state = <State*> calloc(1, sizeof(State))
        if self.state == NULL:
            raise MemoryError()
        self.state.largest = -1
        self.state.ack_floor = -1
        self.state.largest_acked = -1

    def __dealloc__(self):
        if self.state != NULL:
            keys_free(&self.state.receive)
            keys_free(&self.state.send)
            free(self.state)
        keys_free(&self.scratch)

    def set_protection(self, int suite, bytes receive not None, bytes send not None):
        """Header protection keys, once: a key update leaves them (RFC 9001 §6.1)."""
        _key_sizes(suite, receive, send)
        self.state.suite = suite
        if (
            keys_set_protection(&self.state.receive, suite, <const uint8_t*> PyBytes_AS_STRING(receive))
            or keys_set_protection(&self.state.send, suite, <const uint8_t*> PyBytes_AS_STRING(send))
        ):
            raise ConfigError("OpenSSL refused a header protection key", expected="AES or ChaCha20 in this OpenSSL")

    def set_keys(
        self, int phase, bytes receive not None, bytes receive_iv not None, bytes send not None, bytes send_iv not None,
        bytes next_receive not None, bytes next_receive_iv not None,
    ):
        """Packet keys of one phase, and the next phase's for opening. After `set_protection`."""
        cdef State* s = self.state
        _key_sizes(s.suite, receive, send)
        _key_sizes(s.suite, next_receive, next_receive)
        if len(receive_iv) != IV_SIZE or len(send_iv) != IV_SIZE or len(next_receive_iv) != IV_SIZE:
            raise ConfigError("an IV of another size", expected="12 bytes")
        if (
            keys_set_aead(
                &s.receive, s.suite, <const uint8_t*> PyBytes_AS_STRING(receive), <const uint8_t*> PyBytes_AS_STRING(receive_iv),
                False,
            )
            or keys_set_aead(
                &s.send, s.suite, <const uint8_t*> PyBytes_AS_STRING(send), <const uint8_t*> PyBytes_AS_STRING(send_iv), True
            )
        ):
            raise ConfigError("OpenSSL refused a packet key", expected="AES-GCM and ChaCha20-Poly1305 in this OpenSSL")
        memcpy(s.next_key, PyBytes_AS_STRING(next_receive), len(next_receive))
        memcpy(s.next_iv, PyBytes_AS_STRING(next_receive_iv), IV_SIZE)
        s.phase = phase & 1
        s.key_first_pn = s.next_pn

    def set_path(self, bytes remote not None, bytes local not None, bytes peer_id not None):
        """Packed addresses of the active path, and the peer's connection ID to send to (0 to 20 bytes)."""
        cdef State* s = self.state
        if len(remote) > 28 or len(local) > 20 or len(peer_id) > MAX_CID_SIZE:
            raise ConfigError(f"a path of {len(remote)}, {len(local)}, {len(peer_id)} bytes", expected="at most 28, 20, 20")
        s.remote_size = <uint8_t> len(remote)
        s.local_size = <uint8_t> len(local)
        s.peer_id_size = <uint8_t> len(peer_id)
        memcpy(s.remote, PyBytes_AS_STRING(remote), s.remote_size)
        memcpy(s.local, PyBytes_AS_STRING(local), s.local_size)
        memcpy(s.peer_id, PyBytes_AS_STRING(peer_id), s.peer_id_size)

    def set_received(self, int64_t largest, double largest_at, object bits, int64_t ack_floor):
        """What the control plane has received: bit d of `bits` is packet number largest - d, 128 of them."""
        cdef State* s = self.state
        s.largest = largest
        s.largest_at = largest_at
        s.low_bits = bits & 0xFFFFFFFFFFFFFFFF
        s.high_bits = (bits >> 64) & 0xFFFFFFFFFFFFFFFF
        s.ack_floor = ack_floor
        # From here on it is the control plane's to acknowledge what came before.
        s.ack_sent = s.ack_wanted = False

    def set_recovery(self, int64_t window, double loss_delay, double probe_timeout, bint defer_acks):
        """Room in the congestion window (bytes), time threshold and probe timeout (s); whether ACKs are the control plane's."""
        cdef State* s = self.state
        s.window = window
        s.loss_delay = loss_delay
        s.probe_timeout = probe_timeout
        s.defer_acks = defer_acks

    def set_spin(self, bint spin, int64_t packet_number):
        """The spin bit, and the packet that set it (RFC 9000 §17.4)."""
        self.state.spin = spin
        self.state.spin_pn = packet_number

    @property
    def client(self):
        """Whether this is the client's end."""
        return self.state.client

    @client.setter
    def client(self, bint value):
        self.state.client = value

    def open(self, bytes packet not None, double now):
        """The messages in one packet from the connected peer; None for one that is the control plane's, as it came."""
        cdef Opened opened
        cdef AckRanges ranges
        cdef Frames frames
        cdef View view
        cdef int outcome, i
        view.data, view.size = <const uint8_t*> PyBytes_AS_STRING(packet), len(packet)
        view.remote_size = view.local_size = 0
        view.remote = view.local = view.data
        if view.size < 1 + C_CID or not is_short(view.data):
            return None
        outcome = open_packet(self.state, &self.scratch, &view, &opened)
        if outcome == NOT_TAKEN:
            return None
        if outcome == CONSUMED:
            return []
        if parse_frames(self.state, opened.plain, opened.size, &frames, &ranges):
            return None
        commit(self.state, &opened, &ranges, now)
        # Acknowledged with the next request, or by the control plane's timer.
        self.state.ack_wanted = self.state.ack_wanted or frames.count > 0
        return [
            PyBytes_FromStringAndSize(<const char*> frames.frames[i].at, <Py_ssize_t> frames.frames[i].size)
            for i in range(frames.count)
        ]

    def seal(self, list messages not None, double now):
        """One packet with an ACK and these messages as DATAGRAM frames; None where the window or the packet has no room."""
        cdef uint8_t out[OUT_CAPACITY]
        cdef State* s = self.state
        cdef Py_ssize_t end, size = 0
        cdef bytes message
        if not s.active or not messages:
            return None
        for message in messages:
            size += len(message) + 4
        end = begin(s, out, now)
        if end + size + TAG_SIZE > MAX_SEALED or not has_room(s, end + size + TAG_SIZE):
            return None
        for message in messages:
            out[end] = 0x31
            end += 1 + put_varint(out + end + 1, len(message))
            memcpy(out + end, PyBytes_AS_STRING(message), len(message))
            end += len(message)
        size = finish(s, out, end, <int> len(messages), now)
        return PyBytes_FromStringAndSize(<const char*> out, size) if size else None

    def probe(self, double now):
        """A packet with a PING and an ACK, for a peer that acknowledges nothing (RFC 9002 §6.2.4); the next one is due later."""
        cdef uint8_t out[OUT_CAPACITY]
        cdef State* s = self.state
        cdef Py_ssize_t end, size
        if not s.active:
            return None
        end = begin(s, out, now)
        # Room for the sample of header protection where nothing was received (RFC 9001 §5.4.2).
        out[end] = 0x01
        memset(out + end + 1, 0, 3)
        size = finish(s, out, end + 4, 0, now)
        s.probes += 1 if s.probes < MOST_BACKOFF else 0
        # Backing off from a second at least: nothing is to be sent again, only room to be had back.
        s.next_probe = now + (s.probe_timeout if s.probe_timeout > 1.0 else 1.0) * (1 << s.probes)
        return PyBytes_FromStringAndSize(<const char*> out, size) if size else None

    def tell(self):
        """When an earlier answer left (R12), told once: 16 hex digits of nonce, 16 of NTP time; "" for nothing to tell."""
        cdef State* s = self.state
        cdef uint8_t out[32]
        if not s.known_count:
            return ""
        take_known(s, out)
        return PyBytes_FromStringAndSize(<const char*> out, 32).decode("ascii")

    def acknowledged(self, ranges, double now):
        """Ranges (first, last) that an ACK in the control plane acknowledged, largest first; now in monotonic seconds."""
        cdef AckRanges found
        found.count = 0
        for first, last in ranges:
            if found.count == MAX_ACK_RANGES:
                break
            found.first[found.count] = first
            found.last[found.count] = last
            found.count += 1
        on_ack(self.state, &found, now)

    @property
    def active(self):
        """Whether packets may be taken."""
        return self.state.active

    @active.setter
    def active(self, bint value):
        cdef State* s = self.state
        if value and not (keys_complete(&s.receive) and keys_complete(&s.send)):
            raise ConfigError("a session without keys", expected="set_protection and set_keys first")
        s.active = value

    @property
    def next_packet_number(self):
        """The number of the next packet, of either plane. It only grows: one used twice under a key would give the key away."""
        return self.state.next_pn

    @next_packet_number.setter
    def next_packet_number(self, int64_t value):
        if value < self.state.next_pn:
            raise ConfigError(
                f"packet number {value} after {self.state.next_pn - 1}", expected="a number that was never used",
                section="RFC 9000 §12.3",
            )
        self.state.next_pn = value

    @property
    def received(self):
        """(largest, when it came, bits, whether an ACK was sent since the last `set_received`)."""
        cdef State* s = self.state
        return s.largest, s.largest_at, (<object> s.high_bits << 64) | s.low_bits, s.ack_sent

    @property
    def spin(self):
        """(spin bit, the packet that set it)."""
        return self.state.spin, self.state.spin_pn

    @property
    def largest_acknowledged(self):
        """The largest own packet number that the peer acknowledged; -1 for none."""
        return self.state.largest_acked

    @property
    def last_receive(self):
        """When the last packet was taken, monotonic seconds."""
        return self.state.last_receive

    @property
    def last_activity(self):
        """From when the idle timeout runs (RFC 9000 §10.1), monotonic seconds."""
        cdef State* s = self.state
        return s.first_sent if s.first_sent > s.last_receive else s.last_receive

    @property
    def probe_at(self):
        """When the peer is to be probed for an acknowledgment (RFC 9002 §6.2), monotonic seconds; None for not at all."""
        cdef State* s = self.state
        return s.ring[0].at + s.probe_timeout if s.in_flight_count and not s.defer_acks else None

    @property
    def ack_wanted(self):
        """Whether something was taken by `open` that no packet has acknowledged yet."""
        return self.state.ack_wanted

    @property
    def in_flight(self):
        """(packets, bytes) that were answered here and not acknowledged."""
        return self.state.in_flight_count, self.state.in_flight

    @property
    def counts(self):
        """{"taken", "answered", "lost", "sealed", "failed_opens"}: packets and answers of this session."""
        cdef State* s = self.state
        return {
            "taken": s.taken, "answered": s.answered, "lost": s.lost, "failed_opens": s.failed_opens,
            # Packet numbers used under this key, by both planes (RFC 9001 §6.6).
            "sealed": s.next_pn - s.key_first_pn,
        }


cdef double monotonic() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double> now.tv_sec + <double> now.tv_nsec * 1e-9


def _key_sizes(int suite, bytes one, bytes two):
    size = {0x1301: 16, 0x1302: 32, 0x1303: 32}.get(suite)
    if size is None or len(one) != size or len(two) != size:
        raise ConfigError(f"keys of {len(one)} and {len(two)} bytes for suite {suite:#x}", expected="the suite's key size")


@cython.final
cdef class Datapath:
    """The table of sessions by connection ID, and the batches of one server. To be used by one thread at a time.

    sessions: connection ID (8 bytes) -> Session; `add` and `discard` keep it.
    """

    cdef dict sessions
    cdef Slot* slots
    cdef size_t capacity
    cdef BatchIO* io
    cdef Job* jobs
    cdef uint8_t* out
    cdef Keys scratch
    cdef StampWish* wishes
    cdef State* found[C_BATCH]
    cdef uint32_t next_stamp
    cdef uint32_t stamps_back
    cdef readonly unsigned long long received, taken, answered, held_back, stepped_back, unsent, truncated, exact, unstamped
    cdef public unsigned long long key_update_after, failed_open_limit

    def __cinit__(self):
        # A key update long before 2^23 packets (AES-GCM), and an end at the lower of the limits of failed opens (RFC 9001 §6.6).
        self.key_update_after = 1 << 22
        self.failed_open_limit = (<unsigned long long> 1) << 36
        self.sessions = {}
        self.capacity = 64
        self.slots = <Slot*> calloc(self.capacity, sizeof(Slot))
        self.jobs = <Job*> calloc(C_BATCH, sizeof(Job))
        self.out = <uint8_t*> calloc(C_BATCH, OUT_CAPACITY)
        self.wishes = <StampWish*> calloc(STAMP_RING, sizeof(StampWish))
        self.io = io_new()
        if self.slots == NULL or self.jobs == NULL or self.out == NULL or self.wishes == NULL or self.io == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.slots)
        free(self.jobs)
        free(self.out)
        free(self.wishes)
        io_free(self.io)
        keys_free(&self.scratch)

    def __len__(self):
        return len(self.sessions)

    def add(self, bytes connection_id not None, Session session not None):
        """Packets to this connection ID are this session's."""
        if len(connection_id) != C_CID:
            raise ConfigError(f"a connection ID of {len(connection_id)} bytes", expected="8 bytes")
        self.discard(connection_id)
        self.sessions[connection_id] = session
        session.state.listed += 1
        if 2 * len(self.sessions) > <Py_ssize_t> self.capacity:
            self.rebuild(2 * self.capacity)
        else:
            self.insert(key_of(<const uint8_t*> PyBytes_AS_STRING(connection_id)), session.state)

    def discard(self, bytes connection_id not None):
        """Packets to this connection ID are nobody's any more."""
        session = self.sessions.pop(connection_id, None)
        if session is None:
            return
        (<Session> session).state.listed -= 1
        self.remove(key_of(<const uint8_t*> PyBytes_AS_STRING(connection_id)))
        self.forget_wishes((<Session> session).state)

    def receive(self, int fd):
        """Serve what waits at the socket, at most 32 datagrams; (how many came, those that were not taken, as by ReceiveBatch).

        Answers have left when it returns. Raises OSError as ReceiveBatch.receive does.
        """
        cdef int count, error = 0
        cdef list rest = []
        cdef int i
        with nogil:
            count = self.serve(fd, &error)
        if count < 0:
            if error == EAGAIN or error == EINTR:
                return 0, rest
            raise OSError(error, "recvmmsg failed")
        for i in range(count):
            if not self.io.taken[i]:
                item = io_item(self.io, i)
                if item is None:
                    self.truncated += 1
                else:
                    rest.append(item)
        return count, rest

    def process(self, list datagrams not None, double now, int64_t clock_ns):
        """As `receive`, without a socket: (answers, what was not taken), for who moves datagrams and time himself.

        datagrams and what was not taken: (data, remote, local, received_ns, kernel); answers: (data, remote, local). now: monotonic
        seconds; clock_ns: the time to answer with, Unix ns.
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
            state = NULL
            if view.size >= 1 + C_CID and is_short(view.data):
                state = self.find(key_of(view.data + 1))
            self.jobs[0].received_ns = view.received_ns
            taken = NOT_TAKEN if state == NULL else take(state, &self.scratch, &view, now, &self.jobs[0])
            if taken == NOT_TAKEN:
                rest.append(item)
                continue
            self.taken += 1
            if taken == ANSWER:
                size = build(state, &self.jobs[0], self.out, now, clock_ns)
                self.count_answers(&self.jobs[0])
                if size:
                    answers.append((PyBytes_FromStringAndSize(<const char*> self.out, size), remote, local))
        return answers, rest

    cdef int serve(self, int fd, int* error) noexcept nogil:
        """One batch: receive, open all, then stamp, seal and send all."""
        cdef int count = io_receive(self.io, fd, SERVED_AT_ONCE, error)
        cdef int jobs = 0, packets = 0, sent, i, k
        cdef double now
        cdef View view
        cdef State* state
        cdef Py_ssize_t size
        cdef uint8_t* out
        if count <= 0:
            # Departure times that came late wake the loop as well; left there, they would do so for ever.
            if error[0] == EAGAIN or error[0] == EINTR:
                self.collect(fd)
            return count
        self.received += count
        now = monotonic()
        for i in range(count):
            self.io.taken[i] = 0
            self.found[i] = NULL
            if io_view(self.io, i, &view) and view.size >= 1 + C_CID and is_short(view.data):
                self.found[i] = self.find(key_of(view.data + 1))
                if self.found[i] != NULL:
                    # By the time that the packets before it are done, its session is in the cache.
                    prefetch(self.found[i])
        for i in range(count):
            state = self.found[i]
            if state == NULL:
                continue
            io_view(self.io, i, &view)
            self.jobs[jobs].message = i
            self.jobs[jobs].received_ns = view.received_ns
            k = take(state, &self.scratch, &view, now, &self.jobs[jobs])
            self.io.taken[i] = k != NOT_TAKEN
            self.unstamped += k != NOT_TAKEN and not view.kernel
            self.taken += k != NOT_TAKEN
            jobs += k == ANSWER
        for i in range(jobs):
            out = self.out + packets * OUT_CAPACITY
            size = build(self.jobs[i].state, &self.jobs[i], out, now, 0)
            self.count_answers(&self.jobs[i])
            if size:
                io_reply(self.io, packets, self.jobs[i].message, out, size, self.wish(&self.jobs[i]))
                packets += 1
        if packets:
            sent = io_send(self.io, fd, packets)
            self.unsent += packets - sent
            if sent < packets:
                self.resynchronize(fd)
        if self.next_stamp != self.stamps_back:
            self.collect(fd)
        return count

    cdef void count_answers(self, Job* job) noexcept nogil:
        if job.answer:
            self.answered += job.count
        elif job.stepped_back:
            self.stepped_back += job.count
        else:
            self.held_back += job.count

    # ------------------------------------------------------------------------------------------------ exact T3 (R12)

    cdef void resynchronize(self, int fd) noexcept nogil:
        """After a send that failed: the kernel may have counted it or not, so both begin to count from 0 again."""
        cdef Departed departed[C_BATCH]
        cdef int i
        if self.next_stamp == 0:
            return
        restart_stamps(fd)
        while drain_departures(fd, departed, C_BATCH) == C_BATCH:
            pass
        for i in range(STAMP_RING):
            self.wishes[i].state = NULL
        self.next_stamp = self.stamps_back = 0

    def send_stamped(
        self, int fd, bytes data not None, bytes remote not None, bytes local not None, Session session not None,
        bytes nonce not None, int64_t send_ns,
    ):
        """Send one packet of a session that the control plane made, and have its departure time told in a later answer; 1 or 0.

        send_ns: the T3 in it, before which it cannot have left.
        """
        cdef int sent
        cdef bint wanted = False
        if len(nonce) != 16:
            raise ConfigError(f"a nonce of {len(nonce)} bytes", expected="16 bytes")
        memcpy(self.jobs[0].requests[0].nonce, PyBytes_AS_STRING(nonce), 16)
        self.jobs[0].requests[0].exact = True
        self.jobs[0].count = 1
        self.jobs[0].answer = True
        self.jobs[0].state = session.state
        self.jobs[0].send_ns = send_ns
        # Only what is in the table is taken out of the wishes when it ends.
        if session.state.listed > 0:
            wanted = self.wish(&self.jobs[0])
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

    cdef bint wish(self, Job* job) noexcept nogil:
        """Whether this packet's departure time is wanted; if so, remember whose it is."""
        cdef StampWish* wish
        cdef int i
        if not job.answer:
            return False
        for i in range(job.count):
            if job.requests[i].exact:
                wish = &self.wishes[self.next_stamp % STAMP_RING]
                wish.id = self.next_stamp
                wish.state = job.state
                wish.send_ns = job.send_ns
                memcpy(wish.nonce, job.requests[i].nonce, 8)
                self.next_stamp += 1
                return True
        return False

    cdef void collect(self, int fd) noexcept nogil:
        """Read departure times, and let each session know those of its answers."""
        cdef Departed departed[C_BATCH]
        cdef int count, i
        cdef StampWish* wish
        cdef State* s
        while True:
            count = drain_departures(fd, departed, C_BATCH)
            for i in range(count):
                self.stamps_back = departed[i].id + 1
                wish = &self.wishes[departed[i].id % STAMP_RING]
                if wish.state == NULL or wish.id != departed[i].id:
                    continue
                s = wish.state
                wish.state = NULL
                # Not before it was stamped, and not long after: anything else is another packet's.
                if departed[i].at_ns < wish.send_ns or departed[i].at_ns - wish.send_ns > STAMP_PATIENCE_NS:
                    continue
                if s.known_count == KNOWN_T3:
                    memmove(&s.known[0], &s.known[1], (KNOWN_T3 - 1) * sizeof(KnownT3))
                    s.known_count -= 1
                memcpy(s.known[s.known_count].nonce, wish.nonce, 8)
                s.known[s.known_count].ntp = ntp_of_ns(departed[i].at_ns)
                s.known_count += 1
                self.exact += 1
            if count < C_BATCH:
                return

    cdef void forget_wishes(self, State* state) noexcept:
        cdef int i
        for i in range(STAMP_RING):
            if self.wishes[i].state == state:
                self.wishes[i].state = NULL

    # ------------------------------------------------------------------------------------------------ sessions by ID

    cdef State* find(self, uint64_t key) noexcept nogil:
        cdef size_t at = key & (self.capacity - 1)
        while self.slots[at].state != NULL:
            if self.slots[at].key == key:
                return self.slots[at].state
            at = (at + 1) & (self.capacity - 1)
        return NULL

    cdef void insert(self, uint64_t key, State* state) noexcept:
        cdef size_t at = key & (self.capacity - 1)
        while self.slots[at].state != NULL and self.slots[at].key != key:
            at = (at + 1) & (self.capacity - 1)
        self.slots[at].key = key
        self.slots[at].state = state

    cdef void remove(self, uint64_t key) noexcept:
        """Linear probing without tombstones: entries behind the hole move up when that brings them nearer home."""
        cdef size_t mask = self.capacity - 1
        cdef size_t hole = key & mask
        cdef size_t at, home
        while self.slots[hole].state != NULL and self.slots[hole].key != key:
            hole = (hole + 1) & mask
        if self.slots[hole].state == NULL:
            return
        at = hole
        while True:
            self.slots[hole].state = NULL
            while True:
                at = (at + 1) & mask
                if self.slots[at].state == NULL:
                    return
                home = self.slots[at].key & mask
                if ((at - home) & mask) >= ((at - hole) & mask):
                    break
            self.slots[hole] = self.slots[at]
            hole = at

    cdef int rebuild(self, size_t capacity) except -1:
        cdef Slot* old = self.slots
        cdef Slot* fresh = <Slot*> calloc(capacity, sizeof(Slot))
        if fresh == NULL:
            raise MemoryError()
        self.slots = fresh
        self.capacity = capacity
        free(old)
        for connection_id, session in self.sessions.items():
            self.insert(key_of(<const uint8_t*> PyBytes_AS_STRING(connection_id)), (<Session> session).state)
        return 0

    def due(self, double now):
        """Sessions that the control plane is to look after.

        Those whose oldest unacknowledged answer is older than the probe timeout (RFC 9002 §6.2) and that were not probed yet, and
        those near a limit of their keys (RFC 9001 §6.6).
        """
        cdef State* s
        out = []
        for session in self.sessions.values():
            s = (<Session> session).state
            if (
                (s.in_flight_count and not s.defer_acks and s.ring[0].at + s.probe_timeout <= now and s.next_probe <= now)
                or s.next_pn - s.key_first_pn >= <int64_t> self.key_update_after or s.failed_opens >= self.failed_open_limit
            ):
                out.append(session)
        return out


cdef uint64_t key_of(const uint8_t* connection_id) noexcept nogil:
    cdef uint64_t key
    memcpy(&key, connection_id, C_CID)
    return key


# ------------------------------------------------------------------------------------------------------------ many clients

@cython.final
cdef class Asker:
    """Asks on many client sessions over one connected socket, as fast as a window or a rate allows: a load for servers.

    Nonces are counted, not random: nothing is to be believed of these answers.
    """

    cdef dict sessions
    cdef Slot* slots
    cdef size_t capacity
    cdef State** order
    cdef int* waiting
    cdef int count
    cdef BatchIO* io
    cdef uint8_t* out
    cdef mmsghdr requests[C_BATCH]
    cdef iovec vectors[C_BATCH]
    cdef Keys scratch
    cdef list rest
    cdef double* sent_at
    cdef double* delays
    cdef bint not_taken
    cdef readonly long sent, answered, lost, exact

    def __cinit__(self, sessions):
        """sessions: {own connection ID (8 bytes): Session}, each active."""
        cdef int i = 0
        self.sessions = dict(sessions)
        self.count = len(self.sessions)
        self.capacity = 64
        while self.capacity < <size_t> (2 * self.count):
            self.capacity *= 2
        self.slots = <Slot*> calloc(self.capacity, sizeof(Slot))
        self.order = <State**> calloc(self.count + 1, sizeof(State*))
        self.waiting = <int*> calloc(self.count + 1, sizeof(int))
        self.out = <uint8_t*> calloc(C_BATCH, OUT_CAPACITY)
        self.io = io_new()
        if self.slots == NULL or self.order == NULL or self.waiting == NULL or self.out == NULL or self.io == NULL:
            raise MemoryError()
        for connection_id, session in self.sessions.items():
            if len(connection_id) != C_CID:
                raise ConfigError(f"a connection ID of {len(connection_id)} bytes", expected="8 bytes")
            self.order[i] = (<Session> session).state
            self.put(key_of(<const uint8_t*> PyBytes_AS_STRING(connection_id)), self.order[i], i)
            i += 1
        for i in range(C_BATCH):
            self.vectors[i].iov_base = self.out + i * OUT_CAPACITY
            self.requests[i].msg_hdr.msg_iov = &self.vectors[i]
            self.requests[i].msg_hdr.msg_iovlen = 1

    def __dealloc__(self):
        free(self.slots)
        free(self.order)
        free(self.waiting)
        free(self.out)
        free(self.sent_at)
        free(self.delays)
        io_free(self.io)
        keys_free(&self.scratch)

    cdef void put(self, uint64_t key, State* state, int index) noexcept:
        cdef size_t at = key & (self.capacity - 1)
        while self.slots[at].state != NULL:
            at = (at + 1) & (self.capacity - 1)
        self.slots[at].key = key
        self.slots[at].state = state
        state.index = index

    def run(self, int fd, long total, int window, double rate, double seconds, bint exact, control=None):
        """Ask `total` times at most, for `seconds` at most; the delays in seconds of the answers that came.

        window: requests under way on each connection; rate: requests a second over all, 0 for as fast as can be. control: called
        with each packet that the data plane does not take, as a server's own probes; it must leave the session active.
        """
        cdef long i
        cdef double started = monotonic()
        cdef bint over = False
        if not self.count or total < 1 or window < 1 or seconds <= 0:
            raise ConfigError("a load without connections, requests or time", expected="at least one of each")
        free(self.sent_at)
        free(self.delays)
        self.sent = self.answered = self.lost = self.exact = 0
        memset(self.waiting, 0, self.count * sizeof(int))
        self.sent_at = <double*> calloc(total, sizeof(double))
        self.delays = <double*> calloc(total, sizeof(double))
        if self.sent_at == NULL or self.delays == NULL:
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

    cdef bint loop(
        self, int fd, long total, int window, double rate, double seconds, double started, bint exact
    ) noexcept nogil:
        """Ask and collect until it is over (true), or until a packet came that is not taken."""
        cdef double now = monotonic()
        cdef double progress = now
        cdef long allowed
        cdef int cursor = 0, batch, tried, i
        cdef pollfd waiter
        waiter.fd = fd
        waiter.events = POLLIN
        while now - started < seconds and self.answered + self.lost < total:
            allowed = total - self.sent
            if rate > 0 and <long> ((now - started) * rate) + 1 - self.sent < allowed:
                allowed = <long> ((now - started) * rate) + 1 - self.sent
            batch = tried = 0
            while batch < allowed and batch < C_BATCH and tried < self.count:
                i = cursor
                cursor = cursor + 1 if cursor + 1 < self.count else 0
                tried += 1
                while self.waiting[i] < window and batch < allowed and batch < C_BATCH:
                    if not self.ask(i, batch, exact):
                        break
                    batch += 1
            if batch:
                sendmmsg(fd, self.requests, batch, MSG_DONTWAIT)
            if not self.collect(fd):
                if monotonic() - progress > 0.25 and self.sent > self.answered + self.lost and batch == 0:
                    # What was sent is not coming any more.
                    self.lost = self.sent - self.answered
                    for i in range(self.count):
                        self.waiting[i] = 0
                    progress = monotonic()
                if batch == 0 or self.sent - self.answered - self.lost >= <long> window * self.count:
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
        cdef int size = EXACT_REQUEST_SIZE if exact else REQUEST_SIZE
        if not s.active or not has_room(s, end + size + 2 + TAG_SIZE):
            return False
        out[end] = 0x31
        out[end + 1] = <uint8_t> size
        out[end + 2] = 1
        out[end + 3] = 16
        put_u64(out + end + 4, <uint64_t> index)
        put_u64(out + end + 12, <uint64_t> self.sent)
        if exact:
            memcpy(out + end + 2 + REQUEST_SIZE, T3_WISH, 10)
        end = finish(s, out, end + 2 + size, 1, now)
        if end == 0:
            return False
        self.vectors[slot].iov_len = end
        self.sent_at[self.sent] = now
        self.sent += 1
        self.waiting[index] += 1
        return True

    cdef int collect(self, int fd) noexcept nogil:
        """Take what has come; how many answers."""
        cdef int error = 0
        cdef int count = io_receive(self.io, fd, C_BATCH, &error)
        cdef int answers = 0, i, k
        cdef double now = monotonic()
        cdef View view
        cdef State* s
        cdef Opened opened
        cdef AckRanges ranges
        cdef Frames frames
        cdef size_t at
        for i in range(count):
            self.io.taken[i] = CONSUMED
            if not io_view(self.io, i, &view) or view.size < 1 + C_CID or not is_short(view.data):
                continue
            at = key_of(view.data + 1) & (self.capacity - 1)
            while self.slots[at].state != NULL and self.slots[at].key != key_of(view.data + 1):
                at = (at + 1) & (self.capacity - 1)
            s = self.slots[at].state
            view.remote_size = view.local_size = 0
            if s == NULL:
                continue
            k = open_packet(s, &self.scratch, &view, &opened)
            if k == CONSUMED:
                continue
            if k == NOT_TAKEN or parse_frames(s, opened.plain, opened.size, &frames, &ranges):
                self.io.taken[i] = NOT_TAKEN
                self.not_taken = True
                continue
            commit(s, &opened, &ranges, now)
            for k in range(frames.count):
                answers += self.answer(s, &frames.frames[k], now)
        return answers

    cdef int answer(self, State* s, const Frame* frame, double now) noexcept nogil:
        cdef uint64_t number = 0
        cdef int i
        if frame.size < RESPONSE_SIZE:
            return 0
        for i in range(8):
            number = (number << 8) | frame.at[10 + i]
        if number >= <uint64_t> self.sent or self.sent_at[number] == 0:
            return 0
        self.delays[self.answered] = now - self.sent_at[number]
        self.sent_at[number] = 0
        self.answered += 1
        self.exact += frame.size == RESPONSE_SIZE + EXACT_SIZE
        if self.waiting[s.index] > 0:
            self.waiting[s.index] -= 1
        return 1
