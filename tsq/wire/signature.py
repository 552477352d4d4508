"""Signature Blocks (docs/reference/protocol.md R5, R6): Ed25519 or HMAC-SHA256 over all bytes of the message before the block.

Comes in: keys with their ids, the covered bytes, a Signature Block. Goes out: a TLV, or SignatureError. Must never accept a missing
signature, an unknown key id, or another algorithm than the key's.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tsq.errors import ConfigError, SignatureError
from tsq.wire.message import SignatureBlock, Tlv
from tsq.wire.tlv import SignatureAlgorithm, TlvType

_SECTION = "docs/reference/protocol.md R6"
_ED25519_SIZE = 64
_HMAC_SIZE = 32
_MIN_SECRET_SIZE = 16
_BLOCK_HEADER_SIZE = 2 + 7


class Signer(Protocol):
    """A signing key, as a responder uses it."""

    @property
    def block_size(self) -> int:
        """The size of the Signature Block on the wire, bytes."""

    def sign(self, covered: bytes) -> Tlv:
        """The Signature Block that covers these bytes."""


@dataclass(frozen=True, slots=True)
class Ed25519Signer:
    """Signs with an Ed25519 key (64-byte signatures)."""

    key_id: int
    private_key: Ed25519PrivateKey = field(repr=False)

    @property
    def block_size(self) -> int:
        """The size of the Signature Block on the wire, bytes."""
        return _BLOCK_HEADER_SIZE + _ED25519_SIZE

    def sign(self, covered: bytes) -> Tlv:
        """The Signature Block that covers these bytes."""
        return _block(SignatureAlgorithm.ED25519, self.key_id, self.private_key.sign(covered))


@dataclass(frozen=True, slots=True)
class HmacSigner:
    """Signs with HMAC-SHA256 and a shared secret of at least 16 bytes (32-byte signatures)."""

    key_id: int
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check_secret(self.secret)

    @property
    def block_size(self) -> int:
        """The size of the Signature Block on the wire, bytes."""
        return _BLOCK_HEADER_SIZE + _HMAC_SIZE

    def sign(self, covered: bytes) -> Tlv:
        """The Signature Block that covers these bytes."""
        return _block(SignatureAlgorithm.HMAC_SHA256, self.key_id, hmac.digest(self.secret, covered, "sha256"))


@dataclass(frozen=True, slots=True)
class Verifier:
    """The keys that a client trusts: key id -> Ed25519 public key, or HMAC secret."""

    keys: Mapping[int, Ed25519PublicKey | bytes] = field(repr=False)

    def __post_init__(self) -> None:
        for key in self.keys.values():
            if isinstance(key, bytes):
                _check_secret(key)

    def check(self, block: SignatureBlock | None) -> None:
        """Raise SignatureError unless there is a block by a known key, with that key's algorithm and a valid signature (R6)."""
        if block is None:
            raise SignatureError("a response without a signature", expected="the requested signature", section=_SECTION)
        key = self.keys.get(block.key_id)
        if key is None:
            raise SignatureError(f"a signature by key {block.key_id}", expected="a trusted key", section=_SECTION)
        if isinstance(key, bytes):
            good = block.algorithm == SignatureAlgorithm.HMAC_SHA256 and hmac.compare_digest(
                hmac.digest(key, block.covered, "sha256"), block.signature
            )
        else:
            good = block.algorithm == SignatureAlgorithm.ED25519 and _ed25519_good(key, block)
        if not good:
            raise SignatureError(f"a bad signature by key {block.key_id}", expected="a valid one", section=_SECTION)


def _ed25519_good(key: Ed25519PublicKey, block: SignatureBlock) -> bool:
    try:
        key.verify(block.signature, block.covered)
    except InvalidSignature:
        return False
    return True


def _block(algorithm: int, key_id: int, signature: bytes) -> Tlv:
    header = bytes([algorithm]) + key_id.to_bytes(4, "big") + len(signature).to_bytes(2, "big")
    return TlvType.SIGNATURE, header + signature


def _check_secret(secret: bytes) -> None:
    if len(secret) < _MIN_SECRET_SIZE:
        raise ConfigError(f"an HMAC secret of {len(secret)} bytes", expected=f"at least {_MIN_SECRET_SIZE}")
