"""When the daemon gives memory back to the system. Without I/O.

Comes in: the time, how many connections were closed. Goes out: whether it is time. It must never ask for that so often that it
costs more than some milliseconds a minute.
"""

# Seconds: when the first polls are over, and then at the latest.
_FIRST, _INTERVAL = 60.0, 3600.0
# A handshake takes and frees some thousand blocks of all sizes among those that stay, so that the C library's heap grows although
# nothing of it is kept. After so many connections it is cleared, but not again before _LEAST seconds are over.
_MANY_CLOSED = 4
_LEAST = 60.0


class MemoryCare:
    """now: monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._given_at = now
        self._wait = _FIRST
        self._closed = 0

    def is_due(self, now: float, closed: int) -> bool:
        """Whether memory is to be given back now; then that counts as done. closed: connections since the start."""
        since = now - self._given_at
        if since < self._wait and (since < _LEAST or closed < self._closed + _MANY_CLOSED):
            return False
        self._given_at, self._wait, self._closed = now, _INTERVAL, closed
        return True
