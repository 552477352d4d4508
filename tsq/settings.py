"""The names of settings in errors and log lines: as a program, a command line or a configuration file has them.

Comes in: who reads the text. Goes out: a name for it. Nothing here may import another part of TSQ, or hold a setting's value.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum

_IN_PROGRAM, _IN_COMMAND, _IN_FILE = range(3)
# Of the context, not of the process: a program may run a command's `main` in one thread and use the library in another.
_reader: ContextVar[int] = ContextVar("reader", default=_IN_PROGRAM)


class Setting(Enum):
    """A setting that an error or a log line advises to change. str() is its name as the reader writes it.

    In a program, on a command line, in tsqd's configuration file; where it has none, the program's one.
    """

    CA_FILE = ("Trust(ca_file=...)", "--ca FILE", '`ca = "FILE"`')
    SERVER_NAME = ("ClientOptions(server_name=...)", "--server-name", '`server_name = "NAME"`')
    STREAM = ("ClientOptions(stream=True)", "--stream", "`stream = true`")
    MAX_CONNECTIONS = ("Limits(max_connections=...)", "--max-connections", "")
    LOCAL_STRATUM = ("HostClock(local=LocalClock(1))", "--local-stratum 1", "")
    FORCE = ("ClockLimits(force=True)", "--force", "a larger `panic` in [clock]")

    def __str__(self) -> str:
        name: str = self.value[_reader.get()]
        return name or str(self.value[_IN_PROGRAM])


@contextmanager
def for_command_line() -> Iterator[None]:
    """Name settings as options of the command line, until the end of this block or of the function that this decorates.

    A thread that is started meanwhile does so too if it runs in a copy of this context.
    """
    before = _reader.set(_IN_COMMAND)
    try:
        yield
    finally:
        _reader.reset(before)


@contextmanager
def for_configuration_file() -> Iterator[None]:
    """The same for a program whose settings are in a configuration file: name them as its keys."""
    before = _reader.set(_IN_FILE)
    try:
        yield
    finally:
        _reader.reset(before)
