"""Bounded time in shared memory: written by the daemon, read by any program through `tsq.now()` (docs/reference/now-segment.md).

Comes in: what is known about the time at one reading of the raw clock. Goes out: the earliest and the latest time that is possible.
A reader must never wait for the daemon, make a system call while the file stays the same, or return an interval without the truth.
"""

import mmap
import os
import stat
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, TypeAlias

from tsq.errors import NoBoundedTime
from tsq.host import _segment, files

DEFAULT_SEGMENT = "/run/tsq/now"
MAGIC = b"TSQ-NOW\0"
VERSION = 1
SIZE = _segment.NOW_SIZE
_HEADER = struct.Struct("=8sIHH")
_ENDED_AT = 24
_ENDED = struct.Struct("=I")
_MODE = 0o644
# A daemon that starts may replace the file while it is opened.
_OPENINGS = 3


class TimeStatus(IntEnum):
    """How the daemon keeps the time; the numbers are those of the segment."""

    # The time is not known: the interval has no limits.
    UNSYNCHRONIZED = 0
    SYNCHRONIZED = 1
    # No source is usable at present, or the daemon does not run: the interval grows.
    HOLDOVER = 2
    # The system clock is left as it is, because a limit was passed. The interval is right.
    FROZEN = 3
    # The machine slept, or its clock was stepped, since the last update: the interval has no limits until the next one.
    DISRUPTED = 4


class BoundedTime(NamedTuple):
    """The true time is in this interval, Unix ns, while a majority of the sources is right."""

    earliest_ns: int
    latest_ns: int
    status: TimeStatus


@dataclass(frozen=True, slots=True)
class Update:
    """What is known at a reading of the raw clock (CLOCK_MONOTONIC_RAW), raw_ns.

    earliest_ns, latest_ns: the true time then, Unix ns. frequency: how fast true time runs against the raw clock, minus 1. growth:
    how fast each limit moves outwards besides, seconds per second. void_ns: the raw time after which none of this holds.
    """

    raw_ns: int
    earliest_ns: int
    latest_ns: int
    frequency: float
    growth: float
    void_ns: int
    status: TimeStatus


class Segment:
    """The daemon's side: a file that is replaced once, at the first update, and written in place from then on."""

    def __init__(self, path: str = DEFAULT_SEGMENT) -> None:
        self._path = path
        self._writer: _segment.NowWriter | None = None

    def write(self, update: Update, moved_ns: int, asleep_ns: int) -> None:
        """Publish an update. moved_ns: CLOCK_REALTIME - CLOCK_MONOTONIC; asleep_ns: CLOCK_BOOTTIME - CLOCK_MONOTONIC, both now.

        Raises OSError where the file cannot be made; later calls try again.
        """
        if self._writer is None:
            # The file is complete before readers can see it.
            content = bytearray(SIZE)
            _HEADER.pack_into(content, 0, MAGIC, SIZE, VERSION, 0)
            _put(_segment.NowWriter(content), update, moved_ns, asleep_ns)
            self._writer = self._replace(bytes(content))
        else:
            _put(self._writer, update, moved_ns, asleep_ns)

    def _replace(self, content: bytes) -> _segment.NowWriter:
        files.make_directory(os.path.dirname(os.path.abspath(self._path)))
        old = _open_own(self._path)
        try:
            files.replace(self._path, content, _MODE, durable=False)
            if old is not None:
                # Programs that have the old file mapped open the new one.
                os.pwrite(old, _ENDED.pack(1), _ENDED_AT)
        finally:
            if old is not None:
                os.close(old)
        fd = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return _segment.NowWriter(mmap.mmap(fd, SIZE))
        finally:
            os.close(fd)

    def close(self) -> None:
        """Stop writing. The file stays: what it says holds until its limit, so a restart of the daemon interrupts no reader."""
        self._writer = None


def _put(writer: _segment.NowWriter, update: Update, moved_ns: int, asleep_ns: int) -> None:
    writer.write(
        update.raw_ns,
        update.earliest_ns,
        update.latest_ns,
        update.frequency,
        update.growth,
        update.void_ns,
        moved_ns,
        asleep_ns,
        update.status,
    )


def _open_own(path: str) -> int | None:
    """A descriptor of an earlier daemon's segment, for writing; None where there is none."""
    try:
        files.check_own(path)
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if os.fstat(fd).st_size >= SIZE and os.pread(fd, len(MAGIC), 0) == MAGIC:
        return fd
    os.close(fd)
    return None


Reader: TypeAlias = "_segment.NowReader[BoundedTime]"
_readers: dict[str, Reader] = {}


def now(path: str = DEFAULT_SEGMENT) -> BoundedTime:
    """The interval that contains the true time at this moment, from a running tsqd.

    Costs less than a microsecond. Raises NoBoundedTime where no daemon has published the time, or not for too long.
    """
    reader = _readers.get(path)
    if reader is not None:
        found = reader.now()
        if found is not None:
            return found
    return _opened_again(path)


def _opened_again(path: str) -> BoundedTime:
    """The same from the file that is at the path now."""
    _readers.pop(path, None)
    for _ in range(_OPENINGS):
        reader = open_reader(path)
        found = reader.now()
        if found is not None:
            _readers[path] = reader
            return found
    age = reader.age()
    when = "was never updated" if age is None else f"was not updated for {age:.0f} s"
    raise NoBoundedTime(f"{path} {when}", advice=_advice(path))


def open_reader(path: str) -> Reader:
    """A reader of the file at this path. Raises NoBoundedTime for a file that is missing, or is no segment of this version."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        why = files.why(error) if isinstance(error, OSError) else str(error)
        raise NoBoundedTime(f"{path} cannot be opened: {why}", advice=_advice(path)) from None
    try:
        memory = _checked(fd, path)
    except OSError as error:
        raise NoBoundedTime(f"{path} cannot be read: {files.why(error)}") from None
    finally:
        os.close(fd)
    return _segment.NowReader(
        memory,
        BoundedTime,
        tuple(TimeStatus),
        unsynchronized=TimeStatus.UNSYNCHRONIZED,
        disrupted=TimeStatus.DISRUPTED,
        kept=TimeStatus.SYNCHRONIZED,
        left=TimeStatus.HOLDOVER,
    )


def _checked(fd: int, path: str) -> mmap.mmap:
    """The mapped file, if it is a segment."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise NoBoundedTime(f"{path} is {files.kind_of(status)}", expected="a file that tsqd writes")
    header = os.pread(fd, _HEADER.size, 0)
    if len(header) < _HEADER.size or not header.startswith(MAGIC):
        raise NoBoundedTime(f"{path} is not a file that tsqd writes", expected="the segment of tsq.now()")
    _, size, version, _ = _HEADER.unpack(header)
    if version != VERSION:
        raise NoBoundedTime(f"{path} has version {version}", expected=f"version {VERSION}", advice="update TSQ on both sides")
    if size < SIZE or status.st_size < size:
        raise NoBoundedTime(f"{path} has {min(size, status.st_size)} bytes", expected=f"at least {SIZE}")
    return mmap.mmap(fd, SIZE, prot=mmap.PROT_READ)


def _advice(path: str) -> str:
    return f'start tsqd, with `segment = "{path}"` in its [feed] table' if path != DEFAULT_SEGMENT else "start tsqd"
