"""What a connection at rest gets without the control plane: PATH_CHALLENGE is answered, CONNECTION_CLOSE obeyed, keys are updated.

Comes in: the frames of an authentic packet that came on the active path. Goes out: what to do, or that the control plane must do
it. It must never change a session, except for the count of key updates.
"""
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from tsq.dataplane.frames cimport (
    ACK, ACK_ECN, CLOSE, CLOSE_APPLICATION, PADDING, PATH_CHALLENGE, PATH_RESPONSE, PING,
)
from tsq.dataplane.packet cimport get_varint
from tsq.dataplane.recovery cimport parse_ack
from tsq.dataplane.state cimport AckRanges, State


cdef enum:
    # As in tsq.quic.aioquic.offload: so many key updates at once, and one more in so many seconds.
    MOST_KEY_UPDATES = 16
    KEY_UPDATE_INTERVAL = 1


cdef int parse_close(const uint8_t** at, const uint8_t* end, bint application) noexcept nogil:
    cdef uint64_t value = 0
    if get_varint(at, end, &value) or (not application and get_varint(at, end, &value)) or get_varint(at, end, &value):
        return -1
    if value > <uint64_t> (end - at[0]):
        return -1
    at[0] += value
    return 0


cdef int parse_service(const State* s, const uint8_t* plain, Py_ssize_t size, Service* out, AckRanges* ranges) noexcept nogil:
    """Parse all frames; 0, or -1 for a packet that belongs to the control plane."""
    cdef const uint8_t* at = plain
    cdef const uint8_t* end = plain + size
    cdef uint8_t kind
    out.closed = out.acknowledge = False
    out.challenges = ranges.count = 0
    if size == 0:
        return -1
    while at < end:
        kind = at[0]
        at += 1
        if kind == PADDING:
            continue
        if kind == PING:
            out.acknowledge = True
        elif kind == ACK or kind == ACK_ECN:
            if ranges.count or parse_ack(s, &at, end, kind == ACK_ECN, ranges):
                return -1
        elif kind == PATH_CHALLENGE:
            if out.challenges == MOST_CHALLENGES or end - at < CHALLENGE_SIZE:
                return -1
            memcpy(out.challenge[out.challenges], at, CHALLENGE_SIZE)
            out.challenges += 1
            out.acknowledge = True
            at += CHALLENGE_SIZE
        elif kind == CLOSE or kind == CLOSE_APPLICATION:
            if parse_close(&at, end, kind == CLOSE_APPLICATION):
                return -1
            out.closed = True
        else:
            return -1
    return 0


cdef bint may_update_keys(State* s, double now) noexcept nogil:
    """Whether the peer may update the keys once more; if so, count it. Otherwise the control plane closes the connection."""
    cdef double left = s.updates_left + (now - s.updated_at) / KEY_UPDATE_INTERVAL
    if left > MOST_KEY_UPDATES:
        left = MOST_KEY_UPDATES
    if left < 1:
        return False
    s.updates_left = left - 1
    s.updated_at = now
    return True


cdef Py_ssize_t put_path_responses(uint8_t* out, const Service* service) noexcept nogil:
    """Write the frames that answer the challenges (RFC 9000 §8.2.2); their size."""
    cdef int i
    for i in range(service.challenges):
        out[0] = PATH_RESPONSE
        memcpy(out + 1, service.challenge[i], CHALLENGE_SIZE)
        out += 1 + CHALLENGE_SIZE
    return service.challenges * (1 + CHALLENGE_SIZE)
