"""Leap seconds: when one is handed to the kernel, and when nothing may be measured or steered around it.

Comes in: what a majority of the sources or a table announces, and the true time. Goes out: the leap second for the kernel, and
whether it is quiet time. It must never announce one on another day than the last of a month (ITU-R TF.460).
"""

_SECOND = 1_000_000_000
_DAY = 86_400 * _SECOND
# Nothing is steered from 1 s before to 2 s after; no sample of these two seconds before and after is used.
_QUIET_BEFORE, _QUIET_AFTER = 1 * _SECOND, 2 * _SECOND
_UNUSED = 2 * _SECOND
# Steering has to stop in time: so near, every second counts.
_NEAR = 10 * _SECOND
# A leap second is announced on its day, and a clock that is a little ahead may be in the next day already.
_MARGIN = 3 * _SECOND
INSERT, DELETE = 1, 2


def day_of(unix_ns: int) -> int:
    """The UTC day, days since 1970."""
    return unix_ns // _DAY


def is_last_of_month(day: int) -> bool:
    """Whether this UTC day is the last of its month."""
    return _day_of_month(day + 1) == 1


def _day_of_month(day: int) -> int:
    """Gregorian calendar: the day of the month of a day since 1970-01-01, in eras of 400 years that begin in March."""
    shifted = day + 719_468
    of_era = shifted % 146_097
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    return of_year - (153 * month + 2) // 5 + 1


class LeapWatch:
    """The next leap second, if one is announced for the present UTC day."""

    def __init__(self) -> None:
        self._end_ns: int | None = None
        self.leap = 0
        self._table: tuple[int, int] | None = None

    @property
    def seconds(self) -> int:
        """What is added to Unix time at the leap second: -1 when one is inserted; 0: none is announced."""
        return {INSERT: -1, DELETE: 1}.get(self.leap, 0)

    def know(self, leap: int, day: int) -> None:
        """A table of leap seconds says what the end of this UTC day brings; that counts more than the sources."""
        self._table = (day, leap)

    def announce(self, leap: int | None, true_ns: int) -> None:
        """What a majority of the sources announces now; None: no majority reports anything."""
        day = day_of(true_ns)
        if self._end_ns is not None and true_ns < self._end_ns + _MARGIN and day != day_of(self._end_ns - 1):
            # Just over: sources may still announce it.
            return
        if self._table is not None and self._table[0] == day:
            leap = self._table[1]
        wanted = leap if leap in (INSERT, DELETE) and is_last_of_month(day) else 0
        self.leap, self._end_ns = (wanted, (day + 1) * _DAY) if wanted else (0, None)

    def at(self, true_ns: int) -> int:
        """The leap second to hand to the kernel: 0, 1 to be inserted, 2 to be deleted, at the end of this UTC day."""
        if self._end_ns is None or true_ns >= self._end_ns + _QUIET_AFTER:
            self.leap, self._end_ns = 0, None
        return self.leap

    def is_quiet(self, true_ns: int) -> bool:
        """Whether nothing may be steered now."""
        return self._end_ns is not None and -_QUIET_BEFORE <= true_ns - self._end_ns <= _QUIET_AFTER

    def is_near(self, true_ns: int) -> bool:
        """Whether the quiet time begins or ends soon."""
        return self._end_ns is not None and abs(true_ns - self._end_ns) <= _NEAR

    def spoils(self, begin_ns: int, end_ns: int) -> bool:
        """Whether an exchange between these times is too near to a leap second."""
        return self._end_ns is not None and begin_ns < self._end_ns + _UNUSED and end_ns > self._end_ns - _UNUSED
