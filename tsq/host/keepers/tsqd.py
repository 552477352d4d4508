"""tsqd's report of the clock, at its control socket.

Comes in: the socket's path (`[control] socket` in tsqd.toml). Goes out: a Report, or None without an answer. It must never send a
command that changes something, read more than a report can need, or take an old report for the present one.
"""

# One line of JSON each way (docs/reference/tsqctl.md). Of `tracking` in the reply to `status`, read the mode, the status, what an
# NTP server reports, and where true time can be against the raw clock, which nobody steps or slews: so the bound is that of the
# system clock now, however old the daemon's reading is. A daemon that has ended does not answer, nor does one that hangs.

import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor, isfinite
from typing import Any

DEFAULT = "/run/tsq/control"
LEAP_UNSYNCHRONIZED = 3
STEERS = "steer"
# A frozen clock is one that an operator has to look at first.
_USABLE = ("synchronized", "holdover")
_REQUEST = b'{"version":1,"command":"status"}\n'
_VERSION = 1
_MOST = 1 << 20
_PART = 65536
# A small machine that is busy takes a second.
_TIMEOUT = 2.0
# A daemon that did not look at the clock for so long does not work. It looks every 16 s at least.
_OLDEST_NS = 30_000_000_000
# Both readings of this moment take some time.
_READING_NS = 1_000_000
_WORST_STRATUM = 15
_MOST_NAME = 64

# CLOCK_MONOTONIC_RAW and CLOCK_REALTIME now, ns.
Clocks = Callable[[], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Report:
    """The clock's state now, in seconds. stratum 0, leap 3: not synchronized. steers: the daemon keeps the clock itself.

    reference: the source that it follows best. bound_rate: how fast root_dispersion grows, seconds per second. smeared: whether it
    follows sources that smear leap seconds; None: it is not known.
    """

    steers: bool
    stratum: int
    leap: int
    holdover: bool
    reference: str
    root_delay: float
    root_dispersion: float
    bound_rate: float
    smeared: bool | None = None


def clocks() -> tuple[int, int]:
    """The raw clock and the system clock, ns."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW), time.time_ns()


def ask_status(path: str = DEFAULT, read: Clocks = clocks) -> Report | None:
    """The report; None without a valid answer. Takes two seconds at the most."""
    until = time.monotonic() + _TIMEOUT
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as unix:
            unix.settimeout(_TIMEOUT)
            unix.connect(path)
            unix.sendall(_REQUEST, socket.MSG_NOSIGNAL)
            data = _line(unix, until)
    except (OSError, ValueError, EOFError):
        return None
    return decode(data, *read())


def decode(data: bytes, raw_ns: int, real_ns: int) -> Report | None:
    """The report in a reply, at these readings of the raw clock and the system clock; None where it is none."""
    try:
        reply = json.loads(data.decode())
        if reply["version"] != _VERSION or reply["ok"] is not True:
            return None
        return _report(reply["result"]["tracking"], raw_ns, real_ns)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None


def _report(tracking: dict[str, Any], raw_ns: int, real_ns: int) -> Report | None:
    steers = tracking["mode"] == STEERS
    if tracking["status"] not in _USABLE:
        return unsynchronized(steers)
    stratum, leap = int(tracking["stratum"]), int(tracking["leap"])
    delay, growth, elapsed_ns = float(tracking["root_delay"]), float(tracking["bound_rate"]), raw_ns - int(tracking["raw_ns"])
    # Rounded outwards.
    earliest_ns = int(tracking["earliest_ns"]) + elapsed_ns + floor(elapsed_ns * float(tracking["rate_low"]))
    latest_ns = int(tracking["latest_ns"]) + elapsed_ns + ceil(elapsed_ns * float(tracking["rate_high"]))
    if not (isfinite(delay) and isfinite(growth) and delay >= 0 and growth >= 0 and earliest_ns <= latest_ns):
        return None
    fresh = -_READING_NS <= elapsed_ns <= _OLDEST_NS
    if not (fresh and 0 < stratum <= _WORST_STRATUM and 0 <= leap < LEAP_UNSYNCHRONIZED):
        return unsynchronized(steers)
    bound = max(latest_ns - real_ns, real_ns - earliest_ns) / 1e9
    dispersion = max(0.0, bound - delay / 2)
    reference = " ".join(str(tracking["reference"]).split())[:_MOST_NAME]
    # A daemon of an earlier version does not know it.
    smeared = tracking.get("smeared")
    holdover = tracking["status"] == "holdover"
    return Report(
        steers, stratum, leap, holdover, reference, delay, dispersion, growth, smeared if isinstance(smeared, bool) else None
    )


def unsynchronized(steers: bool) -> Report:
    """The report of a daemon that does not know the time, or did not look for too long."""
    return Report(steers, 0, LEAP_UNSYNCHRONIZED, False, "", 0.0, 0.0, 0.0)


def _line(unix: socket.socket, until: float) -> bytes:
    data = bytearray()
    while not data.endswith(b"\n"):
        # One deadline for all of it: a slow sender must not delay the caller.
        unix.settimeout(max(0.001, until - time.monotonic()))
        part = unix.recv(_PART)
        data += part
        if not part or len(data) > _MOST or time.monotonic() > until:
            raise EOFError
    return bytes(data)
