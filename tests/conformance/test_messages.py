"""Messages: the Error TLV (R3), what is malformed or skipped (R4), Metadata, Clock Quality Info, Time Source Info (R12)."""

import pytest

from tests.support import oracle
from tests.support.foreign import ForeignClient, WrongServer
from tests.support.messages import NONCE, PLAIN_REQUEST, PLAIN_RESPONSE, SIGNATURE_BLOCK, SITE
from tests.support.world import World
from tsq._fast import pack_tlvs, unpack_tlvs
from tsq.client.exchange import Rules
from tsq.errors import MalformedMessage
from tsq.server.responder import NoResponse
from tsq.timing.sample import Reason
from tsq.wire.message import (
    ClockQuality,
    ErrorReply,
    Response,
    TimeSource,
    decode_metadata,
    decode_request,
    decode_response,
    encode_error,
    encode_request,
    metadata_tlv,
)
from tsq.wire.signature import HmacSigner
from tsq.wire.tlv import ClockClass, ErrorCode, SignatureAlgorithm, SourceType, TlvType

HEAD = (oracle.NONCE, NONCE)

MALFORMED_REQUESTS = {
    "empty": b"",
    "lone_byte": b"\x01",
    "value_missing": b"\x01\x10",
    "value_one_byte_short": PLAIN_REQUEST[:-1],
    "tlv_past_the_end": PLAIN_REQUEST + b"\x64\x05abcd",
    "largest_tlv_past_the_end": PLAIN_REQUEST + b"\xfe\xff",
    "lone_trailing_byte": PLAIN_REQUEST + b"\x00",
    "no_nonce": oracle.pack([(oracle.METADATA_QUERY, b"")]),
    "nonce_second": oracle.pack([(oracle.METADATA_QUERY, b""), HEAD]),
    "unknown_type_before_the_nonce": oracle.pack([(100, b""), HEAD]),
    "nonce_of_15": oracle.pack([(oracle.NONCE, NONCE[:15])]),
    "nonce_of_17": oracle.pack([(oracle.NONCE, NONCE + b"\x00")]),
    "nonce_of_0": oracle.pack([(oracle.NONCE, b"")]),
    "second_nonce": PLAIN_REQUEST * 2,
    "T2_of_7": oracle.pack([HEAD, (oracle.T2, bytes(7))]),
    "T3_of_9": oracle.pack([HEAD, (oracle.T3, bytes(9))]),
    "second_T2": oracle.pack([HEAD, (oracle.T2, bytes(8)), (oracle.T2, bytes(8))]),
    "second_T3": oracle.pack([HEAD, (oracle.T3, bytes(8)), (oracle.T3, bytes(8))]),
    "metadata_query_with_a_value": oracle.pack([HEAD, (oracle.METADATA_QUERY, b"\x00")]),
    "precision_with_a_value": oracle.pack([HEAD, (oracle.PRECISION, b"\x00")]),
    "second_precision": oracle.pack([HEAD, (oracle.PRECISION, b""), (oracle.PRECISION, b"")]),
    "signature_request_with_a_value": oracle.pack([HEAD, (oracle.SIGNATURE_REQUEST, b"\x00")]),
    "second_signature_request": oracle.pack([HEAD, (oracle.SIGNATURE_REQUEST, b""), (oracle.SIGNATURE_REQUEST, b"")]),
    "second_signature": oracle.pack([HEAD, SIGNATURE_BLOCK, SIGNATURE_BLOCK]),
    "padding_after_the_signature": oracle.pack([HEAD, SIGNATURE_BLOCK, (oracle.PADDING, b"")]),
    "unknown_type_after_the_signature": oracle.pack([HEAD, SIGNATURE_BLOCK, (100, b"")]),
    "metadata_key_past_the_end": oracle.pack([HEAD, (oracle.METADATA, b"\x05site")]),
    "metadata_value_past_the_end": oracle.pack([HEAD, (oracle.METADATA, SITE[:-1])]),
    "metadata_key_without_value": oracle.pack([HEAD, (oracle.METADATA, SITE[:5])]),
}

