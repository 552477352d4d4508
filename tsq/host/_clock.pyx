"""The kernel's clock calls, compiled: reading its state, and setting it (adjtimex(2), clock_adjtime(2)).

Comes in: what to change, as the numbers of struct timex. Goes out: the state as a tuple of those numbers. It must never decide what
to change, and is imported by `tsq/host/clock.py` alone.
"""
from libc.errno cimport EPERM, errno
from libc.string cimport memset

import os

from tsq.errors import ClockError, NotPermitted


cdef extern from *:
    """
    #ifndef TSQ_BUILD_TIME
    #error "TSQ_BUILD_TIME is set by setup.py"
    #endif
    """
    long long TSQ_BUILD_TIME


cdef extern from "<time.h>" nogil:
    int CLOCK_REALTIME


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


# When this package was built, Unix seconds: no correct clock shows an earlier time.
BUILD_TIME = TSQ_BUILD_TIME


# ADJ_OFFSET_SS_READ: reads, in spite of its bits. ADJ_OFFSET_SINGLESHOT: sets.
cdef enum:
    OLD_READ = 0xa001
    OLD_SET = 0x8001


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


def adjust(unsigned int modes, *, long offset=0, long maxerror=0, long esterror=0, int status=0, long constant=0, long seconds=0,
           long nanoseconds=0):
    """Change the fields that `modes` selects, and return the state as `read` does. Raises ClockError where the kernel refuses."""
    cdef timex buffer
    memset(&buffer, 0, sizeof(buffer))
    buffer.modes = modes
    buffer.offset = offset
    buffer.maxerror = maxerror
    buffer.esterror = esterror
    buffer.status = status
    buffer.constant = constant
    buffer.time.tv_sec = seconds
    buffer.time.tv_usec = nanoseconds
    return _call(&buffer)


cdef tuple _call(timex* buffer):
    if clock_adjtime(CLOCK_REALTIME, buffer) < 0:
        if errno == EPERM:
            raise NotPermitted("not permitted to set the clock", expected="CAP_SYS_TIME, as root has it")
        raise ClockError(f"the kernel refuses to change the clock: {os.strerror(errno)}")
    return buffer.status, buffer.offset, buffer.freq, buffer.maxerror, buffer.esterror, buffer.constant, buffer.tick
