"""What a process can run out of: open files, threads, memory; in a user's words.

Comes in: an error. Goes out: what is missing, how much there is, and what to do; None for an error of another kind. It must never
need a descriptor itself: it is loaded before anything is short.
"""

import contextlib
import errno
import os

# Standard streams, modules and certificates that are being read, name resolution.
FILES_OF_ITS_OWN = 12
# A poll, a socket, one more to warm the path, and a file that is being read.
FILES_A_HOST = 4
_NO_THREAD = "can't start new thread"
# What Python says of one of its own encodings whose module it could not load.
_NO_ENCODING = "unknown encoding"


def explained(error: BaseException) -> str | None:
    """What there is too little of, as a sentence; None where the error says nothing of that kind."""
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
    """How many files this process may have open at a time."""
    return os.sysconf("SC_OPEN_MAX")


def too_few_files(needed: int, purpose: str) -> str | None:
    """What to say where this process may not have so many files open at a time; None where it may.

    The process raises its own limit first, as far as it is allowed to.
    """
    allow_open_files(needed)
    limit = open_files()
    if limit >= needed:
        return None
    return f"this process may have {limit} open files, and {purpose} needs {needed}: raise the limit (ulimit -n)"


def allow_open_files(needed: int) -> None:
    """Raise this process's own limit of open files as far as is needed and as it may."""
    if open_files() >= needed:
        return
    import resource  # noqa: PLC0415 - a compiled module of its own, for the rare case only

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def files_for(hosts: int) -> int:
    """How many open files it takes to ask so many hosts at the same time."""
    return FILES_OF_ITS_OWN + FILES_A_HOST * hosts


def hosts_at_a_time() -> int:
    """How many hosts this process can ask at the same time with the open files that it may have."""
    return max(0, (open_files() - FILES_OF_ITS_OWN) // FILES_A_HOST)
