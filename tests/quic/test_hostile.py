"""Hostile packets: what they cost, what they leave behind, and that other clients are not affected.

Costs are counted in operations, not in time: how often something is done for each packet.
"""

import gc
import logging
import time

import pytest
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import Epoch

from tests.dataplane.peer import PADDING, PING, ack, datagram, varint
from tests.support.crafted import REQUEST, Stranger, crypto, one_rtt, reset_stream, stop_sending, stream, zero_rtt
from tests.support.foreign import ForeignClient, path
from tests.support.messages import PLAIN_REQUEST
from tests.support.world import World
from tsq.counters import Counters
from tsq.quic.aioquic.trim import TrimmedConnection
from tsq.quic.limits import Limits, PeerLimits, RetryPolicy
from tsq.quic.reassembly import Kept
from tsq.quic.router import Drop
from tsq.quic.tls import IDLE_TIMEOUT

ATTACKER = path(7)


@pytest.fixture(params=[True, False], ids=["data plane", "aioquic alone"])
def world(request, certificates):
    return World(certificates, data_plane=request.param)


@pytest.fixture
def kept():
    """How many bytes wait for others before them, of this test's connections."""
    gc.collect()
    before = Kept.total
    return lambda: Kept.total - before


def connected(world, where=ATTACKER, times=2) -> ForeignClient:
    """A client whose connection is established."""
    client = ForeignClient(world, where=where)
    for _ in range(times):
        assert len(client.ask(PLAIN_REQUEST)) == 1
    return client


def early(world, where=ATTACKER) -> ForeignClient:
    """A client with a ticket, whose Initial has come, and that hears nothing of the server."""
    tickets = []
    first = ForeignClient(world, where=path(8), connect=False)
    first.quic._session_ticket_handler = tickets.append
    first.quic.connect("the server", world.now)
    world.pump(first)
    world.run(0.2)
    client = ForeignClient(world, where=where, connect=False, session_ticket=tickets[-1])
    client.quic.connect("the server", world.now)
    client.receive = lambda datagram, now: None
    for data in client.datagrams(world.now):
        world.deliver_to_server(data, where)
    return client


def connection_of(world, client):
    """The server's end."""
    return world.router._by_id[client.quic._peer_cid.cid]


def is_served(world) -> bool:
    """Whether a client that comes now gets its answer."""
    client = ForeignClient(world, where=path(4000 + len(world.sent)))
    return len(client.ask(PLAIN_REQUEST)) == 1


# -------------------------------------------------------------------------------------------- CRYPTO out of order (RFC 9000 §7.5)


def test_initials_with_many_pieces_of_crypto_are_dropped_and_leave_no_connection(world, kept):
    stranger = Stranger()
    for number in range(200):
        world.deliver_to_server(stranger.initial(b"".join(crypto(300 * number + 2 * i + 1, b"x") for i in range(150))), ATTACKER)
    assert world.router.connections == []
    assert world.counters.get("dropped", Drop.TOO_MANY_FRAMES) == 200
    assert kept() == 0


def test_pieces_of_crypto_beyond_the_limit_are_dropped_without_a_reply(world, kept):
    stranger = Stranger()
    for number in range(200):
        world.deliver_to_server(stranger.initial(b"".join(crypto(60 * number + 2 * i + 1, b"x") for i in range(30))), ATTACKER)
    (connection,) = world.router.connections
    limits = world.router.limits.peer
    assert sum(item.receiver.kept for item in connection.quic._crypto_streams.values()) == kept() <= limits.crypto_gaps
    assert world.counters.get("dropped", Drop.HANDSHAKE_DATA) > 90
    assert world.counters.get("dropped") > 190
    assert connection.terminated is None
    world.run(10)
    assert world.router.connections == []
    assert kept() == 0
    assert is_served(world)


