"""The clock daemon that runs on this machine: it would undo any setting of the clock.

Comes in: the process table (/proc), and chrony's command port for a chronyd in another process namespace. Goes out: the daemon's
name, or None. It must never signal or change anything. A chronyd that leaves the clock alone (-x, or -Q) does not count, nor does a
tsqd without the capability to set it, nor this process. A daemon with another name than those in the list is not recognized.
"""

import getopt
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tsq.errors import AlreadyRunning
from tsq.host.clock import SystemClock
from tsq.host.keepers import chrony
from tsq.host.processes import CAP_SYS_TIME, TABLE, Process, processes

DAEMONS = {
    "chronyd": "chronyd",
    "ntpd": "ntpd",
    "ntp-daemon": "ntpd-rs (ntp-daemon)",
    "systemd-timesyncd": "systemd-timesyncd",
    "phc2sys": "phc2sys",
    "tsqd": "tsqd",
    "tsq.cli.daemon": "tsqd",
    "tsq-daemon": "tsqd",
}
# chronyd(8), its options as getopt has them.
_CHRONYD_OPTIONS = "46df:F:hl:L:mnpqQP:r:R:st:u:Uvx"
_HANDS_OFF = {"-x", "-Q", "-p", "-h", "-v"}
_ONE_SHOT = "tsq-adjtime"
_TSQD_HANDS_OFF = {"--check-config", "--replay", "--help", "--version"}


def clock_owner(table: Path = TABLE, chronyd: chrony.Address = chrony.DEFAULT) -> str | None:
    """The clock daemon, with its process id; None if there is none. Raises ClockError if the process table cannot be read."""
    hands_off = False
    for process in processes(table):
        name = DAEMONS.get(process.program)
        if name is None or process.pid == os.getpid():
            continue
        if name == "chronyd" and _leaves_clock_alone(process.options):
            hands_off = True
            continue
        if name == "tsqd" and _only_watches(process):
            continue
        return f"{name}, process {process.pid}"
    # The chronyd at the command port may be one that leaves the clock alone.
    if not hands_off and chrony.ask_tracking(chronyd) is not None:
        return f"chronyd, which answers at {chronyd[0]} port {chronyd[1]} (its process is not to be seen from here)"
    return None


def setter_running(table: Path = TABLE) -> int | None:
    """The process ID of a tsq-adjtime that can set the clock; None if there is none. Raises ClockError."""
    for process in processes(table):
        if process.program in (_ONE_SHOT, "tsq.cli.adjtime") and "--dry-run" not in process.options and _may_set(process):
            return process.pid
    return None


@contextmanager
def kept_alone(
    clock: SystemClock, owner: Callable[[], str | None] = clock_owner, setter: Callable[[], int | None] = setter_running
) -> Iterator[str]:
    """For a daemon that steers: nobody else keeps or sets this clock until the end of the `with`.

    Yields a warning, which is empty if the lock is held. Raises AlreadyRunning if another daemon keeps the clock or a tsq-adjtime
    sets it; ClockError if that cannot be found out.
    """
    # First the lock, then the look: of two daemons that start at the same time, at least one sees the other.
    with clock.daemon_lock() as warning:
        other = owner()
        if other is not None:
            raise AlreadyRunning(
                f"another program keeps this clock ({other})", advice='stop it, or set mode = "feed" or "observe" in [clock]'
            )
        pid = setter()
        if pid is not None:
            # It runs as another user, whose lock is another file.
            raise AlreadyRunning(f"a {_ONE_SHOT} sets this clock (process {pid})", advice="wait until it has ended, or end it")
        yield warning


def _leaves_clock_alone(arguments: Sequence[str]) -> bool:
    try:
        options, _ = getopt.gnu_getopt(list(arguments), _CHRONYD_OPTIONS)
    except getopt.GetoptError:
        return False
    return bool(_HANDS_OFF & {option for option, _ in options})


def _only_watches(process: Process) -> bool:
    """Whether a tsqd cannot touch the clock: in the modes `feed` and `observe` it gives the capability up."""
    if not _may_set(process):
        return True
    return any(option.partition("=")[0] in _TSQD_HANDS_OFF for option in process.options)


def _may_set(process: Process) -> bool:
    """Whether a process has the capability to set the clock, as far as that is known."""
    capabilities = process.capabilities
    return capabilities is None or bool(capabilities >> CAP_SYS_TIME & 1)
