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
_MOST = 1000


def reset_key(secret: bytes, instance: bytes) -> bytes:
    """The key of a server's tokens, from something secret that stays the same when it is restarted: its private key, or a secret
    that it shares with a fleet.

    instance: distinguishes servers with the same secret. If two of them made the same tokens, anybody could end a connection of one
    by sending its packets to the other (RFC 9000 §21.11).
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
    """A server's resets. keys: as by `reset_key`, newest first; they may be replaced at any time."""

    def __init__(self, *keys: bytes) -> None:
        self.keys = keys
        self._left = float(_MOST)
        self._counted_at = 0.0

    def token(self, connection_id: bytes) -> bytes:
        """The token that goes with a connection ID of this server's."""
        return _token(self.keys[0], connection_id)

    def answer(self, data: bytes, connection_id: bytes, now: float) -> list[bytes]:
        """The resets for a datagram with an unknown connection ID; none where it is too short, or too many were sent.

        While a secret is replaced, it is not known which key made the peer's token. So there is one reset for each, newest first,
        as far as all of them together are shorter than the datagram.
        """
        self._left = min(self._left + (now - self._counted_at) * _MOST, float(_MOST))
        self._counted_at = now
        keys = self.keys[: min((len(data) - 1) // _LEAST_SIZE, int(self._left))]
        self._left -= len(keys)
        return [_reset(min((len(data) - 1) // len(keys), _USUAL_SIZE), _token(key, connection_id)) for key in keys]


def _token(key: bytes, connection_id: bytes) -> bytes:
    return hmac.digest(key, connection_id, sha256)[:TOKEN_SIZE]


def _reset(size: int, token: bytes) -> bytes:
    head = bytearray(os.urandom(size - TOKEN_SIZE))
    head[0] = head[0] & 0x3F | 0x40
    return bytes(head) + token
