"""The clock daemon that runs on this machine: it would undo any setting of the clock.

Comes in: the process table (/proc), and chrony's command port for a chronyd in another process namespace. Goes out: the daemon's
name, or None. It must never signal or change anything. A chronyd that leaves the clock alone (-x, or -Q) does not count. A daemon
with another name than those in the list is not recognized.
"""

import getopt
from collections.abc import Iterator
from pathlib import Path

from tsq.errors import ClockError
from tsq.host.keepers import chrony

_NAMES = {
    "chronyd": "chronyd",
    "ntpd": "ntpd",
    "ntp-daemon": "ntpd-rs (ntp-daemon)",
    "systemd-timesyncd": "systemd-timesyncd",
    "phc2sys": "phc2sys",
}
# chronyd(8), its options as getopt has them.
_CHRONYD_OPTIONS = "46df:F:hl:L:mnpqQP:r:R:st:u:Uvx"
_HANDS_OFF = {"-x", "-Q", "-p", "-h", "-v"}


def clock_owner(processes: Path = Path("/proc"), chronyd: chrony.Address = chrony.DEFAULT) -> str | None:
    """The clock daemon, with its process id; None if there is none. Raises ClockError if the process table cannot be read."""
    hands_off = False
    for pid, arguments in _processes(processes):
        name = _NAMES.get(_program(arguments))
        if name is None:
            continue
        if name == "chronyd" and _leaves_clock_alone(arguments[1:]):
            hands_off = True
            continue
        return f"{name}, process {pid}"
    # The chronyd at the command port may be one that leaves the clock alone.
    if not hands_off and chrony.ask_tracking(chronyd) is not None:
        return f"chronyd, which answers at {chronyd[0]} port {chronyd[1]} (its process is not to be seen from here)"
    return None


def _processes(directory: Path) -> Iterator[tuple[int, list[str]]]:
    """(process id, command line) of all processes that have one: what has ended has none, nor have the kernel's own threads."""
    try:
        entries = list(directory.iterdir())
    except OSError as error:
        raise ClockError(f"{directory} cannot be read ({error.strerror}): whether a clock daemon runs is unknown") from error
    for entry in entries:
        if not entry.name.isdecimal():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")[:-1]
        except OSError:
            # It has ended meanwhile.
            continue
        if arguments and arguments[0]:
            yield int(entry.name), arguments


def _program(arguments: list[str]) -> str:
    """A program's name in its command line, which it may have changed into a title such as "ntpd: ntp engine"."""
    name = Path(arguments[0].partition(" ")[0]).name.rstrip(":")
    return arguments[1] if name == "busybox" and len(arguments) > 1 else name


def _leaves_clock_alone(arguments: list[str]) -> bool:
    try:
        options, _ = getopt.gnu_getopt(arguments, _CHRONYD_OPTIONS)
    except getopt.GetoptError:
        return False
    return bool(_HANDS_OFF & {option for option, _ in options})
