"""What the command lines share: options read from text, and optional files.

Comes in: texts of a command line, the environment. Goes out: values, or one line and exit status 2. An optional file, such as the
key log, must never fail a command: the command goes on without it, and one line says why.
"""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO, TypeVar, cast

from tsq.errors import ConfigError

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
    """Deliver a signal that was blocked while the command started (`tsq.cli.start`)."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})


def hold_back(numbers: set[signal.Signals]) -> None:
    """Block these signals: the command is ending, and a second signal must not interrupt that."""
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def write_no_more(stream: TextIO) -> None:
    """Discard all further output to a stream whose reader has gone, or whose disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class KeyLog(io.TextIOBase):
    """A file for TLS secrets that never fails a connection. What cannot be written is lost; one line reports it."""

    def __init__(self, fd: int, complain: Callable[[str], None]) -> None:
        super().__init__()
        self._fd = fd
        self._complain = complain
        self._complained = False

    def write(self, text: str) -> int:
        """Append, at once."""
        from tsq.host import files  # noqa: PLC0415 - tsqctl starts without it

        try:
            files.write_all(self._fd, text.encode("ascii", "backslashreplace"))
        except OSError as error:
            if not self._complained:
                self._complained = True
                self._complain(files.why(error))
        return len(text)


def key_log(program: str) -> TextIO | None:
    """Open the file that SSLKEYLOGFILE names, for decrypting captures, and report it: its readers can decrypt the traffic.

    None, and one line that says why, if it cannot be written or others could read it.
    """
    name = os.environ.get("SSLKEYLOGFILE")
    if not name:
        return None
    from tsq.host import files  # noqa: PLC0415 - tsqctl starts without it

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
    """The file for session tickets; None, and one line that says why, if it cannot be used. Tickets are optional."""
    if path is None:
        return None
    from tsq.quic.tickets import TicketFile  # noqa: PLC0415 - loaded only if it is used

    usable = TicketFile(path, lambda text: print(f"{program}: {text}", file=sys.stderr)).usable()
    return path if usable else None


def start_log(program: str, level: str) -> None:
    """Log to standard error, with priorities where systemd's journal reads it. A report that somebody asked for has any level."""
    # Only programs that keep running log.
    import logging  # noqa: PLC0415

    from tsq.host.journal import JournalFormatter, is_journal  # noqa: PLC0415

    formatter = JournalFormatter if is_journal(sys.stderr) else logging.Formatter
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(f"{program}: %(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level.upper())
    logging.getLogger("tsq.status").setLevel(logging.INFO)
