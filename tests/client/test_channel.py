"""A channel against a real service in virtual time: bad links, 0-RTT, Retry, and the end of patience."""

import random

import pytest

from tests.support.foreign import path
from tests.support.world import World
from tsq.errors import AlpnRefused, ConnectionLost, HandshakeTimeout
from tsq.quic.router import Limits, RetryPolicy
from tsq.quic.udp import NetworkPath
from tsq.timing.sample import Reason
from tsq.wire.message import Mode

MS = 1_000_000
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["datagram", "stream"])
RETRY = Limits(retry=RetryPolicy.ALWAYS)


def bad_link(seed, *, lost=0.0, doubled=0.0, spread_ms=0):
    """Delays of 1 ms and up to spread_ms more; a share of datagrams is lost, another comes twice."""
    rng = random.Random(seed)

    def delay() -> int:
        return MS + rng.randint(0, spread_ms * MS)

    def link(data: bytes, number: int) -> list[int]:
        del data, number
        if rng.random() < lost:
            return []
        return [delay(), delay()] if rng.random() < doubled else [delay()]

    return link


def bad_world(certificates, seed, **link):
    world = World(certificates)
    world.server_offset_ns = 123_456_789
    world.to_server, world.to_client = bad_link(seed, **link), bad_link(seed + 1000, **link)
    return world


def assert_true(sample):
    assert abs(sample.offset - 0.123456789) <= sample.root_distance


def ticket_from(world):
    """A ticket of a channel that is over."""
    tickets = []
    channel = world.channel(on_ticket=tickets.append)
    world.run(0.5)
    channel.close()
    world.pump(channel)
    world.run(10)
    assert world.router.connections == []
    return tickets[0]


# --------------------------------------------------------------------------------------------------------- bad links


@pytest.mark.parametrize("lost", [True, False])
def test_a_request_that_went_with_the_handshakes_last_flight_is_asked_again_where_it_was_lost(certificates, lost):
    world = World(certificates)
    channel = world.channel(timeout=10.0)
    world.run(0.0025)
    assert channel.established
    requests = []
    world.to_server = lambda data, number: requests.append(number) or ([] if lost and len(requests) == 1 else [MS])
    number = channel.ask(world.now)
    world.pump(channel)
    world.run(1.0)
    (outcome,) = channel.take()
    assert (outcome.number, outcome.sample.valid) == (number, True)
    world.run(5.0)
    assert channel.waiting == 0
    # Asked again only where it was lost.
    assert world.counters.get("requests", Mode.DATAGRAM) == 1


def test_a_request_that_is_lost_later_has_no_answer(certificates):
    world = World(certificates)
    channel = world.channel(timeout=2.0)
    world.run(0.5)
    world.to_server = lambda data, number: []
    channel.ask(world.now)
    world.pump(channel)
    world.run(3.0)
    assert [outcome.sample.reason for outcome in channel.take()] == [Reason.NO_ANSWER]


@STREAM
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "link",
    [{"lost": 0.15}, {"doubled": 0.5}, {"spread_ms": 40}, {"lost": 0.1, "doubled": 0.2, "spread_ms": 30}],
    ids=["loss", "duplication", "reordering", "all"],
)
def test_every_request_on_a_bad_link_gets_one_sample_that_is_true_or_has_a_reason(certificates, stream, seed, link):
    world = bad_world(certificates, seed, **link)
    channel = world.channel(stream=stream, timeout=10.0)
    world.run(10)
    assert channel.established
    for _ in range(20):
        world.ask(channel)
        world.run(0.02)
    world.run(12)
    assert len(channel.samples) == 20
    assert channel.waiting == 0
    for sample in channel.samples:
        if sample.valid:
            assert_true(sample)
        else:
            assert sample.reason is Reason.NO_ANSWER
    valid = sum(sample.valid for sample in channel.samples)
    # QUIC repeats what is lost on streams, and nothing of what is lost in DATAGRAM frames.
    assert valid == 20 if stream or "lost" not in link else valid >= 8


@pytest.mark.parametrize("seed", range(8))
@STREAM
def test_half_of_all_datagrams_lost_is_a_right_answer_or_a_clean_time_out(certificates, stream, seed):
    world = bad_world(certificates, seed, lost=0.5)
    channel = world.channel(stream=stream)
    world.run(4)
    if not channel.established:
        assert isinstance(channel.error, HandshakeTimeout)
        assert channel.deadline is None
        return
    for _ in range(5):
        world.exchange(channel, 4)
    assert channel.waiting == 0
    assert len(channel.samples) == 5
    for sample in channel.samples:
        if sample.valid:
            assert_true(sample)
        else:
            assert sample.reason in (Reason.NO_ANSWER, Reason.CONNECTION_LOST)


