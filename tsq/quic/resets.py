"""Stateless resets (RFC 9000 §10.3): a peer learns that its connection is unknown here, and need not wait for a time-out.

Comes in: connection IDs, datagrams of unknown connections. Goes out: reset tokens, resets. A token is made of the connection ID and
a key that outlives the process, so that a restarted server can end its earlier connections. A reset must be shorter than the
datagram that caused it (two ends could go on for ever), and there must be few of them.
"""

import hmac
import os
from hashlib import sha256

TOKEN_SIZE = 16
# The least size of a reset (RFC 9000 §10.3), and the size of our smallest packets.
_LEAST_SIZE = 21
_USUAL_SIZE = 43
_CONTEXT = b"tsq stateless reset"
# Resets at once, and a second.
_MOST = 100


def reset_key(secret: bytes, instance: bytes) -> bytes:
    """The key of a server's tokens, from something secret that stays the same when it is restarted: its private key.

    instance: distinguishes servers with the same private key. If two of them made the same tokens, anybody could end a connection
    of one by sending its packets to the other (RFC 9000 §21.11).
    """
    return hmac.digest(secret, _CONTEXT + b"\0" + instance, sha256)


def is_reset(data: bytes, token: bytes) -> bool:
    """Whether a datagram is a stateless reset with this token."""
    return (
        len(token) == TOKEN_SIZE
        and len(data) >= _LEAST_SIZE
        and not data[0] & 0x80
        and hmac.compare_digest(data[-TOKEN_SIZE:], token)
    )


class StatelessResets:
    """A server's resets. key: as by `reset_key`."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._left = float(_MOST)
        self._counted_at = 0.0

    def token(self, connection_id: bytes) -> bytes:
        """The token that goes with a connection ID of this server's."""
        return hmac.digest(self._key, connection_id, sha256)[:TOKEN_SIZE]

    def answer(self, data: bytes, connection_id: bytes, now: float) -> bytes | None:
        """The reset for a datagram with an unknown connection ID; None where it is too short, or too many were sent."""
        size = min(len(data) - 1, _USUAL_SIZE)
        if size < _LEAST_SIZE:
            return None
        self._left = min(self._left + (now - self._counted_at) * _MOST, float(_MOST))
        self._counted_at = now
        if self._left < 1:
            return None
        self._left -= 1
        head = bytearray(os.urandom(size - TOKEN_SIZE))
        head[0] = head[0] & 0x3F | 0x40
        return bytes(head) + self.token(connection_id)
