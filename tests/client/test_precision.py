"""Precision Mode at the client (docs/reference/protocol.md R7): what it asks for, what it believes, what it says."""

import pytest

from tests.support import oracle
from tests.support.foreign import WrongServer
from tests.support.world import World
from tsq.client.exchange import Exchange, Rules
from tsq.errors import ConfigError
from tsq.options import ClientOptions, Precision
from tsq.timing.sample import Reason, StampSource
from tsq.wire.message import ClockQuality, Mode, TimeSource
from tsq.wire.signature import HmacSigner, Verifier

ASK, REQUIRE = Rules(precision=Precision.ASK), Rules(precision=Precision.REQUIRE)
INFO = (ClockQuality(1, 2, 3, "a-good-clock--").tlv(), TimeSource(1, 1, "roof-north").tlv())
PAIRS = {"tsq.leap": "0", "tsq.root_delay": "123456", "tsq.root_dispersion": "654321", "tsq.smear": "0"}


def ignores(right: bytes) -> bytes:
    """A server that knows no Precision Mode: it skips the TLV."""
    return oracle.pack([tlv for tlv in oracle.unpack_message(right) if tlv[0] not in (250, 254)])


def ntp(unix_ns: int) -> bytes:
    return oracle.ntp_from_ns(unix_ns).to_bytes(8, "big")


def sizes(world: World, since: int) -> list[tuple[str, int]]:
    return [(side, len(data)) for side, data in world.sent[since:]]


@pytest.mark.parametrize("data_plane", [False, True])
@pytest.mark.parametrize("stream", [False, True], ids=["datagram", "stream"])
def test_R7_request_and_answer_have_the_same_length(certificates, stream, data_plane):
    world = World(certificates, data_plane=data_plane, clock_info=INFO, pairs=PAIRS)
    session = world.channel(stream=stream, rules=ASK)
    world.run(0.5)
    for _ in range(4):
        world.exchange(session, 0.1)
    assert [(sample.valid, sample.precise) for sample in session.samples] == [(True, True)] * 4
    assert not session.exchange.precision_ignored
    # The report about the server's clock has the promised length, too.
    assert session.exchange.server.stratum == 1


def test_R7_udp_datagrams_are_equal(certificates):
    world = World(certificates, data_plane=True, clock_info=INFO, pairs=PAIRS)
    session = world.channel(rules=ASK)
    world.run(0.5)
    for _ in range(2):
        world.exchange(session, 0.1)
    before = len(world.sent)
    for pause in (0.005, 0.005, 0.1, 1.0, 0.01, 5.0, 0.005):
        world.exchange(session, pause)
    pairs = [one for one in sizes(world, before) if one[1] > 80]
    assert [side for side, _ in pairs] == ["client", "server"] * 7
    assert [size for _, size in pairs[::2]] == [size for _, size in pairs[1::2]]


def test_R7_udp_datagrams_are_equal_while_the_server_reports_its_clock(certificates):
    world = World(certificates, data_plane=True, clock_info=INFO, pairs=PAIRS)
    session = world.channel(rules=ASK)
    world.run(0.5)
    for _ in range(3):
        world.exchange(session, 0.1)
    before = len(world.sent)
    # The server is asked for the state of its clock again, which the control plane answers.
    for pause in (20, 20, 0.01):
        world.exchange(session, pause)
    pairs = [one for one in sizes(world, before) if one[1] > 80]
    assert any(size > 300 for _, size in pairs)
    assert [size for side, size in pairs if side == "client"] == [size for side, size in pairs if side == "server"]


def test_R7_a_client_pads_where_the_servers_packets_have_longer_headers(certificates):
    world = World(certificates, data_plane=True)
    session = world.channel(rules=ASK)
    world.run(0.5)
    for _ in range(3):
        world.exchange(session, 0.1)
    # The server's packets get a longer ACK frame: packets of the client's are missing.
    for _ in range(12):
        world.to_server = lambda data, number: []
        world.ask(session)
        world.to_server = lambda data, number: [1_000_000]
        world.exchange(session, 0.02)
    before = len(world.sent)
    for _ in range(3):
        world.exchange(session, 0.005)
    found = sizes(world, before)
    assert [side for side, _ in found] == ["client", "server"] * 3
    assert [size for _, size in found[::2]] == [size for _, size in found[1::2]]


def test_R7_exact_t3_is_reported_in_the_place_of_padding():
    exchange = Exchange(ASK)
    _, first = exchange.request(Mode.DATAGRAM, 0.0)
    _, second = exchange.request(Mode.DATAGRAM, 0.01)
    kinds = [kind for kind, _ in oracle.unpack_message(second)]
    assert kinds == [1, 253, 250, 254]
    assert len(second) == 38 + 2 + 42
    # The first one asks for the state of the server's clock, which is larger.
    assert 247 in [kind for kind, _ in oracle.unpack_message(first)]
    assert len(first) > 300


