"""Counting frames before aioquic handles them: the count agrees with aioquic, and stops at the limits."""

import random

import pytest
from aioquic.quic.configuration import QuicConfiguration

from tests.dataplane.peer import PADDING, PING, ack, datagram, varint
from tests.support.crafted import REQUEST, Stranger, crypto, reset_stream, stop_sending, stream
from tsq.quic import tls
from tsq.quic.aioquic.trim import TrimmedConnection
from tsq.quic.frames import contents, packets_in
from tsq.quic.limits import PeerLimits
from tsq.quic.router import Drop

LIMITS = PeerLimits()
EACH = [
    PADDING, PADDING * 9, PING, ack(5, 1), ack(70, 0, *[(0, 0)] * 30), ack(5, 0, ecn=(1, 2, 3)), reset_stream(4, 9),
    stop_sending(4),
    crypto(1000, b"abc"), b"\x07\x02to", stream(4, b"abc"), stream(4, b"", 1000, fin=True), b"\x0a\x04\x03abc",
    b"\x10\x40\x40", b"\x11\x04\x40\x40", b"\x12\x05", b"\x13\x05", b"\x14\x05", b"\x15\x04\x05", b"\x16\x05", b"\x17\x05",
    b"\x18\x02\x00\x08" + bytes(24), b"\x19\x01", b"\x1a" + bytes(8), b"\x1b" + bytes(8),
    b"\x1c\x00\x06\x03abc", b"\x1d\x00\x03abc",
    b"\x1e", datagram(REQUEST), b"\x31\x00", b"\x40\x01",
]  # fmt: skip
LAST = [b"\x08\x04abc", b"\x0c\x04\x05abc", b"\x30abc", b"\x30"]


@pytest.mark.parametrize("frame", EACH + LAST, ids=lambda frame: frame[:2].hex())
def test_every_frame_type_is_stepped_over(frame):
    assert contents(PING + frame, LIMITS) == (2, "")
    if frame in EACH:
        assert contents(PING + frame + b"\x01\x06\x00\x00", LIMITS).frames == 4


class Counting(dict):
    """Frame handlers that are counted, and do what aioquic's do with the bytes."""

    seen = 0

    def __getitem__(self, frame_type):
        Counting.seen += 1
        return super().__getitem__(frame_type)


@pytest.mark.parametrize("seed", range(20))
def test_it_counts_the_frames_that_aioquic_handles(seed, certificates):
    rng = random.Random(seed)
    configuration = tls.server_configuration(str(certificates.certificate), str(certificates.key))
    for _ in range(20):
        frames = b"".join(rng.choice([PING, PADDING, crypto(rng.getrandbits(10), b"x" * rng.randint(0, 9))]) for _ in range(40))
        if rng.random() < 0.5:
            at = rng.randrange(len(frames))
            frames = frames[:at] + rng.randbytes(1) + frames[at + rng.randint(0, 2) :]
        connection = TrimmedConnection(configuration=configuration, original_destination_connection_id=b"stranger")
        handlers = Counting(connection._QuicConnection__frame_handlers)
        connection._QuicConnection__frame_handlers = handlers
        Counting.seen = 0
        connection.receive_datagram(Stranger().initial(frames), "somewhere", 0.0)
        found = contents(frames, PeerLimits(frames=1 << 20))
        # With what pads the datagram. aioquic may stop earlier: at a frame that it does not like.
        assert Counting.seen <= found.frames + 1


