"""One tsq-adjtime at a time: a lock on a file, which the kernel releases when its holder ends, however it ends.

Comes in: directories to try. Goes out: the lock until the end of a `with`, or AlreadyRunning with the process that holds it. It
must never follow a link, never write to a file that is not its own, and never forbid anything because no lock can be made.

The file's name is fixed and it stays when the lock is released: removing it would let two programs hold two locks under one name.
"""

import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from tsq.errors import AlreadyRunning

# Only root writes to the first; what is in the second has the user's number in its name.
_DIRECTORIES = ("/run", "/tmp")
_MOST_DIGITS = 10


@contextmanager
def held(directories: Sequence[str] = _DIRECTORIES) -> Iterator[str]:
    """Hold the lock, and give a warning, empty where the lock is held. Raises AlreadyRunning where another process holds it."""
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
    """The lock's file, made if it is not there, and locked. Raises OSError where it is not a plain file of this user's own."""
    # Not blocking: the name may be that of a FIFO.
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
    # On a full disk the number is missing, and the lock is held all the same.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
