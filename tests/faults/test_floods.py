"""Floods of strangers on a server with a data plane, in virtual time: what they cost and get, and what its clients notice."""

import random
import sys

import pytest
from aioquic.quic.packet import QuicErrorCode

from tests.support.crafted import Stranger, crypto
from tests.support.foreign import ForeignClient, path
from tests.support.messages import PLAIN_REQUEST
from tests.support.world import World
from tsq._fast import pack_address
from tsq.errors import ConnectionLost
from tsq.quic.limits import Limits, RetryPolicy
from tsq.quic.router import Drop
from tsq.quic.udp import NetworkPath

CONNECTED = path(2)
HELLO = crypto(0, b"\x01")


def from_network(number: int) -> NetworkPath:
    return NetworkPath(pack_address(f"10.{number // 250 % 250}.{number % 250}.1", 4000), CONNECTED.local)


def connected(world) -> ForeignClient:
    """A client that the data plane serves."""
    client = ForeignClient(world, where=CONNECTED)
    for _ in range(2):
        assert len(client.ask(PLAIN_REQUEST)) == 1
    world.run(1)
    return client


def valid(number: int) -> bytes:
    return Stranger(number.to_bytes(8, "big")).initial(HELLO)


def undecryptable(number: int) -> bytes:
    return b"\xc3\0\0\0\x01\x08" + number.to_bytes(8, "big") + b"\x08source..\0\x44\x96" + bytes(1200 - 25)


WHOLE = [valid(number) for number in range(40)]
FLOODS = {
    "valid": valid,
    "undecryptable": undecryptable,
    "replayed": lambda number: WHOLE[number % len(WHOLE)],
    "short headers": lambda number: b"\x40" + number.to_bytes(8, "big") + bytes(40),
    "unknown version": lambda number: b"\xc0\x1a\x2a\x3a\x4a\x08" + number.to_bytes(8, "big") + b"\0" + bytes(1190),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_1_5_in_a_flood_clients_are_answered_strangers_get_less_than_they_bring_and_memory_is_flat(certificates, kind):
    """5,000 datagrams a second, half a second long, from as many networks."""
    world = World(certificates, data_plane=True)
    client = connected(world)
    sent = got = asked = answered = 0
    sizes = set()
    begun = world.counters.get("handshakes")
    for number in range(2500):
        world.now_ns += 200_000
        data = FLOODS[kind](number)
        sent += len(data)
        replies = world.deliver_to_server(data, from_network(number))
        got += sum(map(len, replies))
        if number % 100 == 0:
            asked += 1
            answered += len(client.ask(PLAIN_REQUEST, seconds=0.003))
            sizes.add(sys.getsizeof(world.router.admission))
    assert answered >= 0.95 * asked
    # Amplification: below three before Retry is on (RFC 9000 §8.1), below one from then on and so in all.
    assert got <= sent
    # Some dozen handshakes before Retry is on, which cost a millisecond each; no more while it lasts.
    assert world.router.half_open <= 1.5 * world.router.limits.arrivals
    assert len(sizes) <= 2
    assert world.counters.get("handshakes") == begun
    # Over within a second of its end: a new client needs no Retry.
    world.run(1.0)
    before = world.counters.get("retries")
    assert ForeignClient(world, where=path(5)).established
    assert world.counters.get("retries") == before


@pytest.mark.parametrize(
    "data",
    [valid(1)[:1199], b"\xc0\x1a\x2a\x3a\x4a\x08eightbyt\0" + bytes(500), b"\xc0" + bytes(1300)],
    ids=["2 small Initial", "3 unknown version, small", "4 Version Negotiation"],
)
def test_2_3_4_there_is_no_reply_and_no_state(certificates, data):
    world = World(certificates, data_plane=True)
    for number in range(100):
        assert world.deliver_to_server(data, from_network(number)) == []
    assert world.router.connections == []
    assert world.router._by_id == {}
    assert world.data_plane.turned_away == 100


def test_5_a_network_that_floods_shuts_out_no_other_and_not_even_itself(certificates):
    world = World(certificates, data_plane=True, limits=Limits(arrivals=10_000, half_open=10_000))
    for number in range(400):
        world.deliver_to_server(undecryptable(number), path(number))
    before = world.counters.get("retries")
    assert before == 200
    assert ForeignClient(world, where=from_network(1)).established
    assert world.counters.get("retries") == before
    # A client in the flooded network: with one more round trip.
    for number in range(400, 450):
        world.deliver_to_server(undecryptable(number), path(number))
    before = world.counters.get("retries")
    assert ForeignClient(world, where=path(999)).established
    assert world.counters.get("retries") == before + 1


def test_6_a_client_with_a_bad_token_learns_of_it_at_once(certificates):
    world = World(certificates, data_plane=True, limits=Limits(retry=RetryPolicy.ALWAYS))
    client = ForeignClient(world, connect=False)
    client.quic.connect("the server", world.now)
    token = bytearray(world.router.admission.new_token(path(1).remote, world.now))
    token[0] = 0x52
    client.quic._peer_token = bytes(token)
    world.pump(client)
    world.run(3)
    assert not client.established
    assert client.end.error_code == QuicErrorCode.INVALID_TOKEN
    assert world.counters.get("dropped", Drop.INVALID_TOKEN) == 1


def test_7_whoever_sees_a_retry_token_begins_nothing_with_it(certificates):
    world = World(certificates, data_plane=True, limits=Limits(retry=RetryPolicy.ALWAYS))
    seen = []
    world.to_server = lambda data, number: seen.append(data) or [1_000_000]
    client = ForeignClient(world)
    assert client.established
    client.quic.close()
    world.pump(client)
    world.run(20)
    assert world.router.connections == []
    (second,) = [data for data in seen if client.quic._peer_token in data][:1]
    for _ in range(50):
        assert world.deliver_to_server(second, CONNECTED) == [] or world.router.connections == []
    assert world.router.connections == []
    assert world.counters.get("handshakes") == 1


def test_37_where_memory_is_short_new_clients_are_told_so_and_old_ones_stay(certificates):
    world = World(certificates, data_plane=True)
    client = connected(world)
    world.router.admission.set_memory(0.96)
    refused = world.channel(timeout=60.0)
    world.run(0.1)
    assert isinstance(refused.error, ConnectionLost)
    assert "memory is short" in str(refused.error)
    assert world.counters.get("dropped", Drop.MEMORY_SHORT) >= 1
    assert len(client.ask(PLAIN_REQUEST)) == 1
    world.router.admission.set_memory(0.5)
    assert ForeignClient(world, where=path(5)).established


@pytest.mark.parametrize("seed", range(3))
def test_a_mixture_of_everything_costs_the_router_nothing(certificates, seed):
    rng = random.Random(seed)
    world = World(certificates, data_plane=True, limits=Limits(retry=RetryPolicy.ALWAYS))
    client = connected(world)
    kinds = list(FLOODS.values())
    for number in range(1500):
        data = bytearray(rng.choice(kinds)(number))
        for _ in range(rng.randint(0, 3)):
            data[rng.randrange(min(len(data), 60))] = rng.randrange(256)
        world.now_ns += 1_000_000
        world.deliver_to_server(bytes(data), from_network(number))
    assert len(world.router.connections) == 1
    assert len(client.ask(PLAIN_REQUEST)) == 1
