"""Socket calls that macOS and the BSDs have: a datagram with each call, and the kernel's receive time where there is one.

Comes in: file descriptors of connected sockets, bytes. Goes out: datagrams with their times, how many were sent. It must never look
into a datagram, block, or give a receive time that is too early: a late one only widens a bound. System calls run without the
interpreter lock. tsq/sockets.py chooses it. It works on Linux, too, where the tests run it.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOPROTOOPT, errno
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset

import os

from tsq._fast cimport C_CAPACITY, realtime_ns

from tsq.errors import ConfigError


cdef extern from "<sys/socket.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    cdef struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    int SOL_SOCKET, MSG_DONTWAIT, MSG_TRUNC
    cmsghdr* CMSG_FIRSTHDR(msghdr* message)
    cmsghdr* CMSG_NXTHDR(msghdr* message, cmsghdr* previous)
    unsigned char* CMSG_DATA(cmsghdr* header)
    size_t CMSG_LEN(size_t length)
    ssize_t recvmsg(int fd, msghdr* message, int flags)
    ssize_t send_bytes "send"(int fd, const void* data, size_t size, int flags)


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #include <sys/types.h>
    #include <sys/socket.h>
    #include <sys/time.h>
    #include <sys/uio.h>
    #include <time.h>

    /* The control message of a receive time: struct timeval, or struct timespec where the kernel gives nanoseconds. */
    #define TSQ_STAMP_SIZE (sizeof(struct timespec) > sizeof(struct timeval) ? sizeof(struct timespec) : sizeof(struct timeval))

    /* Ask for receive times; 0, or -1 with errno. */
    static int tsq_ask_stamps(int fd)
    {
        int on = 1;
        if (setsockopt(fd, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof(on)) != 0)
            return -1;
    #if defined(SO_TS_CLOCK) && defined(SO_TS_REALTIME) && defined(SCM_REALTIME)
        {
            /* FreeBSD. Where it is refused, the times are in microseconds. */
            int clock = SO_TS_REALTIME;
            setsockopt(fd, SOL_SOCKET, SO_TS_CLOCK, &clock, sizeof(clock));
        }
    #endif
        return 0;
    }

    /* The receive time in a control message of the level SOL_SOCKET, ns, rounded down to *unit; 0: there is none in it. */
    static int64_t tsq_stamp(int type, const void *data, size_t size, int64_t *unit)
    {
    #if defined(SO_TS_CLOCK) && defined(SO_TS_REALTIME) && defined(SCM_REALTIME)
        if (type == SCM_REALTIME && size >= sizeof(struct timespec)) {
            struct timespec exact;
            memcpy(&exact, data, sizeof(exact));
            *unit = 1;
            return (int64_t) exact.tv_sec * 1000000000 + exact.tv_nsec;
        }
    #endif
        if (type == SCM_TIMESTAMP && size >= sizeof(struct timeval)) {
            struct timeval stamp;
            memcpy(&stamp, data, sizeof(stamp));
            *unit = 1000;
            return ((int64_t) stamp.tv_sec * 1000000 + stamp.tv_usec) * 1000;
        }
        return 0;
    }
    """
    int ask_stamps "tsq_ask_stamps"(int fd) nogil
    int64_t stamp_of "tsq_stamp"(int type, const void* data, size_t size, int64_t* unit) noexcept nogil


BATCH = C_BATCH

cdef enum:
    C_BATCH = 64
    CONTROL_CAPACITY = 256
    # The size of an answer.
    WARM_SIZE = 80


# For the control messages: CMSG_FIRSTHDR needs memory that is aligned for a header.
cdef union Control:
    int64_t aligned
    uint8_t room[CONTROL_CAPACITY]


def enable_receive_timestamps(int fd, int family, bint destinations=True):
    """Have the kernel give a time with each received datagram (SO_TIMESTAMP). Raises OSError where it has none."""
    if destinations:
        raise ConfigError("a socket for many peers", expected="a connected one: a server needs Linux")
    if ask_stamps(fd) != 0:
        raise OSError(errno, f"setsockopt(SO_TIMESTAMP) failed, family {family}")


def enable_transmit_timestamps(int fd):
    """There are none: raises OSError."""
    raise OSError(ENOPROTOOPT, f"{os.strerror(ENOPROTOOPT)}: transmit timestamps, descriptor {fd}")


def transmit_times(int fd):
    """None, as a list."""
    return []


