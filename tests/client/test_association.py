"""The association and its poller in virtual time: every request has one outcome, whatever fails; connections are made again."""

import errno
from collections import deque
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.support.virtual_sockets import ADDRESS, Faults, Network, Sockets
from tests.support.world import World
from tsq.errors import (
    AlpnRefused,
    CertificateError,
    ConnectionLost,
    HandshakeTimeout,
    NameNotFound,
    NoAnswer,
    NothingListens,
    TSQError,
    Unreachable,
    rank,
)
from tsq.quic.limits import Limits, RetryPolicy
from tsq.quic.udp import Datagram, Transmission
from tsq.timing.local_clock import ClockReading
from tsq.timing.sample import Reason

MS = 1_000_000
SEEDS = range(25)
FAILED = {Reason.NO_ANSWER, Reason.NOT_SENT, Reason.CONNECTION_LOST}


def assert_true(sample) -> None:
    """Both ends read one clock, and the path is the same in both directions."""
    assert abs(sample.offset) <= sample.root_distance
    assert sample.delay < 0.5


def lossy(rng, chance):
    def link(data: bytes, number: int) -> list[int]:
        del data, number
        return [] if rng.random() < chance else [MS]

    return link


# ------------------------------------------------------------------------------------------------------ one outcome each


@pytest.mark.parametrize("stream", [False, True], ids=["datagram", "stream"])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_request_has_one_outcome_whatever_socket_call_fails(certificates, seed, stream):
    faults = Faults(seed)
    network = Network(Sockets(certificates), faults, count=40, interval=0.05, stream=stream)
    reported = []
    poller = network.poller(persistent=True, on_sample=reported.append)
    assert network.run(poller, until=network.world.now + 0.2)
    faults.send, faults.receive, faults.connect, faults.partly = 0.3, 0.1, 0.3, 0.2
    network.world.to_server = lossy(faults.random, 0.2)
    assert not network.run(poller, until=network.world.now + 300)
    assert faults.happened
    assert len(poller.samples) == len(reported) == 40
    for sample in poller.samples:
        if sample.valid:
            assert_true(sample)
        else:
            assert sample.reason in FAILED
            assert sample.detail
    # One that makes no sample may still be under way: the run has not waited for it, and it ends with the association.
    network.association.finish(network.world.now)
    assert network.association.waiting == 0
    assert len(poller.samples) == len(reported) == 40


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_that_may_end_early_has_an_outcome_for_all_that_it_asked(certificates, seed):
    faults = Faults(seed, send=0.1, receive=0.05, partly=0.1)
    network = Network(Sockets(certificates), faults, count=20, interval=0.05)
    poller = network.poller()
    network.world.to_client = lossy(faults.random, 0.2)
    assert not network.run(poller, until=network.world.now + 300)
    result = network.result(poller)
    if result.error is None and len(result.samples) < 20:
        assert any(notice.startswith(f"ended after {len(result.samples)} of 20 samples") for notice in result.notices)
    network.association.finish(network.world.now)
    assert network.association.waiting == 0
    for sample in result.samples:
        assert sample.reason in FAILED or sample.valid
        if sample.valid:
            assert_true(sample)


def test_a_request_that_could_not_be_sent_never_gets_a_later_transmit_timestamp_as_its_t1(certificates):
    world = World(certificates)
    channel = world.channel()
    world.run(0.5)
    first = channel.ask(world.now, at_ns=123)
    assert channel.datagrams(world.now)
    channel.not_sent("Network is down")
    assert not channel.has_leaving
    [outcome] = channel.take()
    assert (outcome.number, outcome.sample.t1_ns, outcome.sample.reason) == (first, 123, Reason.NOT_SENT)
    assert outcome.sample.detail == "Network is down"
    world.run(0.3)
    second = channel.ask(world.now)
    world.pump(channel)
    sent_ns = world.now_ns
    world.run(1)
    [outcome] = channel.take()
    assert (outcome.number, outcome.sample.t1_ns, outcome.sample.valid) == (second, sent_ns, True)


def test_a_step_between_the_failed_and_the_repeated_sending_of_a_stream_widens_its_sample(certificates):
    world = World(certificates)
    channel = world.channel(stream=True)
    world.run(0.5)
    channel.ask(world.now, at_ns=world.now_ns)
    assert channel.datagrams(world.now)
    channel.not_sent("Network is down", ClockReading(world.now_ns, 0, synchronized=True))
    world.pump(channel)
    receive = channel.receive
    # The clock was set back by 50 ms before the answer came.
    stepped = ClockReading(world.now_ns, -50_000_000, synchronized=True)
    channel.receive = lambda datagram, now: receive(datagram, now, stepped)
    world.run(2)
    [outcome] = channel.take()
    assert outcome.sample.valid
    assert outcome.sample.dispersion > 0.05


