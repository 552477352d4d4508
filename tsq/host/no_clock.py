"""The clock's calls on a system where TSQ reads and sets no kernel state of the clock: each raises ClockError.

Goes out: functions by the names of `tsq/host/_clock.pyx`. They must never do anything.
"""

from typing import Any, NoReturn

from tsq.errors import ClockError
from tsq.system import needs_linux


def read(*_numbers: int, **_fields: Any) -> NoReturn:
    """Raise ClockError."""
    raise ClockError(needs_linux("what reads and sets the kernel's clock"))


adjust = read_old_slew = stop_old_slew = clocks = read
