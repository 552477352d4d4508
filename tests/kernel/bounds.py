"""Inside of a guest: for each byte that comes over TCP, a line of JSON with what the kernel and tsqd say of the clock.

`python -m tests.kernel.bounds SOCKET`. real_ns: the clock. state: of the kernel (adjtimex(2): 0 TIME_OK, 1 TIME_INS, 3 TIME_OOP,
4 TIME_WAIT). tracking: tsqd's, null while it does not run.
"""

import ctypes
import json
import socket
import sys
import time

from tests.support.uml import PORT as AGENT
from tsq.daemon.control_client import ask
from tsq.errors import TSQError
from tsq.host.clock import SystemClock

PORT = AGENT + 2
# Larger than struct timex; modes 0: nothing is set.
_TIMEX = 256


def _said(place: str) -> dict[str, object]:
    try:
        tracking = ask(place, "status", patience=5).get("tracking")
    except TSQError:
        tracking = None
    kernel = SystemClock().state()
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX))
    return {
        "real_ns": time.time_ns(), "state": state, "tracking": tracking,
        "synchronized": kernel.synchronized, "max_error": kernel.max_error, "leap": kernel.leap,
    }


def main() -> None:
    """Answer for ever."""
    (place,) = sys.argv[1:]
    with socket.create_server(("", PORT)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                while connection.recv(1):
                    connection.sendall(json.dumps(_said(place)).encode() + b"\n")


if __name__ == "__main__":
    main()
