"""Admission: what happens to a datagram that belongs to no session, before it costs anything (RFC 9000 §5.2, §8.1, §14.1).

Comes in: a datagram, its source, the time; what the router knows (connection IDs, handshakes under way). Goes out: a verdict (it
goes to the control plane, or it is dropped for a counted reason), and maybe one stateless reply: Version Negotiation, Retry,
refusal, reset. The checks go from the cheapest to the dearest (docs/explanation/admission.md). It must never allocate for a
datagram, answer with more bytes than came, call Python, or let a datagram pass that a later check refuses.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove

from tsq.dataplane.digests cimport DIGEST_SIZE, cleanse, hmac, hmac_set, random_bytes, table_hash
from tsq.dataplane.frames cimport TOO_MANY_ACK_RANGES, frames_excess
from tsq.dataplane.initials cimport (
    INITIAL, NEGOTIATION, REPLY_CAPACITY, ZERO_RTT, count_packets, open_initial, put_close, put_negotiation, put_retry,
    read_long_header, tools_free, tools_set,
)
from tsq.dataplane.packet cimport MAX_CID_SIZE
from tsq.dataplane.prefixes cimport (
    KnownId, PrefixBucket, access_free, access_set, bucket_of, is_denied, known_add, known_find, known_free, known_init,
    known_remove,
)
from tsq.dataplane.pressure cimport bucket_set, bucket_take, note_delay, recent_add, retry_is_on
from tsq.dataplane.table cimport key_of, table_find
from tsq.dataplane.tokens cimport (
    BAD_TOKEN, LASTING_TOKEN, MOST_KEYS, RETRY_TOKEN, TOKEN_CAPACITY, put_token, read_token, token_keys_set, token_was_used,
    use_token,
)

import os
import time

from tsq.errors import ConfigError


cdef enum:
    ID_SIZE = 8
    LEAST_INITIAL = 1200
    # RFC 9000 §10.3: the least size of a reset; and the size of our smallest packets.
    LEAST_RESET = 21
    USUAL_RESET = 43
    RESET_TOKEN_SIZE = 16
    # Resets at once, and a second.
    MOST_RESETS = 1000
    # Datagrams of one handshake that may come before its connection is known: a ClientHello takes two, sometimes three.
    MOST_BEGUN = 6
    KEY_SIZE = 32
    INVALID_TOKEN_CODE = 0x0B
    REFUSED_CODE = 0x02

# Seconds for which an Initial counts as just begun.
cdef double BEGUN_FOR = 1.0
# Without shared keys, a new one is made so often, seconds. Three of them last longer than a token of NEW_TOKEN.
cdef double ROTATION = 12 * 3600.0
# Seconds after which an event no longer counts: with it, a flood is over half a second after its end.
cdef double FADES = 0.5
# The share of memory above which new clients are refused, times the one that turns Retry on.
cdef double SHED = 1.1

# The verdicts, in the order of the checks.
cdef enum:
    DENIED = 1
    TOO_SHORT
    UNKNOWN_CONNECTION
    TOO_MANY_PACKETS
    OVER_BUDGET
    CAME_BEFORE
    UNKNOWN_VERSION
    SMALL_INITIAL
    NOT_INITIAL
    DRAINING
    FULL
    MEMORY_SHORT
    INVALID_TOKEN
    USED_TOKEN
    NETWORK_OVER_BUDGET
    RETRIED
    UNREADABLE
    TOO_MANY_FRAMES
    TOO_MANY_ACKS
    TOO_MANY_HANDSHAKES
    LAST_REASON

# As `tsq.quic.router.Drop` has them.
NAMES = {
    DENIED: "address that is denied",
    TOO_SHORT: "too short for a QUIC packet",
    UNKNOWN_CONNECTION: "unknown connection ID",
    TOO_MANY_PACKETS: "datagram with too many packets",
    OVER_BUDGET: "more packets than one connection may cost",
    CAME_BEFORE: "packet that came before",
    UNKNOWN_VERSION: "unknown version",
    SMALL_INITIAL: "Initial under 1200 bytes",
    NOT_INITIAL: "handshake packet of no connection",
    DRAINING: "server is draining",
    FULL: "connection limit reached",
    MEMORY_SHORT: "memory is short",
    INVALID_TOKEN: "invalid Retry token",
    USED_TOKEN: "Retry token that was used before",
    NETWORK_OVER_BUDGET: "more handshakes than one network may begin",
    UNREADABLE: "Initial that cannot be opened",
    TOO_MANY_FRAMES: "packet with too many frames",
    TOO_MANY_ACKS: "packet with too many acknowledgments",
    TOO_MANY_HANDSHAKES: "too many handshakes under way",
}

cdef enum:
    AUTO
    ALWAYS
    NEVER

MOST_TOKEN_KEYS = <int> MOST_KEYS
POLICIES = {"auto": AUTO, "always": ALWAYS, "never": NEVER}


@cython.final
cdef class Admission:
    """The rules for strangers of one server, for all of its sockets. Only one thread may use it at a time.

    half_open: how many handshakes are under way; full, draining: whether there is no room, or the server is about to end (the
    router keeps them). relaying: whether packets of handshakes that did not begin here go to another server, which judges them.
    unix_offset: what to add to the times given here to get Unix seconds, for tokens that other servers may read.
    """

    def __cinit__(self):
        cdef uint8_t key[KEY_SIZE]
        self.tokens = <TokenKeys*> calloc(1, sizeof(TokenKeys))
        self.buckets = <PrefixBuckets*> calloc(1, sizeof(PrefixBuckets))
        if self.tokens == NULL or self.buckets == NULL or known_init(&self.known):
            raise MemoryError()
        if (
            tools_set(&self.tools) or random_bytes(<uint8_t*> &self.table_key, sizeof(self.table_key))
            or random_bytes(key, KEY_SIZE)
        ):
            raise ConfigError("libcrypto gives no keys", expected="OpenSSL 3 with AES-128-GCM and random bytes")
        hmac_set(&self.reset_key, key, KEY_SIZE)
        self.keys = []
        self.owners = []
        self.keys_made = -1.0
        self.unix_offset = time.time() - time.monotonic()
        self.switch.failed.seconds = self.switch.arrivals.seconds = FADES
        self.resets.at = self.newcomers.at = self.handshakes.at = -1e9
        bucket_set(&self.resets, MOST_RESETS, MOST_RESETS)
        self.set_limits()
        self.set_versions([1])
        self.add_own_key()

    def __dealloc__(self):
        tools_free(&self.tools)
        known_free(&self.known)
        access_free(&self.access)
        if self.tokens != NULL:
            cleanse(self.tokens, sizeof(TokenKeys))
        cleanse(&self.reset_key, sizeof(self.reset_key))
        free(self.tokens)
        free(self.buckets)

    def __sizeof__(self):
        return object.__sizeof__(self) + sizeof(TokenKeys) + sizeof(PrefixBuckets) + self.known.capacity * sizeof(KnownId)

    # ----------------------------------------------------------------------------------------------------- settings

    def set_limits(
        self, *, str retry="auto", int half_open=200, double newcomers=300.0, double handshakes=500.0,
        int arrivals=20, double prefix_newcomers=100.0, double prefix_handshakes=300.0, double queue_delay=0.02,
        double memory=0.85, int packets=8, int frames=64, int acks=4, int ack_ranges=64, int handshake_packets=100,
    ):
        """The limits of `tsq.quic.limits`, which says what each is."""
        self.policy = POLICIES[retry]
        self.switch.most_load = half_open
        self.switch.failed.most = 2.0 * half_open
        self.switch.most_arrivals = arrivals
        self.switch.arrivals.most = 2.0 * arrivals
        self.switch.most_delay = queue_delay
        self.switch.most_memory = memory
        bucket_set(&self.newcomers, newcomers, newcomers)
        bucket_set(&self.handshakes, handshakes, handshakes)
        self.buckets.strangers_rate, self.buckets.strangers_burst = prefix_newcomers, 2 * prefix_newcomers
        self.buckets.validated_rate, self.buckets.validated_burst = prefix_handshakes, 2 * prefix_handshakes
        self.most_packets, self.most_frames, self.most_acks, self.most_ranges = packets, frames, acks, ack_ranges
        self.handshake_packets = handshake_packets

    def set_versions(self, versions):
        """The QUIC versions that are spoken, the preferred one first."""
        cdef list known = [version for version in versions if version]
        cdef int i
        self.version_count = min(len(known), <int> MOST_VERSIONS)
        for i in range(self.version_count):
            self.versions[i] = known[i]

    def set_access(self, bytes v4 not None, bytes v4_denied not None, bytes v6 not None, bytes v6_denied not None):
        """Rules by address, as `AccessList.compiled` gives them."""
        if len(v4) != 4 * len(v4_denied) or len(v6) != 16 * len(v6_denied):
            raise ConfigError(f"{len(v4)} and {len(v6)} bytes of addresses", expected="4 and 16 for each rule")
        access_set(&self.access.v4, v4, v4_denied, 4)
        access_set(&self.access.v6, v6, v6_denied, 16)
        self.has_rules = bool(v4_denied or v6_denied)

    def set_token_keys(self, keys):
        """Use these keys for tokens, the newest first; they are shared, and rotated by who shares them."""
        cdef list checked = list(keys)
        if not checked or len(checked) > MOST_KEYS or not all(type(key) is bytes and len(key) >= 16 for key in checked):
            raise ConfigError(f"{len(checked)} token keys", expected=f"1 to {<int> MOST_KEYS} of 16 bytes or more")
        self.shares_keys = True
        self.keys = checked
        self.load_keys()

    def set_reset_key(self, bytes key not None, bint alone=True):
        """The key of the stateless reset tokens (`tsq.quic.resets.reset_key`).

        alone: False where that is not all that it takes: then 100 packets a second of unknown connections pass, for the router.
        """
        self.leaves_resets = not alone
        hmac_set(&self.reset_key, <const uint8_t*> PyBytes_AS_STRING(key), len(key))

    def set_first_octet(self, int mask, int bits):
        """Which bits of the first octet of a Retry's connection ID are fixed, and to what."""
        self.id_mask, self.id_bits = <uint8_t> mask, <uint8_t> (bits & mask)

    def set_memory(self, double share):
        """How much of the memory that there is is in use, 0 to 1."""
        self.switch.memory = share if isfinite(share) else 0.0

    cdef void add_own_key(self):
        self.keys = [os.urandom(KEY_SIZE), *self.keys[:MOST_KEYS - 1]]
        self.load_keys()

    cdef void load_keys(self):
        cdef int i
        cdef bytes key
        for i in range(len(self.keys)):
            key = self.keys[i]
            token_keys_set(self.tokens, i, <const uint8_t*> PyBytes_AS_STRING(key), len(key))
        self.tokens.count = len(self.keys)

    def rotate_keys(self, double now):
        """Make a new key for tokens where it is time, unless the keys are shared. Call this now and then."""
        if self.shares_keys:
            return
        if self.keys_made < 0:
            self.keys_made = now
        elif now - self.keys_made >= ROTATION:
            self.keys_made = now
            self.add_own_key()

    # -------------------------------------------------------------------------------------------- what the router knows

    cdef void add_table(self, object owner, const Table* table):
        """Let short headers pass that belong to a session of another socket. owner: what keeps the table."""
        if self.table_count == MOST_TABLES:
            # The oldest one: a server has a few sockets, and new ones when it is started again.
            del self.owners[0]
            self.table_count -= 1
            memmove(self.tables, self.tables + 1, self.table_count * sizeof(self.tables[0]))
        self.owners.append(owner)
        self.tables[self.table_count] = table
        self.table_count += 1

    def add_id(self, bytes connection_id not None):
        """Let packets to this connection ID pass."""
        if known_add(&self.known, self.hash_of(<const uint8_t*> PyBytes_AS_STRING(connection_id), len(connection_id))):
            raise MemoryError()

    def discard_id(self, bytes connection_id not None):
        """Its connection is gone: what comes to it is a stranger's."""
        cdef uint64_t hash = self.hash_of(<const uint8_t*> PyBytes_AS_STRING(connection_id), len(connection_id))
        cdef int i
        known_remove(&self.known, hash)
        for i in range(RECENT):
            if self.begun[i].hash == hash:
                self.begun[i].hash = 0

    def failed(self, double now):
        """A handshake failed: that counts as load."""
        recent_add(&self.switch.failed, now)

    def wants_retry(self, double now):
        """Whether newcomers must show that they receive, before anything is kept for them."""
        return self.policy == ALWAYS or (self.policy == AUTO and retry_is_on(&self.switch, self.half_open, now))

    @property
    def retrying(self):
        """Whether load had Retry on when that was last decided."""
        return bool(self.switch.on)

    def dropped(self):
        """Why, and how many datagrams were dropped since the start: {reason: count}."""
        return {NAMES[verdict]: self.verdicts[verdict] for verdict in NAMES}

    # ------------------------------------------------------------------------------------------------------- judging

    def judge(self, bytes data not None, bytes remote not None, double now):
        """(why a datagram is dropped, a reply to it); (None, None) where it goes to the control plane. A Retry has no reason: "".

        remote: the packed address that it came from.
        """
        cdef uint8_t out[REPLY_CAPACITY]
        cdef Py_ssize_t size = 0
        cdef int verdict = self.judge_at(
            <const uint8_t*> PyBytes_AS_STRING(data), len(data), <const uint8_t*> PyBytes_AS_STRING(remote), len(remote), now,
            False, out, &size
        )
        reply = PyBytes_FromStringAndSize(<const char*> out, size) if size else None
        return None if verdict == PASSED else NAMES.get(verdict, ""), reply

    def validated(self, bytes data not None, bytes remote not None, double now):
        """(whether the token of an Initial that passed validates its address, the original connection ID of its Retry or None)."""
        cdef LongHeader header
        cdef Token token
        if read_long_header(<const uint8_t*> PyBytes_AS_STRING(data), len(data), &header) or header.kind != INITIAL:
            return False, None
        read_token(
            self.tokens, &token, header.token, header.token_size, <const uint8_t*> PyBytes_AS_STRING(remote), len(remote),
            header.destination, header.destination_size, self.unix_ms(now),
        )
        if token.kind == RETRY_TOKEN:
            return True, PyBytes_FromStringAndSize(<const char*> token.original, token.original_size)
        return token.kind == LASTING_TOKEN, None

    def new_token(self, bytes remote not None, double now):
        """A token for a NEW_TOKEN frame: with it, this address needs no Retry for a day (RFC 9000 §8.1.3)."""
        cdef uint8_t out[TOKEN_CAPACITY]
        cdef Py_ssize_t size = put_token(
            self.tokens, out, LASTING_TOKEN, <const uint8_t*> PyBytes_AS_STRING(remote), len(remote), NULL, 0, NULL, 0,
            self.unix_ms(now),
        )
        return PyBytes_FromStringAndSize(<const char*> out, size) if size > 0 else b""

    cdef int64_t unix_ms(self, double now) noexcept nogil:
        return <int64_t> ((now + self.unix_offset) * 1000)

    cdef uint64_t hash_of(self, const uint8_t* connection_id, int size) noexcept nogil:
        return table_hash(&self.table_key, connection_id, size)

    cdef bint denies(self, const uint8_t* remote, size_t remote_size) noexcept nogil:
        """Whether the rules deny an address; counted."""
        if not self.has_rules or not is_denied(&self.access, remote, remote_size):
            return False
        self.verdicts[DENIED] += 1
        return True

    cdef void note_wait(self, double delay, double now) noexcept nogil:
        """Note how long a stranger's datagram waited in the socket."""
        note_delay(&self.switch, delay, now)

    cdef int judge_at(
        self, const uint8_t* data, Py_ssize_t size, const uint8_t* remote, size_t remote_size, double now, bint ahead, uint8_t* out,
        Py_ssize_t* out_size
    ) noexcept nogil:
        """The verdict, counted. A reply of at most REPLY_CAPACITY bytes is written to `out`.

        ahead: datagrams that were judged before this one may still wait for the control plane.
        """
        cdef int verdict
        out_size[0] = 0
        if self.denies(remote, remote_size):
            return DENIED
        if size < 1 + ID_SIZE:
            verdict = TOO_SHORT
        elif data[0] & 0x80:
            verdict = self.judge_long(data, size, remote, remote_size, now, ahead, out, out_size)
        else:
            verdict = self.judge_short(data, size, now, out, out_size)
        self.verdicts[verdict] += 1
        return verdict

    cdef int judge_short(self, const uint8_t* data, Py_ssize_t size, double now, uint8_t* out, Py_ssize_t* out_size) noexcept nogil:
        """A packet of a connection; if that is unknown, a stateless reset may tell its sender (RFC 9000 §10.3).

        The reset is shorter than the packet: two ends could go on for ever. There are few of them.
        """
        cdef uint8_t digest[DIGEST_SIZE]
        cdef Py_ssize_t reset = min(size - 1, <Py_ssize_t> USUAL_RESET)
        cdef int i
        if known_find(&self.known, self.hash_of(data + 1, ID_SIZE)) != NULL:
            return PASSED
        for i in range(self.table_count):
            if table_find(self.tables[i], key_of(data + 1)) != NULL:
                return PASSED
        if reset < LEAST_RESET or not bucket_take(&self.resets, now):
            return UNKNOWN_CONNECTION
        if self.leaves_resets:
            return PASSED
        if not random_bytes(out, reset - RESET_TOKEN_SIZE):
            out[0] = (out[0] & 0x3F) | 0x40
            hmac(&self.reset_key, data + 1, ID_SIZE, digest)
            memcpy(out + reset - RESET_TOKEN_SIZE, digest, RESET_TOKEN_SIZE)
            out_size[0] = reset
            self.reset_count += 1
        return UNKNOWN_CONNECTION

    cdef int judge_long(
        self, const uint8_t* data, Py_ssize_t size, const uint8_t* remote, size_t remote_size, double now, bint ahead, uint8_t* out,
        Py_ssize_t* out_size
    ) noexcept nogil:
        """A packet with a long header: known connection, size, version, kind."""
        cdef LongHeader header
        cdef KnownId* known
        cdef uint8_t noise = 0
        cdef uint64_t end
        cdef int i
        if read_long_header(data, size, &header):
            return TOO_SHORT
        if header.packet_size < size and count_packets(data, size, self.most_packets) > self.most_packets:
            return TOO_MANY_PACKETS
        if header.destination_size <= MAX_CID_SIZE:
            known = known_find(&self.known, self.hash_of(header.destination, header.destination_size))
            if known != NULL:
                if known.passed >= <uint32_t> self.handshake_packets:
                    return OVER_BUDGET
                if header.kind == INITIAL and header.packet_size >= <Py_ssize_t> sizeof(end):
                    # A client that repeats itself seals a new packet: the same bytes again are a copy. aioquic would open it.
                    memcpy(&end, data + header.packet_size - sizeof(end), sizeof(end))
                    if known.last == end:
                        return CAME_BEFORE
                    known.last = end
                known.passed += 1
                return PASSED
        if header.kind == NEGOTIATION:
            return UNKNOWN_VERSION
        if self.relaying and (header.kind != INITIAL or size >= LEAST_INITIAL):
            return PASSED
        if ahead and header.kind == ZERO_RTT and header.destination_size <= MAX_CID_SIZE:
            # It may follow its ClientHello in a datagram of its own, so closely that the connection has not been made yet.
            if self.began_just_now(self.hash_of(header.destination, header.destination_size), now):
                return PASSED
        if size < LEAST_INITIAL:
            return SMALL_INITIAL
        for i in range(self.version_count):
            if self.versions[i] == header.version:
                break
        else:
            random_bytes(&noise, 1)
            out_size[0] = put_negotiation(out, &header, self.versions, self.version_count, noise)
            return UNKNOWN_VERSION
        if header.kind != INITIAL:
            return NOT_INITIAL
        return self.judge_initial(&header, data, remote, remote_size, now, out, out_size)

    cdef int judge_initial(
        self, const LongHeader* header, const uint8_t* data, const uint8_t* remote, size_t remote_size, double now, uint8_t* out,
        Py_ssize_t* out_size
    ) noexcept nogil:
        """An Initial of no connection: room, token, what its network may still begin, Retry, and only then what is in it."""
        cdef Token token
        cdef PrefixBucket* bucket
        cdef uint64_t hash = self.hash_of(header.destination, header.destination_size)
        cdef bint validated
        cdef int verdict
        if self.draining:
            return self.turn_away(header, data, now, DRAINING, out, out_size)
        if self.full:
            return self.turn_away(header, data, now, FULL, out, out_size)
        if self.switch.memory >= SHED * self.switch.most_memory:
            self.switch.on = True
            return self.turn_away(header, data, now, MEMORY_SHORT, out, out_size)
        if self.began_just_now(hash, now):
            return self.judge_contents(header, data, now)
        read_token(
            self.tokens, &token, header.token, header.token_size, remote, remote_size, header.destination, header.destination_size,
            self.unix_ms(now)
        )
        validated = token.kind == LASTING_TOKEN or (token.kind == RETRY_TOKEN and not token_was_used(self.tokens, &token))
        bucket = bucket_of(self.buckets, &self.table_key, remote, remote_size, now)
        if validated:
            if bucket.validated < 1:
                return NETWORK_OVER_BUDGET
            bucket.validated -= 1
        else:
            if self.policy == ALWAYS or (
                self.policy == AUTO and (retry_is_on(&self.switch, self.half_open, now) or bucket.strangers < 1)
            ):
                recent_add(&self.switch.arrivals, now)
                return self.ask_back(header, &token, remote, remote_size, now, out, out_size)
            if bucket.strangers < 1:
                return NETWORK_OVER_BUDGET
            bucket.strangers -= 1
        verdict = self.judge_contents(header, data, now)
        if verdict != PASSED:
            return verdict
        if validated:
            if not bucket_take(&self.handshakes, now):
                return TOO_MANY_HANDSHAKES
            if token.kind == RETRY_TOKEN:
                use_token(self.tokens, &token, now)
        elif self.half_open >= self.switch.most_load and not bucket_take(&self.newcomers, now):
            return TOO_MANY_HANDSHAKES
        else:
            recent_add(&self.switch.arrivals, now)
        self.begun[self.next_begun].hash = hash
        self.begun[self.next_begun].at = now
        self.begun[self.next_begun].packets = 1
        self.next_begun = (self.next_begun + 1) % RECENT
        return PASSED

    cdef int judge_contents(self, const LongHeader* header, const uint8_t* data, double now) noexcept nogil:
        """Open an Initial, and count its frames. One that is refused counts as load."""
        cdef Py_ssize_t size = open_initial(&self.tools, header, data, self.plain)
        cdef int excess = 0
        if size >= 0:
            excess = frames_excess(self.plain, size, self.most_frames, self.most_acks, self.most_ranges)
            if not excess:
                return PASSED
        recent_add(&self.switch.failed, now)
        if size < 0:
            return UNREADABLE
        return TOO_MANY_ACKS if excess == TOO_MANY_ACK_RANGES else TOO_MANY_FRAMES

    cdef int ask_back(
        self, const LongHeader* header, const Token* token, const uint8_t* remote, size_t remote_size, double now, uint8_t* out,
        Py_ssize_t* out_size
    ) noexcept nogil:
        """Have a client show that it receives. A client takes one Retry only: what is wrong with its token ends its attempt."""
        cdef uint8_t random[ID_SIZE + 1]
        cdef uint8_t made[TOKEN_CAPACITY]
        cdef Py_ssize_t size
        if token.kind == RETRY_TOKEN:
            return USED_TOKEN
        if token.kind == BAD_TOKEN:
            # RFC 9000 §8.1.3. Sealing it costs less than opening what came.
            if bucket_take(&self.newcomers, now):
                size = put_close(&self.tools, out, header, INVALID_TOKEN_CODE, "invalid token", 13)
                out_size[0] = size if size > 0 else 0
            return INVALID_TOKEN
        if random_bytes(random, sizeof(random)):
            return RETRIED
        random[0] = (random[0] & ~self.id_mask) | self.id_bits
        size = put_token(
            self.tokens, made, RETRY_TOKEN, remote, remote_size, header.destination, header.destination_size, random, ID_SIZE,
            self.unix_ms(now)
        )
        if size > 0:
            size = put_retry(&self.tools, out, header, random, ID_SIZE, made, size, random[ID_SIZE])
        if size > 0:
            out_size[0] = size
            self.retries += 1
        return RETRIED

    cdef int turn_away(
        self, const LongHeader* header, const uint8_t* data, double now, int reason, uint8_t* out, Py_ssize_t* out_size
    ) noexcept nogil:
        """Tell a client that there is no room for it, so that it need not wait for a time-out (RFC 9000 §20.1).

        One small datagram for an Initial that opens, and no more of them in a second than handshakes of strangers may begin.
        """
        cdef Py_ssize_t size
        if not bucket_take(&self.newcomers, now) or open_initial(&self.tools, header, data, self.plain) < 0:
            return reason
        if reason == DRAINING:
            size = put_close(&self.tools, out, header, REFUSED_CODE, "server is draining", 18)
        elif reason == FULL:
            size = put_close(&self.tools, out, header, REFUSED_CODE, "connection limit reached", 24)
        else:
            size = put_close(&self.tools, out, header, REFUSED_CODE, "memory is short", 15)
        if size > 0:
            out_size[0] = size
            self.refused += 1
        return reason

    cdef bint began_just_now(self, uint64_t hash, double now) noexcept nogil:
        """Whether this is one more datagram of a client whose ClientHello was admitted and may wait for the control plane."""
        cdef int i
        for i in range(RECENT):
            if self.begun[i].hash == hash and now - self.begun[i].at < BEGUN_FOR:
                self.begun[i].packets += 1
                return self.begun[i].packets <= MOST_BEGUN
        return False