def test_a_million_bytes_of_such_initials_cost_the_server_little_time(world):
    """Without limits it took nine seconds. The bound is wide: machines differ."""
    stranger = Stranger()
    packets = [stranger.initial(b"".join(crypto(300 * n + 2 * i + 1, b"x") for i in range(150))) for n in range(200)]
    started = time.process_time()
    for packet in packets:
        world.deliver_to_server(packet, ATTACKER)
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize("offset", [16_383, 16_384, 524_280, (1 << 62) - 2])
def test_one_byte_far_ahead_takes_no_memory_for_what_is_missing(world, offset, kept):
    for number in range(20):
        world.deliver_to_server(Stranger(number.to_bytes(8, "big")).initial(crypto(offset, b"x")), ATTACKER)
    assert kept() <= 20
    for connection in world.router.connections:
        assert not connection.quic._crypto_buffers
    world.run(10)
    assert (kept(), world.router.connections) == (0, [])


# In packets of few frames each: the data plane drops those of many.
PIECES = [b"".join(crypto(2 * n + 1, b"x") for n in range(start, start + 11)) for start in (0, 11, 22)]


@pytest.mark.parametrize("packets", [[crypto(4096, b"x")], PIECES, [crypto(524_280, b"x")]], ids=["4 KiB", "33 pieces", "512 KiB"])
def test_a_client_that_sends_crypto_far_ahead_is_closed(world, packets, kept):
    client = connected(world)
    for frames in packets:
        world.deliver_to_server(one_rtt(client, frames), ATTACKER)
    world.run(0.1)
    assert client.end.error_code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED
    world.run(10)
    assert kept() == 0


def test_a_tls_message_without_an_end_is_not_kept(world):
    # A NewSessionTicket of 16 MiB, byte by byte in order: nothing of it is out of order.
    client = connected(world)
    world.deliver_to_server(one_rtt(client, crypto(0, b"\x04\xff\xff\xff" + bytes(1000))), ATTACKER)
    for number in range(1, 8):
        world.deliver_to_server(one_rtt(client, crypto(4 + 1000 * number, bytes(1000))), ATTACKER)
    world.run(0.1)
    assert client.end is not None


def test_a_server_that_sends_crypto_in_many_pieces_ends_the_clients_connection_at_once(certificates, kept):
    world = World(certificates)
    world.to_server = lambda data, number: []
    session = world.channel()
    connection = session._connection
    server = Stranger.server_of(connection.quic)
    handled = 0
    for number in range(200):
        connection.receive(server.initial(b"".join(crypto(120 * number + 2 * i + 1, b"x") for i in range(60))), world.now)
        handled = max(handled, kept())
        connection.flush(world.now)
    assert handled <= connection.quic.limits.crypto_gaps == 128
    assert connection.failure() is not None


@pytest.mark.parametrize("frames", [PING * 1000, crypto(1, b"x") + PADDING + (PING + PADDING) * 100])
def test_packets_of_a_server_that_hold_too_much_end_the_clients_connection(certificates, frames):
    world = World(certificates)
    world.to_server = lambda data, number: []
    connection = world.channel()._connection
    server = Stranger.server_of(connection.quic)
    for _ in range(200):
        connection.receive(server.initial(frames), world.now)
        connection.flush(world.now)
    assert len(connection.quic.dropped) <= 17
    assert connection.failure() is not None


# ------------------------------------------------------------------------------------------------ streams that are cancelled

CANCELLED = {
    "request, then STOP_SENDING": stream(0, REQUEST, fin=True) + stop_sending(0),
    "STOP_SENDING, then request": stop_sending(0) + stream(0, REQUEST, fin=True),
    "half a request, RESET_STREAM": stream(0, REQUEST[:9]) + reset_stream(0, 9),
    "request without FIN, STOP_SENDING": stream(0, REQUEST) + stop_sending(0),
    "request, RESET_STREAM, STOP_SENDING": stream(0, REQUEST) + reset_stream(0, len(REQUEST)) + stop_sending(0),
    "RESET_STREAM alone": reset_stream(0, 0),
    "STOP_SENDING alone": stop_sending(0),
}


