"""Stateless resets (RFC 9000 §10.3): a restarted server ends its earlier connections; nobody else can, and nothing loops."""

import random
import socket

import pytest

from tests.support.chronyd import free_port
from tests.support.foreign import path
from tests.support.threads import ServerThread
from tests.support.world import World
from tsq.errors import ConnectionLost
from tsq.quic.resets import TOKEN_SIZE, StatelessResets, is_reset, reset_key
from tsq.quic.udp import Datagram

KEY = reset_key(b"a private key", b"here")
STRANGER = path(999)


def connected(certificates, **options):
    world = World(certificates, data_plane=True, **options)
    session = world.channel()
    world.run(1)
    for _ in range(3):
        world.exchange(session)
    assert session.error is None
    return world, session


def restarted(certificates, world):
    """The same server after a restart: the same key, no connection."""
    after = World(certificates, data_plane=True)
    after.now_ns = world.now_ns
    return after


def give(world, session, data: bytes) -> None:
    session.receive(Datagram(data, STRANGER, world.now_ns, True), world.now)


@pytest.mark.parametrize("fault", [27])
def test_fault_a_client_learns_of_a_restart_with_its_next_request(certificates, fault):
    world, session = connected(certificates)
    after = restarted(certificates, world)
    session.ask(world.now)
    [request] = session.datagrams(world.now)
    [reset] = after.deliver_to_server(request)
    assert len(reset) < len(request)
    assert after.counters.get("stateless resets") == 1
    give(world, session, reset)
    assert isinstance(session.error, ConnectionLost)
    assert "restarted" in str(session.error)
    # It sends nothing more on that connection (RFC 9000 §10.3.1), and begins anew in one exchange.
    assert session.datagrams(world.now) == []
    fresh = after.channel()
    after.run(1)
    after.exchange(fresh)
    assert [sample.valid for sample in fresh.samples] == [True]


def test_connection_ids_that_were_issued_later_have_tokens_of_the_same_key(certificates):
    world, session = connected(certificates)
    [server] = world.router.connections
    known = session._connection.quic._peer_cid_available
    assert known
    assert all(other.stateless_reset_token == world.router._resets.token(other.cid) for other in known)
    assert {other.cid for other in known} <= {cid.cid for cid in server.quic._host_cids}


@pytest.mark.parametrize("change", ["token", "short", "long header", "another server's"])
def test_what_is_no_reset_of_this_connection_ends_nothing(certificates, change):
    world, session = connected(certificates)
    token = session._connection.quic._peer_cid.stateless_reset_token
    data = {
        "token": b"\x40" + bytes(30) + bytes([token[0] ^ 1]) + token[1:],
        "short": b"\x40" + bytes(3) + token,
        "long header": b"\xc0" + bytes(30) + token,
        "another server's": b"\x40" + bytes(30) + StatelessResets(KEY).token(session._connection.quic._peer_cid.cid),
    }[change]
    give(world, session, data)
    assert session.error is None
    before = len(session.samples)
    world.exchange(session)
    assert len(session.samples) == before + 1


@pytest.mark.parametrize("fault", [28])
def test_fault_a_reset_tells_nothing_of_connections_that_live(certificates, fault):
    world, session = connected(certificates)
    [connection] = world.router.connections
    token = world.router._resets.token(connection.quic.host_cid)
    rng = random.Random(28)
    for known in [cid.cid for cid in connection.quic._host_cids]:
        # An attacker who knows a connection ID sends any packet: no reset for that ID comes back.
        for _ in range(50):
            replies = world.deliver_to_server(b"\x40" + known + rng.randbytes(rng.randint(0, 60)), STRANGER)
            assert not any(token in reply for reply in replies)
            assert replies == []
    world.exchange(session)
    assert session.samples[-1].valid


def test_a_reset_is_smaller_than_what_caused_it_so_that_two_ends_come_to_rest():
    resets = StatelessResets(KEY)
    data: bytes | None = b"\x40" + bytes(199)
    sizes = []
    while data is not None:
        sizes.append(len(data))
        data = resets.answer(data, data[1:9], 10.0)
    assert sizes == sorted(set(sizes), reverse=True)
    assert sizes[-1] == 21
    assert len(sizes) < 30


def test_resets_are_no_flood():
    resets = StatelessResets(KEY)
    data = b"\x40" + bytes(99)
    assert sum(resets.answer(data, b"x" * 8, 50.0) is not None for _ in range(1000)) == 100
    assert sum(resets.answer(data, b"x" * 8, 50.5) is not None for _ in range(1000)) == 50


def test_resets_look_like_packets_and_no_two_are_alike():
    resets = StatelessResets(KEY)
    seen = [resets.answer(b"\x40" + bytes(99), b"x" * 8, 10.0) for _ in range(50)]
    heads = {reset[:-TOKEN_SIZE] for reset in seen}
    assert len(heads) == 50
    assert all(reset[0] & 0xC0 == 0x40 and reset.endswith(resets.token(b"x" * 8)) for reset in seen)
    assert all(is_reset(reset, resets.token(b"x" * 8)) for reset in seen)


def test_tokens_follow_from_private_key_instance_and_id_alone():
    token = StatelessResets(KEY).token(b"12345678")
    assert token == StatelessResets(reset_key(b"a private key", b"here")).token(b"12345678")
    assert token != StatelessResets(KEY).token(b"12345679")
    assert token != StatelessResets(reset_key(b"another", b"here")).token(b"12345678")
    assert token != StatelessResets(reset_key(b"a private key", b"there")).token(b"12345678")


def token_of(server: ServerThread) -> bytes:
    """The token that a stranger gets for a connection ID that this server does not know."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.settimeout(10)
        stranger.connect(("127.0.0.1", server.target.port))
        stranger.send(b"\x40" + bytes(99))
        return stranger.recv(1500)[-TOKEN_SIZE:]


def test_servers_with_one_private_key_do_not_end_each_others_connections(certificates):
    """RFC 9000 §21.11. A server that is restarted where it was makes the same tokens."""
    where, elsewhere = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    with ServerThread([where], certificates) as one, ServerThread([elsewhere], certificates) as other:
        token, others = token_of(one), token_of(other)
    with ServerThread([where], certificates) as again:
        assert token_of(again) == token
    assert others != token
