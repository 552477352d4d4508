"""Messages as dataclasses: encoding and decoding match, and text from the network never raises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import oracle
from tests.support.messages import NONCE, PLAIN_REQUEST, PLAIN_RESPONSE, SIGNATURE_BLOCK, SITE, T2_NTP, T3_NTP, TIMESTAMPS
from tsq.errors import MalformedMessage, MessageError
from tsq.wire.message import (
    ClockQuality,
    Request,
    Response,
    SignatureBlock,
    TimeSource,
    decode_metadata,
    decode_request,
    decode_response,
    encode_request,
    is_response,
    metadata_tlv,
)

flags = st.booleans()
texts = st.text(max_size=20)


def test_plain_request():
    assert encode_request(NONCE) == PLAIN_REQUEST
    assert decode_request(PLAIN_REQUEST) == Request(NONCE, size=18)


@given(flags, flags, st.none() | st.dictionaries(texts, texts, max_size=1), st.none() | st.integers(18, 900))
def test_an_encoded_request_can_be_decoded(query, signature, metadata, size):
    data = encode_request(NONCE, metadata_query=query, signature=signature, metadata=metadata, precision_size=size)
    assert decode_request(data) == Request(NONCE, query, size is not None, signature, metadata, len(data))


@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_nonce_of_another_size_is_not_encoded(size):
    with pytest.raises(MalformedMessage):
        encode_request(bytes(size))


def test_plain_response():
    response = decode_response(PLAIN_RESPONSE)
    assert response == Response(NONCE, T2_NTP, T3_NTP)
    assert response.signature is None


def test_timestamps_stay_numbers_with_their_top_bit():
    high = oracle.pack([(1, NONCE), (2, b"\xff" * 8), (3, bytes(8))])
    assert decode_response(high).receive_ntp == 2**64 - 1
    assert decode_response(high).send_ntp == 0


def test_full_response():
    before = [(1, NONCE), *TIMESTAMPS, (248, b"\x01\x00\x00\x05\x00\x09GPS"), (251, b"\x01\x02roof"), (253, SITE), (250, b"")]
    data = oracle.pack([*before, (254, bytes(5)), SIGNATURE_BLOCK])
    assert decode_response(data) == Response(
        NONCE,
        T2_NTP,
        T3_NTP,
        ClockQuality(1, 5, 9, "GPS"),
        TimeSource(1, 2, "roof"),
        {"site": "us-east"},
        True,
        SignatureBlock(1, 7, bytes(range(64)), oracle.pack([*before, (254, bytes(5))])),
    )


def test_timestamps_may_be_anywhere_after_the_nonce():
    assert decode_response(oracle.pack([(1, NONCE), (250, b""), *reversed(TIMESTAMPS)])).receive_ntp == T2_NTP


def test_metadata_of_several_tlvs_is_merged():
    data = oracle.pack([(1, NONCE), metadata_tlv({"a": "1", "b": "2"}), metadata_tlv({"b": "3"})])
    assert decode_request(data).metadata == {"a": "1", "b": "3"}


def test_empty_metadata_is_not_the_same_as_none():
    assert decode_request(oracle.pack([(1, NONCE), (253, b"")])).metadata == {}
    assert decode_request(PLAIN_REQUEST).metadata is None


@given(st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3))
def test_encoded_metadata_can_be_decoded(pairs):
    kind, value = metadata_tlv(pairs)
    assert kind == 253
    assert decode_metadata(value) == pairs
    assert oracle.metadata_good(value)


@given(st.binary(max_size=255))
def test_any_bytes_are_metadata_or_malformed(value):
    try:
        decode_metadata(value)
    except MessageError:
        assert not oracle.metadata_good(value)
    else:
        assert oracle.metadata_good(value)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_text_that_is_not_utf_8_is_escaped_not_refused(tag, text):
    data = PLAIN_RESPONSE + oracle.pack([(248, bytes(6) + tag), (251, bytes(2) + text), (253, bytes([len(tag)]) + tag + b"\x00")])
    response = decode_response(data)
    assert response.clock_quality.tag == tag.decode("utf-8", "backslashreplace")
    assert response.time_source.description == text.decode("utf-8", "backslashreplace")
    assert len(response.metadata) == 1


@pytest.mark.parametrize("size", range(38))
def test_a_response_is_complete_only_with_its_last_byte(size):
    assert is_response(PLAIN_RESPONSE)
    assert not is_response(PLAIN_RESPONSE[:size])


def test_an_error_has_the_position_and_the_rule():
    with pytest.raises(MalformedMessage) as caught:
        decode_request(PLAIN_REQUEST + b"\x64\x05abcd")
    assert "byte 18" in str(caught.value)
    assert "R4" in caught.value.section
