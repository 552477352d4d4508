"""A server's session tickets, which hold all that they stand for, encrypted (RFC 8446 §4.6.1): the server keeps nothing for them.

Comes in: tickets to give to clients, tickets that clients present. Goes out: a sealed ticket; the opened one, for any server that
has the same secrets. A ticket must never be accepted twice by one server (RFC 8446 §8.1), nor where protocol or limits differ from
those that it was made for. A stolen key opens 0-RTT requests and nothing else: a resumed session makes new keys (psk_dhe_ke).
"""

import datetime
import os
import struct
from collections.abc import Callable

from aioquic.tls import CipherSuite, SessionTicket
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from tsq.quic.secrets import Purpose, Secrets

# (number of the key, nonce, sealed content). The nonce is random: a key makes at most 2^32 tickets (docs/howto/fleet.md).
_NAME, _NONCE, _TAG = 4, 12, 16
# Cipher suite, end of validity in Unix seconds; the resumption secret follows.
_CONTENT = struct.Struct(">HQ")
_LEAST = _NAME + _NONCE + _CONTENT.size + _TAG
_CONTEXT = b"tsq ticket 1\0"
# A Bloom filter of so many bits, with four of them a ticket: of 1000 unused tickets, one or two count as used.
_BITS = 1 << 20
_MARKED = 50_000
_BEGINNING = datetime.datetime.fromtimestamp(0, datetime.UTC)


class SealedTickets:
    """Seals and opens tickets. refused: is called with the reason where one is not accepted.

    binding: what a ticket is good for; the same bytes must be given to `seal` and `open`.
    """

    def __init__(self, secrets: Secrets, refused: Callable[[str], None] = lambda reason: None) -> None:
        self._secrets = secrets
        self._refused = refused
        self._used = UsedTickets()
        self._derive()
        secrets.when_changed(self._derive)

    def seal(self, ticket: SessionTicket, binding: bytes) -> bytes:
        """The ticket that a client gets."""
        name, key = self._keys[0]
        nonce = os.urandom(_NONCE)
        content = _CONTENT.pack(ticket.cipher_suite, int(ticket.not_valid_after.timestamp())) + ticket.resumption_secret
        return name + nonce + key.encrypt(nonce, content, _CONTEXT + binding)

    def open(self, label: bytes, binding: bytes) -> SessionTicket | None:
        """What a client's ticket stands for; None for a full handshake."""
        content = self._content(label, binding)
        if content is None:
            self._refused("unknown, or for another service")
            return None
        suite, until = _CONTENT.unpack_from(content)
        ticket = SessionTicket(
            age_add=0,
            cipher_suite=CipherSuite(suite),
            not_valid_after=datetime.datetime.fromtimestamp(until, datetime.UTC),
            not_valid_before=_BEGINNING,
            resumption_secret=content[_CONTENT.size :],
            server_name="",
            ticket=label,
        )
        if not ticket.is_valid:
            self._refused("expired")
            return None
        if self._used.mark(label[_NAME : _NAME + _NONCE]):
            self._refused("used before")
            return None
        return ticket

    def _derive(self) -> None:
        # The number of a key is public: it says nothing about the key.
        self._keys = [(_digest(key)[:_NAME], AESGCM(key)) for key in self._secrets.keys(Purpose.TICKETS)]

    def _content(self, label: bytes, binding: bytes) -> bytes | None:
        if len(label) < _LEAST:
            return None
        for name, key in self._keys:
            if name != label[:_NAME]:
                continue
            try:
                return key.decrypt(label[_NAME : _NAME + _NONCE], label[_NAME + _NONCE :], _CONTEXT + binding)
            except InvalidTag:
                pass
        return None


class UsedTickets:
    """The tickets that were used here, as a Bloom filter (RFC 8446 §8.2): memory of one size, whatever comes.

    Of two filters the newer one is marked until it is full; then it becomes the older one. So at least the last 50,000 are known.
    """

    def __init__(self) -> None:
        self._newer, self._older = bytearray(_BITS // 8), bytearray(_BITS // 8)
        self._marked = 0

    def mark(self, nonce: bytes) -> bool:
        """Mark a ticket as used; whether it was before. nonce: random, chosen here or by a server with the same secrets."""
        number = int.from_bytes(nonce)
        places = [number >> shift & _BITS - 1 for shift in (0, 20, 40, 60)]
        if any(all(bits[place >> 3] >> (place & 7) & 1 for place in places) for bits in (self._newer, self._older)):
            return True
        if self._marked == _MARKED:
            self._newer, self._older = bytearray(_BITS // 8), self._newer
            self._marked = 0
        for place in places:
            self._newer[place >> 3] |= 1 << (place & 7)
        self._marked += 1
        return False


def _digest(key: bytes) -> bytes:
    digest = Hash(SHA256())
    digest.update(b"tsq ticket key\0" + key)
    value: bytes = digest.finalize()
    return value
