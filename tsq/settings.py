"""The names of settings in errors and log lines: as a program writes them, or as options of a command line.

Comes in: who reads the text. Goes out: a name for it. Nothing here may import another part of TSQ, or hold a setting's value.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum

# Of the context, not of the process: a program may run a command's `main` in one thread and use the library in another.
_typed_command: ContextVar[bool] = ContextVar("typed_command", default=False)


class Setting(Enum):
    """A setting that an error or a log line advises to change. str() is its name as the reader writes it."""

    CA_FILE = ("Trust(ca_file=...)", "--ca FILE")
    SERVER_NAME = ("ClientOptions(server_name=...)", "--server-name")
    STREAM = ("ClientOptions(stream=True)", "--stream")
    MAX_CONNECTIONS = ("Limits(max_connections=...)", "--max-connections")
    LOCAL_STRATUM = ("HostClock(local=LocalClock(1))", "--local-stratum 1")
    FORCE = ("ClockLimits(force=True)", "--force")

    def __str__(self) -> str:
        in_program, in_command = self.value
        return in_command if _typed_command.get() else in_program


@contextmanager
def for_command_line() -> Iterator[None]:
    """Name settings as options of the command line, until the end of this block or of the function that this decorates.

    A thread that is started meanwhile does so too if it runs in a copy of this context.
    """
    before = _typed_command.set(True)
    try:
        yield
    finally:
        _typed_command.reset(before)
