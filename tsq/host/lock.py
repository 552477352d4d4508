"""A lock file that lets only one tsq-adjtime run at a time. The kernel releases the lock when its holder ends.

Comes in: directories to try. Goes out: the lock until the end of a `with`, or AlreadyRunning with the process that holds it. It
must never follow a link, never write to another user's file, and never stop the program because no lock file can be created.

The file stays when the lock is released. If it were removed, two programs could hold two locks under one name.
"""

import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from tsq.errors import AlreadyRunning

# Only root writes to the first. In the second, files of different users need different names.
_DIRECTORIES = ("/run", "/tmp")
_MOST_DIGITS = 10


@contextmanager
def held(directories: Sequence[str] = _DIRECTORIES) -> Iterator[str]:
    """Hold the lock. Yields a warning, which is empty if the lock is held. Raises AlreadyRunning if another process holds it."""
    problems = []
    for directory in directories:
        path = os.path.join(directory, f"tsq-adjtime-{os.geteuid()}.lock")
        try:
            descriptor = _locked(path)
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            continue
        try:
            yield ""
        finally:
            os.close(descriptor)
        return
    yield f"no lock file can be used ({'; '.join(problems)}): make sure that no other tsq-adjtime runs"


def _locked(path: str) -> int:
    """Open or create the lock file, and lock it. Raises OSError if it is not a regular file of this user."""
    # O_NONBLOCK, because the path may be a FIFO.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    descriptor = os.open(path, flags, 0o600)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            raise OSError(0, "is not a plain file of this user")
        _lock(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, path: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, _MOST_DIGITS, 0).decode("ascii", "replace").strip()
        who = f"process {holder}" if holder.isdecimal() else "a process that has not written its number yet"
        raise AlreadyRunning(
            f"another tsq-adjtime sets this clock ({who}, lock {path})", advice="wait until it has ended, or end it"
        ) from None
    # On a full disk the process ID cannot be written. The lock is held all the same.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
