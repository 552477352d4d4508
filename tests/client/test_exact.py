"""Exact T3 (docs/reference/protocol.md R12): the client makes samples exact, and believes no nonsense."""

import pytest

from tests.support.threads import ServerThread
from tests.support.world import World
from tsq._fast import ntp_from_ns, pack_tlvs
from tsq.client.blocking import query
from tsq.client.exchange import Exchange, Rules
from tsq.options import ClientOptions, Trust
from tsq.timing.sample import Reason, StampSource
from tsq.wire.message import metadata_tlv

T1 = 1_800_000_000_000_000_000
US = 1000


def response(nonce: bytes, t2_ns: int, t3_ns: int, reported: str | None = None) -> bytes:
    tlvs = [(1, nonce), (2, ntp_from_ns(t2_ns).to_bytes(8, "big")), (3, ntp_from_ns(t3_ns).to_bytes(8, "big"))]
    if reported is not None:
        tlvs.append(metadata_tlv({"tsq.t3": reported}))
    return pack_tlvs(tlvs)


def asked(exchange: Exchange, at_ns: int) -> bytes:
    nonce, _ = exchange.request()
    exchange.sent(nonce, at_ns, StampSource.KERNEL)
    return nonce


def report(nonce: bytes, left_ns: int) -> str:
    return nonce[:8].hex() + f"{ntp_from_ns(left_ns):016x}"


def two_answers(reported) -> tuple[Exchange, object, object]:
    """T2 10 µs after T1, T3 20 µs later, sent 15 µs later, T4 10 µs later; then a second answer with this report."""
    exchange = Exchange(Rules(precision_ns=1))
    first_nonce = asked(exchange, T1)
    first = exchange.answer(response(first_nonce, T1 + 10 * US, T1 + 30 * US), T1 + 55 * US, StampSource.KERNEL)
    second_nonce = asked(exchange, T1 + 1000 * US)
    later = T1 + 1000 * US
    exchange.answer(
        response(second_nonce, later + 10 * US, later + 30 * US, reported(first_nonce)), later + 55 * US, StampSource.KERNEL
    )
    return exchange, first, exchange.revised


def test_a_reported_transmit_timestamp_makes_the_earlier_sample_exact():
    _, first, revised = two_answers(lambda nonce: report(nonce, T1 + 45 * US))
    early, late = revised
    assert early is first
    assert (early.exact, late.exact) == (False, True)
    assert early.offset == pytest.approx(-7.5e-6)
    assert late.offset == pytest.approx(0, abs=1e-9)
    assert late.delay == pytest.approx(20e-6)
    assert (late.t1_ns, late.t2_ns, late.t4_ns) == (early.t1_ns, early.t2_ns, early.t4_ns)
    assert late.t3_ns == T1 + 45 * US


@pytest.mark.parametrize(
    "reported",
    [
        lambda nonce: report(nonce, T1 + 29 * US),
        lambda nonce: report(nonce, T1 + 100 * US),
        lambda nonce: report(bytes(16), T1 + 45 * US),
        lambda nonce: "z" * 32,
        lambda nonce: report(nonce, T1 + 45 * US)[:-1],
        lambda nonce: report(nonce, T1 + 45 * US) + "00",
        lambda nonce: "",
    ],
    ids=["before it was stamped", "after it came", "of another nonce", "no hex", "too short", "too long", "empty"],
)
def test_an_implausible_report_is_ignored(reported):
    _, first, revised = two_answers(reported)
    assert first.valid
    assert revised is None


def test_a_report_that_comes_twice_counts_once():
    exchange, _, _ = two_answers(lambda nonce: report(nonce, T1 + 45 * US))
    nonce = asked(exchange, T1 + 2000 * US)
    again = exchange.last_response.metadata["tsq.t3"]
    exchange.answer(response(nonce, T1 + 2010 * US, T1 + 2030 * US, again), T1 + 2055 * US, StampSource.KERNEL)
    assert exchange.revised is None