def test_requests_sent_together_are_answered_each(certificates):
    world = World(certificates)
    channel = world.channel()
    world.run(0.5)
    world.ask(channel, 8)
    world.run(1)
    assert len(channel.samples) == 8
    assert all(sample.valid for sample in channel.samples)
    assert {round(sample.delay, 9) for sample in channel.samples} == {0.002}


@pytest.mark.parametrize("count", [200, 400])
def test_more_requests_than_the_window_takes_never_wait_in_a_queue(certificates, count):
    world = World(certificates)
    channel = world.channel()
    world.run(0.5)
    world.ask(channel, count)
    world.run(4)
    assert len(channel.samples) == count
    assert channel.waiting == 0
    valid = [sample for sample in channel.samples if sample.valid]
    # The client asks anew what its window held back; the server drops the answers that its own does not admit.
    assert count - len(valid) == world.counters.get("unanswered", "congestion window or amplification limit")
    assert len(valid) > count / 2
    assert all(sample.delay < 0.003 for sample in valid)


# ------------------------------------------------------------------------------------------------------------- 0-RTT


def test_zero_rtt_gets_its_answer_with_the_first_flight(certificates):
    world = World(certificates)
    ticket = ticket_from(world)
    channel = world.channel(ticket=ticket)
    world.run(0.0025)
    (sample,) = channel.samples
    assert sample.valid
    assert sample.delay == 0.002
    world.run(1)
    assert channel.zero_rtt
    assert len(channel.samples) == 1
    assert world.counters.get("handshakes", "resumed") == 1


def test_no_request_goes_early_without_a_ticket(certificates):
    world = World(certificates)
    channel = world.channel()
    world.run(1)
    assert channel.early is None
    assert channel.samples == []
    assert world.counters.get("requests") == 0


def test_zero_rtt_that_is_refused_is_asked_again_by_itself(certificates):
    world = World(certificates)
    ticket = ticket_from(world)
    # A ticket is good once: the second time the server does not know it.
    assert world.channel(ticket=ticket)
    world.run(60)
    requests = world.counters.get("requests")
    channel = world.channel(ticket=ticket)
    world.run(2)
    assert channel.established
    assert not channel.zero_rtt
    assert [sample.valid for sample in channel.samples] == [True]
    assert channel.samples[0].delay == 0.002
    assert world.counters.get("requests") == requests + 1


def test_zero_rtt_to_a_server_that_started_anew_is_asked_again(certificates):
    ticket = ticket_from(World(certificates))
    session_world = World(certificates)
    channel = session_world.channel(ticket=ticket)
    session_world.run(2)
    assert not channel.zero_rtt
    assert [sample.valid for sample in channel.samples] == [True]


@pytest.mark.parametrize("number", range(4))
def test_zero_rtt_survives_the_loss_of_any_one_of_the_first_datagrams(certificates, number):
    for side in ("to_server", "to_client"):
        world = World(certificates)
        ticket = ticket_from(world)
        lost = []

        def link(data, index, lost=lost):
            del index
            lost.append(data)
            return [] if len(lost) == number + 1 else [MS]

        setattr(world, side, link)
        channel = world.channel(ticket=ticket)
        world.run(3.5)
        assert channel.established
        assert [sample.valid for sample in channel.samples] == [True], side
        assert channel.samples[0].delay < 0.003


def test_stream_mode_sends_nothing_early(certificates):
    world = World(certificates)
    ticket = ticket_from(world)
    channel = world.channel(ticket=ticket, stream=True)
    world.run(1)
    assert channel.early is None
    world.exchange(channel)
    assert channel.samples[0].valid


# ------------------------------------------------------------------------------------------------------------- Retry


@STREAM
def test_retry_without_a_ticket(certificates, stream):
    world = World(certificates, limits=RETRY)
    channel = world.channel(stream=stream)
    world.run(1)
    world.exchange(channel)
    assert channel.samples[0].valid
    assert world.counters.get("retries") == 1


def test_retry_with_a_ticket(certificates):
    world = World(certificates, limits=RETRY)
    ticket = ticket_from(world)
    assert world.counters.get("retries") == 1
    # From another address, the token that came with the ticket is worth nothing.
    channel = world.channel(ticket=ticket, path=path(1))
    world.run(2)
    assert world.counters.get("retries") == 2
    assert channel.established
    assert [sample.valid for sample in channel.samples] == [True]
    assert channel.samples[0].delay == 0.002


def test_with_the_token_of_an_earlier_connection_the_first_request_needs_no_retry(certificates):
    world = World(certificates, limits=RETRY)
    ticket = ticket_from(world)
    channel = world.channel(ticket=ticket)
    world.run(2)
    assert world.counters.get("retries") == 1
    assert channel.zero_rtt
    assert [sample.valid for sample in channel.samples] == [True]