def test_a_batch_that_left_in_part_counts_as_sent(certificates):
    world = World(certificates)
    channel = world.channel()
    world.run(0.5)
    channel.ask(world.now)
    channel.datagrams(world.now)
    channel.sent(Transmission(1, world.now_ns, kernel=False))
    world.run(4)
    assert [outcome.sample.reason for outcome in channel.take()] == []
    channel.handle_timer(world.now)
    assert [outcome.sample.reason for outcome in channel.take()] == [Reason.NO_ANSWER]


def test_what_is_held_back_ends_at_its_time_even_if_it_never_left(certificates):
    world = World(certificates)
    channel = world.channel(timeout=1.0)
    world.run(0.5)
    world.to_server = lambda data, number: []
    for _ in range(300):
        channel.ask(world.now, at_ns=world.now_ns, patience=0.003)
    world.pump(channel)
    world.run(1.1)
    assert channel.waiting == 0
    reasons = [outcome.sample.reason for outcome in channel.take()]
    assert len(reasons) == 300
    assert set(reasons) == {Reason.NO_ANSWER, Reason.NOT_SENT}


def test_a_session_that_is_over_ends_a_request_at_once(certificates):
    world = World(certificates)
    channel = world.channel()
    world.run(0.5)
    channel.fail(ConnectionLost("gone"))
    number = channel.ask(world.now, at_ns=5)
    [outcome] = channel.take()
    assert (outcome.number, outcome.sample.reason, outcome.sample.detail) == (number, Reason.CONNECTION_LOST, "gone")


# ---------------------------------------------------------------------------------------------------------- connections


def running(certificates, *, persistent=True, **options):
    """A network whose poller has taken its first samples."""
    network = Network(Sockets(certificates), Faults(1), **{"count": 1000, "interval": 0.5, **options})
    poller = network.poller(persistent=persistent)
    assert network.run(poller, until=network.world.now + 2)
    assert len(poller.samples) >= 3
    assert all(sample.valid for sample in poller.samples)
    return network, poller


def lost(poller, since):
    return [sample for sample in poller.samples[since:] if not sample.valid]


def test_a_server_that_was_started_again_costs_one_sample(certificates):
    network, poller = running(certificates)
    before = len(poller.samples)
    # The new process knows nothing of the connection, and says so.
    for connection in list(network.world.router.connections):
        network.world.router.forget(connection)
    assert network.run(poller, until=network.world.now + 10)
    assert len(lost(poller, before)) <= 1
    assert poller.samples[-1].valid
    [notice] = network.association.notices
    assert notice.startswith("connected again once; the last time because ")


@pytest.mark.draft("9-1")
def test_a_path_that_died_is_left_for_another_one_after_one_time_out(certificates):
    network, poller = running(certificates)
    before = len(poller.samples)
    dead = set(network.world.sockets)
    deliver = network.transmit

    def transmit(data, path):
        if path not in dead:
            deliver(data, path)

    network.transmit = transmit
    assert network.run(poller, until=network.world.now + 10)
    # The time-out is a second, and a sample is taken twice a second.
    assert 1 <= len(lost(poller, before)) <= 4
    assert {sample.reason for sample in lost(poller, before)} == {Reason.NO_ANSWER}
    assert all(sample.valid for sample in poller.samples[-10:])
    assert "the server did not answer any more" in network.association.notices[-1]


def test_a_send_that_fails_makes_another_connection_at_once(certificates):
    network, poller = running(certificates)
    before = len(poller.samples)
    network.faults.send = 1.0
    assert network.run(poller, until=network.world.now + 0.6)
    network.faults.send = 0.0
    assert network.run(poller, until=network.world.now + 5)
    assert {sample.reason for sample in lost(poller, before)} == {Reason.NOT_SENT}
    assert len(lost(poller, before)) <= 3
    assert poller.samples[-1].valid


