"""Standard streams that cannot fail a command.

Comes in: file descriptors 0, 1 and 2. Goes out: `sys.stdout` and `sys.stderr` that never raise an OSError. A closed stream becomes
/dev/null, so that no socket or file takes its descriptor. Output that cannot be written is lost; standard error reports that once
for standard output. It must never load a slow module: it runs before everything else.
"""

import contextlib
import io
import os
import select
import sys
from typing import TextIO

from tsq.report import plain

_COLUMNS = 80


class _Output(io.FileIO):
    """A descriptor to write to. lost: why something could not be written; None as long as everything could."""

    def __init__(self, fd: int, program: str) -> None:
        super().__init__(fd, "w", closefd=False)
        self.lost: OSError | None = None
        self._program = program

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Write; what cannot be written counts as written."""
        while True:
            try:
                written = super().write(data)
            except OSError as error:
                self._lose(error)
                return len(data)
            if written is not None:
                return written
            # Another program made the terminal or the pipe non-blocking: wait for room, as a blocking write does.
            poller = select.poll()
            poller.register(self.fileno(), select.POLLOUT)
            poller.poll()

    def _lose(self, error: OSError) -> None:
        first, self.lost = self.lost is None, error
        if first and self.fileno() == 1:
            with contextlib.suppress(AttributeError):
                sys.stderr.write(f"{self._program}: standard output cannot be written: {error.strerror}\n")


def secure(program: str) -> None:
    """Make the standard streams safe, once, at the very start of a command."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            _take_null(fd)
    if sys.stdin is None:
        with contextlib.suppress(OSError):
            sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as the program
    # Standard error first: it reports errors of standard output.
    sys.stderr = _wrapped(sys.stderr, 2, program)
    sys.stdout = _wrapped(sys.stdout, 1, program)


def lost_output() -> OSError | None:
    """Why something that went to standard output was lost; None where nothing was. Flushes it."""
    stream = sys.stdout
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    if not isinstance(raw, _Output):
        return None
    stream.flush()
    return raw.lost


def columns() -> int:
    """The width of standard output: the terminal's, else 80."""
    if sys.stdout is None or not sys.stdout.isatty():
        return _COLUMNS
    # Not at the top: it loads the modules of all compressions.
    import shutil  # noqa: PLC0415

    return shutil.get_terminal_size().columns


def is_plain(stream: TextIO | None) -> bool:
    """Whether a stream's encoding lacks "±" or another sign that results are written with."""
    return not plain.has_signs(getattr(stream, "encoding", None) or "utf-8")


def draws(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal that takes escape sequences: TERM names one that is not dumb."""
    return stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb")


def _take_null(wanted: int) -> None:
    """/dev/null under this number; where there is none, the number stays free."""
    with contextlib.suppress(OSError):
        fd = os.open(os.devnull, os.O_RDWR)
        if fd != wanted:
            os.dup2(fd, wanted)
            os.close(fd)


def _asks_for_ascii() -> bool:
    """Whether LC_ALL asks for the C locale, which has no "±". Python writes UTF-8 there, unless it is asked not to."""
    chosen = any(os.environ.get(name) for name in ("PYTHONIOENCODING", "PYTHONUTF8"))
    return not chosen and os.environ.get("LC_ALL") in ("C", "POSIX")


def _wrapped(stream: TextIO | None, fd: int, program: str) -> io.TextIOWrapper:
    """The same stream over an _Output. What its encoding lacks is replaced: "±" by "+/-"."""
    encoding = "ascii" if _asks_for_ascii() else getattr(stream, "encoding", None) or "utf-8"
    by_lines = fd == 2 or bool(getattr(stream, "line_buffering", False))
    at_once = bool(getattr(stream, "write_through", False))
    try:
        buffer = io.BufferedWriter(_Output(fd, program))  # type: ignore[type-var]
    except OSError:
        # Not even /dev/null could be opened in its place.
        return io.TextIOWrapper(io.BytesIO(), encoding, plain.ERRORS)
    return io.TextIOWrapper(buffer, encoding, plain.ERRORS, line_buffering=by_lines, write_through=at_once)
