"""Shared memory that other programs read, compiled: the segment of `tsq.now()`, ClockBound's, and NTP SHM (driver 28).

Comes in: memory as a buffer, numbers to write. Goes out: numbers that belong together, though the memory changes while it is read.
It must never wait for another process, decide what a number means, or write outside of the buffer.
Layouts: docs/reference/now-segment.md, docs/howto/bounded-time.md, docs/howto/feed-chrony.md.
"""
from libc.errno cimport errno
from libc.stdint cimport INT64_MAX, INT64_MIN, int32_t, int64_t, uint8_t, uint32_t, uint64_t

import os

cimport cython

from tsq._fast cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec


cdef extern from "<time.h>" nogil:
    int CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_MONOTONIC_COARSE
    int clock_getres(int clock, timespec* out)


cdef extern from "<sys/shm.h>" nogil:
    ctypedef int key_t
    int IPC_CREAT
    int shmget(key_t key, size_t size, int flags)
    void* shmat(int id, const void* address, int flags)
    int shmdt(const void* address)


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* Each word is loaded and stored whole; fences order them. Readers never write. */
    static inline void put_words(uint8_t *to, const uint64_t *from, int count)
    {
        for (int i = 0; i < count; i++)
            __atomic_store_n((uint64_t *) (to + 8 * i), from[i], __ATOMIC_RELAXED);
    }
    static inline void get_words(uint64_t *to, const uint8_t *from, int count)
    {
        for (int i = 0; i < count; i++)
            to[i] = __atomic_load_n((const uint64_t *) (from + 8 * i), __ATOMIC_RELAXED);
    }

    /* Two slots and a sequence number: readers use slot (sequence & 1), the writer changes the other one. So there is a whole slot
       at any time, even if the writer dies in the middle. */
    static void latch_put(uint8_t *sequence, uint8_t *slots, int size, const uint64_t *from)
    {
        uint64_t number = __atomic_load_n((uint64_t *) sequence, __ATOMIC_RELAXED) & ~(uint64_t) 1;
        for (int slot = 0; slot < 2; slot++) {
            __atomic_thread_fence(__ATOMIC_RELEASE);
            __atomic_store_n((uint64_t *) sequence, ++number, __ATOMIC_RELAXED);
            __atomic_thread_fence(__ATOMIC_RELEASE);
            put_words(slots + slot * size, from, size / 8);
        }
    }
    static int latch_get(const uint8_t *sequence, const uint8_t *slots, int size, uint64_t *to)
    {
        /* It changes twice for each update, and a read takes some ns: a second attempt is rare, a third one hardly ever needed. */
        for (int attempt = 0; attempt < 1000; attempt++) {
            uint64_t number = __atomic_load_n((const uint64_t *) sequence, __ATOMIC_ACQUIRE);
            get_words(to, slots + (number & 1) * size, size / 8);
            __atomic_thread_fence(__ATOMIC_ACQUIRE);
            if (__atomic_load_n((const uint64_t *) sequence, __ATOMIC_RELAXED) == number)
                return 1;
        }
        return 0;
    }

    /* ClockBound's generation: odd while it is written, even when that is done; 0 means "never written". */
    static void generation_put(uint8_t *generation, uint8_t *to, const uint64_t *from, int count)
    {
        uint16_t number = __atomic_load_n((uint16_t *) generation, __ATOMIC_RELAXED) | 1;
        __atomic_store_n((uint16_t *) generation, number, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_RELEASE);
        put_words(to, from, count);
        number++;
        __atomic_store_n((uint16_t *) generation, number ? number : 2, __ATOMIC_RELEASE);
    }

    static inline void put_i32(uint8_t *to, int32_t value) { __atomic_store_n((int32_t *) to, value, __ATOMIC_RELAXED); }
    static inline int32_t get_i32(const uint8_t *from) { return __atomic_load_n((const int32_t *) from, __ATOMIC_RELAXED); }
    static inline void fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    static inline uint64_t bits_of(double value) { uint64_t bits; memcpy(&bits, &value, 8); return bits; }
    static inline double of_bits(uint64_t bits) { double value; memcpy(&value, &bits, 8); return value; }
    /* Two fields in one word, in the order of memory. */
    static inline uint64_t pair_of(uint32_t first, int32_t second)
    {
        uint64_t word;
        memcpy(&word, &first, 4);
        memcpy((uint8_t *) &word + 4, &second, 4);
        return word;
    }
    static inline int shmat_failed(const void *address) { return address == (void *) -1; }
    """
    void latch_put(uint8_t* sequence, uint8_t* slots, int size, const uint64_t* words) nogil
    int latch_get(const uint8_t* sequence, const uint8_t* slots, int size, uint64_t* words) nogil
    void generation_put(uint8_t* generation, uint8_t* to, const uint64_t* words, int count) nogil
    void put_words(uint8_t* to, const uint64_t* words, int count) nogil
    void put_i32(uint8_t* to, int32_t value) nogil
    int32_t get_i32(const uint8_t* at) nogil
    void fence() nogil
    uint64_t bits_of(double value) nogil
    double of_bits(uint64_t bits) nogil
    uint64_t pair_of(uint32_t first, int32_t second) nogil
    bint shmat_failed(const void* address) nogil


cdef enum:
    # docs/reference/now-segment.md
    C_NOW_SIZE = 384
    SEQUENCE_AT = 16
    ENDED_AT = 24
    SLOTS_AT = 128
    SLOT_SIZE = 128
    SLOT_WORDS = 16
    # ClockBound, protocol version 2: from the as-of time to the end.
    C_CLOCKBOUND_SIZE = 80
    GENERATION_AT = 14
    AS_OF_AT = 16
    CLOCKBOUND_WORDS = 8
    # NTP SHM.
    C_SHM_SIZE = 96
    SHM_KEY = 0x4e545030
    SHM_MODE_AT = 0
    SHM_COUNT_AT = 4
    SHM_CLOCK_AT = 8
    SHM_RECEIVE_AT = 24
    SHM_LEAP_AT = 36
    SHM_PRECISION_AT = 40
    SHM_SAMPLES_AT = 44
    SHM_VALID_AT = 48
    SHM_CLOCK_NS_AT = 52
    SHM_RECEIVE_NS_AT = 56
    # Clocks are read again where the process was interrupted between two readings.
    ATTEMPTS = 4
    WIDE_NS = 1000
    NS_PER_S = 1000000000

NOW_SIZE = C_NOW_SIZE
CLOCKBOUND_SIZE = C_CLOCKBOUND_SIZE
SHM_SIZE = C_SHM_SIZE

# Another program's step of the clock, a sleep of the machine, or another time namespace: these differences change then, and at no
# other time.
cdef int64_t MOVED_NS = 1000000
# Without an update for this long, nobody keeps the clock at present.
cdef int64_t KEPT_NS = 16 * <int64_t> NS_PER_S
# A period that is too long for any sum below to overflow.
cdef int64_t LONGEST_NS = INT64_MAX // 8


cdef struct Clocks:
    int64_t raw
    int64_t monotonic
    int64_t boot
    int64_t real


cdef inline int64_t clock_ns(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <int64_t> now.tv_sec * NS_PER_S + now.tv_nsec


cdef void read_clocks(Clocks* out) noexcept nogil:
    """All clocks at one moment. The raw clock is read last: what is derived from it holds when this returns."""
    cdef Clocks now
    cdef int64_t began, width, least = INT64_MAX
    cdef int _attempt
    for _attempt in range(ATTEMPTS):
        began = clock_ns(CLOCK_MONOTONIC)
        now.real = clock_ns(CLOCK_REALTIME)
        now.boot = clock_ns(CLOCK_BOOTTIME)
        now.monotonic = clock_ns(CLOCK_MONOTONIC)
        now.raw = clock_ns(CLOCK_MONOTONIC_RAW)
        width = now.monotonic - began
        if width < least:
            least = width
            out[0] = now
        if width <= WIDE_NS:
            return


def clocks():
    """(CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME) at one moment, ns."""
    cdef Clocks now
    read_clocks(&now)
    return now.raw, now.monotonic, now.boot, now.real


def coarse_clock():
    """CLOCK_MONOTONIC_COARSE and its resolution, ns."""
    cdef timespec step
    clock_getres(CLOCK_MONOTONIC_COARSE, &step)
    return clock_ns(CLOCK_MONOTONIC_COARSE), <int64_t> step.tv_sec * NS_PER_S + step.tv_nsec


@cython.final
cdef class NowWriter:
    """Writes the changing part of the segment of `tsq.now()` into memory that holds its header."""

    cdef uint8_t[::1] memory

    def __init__(self, memory not None):
        self.memory = memory
        check_size(self.memory.shape[0], C_NOW_SIZE)

    def write(self, int64_t raw_ns, int64_t earliest_ns, int64_t latest_ns, double frequency, double growth, int64_t void_ns,
              int64_t moved_ns, int64_t asleep_ns, uint32_t status):
        """Replace all numbers at once."""
        cdef uint64_t words[SLOT_WORDS]
        words[0] = <uint64_t> raw_ns
        words[1] = <uint64_t> earliest_ns
        words[2] = <uint64_t> latest_ns
        words[3] = bits_of(frequency)
        words[4] = bits_of(growth)
        words[5] = <uint64_t> void_ns
        words[6] = <uint64_t> moved_ns
        words[7] = <uint64_t> asleep_ns
        words[8] = status
        for i in range(9, SLOT_WORDS):
            words[i] = 0
        latch_put(&self.memory[SEQUENCE_AT], &self.memory[SLOTS_AT], SLOT_SIZE, words)


@cython.final
cdef class NowReader:
    """Reads the time from memory that holds the segment of `tsq.now()`.

    result: makes the result of (earliest, latest, status). statuses: by their numbers in the segment; then the one of a status that
    this version does not know. disrupted: the status after a step or a sleep. kept, left: a status that becomes another one when it
    was not updated for 16 s.
    """

    cdef const uint8_t[::1] memory
    cdef object result
    cdef tuple statuses
    cdef uint32_t unsynchronized, disrupted, kept, left

    def __init__(self, memory not None, result not None, tuple statuses not None, *, uint32_t unsynchronized, uint32_t disrupted,
                 uint32_t kept, uint32_t left):
        self.memory = memory
        check_size(self.memory.shape[0], C_NOW_SIZE)
        self.result = result
        self.statuses = statuses
        self.unsynchronized = unsynchronized
        self.disrupted = disrupted
        self.kept = kept
        self.left = left
        if max(unsynchronized, disrupted, kept, left) >= len(statuses):
            raise ValueError("a status that is not in the table")

    def age(self):
        """Seconds since the last update; None if there was none."""
        cdef uint64_t words[SLOT_WORDS]
        if not latch_get(&self.memory[SEQUENCE_AT], &self.memory[SLOTS_AT], SLOT_SIZE, words) or not words[0]:
            return None
        return (clock_ns(CLOCK_MONOTONIC_RAW) - <int64_t> words[0]) / 1e9

    def now(self):
        """The time; None where this memory has nothing to tell: it was replaced, never written, or not for too long."""
        cdef uint64_t words[SLOT_WORDS]
        cdef Clocks clocks
        cdef int64_t elapsed, middle, grown, earliest = INT64_MIN, latest = INT64_MAX
        cdef uint32_t status
        if get_i32(&self.memory[ENDED_AT]):
            return None
        if not latch_get(&self.memory[SEQUENCE_AT], &self.memory[SLOTS_AT], SLOT_SIZE, words):
            return None
        read_clocks(&clocks)
        if not words[0] or clocks.raw > <int64_t> words[5]:
            return None
        elapsed = clocks.raw - <int64_t> words[0]
        status = <uint32_t> words[8]
        if status >= <uint32_t> len(self.statuses):
            status = self.unsynchronized
        elif (
            not -MOVED_NS < elapsed < LONGEST_NS
            or not -MOVED_NS < clocks.real - clocks.monotonic - <int64_t> words[6] < MOVED_NS
            or not -MOVED_NS < clocks.boot - clocks.monotonic - <int64_t> words[7] < MOVED_NS
        ):
            status = self.disrupted
        elif status != self.unsynchronized and status != self.disrupted:
            elapsed = max(elapsed, 0)
            middle = elapsed + <int64_t> (elapsed * of_bits(words[3]))
            # Rounded outwards.
            grown = <int64_t> (elapsed * of_bits(words[4])) + 2
            earliest = <int64_t> words[1] + middle - grown
            latest = <int64_t> words[2] + middle + grown
            if status == self.kept and elapsed > KEPT_NS:
                status = self.left
        return self.result(earliest, latest, self.statuses[status])


@cython.final
cdef class ClockBoundWriter:
    """Writes the changing part of a ClockBound segment, protocol version 2, into memory that holds its header."""

    cdef uint8_t[::1] memory

    def __init__(self, memory not None):
        self.memory = memory
        check_size(self.memory.shape[0], C_CLOCKBOUND_SIZE)

    def write(self, int64_t as_of_ns, int64_t void_ns, int64_t bound_ns, uint32_t drift_ppb, int32_t status):
        """Replace all numbers at once. as_of_ns, void_ns: CLOCK_MONOTONIC_COARSE."""
        cdef uint64_t words[CLOCKBOUND_WORDS]
        words[0] = <uint64_t> (as_of_ns // NS_PER_S)
        words[1] = <uint64_t> (as_of_ns % NS_PER_S)
        words[2] = <uint64_t> (void_ns // NS_PER_S)
        words[3] = <uint64_t> (void_ns % NS_PER_S)
        words[4] = <uint64_t> bound_ns
        # No marker of disruptions, and none is supported: TSQ learns of them from its samples.
        words[5] = 0
        words[6] = pair_of(drift_ppb, status)
        words[7] = 0
        generation_put(&self.memory[GENERATION_AT], &self.memory[AS_OF_AT], words, CLOCKBOUND_WORDS)


@cython.final
cdef class NtpShm:
    """One unit of NTP SHM: attached, and created if it is missing. Raises OSError."""

    cdef uint8_t* memory

    def __cinit__(self, int unit, int mode):
        cdef void* address
        cdef int id = shmget(<key_t> (SHM_KEY + unit), C_SHM_SIZE, IPC_CREAT | mode)
        self.memory = NULL
        if id < 0:
            raise OSError(errno, os.strerror(errno))
        address = shmat(id, NULL, 0)
        if shmat_failed(address):
            raise OSError(errno, os.strerror(errno))
        self.memory = <uint8_t*> address

    def write(self, int64_t true_ns, int64_t local_ns, int leap, int precision):
        """One sample: the true time, and the local time at which it was true. Both Unix ns, not before 1970."""
        cdef uint8_t* at = self.memory
        if at == NULL:
            raise ValueError("it is closed")
        if true_ns < 0 or local_ns < 0:
            raise ValueError("a time before 1970")
        # The reader takes a sample only where `valid` is set and `count` did not change while it read.
        put_i32(at + SHM_VALID_AT, 0)
        put_i32(at + SHM_MODE_AT, 1)
        put_i32(at + SHM_COUNT_AT, <int32_t> (<uint32_t> get_i32(at + SHM_COUNT_AT) + 1))
        fence()
        put_time(at + SHM_CLOCK_AT, at + SHM_CLOCK_NS_AT, true_ns)
        put_time(at + SHM_RECEIVE_AT, at + SHM_RECEIVE_NS_AT, local_ns)
        put_i32(at + SHM_LEAP_AT, leap)
        put_i32(at + SHM_PRECISION_AT, precision)
        put_i32(at + SHM_SAMPLES_AT, 0)
        fence()
        put_i32(at + SHM_COUNT_AT, <int32_t> (<uint32_t> get_i32(at + SHM_COUNT_AT) + 1))
        put_i32(at + SHM_VALID_AT, 1)

    def close(self):
        """Detach. A sample that was not read yet is not valid any more; the segment stays for its reader."""
        if self.memory != NULL:
            put_i32(self.memory + SHM_VALID_AT, 0)
            shmdt(self.memory)
            self.memory = NULL

    def __dealloc__(self):
        if self.memory != NULL:
            shmdt(self.memory)


cdef void put_time(uint8_t* seconds_at, uint8_t* nanoseconds_at, int64_t at_ns) noexcept nogil:
    """Seconds (int64) with microseconds (int32) after them, and the nanoseconds elsewhere."""
    cdef uint64_t seconds = <uint64_t> (at_ns // NS_PER_S)
    cdef int32_t nanoseconds = <int32_t> (at_ns % NS_PER_S)
    put_words(seconds_at, &seconds, 1)
    put_i32(seconds_at + 8, nanoseconds // 1000)
    put_i32(nanoseconds_at, nanoseconds)


cdef int check_size(Py_ssize_t size, Py_ssize_t least) except -1:
    if size < least:
        raise ValueError(f"{size} bytes of memory, expected {least}")
    return 0
