"""What one plane gives the other with a connection: keys, received packet numbers, the congestion window, the round trip.

Comes in: aioquic's objects, a session. Goes out: the one as the other has it. It must never decide when (`offload` does), keep
anything, or make keys that aioquic would not make.

Only this package touches aioquic's private attributes; those that this module touches stand in `offload_check`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from aioquic.quic.crypto import CryptoContext, derive_key_iv_hp
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import Epoch, cipher_suite_hash, hkdf_expand_label

from tsq.dataplane.session import WINDOW_SIZE, Session

# Of the next secret (RFC 9001 §6.1, RFC 9369 §3.3.2). These versions' short headers are the same.
KEY_UPDATE_LABELS: Mapping[int, bytes] = {QuicProtocolVersion.VERSION_1: b"quic ku", QuicProtocolVersion.VERSION_2: b"quicv2 ku"}
_MAX_RANGES = 64
_NO_THRESHOLD = 1 << 62


def hand_keys(session: Session, keys: Any, now: float, *, first: bool) -> None:
    """Give the session the keys of the present phase, and those to open the next one with. first: whether it has had none yet."""
    receive, send = keys.recv, keys.send
    if first:
        # The keys may have been updated before: header protection keeps its first ones (RFC 9001 §6.1).
        session.set_protection(int(receive.cipher_suite), *keys.protection)
    session.set_keys(receive.key_phase, *_material(receive), *_material(send), *_next_material(receive), now)
    session.set_secrets(int(receive.version), receive.secret, send.secret)


def hand_received(session: Session, space: Any) -> None:
    """Give the session the packet numbers that aioquic has received, and up to which one it has acknowledged them."""
    largest = space.largest_received_packet
    window = space.received_packets
    bits = 0
    for distance in range(min(WINDOW_SIZE, largest + 1)):
        # A number below the window counts as received (RFC 9000 §12.3).
        if largest - distance in window:
            bits |= 1 << distance
    queue = space.ack_queue
    floor = queue[0].start - 1 if len(queue) else largest
    session.set_received(largest, space.largest_received_time or 0.0, bits, floor)


def take_back_received(quic: Any, session: Session) -> None:
    """Give aioquic what the session has received, acknowledged, and seen acknowledged."""
    space = quic._spaces[Epoch.ONE_RTT]
    largest, largest_at, bits, ack_sent = session.received
    if largest >= 0:
        space.largest_received_packet = largest
        space.largest_received_time = largest_at
        space.expected_packet_number = max(space.expected_packet_number, largest + 1)
        window = space.received_packets
        window._lower = max(window._lower, largest - WINDOW_SIZE + 1)
        window._received = {largest - d for d in range(min(WINDOW_SIZE, largest + 1)) if bits >> d & 1}
        _queue_acknowledgments(space, largest, bits)
    if ack_sent:
        space.ack_at = None
    if session.ack_wanted:
        # The acknowledgment is due, or a packet is about to be sent anyway.
        space.ack_at = 0.0
    space.largest_acked_packet = max(space.largest_acked_packet, session.largest_acknowledged)
    # aioquic forgets its own ACK-only packets when an ACK covers them; the data plane took that ACK.
    for number in [n for n, packet in space.sent_packets.items() if not packet.in_flight and n <= session.largest_acknowledged]:
        del space.sent_packets[number]


def hand_recovery(quic: Any, session: Session) -> None:
    """Give the session the congestion window and the round trip that aioquic has."""
    loss = quic._loss
    session.set_recovery(
        loss.congestion_window,
        loss.bytes_in_flight,
        _NO_THRESHOLD if loss._cc.ssthresh is None else loss._cc.ssthresh,
        loss._cc._congestion_recovery_start_time,
        quic._spaces[Epoch.ONE_RTT].ack_eliciting_in_flight > 0,
    )
    known = loss._rtt_initialized
    guess = loss._rtt_initial
    session.set_round_trip(
        known,
        loss._rtt_latest if known else guess,
        loss._rtt_smoothed if known else guess,
        # With this, a probe waits for twice the guess (RFC 9002 §6.2.2).
        loss._rtt_variance if known else guess / 4,
        loss._rtt_min if known else 0.0,
        loss.max_ack_delay,
        quic._remote_ack_delay_exponent,
    )


def take_back_recovery(quic: Any, session: Session) -> None:
    """Give aioquic the congestion window and the round trip that the session has now."""
    loss = quic._loss
    window, threshold, since = session.congestion
    loss._cc.congestion_window = window
    loss._cc.ssthresh = None if threshold == _NO_THRESHOLD else threshold
    loss._cc._congestion_recovery_start_time = since
    known, latest, smoothed, variance, minimum = session.round_trip
    if known:
        loss._rtt_initialized = True
        loss._rtt_latest, loss._rtt_smoothed, loss._rtt_variance, loss._rtt_min = latest, smoothed, variance, minimum


def _queue_acknowledgments(space: Any, largest: int, bits: int) -> None:
    queue = space.ack_queue
    for first, last in _runs(largest, bits):
        queue.add(first, last + 1)
    while len(queue) > _MAX_RANGES:
        queue.shift()


def _material(context: CryptoContext) -> tuple[bytes, bytes]:
    """Key and IV of a direction (RFC 9001 §5.1)."""
    if context.cipher_suite is None or context.secret is None or context.version is None:
        raise ValueError("keys that are not there yet")
    return derive_key_iv_hp(cipher_suite=context.cipher_suite, secret=context.secret, version=context.version)[:2]


def _next_material(context: CryptoContext) -> tuple[bytes, bytes]:
    """Key and IV of a direction after the next key update (RFC 9001 §6.1)."""
    if context.cipher_suite is None or context.secret is None or context.version is None:
        raise ValueError("keys that are not there yet")
    algorithm = cipher_suite_hash(context.cipher_suite)
    secret = hkdf_expand_label(algorithm, context.secret, KEY_UPDATE_LABELS[context.version], b"", algorithm.digest_size)
    key, iv, _ = derive_key_iv_hp(cipher_suite=context.cipher_suite, secret=secret, version=context.version)
    return key, iv


def _runs(largest: int, bits: int) -> Iterator[tuple[int, int]]:
    """(first, last) of each run of received numbers."""
    distance = 0
    while distance < WINDOW_SIZE and distance <= largest:
        if not bits >> distance & 1:
            distance += 1
            continue
        last = largest - distance
        while distance < WINDOW_SIZE and distance <= largest and bits >> distance & 1:
            distance += 1
        yield largest - distance + 1, last
