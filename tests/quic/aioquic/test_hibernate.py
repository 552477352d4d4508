"""Connections at rest: a session alone, from which everything goes on as if it had never rested."""

import ssl
from typing import Any

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicErrorCode, QuicProtocolVersion
from aioquic.tls import CipherSuite, Epoch

from tests.dataplane.peer import EXACT_T3
from tests.fuzz_rest import Worlds
from tests.support.crafted import one_rtt, reset_stream, stream
from tests.support.foreign import ForeignClient, path
from tests.support.world import World
from tsq.quic.aioquic import hibernate
from tsq.quic.router import Drop, Limits
from tsq.quic.selfsigned import CertificateFiles
from tsq.wire.tlv import TlvType

LONG = 300.0


def request(number: int, tail: bytes = b"") -> bytes:
    return b"\x01\x10" + number.to_bytes(16, "big") + tail


QUERY = bytes([TlvType.METADATA_QUERY, 0])


@pytest.fixture
def world(certificates: CertificateFiles) -> World:
    world = World(certificates, data_plane=True, rest_after=2.0)
    # Longer than the tests let pass.
    world.router.configuration.idle_timeout = LONG
    return world


def resting_client(world: World, **options: Any) -> ForeignClient:
    """A client that has asked once, and whose connection rests."""
    client = ForeignClient(world, **{"idle_timeout": LONG, **options})
    assert len(client.ask(request(1))) == 1
    rest(world)
    return client


def rest(world: World) -> None:
    """Let the connections rest, with nothing left in this process but the data plane's records."""
    world.run(6.0)
    assert (world.router.connections, world.router._by_id, len(world.router._visits)) == ([], {}, 0)
    assert len(world.data_plane.sessions if hasattr(world.data_plane, "sessions") else world.data_plane) == world.data_plane.resting


def rebuilt(world: World) -> int:
    return world.counters.get("rebuilt")


def test_the_installed_aioquic_has_every_name_that_rest_needs(monkeypatch):
    assert hibernate.missing_names() == []
    monkeypatch.setitem(hibernate.PRIVATE_NAMES, "keys", ("hp", "_no_such_name"))
    assert hibernate.missing_names() == ["keys._no_such_name"]


def test_a_quiet_connection_rests_and_its_requests_are_answered(world):
    client = resting_client(world)
    before = world.data_plane.answered
    for number in range(20):
        assert len(client.ask(request(2 + number), seconds=7.0)) == 1
    assert world.data_plane.answered == before + 20
    assert (world.router.count, world.router.connections, rebuilt(world)) == (1, [], 0)


@pytest.mark.parametrize("suite", [CipherSuite.AES_128_GCM_SHA256, CipherSuite.AES_256_GCM_SHA384,
                                   CipherSuite.CHACHA20_POLY1305_SHA256])
@pytest.mark.parametrize("version", [QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2])
def test_the_client_updates_its_keys_while_the_connection_rests(world, suite, version):
    client = resting_client(world, cipher_suites=[suite], supported_versions=[version], original_version=version)
    keys = client.quic._cryptos[Epoch.ONE_RTT]
    for number in range(5):
        before = keys.send.secret
        client.quic.request_key_update()
        assert len(client.ask(request(2 * number), seconds=3.0)) == 1
        assert len(client.ask(request(2 * number + 1), seconds=3.0)) == 1
        assert keys.send.secret != before
        assert keys.recv.key_phase == (number + 1) % 2
    assert rebuilt(world) == 0
    # What was derived in the data plane is what aioquic goes on with.
    client.ask_stream(request(99))
    world.run(1)
    assert len(client.streams[0]) == 38
    assert rebuilt(world) == 1
    rest(world)
    client.quic.request_key_update()
    assert len(client.ask(request(100), seconds=3.0)) == 1
    assert rebuilt(world) == 1


def test_more_key_updates_than_are_allowed_end_the_connection(world):
    client = resting_client(world)
    for number in range(18):
        client.quic.request_key_update()
        client.ask(request(number), seconds=0.01)
        if client.end or client.quic._close_event:
            break
    world.run(1)
    assert client.quic._close_event.error_code == QuicErrorCode.KEY_UPDATE_ERROR
    assert number >= 16


