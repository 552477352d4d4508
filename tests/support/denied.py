"""A program under a filter of system calls, as containers and systemd set them.

    python -m tests.support.denied CALL... -- COMMAND...

A CALL is `name`, which then fails with EPERM; `socket:FAMILY`, an unsupported address family; or `setsockopt:NUMBER`, an
unsupported option of SOL_SOCKET. For x86-64 and arm64.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

_NUMBERS = {
    "x86_64": {"socket": 41, "setsockopt": 54, "adjtimex": 159, "clock_adjtime": 305, "clone": 56, "clone3": 435},
    "aarch64": {"socket": 198, "setsockopt": 208, "adjtimex": 171, "clock_adjtime": 266, "clone": 220, "clone3": 435},
}
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_SET_NO_NEW_PRIVILEGES, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2


def possible() -> bool:
    """Whether the system call numbers of this machine are known."""
    return sys.platform == "linux" and platform.machine() in _NUMBERS


def command(*calls: str) -> list[str]:
    """The prefix of a command that runs without these calls."""
    return [sys.executable, "-m", "tests.support.denied", *calls, "--"]


def _program(calls: list[str]) -> bytes:
    """The filter. For each call: compare its number, then its arguments; return the error if all are equal."""
    code = b""
    for call in calls:
        name, _, argument = call.partition(":")
        checks = [(0, _NUMBERS[platform.machine()][name])]
        # Offsets in struct seccomp_data: 16, 24 and 32 are the arguments.
        error = errno.EPERM
        if name == "socket":
            checks.append((16, int(argument)))
            error = errno.EAFNOSUPPORT
        elif name == "setsockopt":
            checks += [(24, 1), (32, int(argument))]
            error = errno.ENOPROTOOPT
        block = struct.pack("HBBI", _RETURN, 0, 0, _ERRNO | error)
        for offset, value in reversed(checks):
            length = len(block) // 8
            block = struct.pack("HBBI", _LOAD, 0, 0, offset) + struct.pack("HBBI", _JUMP_IF_EQUAL, 0, length, value) + block
        code += block
    return code + struct.pack("HBBI", _RETURN, 0, 0, _ALLOW)


def main(arguments: list[str]) -> None:
    """Install the filter, and execute the command."""
    at = arguments.index("--")
    code = _program(arguments[:at])
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    program = Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    calls = ((_SET_NO_NEW_PRIVILEGES, 1, 0), (_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program)))
    for number, first, second in calls:
        if libc.prctl(number, first, second, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
    os.execvp(arguments[at + 1], arguments[at + 1 :])


if __name__ == "__main__":
    main(sys.argv[1:])
