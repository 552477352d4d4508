"""Admission by behaviour: what is dropped, what is answered, what passes; and its cryptography beside aioquic's own."""

import hmac
import random
import sys
from ipaddress import ip_address, ip_network

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoError, CryptoPair
from aioquic.quic.packet import QuicPacketType, QuicProtocolVersion, get_retry_integrity_tag, pull_quic_header

from tests.dataplane.peer import PADDING, PING, ack, varint
from tests.support.crafted import Stranger, crypto
from tsq._fast import pack_address
from tsq.dataplane import frames as compiled_frames
from tsq.dataplane.admission import NAMES, POLICIES, Admission
from tsq.dataplane.batches import DataPlane
from tsq.dataplane.digests import hmac_sha256, siphash
from tsq.dataplane.initials import initial_payload, packets_in
from tsq.dataplane.packet import use_own_aes
from tsq.errors import ConfigError
from tsq.quic.access import AccessList
from tsq.quic.frames import contents
from tsq.quic.frames import packets_in as packets_in_python
from tsq.quic.limits import Limits, PeerLimits, RetryPolicy
from tsq.quic.router import Drop

V1, V2 = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2
HERE = pack_address("192.0.2.7", 4000)
NOW = 1000.0
HELLO = crypto(0, b"\x01hello")


def admission(**limits) -> Admission:
    made = Admission()
    made.set_limits(**limits)
    made.set_versions([V1, V2])
    return made


def address(number: int, port: int = 4000) -> bytes:
    """An address in a network of its own."""
    return pack_address(f"{10 + number // 65536}.{number // 256 % 256}.{number % 256}.1", port)


def initial(number: int = 0, frames: bytes = HELLO, token: bytes = b"", version: int = V1, destination: bytes = b"") -> bytes:
    """A client's Initial of a whole datagram, made by aioquic."""
    destination = destination or number.to_bytes(8, "big")
    keys = CryptoPair()
    keys.setup_initial(cid=destination, is_client=True, version=version)
    head = bytes([0xC3 if version == V1 else 0xD3]) + version.to_bytes(4, "big") + bytes([len(destination)]) + destination
    head += b"\x02me" + varint(len(token)) + token
    frames += bytes(max(0, 1200 - len(head) - 2 - 4 - 16 - len(frames)))
    head += varint(4 + len(frames) + 16, 2) + bytes(4)
    return keys.encrypt_packet(head, frames, 0)


def opened_by_aioquic(data: bytes) -> bytes | None:
    """The reference: what aioquic's own header and cryptography make of an Initial."""
    buffer = Buffer(data=data)
    try:
        header = pull_quic_header(buffer, host_cid_length=8)
    except ValueError:
        return None
    if header.packet_type != QuicPacketType.INITIAL or header.version not in (V1, V2):
        return None
    keys = CryptoPair()
    keys.setup_initial(cid=header.destination_cid, is_client=False, version=header.version)
    try:
        return keys.decrypt_packet(data[: header.packet_length], buffer.tell(), 0)[1]
    except CryptoError:
        return None


@pytest.fixture(params=[True, False], ids=["own AES", "libcrypto"])
def aes(request):
    before = use_own_aes(request.param)
    yield
    use_own_aes(before)


def test_digests_are_the_published_ones():
    assert siphash(bytes(range(16)), bytes(range(15))) == 0xA129CA6149BE45E5
    rng = random.Random(1)
    for size in range(150):
        key, data = rng.randbytes(rng.randint(0, 100)), rng.randbytes(size)
        assert hmac_sha256(key, data) == hmac.digest(key, data, "sha256")


def test_names_are_those_of_the_router():
    assert set(NAMES.values()) <= {str(reason) for reason in Drop}
    assert set(POLICIES) == {policy.value for policy in RetryPolicy}


# --------------------------------------------------------------------------------------------------------------- opening


