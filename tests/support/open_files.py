"""How many files this process has open, for tests that nothing stays open.

A server in a thread of the same process opens a file for a moment now and then (/proc/meminfo, each second), so that one look may
find one more than belongs to what is tested.
"""

import os
import time

_PATIENCE = 10.0


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def left_open(before: int) -> int:
    """How many files more than `before` stay open: 0 as soon as there are none, else those of the last look after some seconds."""
    end = time.monotonic() + _PATIENCE
    while (more := open_files() - before) > 0 and time.monotonic() < end:
        os.sched_yield()
    return max(more, 0)
