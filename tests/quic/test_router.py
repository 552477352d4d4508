"""The router and the server's core: what strangers cost, which replies they get, when packets are sent (RFC 9000 §5, §8, §14)."""

import random
from itertools import pairwise

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_version_negotiation,
    pull_quic_header,
)

from tests.support.foreign import ForeignClient, PacketLog, path
from tests.support.messages import NONCE, PLAIN_REQUEST
from tests.support.world import CLIENT, World
from tsq._fast import pack_tlvs
from tsq.errors import ConnectionLost
from tsq.quic.aioquic import internals
from tsq.quic.router import CONNECTION_ID_SIZE, Drop, Limits, RetryPolicy
from tsq.wire.message import padding

UNKNOWN = 0x1A2A3A4A
V1 = QuicProtocolVersion.VERSION_1
NOBODY = path(999)


@pytest.fixture
def world(certificates):
    return World(certificates)


def first_flight(world, **options) -> list[bytes]:
    """The first datagrams of a client, which have not been sent."""
    client = ForeignClient(world, where=NOBODY, connect=False, **options)
    client.quic.connect("the server", world.now)
    # It is not there to go on with what the server answers.
    del world._sessions[NOBODY]
    return client.datagrams(world.now)


def long_header(version: int, destination: bytes = b"somebody", source: bytes = b"me", *, size: int, first: int = 0xC0) -> bytes:
    ids = bytes([len(destination)]) + destination + bytes([len(source)]) + source
    head = bytes([first]) + version.to_bytes(4, "big") + ids
    return head + bytes(max(0, size - len(head)))


def assert_dropped(world, data: bytes, reason: Drop | None = None, *, resets: int = 0) -> None:
    """No reply, or a stateless reset smaller than what caused it; no state, counted."""
    before, connections, known = world.counters.get("dropped"), world.router.connections, len(world.router._by_id)
    replies = world.deliver_to_server(data, NOBODY)
    assert len(replies) == resets
    assert all(21 <= len(reply) < len(data) and reply[0] & 0xC0 == 0x40 for reply in replies)
    assert world.router.connections == connections
    assert len(world.router._by_id) == known
    assert world.router.half_open == 0
    assert world.router.replies == []
    assert world.counters.get("dropped") == before + 1
    assert reason is None or world.counters.get("dropped", reason) >= 1


def assert_table_is_that_of_the_connections(world) -> None:
    """Every ID in the table is one that its connection knows of, and the other way round: nothing is left behind."""
    table = world.router._by_id
    assert set(table) == {connection_id for connection in world.router.connections for connection_id in connection.ids}
    assert all(connection_id in connection.ids for connection_id, connection in table.items())


# ------------------------------------------------------------------------------------------- strangers' datagrams


@pytest.mark.parametrize("size", range(9))
def test_a_datagram_too_short_for_a_packet_is_dropped(world, size):
    for first in (0x00, 0x40, 0xC0, 0xFF):
        assert_dropped(world, bytes([first] * size), Drop.TOO_SHORT)


@pytest.mark.parametrize("size", [9, 20, 21, 64, 1199, 1200, 1500, 2048])
def test_a_short_header_of_no_connection_is_dropped(world, size):
    assert_dropped(world, b"\x40" + bytes(size - 1), Drop.UNKNOWN_CONNECTION, resets=int(size > 21))


@pytest.mark.parametrize("seed", range(5))
def test_garbage_is_dropped(world, seed):
    rng = random.Random(seed)
    for _ in range(100):
        data = rng.randbytes(rng.randint(0, 1199))
        world.now_ns += 10_000_000
        assert_dropped(world, data, resets=int(len(data) > 21 and not data[0] & 0x80))


@pytest.mark.parametrize("seed", range(5))
def test_garbage_of_full_size_leaves_no_state_and_gets_no_more_than_it_brought(world, seed):
    rng = random.Random(seed)
    for _ in range(40):
        data = bytes([rng.choice([0xC0, 0xC3, 0xD0, 0xE0, 0xF0])]) + rng.choice([bytes(4), V1.to_bytes(4, "big"), rng.randbytes(4)])
        data += bytes([rng.choice([0, 8, 20, 21])]) + rng.randbytes(1300)
        replies = world.deliver_to_server(data, NOBODY)
        assert sum(map(len, replies)) < len(data)
        assert world.router.connections == []
    assert world.router._by_id == {}
    assert world.counters.get("dropped") == 40