@pytest.mark.parametrize("version", [V1, V2])
def test_initials_open_as_with_aioquic(aes, version):
    rng = random.Random(2)
    for size in range(21):
        destination = rng.randbytes(size) or b"x"
        frames, token = crypto(0, rng.randbytes(200)), rng.randbytes(size * 5)
        data = initial(frames=frames, token=token, version=version, destination=destination)
        assert initial_payload(data) == opened_by_aioquic(data) is not None


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A datagram with a few bytes changed, cut, or put in, near its beginning most of the time."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(60 if rng.random() < 0.7 else len(changed)) % len(changed)
        kind = rng.randrange(4)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at] = rng.randrange(256)
        elif kind == 2:
            del changed[at : at + rng.choice([1, 2, 8, 500])]
        else:
            changed[at:at] = rng.randbytes(rng.choice([1, 2, 8, 500]))
        if not changed:
            break
    return bytes(changed)


@pytest.mark.parametrize("seed", range(4))
def test_changed_initials_open_or_not_as_with_aioquic_and_never_raise(aes, seed):
    rng = random.Random(seed)
    whole = [initial(n, token=rng.randbytes(rng.choice([0, 30, 70])), version=rng.choice([V1, V2])) for n in range(8)]
    judging = admission(retry="never", prefix_newcomers=1e9, newcomers=1e9, half_open=1 << 30)
    checked = 0
    for _ in range(1500):
        data = mutated(rng, rng.choice(whole))
        if len(data) > 2048:
            continue
        reference = opened_by_aioquic(data)
        assert initial_payload(data) == reference
        reason, reply = judging.judge(data, HERE, NOW)
        assert reply is None or len(reply) < len(data)
        if reason is None:
            assert reference is not None
        checked += reference is None
    assert checked > 100


@pytest.mark.parametrize("seed", range(3))
def test_any_bytes_get_a_verdict_and_no_more_than_they_brought(seed):
    rng = random.Random(seed)
    judging = admission()
    for _ in range(3000):
        data = rng.randbytes(rng.choice([0, 1, 6, 7, 8, 9, 21, 60, 1199, 1200, 2048]))
        if len(data) > 6 and rng.random() < 0.7:
            data = bytes([0xC0 | data[0]]) + rng.choice([V1, V2, 0, 0x1A2A3A4A]).to_bytes(4, "big") + data[5:]
        reason, reply = judging.judge(data, rng.choice([HERE, pack_address("2001:db8::1", 9), b"", b"odd"]), NOW)
        assert reason is not None
        assert reply is None or len(reply) < max(len(data), 1)


def packet(rng: random.Random) -> bytes:
    version = rng.choice([V1, V2, 0, 0x1A2A3A4A]).to_bytes(4, "big")
    body = varint(rng.choice([0, 3])) + bytes(3) if rng.random() < 0.5 else b""
    size = rng.choice([4, 20, 300])
    return bytes([rng.choice([0xC0, 0xD0, 0xE0, 0xF0, 0x40])]) + version + b"\x03abc\x00" + body + varint(size) + bytes(size)


@pytest.mark.parametrize("seed", range(3))
def test_packets_and_frames_are_counted_as_in_python(seed):
    rng = random.Random(seed)
    limits = PeerLimits()
    some = [PADDING * 5, PING, ack(5, 1), ack(70, 0, *[(0, 0)] * 30), HELLO, b"\x1c\x00\x06\x03abc"]
    for _ in range(2000):
        data = b"".join(packet(rng) for _ in range(rng.randint(0, 12)))
        assert packets_in(data, 8) == packets_in_python(data, 8)
        plain = b"".join(rng.choice(some) for _ in range(rng.randint(0, 90)))
        plain = plain[: rng.randint(0, len(plain))] if rng.random() < 0.5 else mutated(rng, plain or b"\0")
        excess = ("", Drop.TOO_MANY_FRAMES, Drop.TOO_MANY_ACKS)[
            compiled_frames.excess(plain, limits.frames, limits.acks, limits.ack_ranges)
        ]
        assert contents(plain, limits).excess == excess


# --------------------------------------------------------------------------------------------------------------- replies


