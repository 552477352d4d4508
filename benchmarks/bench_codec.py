"""Messages: TSQ's compiled codec, and plain Python with `struct`; both follow docs/reference/protocol.md R4."""

import pytest

from benchmarks import plain
from benchmarks.conftest import Show
from benchmarks.measure import SIDES, calls
from tsq import _fast
from tsq.wire import message
from tsq.wire.tlv import TlvType

ROUNDS = 40
NONCE = bytes(range(16))
T2, T3 = 1_800_000_000_123_456_789, 1_800_000_000_123_567_890
PLAIN_REQUEST = message.encode_request(NONCE)
PLAIN_RESPONSE = _fast.pack_response(NONCE, T2, T3)
FULL_TLVS = [
    (int(kind), value)
    for kind, value in (
        message.ClockQuality(3, 120, 500, "stratum 2 by NTP").tlv(),
        message.TimeSource(2, 3, "time.example.com").tlv(),
        message.metadata_tlv({"site": "us-east", "rack": "7", "tsq.t3": "1800000000123456789"}),
        (TlvType.PADDING, bytes(64)),
        (TlvType.SIGNATURE, bytes((1, 0, 0, 0, 7, 0, 64)) + bytes(64)),
    )
]
FULL_RESPONSE = PLAIN_RESPONSE + _fast.pack_tlvs(FULL_TLVS)


def agree() -> None:
    """Check that both sides give the same results; otherwise the comparison is worthless."""
    assert plain.unpack_message(FULL_RESPONSE) == _fast.unpack_message(FULL_RESPONSE)
    assert plain.pack_tlvs(FULL_TLVS) == _fast.pack_tlvs(FULL_TLVS)
    assert plain.pack_response(NONCE, T2, T3) == PLAIN_RESPONSE
    ours, theirs = message.decode_response(FULL_RESPONSE), plain.decode_response(FULL_RESPONSE)
    assert isinstance(ours, message.Response)
    assert (ours.receive_ntp, ours.send_ntp, ours.metadata) == (theirs.receive_ntp, theirs.send_ntp, theirs.metadata)
    assert ours.signature is not None
    assert theirs.signature is not None
    assert ours.signature.covered == theirs.signature[3]


@pytest.mark.parametrize("side", SIDES)
def test_unpack_plain_request(side: str, show: Show) -> None:
    call = calls(tsq=(_fast.unpack_message, PLAIN_REQUEST), plain=(plain.unpack_message, PLAIN_REQUEST))
    show("codec: unpack_message, 18 B request", side, ROUNDS, call)


@pytest.mark.parametrize("side", SIDES)
def test_unpack_full_response(side: str, show: Show) -> None:
    agree()
    call = calls(tsq=(_fast.unpack_message, FULL_RESPONSE), plain=(plain.unpack_message, FULL_RESPONSE))
    show(f"codec: unpack_message, {len(FULL_RESPONSE)} B response", side, ROUNDS, call)


@pytest.mark.parametrize("side", SIDES)
def test_pack_tlvs(side: str, show: Show) -> None:
    show("codec: pack_tlvs, 5 TLVs", side, ROUNDS, calls(tsq=(_fast.pack_tlvs, FULL_TLVS), plain=(plain.pack_tlvs, FULL_TLVS)))


@pytest.mark.parametrize("side", SIDES)
def test_pack_response(side: str, show: Show) -> None:
    call = calls(tsq=(_fast.pack_response, NONCE, T2, T3), plain=(plain.pack_response, NONCE, T2, T3))
    show("codec: pack_response", side, ROUNDS, call)


@pytest.mark.parametrize("side", SIDES)
def test_decode_request(side: str, show: Show) -> None:
    call = calls(tsq=(message.decode_request, PLAIN_REQUEST), plain=(plain.decode_request, PLAIN_REQUEST))
    show("codec: decode_request, 18 B", side, ROUNDS, call)


@pytest.mark.parametrize("side", SIDES)
def test_decode_plain_response(side: str, show: Show) -> None:
    call = calls(tsq=(message.decode_response, PLAIN_RESPONSE), plain=(plain.decode_response, PLAIN_RESPONSE))
    show("codec: decode_response, 38 B", side, ROUNDS, call)


@pytest.mark.parametrize("side", SIDES)
def test_decode_full_response(side: str, show: Show) -> None:
    call = calls(tsq=(message.decode_response, FULL_RESPONSE), plain=(plain.decode_response, FULL_RESPONSE))
    show(f"codec: decode_response, {len(FULL_RESPONSE)} B", side, ROUNDS, call)
