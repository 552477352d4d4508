"""All sources of the daemon: they come and go, are polled, and use what the network and the operator permit.

Comes in: the configuration, polls that the machine asks for, the operator's requests, the network's changes. Goes out: events. It
must never raise from a poll, use one server as two sources, or be asked to wait by a name that cannot be looked up.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import inf

from tsq.client.exchange import Rules
from tsq.client.resolving import Address, is_numeric
from tsq.daemon.config import SourceConfig
from tsq.daemon.look_ups import LookUps, numeric_address
from tsq.daemon.network_state import NetworkWatch, has_network, local_address
from tsq.daemon.pool import USUAL_PAUSE, Pool
from tsq.daemon.source import Source
from tsq.daemon.source_list import Entry, Group, Server, SourceList, is_good, plain, server_of, source_name
from tsq.discipline.events import Event, Polled, Reading, SetOnline, SourceAdded, SourceChanged, SourceRemoved
from tsq.discipline.status import SourceStatus
from tsq.errors import NameNotFound, TSQError
from tsq.options import Target
from tsq.timing.sample import Reason
from tsq.timing.selection import Mark

logger = logging.getLogger(__name__)

# A name's address that is missing in so many look-ups in a row is not used any more, even if a server still answers there.
_MOST_ABSENT = 2
# Seconds, while a source cannot be reached.
_LOOK_AT_ROUTES = 60.0


class Sources:
    """The sources. emit: called with events, inside the event loop. read: reads the clock."""

    def __init__(self, emit: Callable[[Event], None], read: Callable[[], Reading]) -> None:
        self._emit = emit
        self._read = read
        self._list = SourceList()
        self._look_ups = LookUps()
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
        return list(self._list.entries)

    @property
    def busy(self) -> bool:
        """Whether a poll is under way."""
        return any(entry.source.busy for entry in self._list.entries.values())

    @property
    def closed(self) -> int:
        """How many connections were closed since the start."""
        return self._closed_before + sum(entry.source.closed for entry in self._list.entries.values())

    async def start(self, configs: Sequence[SourceConfig]) -> None:
        """Add these sources. Names are looked up meanwhile; this does not wait for them."""
        self._watching = self._watch.start()
        await self.reconfigure(configs)

    def poll(self, name: str, burst: bool = False) -> None:
        """Begin a poll of this source; `Polled` follows, exactly once, unless the source is removed meanwhile."""
        entry = self._list.entries.get(name)
        if entry is None:
            logger.debug("a poll of %s, which is no source", name)
        elif not entry.wanted:
            entry.source.refuse("the source is offline")
        else:
            entry.source.poll(burst=burst)

    def set_online(self, name: str, online: bool) -> None:
        """The operator permits polls, or forbids them. name: a source, a pool, or empty for all."""
        for entry in self._list.named(name):
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
            entry = self._list.entries.get(one.name)
            if entry is not None and entry.place is not None:
                entry.wrong = one.mark == Mark.FALSETICKER

    def replace(self, name: str) -> bool:
        """Use another server of a pool in place of this source's, which is wrong. Whether there is one."""
        entry = self._list.entries.get(name)
        if entry is None or entry.place is None or entry.group.pool is None:
            return False
        replaced = entry.group.pool.replace(entry.place, self._list.taken(entry.group), self._now())
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
        for name in [name for name in self._list.groups if name not in wanted]:
            self._remove(self._list.groups.pop(name))
        for name, config in wanted.items():
            group = self._list.groups.get(name)
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
        for group in self._list.groups.values():
            if group.looking is not None:
                group.looking.cancel()
        entries = list(self._list.entries.values())
        self._list.entries.clear()
        self._list.groups.clear()
        for entry in entries:
            await entry.source.close()
        if self._ending:
            await asyncio.gather(*self._ending, return_exceptions=True)
        self._look_ups.close()

    # ------------------------------------------------------------------------------------------------- sources come and go

    def _add(self, name: str, config: SourceConfig) -> None:
        group = self._list.groups[name] = Group(name, config, Pool(config.pool) if config.pool else None)
        if group.pool is None:
            self._enter(group, name, None, None)
            group.look_up_at = inf if is_numeric(config.target.host) else self._now() + USUAL_PAUSE
        else:
            group.look_up_at = self._now()

    def _enter(self, group: Group, name: str, place: int | None, fixed: Address | None) -> None:
        """There is a new source."""
        entry = self._list.entries[name] = Entry(name, group, self._source(group, name, fixed), place, fixed)
        known = fixed or _written(group)
        if known is not None and self._list.user_of(server_of(known), but=entry) is None:
            entry.server = server_of(known)
        entry.wanted = not group.config.offline
        self._emit(SourceAdded(name, group.config.settings, "" if entry.server is None else entry.server[0]))
        if not entry.wanted:
            self._emit(SetOnline(False, name))

    def _source(self, group: Group, name: str, fixed: Address | None) -> Source:
        config = group.config
        options = replace(config.client, server_name=config.client.server_name or config.target.host)
        target = config.target if fixed is None else Target(str(fixed[1][0]), config.target.port)
        rules = None if config.verifier is None else Rules(verifier=config.verifier)
        look_up = partial(self._addresses, name)
        return Source(name, target, options, rules, polled=self._polled, reading=self._read, look_up=look_up)

    def _remove(self, group: Group) -> None:
        if group.looking is not None:
            group.looking.cancel()
        for entry in self._list.of(group):
            self._leave(entry)

    def _leave(self, entry: Entry) -> None:
        del self._list.entries[entry.name]
        self._end(entry.source)
        self._emit(SourceRemoved(entry.name))

    def _end(self, source: Source) -> None:
        self._closed_before += source.closed + source.connected
        task = asyncio.create_task(source.close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _change(self, group: Group, config: SourceConfig) -> None:
        """The same host with another configuration: what was measured stays right while the same proof is asked for."""
        before, group.config = group.config, config
        if bool(before.pool) != bool(config.pool):
            self._remove(group)
            self._add(group.name, config)
            return
        if group.pool is not None and config.pool != before.pool:
            group.pool.resize(config.pool)
            for entry in self._list.of(group):
                if entry.place is not None and entry.place >= config.pool:
                    self._leave(entry)
            group.look_up_at = self._now()
        for entry in self._list.of(group):
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
        entry = self._list.entries.get(polled.name)
        if entry is None or self._closed:
            return
        if polled.sample.valid and polled.address:
            server = plain(polled.address), entry.group.config.target.port
            other = self._list.user_of(server, but=entry)
            if other is not None:
                # Two names, found to be one server only now. One server must not have two votes.
                entry.source.renew()
                detail = f"{polled.address} is the server of the source {other.name} already"
                polled = replace(polled, sample=replace(polled.sample, reason=Reason.NOT_SENT, detail=detail))
            else:
                self._uses(entry, server)
        entry.good = is_good(polled)
        self._emit(polled)
        group = entry.group
        if group.pool is None or entry.place is None or self._list.entries.get(entry.name) is not entry:
            return
        if entry.good or (entry.wanted and entry.reachable and not self._list.all_fail):
            if group.pool.polled(entry.place, entry.good and not entry.wrong, self._list.taken(group), self._now()):
                entry.wrong = False
                self._pool_changed(group, [entry.place])
            self._arm()

    def _uses(self, entry: Entry, server: Server) -> None:
        """The source has reached this server."""
        if server == entry.server:
            return
        another = entry.server is not None
        entry.server, entry.absent = server, 0
        self._emit(SourceChanged(entry.name, entry.group.config.settings, server[0], same_server=not another))

    # ----------------------------------------------------------------------------------------------------------- addresses

    async def _addresses(self, name: str) -> list[Address]:
        """The addresses that a source may try, the one in use first."""
        entry = self._list.entries.get(name)
        if entry is None:
            raise NameNotFound(f"{name} is no source any more")
        if entry.fixed is not None:
            return [entry.fixed]
        found = await self._look_ups.addresses(entry.group.target, entry.group.family)
        for one in found:
            user = self._list.user_of(server_of(one), but=entry)
            if user is None:
                break
            # A pool has other addresses to choose from.
            self.replace(user.name)
        free = [one for one in found if self._list.user_of(server_of(one), but=entry) is None]
        if not free:
            user = self._list.user_of(server_of(found[0]), but=entry) if found else None
            other = "" if user is None else f" of the source {user.name}"
            raise NameNotFound(
                f"no address of its own for {name}: all are those{other}", advice="configure each server as one source"
            )
        return sorted(free, key=lambda one: server_of(one) != entry.server)

    async def _look_again(self, group: Group) -> None:
        """Look a name up without need: a pool may have better servers, another server may stand behind a name."""
        try:
            found = await self._look_ups.addresses(group.target, group.family)
        except TSQError as error:
            logger.debug("%s: %s", group.name, error)
            found = None
        finally:
            group.looking = None
        if self._list.groups.get(group.name) is not group:
            return
        now = self._now()
        if group.pool is not None:
            if found is None:
                group.pool.not_resolved(now)
                changed: list[int] = []
            else:
                changed = group.pool.resolved(found, self._list.taken(group, found), now)
            self._pool_changed(group, changed)
        else:
            group.look_up_at = now + USUAL_PAUSE
            for entry in self._list.of(group):
                there = found is None or entry.server is None or entry.server in map(server_of, found)
                entry.absent = 0 if there else entry.absent + 1
                if entry.absent >= _MOST_ABSENT:
                    logger.info("%s is not at %s any more", entry.name, entry.server and entry.server[0])
                    entry.absent = 0
                    entry.source.renew()
        self._arm()

    def _pool_changed(self, group: Group, places: Sequence[int]) -> None:
        """These places of a pool have another server."""
        assert group.pool is not None
        group.look_up_at = group.pool.look_up_at
        for place in places:
            address = group.pool.addresses[place]
            assert address is not None
            name = f"{group.name}/{place + 1}"
            entry = self._list.entries.get(name)
            if entry is None:
                self._enter(group, name, place, address)
                continue
            self._end(entry.source)
            entry.fixed, entry.server = address, server_of(address)
            entry.source = self._source(group, name, address)
            self._emit(SourceChanged(name, group.config.settings, entry.server[0], same_server=False))
        self._judge_all()

    def _arm(self) -> None:
        """See to the next look-up."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = min((group.look_up_at for group in self._list.groups.values() if group.looking is None), default=inf)
        if any(not entry.reachable for entry in self._list.entries.values()):
            # In case that a notice was lost.
            due = min(due, self._now() + _LOOK_AT_ROUTES)
        if due < inf and not self._closed:
            self._timer = asyncio.get_running_loop().call_at(due, self._due)

    def _due(self) -> None:
        self._timer = None
        if any(not entry.reachable for entry in self._list.entries.values()):
            self._judge_all()
        now = self._now()
        for group in self._list.groups.values():
            if group.look_up_at <= now and group.looking is None:
                group.looking = asyncio.create_task(self._look_again(group))
        self._arm()

    # --------------------------------------------------------------------------------------------------------- the network

    def _network_changed(self) -> None:
        """Addresses or routes have changed: go on from another address, or wait until there is a way again."""
        now = self._now()
        for group in self._list.groups.values():
            if group.pool is not None and None in group.pool.addresses:
                group.look_up_at = now
        for entry in self._list.entries.values():
            entry.source.network_changed()
        self._judge_all()
        self._arm()

    def _judge_all(self) -> None:
        if not self._watching:
            return
        for entry in list(self._list.entries.values()):
            self._judge(entry)

    def _judge(self, entry: Entry) -> None:
        """Whether there is a way to the source."""
        peer = entry.fixed or entry.source.peer
        target = entry.group.config.target
        if peer is None and is_numeric(target.host):
            peer = _written(entry.group)
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

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _written(group: Group) -> Address | None:
    """The address of a source's host, where it is written as one."""
    return numeric_address(group.target, group.family) if group.pool is None else None
