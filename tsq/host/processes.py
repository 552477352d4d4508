"""The process table (/proc): command lines and capabilities of all processes.

Comes in: the directory. Goes out: a `Process` for each that has a command line. It must never signal or change anything.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tsq.errors import ClockError

TABLE = Path("/proc")
CAP_SYS_TIME = 25
_PYTHON = re.compile(r"python[\d.]*[a-z]?")
# Options of python(1) whose value is an argument of its own.
_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")


@dataclass(frozen=True, slots=True)
class Process:
    """A process. arguments: its command line, which it may have changed. directory: its entry in the table."""

    pid: int
    arguments: tuple[str, ...]
    directory: Path

    @property
    def program(self) -> str:
        """The program's name: of the script or the module where an interpreter runs one, of the applet where busybox does.

        A program may have changed its command line into a title such as "ntpd: ntp engine".
        """
        name = Path(self.arguments[0].partition(" ")[0]).name.rstrip(":")
        if name == "busybox" and len(self.arguments) > 1:
            return self.arguments[1]
        return _script(self.arguments[1:]) if _PYTHON.fullmatch(name) else name

    @property
    def options(self) -> tuple[str, ...]:
        """The arguments that follow the program's name."""
        skipped = 1
        if self.program != Path(self.arguments[0]).name:
            skipped = next((at for at, word in enumerate(self.arguments) if Path(word).name == self.program), 0) + 1
        return self.arguments[skipped:]

    @property
    def capabilities(self) -> int | None:
        """The effective capabilities, as a bit mask; None if they cannot be read."""
        try:
            status = (self.directory / "status").read_text(encoding="ascii", errors="replace")
            (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
            return int(mask, 16)
        except (OSError, ValueError, IndexError):
            return None


def processes(table: Path = TABLE) -> Iterator[Process]:
    """All processes that have a command line: what has ended has none, nor have the kernel's own threads. Raises ClockError."""
    try:
        entries = list(table.iterdir())
    except OSError as error:
        raise ClockError(f"{table} cannot be read ({error.strerror}): whether a clock daemon runs is unknown") from error
    for entry in entries:
        if not entry.name.isdecimal():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")[:-1]
        except OSError:
            # It has ended meanwhile.
            continue
        if arguments and arguments[0]:
            yield Process(int(entry.name), tuple(arguments), entry)


def _script(arguments: tuple[str, ...]) -> str:
    """What Python runs: the script's name, or the module's; empty for neither."""
    words = iter(arguments)
    for word in words:
        if word in _WITH_VALUE:
            next(words, None)
        elif word == "-m":
            module = next(words, "")
            return f"tsq-{next(words, '')}" if module == "tsq" else module
        elif word == "-c" or not word.startswith("-"):
            return "" if word == "-c" else Path(word).name
    return ""
