"""An identifier of this machine that stays the same after a restart.

Comes in: nothing. Goes out: bytes. It is not secret: it must never be used as a secret, and never be sent to a peer.
"""

import os
import socket

_MACHINE_ID = "/etc/machine-id"


def machine() -> bytes:
    """The machine ID (machine-id(5)) and the host name. Containers of one image may share the former, but not the latter."""
    try:
        with open(_MACHINE_ID, "rb") as file:
            number = file.read(64).strip()
    except OSError:
        number = b""
    return number + b" " + os.fsencode(socket.gethostname())
