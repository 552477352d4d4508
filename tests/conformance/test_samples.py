"""Samples: the checks (R8), the edge of the era (R9), and the sign of the offset; T1 and T4 stay private (R11)."""

import datetime

import pytest

from tests.support import oracle
from tests.support.foreign import Recorder, WrongServer
from tests.support.world import START_NS, World
from tsq._fast import pack_response
from tsq.client.exchange import Exchange, Rules
from tsq.server.responder import NoResponse, Responder
from tsq.timing.sample import Reason, StampSource
from tsq.wire.message import decode_response

MS = 1_000_000
NS = 1_000_000_000
ERA_EDGE_NS = int(datetime.datetime(2036, 2, 7, 6, 28, 16, tzinfo=datetime.UTC).timestamp()) * NS
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["datagram", "stream"])


def connected(certificates, *, stream, answer=None, **options):
    """A world and an established client; `answer` makes the server's answers from the right ones."""
    world = World(certificates)
    if answer is not None:
        world.core.responder = WrongServer(answer)
    session = world.channel(stream=stream, **options)
    world.run(0.5)
    assert session.established
    return world, session


def one_sample(world, session, seconds=1.0):
    world.exchange(session, seconds)
    return session.samples[-1]


def with_times(receive_step_ns: int, send_step_ns: int):
    """The right answer with T2 and T3 shifted."""

    def answer(right: bytes) -> bytes:
        response = decode_response(right)
        t2 = oracle.ns_from_ntp(response.receive_ntp, START_NS)
        t3 = oracle.ns_from_ntp(response.send_ntp, START_NS)
        return pack_response(response.nonce, t2 + receive_step_ns, t3 + send_step_ns)

    return answer


@pytest.mark.draft("6.6-7")
@STREAM
@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ((0, -1), Reason.SEND_BEFORE_RECEIVE),
        ((1000 * NS, 0), Reason.SEND_BEFORE_RECEIVE),
        ((-MS, 2 * MS), Reason.NEGATIVE_DELAY),
        ((86401 * NS, 86401 * NS), Reason.OFFSET_LIMIT),
        ((-86401 * NS, -86401 * NS), Reason.OFFSET_LIMIT),
    ],
)
def test_R8_implausible_answers_are_discarded_with_their_reason(certificates, stream, steps, reason):
    world, session = connected(certificates, stream=stream, answer=with_times(*steps))
    sample = one_sample(world, session)
    assert sample.reason is reason
    assert not sample.valid


@STREAM
def test_R8_offset_just_under_the_limit_is_valid(certificates, stream):
    step = 86400 * NS - 1
    world, session = connected(certificates, stream=stream, answer=with_times(step, step))
    assert one_sample(world, session).valid


@pytest.mark.draft("6.6-10")
@STREAM
@pytest.mark.parametrize(("limit", "valid"), [(0.5, False), (2.0, True)])
def test_R8_the_offset_limit_is_an_option(certificates, stream, limit, valid):
    world, session = connected(certificates, stream=stream, answer=with_times(NS, NS), rules=Rules(offset_limit=limit))
    assert one_sample(world, session).valid is valid


@STREAM
def test_R8_answer_before_the_request_is_discarded(certificates, stream):
    # The local clock is stepped back during the exchange.
    world, session = connected(certificates, stream=stream)
    world.ask(session)
    nonce = session.exchange.under_way[0]
    session.exchange.sent(nonce, world.now_ns + 10 * NS, StampSource.USER)
    world.run(1)
    assert session.samples[-1].reason is Reason.ANSWER_BEFORE_REQUEST


@pytest.mark.parametrize(
    ("delay_ns", "delay", "valid"),
    [(-101, None, False), (-100, 100, True), (-1, 100, True), (0, 100, True), (99, 100, True), (100, 100, True), (101, 101, True)],
)
def test_R8_delay_within_the_precision_is_clamped_to_it(delay_ns, delay, valid):
    exchange = Exchange(Rules(precision_ns=100))
    nonce, _ = exchange.request()
    exchange.sent(nonce, START_NS, StampSource.USER)
    # The server's processing takes 1 ms; T4 follows from the wanted delay.
    answer = pack_response(nonce, START_NS, START_NS + MS)
    sample = exchange.answer(answer, START_NS + MS + delay_ns, StampSource.USER)
    assert sample.valid is valid
    if valid:
        assert sample.delay == delay / 1e9
    else:
        assert sample.reason is Reason.NEGATIVE_DELAY


@pytest.mark.draft("6.2-a")
@STREAM
def test_R8_server_whose_clock_is_stepped_back_gives_no_answer(certificates, stream):
    world, session = connected(certificates, stream=stream)

    class Stepped(Responder):
        """The clock is stepped between T2 and T3."""

        def prepare(self, *request):
            world.server_offset_ns -= 1
            return super().prepare(*request)

    world.core.responder = Stepped()
    sample = one_sample(world, session, 4)
    assert not sample.valid
    assert world.counters.get("unanswered", NoResponse.CLOCK_WENT_BACK) == 1
    assert world.counters.get("answered") == 0


