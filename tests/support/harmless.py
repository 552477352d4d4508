"""Takes CAP_SYS_TIME away from the tests for good, so that the kernel itself refuses whatever tries to set this machine's clock:
a test, the code under test, or any program that a test starts. Called by conftest.py before anything else is imported.
"""

import ctypes
import os
import struct
from pathlib import Path

CAP_SYS_TIME = 25
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_CAPABILITY_VERSION_3 = 0x20080522
_HEADER = struct.Struct("=Ii")
_SETS = struct.Struct("=6I")  # effective, permitted, inheritable: the low halves, then the high ones


def give_up_the_clock() -> None:
    """Drop the capability from this process and from all that it will start. Raises OSError where that fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = ctypes.create_string_buffer(_HEADER.pack(_CAPABILITY_VERSION_3, 0))
    sets = ctypes.create_string_buffer(_SETS.size)
    _check(libc.capget(header, sets))
    left = [value & ~(1 << CAP_SYS_TIME) if at < 3 else value for at, value in enumerate(_SETS.unpack(sets.raw))]
    if libc.prctl(_PR_CAPBSET_READ, CAP_SYS_TIME, 0, 0, 0) == 1 and os.geteuid() == 0:
        # What is not in the bounding set does not come back with exec, for root neither.
        _check(libc.prctl(_PR_CAPBSET_DROP, CAP_SYS_TIME, 0, 0, 0))
    _check(libc.capset(header, ctypes.create_string_buffer(_SETS.pack(*left))))


def holds(pid: int | str = "self", sets: tuple[str, ...] = ("CapInh", "CapPrm", "CapEff", "CapAmb")) -> bool:
    """Whether a process has the capability in one of these sets."""
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    return any(int(lines[name], 16) >> CAP_SYS_TIME & 1 for name in sets)


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
