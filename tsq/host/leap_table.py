"""Leap seconds from the system's tables: TZif files of "right" zones (RFC 9636), leap-seconds.list, tzdata's leapseconds.

Comes in: the name of a zone, such as "right/UTC", or of a file. Goes out: whether a UTC day ends with a leap second. It must never
say that there is one after the table's end, nor read more than such a table can be.
"""

import os
import re
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tsq.errors import ConfigError

_DAY = 86_400
# NTP counts seconds from 1900, Unix from 1970.
_NTP_EPOCH = 2_208_988_800
_MOST_READ = 1 << 20
_DIRECTORIES = ("/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/usr/share/lib/zoneinfo", "/etc/zoneinfo")
# Where a system has no "right" zones, its list of leap seconds has the same content.
_LISTS = ("leap-seconds.list", "leapseconds")
# No part of a name is "." or "..".
ZONE = re.compile(r"(?:(?!\.{1,2}(?:/|\Z))[A-Za-z0-9_+.-]+(?:/(?!\Z)|\Z))+")
_HEADER = struct.Struct(">4sc15x6I")
_EXPECTED = "a zone with leap seconds such as right/UTC, a leap-seconds.list, or tzdata's leapseconds"


@dataclass(frozen=True, slots=True)
class _Table:
    """leaps: the number of each day (since 1970) that ends with a leap second, and 1 for an inserted or 2 for a deleted one.

    expires: Unix seconds after which nothing is known; None: the file does not say.
    """

    leaps: dict[int, int]
    expires: int | None