@pytest.mark.parametrize("version", [V1, V2])
def test_a_client_takes_the_retry_and_its_token_opens(aes, version):
    judging = admission(retry="always")
    client = QuicConnection(
        configuration=QuicConfiguration(is_client=True, original_version=version, supported_versions=[version])
    )
    client.connect("the server", NOW)
    (first,) = (data for data, _ in client.datagrams_to_send(NOW))
    reason, retry = judging.judge(first, HERE, NOW)
    assert reason == ""
    assert len(retry) < len(first) / 3
    header = pull_quic_header(Buffer(data=retry))
    original = pull_quic_header(Buffer(data=first), host_cid_length=8).destination_cid
    assert header.integrity_tag == get_retry_integrity_tag(retry[:-16], original, version)
    client.receive_datagram(retry, "the server", NOW)
    (second,) = (data for data, _ in client.datagrams_to_send(NOW))
    assert judging.judge(second, HERE, NOW) == (None, None)
    assert judging.validated(second, HERE, NOW) == (True, original)
    assert judging.retries == 1


@pytest.mark.parametrize("version", [V1, V2])
def test_a_client_takes_a_refusal(aes, version):
    judging = admission()
    judging.full = True
    client = QuicConnection(
        configuration=QuicConfiguration(is_client=True, original_version=version, supported_versions=[version])
    )
    client.connect("the server", NOW)
    (first,) = (data for data, _ in client.datagrams_to_send(NOW))
    reason, reply = judging.judge(first, HERE, NOW)
    assert reason == Drop.TOO_MANY_CONNECTIONS
    client.receive_datagram(reply, "the server", NOW)
    assert client._close_event.reason_phrase == "connection limit reached"


def test_version_negotiation_echoes_ids_of_any_length():
    # RFC 8999 §5.1: in other versions an ID may have 255 bytes.
    data = b"\xc0\x1a\x2a\x3a\x4a\xff" + bytes(255) + b"\xfe" + b"s" * 254
    reason, reply = admission().judge(data + bytes(1200 - len(data)), HERE, NOW)
    assert reason == Drop.UNKNOWN_VERSION
    assert reply[1:5] == bytes(4)
    assert reply[5 : 6 + 254] == b"\xfe" + b"s" * 254
    assert reply[260 : 261 + 255] == b"\xff" + bytes(255)
    assert reply[516:] == V1.to_bytes(4, "big") + V2.to_bytes(4, "big")
    assert len(reply) < 1200
    assert admission().judge(data, HERE, NOW) == (Drop.SMALL_INITIAL, None)


# ---------------------------------------------------------------------------------------------------------------- tokens


def retry_for(judging: Admission, number: int, where: bytes = HERE, now: float = NOW) -> tuple[bytes, bytes]:
    """(the token of a Retry, the connection ID to use with it)."""
    reason, retry = judging.judge(initial(number), where, now)
    assert reason == ""
    header = pull_quic_header(Buffer(data=retry))
    return header.token, header.source_cid


def test_a_retry_token_is_bound_to_address_port_id_and_time():
    judging = admission(retry="always")
    token, new_id = retry_for(judging, 1)
    good = initial(token=token, destination=new_id)
    elsewhere = [pack_address("192.0.2.8", 4000), pack_address("192.0.2.7", 4001), pack_address("2001:db8::7", 4000)]
    for where in elsewhere:
        assert judging.judge(good, where, NOW)[0] == Drop.INVALID_TOKEN
    assert judging.judge(initial(token=token, destination=bytes(8)), HERE, NOW)[0] == Drop.INVALID_TOKEN
    assert judging.judge(good, HERE, NOW + 31)[0] == Drop.INVALID_TOKEN
    assert judging.judge(good, HERE, NOW - 6)[0] == Drop.INVALID_TOKEN
    for at in range(len(token)):
        changed = token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :]
        reason, _ = judging.judge(initial(token=changed, destination=new_id), HERE, NOW)
        # Where it does not look like a Retry token any more, it is one of somebody else's (RFC 9000 §8.1.3).
        assert reason == (Drop.INVALID_TOKEN if at else "")
    assert judging.judge(good, HERE, NOW + 29) == (None, None)


