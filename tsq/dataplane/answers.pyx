"""What one packet asks, and the packets that answer it.

Comes in: a session's state and a datagram. Goes out: the requests in it; sealed packets that answer them. A packet is taken if it
holds nothing but PADDING, PING, ACK, plain requests (docs/reference/protocol.md R4, R7, R12) and malformed ones; if the connection
rests, also what tsq.dataplane.services knows. It must never answer with T3 before T2, or keep an answer for later.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memset

from tsq._fast cimport (
    C_FRAME_OVERHEAD, C_MOST_MESSAGE, EXACT_SIZE, PLAIN_RESPONSE_SIZE, PRECISE_RESPONSE_SIZE, View, check_message, leaves_padding,
    put_acknowledgment, put_exact_header, put_plain_response, read_plain_request, read_precise_request, realtime_ns,
)
from tsq.dataplane.derivation cimport update_keys
from tsq.dataplane.frames cimport MOST_DATAGRAM_HEADER, put_datagram_header
from tsq.dataplane.packet cimport TAG_SIZE, Keys
from tsq.dataplane.recovery cimport has_room, note_sent
from tsq.dataplane.services cimport may_update_keys, parse_service, put_path_responses
from tsq.dataplane.session cimport (
    ANSWER, CLOSED, CONSUMED, DRAINED, NOT_TAKEN, OPENED, Frames, Opened, begin, commit, finish, open_packet, parse_frames, refuse,
    take_known,
)
from tsq.dataplane.state cimport AckRanges, State


cdef enum:
    # Answer so many requests in one packet, so that it fits the smallest MTU; more requests get several packets.
    ANSWERED_AT_ONCE = 16
    PATH_DATAGRAM = 1200


cdef bint fits_peer(const State* s, uint64_t size) noexcept nogil:
    """Whether a message of this size fits a packet, and a DATAGRAM frame that the peer takes."""
    return size <= C_MOST_MESSAGE and size + C_FRAME_OVERHEAD <= s.most_frame


cdef void promise(const State* s, Job* job, Request* request, uint64_t size) noexcept nogil:
    """Note a Precision Mode request of this size: its answer has the same size, where that is possible (R7)."""
    cdef int64_t gap = <int64_t> size - PRECISE_RESPONSE_SIZE
    job.count += 1
    if not fits_peer(s, size):
        job.shortened += 1
    elif gap >= 0 and leaves_padding(gap):
        request.size = <uint16_t> size
        request.exact = request.exact and gap >= EXACT_SIZE and leaves_padding(gap - EXACT_SIZE)
        job.precise += 1


cdef int parse(const State* s, const uint8_t* plain, Py_ssize_t size, Job* job, AckRanges* ranges) noexcept nogil:
    """As parse_frames; -1 also where a DATAGRAM frame holds neither a plain request nor a malformed message."""
    cdef Frames frames
    cdef Request* request
    cdef Py_ssize_t offset = 0
    cdef int i
    if parse_frames(s, plain, size, &frames, ranges):
        return -1
    job.count = job.first = 0
    for i in range(frames.count):
        request = &job.requests[job.count]
        request.size = 0
        if not read_plain_request(frames.frames[i].at, frames.frames[i].size, request.nonce, &request.exact):
            job.count += 1
        elif not read_precise_request(frames.frames[i].at, frames.frames[i].size, request.nonce, &request.exact):
            promise(s, job, request, frames.frames[i].size)
        elif check_message(frames.frames[i].at, <Py_ssize_t> frames.frames[i].size, &offset):
            job.malformed += 1
        else:
            return -1
    job.acknowledge = frames.pinged or frames.count > 0
    return 0


cdef int take(State* s, Keys* scratch, const View* view, double now, Job* job) noexcept nogil:
    """Open one packet and take note of it; its outcome. ANSWER: the job needs an answering packet."""
    cdef Opened opened
    cdef AckRanges ranges
    cdef int outcome
    job.service.closed = False
    job.service.challenges = job.malformed = job.precise = job.shortened = 0
    job.datagram_size = view.size
    if s.draining:
        return DRAINED
    outcome = open_packet(s, scratch, view, now, &opened)
    if outcome != OPENED:
        return outcome
    if opened.updated and (not may_update_keys(s, now) or update_keys(s, now)):
        return NOT_TAKEN
    if parse(s, opened.plain, opened.size, job, &ranges):
        if not s.serial or parse_service(s, opened.plain, opened.size, &job.service, &ranges):
            return refuse(s, &opened)
        job.count = job.first = job.malformed = job.precise = job.shortened = 0
        job.acknowledge = job.service.acknowledge
    commit(s, &opened, &ranges, now)
    if job.service.closed:
        return CLOSED
    if not job.acknowledge:
        return CONSUMED
    job.state = s
    return ANSWER


cdef int put_response(State* s, uint8_t* out, const Request* request, int64_t received_ns, int64_t send_ns) noexcept nogil:
    """Write one DATAGRAM frame with a response; its size. It also reports an earlier answer's exact T3, once (R12)."""
    cdef bint reported = request.exact and s.known_count > 0
    cdef int plain_size = PLAIN_RESPONSE_SIZE + (EXACT_SIZE if reported else 0)
    cdef int size = request.size if request.size else plain_size
    cdef int header = put_datagram_header(out, size)
    cdef uint8_t* end = out + header
    end += put_plain_response(end, request.nonce, received_ns, send_ns)
    if reported:
        take_known(s, put_exact_header(end))
    if request.size:
        put_acknowledgment(out + header + plain_size, size - (PRECISE_RESPONSE_SIZE - PLAIN_RESPONSE_SIZE) - plain_size)
    return header + size


