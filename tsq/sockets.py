"""The socket calls of this system: the only module that chooses them.

Goes out: `calls`, with functions and a class by the same names on every system (`_sockets.pyi`). On Linux: datagrams in batches,
with the kernel's receive and transmit times. On macOS and the BSDs: one by one, with a receive time. It must never choose by
anything but the system.
"""

import sys

if sys.platform == "linux":
    from tsq import _sockets as calls
else:
    from tsq import _portable_sockets as calls

__all__ = ["calls"]