def test_a_retry_token_begins_one_handshake():
    judging = admission(retry="always")
    token, new_id = retry_for(judging, 1)
    data = initial(token=token, destination=new_id)
    # The datagrams of one ClientHello may come before its connection is known.
    assert [judging.judge(data, HERE, NOW) for _ in range(6)] == [(None, None)] * 6
    assert judging.judge(data, HERE, NOW)[0] == Drop.USED_TOKEN
    judging.add_id(new_id)
    assert judging.judge(data, HERE, NOW) == (None, None)
    judging.discard_id(new_id)
    assert [judging.judge(data, HERE, NOW + later) for later in (0, 1, 5, 29)] == [(Drop.USED_TOKEN, None)] * 4


def test_a_token_that_does_not_open_its_initial_is_not_used_up():
    judging = admission(retry="always")
    token, new_id = retry_for(judging, 1)
    data = initial(token=token, destination=new_id)
    spoiled = data[:-1] + bytes([data[-1] ^ 1])
    assert judging.judge(spoiled, HERE, NOW)[0] == Drop.UNREADABLE_INITIAL
    assert judging.judge(data, HERE, NOW) == (None, None)


def test_a_new_token_token_is_bound_to_address_and_day_and_spares_the_retry():
    judging = admission(retry="always")
    token = judging.new_token(HERE, NOW)
    data = initial(token=token)
    assert judging.validated(data, pack_address("192.0.2.7", 9), NOW) == (True, None)
    assert judging.judge(data, pack_address("192.0.2.7", 9), NOW + 23 * 3600) == (None, None)
    for where, now in ((pack_address("192.0.2.8", 4000), NOW), (HERE, NOW + 25 * 3600)):
        # It is treated as if there were none (RFC 9000 §8.1.3): a Retry.
        reason, reply = judging.judge(initial(5, token=token), where, now)
        assert (reason, pull_quic_header(Buffer(data=reply)).packet_type) == ("", QuicPacketType.RETRY)


def test_tokens_show_nothing_and_no_two_are_alike():
    judging = admission(retry="always")
    made = [judging.new_token(HERE, NOW) for _ in range(20)]
    assert len({token[2:] for token in made}) == 20
    assert not any(HERE[4:8] in token[2:] for token in made)
    token, _ = retry_for(judging, 0x4142434445464748)
    assert b"ABCDEFGH" not in token


def test_shared_keys_are_good_at_every_server_and_old_ones_until_they_are_dropped():
    one, other = admission(retry="always"), admission(retry="always")
    for judging in (one, other):
        judging.set_token_keys([b"k" * 32])
    other.unix_offset = one.unix_offset
    token, new_id = retry_for(one, 1)
    data = initial(token=token, destination=new_id)
    other.set_token_keys([b"n" * 32, b"k" * 32])
    assert other.judge(data, HERE, NOW) == (None, None)
    one.set_token_keys([b"n" * 32])
    assert one.judge(data, HERE, NOW)[0] == Drop.INVALID_TOKEN
    for keys in ([], [b"short"], [b"k" * 32] * 5):
        with pytest.raises(ConfigError):
            one.set_token_keys(keys)


def test_own_keys_are_rotated_and_outlive_their_tokens():
    judging = admission(retry="always")
    judging.rotate_keys(NOW)
    first = judging.new_token(HERE, NOW)
    for hours in range(1, 24):
        judging.rotate_keys(NOW + 3600 * hours)
    assert judging.new_token(HERE, NOW)[1] != first[1]
    assert judging.validated(initial(token=first), HERE, NOW + 23 * 3600) == (True, None)
    for hours in range(24, 72):
        judging.rotate_keys(NOW + 3600 * hours)
    assert judging.validated(initial(token=first), HERE, NOW + 3600) == (False, None)


# -------------------------------------------------------------------------------------------------- networks and load


def test_a_network_over_its_budget_gets_a_retry_and_shuts_out_nobody():
    judging = admission(prefix_newcomers=5.0, arrivals=1000)
    verdicts = [judging.judge(initial(n), pack_address(f"192.0.2.{n}", n), NOW)[0] for n in range(1, 20)]
    assert verdicts == [None] * 10 + [""] * 9
    assert judging.judge(initial(100), pack_address("192.0.3.1", 1), NOW)[0] is None
    # With a token, a client of that network gets in all the same.
    token, new_id = retry_for(judging, 200)
    assert judging.judge(initial(token=token, destination=new_id), HERE, NOW)[0] is None
    # And after a second five more without one.
    assert [judging.judge(initial(n), HERE, NOW + 1)[0] for n in range(300, 307)] == [None] * 5 + [""] * 2


