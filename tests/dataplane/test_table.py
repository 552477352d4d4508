"""The table of sessions by connection ID, and which of them are due."""

import gc
import random
import sys
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.dataplane.peer import Peer, ack, datagram, request
from tsq.dataplane.batches import DataPlane
from tsq.dataplane.session import Session
from tsq.errors import ConfigError

# The place in the table comes from the first bytes: such IDs all want the same one, others its neighbours.
_SUFFIXES = st.binary(min_size=4, max_size=4)
COLLIDING = _SUFFIXES.map(lambda end: bytes(4) + end)
NEIGHBOURS = st.tuples(st.integers(0, 255), st.integers(0, 1)).map(lambda pair: bytes([pair[0], pair[1], 0, 0]) + bytes(4))
ANY = st.binary(min_size=8, max_size=8)
IDS = st.one_of(COLLIDING, NEIGHBOURS, ANY)


class Table:
    """The table beside a dict; each session's peer can tell whether it is served."""

    def __init__(self) -> None:
        self.data_plane = DataPlane()
        self.peers: dict[bytes, Peer] = {}
        self.gone: dict[bytes, Peer] = {}

    def add(self, connection_id: bytes) -> None:
        self.peers[connection_id] = Peer(data_plane=self.data_plane, connection_id=connection_id, seed=len(self.peers))
        self.gone.pop(connection_id, None)

    def discard(self, connection_id: bytes) -> None:
        self.data_plane.discard(connection_id)
        peer = self.peers.pop(connection_id, None)
        if peer is not None:
            self.gone[connection_id] = peer

    def check(self) -> None:
        assert len(self.data_plane) == len(self.peers)
        for peer in self.peers.values():
            [packet] = peer.ask(1)
            assert packet.nonces == [1]
            peer.give(ack(packet.number))
        for peer in self.gone.values():
            assert peer.ask(1) == []
            assert not peer.taken


class TableMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = Table()

    @rule(connection_id=IDS)
    def add(self, connection_id: bytes) -> None:
        self.table.add(connection_id)

    @rule(connection_id=IDS)
    def discard_any(self, connection_id: bytes) -> None:
        self.table.discard(connection_id)

    @rule(choice=st.integers(0, 1 << 20))
    def discard_known(self, choice: int) -> None:
        if self.table.peers:
            self.table.discard(sorted(self.table.peers)[choice % len(self.table.peers)])

    @invariant()
    def as_the_dict(self) -> None:
        self.table.check()


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@given(ids=st.lists(COLLIDING, unique=True, min_size=10, max_size=31), order=st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_ids_that_want_the_same_place_are_told_apart_while_others_leave(ids, order):
    table = Table()
    for connection_id in ids:
        table.add(connection_id)
    for connection_id in order.sample(ids, len(ids) // 2):
        table.discard(connection_id)
        table.check()


@pytest.mark.parametrize("kind", ["any", "colliding", "at the end of the table"])
def test_thousands_of_ids_are_found_while_the_table_grows_and_empties(kind):
    rng = random.Random(7)
    make = {
        "any": lambda: rng.randbytes(8),
        "colliding": lambda: bytes([5, 0]) + rng.randbytes(6),
        "at the end of the table": lambda: b"\xff\xff" + rng.randbytes(6),
    }[kind]
    data_plane = DataPlane()
    probe = Peer(data_plane=data_plane)
    # One session under many IDs: what is found is found by its ID.
    ids = list({make(): None for _ in range(3000)})
    known: set[bytes] = {probe.id}
    for number, connection_id in enumerate(ids):
        data_plane.add(connection_id, probe.session)
        known.add(connection_id)
        if number % 3 == 2:
            leaving = ids[rng.randrange(number)]
            data_plane.discard(leaving)
            known.discard(leaving)
        assert len(data_plane) == len(known)
    for connection_id in [*ids, *(make() for _ in range(300))]:
        probe.id = connection_id
        probe.give(b"\x00")
        assert probe.taken is (connection_id in known)
    for connection_id in known:
        data_plane.discard(connection_id)
    assert len(data_plane) == 0
    for connection_id in ids[:200]:
        probe.id = connection_id
        probe.give(b"\x00")
        assert not probe.taken


def test_an_unknown_id_may_be_discarded():
    data_plane = DataPlane()
    for connection_id in (b"12345678", b"", b"short", bytes(20)):
        data_plane.discard(connection_id)
    assert len(data_plane) == 0


@pytest.mark.parametrize("connection_id", [b"", b"1234567", b"123456789", bytes(20)])
def test_ids_of_another_length_are_refused(connection_id):
    with pytest.raises(ConfigError):
        DataPlane().add(connection_id, Session())


def test_other_types_are_refused():
    data_plane = DataPlane()
    with pytest.raises(TypeError):
        data_plane.add(None, Session())
    with pytest.raises(TypeError):
        data_plane.add(b"12345678", None)
    with pytest.raises(TypeError):
        data_plane.add(b"12345678", object())
    with pytest.raises(TypeError):
        data_plane.discard(None)
    with pytest.raises(TypeError):
        data_plane.process(None, 0.0, 0)
    with pytest.raises(TypeError):
        data_plane.process([(None, b"", b"", 0, True)], 0.0, 0)


def test_an_id_that_is_given_again_belongs_to_the_new_session():
    data_plane = DataPlane()
    old, new = Peer(data_plane=data_plane, seed=1), Peer(data_plane=data_plane, seed=2)
    assert len(data_plane) == 1
    assert old.ask(1) == []
    assert old.taken
    assert new.ask(1)


def test_a_session_may_have_several_ids():
    peer = Peer()
    peer.data_plane.add(b"another!", peer.session)
    for connection_id in (b"another!", b"server01"):
        peer.id = connection_id
        assert peer.ask(1)
    peer.data_plane.discard(b"server01")
    peer.id = b"another!"
    assert peer.ask(1)
    peer.id = b"server01"
    assert peer.ask(1) == []
    assert not peer.taken


def test_the_table_keeps_its_sessions_alive_and_lets_discarded_ones_go():
    data_plane = DataPlane()
    peer = Peer(data_plane=data_plane)
    packet = peer.seal(datagram(request(1)))
    item = (packet, peer.remote, peer.local, peer.clock_ns, True)
    alive = weakref.ref(peer)
    del peer
    gc.collect()
    assert alive() is None
    assert len(data_plane.process([item], 0.0, item[3])[0]) == 1
    data_plane.discard(b"server01")
    assert data_plane.process([item], 0.0, item[3]) == ([], [item])


# ------------------------------------------------------------------------------------------------------------------ due

def test_who_acknowledges_is_not_due():
    peer = Peer(probe_timeout=0.3)
    [packet] = peer.ask(1)
    peer.give(ack(packet.number))
    assert peer.data_plane.due(peer.now + 100) == []


def test_an_answer_older_than_the_probe_timeout_is_due():
    peer = Peer(probe_timeout=0.25)
    peer.ask(1)
    peer.now += 0.125
    peer.ask(2)
    assert peer.data_plane.due(peer.now) == []
    # The oldest counts.
    assert peer.data_plane.due(peer.now + 0.124) == []
    assert peer.data_plane.due(peer.now + 0.125) == [peer.session]


def test_who_was_probed_is_not_due_again():
    peer = Peer(probe_timeout=0.25)
    peer.ask(1)
    assert peer.data_plane.due(peer.now + 1) == [peer.session]
    # aioquic has a PING in flight: acknowledgments are its own until that is acknowledged.
    peer.recover(1 << 20, 0.1, 0.25, defer=True)
    assert peer.data_plane.due(peer.now + 100) == []
    peer.recover(1 << 20, 0.1, 0.25, defer=False)
    assert peer.data_plane.due(peer.now + 100) == [peer.session]


def test_who_was_sent_acknowledgments_alone_is_not_due():
    peer = Peer(window=0)
    for n in range(5):
        [packet] = peer.ask(n)
        assert not packet.messages
    assert peer.data_plane.due(peer.now + 100) == []


def test_used_up_keys_are_due_until_they_are_updated():
    peer = Peer()
    peer.data_plane.key_update_after = 3
    for n in range(2):
        peer.ask(n)
        peer.give(ack(n))
    assert peer.data_plane.due(peer.now) == []
    peer.ask(2)
    peer.give(ack(2))
    assert peer.data_plane.due(peer.now) == [peer.session]
    peer.update_keys()
    assert peer.data_plane.due(peer.now) == []


def test_too_many_packets_that_do_not_open_are_due():
    peer = Peer()
    peer.data_plane.failed_open_limit = 2
    data = peer.seal(datagram(request(1)))
    for _ in range(2):
        assert peer.data_plane.due(peer.now) == []
        peer.deliver(data[:-1] + bytes([data[-1] ^ 1]))
    assert peer.data_plane.due(peer.now) == [peer.session]
    # A key update does not forgive them.
    peer.update_keys()
    assert peer.data_plane.due(peer.now) == [peer.session]


def test_the_limits_are_those_of_rfc_9001():
    data_plane = DataPlane()
    assert data_plane.key_update_after < 1 << 23
    # AES-GCM may fail 2^52 times, ChaCha20-Poly1305 2^36 times.
    assert data_plane.failed_open_limit <= 1 << 36


def test_of_many_sessions_those_that_are_due_are_named():
    data_plane = DataPlane()
    peers = [Peer(data_plane=data_plane, connection_id=n.to_bytes(8, "big"), seed=n) for n in range(200)]
    for n, peer in enumerate(peers):
        if n % 3 == 0:
            peer.ask(1)
    assert set(data_plane.due(1001.0)) == {peer.session for peer in peers[::3]}
    data_plane.discard(peers[0].id)
    assert set(data_plane.due(1001.0)) == {peer.session for peer in peers[3::3]}


def test_sessions_that_come_and_go_do_not_make_the_table_larger():
    data_plane, session = DataPlane(), Session()
    size = sys.getsizeof(data_plane)
    for number in range(1000):
        data_plane.add(number.to_bytes(8, "big"), session)
        data_plane.discard(number.to_bytes(8, "big"))
    assert sys.getsizeof(data_plane) == size
    for number in range(1000):
        data_plane.add(number.to_bytes(8, "big"), session)
    assert sys.getsizeof(data_plane) > size