@pytest.mark.parametrize("size", [100, 1199])
def test_an_initial_under_1200_bytes_is_dropped(world, size):
    # RFC 9000 §14.1. A real one, cut: its header is still whole.
    (initial,) = first_flight(world)
    assert len(initial) >= 1200
    assert_dropped(world, initial[:size])


@pytest.mark.parametrize("size", [30, 1199])
def test_a_small_datagram_of_an_unknown_version_is_dropped(world, size):
    assert_dropped(world, long_header(UNKNOWN, size=size), Drop.SMALL_INITIAL)


@pytest.mark.parametrize("ids", [(b"", b""), (b"d" * 8, b"s" * 5), (b"d" * 20, b"s" * 20)])
def test_a_large_datagram_of_an_unknown_version_gets_version_negotiation(world, ids):
    # RFC 9000 §6.1, §17.2.1: IDs change places.
    destination, source = ids
    (reply,) = world.deliver_to_server(long_header(UNKNOWN, destination, source, size=1200), NOBODY)
    header = pull_quic_header(Buffer(data=reply))
    assert header.packet_type == QuicPacketType.VERSION_NEGOTIATION
    assert (header.destination_cid, header.source_cid) == (source, destination)
    assert V1 in header.supported_versions
    assert UNKNOWN not in header.supported_versions
    assert len(reply) < 100
    assert world.router.connections == []


def test_version_negotiation_sent_to_a_server_is_dropped(world):
    # Or two servers could be made to talk to each other for ever.
    data = encode_quic_version_negotiation(source_cid=b"s" * 8, destination_cid=b"d" * 8, supported_versions=[V1])
    assert_dropped(world, data, Drop.UNKNOWN_VERSION)
    assert_dropped(world, data + bytes(1200))


@pytest.mark.parametrize("first", [0xD0, 0xE0], ids=["0-RTT", "Handshake"])
def test_other_long_headers_of_no_connection_are_dropped(world, first):
    body = b"\x44\xb0" + bytes(1200)  # length 1200
    data = long_header(V1, size=0, first=first) + body
    assert_dropped(world, data, Drop.NOT_INITIAL)


def test_retry_sent_to_a_server_is_dropped(world):
    assert_dropped(world, long_header(V1, size=1200, first=0xF0))


def test_an_initial_that_cannot_be_opened_leaves_no_state(world):
    (initial,) = first_flight(world)
    # The packet itself ends before: what follows is padding of the datagram.
    for at in (30, 100, 300):
        flipped = bytearray(initial)
        flipped[at] ^= 1
        assert_dropped(world, bytes(flipped), Drop.UNREADABLE_INITIAL)
    # The same connection ID, whole: nothing is remembered against it.
    assert world.deliver_to_server(initial, NOBODY) != []


# --------------------------------------------------------------------------------------------------------- limits


def test_the_number_of_connections_is_capped(certificates):
    world = World(certificates, limits=Limits(max_connections=3))
    clients = [ForeignClient(world, where=path(number)) for number in range(5)]
    assert [client.established for client in clients] == [True] * 3 + [False] * 2
    assert len(world.router.connections) == 3
    assert world.counters.get("dropped", Drop.TOO_MANY_CONNECTIONS) >= 2
    assert all(len(client.ask(PLAIN_REQUEST)) == 1 for client in clients[:3])
    # One that leaves makes room.
    clients[0].quic.close()
    world.pump(clients[0])
    world.run(20)
    assert len(world.router.connections) == 2
    assert ForeignClient(world, where=path(7)).established


@pytest.mark.parametrize("version", [V1, QuicProtocolVersion.VERSION_2])
@pytest.mark.parametrize("retry", RetryPolicy)
def test_a_client_that_finds_the_server_full_is_refused_at_once(certificates, version, retry):
    world = World(certificates, limits=Limits(max_connections=1, retry=retry))
    ForeignClient(world)
    client = ForeignClient(world, where=path(1), original_version=version, supported_versions=[version])
    world.run(3)
    assert not client.established
    assert client.end.error_code == QuicErrorCode.CONNECTION_REFUSED
    assert client.end.reason_phrase == "connection limit reached"
    assert len(world.router.connections) == 1
    assert world.counters.get("refused") == 1


