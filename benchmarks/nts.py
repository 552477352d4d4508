"""NTS-protected NTP requests (RFC 8915), for loads: key establishment with a server, then the requests' bytes.

Comes in: the key establishment port on loopback. Goes out: requests that may be sent repeatedly, because NTS servers keep no state
of their clients. With a CA file the certificate is verified; the answers are not.
"""

import os
import socket
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from OpenSSL import SSL

from benchmarks.processes import HOST

_AES_SIV_CMAC_256 = 15
_END, _NEXT_PROTOCOL, _AEAD, _COOKIE = 0, 1, 4, 5
_CRITICAL = 0x8000
_UNIQUE_ID, _COOKIE_FIELD, _AUTHENTICATOR = 0x0104, 0x0204, 0x0404


def ntp_request() -> bytes:
    """48 bytes of plain NTP, client mode, version 4."""
    return bytes([0x23]) + bytes(39) + os.urandom(8)


def nts_request(port: int) -> bytes:
    """An NTP request with a cookie of the server whose key establishment is at this port."""
    return nts_requests(port, 1)[0]


def nts_requests(port: int, count: int) -> list[bytes]:
    """This number of requests, each with its own cookie."""
    requests: list[bytes] = []
    while len(requests) < count:
        key, cookies = establish(port)
        requests += [protected(key, cookie) for cookie in cookies]
    return requests[:count]


def protected(key: bytes, cookie: bytes) -> bytes:
    """An NTP request with this key and cookie."""
    packet = ntp_request() + _field(_UNIQUE_ID, os.urandom(32)) + _field(_COOKIE_FIELD, cookie)
    nonce = os.urandom(16)
    sealed = AESSIV(key).encrypt(b"", [packet, nonce])
    return packet + _field(_AUTHENTICATOR, struct.pack("!HH", len(nonce), len(sealed)) + nonce + sealed)


def establish(port: int, ca: str | None = None) -> tuple[bytes, list[bytes]]:
    """(key from client to server, cookies). With a CA file the server's certificate is verified."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_alpn_protos([b"ntske/1"])
    if ca is not None:
        context.load_verify_locations(ca)
        context.set_verify(SSL.VERIFY_PEER)
    with socket.create_connection((HOST, port), timeout=5) as plain:
        plain.settimeout(None)
        # Otherwise Nagle's algorithm delays the request until the handshake's last packet is acknowledged.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@qq", 5, 0))
        connection = SSL.Connection(context, plain)
        connection.set_tlsext_host_name(b"localhost")
        connection.set_connect_state()
        connection.do_handshake()
        connection.sendall(key_request())
        answer = b""
        while not answer.endswith(_record(_END | _CRITICAL, b"")):
            answer += connection.recv(4096)
        # RFC 8915 §5.1: next protocol, AEAD, 0 for client to server.
        key = connection.export_keying_material(b"EXPORTER-network-time-security", 32, struct.pack("!HHB", 0, _AES_SIV_CMAC_256, 0))
    return key, _cookies(answer)


def key_request() -> bytes:
    """The request of key establishment (RFC 8915 §4)."""
    wanted = _record(_NEXT_PROTOCOL | _CRITICAL, b"\0\0") + _record(_AEAD | _CRITICAL, struct.pack("!H", _AES_SIV_CMAC_256))
    return wanted + _record(_END | _CRITICAL, b"")


def _cookies(answer: bytes) -> list[bytes]:
    cookies, at = [], 0
    while at < len(answer):
        kind, size = struct.unpack_from("!HH", answer, at)
        if kind & ~_CRITICAL == _COOKIE:
            cookies.append(answer[at + 4 : at + 4 + size])
        at += 4 + size
    if not cookies:
        raise ValueError("no cookie in the answer")
    return cookies


def _record(kind: int, body: bytes) -> bytes:
    return struct.pack("!HH", kind, len(body)) + body


def _field(kind: int, body: bytes) -> bytes:
    padding = bytes(-len(body) % 4)
    return struct.pack("!HH", kind, 4 + len(body) + len(padding)) + body + padding
