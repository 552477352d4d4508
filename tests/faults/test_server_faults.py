"""What strangers and clients do to a server: those cases of docs/reference/faults.md that no other file covers, in virtual time."""

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicErrorCode, QuicPacketType, pull_quic_header

from tests.dataplane.peer import ack, datagram, varint
from tests.support.crafted import Stranger, crypto, one_rtt, stream
from tests.support.foreign import ForeignClient, path
from tests.support.messages import PLAIN_REQUEST
from tests.support.world import World
from tsq.quic.limits import Limits, PeerLimits, RetryPolicy
from tsq.quic.router import Drop

NEWCOMER, CONNECTED, FORGER = path(1), path(2), path(3)
SECOND_NS = 1_000_000_000


@pytest.fixture
def careful(certificates):
    """A server that asks everybody for a Retry."""
    return World(certificates, limits=Limits(retry=RetryPolicy.ALWAYS))


def connected(world, where=CONNECTED) -> ForeignClient:
    """A client whose connection is established."""
    client = ForeignClient(world, where=where)
    for _ in range(2):
        assert len(client.ask(PLAIN_REQUEST)) == 1
    return client


def after_retry(world) -> ForeignClient:
    """A client that has the Retry packet, and has not yet sent the Initial with its token."""
    client = ForeignClient(world, where=NEWCOMER, connect=False)
    client.quic.connect("the server", world.now)
    (initial,) = client.datagrams(world.now)
    (retry,) = world.deliver_to_server(initial, NEWCOMER)
    assert pull_quic_header(Buffer(data=retry)).packet_type == QuicPacketType.RETRY
    client.quic.receive_datagram(retry, "the server", world.now)
    del world._sessions[NEWCOMER]
    return client


def changed(client, world, certificates) -> None:
    token = bytearray(client.quic._peer_token)
    token[len(token) // 2] ^= 1
    client.quic._peer_token = bytes(token)


def expired(client, world, certificates) -> None:
    world.now_ns += 31 * SECOND_NS


def of_another_server(client, world, certificates) -> None:
    client.quic._peer_token = after_retry(World(certificates, limits=Limits(retry=RetryPolicy.ALWAYS))).quic._peer_token


@pytest.mark.draft("9-5")
@pytest.mark.parametrize("spoil", [changed, expired, of_another_server])
def test_6_a_retry_token_that_is_wrong_expired_or_of_another_server_opens_no_connection(careful, certificates, spoil):
    client = after_retry(careful)
    spoil(client, careful, certificates)
    (initial,) = client.datagrams(careful.now)
    assert sum(map(len, careful.deliver_to_server(initial, NEWCOMER))) < len(initial)
    assert careful.router.connections == []
    assert careful.router._by_id == {}
    assert careful.counters.get("dropped", Drop.INVALID_TOKEN) == 1


def test_7_a_retry_token_that_is_used_again_begins_no_second_handshake(careful):
    (initial,) = after_retry(careful).datagrams(careful.now)
    assert careful.deliver_to_server(initial, NEWCOMER) != []
    for _ in range(20):
        careful.deliver_to_server(initial, NEWCOMER)
    assert (len(careful.router.connections), careful.router.half_open) == (1, 1)


def test_7_a_token_passes_no_limit(certificates):
    world = World(certificates, limits=Limits(retry=RetryPolicy.ALWAYS, max_connections=1))
    connected(world)
    client = ForeignClient(world, where=NEWCOMER)
    assert not client.established
    assert len(world.router.connections) == 1
    assert world.counters.get("dropped", Drop.TOO_MANY_CONNECTIONS) > 0


@pytest.mark.parametrize("retry", RetryPolicy)
def test_5_clients_that_are_connected_are_answered_in_a_flood_of_handshakes(certificates, retry):
    world = World(certificates, data_plane=True, limits=Limits(retry=retry, half_open=20, newcomers=10.0, most_half_open=50))
    client = connected(world)
    for number in range(400):
        world.deliver_to_server(Stranger(number.to_bytes(8, "big")).initial(crypto(0, b"\x01")), FORGER)
        if number % 40 == 0:
            assert len(client.ask(PLAIN_REQUEST)) == 1
    assert world.router.half_open <= 50
    assert len(client.ask(PLAIN_REQUEST)) == 1


@pytest.fixture(params=[True, False], ids=["data plane", "aioquic alone"])
def world(request, certificates):
    peer = PeerLimits(control_rate=100.0, control_burst=200.0, offence=1.0)
    return World(certificates, data_plane=request.param, limits=Limits(peer=peer))


def test_10_more_connection_ids_than_are_allowed_end_the_connection(world):
    client, other = connected(world), connected(world, FORGER)
    for number in range(10, 30):
        frame = b"\x18" + varint(number) + b"\x00\x08" + number.to_bytes(8, "big") + bytes(16)
        world.deliver_to_server(one_rtt(client, frame), CONNECTED)
    world.run(0.1)
    assert client.end.error_code == QuicErrorCode.CONNECTION_ID_LIMIT_ERROR
    assert len(other.ask(PLAIN_REQUEST)) == 1


@pytest.mark.parametrize("frames", [1, 4, 60])
def test_11_a_flood_of_path_challenges_is_answered_by_no_more_packets_than_came_and_nothing_piles_up(world, frames):
    client, other = connected(world), connected(world, FORGER)
    connection = world.router._by_id[client.quic._peer_cid.cid]
    went = 0
    for _ in range(400):
        went += len(world.deliver_to_server(one_rtt(client, (b"\x1a" + bytes(8)) * frames), CONNECTED))
        assert all(len(each.remote_challenges) <= 32 for each in connection.quic._network_paths)
    assert went <= 400
    assert len(other.ask(PLAIN_REQUEST)) == 1


def test_14_acknowledging_what_never_arrived_makes_a_server_send_nothing_more(world):
    client = connected(world)
    client.receive = lambda datagram, now: None
    [connection] = world.router.connections
    packets = 0
    for _ in range(50):
        newest = (connection.plane.session.next_packet_number if world.data_plane else connection.quic._packet_number) - 1
        packets += len(world.deliver_to_server(one_rtt(client, ack(newest) + datagram(PLAIN_REQUEST)), CONNECTED))
    assert packets <= 50
    sent = len([side for side, _ in world.sent if side == "server"])
    world.run(20.0)
    # Nothing that is said to have arrived is sent again.
    assert len([side for side, _ in world.sent if side == "server"]) - sent <= 12


def test_16_a_stream_that_never_ends_is_gone_with_its_connection(world):
    client = connected(world)
    [connection] = world.router.connections
    world.deliver_to_server(one_rtt(client, stream(0, PLAIN_REQUEST[:5])), CONNECTED)
    assert len(connection.quic._streams) == 1
    client.quic.close()
    world.pump(client)
    world.run(5.0)
    assert world.router.connections == []
