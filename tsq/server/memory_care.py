"""When a server gives memory back to the system. Without I/O.

Comes in: how many connections have ended or come to rest, how many are in their handshake. Goes out: whether it is time. It must
never ask for that while many handshakes are under way: their memory is used again at once, and answers wait for milliseconds.
"""

# So many connections leave enough behind, some MB of the C library's heap.
_MANY_FORGOTTEN = 500
_FEW_HALF_OPEN = 50
# Fewer are enough where nothing else is to come: after a look at which none had ended since the last one.
_SOME_FORGOTTEN = 50


class MemoryCare:
    """Asked once a second."""

    def __init__(self) -> None:
        self._given_at = 0
        self._last = 0

    def is_due(self, forgotten: int, half_open: int) -> bool:
        """Whether memory is to be given back now; then that counts as done. forgotten: connections since the start."""
        since, quiet = forgotten - self._given_at, forgotten == self._last
        self._last = forgotten
        if half_open >= _FEW_HALF_OPEN or since < (_SOME_FORGOTTEN if quiet else _MANY_FORGOTTEN):
            return False
        self._given_at = forgotten
        return True
