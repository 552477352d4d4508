"""Sessions at rest in the data plane: from a record, everything goes on byte for byte as from a session that never rested."""

import pytest
from aioquic.quic.crypto import CryptoContext, derive_key_iv_hp, next_key_phase
from aioquic.tls import CipherSuite

from tests.dataplane.peer import PADDING, SUITES, Peer, ack, datagram, request
from tests.fuzz_rest import Twins
from tsq.dataplane.batches import BATCH, DataPlane
from tsq.dataplane.derivation import next_keys
from tsq.dataplane.records import BESIDE_SIZE, RECORD_SIZES
from tsq.errors import ConfigError

SPARE = b"server02"
VERSION_1, VERSION_2 = 0x00000001, 0x6B3343CF


def resting(suite: int = 0x1301, **options: object) -> Peer:
    """A peer whose session rests."""
    peer = Peer(suite, **options)
    peer.session.set_secrets(VERSION_1, bytes({0x1302: 48}.get(suite, 32)), bytes({0x1302: 48}.get(suite, 32)))
    peer.data_plane.rest(peer.session, (peer.id, SPARE), b"remains", 30.0, 1000.0)
    return peer


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("seed", range(6))
def test_records_and_sessions_answer_the_same_packets_with_the_same_bytes(suite, seed):
    Twins(suite, seed).run(400)


def test_a_record_costs_less_than_a_kibibyte_with_all_that_belongs_to_it():
    # Two entries of the table of connection IDs, which is from 40 to 80 per cent full.
    assert max(RECORD_SIZES) + BESIDE_SIZE + 2 * 16 / 0.4 < 1060
    assert RECORD_SIZES[0] + BESIDE_SIZE + 2 * 16 / 0.4 < 1024 * 0.9
    plane = DataPlane()
    before = plane.__sizeof__()
    for number in range(5000):
        peer = Peer(data_plane=plane, connection_id=b"A%07d" % number)
        plane.rest(peer.session, (peer.id, b"B%07d" % number), bytes(150), 30.0, 1000.0)
    assert plane.resting == 5000
    assert (plane.__sizeof__() - before) / 5000 <= 1024


def test_what_was_kept_comes_back_with_the_session():
    peer = resting()
    peer.ask(1)
    before = peer.packets[0].number
    session, ids, remains = peer.data_plane.wake(peer.id)
    assert (ids, remains) == ((peer.id, SPARE), b"remains")
    assert session.next_packet_number == before + 1
    assert (session.suite, session.version, session.phase, session.peer_id) == (0x1301, VERSION_1, 0, peer.peer_id)
    assert (session.path, session.secrets) == ((peer.remote, peer.local), (bytes(32), bytes(32)))
    assert (peer.data_plane.resting, len(peer.data_plane)) == (0, 1)
    assert peer.data_plane.wake(peer.id) is None
    # The session serves on.
    peer.session = session
    assert [packet.nonces for packet in peer.ask(2)] == [[2]]


def test_a_session_that_has_become_a_record_seals_nothing_any_more():
    peer = resting()
    assert peer.session.seal([request(1)], peer.now) is None
    assert peer.session.probe(peer.now) is None
    with pytest.raises(ConfigError, match="without keys"):
        peer.session.active = True


def test_a_packet_to_a_spare_connection_id_is_the_control_planes():
    peer = resting()
    peer.id = SPARE
    peer.give(datagram(request(1)))
    assert not peer.taken
    assert peer.data_plane.rests(SPARE, peer.now)


@pytest.mark.parametrize(("ids", "remains"), [
    ((), b""), ((b"short",), b""), ((b"12345678",) * 3, b""), ((b"12345678",), bytes(193)), (("12345678",), b""),
])
def test_what_fits_no_record_is_refused_and_changes_nothing(ids, remains):
    peer = Peer()
    with pytest.raises(ConfigError):
        peer.data_plane.rest(peer.session, ids, remains, 30.0, 1000.0)
    assert peer.data_plane.resting == 0
    assert [packet.nonces for packet in peer.ask(1)] == [[1]]


def test_a_session_whose_acknowledgments_aioquic_wants_does_not_rest():
    peer = Peer()
    peer.recover(1 << 20, defer=True)
    with pytest.raises(ConfigError):
        peer.data_plane.rest(peer.session, (peer.id,), b"", 30.0, 1000.0)


