"""What a request asked for is never lost with it: 0-RTT requests that were lost or refused, and questions that got no answer."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.cli.peers import Peer, honest
from tests.client.test_channel import MS, RETRY, ticket_from
from tests.support.processes import run_client
from tests.support.threads import ServerThread
from tests.support.world import START_NS, World
from tsq import ClientOptions, HostResult, Trust, connect, query_all, selection
from tsq.host.keepers.sync_state import HostClock, Keeper
from tsq.quic.router import Limits, RetryPolicy
from tsq.timing.selection import Unused
from tsq.wire.message import TimeSource

NOT_SYNCHRONIZED = (TimeSource(0, 1).tlv(),)
QUESTION = b"tsq.leap"


def world_of(certificates, **options) -> World:
    """Its server says that its clock is not synchronized."""
    return World(certificates, clock_info=NOT_SYNCHRONIZED, **options)


def assert_told(session) -> None:
    [sample] = session.samples
    assert sample.valid
    assert sample.server.stratum == 0
    assert not session.state_unknown


def test_after_a_retry_the_question_about_the_clock_is_asked_again(certificates):
    world = world_of(certificates, limits=RETRY)
    # Without a token, which would spare it the Retry.
    session = world.channel(ticket=replace(ticket_from(world), token=b""))
    world.run(2)
    assert_told(session)
    assert not session.zero_rtt


def test_after_a_refusal_the_question_about_the_clock_is_asked_again(certificates):
    ticket = ticket_from(World(certificates))
    world = world_of(certificates)
    session = world.channel(ticket=ticket)
    world.run(2)
    assert_told(session)
    assert not session.zero_rtt


@pytest.mark.parametrize("side", ["to_server", "to_client"])
@pytest.mark.parametrize("number", range(5))
def test_whichever_datagram_is_lost_the_question_is_answered_and_only_an_early_request_is_called_early(certificates, side, number):
    world = world_of(certificates)
    ticket = ticket_from(world)
    seen = []

    def link(data, index):
        del index
        seen.append(data)
        return [] if len(seen) == number + 1 else [MS]

    setattr(world, side, link)
    began_ns = world.now_ns
    session = world.channel(ticket=ticket)
    world.run(3.5)
    assert_told(session)
    assert began_ns > START_NS
    assert session.zero_rtt == (session.samples[0].t1_ns == began_ns)


@pytest.mark.parametrize("retry", [RetryPolicy.ALWAYS, RetryPolicy.NEVER])
def test_a_server_that_is_not_synchronized_is_refused_with_and_without_a_ticket(certificates, tmp_path, retry):
    nobody = HostClock(Keeper.NTPD_RS, ntpd_rs="/nonexistent")
    with ServerThread(["127.0.0.1:0"], certificates, host_clock=nobody, limits=Limits(retry=retry)) as server:
        arguments = (server.target, "--ca", server.ca, "--count", 1, "--session-file", tmp_path / "sessions", "-v")
        for early in (False, True):
            done = run_client(*arguments)
            assert done.returncode == 8, done.stderr
            assert "says that its clock is not synchronized" in done.stdout
            assert ("0-RTT" in done.stdout) == early


def test_the_asynchronous_client_counts_its_early_request_as_the_first_sample(server, tmp_path):
    options = ClientOptions(trust=Trust(ca_file=server.ca), session_file=str(tmp_path / "sessions"))

    async def use() -> HostResult:
        async with asyncio.timeout(60), connect(server.target, options) as client:
            result = await client.measure(count=3, interval=0)
            # The ticket for the next time comes one flight after the handshake.
            await client.sample()
            return result

    results = [asyncio.run(use()) for _ in range(2)]
    assert [(result.good, len(result.samples), result.zero_rtt) for result in results] == [(3, 3, False), (3, 3, True)]
    assert len({sample.t1_ns for result in results for sample in result.samples}) == 6


def test_an_early_answer_that_is_old_is_no_sample_of_a_later_call(server, tmp_path, monkeypatch):
    monkeypatch.setattr("tsq.client.asynchronous._EARLY_IS_FRESH", 0.0)
    options = ClientOptions(trust=Trust(ca_file=server.ca), session_file=str(tmp_path / "sessions"))

    async def use() -> None:
        async with asyncio.timeout(60), connect(server.target, options) as client:
            before = time.time_ns()
            await asyncio.sleep(0.01)
            assert (await client.sample()).t1_ns >= before
            await client.sample()

    for _ in range(2):
        asyncio.run(use())


# ---------------------------------------------------------------------------------------- questions that get no answer


def deaf_to_the_question(nonce: bytes, request: bytes, number: int) -> list[bytes]:
    """Answers all but the question about the clock."""
    return [] if QUESTION in request else honest(nonce, request, number)


# Seconds: long enough for a handshake on a busy machine.
WAIT = 1.5
ARGUMENTS = ("--count", 4, "--interval", 0, "--timeout", WAIT)


def test_a_server_that_never_answers_the_question_about_its_clock_is_not_used(certificates):
    with Peer(certificates, deaf_to_the_question) as peer:
        done = run_client(peer.target, "--ca", peer.ca, *ARGUMENTS)
    assert done.returncode == 8, done.stderr
    assert f"? {peer.target}: did not report whether its clock is synchronized" in done.stdout
    assert "No time: no source can be used" in done.stdout


def test_it_is_used_where_the_user_says_what_its_error_is(certificates):
    with Peer(certificates, deaf_to_the_question) as peer:
        done = run_client(peer.target, "--ca", peer.ca, *ARGUMENTS, "--server-error", 0.02)
    assert done.returncode == 0, done.stderr
    assert "server's own error unknown: 20.000 ms assumed" in done.stdout


def test_a_server_that_answers_the_question_with_nothing_is_used_with_an_assumed_error(certificates):
    with Peer(certificates) as peer:
        done = run_client(peer.target, "--ca", peer.ca, *ARGUMENTS)
    assert done.returncode == 0, done.stderr
    assert "server's own error unknown: 10.000 ms assumed" in done.stdout


def test_the_question_is_repeated_after_the_last_sample(certificates):
    """One request that makes no sample is enough where only the first question was lost."""
    asked = []

    def lose_the_first(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        asked.append(QUESTION in request)
        # It is sent again when the handshake is confirmed, because its packet may be lost.
        return [] if asked[-1] and asked.count(True) <= 2 else honest(nonce, request, number)

    options = ClientOptions(count=3, interval=0.0, timeout=WAIT, trust=Trust(ca_file=str(certificates.authority)))
    with Peer(certificates, lose_the_first) as peer:
        [result] = query_all([peer.target], options)
    assert asked.count(True) >= 3
    assert not result.state_unknown
    assert result.good == 2
    assert selection([result]).verdicts[0].unused is None


def test_the_library_says_that_the_state_is_unknown(certificates):
    options = ClientOptions(count=4, interval=0.0, timeout=WAIT, trust=Trust(ca_file=str(certificates.authority)))
    with Peer(certificates, deaf_to_the_question) as peer:
        [result] = query_all([peer.target], options)
    assert result.state_unknown
    assert result.unused is selection([result]).verdicts[0].unused is Unused.STATE_UNKNOWN


@pytest.mark.parametrize("later", ["silent", "answers the question"])
def test_a_question_that_was_left_unanswered_stays_so_on_the_next_connection(certificates, later):
    connections, answered = [], []

    def answer(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        if len(connections) > 1:
            return [] if later == "silent" else honest(nonce, request, number)
        if QUESTION in request:
            return []
        answered.append(number)
        if len(answered) > 2:
            connections[0].close()
            return []
        return honest(nonce, request, number)

    # More than can be under way at a time: some are left for the next connection.
    options = ClientOptions(count=20, interval=0.0, timeout=WAIT, trust=Trust(ca_file=str(certificates.authority)))
    with Peer(certificates, answer, greeting=connections.append) as peer:
        [result] = query_all([peer.target], options)
    assert len(connections) > 1
    assert result.good >= 1
    assert result.state_unknown is (later == "silent")


# --------------------------------------------------------------------------------------------------- version negotiation


@contextmanager
def negotiating(*versions: bytes) -> Iterator[str]:
    """Answers each datagram with Version Negotiation of these versions."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(0.1)
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                try:
                    data, peer = udp.recvfrom(65535)
                except TimeoutError:
                    continue
                size = data[5]
                theirs, rest = data[6 : 6 + size], data[6 + size :]
                own = rest[1 : 1 + rest[0]]
                head = b"\xc0" + bytes(4) + bytes([len(own)]) + own + bytes([size]) + theirs
                udp.sendto(head + b"".join(versions), peer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield "{}:{}".format(*udp.getsockname())
        finally:
            ended.set()
            thread.join(60)


def test_a_quic_server_without_version_1_speaks_no_tsq():
    with negotiating(bytes.fromhex("ff00001d"), bytes.fromhex("0a1a2a3a")) as target:
        done = run_client(target, "--insecure", "--timeout", 5, "--json")
    [host] = json.loads(done.stdout)["hosts"]
    assert (done.returncode, host["error_kind"]) == (7, "AlpnRefused")
    assert host["error"].startswith("the server does not speak TSQ: it has no QUIC version 1")
