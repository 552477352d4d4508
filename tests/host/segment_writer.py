"""A program that writes one of the segments all the time, each time with other numbers that belong together.

`python -m tests.host.segment_writer now|clockbound PATH`; it writes a line when it has begun, and ends with its standard input.
"""

import select
import sys

from tsq.host._segment import clocks
from tsq.host.clockbound import ClockBound, ClockBoundSegment, ClockBoundStatus
from tsq.host.segment import Segment, TimeStatus, Update

MOST = 200_000
EARLIEST_NS = 1_700_000_000_000_000_000
HOUR_NS = 3600 * 1_000_000_000
# Between two looks at the standard input.
_BATCH = 1000


def now_update(raw_ns: int, number: int) -> Update:
    """The middle is always the same; the width is 16 ns times the number; the status is 1, 2 or 3 by the number."""
    status = TimeStatus(1 + number % 3)
    return Update(raw_ns, EARLIEST_NS - 8 * number, EARLIEST_NS + 8 * number, 0.0, 0.0, raw_ns + HOUR_NS, status)


def clockbound(number: int) -> ClockBound:
    """All numbers follow from one."""
    return ClockBound(number * 1_000_000_007, number * 2_000_000_011, number * 3, number * 5, ClockBoundStatus(number % 3))


def main(kind: str, path: str) -> None:
    raw_ns, monotonic_ns, boot_ns, real_ns = clocks()
    now, bound = Segment(path), ClockBoundSegment(path)
    number = 0
    while number == 0 or not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(_BATCH):
            number = number % MOST + 1
            if kind == "now":
                now.write(now_update(raw_ns, number), real_ns - monotonic_ns, boot_ns - monotonic_ns)
            else:
                # Not so fast that its 16 bits of a generation come round while a reader is interrupted.
                sum(range(500))
                bound.write(clockbound(number))
        if number == _BATCH:
            sys.stdout.write("begun\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
