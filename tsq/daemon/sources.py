"""All sources of the daemon: which servers there are, who is polled, what the network and the operator permit.

Comes in: the configuration, polls that the machine asks for, the operator's requests, the network's changes. Goes out: events. It
must never raise from a poll, use one server as two sources, or be asked to wait by a name that cannot be looked up.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv6Address
from math import inf

from tsq.client.exchange import Rules
from tsq.client.in_thread import in_thread
from tsq.client.resolving import Address, is_numeric, resolve
from tsq.daemon.config import SourceConfig
from tsq.daemon.network_state import NetworkWatch, has_network, local_address
from tsq.daemon.pool import USUAL_PAUSE, Pool
from tsq.daemon.source import Source
from tsq.discipline.events import Event, Polled, Reading, SetOnline, SourceAdded, SourceChanged, SourceRemoved
from tsq.discipline.status import SourceStatus
from tsq.errors import NameNotFound, TSQError
from tsq.options import DEFAULT_PORT, Target
from tsq.timing.sample import Reason
from tsq.timing.selection import Mark

logger = logging.getLogger(__name__)

# A name's address that is missing in so many look-ups in a row is not used any more, even if a server still answers there.
_MOST_ABSENT = 2
# Seconds, while a source cannot be reached.
_LOOK_AT_ROUTES = 60.0

# What tells servers apart: address and port.
Server = tuple[str, int]


def source_name(config: SourceConfig) -> str:
    """The name of a source in events and for operators: the host, with its port if that is unusual."""
    target = config.target
    return target.host if target.port == DEFAULT_PORT else str(target)


@dataclass(slots=True, eq=False)
class _Entry:
    """One source. group: that it belongs to; place: its place in a pool, with a fixed address. server: what it uses.

    wanted: by the operator; reachable: by the network's state. absent: in how many look-ups in a row its address was missing.
    good: whether the last poll had a usable answer. wrong: whether the other sources say that its time is wrong.
    """

    name: str
    group: "_Group"
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
class _Group:
    """What one `[[source]]` table gives: one source, or those of a pool."""

    name: str
    config: SourceConfig
    pool: Pool[Address] | None
    look_up_at: float = inf
    looking: "asyncio.Task[None] | None" = None


class Sources:
    """The sources. emit: called with events, inside the event loop. read: reads the clock."""

    def __init__(self, emit: Callable[[Event], None], read: Callable[[], Reading]) -> None:
        self._emit = emit
        self._read = read
        self._groups: dict[str, _Group] = {}
        self._entries: dict[str, _Entry] = {}
        self._look_ups: dict[tuple[str, int, int], asyncio.Task[list[Address]]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        # Connections of sources that are no more.
        self._closed_before = 0
        self._watch = NetworkWatch(self._network_changed)
        # Without notices no source is ever taken for unreachable: nothing would say when it can be reached again.
        self._watching = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def names(self) -> list[str]:
        """The sources that there are now."""
        return list(self._entries)

    @property
    def busy(self) -> bool:
        """Whether a poll is under way."""
        return any(entry.source.busy for entry in self._entries.values())

    @property
    def closed(self) -> int:
        """How many connections were closed since the start."""
        return self._closed_before + sum(entry.source.closed for entry in self._entries.values())

    async def start(self, configs: Sequence[SourceConfig]) -> None:
        """Add these sources. Names are looked up meanwhile; this does not wait for them."""
        self._watching = self._watch.start()
        await self.reconfigure(configs)

    def poll(self, name: str, burst: bool = False) -> None:
        """Begin a poll of this source; `Polled` follows, exactly once, unless the source is removed meanwhile."""
        entry = self._entries.get(name)
        if entry is None:
            logger.debug("a poll of %s, which is no source", name)
        elif not entry.wanted:
            entry.source.refuse("the source is offline")
        else:
            entry.source.poll(burst=burst)

    def set_online(self, name: str, online: bool) -> None:
        """The operator permits polls, or forbids them. name: a source, a pool, or empty for all."""
        for entry in self._named(name):
            entry.wanted = online
            if not online:
                entry.source.interrupt("the source is offline")
            if name not in ("", entry.name) or (online and not entry.reachable):
                # After the operator's own event, which says neither what is in a pool nor what can be reached.
                event = SetOnline(online and entry.reachable, entry.name)
                asyncio.get_running_loop().call_soon(self._emit, event)

    def judged(self, sources: Iterable[SourceStatus]) -> None:
        """How the machine uses the sources. A pool's server that is wrong for long is replaced, as one that does not answer."""
        for one in sources:
            entry = self._entries.get(one.name)
            if entry is not None and entry.place is not None:
                entry.wrong = one.mark == Mark.FALSETICKER

    def replace(self, name: str) -> bool:
        """Use another server of a pool in place of this source's, which is wrong. Whether there is one."""
        entry = self._entries.get(name)
        if entry is None or entry.place is None or entry.group.pool is None:
            return False
        replaced = entry.group.pool.replace(entry.place, self._taken(entry.group), self._now())
        self._pool_changed(entry.group, [entry.place] if replaced else [])
        return replaced

    async def reconfigure(self, configs: Sequence[SourceConfig]) -> None:
        """Make these the sources. Those whose configuration is the same are not touched."""
        wanted: dict[str, SourceConfig] = {}
        for config in configs:
            name = source_name(config)
            if name in wanted:
                logger.warning("%s is configured as a source twice: the second one is not used", name)
            wanted.setdefault(name, config)
        for name in [name for name in self._groups if name not in wanted]:
            self._remove(self._groups.pop(name))
        for name, config in wanted.items():
            group = self._groups.get(name)
            if group is None:
                self._add(name, config)
            elif group.config != config:
                self._change(group, config)
        self._judge_all()
        self._arm()

    async def close(self) -> None:
        """End all of it; no event comes any more."""
        self._closed = True
        self._watch.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for group in self._groups.values():
            if group.looking is not None:
                group.looking.cancel()
        entries, self._entries = self._entries, {}
        self._groups.clear()
        for entry in entries.values():
            await entry.source.close()
        if self._ending:
            await asyncio.gather(*self._ending, return_exceptions=True)
        for task in list(self._look_ups.values()):
            task.cancel()

    # ------------------------------------------------------------------------------------------------- sources come and go

    def _add(self, name: str, config: SourceConfig) -> None:
        group = self._groups[name] = _Group(name, config, Pool(config.pool) if config.pool else None)
        if group.pool is None:
            self._enter(group, name, None, None)
            group.look_up_at = inf if is_numeric(config.target.host) else self._now() + USUAL_PAUSE
        else:
            group.look_up_at = self._now()

    def _enter(self, group: _Group, name: str, place: int | None, fixed: Address | None) -> None:
        """There is a new source."""
        entry = self._entries[name] = _Entry(name, group, self._source(group, name, fixed), place, fixed)
        known = fixed or self._numeric(group)
        if known is not None and self._user_of(_server(known), but=entry) is None:
            entry.server = _server(known)
        entry.wanted = not group.config.offline
        self._emit(SourceAdded(name, group.config.settings, "" if entry.server is None else entry.server[0]))
        if not entry.wanted:
            self._emit(SetOnline(False, name))

    def _source(self, group: _Group, name: str, fixed: Address | None) -> Source:
        config = group.config
        options = replace(config.client, server_name=config.client.server_name or config.target.host)
        target = config.target if fixed is None else Target(str(fixed[1][0]), config.target.port)
        rules = None if config.verifier is None else Rules(verifier=config.verifier)
        look_up = partial(self._addresses, name)
        return Source(name, target, options, rules, polled=self._polled, reading=self._read, look_up=look_up)

    @staticmethod
    def _numeric(group: _Group) -> Address | None:
        """The address of a host that is written as one."""
        if group.pool is not None or not is_numeric(group.config.target.host):
            return None
        try:
            return resolve(group.config.target, group.config.client.family)[0]
        except TSQError:
            # Of a family that the options exclude: each poll says so.
            return None

    def _remove(self, group: _Group) -> None:
        if group.looking is not None:
            group.looking.cancel()
        for entry in self._of(group):
            self._leave(entry)

    def _leave(self, entry: _Entry) -> None:
        del self._entries[entry.name]
        self._end(entry.source)
        self._emit(SourceRemoved(entry.name))

    def _end(self, source: Source) -> None:
        self._closed_before += source.closed + source.connected
        task = asyncio.create_task(source.close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _change(self, group: _Group, config: SourceConfig) -> None:
        """The same host with another configuration: what was measured stays right while the same proof is asked for."""
        before, group.config = group.config, config
        if bool(before.pool) != bool(config.pool):
            self._remove(group)
            self._add(group.name, config)
            return
        if group.pool is not None and config.pool != before.pool:
            group.pool.resize(config.pool)
            for entry in self._of(group):
                if entry.place is not None and entry.place >= config.pool:
                    self._leave(entry)
            group.look_up_at = self._now()
        for entry in self._of(group):
            if (config.client, config.proof) != (before.client, before.proof):
                self._end(entry.source)
                entry.source = self._source(group, entry.name, entry.fixed)
            if (config.client, config.proof, config.settings) != (before.client, before.proof, before.settings):
                address = "" if entry.server is None else entry.server[0]
                self._emit(SourceChanged(entry.name, config.settings, address, same_server=config.proof == before.proof))
            if config.offline != before.offline:
                self.set_online(entry.name, not config.offline)
                self._emit(SetOnline(not config.offline, entry.name))

    # --------------------------------------------------------------------------------------------------------------- polls

    def _polled(self, polled: Polled) -> None:
        """A poll has ended."""
        entry = self._entries.get(polled.name)
        if entry is None or self._closed:
            return
        if polled.sample.valid and polled.address:
            server = _plain(polled.address), entry.group.config.target.port
            other = self._user_of(server, but=entry)
            if other is not None:
                # Two names, found to be one server only now. One server must not have two votes.
                entry.source.renew()
                detail = f"{polled.address} is the server of the source {other.name} already"
                polled = replace(polled, sample=replace(polled.sample, reason=Reason.NOT_SENT, detail=detail))
            else:
                self._uses(entry, server)
        entry.good = _is_good(polled)
        self._emit(polled)
        group = entry.group
        if group.pool is None or entry.place is None or self._entries.get(entry.name) is not entry:
            return
        if entry.good or (entry.wanted and entry.reachable and not self._all_fail()):
            if group.pool.polled(entry.place, entry.good and not entry.wrong, self._taken(group), self._now()):
                entry.wrong = False
                self._pool_changed(group, [entry.place])
            self._arm()

    def _all_fail(self) -> bool:
        """Whether no source answers, of several: then it is not the servers that are bad."""
        return len(self._entries) > 1 and not any(entry.good for entry in self._entries.values())

    def _uses(self, entry: _Entry, server: Server) -> None:
        """The source has reached this server."""
        if server == entry.server:
            return
        another = entry.server is not None
        entry.server, entry.absent = server, 0
        self._emit(SourceChanged(entry.name, entry.group.config.settings, server[0], same_server=not another))

    # ----------------------------------------------------------------------------------------------------------- addresses

    async def _addresses(self, name: str) -> list[Address]:
        """The addresses that a source may try, the one in use first."""
        entry = self._entries.get(name)
        if entry is None:
            raise NameNotFound(f"{name} is no source any more")
        if entry.fixed is not None:
            return [entry.fixed]
        found = await self._resolve(entry.group)
        for one in found:
            user = self._user_of(_server(one), but=entry)
            if user is None:
                break
            # A pool has other addresses to choose from.
            self.replace(user.name)
        free = [one for one in found if self._user_of(_server(one), but=entry) is None]
        if not free:
            user = self._user_of(_server(found[0]), but=entry) if found else None
            other = "" if user is None else f" of the source {user.name}"
            raise NameNotFound(
                f"no address of its own for {name}: all are those{other}", advice="configure each server as one source"
            )
        return sorted(free, key=lambda one: _server(one) != entry.server)

    async def _resolve(self, group: _Group) -> list[Address]:
        """All addresses of a group's host. Look-ups of one host at the same time are one."""
        target, family = group.config.target, group.config.client.family
        if is_numeric(target.host):
            return resolve(target, family)
        key = (target.host, target.port, family)
        task = self._look_ups.get(key)
        if task is None:
            task = self._look_ups[key] = asyncio.create_task(in_thread(resolve, target, family))
            task.add_done_callback(partial(self._looked_up, key))
        return await asyncio.shield(task)

    def _looked_up(self, key: tuple[str, int, int], task: "asyncio.Task[list[Address]]") -> None:
        self._look_ups.pop(key, None)
        if not task.cancelled():
            # Nobody may wait for it any more.
            task.exception()

    async def _look_again(self, group: _Group) -> None:
        """Look a name up without need: a pool may have better servers, another server may stand behind a name."""
        try:
            found = await self._resolve(group)
        except TSQError as error:
            logger.debug("%s: %s", group.name, error)
            found = None
        finally:
            group.looking = None
        if self._groups.get(group.name) is not group:
            return
        now = self._now()
        if group.pool is not None:
            if found is None:
                group.pool.not_resolved(now)
                changed: list[int] = []
            else:
                changed = group.pool.resolved(found, self._taken(group, found), now)
            self._pool_changed(group, changed)
        else:
            group.look_up_at = now + USUAL_PAUSE
            for entry in self._of(group):
                there = found is None or entry.server is None or entry.server in map(_server, found)
                entry.absent = 0 if there else entry.absent + 1
                if entry.absent >= _MOST_ABSENT:
                    logger.info("%s is not at %s any more", entry.name, entry.server and entry.server[0])
                    entry.absent = 0
                    entry.source.renew()
        self._arm()

    def _pool_changed(self, group: _Group, places: Sequence[int]) -> None:
        """These places of a pool have another server."""
        assert group.pool is not None
        group.look_up_at = group.pool.look_up_at
        for place in places:
            address = group.pool.addresses[place]
            assert address is not None
            name = f"{group.name}/{place + 1}"
            entry = self._entries.get(name)
            if entry is None:
                self._enter(group, name, place, address)
                continue
            self._end(entry.source)
            entry.fixed, entry.server = address, _server(address)
            entry.source = self._source(group, name, address)
            self._emit(SourceChanged(name, group.config.settings, entry.server[0], same_server=False))
        self._judge_all()

    def _taken(self, group: _Group, found: Sequence[Address] = ()) -> set[Address]:
        """The addresses that a pool must not use, among those that it knows or has just found."""
        known = [] if group.pool is None else group.pool.known
        others = {entry.server for entry in self._entries.values() if entry.group is not group}
        return {one for one in (*known, *found) if _server(one) in others}

    def _user_of(self, server: Server, but: _Entry) -> _Entry | None:
        return next((one for one in self._entries.values() if one is not but and one.server == server), None)

    def _arm(self) -> None:
        """See to the next look-up."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = min((group.look_up_at for group in self._groups.values() if group.looking is None), default=inf)
        if any(not entry.reachable for entry in self._entries.values()):
            # In case that a notice was lost.
            due = min(due, self._now() + _LOOK_AT_ROUTES)
        if due < inf and not self._closed:
            self._timer = asyncio.get_running_loop().call_at(due, self._due)

    def _due(self) -> None:
        self._timer = None
        if any(not entry.reachable for entry in self._entries.values()):
            self._judge_all()
        now = self._now()
        for group in self._groups.values():
            if group.look_up_at <= now and group.looking is None:
                group.looking = asyncio.create_task(self._look_again(group))
        self._arm()

    # --------------------------------------------------------------------------------------------------------- the network

    def _network_changed(self) -> None:
        """Addresses or routes have changed: go on from another address, or wait until there is a way again."""
        now = self._now()
        for group in self._groups.values():
            if group.pool is not None and None in group.pool.addresses:
                group.look_up_at = now
        for entry in self._entries.values():
            entry.source.network_changed()
        self._judge_all()
        self._arm()

    def _judge_all(self) -> None:
        if not self._watching:
            return
        for entry in list(self._entries.values()):
            self._judge(entry)

    def _judge(self, entry: _Entry) -> None:
        """Whether there is a way to the source."""
        peer = entry.fixed or entry.source.peer
        target = entry.group.config.target
        if peer is None and is_numeric(target.host):
            peer = self._numeric(entry.group)
        named = entry.fixed is None and not is_numeric(target.host)
        # A name may have an address of another family, which can be reached.
        reachable = (peer is not None and local_address(peer) is not None) or (named and has_network())
        if reachable == entry.reachable:
            return
        entry.reachable = reachable
        if not reachable:
            entry.source.interrupt("there is no way to it")
        if entry.wanted:
            logger.info("%s: %s", entry.name, "there is a way to it again" if reachable else "there is no way to it: offline")
            self._emit(SetOnline(reachable, entry.name))

    def _named(self, name: str) -> Iterator[_Entry]:
        return iter([one for one in self._entries.values() if name in ("", one.name, one.group.name)])

    def _of(self, group: _Group) -> list[_Entry]:
        return [entry for entry in self._entries.values() if entry.group is group]

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _server(address: Address) -> Server:
    host, port, *_ = address[1]
    return _plain(str(host)), int(str(port))


def _plain(host: str) -> str:
    """An address in one form: an IPv4-mapped IPv6 address as the IPv4 address."""
    if not host.lower().startswith("::ffff:"):
        return host
    mapped = IPv6Address(host).ipv4_mapped
    return host if mapped is None else str(mapped)


def _is_good(polled: Polled) -> bool:
    """Whether a pool should keep this server: it answers, and its clock is synchronized as far as is known."""
    server = polled.sample.server
    return polled.sample.valid and not polled.state_unknown and (server is None or not server.unusable)
