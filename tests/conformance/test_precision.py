"""Precision Mode: request and response of the same length (R7), by the responder alone and in both modes."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support import oracle
from tests.support.foreign import ForeignClient
from tests.support.messages import NONCE
from tests.support.world import World
from tsq.client.exchange import Rules
from tsq.server.responder import Responder
from tsq.wire.message import ClockQuality, Mode, TimeSource, decode_response, encode_request, padding, tlvs_size
from tsq.wire.signature import Ed25519Signer, HmacSigner, Verifier

RECEIVED_NS = 1_800_000_000_000_000_000
MANDATORY = 38 + 2  # nonce, T2, T3, and 250
ED25519 = Ed25519Signer(1, Ed25519PrivateKey.from_private_bytes(bytes(32)))
HMAC = HmacSigner(1, bytes(16))
# 22 and 14 bytes on the wire.
QUALITY, SOURCE = ClockQuality(1, 2, 3, "a-good-clock--").tlv(), TimeSource(1, 1, "roof-north").tlv()


def padded_request(size: int, *, query: bool = False, signature: bool = False) -> bytes:
    """A Precision Mode request of exactly this size, made without the code under test."""
    tlvs = [(1, NONCE), (250, b"")] + query * [(247, b"")] + signature * [(252, b"")]
    gap = size - len(oracle.pack(tlvs))
    assert gap == 0 or gap >= 2
    while gap > 257:
        tlvs.append((254, bytes(100)))
        gap -= 102
    if gap:
        tlvs.append((254, bytes(gap - 2)))
    data = oracle.pack(tlvs)
    assert len(data) == size
    return data


def answer_to(request: bytes, **responder) -> bytes:
    return Responder(**responder).prepare(request, RECEIVED_NS, Mode.DATAGRAM).complete(RECEIVED_NS + 1)


def kinds_of(data: bytes) -> list[int]:
    return [kind for kind, _ in oracle.unpack_message(data)]


def assert_padding_is_zero_and_last(answer: bytes) -> None:
    tlvs = oracle.unpack_message(answer)
    before_signature = [tlv for tlv in tlvs if tlv[0] != 255]
    kinds = [kind for kind, _ in before_signature]
    assert 254 not in kinds or set(kinds[kinds.index(254) :]) == {254}
    assert all(not any(value) for kind, value in tlvs if kind == 254)


@pytest.mark.draft("6.3.2-38", "6.3.2-41", "6.4-7", "6.4-9", "6.4-10", "R7-2")
@pytest.mark.parametrize("gap", [0, 2, 3, 4, 255, 256, 257, 258, 259, 260, 513, 514, 515, 516, 517, 771, 772, 1000])
@pytest.mark.parametrize("signer", [None, ED25519, HMAC], ids=["plain", "ed25519", "hmac"])
def test_R7_response_is_as_long_as_its_request(gap, signer):
    size = MANDATORY + gap + (signer.block_size if signer else 0)
    answer = answer_to(padded_request(size, signature=signer is not None), signer=signer)
    assert len(answer) == size
    assert 250 in kinds_of(answer)
    assert_padding_is_zero_and_last(answer)
    if signer:
        assert kinds_of(answer)[-1] == 255


@pytest.mark.draft("R7-1")
@pytest.mark.parametrize("signer", [None, ED25519, HMAC], ids=["plain", "ed25519", "hmac"])
def test_R7_gap_of_one_byte_omits_250(signer):
    size = MANDATORY + 1 + (signer.block_size if signer else 0)
    answer = answer_to(padded_request(size, signature=signer is not None), signer=signer)
    assert kinds_of(answer) == [1, 2, 3] + ([255] if signer else [])


@pytest.mark.draft("6.4-3")
@pytest.mark.parametrize("size", [20, 22, 30, 38, 39])
def test_R7_mandatory_tlvs_that_do_not_fit_omit_250(size):
    answer = answer_to(padded_request(size))
    assert kinds_of(answer) == [1, 2, 3]
    assert len(answer) == 38


def test_R7_signature_that_does_not_fit_omits_250_and_is_kept():
    # The client requested the signature, so it is mandatory.
    size = MANDATORY + HMAC.block_size - 1
    assert kinds_of(answer_to(padded_request(size, signature=True), signer=HMAC)) == [1, 2, 3, 255]


@pytest.mark.parametrize(
    ("size", "kinds"),
    [
        (MANDATORY + 36, [1, 2, 3, 248, 251, 250]),
        (MANDATORY + 38, [1, 2, 3, 248, 251, 250, 254]),
        (MANDATORY + 35, [1, 2, 3, 248, 250, 254]),
        (MANDATORY + 22, [1, 2, 3, 248, 250]),
        (MANDATORY + 21, [1, 2, 3, 250, 254]),
        (MANDATORY, [1, 2, 3, 250]),
    ],
)
def test_R7_optional_tlvs_are_omitted_to_fit(size, kinds):
    answer = answer_to(padded_request(size, query=True), clock_info=(QUALITY, SOURCE))
    assert kinds_of(answer) == kinds
    assert len(answer) == size


@pytest.mark.draft("6.4-6")
@pytest.mark.parametrize("size", range(MANDATORY, MANDATORY + 80))
@pytest.mark.parametrize("signer", [None, HMAC], ids=["plain", "hmac"])
def test_R7_with_250_the_length_is_equal_for_every_size(size, signer):
    size += signer.block_size if signer else 0
    answer = answer_to(padded_request(size, query=True, signature=signer is not None), clock_info=(QUALITY, SOURCE), signer=signer)
    kinds = kinds_of(answer)
    assert (len(answer) == size) == (250 in kinds)
    assert_padding_is_zero_and_last(answer)
    gap_is_one = size - MANDATORY - (signer.block_size if signer else 0) in (1, 23, 37)
    assert (250 in kinds) != gap_is_one


@pytest.mark.draft("3-1", "6.4-1")
def test_R7_without_250_in_the_request_nothing_is_padded():
    answer = answer_to(oracle.pack([(1, NONCE), (254, bytes(200))]))
    assert kinds_of(answer) == [1, 2, 3]


@pytest.mark.draft("6.3.2-37", "6.3.2-40", "6.4-8")
@pytest.mark.parametrize("size", [0, 2, 3, 256, 257, 258, 259, 514, 515, 516, 772, 1100])
def test_R7_padding_fills_any_gap_but_one_byte(size):
    assert tlvs_size(padding(size)) == size
    assert all(kind == 254 and len(value) <= 255 and not any(value) for kind, value in padding(size))


def test_R7_no_padding_fills_one_byte():
    assert padding(1) is None


@pytest.mark.parametrize("size", [20, 22, 40, 100, 277, 278, 279, 280, 534, 535, 1000])
def test_R7_client_pads_its_request_to_the_response_it_expects(size):
    request = encode_request(NONCE, precision_size=size)
    assert len(request) == size
    assert kinds_of(request)[:2] == [1, 250]
    assert_padding_is_zero_and_last(request)


@pytest.mark.draft("6.4-2")
@pytest.mark.parametrize("stream", [False, True], ids=["datagram", "stream"])
@pytest.mark.parametrize("size", [40, 41, 42, 298, 555, 1000])
def test_R7_precision_mode_works_in_both_modes(certificates, stream, size):
    client = ForeignClient(World(certificates))
    request = padded_request(size)
    answer = client.ask_stream(request) if stream else client.ask(request)[0]
    response = decode_response(answer)
    assert response.precision == (size != 41)
    assert len(answer) == (size if response.precision else 38)


@pytest.mark.parametrize("stream", [False, True], ids=["datagram", "stream"])
@pytest.mark.parametrize("signed", [False, True])
def test_R7_precision_mode_works_between_our_client_and_server(certificates, stream, signed):
    world = World(certificates, signer=HMAC, clock_info=(QUALITY, SOURCE))
    size = 200
    rules = Rules(precision_size=size, metadata_query=True, verifier=Verifier({1: bytes(16)}) if signed else None)
    session = world.channel(stream=stream, rules=rules)
    world.run(0.5)
    world.exchange(session)
    assert session.samples[0].valid
    assert session.exchange.last_response.precision
    assert (session.exchange.last_response.signature is not None) == signed
