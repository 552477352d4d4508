"""The kernel's clock calls, compiled: reading its state, and setting it (adjtimex(2), clock_adjtime(2)).

Comes in: what to change, as the numbers of struct timex. Goes out: the state as a tuple of those numbers; readings of the clocks.
It must never decide what to change, and is imported by `tsq/host/clock.py` alone.
"""
from libc.errno cimport EPERM, errno
from libc.string cimport memset

import os

from tsq.errors import ClockError, NotPermitted


cdef extern from "<time.h>" nogil:
    ctypedef int clockid_t
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    clockid_t CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME
    int clock_gettime(clockid_t clock, timespec* at)


cdef extern from "<sys/timex.h>" nogil:
    cdef struct timeval_of_timex "timeval":
        long tv_sec
        long tv_usec
    cdef struct timex:
        unsigned int modes
        long offset
        long freq
        long maxerror
        long esterror
        int status
        long constant
        timeval_of_timex time
        long tick
    int clock_adjtime(int clock, timex* buffer)


# ADJ_OFFSET_SS_READ: reads, in spite of its bits. ADJ_OFFSET_SINGLESHOT: sets.
cdef enum:
    OLD_READ = 0xa001
    OLD_SET = 0x8001


# A reading is repeated when it was interrupted for more than WIDE_NS, but not for ever.
cdef enum:
    MOST_READINGS = 8
    WIDE_NS = 200


def clocks():
    """Readings of REALTIME and MONOTONIC_RAW at one instant, how long that took, and of MONOTONIC and BOOTTIME at another; ns.

    Of several attempts, the quickest. Changes nothing; needs no privilege.
    """
    cdef long long before, real, between, boot, after
    cdef long long best_width = -1, best_sleep = -1
    cdef long long raw_at = 0, real_at = 0, monotonic_at = 0, boot_at = 0
    cdef int _attempt
    for _attempt in range(MOST_READINGS):
        before = _now(CLOCK_MONOTONIC_RAW)
        real = _now(CLOCK_REALTIME)
        between = _now(CLOCK_MONOTONIC_RAW)
        if best_width < 0 or between - before < best_width:
            best_width, real_at, raw_at = between - before, real, before + (between - before) // 2
        if best_width <= WIDE_NS:
            break
    for _attempt in range(MOST_READINGS):
        before = _now(CLOCK_MONOTONIC)
        boot = _now(CLOCK_BOOTTIME)
        after = _now(CLOCK_MONOTONIC)
        if best_sleep < 0 or after - before < best_sleep:
            best_sleep, boot_at, monotonic_at = after - before, boot, before + (after - before) // 2
        if best_sleep <= WIDE_NS:
            break
    return real_at, raw_at, best_width, monotonic_at, boot_at


cdef long long _now(clockid_t clock) noexcept nogil:
    cdef timespec at
    clock_gettime(clock, &at)
    return at.tv_sec * 1000000000LL + at.tv_nsec


def read():
    """The kernel's (status, offset, freq, maxerror, esterror, constant, tick). Changes nothing; needs no privilege."""
    cdef timex buffer
    memset(&buffer, 0, sizeof(buffer))
    return _call(&buffer)


def read_old_slew():
    """The offset that a single-shot slew has not corrected yet, microseconds. Changes nothing; needs no privilege."""
    cdef timex buffer
    memset(&buffer, 0, sizeof(buffer))
    buffer.modes = OLD_READ
    _call(&buffer)
    return buffer.offset


def stop_old_slew():
    """Cancel a single-shot slew. Raises ClockError where the kernel refuses."""
    cdef timex buffer
    memset(&buffer, 0, sizeof(buffer))
    buffer.modes = OLD_SET
    _call(&buffer)


def adjust(unsigned int modes, *, long offset=0, long frequency=0, long maxerror=0, long esterror=0, int status=0, long constant=0,
           long seconds=0, long nanoseconds=0, long tick=0):
    """Change the fields that `modes` selects, and return the state as `read` does. Raises ClockError where the kernel refuses."""
    cdef timex buffer
    memset(&buffer, 0, sizeof(buffer))
    buffer.modes = modes
    buffer.offset = offset
    buffer.freq = frequency
    buffer.maxerror = maxerror
    buffer.esterror = esterror
    buffer.status = status
    buffer.constant = constant
    buffer.time.tv_sec = seconds
    buffer.time.tv_usec = nanoseconds
    buffer.tick = tick
    return _call(&buffer)


cdef tuple _call(timex* buffer):
    if clock_adjtime(CLOCK_REALTIME, buffer) < 0:
        if errno == EPERM:
            raise NotPermitted("not permitted to set the clock", expected="CAP_SYS_TIME, as root has it")
        raise ClockError(f"the kernel refuses to change the clock: {os.strerror(errno)}")
    return buffer.status, buffer.offset, buffer.freq, buffer.maxerror, buffer.esterror, buffer.constant, buffer.tick
