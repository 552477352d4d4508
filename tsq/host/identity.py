"""What tells this machine from others, and stays the same when it is restarted.

Comes in: nothing. Goes out: bytes. It is no secret, and must never be used as one or be sent to anybody.
"""

import os
import socket

_MACHINE_ID = "/etc/machine-id"


def machine() -> bytes:
    """The machine's ID (machine-id(5)), which containers of one image may share, and its host name, which they do not."""
    try:
        with open(_MACHINE_ID, "rb") as file:
            number = file.read(64).strip()
    except OSError:
        number = b""
    return number + b" " + os.fsencode(socket.gethostname())
