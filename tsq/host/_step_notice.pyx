"""A descriptor that becomes readable when a clock is set, compiled: timerfd_create(2) with TFD_TIMER_CANCEL_ON_SET.

Comes in: nothing but the descriptor. Goes out: the descriptor, ready for the next time. It must never read or set a clock.
"""
from libc.errno cimport errno
from libc.string cimport memset
from posix.unistd cimport close, read

import os

cdef extern from "<errno.h>" nogil:
    int ECANCELED


cdef extern from "<sys/timerfd.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    cdef struct itimerspec:
        timespec it_interval
        timespec it_value
    int TFD_NONBLOCK, TFD_CLOEXEC, TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET
    int CLOCK_REALTIME
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec* new, itimerspec* old)


# The timer never ends by itself: 2^33 s are in the year 2242.
cdef enum:
    NEVER = 8589934592


def open_notice():
    """The descriptor. Raises OSError."""
    cdef int fd = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC)
    if fd < 0:
        raise OSError(errno, os.strerror(errno))
    try:
        arm(fd)
    except OSError:
        close(fd)
        raise
    return fd


def arm(int fd):
    """Be ready for the next time; whether the clock was set since the last call. Raises OSError."""
    cdef unsigned long long ends
    cdef itimerspec never
    memset(&never, 0, sizeof(never))
    never.it_value.tv_sec = NEVER
    cdef bint was_set = read(fd, &ends, sizeof(ends)) < 0 and errno == ECANCELED
    # The kernel says it here, too, and has set the timer nevertheless.
    if timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &never, NULL) < 0:
        if errno != ECANCELED:
            raise OSError(errno, os.strerror(errno))
        was_set = True
    return was_set