# Wrong answers, made from the right one.
MALFORMED_RESPONSES = {
    "empty": lambda right: b"",
    "cut": lambda right: right[:-1],
    "lone_trailing_byte": lambda right: right + b"\x00",
    "tlv_past_the_end": lambda right: right + b"\x64\x05abcd",
    "no_T2": lambda right: right[:18] + right[28:],
    "no_T3": lambda right: right[:28],
    "T2_of_7": lambda right: right[:18] + b"\x02\x07" + right[20:27] + right[28:],
    "second_T2": lambda right: right + right[18:28],
    "second_T3": lambda right: right + right[28:],
    "second_nonce": lambda right: right + right[:18],
    "nonce_last": lambda right: right[18:] + right[:18],
    "nonce_of_15": lambda right: b"\x01\x0f" + right[2:17] + right[18:],
    "precision_with_a_value": lambda right: right + b"\xfa\x01\x00",
    "second_precision": lambda right: right + b"\xfa\x00\xfa\x00",
    "tlv_after_the_signature": lambda right: right + oracle.pack([SIGNATURE_BLOCK, (oracle.PADDING, b"")]),
    "signature_length_wrong": lambda right: right + oracle.pack([(oracle.SIGNATURE, b"\x01\x00\x00\x00\x07\x00\x41" + bytes(64))]),
    "signature_of_6": lambda right: right + oracle.pack([(oracle.SIGNATURE, bytes(6))]),
    "clock_quality_of_5": lambda right: right + oracle.pack([(oracle.QUALITY, bytes(5))]),
    "time_source_of_1": lambda right: right + oracle.pack([(oracle.SOURCE, bytes(1))]),
    "metadata_without_value": lambda right: right + oracle.pack([(oracle.METADATA, SITE[:5])]),
    "error_not_alone": lambda right: oracle.pack([(oracle.ERROR, b"\x01\x00no")]) + right,
    "error_of_1": lambda right: oracle.pack([(oracle.ERROR, b"\x01")]),
}


@pytest.fixture
def world(certificates):
    return World(certificates)


def by_name(cases):
    return pytest.mark.parametrize("case", cases.values(), ids=cases.keys())


# ------------------------------------------------------------------------------------------------- R4, the server's side


@pytest.mark.draft("6.3.2-3", "6.3.2-24", "6.4-13", "6.6-2")
@by_name(MALFORMED_REQUESTS)
def test_R4_malformed_request_in_datagram_mode_is_dropped_and_counted(world, case):
    client = ForeignClient(world)
    assert client.ask(case) == []
    assert world.counters.get("unanswered", NoResponse.MALFORMED) == 1
    assert world.counters.get("unanswered") == 1
    assert len(client.ask(PLAIN_REQUEST)) == 1


@pytest.mark.draft("6.6-3")
@by_name(MALFORMED_REQUESTS)
def test_R4_malformed_request_in_stream_mode_gets_error_1_then_fin(world, case):
    client = ForeignClient(world)
    stream = client.open()
    reply = decode_response(client.write(stream, case, fin=True))
    assert isinstance(reply, ErrorReply)
    assert reply.code == ErrorCode.MALFORMED_REQUEST == 1
    assert reply.reason
    assert stream in client.finished
    assert world.counters.get("unanswered", NoResponse.MALFORMED) == 1
    assert isinstance(decode_response(client.ask_stream(PLAIN_REQUEST)), Response)


@pytest.mark.draft("6.3.2-20", "6.3.2-21")
def test_R4_error_tlv_is_alone(world):
    reply = ForeignClient(world).ask_stream(b"\x01")
    ((kind, value),) = oracle.unpack(reply)
    assert kind == TlvType.ERROR
    assert value[:2] == b"\x01\x00"
    value[2:].decode()


