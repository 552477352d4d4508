"""Transport: ALPN (R1), Datagram Mode, Stream Mode (R2), and the fallback to Stream Mode."""

import pytest

from tests.support import oracle
from tests.support.foreign import ForeignClient, PacketLog
from tests.support.messages import NONCE, PLAIN_REQUEST
from tests.support.world import World
from tsq.client.exchange import Rules
from tsq.errors import AlpnRefused
from tsq.options import Trust
from tsq.quic import tls
from tsq.timing.sample import Reason
from tsq.wire.message import ErrorReply, Mode, Response, decode_response
from tsq.wire.tlv import ErrorCode

NO_APPLICATION_PROTOCOL = 0x100 + 120  # RFC 9001 §8.1


@pytest.fixture
def world(certificates):
    return World(certificates)


def assert_answered(data: bytes) -> None:
    response = decode_response(data)
    assert isinstance(response, Response)
    assert response.nonce == NONCE


def assert_malformed_reply(data: bytes) -> None:
    reply = decode_response(data)
    assert isinstance(reply, ErrorReply)
    assert reply.code == ErrorCode.MALFORMED_REQUEST


@pytest.mark.draft("2-1")
def test_R1_client_offers_tsq_1_then_tsq():
    assert tls.client_configuration("localhost", Trust()).alpn_protocols == ["tsq/1", "tsq"]


@pytest.mark.draft("R1-1")
@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["tsq/1", "tsq"], "tsq/1"), (["tsq", "tsq/1"], "tsq/1"), (["tsq"], "tsq"), (["tsq/1"], "tsq/1"), (["h3", "tsq"], "tsq")],
)
def test_R1_server_accepts_either_and_prefers_tsq_1(world, offered, chosen):
    client = ForeignClient(world, alpn_protocols=offered)
    assert client.alpn == chosen
    assert_answered(client.ask(PLAIN_REQUEST)[0])
    assert_answered(client.ask_stream(PLAIN_REQUEST))


@pytest.mark.draft("7-1")
@pytest.mark.parametrize("offered", [["h3"], ["tsq/2", "TSQ", "tsq/1 "], None])
def test_R1_server_refuses_any_other_alpn_and_none(world, offered):
    client = ForeignClient(world, alpn_protocols=offered)
    # aioquic reports a close by the peer at the end of the draining period (RFC 9000 §10.2.2).
    world.run(2)
    assert not client.established
    assert client.end is not None
    assert client.end.error_code == NO_APPLICATION_PROTOCOL
    world.run(60)
    assert world.router.connections == []
    assert world.counters.get("requests") == 0


@pytest.mark.draft("6.1-1")
@pytest.mark.parametrize(("spoken", "chosen"), [(["tsq/1"], "tsq/1"), (["tsq"], "tsq"), (["tsq", "tsq/1"], "tsq")])
@pytest.mark.parametrize("stream", [False, True])
def test_R1_client_accepts_either_from_a_server(world, spoken, chosen, stream):
    world.router.configuration.alpn_protocols = spoken
    session = world.channel(stream=stream)
    world.run(0.5)
    world.exchange(session)
    assert session.alpn == chosen
    assert session.samples[0].valid


@pytest.mark.draft("7-2")
@pytest.mark.parametrize("spoken", [["h3"], None])
@pytest.mark.parametrize("stream", [False, True])
def test_R1_client_refuses_a_server_of_another_alpn_or_none(world, spoken, stream):
    world.router.configuration.alpn_protocols = spoken
    session = world.channel(stream=stream)
    world.run(2)
    assert isinstance(session.error, AlpnRefused)
    assert not session.established


@pytest.mark.draft("6.3.2-2", "6.5-a")
def test_datagram_mode_one_frame_is_one_message(world):
    client = ForeignClient(world)
    other = oracle.pack([(oracle.NONCE, bytes(16))])
    answers = client.ask(PLAIN_REQUEST, other)
    assert [decode_response(answer).nonce for answer in answers] == [NONCE, bytes(16)]
    assert client.ask(PLAIN_REQUEST + other) == []


@pytest.mark.draft("R2-1", "R2-2")
@pytest.mark.parametrize("fin", [True, False])
def test_R2_server_answers_with_and_without_fin_and_ends_the_stream(world, fin):
    client = ForeignClient(world)
    stream = client.open()
    assert_answered(client.write(stream, PLAIN_REQUEST, fin=fin))
    assert stream in client.finished


@pytest.mark.parametrize("fin", [True, False])
def test_R2_request_split_at_every_byte_gets_one_answer(world, fin):
    client = ForeignClient(world)
    for split in range(1, len(PLAIN_REQUEST)):
        stream = client.open()
        assert client.write(stream, PLAIN_REQUEST[:split], fin=False) == b""
        assert_answered(client.write(stream, PLAIN_REQUEST[split:], fin=fin))
        assert stream in client.finished
    assert world.counters.get("answered") == len(PLAIN_REQUEST) - 1


def test_R2_request_in_single_bytes_gets_one_answer(world):
    client = ForeignClient(world)
    stream = client.open()
    for byte in PLAIN_REQUEST[:-1]:
        assert client.write(stream, bytes([byte]), fin=False) == b""
    assert_answered(client.write(stream, PLAIN_REQUEST[-1:], fin=False))


def test_R2_fin_after_the_answer_is_ignored(world):
    client = ForeignClient(world)
    stream = client.open()
    # The client sends a second datagram before the server's answer and STOP_SENDING can arrive.
    client.write(stream, PLAIN_REQUEST, fin=False, seconds=0)
    assert_answered(client.write(stream, b"", fin=True))
    assert world.counters.get("requests") == 1
    assert_answered(client.ask_stream(PLAIN_REQUEST))


