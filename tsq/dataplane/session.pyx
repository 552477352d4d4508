"""One connection's session: opens and seals its 1-RTT packets, without the interpreter lock.

Comes in: packets, keys and the state that the control plane hands over. Goes out: frames of packets that are authentic and new,
sealed packets, the state for the control plane. A session does not change before a whole packet has been parsed, except for the
counts of packets that do not open or are too much work. It must never use a packet number twice, nor say why a packet does not
open.

RFC 9000 §12.3, §17.3, §17.4; RFC 9001 §5, §6; RFC 9221.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memmove, memset

from tsq._fast cimport EXACT_VALUE_SIZE, View, put_u64
from tsq.dataplane.frames cimport (
    ACK, ACK_ECN, CLOSE, DATAGRAM, DATAGRAM_WITH_LENGTH, MOST_DATAGRAM_HEADER, MOST_WORK, PADDING, PING, frames_work,
    put_datagram_header,
)
from tsq.dataplane.packet cimport (
    IV_SIZE, MAX_CID_SIZE, TAG_SIZE, Keys, aead_open, decode_pn, get_varint, key_size, keys_complete, keys_free, keys_set_aead,
    keys_set_protection, put_varint, seal, secret_size, unprotect,
)
from tsq.dataplane.recovery cimport active_at, has_room, mark, note_sent, on_ack, parse_ack, probe_timeout, put_ack, seen
from tsq.dataplane.state cimport C_CID, C_WINDOW, MAX_ACK_RANGES, MOST_KEY, MOST_SECRET, AckRanges, KnownT3, RawKeys, State

from tsq.errors import ConfigError


CONNECTION_ID_SIZE = C_CID
WINDOW_SIZE = C_WINDOW
# Bytes of a session, without its Python object and libcrypto's contexts.
STATE_SIZE = sizeof(State)

cdef extern from "<stdlib.h>" nogil:
    void* aligned_alloc(size_t alignment, size_t size)


cdef enum:
    CACHE_LINE = 64
    PN_SIZE = 4
    MAX_SEALED = 1200
    MOST_BACKOFF = 10
    LAST_KEYS_PROBES = 3
    MOST_FRAME = 65535
    VERSION_1 = 0x00000001
    VERSION_2 = 0x6B3343CF

cdef extern from "<openssl/crypto.h>" nogil:
    void cleanse "OPENSSL_cleanse"(void* at, size_t size)


cdef extern from *:
    """
    static const char TSQ_HEX[] = "0123456789abcdef";
    """
    const char* HEX "TSQ_HEX"

# No packet of this key phase has come.
cdef int64_t NONE_YET = (<int64_t> 1) << 62


# -------------------------------------------------------------------------------------------------------------- opening

cdef int parse_frames(const State* s, const uint8_t* plain, Py_ssize_t size, Frames* out, AckRanges* ranges) noexcept nogil:
    """Parse all frames of a packet, without a change to the session; 0, or -1 for a packet that belongs to the control plane."""
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
        if kind == PADDING:
            continue
        if kind == PING:
            out.pinged = True
        elif kind == ACK or kind == ACK_ECN:
            if ranges.count or parse_ack(s, &at, end, kind == ACK_ECN, ranges):
                return -1
        elif kind == DATAGRAM or kind == DATAGRAM_WITH_LENGTH:
            length = end - at
            if kind == DATAGRAM_WITH_LENGTH and get_varint(&at, end, &length):
                return -1
            if <uint64_t> (end - at) < length or out.count == MAX_FRAMES:
                return -1
            out.frames[out.count].at = at
            out.frames[out.count].size = length
            out.count += 1
            at += length
        else:
            return -1
    if ranges.count and s.defer_acks:
        return -1
    return 0


cdef int refuse(State* s, const Opened* opened) noexcept nogil:
    """The outcome of an authentic packet that the data plane cannot deal with: NOT_TAKEN, or EXCESSIVE, which is counted."""
    if frames_work(opened.plain, opened.size) <= MOST_WORK:
        return NOT_TAKEN
    s.excessive += 1
    return EXCESSIVE


cdef bint is_short(const uint8_t* packet) noexcept nogil:
    """Whether the packet has a short header (RFC 9000 §17.3)."""
    return not packet[0] & 0x80


cdef bint on_path(const State* s, const View* view) noexcept nogil:
    """Whether a datagram came on the active path."""
    if view.remote_size != s.remote_size or view.local_size != s.local_size:
        return False
    if memcmp(view.remote, s.remote, s.remote_size) != 0:
        return False
    return not s.local_size or memcmp(view.local, s.local, s.local_size) == 0


cdef bint open_with(
    const State* s, Keys* scratch, const RawKeys* raw, const View* view, Py_ssize_t header_size, Opened* opened
) noexcept nogil:
    """Open with keys of another phase."""
    if keys_set_aead(scratch, s.suite, raw.key, raw.iv, False):
        return False
    opened.size = aead_open(
        scratch, opened.header, header_size, opened.pn, view.data + header_size, view.size - header_size, opened.plain
    )
    return opened.size >= 0


cdef int open_packet(State* s, Keys* scratch, const View* view, double now, Opened* opened) noexcept nogil:
    """Open one short-header packet; NOT_TAKEN, FORGED, DUPLICATE or OPENED. Changes nothing but counters.

    A packet that is not authentic is dropped here, whatever its source: the control plane would need a hundred times as long.
    """
    cdef uint64_t truncated = 0
    cdef int pn_size
    cdef Py_ssize_t header_size
    cdef bint authentic
    if not s.active:
        return NOT_TAKEN
    pn_size = unprotect(&s.receive, view.data, view.size, 1 + C_CID, opened.header, &truncated)
    # A packet without the fixed bit is not valid in this version (RFC 9000 §17.3.1).
    if pn_size < 0 or not view.data[0] & 0x40:
        return FORGED
    header_size = 1 + C_CID + pn_size
    opened.pn = decode_pn(truncated, pn_size, s.largest + 1)
    opened.earlier = opened.updated = False
    if ((opened.header[0] >> 2) & 1) == s.phase:
        opened.size = aead_open(
            &s.receive, opened.header, header_size, opened.pn, view.data + header_size, view.size - header_size, opened.plain
        )
        authentic = opened.size >= 0
    else:
        # A reordered packet of the last phase (RFC 9001 §6.5), or the first packet of the next phase. The keys of both phases exist
        # already: a forged phase bit costs no key derivation (§6.3).
        opened.earlier = (
            now < s.last_keys_until and opened.pn < s.phase_first_pn
            and open_with(s, scratch, &s.last_keys, view, header_size, opened)
        )
        opened.updated = not opened.earlier and open_with(s, scratch, &s.next_keys, view, header_size, opened)
        authentic = opened.earlier or opened.updated
    if not authentic:
        s.failed_opens += 1
        return FORGED
    if (opened.updated and not s.serial) or opened.header[0] & 0x18:
        # The control plane handles authentic peers that set reserved bits, and key updates of connections that are not at rest.
        return NOT_TAKEN
    if seen(s, opened.pn):
        return DUPLICATE
    # A client that has moved must prove its new address. A copied old packet is no proof, and was dropped above.
    return OPENED if on_path(s, view) else NOT_TAKEN


cdef void commit(State* s, const Opened* opened, const AckRanges* ranges, double now) noexcept nogil:
    """Note a packet that was parsed as a whole in its session."""
    mark(s, opened.pn)
    if not opened.earlier and opened.pn < s.phase_first_pn:
        s.phase_first_pn = opened.pn
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


# -------------------------------------------------------------------------------------------------------------- sealing

cdef void put_hex(uint8_t* out, const uint8_t* data, int size) noexcept nogil:
    cdef int i
    for i in range(size):
        out[2 * i] = HEX[data[i] >> 4]
        out[2 * i + 1] = HEX[data[i] & 15]


cdef void take_known(State* s, uint8_t* out) noexcept nogil:
    """Write the oldest transmit timestamp that was not reported (32 hex digits), and forget it. There must be one."""
    cdef uint8_t ntp[8]
    put_hex(out, s.known[0].nonce, 8)
    put_u64(ntp, s.known[0].ntp)
    put_hex(out + 16, ntp, 8)
    s.known_count -= 1
    memmove(&s.known[0], &s.known[1], s.known_count * sizeof(KnownT3))


cdef Py_ssize_t begin(const State* s, uint8_t* out, double now) noexcept nogil:
    """Write a packet's plain header and its ACK frame; their size."""
    cdef Py_ssize_t size = 1 + s.peer_id_size + PN_SIZE
    cdef int i
    out[0] = 0x40 | (<int> s.spin << 5) | (s.phase << 2) | (PN_SIZE - 1)
    memcpy(out + 1, s.peer_id, s.peer_id_size)
    for i in range(PN_SIZE):
        out[1 + s.peer_id_size + i] = <uint8_t> (s.next_pn >> (8 * (PN_SIZE - 1 - i)))
    return size + (put_ack(s, out + size, now) if s.largest >= 0 else 0)


