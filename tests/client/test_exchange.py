"""The client's role: which answer belongs to which request, and what becomes of the others."""

import random
from datetime import UTC, datetime

import pytest

from tests.support.messages import PLAIN_RESPONSE
from tests.support.world import START_NS
from tsq._fast import pack_response
from tsq.client.exchange import Exchange, Rules
from tsq.errors import ConfigError
from tsq.timing.local_clock import ClockReading
from tsq.timing.sample import Reason, StampSource
from tsq.wire.message import encode_error

MS = 1_000_000
USER, KERNEL = StampSource.USER, StampSource.KERNEL


def asked(exchange, at_ns=START_NS):
    nonce, _ = exchange.request()
    exchange.sent(nonce, at_ns, USER)
    return nonce


def right(nonce, offset_ns=0):
    return pack_response(nonce, START_NS + MS + offset_ns, START_NS + MS + offset_ns)


def answer(exchange, data, nonce=None):
    return exchange.answer(data, START_NS + 2 * MS, KERNEL, nonce)


@pytest.fixture
def exchange():
    return Exchange(nonces=random.Random(1).randbytes)


def test_an_answer_makes_a_sample(exchange):
    nonce = asked(exchange)
    sample = answer(exchange, right(nonce, 5 * MS))
    assert sample.valid
    assert sample.offset == 0.005
    assert (sample.t1_source, sample.t4_source) == (USER, KERNEL)
    assert exchange.under_way == []
    assert exchange.last_response.nonce == nonce


def test_a_second_answer_is_ignored(exchange):
    nonce = asked(exchange)
    assert answer(exchange, right(nonce)).valid
    assert answer(exchange, right(nonce)) is None


def test_a_second_answer_does_not_fail_the_next_request(exchange):
    first, second = asked(exchange), asked(exchange)
    answer(exchange, right(first))
    assert answer(exchange, right(first)) is None
    assert answer(exchange, right(second)).valid


@pytest.mark.parametrize("how", ["give_up", "withdraw"])
def test_a_late_answer_is_ignored(exchange, how):
    late, waiting = asked(exchange), asked(exchange)
    if how == "give_up":
        assert exchange.give_up(late, Reason.NO_ANSWER, "waited 3 s").reason is Reason.NO_ANSWER
    else:
        exchange.withdraw(late)
    assert answer(exchange, right(late)) is None
    assert exchange.under_way == [waiting]


def test_a_wrong_nonce_fails_the_oldest_request(exchange):
    oldest, newest = asked(exchange), asked(exchange)
    sample = answer(exchange, right(bytes(16)))
    assert sample.reason is Reason.WRONG_NONCE
    assert bytes(16).hex() in sample.detail
    assert exchange.under_way == [newest]
    assert oldest != newest


def test_an_answer_to_nothing_is_ignored(exchange):
    assert answer(exchange, PLAIN_RESPONSE) is None
    assert answer(exchange, b"\x01") is None


def test_several_outstanding_are_answered_in_any_order(exchange):
    rng = random.Random(5)
    nonces = [asked(exchange, START_NS - number) for number in range(20)]
    order = rng.sample(range(20), 20)
    for number in order:
        sample = answer(exchange, right(nonces[number]))
        assert sample.valid
        assert sample.t1_ns == START_NS - number
    assert exchange.under_way == []


def test_on_a_stream_only_its_own_answer_counts(exchange):
    mine, other = asked(exchange), asked(exchange)
    sample = answer(exchange, right(other), mine)
    assert sample.reason is Reason.WRONG_NONCE
    assert exchange.under_way == [other]
    assert answer(exchange, right(other), other).valid


def test_malformed_fails_the_request_it_came_for(exchange):
    first, second = asked(exchange), asked(exchange)
    sample = answer(exchange, right(second)[:-1], second)
    assert sample.reason is Reason.MALFORMED
    assert sample.detail
    assert exchange.under_way == [first]


def test_an_error_reply_fails_the_request_it_came_for(exchange):
    first, second = asked(exchange), asked(exchange)
    sample = answer(exchange, encode_error(3, "no \x1b[31mkey"), second)
    assert sample.reason is Reason.ERROR_REPLY
    assert "\x1b" not in sample.detail
    assert exchange.under_way == [first]


