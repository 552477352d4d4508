"""A log of measurements in the columns of chrony's measurements.log (docs/reference/measurements.md).

Comes in: the outcomes of polls, the status of their sources. Goes out: one line for each answer, and a banner every 32 lines, in a
file that is opened anew after it was moved. It must never raise, nor log an answer that did not come.
"""

import logging
import os
import time
from collections.abc import Callable

from tsq.discipline.events import Polled
from tsq.discipline.status import SourceStatus
from tsq.host import files
from tsq.timing.sample import Reason, Sample, StampSource
from tsq.timing.server_state import ServerState

logger = logging.getLogger(__name__)

# As chrony's directive `logbanner`.
_BANNER_LINES = 32
_COLUMNS = (
    "   Date (UTC) Time     IP Address   L St 123 567 ABCD  LP RP Score"
    "    Offset  Peer del. Peer disp.  Root del. Root disp. Refid     MTxRx"
)
BANNER = f"{'=' * len(_COLUMNS)}\n{_COLUMNS}\n{'=' * len(_COLUMNS)}\n"
_LEAPS = {0: "N", 1: "+", 2: "-"}
_STAMPS = {StampSource.USER: "D", StampSource.KERNEL: "K", StampSource.HARDWARE: "H"}
# The tests of RFC 5905 that chrony numbers 1 to 7 (4 is no longer done), and its own A to D. Which of them a reason fails.
_TESTS = "123567ABCD"
_FAILED = {
    Reason.WRONG_NONCE: "2",
    Reason.SEND_BEFORE_RECEIVE: "3",
    Reason.ANSWER_BEFORE_REQUEST: "3",
    Reason.SIGNATURE: "5",
    Reason.NEGATIVE_DELAY: "A",
    Reason.OFFSET_LIMIT: "7",
}
# How long after a failure to try again, seconds.
_RETRY = 10.0


class MeasurementsLog:
    """Writes to this file, which only its owner can read."""

    def __init__(self, path: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._fd: int | None = None
        self._lines = 0
        self._failed = False
        self._retry_at = 0.0

    def add(self, polled: Polled, status: SourceStatus | None = None) -> None:
        """Log an answer. A poll without one leaves no line, as in chrony's log."""
        text = line(polled, status)
        if text is None or (self._failed and self._clock() < self._retry_at):
            return
        try:
            if self._fd is None or not self._in_place():
                self.close()
                self._fd = files.open_log(self._path)
                self._lines = 0
            banner = "" if self._lines % _BANNER_LINES else BANNER
            files.write_all(self._fd, f"{banner}{text}".encode())
            self._lines += 1
            self._failed = False
        except OSError as error:
            if not self._failed:
                logger.warning("cannot write measurements to %s: %s", self._path, files.why(error))
            self._failed = True
            self._retry_at = self._clock() + _RETRY
            self.close()

    def reopen(self) -> None:
        """Open the file anew for the next line, for example because it was moved."""
        self._retry_at = 0.0
        self.close()

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, None
        if fd is None:
            return
        try:
            os.close(fd)
        except OSError as error:
            logger.warning("%s: %s", self._path, files.why(error))

    def _in_place(self) -> bool:
        """Whether the path still names the open file."""
        if self._fd is None:
            return False
        try:
            there = os.lstat(self._path)
        except FileNotFoundError:
            return False
        here = os.fstat(self._fd)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def line(polled: Polled, status: SourceStatus | None = None) -> str | None:
    """The line of an answer; None without one."""
    sample = polled.sample
    if sample.t4_ns is None or sample.offset is None or sample.delay is None or sample.dispersion is None:
        return None
    server = sample.server
    poll = 0 if status is None else status.poll
    error = server.error if server is not None else None
    if error is None:
        error = 0.0 if status is None or status.server_error is None else status.server_error
    stratum = 0 if server is None or server.stratum is None else server.stratum
    return (
        f"{_date((sample.t1_ns + sample.t4_ns) // 2)} {_host(polled):<15} {_leap(server)} {stratum:2d} {_tests(sample)}"
        f"  {poll:2d} {poll:2d} {1.0:4.2f} {sample.offset:10.3e} {sample.delay:10.3e} {sample.dispersion:10.3e}"
        f" {0.0:10.3e} {error:10.3e} {_reference(server)}"
        f" 4{'I' if sample.exact else 'B'} {_STAMPS[sample.t1_source]} {_STAMPS[sample.t4_source or StampSource.USER]}\n"
    )


def _date(at_ns: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at_ns // 1_000_000_000))
    except (OverflowError, ValueError, OSError):
        # A clock that is wrong by more than a calendar has years.
        return "1970-01-01 00:00:00"


def _host(polled: Polled) -> str:
    """The address without its port, or the name where it is not known; as one column."""
    address = polled.address
    host, colon, _ = address.rpartition(":")
    if address.startswith("["):
        address = address[1:].partition("]")[0]
    elif colon and ":" not in host:
        address = host
    text = address or polled.name
    return "".join(c if c.isprintable() and not c.isspace() else "?" for c in text) or "?"


def _leap(server: ServerState | None) -> str:
    return "?" if server is None or server.leap is None else _LEAPS.get(server.leap, "?")


def _tests(sample: Sample) -> str:
    failed = "" if sample.reason is None else _FAILED.get(sample.reason, "3")
    if sample.server is not None and sample.server.unusable:
        failed += "6"
    marks = "".join("0" if test in failed else "1" for test in _TESTS)
    return f"{marks[:3]} {marks[3:6]} {marks[6:]}"


def _reference(server: ServerState | None) -> str:
    """The reference ID of a primary server: the first four letters of what it says about its source."""
    if server is None or server.stratum != 1:
        return "00000000"
    return server.source.encode("ascii", "replace")[:4].ljust(4, b"\0").hex().upper()
