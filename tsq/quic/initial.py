"""Initial packets without a connection: open a client's, and refuse one (RFC 9001 §5.2).

Comes in: a datagram and its header. Goes out: the payload of its first packet, opened with the keys that its connection ID gives;
or the packet that refuses it. Opening costs some 20 µs; aioquic spends 150 µs on a connection before it looks. Anybody can make an
Initial that opens: this proves nothing about the sender. It must never keep anything.
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
from aioquic.quic.packet import QuicErrorCode, QuicProtocolVersion

_HASH = "sha256"
_CONNECTION_CLOSE = 0x1C
# In place of the type of the frame that caused the close: none did (RFC 9000 §19.19).
_NO_FRAME = 0
_NUMBER_SIZE, _TAG_SIZE = 2, 16
# Of an Initial with a packet number of two bytes (RFC 9000 §17.2.2, RFC 9369 §3.2).
_FIRST_BYTE = {QuicProtocolVersion.VERSION_1: 0xC1, QuicProtocolVersion.VERSION_2: 0xD1}


def _label(text: bytes, size: int) -> bytes:
    """The info of HKDF-Expand-Label, with the counter of the one block that is needed (RFC 8446 §7.1)."""
    label = b"tls13 " + text
    return size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0\x01"


_CLIENT, _SERVER = _label(b"client in", 32), _label(b"server in", 32)
_LABELS = {
    QuicProtocolVersion.VERSION_1: (
        INITIAL_SALT_VERSION_1, _label(b"quic key", 16), _label(b"quic iv", 12), _label(b"quic hp", 16),
    ),
    QuicProtocolVersion.VERSION_2: (
        INITIAL_SALT_VERSION_2, _label(b"quicv2 key", 16), _label(b"quicv2 iv", 12), _label(b"quicv2 hp", 16),
    ),
}  # fmt: skip


def initial_keys(connection_id: bytes, version: int, sender: bytes = _CLIENT) -> tuple[bytes, bytes, bytes]:
    """Initial key, IV and header protection key. sender: the label of the side that sends."""
    salt, key, iv, protection = _LABELS[QuicProtocolVersion(version)]
    secret = digest(digest(salt, connection_id, _HASH), sender, _HASH)
    return digest(secret, key, _HASH)[:16], digest(secret, iv, _HASH)[:12], digest(secret, protection, _HASH)[:16]


def payload(packet: bytes, number_offset: int, connection_id: bytes, version: int) -> bytes | None:
    """What a client's Initial packet holds; None where it is not authentic. number_offset: where its packet number begins."""
    try:
        return _context(connection_id, version, _CLIENT).decrypt_packet(packet, number_offset, 0)[1]
    except CryptoError:
        return None


def connection_refused(connection_id: bytes, client_id: bytes, version: int, reason: str) -> bytes:
    """A server's Initial packet that refuses a client (CONNECTION_REFUSED, RFC 9000 §10.2.3, §20.1).

    connection_id: the one that the client chose for the server; client_id: its own. Nothing in the packet asks for an
    acknowledgment, so it needs no padding (RFC 9000 §14.1).
    """
    text = reason.encode("ascii")
    frame = bytes([_CONNECTION_CLOSE, QuicErrorCode.CONNECTION_REFUSED, _NO_FRAME, len(text)]) + text
    length = _NUMBER_SIZE + len(frame) + _TAG_SIZE
    header = bytes([_FIRST_BYTE[QuicProtocolVersion(version)]]) + version.to_bytes(4, "big")
    header += bytes([len(client_id)]) + client_id + bytes([len(connection_id)]) + connection_id
    # No token; a length of two bytes (RFC 9000 §16); packet number 0.
    header += b"\0" + (0x4000 | length).to_bytes(2, "big") + bytes(_NUMBER_SIZE)
    return _context(connection_id, version, _SERVER).encrypt_packet(header, frame, 0)


def _context(connection_id: bytes, version: int, sender: bytes) -> CryptoContext:
    key, iv, protection = initial_keys(connection_id, version, sender)
    context = CryptoContext()
    context.aead = AEAD(b"aes-128-gcm", key, iv)
    context.hp = HeaderProtection(b"aes-128-ecb", protection)
    return context
