"""A lock file of the programs that set the clock: one tsqd, or one tsq-adjtime. The kernel releases it when its holder ends.

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

# Only root writes to the first, and the daemon's own user to the second, which it has even where its /tmp is private. In the last,
# files of different users need different names.
_DIRECTORIES = ("/run", "/run/tsq", "/tmp")
ONE_SHOT, DAEMON = "tsq-adjtime", "tsqd"
_MOST_READ = 32


@contextmanager
def held(directories: Sequence[str] = _DIRECTORIES, program: str = ONE_SHOT) -> Iterator[str]:
    """Hold the lock. Yields a warning, which is empty if the lock is held. Raises AlreadyRunning if another process holds it.

    program: ONE_SHOT or DAEMON, for the other's error.
    """
    problems = []
    for directory in directories:
        path = os.path.join(directory, f"tsq-adjtime-{os.geteuid()}.lock")
        try:
            descriptor = _locked(path, program)
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            continue
        try:
            yield ""
        finally:
            os.close(descriptor)
        return
    yield f"no lock file can be used ({'; '.join(problems)}): make sure that no other tsq-adjtime or tsqd runs"


def _locked(path: str, program: str) -> int:
    """Open or create the lock file, and lock it. Raises OSError if it is not a regular file of this user."""
    # O_NONBLOCK, because the path may be a FIFO.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    descriptor = os.open(path, flags, 0o600)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            raise OSError(0, "is not a plain file of this user")
        _lock(descriptor, path, program)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, path: str, program: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _refusal(os.pread(descriptor, _MOST_READ, 0).decode("ascii", "replace"), path, program) from None
    # On a full disk the process ID cannot be written. The lock is held all the same.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {program}\n".encode("ascii"), 0)


def _refusal(holder: str, path: str, program: str) -> AlreadyRunning:
    """Who holds the lock, by the content of the file: its process ID, then its name."""
    number, _, name = holder.strip().partition(" ")
    who = f"process {number}" if number.isdecimal() else "a process that has not written its number yet"
    if name != DAEMON:
        return AlreadyRunning(
            f"another tsq-adjtime sets this clock ({who}, lock {path})"
            if program == ONE_SHOT
            else f"a tsq-adjtime sets this clock ({who}, lock {path})",
            advice="wait until it has ended, or end it",
        )
    if program == DAEMON:
        return AlreadyRunning(f"another tsqd keeps this clock ({who}, lock {path})", advice="end it first")
    return AlreadyRunning(
        f"tsqd keeps this clock ({who}, lock {path})", advice="let tsqd correct it (tsqctl makestep), or end tsqd first"
    )