def test_a_ping_is_acknowledged_and_a_path_challenge_answered_without_a_rebuild(world):
    client = resting_client(world)
    client.quic.send_ping(7)
    world.pump(client)
    world.run(0.5)
    assert client.quic._spaces[Epoch.ONE_RTT].ack_eliciting_in_flight == 0
    responses: list[bytes] = []
    seen = client.quic._handle_path_response_frame
    handlers = client.quic._QuicConnection__frame_handlers
    handlers[0x1B] = (lambda context, kind, buffer: (responses.append(buffer.data_slice(buffer.tell(), buffer.tell() + 8)),
                                                     seen(context, kind, buffer)), handlers[0x1B][1])
    [answer] = world.deliver_to_server(one_rtt(client, b"\x1achallen1\x1achallen2"))
    world.run(1)
    assert responses == [b"challen1", b"challen2"]
    # RFC 9000 §8.2.2.
    assert len(answer) == 1200
    assert rebuilt(world) == 0


def test_a_client_that_closes_is_forgotten_and_late_packets_get_no_reply(world):
    client = resting_client(world)
    late = one_rtt(client, b"\x01\0\0\0")
    client.quic.close(error_code=0, reason_phrase="enough")
    world.pump(client)
    world.run(0.1)
    assert (world.data_plane.closed, rebuilt(world)) == (1, 0)
    assert world.deliver_to_server(late) == []
    assert world.counters.get("stateless resets") == 0
    assert world.data_plane.drained == 1
    world.run(5)
    assert (world.router.count, len(world.data_plane)) == (0, 0)
    # Then it is unknown, as any other.
    assert len(world.deliver_to_server(late)) == 1
    assert world.counters.get("stateless resets") == 1


def test_a_request_with_more_than_a_nonce_is_answered_without_a_rebuild(world):
    world.responder.clock_info = ((TlvType.TIME_SOURCE, b"\1\1GPS"),)
    client = resting_client(world)
    for number in range(5):
        [answer] = client.ask(request(number, QUERY), seconds=4.0)
        assert answer.endswith(b"GPS")
    assert (rebuilt(world), world.counters.get("answered")) == (0, 5)
    # More than one a second is the connection's, which has a budget.
    assert len(client.ask(request(6, QUERY), seconds=0.2)) == 1
    assert len(client.ask(request(7, QUERY), seconds=0.2)) == 1
    assert rebuilt(world) == 1
    rest(world)
    assert world.counters.get("answered") == 7


def stream_request(client: ForeignClient, world: World) -> None:
    before = len(client.finished)
    client.ask_stream(request(50))
    world.run(0.5)
    assert len(client.finished) == before + 1


def change_id(client: ForeignClient, world: World) -> None:
    before = client.quic._peer_cid.cid
    client.quic.change_connection_id()
    assert len(client.ask(request(51), seconds=0.5)) == 1
    assert client.quic._peer_cid.cid != before


def hurry(client: ForeignClient, world: World) -> None:
    # The second one within a second.
    assert [len(client.ask(request(number, QUERY), seconds=0.3)) for number in (52, 53)] == [1, 1]


def move(client: ForeignClient, world: World) -> None:
    world._sessions.clear()
    world._sessions[path(world.router.forgotten + rebuilt(world) + 1)] = client
    assert len(client.ask(request(53), seconds=1.0)) == 1


def new_id(client: ForeignClient, world: World) -> None:
    # NEW_CONNECTION_ID that retires all earlier ones.
    number = 20 + rebuilt(world)
    known = client.quic._host_cids
    world.deliver_to_server(one_rtt(client, b"\x18" + bytes([number, number, 8]) + known[0].cid + bytes(16)))
    world.run(0.5)