@pytest.mark.parametrize("frames", CANCELLED.values(), ids=CANCELLED)
@pytest.mark.parametrize("stage", ["0-RTT", "1-RTT"])
def test_a_stream_that_is_cancelled_locks_nobody_out(world, stage, frames, caplog):
    caplog.set_level(logging.INFO, logger="tsq")
    client = early(world) if stage == "0-RTT" else connected(world)
    before = len(world.router.connections)
    data = (zero_rtt if stage == "0-RTT" else one_rtt)(client, frames)
    world.deliver_to_server(data, ATTACKER)
    assert not caplog.records
    assert len(world.router.connections) == before
    for connection in world.router.connections:
        due = world.router.deadline(connection)
        assert due is not None
        assert due <= world.now + IDLE_TIMEOUT
        assert connection._streams == {}
    world.to_server = lambda data, number: []
    world.run(2 * IDLE_TIMEOUT)
    assert world.router.connections == []
    assert world.router._by_id == {}


@pytest.mark.parametrize("part", [0, 9, len(REQUEST)])
def test_a_client_that_cancels_streams_can_go_on_opening_them(world, part):
    client = connected(world)
    for number in range(64):
        stream_id = client.open()
        if part:
            client.quic.send_stream_data(stream_id, REQUEST[:part])
        client.quic.reset_stream(stream_id, 0)
        client.quic.stop_stream(stream_id, 0)
        world.pump(client)
        world.run(0.1)
        assert client.end is None, number
    assert len(client.ask_stream(PLAIN_REQUEST)) == 38
    connection = connection_of(world, client)
    assert len(connection.quic._streams) <= 16
    assert (connection._streams, len(connection._stopped) <= 16) == ({}, True)


def test_streams_that_are_never_finished_are_as_many_as_are_allowed(world):
    client = connected(world)
    for number in range(16):
        world.deliver_to_server(one_rtt(client, stream(4 * number, b"x")), ATTACKER)
    connection = connection_of(world, client)
    assert len(connection._streams) == 16
    world.deliver_to_server(one_rtt(client, stream(4 * 16, b"x")), ATTACKER)
    world.run(0.1)
    assert client.end.error_code == QuicErrorCode.STREAM_LIMIT_ERROR


def test_a_stream_in_too_many_pieces_ends_the_connection(world):
    client = connected(world)
    world.deliver_to_server(one_rtt(client, b"".join(stream(0, b"x", 2 * n + 1) for n in range(17))), ATTACKER)
    world.run(0.1)
    assert client.end.error_code == QuicErrorCode.INTERNAL_ERROR


# ------------------------------------------------------------------------------- whatever goes wrong, it is one connection's


class BrokenError(RuntimeError):
    """An unexpected failure."""


def broken(*_, **__):
    raise BrokenError("unexpected")


@pytest.mark.parametrize("name", ["receive_on", "flush", "take_back", "hand_over", "transmit", "clear"])
def test_a_failure_anywhere_ends_the_connection_and_nothing_else(world, monkeypatch, caplog, name):
    other = connected(world, path(5))
    client = connected(world)
    connection = connection_of(world, client)
    monkeypatch.setattr(connection, name, broken)
    # Not taken by the data plane, and due for an answer; a timer, where that is not what fails.
    world.deliver_to_server(one_rtt(client, datagram(REQUEST + b"\xfd\x08\x06tsq.t4\x00")), ATTACKER)
    if connection in world.router.connections:
        outcome = world.core.expired(connection, world.now + 100)
        assert outcome.datagrams == []
    assert connection not in world.router.connections
    assert world.router.deadline(connection) is None
    assert connection.ids == set()
    assert len(other.ask(PLAIN_REQUEST)) == 1
    assert sum("\n" in record.getMessage() for record in caplog.records) == 0
    # And what was left over does no harm.
    world.run(60)
    assert len(world.router.connections) == 0


@pytest.mark.parametrize("name", ["timer", "deadline"])
def test_a_connection_without_a_deadline_is_forgotten(world, monkeypatch, name):
    client = connected(world)
    connection = connection_of(world, client)
    failure = broken if name == "timer" else lambda: None
    monkeypatch.setattr(connection.quic, "get_timer", failure)
    assert world.router.deadline(connection) is None
    assert connection not in world.router.connections
    assert is_served(world)