cdef Py_ssize_t finish(State* s, uint8_t* out, Py_ssize_t plain_end, int answers, double now) noexcept nogil:
    """Seal the packet that `begin` began, and count it as in flight when it holds answers; its size, 0 where OpenSSL fails."""
    cdef Py_ssize_t header_size = 1 + s.peer_id_size + PN_SIZE
    cdef int64_t pn = s.next_pn
    cdef Py_ssize_t size
    # Count before use: whatever happens below, this number is never used again.
    s.next_pn = pn + 1
    size = seal(&s.send, out, header_size, pn, plain_end - header_size)
    if size < 0:
        return 0
    s.ack_sent = True
    s.ack_wanted = False
    if answers:
        note_sent(s, pn, size, now)
        s.answered += answers
    return size


cdef Py_ssize_t seal_probe(State* s, uint8_t* out, double now) noexcept nogil:
    """A packet with a PING and an ACK; its size, or 0. Later probes wait longer."""
    cdef double timeout = probe_timeout(s)
    cdef Py_ssize_t end = begin(s, out, now)
    # Padding for the header protection sample, where there is no ACK frame (RFC 9001 §5.4.2).
    out[end] = PING
    memset(out + end + 1, 0, 3)
    # As the first ack-eliciting packet since the last receipt, it restarts the idle timer (RFC 9000 §10.1).
    if s.first_sent <= s.last_receive:
        s.first_sent = now
    s.probes += 1 if s.probes < MOST_BACKOFF else 0
    # Back off from at least a second: nothing is sent again, the probe only frees the congestion window.
    s.next_probe = now + (timeout if timeout > 1.0 else 1.0) * (1 << s.probes)
    return finish(s, out, end + 4, 0, now)