def test_a_client_of_ours_says_at_once_that_the_server_is_full(certificates):
    world = World(certificates, limits=Limits(max_connections=1))
    ForeignClient(world, where=path(1))
    session = world.channel(timeout=60.0)
    world.run(0.01)
    assert isinstance(session.error, ConnectionLost)
    assert str(session.error) == "the server is full (connection limit reached): try later, or ask another server"


def test_each_initial_of_a_refused_client_is_answered_with_less_than_came_and_leaves_nothing(certificates):
    world = World(certificates, limits=Limits(max_connections=1))
    ForeignClient(world, where=path(1))
    (initial,) = first_flight(world)
    for _ in range(3):
        (reply,) = world.deliver_to_server(initial, NOBODY)
        assert len(reply) < 100
    assert len(world.router.connections) == 1
    assert world.router.half_open == 0


def test_what_does_not_open_is_not_refused_but_dropped(certificates):
    world = World(certificates, limits=Limits(max_connections=1))
    ForeignClient(world, where=path(1))
    (initial,) = first_flight(world)
    assert world.deliver_to_server(initial[:100] + bytes([initial[100] ^ 1]) + initial[101:], NOBODY) == []
    assert world.deliver_to_server(long_header(V1, size=1200), NOBODY) == []
    assert world.counters.get("refused") == 0
    assert world.counters.get("dropped", Drop.TOO_MANY_CONNECTIONS) == 2


def test_a_flood_of_initials_is_refused_no_faster_than_handshakes_of_strangers_may_begin(certificates):
    world = World(certificates, limits=Limits(max_connections=1, newcomers=30.0))
    ForeignClient(world, where=path(1))
    (initial,) = first_flight(world)
    replies = [reply for _ in range(500) for reply in world.deliver_to_server(initial, NOBODY)]
    assert len(replies) == 30
    world.run(1)
    assert len([reply for _ in range(500) for reply in world.deliver_to_server(initial, NOBODY)]) == 30
    assert world.counters.get("refused") == 60


def test_a_handshake_that_is_not_finished_in_time_frees_its_place(certificates):
    world = World(certificates, limits=Limits(handshake_timeout=2.0))
    (initial,) = first_flight(world)
    world.deliver_to_server(initial, NOBODY)
    assert world.router.half_open == len(world.router.connections) == 1
    world.run(1.9)
    assert world.router.half_open == 1
    world.run(0.2)
    assert world.router.half_open == 0
    assert world.router.connections == []
    assert world.router._by_id == {}
    assert world.counters.get("handshakes", "failed") == 1


def test_a_finished_handshake_has_no_deadline(certificates):
    world = World(certificates, limits=Limits(handshake_timeout=2.0))
    client = ForeignClient(world)
    assert world.router.half_open == 0
    world.run(10)
    assert len(client.ask(PLAIN_REQUEST)) == 1


@pytest.mark.parametrize("client_goes_on", [False, True])
@pytest.mark.parametrize("extra_alpn", [0, 10], ids=["small_hello", "large_hello"])
def test_no_more_than_three_times_as_much_goes_to_an_address_that_is_not_validated(world, client_goes_on, extra_alpn):
    # RFC 9000 §8.1. Nothing of the server's arrives, so the client never shows that it can receive.
    world.to_client = lambda data, number: []
    if not client_goes_on:
        world.to_server = lambda data, number: [1_000_000] if number < 2 else []
    received = 0

    real = world.deliver_to_server

    def counted(data, where):
        nonlocal received
        received += len(data)
        return real(data, where)

    world.deliver_to_server = counted
    ForeignClient(world, alpn_protocols=["x" * 200] * extra_alpn + ["tsq/1"])
    for _ in range(400):
        world.run(0.02)
        assert sum(len(data) for side, data in world.sent if side == "server") <= 3 * received
    assert received >= 1200
    assert any(side == "server" for side, _ in world.sent)


def test_retry_keeps_no_state(certificates):
    world = World(certificates, limits=Limits(retry=RetryPolicy.ALWAYS))
    (initial,) = first_flight(world)
    for _ in range(20):
        (reply,) = world.deliver_to_server(initial, NOBODY)
        assert pull_quic_header(Buffer(data=reply)).packet_type == QuicPacketType.RETRY
        assert len(reply) < len(initial)
    assert world.router.connections == []
    assert world.router._by_id == {}
    assert world.counters.get("retries") == 20


