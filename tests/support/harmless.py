"""Drops CAP_SYS_TIME permanently, so that the kernel refuses every attempt to set this machine's clock: by a test, by the code
under test, or by a program that a test starts. conftest.py calls it before it imports anything else.
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
    """Drop the capability in this process and all its later children. Raises OSError where that fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = ctypes.create_string_buffer(_HEADER.pack(_CAPABILITY_VERSION_3, 0))
    sets = ctypes.create_string_buffer(_SETS.size)
    _check(libc.capget(header, sets))
    left = [value & ~(1 << CAP_SYS_TIME) if at < 3 else value for at, value in enumerate(_SETS.unpack(sets.raw))]
    if libc.prctl(_PR_CAPBSET_READ, CAP_SYS_TIME, 0, 0, 0) == 1 and os.geteuid() == 0:
        # Without it in the bounding set, exec does not bring it back, not even for root.
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
