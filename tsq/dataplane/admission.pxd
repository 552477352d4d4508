"""C-level interface of tsq.dataplane.admission, for the data plane."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from tsq._fast cimport View
from tsq.dataplane.digests cimport HmacKey, TableKey
from tsq.dataplane.initials cimport MOST_DATAGRAM, MOST_VERSIONS, InitialTools, LongHeader
from tsq.dataplane.prefixes cimport AccessTable, KnownIds, PrefixBuckets
from tsq.dataplane.pressure cimport Bucket, RetrySwitch
from tsq.dataplane.table cimport Table
from tsq.dataplane.tokens cimport Token, TokenKeys


cdef enum:
    RECENT = 256
    REASONS = 32
    MOST_TABLES = 64

# A verdict: the datagram goes to the control plane, or why it does not.
cdef enum:
    PASSED


# An Initial that was passed up a moment ago: its connection may not be known yet.
cdef struct Begun:
    uint64_t hash
    double at
    int packets


cdef class Admission:
    cdef InitialTools tools
    cdef TokenKeys* tokens
    cdef PrefixBuckets* buckets
    cdef AccessTable access
    cdef KnownIds known
    cdef TableKey table_key
    cdef HmacKey reset_key
    cdef RetrySwitch switch
    cdef Bucket newcomers, handshakes, resets
    cdef Begun begun[RECENT]
    cdef int next_begun
    cdef uint32_t versions[MOST_VERSIONS]
    cdef int version_count
    cdef int policy
    cdef int most_packets, most_frames, most_acks, most_ranges, handshake_packets
    cdef bint has_rules, shares_keys
    cdef double keys_made
    cdef uint64_t verdicts[REASONS]
    cdef uint8_t id_mask, id_bits
    cdef uint8_t plain[MOST_DATAGRAM + 64]
    cdef list keys
    cdef list owners
    cdef const Table* tables[MOST_TABLES]
    cdef int table_count
    cdef bint leaves_resets
    cdef readonly uint64_t retries, reset_count, refused
    cdef public int half_open
    cdef public bint full, draining, relaying
    cdef public double unix_offset

    cdef int judge_at(
        self, const uint8_t* data, Py_ssize_t size, const uint8_t* remote, size_t remote_size, double now, bint ahead, uint8_t* out,
        Py_ssize_t* out_size
    ) noexcept nogil
    cdef bint denies(self, const uint8_t* remote, size_t remote_size) noexcept nogil
    cdef void note_wait(self, double delay, double now) noexcept nogil
    cdef int judge_short(self, const uint8_t* data, Py_ssize_t size, double now, uint8_t* out, Py_ssize_t* out_size) noexcept nogil
    cdef int judge_long(
        self, const uint8_t* data, Py_ssize_t size, const uint8_t* remote, size_t remote_size, double now, bint ahead, uint8_t* out,
        Py_ssize_t* out_size
    ) noexcept nogil
    cdef int judge_initial(
        self, const LongHeader* header, const uint8_t* data, const uint8_t* remote, size_t remote_size, double now, uint8_t* out,
        Py_ssize_t* out_size
    ) noexcept nogil
    cdef int judge_contents(self, const LongHeader* header, const uint8_t* data, double now) noexcept nogil
    cdef int ask_back(
        self, const LongHeader* header, const Token* token, const uint8_t* remote, size_t remote_size, double now, uint8_t* out,
        Py_ssize_t* out_size
    ) noexcept nogil
    cdef int turn_away(
        self, const LongHeader* header, const uint8_t* data, double now, int reason, uint8_t* out, Py_ssize_t* out_size
    ) noexcept nogil
    cdef bint began_just_now(self, uint64_t hash, double now) noexcept nogil
    cdef uint64_t hash_of(self, const uint8_t* connection_id, int size) noexcept nogil
    cdef void add_table(self, object owner, const Table* table)
    cdef void add_own_key(self)
    cdef void load_keys(self)
    cdef int64_t unix_ms(self, double now) noexcept nogil
