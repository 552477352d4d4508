"""TLVs and messages for all bytes: what the oracle takes is taken alike, all else is MalformedMessage (R4)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import messages, oracle
from tsq._fast import pack_response, pack_tlvs, unpack_message, unpack_tlvs
from tsq.errors import MalformedMessage, MessageError
from tsq.wire.message import ErrorReply, decode_request, decode_response

any_tlvs = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=255)), max_size=12)
known = st.sampled_from([1, 2, 3, 247, 248, 249, 250, 251, 252, 253, 254, 255])
likely_tlvs = st.lists(st.tuples(known, st.sampled_from([0, 0, 2, 6, 8, 16]).flatmap(lambda n: st.binary(min_size=n, max_size=n))))
mutants = st.randoms(use_true_random=False).map(messages.mutated)
any_bytes = st.binary(max_size=400) | mutants | likely_tlvs.map(oracle.pack)


def answer_of(call, data):
    try:
        return call(data)
    except MalformedMessage:
        return None


@given(any_bytes)
@settings(max_examples=400)
def test_unpacking_is_the_oracles(data):
    assert answer_of(unpack_tlvs, data) == oracle.unpack(data)
    assert answer_of(unpack_message, data) == oracle.unpack_message(data)


@given(likely_tlvs)
@settings(max_examples=300)
def test_messages_behind_a_nonce_are_judged_as_the_oracle_does(tlvs):
    data = oracle.pack([(oracle.NONCE, messages.NONCE), *tlvs])
    assert answer_of(unpack_message, data) == oracle.unpack_message(data)


@given(any_bytes)
@settings(max_examples=400)
def test_decoding_raises_nothing_but_our_own_error_and_takes_what_the_oracle_takes(data):
    assert (answer_of(decode_request, data) is not None) == oracle.request_good(data)
    assert (answer_of(decode_response, data) is not None) == oracle.response_good(data)


@pytest.mark.parametrize("whole", messages.MESSAGES, ids=lambda data: data[:24].hex())
def test_cut_at_every_byte_a_message_is_judged_as_the_oracle_does(whole):
    for size in range(len(whole)):
        part = whole[:size]
        assert answer_of(unpack_tlvs, part) == oracle.unpack(part)
        assert answer_of(unpack_message, part) == oracle.unpack_message(part)


@pytest.mark.parametrize("whole", [messages.PLAIN_REQUEST, messages.PLAIN_RESPONSE])
def test_a_plain_message_cut_anywhere_is_malformed_for_its_reader(whole):
    reader = decode_request if whole is messages.PLAIN_REQUEST else decode_response
    reader(whole)
    for size in range(len(whole)):
        with pytest.raises(MalformedMessage):
            reader(whole[:size])


@given(any_tlvs)
def test_packing_is_the_oracles_and_comes_back(tlvs):
    data = pack_tlvs(tlvs)
    assert data == oracle.pack(tlvs)
    assert unpack_tlvs(data) == tlvs


@given(any_bytes)
def test_what_can_be_unpacked_packs_to_the_same_bytes(data):
    tlvs = answer_of(unpack_tlvs, data)
    if tlvs is not None:
        assert pack_tlvs(tlvs) == data


@given(st.binary(min_size=16, max_size=16), st.integers(-(2**62), 2**62), st.integers(-(2**62), 2**62))
def test_a_plain_response_is_nonce_T2_and_T3(nonce, receive_ns, send_ns):
    right = [
        (oracle.NONCE, nonce),
        (oracle.T2, oracle.ntp_from_ns(receive_ns).to_bytes(8, "big")),
        (oracle.T3, oracle.ntp_from_ns(send_ns).to_bytes(8, "big")),
    ]
    assert pack_response(nonce, receive_ns, send_ns) == oracle.pack(right)


@given(st.binary(max_size=253))
def test_any_reason_of_an_error_can_be_read(reason):
    reply = decode_response(oracle.pack([(oracle.ERROR, b"\x02\x00" + reason)]))
    assert isinstance(reply, ErrorReply)
    assert reply.code == 2


@pytest.mark.parametrize("size", [0, 15, 17, 255])
def test_a_plain_response_takes_no_other_nonce(size):
    with pytest.raises(MalformedMessage):
        pack_response(bytes(size), 0, 0)


@pytest.mark.parametrize("kind", [-1, 256, 2**31, 2**70, -(2**70)])
def test_a_type_that_is_no_byte_is_malformed(kind):
    with pytest.raises(MessageError):
        pack_tlvs([(kind, b"")])


def test_a_value_of_256_bytes_is_malformed():
    with pytest.raises(MalformedMessage):
        pack_tlvs([(1, bytes(256))])


@pytest.mark.parametrize("wrong", [None, bytearray(messages.PLAIN_REQUEST), memoryview(b""), "text", 5, [1]])
def test_another_type_is_a_type_error(wrong):
    for call in (unpack_tlvs, unpack_message):
        with pytest.raises(TypeError):
            call(wrong)
    with pytest.raises(TypeError):
        pack_response(wrong, 0, 0)


@pytest.mark.parametrize("wrong", [None, 5, [("1", b"")], [(None, b"")], [(1, "text")], [(1, bytearray())], [1]])
def test_packing_another_type_is_a_type_error(wrong):
    with pytest.raises(TypeError):
        pack_tlvs(wrong)
