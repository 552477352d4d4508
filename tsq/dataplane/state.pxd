"""One session's state, which the data plane's modules share. No code.

In a server with thousands of clients, no state is in the processor's caches when its packet comes: what every packet needs comes
first, and together.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tsq.dataplane.packet cimport IV_SIZE, MAX_CID_SIZE, Keys


cdef enum:
    C_CID = 8
    # Received packet numbers that are remembered, and packets in flight.
    C_WINDOW = 128
    RING = 32
    MAX_ACK_RANGES = 64
    KNOWN_T3 = 4
    MOST_KEY = 32
    MOST_SECRET = 48


# A packet with answers that is not acknowledged yet.
cdef struct Sent:
    int64_t pn
    double at
    uint16_t size


# An earlier answer's transmit timestamp, its exact T3 (docs/reference/protocol.md R12).
cdef struct KnownT3:
    uint8_t nonce[8]
    uint64_t ntp


# Packet key and IV, not expanded: for phases that are seldom needed.
cdef struct RawKeys:
    uint8_t key[MOST_KEY]
    uint8_t iv[IV_SIZE]


cdef struct State:
    # Of a record's state: this end's connection ID, and a number that is another one for each session that it held.
    uint64_t own_id
    uint32_t serial
    # The peer has closed the connection: nothing is sent any more (RFC 9000 §10.2.2).
    bint draining
    bint active
    uint8_t phase
    bint client
    bint spin
    bint defer_acks
    bint ack_sent
    bint ack_wanted
    uint8_t remote_size
    uint8_t local_size
    uint8_t peer_id_size
    # The largest DATAGRAM frame that the peer takes (RFC 9221 §3).
    uint16_t most_frame
    uint8_t remote[28]
    uint8_t local[20]
    uint8_t peer_id[MAX_CID_SIZE]
    # Received packet numbers: the largest, its receive time, and a bit for each of the 128 up to it (bit d: largest - d).
    int64_t largest
    double largest_at
    uint64_t low_bits
    uint64_t high_bits
    int64_t ack_floor
    int64_t spin_pn
    double last_receive
    double first_sent
    # Sent packet numbers.
    int64_t next_pn
    int64_t largest_acked
    int in_flight_count
    int64_t in_flight
    # Congestion window, the control plane's bytes in flight, and the slow start threshold (bytes; RFC 9002 §7).
    int64_t window
    int64_t other_in_flight
    int64_t threshold
    uint64_t answered
    uint64_t taken
    # Round trip in seconds (RFC 9002 §5), recovery, probes.
    bint round_trip_known
    uint8_t ack_delay_exponent
    double max_ack_delay
    double latest
    double smoothed
    double variance
    double minimum
    double recovery_start
    int64_t growth
    double next_probe
    int probes
    uint64_t lost
    # The lowest packet number that came in this key phase (RFC 9001 §6.5).
    int64_t phase_first_pn
    Keys receive
    Keys send
    # Packets in flight, oldest first.
    Sent ring[RING]
    # Keys that are seldom used: the next phase's, this phase's, and the last phase's until its packets have all come.
    int suite
    int64_t key_first_pn
    uint64_t failed_opens
    # Packets that were dropped because they were too much work for the control plane.
    uint64_t excessive
    RawKeys next_keys
    RawKeys current_keys
    RawKeys last_keys
    double last_keys_until
    int known_count
    KnownT3 known[KNOWN_T3]
    # What a record is made of, too: this phase's key for sealing, the header protection keys, the secrets of this phase.
    RawKeys sending_keys
    uint8_t protection[2 * MOST_KEY]
    uint8_t secrets[2 * MOST_SECRET]
    bint version_2
    # Key updates that the peer may still make, and when that was counted.
    double updates_left
    double updated_at
    # When Python last read a request of it while it was at rest.
    double read_at
    # How many entries a table has for it, and which table: that one forgets its transmit timestamp requests when it ends.
    int listed
    void* owner


# The ranges of an ACK frame, largest first, and its delay in the peer's units.
cdef struct AckRanges:
    int count
    uint64_t delay
    int64_t first[MAX_ACK_RANGES]
    int64_t last[MAX_ACK_RANGES]