@pytest.mark.draft("R4-1")
def test_R4_a_malformed_request_does_not_affect_others_in_the_same_packet(world):
    client = ForeignClient(world)
    assert len(client.ask(b"\x01", PLAIN_REQUEST, PLAIN_REQUEST + b"\x00")) == 1
    assert world.counters.get("unanswered", NoResponse.MALFORMED) == 2


SKIPPED = [(0, b""), (4, b"\x00"), (100, b"what is this"), (246, bytes(255)), (248, b""), (251, b"")]


@pytest.mark.draft("6.3.2-5")
@pytest.mark.parametrize("stream", [False, True])
def test_R4_unknown_types_in_a_request_are_skipped(world, stream):
    client = ForeignClient(world)
    request = oracle.pack([HEAD, *SKIPPED, *SKIPPED])
    answer = client.ask_stream(request) if stream else client.ask(request)[0]
    assert [kind for kind, _ in oracle.unpack(answer)] == [1, 2, 3]


@pytest.mark.draft("6.3.1-3")
def test_R4_every_type_from_4_to_246_is_skipped():
    for kind in range(4, 247):
        assert decode_request(oracle.pack([HEAD, (kind, b"x"), (kind, b"")])).nonce == NONCE
        assert decode_response(PLAIN_RESPONSE + oracle.pack([(kind, b"x"), (kind, b"")])) == decode_response(PLAIN_RESPONSE)


@pytest.mark.draft("6.3.2-32")
@pytest.mark.parametrize("kind", [247, 248, 251, 253, 254])
def test_R4_other_types_may_repeat(kind):
    value = {248: bytes(6), 251: bytes(2)}.get(kind, b"")
    assert decode_request(oracle.pack([HEAD, (kind, value), (kind, value)])).nonce == NONCE


@pytest.mark.draft("6.3.2-1", "6.3.2-6", "6.3.2-9", "6.3.2-19")
def test_R4_response_is_in_order(certificates):
    clock_info = (ClockQuality(1, 2, 3, "x").tlv(), TimeSource(1, 1, "y").tlv(), metadata_tlv({"site": "us-east"}))
    world = World(certificates, signer=HmacSigner(1, bytes(16)), clock_info=clock_info)
    request = encode_request(NONCE, metadata_query=True, signature=True, precision_size=200)
    for answer in (ForeignClient(world).ask(request)[0], ForeignClient(world).ask_stream(request)):
        assert [kind for kind, _ in oracle.unpack(answer)] == [1, 2, 3, 248, 251, 253, 250, 254, 255]


def test_R4_request_is_in_order():
    request = encode_request(NONCE, metadata_query=True, signature=True, metadata={"a": "b"}, precision_size=100)
    kinds = [kind for kind, _ in oracle.unpack(request)]
    assert kinds[0] == TlvType.NONCE
    assert kinds[-1] == TlvType.PADDING
    assert sorted(kinds[1:-1]) == [247, 250, 252, 253]


# ------------------------------------------------------------------------------------------------- R4, the client's side


@pytest.mark.draft("6.6-1")
@by_name(MALFORMED_RESPONSES)
@pytest.mark.parametrize("stream", [False, True], ids=["datagram", "stream"])
def test_R4_malformed_response_makes_no_valid_sample(world, case, stream):
    session = world.channel(stream=stream)
    world.run(0.5)
    world.core.responder = WrongServer(case)
    world.exchange(session, 4)
    assert [sample.reason for sample in session.samples] == [Reason.MALFORMED]
    assert session.samples[0].offset is None
    world.core.responder = world.responder
    world.exchange(session)
    assert session.samples[1].valid


@pytest.mark.parametrize("stream", [False, True])
def test_R4_unknown_types_in_a_response_are_skipped(world, stream):
    world.core.responder = WrongServer(lambda right: right + oracle.pack([(4, b""), (246, b"xyz"), (4, b"again")]))
    session = world.channel(stream=stream)
    world.run(0.5)
    world.exchange(session)
    assert session.samples[0].valid