def test_a_retry_token_is_good_for_its_own_address_only(certificates):
    world = World(certificates, limits=Limits(retry=RetryPolicy.ALWAYS))
    client = ForeignClient(world, where=NOBODY, connect=False)
    client.quic.connect("the server", world.now)
    (initial,) = client.datagrams(world.now)
    (retry,) = world.deliver_to_server(initial, CLIENT)
    client.quic.receive_datagram(retry, "the server", world.now)
    (second,) = client.datagrams(world.now)
    # RFC 9000 §8.1.3: the attempt is closed, with less than came.
    (close,) = world.deliver_to_server(second, path(5))
    assert len(close) < 100
    assert world.counters.get("dropped", Drop.INVALID_TOKEN) == 1
    assert world.router.connections == []
    assert world.deliver_to_server(second, CLIENT) != []


# ------------------------------------------------------------------------------------------------ connection IDs


def test_ending_a_connection_takes_its_ids_out_of_the_table_and_no_others(world):
    clients = [ForeignClient(world, where=path(number)) for number in range(6)]
    assert_table_is_that_of_the_connections(world)
    everything = len(world.router._by_id)
    # One more beside the first, and the client's own choice for the first flight.
    assert everything >= 6 * 2
    for left in range(5, -1, -1):
        clients[left].quic.close()
        world.pump(clients[left])
        world.run(3)
        assert len(world.router.connections) == left
        assert_table_is_that_of_the_connections(world)
        assert all(len(client.ask(PLAIN_REQUEST)) == 1 for client in clients[:left])
    assert world.router._by_id == {}


def test_a_client_that_changes_its_connection_id_is_still_known(world):
    client = ForeignClient(world)
    for _ in range(20):
        client.quic.change_connection_id()
        assert len(client.ask(PLAIN_REQUEST)) == 1
        assert_table_is_that_of_the_connections(world)
    # Retired ones leave the table: it does not grow with every change.
    assert len(world.router._by_id) <= 10


@pytest.mark.parametrize("size", range(21))
def test_peers_connection_ids_of_any_length(world, size):
    client = ForeignClient(world, connect=False, connection_id_length=size)
    if size == 0:
        # aioquic would issue more IDs of no length, which RFC 9000 §19.15 forbids.
        client.quic._replenish_connection_ids = lambda: None
    client.quic.connect("the server", world.now)
    world.pump(client)
    world.run(0.5)
    assert client.established
    assert len(client.ask(PLAIN_REQUEST)) == 1
    assert len(client.ask_stream(PLAIN_REQUEST)) == 38


def test_our_connection_ids_have_the_length_that_the_router_reads(world):
    client = ForeignClient(world)
    assert client.established
    assert {len(connection_id) for connection_id in world.router._by_id} == {CONNECTION_ID_SIZE}


def test_a_client_hello_over_two_datagrams(world):
    log = PacketLog(world)
    flight = first_flight(world, alpn_protocols=["x" * 200] * 8 + ["tsq/1"])
    assert len(flight) >= 2
    client = ForeignClient(world, alpn_protocols=["x" * 200] * 8 + ["tsq/1"])
    world.run(3)
    assert client.established
    assert len(log.packets("packet_received", "initial")) >= 2
    assert len(client.ask(PLAIN_REQUEST)) == 1
    assert world.counters.get("dropped") == 0
    assert world.counters.get("handshakes") == 1


def test_a_client_hello_over_two_datagrams_that_change_places(world):
    world.to_server = lambda data, number: [5_000_000] if number == 0 else [1_000_000]
    client = ForeignClient(world, alpn_protocols=["x" * 200] * 8 + ["tsq/1"])
    world.run(3)
    assert client.established
    assert len(client.ask(PLAIN_REQUEST)) == 1


def test_a_client_that_moves_to_another_address_is_answered_there(world):
    client = ForeignClient(world)
    client.ask(PLAIN_REQUEST)
    elsewhere = path(3)
    world._sessions[elsewhere] = world._sessions.pop(CLIENT)
    for _ in range(3):
        assert len(client.ask(PLAIN_REQUEST)) == 1
    assert len(world.router.connections) == 1


