"""A free port for a program that cannot be asked which one it took, or for a server that is stopped and comes back to its port.

The kernel gives it to nobody who asks for any port, so that no client of another test has it at the next moment.
"""

import errno
import random
import socket
from contextlib import ExitStack
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_LEAST, _MOST = 10_000, 65_535
_KINDS = (
    (socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1"), (socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1"),
    (socket.AF_INET6, socket.SOCK_DGRAM, "::1"),
)  # fmt: skip


def free_port() -> int:
    """A port of loopback that is free for UDP and for TCP."""
    first, last = map(int, _RANGE.read_text().split())
    given = range(first, last + 1)
    others = [port for port in range(_LEAST, _MOST + 1) if port not in given]
    for port in random.sample(others, len(others)):
        if _is_free(port):
            return port
    # The kernel gives every port, or all others are taken.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        return udp.getsockname()[1]


def _is_free(port: int) -> bool:
    with ExitStack() as stack:
        for family, kind, host in _KINDS:
            try:
                stack.enter_context(socket.socket(family, kind)).bind((host, port))
            except OSError as error:
                if family == socket.AF_INET6 and error.errno in _NO_IPV6:
                    continue
                return False
    return True
