"""Confines a process that serves: to the system calls that it needs, and to reading a few directories (seccomp(2), landlock(7)).

Comes in: the files that it still reads, what a refused call does. Goes out: what could not be put in force, and why. Nothing can be
undone afterwards, also not in a program or thread that this one starts. It must be called when everything is open and read, and it
must never fail where the kernel lacks something: the process then serves with less protection, and says so.
"""

import errno
import os
import resource
import socket
import struct
import sys
import sysconfig
from collections.abc import Iterable
from enum import Enum

from tsq.host import _privileges, _sandbox

# <linux/prctl.h>
_SET_DUMPABLE, _SET_NO_NEW_PRIVS = 4, 38
# <linux/seccomp.h>: what becomes of a call, and where it stands in what the filter sees.
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
# <linux/filter.h>: load a word, jump if equal, if at least, if a bit is set, return.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# System calls of the x32 interface of x86-64 have this bit; no other machine has so large numbers.
_X32 = 0x40000000
_CLONE_THREAD = 0x10000
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
# The rights of landlock(7), by the version that brought them.
_READ = 1 << 2 | 1 << 3
_ALL_FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_READ_FILE = 1 << 2
_ALL_TCP = 0b11
_TCP_SINCE, _SCOPES_SINCE = 4, 6
_SCOPE_SIGNALS = 1 << 1
# Python's own modules, shared libraries, names and addresses of hosts, trusted certificates, time zones, who keeps the clock.
_SYSTEM = ("/usr", "/lib", "/lib64", "/etc", "/proc", "/run", "/var/run", "/sys/devices/system/cpu", "/dev/null", "/dev/urandom")


class Refused(Enum):
    """What a system call does that is not allowed."""

    FAILS = "it fails with EPERM"
    ENDS = "it ends the process"


def forbid_core_dumps() -> None:
    """No core file, and no other process of this user may look into the memory: it has keys."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _privileges.prctl(_SET_DUMPABLE, 0)


class Confinement:
    """Allows this process nothing that a server does not need any more: it may open no file to write, start no program, make no TCP
    connection.

    readable: files that it will read again, such as certificates; they may be replaced by others of their names. Make it before
    privileges are given up, which may be needed to find these files.
    """

    def __init__(self, readable: Iterable[str | os.PathLike[str]]) -> None:
        self._missing: list[str] = []
        self._ruleset: int | None = None
        try:
            self._ruleset = _ruleset(readable)
        except OSError as error:
            self._missing.append(f"files are not restricted: {_why(error)}")

    def enter(self, refused: Refused = Refused.FAILS) -> list[str]:
        """Put it in force, once; what is not in force, and why."""
        ruleset, self._ruleset = self._ruleset, None
        try:
            _privileges.prctl(_SET_NO_NEW_PRIVS, 1)
            if ruleset is not None:
                _sandbox.restrict(ruleset)
        except OSError as error:
            self._missing.append(f"files are not restricted: {_why(error)}")
        if ruleset is not None:
            os.close(ruleset)
        try:
            _restrict_calls(refused)
        except OSError as error:
            self._missing.append(f"system calls are not restricted: {_why(error)}")
        return self._missing


def _why(error: OSError) -> str:
    if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
        return "this kernel cannot do it"
    return error.strerror or str(error)


def _ruleset(readable: Iterable[str | os.PathLike[str]]) -> int:
    """A descriptor of rules that allow nothing but reading beneath a few directories (landlock(7)). Raises OSError."""
    version = _sandbox.landlock_version()
    if not version:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    network = _ALL_TCP if version >= _TCP_SINCE else 0
    scoped = _SCOPE_SIGNALS if version >= _SCOPES_SINCE else 0
    # An older kernel takes a shorter structure, and refuses what it does not know.
    size = 24 if scoped else 16 if network else 8
    ruleset = _sandbox.create_ruleset(_ALL_FILES[min(version, max(_ALL_FILES))], network, scoped, size)
    try:
        # A file's directory, so that a file that replaces it can be read as well.
        chosen = [os.path.dirname(os.path.abspath(one)) for one in readable]
        for place in dict.fromkeys([*_SYSTEM, *_of_python(), *chosen]):
            _allow_reading(ruleset, place)
    except OSError:
        os.close(ruleset)
        raise
    return ruleset


def _of_python() -> list[str]:
    """Where modules are, which may be loaded later."""
    return [place for place in (*sysconfig.get_paths().values(), *sys.path, os.path.dirname(__file__)) if os.path.isabs(place)]


def _allow_reading(ruleset: int, place: str) -> None:
    try:
        fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        # There is nothing to read.
        return
    try:
        _sandbox.add_path(ruleset, fd, _READ if os.path.isdir(place) else _READ_FILE)
    finally:
        os.close(fd)


def _restrict_calls(refused: Refused) -> None:
    """Nothing but the system calls in tsq/host/_sandbox.pyx (seccomp(2)). Raises OSError."""
    if not _sandbox.ARCHITECTURE:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    _sandbox.install_filter(call_filter(_sandbox.system_calls(), _sandbox.ARCHITECTURE, refused))


def call_filter(calls: dict[str, int], architecture: int, refused: Refused) -> bytes:
    """The filter that allows these calls, as an array of struct sock_filter.

    A new process is refused, a new thread allowed; `clone3`, whose flags a filter cannot see, does not exist, so that libc uses
    `clone`. Sockets may be of the families for UDP, TCP, the machine's own programs and its routes.
    """
    refusal = _KILL if refused is Refused.ENDS else _ERRNO | errno.EPERM
    absent = _ERRNO | errno.ENOSYS
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT), (_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, refusal),
    ]  # fmt: skip
    for name, number in calls.items():
        if name == "clone3":
            program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, absent)]
        elif name == "clone":
            program += [
                (_EQUAL, 0, 4, number), (_LOAD, 0, 0, _FIRST_ARGUMENT_AT), (_ANY_BIT, 0, 1, _CLONE_THREAD), (_RETURN, 0, 0, _ALLOW),
                (_RETURN, 0, 0, refusal),
            ]  # fmt: skip
        elif name == "socket":
            families = [step for family in _FAMILIES for step in ((_EQUAL, 0, 1, int(family)), (_RETURN, 0, 0, _ALLOW))]
            program += [
                (_EQUAL, 0, len(families) + 2, number),
                (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
                *families,
                (_RETURN, 0, 0, refusal),
            ]
        else:
            program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    program.append((_RETURN, 0, 0, refusal))
    return b"".join(struct.pack("=HBBI", *step) for step in program)
