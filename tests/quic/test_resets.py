"""Stateless resets (RFC 9000 §10.3): a restarted server ends its earlier connections; nobody else can, and nothing loops."""

import random
import socket

import pytest

from tests.support.foreign import path
from tests.support.ports import free_port
from tests.support.threads import ServerThread
from tests.support.world import World
from tsq.errors import ConnectionLost
from tsq.quic.connection_ids import ConnectionIds
from tsq.quic.quic_lb import QuicLb
from tsq.quic.resets import TOKEN_SIZE, StatelessResets, is_reset, reset_key
from tsq.quic.secrets import Secrets
from tsq.quic.udp import Datagram

KEY = reset_key(b"a private key", b"here")
KEYS = tuple(reset_key(bytes([number]) * 32, b"here") for number in range(3))
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
    waiting = [b"\x40" + bytes(199)]
    sizes = []
    while waiting:
        [data] = waiting
        sizes.append(len(data))
        waiting = resets.answer(data, data[1:9], 10.0)
    assert sizes == sorted(set(sizes), reverse=True)
    assert sizes[-1] == 21
    assert len(sizes) < 30


def test_resets_are_no_flood():
    resets = StatelessResets(KEY)
    data = b"\x40" + bytes(99)
    assert sum(len(resets.answer(data, b"x" * 8, 50.0)) for _ in range(10_000)) == 1000
    assert sum(len(resets.answer(data, b"x" * 8, 50.5)) for _ in range(10_000)) == 500


def test_resets_look_like_packets_and_no_two_are_alike():
    resets = StatelessResets(KEY)
    seen = [reset for _ in range(50) for reset in resets.answer(b"\x40" + bytes(99), b"x" * 8, 10.0)]
    heads = {reset[:-TOKEN_SIZE] for reset in seen}
    assert len(heads) == 50
    assert all(reset[0] & 0xC0 == 0x40 and reset.endswith(resets.token(b"x" * 8)) for reset in seen)
    assert all(is_reset(reset, resets.token(b"x" * 8)) for reset in seen)


@pytest.mark.parametrize("size", [9, 21, 22, 42, 43, 64, 65, 130, 1200])
def test_while_a_secret_is_replaced_there_is_a_reset_for_each_key_and_all_are_shorter_than_the_datagram(size):
    resets = StatelessResets(*KEYS)
    found = resets.answer(b"\x40" * size, b"x" * 8, 10.0)
    assert len(found) == min(3, (size - 1) // 21)
    assert sum(map(len, found)) < size
    assert [one[-TOKEN_SIZE:] for one in found] == [StatelessResets(key).token(b"x" * 8) for key in KEYS[: len(found)]]
    assert all(21 <= len(one) <= 43 for one in found)


def test_resets_of_several_keys_are_no_flood_either():
    resets = StatelessResets(*KEYS)
    assert sum(len(resets.answer(b"\x40" + bytes(99), b"x" * 8, 50.0)) for _ in range(10_000)) == 1000


def test_tokens_follow_from_private_key_instance_and_id_alone():
    token = StatelessResets(KEY).token(b"12345678")
    assert token == StatelessResets(reset_key(b"a private key", b"here")).token(b"12345678")
    assert token != StatelessResets(KEY).token(b"12345679")
    assert token != StatelessResets(reset_key(b"another", b"here")).token(b"12345678")
    assert token != StatelessResets(reset_key(b"a private key", b"there")).token(b"12345678")


def token_of(server: ServerThread) -> bytes:
    """The token that a stranger gets for a connection ID that this server does not know."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.settimeout(60)
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


# ---------------------------------------------------------------------------------------------------- in a fleet

OLD, NEW = bytes(32), bytes(range(32))
AES = bytes(range(16))


class Fleet:
    """Servers with one certificate and one secret file; `restart` makes one anew, with what the file holds then."""

    def __init__(self, certificates, tmp_path):
        self._certificates = certificates
        self._file = tmp_path / "secrets"
        self.write(OLD)

    def write(self, *secrets: bytes) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text("\n".join(secret.hex() for secret in secrets))
        fresh.chmod(0o600)
        fresh.rename(self._file)

    def server(self, number: int | None = None, *, slot: int = 0, slots: int = 1) -> World:
        """number: the QUIC-LB server ID; None for a server of another name without QUIC-LB."""
        lb = None if number is None else QuicLb(1, bytes([0, 0, number]), 4, AES)
        ids = ConnectionIds(slot=slot, slots=slots, quic_lb=lb)
        return World(self._certificates, data_plane=True, secrets=Secrets.from_file(self._file), connection_ids=ids)


@pytest.fixture
def fleet(certificates, tmp_path):
    return Fleet(certificates, tmp_path)


def request_of_a_client(world):
    session = world.channel()
    world.run(1)
    world.exchange(session)
    session.ask(world.now)
    [request] = session.datagrams(world.now)
    return session, request


@pytest.mark.parametrize("fault", [27])
def test_fault_a_server_of_a_fleet_is_restarted_while_its_secret_is_replaced(fleet, fault):
    """With the new secret first: its clients learn of the restart with their next request."""
    before = fleet.server(1)
    session, request = request_of_a_client(before)
    fleet.write(NEW, OLD)
    after = fleet.server(1)
    resets = after.deliver_to_server(request)
    assert sum(map(len, resets)) < len(request)
    for reset in resets:
        give(after, session, reset)
    assert "restarted" in str(session.error)


def test_a_packet_that_comes_to_another_server_of_the_fleet_ends_no_connection(fleet):
    """RFC 9000 §21.11: else whoever sees a packet could end its connection by sending it to another server."""
    one, other = fleet.server(1), fleet.server(2)
    session, request = request_of_a_client(one)
    assert other.deliver_to_server(request) == []
    assert other.counters.get("stateless resets") == 0
    assert other.counters.get("dropped", "unknown connection ID") == 1
    one.exchange(session)
    assert session.samples[-1].valid


def test_servers_with_one_secret_make_different_tokens_for_one_connection_id(fleet):
    """Even if one answered for the other, its reset would be none for the other's client."""
    one, other = fleet.server(1), fleet.server(2)
    connection_id = one.router.connection_ids.new()
    assert one.router._resets.token(connection_id) != other.router._resets.token(connection_id)


def test_a_packet_that_comes_to_another_worker_ends_no_connection_while_its_own_lives(fleet):
    """Workers of one machine have one key, so that each can answer for those that are gone."""
    one, other = (fleet.server(1, slot=slot, slots=2) for slot in (0, 1))
    session, request = request_of_a_client(one)
    assert other.deliver_to_server(request) == []
    other.router.connection_ids.answered.add(0)
    [reset] = other.deliver_to_server(request)
    give(one, session, reset)
    assert "restarted" in str(session.error)


def test_a_secret_that_is_replaced_leaves_connections_their_tokens_and_gives_new_ones_others(fleet):
    world = fleet.server(1)
    old, _ = request_of_a_client(world)
    before = world.router._resets.keys
    fleet.write(NEW, OLD)
    world.router.secrets.refresh(1.0)
    assert world.router._resets.keys[1:] == before
    world.exchange(old)
    assert old.samples[-1].valid
