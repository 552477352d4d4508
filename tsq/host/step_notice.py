"""A notice when this machine's clock is set by anybody, at once and without looking at it again and again.

Comes in: a call for each notice. Goes out: a descriptor for an event loop. It must never read or set a clock.
"""

import os

from tsq.host import _step_notice


class StepNotice:
    """fd: becomes readable when the clock is set; call `arm` then. Raises OSError where the kernel gives no such notices."""

    def __init__(self) -> None:
        self.fd = _step_notice.open_notice()

    def arm(self) -> bool:
        """Be ready for the next notice; whether the clock was set since the last one. Raises OSError."""
        return _step_notice.arm(self.fd)

    def close(self) -> None:
        """No more notices."""
        os.close(self.fd)
