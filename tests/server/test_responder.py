"""From a request's bytes to a draft, a response or a refusal (R2, R4 to R7)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import messages, oracle
from tests.support.messages import NONCE, PLAIN_REQUEST
from tsq.server.responder import Draft, NoResponse, Responder, Unanswered, stream_request_ready
from tsq.wire.message import ErrorReply, Mode, TimeSource, decode_response, encode_request
from tsq.wire.signature import HmacSigner

T2_NS = 1_800_000_000_000_000_000
MODES = pytest.mark.parametrize("mode", list(Mode))
SIGNER = HmacSigner(1, bytes(16))


@MODES
def test_a_plain_request_gets_38_bytes_with_both_times(mode):
    response = Responder().prepare(PLAIN_REQUEST, T2_NS, mode).complete(T2_NS + 123)
    assert response == oracle.pack(
        [
            (1, NONCE),
            (2, oracle.ntp_from_ns(T2_NS).to_bytes(8, "big")),
            (3, oracle.ntp_from_ns(T2_NS + 123).to_bytes(8, "big")),
        ]
    )


def test_the_same_time_twice_is_no_step_back():
    assert isinstance(Responder().prepare(PLAIN_REQUEST, T2_NS, Mode.DATAGRAM).complete(T2_NS), bytes)


@MODES
def test_no_answer_has_T3_before_T2(mode):
    assert Responder().prepare(PLAIN_REQUEST, T2_NS, mode).complete(T2_NS - 1) == Unanswered(NoResponse.CLOCK_WENT_BACK)


def test_a_malformed_request_gets_an_error_message_on_a_stream_only():
    assert Responder().prepare(b"\x01", T2_NS, Mode.DATAGRAM) == Unanswered(NoResponse.MALFORMED)
    refusal = Responder().prepare(b"\x01", T2_NS, Mode.STREAM)
    assert isinstance(decode_response(refusal.error), ErrorReply)


def test_a_request_that_cannot_be_signed_gets_an_error_message_on_a_stream_only():
    request = encode_request(NONCE, signature=True)
    assert Responder().prepare(request, T2_NS, Mode.DATAGRAM) == Unanswered(NoResponse.CANNOT_SIGN)
    assert decode_response(Responder().prepare(request, T2_NS, Mode.STREAM).error).code == 3


def test_signer_and_clock_info_may_be_replaced_at_any_time():
    responder = Responder()
    request = encode_request(NONCE, signature=True, metadata_query=True)
    assert isinstance(responder.prepare(request, T2_NS, Mode.DATAGRAM), Unanswered)
    responder.signer, responder.clock_info = SIGNER, (TimeSource(1, 1).tlv(),)
    response = responder.prepare(request, T2_NS, Mode.DATAGRAM).complete(T2_NS)
    assert [kind for kind, _ in oracle.unpack(response)] == [1, 2, 3, 251, 255]


@MODES
def test_nothing_is_reported_about_the_clock_without_a_metadata_query(mode):
    responder = Responder(None, (TimeSource(1, 1).tlv(),), {"tsq.leap": "0"})
    request = encode_request(NONCE, metadata={"tsq.leap": ""})
    response = responder.prepare(request, T2_NS, mode).complete(T2_NS)
    assert [kind for kind, _ in oracle.unpack(response)] == [1, 2, 3]


@given(st.binary(max_size=60) | st.randoms(use_true_random=False).map(messages.mutated), st.sampled_from(list(Mode)))
def test_any_bytes_get_a_response_or_a_refusal(data, mode):
    responder = Responder(SIGNER, (TimeSource(1, 1, "roof").tlv(),))
    draft = responder.prepare(data, T2_NS, mode)
    if oracle.request_good(data):
        assert isinstance(draft, Draft)
        response = draft.complete(T2_NS + 1)
        assert oracle.response_good(response)
        assert response[:18] == data[:18]
    else:
        assert draft.reason is NoResponse.MALFORMED
        assert oracle.response_good(draft.error) == (mode is Mode.STREAM)


@given(st.binary(max_size=60) | st.randoms(use_true_random=False).map(messages.mutated))
def test_a_stream_is_ready_at_its_end_or_when_it_is_a_whole_message(data):
    assert stream_request_ready(data, True)
    assert stream_request_ready(data, False) == (oracle.unpack_message(data) is not None)
