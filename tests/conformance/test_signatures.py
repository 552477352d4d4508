"""Signatures: the covered bytes (R5), and missing or invalid signatures (R6), for both algorithms and both modes."""

import hashlib
import hmac
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support import oracle
from tests.support.foreign import ForeignClient, WrongServer
from tests.support.messages import NONCE, PLAIN_REQUEST
from tests.support.world import World
from tsq.client.exchange import Exchange, Rules
from tsq.server.responder import NoResponse, Responder
from tsq.timing.sample import Reason, StampSource
from tsq.wire.message import ErrorReply, Mode, TimeSource, decode_response, encode_request
from tsq.wire.signature import Ed25519Signer, HmacSigner, Verifier
from tsq.wire.tlv import ErrorCode

SECRET = bytes(range(32))
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY_ID = 0xA1B2C3D4
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["datagram", "stream"])


class Keys(NamedTuple):
    """A signer, its verifier, and its algorithm and signature size on the wire."""

    signer: object
    verifier: Verifier
    algorithm: int
    size: int


ED25519 = Keys(Ed25519Signer(KEY_ID, PRIVATE), Verifier({KEY_ID: PRIVATE.public_key()}), 1, 64)
HMAC = Keys(HmacSigner(KEY_ID, SECRET), Verifier({KEY_ID: SECRET}), 2, 32)
KEYS = pytest.mark.parametrize("keys", [ED25519, HMAC], ids=["ed25519", "hmac"])


def verify(algorithm: int, covered: bytes, signature: bytes) -> None:
    """Check a signature without TSQ's own code."""
    if algorithm == 1:
        PRIVATE.public_key().verify(signature, covered)
    else:
        assert hmac.new(SECRET, covered, hashlib.sha256).digest() == signature


def asked(certificates, keys, answer=None, *, stream):
    """The sample of one exchange with a requested signature; `answer` makes the server's answer from the right one."""
    world = World(certificates, signer=keys.signer)
    if answer is not None:
        world.core.responder = wrong = WrongServer(answer)
        wrong.signer = keys.signer
    session = world.channel(stream=stream, rules=Rules(verifier=keys.verifier))
    world.run(0.5)
    world.exchange(session, 4)
    (sample,) = session.samples
    return sample


def change_block(data: bytes, change) -> bytes:
    *rest, (kind, value) = oracle.unpack(data)
    assert kind == oracle.SIGNATURE
    block = bytearray(value)
    change(block)
    return oracle.pack([*rest, (kind, bytes(block))])


def without_signature(data: bytes) -> bytes:
    return oracle.pack(oracle.unpack(data)[:-1])


def by_another_key_id(data: bytes) -> bytes:
    return change_block(data, lambda block: block.__setitem__(4, block[4] ^ 1))


def by_another_algorithm(data: bytes) -> bytes:
    return change_block(data, lambda block: block.__setitem__(0, 3 - block[0]))


def by_no_algorithm(data: bytes) -> bytes:
    return change_block(data, lambda block: block.__setitem__(0, 0))


def with_a_flipped_bit(data: bytes) -> bytes:
    return change_block(data, lambda block: block.__setitem__(-1, block[-1] ^ 1))


def with_an_empty_signature(data: bytes) -> bytes:
    def empty(block):
        block[5:] = b"\x00\x00"

    return change_block(data, empty)


def with_half_a_signature(data: bytes) -> bytes:
    def half(block):
        block[5:7] = b"\x00\x10"
        del block[7 + 16 :]

    return change_block(data, half)


def with_another_T3(data: bytes) -> bytes:
    return data[:37] + bytes([data[37] ^ 1]) + data[38:]


def with_a_tlv_slipped_in(data: bytes) -> bytes:
    tlvs = oracle.unpack(data)
    return oracle.pack([*tlvs[:-1], (100, b""), tlvs[-1]])


def with_the_order_changed(data: bytes) -> bytes:
    nonce, t2, t3, *rest = oracle.unpack(data)
    return oracle.pack([nonce, t3, t2, *rest])


BAD = [
    without_signature,
    by_another_key_id,
    by_another_algorithm,
    by_no_algorithm,
    with_a_flipped_bit,
    with_an_empty_signature,
    with_half_a_signature,
    with_another_T3,
    with_a_tlv_slipped_in,
    with_the_order_changed,
]


@pytest.mark.draft("6.3.2-39", "6.3.2-42", "6.3.2-e", "8-2", "8-3", "8-4")
@KEYS
@STREAM
def test_R5_signature_covers_exactly_the_bytes_before_it(certificates, keys, stream):
    world = World(certificates, signer=keys.signer, clock_info=(TimeSource(1, 1, "roof").tlv(),))
    client = ForeignClient(world)
    request = encode_request(NONCE, signature=True, metadata_query=True, precision_size=200)
    answer = client.ask_stream(request) if stream else client.ask(request)[0]
    kind, block = oracle.unpack(answer)[-1]
    assert kind == 255
    assert block[0] == keys.algorithm
    assert int.from_bytes(block[1:5], "big") == KEY_ID
    assert int.from_bytes(block[5:7], "big") == keys.size == len(block) - 7
    verify(keys.algorithm, answer[: -2 - len(block)], block[7:])


