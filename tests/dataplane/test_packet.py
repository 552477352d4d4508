"""Packet protection against RFC 9001's own vectors and against aioquic; packet numbers against RFC 9000's."""

import random
from collections.abc import Iterator

import pytest
from aioquic.quic.crypto import CryptoContext, derive_key_iv_hp
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.quic.packet import decode_packet_number as aioquic_decode
from aioquic.tls import CipherSuite
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.peer import KEY_SIZES, SUITES
from tsq.dataplane.packet import SUITES as OFFERED
from tsq.dataplane.packet import PacketKeys, decode_packet_number, use_own_aes
from tsq.errors import ConfigError


@pytest.fixture(params=["own AES", "libcrypto"], autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Everything here holds whoever does the arithmetic (aesgcm.h needs the processor's instructions)."""
    before = use_own_aes(request.param == "own AES")
    yield request.param
    use_own_aes(before)


# RFC 9001 §5.2.
INITIAL_SALT = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")


def expand_label(secret: bytes, label: str, size: int) -> bytes:
    """RFC 8446 §7.1 with an empty context."""
    name = b"tls13 " + label.encode()
    info = size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\x00"
    return HKDFExpand(algorithm=hashes.SHA256(), length=size, info=info).derive(secret)


def extract(salt: bytes, material: bytes) -> bytes:
    """RFC 5869 §2.2."""
    mac = HMAC(salt, hashes.SHA256())
    mac.update(material)
    return mac.finalize()


def keys_of(secret: bytes, suite: int) -> PacketKeys:
    size = KEY_SIZES[suite]
    return PacketKeys(
        suite, expand_label(secret, "quic key", size), expand_label(secret, "quic iv", 12), expand_label(secret, "quic hp", size)
    )


def initial_keys(side: str) -> PacketKeys:
    """RFC 9001 A.1: the keys of destination connection ID 8394c8f03e515708."""
    secret = extract(INITIAL_SALT, bytes.fromhex("8394c8f03e515708"))
    return keys_of(expand_label(secret, f"{side} in", 32), 0x1301)


# ------------------------------------------------------------------------------------------------- RFC 9001 Appendix A

# A.2. The protected packet begins and ends so; between them lies what these keys make of the CRYPTO frame and PADDING.
CLIENT_HEADER = "c300000001088394c8f03e5157080000449e00000002"
CLIENT_HELLO = (
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868"
    "04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578"
    "616d706c652e636f6dff01000100000a00080006001d00170018001000070005"
    "04616c706e000500050100000000003300260024001d00209370b2c9caa47fba"
    "baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400"
    "0d0010000e0403050306030203080408050806002d00020101001c0002400100"
    "3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000"
    "75300901100f088394c8f03e51570806048000ffff"
)
CLIENT_START = (
    "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11d242b123dc9bd8bab936b47d92ec356c0bab7df5976d27cd449f63300099f399"
)
CLIENT_END = "e221af44860018ab0856972e194cd934"
# A.3.
SERVER_HEADER = "c1000000010008f067a5502a4262b50040750001"
SERVER_PAYLOAD = (
    "02000000000600405a020000560303eefce7f7b37ba1d1632e96677825ddf739"
    "88cfc79825df566dc5430b9a045a1200130100002e00330024001d00209d3c94"
    "0d89690b84d08a60993c144eca684d1081287c834d5311bcf32bb9da1a002b00"
    "020304"
)
SERVER_PACKET = (
    "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a"
    "5816b6394100f37a1c69797554780bb38cc5a99f5ede4cf73c3ec2493a1839b3"
    "dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84"
    "022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c276456cbc4"
    "2158407dd074ee"
)


def test_client_initial_of_rfc_9001_a_2():
    payload = bytes.fromhex(CLIENT_HELLO)
    payload += bytes(1162 - len(payload))
    packet = initial_keys("client").protect(bytes.fromhex(CLIENT_HEADER), 2, payload)
    assert len(packet) == 1200
    assert packet.hex().startswith(CLIENT_START)
    assert packet.hex().endswith(CLIENT_END)
    assert initial_keys("client").open(packet, 18, 0) == (bytes.fromhex(CLIENT_HEADER), 2, payload)
    assert initial_keys("server").open(packet, 18, 0) is None


def test_server_initial_of_rfc_9001_a_3():
    packet = initial_keys("server").protect(bytes.fromhex(SERVER_HEADER), 1, bytes.fromhex(SERVER_PAYLOAD))
    assert packet.hex() == SERVER_PACKET
    opened = initial_keys("server").open(packet, 18, 0)
    assert opened == (bytes.fromhex(SERVER_HEADER), 1, bytes.fromhex(SERVER_PAYLOAD))


def test_chacha20_short_header_of_rfc_9001_a_5():
    secret = bytes.fromhex("9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b")
    assert expand_label(secret, "quic key", 32).hex() == "c6d98ff3441c3fe1b2182094f69caa2ed4b716b65488960a7a984979fb23e1c8"
    assert expand_label(secret, "quic iv", 12).hex() == "e0459b3474bdd0e44a41c144"
    assert expand_label(secret, "quic hp", 32).hex() == "25a282b9e82f06f21f488917a4fc8f1b73573685608597d0efcb076b0ab7a7a4"
    keys = keys_of(secret, 0x1303)
    header = bytes.fromhex("4200bff4")
    packet = keys.protect(header, 654360564, b"\x01")
    assert packet.hex() == "4cfe4189655e5cd55c41f69080575d7999c25a5bfb"
    assert keys.open(packet, 1, 654360564) == (header, 654360564, b"\x01")
    # Any number near enough is good enough to find it by.
    assert keys.open(packet, 1, 654360564 - 1000) == (header, 654360564, b"\x01")
    assert keys.open(packet, 1, 0) is None


# McGrew and Viega, The Galois/Counter Mode of Operation, test cases 4 and 16: one text, one header, two keys.
GCM_KEY = "feffe9928665731c6d6a8f9467308308"
GCM_TEXT = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
GCM_HEADER = "feedfacedeadbeeffeedfacedeadbeefabaddad2"
GCM_SEALED = {
    0x1301: "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d"
    "58e0915bc94fbc3221a5db94fae95ae7121a47",
    0x1302: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abc"
    "c9f66276fc6ece0f4e1768cddf8853bb2d551b",
}


@pytest.mark.parametrize("suite", GCM_SEALED)
def test_gcm_is_that_of_its_own_test_cases(suite):
    size = KEY_SIZES[suite]
    keys = PacketKeys(suite, bytes.fromhex(GCM_KEY * (size // 16)), bytes.fromhex("cafebabefacedbaddecaf888"), bytes(size))
    # Packet number 0: the nonce is the IV. The header is protected, what comes after it is as in the test case.
    packet = keys.protect(bytes.fromhex(GCM_HEADER), 0, bytes.fromhex(GCM_TEXT))
    assert packet[20:].hex() == GCM_SEALED[suite]


@pytest.mark.parametrize("suite", GCM_SEALED)
def test_packets_of_every_size_are_the_same_whoever_does_the_arithmetic(suite):
    rng = random.Random(suite)
    size = KEY_SIZES[suite]
    for length in (*range(4, 300), *range(300, 2033, 7), 2031, 2032):
        material = [rng.randbytes(size), rng.randbytes(12), rng.randbytes(size)]
        number, text = rng.getrandbits(62), rng.randbytes(length)
        header = bytes([0x40 | rng.getrandbits(2)]) + rng.randbytes(rng.randint(4, 31))
        packets, keys = [], []
        for own in (True, False):
            use_own_aes(own)
            keys.append(PacketKeys(suite, *material))
            packets.append(keys[-1].protect(header, number, text))
        assert packets[0] == packets[1]
        offset = len(header) - (header[0] & 3) - 1
        if offset <= 28 and len(packets[0]) <= 2048:
            opened = [each.open(packets[0], offset, number) for each in keys]
            assert opened[0] == opened[1]
            forged = bytearray(packets[0])
            forged[rng.randrange(len(header), len(forged))] ^= 1 << rng.randrange(8)
            assert [each.open(bytes(forged), offset, number) for each in keys] == [None, None]


# ------------------------------------------------------------------------------------------------------- against aioquic

def pair(suite: int, secret: bytes) -> tuple[PacketKeys, CryptoContext]:
    """The same keys here and in aioquic."""
    kind = CipherSuite(suite)
    theirs = CryptoContext()
    theirs.setup(cipher_suite=kind, secret=secret, version=QuicProtocolVersion.VERSION_1)
    return PacketKeys(suite, *derive_key_iv_hp(cipher_suite=kind, secret=secret, version=QuicProtocolVersion.VERSION_1)), theirs


def short_header(rng: random.Random, id_size: int, pn_size: int, number: int) -> bytes:
    # Spin bit at random; key phase 0, so that aioquic does not look for the next keys.
    first = 0x40 | rng.getrandbits(1) << 5 | pn_size - 1
    return bytes([first]) + rng.randbytes(id_size) + (number % (1 << 8 * pn_size)).to_bytes(pn_size, "big")


@pytest.mark.parametrize("suite", SUITES)
def test_packets_are_aioquics_bit_for_bit(suite):
    rng = random.Random(suite)
    for id_size in range(21):
        for pn_size in (1, 2, 3, 4):
            size = rng.choice((4 - pn_size, 1, 3, 4, 5, 16, 63, 64, 700, 1299, 1300, rng.randint(1, 1300)))
            size = max(size, 4 - pn_size, 1)
            number = rng.choice((0, 1, 255, 256, 1 << 31, (1 << 62) - 1, rng.getrandbits(62)))
            ours, theirs = pair(suite, rng.randbytes(48 if suite == 0x1302 else 32))
            header, payload = short_header(rng, id_size, pn_size, number), rng.randbytes(size)
            packet = ours.protect(header, number, payload)
            assert packet == theirs.encrypt_packet(header, payload, number)
            assert ours.open(packet, 1 + id_size, number) == (header, number, payload)
            assert theirs.decrypt_packet(packet, 1 + id_size, number)[:3] == (header, payload, number)


@given(data=st.data(), suite=st.sampled_from(SUITES), id_size=st.integers(0, 20), pn_size=st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_packets_survive_the_way_from_aioquic(data, suite, id_size, pn_size):
    rng = random.Random(data.draw(st.integers(0, 1 << 32)))
    number = data.draw(st.integers(0, (1 << 62) - 1))
    payload = data.draw(st.binary(min_size=max(1, 4 - pn_size), max_size=100)) * data.draw(st.integers(1, 13))
    ours, theirs = pair(suite, rng.randbytes(48 if suite == 0x1302 else 32))
    header = short_header(rng, id_size, pn_size, number)
    packet = theirs.encrypt_packet(header, payload, number)
    assert ours.open(packet, 1 + id_size, number) == (header, number, payload)


@pytest.mark.parametrize("suite", SUITES)
def test_every_bit_flip_fails_to_open(suite):
    rng = random.Random(suite)
    ours, _ = pair(suite, rng.randbytes(48 if suite == 0x1302 else 32))
    packet = ours.protect(short_header(rng, 8, 2, 77), 77, rng.randbytes(60))
    for bit in range(8 * len(packet)):
        forged = bytearray(packet)
        forged[bit // 8] ^= 1 << bit % 8
        assert ours.open(bytes(forged), 9, 77) is None
    assert ours.open(packet, 9, 77) is not None


@pytest.mark.parametrize("suite", SUITES)
def test_every_truncation_and_extension_fails_to_open(suite):
    rng = random.Random(suite)
    ours, _ = pair(suite, rng.randbytes(48 if suite == 0x1302 else 32))
    packet = ours.protect(short_header(rng, 8, 2, 77), 77, rng.randbytes(60))
    for size in range(len(packet)):
        assert ours.open(packet[:size], 9, 77) is None
    for more in (b"\0", bytes(16), bytes(2000)):
        assert ours.open(packet + more, 9, 77) is None


@pytest.mark.parametrize("suite", SUITES)
def test_another_key_iv_or_header_protection_key_fails_to_open(suite):
    rng = random.Random(suite)
    size = KEY_SIZES[suite]
    material = [rng.randbytes(size), rng.randbytes(12), rng.randbytes(size)]
    packet = PacketKeys(suite, *material).protect(short_header(rng, 8, 4, 5), 5, rng.randbytes(30))
    for part in range(3):
        other = list(material)
        other[part] = bytes([other[part][0] ^ 1]) + other[part][1:]
        assert PacketKeys(suite, *other).open(packet, 9, 5) is None
    assert PacketKeys(suite, *material).open(packet, 9, 5) is not None


def test_a_packet_opens_only_under_its_own_number():
    ours, _ = pair(0x1301, bytes(32))
    packet = ours.protect(bytes.fromhex("400000000000000000" "07"), 7, bytes(30))
    assert ours.open(packet, 9, 8) is not None
    assert ours.open(packet, 9, 8 + 256) is None


# ---------------------------------------------------------------------------------------------------------- bad arguments

@pytest.mark.parametrize("suite", [0, 0x1300, 0x1304, 0x1305, -1])
def test_other_suites_are_refused(suite):
    with pytest.raises(ConfigError):
        PacketKeys(suite, bytes(16), bytes(12), bytes(16))


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("change", [-1, 1, -16, 16])
def test_other_key_sizes_are_refused(suite, part, change):
    sizes = [KEY_SIZES[suite], 12, KEY_SIZES[suite]]
    sizes[part] = max(0, sizes[part] + change)
    with pytest.raises(ConfigError):
        PacketKeys(suite, *map(bytes, sizes))


def test_the_suites_are_those_of_tls_1_3():
    assert set(OFFERED) == set(SUITES)


def test_other_types_are_refused():
    keys, _ = pair(0x1301, bytes(32))
    for wrong in (None, "text", bytearray(16), 5):
        with pytest.raises(TypeError):
            PacketKeys(0x1301, wrong, bytes(12), bytes(16))
        with pytest.raises(TypeError):
            keys.protect(wrong, 0, bytes(20))
        with pytest.raises(TypeError):
            keys.protect(bytes(10), 0, wrong)
        with pytest.raises(TypeError):
            keys.open(wrong, 9, 0)
    with pytest.raises(TypeError):
        PacketKeys("suite", bytes(16), bytes(12), bytes(16))
    with pytest.raises(TypeError):
        keys.protect(bytes(10), None, bytes(20))


@pytest.mark.parametrize(
    ("header", "number", "payload"),
    [
        (b"", 0, bytes(20)),
        (b"\x40", 0, bytes(20)),
        (b"\x40" + bytes(32), 0, bytes(20)),
        (b"\x40" + bytes(9), -1, bytes(20)),
        (b"\x40" + bytes(9), 0, bytes(2048 - 15)),
        (b"\x40" + bytes(9), 0, b"12"),
        (b"\x43" + bytes(9), 0, bytes(1 << 20)),
    ],
)
def test_packets_that_cannot_be_are_refused(header, number, payload):
    keys, _ = pair(0x1301, bytes(32))
    with pytest.raises(ConfigError):
        keys.protect(header, number, payload)


@pytest.mark.parametrize("header", [b"\x43" + bytes(3), b"\x41" + bytes(1)])
def test_a_header_without_room_for_its_packet_number_is_refused(header):
    """The packet number comes after the first byte; one that began there would be written over it, or before the packet."""
    keys, _ = pair(0x1301, bytes(32))
    with pytest.raises(ConfigError):
        keys.protect(header, 0, bytes(20))


def test_the_largest_packet_is_of_2048_bytes_beside_its_header():
    keys, _ = pair(0x1301, bytes(32))
    header = b"\x43" + bytes(31)
    packet = keys.protect(header, 0, bytes(2048 - 16))
    assert len(packet) == 2080
    assert keys.open(packet, 28, 0) is None
    packet = keys.protect(header, 0, bytes(2000))
    assert keys.open(packet, 28, 0) == (header, 0, bytes(2000))


@pytest.mark.parametrize(("offset", "expected"), [(0, 0), (-1, 0), (-(1 << 40), 0), (29, 0), (1000, 0), (1 << 40, 0), (9, -1)])
def test_other_offsets_open_nothing(offset, expected):
    keys, _ = pair(0x1301, bytes(32))
    packet = keys.protect(b"\x43" + bytes(12), 0, bytes(100))
    assert keys.open(packet, offset, expected) is None


def test_numbers_beyond_64_bits_are_refused():
    keys, _ = pair(0x1301, bytes(32))
    with pytest.raises(OverflowError):
        keys.protect(b"\x43" + bytes(12), 1 << 63, bytes(100))
    with pytest.raises(OverflowError):
        keys.open(bytes(100), 9, 1 << 63)
    with pytest.raises(OverflowError):
        keys.open(bytes(100), 1 << 63, 0)


# -------------------------------------------------------------------------------------------------------- packet numbers

def test_packet_number_of_rfc_9000_a_3():
    assert decode_packet_number(0x9B32, 2, 0xA82F30EA + 1) == 0xA82F9B32


@pytest.mark.parametrize(
    ("truncated", "expected", "number"),
    # Half of what a byte can hold lies below the expected number, and half above it (RFC 9000 A.3).
    [(104, 1000, 1128), (105, 1000, 873), (160, 800, 928), (161, 800, 673), (0, 128, 256), (1, 128, 1), (255, 0, 255)],
)
def test_the_edges_of_what_a_truncated_packet_number_may_mean(truncated, expected, number):
    assert decode_packet_number(truncated, 1, expected) == number


@pytest.mark.parametrize(
    ("truncated", "size", "expected", "number"),
    [
        (0, 1, 0, 0),
        (255, 1, 0, 255),
        (0, 1, 255, 256),
        (127, 1, 256, 383),
        (128, 1, 256, 384),
        (129, 1, 256, 129),
        (0, 4, (1 << 32) + 5, 1 << 32),
        (0xFFFFFFFF, 4, 1 << 32, (1 << 32) - 1),
        (0xFF, 1, (1 << 62) - 1, (1 << 62) - 1),
        (0, 1, (1 << 62) - 1, (1 << 62) - 256),
    ],
)
def test_the_number_nearest_to_the_expected_one_is_meant(truncated, size, expected, number):
    assert decode_packet_number(truncated, size, expected) == number


@given(size=st.integers(1, 4), bits=st.integers(0, 62), data=st.data())
@settings(max_examples=1000, deadline=None)
def test_packet_numbers_are_decoded_as_aioquic_does(size, bits, data):
    expected = data.draw(st.integers(0, (1 << bits) - (bits > 0)))
    truncated = data.draw(st.integers(0, (1 << 8 * size) - 1))
    assert decode_packet_number(truncated, size, expected) == aioquic_decode(truncated, 8 * size, expected)


@given(size=st.integers(1, 4), number=st.integers(0, (1 << 62) - 1), data=st.data())
@settings(deadline=None)
def test_a_number_within_half_a_window_is_found_again(size, number, data):
    half = 1 << 8 * size - 1
    # RFC 9000 §17.1: the sender takes care that the number lies in the window around the one expected.
    expected = data.draw(st.integers(max(0, number - half + 1), min((1 << 62) - 1, number + half - 1)))
    assert decode_packet_number(number % (1 << 8 * size), size, expected) == number


@pytest.mark.parametrize(
    ("truncated", "size", "expected"), [(0, 0, 0), (0, 5, 0), (0, -1, 0), (0, 1, -1), (256, 1, 0), (1 << 32, 4, 0)]
)
def test_numbers_that_cannot_be_are_refused(truncated, size, expected):
    with pytest.raises(ConfigError):
        decode_packet_number(truncated, size, expected)


def test_other_types_of_number_are_refused():
    with pytest.raises(TypeError):
        decode_packet_number("0", 1, 0)
    with pytest.raises(TypeError):
        decode_packet_number(0, 1, None)
    with pytest.raises(OverflowError):
        decode_packet_number(-1, 1, 0)
