"""Read whole files that a user names, within limits of time and size.

Comes in: a path, how long to wait. Goes out: the content and what the file is, or OSError with the reason. A FIFO that nobody
writes, a terminal and an endless device must never hang a program or fill its memory.
"""

import errno
import os
import select
import stat
import time

from tsq.host.files import kind_of

# The largest trust store in use has a quarter of a megabyte.
MOST_BYTES = 4 << 20
_PIECE = 1 << 16
# Seconds between two looks at a FIFO that has no writer yet: nothing reports a writer.
_LOOK = 0.02


def read_whole(path: str, patience: float | None = None) -> tuple[bytes, os.stat_result]:
    """A file's content, and what it is. patience: how many seconds a pipe or a device may take; None takes regular files only.

    Raises OSError.
    """
    # Without O_NONBLOCK the opening itself may wait for ever.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode):
            return _to_the_end(fd, path, time.monotonic()), found
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if patience is None or not (stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode)):
            raise OSError(errno.EINVAL, f"is {kind_of(found)}, not a regular file", path)
        return _to_the_end(fd, path, time.monotonic() + patience), found
    finally:
        os.close(fd)


def _to_the_end(fd: int, path: str, deadline: float) -> bytes:
    """All bytes until the end. A FIFO without a writer reads as ended: wait for a writer first."""
    pieces: list[bytes] = []
    size = 0
    awaits_writer = stat.S_ISFIFO(os.fstat(fd).st_mode)
    while True:
        try:
            piece = os.read(fd, _PIECE)
            ended = not piece and not awaits_writer
        except BlockingIOError:
            piece, ended = b"", False
        if ended:
            return b"".join(pieces)
        if piece:
            awaits_writer = False
            pieces.append(piece)
            size += len(piece)
            if size > MOST_BYTES:
                raise OSError(errno.EFBIG, f"has more than {MOST_BYTES} bytes", path)
            continue
        left = deadline - time.monotonic()
        if left <= 0:
            what = "its end did not come" if pieces else "nobody wrote to it"
            raise OSError(errno.ETIMEDOUT, f"is {kind_of(os.fstat(fd))}, and {what} in time", path)
        if _has_hung_up(fd, min(left, _LOOK)):
            awaits_writer = False


def _has_hung_up(fd: int, seconds: float) -> bool:
    """Wait for something to read; whether there will be nothing, because a writer has come and gone."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(event & select.POLLHUP and not event & select.POLLIN for _, event in poll.poll(seconds * 1000))