@STREAM
@pytest.mark.parametrize("server_offset_ns", [0, 5 * NS, -5 * NS, 3600 * NS, -3600 * NS])
def test_R9_samples_are_right_on_both_sides_of_the_era_edge(certificates, stream, server_offset_ns):
    world = World(certificates)
    world.now_ns = ERA_EDGE_NS - 3 * NS
    world.server_offset_ns = server_offset_ns
    session = world.channel(stream=stream)
    for _ in range(12):
        world.run(0.25)
        world.exchange(session, 0.25)
    assert session.samples[0].t1_ns < ERA_EDGE_NS < session.samples[-1].t1_ns
    assert [round(sample.offset, 9) for sample in session.samples] == [server_offset_ns / NS] * 12
    assert all(sample.valid for sample in session.samples)


@STREAM
def test_R9_an_exchange_across_the_era_edge_is_right(certificates, stream):
    world = World(certificates)
    world.now_ns = ERA_EDGE_NS - NS
    session = world.channel(stream=stream)
    world.run(0.999)
    world.exchange(session, 0.1)
    (sample,) = session.samples
    assert sample.t1_ns < ERA_EDGE_NS <= sample.t4_ns
    assert sample.t2_ns == ERA_EDGE_NS
    assert sample.offset == 0
    assert sample.delay == 0.002


@pytest.mark.parametrize("year", [1970, 2026, 2037, 2060, 2104, 2105, 2172, 2240])
def test_R9_the_pivot_is_the_local_clock_in_every_era(year):
    now_ns = int(datetime.datetime(year, 6, 1, tzinfo=datetime.UTC).timestamp()) * NS
    exchange = Exchange()
    nonce, _ = exchange.request()
    exchange.sent(nonce, now_ns, StampSource.USER)
    sample = exchange.answer(pack_response(nonce, now_ns + 3 * MS, now_ns + 4 * MS), now_ns + 3 * MS, StampSource.USER)
    assert (sample.t2_ns, sample.t3_ns) == (now_ns + 3 * MS, now_ns + 4 * MS)
    assert sample.offset == 0.002
    assert sample.valid


@STREAM
def test_R9_server_nanoseconds_arrive_exactly(certificates, stream):
    world, session = connected(certificates, stream=stream)
    for step in (1, 2, 3, 7, 999_999_999):
        world.server_offset_ns += step
        sample = one_sample(world, session)
        assert sample.t2_ns == sample.t1_ns + MS + world.server_offset_ns


@STREAM
@pytest.mark.parametrize("server_offset_ns", [250 * MS, -250 * MS])
def test_R11_offset_is_positive_when_the_local_clock_is_behind(certificates, stream, server_offset_ns):
    world, session = connected(certificates, stream=stream)
    world.server_offset_ns = server_offset_ns
    assert one_sample(world, session).offset == server_offset_ns / NS


@pytest.mark.draft("6.2-1")
@STREAM
def test_R11_a_delay_in_one_direction_shifts_the_offset_by_half_of_it(certificates, stream):
    world, session = connected(certificates, stream=stream)
    world.to_server = lambda data, number: [9 * MS]
    sample = one_sample(world, session)
    # T2 - T1 is too long: the server seems ahead.
    assert sample.offset == 0.004
    assert sample.delay == 0.010


@STREAM
@pytest.mark.parametrize("rules", [Rules(), Rules(metadata_query=True, metadata={"tsq.t3": ""}, precision_size=200)])
def test_R11_T1_and_T4_never_leave_the_client(certificates, stream, rules):
    world = World(certificates)
    world.core.responder = recorder = Recorder()
    # A clock far from the server's, so that no time of the client equals one of the server.
    world.server_offset_ns = 77_777_777_777
    session = world.channel(stream=stream, rules=rules)
    world.run(0.5)
    for _ in range(5):
        world.exchange(session, 0.123456789)
    assert len(recorder.requests) == 5
    everything = b"".join(recorder.requests)
    for sample in session.samples:
        for time_ns in (sample.t1_ns, sample.t4_ns):
            # As NTP, as ns, as seconds, in either byte order, or as text.
            for number in (oracle.ntp_from_ns(time_ns), time_ns):
                assert number.to_bytes(8, "big")[:6] not in everything
                assert number.to_bytes(8, "little")[2:] not in everything
            assert str(time_ns)[:12].encode() not in everything


@STREAM
def test_R11_two_requests_differ_only_in_their_nonce(certificates, stream):
    # The stronger proof that a request has no time in it.
    world = World(certificates)
    world.core.responder = recorder = Recorder()
    session = world.channel(stream=stream, rules=Rules(metadata_query=True, metadata={"a": "b"}, precision_size=100))
    world.run(0.5)
    for _ in range(3):
        world.exchange(session, 1.7)
    assert len({request[18:] for request in recorder.requests}) == 1
    assert len({request[:18] for request in recorder.requests}) == 3