def test_a_time_that_cannot_be_held_is_malformed(exchange):
    nonce = asked(exchange)
    far = 2**63 - 1
    sample = exchange.answer(pack_response(nonce, far, far), far, USER)
    assert sample.reason is Reason.MALFORMED


def test_giving_up_twice_gives_one_sample(exchange):
    nonce = asked(exchange)
    assert exchange.give_up(nonce, Reason.NO_ANSWER) is not None
    assert exchange.give_up(nonce, Reason.NO_ANSWER) is None


def test_a_rejected_sample_ends_its_request_too(exchange):
    nonce = asked(exchange)
    assert answer(exchange, pack_response(nonce, START_NS, START_NS - 1)).reason is Reason.SEND_BEFORE_RECEIVE
    assert exchange.under_way == []
    assert answer(exchange, right(nonce)) is None


def test_broken_answers_make_no_valid_sample_of_another_nonce():
    rng = random.Random(9)
    believed = 0
    for _ in range(500):
        exchange = Exchange(nonces=rng.randbytes)
        nonce = asked(exchange)
        data = bytearray(right(nonce))
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        sample = answer(exchange, bytes(data))
        assert sample is not None
        assert exchange.under_way == []
        believed += sample.valid
        # What is believed has the nonce asked for, and differs in T2 or T3 only, which nothing but a signature can protect here.
        assert not sample.valid or (data[:18] == right(nonce)[:18] and data[18:20] == b"\x02\x08" and data[28:30] == b"\x03\x08")
    assert 0 < believed < 500


# ------------------------------------------------------------------------------------------- the question about the clock


def asks_about_the_clock(message) -> bool:
    return b"tsq.leap" in message


def test_what_a_request_asked_for_is_asked_for_again_when_it_is_withdrawn(exchange):
    nonce, message = exchange.request(now=10.0)
    assert asks_about_the_clock(message)
    assert not asks_about_the_clock(exchange.request(now=10.0)[1])
    exchange.sent(nonce, START_NS, USER)
    exchange.withdraw(nonce)
    assert asks_about_the_clock(exchange.request(now=10.001)[1])


def test_a_request_that_never_left_asks_again_as_well(exchange):
    nonce, _ = exchange.request(now=10.0)
    exchange.withdraw(nonce)
    assert asks_about_the_clock(exchange.request(now=10.001)[1])


def test_the_state_is_unknown_until_the_question_is_answered_whatever_the_answer_says(exchange):
    assert not exchange.state_unknown
    nonce, _ = exchange.request(now=0.0)
    assert exchange.state_unknown
    exchange.sent(nonce, START_NS, USER)
    other, _ = exchange.request(now=0.0)
    exchange.sent(other, START_NS, USER)
    assert answer(exchange, right(other)).valid
    # An answer to another request says nothing of the question.
    assert exchange.state_unknown
    assert answer(exchange, right(nonce)).valid
    assert exchange.server is None
    assert not exchange.state_unknown


def test_a_question_that_got_no_answer_is_repeated_until_it_has_one_and_nothing_is_kept_of_it(exchange):
    for number in range(200):
        nonce, message = exchange.request(now=number * 1.0)
        assert asks_about_the_clock(message)
        exchange.sent(nonce, START_NS, USER)
        exchange.give_up(nonce, Reason.NO_ANSWER)
    assert exchange.state_unknown
    assert len(exchange._state_nonces) == 0


def test_without_the_question_the_state_is_not_unknown():
    exchange = Exchange(Rules(state_interval=None))
    exchange.request(now=0.0)
    assert not exchange.state_unknown


def test_a_sample_has_the_readings_of_the_clock_around_it_and_allows_for_what_they_show(exchange):
    sent = ClockReading(START_NS, 0, 100, frequency=0.0, synchronized=True)
    # 5 µs in 2 ms: a slew.
    received = ClockReading(START_NS + 2 * MS, 5_000, 100, frequency=0.0, synchronized=True)
    plain, _ = exchange.request()
    exchange.sent(plain, START_NS, USER)
    steady = answer(exchange, right(plain))
    nonce, _ = exchange.request()
    exchange.sent(nonce, START_NS, USER, sent)
    sample = exchange.answer(right(nonce), START_NS + 2 * MS, KERNEL, reading=received)
    assert (sample.sent, sample.received) == (sent, received)
    assert (steady.sent, steady.received) == (None, None)
    assert sample.root_distance - steady.root_distance == pytest.approx(5.2e-6, rel=1e-3)


