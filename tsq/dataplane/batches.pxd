"""C-level interface of tsq.dataplane.batches, for the wait for events."""
cimport cython
from libc.stdint cimport int64_t, uint8_t

from tsq._fast cimport View
from tsq._sockets cimport C_BATCH, BatchIO
from tsq.dataplane.admission cimport Admission
from tsq.dataplane.answers cimport Job
from tsq.dataplane.state cimport State
from tsq.dataplane.table cimport Slot
from tsq.dataplane.upkeep cimport Upkeep


@cython.final
cdef class DataPlane(Upkeep):
    cdef BatchIO* io
    cdef Job* jobs
    cdef uint8_t* out
    # Stateless replies of a batch: which datagram each is for.
    cdef uint8_t* replies
    cdef Py_ssize_t reply_sizes[C_BATCH]
    cdef int replied[C_BATCH]
    cdef int reply_count
    cdef Admission admission
    cdef bint guarded
    cdef Slot* slots[C_BATCH]
    cdef State* found[C_BATCH]
    cdef double sent_at
    cdef bint handed_up
    cdef list left
    cdef int discard_fd
    # Where there is a socket for newcomers alone: the other one, and this one.
    cdef int own_fd
    cdef int newcomers_fd
    cdef bint segments_refused
    cdef readonly unsigned long long received, taken, answered, held_back, stepped_back, unsent, truncated, unstamped
    cdef readonly unsigned long long drained
    cdef readonly unsigned long long forged, duplicates, excessive, malformed, warmed
    # Requests whose answers left something out, because they would have been too large for the peer or the path.
    cdef readonly unsigned long long shortened
    # Datagrams that admission dropped or answered.
    cdef readonly unsigned long long turned_away
    # Whether to request transmit timestamps: whether this kernel has them.
    cdef public bint stamping

    cdef list not_taken(self, int count)
    cdef int serve_socket(self, int fd, int* error, int* total) noexcept nogil
    cdef int serve_newcomers(self, int* error, int* total) noexcept nogil
    cdef int serve_burst(self, int fd, int* error, int* total) noexcept nogil
    cdef int serve(self, int fd, int most, int* error, int* handed_up) noexcept nogil
    cdef int receive_batch(self, int fd, int most, int* error) noexcept nogil
    cdef int open_batch(self, int count, double now, int* handed_up) noexcept nogil
    cdef bint turns_away(self, int message, const View* view, const Slot* slot, double now) noexcept nogil
    cdef void warm(self, int fd, double now) noexcept nogil
    cdef void answer_batch(self, int fd, int jobs, double now) noexcept nogil
    cdef void send(self, int fd, int packets, double now) noexcept nogil
    cdef void count_outcome(self, int outcome, const Job* job) noexcept nogil
    cdef bint goes_on(self, Job* job) noexcept nogil