cdef Py_ssize_t seal_close(State* s, uint8_t* out, const uint8_t* reason, Py_ssize_t size, double now) noexcept nogil:
    """A packet that closes the connection without an error (RFC 9000 §19.19); its size, or 0. reason: UTF-8, below 256 bytes."""
    cdef Py_ssize_t end = begin(s, out, now)
    out[end] = CLOSE
    # NO_ERROR, and no frame type.
    out[end + 1] = out[end + 2] = 0
    end += 3
    end += put_varint(out + end, <uint64_t> size)
    memcpy(out + end, reason, size)
    return finish(s, out, end + size, 0, now)


cdef Py_ssize_t padding_after(const Frame* last, const uint8_t* end) noexcept nogil:
    """How many PADDING frames follow a frame at the end of a packet; 0 where others follow it, too."""
    cdef const uint8_t* at = last.at + last.size
    while at < end:
        if at[0] != PADDING:
            return 0
        at += 1
    return end - last.at - <Py_ssize_t> last.size


# ------------------------------------------------------------------------------------------------------------- Python's view

@cython.final
cdef class Session:
    """One connection's keys, packet numbers and path. Only the package tsq.quic.aioquic makes and updates it."""

    def __cinit__(self):
        # Aligned to a cache line: a packet touches a third of a state, in as few lines as possible.
        self.state = <State*> aligned_alloc(CACHE_LINE, (sizeof(State) + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE)
        if self.state == NULL:
            raise MemoryError()
        memset(self.state, 0, sizeof(State))
        self.state.largest = -1
        self.state.ack_floor = -1
        self.state.largest_acked = -1
        self.state.phase_first_pn = NONE_YET
        self.state.most_frame = MOST_FRAME

    def __dealloc__(self):
        if self.state != NULL:
            keys_free(&self.state.receive)
            keys_free(&self.state.send)
            cleanse(self.state, sizeof(State))
            free(self.state)
        keys_free(&self.scratch)

    def set_protection(self, int suite, bytes receive not None, bytes send not None):
        """Set the header protection keys, once: a key update does not change them (RFC 9001 §6.1)."""
        _key_sizes(suite, receive, send)
        self.state.suite = suite
        memcpy(self.state.protection, PyBytes_AS_STRING(receive), len(receive))
        memcpy(self.state.protection + MOST_KEY, PyBytes_AS_STRING(send), len(send))
        if (
            keys_set_protection(&self.state.receive, suite, <const uint8_t*> PyBytes_AS_STRING(receive))
            or keys_set_protection(&self.state.send, suite, <const uint8_t*> PyBytes_AS_STRING(send))
        ):
            raise ConfigError("OpenSSL refused a header protection key", expected="AES or ChaCha20 in this OpenSSL")

    def set_keys(
        self, int phase, bytes receive not None, bytes receive_iv not None, bytes send not None, bytes send_iv not None,
        bytes next_receive not None, bytes next_receive_iv not None, double now,
    ):
        """Set the packet keys of one phase, and the next phase's for opening. After `set_protection`.

        The former keys open reordered packets for three more probe timeouts (RFC 9001 §6.5).
        """
        cdef State* s = self.state
        cdef bint first = not keys_complete(&s.receive)
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
        if not first:
            s.last_keys = s.current_keys
            s.last_keys_until = now + LAST_KEYS_PROBES * probe_timeout(s)
        memcpy(s.current_keys.key, PyBytes_AS_STRING(receive), len(receive))
        memcpy(s.current_keys.iv, PyBytes_AS_STRING(receive_iv), IV_SIZE)
        memcpy(s.sending_keys.key, PyBytes_AS_STRING(send), len(send))
        memcpy(s.sending_keys.iv, PyBytes_AS_STRING(send_iv), IV_SIZE)
        memcpy(s.next_keys.key, PyBytes_AS_STRING(next_receive), len(next_receive))
        memcpy(s.next_keys.iv, PyBytes_AS_STRING(next_receive_iv), IV_SIZE)
        s.phase = phase & 1
        s.phase_first_pn = NONE_YET
        s.key_first_pn = s.next_pn

    def set_secrets(self, int version, bytes receive not None, bytes send not None):
        """Set the secrets of this key phase (RFC 9001 §6.1), from which a session at rest derives the next ones.

        version: the QUIC version, 1 or 2 (RFC 9369) as it stands in long headers.
        """
        cdef int size = secret_size(self.state.suite)
        if len(receive) != size or len(send) != size or version not in (VERSION_1, VERSION_2):
            raise ConfigError(f"secrets of {len(receive)} and {len(send)} bytes", expected="the size of the suite's hash")
        self.state.version_2 = <uint32_t> version == VERSION_2
        memcpy(self.state.secrets, PyBytes_AS_STRING(receive), size)
        memcpy(self.state.secrets + MOST_SECRET, PyBytes_AS_STRING(send), size)

    @property
    def secrets(self):
        """(receive, send) secrets of this key phase."""
        cdef int size = secret_size(self.state.suite)
        return self.state.secrets[:size], self.state.secrets[MOST_SECRET:MOST_SECRET + size]

    @property
    def protection(self):
        """(receive, send) header protection keys."""
        cdef int size = key_size(self.state.suite)
        return self.state.protection[:size], self.state.protection[MOST_KEY:MOST_KEY + size]

    @property
    def suite(self):
        """TLS cipher suite number."""
        return self.state.suite

    @property
    def version(self):
        """QUIC version, as in long headers."""
        return VERSION_2 if self.state.version_2 else VERSION_1

    @property
    def phase(self):
        """Key phase, 0 or 1."""
        return self.state.phase

    @property
    def peer_id(self):
        """The peer's connection ID."""
        return self.state.peer_id[:self.state.peer_id_size]

    @property
    def path(self):
        """Packed (remote, local) addresses of the active path."""
        cdef State* s = self.state
        return s.remote[:s.remote_size], s.local[:s.local_size]

    @property
    def key_updates(self):
        """(how many key updates the peer may still make, when that was counted)."""
        return self.state.updates_left, self.state.updated_at

    @key_updates.setter
    def key_updates(self, value):
        self.state.updates_left, self.state.updated_at = value

    def set_path(self, bytes remote not None, bytes local not None, bytes peer_id not None):
        """Set the packed addresses of the active path, and the peer's connection ID (0 to 20 bytes)."""
        cdef State* s = self.state
        if len(remote) > 28 or len(local) > 20 or len(peer_id) > MAX_CID_SIZE:
            raise ConfigError(f"a path of {len(remote)}, {len(local)}, {len(peer_id)} bytes", expected="at most 28, 20, 20")
        s.remote_size = <uint8_t> len(remote)
        s.local_size = <uint8_t> len(local)
        s.peer_id_size = <uint8_t> len(peer_id)
        memcpy(s.remote, PyBytes_AS_STRING(remote), s.remote_size)
        memcpy(s.local, PyBytes_AS_STRING(local), s.local_size)
        memcpy(s.peer_id, PyBytes_AS_STRING(peer_id), s.peer_id_size)

    @property
    def most_frame(self):
        """The largest DATAGRAM frame that the peer takes (RFC 9221 §3), bytes."""
        return self.state.most_frame

    @most_frame.setter
    def most_frame(self, value):
        self.state.most_frame = <uint16_t> min(value, MOST_FRAME)

    def set_received(self, int64_t largest, double largest_at, object bits, int64_t ack_floor):
        """Set which packets were received: bit d of `bits` is packet number largest - d, 128 of them."""
        cdef State* s = self.state
        s.largest = largest
        s.largest_at = largest_at
        s.low_bits = bits & 0xFFFFFFFFFFFFFFFF
        s.high_bits = (bits >> 64) & 0xFFFFFFFFFFFFFFFF
        s.ack_floor = ack_floor
        # The control plane has acknowledged these packets, or will.
        s.ack_sent = s.ack_wanted = False

    def set_recovery(self, int64_t window, int64_t in_flight, int64_t threshold, double since, bint defer_acks):
        """Set congestion window, the control plane's bytes in flight, the slow start threshold (bytes), and whether to leave ACKs.

        since: time of the last reduction, monotonic seconds. Losses of packets sent before it do not reduce the window again (RFC
        9002 §7.3.2). defer_acks: packets with an ACK are not taken.
        """
        cdef State* s = self.state
        s.window = window
        s.other_in_flight = in_flight
        s.threshold = threshold
        s.recovery_start = since
        s.defer_acks = defer_acks

    def set_round_trip(
        self, bint known, double latest, double smoothed, double variance, double minimum, double max_ack_delay,
        int ack_delay_exponent,
    ):
        """Set the round trip in seconds (RFC 9002 §5), a guess where it is not known, and the peer's ACK delay exponent."""
        cdef State* s = self.state
        if not 0 <= ack_delay_exponent <= 20:
            raise ConfigError(f"an exponent of {ack_delay_exponent}", expected="0 to 20", section="RFC 9000 §18.2")
        s.round_trip_known = known
        s.latest, s.smoothed, s.variance, s.minimum = latest, smoothed, variance, minimum
        s.max_ack_delay = max_ack_delay
        s.ack_delay_exponent = <uint8_t> ack_delay_exponent

    def set_spin(self, bint spin, int64_t packet_number):
        """Set the spin bit, and the packet that set it (RFC 9000 §17.4)."""
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
        """The messages in a packet from the connected peer; None, with the packet unchanged, if it is for the control plane."""
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
        outcome = open_packet(self.state, &self.scratch, &view, now, &opened)
        if outcome == OPENED and parse_frames(self.state, opened.plain, opened.size, &frames, &ranges):
            outcome = refuse(self.state, &opened)
        if outcome == NOT_TAKEN:
            return None
        if outcome != OPENED:
            return []
        commit(self.state, &opened, &ranges, now)
        if frames.count == 1:
            self.overhead = view.size - frames.frames[0].size - padding_after(&frames.frames[0], opened.plain + opened.size)
        # The next request acknowledges it, or the control plane's timer.
        self.state.ack_wanted = self.state.ack_wanted or frames.pinged or frames.count > 0
        return [
            PyBytes_FromStringAndSize(<const char*> frames.frames[i].at, <Py_ssize_t> frames.frames[i].size)
            for i in range(frames.count)
        ]

    def seal(self, list messages not None, double now, Py_ssize_t least=0):
        """One packet with an ACK and these messages as DATAGRAM frames; None where the window or the packet has no room.

        least: PADDING frames make a smaller packet as large as this, up to 1200 bytes.
        """
        cdef uint8_t out[OUT_CAPACITY]
        cdef State* s = self.state
        cdef Py_ssize_t end, size = 0
        if least > MAX_SEALED:
            least = MAX_SEALED
        cdef bytes message
        if not s.active or not messages:
            return None
        for message in messages:
            size += len(message) + MOST_DATAGRAM_HEADER
        end = begin(s, out, now)
        if end + size + TAG_SIZE > MAX_SEALED or not has_room(s, max(end + size + TAG_SIZE, least)):
            return None
        for message in messages:
            end += put_datagram_header(out + end, len(message))
            memcpy(out + end, PyBytes_AS_STRING(message), len(message))
            end += len(message)
        if end + TAG_SIZE < least:
            memset(out + end, 0, least - TAG_SIZE - end)
            end = least - TAG_SIZE
        size = finish(s, out, end, <int> len(messages), now)
        return PyBytes_FromStringAndSize(<const char*> out, size) if size else None

    def acknowledge(self, double now):
        """A packet with an ACK alone, which the peer does not acknowledge; None where nothing was received."""
        cdef uint8_t out[OUT_CAPACITY]
        cdef State* s = self.state
        cdef Py_ssize_t size
        if not s.active or s.largest < 0:
            return None
        size = finish(s, out, begin(s, out, now), 0, now)
        return PyBytes_FromStringAndSize(<const char*> out, size) if size else None

    def probe(self, double now):
        """A packet with a PING and an ACK, for a peer that acknowledges nothing (RFC 9002 §6.2.4). Later probes wait longer."""
        cdef uint8_t out[OUT_CAPACITY]
        cdef Py_ssize_t size
        if not self.state.active:
            return None
        size = seal_probe(self.state, out, now)
        return PyBytes_FromStringAndSize(<const char*> out, size) if size else None

    def report(self):
        """An earlier answer's transmit timestamp (R12), once: 16 hex digits of nonce, 16 of NTP time; "" where there is none."""
        cdef State* s = self.state
        cdef uint8_t out[EXACT_VALUE_SIZE]
        if not s.known_count:
            return ""
        take_known(s, out)
        return PyBytes_FromStringAndSize(<const char*> out, EXACT_VALUE_SIZE).decode("ascii")

    def acknowledged(self, ranges, double now, uint64_t delay=0):
        """Take the ranges (first, last) of an ACK that the control plane received, largest first; now in monotonic seconds.

        delay: the ACK frame's delay, in the peer's units.
        """
        cdef AckRanges found
        found.count = 0
        found.delay = delay
        for first, last in ranges:
            if found.count == MAX_ACK_RANGES:
                break
            found.first[found.count] = first
            found.last[found.count] = last
            found.count += 1
        on_ack(self.state, &found, now)

    @property
    def active(self):
        """Whether the data plane takes this session's packets."""
        return self.state.active

    @active.setter
    def active(self, bint value):
        cdef State* s = self.state
        if value and not (keys_complete(&s.receive) and keys_complete(&s.send)):
            raise ConfigError("a session without keys", expected="set_protection and set_keys first")
        s.active = value

    @property
    def next_packet_number(self):
        """The next packet number of both planes. It only grows: a number used twice under a key would give the key away."""
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
        """(largest, its receive time, bits, whether an ACK was sent since the last `set_received`)."""
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
    def congestion(self):
        """(congestion window, slow start threshold, both in bytes; time of the last reduction, monotonic seconds)."""
        return self.state.window, self.state.threshold, self.state.recovery_start

    @property
    def round_trip(self):
        """(known, latest, smoothed, variance, minimum), in seconds (RFC 9002 §5)."""
        cdef State* s = self.state
        return bool(s.round_trip_known), s.latest, s.smoothed, s.variance, s.minimum

    @property
    def last_receive(self):
        """Time at which the last packet was taken, monotonic seconds."""
        return self.state.last_receive

    @property
    def last_activity(self):
        """Start of the idle timeout (RFC 9000 §10.1), monotonic seconds."""
        return active_at(self.state)

    @property
    def probe_at(self):
        """Time at which to probe the peer for an acknowledgment (RFC 9002 §6.2), monotonic seconds; None for never."""
        cdef State* s = self.state
        return s.ring[0].at + probe_timeout(s) if s.in_flight_count and not s.defer_acks else None

    @property
    def ack_wanted(self):
        """Whether `open` took a packet that is not acknowledged yet."""
        return self.state.ack_wanted

    @property
    def in_flight(self):
        """(packets, bytes) that were sent here and not acknowledged."""
        return self.state.in_flight_count, self.state.in_flight

    @property
    def counts(self):
        """{"taken", "answered", "lost", "sealed", "failed_opens", "excessive"}: packets and answers of this session."""
        cdef State* s = self.state
        return {
            "taken": s.taken, "answered": s.answered, "lost": s.lost, "failed_opens": s.failed_opens,
            "excessive": s.excessive,
            # Packet numbers used under this key, by both planes (RFC 9001 §6.6).
            "sealed": s.next_pn - s.key_first_pn,
        }


def _key_sizes(int suite, bytes one, bytes two):
    size = {0x1301: 16, 0x1302: 32, 0x1303: 32}.get(suite)
    if size is None or len(one) != size or len(two) != size:
        raise ConfigError(f"keys of {len(one)} and {len(two)} bytes for suite {suite:#x}", expected="the suite's key size")
