"""A slow line between a client and a server: a UDP relay that sends each datagram for as long as its bits take.

    python -m benchmarks.serial_link SERVER:PORT --rate 1e6

Prints "link on ADDRESS:PORT". Each direction is a line of its own: a datagram leaves when the line is free, and has left after
its size divided by the rate, and a fixed latency. A token bucket (tc-tbf(8)) is no such line: it lets a single small packet pass at
once. The time of arrival is the kernel's, so that what the relay itself needs is a part of the latency. It ends with its parent.
"""

import argparse
import contextlib
import gc
import os
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tsq._sockets import ReceiveBatch, enable_receive_timestamps
from tsq.options import Target, parse_target

# Ethernet, IPv4 and UDP headers.
_HEADERS = 14 + 20 + 8
_LATENCY_NS = 1_000_000
_MOST_WAITING = 1000
# Before a datagram is due, do not sleep any more.
_SPIN_NS = 300_000


@dataclass(slots=True)
class Line:
    """One direction: what waits, with the time at which it has left."""

    free_ns: int = 0
    waiting: deque[tuple[int, bytes]] = field(default_factory=deque)

    def take(self, data: bytes, arrived_ns: int, rate: float) -> None:
        """One more datagram."""
        if len(self.waiting) < _MOST_WAITING:
            self.free_ns = max(self.free_ns, arrived_ns) + round((len(data) + _HEADERS) * 8e9 / rate)
            self.waiting.append((self.free_ns + _LATENCY_NS, data))

    def left(self) -> list[bytes]:
        """What has left by now."""
        out = []
        while self.waiting and self.waiting[0][0] <= time.time_ns():
            out.append(self.waiting.popleft()[1])
        return out


def relay(server: Target, rate: float) -> None:
    """Relay for one client until the process ends."""
    front, back = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in range(2))
    front.bind(("127.0.0.1", 0))
    back.connect((server.host, server.port))
    for one in (front, back):
        enable_receive_timestamps(one.fileno(), socket.AF_INET, destinations=False)
    print("link on {}:{}".format(*front.getsockname()), flush=True)
    _be_on_time()
    batch, there, home = ReceiveBatch(), Line(), Line()
    client = None
    while True:
        due = min((line.waiting[0][0] for line in (there, home) if line.waiting), default=None)
        if due is None or due - time.time_ns() > _SPIN_NS:
            select.select([front, back], [], [], None if due is None else (due - time.time_ns() - _SPIN_NS) / 1e9)
        for data, remote, _, received_ns, _ in batch.receive(front.fileno()):
            client = remote
            there.take(data, received_ns, rate)
        for data, _, _, received_ns, _ in batch.receive(back.fileno()):
            home.take(data, received_ns, rate)
        for data in there.left():
            back.send(data)
        for data in home.left():
            if client is not None:
                front.sendto(data, _address(client))


def _be_on_time() -> None:
    """Run before all others: what is sent late is a delay that no line has."""
    gc.disable()
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))


def _address(packed: bytes) -> tuple[str, int]:
    """A packed IPv4 socket address as Python has it."""
    return socket.inet_ntoa(packed[4:8]), int.from_bytes(packed[2:4], "big")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", type=parse_target)
    parser.add_argument("--rate", type=float, required=True, help="bits a second")
    values = parser.parse_args(arguments)
    try:
        relay(values.server, values.rate)
    except (KeyboardInterrupt, ConnectionRefusedError):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