@pytest.mark.draft("6.3.2-8", "6.3.2-43", "6.3.2-45", "6.5-3", "7.1-2")
@KEYS
@STREAM
def test_R5_signed_exchange_makes_a_valid_sample(certificates, keys, stream):
    assert asked(certificates, keys, stream=stream).valid


@KEYS
def test_R5_every_bit_of_the_message_is_covered(keys):
    draft = Responder(signer=keys.signer).prepare(encode_request(NONCE, signature=True), 10**18, Mode.DATAGRAM)
    right = draft.complete(10**18 + 1000)
    for at in range(len(right)):
        wrong = right[:at] + bytes([right[at] ^ 0x10]) + right[at + 1 :]
        exchange = Exchange(Rules(verifier=keys.verifier))
        exchange.sent(NONCE, 10**18 - 1000, StampSource.USER)
        sample = exchange.answer(wrong, 10**18 + 5000, StampSource.USER)
        assert sample is not None
        assert not sample.valid, f"bit of byte {at}"


@pytest.mark.draft("6.3.2-36")
@KEYS
def test_R5_the_covered_bytes_are_those_on_the_wire(keys):
    # Decoding and encoding again would lose unknown types and the length of the padding.
    covered = oracle.pack([(1, NONCE), (77, b"?"), (2, bytes(8)), (254, b""), (3, bytes(8)), (254, bytes(3))])
    block = decode_response(covered + oracle.pack([keys.signer.sign(covered)])).signature
    assert block.covered == covered
    keys.verifier.check(block)


@pytest.mark.draft("7-7", "7.1-3", "8-7", "8-9")
@KEYS
@STREAM
@pytest.mark.parametrize("bad", BAD)
def test_R6_client_rejects_a_response_without_a_valid_signature(certificates, keys, stream, bad):
    sample = asked(certificates, keys, bad, stream=stream)
    assert sample.reason is Reason.SIGNATURE
    assert sample.offset is None


@pytest.mark.parametrize(("signer", "verifier"), [(ED25519.signer, HMAC.verifier), (HMAC.signer, ED25519.verifier)])
def test_R6_key_of_one_algorithm_never_verifies_the_other(certificates, signer, verifier):
    assert asked(certificates, Keys(signer, verifier, 0, 0), stream=False).reason is Reason.SIGNATURE


def test_R6_a_public_key_is_never_used_as_an_hmac_secret(certificates):
    # Algorithm confusion: an attacker uses the public key as the secret of an HMAC.
    public = PRIVATE.public_key().public_bytes_raw()
    assert asked(certificates, Keys(HmacSigner(KEY_ID, public), ED25519.verifier, 0, 0), stream=False).reason is Reason.SIGNATURE


@pytest.mark.draft("7-6", "R6-1")
def test_R6_server_without_a_key_answers_error_3_on_a_stream(certificates):
    world = World(certificates)
    client = ForeignClient(world)
    stream = client.open()
    reply = decode_response(client.write(stream, encode_request(NONCE, signature=True), fin=True))
    assert isinstance(reply, ErrorReply)
    assert reply.code == ErrorCode.AUTHENTICATION_REQUIRED == 3
    assert stream in client.finished
    assert world.counters.get("unanswered", NoResponse.CANNOT_SIGN) == 1


def test_R6_server_without_a_key_is_silent_in_datagram_mode(certificates):
    world = World(certificates)
    client = ForeignClient(world)
    assert client.ask(encode_request(NONCE, signature=True), PLAIN_REQUEST) == client.datagram_messages
    assert [decode_response(answer).signature for answer in client.datagram_messages] == [None]
    assert world.counters.get("unanswered", NoResponse.CANNOT_SIGN) == 1


@STREAM
def test_R6_client_of_a_server_without_a_key_gets_the_reason(certificates, stream):
    sample = asked(certificates, Keys(None, HMAC.verifier, 0, 0), stream=stream)
    assert sample.reason is (Reason.ERROR_REPLY if stream else Reason.NO_ANSWER)
    assert not stream or "code 3" in sample.detail


@pytest.mark.draft("8-1")
@KEYS
@STREAM
def test_R6_a_response_is_signed_only_on_request(certificates, keys, stream):
    client = ForeignClient(World(certificates, signer=keys.signer))
    answer = client.ask_stream(PLAIN_REQUEST) if stream else client.ask(PLAIN_REQUEST)[0]
    assert len(answer) == 38


@KEYS
@STREAM
def test_R6_client_accepts_a_signature_that_it_did_not_request(certificates, keys, stream):
    world = World(certificates)
    world.core.responder = WrongServer(lambda right: right + oracle.pack([keys.signer.sign(right)]))
    session = world.channel(stream=stream)
    world.run(0.5)
    world.exchange(session)
    assert session.samples[0].valid