@pytest.mark.draft("6.6-6", "6.6-8", "6.6-9")
def test_while_the_network_is_down_each_poll_is_a_sample_and_attempts_become_rare(certificates):
    network, poller = running(certificates)
    before, opened = len(poller.samples), network.opened
    network.world.to_server = lambda data, number: []
    assert network.run(poller, until=network.world.now + 300)
    polls = len(poller.samples) - before
    # Two in a second while the connection stands; afterwards one for each attempt.
    assert 60 <= polls <= 600
    assert not any(sample.valid for sample in poller.samples[before + 2 :])
    assert network.opened - opened <= 50
    network.world.to_server = lambda data, number: [MS]
    assert network.run(poller, until=network.world.now + 25)
    assert poller.samples[-1].valid


def notices(poller):
    return list(poller.result(unheard=NoAnswer("no answer yet"), stopped=False).notices)


def test_while_a_run_goes_on_without_a_connection_a_notice_says_why(certificates):
    network, poller = running(certificates)
    network.world.to_server = lambda data, number: []
    assert network.run(poller, until=network.world.now + 60)
    assert notices(poller) == ["no connection at present: no answer to the QUIC handshake in 1 s"]
    network.world.to_server = lambda data, number: [MS]
    assert network.run(poller, until=network.world.now + 25)
    assert not any(notice.startswith("no connection at present") for notice in notices(poller))


def test_a_connection_that_idles_out_between_polls_costs_nothing_and_is_no_notice(certificates):
    network, poller = running(certificates)
    network.options = poller._options = network.options.__class__(timeout=1.0, count=1000, interval=100.0)
    poller._next_ask = network.world.now + 100
    before, opened = len(poller.samples), network.opened
    assert network.run(poller, until=network.world.now + 350)
    assert lost(poller, before) == []
    assert len(poller.samples) - before >= 3
    assert network.association.notices == []
    # Made for a poll, and not kept up in between.
    assert network.opened - opened == len(poller.samples) - before


def test_a_plain_run_goes_on_after_a_restart_and_gives_up_after_the_time_out(certificates):
    network, poller = running(certificates, persistent=False, count=10)
    for connection in list(network.world.router.connections):
        network.world.router.forget(connection)
    assert not network.run(poller, until=network.world.now + 60)
    assert len(poller.samples) == 10
    assert len(lost(poller, 0)) <= 1

    network, poller = running(certificates, persistent=False, count=10)
    network.association.channel.fail(ConnectionLost("it went away"))
    network.world.to_server = lambda data, number: []
    start = network.world.now
    assert not network.run(poller, until=start + 60)
    # What is left of the interval, and an attempt for each of two time-outs at the most.
    assert network.world.now - start <= 0.5 + 2 * 1.0 + 0.5
    result = network.result(poller)
    assert result.error is None
    assert f"ended after {len(poller.samples)} of 10 samples: it went away" in result.notices


def test_a_server_that_closes_every_connection_is_not_asked_without_end(certificates):
    network = Network(Sockets(certificates), Faults(1), count=1_000_000, interval=0.01)
    poller = network.poller(persistent=True)
    wait = network.turn

    def turn(deadline) -> None:
        if network.association.channel is not None:
            network.association.channel.fail(ConnectionLost("closed by the server"))
        wait(deadline)

    network.turn = turn
    assert network.run(poller, until=network.world.now + 300)
    assert 10 <= network.opened <= 50
    [notice] = network.association.notices
    assert notice.endswith("because closed by the server")


def test_addresses_are_looked_up_again_for_each_round_and_old_ones_serve_where_names_cannot_be_looked_up(certificates):
    network, poller = running(certificates)
    network.association.channel.fail(ConnectionLost("gone"))
    looked_up = []

    def look_up() -> None:
        if network.association.wants_addresses:
            looked_up.append(network.world.now)
            network.association.not_resolved(NameNotFound("no network"), network.world.now)

    network.look_up = look_up
    assert network.run(poller, until=network.world.now + 3)
    assert looked_up
    assert poller.samples[-1].valid


# --------------------------------------------------------------------------------------------------------------- errors


ERRORS = [
    CertificateError("c"), AlpnRefused("a"), ConnectionLost("l"), TSQError("t"), HandshakeTimeout("h"), NothingListens("n"),
    Unreachable("u"),
]  # fmt: skip