def test_without_retry_a_network_over_its_budget_is_dropped():
    judging = admission(retry="never", prefix_newcomers=5.0)
    assert [judging.judge(initial(n), HERE, NOW)[0] for n in range(12)] == [None] * 10 + [Drop.NETWORK_OVER_BUDGET] * 2


def test_networks_of_ipv6_are_56_bits_and_mapped_ipv4_is_ipv4():
    judging = admission(retry="never", prefix_newcomers=1.0)

    def verdict(number: int, where: str) -> str | None:
        return judging.judge(initial(number), pack_address(where, 1), NOW)[0]

    assert [verdict(n, f"2001:db8:0:{n:x}::{n:x}") for n in range(1, 5)] == [None] * 2 + [Drop.NETWORK_OVER_BUDGET] * 2
    assert verdict(10, "2001:db8:0:100::1") is None
    assert [verdict(20 + n, where) for n, where in enumerate(["::ffff:192.0.2.1", "192.0.2.2", "::ffff:192.0.2.3"])] == [
        None, None, Drop.NETWORK_OVER_BUDGET,
    ]  # fmt: skip


def test_clients_with_tokens_have_a_budget_too():
    judging = admission(retry="always", prefix_handshakes=5.0)
    token = judging.new_token(HERE, NOW)
    verdicts = [judging.judge(initial(n, token=token), HERE, NOW)[0] for n in range(12)]
    assert verdicts == [None] * 10 + [Drop.NETWORK_OVER_BUDGET] * 2
    judging = admission(retry="always", handshakes=3.0)
    verdicts = [
        judging.judge(initial(n, token=judging.new_token(address(n), NOW)), address(n), NOW)[0] for n in range(5)
    ]
    assert verdicts == [None] * 3 + [Drop.TOO_MANY_HANDSHAKES] * 2


def flood(judging: Admission, now: float, count: int) -> list[str | None]:
    """Initials of clients that were not here before."""
    names = [int(now * 100) * 1000 + n for n in range(count)]
    return [judging.judge(initial(name), address(name % 65536), now)[0] for name in names]


def test_retry_goes_on_with_many_arrivals_and_off_within_a_second_after_them():
    judging = admission(arrivals=10)
    assert flood(judging, NOW, 15) == [None] * 10 + [""] * 5
    for step in range(1, 20):
        assert flood(judging, NOW + step / 20, 5) == [""] * 5
    assert judging.wants_retry(NOW + 1.0)
    assert not judging.wants_retry(NOW + 1.0 + 0.9)
    # It does not flutter: between both borders it stays as it is.
    assert flood(judging, NOW + 2, 11)[-1] == ""
    assert judging.wants_retry(NOW + 2.3)


@pytest.mark.parametrize(("share", "expected"), [(0.5, None), (0.86, ""), (0.95, Drop.MEMORY_SHORT)])
def test_where_memory_is_short_newcomers_get_a_retry_then_no_connection(share, expected):
    judging = admission()
    judging.set_memory(share)
    judging.add_id(b"connected")
    reason, reply = judging.judge(initial(1), HERE, NOW)
    assert reason == expected
    assert (reply is None) == (expected is None)
    # Those who are connected stay.
    assert judging.judge(b"\x40connected"[:9] + bytes(30), HERE, NOW)[0] == Drop.UNKNOWN_CONNECTION
    judging.add_id(b"eightbyt")
    assert judging.judge(b"\x40eightbyt" + bytes(30), HERE, NOW) == (None, None)
    # It goes off a little below, where it was on.
    judging.set_memory(0.8)
    assert judging.judge(initial(2), HERE, NOW)[0] == (None if expected is None else "")
    judging.set_memory(0.7)
    assert judging.judge(initial(3), HERE, NOW)[0] is None


