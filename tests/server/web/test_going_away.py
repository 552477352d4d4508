"""HTTP/3 where the server goes: GOAWAY, requests that are under way, sessions; in virtual time, and a real process that drains."""

import asyncio
import signal
from collections.abc import Iterator

import pytest
from aioquic.buffer import Buffer
from aioquic.h3.connection import ErrorCode, FrameType, Setting, parse_settings
from aioquic.quic import events

from tests.server.web.test_limits import Pair, ended_with
from tests.support import h3
from tests.support.processes import ServerProcess
from tsq.quic.http3 import HttpLimits
from tsq.quic.udp import Datagram

REASON = "server is draining"
# The server's control stream: its first unidirectional one.
CONTROL = 3
ALL = (1 << 62) - 4
DRAIN_SESSION, CLOSE_SESSION = 0x78AE, 0x2843


@pytest.fixture
def pair(certificates) -> Pair:
    return Pair(certificates)


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) of frames or capsules."""
    buffer = Buffer(data=data)
    while not buffer.eof():
        kind = buffer.pull_uint_var()
        yield kind, buffer.pull_bytes(buffer.pull_uint_var())


def came(pair: Pair, stream_id: int) -> bytes:
    found = [event.data for event in pair.seen if isinstance(event, events.StreamDataReceived) and event.stream_id == stream_id]
    return b"".join(found)


def goaways(pair: Pair) -> list[int]:
    """The streams that the server's GOAWAY frames named."""
    data = came(pair, CONTROL)
    kinds = list(frames(data[1:]))
    assert kinds[0][0] == FrameType.SETTINGS
    assert Setting.MAX_FIELD_SECTION_SIZE in parse_settings(kinds[0][1])
    assert {kind for kind, _ in kinds[1:]} <= {FrameType.GOAWAY}
    return [Buffer(data=value).pull_uint_var() for _, value in kinds[1:]]


def capsules(pair: Pair, session: int) -> list[tuple[int, bytes]]:
    data = b"".join(value for kind, value in frames(came(pair, session)) if kind == FrameType.DATA)
    return list(frames(data))


def deliver(pair: Pair, datagrams) -> None:
    """Give the client what the server has sent."""
    for data, _ in datagrams:
        pair.quic.receive_datagram(data, ("127.0.0.1", 443), pair.now)
    pair._read()


def sent(pair: Pair):
    """Give the server what the client sends; what it answers does not arrive yet."""
    back = []
    for data, _ in pair.quic.datagrams_to_send(pair.now):
        back += pair.core.received(Datagram(data, pair.path, pair.clock_ns, kernel=True), pair.now).datagrams
    return back


def test_at_the_beginning_of_a_drain_clients_are_told_and_served_all_the_same(pair):
    session = pair.session()
    for _ in range(2):
        deliver(pair, pair.core.go_away(pair.server, pair.now).datagrams)
        pair.exchange()
    assert goaways(pair) == [ALL]
    assert capsules(pair, session) == [(DRAIN_SESSION, b"")]
    late = pair.request()
    pair.exchange()
    assert pair.answers[late] == 200
    pair.wait(30)
    assert pair.end is None


def test_a_request_that_is_under_way_is_answered_before_the_connection_is_closed(pair):
    session = pair.session()
    stream_id = pair.request()
    # The answer is lost, and so is the first word of the end.
    sent(pair)
    pair.core.let_go(pair.server, REASON, pair.now)
    assert stream_id not in pair.answers
    for _ in range(4):
        # The server sends again what is not acknowledged.
        pair.now += 0.4
        pair.exchange()
    assert pair.answers[stream_id] == 200
    assert goaways(pair) == [ALL, stream_id + 4]
    assert capsules(pair, session) == [(DRAIN_SESSION, b""), (CLOSE_SESSION, bytes(4) + REASON.encode())]
    ended_with(pair, ErrorCode.H3_NO_ERROR)
    assert pair.end[1] == REASON
    assert pair.router.count == 0
    assert pair.ledger.connections == pair.ledger.sending == 0


def test_a_request_that_crosses_the_goaway_is_rejected_so_that_it_may_be_sent_elsewhere(pair):
    first = pair.request()
    pair.exchange()
    goaway = pair.core.let_go(pair.server, REASON, pair.now).datagrams
    late = pair.request()
    rejected = sent(pair)
    deliver(pair, [*goaway, *rejected])
    pair.exchange()
    assert goaways(pair) == [ALL, first + 4]
    assert late >= first + 4
    [reset] = [event for event in pair.seen if isinstance(event, events.StreamReset)]
    assert (reset.stream_id, reset.error_code) == (late, ErrorCode.H3_REQUEST_REJECTED)
    assert late not in pair.answers
    ended_with(pair, ErrorCode.H3_NO_ERROR)


def test_a_client_that_never_sends_the_rest_of_its_request_is_left_after_a_while(certificates):
    pair = Pair(certificates, limits=HttpLimits(leave_timeout=2.0))
    pair.raw(b"\x01")
    pair.exchange()
    deliver(pair, pair.core.let_go(pair.server, REASON, pair.now).datagrams)
    pair.exchange()
    assert pair.router.count == 1
    pair.now += 2.1
    pair.exchange()
    ended_with(pair, ErrorCode.H3_NO_ERROR)
    assert pair.end[1] == REASON


def test_a_connection_that_is_closed_at_once_says_before_what_was_not_handled(pair):
    stream_id = pair.request()
    pair.exchange()
    deliver(pair, pair.core.close_connection(pair.server, REASON, pair.now))
    assert goaways(pair) == [ALL, stream_id + 4]
    ended_with(pair, ErrorCode.H3_NO_ERROR)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_process_that_drains_answers_says_so_and_closes(certificates, workers):
    arguments = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key, "--http3"]

    async def use(server: ServerProcess) -> None:
        async with h3.client(server.target, certificates) as client:
            assert (await client.ask("/readyz")).status == 200
            server.send_signal(signal.SIGTERM)
            async with asyncio.timeout(h3.PATIENCE):
                while (answer := await client.ask("/readyz")).status == 200:
                    pass
            assert (answer.status, answer.body) == (503, b"not ready: starting or draining\n")
            end = await client.closed()
        assert (end.error_code, end.reason_phrase) == (ErrorCode.H3_NO_ERROR, REASON)

    with ServerProcess([*arguments, "--drain", "3", "--workers", str(workers)]) as server:
        asyncio.run(use(server))
        server.process.communicate(timeout=h3.PATIENCE)
        assert server.process.returncode == 0
