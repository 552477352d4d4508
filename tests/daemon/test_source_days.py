"""Hours of a source in virtual time: when its connection is kept or resumed, what that costs in datagrams, what is lost."""

import asyncio
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from tests.daemon.following import reading
from tests.support.virtual_loop import AsyncNetwork, VirtualLoop
from tests.support.virtual_sockets import ADDRESS, Faults, Sockets
from tsq.daemon.source import Source
from tsq.discipline.events import Polled
from tsq.options import ClientOptions, Target, Trust
from tsq.timing.sample import Reason

# IPv4 and UDP.
HEADERS = 28


class Days:
    """A source in virtual time: `poll` gives the outcome of one poll, `wait` lets time pass."""

    def __init__(self, certificates, monkeypatch, faults: Faults | None = None) -> None:
        self.network = AsyncNetwork(Sockets(certificates), faults or Faults(1))
        monkeypatch.setattr("tsq.client.asynchronous.open_attempt", self.network.open_attempt)
        # Virtual sockets have no routes.
        monkeypatch.setattr("tsq.daemon.source.local_address", lambda peer: "192.0.2.2")
        self.loop = VirtualLoop(self.network)
        self.outcomes: list[Polled] = []
        self._ended = asyncio.Event()
        options = ClientOptions(trust=Trust(insecure=True), timeout=3.0)
        self.source = Source(
            "virtual", Target("time.example"), options, polled=self._polled, reading=reading, look_up=self._addresses
        )

    def _polled(self, polled: Polled) -> None:
        self.outcomes.append(polled)
        self._ended.set()

    async def _addresses(self):
        return [ADDRESS]

    async def poll(self, burst: bool = False) -> Polled:
        already, begun = len(self.outcomes), self.loop.time()
        self._ended.clear()
        self.source.poll(burst=burst)
        await self._ended.wait()
        assert len(self.outcomes) == already + 1
        assert self.loop.time() <= begun + 3.6
        return self.outcomes[-1]

    async def polls(self, interval: float, count: int) -> list[Polled]:
        """So many polls, this far apart."""
        outcomes = []
        for _ in range(count):
            begun = self.loop.time()
            outcomes.append(await self.poll())
            await asyncio.sleep(max(0.0, begun + interval - self.loop.time()))
        return outcomes

    @property
    def sent(self) -> tuple[int, int]:
        """(datagrams, bytes with headers), of both sides."""
        sent = self.network.world.sent
        return len(sent), sum(len(data) + HEADERS for _, data in sent)

    @property
    def open_now(self) -> int:
        return len(list(self.network.left_open()))

    def run(self, scenario: Callable[[], Any]) -> Any:
        async def whole() -> Any:
            try:
                return await scenario()
            finally:
                await self.source.close()

        try:
            return self.loop.run_until_complete(whole())
        finally:
            assert self.open_now == 0
            assert asyncio.all_tasks(self.loop) == set()
            self.loop.close()


@pytest.fixture
def days(certificates, monkeypatch) -> Callable[..., Days]:
    return lambda faults=None: Days(certificates, monkeypatch, faults)