def test_when_a_server_parts_from_its_clients_another_address_comes_first_and_no_sample_is_lost(certificates):
    network = Network(Sockets(certificates), Faults(1), count=8, interval=1.0)
    tried = []
    other = (2, ("192.0.2.9", 443))
    network.look_up = lambda: network.association.wants_addresses and network.association.resolved(
        [ADDRESS, other], network.world.now
    )
    make = network.association._driver.open

    def opened(address, numbers):
        tried.append(address)
        return make(address, numbers)

    network.association._driver = replace(network.association._driver, open=opened)
    poller = network.poller(persistent=True)
    assert network.run(poller, until=network.world.now + 1.5)
    world = network.world
    for _ in range(2):
        [connection] = world.router.connections
        world._from_server(world.core.close_connection(connection, "server is draining", world.now), None)
        assert network.run(poller, until=world.now + 0.4)
        # Nobody asks just now, and all is well.
        assert network.association.channel is None
        assert not any("no connection" in one for one in notices(poller))
        assert network.run(poller, until=world.now + 1.6)
    assert not network.run(poller, until=world.now + 9)
    assert all(sample.valid for sample in poller.samples)
    assert len(poller.samples) == 8
    # The second one has parted, too: back to the first.
    assert tried == [ADDRESS, other, ADDRESS]
    assert "the server parted from its clients ('server is draining')" in notices(poller)[-1]


def refused(network, *numbers: int) -> None:
    """Nothing listens for the sockets with these numbers."""
    make = network.association._driver.open

    def opened(address, counter):
        attempt = make(address, counter)
        if network.opened in numbers:
            attempt.udp.send = attempt.udp.send_stamped = refuse
        return attempt

    def refuse(datagrams):
        raise OSError(errno.ECONNREFUSED, "Connection refused")

    network.association._driver = replace(network.association._driver, open=opened)


def test_where_nothing_listens_any_more_another_port_is_tried_in_the_same_round(certificates):
    """A balancer that goes by ports may still send those of one port to a server that is gone."""
    network, poller = running(certificates)
    refused(network, 2)
    before = len(poller.samples)
    network.association.channel.fail(ConnectionLost("closed by the server"))
    assert network.run(poller, until=network.world.now + 3)
    assert network.opened == 3
    assert lost(poller, before) == []


def test_a_server_that_is_gone_is_asked_from_two_ports_in_a_round(certificates):
    network, poller = running(certificates, persistent=False, count=8)
    refused(network, *range(2, 100))
    network.association.channel.fail(ConnectionLost("closed by the server"))
    opened: list[int] = []
    connect = network.association.connect

    def counted(now, **options) -> None:
        begins = not network.association.connecting
        connect(now, **options)
        if begins and network.association.connecting:
            opened.append(network.opened)

    network.association.connect = counted
    assert not network.run(poller, until=network.world.now + 60)
    assert len(opened) > 1
    assert all(later - earlier == 2 for earlier, later in pairwise([*opened, network.opened]))
    assert type(network.association.failure) is NothingListens


def test_where_nothing_has_ever_listened_one_port_is_enough(certificates):
    network = Network(Sockets(certificates), Faults(1), count=3)
    refused(network, *range(1, 100))
    poller = network.poller()
    assert not network.run(poller, until=network.world.now + 60)
    assert type(network.result(poller).error) is NothingListens
    assert network.opened == 1


def stalling(certificates, *, retry=False):
    """A network whose server forgets the first handshake when the first datagram of it is under way."""
    limits = Limits(retry=RetryPolicy.ALWAYS) if retry else None
    network = Network(Sockets(certificates, limits=limits), Faults(1), timeout=10.0, count=3, interval=4.0)
    router, first = network.world.router, []

    def to_client(data, number):
        if network.opened > 1:
            return [MS]
        first.append(data)
        for connection in router.connections:
            router.forget(connection)
        return [MS] if len(first) == 1 else []

    network.world.to_client = to_client
    return network


@pytest.mark.parametrize("retry", [False, True], ids=["complete for the client", "after a Retry"])
def test_40_a_handshake_that_the_server_has_lost_is_begun_again_in_time(certificates, retry):
    """As when its process is killed in the middle of it: no packet tells the client."""
    network = stalling(certificates, retry=retry)
    poller, begin = network.poller(), network.world.now
    assert not network.run(poller, until=begin + 14)
    # A request that went to the lost connection is lost, as soon as there is another one.
    assert [sample.reason for sample in poller.samples] == [None if retry else Reason.CONNECTION_LOST, None, None]
    assert network.opened == 2
    network.association.finish(network.world.now)
    assert not network.open_now


