"""Messages for errors that mean that a process has run out of open files, threads or memory.

Comes in: an error. Goes out: what is missing, how much there is, and what to do; None for an error of another kind. It must never
open a file itself: import it before anything runs out.
"""

import contextlib
import errno
import os

# Standard streams, modules and certificates while they are read, name resolution.
FILES_OF_ITS_OWN = 12
# A socket, one more to warm the transmit path, and a file that is being read.
FILES_A_HOST = 3
_NO_THREAD = "can't start new thread"
# Python's message if it cannot load the module of one of its own encodings.
_NO_ENCODING = "unknown encoding"


def explained(error: BaseException) -> str | None:
    """What has run out, as a sentence; None if the error has another reason."""
    number = error.errno if isinstance(error, OSError) else None
    words = str(error)
    if number == errno.EMFILE or (isinstance(error, ImportError) and os.strerror(errno.EMFILE) in words):
        return f"this process has all {open_files()} open files that it may have: raise the limit (ulimit -n)"
    if number == errno.ENFILE:
        return "the system's limit of open files is reached: raise fs.file-max, or close programs"
    if isinstance(error, RuntimeError) and _NO_THREAD in words:
        return "no thread can be started: raise the limit of processes (ulimit -u, or the container's) or of memory (ulimit -v)"
    if isinstance(error, LookupError) and _NO_ENCODING in words:
        return "a part of Python cannot be loaded: raise the limits of memory (ulimit -v) and of open files (ulimit -n)"
    if isinstance(error, MemoryError) or number == errno.ENOMEM or (isinstance(error, ImportError) and "map segment" in words):
        return "out of memory: raise the limit (ulimit -v, or the container's)"
    return None


def open_files() -> int:
    """The limit of open files of this process."""
    return os.sysconf("SC_OPEN_MAX")


def too_few_files(needed: int, purpose: str) -> str | None:
    """A message if the limit of open files is less than needed; None otherwise.

    Raise the limit first, as far as allowed.
    """
    allow_open_files(needed)
    limit = open_files()
    if limit >= needed:
        return None
    return f"this process may have {limit} open files, and {purpose} needs {needed}: raise the limit (ulimit -n)"


def allow_open_files(needed: int) -> None:
    """Raise the limit of open files to what is needed, as far as allowed."""
    if open_files() >= needed:
        return
    import resource  # noqa: PLC0415 - a compiled module of its own, for the rare case only

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def files_for(hosts: int) -> int:
    """How many open files queries of so many hosts at the same time need."""
    return FILES_OF_ITS_OWN + FILES_A_HOST * hosts


def hosts_at_a_time() -> int:
    """How many hosts this process can query at the same time, within its limit of open files."""
    return max(0, (open_files() - FILES_OF_ITS_OWN) // FILES_A_HOST)