def test_half_open_handshakes_are_few_where_there_is_no_retry():
    judging = admission(retry="never", half_open=5, newcomers=3.0, prefix_newcomers=1e6)
    judging.half_open = 5
    assert flood(judging, NOW, 6) == [None] * 3 + [Drop.TOO_MANY_HANDSHAKES] * 3


def test_a_copy_of_an_initial_goes_to_its_connection_once():
    judging = admission()
    judging.add_id((1).to_bytes(8, "big"))
    one, other = initial(1), initial(1, crypto(0, b"other"))
    assert [judging.judge(data, HERE, NOW)[0] for data in (one, one, one, other, other, one)] == [
        None, Drop.CAME_BEFORE, Drop.CAME_BEFORE, None, Drop.CAME_BEFORE, None,
    ]  # fmt: skip


def test_packets_of_one_handshake_are_bounded():
    judging = admission(handshake_packets=10)
    judging.add_id(bytes(8))
    handshake = b"\xe3\0\0\0\x01\x08" + bytes(8) + b"\0" + varint(30) + bytes(30)
    assert [judging.judge(handshake, HERE, NOW)[0] for _ in range(12)] == [None] * 10 + [Drop.OVER_BUDGET] * 2


@pytest.mark.parametrize("kind", ["unreadable", "whole", "retry"])
def test_memory_stays_as_it_is_whatever_comes(kind):
    judging = admission(retry="always" if kind == "retry" else "auto")
    judging.full = kind == "whole"
    before = sys.getsizeof(judging)
    rng = random.Random(4)
    data = initial(1)
    for number in range(20_000):
        changed = data[:6] + rng.randbytes(8) + data[14:] if kind == "unreadable" else data
        judging.judge(changed, pack_address(f"{1 + number // 250}.{number % 250}.0.1", 1), NOW + number / 20_000)
    assert sys.getsizeof(judging) == before
    assert judging.retries + sum(judging.dropped().values()) >= 19_000


def test_known_ids_come_and_go_and_leave_a_small_table():
    judging = admission()
    rng = random.Random(5)
    before = sys.getsizeof(judging)
    known: set[bytes] = set()
    for _ in range(20_000):
        if rng.random() < 0.6 or not known:
            connection_id = rng.randbytes(8)
            known.add(connection_id)
            judging.add_id(connection_id)
        else:
            connection_id = known.pop()
            judging.discard_id(connection_id)
            assert judging.judge(b"\x40" + connection_id, HERE, NOW)[0] == Drop.UNKNOWN_CONNECTION
    assert all(judging.judge(b"\x40" + connection_id, HERE, NOW) == (None, None) for connection_id in known)
    for connection_id in known:
        judging.discard_id(connection_id)
    assert sys.getsizeof(judging) <= before


# ---------------------------------------------------------------------------------------------------------------- access


def test_rules_decide_as_the_most_specific_prefix_says():
    rng = random.Random(6)
    for _ in range(60):
        rules: dict[str, bool] = {}
        for _ in range(rng.randint(0, 12)):
            base = rng.choice(["10.{}.{}.{}", "2001:db8:{:x}:{:x}::{:x}"]).format(*(rng.randrange(4) for _ in range(3)))
            length = rng.choice([8, 14, 16, 23, 24, 30, 32] if "." in base else [0, 32, 46, 48, 64, 127, 128])
            rules[str(ip_network(f"{ip_address(base)}/{length}", strict=False))] = rng.random() < 0.5
        access = AccessList(
            tuple(rule for rule, denied in rules.items() if not denied), tuple(rule for rule, denied in rules.items() if denied)
        )
        judging = admission()
        judging.set_access(*access.compiled())
        for _ in range(60):
            host = rng.choice(["10.{}.{}.{}", "2001:db8:{:x}:{:x}::{:x}", "11.{}.{}.{}", "::ffff:10.{}.{}.{}"])
            host = host.format(*(rng.randrange(5) for _ in range(3)))
            reason, _ = judging.judge(bytes(5), pack_address(host, 1), NOW)
            assert reason == (Drop.TOO_SHORT if access.allows(host) else Drop.DENIED), (rules, host)


