"""The sources of one clock, by their names: which there are, which are asked now, which may vote.

Comes in: what the configuration, the network and operators say about sources. Goes out: polls, voters. It must never ask a source
that is offline.
"""

from collections.abc import Iterator

from tsq.discipline.actions import Poll
from tsq.discipline.events import Burst, SetOnline, SourceAdded, SourceChanged
from tsq.discipline.source import Learner, TrackedSource
from tsq.timing.intersection import majority


class SourceTable:
    """Iterates over its sources in the order in which they came."""

    def __init__(self) -> None:
        self._sources: dict[str, TrackedSource] = {}

    def __iter__(self) -> Iterator[TrackedSource]:
        return iter(self._sources.values())

    def get(self, name: str) -> TrackedSource | None:
        """The source of this name."""
        return self._sources.get(name)

    @property
    def voters(self) -> list[TrackedSource]:
        """Those that take part in the selection."""
        return [one for one in self if one.usable]

    @property
    def waited_for(self) -> bool:
        """Whether one that may vote was asked and has not said anything yet."""
        return any(one.online and not one.heard and not one.settings.no_select for one in self)

    @property
    def majority_measured(self) -> bool:
        """Whether more than half of those that may vote have done so."""
        able = [one for one in self if one.online and not one.settings.no_select]
        return sum(one.usable for one in able) >= majority(len(able))

    def due_ns(self) -> int | None:
        """The raw time at which a source is to be asked next."""
        return min((one.polling.due_ns for one in self if one.online), default=None)

    def add(self, event: SourceAdded, learner: Learner, now_ns: int) -> None:
        """There is a new source."""
        self._sources[event.name] = TrackedSource(event.name, event.settings, event.address, learner, now_ns)

    def remove(self, name: str) -> bool:
        """A source is gone; whether there was one."""
        return self._sources.pop(name, None) is not None

    def change(self, event: SourceChanged, learner: Learner, now_ns: int) -> None:
        """Other settings, or another server behind the name."""
        source = self._sources.get(event.name)
        if source is not None and event.same_server:
            source.settings, source.address = event.settings, event.address
            source.polling.change(event.settings)
            return
        self.add(SourceAdded(event.name, event.settings, event.address), learner, now_ns)
        if source is not None:
            self._sources[event.name].online = source.online

    def ask(self, event: SetOnline | Burst, now_ns: int) -> None:
        """An operator, or the network's state, says when sources may or should be asked."""
        for source in self:
            if event.name not in ("", source.name, source.pool):
                continue
            if isinstance(event, Burst):
                source.polling.soon(now_ns, event.count)
            elif event.online != source.online:
                source.online = event.online
                if event.online:
                    source.polling.soon(now_ns)
                else:
                    source.reach = 0

    def polls(self, now_ns: int) -> Iterator[Poll]:
        """Those that are due, which are asked by this."""
        for source in self:
            if source.online and source.polling.is_due(now_ns):
                source.polling.asked(now_ns)
                yield Poll(source.name, source.polling.burst > 0)