@pytest.mark.parametrize("interval", [1, 16, 64, 128])
def test_short_polls_use_one_connection_for_ever(days, interval):
    one = days()

    async def scenario() -> None:
        outcomes = await one.polls(interval, 4 * 3600 // max(interval, 30))
        assert all(polled.sample.valid for polled in outcomes)
        assert one.network.opened == 1

    one.run(scenario)


@pytest.mark.parametrize("interval", [256, 1024])
def test_long_polls_are_resumed_and_nothing_is_open_in_between(days, interval):
    one = days()

    async def scenario() -> None:
        await one.polls(interval, 2)
        before = one.network.opened
        for number in range(1, 21):
            assert (await one.poll()).sample.valid
            assert one.network.opened == before + number
            await asyncio.sleep(1.0)
            assert one.open_now == 0
            datagrams, _ = one.sent
            await asyncio.sleep(interval - 1.0)
            assert one.sent[0] == datagrams

    one.run(scenario)


def test_the_limit_is_near_where_both_cost_the_same_bytes(days):
    """CPU time decides; but at the limit neither way may cost much more of the network than the other one."""

    def bytes_per_poll(interval: float) -> float:
        one = days()

        async def scenario() -> float:
            await one.polls(interval, 3)
            before = one.sent[1]
            await one.polls(interval, 10)
            return (one.sent[1] - before) / 10

        return one.run(scenario)

    kept, resumed = bytes_per_poll(128.0), bytes_per_poll(256.0)
    assert kept < resumed < 3 * kept


def test_the_interval_may_change_at_any_time(days):
    one = days()

    async def scenario() -> None:
        for interval in (16, 1024, 16, 300, 64, 256, 128):
            outcomes = await one.polls(interval, 6)
            assert all(polled.sample.valid for polled in outcomes)

    one.run(scenario)


def test_a_burst_after_a_long_wait_uses_one_connection(days):
    one = days()

    async def scenario() -> None:
        await one.polls(1024, 3)
        before = one.network.opened
        for number in range(4):
            assert (await one.poll(burst=number < 3)).sample.valid
            await asyncio.sleep(2.0)
        assert one.network.opened == before + 1

    one.run(scenario)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("interval", [16, 300], ids=["kept", "resumed"])
def test_a_fifth_of_all_datagrams_lost_costs_few_polls(days, seed, interval):
    one = days()
    random = Random(seed)
    world = one.network.world
    world.to_server = world.to_client = lambda data, number: [1_000_000] if random.random() >= 0.2 else []

    async def scenario() -> None:
        outcomes = await one.polls(interval, 100)
        reasons = Counter(polled.sample.reason for polled in outcomes)
        assert reasons[None] >= 90, reasons
        assert set(reasons) <= {None, Reason.NO_ANSWER, Reason.CONNECTION_LOST, Reason.NOT_SENT}

    one.run(scenario)


@pytest.mark.parametrize("seed", range(4))
def test_sockets_that_fail_cost_polls_but_no_outcome(days, seed):
    one = days(Faults(seed, send=0.2, receive=0.1, connect=0.2, partly=0.2))

    async def scenario() -> None:
        outcomes = await one.polls(16, 100)
        assert sum(polled.sample.valid for polled in outcomes) >= 50
        one.network.faults.send = one.network.faults.receive = one.network.faults.connect = one.network.faults.partly = 0
        assert [polled.sample.valid for polled in await one.polls(16, 3)] == [True] * 3

    one.run(scenario)


@pytest.mark.parametrize("interval", [16, 300], ids=["kept", "resumed"])
def test_an_outage_of_an_hour_ends_with_the_first_poll_after_it(days, interval):
    one = days()
    world = one.network.world

    async def scenario() -> None:
        assert (await one.poll()).sample.valid
        link, world.to_server = world.to_server, lambda data, number: []
        outcomes = await one.polls(interval, 3600 // interval)
        assert not any(polled.sample.valid for polled in outcomes)
        world.to_server = link
        assert [polled.sample.valid for polled in await one.polls(interval, 3)] == [True] * 3
        assert one.open_now <= 1

    one.run(scenario)


@pytest.mark.parametrize("interval", [16, 300], ids=["kept", "resumed"])
def test_a_server_that_was_replaced_costs_no_poll(days, certificates, interval):
    one = days()

    async def scenario() -> None:
        for _ in range(3):
            assert all(polled.sample.valid for polled in await one.polls(interval, 3))
            old, new = one.network.world, Sockets(certificates)
            new.sockets, new.now_ns, new._events = old.sockets, old.now_ns, []
            new._look_after()
            one.network.world = new

    one.run(scenario)


def test_an_outage_between_two_polls_costs_no_poll(days):
    one = days()
    world = one.network.world

    async def scenario() -> None:
        await one.polls(100, 2)
        link = world.to_server
        for begin, length in ((5.0, 90.0), (20.0, 30.0), (60.0, 38.0)):
            assert (await one.poll()).sample.valid
            await asyncio.sleep(begin)
            world.to_server = lambda data, number: []
            await asyncio.sleep(length)
            world.to_server = link
            await asyncio.sleep(100.0 - begin - length)
        assert (await one.poll()).sample.valid

    one.run(scenario)


@pytest.mark.parametrize("pause", [10.0, 29.0, 31.0, 3600.0])
def test_a_process_that_was_paused_goes_on(days, pause):
    one = days()

    async def scenario() -> None:
        for _ in range(3):
            assert all(polled.sample.valid for polled in await one.polls(16, 3))
            # Time passes, and the event loop does not run.
            one.network.world.run(pause)
            assert (await one.poll()).sample.valid

    one.run(scenario)


def test_a_process_that_was_paused_in_mid_poll_has_its_outcome(days):
    one = days()

    async def scenario() -> None:
        await one.polls(16, 2)
        one._ended.clear()
        one.source.poll()
        await asyncio.sleep(0.001)
        one.network.world.run(3600.0)
        await one._ended.wait()
        assert len(one.outcomes) == 3
        assert (await one.poll()).sample.valid

    one.run(scenario)