def test_a_datagram_that_the_router_cannot_deal_with_is_dropped(world, monkeypatch):
    monkeypatch.setattr(world.router, "_open", broken)
    world.deliver_to_server(Stranger().initial(PING), ATTACKER)
    monkeypatch.undo()
    assert is_served(world)


def test_failures_that_a_peer_can_repeat_do_not_fill_the_log(world, monkeypatch, caplog):
    for number in range(20):
        client = connected(world, path(100 + number))
        monkeypatch.setattr(connection_of(world, client), "receive_on", broken)
        world.deliver_to_server(one_rtt(client, b"\x1a" + bytes(8)), path(100 + number))
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) <= 1


# ---------------------------------------------------------------------------------------------- what a packet and a peer may cost

EXPENSIVE = {
    "565 empty DATAGRAM frames": (b"\x31\x00" * 565, Drop.TOO_MANY_FRAMES),
    # Of PING and PADDING alone the data plane takes any number: they cost it nothing.
    "PING, PADDING and PATH_CHALLENGE": ((PING + PADDING) * 500 + b"\x1a" + bytes(8), Drop.TOO_MANY_FRAMES),
    "MAX_DATA": ((b"\x10" + varint(70_000)) * 200, Drop.TOO_MANY_FRAMES),
    "ACK frames": (ack(0) * 50, Drop.TOO_MANY_ACKS),
    "an ACK of many ranges": (ack(500, 0, *[(0, 0)] * 200), Drop.TOO_MANY_ACKS),
}


def dropped(world, reason) -> int:
    """How many packets either plane has dropped because they hold too much; the data plane has one reason for all."""
    return world.counters.get("dropped", reason) + (0 if world.data_plane is None else world.data_plane.excessive)


@pytest.mark.parametrize(("frames", "reason"), EXPENSIVE.values(), ids=EXPENSIVE)
def test_a_packet_that_holds_too_much_is_dropped_as_if_it_had_not_come(world, frames, reason):
    client = connected(world)
    connection = connection_of(world, client)
    number = client.quic._packet_number
    world.deliver_to_server(one_rtt(client, frames), ATTACKER)
    assert dropped(world, reason) == 1
    assert number not in connection.quic._spaces[Epoch.ONE_RTT].received_packets
    assert len(client.ask(PLAIN_REQUEST)) == 1


@pytest.mark.parametrize(("frames", "reason"), EXPENSIVE.values(), ids=EXPENSIVE)
def test_who_goes_on_with_such_packets_is_closed(world, frames, reason):
    client = connected(world)
    # The data plane drops them at little cost, and the control plane looks from time to time at who sends them.
    most = world.router.limits.peer.excessive_packets if world.data_plane is None else world.data_plane.excessive_limit
    for _ in range(most + 1):
        world.deliver_to_server(one_rtt(client, frames), ATTACKER)
    world.run(0.1 if world.data_plane is None else 2.0)
    assert client.end.error_code == QuicErrorCode.PROTOCOL_VIOLATION
    assert dropped(world, reason) == (most if world.data_plane is None else most + 1)


def test_a_peer_that_sends_without_end_is_held_to_its_budget_and_then_closed(certificates):
    peer = PeerLimits(control_rate=100.0, control_burst=200.0, offence=5.0)
    world = World(certificates, data_plane=True, limits=Limits(peer=peer))
    other = connected(world, path(5))
    client = connected(world)
    handled = 0
    connection = connection_of(world, client)
    real = connection.quic.receive_datagram

    def counted(*arguments):
        nonlocal handled
        handled += 1
        return real(*arguments)

    connection.quic.receive_datagram = counted
    for step in range(1, 3000):
        if client.end is not None:
            break
        world.deliver_to_server(one_rtt(client, b"\x1b" + bytes(8)), ATTACKER)
        world.run(0.005)
        if step % 200 == 0:
            assert len(other.ask(PLAIN_REQUEST)) == 1
    assert client.end.error_code == QuicErrorCode.PROTOCOL_VIOLATION
    assert handled <= 200 + 100 * (0.005 * step + 2)
    assert world.counters.get("dropped", Drop.OVER_BUDGET) >= step - handled - 5