def test_a_handshake_that_stalls_is_begun_again_once_in_a_round(certificates):
    network = Network(Sockets(certificates, limits=Limits(retry=RetryPolicy.ALWAYS)), Faults(1), timeout=10.0, count=2)
    heard = set()

    def to_client(data, number):
        del data, number
        first = network.opened not in heard
        heard.add(network.opened)
        return [MS] if first else []

    network.world.to_client = to_client
    poller = network.poller(persistent=True)
    assert network.run(poller, until=network.world.now + 9.9)
    assert network.opened == 2


def test_a_handshake_of_which_nothing_came_is_not_begun_again(certificates):
    """Its own first packet is repeated: another one would be more load for a server that has none to spare."""
    network = Network(Sockets(certificates), Faults(1), timeout=10.0, count=2, interval=0.1)
    network.world.to_server = lambda data, number: []
    poller = network.poller(persistent=True)
    assert network.run(poller, until=network.world.now + 9.9)
    assert network.opened == 1


def test_of_several_addresses_the_error_that_says_most_is_reported_in_whatever_order_they_fail(certificates):
    assert sorted(ERRORS, key=rank) == ERRORS
    for order in (ERRORS, ERRORS[::-1], ERRORS[3:] + ERRORS[:3]):
        network = Network(Sockets(certificates), Faults(1))
        network.world.to_server = lambda data, number: []
        poller = network.poller()
        network.association.resolved([ADDRESS] * len(order), network.world.now)
        for error in order:
            while not network.association._candidates():
                network.run(poller, until=network.world.now + 0.001)
            network.association._candidates()[0].channel.fail(error)
            network.run(poller, until=network.world.now + 0.001)
        assert not network.run(poller, until=network.world.now + 5)
        assert network.result(poller).error is ERRORS[0]


# ---------------------------------------------------------------------------------------------------------------- floods


def test_a_flood_does_not_keep_the_deadlines_waiting(certificates):
    """Each datagram takes 4 ms of virtual time: a batch of 64 would be a quarter of a second late."""
    network, _ = running(certificates, timeout=1.0)
    (attempt,) = network.open_now
    clock = [network.world.now]

    def slow() -> float:
        clock[0] += 0.004
        return clock[0]

    attempt.udp.inbox += [attempt.udp.inbox[0] if attempt.udp.inbox else _junk(network)] * 64
    start = network.world.now
    attempt.readable(start, clock=slow)
    assert clock[0] - start <= 0.02
    assert len(attempt.backlog) >= 60
    # What is left is due at once.
    assert network.association.deadline(start) == start
    for _ in range(64):
        attempt.readable(clock[0], clock=slow)
    assert not attempt.backlog
    assert attempt.channel.error is None


def _junk(network):
    path = next(iter(network.world.sockets))
    return Datagram(b"\x40" + bytes(40), path, network.world.now_ns, True)


# ---------------------------------------------------------------------------------------------------------------- memory


def containers(root, seen=None, path="client"):
    """How many things every list, dict, set and deque holds that can be reached from TSQ's own objects."""
    seen = set() if seen is None else seen
    found = {}
    todo = [(path, root)]
    while todo:
        name, value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (dict, list, set, frozenset, tuple, deque, bytearray)):
            if not isinstance(value, tuple):
                found[name] = found.get(name, 0) + len(value)
            if isinstance(value, (list, tuple, deque)):
                todo += [(f"{name}[]", item) for item in value]
            elif isinstance(value, dict):
                todo += [(f"{name}[]", item) for item in value.values()]
        kind = type(value).__module__
        if kind.startswith(("tsq", "aioquic")):
            names = [*getattr(value, "__dict__", ()), *(n for c in type(value).__mro__ for n in getattr(c, "__slots__", ()))]
            todo += [(f"{name}.{n}", getattr(value, n, None)) for n in names]
    return found


def test_a_long_lived_client_holds_no_more_after_20000_exchanges(certificates):
    network = Network(Sockets(certificates), Faults(1), count=3)
    association = network.association
    association.connect(network.world.now)
    taken = 0

    def exchanges(number: int) -> None:
        nonlocal taken
        wanted = taken + number
        while taken < wanted:
            network.look_up()
            association.advance(network.world.now)
            if association.channel is not None and not association.waiting:
                association.ask(network.world.now)
                association.pump(network.world.now)
            for outcome in association.take():
                taken += not outcome.sample.exact
            network.turn(association.deadline(network.world.now))

    exchanges(1000)
    early = containers(association)
    exchanges(20_000)
    late = containers(association)
    grown = {name: (early.get(name, 0), size) for name, size in late.items() if size > early.get(name, 0) + 64}
    assert grown == {}
