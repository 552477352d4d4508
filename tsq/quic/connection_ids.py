"""A server's connection IDs: eight octets, the first of which says which worker of the machine has the connection.

Comes in: which worker this is, a QUIC-LB configuration. Goes out: new connection IDs; whether one is ours. The first octet: with
QUIC-LB the configuration in its top three bits, in its low five the worker's slot; without, and for more than 32 slots, the whole
octet has the slot. The rest is random, or server ID and nonce. It must never make the same ID twice, nor claim another's.
"""

import os
from secrets import randbelow

from tsq.errors import ConfigError
from tsq.quic.quic_lb import LEAST_NONCE, UNROUTABLE, QuicLb

SIZE = 8
_LOW_BITS = 5
_LOW = 1 << _LOW_BITS
_OCTET = 256


class ConnectionIds:
    """Makes connection IDs. slot, slots: this worker's place among them: the first octet's value modulo `slots` is `slot`.

    answered: the slots whose unknown connections are answered by stateless resets here: this worker's own, and those that nobody
    else serves any more (RFC 9000 §21.11: a packet that came to the wrong worker must not end its connection).
    """

    size = SIZE

    def __init__(self, *, slot: int = 0, slots: int = 1, quic_lb: QuicLb | None = None) -> None:
        most = _OCTET if quic_lb is None else _LOW
        if not 1 <= slots <= most or not 0 <= slot < slots:
            raise ConfigError(f"slot {slot} of {slots}", expected=f"at most {most} slots, counted from 0")
        if quic_lb is not None and quic_lb.size != SIZE - 1:
            raise ConfigError(
                f"a QUIC-LB server ID of {len(quic_lb.server_id)} octets with a nonce of {quic_lb.nonce_size}",
                expected=f"{SIZE - 1} octets in all, the nonce {LEAST_NONCE} to {SIZE - 2}",
            )
        self.slot, self.slots = slot, slots
        self.quic_lb = quic_lb
        self.answered = {slot}
        # Where the low five bits have room for all slots, the top three are random, or QUIC-LB's.
        self._range = _LOW if slots <= _LOW else _OCTET
        self._values = range(slot, self._range, slots)
        # Nonces are counted modulo this, from a random start; workers have disjoint ones, by their slot. One of an earlier process
        # may occur again: its connections are gone (docs/howto/fleet.md).
        self._nonces = 0 if quic_lb is None else (1 << 8 * quic_lb.nonce_size) // slots
        self._start = randbelow(self._nonces) if self._nonces else 0
        self._used = 0

    @property
    def instance(self) -> bytes:
        """What distinguishes this server from others with the same secrets, and stays the same; empty without QUIC-LB."""
        return b"" if self.quic_lb is None else b"QUIC-LB %d " % self.quic_lb.number + self.quic_lb.server_id

    def new(self) -> bytes:
        """A new connection ID."""
        if self.quic_lb is None:
            return self._random(None)
        if self._used >= self._nonces:
            # Another configuration is due. Until then balancers route by addresses.
            return self._random(UNROUTABLE)
        nonce = (self._start + self._used) % self._nonces * self.slots + self.slot
        self._used += 1
        return self.quic_lb.encode(nonce, self._value())

    def transient(self) -> bytes:
        """A connection ID for a Retry: nothing is kept for it, so it must not use up a nonce."""
        return self._random(None if self.quic_lb is None else UNROUTABLE)

    def slot_of(self, connection_id: bytes) -> int:
        """The slot in a connection ID."""
        return (connection_id[0] & self._range - 1) % self.slots

    def answers_for(self, connection_id: bytes) -> bool:
        """Whether an unknown connection ID may be answered by a stateless reset here: no other worker or server can have it."""
        if self.slots > 1 and self.slot_of(connection_id) not in self.answered:
            return False
        if self.quic_lb is None:
            return True
        return connection_id[0] >> _LOW_BITS == UNROUTABLE or self.quic_lb.is_own(connection_id)

    def _value(self) -> int:
        return self._values[randbelow(len(self._values))]

    def _random(self, top: int | None) -> bytes:
        octets = bytearray(os.urandom(SIZE))
        if top is not None or self.slots > 1:
            first = self._value()
            if self._range == _LOW:
                first |= (octets[0] >> _LOW_BITS if top is None else top) << _LOW_BITS
            octets[0] = first
        return bytes(octets)
