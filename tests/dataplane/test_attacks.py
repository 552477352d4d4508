"""What a client or a stranger sends on purpose: nothing is answered twice, no packet number is used twice, others are served on."""

import random
from collections.abc import Callable

import pytest
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import Epoch

from tests.dataplane.arena import Arena
from tests.dataplane.peer import PADDING, PING, ack, datagram, request
from tests.integration.peers import aioquic_client
from tests.support.foreign import ForeignClient, path
from tests.support.world import CLIENT, World
from tsq._fast import pack_address
from tsq.errors import TSQError
from tsq.quic.udp import Datagram, NetworkPath

# Frames that an authentic client may put into a packet to make work.
WORK = (
    PING, PING * 500, PING + PADDING * 900, datagram(b""), datagram(b"") * 64, datagram(b"") * 300,
    datagram(b"\x02\x10" + bytes(16)), b"\x10\x40\x40", b"\x10\x40\x40" * 200, b"\x1a" + bytes(8),
    b"\x1a" + bytes(8) + PING, ack(0), ack(0) * 100,
)


class HostileArena(Arena):
    """The client also sends packets that make work, and an attacker sends copies and forged packets from anywhere."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        assert self.data_plane is not None
        # What is too much work is dropped, and the connection goes on.
        self.data_plane.excessive_limit = 1 << 60
        self.delivered = 0
        self._seen: list[bytes] = []

    def step(self) -> None:
        for _ in range(self.random.choice((1, 2, 10))):
            choice = self.random.random()
            if choice < 0.3:
                self._from_server(self._server_takes(self._sealed(self.random.choice(WORK)), self.path))
            elif choice < 0.7 and self._seen:
                where = self.path if self.random.random() < 0.5 else self._path(self.random.randint(2000, 60000))
                self._from_server(self._server_takes(self.random.choice(self._seen), where))
            elif self._seen:
                forged = bytearray(self.random.choice(self._seen))
                forged[self.random.randrange(9, len(forged))] ^= 1 << self.random.randrange(8)
                self._from_server(self._server_takes(bytes(forged), self.path))
        super().step()

    def _sealed(self, frames: bytes) -> bytes:
        """A packet of the client's with these frames."""
        quic = self.client
        keys = quic._cryptos[Epoch.ONE_RTT].send
        number = quic._packet_number
        quic._packet_number += 1
        header = bytes([0x43 | keys.key_phase << 2]) + quic._peer_cid.cid + number.to_bytes(4, "big")
        return keys.encrypt_packet(header, frames, number)

    def _server_takes(self, data: bytes, path: NetworkPath):
        self.delivered += 1
        if not data[0] & 0x80:
            self._seen = [*self._seen[-100:], data]
        return super()._server_takes(data, path)


@pytest.mark.parametrize("seed", range(10))
def test_no_packet_number_is_used_twice_and_nothing_is_answered_twice_under_attack(certificates, seed):
    arena = HostileArena(seed, certificates, lossy=seed % 2 == 1)
    arena.establish()
    while arena.delivered < 2000:
        arena.step()
    arena.settle()
    data_plane = arena.data_plane
    # The arena has checked the numbers and the answers at each step. All of this was there:
    assert min(data_plane.forged, data_plane.duplicates, data_plane.excessive, data_plane.malformed, data_plane.answered) > 50
    assert data_plane.taken < data_plane.received


# ----------------------------------------------------------------------------------------------------------- 0-RTT replays

@pytest.fixture
def world(certificates) -> World:
    return World(certificates, data_plane=True)


def resumed(world: World) -> tuple[object, list[bytes]]:
    """A session that has asked in its first flight and was answered; that flight."""
    tickets: list = []
    first = world.channel(on_ticket=tickets.append)
    world.run(0.5)
    world.exchange(first)
    first.close()
    world.pump(first)
    world.run(10)
    assert world.router.connections == []
    before = len(world.sent)
    session = world.channel(ticket=tickets[0])
    flight = [data for side, data in world.sent[before:] if side == "client"]
    world.run(0.5)
    assert session.zero_rtt
    assert all(data[0] & 0x80 for data in flight)
    return session, flight


def closed(world: World, session) -> None:
    session.close()
    world.pump(session)
    world.run(10)
    assert world.router.connections == []


def at_once(world, session, flight):
    return [(data, CLIENT) for data in flight]


def from_elsewhere(world, session, flight):
    return [(data, path(5)) for data in flight]


def when_it_is_over(world, session, flight):
    closed(world, session)
    return [(data, CLIENT) for data in flight]


def from_elsewhere_when_it_is_over(world, session, flight):
    closed(world, session)
    return [(data, path(5)) for data in flight]


def the_0rtt_packet_alone_when_it_is_over(world, session, flight):
    closed(world, session)
    # Behind the Initial in the same datagram; brought to the size of an Initial, so that its size is no reason to drop it.
    alone = [data[_initial_size(data) :] for data in flight]
    return [(data + bytes(max(0, 1200 - len(data))), CLIENT) for data in alone if data]


