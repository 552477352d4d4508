"""Whether an Initial packet is one at all, before anything is made for its sender (RFC 9001 §5.2).

Comes in: a datagram and its header. Goes out: what its first packet holds, opened with the keys that its connection ID gives. It
costs some 20 µs, where a connection of aioquic's costs 150 µs before it looks. Anybody can make an Initial that opens: this proves
nothing about the sender. It must never keep anything.
"""

from hmac import digest

from aioquic.quic.crypto import (  # type: ignore[attr-defined]  # compiled, and imported there
    AEAD,
    INITIAL_SALT_VERSION_1,
    INITIAL_SALT_VERSION_2,
    CryptoContext,
    CryptoError,
    HeaderProtection,
)
from aioquic.quic.packet import QuicProtocolVersion

_HASH = "sha256"


def _label(text: bytes, size: int) -> bytes:
    """The info of HKDF-Expand-Label, with the counter of the one block that is needed (RFC 8446 §7.1)."""
    label = b"tls13 " + text
    return size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0\x01"


_CLIENT = _label(b"client in", 32)
_LABELS = {
    QuicProtocolVersion.VERSION_1: (
        INITIAL_SALT_VERSION_1, _label(b"quic key", 16), _label(b"quic iv", 12), _label(b"quic hp", 16),
    ),
    QuicProtocolVersion.VERSION_2: (
        INITIAL_SALT_VERSION_2, _label(b"quicv2 key", 16), _label(b"quicv2 iv", 12), _label(b"quicv2 hp", 16),
    ),
}  # fmt: skip


def initial_keys(connection_id: bytes, version: int) -> tuple[bytes, bytes, bytes]:
    """A client's Initial key, IV and header protection key."""
    salt, key, iv, protection = _LABELS[QuicProtocolVersion(version)]
    secret = digest(digest(salt, connection_id, _HASH), _CLIENT, _HASH)
    return digest(secret, key, _HASH)[:16], digest(secret, iv, _HASH)[:12], digest(secret, protection, _HASH)[:16]


def payload(packet: bytes, number_offset: int, connection_id: bytes, version: int) -> bytes | None:
    """What a client's Initial packet holds; None where it is not authentic. number_offset: where its packet number begins."""
    key, iv, protection = initial_keys(connection_id, version)
    context = CryptoContext()
    context.aead = AEAD(b"aes-128-gcm", key, iv)
    context.hp = HeaderProtection(b"aes-128-ecb", protection)
    try:
        return context.decrypt_packet(packet, number_offset, 0)[1]
    except CryptoError:
        return None