class LeapTable:
    """The leap seconds of a zone or a file. Raises ConfigError if it cannot be used.

    zone: "right/UTC" and the like, looked up as other zones are (TZDIR, /usr/share/zoneinfo), or the absolute path of a file.
    """

    def __init__(self, zone: str, directories: Sequence[str] = _DIRECTORIES) -> None:
        self.path = _found(zone, directories)
        self._state = _state(self.path)
        self._table = self._read()

    def renew(self) -> None:
        """Read the file again where it has changed. Raises ConfigError, once for a change; then the old content counts."""
        state = _state(self.path)
        if state != self._state:
            self._state = state
            self._table = self._read()

    def _read(self) -> _Table:
        try:
            data = _read(self.path)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else None
            raise ConfigError(f"{self.path} cannot be read: {why or error}", expected=_EXPECTED) from error
        try:
            return _parsed(data)
        except (ValueError, struct.error, OverflowError) as error:
            raise ConfigError(f"{self.path} cannot be used: {error}", expected=_EXPECTED) from error

    @property
    def expires(self) -> int | None:
        """Unix seconds after which the table says nothing; None: unknown."""
        return self._table.expires

    @property
    def days(self) -> dict[int, int]:
        """All days with a leap second, as `leap_on` numbers them."""
        return dict(self._table.leaps)

    def leap_on(self, day: int) -> int:
        """Whether this UTC day (days since 1970-01-01) ends with a leap second: 1 inserted, 2 deleted, 0 none or unknown."""
        return self._table.leaps.get(day, 0)

    def leap_at(self, unix_ns: int) -> int:
        """The same for the day of a time."""
        return self.leap_on(unix_ns // (_DAY * 1_000_000_000))


def _found(zone: str, directories: Sequence[str]) -> str:
    """The file of a zone."""
    if os.path.isabs(zone):
        return zone
    if not ZONE.fullmatch(zone):
        raise ConfigError(f"zone {zone!r}", expected=_EXPECTED)
    own = os.environ.get("TZDIR")
    places = [*([own] if own else []), *directories]
    for name in (zone, *(_LISTS if zone.startswith("right/") else ())):
        for place in places:
            path = os.path.join(place, name)
            if os.path.isfile(path):
                return path
    raise ConfigError(f"no zone {zone!r} in {', '.join(places)} (is tzdata installed?)", expected=_EXPECTED)


def _state(path: str) -> tuple[int, ...]:
    """What differs where a file has changed, or was replaced."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: str) -> bytes:
    # O_NONBLOCK, because the path may be a FIFO. Files of zones may be links.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, "it is not a regular file")
        data = file.read(_MOST_READ + 1)
    if len(data) > _MOST_READ:
        raise OSError(0, f"it has more than {_MOST_READ} bytes")
    return data


def _parsed(data: bytes) -> _Table:
    """Raises ValueError."""
    table = _tzif(data) if data.startswith(b"TZif") else _list(data.decode("utf-8", "replace"))
    if not table.leaps:
        raise ValueError("it has no leap seconds")
    return table


def _tzif(data: bytes) -> _Table:
    """RFC 9636 §3: of version 2 or later, the second block, which has 64-bit times."""
    at, wide = 0, False
    while True:
        magic, version, isutcnt, isstdcnt, leapcnt, timecnt, typecnt, charcnt = _HEADER.unpack_from(data, at)
        if magic != b"TZif":
            raise ValueError("its second header is missing")
        at += _HEADER.size
        size = 8 if wide else 4
        start = at + timecnt * (size + 1) + typecnt * 6 + charcnt
        end = start + leapcnt * (size + 4)
        if end > len(data):
            raise ValueError("it is cut off")
        if wide or version == b"\0":
            return _corrections(list(struct.iter_unpack(">qi" if wide else ">ii", data[start:end])))
        at, wide = end + isstdcnt + isutcnt, True


def _corrections(records: list[tuple[int, int]]) -> _Table:
    """Leap records: (when, in a count of seconds that includes the leap seconds before; sum of all corrections from then on)."""
    leaps: dict[int, int] = {}
    expires = None
    before = 0
    for number, (when, correction) in enumerate(records):
        change = correction - before
        midnight = when - before
        if change == 0 and number == len(records) - 1 and number:
            # RFC 9636 §3.2: the table's end.
            expires = midnight
        elif abs(change) == 1:
            # A deleted second is at 23:59:59, an inserted one after that.
            leaps[(midnight + _DAY // 2) // _DAY - 1] = 1 if change > 0 else 2
        elif number:
            raise ValueError(f"a correction changes by {change} s")
        before = correction
    return _Table(leaps, expires)


def _list(text: str) -> _Table:
    """leap-seconds.list (times since 1900, TAI - UTC) or leapseconds (lines "Leap 2016 Dec 31 23:59:60 + S")."""
    leaps: dict[int, int] = {}
    expires = None
    offset: int | None = None
    for line in text.splitlines():
        words = line.split()
        if line.startswith("#@") and len(words) > 1:
            expires = _whole(words[1]) - _NTP_EPOCH
        elif line.startswith("#expires") and len(words) > 1:
            expires = _whole(words[1])
        elif not words or line.startswith("#") or words[0] == "Expires":
            continue
        elif words[0] == "Leap":
            day, sign = _named_day(words)
            leaps[day] = sign
        else:
            when, now = _pair(words)
            if offset is not None and abs(now - offset) == 1:
                leaps[(when - _NTP_EPOCH) // _DAY - 1] = 1 if now > offset else 2
            elif offset is not None and now != offset:
                raise ValueError(f"TAI - UTC changes by {now - offset} s")
            offset = now
    return _Table(leaps, expires)


def _pair(words: list[str]) -> tuple[int, int]:
    if len(words) < 2:
        raise ValueError(f"a line {' '.join(words)[:60]!r}")
    return _whole(words[0]), _whole(words[1])


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 12):
        raise ValueError(f"{text[:60]!r} in place of a number")
    return int(text)


def _named_day(words: list[str]) -> tuple[int, int]:
    if len(words) < 6 or words[5] not in ("+", "-"):
        raise ValueError(f"a line {' '.join(words)[:60]!r}")
    day = datetime.strptime(" ".join(words[1:4]), "%Y %b %d").replace(tzinfo=UTC)
    return int(day.timestamp()) // _DAY, 1 if words[5] == "+" else 2
