"""A ClockBound client, written from the layout of its shared memory (protocol version 2) and from nothing of TSQ."""

import mmap
import os
import struct
import time
from pathlib import Path

HEADER = struct.Struct("=IIIHH")
DATA = struct.Struct("=qqqqqQIiB7x")
_AT_GENERATION = struct.Struct("=14xH")
NAMES = ("as_of_s", "as_of_ns", "void_s", "void_ns", "bound_ns", "marker", "drift_ppb", "status", "disruption_support")
GRACE_NS = 5_000_000_000
# <linux/time.h>; the module `time` has no name for it.
CLOCK_MONOTONIC_COARSE = 6


class Client:
    """Maps the file once, as clients do."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY)
        try:
            first, second, size, version, generation = HEADER.unpack(os.pread(fd, HEADER.size, 0))
            assert (first, second) == (0x414D5A4E, 0x43420200)
            assert size >= HEADER.size + DATA.size
            assert version == 2
            assert generation != 0, "not initialized"
            self._memory = mmap.mmap(fd, size, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        self._last = self._unpacked()
        self.generations = 0

    def _unpacked(self) -> tuple[int, ...]:
        return DATA.unpack_from(self._memory, HEADER.size)

    def snapshot(self) -> tuple[int, ...]:
        """All numbers; the last ones while they are written."""
        while True:
            (generation,) = _AT_GENERATION.unpack_from(self._memory)
            assert generation != 0
            if generation & 1:
                return self._last
            read = self._unpacked()
            if _AT_GENERATION.unpack_from(self._memory)[0] == generation:
                self.generations += read != self._last
                self._last = read
                return read

    def named(self) -> dict[str, int]:
        return dict(zip(NAMES, self.snapshot(), strict=True))

    def now(self) -> tuple[int, int, int]:
        """(earliest, latest, status), ns, as clients calculate them."""
        data = self.named()
        real, monotonic = time.time_ns(), time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE)
        as_of = data["as_of_s"] * 10**9 + data["as_of_ns"]
        void = data["void_s"] * 10**9 + data["void_ns"]
        assert data["drift_ppb"] < 10**9, "malformed"
        assert monotonic >= as_of - 1000, "causality breach"
        status = data["status"]
        if status != 0 and monotonic >= as_of + GRACE_NS:
            status = 2 if monotonic < void else 0
        bound = data["bound_ns"] + int(max(0, monotonic - as_of) / 1e9 * data["drift_ppb"])
        return real - bound, real + bound, status
