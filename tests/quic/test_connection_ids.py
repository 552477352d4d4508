"""A server's connection IDs: slots of workers, QUIC-LB, and who answers for an unknown one."""

import pytest

from tests.support.foreign import ForeignClient
from tests.support.messages import PLAIN_REQUEST
from tests.support.world import World
from tsq.errors import ConfigError
from tsq.quic.aioquic import internals
from tsq.quic.connection_ids import ConnectionIds
from tsq.quic.quic_lb import UNROUTABLE, QuicLb

LB = QuicLb(2, b"\x01\x02\x03", 4, bytes(range(16)))
MANY = 300


@pytest.mark.parametrize(("slot", "slots"), [(0, 1), (0, 2), (1, 2), (3, 8), (31, 32), (7, 12)])
@pytest.mark.parametrize("lb", [None, LB])
def test_the_low_bits_of_the_first_octet_say_the_slot(slot, slots, lb):
    ids = ConnectionIds(slot=slot, slots=slots, quic_lb=lb)
    made = [ids.new() for _ in range(MANY)] + [ids.transient() for _ in range(MANY)]
    assert {len(one) for one in made} == {8}
    assert {(one[0] & 31) % slots for one in made} == {slot}
    assert {ids.slot_of(one) for one in made} == {slot}
    # All values that mean this slot occur.
    assert {one[0] & 31 for one in made} == set(range(slot, 32, slots))


def test_more_than_32_slots_take_the_whole_octet():
    ids = ConnectionIds(slot=77, slots=100)
    assert {ids.new()[0] for _ in range(MANY)} == {77, 177}


def test_without_workers_and_quic_lb_all_octets_are_random():
    made = [ConnectionIds().new() for _ in range(20_000)]
    assert all(len({one[place] for one in made}) == 256 for place in range(8))


def test_with_quic_lb_each_one_is_of_this_server_and_no_nonce_occurs_twice():
    first, second = (ConnectionIds(slot=slot, slots=2, quic_lb=LB) for slot in (0, 1))
    made = [ids.new() for ids in (first, second) for _ in range(MANY)]
    assert {LB.decode(one) for one in made} == {b"\x01\x02\x03"}
    # Under one key, the octets after the first are a permutation of the nonce.
    assert len({one[1:] for one in made}) == 2 * MANY


def test_when_nonces_are_used_up_connection_ids_are_unroutable_and_random(monkeypatch):
    ids = ConnectionIds(slot=1, slots=3, quic_lb=QuicLb(2, b"\x01\x02\x03", 4))
    # All nonces but three are used.
    ids._used = ids._nonces - 3
    made = [ids.new() for _ in range(MANY)]
    assert [one[0] >> 5 for one in made] == [2] * 3 + [UNROUTABLE] * (MANY - 3)
    assert {ids.slot_of(one) for one in made} == {1}
    assert len({one[1:] for one in made}) == MANY


def test_nonces_of_all_workers_are_all_different_until_the_last():
    """A small nonce cannot be configured, so the count is cut down instead."""
    seen = []
    for slot in range(3):
        ids = ConnectionIds(slot=slot, slots=3, quic_lb=QuicLb(0, b"\x01\x02\x03", 4))
        ids._nonces, ids._start = 50, 17 * slot
        made = [ids.new() for _ in range(60)]
        seen += [int.from_bytes(one[4:]) for one in made if one[0] >> 5 == 0]
    assert sorted(seen) == list(range(150))


def test_a_retry_takes_no_nonce():
    ids = ConnectionIds(quic_lb=LB)
    assert {ids.transient()[0] >> 5 for _ in range(MANY)} == {UNROUTABLE}
    assert ids._used == 0


@pytest.mark.parametrize("lb", [None, LB])
def test_a_worker_answers_for_its_own_connection_ids_and_for_those_of_no_worker(lb):
    one, two = (ConnectionIds(slot=slot, slots=2, quic_lb=lb) for slot in (0, 1))
    theirs = [two.new() for _ in range(MANY)]
    assert all(one.answers_for(one.new()) and two.answers_for(two.new()) for _ in range(MANY))
    assert not any(one.answers_for(item) for item in theirs)
    one.answered.add(1)
    assert all(one.answers_for(item) for item in theirs)


def test_no_server_answers_for_another_of_the_fleet():
    ours, theirs = ConnectionIds(quic_lb=LB), ConnectionIds(quic_lb=QuicLb(2, b"\x01\x02\x04", 4, LB.key))
    assert not any(ours.answers_for(theirs.new()) for _ in range(MANY))
    assert not any(ours.answers_for(ConnectionIds(quic_lb=QuicLb(3, LB.server_id, 4, LB.key)).new()) for _ in range(MANY))
    assert ours.instance != theirs.instance


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"slot": 2, "slots": 2}, "slot 2 of 2 (expected at most 256 slots, counted from 0)"),
        ({"slot": -1}, "slot -1 of 1"),
        ({"slots": 257}, "at most 256 slots"),
        ({"slots": 33, "quic_lb": LB}, "at most 32 slots"),
        ({"quic_lb": QuicLb(0, b"abc", 5)}, "3 octets with a nonce of 5 (expected 7 octets in all, the nonce 4 to 6)"),
    ],
)
def test_what_does_not_fit_eight_octets_is_named(values, message):
    with pytest.raises(ConfigError) as caught:
        ConnectionIds(**values)
    assert message in str(caught.value)


def test_all_connection_ids_of_a_connection_are_the_servers_with_tokens_of_its_key(certificates):
    """Also those that a client gets later, for the next path."""
    ids = ConnectionIds(slot=5, slots=8, quic_lb=LB)
    world = World(certificates, connection_ids=ids)
    client = ForeignClient(world)
    client.ask(PLAIN_REQUEST, seconds=1.0)
    connection = world.router.connections[0]
    issued = {client.quic._peer_cid.cid: internals.peer_reset_token(client.quic)}
    issued |= {one.cid: one.stateless_reset_token for one in client.quic._peer_cid_available}
    assert len(issued) == 2
    assert all(LB.is_own(one) and ids.slot_of(one) == 5 for one in issued)
    assert {one: world.router._resets.token(one) for one in issued} == issued
    assert connection.quic.host_cid in issued
    client.quic.change_connection_id()
    client.ask(PLAIN_REQUEST, seconds=1.0)
    [fresh] = client.quic._peer_cid_available
    assert fresh.cid not in issued
    assert LB.is_own(fresh.cid)
    assert world.router._resets.token(fresh.cid) == fresh.stateless_reset_token


def test_a_connection_that_was_at_rest_gives_the_servers_connection_ids_too(certificates):
    ids = ConnectionIds(slot=5, slots=8, quic_lb=LB)
    world = World(certificates, connection_ids=ids, data_plane=True, rest_after=2.0)
    client = ForeignClient(world)
    client.ask(PLAIN_REQUEST, seconds=10.0)
    assert world.data_plane.resting == 1
    client.quic.change_connection_id()
    assert client.ask(PLAIN_REQUEST, seconds=1.0)
    assert world.counters.get("rebuilt") == 1
    [fresh] = client.quic._peer_cid_available
    assert LB.is_own(fresh.cid)
    assert ids.slot_of(fresh.cid) == 5
    assert world.router._resets.token(fresh.cid) == fresh.stateless_reset_token
