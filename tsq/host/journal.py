"""Log lines for systemd's journal: each with the syslog priority of its level in front (sd-daemon(3)).

Comes in: a stream, log records. Goes out: whether the stream is the journal, lines such as `<4>tsq-server: WARNING: ...`. It must
never put a priority where people or other programs read the log.
"""

import logging
import os
from collections.abc import Mapping
from typing import TextIO

# logging's level -> syslog's priority: err, warning, info, debug. What is worse than an error is critical.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7


def is_journal(stream: TextIO | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the journal reads this stream: JOURNAL_STREAM holds device and inode of the connection (systemd.exec(5)).

    The variable alone proves nothing: a child's stream may be redirected.
    """
    announced = environment.get("JOURNAL_STREAM")
    if not announced or stream is None:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        # A closed stream, or one without a descriptor.
        return False
    return announced == f"{status.st_dev}:{status.st_ino}"


def priority(level: int) -> int:
    """The syslog priority of a log level."""
    return next((number for least, number in _PRIORITIES if level >= least), _DEBUG)


class JournalFormatter(logging.Formatter):
    """Puts the priority in front of each line. The journal takes each line of a traceback as an entry of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """As Formatter's, with priorities."""
        prefix = f"<{priority(record.levelno)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())