def test_what_is_beyond_the_budget_is_dropped_before_it_is_opened(certificates):
    peer = PeerLimits(control_rate=1.0, control_burst=20.0, offence=3.0)
    world = World(certificates, data_plane=True, limits=Limits(peer=peer))
    client = connected(world)
    connection = connection_of(world, client)
    # Forged packets say nothing about their sender.
    for _ in range(30):
        world.deliver_to_server(b"\xe3\x00\x00\x00\x01\x08" + client.quic._peer_cid.cid + bytes(100), ATTACKER)
    assert world.counters.get("dropped", Drop.OVER_BUDGET) >= 10
    world.run(15)
    assert connection in world.router.connections
    # The data plane's packets cost none of it.
    assert len(client.ask(PLAIN_REQUEST)) == 1


def test_a_client_on_streams_at_a_sane_rate_is_always_answered(world):
    client = connected(world)
    for _ in range(300):
        assert client.write(client.open(), PLAIN_REQUEST, fin=True, seconds=0.02)
    assert world.counters.get("dropped") == 0


def test_packets_that_the_peer_never_acknowledges_are_not_kept_for_ever(certificates):
    peer = PeerLimits(control_rate=1e9, control_burst=1e9)
    world = World(certificates, data_plane=True, limits=Limits(peer=peer))
    client = connected(world)
    connection = connection_of(world, client)
    client.receive = lambda datagram, now: None
    for number in range(3000):
        world.deliver_to_server(one_rtt(client, stream(0, b"", 0) if number else stream(0, b"x")), ATTACKER)
        world.run(0.002)
        if connection not in world.router.connections:
            break
        assert len(connection.quic._spaces[Epoch.ONE_RTT].sent_packets) <= 700
    assert number == 2999


def test_numbers_of_connection_ids_are_not_remembered_for_ever(world):
    client = connected(world)
    connection = connection_of(world, client)
    numbers = connection.quic._peer_cid_sequence_numbers
    numbers |= set(range(10, 10_000))
    world.deliver_to_server(one_rtt(client, b"\x18" + varint(10_000) + b"\x02\x08" + bytes(24)), ATTACKER)
    assert len(connection.quic._peer_cid_sequence_numbers) <= 64


# ------------------------------------------------------------------------------------------------------- floods of strangers


def undecryptable(number: int) -> bytes:
    data = Stranger(number.to_bytes(8, "big")).initial(PING)
    return data[:-1] + bytes([data[-1] ^ 1])


def test_initials_that_do_not_open_make_no_connection_and_turn_retry_on(world, monkeypatch):
    made = []
    monkeypatch.setattr(world.router, "_open", lambda *arguments: made.append(arguments))
    for number in range(200):
        assert world.counters.get("retries") == 0
        world.deliver_to_server(undecryptable(number), ATTACKER)
    for number in range(200, 220):
        world.deliver_to_server(undecryptable(number), ATTACKER)
    assert (made, world.counters.get("retries")) == ([], 20)
    monkeypatch.undo()
    for _ in range(40):
        world.router.admission.failed(world.now)
    # A correct client still connects, with one more round trip.
    assert is_served(world)
    assert world.counters.get("retries") == 21


def test_retry_is_off_again_soon_after_a_flood(world):
    for number in range(5000):
        world.deliver_to_server(undecryptable(number), ATTACKER)
    world.run(5)
    before = world.counters.get("retries")
    assert is_served(world)
    assert world.counters.get("retries") == before


def test_without_retry_half_open_connections_are_few_and_the_oldest_go_first(certificates):
    limits = Limits(retry=RetryPolicy.NEVER, half_open=5, most_half_open=20, newcomers=1e9)
    world = World(certificates, data_plane=True, limits=limits)
    client = connected(world)
    seen = []
    for number in range(100):
        world.deliver_to_server(Stranger(number.to_bytes(8, "big")).initial(crypto(0, b"\x01")), ATTACKER)
        seen += [connection for connection in world.router.connections if connection not in seen]
        assert world.router.half_open <= 20
        assert len(world.router.connections) <= 21
    assert world.router.connections == [seen[0], *seen[-20:]]
    assert len(client.ask(PLAIN_REQUEST)) == 1
    assert is_served(world)


