"""The shared memory that clients of AWS ClockBound 2 read (protocol version 2), so that their programs run unchanged.

Comes in: a bound of the system clock's error at one moment. Goes out: a file in ClockBound's layout (docs/howto/bounded-time.md).
It must never replace a file that clients may have mapped, as long as its layout is right: they do not open it again.
"""

import mmap
import os
import struct
from dataclasses import dataclass
from enum import IntEnum

from tsq.host import _segment, files

DEFAULT_SEGMENT = "/var/run/clockbound/shm0"
SIZE = _segment.CLOCKBOUND_SIZE
_MAGIC = struct.pack("=II", 0x414D5A4E, 0x43420200)
_VERSION = 2
_HEADER = struct.Struct("=8sIHH")
_MODE = 0o644


class ClockBoundStatus(IntEnum):
    """The state of the system clock, with ClockBound's numbers."""

    UNKNOWN = 0
    SYNCHRONIZED = 1
    FREE_RUNNING = 2


@dataclass(frozen=True, slots=True)
class ClockBound:
    """The bound of the system clock's error at as_of_ns; it grows by drift_ppb and means nothing after void_ns.

    as_of_ns, void_ns: CLOCK_MONOTONIC_COARSE. drift_ppb: ns per second.
    """

    as_of_ns: int
    void_ns: int
    bound_ns: int
    drift_ppb: int
    status: ClockBoundStatus


class ClockBoundSegment:
    """The file, written in place."""

    def __init__(self, path: str = DEFAULT_SEGMENT) -> None:
        self._path = path
        self._writer: _segment.ClockBoundWriter | None = None

    def write(self, bound: ClockBound) -> None:
        """Publish a bound. Raises OSError where the file cannot be made or opened; later calls try again."""
        if self._writer is None:
            self._writer = self._open(bound)
        _put(self._writer, bound)

    def _open(self, bound: ClockBound) -> _segment.ClockBoundWriter:
        files.make_directory(os.path.dirname(os.path.abspath(self._path)))
        if not self._usable():
            content = bytearray(SIZE)
            _HEADER.pack_into(content, 0, _MAGIC, SIZE, _VERSION, 0)
            _put(_segment.ClockBoundWriter(content), bound)
            files.replace(self._path, bytes(content), _MODE, durable=False)
        fd = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return _segment.ClockBoundWriter(mmap.mmap(fd, SIZE))
        finally:
            os.close(fd)

    def _usable(self) -> bool:
        """Whether a segment of this layout is there, which clients may have mapped. Raises OSError for a file of somebody else."""
        files.check_own(self._path)
        try:
            content = files.read(self._path, SIZE)
        except FileNotFoundError:
            return False
        if len(content) < SIZE:
            return False
        magic, size, version, generation = _HEADER.unpack_from(content)
        return bool(magic == _MAGIC and size == SIZE and version == _VERSION and generation)

    def close(self) -> None:
        """Stop writing. The file stays: clients see from its times that it is not updated any more."""
        self._writer = None


def _put(writer: _segment.ClockBoundWriter, bound: ClockBound) -> None:
    writer.write(bound.as_of_ns, bound.void_ns, bound.bound_ns, bound.drift_ppb, bound.status)
