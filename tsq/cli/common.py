"""What the command lines share: options read from text, and optional files.

Comes in: texts of a command line, the environment. Goes out: values, or argparse's usage error (exit status 2). What is wrong with
a file or an address is reported in one line, without the usage, with the same exit status. What is optional, such as the key log,
must never cost the command its work: it is left out, and a line says why.
"""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO, TypeVar, cast

from tsq.errors import ConfigError
from tsq.host import files

T = TypeVar("T")

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def checked(convert: Callable[[str], T]) -> Callable[[str], T]:
    """An argparse type from a function that raises ConfigError."""

    def convert_or_explain(text: str) -> T:
        try:
            return convert(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert_or_explain


def cannot_use(parser: argparse.ArgumentParser, error: ConfigError) -> NoReturn:
    """End the program: the options are well formed, but a file or an address that they name cannot be used."""
    parser.exit(EXIT_USAGE, f"{parser.prog}: error: {error}\n")


def deliver(number: signal.Signals) -> None:
    """Let a signal through that was held back while the command started (`tsq.cli.start`)."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})


def hold_back(numbers: set[signal.Signals]) -> None:
    """Let no more of these signals through: the command is at its end, and a second one has nothing to add."""
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def write_no_more(stream: TextIO) -> None:
    """What is still to be written there goes nowhere, as who read has gone, or the disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class KeyLog(io.TextIOBase):
    """A file for TLS secrets that never fails a connection: what cannot be written is lost, which is said once."""

    def __init__(self, fd: int, complain: Callable[[str], None]) -> None:
        super().__init__()
        self._fd = fd
        self._complain = complain
        self._complained = False

    def write(self, text: str) -> int:
        """Append, at once."""
        try:
            files.write_all(self._fd, text.encode("ascii", "backslashreplace"))
        except OSError as error:
            if not self._complained:
                self._complained = True
                self._complain(files.why(error))
        return len(text)


def key_log(program: str) -> TextIO | None:
    """The file that SSLKEYLOGFILE names, for decrypting captures; says so, for whoever has it can read the traffic.

    None, and a line that says why, where it cannot be written or others could read it: the time is not for that to cost.
    """
    name = os.environ.get("SSLKEYLOGFILE")
    if not name:
        return None

    def complain(why: str) -> None:
        sys.stderr.write(f"{program}: warning: TLS secrets are not written to {name} (SSLKEYLOGFILE): {why}\n")

    try:
        file = KeyLog(files.open_log(name), complain)
    except OSError as error:
        complain(files.why(error))
        return None
    sys.stderr.write(f"{program}: TLS secrets go to {name} (SSLKEYLOGFILE)\n")
    return cast(TextIO, file)


def usable_session_file(program: str, path: str | None) -> str | None:
    """The file for session tickets; None, and a line that says why, where it cannot be used: the time can be had without."""
    if path is None:
        return None
    from tsq.quic.tickets import TicketFile  # noqa: PLC0415 - loaded only if it is used

    usable = TicketFile(path, lambda text: print(f"{program}: {text}", file=sys.stderr)).usable()
    return path if usable else None