def test_those_who_proved_their_address_are_evicted_last(certificates):
    limits = Limits(retry=RetryPolicy.AUTO, half_open=0, most_half_open=3)
    world = World(certificates, limits=limits)
    world.to_client = lambda data, number: [1_000_000] if len(data) < 200 else []
    proven = [ForeignClient(world, where=path(number)) for number in range(2)]
    assert [connection.validated for connection in world.router.connections] == [True, True]
    world.router.limits = Limits(retry=RetryPolicy.NEVER, half_open=0, most_half_open=3)
    for number in range(10):
        world.deliver_to_server(Stranger(number.to_bytes(8, "big")).initial(crypto(0, b"\x01")), ATTACKER)
    assert [connection.validated for connection in world.router.connections] == [True, True, False]
    assert len(proven) == 2


def test_newcomers_are_few_while_many_handshakes_are_under_way(certificates):
    limits = Limits(retry=RetryPolicy.NEVER, half_open=10, newcomers=30.0, prefix_newcomers=1e9)
    world = World(certificates, limits=limits)
    for number in range(500):
        world.deliver_to_server(Stranger(number.to_bytes(8, "big")).initial(crypto(0, b"\x01")), ATTACKER)
    assert world.router.half_open == 10 + 30
    assert world.counters.get("dropped", Drop.TOO_MANY_HANDSHAKES) == 500 - 40


def test_a_full_server_says_so_seldom_and_counts(certificates, caplog):
    world = World(certificates, limits=Limits(max_connections=1))
    connected(world)
    for _ in range(50):
        world.deliver_to_server(Stranger().initial(crypto(0, b"\x01")), ATTACKER)
        world.run(0.01)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "the limit of 1 connection is reached" in record.getMessage()
    assert "Limits(max_connections=...) allows more" in record.getMessage()
    assert world.counters.get("dropped", Drop.TOO_MANY_CONNECTIONS) == 50


def test_every_reason_for_a_refused_packet_is_a_counted_drop():
    counters = Counters()
    for reason in Drop:
        counters.add("dropped", reason)
    assert counters.get("dropped") == len(Drop)


# ------------------------------------------------------------------------- many packets in one datagram, floods before a handshake


def coalesced(client, kind: int, count: int) -> bytes:
    """So many long-header packets of a type that do not open, with this client's connection ID."""
    destination = client.quic._peer_cid.cid
    token = b"\0" if kind == 0xC3 else b""
    one = bytes([kind]) + b"\0\0\0\x01" + bytes([len(destination)]) + destination + b"\0" + token + varint(20) + bytes(20)
    return one * count


@pytest.mark.parametrize("kind", [0xC3, 0xD3, 0xE3], ids=["Initial", "0-RTT", "Handshake"])
def test_a_datagram_of_many_packets_is_dropped_before_any_is_looked_at(world, monkeypatch, kind):
    client = connected(world)
    connection = connection_of(world, client)
    monkeypatch.setattr(connection, "receive_on", broken)
    world.deliver_to_server(coalesced(client, kind, 9), ATTACKER)
    assert world.counters.get("dropped", Drop.TOO_MANY_PACKETS) == 1
    monkeypatch.undo()
    # Initials count in datagrams of 1200 bytes only (RFC 9000 §14.1).
    before = coalesced(client, 0xE3 if kind == 0xC3 else kind, 7)
    world.deliver_to_server(before + one_rtt(client, stream(0, REQUEST, fin=True)), ATTACKER)
    assert world.counters.get("requests", "stream") == 1


def test_each_packet_of_a_datagram_uses_up_the_budget(certificates):
    peer = PeerLimits(control_rate=1.0, control_burst=40.0)
    world = World(certificates, data_plane=True, limits=Limits(peer=peer))
    client = connected(world)
    for _ in range(10):
        world.deliver_to_server(coalesced(client, 0xE3, 8), ATTACKER)
    assert world.counters.get("dropped", Drop.OVER_BUDGET) >= 5


