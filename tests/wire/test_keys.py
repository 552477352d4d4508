"""Keys as text: what is written is read again, what is wrong is named by its line, and no secret is in an error."""

import contextlib
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tsq._fast import pack_response, pack_tlvs
from tsq.errors import ConfigError
from tsq.wire.keys import ALGORITHMS, make_key, parse_signing_keys, parse_verify_keys, signing_line, verifier_of, verify_line
from tsq.wire.message import decode_response
from tsq.wire.signature import Verifier

BOTH = pytest.mark.parametrize("algorithm", ALGORITHMS)


def response_signed_by(key):
    covered = pack_response(bytes(16), 5, 6)
    return decode_response(covered + pack_tlvs([key.sign(covered)]))


@BOTH
def test_what_is_written_is_read_again(algorithm):
    key = make_key(algorithm)
    (read,) = parse_signing_keys("# a comment\n\n" + signing_line(key), "file")
    assert (read.key_id, signing_line(read)) == (key.key_id, signing_line(key))
    verifier = verifier_of(parse_verify_keys(verify_line(key), "file.pub"))
    verifier.check(response_signed_by(read).signature)


def test_the_id_is_made_from_the_key_or_chosen():
    first, second = make_key("ed25519"), make_key("ed25519")
    assert first.key_id != second.key_id
    assert make_key("hmac-sha256", 0).key_id == 0
    assert make_key("ed25519", 0xFFFFFFFF).key_id == 0xFFFFFFFF
    for wrong in (-1, 1 << 32):
        with pytest.raises(ConfigError, match=f"key id {wrong} "):
            make_key("ed25519", wrong)
    with pytest.raises(ConfigError, match="algorithm 'rsa'"):
        make_key("rsa")


def test_a_public_key_says_nothing_of_the_private_one():
    key = make_key("ed25519")
    assert isinstance(parse_verify_keys(verify_line(key), "x")[key.key_id], Ed25519PublicKey)
    assert signing_line(key).split()[3] not in verify_line(key)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "keys holds no key (expected a line that begins with tsq-signing-key)"),
        ("# only this\n", "keys holds no key (expected a line that begins with tsq-signing-key)"),
        ("\ntsq-signing-key ed25519 1\n", "keys, line 2 is not a key (expected tsq-signing-key ed25519|hmac-sha256 ID BASE64)"),
        ("tsq-signing-key rsa 1 AAAA", "keys, line 1 is not a key (expected tsq-signing-key ed25519|hmac-sha256 ID BASE64)"),
        ("tsq-signing-key ed25519 -1 AAAA", "keys, line 1: key id '-1' (expected a number from 0 to 4294967295)"),
        ("tsq-signing-key ed25519 4294967296 AAAA", "keys, line 1: key id '4294967296' (expected a number from 0 to 4294967295)"),
        ("tsq-signing-key ed25519 ٣ AAAA", "keys, line 1: key id '٣' (expected a number from 0 to 4294967295)"),
        ("tsq-signing-key ed25519 1 SECRET!", "keys, line 1: a key that is not Base64 (expected the Base64 of its bytes)"),
        ("tsq-signing-key ed25519 1 AAAA", "keys, line 1: a private key of 3 bytes (expected 32 bytes in Base64)"),
        ("tsq-signing-key hmac-sha256 1 AAAA", "keys, line 1: a secret of 3 bytes (expected at least 32)"),
        (
            "tsq-verify-key ed25519 1 AAAA",
            "keys, line 1: a tsq-verify-key (expected a tsq-signing-key): give the file without .pub",
        ),
    ],
)
def test_a_line_that_is_wrong_is_named(text, words):
    with pytest.raises(ConfigError) as error:
        parse_signing_keys(text, "keys")
    assert str(error.value) == words


def test_clients_keys_are_checked_as_well():
    key = make_key("ed25519", 3)
    for text, words in (
        (signing_line(key), "a tsq-signing-key (expected a tsq-verify-key): give the file that ends in .pub"),
        ("tsq-verify-key ed25519 1 AAAA", "a public key of 3 bytes"),
        (2 * verify_line(key), "key id 3 again"),
    ):
        with pytest.raises(ConfigError) as error:
            parse_verify_keys(text, "keys")
        assert words in str(error.value)
        assert signing_line(key).split()[3] not in str(error.value)


def test_one_id_for_two_keys_is_an_error_and_the_same_key_twice_is_none():
    one, other = (parse_verify_keys(verify_line(make_key("ed25519", 3)), "x") for _ in range(2))
    assert isinstance(verifier_of(one, one), Verifier)
    with pytest.raises(ConfigError, match="two different keys with id 3"):
        verifier_of(one, other)


def test_no_text_makes_anything_but_keys_or_an_error():
    seeded = random.Random(11)
    good = signing_line(make_key("ed25519")) + verify_line(make_key("hmac-sha256"))
    for _ in range(3000):
        text = list(good)
        for _ in range(seeded.randrange(1, 6)):
            text[seeded.randrange(len(text))] = chr(seeded.choice((0, 10, 32, 43, 61, 65, 0x661, 0x1F600, seeded.randrange(256))))
        for parse in (parse_signing_keys, parse_verify_keys):
            with contextlib.suppress(ConfigError):
                assert parse("".join(text), "keys")
