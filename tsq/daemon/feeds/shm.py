"""Feeds any program that reads NTP SHM (driver 28): chronyd, ntpd, ntpsec.

Comes in: each status. Goes out: one sample for each update of the clock, in a System V segment (docs/howto/feed-chrony.md).
It must never give an offset of a clock that is not synchronized.
"""

import errno
from math import ceil, log2

from tsq.daemon.feeds.trouble import Trouble
from tsq.daemon.feeds.usable import is_usable
from tsq.discipline.status import Status
from tsq.host._segment import NtpShm

# As the programs that read it create them: units 0 and 1 are for root, the others for everybody.
_ROOT_UNITS = 2
_ROOT_MODE, _MODE = 0o600, 0o666
_LEAST_PRECISION = -30
_ADVICE = {
    errno.EACCES: "units 0 and 1 belong to root: use another unit, or remove the segment with ipcrm",
    errno.EINVAL: "a segment of another size has this key: remove it with ipcrm",
    errno.ENOSPC: "no more segments are allowed here (kernel.shmmni)",
}


class ShmFeed:
    """One unit."""

    def __init__(self, unit: int) -> None:
        self._unit = unit
        self._memory: NtpShm | None = None
        self._written = 0
        self._trouble = Trouble(f"NTP SHM unit {unit}")

    async def start(self) -> None:
        """Nothing to begin."""

    def publish(self, status: Status) -> None:
        """Write a sample if the clock was updated since the last one."""
        tracking = status.tracking
        if tracking.updates == self._written or tracking.offset is None or not is_usable(tracking):
            return
        try:
            if self._memory is None:
                self._memory = NtpShm(self._unit, _ROOT_MODE if self._unit < _ROOT_UNITS else _MODE)
        except OSError as error:
            self._trouble.failed(error, _ADVICE.get(error.errno or 0, ""))
            return
        self._trouble.over()
        true_ns = tracking.real_ns + round(tracking.offset * 1e9)
        if true_ns >= 0 and tracking.real_ns >= 0:
            self._memory.write(true_ns, tracking.real_ns, tracking.leap, precision(tracking.offset_sd))
        self._written = tracking.updates

    def close(self) -> None:
        """Detach. The segment stays for the program that reads it."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None


def precision(offset_sd: float | None) -> int:
    """The standard deviation as a power of 2, rounded up; 2^-20 s (1 µs) if it is not known."""
    if not offset_sd:
        return -20
    return min(0, max(_LEAST_PRECISION, ceil(log2(offset_sd))))
