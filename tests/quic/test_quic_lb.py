"""QUIC-LB connection IDs, by the draft's own vectors and by their properties."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsq.errors import ConfigError
from tsq.quic.quic_lb import QuicLb

KEY = bytes.fromhex("8f95f09245765f80256934e50c66207f")
# draft-ietf-quic-load-balancers, appendix B.2: (configuration, server ID, nonce, connection ID).
VECTORS = [
    (0, "ed793a", "ee080dbf", "0720b1d07b359d3c"),
    (1, "ed793a51d49b8f5fab65", "ee080dbf48", "2fcc381bc74cb4fbad2823a3d1f8fed2"),
    (2, "ed793a51d49b8f5f", "ee080dbf48c0d1e5", "504dd2d05a7b0de9b2b9907afb5ecf8cc3"),
    (3, "ed793a51d49b8f5fab", "ee080dbf48c0d1e55d", "725779c9cc86beb3a3a4a3ca96fce4bfe0cdbc"),
]
sizes = st.integers(1, 15).flatmap(lambda server: st.tuples(st.just(server), st.integers(4, 19 - server)))


@pytest.mark.parametrize(("number", "server", "nonce", "expected"), VECTORS)
def test_the_vectors_of_the_draft(number, server, nonce, expected):
    lb = QuicLb(number, bytes.fromhex(server), len(nonce) // 2, KEY)
    assert lb.encode(int(nonce, 16), lb.size).hex() == expected
    assert lb.decode(bytes.fromhex(expected)) == bytes.fromhex(server)


@given(sizes, st.data(), st.integers(0, 6), st.integers(0, 31), st.booleans())
def test_every_size_decodes_to_the_server_that_it_was_made_for(size, data, number, low, encrypted):
    server = data.draw(st.binary(min_size=size[0], max_size=size[0]))
    nonce = data.draw(st.integers(0, (1 << 8 * size[1]) - 1))
    lb = QuicLb(number, server, size[1], KEY if encrypted else None)
    connection_id = lb.encode(nonce, low)
    assert len(connection_id) == 1 + sum(size)
    assert connection_id[0] == number << 5 | low
    assert lb.decode(connection_id) == server
    assert lb.is_own(connection_id)
    assert lb.decode(connection_id + b"what follows in a packet") == server


@given(sizes, st.binary(max_size=24), st.booleans())
def test_any_bytes_from_the_network_are_decoded_or_not_ours(size, found, encrypted):
    decoded = QuicLb(3, bytes(size[0]), size[1], KEY if encrypted else None).decode(found)
    assert (decoded is not None) == (len(found) > sum(size) and found[0] >> 5 == 3)


@pytest.mark.parametrize("size", [(3, 4), (2, 5), (8, 8), (10, 5), (9, 9)])
def test_all_connection_ids_of_different_nonces_differ_and_none_shows_the_server(size):
    chance = random.Random(1)
    server = chance.randbytes(size[0])
    lb = QuicLb(0, server, size[1], KEY)
    made = {lb.encode(nonce, 0) for nonce in range(2000)}
    assert len(made) == 2000
    assert sum(one[1 : 1 + len(server)] == server for one in made) <= 1


def test_another_key_reads_another_server():
    lb, other = QuicLb(0, b"abc", 4, KEY), QuicLb(0, b"abc", 4, bytes(16))
    assert not any(other.is_own(lb.encode(nonce, 0)) for nonce in range(100))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((7, b"a", 6, None), "QUIC-LB configuration 7 (expected 0 to 6)"),
        ((-1, b"a", 6, None), "QUIC-LB configuration -1"),
        ((0, b"", 6, None), "a QUIC-LB server ID of 0 octets with a nonce of 6"),
        ((0, b"abcd", 3, None), "a nonce of 3 (expected 1 or more, with 4 or more, 19 in all)"),
        ((0, bytes(10), 10, None), "a QUIC-LB server ID of 10 octets with a nonce of 10"),
        ((0, b"a", 6, bytes(15)), "a QUIC-LB key of 15 bytes (expected 16)"),
    ],
)
def test_values_that_no_configuration_can_have_are_named(values, message):
    with pytest.raises(ConfigError) as caught:
        QuicLb(*values)
    assert message in str(caught.value)


def test_the_key_is_not_shown():
    assert KEY.hex() not in repr(QuicLb(0, b"abc", 4, KEY))
    assert repr(KEY) not in repr(QuicLb(0, b"abc", 4, KEY))
