"""Keys for Signature Blocks as text: a line for each key, with its algorithm and its id (docs/reference/cli.md, tsq-keygen).

Comes in: text, or keys. Goes out: keys, or text. It must never read a file, and never show a secret in an error.

    tsq-signing-key ed25519 2712847316 (Base64 of the private key's 32 bytes)
    tsq-verify-key ed25519 2712847316 (Base64 of the public key's 32 bytes)

An HMAC secret is the same in both. Lines that begin with # are comments.
"""

import os
from base64 import b64decode, b64encode
from hashlib import sha256

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tsq.errors import ConfigError
from tsq.wire.signature import Ed25519Signer, HmacSigner, Verifier

SigningKey = Ed25519Signer | HmacSigner
_SIGNING, _VERIFY = "tsq-signing-key", "tsq-verify-key"
ED25519, HMAC_SHA256 = ALGORITHMS = ("ed25519", "hmac-sha256")
_SECRET_SIZE = 32
_MOST_ID = 0xFFFFFFFF


def make_key(algorithm: str, key_id: int | None = None) -> SigningKey:
    """A new key. key_id: None: from the key, so that two keys have different ids (but for one chance in four thousand million)."""
    if algorithm not in ALGORITHMS:
        raise ConfigError(f"algorithm {algorithm!r}", expected=" or ".join(ALGORITHMS))
    if key_id is not None and not 0 <= key_id <= _MOST_ID:
        raise ConfigError(f"key id {key_id}", expected=f"0 to {_MOST_ID}")
    if algorithm == HMAC_SHA256:
        secret = os.urandom(_SECRET_SIZE)
        return HmacSigner(_id_of(secret) if key_id is None else key_id, secret)
    private = Ed25519PrivateKey.generate()
    return Ed25519Signer(_id_of(_public_bytes(private.public_key())) if key_id is None else key_id, private)


def signing_line(key: SigningKey) -> str:
    """The line with the secret, for the server."""
    if isinstance(key, HmacSigner):
        return _line(_SIGNING, HMAC_SHA256, key.key_id, key.secret)
    secret = key.private_key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return _line(_SIGNING, ED25519, key.key_id, secret)


def verify_line(key: SigningKey) -> str:
    """The line for clients. Of an HMAC key it has the secret: whoever checks signatures can make them, too."""
    if isinstance(key, HmacSigner):
        return _line(_VERIFY, HMAC_SHA256, key.key_id, key.secret)
    return _line(_VERIFY, ED25519, key.key_id, _public_bytes(key.private_key.public_key()))


def parse_signing_keys(text: str, name: str) -> list[SigningKey]:
    """The keys of a signing key file, in its order. name: of the file, for errors. Raises ConfigError."""
    keys: list[SigningKey] = []
    for where, algorithm, key_id, value in _lines(text, name, _SIGNING):
        if algorithm == HMAC_SHA256:
            keys.append(HmacSigner(key_id, value))
            continue
        try:
            keys.append(Ed25519Signer(key_id, Ed25519PrivateKey.from_private_bytes(value)))
        except (ValueError, UnsupportedAlgorithm):
            raise ConfigError(f"{where}: a private key of {len(value)} bytes", expected="32 bytes in Base64") from None
    return keys


def parse_verify_keys(text: str, name: str) -> dict[int, Ed25519PublicKey | bytes]:
    """The keys of a verify key file by their ids. name: of the file, for errors. Raises ConfigError."""
    keys: dict[int, Ed25519PublicKey | bytes] = {}
    for where, algorithm, key_id, value in _lines(text, name, _VERIFY):
        if key_id in keys:
            raise ConfigError(f"{where}: key id {key_id} again", expected="each id once")
        if algorithm == HMAC_SHA256:
            keys[key_id] = value
            continue
        try:
            keys[key_id] = Ed25519PublicKey.from_public_bytes(value)
        except (ValueError, UnsupportedAlgorithm):
            raise ConfigError(f"{where}: a public key of {len(value)} bytes", expected="32 bytes in Base64") from None
    return keys


def verifier_of(*files: dict[int, Ed25519PublicKey | bytes]) -> Verifier:
    """A verifier that trusts the keys of all these files. Raises ConfigError where two have one id and differ."""
    together: dict[int, Ed25519PublicKey | bytes] = {}
    for keys in files:
        for key_id, key in keys.items():
            if key_id in together and key_bytes(together[key_id]) != key_bytes(key):
                raise ConfigError(f"two different keys with id {key_id}", expected="each id once")
            together[key_id] = key
    return Verifier(together)


def _line(kind: str, algorithm: str, key_id: int, value: bytes) -> str:
    return f"{kind} {algorithm} {key_id} {b64encode(value).decode('ascii')}\n"


def _lines(text: str, name: str, kind: str) -> list[tuple[str, str, int, bytes]]:
    """(where it is, algorithm, key id, the key's bytes) of each line. Raises ConfigError; no error repeats what may be a secret."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        where = f"{name}, line {number}"
        if not words or words[0].startswith("#"):
            continue
        if words[0] in (_SIGNING, _VERIFY) and words[0] != kind:
            advice = "give the file that ends in .pub" if kind == _VERIFY else "give the file without .pub"
            raise ConfigError(f"{where}: a {words[0]}", expected=f"a {kind}", advice=advice)
        if len(words) != 4 or words[0] != kind or words[1] not in ALGORITHMS:
            raise ConfigError(f"{where} is not a key", expected=f"{kind} {'|'.join(ALGORITHMS)} ID BASE64")
        if not words[2].isascii() or not words[2].isdecimal() or len(words[2]) > 10 or int(words[2]) > _MOST_ID:
            raise ConfigError(f"{where}: key id {words[2][:20]!r}", expected=f"a number from 0 to {_MOST_ID}")
        try:
            value = b64decode(words[3], validate=True)
        except ValueError:
            raise ConfigError(f"{where}: a key that is not Base64", expected="the Base64 of its bytes") from None
        if words[1] == HMAC_SHA256 and len(value) < _SECRET_SIZE:
            raise ConfigError(f"{where}: a secret of {len(value)} bytes", expected=f"at least {_SECRET_SIZE}")
        found.append((where, words[1], int(words[2]), value))
    if not found:
        raise ConfigError(f"{name} holds no key", expected=f"a line that begins with {kind}")
    return found


def _id_of(value: bytes) -> int:
    return int.from_bytes(sha256(value).digest()[:4], "big")


def _public_bytes(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def key_bytes(key: Ed25519PublicKey | bytes) -> bytes:
    """The bytes of a public key or a secret."""
    return key if isinstance(key, bytes) else _public_bytes(key)
