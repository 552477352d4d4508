"""Which connections the control plane has not worked on lately, so that they may rest. Without I/O.

Comes in: connections and when they were worked on. Goes out: those to be left to the data plane alone, the longest quiet first. It
must never let a connection rest early that needs the control plane again and again: each time it would have to be made again.
"""

from collections.abc import Iterator
from itertools import chain, islice

from tsq.quic.limits import Limits
from tsq.quic.server_connection import ServerConnection

# A connection that is awake needs 33 KiB. Where more than these are, most are of clients that have just connected.
_MANY = 100
# Seconds from its start in which work on a connection belongs to its handshake.
_HANDSHAKE = 1.0


class Visits:
    """The connections that are awake, by the time of the last work on them."""

    def __init__(self) -> None:
        # Those on which no other work was done than their handshake, and the others; each in the order of that time.
        self._new: dict[ServerConnection, float] = {}
        self._used: dict[ServerConnection, float] = {}

    def __len__(self) -> int:
        return len(self._new) + len(self._used)

    def note(self, connection: ServerConnection, now: float) -> None:
        """The control plane works on a connection."""
        self.forget(connection)
        is_new = not connection.rebuilt and now < connection.created + _HANDSHAKE
        (self._new if is_new else self._used)[connection] = now

    def forget(self, connection: ServerConnection) -> None:
        """It has ended, or it rests."""
        self._new.pop(connection, None)
        self._used.pop(connection, None)

    def quiet(self, now: float, limits: Limits, most: int) -> list[ServerConnection]:
        """Those that may rest after the usual time; at most so many."""
        before = now - limits.rest_after
        return list(islice(chain(_older(self._used, before), _older(self._new, before)), most))

    def early(self, now: float, limits: Limits, most: int) -> list[ServerConnection]:
        """Those that may rest before that time, because many are awake: their clients have done nothing but connect."""
        if len(self) <= _MANY:
            return []
        return list(islice(_older(self._new, now - limits.early_rest), most))


def _older(visits: dict[ServerConnection, float], before: float) -> Iterator[ServerConnection]:
    for connection, at in visits.items():
        if at > before:
            return
        if not connection.leaving:
            yield connection