@pytest.mark.draft("6.3.2-22", "6.3.2-25")
@pytest.mark.parametrize("stream", [False, True])
def test_R4_error_reply_is_a_sample_with_its_reason(world, stream):
    world.core.responder = WrongServer(lambda right: encode_error(2, "not here"))
    session = world.channel(stream=stream)
    world.run(0.5)
    world.exchange(session)
    assert session.samples[0].reason is Reason.ERROR_REPLY
    assert "code 2" in session.samples[0].detail
    assert "not here" in session.samples[0].detail


# ------------------------------------------------------------------------------------------------------------------- R3


@pytest.mark.draft("6.3.2-23")
@pytest.mark.parametrize(
    ("reason", "size"),
    [("a" * 253, 253), ("a" * 254, 253), ("é" * 200, 252), ("a" + "é" * 200, 253), ("€" * 100, 252), ("𝄞" * 64, 252), ("", 0)],
)
def test_R3_reason_is_cut_to_253_bytes_between_characters(reason, size):
    data = encode_error(1, reason)
    ((kind, value),) = oracle.unpack(data)
    assert kind == TlvType.ERROR
    assert value[:2] == b"\x01\x00"
    assert len(value) == 2 + size
    assert reason.startswith(value[2:].decode())
    assert decode_response(data) == ErrorReply(1, value[2:].decode())


def test_R3_reason_of_255_bytes_value_can_be_read():
    assert decode_response(oracle.pack([(oracle.ERROR, b"\x03\x00" + b"x" * 253)])) == ErrorReply(3, "x" * 253)


# ------------------------------------------------------------------------------------------------------- the TLV table


@pytest.mark.draft("6.3.2-a", "6.3.2-b")
def test_plain_messages_have_18_and_38_bytes(world):
    assert encode_request(NONCE) == b"\x01\x10" + NONCE
    answer = ForeignClient(world).ask(PLAIN_REQUEST)[0]
    assert len(answer) == 38
    assert answer[:18] == PLAIN_REQUEST
    assert answer[18:20] == b"\x02\x08"
    assert answer[28:30] == b"\x03\x08"


@pytest.mark.draft("5-2", "9-17", "9-18", "9-19")
def test_nonces_are_16_bytes_and_never_repeat(world):
    session = world.channel()
    world.run(0.5)
    seen = set()
    for _ in range(50):
        nonce, message = session.exchange.request()
        assert message[2:18] == nonce
        seen.add(nonce)
    assert len(seen) == 50


@pytest.mark.draft("6.3.1-1")
def test_type_and_code_numbers_are_those_of_the_protocol():
    assert {kind.name: kind.value for kind in TlvType} == {
        "NONCE": 1, "RECEIVE_TIMESTAMP": 2, "SEND_TIMESTAMP": 3, "METADATA_QUERY": 247, "CLOCK_QUALITY": 248, "ERROR": 249,
        "PRECISION_MODE": 250, "TIME_SOURCE": 251, "SIGNATURE_REQUEST": 252, "METADATA": 253, "PADDING": 254, "SIGNATURE": 255,
    }  # fmt: skip
    assert [(code.name, code.value) for code in ErrorCode] == [
        ("MALFORMED_REQUEST", 1), ("UNSUPPORTED_TLV", 2), ("AUTHENTICATION_REQUIRED", 3),
    ]  # fmt: skip
    assert [code.value for code in ClockClass] == [0, 1, 2, 3, 4, 5]
    assert [code.value for code in SourceType] == [1, 2, 3, 4, 5]
    assert (SignatureAlgorithm.ED25519, SignatureAlgorithm.HMAC_SHA256) == (1, 2)


@pytest.mark.draft("6.3.2-d")
def test_metadata_is_encoded_as_in_the_example():
    assert metadata_tlv({"site": "us-east"}) == (253, bytes.fromhex("04 73 69 74 65 07 75 73 2d 65 61 73 74"))
    assert decode_metadata(SITE) == {"site": "us-east"}


