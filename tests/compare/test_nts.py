"""The loads' NTS requests pass the checks of a server."""

import struct

from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from benchmarks.nts import protected

KEY = bytes(range(32))
COOKIE = bytes(100)


def fields(packet: bytes) -> list[tuple[int, int, bytes]]:
    """(where it begins, type, body) of each extension field (RFC 7822)."""
    found, at = [], 48
    while at < len(packet):
        kind, size = struct.unpack_from("!HH", packet, at)
        assert size % 4 == 0
        assert size >= 16
        found.append((at, kind, packet[at + 4 : at + size]))
        at += size
    assert at == len(packet)
    return found


def test_a_request_is_authenticated_under_its_key():
    packet = protected(KEY, COOKIE)
    (_, unique, identifier), (_, cookie, sent), (at, authenticator, body) = fields(packet)
    assert (unique, cookie, authenticator) == (0x0104, 0x0204, 0x0404)
    assert (len(identifier), sent) == (32, COOKIE)
    nonce_size, sealed_size = struct.unpack_from("!HH", body)
    nonce, sealed = body[4 : 4 + nonce_size], body[4 + nonce_size : 4 + nonce_size + sealed_size]
    assert AESSIV(KEY).decrypt(sealed, [packet[:at], nonce]) == b""


def test_requests_differ():
    assert protected(KEY, COOKIE) != protected(KEY, COOKIE)