def test_an_allowed_prefix_denies_all_others_and_a_denied_one_allows_them():
    assert AccessList().allows("192.0.2.1")
    assert not AccessList(allow=("10.0.0.0/8",)).allows("192.0.2.1")
    assert AccessList(deny=("10.0.0.0/8",), allow=("all",)).allows("192.0.2.1")
    assert not AccessList(deny=("all",), allow=("10.0.0.0/8",)).allows("2001:db8::1")
    assert AccessList(deny=("all",), allow=("10.0.0.0/8",)).allows("::ffff:10.1.2.3")


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"allow": ("10.0.0.1/8",)}, "is no address and no prefix (10.0.0.1/8 has host bits set)"),
        ({"deny": ("example.org",)}, "'example.org' is no address and no prefix"),
        ({"allow": ("10.0.0.0/8",), "deny": ("10.0.0.0/8",)}, "10.0.0.0/8 is both allowed and denied"),
        ({"allow": "10.0.0.0/8"}, "allow '10.0.0.0/8' (expected prefixes as text"),
    ],
)
def test_rules_that_cannot_be_used(rules, words):
    with pytest.raises(ConfigError) as caught:
        AccessList(**rules)
    assert words in str(caught.value)


# ------------------------------------------------------------------------------------------------------- in the data plane


def test_in_the_data_plane_what_is_dropped_or_answered_never_reaches_python():
    judging = admission(retry="always")
    plane = DataPlane()
    plane.guard(judging)
    stranger = Stranger()
    came = [
        stranger.initial(PING),
        b"\x40" + bytes(60),
        b"\xc0\x1a\x2a\x3a\x4a\x00\x00" + bytes(1200),
        bytes(3),
        initial(token=judging.new_token(HERE, NOW)),
    ]
    answers, rest = plane.process([(data, HERE, b"", 0, False) for data in came], NOW, 1)
    assert [data for data, *_ in rest] == [came[-1]]
    assert [len(data) < len(request) for (data, _, _), request in zip(answers, came, strict=False)] == [True] * 3
    assert (plane.received, plane.turned_away) == (5, 4)


def early(destination: bytes, version: int = V1) -> bytes:
    """A 0-RTT packet in a datagram of its own."""
    kind = 0xD0 if version == V1 else 0xE0
    head = bytes([kind]) + version.to_bytes(4, "big") + bytes([len(destination)]) + destination + b"\x02me"
    return head + varint(40, 2) + bytes(40)


@pytest.mark.parametrize("version", [V1, V2])
def test_a_0rtt_packet_that_follows_its_clienthello_in_one_batch_passes(version):
    """The connection has not been made yet: the whole batch is judged before the control plane gets any of it."""
    judging, plane = admission(), DataPlane()
    plane.guard(judging)
    first, strange = initial(version=version, destination=b"12345678"), early(b"87654321", version)
    came = [first, early(b"12345678", version), strange]
    _, rest = plane.process([(data, HERE, b"", 0, False) for data in came], NOW, 1)
    assert [data for data, *_ in rest] == came[:2]
    # A second later the connection is there, or the server has refused it; and one begins nothing by itself.
    _, rest = plane.process([(came[1], HERE, b"", 0, False)], NOW + 1.1, 1)
    assert rest == []
    assert judging.judge(came[1], HERE, NOW)[0] == Drop.SMALL_INITIAL


def test_0rtt_packets_of_one_connection_that_is_not_known_yet_are_few():
    judging, plane = admission(), DataPlane()
    plane.guard(judging)
    came = [initial(destination=b"12345678"), *[early(b"12345678")] * 100]
    _, rest = plane.process([(data, HERE, b"", 0, False) for data in came], NOW, 1)
    assert len(rest) == 6


def test_limits_are_the_same_in_python_and_c():
    # Admission's own defaults are those of Limits.
    limits = Limits()
    judging = Admission()
    judging.half_open = limits.half_open - 1
    assert not judging.wants_retry(NOW)
    judging.half_open = limits.half_open
    assert judging.wants_retry(NOW)
