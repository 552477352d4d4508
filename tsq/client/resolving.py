"""Look up the addresses of a host.

Comes in: a target, an address family. Goes out: socket addresses in the order in which to try them, or NameNotFound. It must never
open a connection.
"""

import socket
import threading
from ipaddress import ip_address

from tsq.client.network_errors import network_error
from tsq.errors import NameNotFound, TSQError
from tsq.options import Target

_FAMILIES = {0: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}

# A family and a socket address.
Address = tuple[int, tuple[object, ...]]


def resolve(target: Target, family: int) -> list[Address]:
    """All addresses of a host. Blocks. Raises NameNotFound, and TransportError where memory is short."""
    try:
        found = socket.getaddrinfo(target.host, target.port, _FAMILIES[family], socket.SOCK_DGRAM)
    except UnicodeError as error:
        raise NameNotFound(
            f"no address for {target.host}: it is no host name", expected="labels of 1 to 63 characters between the dots"
        ) from error
    except (LookupError, ImportError, MemoryError) as error:
        raise network_error(error) from error
    except OSError as error:
        wanted = {0: "", 4: " (IPv4)", 6: " (IPv6)"}[family]
        other = {4: "IPv6", 6: "IPv4"}.get(family, "")
        raise NameNotFound(
            f"no address{wanted} for {target.host}: {error.strerror or error}",
            advice=f"allow {other}, too"
            if other and is_numeric(target.host)
            else "is the name right, and does name resolution work here?",
        ) from error
    return [(item[0], item[4]) for item in found]


def is_numeric(host: str) -> bool:
    """Whether a host is an address, so that `resolve` does not block."""
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class LookUp:
    """One look-up of a host, here or in another thread. When `done` is set, `addresses` or `error` is there."""

    def __init__(self, target: Target, family: int) -> None:
        self.addresses: list[Address] = []
        self.error: TSQError | None = None
        self.done = threading.Event()
        self._target = target
        self._family = family

    def run(self) -> None:
        """Look it up. Blocks."""
        try:
            self.addresses = resolve(self._target, self._family)
        except TSQError as error:
            self.error = error
        self.done.set()

    def run_in_thread(self) -> None:
        """Look it up in another thread; here, where there can be no other thread."""
        try:
            threading.Thread(target=self.run, name=f"addresses of {self._target}", daemon=True).start()
        except (RuntimeError, MemoryError):
            self.run()