def test_without_the_rule_for_exact_t3_nothing_is_asked_or_believed():
    exchange = Exchange(Rules(exact=False, state_interval=None))
    nonce, message = exchange.request()
    assert len(message) == 18
    exchange.sent(nonce, T1, StampSource.KERNEL)
    exchange.answer(response(nonce, T1 + 10, T1 + 20), T1 + 50, StampSource.KERNEL)
    later, _ = exchange.request()
    exchange.sent(later, T1, StampSource.KERNEL)
    exchange.answer(response(later, T1 + 10, T1 + 20, report(nonce, T1 + 30)), T1 + 60, StampSource.KERNEL)
    assert exchange.revised is None


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("data_plane", [True, False])
def test_every_sample_of_a_run_is_exact_where_the_server_has_a_data_plane(certificates, count, data_plane):
    with ServerThread(["127.0.0.1:0"], certificates, data_plane=data_plane) as server:
        options = ClientOptions(count=count, interval=0.001, trust=Trust(ca_file=server.ca))
        result = query(server.target, options)
        assert len(result.samples) == count
        assert {sample.exact for sample in result.samples} == {data_plane}
        for sample in result.samples:
            assert sample.valid
            assert sample.t2_ns <= sample.t3_ns <= sample.t4_ns
        # One request makes no sample; more where requests were sent together, which happens on a busy machine. Without a report in
        # the second answer, no further request is sent.
        more = server.server.counters.get("answered") - count
        assert 1 <= more <= 4 if data_plane else more == (count == 1)


def test_samples_that_were_asked_for_together_all_become_exact(certificates):
    with ServerThread(["127.0.0.1:0"], certificates) as server:
        for _ in range(20):
            result = query(server.target, ClientOptions(count=3, interval=0.0, trust=Trust(ca_file=server.ca)))
            assert [sample.exact for sample in result.samples] == [True] * 3


@pytest.mark.parametrize("count", [1, 3])
def test_a_sample_of_the_first_flight_is_exact_too(certificates, tmp_path, count):
    with ServerThread(["127.0.0.1:0"], certificates) as server:
        options = ClientOptions(
            count=count, interval=0.001, trust=Trust(ca_file=server.ca), session_file=str(tmp_path / "tickets")
        )
        assert not query(server.target, options).zero_rtt
        result = query(server.target, options)
        assert result.zero_rtt
        assert [sample.exact for sample in result.samples] == [True] * count
        # Its claimed T3 was far from the wire: the whole first flight is made after it.
        assert all(sample.t2_ns < sample.t3_ns < sample.t4_ns for sample in result.samples)


def test_a_long_run_on_a_short_path_warms_it_before_each_sample(certificates):
    with ServerThread(["127.0.0.1:0"], certificates) as server:
        trust = Trust(ca_file=server.ca)
        result = query(server.target, ClientOptions(count=8, interval=0.02, trust=trust))
        assert (len(result.samples), result.good) == (8, 8)
        assert all(sample.exact for sample in result.samples)
        # As many as two requests for each sample but the first, and one at the end; on a loaded machine a first sample may be slow.
        answered = server.server.counters.get("answered")
        assert 9 <= answered <= 16
        quick = query(server.target, ClientOptions(count=4, interval=0.02, trust=trust))
        assert len(quick.samples) == 4
        assert server.server.counters.get("answered") == answered + 5


@pytest.mark.parametrize(("delay_ns", "gains"), [(900_000, True), (1_100_000, False)])
def test_only_a_short_path_gains_by_warming(certificates, delay_ns, gains):
    world = World(certificates)
    world.to_server = world.to_client = lambda data, number: [delay_ns // 2]
    channel = world.channel()
    world.run(0.5)
    assert not channel.gains_by_warming
    world.exchange(channel)
    assert channel.gains_by_warming is gains


def test_a_wrong_answer_to_a_request_that_makes_no_sample_is_still_seen(certificates):
    world = World(certificates)
    channel = world.channel()
    world.run(0.5)
    channel.ask(world.now, counted=False)
    world.pump(channel)
    world.run(0.1)
    assert channel.samples == []
    channel.ask(world.now, counted=False)
    [nonce] = channel._leaving
    world.pump(channel)
    channel._keep(channel.exchange.answer(b"\x01\x10" + nonce, world.now_ns + 1000, StampSource.KERNEL))
    assert [sample.reason for sample in channel.samples] == [Reason.MALFORMED]
