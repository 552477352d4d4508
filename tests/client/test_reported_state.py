"""When the client asks what a server says about its clock, and what becomes of the answer (protocol R13)."""

import random

import pytest

from tests.support.world import START_NS, World
from tsq._fast import pack_response, pack_tlvs
from tsq.client.exchange import STATE_INTERVAL, Exchange, Rules
from tsq.timing.sample import Reason, StampSource
from tsq.wire.message import ClockQuality, Mode, TimeSource, decode_request, encode_error, metadata_tlv
from tsq.wire.tlv import EXACT_T3, LEAP, ROOT_DELAY, ROOT_DISPERSION, SMEAR, STATE_KEYS

MS = 1_000_000
REPORT = (
    ClockQuality(3, 121, 15000, "lab").tlv(),
    TimeSource(2, 3, "ntp").tlv(),
    metadata_tlv({LEAP: "1", ROOT_DELAY: "100000", ROOT_DISPERSION: "70400", SMEAR: "0"}),
)


@pytest.fixture
def exchange():
    return Exchange(Rules(precision_ns=1), nonces=random.Random(1).randbytes)


def ask(exchange, now=0.0, mode=Mode.DATAGRAM):
    """(nonce, whether the request asks about the server)."""
    nonce, message = exchange.request(mode, now)
    request = decode_request(message)
    asked = {key for key, value in (request.metadata or {}).items() if not value}
    assert request.metadata_query == (asked >= set(STATE_KEYS))
    exchange.sent(nonce, START_NS + round(now * 1e9), StampSource.KERNEL)
    return nonce, request.metadata_query


def answered(exchange, nonce, reported=(), now=0.0):
    at_ns = START_NS + round(now * 1e9)
    data = pack_response(nonce, at_ns + MS, at_ns + MS) + (pack_tlvs(reported) if reported else b"")
    return exchange.answer(data, at_ns + 2 * MS, StampSource.KERNEL)


def test_the_first_request_asks_and_those_after_its_answer_do_not(exchange):
    nonce, asks = ask(exchange)
    assert asks
    answered(exchange, nonce, REPORT)
    for number in range(1, 10):
        nonce, asks = ask(exchange, number)
        assert not asks
        answered(exchange, nonce, now=number)


def test_it_is_asked_again_after_a_while(exchange):
    nonce, _ = ask(exchange)
    answered(exchange, nonce, REPORT)
    assert ask(exchange, STATE_INTERVAL - 0.01)[1] is False
    assert ask(exchange, STATE_INTERVAL)[1] is True


def test_a_question_without_an_answer_is_put_again_but_not_at_every_turn(exchange):
    assert [ask(exchange, now)[1] for now in (0.0, 0.01, 0.04, 0.05, 0.06, 0.1)] == [True, False, False, True, False, True]


@pytest.mark.parametrize("reply", ["nothing about itself", "an error", "malformed"])
def test_a_server_that_does_not_say_is_not_asked_at_every_turn(exchange, reply):
    nonce, _ = ask(exchange)
    if reply == "nothing about itself":
        answered(exchange, nonce)
    else:
        data = encode_error(2, "unsupported") if reply == "an error" else b"\x01\x10" + nonce + b"\x02\x08"
        assert not exchange.answer(data, START_NS + MS, StampSource.KERNEL).valid
    assert ask(exchange, 1.0)[1] is False
    assert exchange.server is None


def test_an_answer_to_any_of_the_questions_will_do(exchange):
    first, _ = ask(exchange)
    second, asks = ask(exchange, 0.1)
    assert asks
    answered(exchange, first, REPORT, now=0.1)
    assert ask(exchange, 0.2)[1] is False
    assert answered(exchange, second, now=0.2).server is exchange.server


def test_a_request_that_never_left_leaves_the_question_open(exchange):
    nonce, _ = exchange.request(Mode.DATAGRAM, 0.0)
    exchange.withdraw(nonce)
    assert ask(exchange, 0.06)[1] is True


def test_lost_requests_leave_the_question_open(exchange):
    nonce, _ = ask(exchange)
    exchange.give_up(nonce, Reason.NO_ANSWER)
    assert ask(exchange, 3.0)[1] is True


def test_the_word_goes_with_its_own_sample_and_those_after_it(exchange):
    nonce, _ = ask(exchange)
    first = answered(exchange, nonce, REPORT)
    nonce, _ = ask(exchange, 10.0)
    later = answered(exchange, nonce, now=10.0)
    assert first.server == later.server == exchange.server
    reported = first.server
    assert (reported.stratum, reported.leap, reported.smeared, reported.source, reported.tag) == (2, 1, False, "ntp", "lab")
    assert reported.error == pytest.approx(120.4e-6)
    assert reported.told_ns == first.t4_ns
    assert reported.error_at(later.t4_ns) == pytest.approx(120.4e-6 + 15e-6 * 10, rel=1e-3)


def test_the_exact_form_of_a_sample_keeps_the_word(exchange):
    nonce, _ = ask(exchange)
    early = answered(exchange, nonce, REPORT)
    later, _ = ask(exchange, 1.0)
    answered(exchange, later, now=1.0)
    again, _ = ask(exchange, 2.0)
    exact_t3 = metadata_tlv({EXACT_T3: nonce[:8].hex() + pack_response(nonce, 0, early.t3_ns + 1000)[-8:].hex()})
    answered(exchange, again, (exact_t3,), now=2.0)
    old, late = exchange.revised
    assert old is early
    assert late.exact
    assert late.server is early.server


def test_precision_mode_and_none_ask_nothing():
    for rules in (Rules(precision_size=100), Rules(state_interval=None)):
        exchange = Exchange(rules)
        assert [ask(exchange, now)[1] for now in (0.0, 100.0)] == [False, False]


def test_stream_mode_asks_too_but_not_for_exact_t3(exchange):
    nonce, message = exchange.request(Mode.STREAM, 0.0)
    assert set(decode_request(message).metadata) == set(STATE_KEYS)
    assert nonce


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("data_plane", [False, True])
def test_a_session_asks_once_and_knows_the_server_then(certificates, stream, data_plane):
    world = World(certificates, data_plane=data_plane, clock_info=REPORT)
    channel = world.channel(stream=stream)
    world.run(1)
    for _ in range(5):
        world.exchange(channel)
    assert [sample.valid for sample in channel.samples] == [True] * 5
    assert {sample.server.stratum for sample in channel.samples} == {2}
    assert len({sample.server for sample in channel.samples}) == 1
    if data_plane and not stream:
        # All but the question itself is the data plane's.
        assert world.data_plane.taken >= 4


def test_on_a_long_run_a_session_asks_again_and_hears_that_the_server_lost_its_source(certificates):
    world = World(certificates, clock_info=REPORT)
    channel = world.channel()
    world.run(1)
    world.exchange(channel)
    world.responder.clock_info = (TimeSource(0, 3, "lost").tlv(), metadata_tlv({LEAP: "3"}))
    for _ in range(9):
        world.exchange(channel, STATE_INTERVAL / 7.5)
    strata = [sample.server.stratum for sample in channel.samples]
    assert strata == [2] * 9 + [0]
