"""Which sources the daemon has at present, in groups, and which servers they use.

Comes in: groups, one for each `[[source]]` table, and their sources. Goes out: who uses a server, which addresses a pool must not
use. It must never do I/O, or take two forms of one address for two servers.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from math import inf

from tsq.client.resolving import Address
from tsq.daemon.config import SourceConfig
from tsq.daemon.pool import Pool
from tsq.daemon.source import Source
from tsq.discipline.events import Polled
from tsq.options import DEFAULT_PORT, Target

# What tells servers apart: address and port.
Server = tuple[str, int]


def source_name(config: SourceConfig) -> str:
    """The name of a source in events and for operators: the host, with its port if that is unusual."""
    target = config.target
    return target.host if target.port == DEFAULT_PORT else str(target)


@dataclass(slots=True, eq=False)
class Entry:
    """One source. group: that it belongs to; place: its place in a pool, with a fixed address. server: what it uses.

    wanted: by the operator; reachable: by the network's state. absent: in how many look-ups in a row its address was missing.
    good: whether the last poll had a usable answer. wrong: whether the other sources say that its time is wrong.
    """

    name: str
    group: "Group"
    source: Source
    place: int | None = None
    fixed: Address | None = None
    server: Server | None = None
    wanted: bool = True
    reachable: bool = True
    absent: int = 0
    good: bool = True
    wrong: bool = False


@dataclass(slots=True, eq=False)
class Group:
    """What one `[[source]]` table gives: one source, or those of a pool."""

    name: str
    config: SourceConfig
    pool: Pool[Address] | None
    look_up_at: float = inf
    looking: "asyncio.Task[None] | None" = None

    @property
    def target(self) -> Target:
        """Its host."""
        return self.config.target

    @property
    def family(self) -> int:
        """The address family that the options permit."""
        return self.config.client.family


class SourceList:
    """The groups and the sources, by their names."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.entries: dict[str, Entry] = {}

    @property
    def all_fail(self) -> bool:
        """Whether no source answers, of several: then it is not the servers that are bad."""
        return len(self.entries) > 1 and not any(entry.good for entry in self.entries.values())

    def named(self, name: str) -> list[Entry]:
        """The sources of this name: a source, those of a pool, or all if it is empty."""
        return [one for one in self.entries.values() if name in ("", one.name, one.group.name)]

    def of(self, group: Group) -> list[Entry]:
        """The sources of this group."""
        return [entry for entry in self.entries.values() if entry.group is group]

    def taken(self, group: Group, found: Sequence[Address] = ()) -> set[Address]:
        """The addresses that a pool must not use, among those that it knows or has just found."""
        known = [] if group.pool is None else group.pool.known
        others = {entry.server for entry in self.entries.values() if entry.group is not group}
        return {one for one in (*known, *found) if server_of(one) in others}

    def user_of(self, server: Server, but: Entry) -> Entry | None:
        """Which other source uses this server."""
        return next((one for one in self.entries.values() if one is not but and one.server == server), None)


def server_of(address: Address) -> Server:
    """The server at this address."""
    host, port, *_ = address[1]
    return plain(str(host)), int(str(port))


def plain(host: str) -> str:
    """An address in one form: an IPv4-mapped IPv6 address as the IPv4 address."""
    if not host.lower().startswith("::ffff:"):
        return host
    mapped = IPv6Address(host).ipv4_mapped
    return host if mapped is None else str(mapped)


def is_good(polled: Polled) -> bool:
    """Whether a pool should keep this server: it answers, and its clock is synchronized as far as is known."""
    server = polled.sample.server
    return polled.sample.valid and not polled.state_unknown and (server is None or not server.unusable)
