"""Sources with a record of their events, for tests."""

import asyncio
from collections.abc import Callable
from typing import Any

from tsq.daemon.config import SourceConfig
from tsq.daemon.sources import Sources
from tsq.discipline.events import Event, Polled, Reading
from tsq.host.clock import clock_reading
from tsq.options import ClientOptions, Target, Trust

GUARD = 120.0


def reading() -> Reading:
    """The clock, as a daemon reads it."""
    now = clock_reading()
    return Reading(now.at_ns, now.at_ns - now.difference_ns, now.width_ns)


def config(target: Target, ca: object = None, **options: Any) -> SourceConfig:
    """A source that trusts this CA file; other values are those of the `SourceConfig`, or of its ClientOptions."""
    own = {name: options.pop(name) for name in ("settings", "pool", "offline") if name in options}
    trust = Trust(ca_file=str(ca)) if ca is not None else Trust(insecure=True)
    return SourceConfig(target, ClientOptions(**{"trust": trust, "timeout": 6.0, **options}), **own)


class Following:
    """Sources whose events are kept."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.sources = Sources(self._emit, reading)
        self._news = asyncio.Event()

    def _emit(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if type(event) is kind]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for events until the condition is true."""
        async with asyncio.timeout(GUARD):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def poll_again(self, name: str) -> list[Polled]:
        """The outcome of a poll of this source that was begun elsewhere."""
        already = len(self.of(Polled))
        await self.until(lambda: len(self.of(Polled)) > already)
        assert self.of(Polled)[-1].name == name
        return self.of(Polled)[already:]

    async def poll(self, *names: str, burst: bool = False) -> list[Polled]:
        """Poll these sources; their outcomes in this order."""
        already = len(self.of(Polled))
        for name in names:
            self.sources.poll(name, burst)
        await self.until(lambda: len(self.of(Polled)) >= already + len(names))
        fresh = self.of(Polled)[already:]
        assert sorted(one.name for one in fresh) == sorted(names)
        return sorted(fresh, key=lambda one: names.index(one.name))


def run(scenario: Callable[[Following], Any]) -> Any:
    """Run a scenario with sources that are closed at its end; a hang is a failure."""

    async def guarded() -> Any:
        following = Following()
        try:
            async with asyncio.timeout(GUARD):
                return await scenario(following)
        finally:
            await following.sources.close()

    return asyncio.run(guarded())