YEARS = [(1970, 2027), (1970, 2039), (2100, 2027), (2036, 2036), (2200, 2060), (1900, 2150)]


@pytest.mark.parametrize(("local", "true"), YEARS)
def test_with_a_pivot_of_its_own_a_client_reads_the_year_whatever_its_clock_says(local, true):
    pivot_ns = round((datetime(2027, 1, 1, tzinfo=UTC).timestamp() + 2**31 - 10 * 366 * 86400) * 10**9)
    exchange = Exchange(Rules(era_pivot_ns=pivot_ns, offset_limit=float("inf")), nonces=random.Random(1).randbytes)
    local_ns, true_ns = (round(datetime(year, 6, 1, tzinfo=UTC).timestamp()) * 10**9 for year in (local, true))
    nonce = asked(exchange, local_ns)
    sample = exchange.answer(pack_response(nonce, true_ns + MS, true_ns + MS + 7), local_ns + 2 * MS, KERNEL)
    assert (sample.t2_ns, sample.t3_ns) == (true_ns + MS, true_ns + MS + 7)
    assert sample.offset == pytest.approx((true_ns - local_ns) / 1e9, abs=1e-3)
    # A clock that is decades off is refused with its true offset, unless the limit is lifted.
    limited = Exchange(Rules(era_pivot_ns=pivot_ns), nonces=random.Random(1).randbytes)
    nonce = asked(limited, local_ns)
    sample = limited.answer(pack_response(nonce, true_ns + MS, true_ns + MS), local_ns + 2 * MS, KERNEL)
    assert sample.reason is (None if local == true else Reason.OFFSET_LIMIT)


def test_an_exchange_may_go_over_the_end_of_an_era_with_a_clock_that_is_wrong():
    edge_ns = 2_085_978_496 * 10**9
    pivot_ns = edge_ns + 10**18
    exchange = Exchange(Rules(era_pivot_ns=pivot_ns, offset_limit=float("inf")), nonces=random.Random(1).randbytes)
    nonce = asked(exchange, MS)
    sample = exchange.answer(pack_response(nonce, edge_ns - 100, edge_ns + 100), 3 * MS, KERNEL)
    assert (sample.t2_ns, sample.t3_ns) == (edge_ns - 100, edge_ns + 100)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"verifier": b"a secret"}, "verifier b'a secret' (expected a tsq.wire.signature.Verifier)"),
        ({"metadata_query": "yes"}, "metadata_query 'yes' (expected True or False)"),
        ({"exact": None}, "exact None (expected True or False)"),
        ({"metadata": "a=b"}, "metadata 'a=b' (expected a mapping from text to text)"),
        ({"metadata": {"a": 1}}, "metadata 1 (expected text)"),
        ({"precision_size": 0}, "precision_size 0 (expected 1 or more)"),
        ({"precision_ns": -1}, "precision_ns -1 (expected 0 or more)"),
        ({"precision_ns": 1.0}, "precision_ns 1.0 (expected a whole number)"),
        ({"era_pivot_ns": "2026"}, "era_pivot_ns '2026' (expected a whole number)"),
        ({"offset_limit": float("nan")}, "offset_limit nan (expected a number of seconds above 0)"),
        ({"offset_limit": -1.0}, "offset_limit -1.0 (expected a number of seconds above 0)"),
        ({"state_interval": float("nan")}, "state_interval nan (expected 0 seconds or more, or None)"),
        ({"state_interval": "32"}, "state_interval '32' (expected a number)"),
    ],
)
def test_rules_of_a_wrong_type_or_value_are_refused(wrong, words):
    with pytest.raises(ConfigError) as caught:
        Rules(**wrong)
    assert str(caught.value) == words
