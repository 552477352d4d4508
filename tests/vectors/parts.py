"""What the vectors are made of: TLVs, texts, timestamps, keys. Independent of TSQ's code, so that a fault there shows."""

import hmac
import json
from fractions import Fraction
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HERE = Path(__file__).resolve().parent
NONCE_BYTES = bytes(range(16))
NS = 10**9
UNIX_EPOCH = (70 * 365 + 17) * 86400
# 2026-11-23 02:00:00.123456789 UTC and 250 µs later: the example of docs/reference/protocol.md.
T2_NS = 1_795_399_200_123_456_789
T3_NS = T2_NS + 250_000

Vector = dict[str, Any]


def tlv(kind: int, value: bytes = b"") -> bytes:
    return bytes([kind, len(value)]) + value


def ntp(unix_ns: int) -> int:
    """R9: rounded up, modulo the era."""
    return ceil(Fraction((unix_ns + UNIX_EPOCH * NS) << 32, NS)) % (1 << 64)


def stamp(unix_ns: int) -> bytes:
    return ntp(unix_ns).to_bytes(8, "big")


def metadata(*pairs: tuple[str, str]) -> bytes:
    """Metadata (253), in the order given."""
    parts = [part.encode() for pair in pairs for part in pair]
    return tlv(253, b"".join(bytes([len(part)]) + part for part in parts))


def quality(clock_class: int, error_us: int, drift_ppb: int, tag: bytes = b"") -> bytes:
    return tlv(248, bytes([clock_class, 0]) + error_us.to_bytes(2, "big") + drift_ppb.to_bytes(2, "big") + tag)


def source(stratum: int, source_type: int, text: bytes = b"") -> bytes:
    return tlv(251, bytes([stratum, source_type]) + text)


NONCE = tlv(1, NONCE_BYTES)
QUERY, PRECISION, SIGN = tlv(247), tlv(250), tlv(252)
T2, T3 = tlv(2, stamp(T2_NS)), tlv(3, stamp(T3_NS))
ANSWER = NONCE + T2 + T3
LAB = quality(3, 120, 15000, b"lab") + source(2, 3, b"ntp")

# Keys that are for these vectors only. The first Ed25519 key is that of RFC 8032 §7.1, TEST 1.
KEYS: dict[str, Vector] = {
    "ed25519-a": {
        "key_id": 1,
        "algorithm": "ed25519",
        "private": "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
    },
    "ed25519-b": {"key_id": 0xFFFFFFFF, "algorithm": "ed25519", "private": bytes(range(32)).hex()},
    "hmac-a": {"key_id": 7, "algorithm": "hmac-sha256", "secret": bytes(range(0x20, 0x40)).hex()},
    "hmac-b": {"key_id": 0, "algorithm": "hmac-sha256", "secret": bytes(range(0x40, 0x72)).hex()},
}
for _key in KEYS.values():
    if "private" in _key:
        _key["public"] = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(_key["private"])).public_key().public_bytes_raw().hex()


def signature(name: str, covered: bytes) -> bytes:
    key = KEYS[name]
    if "secret" in key:
        return hmac.digest(bytes.fromhex(key["secret"]), covered, "sha256")
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key["private"])).sign(covered)


def block(algorithm: int, key_id: int, value: bytes, *, length: int | None = None) -> bytes:
    """A Signature Block. length: another one than the signature has."""
    stated = len(value) if length is None else length
    return tlv(255, bytes([algorithm]) + key_id.to_bytes(4, "big") + stated.to_bytes(2, "big") + value)


def signed(name: str, covered: bytes) -> bytes:
    """These bytes with a Signature Block that covers them (R5)."""
    key = KEYS[name]
    return covered + block(2 if "secret" in key else 1, key["key_id"], signature(name, covered))


def blind(number: int) -> bytes:
    """What stands for 32 random bytes."""
    return sha256(f"blind {number}".encode()).digest()


def document(about: str, vectors: list[Vector], **more: Any) -> str:
    """The text of a file of vectors."""
    names = [vector["name"] for vector in vectors]
    assert len(set(names)) == len(names), about
    return json.dumps({"format": 1, "about": about, **more, "vectors": vectors}, indent=1, ensure_ascii=True) + "\n"