def test_a_stranger_cannot_send_many_packets_in_the_first_datagram(world):
    stranger = Stranger()
    data = stranger.initial(crypto(0, b"\x01"))[:-1]
    one = b"\xc3\0\0\0\x01\x08stranger\0\0" + varint(4) + bytes(4)
    world.deliver_to_server(one * 60 + data, ATTACKER)
    assert world.counters.get("dropped", Drop.TOO_MANY_PACKETS) == 1
    assert world.router.connections == []


def test_a_client_drops_a_datagram_of_many_packets(certificates):
    world = World(certificates)
    world.to_server = lambda data, number: []
    connection = world.channel()._connection
    name = connection.quic.host_cid
    connection.receive((b"\xe3\0\0\0\x01" + bytes([len(name)]) + name + b"\0" + varint(20) + bytes(20)) * 9, world.now)
    assert connection.quic.dropped == ("datagram with too many packets",)


@pytest.mark.parametrize("strangers", [1, 50])
def test_a_flood_on_half_open_connections_is_hardly_looked_at(certificates, strangers):
    # Without a bound on all connections together: what is tested is the one on handshakes under way.
    world = World(certificates, data_plane=True, limits=Limits(all_control=1e9, most_control=1e9))
    other = connected(world, path(5))
    handled = 0
    real = TrimmedConnection.receive_datagram

    def counted(*arguments):
        nonlocal handled
        handled += 1
        return real(*arguments)

    senders = [Stranger(number.to_bytes(8, "big")) for number in range(strangers)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrimmedConnection, "receive_datagram", counted)
        for number in range(200):
            for sender in senders:
                world.deliver_to_server(sender.initial(PING if number else crypto(9, b"x")), ATTACKER)
    limits = world.router.limits
    # In no time, a quarter of what is allowed in a second.
    assert handled <= strangers + min(limits.strangers / 4, limits.peer.handshake_packets * strangers)
    assert len(other.ask(PLAIN_REQUEST)) == 1
    assert other.ask_stream(PLAIN_REQUEST)
    reason = Drop.OVER_BUDGET if strangers == 1 else Drop.OVERLOADED
    assert world.counters.get("dropped", reason) > 0


def test_what_all_connections_together_ask_of_the_control_plane_has_an_end(certificates):
    world = World(certificates, data_plane=True, limits=Limits(most_control=100.0))
    clients = [connected(world, path(number)) for number in range(10)]
    world.run(2)
    for _ in range(20):
        for number, client in enumerate(clients):
            world.deliver_to_server(one_rtt(client, b"\x1b" + bytes(8)), path(number))
    assert world.counters.get("dropped", Drop.OVERLOADED) >= 200 - 100
    # Plain requests are the data plane's.
    assert all(len(client.ask(PLAIN_REQUEST)) == 1 for client in clients)


def test_requests_that_the_control_plane_answers_use_up_the_budget(certificates):
    peer = PeerLimits(control_rate=1.0, control_burst=100.0)
    world = World(certificates, data_plane=True, limits=Limits(peer=peer))
    client = connected(world)
    for _ in range(40):
        # With something to decide, so that they are not the data plane's.
        world.deliver_to_server(one_rtt(client, datagram(REQUEST + b"\xf8\x00") * 16), ATTACKER)
    # One unit for the packet, one for its frames, two for its requests.
    assert 12 <= world.counters.get("dropped", Drop.OVER_BUDGET) <= 18


@pytest.mark.parametrize("early", [0.001, 1.0])
def test_a_time_that_was_read_before_a_packet_came_ends_no_connection(world, early):
    client = connected(world)
    connection = connection_of(world, client)
    connection.take_back()
    connection.receive_on(ATTACKER, one_rtt(client, PING + PADDING * 3), world.now)
    connection.quic._spaces[Epoch.ONE_RTT].ack_at = 0.0
    assert connection.flush(world.now - early)
    assert connection.terminated is None
