"""Signers and verifiers: published test vectors, and signatures that must be refused (R5, R6)."""

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from tests.support import oracle
from tests.support.messages import PLAIN_RESPONSE
from tsq.errors import ConfigError, SignatureError
from tsq.wire.message import decode_response
from tsq.wire.signature import Ed25519Signer, HmacSigner, Verifier

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNERS = {"ed25519": Ed25519Signer(7, PRIVATE), "hmac": HmacSigner(7, b"sixteen bytes ok")}
VERIFIERS = {"ed25519": Verifier({7: PRIVATE.public_key()}), "hmac": Verifier({7: b"sixteen bytes ok"})}
BOTH = pytest.mark.parametrize("kind", ["ed25519", "hmac"])


def block_over(signer, covered=PLAIN_RESPONSE):
    return decode_response(covered + oracle.pack([signer.sign(covered)])).signature


def test_ed25519_gives_the_vector_of_rfc_8032():
    # RFC 8032 §7.1, test 3.
    secret = bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
    right = (
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )
    kind, value = Ed25519Signer(1, Ed25519PrivateKey.from_private_bytes(secret)).sign(bytes.fromhex("af82"))
    assert kind == 255
    assert value == bytes.fromhex("01 00000001 0040") + bytes.fromhex(right)


def test_hmac_gives_the_vector_of_rfc_4231():
    # RFC 4231 §4.4, test case 3.
    right = "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"
    kind, value = HmacSigner(0xFFFFFFFF, b"\xaa" * 20).sign(b"\xdd" * 50)
    assert kind == 255
    assert value == bytes.fromhex("02 ffffffff 0020") + bytes.fromhex(right)


@BOTH
def test_the_block_has_the_size_of_the_signers_block_size(kind):
    signer = SIGNERS[kind]
    assert len(oracle.pack([signer.sign(b"x")])) == signer.block_size


@BOTH
def test_a_valid_signature_is_accepted(kind):
    VERIFIERS[kind].check(block_over(SIGNERS[kind]))


@BOTH
def test_a_missing_signature_is_refused(kind):
    with pytest.raises(SignatureError):
        VERIFIERS[kind].check(None)


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        {"key_id": 8},
        {"key_id": 0},
        {"algorithm": 0},
        {"algorithm": 3},
        {"algorithm": 255},
        {"signature": b""},
        {"signature": bytes(64)},
        {"signature": bytes(32)},
        {"covered": PLAIN_RESPONSE[:-1]},
        {"covered": PLAIN_RESPONSE + b"\x00"},
        {"covered": b""},
    ],
    ids=str,
)
def test_a_changed_block_is_refused(kind, change):
    with pytest.raises(SignatureError):
        VERIFIERS[kind].check(dataclasses.replace(block_over(SIGNERS[kind]), **change))


@BOTH
@given(st.data())
def test_any_other_signature_is_refused(kind, data):
    block = block_over(SIGNERS[kind])
    other = data.draw(st.binary(max_size=100).filter(lambda signature: signature != block.signature))
    with pytest.raises(SignatureError):
        VERIFIERS[kind].check(dataclasses.replace(block, signature=other))


def test_the_algorithm_is_that_of_the_key_not_of_the_block():
    both = Verifier({7: PRIVATE.public_key(), 8: b"sixteen bytes ok"})
    ed25519, mac = block_over(SIGNERS["ed25519"]), block_over(SIGNERS["hmac"])
    both.check(ed25519)
    both.check(dataclasses.replace(mac, key_id=8))
    for wrong in (mac, dataclasses.replace(ed25519, key_id=8), dataclasses.replace(ed25519, algorithm=2)):
        with pytest.raises(SignatureError):
            both.check(wrong)


def test_a_verifier_without_keys_refuses_every_signature():
    with pytest.raises(SignatureError):
        Verifier({}).check(block_over(SIGNERS["hmac"]))


@pytest.mark.parametrize("size", [0, 15])
def test_a_short_secret_is_refused(size):
    with pytest.raises(ConfigError):
        HmacSigner(1, bytes(size))
    with pytest.raises(ConfigError):
        Verifier({1: bytes(size)})


@BOTH
def test_secrets_are_not_in_a_repr(kind):
    assert "sixteen" not in repr(SIGNERS[kind]) + repr(VERIFIERS[kind])
    assert "PrivateKey" not in repr(SIGNERS[kind])
