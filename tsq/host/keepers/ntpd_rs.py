"""ntpd-rs's report of the clock, at its observation socket.

Comes in: the socket's path (`observation-path` in ntp.toml). Goes out: an Observation, or None without an answer. It must never use
the configuration socket, and never read more than a state can need. The daemon sends a length (u64, big-endian) and JSON of that
length. Of `system` in it, read stratum, leap indicator, root delay and root dispersion in seconds; some versions put all but the
stratum into an inner object.
"""

import json
import socket
import struct
import time
from dataclasses import dataclass
from math import isfinite
from typing import Any

DEFAULT = "/run/ntpd-rs/observe"
LEAP_UNSYNCHRONIZED = 3
_LENGTH = struct.Struct("!Q")
_MOST = 1 << 20
_TIMEOUT = 0.5
_LEAP = {"NoWarning": 0, "Leap61": 1, "Leap59": 2}
_UNSYNCHRONIZED_STRATUM = 16


@dataclass(frozen=True, slots=True)
class Observation:
    """The daemon's state, in seconds. stratum 0, leap 3: not synchronized."""

    stratum: int
    leap: int
    root_delay: float
    root_dispersion: float


def observe(path: str = DEFAULT) -> Observation | None:
    """The state; None without a valid answer. Takes a second at the most."""
    until = time.monotonic() + _TIMEOUT
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as unix:
            unix.settimeout(_TIMEOUT)
            unix.connect(path)
            (size,) = _LENGTH.unpack(_exactly(unix, _LENGTH.size, until))
            return decode(_exactly(unix, size, until)) if size <= _MOST else None
    except (OSError, EOFError):
        return None


def decode(data: bytes) -> Observation | None:
    """The state in the daemon's JSON; None where it is not there."""
    try:
        system = json.loads(data)["system"]
        fields: dict[str, Any] = {**system, **system.get("time_snapshot", {})}
        stratum, delay, dispersion = int(fields["stratum"]), float(fields["root_delay"]), float(fields["root_dispersion"])
        leap = _LEAP.get(fields["leap_indicator"], LEAP_UNSYNCHRONIZED)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None
    if not (isfinite(delay) and isfinite(dispersion)) or delay < 0 or dispersion < 0:
        return None
    if leap == LEAP_UNSYNCHRONIZED or not 0 < stratum < _UNSYNCHRONIZED_STRATUM:
        return Observation(0, LEAP_UNSYNCHRONIZED, delay, dispersion)
    return Observation(stratum, leap, delay, dispersion)


def _exactly(unix: socket.socket, size: int, until: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        # One deadline for all of it: a slow sender must not delay the caller.
        unix.settimeout(max(0.001, until - time.monotonic()))
        part = unix.recv(min(size - len(data), 65536))
        if not part or time.monotonic() > until:
            raise EOFError
        data += part
    return bytes(data)
