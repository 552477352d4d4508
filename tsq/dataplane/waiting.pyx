"""Waits for events of an epoll instance, and has the data plane serve its sockets meanwhile.

Comes in: an epoll instance, which data plane serves which socket. Goes out: the events that the caller must handle. It must never
return to Python for datagrams that the data plane takes, or keep an event that is not a datagram.
"""
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t

from tsq._fast cimport monotonic
from tsq.dataplane.batches cimport DataPlane


cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    const uint32_t EPOLLIN
    int epoll_wait(int epoll, epoll_event* events, int most, int milliseconds)


cdef enum:
    MOST_EVENTS = 64


def wait(int epoll, dict serving not None, double timeout):
    """Wait for events of an epoll instance, and serve meanwhile; [(file descriptor, events)] for the caller to handle.

    serving: file descriptor -> DataPlane. Datagrams to these sockets are answered without Python. Such a socket is among the events
    when it has a datagram that is not taken, which `receive` then returns, or an event that is no datagram. timeout: seconds, below
    0 for none. An interrupted call returns early.
    """
    cdef epoll_event events[MOST_EVENTS]
    cdef double end = monotonic() + timeout
    cdef double left
    cdef int count, milliseconds, i, error, total, last
    cdef DataPlane data_plane
    cdef list out = []
    while True:
        milliseconds = -1
        if timeout >= 0:
            left = end - monotonic()
            # Round up, as selectors does: a timer must not be looked at before it is due.
            milliseconds = <int> (left * 1000 + 1) if left > 0 else 0
        with nogil:
            count = epoll_wait(epoll, events, MOST_EVENTS, milliseconds)
        if count < 0:
            if errno == EINTR:
                return out
            raise OSError(errno, "epoll_wait failed")
        for i in range(count):
            found = serving.get(events[i].data.fd)
            if found is not None and events[i].events == EPOLLIN:
                data_plane = found
                error = total = 0
                with nogil:
                    last = data_plane.serve_socket(events[i].data.fd, &error, &total)
                if last >= 0 and not data_plane.handed_up:
                    continue
                if data_plane.handed_up:
                    # Its other socket may have had some, too.
                    data_plane.left = (data_plane.left or []) + data_plane.not_taken(last)
            out.append((events[i].data.fd, events[i].events))
        if out or count == 0 or (timeout >= 0 and monotonic() >= end):
            return out