@pytest.mark.parametrize("what", [stream_request, change_id, hurry, move])
def test_what_needs_the_control_plane_makes_the_connection_again_and_it_rests_again(world, what):
    client = resting_client(world)
    for round_ in range(1, 7):
        what(client, world)
        assert rebuilt(world) == round_
        assert client.quic._close_event is None
        rest(world)
        assert len(client.ask(request(100 + round_), seconds=0.2)) == 1
        assert rebuilt(world) == round_


def test_streams_that_are_done_stay_done(world):
    client = resting_client(world)
    stream_request(client, world)
    rest(world)
    before = world.counters.get("requests")
    # The same stream once more, as a late copy in another packet.
    world.deliver_to_server(one_rtt(client, stream(0, request(60), fin=True)))
    world.deliver_to_server(one_rtt(client, reset_stream(0, 18)))
    world.run(0.5)
    assert rebuilt(world) == 2
    assert world.counters.get("requests") == before
    assert client.quic._close_event is None
    stream_request(client, world)
    # The limits of streams grow across rests.
    for _ in range(40):
        rest(world)
        stream_request(client, world)


def test_an_open_stream_or_a_pending_close_keeps_a_connection_awake(world):
    client = ForeignClient(world, idle_timeout=LONG)
    assert len(client.ask(request(2))) == 1
    opened = client.open()
    client.write(opened, request(1)[:10], fin=False)
    world.run(4)
    assert len(world.router.connections) == 1
    client.write(opened, request(1)[10:], fin=True, seconds=0.5)
    rest(world)


def resting_for_half_a_minute(certificates: CertificateFiles) -> tuple[World, bytes]:
    """A world with a connection at rest that ends after 30 s of silence, and a packet for it."""
    world = World(certificates, data_plane=True, rest_after=2.0)
    client = ForeignClient(world, idle_timeout=30.0)
    client.ask(request(1))
    rest(world)
    return world, one_rtt(client, b"\x01\0\0\0")


def test_a_connection_that_hears_nothing_ends_after_its_idle_timeout(certificates):
    world, late = resting_for_half_a_minute(certificates)
    world.run(22)
    assert (world.router.count, world.data_plane.timed_out) == (1, 0)
    world.run(4)
    assert (world.router.count, world.data_plane.timed_out, len(world.data_plane)) == (0, 1, 0)
    [reset] = world.deliver_to_server(late)
    assert len(reset) < len(late)


def test_between_its_idle_timeout_and_the_next_look_a_connection_is_not_made_again(certificates):
    """The client may have given it up, too: it gets a stateless reset at once, and connects again."""
    world, late = resting_for_half_a_minute(certificates)
    # No look comes in between.
    world.now_ns += 31_000_000_000
    assert world.data_plane.resting == 1
    [reset] = world.deliver_to_server(late)
    assert len(reset) < len(late)
    assert (rebuilt(world), world.counters.get("dropped", Drop.UNKNOWN_CONNECTION)) == (0, 1)


def test_exact_t3_is_reported_across_a_rest(world):
    client = ForeignClient(world, idle_timeout=LONG)
    client.ask(request(1, EXACT_T3))
    rest(world)
    assert len(client.ask(request(2, EXACT_T3), seconds=5.0)) == 1
    assert rebuilt(world) == 0


def test_the_peer_of_a_connection_at_rest_is_probed_until_it_acknowledges(world):
    client = resting_client(world)
    before = len(world.sent)
    client.quic.send_datagram_frame(request(5))
    world.to_client = world.to_server = lambda data, number: []
    for data in client.datagrams(world.now):
        world.deliver_to_server(data)
    world.run(20.0)
    sent = [data for side, data in world.sent[before:] if side == "server"]
    # The answer, then probes after 1, 2, 4, 8 seconds.
    assert 4 <= len(sent) <= 6
    world.to_server = world.to_client = lambda data, number: [1_000_000]
    assert len(client.ask(request(6), seconds=20.0)) == 1
    before = len(world.sent)
    world.run(30)
    assert len(world.sent) == before
    assert rebuilt(world) == 0


