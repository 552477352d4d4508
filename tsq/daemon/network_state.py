"""The state of the network: when addresses and routes change, and from which address this machine reaches a peer.

Comes in: the kernel's notices (rtnetlink). Goes out: one call soon after changes; local addresses. It must never send anything, or
fail where a sandbox forbids the notices: then `watch` says so, and nothing is noticed.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path

from tsq.client.resolving import Address

logger = logging.getLogger(__name__)

# <linux/rtnetlink.h>: links; addresses, routes and routing rules of IPv4, and of IPv6.
_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x40000
_NOTICE_BYTES = 1 << 16
_MOST_NOTICES = 1000
# Seconds. One change of the network is many notices.
_SETTLED = 0.05
_IPV4_ROUTES = Path("/proc/self/net/route")
_IPV6_ADDRESSES = Path("/proc/self/net/if_inet6")
_IPV6_GLOBAL = "00"


def local_address(peer: Address) -> str | None:
    """The address from which this machine would send to this peer now; None: there is no way to it. Sends nothing."""
    try:
        with socket.socket(peer[0], socket.SOCK_DGRAM) as probe:
            probe.connect(peer[1])
            return str(probe.getsockname()[0])
    except OSError:
        return None


def has_network() -> bool:
    """Whether this machine has an address that others can reach, or a route to others; true where the kernel does not say."""
    try:
        routes = _IPV4_ROUTES.read_text("ascii").splitlines()[1:]
        addresses = _IPV6_ADDRESSES.read_text("ascii").splitlines() if _IPV6_ADDRESSES.exists() else []
    except OSError:
        return True
    return any(line.split()[0] != "lo" for line in routes) or any(line.split()[3] == _IPV6_GLOBAL for line in addresses)


class NetworkWatch:
    """Calls `changed` soon after addresses, links or routes have changed, inside the event loop."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> bool:
        """Begin; whether the kernel gives notices here."""
        try:
            notices = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        except (AttributeError, OSError) as error:
            logger.info("changes of the network are not noticed here: %s", error)
            return False
        try:
            notices.setblocking(False)
            notices.bind((0, _GROUPS))
        except OSError as error:
            notices.close()
            logger.info("changes of the network are not noticed here: %s", error)
            return False
        self._socket = notices
        asyncio.get_running_loop().add_reader(notices.fileno(), self._noticed)
        return True

    def close(self) -> None:
        """End it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _noticed(self) -> None:
        """Read all notices. What they say does not matter: `local_address` asks the kernel. An overrun is a notice as well."""
        assert self._socket is not None
        for _ in range(_MOST_NOTICES):
            try:
                self._socket.recv(_NOTICE_BYTES)
            except OSError:
                break
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SETTLED, self._settled)

    def _settled(self) -> None:
        self._timer = None
        self._changed()