@pytest.mark.draft("6.3.2-12")
def test_metadata_keys_are_in_byte_order():
    pairs = {"é": "5", "b": "3", "B": "1", "a": "2", "ba": "4", "": "0"}
    _, value = metadata_tlv(pairs)
    assert list(decode_metadata(value)) == ["", "B", "a", "b", "ba", "é"]
    assert decode_metadata(value) == pairs


@pytest.mark.parametrize("pairs", [{"k" * 256: ""}, {"k": "v" * 256}, {"k" * 200: "v" * 100}, {"k": "v" * 253}])
def test_metadata_that_does_not_fit_is_refused(pairs):
    with pytest.raises(MalformedMessage):
        metadata_tlv(pairs)


def test_metadata_may_fill_a_value_of_255_bytes():
    kind, value = metadata_tlv({"k": "v" * 252})
    assert len(value) == 255
    assert unpack_tlvs(pack_tlvs([(kind, value)])) == [(kind, value)]


@pytest.mark.draft("6.3.2-10", "6.3.2-11")
@pytest.mark.parametrize("stream", [False, True])
def test_metadata_query_is_answered_with_the_servers_clock_info(certificates, stream):
    quality, source = ClockQuality(ClockClass.GNSS, 1, 20, "u-blox"), TimeSource(1, SourceType.GPS, "roof")
    world = World(certificates, clock_info=(quality.tlv(), source.tlv(), metadata_tlv({"site": "us-east"})))
    session = world.channel(stream=stream, rules=Rules(metadata_query=True))
    world.run(0.5)
    world.exchange(session)
    response = session.exchange.last_response
    assert session.samples[0].valid
    assert response.clock_quality == quality
    assert response.time_source == source
    assert response.metadata == {"site": "us-east"}


@pytest.mark.parametrize("request_metadata", [None, {}, {"hello": "there"}])
def test_R12_a_response_has_no_metadata_that_was_not_requested(certificates, request_metadata):
    world = World(certificates, clock_info=(TimeSource(1, 1).tlv(),), signer=HmacSigner(1, bytes(16)))
    request = encode_request(NONCE, metadata=request_metadata)
    assert [kind for kind, _ in oracle.unpack(ForeignClient(world).ask(request)[0])] == [1, 2, 3]


@pytest.mark.draft("6.3.2-15", "6.3.2-c")
@pytest.mark.parametrize(
    ("error_us", "drift_ppb", "wire"),
    [(5, 9, "0005 0009"), (65535, 65535, "ffff ffff"), (65536, 10**9, "ffff ffff"), (-1, 0, "0000 0000"), (258, 513, "0102 0201")],
)
def test_clock_quality_saturates(error_us, drift_ppb, wire):
    kind, value = ClockQuality(3, error_us, drift_ppb, "tag").tlv()
    assert kind == 248
    assert value == bytes([3, 0]) + bytes.fromhex(wire) + b"tag"


@pytest.mark.draft("6.3.2-16")
def test_clock_quality_tag_is_cut_between_characters():
    _, value = ClockQuality(0, 0, 0, "é" * 200).tlv()
    assert len(value) == 254
    value[6:].decode()


def test_time_source_is_stratum_type_text():
    assert TimeSource(1, 1, "GPS").tlv() == (251, b"\x01\x01GPS")
    assert TimeSource(0, 5).tlv() == (251, b"\x00\x05")
    _, value = TimeSource(2, 3, "€" * 100).tlv()
    assert len(value) == 254
    response = decode_response(PLAIN_RESPONSE + pack_tlvs([(251, b"\x10\x63caf\xe9")]))
    assert (response.time_source.stratum, response.time_source.source_type) == (16, 99)


def test_the_reserved_byte_of_clock_quality_is_ignored():
    response = decode_response(PLAIN_RESPONSE + pack_tlvs([(248, b"\x01\xff\x00\x05\x00\x09")]))
    assert response.clock_quality == ClockQuality(1, 5, 9, "")