# ------------------------------------------------------------------------------------------------- packets out


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_requests_in_one_packet_are_answered_in_one_packet_with_its_acknowledgment(world, count):
    log = PacketLog(world)
    client = ForeignClient(world)
    world.run(1)
    before = len(log.frames())
    assert len(client.ask(*[PLAIN_REQUEST] * count, seconds=0.0025)) == count
    assert log.frames()[before:] == [["ack"] + ["datagram"] * count]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_goes_at_once_takes_the_acknowledgment_with_it(world, stream):
    log = PacketLog(world)
    client = ForeignClient(world)
    world.run(1)
    before = len(log.frames())
    for _ in range(5):
        if stream:
            client.ask_stream(PLAIN_REQUEST)
        else:
            client.ask(PLAIN_REQUEST, seconds=0.02)
    packets = log.frames()[before:]
    assert len([packet for packet in packets if "datagram" in packet or "stream" in packet]) == 5
    if stream:
        # What else goes is for streams that have ended: room for new ones.
        assert all("ack" in packet for packet in packets if "stream" in packet)
    else:
        assert packets == [["ack", "datagram"]] * 5


def test_the_server_sends_as_many_packets_as_it_gets(world):
    # A client that asks every second and acknowledges as aioquic does.
    log = PacketLog(world)
    client = ForeignClient(world)
    world.run(1)
    before = len(log.frames())
    for _ in range(10):
        assert len(client.ask(PLAIN_REQUEST, seconds=1.0)) == 1
    assert len(log.frames()[before:]) <= 20


def test_a_client_that_acknowledges_only_with_its_next_request_is_probed_seldom(world):
    log = PacketLog(world)
    # The reference client's habit: nothing is acknowledged on its own.
    client = ForeignClient(world, ack_delay=1e6)
    world.run(1)
    for _ in range(10):
        before, sent = len(log.frames()), len(world.sent)
        internals.acknowledge_now(client.quic)
        assert len(client.ask(PLAIN_REQUEST, seconds=1.0)) == 1
        assert client.end is None
        packets = log.frames()[before:]
        from_server = sum(side == "server" for side, _ in world.sent[sent:])
        assert from_server <= 10
        # Probe time-outs double (RFC 9002 §6.2.1): from 30 ms no more than 5 or 6 fit into a second.
        assert sum("ping" in packet for packet in packets) <= 6
        assert all(packet.count("ping") <= 1 for packet in packets)
    assert len(world.router.connections) == 1


def test_probes_are_spaced_by_doubling_time_outs(world):
    client = ForeignClient(world, ack_delay=1e6)
    world.run(1)
    internals.acknowledge_now(client.quic)
    times = []
    real = world.to_client

    def noted(data, number):
        times.append(world.now)
        return real(data, number)

    world.to_client = noted
    client.ask(PLAIN_REQUEST, seconds=4.0)
    gaps = [later - earlier for earlier, later in pairwise(times) if later - earlier > 1e-4]
    assert len(gaps) >= 3
    for earlier, later in pairwise(gaps[1:]):
        assert later >= 1.5 * earlier


def test_the_answer_is_the_one_of_the_connection_that_asked(world):
    clients = [ForeignClient(world, where=path(number)) for number in range(4)]
    for number, client in enumerate(clients):
        nonce = bytes([number]) * 16
        (answer,) = client.ask(b"\x01\x10" + nonce)
        assert answer[2:18] == nonce != NONCE
    assert [len(client.datagram_messages) for client in clients] == [1] * 4


@pytest.mark.parametrize("data_plane", [False, True])
@pytest.mark.parametrize("size", [1200, 1350, 1450])
def test_packets_as_large_as_path_mtu_probes_are_answered(certificates, size, data_plane):
    """Peers look for the path MTU with padded packets; a request may travel in one (RFC 9000 §14.3)."""
    world = World(certificates, data_plane=data_plane)
    client = ForeignClient(world, max_datagram_size=size)
    message = PLAIN_REQUEST + pack_tlvs(padding(size - 100))
    client.quic.send_ping(1)
    client.quic.send_datagram_frame(message)
    before = len(world.sent)
    world.pump(client)
    assert max(len(data) for side, data in world.sent[before:] if side == "client") > size - 60
    world.run(0.2)
    assert [answer[:18] for answer in client.datagram_messages] == [message[:18]]