def test_far_more_records_than_states_are_all_answered_and_no_number_is_used_twice():
    plane = DataPlane(hot=128)
    peers = [Peer(seed=number, data_plane=plane, connection_id=b"many%04d" % number) for number in range(700)]
    for peer in peers:
        plane.rest(peer.session, (peer.id,), b"", 30.0, 1000.0)
    numbers: set[tuple[int, int]] = set()
    for round_ in range(4):
        for start in range(0, len(peers), BATCH):
            for peer in peers[start : start + BATCH]:
                [answer] = peer.deliver(peer.seal(ack(answer_of(peer)) + datagram(request(round_)) if round_ else
                                                  datagram(request(round_))))
                assert answer.nonces == [round_]
                assert (id(peer), answer.number) not in numbers
                numbers.add((id(peer), answer.number))
                peer.last = answer.number  # type: ignore[attr-defined]
    assert plane.resting == 700


def test_a_look_at_far_more_unacknowledged_answers_than_states_probes_each_of_their_clients():
    plane = DataPlane(hot=128)
    peers = [Peer(seed=number, data_plane=plane, connection_id=b"many%04d" % number) for number in range(700)]
    for peer in peers:
        plane.rest(peer.session, (peer.id,), b"", 30.0, 1000.0)
        assert len(peer.deliver(peer.seal(datagram(request(1))))) == 1
    now = peers[0].now
    # RFC 9002 §6.2: no earlier than the probe timeout.
    assert plane.sweep(now)[0] == []
    probes, _ = plane.sweep(now + 5)
    assert len({data for data, _, _ in probes}) == len(peers)
    assert plane.sweep(now + 5) == ([], [])


def answer_of(peer: Peer) -> int:
    return peer.last  # type: ignore[attr-defined]


def test_records_are_freed_and_used_again():
    plane = DataPlane()
    for _ in range(3):
        size = 0
        for number in range(3000):
            peer = Peer(data_plane=plane, connection_id=b"many%04d" % number)
            plane.rest(peer.session, (peer.id,), b"", 30.0, 1000.0)
            size = plane.__sizeof__()
        for number in range(3000):
            assert plane.wake(b"many%04d" % number) is not None
            plane.discard(b"many%04d" % number)
        assert (plane.resting, len(plane)) == (0, 0)
        assert plane.__sizeof__() < size / 2


def test_an_idle_record_is_unknown_from_its_deadline_on_and_freed_at_the_next_sweep():
    peer = resting()
    peer.give(PADDING)
    peer.now += 29.5
    assert peer.data_plane.sweep(peer.now)[1] == []
    assert peer.data_plane.resting == 1
    peer.now += 0.6
    peer.give(datagram(request(2)))
    assert not peer.taken
    peer.data_plane.sweep(peer.now + 1)
    assert (peer.data_plane.resting, peer.data_plane.timed_out) == (0, 1)


def test_a_record_near_a_limit_is_named_for_the_control_plane():
    peer = resting()
    peer.data_plane.key_update_after = 3
    for number in range(2):
        peer.ask(number)
    assert peer.data_plane.sweep(peer.now)[1] == []
    peer.ask(9)
    assert peer.data_plane.sweep(peer.now)[1] == [peer.id]


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("version", [VERSION_1, VERSION_2])
def test_the_next_keys_are_aioquics(suite, version):
    context = CryptoContext()
    secret = bytes(range(48 if suite == 0x1302 else 32))
    context.setup(cipher_suite=CipherSuite(suite), secret=secret, version=version)
    expected = next_key_phase(context)
    key, iv, _ = derive_key_iv_hp(cipher_suite=CipherSuite(suite), secret=expected.secret, version=version)
    assert next_keys(suite, version, secret) == (expected.secret, key, iv)


@pytest.mark.parametrize(("suite", "version", "size"), [(1, 1, 32), (0x1301, 3, 32), (0x1301, 1, 48), (0x1302, 1, 32)])
def test_secrets_of_another_size_are_refused(suite, version, size):
    with pytest.raises(ConfigError):
        next_keys(suite, version, bytes(size))


def test_the_oldest_record_ends_first():
    plane = DataPlane()
    peers = [Peer(data_plane=plane, connection_id=b"many%04d" % number) for number in range(10)]
    for peer in peers:
        plane.rest(peer.session, (peer.id,), b"", 30.0, 1000.0)
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    for seconds, number in enumerate(order):
        peers[number].now += 1.0 + seconds
        peers[number].give(PADDING)
    for number in order:
        assert plane.rests(peers[number].id, peers[number].now)
        assert plane.end_oldest()
        assert not plane.rests(peers[number].id, peers[number].now)
    assert not plane.end_oldest()
