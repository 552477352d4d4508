"""Which process may have moved the clock, when another one than this did.

Comes in: the process table (/proc). Goes out: "PID 123 (chronyd)", or nothing. A guess for a log line: a program such as date(1)
has ended by then. It must never fail, and is not for every second: it reads an entry of each process.
"""

import os
from pathlib import Path

from tsq.errors import TSQError
from tsq.host.keepers.owner import DAEMONS
from tsq.host.processes import CAP_SYS_TIME, TABLE, Process, processes

# Programs that set a clock once, or that set a guest's clock by its host's.
_SETTERS = frozenset({
    "tsq-adjtime", "ntpdate", "sntp", "rdate", "date", "hwclock", "htpdate", "ntpdig", "timed", "ptpd", "ptpd2", "timemaster",
    "systemd-timedated", "vmtoolsd", "VBoxService", "prltoolsd", "qemu-ga", "hv_utils", "adjtimex", "chronyc",
    "gpsd", "fake-hwclock",
})  # fmt: skip
# A process with as many capabilities has them all, for no purpose.
_MANY = 16


def who_steers(table: Path = TABLE) -> str:
    """The likeliest process: a clock daemon, else a program that sets clocks, else one that was given CAP_SYS_TIME on purpose."""
    try:
        ranked = [(rank, process) for process in processes(table) if (rank := _rank(process)) is not None]
    except TSQError:
        return ""
    if not ranked:
        return ""
    _, process = min(ranked, key=lambda pair: (pair[0], -pair[1].pid))
    return f"PID {process.pid} ({_name(process)})"


def _rank(process: Process) -> int | None:
    """The lower, the likelier; None: unlikely."""
    if process.pid == os.getpid():
        return None
    capabilities = process.capabilities
    if capabilities is not None and not capabilities >> CAP_SYS_TIME & 1:
        # chronyd -x, tsqd as an observer, any unprivileged process.
        return None
    if process.program in DAEMONS:
        return 0
    if process.program in _SETTERS:
        return 1
    return 2 if capabilities is not None and capabilities.bit_count() < _MANY else None


def _name(process: Process) -> str:
    """The program's name as far as it can be printed: a process chooses it."""
    name = DAEMONS.get(process.program, process.program) or Path(process.arguments[0]).name
    return "".join(letter if letter.isprintable() else "?" for letter in name[:64])