def many_times_over_in_any_order(world, session, flight):
    closed(world, session)
    copies = [(data, path(number)) for data in flight for number in range(6)]
    random.Random(3).shuffle(copies)
    return copies


def _initial_size(data: bytes) -> int:
    """Bytes of the Initial at the beginning of a datagram (RFC 9000 §17.2.2)."""
    at = 6 + data[5]
    at += 1 + data[at]
    # The token, and all behind its own length.
    for _ in ("token", "rest"):
        size = 1 << (data[at] >> 6)
        at += size + (int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1))
    return at


REPLAYS = [
    at_once, from_elsewhere, when_it_is_over, from_elsewhere_when_it_is_over, the_0rtt_packet_alone_when_it_is_over,
    many_times_over_in_any_order,
]


@pytest.mark.parametrize("replay", REPLAYS)
def test_a_0rtt_first_flight_that_is_replayed_yields_no_second_answer(world: World, replay: Callable):
    session, flight = resumed(world)
    requests = world.counters.get("requests") + world.data_plane.answered
    copies = replay(world, session, flight)
    assert copies
    sent = sum(len(data) for data, _ in copies)
    replies = sum(len(reply) for data, where in copies for reply in world.deliver_to_server(data, where))
    assert replies <= 3 * sent
    world.run(10)
    assert world.counters.get("requests") + world.data_plane.answered == requests
    fresh = ForeignClient(world, where=path(9))
    assert len(fresh.ask(request(1))) == 1


# ------------------------------------------------------------------------------------------------------------------ storms

def connected(world: World) -> ForeignClient:
    client = ForeignClient(world, idle_timeout=60.0)
    world.run(0.5)
    assert len(client.ask(request(0))) == 1
    return client


def test_a_storm_of_connection_id_changes_leaves_one_session_in_the_table(world):
    client = connected(world)
    for n in range(100):
        client.quic.change_connection_id()
        assert len(client.ask(request(n))) == 1
    world.run(1.0)
    [connection] = world.router.connections
    assert len(world.data_plane) == 1
    assert len(connection.ids) < 6
    assert connection.plane.active


def test_a_storm_of_address_changes_leaves_one_session_and_few_paths(world):
    client = connected(world)
    for n in range(100):
        world._sessions.clear()
        world._sessions[path(n)] = client
        # Some are answered before the path is validated, within three times what came; none twice.
        assert len(client.ask(request(n))) <= 1
    world.run(1.0)
    assert len(client.ask(request(200))) == 1
    [connection] = world.router.connections
    assert len(world.data_plane) == 1
    assert connection.plane.active


def test_packets_that_are_too_much_work_are_counted_and_end_their_connection_alone(world):
    world.router.configuration.idle_timeout = 60.0
    other = ForeignClient(world, where=path(1), idle_timeout=60.0)
    client = connected(world)
    keys = client.quic._cryptos[Epoch.ONE_RTT].send
    quic = client.quic
    for n in range(world.data_plane.excessive_limit + 20):
        number = quic._packet_number
        quic._packet_number += 1
        header = bytes([0x43 | keys.key_phase << 2]) + quic._peer_cid.cid + number.to_bytes(4, "big")
        assert world.deliver_to_server(keys.encrypt_packet(header, datagram(b"") * 500, number)) == []
        if n == world.data_plane.excessive_limit // 2:
            world.run(2.0)
            assert len(client.ask(request(n))) == 1
    assert world.data_plane.excessive == world.data_plane.excessive_limit + 20
    world.run(3.0)
    assert client.end is not None
    assert client.end.error_code == QuicErrorCode.PROTOCOL_VIOLATION
    assert client.end.reason_phrase == "too many packets that are too much work"
    assert len(other.ask(request(1))) == 1
    world.run(5.0)
    assert len(world.router.connections) == 1


# ------------------------------------------------------------------------------------------------------ a malicious server

def response(nonce: bytes) -> bytes:
    return b"\x01\x10" + nonce + b"\x02\x08" + bytes(8) + b"\x03\x08" + bytes(8)


