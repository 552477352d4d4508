"""The client's end on the data plane, in virtual time, and what both planes owe each other."""

import pytest

from tests.dataplane.arena import Arena
from tests.support.world import World
from tsq.quic.udp import Datagram


def served(certificates, **options) -> tuple[World, object]:
    """A world whose client has asked three times: the data plane serves both ends."""
    world = World(certificates, data_plane=True)
    session = world.channel(**options)
    world.run(1)
    for _ in range(3):
        world.exchange(session)
    assert session._connection.plane.active
    assert world.data_plane.taken
    return world, session


def valid(session) -> int:
    return sum(sample.valid for sample in session.samples)


def test_an_answer_is_acknowledged_once(certificates):
    world, session = served(certificates)
    for _ in range(5):
        before = len(world.sent)
        world.exchange(session)
        # Request, answer, and one acknowledgment that found nothing to travel with.
        assert [side for side, _ in world.sent[before:]] == ["client", "server", "client"]


def test_an_acknowledgment_travels_with_the_next_request(certificates):
    world, session = served(certificates)
    before = len(world.sent)
    for _ in range(5):
        world.exchange(session, 0.01)
    assert [side for side, _ in world.sent[before:]] == ["client", "server"] * 5


def test_an_acknowledgment_leaves_at_once_where_no_request_follows(certificates):
    world, session = served(certificates)
    world.exchange(session, 0.003)
    connection = session._connection
    assert connection.timer > world.now
    assert connection.acknowledge_soon()
    assert connection.timer <= world.now
    before = len(world.sent)
    world.pump(session)
    assert [side for side, _ in world.sent[before:]] == ["client"]
    assert not connection.acknowledge_soon()
    # The next one waits again.
    world.exchange(session, 0.003)
    assert connection.timer > world.now


def test_what_the_data_plane_has_not_acknowledged_is_acknowledged_by_the_control_plane_at_once(certificates):
    world, session = served(certificates)
    # The answer has come, and its acknowledgment waits for something to travel with.
    world.exchange(session, 0.003)
    connection = session._connection
    assert connection.plane.waits_to_acknowledge is not None
    connection.take_back()
    assert len(connection.flush(world.now)) == 1


def test_the_timer_is_aioquic_s_and_the_data_plane_s(certificates):
    """What aioquic waits for is asked for once while the data plane serves; the idle time-out moves with each packet."""
    world, session = served(certificates)
    connection = session._connection
    for wait in (0.003, 0.5, 7.0, 0.001):
        world.exchange(session, wait)
        plane, since = connection.plane, connection.plane.waits_to_acknowledge
        assert plane.active
        times = [connection.quic.get_timer(), plane.probe_at, None if since is None else since + 0.02]
        assert connection.timer == pytest.approx(min(time for time in times if time is not None), abs=1e-9)
    connection.take_back()
    assert connection.timer == connection.quic.get_timer()


def test_a_client_whose_ring_filled_while_the_network_was_down_goes_on(certificates):
    world, session = served(certificates, timeout=0.5)
    up, world.to_server = world.to_server, lambda data, number: []
    for _ in range(40):
        world.exchange(session, 0.05)
    world.to_server = up
    world.run(5)
    before = valid(session)
    for _ in range(5):
        world.exchange(session)
    assert valid(session) == before + 5
    assert session.error is None


def test_a_request_that_makes_no_sample_is_not_asked_anew_when_it_was_held_back(certificates, monkeypatch):
    world, session = served(certificates)
    before = len(session.samples)
    with monkeypatch.context() as full:
        full.setattr(session._connection.plane, "seal", lambda *_, **__: None)
        session.ask(world.now, counted=False)
        world.pump(session)
        # One that counts is.
        session.ask(world.now)
        world.pump(session)
    assert not session.warming
    world.run(1)
    assert len(session.samples) == before + 1
    assert session.waiting == 0


def test_a_request_shortly_before_the_idle_deadline_keeps_the_connection(certificates):
    world = World(certificates, data_plane=True)
    world.to_server = world.to_client = lambda data, number: [50_000_000]
    session = world.channel()
    world.run(2)
    for _ in range(3):
        world.exchange(session)
    world.run(session._connection.quic._close_at - world.now - 0.02)
    before = valid(session)
    world.exchange(session, 3)
    assert valid(session) == before + 1
    assert session.error is None


def test_a_silent_server_is_noticed_all_the_same(certificates):
    world, session = served(certificates)
    world.to_client = lambda data, number: []
    world.run(40)
    assert session.error is not None
    assert "silent" in str(session.error)


@pytest.mark.parametrize("data_plane", [False, True])
@pytest.mark.parametrize("count", [16, 17, 28, 50])
def test_many_requests_in_one_packet_are_answered_in_as_many_packets_as_it_takes(certificates, count, data_plane):
    arena = Arena(1, certificates, lossy=False, data_plane=data_plane)
    arena.establish()
    arena.ask(1)
    arena.settle()
    before = len(arena.answers)
    arena.ask(count)
    arena.settle()
    assert len(arena.answers) - before == count


def test_an_answer_too_large_for_the_data_plane_goes_through_aioquic(certificates):
    world, session = served(certificates)
    session.exchange.rules = type(session.exchange.rules)(precision_size=1090, exact=False)
    world.exchange(session)
    assert session.samples[-1].valid
    assert session.exchange.last_response.precision


def test_packets_of_aioquic_alone_are_forgotten_once_the_data_plane_saw_them_acknowledged(certificates):
    arena = Arena(2, certificates, lossy=False)
    arena.establish()
    for number in range(60):
        arena.client.send_ping(number)
        arena.ask(1)
        arena._client_turn()
        arena.now += 0.03
        arena._timers()
    arena.settle()
    spaces = arena.connection.quic._spaces
    assert max(len(space.sent_packets) for space in spaces.values()) < 10


def test_keys_are_updated_when_the_client_has_used_them_up(certificates, monkeypatch):
    monkeypatch.setattr("tsq.quic.aioquic.offload.KEY_UPDATE_AFTER", 20)
    world, session = served(certificates)
    keys = session._connection.quic._cryptos
    before = [pair.recv.secret for pair in keys.values()]
    for _ in range(40):
        world.exchange(session)
    assert [pair.recv.secret for pair in keys.values()] != before
    assert all(sample.valid for sample in session.samples)
    assert session._connection.plane.active


def test_what_is_not_for_the_data_plane_reaches_the_control_plane(certificates):
    world, session = served(certificates)
    [connection] = world.router.connections
    connection.take_back()
    connection.quic.send_ping(7)
    out = connection.flush(world.now)
    connection.hand_over(world.now)
    for data, path in out:
        session.receive(Datagram(data, path, world.now_ns, True), world.now)
    world.pump(session)
    world.run(1)
    assert connection.quic._loss.bytes_in_flight == 0
    world.exchange(session)
    assert session.samples[-1].valid
