"""Packet numbers received and sent, ACK frames, loss and congestion of one session (RFC 9000 §13, §19.3; RFC 9002 §5 to §7).

Comes in: a session's state, ACK frames, the monotonic time. Goes out: the same state, ACK frames, whether one more packet may be
sent. Packets with answers are in flight (RFC 9221 §5) and never sent again: a loss only reduces the congestion window. It must
never send, read a clock, or change anything for an incomplete frame.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy

from tsq.dataplane.frames cimport ACK
from tsq.dataplane.packet cimport get_varint, put_varint
from tsq.dataplane.state cimport C_WINDOW, MAX_ACK_RANGES, RING, AckRanges, Sent, State


cdef extern from *:
    """
    #define TSQ_TRAILING_ZEROS(bits) __builtin_ctzll(bits)
    """
    int trailing_zeros "TSQ_TRAILING_ZEROS"(uint64_t bits) noexcept nogil


cdef enum:
    SENT_ACK_RANGES = 32
    PACKET_THRESHOLD = 3
    # RFC 9002 §7.2, for datagrams of 1200 bytes.
    DATAGRAM = 1200
    MINIMUM_WINDOW = 2 * DATAGRAM
    PERSISTENT_CONGESTION = 3

# Seconds (RFC 9002 §6.1.2).
cdef double GRANULARITY = 0.001


# --------------------------------------------------------------------------------------------- received packet numbers

cdef bint bit(const State* s, int64_t distance) noexcept nogil:
    if distance < 64:
        return (s.low_bits >> distance) & 1
    return (s.high_bits >> (distance - 64)) & 1


cdef bint seen(const State* s, int64_t pn) noexcept nogil:
    """Whether this number was received, or is so old that it counts as received (RFC 9000 §12.3)."""
    cdef int64_t distance = s.largest - pn
    if distance < 0:
        return False
    return distance >= C_WINDOW or bit(s, distance)


cdef void mark(State* s, int64_t pn) noexcept nogil:
    cdef int64_t shift = pn - s.largest
    if shift <= 0:
        if -shift < 64:
            s.low_bits |= (<uint64_t> 1) << (-shift)
        elif -shift < C_WINDOW:
            s.high_bits |= (<uint64_t> 1) << (-shift - 64)
        return
    if shift >= C_WINDOW:
        s.low_bits = s.high_bits = 0
    elif shift >= 64:
        s.high_bits = s.low_bits << (shift - 64)
        s.low_bits = 0
    else:
        s.high_bits = (s.high_bits << shift) | (s.low_bits >> (64 - shift))
        s.low_bits <<= shift
    s.low_bits |= 1
    s.largest = pn


# ---------------------------------------------------------------------------------------------------------- ACK frames

cdef int run_of(const State* s, int distance, bint received) noexcept nogil:
    """How many numbers in a row, from largest - distance down, were received (or were not); 0 or older ones are not counted."""
    cdef int at = distance
    cdef int end = C_WINDOW if s.largest >= C_WINDOW else <int> s.largest + 1
    cdef uint64_t bits
    while at < end:
        if at == 0:
            bits = s.low_bits
        elif at < 64:
            bits = (s.low_bits >> at) | (s.high_bits << (64 - at))
        else:
            bits = s.high_bits >> (at - 64)
        if received:
            bits = ~bits
        if bits:
            at += trailing_zeros(bits)
            break
        at += 64
    return (at if at < end else end) - distance


cdef int put_ack(const State* s, uint8_t* out, double now) noexcept nogil:
    """Write an ACK frame: the range up to the largest number, and up to 32 ranges below it; its size."""
    cdef uint8_t rest[SENT_ACK_RANGES * 4]
    cdef int gap, run, count = 0, used = 0, size
    cdef int first = run_of(s, 0, True)
    cdef int distance = first
    cdef double delay = (now - s.largest_at) * 1e6
    while count < SENT_ACK_RANGES:
        gap = run_of(s, distance, False)
        run = run_of(s, distance + gap, True)
        if run == 0 or s.largest - distance - gap <= s.ack_floor:
            break
        used += put_varint(rest + used, gap - 1)
        used += put_varint(rest + used, run - 1)
        distance += gap + run
        count += 1
    out[0] = ACK
    size = 1 + put_varint(out + 1, <uint64_t> s.largest)
    size += put_varint(out + size, <uint64_t> (delay if delay > 0 else 0) >> 3)
    size += put_varint(out + size, count)
    size += put_varint(out + size, first - 1)
    memcpy(out + size, rest, used)
    return size + used


cdef int parse_ack(const State* s, const uint8_t** at, const uint8_t* end, bint ecn, AckRanges* out) noexcept nogil:
    """Parse an ACK frame after its type (RFC 9000 §19.3); 0, or -1 for one that the control plane must judge.

    All ranges are read, and the newest 64 are kept. The packet's end ends a count that is too large.
    """
    cdef uint64_t largest = 0, delay = 0, count = 0, span = 0, gap = 0
    cdef int64_t low
    cdef int i = 1
    cdef int _counter
    if get_varint(at, end, &largest) or get_varint(at, end, &delay) or get_varint(at, end, &count) or get_varint(at, end, &span):
        return -1
    # The control plane closes the connection for an ACK of a number that was never sent (RFC 9000 §13.1).
    if <int64_t> largest >= s.next_pn or span > largest:
        return -1
    out.last[0] = <int64_t> largest
    low = <int64_t> (largest - span)
    out.first[0] = low
    while count:
        if get_varint(at, end, &gap) or get_varint(at, end, &span):
            return -1
        # Both are below 2^62: no sum here overflows.
        low -= <int64_t> gap + 2
        if i < MAX_ACK_RANGES:
            out.last[i] = low
        low -= <int64_t> span
        if low < 0:
            return -1
        if i < MAX_ACK_RANGES:
            out.first[i] = low
            i += 1
        count -= 1
    out.count = i
    out.delay = delay
    if ecn:
        for _counter in range(3):
            if get_varint(at, end, &gap):
                return -1
    return 0


# ------------------------------------------------------------------------------------------------- sent packet numbers

cdef double loss_delay(const State* s) noexcept nogil:
    """Time threshold: a packet sent so long ago is lost when a later one was acknowledged (RFC 9002 §6.1.2), seconds."""
    cdef double delay = 1.125 * (s.latest if s.latest > s.smoothed else s.smoothed)
    return delay if delay > GRANULARITY else GRANULARITY


cdef double active_at(const State* s) noexcept nogil:
    """Start of the idle timeout (RFC 9000 §10.1), monotonic seconds."""
    return s.first_sent if s.first_sent > s.last_receive else s.last_receive


cdef bint probe_is_due(const State* s, double now) noexcept nogil:
    """Whether the oldest packet in flight is older than the probe timeout, and no probe has been sent lately (RFC 9002 §6.2)."""
    return s.in_flight_count and not s.defer_acks and s.ring[0].at + probe_timeout(s) <= now and s.next_probe <= now


cdef double probe_timeout(const State* s) noexcept nogil:
    """Probe timeout, seconds."""
    return timeout_of(s.smoothed, s.variance, s.max_ack_delay)


cdef double timeout_of(double smoothed, double variance, double max_ack_delay) noexcept nogil:
    """Probe timeout (RFC 9002 §6.2.1), seconds."""
    cdef double spread = 4 * variance
    return smoothed + (spread if spread > GRANULARITY else GRANULARITY) + max_ack_delay


cdef bint has_room(const State* s, Py_ssize_t size) noexcept nogil:
    """Whether the congestion window and the ring have room for one more packet of this size."""
    return s.in_flight_count < RING and s.in_flight + s.other_in_flight + size <= s.window


cdef void note_sent(State* s, int64_t pn, Py_ssize_t size, double now) noexcept nogil:
    """Count a packet as in flight. There must be room."""
    # The first one sent since the last receipt restarts the idle timer (RFC 9000 §10.1).
    if s.first_sent <= s.last_receive:
        s.first_sent = now
    s.ring[s.in_flight_count].pn = pn
    s.ring[s.in_flight_count].at = now
    s.ring[s.in_flight_count].size = <uint16_t> size
    s.in_flight_count += 1
    s.in_flight += size


cdef void measure(State* s, double sample, uint64_t reported_delay) noexcept nogil:
    """Take one round-trip sample, of a packet that is acknowledged for the first time (RFC 9002 §5)."""
    cdef double delay = s.max_ack_delay
    cdef double adjusted, off
    if sample < 0:
        return
    # A larger delay would overflow.
    if reported_delay < <uint64_t> 1 << 40:
        delay = <double> (reported_delay << s.ack_delay_exponent) * 1e-6
    if delay > s.max_ack_delay:
        delay = s.max_ack_delay
    if not s.round_trip_known:
        s.round_trip_known = True
        s.minimum = s.latest = s.smoothed = sample
        s.variance = sample / 2
        return
    if sample < s.minimum:
        s.minimum = sample
    # The peer's delay is no part of the path's round trip, but of the time until an acknowledgment (RFC 9002 §5.3, §6.1.2).
    s.latest = sample
    adjusted = sample - delay if sample >= s.minimum + delay else sample
    off = s.smoothed - adjusted
    s.variance = 0.75 * s.variance + 0.25 * (off if off > 0 else -off)
    s.smoothed = 0.875 * s.smoothed + 0.125 * adjusted


cdef bint covers(const AckRanges* ranges, int64_t pn) noexcept nogil:
    cdef int k
    for k in range(ranges.count):
        if ranges.first[k] <= pn:
            return pn <= ranges.last[k]
    return False


cdef void grow(State* s, double sent_at, int size) noexcept nogil:
    """Grow the congestion window after an acknowledgment (RFC 9002 §7.3.1, §7.3.3), where it was the limit (§7.8)."""
    if sent_at <= s.recovery_start or 2 * (s.in_flight + s.other_in_flight) < s.window:
        return
    if s.window < s.threshold:
        s.window += size
        return
    s.growth += size
    if s.growth >= s.window:
        s.growth -= s.window
        s.window += DATAGRAM


cdef void shrink(State* s, double sent_at, double now) noexcept nogil:
    """Reduce the congestion window after a loss, once in a round trip (RFC 9002 §7.3.2)."""
    if sent_at <= s.recovery_start:
        return
    s.recovery_start = now
    # A smaller window stays as it is.
    if s.window > MINIMUM_WINDOW:
        s.window = s.window / 2 if s.window / 2 > MINIMUM_WINDOW else MINIMUM_WINDOW
    s.threshold = s.window


cdef void on_ack(State* s, const AckRanges* ranges, double now) noexcept nogil:
    """Remove acknowledged packets from the ring, and packets that are lost by packet or time threshold (RFC 9002 §6.1)."""
    cdef int i
    cdef int kept = 0
    cdef Sent* sent
    cdef double patience
    # From when on everything that was sent was lost; below 0: not.
    cdef double lost_since = -1
    if not ranges.count:
        return
    if ranges.last[0] > s.largest_acked:
        s.largest_acked = ranges.last[0]
    for i in range(s.in_flight_count):
        if s.ring[i].pn == ranges.last[0]:
            measure(s, now - s.ring[i].at, ranges.delay)
    patience = loss_delay(s)
    for i in range(s.in_flight_count):
        sent = &s.ring[i]
        if covers(ranges, sent.pn):
            grow(s, sent.at, sent.size)
            s.in_flight -= sent.size
            lost_since = -1
        elif sent.pn < s.largest_acked and (sent.pn <= s.largest_acked - PACKET_THRESHOLD or sent.at <= now - patience):
            s.lost += 1
            s.in_flight -= sent.size
            shrink(s, sent.at, now)
            if lost_since < 0:
                lost_since = sent.at
            elif s.round_trip_known and sent.at - lost_since > PERSISTENT_CONGESTION * probe_timeout(s):
                # RFC 9002 §7.6.
                s.window = MINIMUM_WINDOW if s.window > MINIMUM_WINDOW else s.window
        else:
            if kept != i:
                s.ring[kept] = sent[0]
            kept += 1
    if kept < s.in_flight_count:
        s.probes = 0
        s.next_probe = 0
    s.in_flight_count = kept