def test_R2_answered_streams_without_fin_do_not_use_up_the_stream_limit(world):
    # The server stops each answered stream; without that, the limit of 16 would block the client.
    client = ForeignClient(world)
    for _ in range(40):
        assert_answered(client.ask_stream(PLAIN_REQUEST, fin=False))


def test_R2_two_requests_in_one_read_are_malformed_at_fin(world):
    client = ForeignClient(world)
    stream = client.open()
    assert client.write(stream, PLAIN_REQUEST * 2, fin=False) == b""
    assert_malformed_reply(client.write(stream, b"", fin=True))
    assert stream in client.finished


@pytest.mark.parametrize("fin", [True, False])
def test_R2_second_request_after_the_answer_is_ignored(world, fin):
    client = ForeignClient(world)
    stream = client.open()
    # The client sends a second datagram before the server's answer and STOP_SENDING can arrive.
    client.write(stream, PLAIN_REQUEST, fin=False, seconds=0)
    assert_answered(client.write(stream, PLAIN_REQUEST, fin=fin))
    assert world.counters.get("requests") == 1
    assert_answered(client.ask_stream(PLAIN_REQUEST))


@pytest.mark.parametrize("tail", [b"\x00", b"\x64", b"\x64\x05abc", b"GET / HTTP/1.1"])
def test_R2_garbage_after_the_request_is_malformed_at_fin(world, tail):
    client = ForeignClient(world)
    stream = client.open()
    assert client.write(stream, PLAIN_REQUEST + tail, fin=False) == b""
    assert_malformed_reply(client.write(stream, b"", fin=True))
    assert stream in client.finished
    assert_answered(client.ask_stream(PLAIN_REQUEST))


def test_R2_server_waits_for_the_rest_of_an_incomplete_tlv(world):
    client = ForeignClient(world)
    stream = client.open()
    assert client.write(stream, PLAIN_REQUEST + b"\x64\x05abc", fin=False) == b""
    assert_answered(client.write(stream, b"de", fin=False))


def test_R2_stream_without_a_message_gets_an_error_at_fin(world):
    client = ForeignClient(world)
    stream = client.open()
    assert_malformed_reply(client.write(stream, b"", fin=True))
    assert stream in client.finished


@pytest.mark.draft("RFC 9000-1")
def test_R2_an_endless_request_is_stopped(world):
    client = ForeignClient(world)
    stream = client.open()
    for _ in range(4):
        client.write(stream, PLAIN_REQUEST + bytes([100, 255]) + bytes(700), fin=False)
        if stream in client.reset:
            break
    assert stream in client.reset
    assert client.end is None
    assert_answered(client.ask_stream(PLAIN_REQUEST))


def test_R2_client_ends_its_request_with_fin(world):
    log = PacketLog(world)
    session = world.channel(stream=True, rules=Rules(state_interval=None))
    world.run(0.5)
    world.exchange(session)
    frames = [frame for packet in log.packets("packet_received") for frame in packet if frame["frame_type"] == "stream"]
    assert [(frame["offset"], frame["length"], frame.get("fin")) for frame in frames] == [(0, 18, True)]


def test_R2_every_request_has_its_own_client_initiated_bidirectional_stream(world):
    log = PacketLog(world)
    session = world.channel(stream=True)
    world.run(0.5)
    for _ in range(20):
        world.exchange(session, 0.1)
    frames = [frame for packet in log.packets("packet_received") for frame in packet if frame["frame_type"] == "stream"]
    assert [frame["stream_id"] for frame in frames] == [4 * number for number in range(20)]
    assert all(sample.valid for sample in session.samples)
    assert len(session.samples) == 20


@pytest.mark.draft("6.5-b")
def test_both_modes_work_on_one_connection(world):
    client = ForeignClient(world)
    for _ in range(3):
        assert_answered(client.ask(PLAIN_REQUEST)[0])
        assert_answered(client.ask_stream(PLAIN_REQUEST))
    assert world.counters.get("handshakes") == 1
    assert world.counters.get("requests", Mode.DATAGRAM) == world.counters.get("requests", Mode.STREAM) == 3


@pytest.mark.draft("6.5-2")
@pytest.mark.parametrize("limit", [None, 40])
def test_client_uses_stream_mode_and_gives_a_notice_if_the_server_accepts_no_datagrams(world, limit):
    world.router.configuration.max_datagram_frame_size = limit
    session = world.channel()
    world.run(0.5)
    world.exchange(session)
    assert session.mode is Mode.STREAM
    assert len(session.notices) == 1
    assert "Stream Mode" in session.notices[0]
    assert session.samples[0].valid
    assert world.counters.get("requests", Mode.STREAM) == 1


@pytest.mark.draft("6.5-1")
def test_client_gives_no_notice_if_the_server_accepts_datagrams(world):
    session = world.channel()
    world.run(0.5)
    assert session.mode is Mode.DATAGRAM
    assert session.notices == []


@pytest.mark.draft("RFC 9221-1")
def test_server_sends_no_datagram_larger_than_the_client_accepts(world):
    # RFC 9221 §3: 38 bytes of response, 3 bytes of frame.
    client = ForeignClient(world, max_datagram_frame_size=38)
    assert client.ask(PLAIN_REQUEST) == []
    assert world.counters.get("unanswered", "peer takes no datagram of this size") == 1
    assert client.end is None
    assert_answered(client.ask_stream(PLAIN_REQUEST))


def test_a_request_without_an_answer_gives_a_sample_with_its_reason(world):
    session = world.channel(timeout=1.0)
    world.run(0.5)
    world.to_server = lambda data, number: []
    world.exchange(session, 2.0)
    assert [sample.reason for sample in session.samples] == [Reason.NO_ANSWER]