def test_R7_a_stream_has_no_exact_t3_and_needs_no_room_for_it():
    exchange = Exchange(Rules(precision=Precision.ASK, state_interval=None))
    _, request = exchange.request(Mode.STREAM)
    assert len(request) == 40


@pytest.mark.parametrize("data_plane", [False, True])
def test_R7_a_signature_has_its_place(certificates, data_plane):
    world = World(certificates, data_plane=data_plane, signer=HmacSigner(1, bytes(16)))
    session = world.channel(rules=Rules(precision=Precision.REQUIRE, verifier=Verifier({1: bytes(16)})))
    world.run(0.5)
    for _ in range(3):
        world.exchange(session)
    assert all(sample.valid and sample.precise for sample in session.samples)


@pytest.mark.parametrize("stream", [False, True], ids=["datagram", "stream"])
def test_R7_a_server_that_ignores_it_is_asked_without_it(certificates, stream):
    world = World(certificates)
    world.core.responder = WrongServer(ignores)
    rules = Rules(precision=Precision.ASK, state_interval=None)
    session = world.channel(stream=stream, rules=rules)
    world.run(0.5)
    for _ in range(3):
        world.exchange(session)
    assert [(sample.valid, sample.precise) for sample in session.samples] == [(True, False)] * 3
    assert session.exchange.precision_ignored
    _, request = session.exchange.request(Mode.STREAM)
    assert len(request) == 18


@pytest.mark.parametrize("stream", [False, True], ids=["datagram", "stream"])
def test_R7_where_it_is_required_other_answers_are_not_used(certificates, stream):
    world = World(certificates)
    world.core.responder = WrongServer(ignores)
    session = world.channel(stream=stream, rules=REQUIRE)
    world.run(0.5)
    for _ in range(2):
        world.exchange(session)
    assert [sample.reason for sample in session.samples] == [Reason.NOT_PRECISE] * 2
    assert all(sample.offset is not None for sample in session.samples)
    # The next one is asked for it again.
    assert session.exchange.asks_precision


def test_R7_an_answer_that_claims_it_with_another_length_is_not_precise(certificates):
    world = World(certificates)
    world.core.responder = WrongServer(lambda right: oracle.pack(oracle.unpack_message(right)[:-1]))
    session = world.channel(rules=REQUIRE)
    world.run(0.5)
    world.exchange(session)
    assert session.samples[0].reason is Reason.NOT_PRECISE


def test_R7_an_answer_that_cannot_be_padded_by_one_byte_does_not_end_it():
    # What the server reports about its clock leaves a gap of one byte by chance.
    exchange = Exchange(ASK)
    nonce, request = exchange.request(Mode.DATAGRAM, 0.0)
    exchange.sent(nonce, 1, StampSource.USER)
    answer = oracle.pack([(1, nonce), (2, bytes(8)), (3, bytes(8))])
    sample = exchange.answer(answer, 2, StampSource.USER)
    assert sample is not None
    assert not sample.precise
    assert exchange.asks_precision
    assert len(request) > 300


def test_R12_an_exact_sample_stays_precise():
    exchange = Exchange(Rules(precision=Precision.ASK, state_interval=None, era_pivot_ns=0))

    def one(report: str = "") -> tuple[bytes, object]:
        nonce, request = exchange.request(Mode.DATAGRAM)
        exchange.sent(nonce, 10**9, StampSource.USER)
        tlvs = [(1, nonce), (2, ntp(10**9 + 100)), (3, ntp(10**9 + 200))]
        if report:
            tlvs.append((253, b"\x06tsq.t3\x20" + report.encode()))
        tlvs.append((250, b""))
        gap = len(request) - len(oracle.pack(tlvs))
        tlvs += [(254, bytes(gap - 2))] if gap else []
        return nonce, exchange.answer(oracle.pack(tlvs), 10**9 + 1000, StampSource.USER)

    nonce, first = one()
    assert first.precise
    one(nonce[:8].hex() + ntp(10**9 + 300).hex())
    early, late = exchange.revised
    assert early is first
    assert late.exact
    assert late.precise


@pytest.mark.parametrize("value", [True, "require", None, 1])
def test_other_values_are_refused(value):
    with pytest.raises(ConfigError, match=r"tsq\.Precision"):
        ClientOptions(precision=value)
    with pytest.raises(ConfigError, match=r"tsq\.Precision"):
        Rules(precision=value)
