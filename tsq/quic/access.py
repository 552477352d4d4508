"""Which addresses may use a server (`AccessList`).

Comes in: prefixes that are allowed or denied. Goes out: sorted borders, between which all addresses have the same rule; admission
looks them up in C (tsq/dataplane/prefixes.pyx). The most specific prefix wins, as with chronyd. It must never let two rules for one
prefix contradict each other.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from tsq.errors import ConfigError

__all__ = ["AccessList", "parse_prefix"]

Network = IPv4Network | IPv6Network
_ALL: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


def parse_prefix(text: str) -> tuple[Network, ...]:
    """An address, a prefix such as 192.0.2.0/24 or 2001:db8::/32, or "all". Raises ConfigError for anything else."""
    if text == "all":
        return _ALL
    try:
        return (ip_network(text),)
    except ValueError as error:
        raise ConfigError(
            f"{text!r} is no address and no prefix ({error})", expected='such as 192.0.2.0/24, 2001:db8::/32, or "all"'
        ) from None


@dataclass(frozen=True, slots=True)
class AccessList:
    """Prefixes that are allowed and denied, as text. The most specific one that holds an address decides.

    An address that is in none is allowed, unless there is an allowed prefix: then it is denied.
    Raises ConfigError for a prefix that is none, and for one that is both allowed and denied.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, texts in (("allow", self.allow), ("deny", self.deny)):
            if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
                raise ConfigError(f"{name} {texts!r}", expected='prefixes as text, such as ["192.0.2.0/24"]')
        self._rules()

    def allows(self, address: str) -> bool:
        """Whether this address may use the server. Admission decides the same with `compiled`."""
        (wanted,) = parse_prefix(address)
        if isinstance(wanted, IPv6Network) and wanted.network_address.ipv4_mapped is not None:
            (wanted,) = parse_prefix(str(wanted.network_address.ipv4_mapped))
        rules = self._rules()
        for length in range(wanted.max_prefixlen, -1, -1):
            denied = rules.get(wanted.supernet(new_prefix=length))
            if denied is not None:
                return not denied
        return not self.allow

    def compiled(self) -> tuple[bytes, bytes, bytes, bytes]:
        """(first addresses, a byte for each: 1 where denied from there on) for IPv4, then for IPv6; all empty without any rule."""
        rules = self._rules()
        if not rules:
            return b"", b"", b"", b""
        v4 = _borders([(net, denied) for net, denied in rules.items() if net.version == 4], 32, bool(self.allow))
        v6 = _borders([(net, denied) for net, denied in rules.items() if net.version == 6], 128, bool(self.allow))
        return *v4, *v6

    def _rules(self) -> dict[Network, bool]:
        """Prefix -> whether it is denied."""
        rules: dict[Network, bool] = dict.fromkeys(_networks(self.allow), False)
        for network in _networks(self.deny):
            if rules.get(network) is False:
                raise ConfigError(f"{network} is both allowed and denied", expected="one of both")
            rules[network] = True
        return rules


def _networks(texts: Iterable[str]) -> Iterable[Network]:
    return (network for text in texts for network in parse_prefix(text))


def _borders(rules: list[tuple[Network, bool]], bits: int, otherwise: bool) -> tuple[bytes, bytes]:
    """The borders of nested prefixes. otherwise: whether an address in none of them is denied."""
    borders: dict[int, bool] = {0: otherwise}
    # Prefixes that hold the present place, the most specific one last: (the first address after it, whether it is denied).
    around: list[tuple[int, bool]] = [(1 << bits, otherwise)]

    def leave(until: int) -> None:
        while around[-1][0] <= until and len(around) > 1:
            end, _ = around.pop()
            borders[end] = around[-1][1]

    for network, denied in sorted(rules, key=lambda rule: (int(rule[0].network_address), rule[0].prefixlen)):
        start = int(network.network_address)
        leave(start)
        around.append((start + network.num_addresses, denied))
        borders[start] = denied
    leave((1 << bits) - 1)
    starts = sorted(borders)
    return b"".join(start.to_bytes(bits // 8, "big") for start in starts), bytes(borders[start] for start in starts)