def test_retry_begins_where_too_many_handshakes_are_open(certificates):
    world = World(certificates, limits=Limits(half_open=0))
    channel = world.channel()
    world.run(1)
    assert channel.established
    assert world.counters.get("retries") == 1


# ---------------------------------------------------------------------------------------------------------- time-outs


@STREAM
def test_silence_in_the_handshake_is_a_handshake_time_out(certificates, stream):
    world = World(certificates)
    world.to_server = lambda data, number: []
    channel = world.channel(stream=stream, timeout=2.0)
    world.run(1.9)
    assert channel.error is None
    world.run(0.2)
    assert isinstance(channel.error, HandshakeTimeout)
    assert channel.deadline is None


@STREAM
def test_a_request_without_an_answer_ends_at_its_time(certificates, stream):
    world = World(certificates)
    channel = world.channel(stream=stream, timeout=2.0)
    world.run(0.5)
    world.to_server = lambda data, number: []
    world.ask(channel)
    world.run(1.9)
    assert channel.samples == []
    assert channel.waiting == 1
    world.run(0.2)
    assert [sample.reason for sample in channel.samples] == [Reason.NO_ANSWER]
    assert channel.waiting == 0
    assert channel.error is None


def test_an_answer_after_its_time_is_ignored_and_the_next_is_taken(certificates):
    world = World(certificates)
    channel = world.channel(timeout=0.5)
    world.run(0.4)
    world.to_client = lambda data, number: [700 * MS]
    world.exchange(channel, 0.6)
    world.to_client = lambda data, number: [MS]
    world.exchange(channel, 0.6)
    assert [sample.reason for sample in channel.samples] == [Reason.NO_ANSWER, None]


@STREAM
def test_a_session_that_waits_goes_on_after_a_break(certificates, stream):
    world = World(certificates)
    channel = world.channel(stream=stream, timeout=1.0)
    world.run(0.5)
    world.to_server, good = (lambda data, number: []), world.to_server
    world.exchange(channel, 2)
    world.to_server = good
    world.exchange(channel, 2)
    assert [sample.reason for sample in channel.samples] == [Reason.NO_ANSWER, None]


@STREAM
@pytest.mark.parametrize("foreign", [True, False], ids=["foreign", "own"])
def test_what_anybody_can_send_does_not_make_a_silent_server_heard(certificates, stream, foreign):
    """Such as a stateless reset of another server of the fleet, to which a balancer sends the client's packets."""
    world = World(certificates)
    channel = world.channel(stream=stream, timeout=1.0)
    world.run(0.5)
    world.exchange(channel)
    sent = []
    world.to_server = lambda data, number: sent.append(data) or []
    world.ask(channel)
    world.run(0.1)
    (path,) = world._sessions
    junk = random.Random(1)
    for length in (21, 43, 100):
        # A short header with an unknown connection ID, or with this connection's and a payload that does not open.
        head = bytes([0x40]) + (junk.randbytes(8) if foreign else channel._connection.quic.host_cid)
        world._deliver_to_client(head + junk.randbytes(length - 9), NetworkPath(path.remote, path.local))
    world.run(1.1)
    assert [sample.reason for sample in channel.samples[-1:]] == [Reason.NO_ANSWER]
    assert channel.silent


@STREAM
def test_a_server_that_goes_away_ends_the_session(certificates, stream):
    world = World(certificates)
    channel = world.channel(stream=stream)
    world.run(0.5)
    world.to_server = lambda data, number: []
    world.ask(channel)
    (connection,) = world.router.connections
    for data, where in world.core.close_connection(connection, "going down", world.now):
        world._deliver_to_client(data, where)
    world.run(2.9)
    assert isinstance(channel.error, ConnectionLost)
    assert "going down" in str(channel.error)
    assert [sample.reason for sample in channel.samples] == [Reason.CONNECTION_LOST]
    assert channel.deadline is None


def test_a_server_that_refuses_is_told_from_one_that_is_silent_even_with_little_patience(certificates):
    world = World(certificates)
    world.router.configuration.alpn_protocols = ["h3"]
    channel = world.channel(timeout=0.5)
    world.run(1)
    assert isinstance(channel.error, AlpnRefused)


def test_a_connection_closed_by_the_client_leaves_nothing_at_the_server(certificates):
    world = World(certificates)
    channel = world.channel()
    world.run(0.5)
    assert len(world.router.connections) == 1
    channel.close()
    world.pump(channel)
    world.run(5)
    assert world.router.connections == []


@pytest.mark.parametrize(("stream", "mode"), [(False, Mode.DATAGRAM), (True, Mode.STREAM)])
def test_the_mode_is_the_one_that_was_chosen(certificates, stream, mode):
    world = World(certificates)
    channel = world.channel(stream=stream)
    world.run(0.5)
    world.exchange(channel)
    assert channel.mode is mode
    assert world.counters.get("requests", mode) == world.counters.get("requests") == 1