def clients(world: World, count: int) -> list[ForeignClient]:
    out = []
    for number in range(count):
        client = ForeignClient(world, where=path(number), idle_timeout=LONG)
        assert len(client.ask(request(number))) == 1
        out.append(client)
    return out


def test_at_the_limit_the_connection_that_was_used_least_recently_ends(certificates):
    world = World(certificates, data_plane=True, rest_after=2.0, limits=Limits(max_connections=4))
    first = clients(world, 4)
    rest(world)
    for client in (first[0], first[3], first[1]):
        client.ask(request(70), seconds=2.0)
    # All four are in use: the new one is served in place of the one that asked least recently.
    new = ForeignClient(world, where=path(9), idle_timeout=LONG)
    assert new.established
    assert (world.router.count, world.counters.get("evicted")) == (4, 1)
    assert [len(client.ask(request(71))) for client in (first[0], first[1], first[3], new)] == [1, 1, 1, 1]
    assert first[2].ask(request(72), seconds=0.01) == []
    assert world.counters.get("stateless resets") == 1


@pytest.mark.parametrize("limit", ["max_connections", "awake"])
def test_where_all_connections_are_awake_new_clients_are_refused(certificates, limit):
    world = World(certificates, data_plane=True, limits=Limits(**{limit: 2}))
    first = clients(world, 2)
    third = ForeignClient(world, where=path(5))
    assert not third.established
    assert world.counters.get("refused") == 1
    assert [len(client.ask(request(9))) for client in first] == [1, 1]


def test_a_client_cannot_make_the_server_rebuild_without_end(certificates):
    world = World(certificates, data_plane=True, rest_after=2.0, limits=Limits(rebuilds=2))
    several = clients(world, 5)
    rest(world)
    # MAX_DATA.
    packets = [one_rtt(client, b"\x10\x80\x02\0\0") for client in several]
    for packet, number in zip(packets, range(5), strict=True):
        world.deliver_to_server(packet, path(number))
    assert rebuilt(world) == 2
    assert world.counters.get("dropped", Drop.OVERLOADED) == 3
    # The others lost a packet, and nothing else.
    world.run(3)
    assert all(len(client.ask(request(80), seconds=1.0)) == 1 for client in several)


def test_a_late_handshake_packet_of_a_connection_at_rest_is_dropped(world):
    client = resting_client(world)
    late = b"\xe3\0\0\0\1\x08" + client.quic._peer_cid.cid + b"\x08" + client.quic.host_cid + b"\x44\0" + bytes(1200)
    assert world.deliver_to_server(late) == []
    assert world.counters.get("dropped", Drop.NOT_INITIAL) == 1
    assert (world.router.count, rebuilt(world)) == (1, 0)


@pytest.mark.parametrize("seed", range(4))
def test_a_server_whose_connections_rest_ends_in_the_state_of_one_whose_connections_never_do(certificates, seed):
    done = Worlds(seed, certificates).run(60)
    assert done["rested"] > 3
    assert done["rebuilt"] > 2


def test_all_are_told_when_the_server_ends(world):
    several = clients(world, 5)
    rest(world)
    told = world.data_plane.close_resting(b"bye", 3, world.now)
    assert (len(told), world.data_plane.resting) == (3, 2)
    told += world.data_plane.close_resting(b"bye", 100, world.now)
    assert (len(told), world.data_plane.resting, len(world.data_plane)) == (5, 0, 0)
    for data, remote, _ in told:
        [client] = [several[number] for number in range(5) if path(number).remote == remote]
        client.quic.receive_datagram(data, "the server", world.now)
        event = client.quic._close_event
        assert (event.error_code, event.reason_phrase) == (QuicErrorCode.NO_ERROR, "bye")


def test_a_resumed_connection_that_rested_keeps_its_alpn_and_how_it_began(world):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["tsq"], verify_mode=ssl.CERT_NONE)
    client = resting_client(world, alpn_protocols=list(configuration.alpn_protocols or []))
    stream_request(client, world)
    [connection] = world.router.connections
    assert (connection.alpn, connection.handshake.session_resumed) == ("tsq", False)
    assert connection.validated
    assert not connection.fresh
