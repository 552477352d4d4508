"""Log lines that the rules ask for, to the program's log: limited for each kind.

Comes in: `Log` actions, the time. Goes out: at most some lines of a kind in a while; the next one says how many were left out. It
must never leave out the first line of a kind, nor hide an error behind lines that say less.
"""

import logging
from collections import deque
from dataclasses import dataclass, field

from tsq.discipline.actions import Level, Log

# So many lines of a kind, in so many seconds.
LINES = 5
SECONDS = 600.0
# Kinds that are remembered. Kinds are names in the source: this is a guard against one that contains a value.
_MOST_KINDS = 200


@dataclass(slots=True)
class _Kind:
    written: deque[float] = field(default_factory=deque)
    left_out: int = 0
    last: Log | None = None


class ActionLog:
    """Writes to this logger. lines: of a kind and level, in so many seconds."""

    def __init__(self, logger: logging.Logger, *, lines: int = LINES, seconds: float = SECONDS) -> None:
        self._logger = logger
        self._lines = lines
        self._seconds = seconds
        self._kinds: dict[tuple[str, Level], _Kind] = {}

    def write(self, action: Log, now: float) -> None:
        """Write a line, or count it. now: seconds of any steady clock."""
        if not self._logger.isEnabledFor(action.level):
            return
        kind = self._kinds.setdefault((action.kind, action.level), _Kind())
        if len(self._kinds) > _MOST_KINDS:
            del self._kinds[next(iter(self._kinds))]
        while kind.written and now - kind.written[0] >= self._seconds:
            kind.written.popleft()
        if len(kind.written) >= self._lines:
            kind.left_out += 1
            kind.last = action
            return
        kind.written.append(now)
        self._say_left_out(kind)
        self._logger.log(action.level, "%s", action.text)

    def flush(self, now: float) -> None:
        """Say what was left out of kinds that are quiet again. Call this about once a minute."""
        for kind in self._kinds.values():
            if kind.left_out and now - kind.written[-1] >= self._seconds:
                self._say_left_out(kind)

    def _say_left_out(self, kind: _Kind) -> None:
        if kind.left_out and kind.last is not None:
            self._logger.log(kind.last.level, "%d more like this, the last: %s", kind.left_out, kind.last.text)
        kind.left_out, kind.last = 0, None
