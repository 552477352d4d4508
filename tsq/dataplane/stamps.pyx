"""Transmit timestamps: to which packet each belongs, and to which session (docs/reference/protocol.md R12).

Comes in: what a packet answers; a socket's error queue. Goes out: answers' exact T3, each noted in its session's state. It must
never give a session another packet's time, or touch a state that holds another session by now.
"""
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset

from tsq._fast cimport ntp_of_ns
from tsq._sockets cimport C_BATCH, TransmitStamp, read_transmit_stamps, restart_stamps
from tsq.dataplane.answers cimport Job
from tsq.dataplane.state cimport KNOWN_T3, KnownT3, State


cdef enum:
    STAMP_PATIENCE_NS = 1000000000


cdef int stamps_init(Stamps* all) noexcept nogil:
    """No requests; 0, or -1 where there is no memory."""
    memset(all, 0, sizeof(Stamps))
    all.requests = <TransmitRequest*> calloc(STAMP_RING, sizeof(TransmitRequest))
    return 0 if all.requests != NULL else -1


cdef void stamps_free(Stamps* all) noexcept nogil:
    free(all.requests)
    all.requests = NULL


cdef bint stamps_request(Stamps* all, const Job* job) noexcept nogil:
    """Whether to request a transmit timestamp for this packet; if so, remember the session and the nonce."""
    cdef TransmitRequest* asked
    cdef int i
    if not job.answer:
        return False
    for i in range(job.first, job.first + job.here):
        if job.requests[i].exact:
            asked = &all.requests[all.next % STAMP_RING]
            asked.id = all.next
            asked.state = job.state
            asked.serial = job.state.serial
            asked.send_ns = job.send_ns
            memcpy(asked.nonce, job.requests[i].nonce, 8)
            all.next += 1
            return True
    return False


cdef void stamps_collect(Stamps* all, int fd) noexcept nogil:
    """Read transmit timestamps from the error queue, and note each one in its session."""
    cdef TransmitStamp stamps[C_BATCH]
    cdef int count, i
    cdef TransmitRequest* asked
    cdef State* s
    while True:
        count = read_transmit_stamps(fd, stamps, C_BATCH)
        for i in range(count):
            all.back = stamps[i].id + 1
            asked = &all.requests[stamps[i].id % STAMP_RING]
            if asked.state == NULL or asked.id != stamps[i].id:
                continue
            s = asked.state
            asked.state = NULL
            # The state holds another connection by now.
            if s.serial != asked.serial:
                continue
            # A time before the packet's T3, or long after it, belongs to another packet.
            if stamps[i].at_ns < asked.send_ns or stamps[i].at_ns - asked.send_ns > STAMP_PATIENCE_NS:
                continue
            if s.known_count == KNOWN_T3:
                memmove(&s.known[0], &s.known[1], (KNOWN_T3 - 1) * sizeof(KnownT3))
                s.known_count -= 1
            memcpy(s.known[s.known_count].nonce, asked.nonce, 8)
            s.known[s.known_count].ntp = ntp_of_ns(stamps[i].at_ns)
            s.known_count += 1
            all.exact += 1
            all.delay_ns += stamps[i].at_ns - asked.send_ns
        if count < C_BATCH:
            return


cdef void stamps_restart(Stamps* all, int fd) noexcept nogil:
    """Count timestamped packets from 0 again, here and in the kernel: it may or may not have counted a send that failed."""
    cdef TransmitStamp stamps[C_BATCH]
    cdef int i
    if all.next == 0:
        return
    restart_stamps(fd)
    while read_transmit_stamps(fd, stamps, C_BATCH) == C_BATCH:
        pass
    for i in range(STAMP_RING):
        all.requests[i].state = NULL
    all.next = all.back = 0


cdef void stamps_forget(Stamps* all, const State* state) noexcept nogil:
    """Forget the requests of a session that ends: its memory will be used for something else."""
    cdef int i
    for i in range(STAMP_RING):
        if all.requests[i].state == state:
            all.requests[i].state = NULL
