"""The clock of a guest (tests/support/uml.py) against this machine's, to some microseconds.

`python -m benchmarks.guest_probe` is the guest's side: it answers datagrams with the kernel's receive timestamp and the time of the
answer. `Probe` asks some times, and believes the exchange with the least delay.
"""

import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

PORT = 7702
_SO_TIMESTAMPNS = 35
_TIMES = struct.Struct("=qqq")
_TIMESPEC = struct.Struct("=qq")
_ASKED = 12
_PATIENCE = 0.06


@dataclass(frozen=True)
class Seen:
    """at: this machine's monotonic time, seconds. offset: the guest's clock minus this machine's; delay; seconds."""

    at: float
    offset: float
    delay: float


class Probe:
    """Asks a guest's responder. make: a UDP socket in the guest's network, connected to the responder."""

    def __init__(self, make: Callable[[], socket.socket]) -> None:
        self._socket = make()
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.settimeout(_PATIENCE)
        self._number = 0

    def look(self) -> Seen | None:
        """The guest's clock now; None if it does not answer."""
        best: Seen | None = None
        for _ in range(_ASKED):
            found = self._exchange()
            if found is not None and (best is None or found.delay < best.delay):
                best = found
            time.sleep(0.001)
        return best

    def _exchange(self) -> Seen | None:
        self._number += 1
        t1 = time.time_ns()
        try:
            self._socket.send(_TIMES.pack(self._number, 0, 0))
            while True:
                data, t4 = _received(self._socket)
                number, t2, t3 = _TIMES.unpack(data)
                if number == self._number:
                    break
        except (OSError, struct.error):
            return None
        return Seen(time.monotonic(), ((t2 - t1) + (t3 - t4)) / 2e9, ((t4 - t1) - (t3 - t2)) / 1e9)

    def close(self) -> None:
        self._socket.close()


def _received(udp: socket.socket) -> tuple[bytes, int]:
    """A datagram and the kernel's receive timestamp, Unix ns."""
    data, control, _, _ = udp.recvmsg(64, 128)
    for level, kind, value in control:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack(value[: _TIMESPEC.size])
            return data, seconds * 1_000_000_000 + nanoseconds
    return data, time.time_ns()


def main() -> int:
    """Answer for ever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        udp.bind(("", PORT))
        while True:
            data, control, _, address = udp.recvmsg(64, 128)
            t2 = time.time_ns()
            for level, kind, value in control:
                if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                    seconds, nanoseconds = _TIMESPEC.unpack(value[: _TIMESPEC.size])
                    t2 = seconds * 1_000_000_000 + nanoseconds
            if len(data) == _TIMES.size:
                udp.sendto(_TIMES.pack(_TIMES.unpack(data)[0], t2, time.time_ns()), address)


if __name__ == "__main__":
    sys.exit(main())
