"""An attacker on the path can drop packets, and nothing else (R10)."""

import pytest

from tests.support.foreign import ForeignClient, path
from tests.support.messages import NONCE, PLAIN_REQUEST
from tests.support.world import CLIENT, World

OTHER = path(1)


class Tap:
    """An attacker on the path to the server, who records datagrams. lose: they do not arrive."""

    def __init__(self, world: World, *, lose: bool) -> None:
        self.taken: list[bytes] = []
        self._delays = [] if lose else [1_000_000]
        world.to_server = self

    def __call__(self, data: bytes, number: int) -> list[int]:
        del number
        self.taken.append(data)
        return self._delays


@pytest.fixture
def world(certificates):
    return World(certificates)


def tickets_of(world) -> list:
    tickets: list = []
    session = world.channel(on_ticket=tickets.append)
    world.run(0.5)
    world.exchange(session)
    session.close()
    world.pump(session)
    world.run(10)
    assert world.router.connections == []
    return tickets


@pytest.mark.draft("2-2", "6.3.2-44")
def test_R10_a_flipped_bit_anywhere_in_a_datagram_yields_no_answer(world):
    client = ForeignClient(world)
    tap = Tap(world, lose=True)
    assert client.ask(PLAIN_REQUEST) == []
    packet = next(data for data in tap.taken if len(data) > 18 + 16)
    assert NONCE not in packet
    for bit in range(8 * len(packet)):
        flipped = bytearray(packet)
        flipped[bit // 8] ^= 1 << bit % 8
        # With a changed connection ID, the server sends a stateless reset, whose token is not that of this connection.
        answers = world.deliver_to_server(bytes(flipped))
        assert len(answers) == (8 <= bit < 72)
        assert all(len(answer) < len(packet) for answer in answers)
    assert world.counters.get("requests") == 0
    assert client.end is None
    # The original packet is still valid: the attempts changed nothing.
    assert len(world.deliver_to_server(packet)) == 1
    assert world.counters.get("answered") == 1


@pytest.mark.draft("5-1")
def test_R10_a_cut_or_extended_packet_yields_no_answer(world):
    client = ForeignClient(world)
    tap = Tap(world, lose=True)
    client.ask(PLAIN_REQUEST)
    packet = tap.taken[0]
    for size in range(len(packet)):
        assert world.deliver_to_server(packet[:size]) == []
    assert world.deliver_to_server(packet + b"\x00") == []
    assert world.counters.get("requests") == 0


@pytest.mark.draft("7-a", "7.1-1")
@pytest.mark.parametrize("where", [CLIENT, OTHER], ids=["same_address", "another_address"])
def test_R10_a_replayed_packet_gets_no_second_answer(world, where):
    client = ForeignClient(world)
    tap = Tap(world, lose=False)
    assert len(client.ask(PLAIN_REQUEST)) == 1
    request = tap.taken[0]
    for _ in range(3):
        assert world.deliver_to_server(request, where) == []
        world.run(0.2)
    assert world.counters.get("requests") == 1
    assert len(client.datagram_messages) == 1
    assert len(client.ask(PLAIN_REQUEST)) == 1


def test_R10_a_replayed_stream_request_gets_no_second_answer(world):
    client = ForeignClient(world)
    tap = Tap(world, lose=False)
    client.ask_stream(PLAIN_REQUEST)
    for packet in list(tap.taken):
        world.deliver_to_server(packet)
    world.run(1)
    assert world.counters.get("requests") == 1


@pytest.mark.draft("8-8")
def test_R10_messages_are_not_on_the_wire_in_clear(world):
    session = world.channel()
    world.run(0.5)
    for _ in range(3):
        world.exchange(session)
    wire = b"".join(data for _, data in world.sent)
    past = list(session.exchange._past)
    assert len(past) == 3
    assert not any(nonce in wire for nonce in past)


def test_R10_zero_rtt_first_flight_replayed_after_the_exchange_gets_no_second_answer(world):
    tickets = tickets_of(world)
    tap = Tap(world, lose=False)
    session = world.channel(ticket=tickets[0])
    flight = list(tap.taken)
    world.run(0.5)
    assert session.zero_rtt
    requests = world.counters.get("requests")
    session.close()
    world.pump(session)
    world.run(10)
    assert world.router.connections == []
    # A ticket is valid once: the server falls back to a full handshake, which the attacker cannot finish.
    for data in flight:
        world.deliver_to_server(data, OTHER)
    world.run(10)
    assert world.counters.get("requests") == requests
    assert world.router.connections == []
    fresh = ForeignClient(world, where=path(2))
    assert len(fresh.ask(PLAIN_REQUEST)) == 1


def test_R10_zero_rtt_first_flight_delivered_first_by_an_attacker_gives_only_sealed_answers(world):
    tickets = tickets_of(world)
    answered = world.counters.get("answered")
    tap = Tap(world, lose=True)
    session = world.channel(ticket=tickets[0])
    nonce = session.exchange.under_way[0]
    flight = list(tap.taken)
    replies = [reply for data in flight for reply in world.deliver_to_server(data, OTHER)]
    # The server answered, but only the owner of the ticket has the keys.
    assert world.counters.get("answered") == answered + 1
    assert replies
    assert nonce not in b"".join(replies)
    assert sum(map(len, replies)) <= 3 * sum(map(len, flight))
    # In the end the real client asks again, and another client still gets answers.
    tap._delays.append(1_000_000)
    world.run(10)
    late = ForeignClient(world, where=path(2))
    assert len(late.ask(PLAIN_REQUEST)) == 1


def test_R10_zero_rtt_first_flight_with_flipped_bits_leaves_no_connection(world):
    tickets = tickets_of(world)
    tap = Tap(world, lose=True)
    world.channel(ticket=tickets[0])
    first = tap.taken[0]
    before = world.counters.get("requests")
    for at in range(0, len(first), 37):
        flipped = bytearray(first)
        flipped[at] ^= 0x20
        world.deliver_to_server(bytes(flipped), path(100 + at))
    world.run(60)
    # Each changed datagram has one broken packet of two: at most an intact Initial uses up the ticket.
    assert world.counters.get("requests") <= before + 1
    assert world.router.connections == []