cdef Py_ssize_t room_needed(Job* job, Py_ssize_t end) noexcept nogil:
    """Bytes of the frames that answer the next job.here requests; fewer requests where these do not fit the smallest MTU."""
    cdef Py_ssize_t needed = 0, size
    cdef Request* request
    cdef int i
    if not job.precise:
        return job.here * (MOST_DATAGRAM_HEADER + PLAIN_RESPONSE_SIZE + EXACT_SIZE)
    for i in range(job.here):
        request = &job.requests[job.first + i]
        size = MOST_DATAGRAM_HEADER + (request.size if request.size > PLAIN_RESPONSE_SIZE + EXACT_SIZE
                                       else PLAIN_RESPONSE_SIZE + EXACT_SIZE)
        if end + needed + size + TAG_SIZE > PATH_DATAGRAM:
            if i:
                job.here = i
                return needed
            # Beside a long ACK frame.
            request.size = 0
            job.precise -= 1
            job.shortened += 1
            size = MOST_DATAGRAM_HEADER + PLAIN_RESPONSE_SIZE + EXACT_SIZE
        needed += size
    return needed


cdef Py_ssize_t size_to_match(const Job* job) noexcept nogil:
    """The size of the UDP datagram that answers all requests of a packet in Precision Mode; 0 for no matter."""
    if not job.precise or job.here < job.count:
        return 0
    return job.datagram_size if job.datagram_size < PATH_DATAGRAM else PATH_DATAGRAM


cdef Py_ssize_t build_path_responses(State* s, Job* job, uint8_t* out, Py_ssize_t end, double now) noexcept nogil:
    """Finish a packet with the answers to path challenges, in a datagram of 1200 bytes (RFC 9000 §8.2.2)."""
    job.answer = job.stepped_back = False
    job.here = 0
    if not has_room(s, PATH_DATAGRAM):
        # An acknowledgment alone. The peer asks again.
        return finish(s, out, end, 0, now)
    end += put_path_responses(out + end, &job.service)
    memset(out + end, 0, PATH_DATAGRAM - TAG_SIZE - end)
    note_sent(s, s.next_pn, PATH_DATAGRAM, now)
    return finish(s, out, PATH_DATAGRAM - TAG_SIZE, 0, now)


cdef Py_ssize_t build(State* s, Job* job, uint8_t* out, double now, int64_t clock_ns) noexcept nogil:
    """Build and seal the next packet that answers a job; its size, 0 for none.

    It sets job.answer, whether the packet holds answers (else it is an acknowledgment alone), and job.here, how many requests the
    packet deals with, answered or not. clock_ns: T3; 0: read the system clock here.
    """
    cdef Py_ssize_t end = begin(s, out, now)
    cdef Py_ssize_t needed, matched
    cdef int64_t send_ns
    cdef int i
    if job.service.challenges:
        return build_path_responses(s, job, out, end, now)
    job.here = job.count - job.first
    if job.here > ANSWERED_AT_ONCE:
        job.here = ANSWERED_AT_ONCE
    # Drop an answer for which the window has no room, never queue it: late time is wrong time. The ACK is sent all the same.
    job.stepped_back = False
    needed = end + room_needed(job, end) + TAG_SIZE
    matched = size_to_match(job)
    job.answer = has_room(s, needed if needed > matched else matched)
    if job.answer:
        send_ns = clock_ns if clock_ns else realtime_ns()
        # The clock may have been stepped back since the request came (docs/reference/protocol.md R8).
        job.answer = send_ns >= job.received_ns
        job.stepped_back = not job.answer
        job.send_ns = send_ns
    if job.answer:
        for i in range(job.first, job.first + job.here):
            end += put_response(s, out + end, &job.requests[i], job.received_ns, send_ns)
        if end + TAG_SIZE < matched:
            # Headers and ACK frames differ, too: PADDING frames make up for that.
            memset(out + end, 0, matched - TAG_SIZE - end)
            end = matched - TAG_SIZE
    else:
        # The other requests cannot be answered either: one acknowledgment is enough.
        job.here = job.count - job.first
    return finish(s, out, end, job.here if job.answer else 0, now)