# Frames that a server with the right keys puts into a packet of its own. "Ends": the client must end the connection.
MALICIOUS = {
    "no frames": (b"", True),
    "an unknown frame": (b"\x21", True),
    "a frame that is cut": (b"\x10", True),
    "HANDSHAKE_DONE again": (b"\x1e", False),
    "HANDSHAKE_DONE, 100": (b"\x1e" * 100, False),
    "PING, 1,100": (PING * 1100, False),
    "a token of no use": (b"\x07\x05token", False),
    "an empty token": (b"\x07\x00", False),
    "ACK of a packet that was never sent": (ack(1 << 20), True),
    "ACK below zero": (ack(0, 1), True),
    # Too much work to look at it.
    "ACK of 500 ranges that were never sent": (ack(1 << 20, 0, *[(0, 0)] * 500), False),
    "ACK frames, 190": (ack(0) * 190, False),
    "empty DATAGRAM frames, 64": (datagram(b"") * 64, False),
    "empty DATAGRAM frames, 500": (datagram(b"") * 500, False),
    "a DATAGRAM past the end": (b"\x31\x40\x50x", True),
    "answers to requests that were never made": (b"".join(datagram(response(bytes([n]) * 16)) for n in range(20)), False),
    "answers that are garbage": (b"".join(datagram(bytes([n]) * n) for n in range(1, 40)), False),
    "STREAM of a stream that was never opened": (b"\x0a\x40\x40\x01x", True),
    "STREAM of the server's": (b"\x0a\x01\x01x", None),
    "STREAM frames, sparse": (b"".join(b"\x0e\x01" + (0x4000 + 2 * n).to_bytes(2, "big") + b"\x01x" for n in range(190)), None),
    "RESET_STREAM of a stream that was never opened": (b"\x04\x40\x40\x00\x00", True),
    "STOP_SENDING of a stream that was never opened": (b"\x05\x40\x40\x00", True),
    "CRYPTO that is no TLS": (b"\x06\x00\x04\xff\x00\x00\x00", None),
    "CRYPTO frames, sparse": (b"".join(b"\x06" + (0x4000 + 2 * n).to_bytes(2, "big") + b"\x01x" for n in range(190)), False),
    "PATH_CHALLENGE frames, 120": ((b"\x1a" + bytes(8)) * 120, False),
    "a PATH_RESPONSE that was not asked for": (b"\x1b" + bytes(8), None),
    "NEW_CONNECTION_ID of no length": (b"\x18\x09\x00\x00" + bytes(16), None),
    "RETIRE_CONNECTION_ID that was never issued": (b"\x19\x40\x40", True),
    "CONNECTION_CLOSE with hostile words": (b"\x1d\x00\x05\x1b[2J\xff", True),
}


@pytest.mark.parametrize(("frames", "ends"), MALICIOUS.values(), ids=MALICIOUS)
def test_a_malicious_server_gets_an_error_of_ours_or_the_client_measures_on(world, frames, ends):
    session = world.channel(timeout=2.0)
    world.run(1)
    for _ in range(3):
        world.exchange(session)
    [connection] = world.router.connections
    server = connection.plane.session
    keys = connection.quic._cryptos[Epoch.ONE_RTT].send
    packets = []
    for _ in range(3):
        number = server.next_packet_number
        server.next_packet_number = number + 1
        header = bytes([0x43 | keys.key_phase << 2]) + connection.quic._peer_cid.cid + number.to_bytes(4, "big")
        packets.append(keys.encrypt_packet(header, frames, number))
    for packet in packets:
        session.receive(Datagram(packet, CLIENT, world.now_ns, True), world.now)
        world.pump(session)
        world.run(0.05)
    world.run(1)
    if ends is not None:
        assert (session.error is not None) == ends
    if session.error is None:
        world.exchange(session)
        assert session.samples[-1].valid
    assert isinstance(session.error, TSQError | None)
    assert all(abs(sample.offset) < 0.002 for sample in session.samples if sample.valid)


# -------------------------------------------------------------------------------------------------------- on real sockets

def test_what_is_dropped_on_a_live_connection_is_reported_by_its_reason_and_stops_nobody(server, certificates):
    source = random.Random(1)
    with aioquic_client(server.target, certificates) as client, aioquic_client(server.target, certificates) as attacker:
        for each in (client, attacker):
            each.wait("HandshakeCompleted")
            for _ in range(3):
                each.exchange()
        identity = client.quic._peer_cid.cid
        keys = attacker.quic._cryptos[Epoch.ONE_RTT].send
        before = server.call(server.server.counters.snapshot)
        for _ in range(20):
            for _ in range(100):
                attacker._socket.send(b"\x43" + identity + source.randbytes(1180))
            number = attacker.quic._packet_number
            attacker.quic._packet_number += 1
            header = bytes([0x43 | keys.key_phase << 2]) + attacker.quic._peer_cid.cid + number.to_bytes(4, "big")
            for frames in (datagram(b"") * 500, PADDING):
                packet = keys.encrypt_packet(header, frames, number)
                attacker._socket.send(packet)
                attacker._socket.send(packet)
            client.exchange()
        after = server.call(server.server.counters.snapshot)
    grown = {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}
    # What the socket had no room for never reached the server; the client's requests did.
    assert 200 < grown["dropped: packet that does not open"] <= 2000
    assert 10 < grown["dropped: packet that is too much work"] <= 40
    assert 5 < grown["dropped: packet that came before"] <= 20
    dropped = sum(count for name, count in grown.items() if name.startswith("dropped"))
    assert grown["datagrams"] >= dropped + grown["taken"]
    assert grown["answered"] == 20
    assert grown["taken"] < 100


def test_a_stranger_learns_nothing_from_forged_packets_wherever_they_come_from(world):
    client = connected(world)
    identity = client.quic._peer_cid.cid
    source = random.Random(2)
    before = world.data_plane.forged
    for n in range(5000):
        where = NetworkPath(pack_address("198.51.100.9", 1024 + n % 60000), CLIENT.local) if n % 2 else CLIENT
        assert world.deliver_to_server(b"\x43" + identity + source.randbytes(source.choice((10, 30, 60, 1180))), where) == []
    assert world.data_plane.forged == before + 5000
    assert len(client.ask(request(7))) == 1
