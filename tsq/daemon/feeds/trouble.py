"""What does not work at present, for the log: once when it begins, once an hour while it lasts, once when it is over.

Comes in: the outcome of each attempt. Goes out: log lines. It must never write a line for each attempt.
"""

import logging
import time
from collections.abc import Callable

from tsq.host import files

logger = logging.getLogger(__name__)

_AGAIN_AFTER = 3600.0


class Trouble:
    """The trouble with one thing. what: its name in the log. clock: seconds of a clock that nobody sets."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._clock = clock
        self._text = ""
        self._at = 0.0

    def failed(self, error: OSError, advice: str = "") -> None:
        """An attempt failed."""
        text = f"{files.why(error)}{f': {advice}' if advice else ''}"
        now = self._clock()
        if text == self._text and now - self._at < _AGAIN_AFTER:
            return
        self._text, self._at = text, now
        logger.warning("%s: %s", self._what, text)

    def over(self) -> None:
        """An attempt succeeded."""
        if self._text:
            self._text = ""
            logger.info("%s: works again", self._what)
