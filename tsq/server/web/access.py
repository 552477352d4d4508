"""Who may see what, and how often: networks for private pages, origins for WebTransport, a budget for each client.

Comes in: addresses, origins, the time. Goes out: yes or no. It must never keep more than a fixed number of clients, and never
read a clock.
"""

from collections import OrderedDict
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from tsq.options import split_origin
from tsq.quic.budget import Bucket

Network = IPv4Network | IPv6Network

# A client that asks over NAT shares its address with others. IPv6 hosts choose the last 64 bits; many choose 72.
_PREFIX = {4: 32, 6: 56}
_RATE, _BURST = 100.0, 400.0
_MOST_CLIENTS = 4096


class Networks:
    """Networks that private pages are for."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(map(ip_network, networks))

    def contain(self, peer: str) -> bool:
        """Whether a numeric address is in one of them; an unknown one ("") is in none."""
        try:
            address = ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._networks)


class Origins:
    """Web sites whose pages may open WebTransport sessions, beside this server's own page."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._any = "*" in (given := tuple(origins))
        self._known = {split_origin(one) for one in given}

    def admit(self, origin: str | None, authority: str) -> bool:
        """Whether a page of this origin may. None: a client that is no browser, which nobody tricked into this."""
        if origin is None or self._any:
            return True
        asked = split_origin(origin)
        return asked is not None and (asked in self._known or asked == split_origin(f"https://{authority}"))


class Quota:
    """A budget for each client: an IPv4 address, or an IPv6 network of 56 bits. The clients that asked last are remembered."""

    def __init__(self, rate: float = _RATE, burst: float = _BURST) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: OrderedDict[Network | None, Bucket] = OrderedDict()

    def admits(self, peer: str, cost: float, now: float) -> bool:
        """Whether a client may ask for so much more; if so, charge it."""
        client = _network(peer)
        bucket = self._buckets.get(client)
        if bucket is None:
            if len(self._buckets) >= _MOST_CLIENTS:
                self._buckets.popitem(last=False)
            bucket = self._buckets[client] = Bucket(self._rate, self._burst)
        self._buckets.move_to_end(client)
        if bucket.refill(now) < cost:
            return False
        bucket.take(cost)
        return True


def _network(peer: str) -> Network | None:
    """The network that counts as one client; all of unknown address are one."""
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return None
    return ip_network(f"{address}/{_PREFIX[address.version]}", strict=False)
