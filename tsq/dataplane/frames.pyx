"""QUIC frame types, and how much work the frames of a packet are for the control plane (RFC 9000 §19, RFC 9221 §4).

Comes in: the frames of an opened packet. Goes out: units of work, which decide whether the control plane gets the packet: aioquic
takes some microseconds for each frame, and a packet has room for hundreds. It must never judge whether a frame is right (the
control plane does that), read past the end, or need more than one pass.
"""
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint64_t

from tsq.dataplane.packet cimport get_varint, put_varint


cdef enum:
    CRYPTO = 0x06
    NEW_TOKEN = 0x07
    STREAM = 0x08
    STREAM_LAST = 0x0F
    STREAM_HAS_LENGTH = 0x02
    STREAM_HAS_OFFSET = 0x04
    NEW_CONNECTION_ID = 0x18
    LAST_TYPE = 0x1E
    RESET_TOKEN_SIZE = 16
    # Units of work. One unit is an ACK range, for which aioquic takes about a microsecond.
    FRAME_WORK = 4
    # A DATAGRAM frame may hold a request, which has to be decoded and answered.
    DATAGRAM_WORK = 8

MOST_WORK_PER_PACKET = MOST_WORK

cdef extern from *:
    """
    /* How many integers a frame of each type consists of; -1: it has other fields. */
    static const signed char TSQ_INTEGERS[0x1f] = {
        0, 0, -1, -1, 3, 2, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 1, 2, 1, 1, 1, 2, 1, 1, -1, 1, -1, -1, -1, -1, 0
    };
    """
    const signed char* INTEGERS "TSQ_INTEGERS"


cdef int put_datagram_header(uint8_t* out, uint64_t size) noexcept nogil:
    """Write a DATAGRAM frame up to its data of `size` bytes; where they begin."""
    out[0] = DATAGRAM_WITH_LENGTH
    return 1 + put_varint(out + 1, size)


cdef int skip_integers(const uint8_t** at, const uint8_t* end, int count) noexcept nogil:
    """Step over variable-length integers; 0, or -1 where there are not so many."""
    cdef uint64_t value = 0
    cdef int _i
    for _i in range(count):
        if get_varint(at, end, &value):
            return -1
    return 0


cdef int skip_bytes(const uint8_t** at, const uint8_t* end, uint64_t count) noexcept nogil:
    if count > <uint64_t> (end - at[0]):
        return -1
    at[0] += count
    return 0


cdef int skip_counted(const uint8_t** at, const uint8_t* end) noexcept nogil:
    """Step over a length and so many bytes."""
    cdef uint64_t length = 0
    return -1 if get_varint(at, end, &length) else skip_bytes(at, end, length)


cdef int skip_ack(const uint8_t** at, const uint8_t* end, bint ecn, int* work) noexcept nogil:
    """Step over an ACK frame after its type, counting its ranges."""
    cdef uint64_t count = 0
    if skip_integers(at, end, 2) or get_varint(at, end, &count) or skip_integers(at, end, 1):
        return -1
    while count:
        work[0] += 1
        # The packet's end ends this loop where the frame's count of ranges is too large.
        if skip_integers(at, end, 2):
            return -1
        count -= 1
    return skip_integers(at, end, 3) if ecn else 0


cdef int skip_frame(const uint8_t** at, const uint8_t* end, uint64_t kind, int* work) noexcept nogil:
    """Step over a frame after its type; 0, or -1 where the control plane will find no more frames."""
    if kind == ACK or kind == ACK_ECN:
        return skip_ack(at, end, kind == ACK_ECN, work)
    if kind == DATAGRAM or (STREAM <= kind <= STREAM_LAST and not kind & STREAM_HAS_LENGTH):
        # The frame extends to the end of the packet.
        at[0] = end
        return 0
    if STREAM <= kind <= STREAM_LAST:
        return -1 if skip_integers(at, end, 2 if kind & STREAM_HAS_OFFSET else 1) else skip_counted(at, end)
    if kind == DATAGRAM_WITH_LENGTH or kind == NEW_TOKEN:
        return skip_counted(at, end)
    if kind == CRYPTO:
        return -1 if skip_integers(at, end, 1) else skip_counted(at, end)
    if kind == NEW_CONNECTION_ID:
        if skip_integers(at, end, 2) or at[0] >= end:
            return -1
        # The length of the connection ID is one byte.
        return skip_bytes(at, end, 1 + <uint64_t> at[0][0] + RESET_TOKEN_SIZE)
    if kind == PATH_CHALLENGE or kind == PATH_RESPONSE:
        return skip_bytes(at, end, 8)
    if kind == CLOSE or kind == CLOSE_APPLICATION:
        return -1 if skip_integers(at, end, 2 if kind == CLOSE else 1) else skip_counted(at, end)
    return skip_integers(at, end, INTEGERS[kind]) if kind <= LAST_TYPE else -1


cdef int frames_work(const uint8_t* plain, Py_ssize_t size) noexcept nogil:
    """Units of work: one for an ACK range, some for each frame, none for PADDING and for all that follows a broken frame."""
    cdef const uint8_t* at = plain
    cdef const uint8_t* end = plain + size
    cdef uint64_t kind = 0
    cdef int work = 0
    while at < end:
        if get_varint(&at, end, &kind):
            break
        if kind == PADDING:
            continue
        work += DATAGRAM_WORK if kind == DATAGRAM or kind == DATAGRAM_WITH_LENGTH else FRAME_WORK
        if skip_frame(&at, end, kind, &work):
            break
    return work


cdef int frames_excess(const uint8_t* plain, Py_ssize_t size, int most_frames, int most_acks, int most_ranges) noexcept nogil:
    """Which limit the frames of a packet exceed, if any, up to the first broken one. A run of PADDING is one frame."""
    cdef const uint8_t* at = plain
    cdef const uint8_t* end = plain + size
    cdef const uint8_t* ranges_at
    cdef uint64_t kind = 0, more = 0, ranges = 0
    cdef int frames = 0, acks = 0, work = 0
    while at < end:
        frames += 1
        if frames > most_frames:
            return TOO_MANY_FRAMES_HERE
        if get_varint(&at, end, &kind):
            break
        if kind == PADDING:
            while at < end and at[0] == 0:
                at += 1
            continue
        if kind == ACK or kind == ACK_ECN:
            acks += 1
            ranges_at = at
            if skip_integers(&ranges_at, end, 2) or get_varint(&ranges_at, end, &more):
                break
            ranges += 1 + more
            if acks > most_acks or ranges > <uint64_t> most_ranges:
                return TOO_MANY_ACK_RANGES
        if skip_frame(&at, end, kind, &work):
            break
    return NO_EXCESS


def excess(bytes frames not None, int most_frames, int most_acks, int most_ranges):
    """Which limit these frames exceed: 0 none, 1 frames, 2 acknowledgments."""
    return frames_excess(<const uint8_t*> PyBytes_AS_STRING(frames), len(frames), most_frames, most_acks, most_ranges)


def work(bytes frames not None):
    """Units of work that these frames are for the control plane."""
    return frames_work(<const uint8_t*> PyBytes_AS_STRING(frames), len(frames))