def warm(int discard_fd):
    """Warm the kernel's transmit path before a send that counts. discard_fd: a socket whose datagrams nobody reads."""
    cdef uint8_t nothing[WARM_SIZE]
    memset(nothing, 0, WARM_SIZE)
    with nogil:
        # Ignore a full buffer: the path is warm all the same.
        send_bytes(discard_fd, nothing, WARM_SIZE, MSG_DONTWAIT)


def send(int fd, list datagrams not None, bint stamp=False):
    """Send (data, b"", b"") in order to the connected peer; (how many were sent, clock just before the first call in Unix ns).

    A full send buffer is no error: fewer are sent. Raises OSError when the first cannot be sent for another reason.
    """
    cdef int64_t before = 0
    cdef int count = 0
    cdef ssize_t went
    cdef bytes data, remote, local
    cdef const char* at
    cdef Py_ssize_t size
    if stamp or len(datagrams) > C_BATCH:
        raise ConfigError(f"{len(datagrams)} datagrams in one call", expected=f"at most {C_BATCH}, without transmit timestamps")
    for data, remote, local in datagrams:
        if data is None or remote or local:
            raise ConfigError("an address of its own for a datagram", expected="a connected socket")
    if not datagrams:
        return 0, realtime_ns()
    for data, _, _ in datagrams:
        at, size = PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)
        with nogil:
            if count == 0:
                before = realtime_ns()
            went = send_bytes(fd, at, size, MSG_DONTWAIT)
        if went < 0:
            if count or errno == EAGAIN or errno == ENOBUFS or errno == EINTR:
                break
            raise OSError(errno, "send failed")
        count += 1
    return count, before


cdef int64_t received_at(msghdr* message, int64_t now, bint* kernel) noexcept nogil:
    """The receive time of a datagram; `now`, which was read after the call, where the kernel gives none.

    A time that was rounded down is given as the latest that it can be: not after `now`, unless the clock was set back meanwhile.
    """
    cdef cmsghdr* header = CMSG_FIRSTHDR(message)
    cdef int64_t stamp, latest
    cdef int64_t unit = 1
    while header != NULL:
        if header.cmsg_level == SOL_SOCKET and header.cmsg_len >= CMSG_LEN(0):
            stamp = stamp_of(header.cmsg_type, CMSG_DATA(header), header.cmsg_len - CMSG_LEN(0), &unit)
            if stamp:
                kernel[0] = True
                latest = stamp + unit - 1
                return now if stamp <= now < latest else latest
        header = CMSG_NXTHDR(message, header)
    kernel[0] = False
    return now


@cython.final
cdef class ReceiveBatch:
    """Receives up to 64 datagrams, one after the other, always into the same buffer."""

    cdef uint8_t buffer[C_CAPACITY]
    cdef int pending
    cdef readonly unsigned long long truncated

    def receive(self, int fd):
        """The datagrams that wait at the socket, at most 64, without blocking.

        A list of (data, b"", b"", received_ns, kernel): received_ns Unix time in ns, kernel whether the kernel took that time (else
        it was read after the call). Raises OSError, also for an ICMP error; one that comes after a datagram is raised by the next
        call. An empty list: nothing waits.
        """
        cdef msghdr message
        cdef iovec vector
        cdef Control control
        cdef ssize_t size = 0
        cdef int64_t now = 0
        cdef int64_t received_ns = 0
        cdef bint kernel = False
        cdef int error = self.pending
        cdef int taken = 0
        cdef list out = []
        self.pending = 0
        while not error and taken < C_BATCH:
            with nogil:
                memset(&message, 0, sizeof(message))
                vector.iov_base = self.buffer
                vector.iov_len = C_CAPACITY
                message.msg_iov = &vector
                message.msg_iovlen = 1
                message.msg_control = &control
                message.msg_controllen = CONTROL_CAPACITY
                size = recvmsg(fd, &message, MSG_DONTWAIT)
                if size < 0:
                    error = errno
                else:
                    now = realtime_ns()
                    received_ns = received_at(&message, now, &kernel)
            if error:
                break
            taken += 1
            if message.msg_flags & MSG_TRUNC:
                self.truncated += 1
            else:
                out.append((PyBytes_FromStringAndSize(<const char*> self.buffer, size), b"", b"", received_ns, kernel))
        if error and error != EAGAIN and error != EINTR:
            if not out:
                raise OSError(error, "recvmsg failed")
            self.pending = error
        return out
