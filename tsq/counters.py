"""Counters: what a server did, and why it did not.

Comes in: a name and, where there is one, a reason. Goes out: a snapshot. Adding one never allocates a new kind of thing on the way
of a packet beyond a dictionary entry, never blocks, never raises.
"""

from collections.abc import Callable


class Counters:
    """Named counters, each split by reason ("" where there is none)."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._sources: list[Callable[[], None]] = []

    def before_reading(self, source: Callable[[], None]) -> None:
        """Call this before counts are read: who counts by himself adds his there."""
        self._sources.append(source)

    def add(self, name: str, reason: str = "", amount: int = 1) -> None:
        """Count one more, or so many. A count never goes down. A name that is not there did not happen."""
        if amount <= 0:
            return
        key = (name, reason)
        self._counts[key] = self._counts.get(key, 0) + amount

    def get(self, name: str, reason: str | None = None) -> int:
        """How many of that name: of one reason, or of all."""
        self._collect()
        if reason is not None:
            return self._counts.get((name, reason), 0)
        return sum(count for (kind, _), count in self._counts.items() if kind == name)

    def snapshot(self) -> dict[str, int]:
        """All counts, as {"name" or "name: reason": count}, sorted."""
        self._collect()
        return {f"{name}: {reason}" if reason else name: count for (name, reason), count in sorted(self._counts.items())}

    def _collect(self) -> None:
        for source in self._sources:
            source()