def test_a_packet_is_not_looked_through_beyond_its_limits():
    assert contents(PING * 64, LIMITS) == (64, "")
    assert contents(PING * 1100, LIMITS) == (65, Drop.TOO_MANY_FRAMES)
    assert contents(b"\x31\x00" * 565, LIMITS).excess == Drop.TOO_MANY_FRAMES
    assert contents((PING + PADDING) * 33, LIMITS).excess == Drop.TOO_MANY_FRAMES
    assert contents(ack(1) * 4, LIMITS).excess == ""
    assert contents(ack(1) * 5, LIMITS).excess == Drop.TOO_MANY_ACKS
    assert contents(ack(200, 0, *[(0, 0)] * 63), LIMITS).excess == ""
    assert contents(ack(200, 0, *[(0, 0)] * 64), LIMITS).excess == Drop.TOO_MANY_ACKS
    # A count that the packet does not hold.
    assert contents(b"\x02\x05\x00" + varint((1 << 62) - 1) + b"\x00", LIMITS).excess == Drop.TOO_MANY_ACKS


def test_the_chaotic_client_hello_of_a_browser_is_within_the_limits():
    """Chrome cuts its ClientHello into some ten pieces, and puts PING and PADDING between them."""
    rng = random.Random(1)
    pieces = [crypto(40 * number, bytes(40)) for number in range(12)] + [PING] * 10
    rng.shuffle(pieces)
    assert contents(b"".join(piece + PADDING * 3 for piece in pieces), LIMITS).excess == ""


@pytest.mark.parametrize("seed", range(200))
def test_no_bytes_confuse_it(seed):
    rng = random.Random(seed)
    for _ in range(20):
        likely = (0, 1, 2, 6, 8, 0x0E, 0x18, 0x1C, 0x31, 0x40, 0xC0, rng.getrandbits(8))
        data = bytes(rng.choice(likely) for _ in range(rng.randint(0, 60)))
        found = contents(data, LIMITS)
        assert 0 <= found.frames <= LIMITS.frames + 1


def test_other_users_of_aioquic_keep_their_receivers():
    from aioquic.quic.connection import QuicConnection  # noqa: PLC0415
    from aioquic.quic.stream import QuicStreamReceiver  # noqa: PLC0415

    client = QuicConnection(configuration=QuicConfiguration(is_client=True, server_name="localhost"))
    client.connect("the server", 0.0)
    assert {type(item.receiver) for item in client._crypto_streams.values()} == {QuicStreamReceiver}


def long_header(kind: int, version: bytes = b"\0\0\0\x01", token: bytes | None = None, size: int = 20) -> bytes:
    """A packet with a long header; what is sealed is left out."""
    head = bytes([0xC0 | kind]) + version + b"\x08recipien" + b"\x06sender"
    return head + (b"" if token is None else varint(len(token)) + token) + varint(size, 2) + bytes(size)


V2 = b"\x6b\x33\x43\xcf"
INITIAL, EARLY, HANDSHAKE = long_header(0x00, token=b""), long_header(0x10), long_header(0x20)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 0),
        (b"\x40" + bytes(40), 1),
        (INITIAL, 1),
        (INITIAL + bytes(900), 2),
        (INITIAL + EARLY + HANDSHAKE + b"\x41" + bytes(30), 4),
        (long_header(0x00, token=bytes(70)) * 2 + HANDSHAKE, 3),
        (long_header(0x10, V2, b"") + long_header(0x20, V2) + long_header(0x30, V2), 3),
        (long_header(0x30) * 5, 1),
        (long_header(0x00, b"\0\0\0\0") * 5, 1),
        (long_header(0x00, b"\x0a\x0a\x0a\x0a") * 5, 1),
        (HANDSHAKE[:-1] + HANDSHAKE, 2),
        (HANDSHAKE + HANDSHAKE[:9], 2),
        (long_header(0x20, size=0) * 60, 9),
    ],
)
def test_the_packets_of_a_datagram_are_counted(data, count):
    assert packets_in(data, 8) == count


def test_arbitrary_bytes_have_some_number_of_packets():
    generator = random.Random(5)
    for _ in range(3000):
        data = generator.randbytes(generator.randrange(60))
        assert packets_in(data, 8) <= 9
        assert packets_in(b"\xe0\0\0\0\x01" + data, 8) <= 9
