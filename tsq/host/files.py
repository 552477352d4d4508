"""Reads and writes TSQ's own files, at paths where other users may have put something else.

Comes in: paths. Goes out: file contents, file descriptors, locks. It must never wait long for another process (a FIFO, a lock),
and never change, truncate or chmod a file that this program's user does not own, a special file, a symbolic link or a file with
several hard links. To replace a file, write a new one in the same directory and rename it: until then the old file stays complete.
"""

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import secrets
import stat
import time
from collections.abc import Iterator

# How long to wait for a lock that another process holds. After that, do without the file.
LOCK_PATIENCE = 0.25
_LOCK_PERIOD = 0.01
_OTHERS = 0o077
_OTHERS_WRITE = 0o022
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_ROOT = 0
_CAREFULLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class FileRefused(OSError):
    """A file that must not be used. `strerror` is the reason."""

    def __init__(self, found: str) -> None:
        super().__init__(errno.EPERM, found)


def why(error: OSError) -> str:
    """The reason for an error, as text, without the file's name."""
    return error.strerror or str(error) or type(error).__name__


def kind_of(status: os.stat_result) -> str:
    """The kind of a file, as text."""
    return next((words for is_one, words in _KINDS if is_one(status.st_mode)), "a regular file")


def read(path: str, most: int, *, private: bool = False) -> bytes:
    """The first `most` bytes of a regular file that only its owner can change. The owner is this user or root.

    private: other users must not be able to read it either. Raises OSError, including FileRefused.
    """
    fd = _open_regular(path, os.O_RDONLY, 0)
    try:
        status = os.fstat(fd)
        if status.st_uid not in (os.geteuid(), _ROOT):
            raise FileRefused(f"it belongs to another user ({status.st_uid})")
        _check_mode(status, _OTHERS if private else _OTHERS_WRITE)
        data = bytearray()
        while len(data) < most:
            part = os.read(fd, most - len(data))
            if not part:
                break
            data += part
        return bytes(data)
    finally:
        os.close(fd)


def check_directory(path: str) -> None:
    """Raises FileRefused if users other than this one and root can create or remove files in this directory."""
    status = os.stat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise FileRefused("it is not a directory")
    if status.st_uid not in (os.geteuid(), _ROOT):
        raise FileRefused(f"the directory belongs to another user ({status.st_uid})")
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not _is_own_group(status)):
        raise FileRefused(f"others can write to the directory (mode {mode:04o}, expected 0755 or 0700)")


def make_directory(path: str) -> None:
    """Create a directory and its missing parents. Other users cannot write to them, whatever the umask is."""
    missing = []
    at = os.path.abspath(path)
    while not os.path.lexists(at):
        missing.append(at)
        at = os.path.dirname(at)
    for directory in reversed(missing):
        os.mkdir(directory, 0o755)


def check_own(path: str, *, private: bool = False) -> None:
    """Raises OSError if a file must not be replaced. A file that does not exist yet may be created.

    private: other users must not be able to read it.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        status = None
    if status is not None:
        _check_regular(status)
        _check_owned(status)
        if private:
            _check_mode(status, _OTHERS)
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        raise OSError(errno.EACCES, "its directory cannot be written to")


def replace(path: str, data: bytes, mode: int, *, durable: bool = True) -> None:
    """Replace or create a file, with this content and mode. Raises OSError; the old file is unchanged then.

    durable: wait until the content is on the disk, so that after a power failure the file is the old one or the new one.
    """
    check_own(path)
    directory, name = os.path.split(path)
    fresh = os.path.join(directory, f".{name[:200]}.{secrets.token_hex(6)}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode & 0o600)
    try:
        try:
            write_all(fd, data)
            os.fchmod(fd, mode)
            if durable:
                os.fsync(fd)
        finally:
            # A network file system may report a full disk only here.
            os.close(fd)
        os.replace(fresh, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise


def write_all(fd: int, data: bytes) -> None:
    """Write all data, with as many calls as it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@contextlib.contextmanager
def locked(path: str, patience: float = LOCK_PATIENCE) -> Iterator[int]:
    """Lock a private file of this user; create it if it is missing. Yields its descriptor, for reading.

    A writer replaces the file (`replace`) while it holds the lock. A process that waited for the lock then locks the new file.
    Raises OSError; TimeoutError if another process holds the lock for longer than `patience` seconds.
    """
    until = time.monotonic() + patience
    while True:
        fd = _open_regular(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            status = os.fstat(fd)
            _check_owned(status)
            _check_mode(status, _OTHERS)
            _lock(fd, until)
            if _is_at(path, fd):
                yield fd
                return
            if time.monotonic() >= until:
                raise TimeoutError(errno.ETIMEDOUT, "it is replaced again and again")
        finally:
            os.close(fd)


def open_log(path: str) -> int:
    """A descriptor that appends to a file that only this user can read; create the file if it is missing. Writes never block.

    The file may be a FIFO: a program that follows the log can read from it. Raises OSError.
    """
    access = os.O_WRONLY
    with contextlib.suppress(FileNotFoundError):
        status = os.lstat(path)
        if stat.S_ISFIFO(status.st_mode):
            # A FIFO that is opened for reading and writing needs no reader yet.
            access = os.O_RDWR
        else:
            _check_regular(status)
    fd = os.open(path, access | os.O_APPEND | os.O_CREAT | _CAREFULLY, 0o600)
    try:
        status = os.fstat(fd)
        if not stat.S_ISFIFO(status.st_mode):
            _check_regular(status)
        _check_owned(status)
        _check_mode(status, _OTHERS)
    except OSError:
        os.close(fd)
        raise
    return fd


def _open_regular(path: str, flags: int, mode: int) -> int:
    # Opening a device may have side effects, so check before opening.
    with contextlib.suppress(FileNotFoundError):
        _check_regular(os.lstat(path))
    fd = os.open(path, flags | _CAREFULLY, mode)
    try:
        _check_regular(os.fstat(fd))
    except OSError:
        os.close(fd)
        raise
    return fd


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FileRefused(f"it is {kind_of(status)}, not a regular file")
    if status.st_nlink > 1:
        raise FileRefused(f"it has {status.st_nlink} hard links: another name of it may be somebody else's file")


def _check_owned(status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise FileRefused(f"it belongs to another user ({status.st_uid})")


def _check_mode(status: os.stat_result, forbidden: int) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden:
        verb = "written" if mode & _OTHERS_WRITE else "read"
        expected = "0600" if forbidden == _OTHERS else "0644 or 0600"
        raise FileRefused(f"it can be {verb} by others (mode {mode:04o}, expected {expected})")


def _is_own_group(status: os.stat_result) -> bool:
    """Whether the owner is the group's only member. Some systems give each user such a group, and create files with mode 0664."""
    try:
        user, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    return user.pw_gid == group.gr_gid and user.pw_name == group.gr_name and set(group.gr_mem) <= {user.pw_name}


def _lock(fd: int, until: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds its lock") from None
        time.sleep(_LOCK_PERIOD)


def _is_at(path: str, fd: int) -> bool:
    """Whether the path still names this file. Another process may have replaced it during the wait for the lock."""
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
