"""Sources as the daemon uses them: against real servers on loopback."""

import asyncio
import gc
import logging
import threading
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.cli.peers import Authority, Peer, closed_port, deaf_port, honest
from tests.daemon.following import Following, config, run
from tests.support.open_files import left_open, open_files
from tests.support.ports import free_port
from tests.support.threads import ServerThread
from tsq.client.resolving import is_numeric, resolve
from tsq.daemon import source as source_module
from tsq.daemon.pool import MOST_BAD
from tsq.daemon.source_list import source_name
from tsq.discipline.events import Polled, SetOnline, SourceAdded, SourceChanged, SourceRemoved
from tsq.discipline.settings import SourceSettings
from tsq.discipline.status import SourceStatus
from tsq.errors import NameNotFound
from tsq.options import Target
from tsq.timing.sample import Reason
from tsq.timing.selection import Mark


class Names:
    """A resolver that a test controls: the addresses of names. asked: the names that were looked up."""

    def __init__(self, monkeypatch) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.asked: list[str] = []
        monkeypatch.setattr("tsq.daemon.look_ups.resolve", self._resolve)

    def _resolve(self, target: Target, family: int):
        if is_numeric(target.host):
            return resolve(target, family)
        self.asked.append(target.host)
        found = self.addresses.get(target.host, [])
        if not found:
            raise NameNotFound(f"no address for {target.host}")
        return [address for one in found for address in resolve(Target(one, target.port), family)]


@pytest.fixture
def names(monkeypatch) -> Names:
    return Names(monkeypatch)


@pytest.fixture
def everywhere(certificates):
    """A server at all addresses 127.x.x.x."""
    with ServerThread(["0.0.0.0:0"], certificates) as running:
        yield running


def named(server: ServerThread, name: str, **options):
    """A source by its name, for a server whose certificate is for localhost."""
    return config(Target(name, server.target.port), server.ca, server_name="localhost", **options)


class Restarting:
    """A server that can be stopped and started again at the same port."""

    def __init__(self, certificates, address: str = "127.0.0.1", port: int = 0) -> None:
        self._certificates = certificates
        self._address = address
        self._server: ServerThread | None = None
        self.target = Target(address, port or free_port())
        self.start()

    def start(self) -> None:
        self._server = ServerThread([str(self.target)], self._certificates).__enter__()
        self.target = self._server.target

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.__exit__(None, None, None)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


# ------------------------------------------------------------------------------------------------------------------ a poll


def test_a_poll_gives_one_sample_with_readings_of_the_clock(server, monkeypatch):
    # This machine may be busy.
    monkeypatch.setattr("tsq.client.channel._SHORT_DELAY", 10.0)
    monkeypatch.setattr("tsq.client.asynchronous.LAST_WAIT", 20.0)

    async def scenario(following: Following) -> None:
        one = config(server.target, server.ca)
        name = source_name(one)
        await following.sources.start([one])
        assert following.events == [SourceAdded(name, SourceSettings(), "127.0.0.1")]
        for _ in range(3):
            (polled,) = await following.poll(name)
            sample = polled.sample
            assert sample.valid
            assert sample.exact
            assert abs(sample.offset) <= sample.root_distance
            assert sample.sent.at_ns <= sample.t1_ns <= sample.t4_ns <= sample.received.at_ns <= polled.reading.real_ns
            assert sample.server.stratum == 1
            assert (polled.address, polled.state_unknown) == ("127.0.0.1", False)
        assert following.of(SourceChanged) == []
        assert len(following.of(Polled)) == 3

    run(scenario)


def test_a_server_without_exact_times_gives_its_samples_as_well(certificates):
    with Peer(certificates, honest) as peer:

        async def scenario(following: Following) -> None:
            one = config(peer.target, peer.ca)
            await following.sources.start([one])
            for _ in range(2):
                (polled,) = await following.poll(source_name(one))
                assert polled.sample.valid
                assert not polled.sample.exact

        run(scenario)


def test_each_poll_that_fails_has_one_outcome_with_its_reason(names, certificates):
    unknown = config(Target("nowhere.example", 4433), certificates.authority)
    with deaf_port() as (deaf, _), closed_port() as nobody:
        closed = config(nobody, certificates.authority)
        silent = config(deaf, certificates.authority, timeout=0.3)
        wanted = [source_name(one) for one in (closed, unknown, silent)]

        async def scenario(following: Following) -> None:
            await following.sources.start([closed, unknown, silent])
            for _ in range(2):
                outcomes = await following.poll(*wanted)
                assert [one.sample.valid for one in outcomes] == [False] * 3
                assert [one.sample.reason for one in outcomes] == [Reason.NOT_SENT, Reason.NOT_SENT, Reason.NO_ANSWER]
                assert "nothing listens" in outcomes[0].sample.detail
                assert "no address for nowhere.example" in outcomes[1].sample.detail

        run(scenario)


def test_a_poll_before_the_last_one_has_ended_has_its_own_outcome(server):
    async def scenario(following: Following) -> None:
        one = config(server.target, server.ca)
        name = source_name(one)
        await following.sources.start([one])
        for _ in range(3):
            following.sources.poll(name)
        await following.until(lambda: len(following.of(Polled)) == 3)
        assert sorted(polled.sample.valid for polled in following.of(Polled)) == [False, False, True]
        following.sources.poll("no such source")
        (polled,) = await following.poll(name)
        assert polled.sample.valid
        assert len(following.of(Polled)) == 4

    run(scenario)


def test_a_server_that_answers_the_second_request_only_gives_a_sample(certificates):
    answered = []

    def every_other(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        answered.append(number)
        return honest(nonce, request, number) if number % 2 else []

    with Peer(certificates, every_other) as peer:

        async def scenario(following: Following) -> None:
            one = config(peer.target, peer.ca)
            await following.sources.start([one])
            (polled,) = await following.poll(source_name(one))
            assert polled.sample.valid
            assert len(answered) >= 2

        run(scenario)


def test_a_server_that_drips_bytes_has_the_time_out_for_all_of_it(certificates):
    """Fault 68: the handshake is complete, and then each stream gets one byte."""
    with Peer(certificates, lambda nonce, request, number: [b"\x01"], datagrams=False) as peer:

        async def scenario(following: Following) -> None:
            one = config(peer.target, peer.ca, timeout=0.6)
            await following.sources.start([one])
            (polled,) = await following.poll(source_name(one))
            assert not polled.sample.valid

        run(scenario)


def test_67_a_ticket_that_is_over_or_unknown_costs_a_full_handshake_and_no_poll(certificates):
    with Restarting(certificates) as server:
        one = config(server.target, certificates.authority)
        name = source_name(one)

        async def scenario(following: Following) -> None:
            await following.sources.start([one])
            source = following.sources._list.entries[name].source

            async def resumed() -> bool:
                (polled,) = await following.poll(name)
                assert polled.sample.valid
                was: bool = source._client._association.chosen.connection.resumed
                source._leave()
                return was

            assert [await resumed() for _ in range(3)] == [False, True, True]
            tickets = source._client._memory._tickets
            tickets[:] = [
                replace(accepted, ticket=replace(accepted.ticket, not_valid_after=datetime.now(UTC) - timedelta(seconds=1)))
                for accepted in tickets
            ]
            assert tickets
            assert [await resumed() for _ in range(2)] == [False, True]
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            assert [await resumed() for _ in range(2)] == [False, True]

        run(scenario)


# ---------------------------------------------------------------------------------------------------- servers come and go


def test_the_poll_after_a_restart_of_the_server_is_answered(certificates):
    with Restarting(certificates) as server:
        one = config(server.target, certificates.authority)
        name = source_name(one)

        async def scenario(following: Following) -> None:
            await following.sources.start([one])
            (before,) = await following.poll(name)
            await asyncio.to_thread(server.stop)
            (down,) = await following.poll(name)
            await asyncio.to_thread(server.start)
            after = [(await following.poll(name))[0] for _ in range(2)]
            assert [polled.sample.valid for polled in (before, down, *after)] == [True, False, True, True]
            # It is the same server.
            assert following.of(SourceChanged) == []

        run(scenario)


def test_no_poll_is_lost_when_the_server_restarts_between_two(certificates):
    with Restarting(certificates) as server:
        one = config(server.target, certificates.authority)

        async def scenario(following: Following) -> None:
            await following.sources.start([one])
            for _ in range(3):
                assert (await following.poll(source_name(one)))[0].sample.valid
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)

        run(scenario)


def test_no_poll_is_lost_when_the_name_moves_to_another_address(names, certificates):
    with Restarting(certificates) as first, Restarting(certificates, "127.0.0.2", first.target.port):
        one = config(Target("time.example", first.target.port), certificates.authority, server_name="localhost")
        name = source_name(one)
        names.addresses["time.example"] = ["127.0.0.1"]

        async def scenario(following: Following) -> None:
            await following.sources.start([one])
            assert (await following.poll(name))[0].address == "127.0.0.1"
            names.addresses["time.example"] = ["127.0.0.2"]
            await asyncio.to_thread(first.stop)
            (polled,) = await following.poll(name)
            assert (polled.sample.valid, polled.address) == (True, "127.0.0.2")
            changes = [(event.address, event.same_server) for event in following.of(SourceChanged)]
            assert changes == [("127.0.0.1", True), ("127.0.0.2", False)]
            # The change comes before the sample of the other server.
            kinds = [type(event) for event in following.events]
            assert kinds == [SourceAdded, SourceChanged, Polled, SourceChanged, Polled]

        run(scenario)


def test_a_name_that_has_no_address_for_a_while(names, everywhere):
    """Fault 61."""
    one = named(everywhere, "time.example")
    name = source_name(one)

    async def scenario(following: Following) -> None:
        await following.sources.start([one])
        (polled,) = await following.poll(name)
        assert (polled.sample.reason, polled.address) == (Reason.NOT_SENT, "")
        names.addresses["time.example"] = ["127.0.0.9"]
        (polled,) = await following.poll(name)
        assert (polled.sample.valid, polled.address) == (True, "127.0.0.9")
        # A connection that is open needs no name.
        names.addresses.clear()
        assert (await following.poll(name))[0].sample.valid

    run(scenario)


def test_a_dead_address_of_a_name_costs_no_poll(names, everywhere):
    """Fault 61."""
    one = named(everywhere, "time.example", timeout=10.0)
    # Nothing listens at the first address, and there is no way to the second one.
    names.addresses["time.example"] = ["::1", "240.0.0.1", "127.0.0.3"]

    async def scenario(following: Following) -> None:
        await following.sources.start([one])
        (polled,) = await following.poll(source_name(one))
        assert (polled.sample.valid, polled.address) == (True, "127.0.0.3")

    run(scenario)


def test_a_source_keeps_its_address_while_the_name_has_others_as_well(names, everywhere, monkeypatch):
    monkeypatch.setattr(source_module, "OPEN_LIMIT", -1.0)
    one = named(everywhere, "time.example")
    name = source_name(one)
    names.addresses["time.example"] = ["127.0.0.4"]

    async def scenario(following: Following) -> None:
        await following.sources.start([one])
        await following.poll(name)
        names.addresses["time.example"] = ["127.0.0.5", "127.0.0.4", "127.0.0.6"]
        for _ in range(3):
            following.sources._list.entries[name].source._leave()
            assert (await following.poll(name))[0].address == "127.0.0.4"
        assert len(following.of(SourceChanged)) == 1

    run(scenario)


def test_an_address_that_left_its_name_is_left_after_two_look_ups(names, everywhere, monkeypatch):
    """A server that still answers at an address that is its name's no more."""
    monkeypatch.setattr("tsq.daemon.sources.USUAL_PAUSE", 0.05)
    one = named(everywhere, "time.example")
    name = source_name(one)
    names.addresses["time.example"] = ["127.0.0.71"]

    async def scenario(following: Following) -> None:
        await following.sources.start([one])
        assert (await following.poll(name))[0].address == "127.0.0.71"
        source = following.sources._list.entries[name].source
        assert source.connected
        names.addresses["time.example"] = ["127.0.0.72"]
        asked = len(names.asked)
        async with asyncio.timeout(60):
            while source.connected:
                await asyncio.sleep(0)
        assert len(names.asked) >= asked + 2
        assert (await following.poll(name))[0].address == "127.0.0.72"
        # Look-ups while a poll takes long still see the address of before, and this connection may be left as well.
        while not source.connected:
            assert (await following.poll(name))[0].address == "127.0.0.72"
        # A name that cannot be looked up takes nothing away.
        names.addresses.clear()
        asked = len(names.asked)
        async with asyncio.timeout(60):
            while len(names.asked) < asked + 4:
                await asyncio.sleep(0)
        assert source.connected

    run(scenario)


def test_a_name_with_ipv6_only_is_asked_there(names, certificates):
    """Fault 61."""
    with ServerThread(["[::1]:0"], certificates) as server:
        one = named(server, "time.example")
        names.addresses["time.example"] = ["::1"]

        async def scenario(following: Following) -> None:
            await following.sources.start([one])
            (polled,) = await following.poll(source_name(one))
            assert (polled.sample.valid, polled.address) == (True, "::1")

        run(scenario)


def test_a_source_in_stream_mode_has_samples_as_well(server):
    async def scenario(following: Following) -> None:
        one = config(server.target, server.ca, stream=True)
        await following.sources.start([one])
        for _ in range(3):
            (polled,) = await following.poll(source_name(one))
            assert polled.sample.valid

    run(scenario)


def test_two_names_of_one_server_are_one_source(names, everywhere):
    first, second = named(everywhere, "one.example"), named(everywhere, "two.example")
    names.addresses |= {"one.example": ["127.0.0.7"], "two.example": ["127.0.0.7"]}

    async def scenario(following: Following) -> None:
        await following.sources.start([first, second])
        both = await following.poll(source_name(first), source_name(second))
        assert sorted(polled.sample.valid for polled in both) == [False, True]
        (refused,) = [polled for polled in both if not polled.sample.valid]
        assert "127.0.0.7" in refused.sample.detail
        (again,) = await following.poll(refused.name)
        assert not again.sample.valid
        # With an address of its own it is a source.
        names.addresses["one.example"].append("127.0.0.8")
        names.addresses["two.example"].append("127.0.0.8")
        (fine,) = await following.poll(refused.name)
        assert (fine.sample.valid, fine.address) == (True, "127.0.0.8")

    run(scenario)


def test_one_address_written_in_two_ways_is_one_source(everywhere):
    first, second = named(everywhere, "127.0.0.61"), named(everywhere, "::ffff:127.0.0.61")

    async def scenario(following: Following) -> None:
        await following.sources.start([first, second])
        for _ in range(2):
            both = await following.poll(source_name(first), source_name(second))
            assert [polled.sample.valid for polled in both] == [True, False]
            assert source_name(first) in both[1].sample.detail

    run(scenario)


# ---------------------------------------------------------------------------------------------------------- certificates


def test_a_problem_with_a_certificate_is_logged_once(server, tmp_path, caplog):
    other = Authority("another authority").issue(tmp_path)
    one = config(server.target, other.authority)

    async def scenario(following: Following) -> None:
        await following.sources.start([one])
        for _ in range(3):
            (polled,) = await following.poll(source_name(one))
            assert polled.sample.reason is Reason.NOT_SENT
            assert "not trusted" in polled.sample.detail

    with caplog.at_level(logging.INFO, "tsq.daemon"):
        run(scenario)
    (record,) = [record for record in caplog.records if record.name == "tsq.daemon.source" and record.levelno >= logging.WARNING]
    assert record.getMessage().startswith(f"{source_name(one)}: ")
    assert "not trusted" in record.getMessage()


def test_failures_are_logged_once_for_each_reason_and_so_is_their_end(certificates, caplog):
    wrong = True

    def answer(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        return honest(bytes(16) if wrong else nonce, request, number)

    with Peer(certificates, answer) as peer:

        async def scenario(following: Following) -> None:
            nonlocal wrong
            one = config(peer.target, peer.ca)
            await following.sources.start([one])
            for wrong in (True, True, True, False, False, True):
                (polled,) = await following.poll(source_name(one))
                assert polled.sample.valid is not wrong

        with caplog.at_level(logging.INFO, "tsq.daemon"):
            run(scenario)
    lines = [record.getMessage() for record in caplog.records if record.name == "tsq.daemon.source"]
    assert [line.split(": ")[1] for line in lines] == [Reason.WRONG_NONCE, "answers again", Reason.WRONG_NONCE]


# ---------------------------------------------------------------------------------------------------------------- pools


def test_a_pool_uses_so_many_addresses_and_replaces_a_bad_one(names, certificates):
    with ServerThread(["127.0.0.1:0"], certificates) as first:
        port = first.target.port
        names.addresses["pool.example"] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        with ServerThread([f"127.0.0.3:{port}"], certificates):
            pool = config(Target("pool.example", port), first.ca, server_name="localhost", pool=2)
            base = source_name(pool)

            async def scenario(following: Following) -> None:
                await following.sources.start([pool])
                await following.until(lambda: len(following.of(SourceAdded)) == 2)
                added = {event.name: event.address for event in following.of(SourceAdded)}
                assert added == {f"{base}/1": "127.0.0.1", f"{base}/2": "127.0.0.2"}
                for number in range(MOST_BAD):
                    good, bad = await following.poll(f"{base}/1", f"{base}/2")
                    assert (good.sample.valid, bad.sample.valid) == (True, False), number
                # The change has taken effect with the outcome of the last bad poll.
                (change,) = following.of(SourceChanged)
                assert (change.name, change.address, change.same_server) == (f"{base}/2", "127.0.0.3", False)
                (polled,) = await following.poll(f"{base}/2")
                assert (polled.sample.valid, polled.address) == (True, "127.0.0.3")

            run(scenario)


def test_a_pool_that_is_not_there_yet_comes_when_the_name_does(names, everywhere, monkeypatch):
    monkeypatch.setattr("tsq.daemon.pool.FIRST_PAUSE", 0.01)
    pool = named(everywhere, "pool.example", pool=3)

    async def scenario(following: Following) -> None:
        await following.sources.start([pool])
        while names.asked.count("pool.example") < 3:
            await asyncio.sleep(0)
        assert following.events == []
        names.addresses["pool.example"] = ["127.0.0.21", "127.0.0.22"]
        await following.until(lambda: len(following.of(SourceAdded)) == 2)
        names.addresses["pool.example"].append("127.0.0.23")
        await following.until(lambda: len(following.of(SourceAdded)) == 3)
        assert all(polled.sample.valid for polled in await following.poll(*following.sources.names))

    run(scenario)


def test_a_pool_leaves_addresses_to_other_sources(names, everywhere):
    names.addresses |= {"pool.example": ["127.0.0.31", "127.0.0.32"], "one.example": ["127.0.0.31"]}
    one, pool = named(everywhere, "one.example"), named(everywhere, "pool.example", pool=2)

    async def scenario(following: Following) -> None:
        await following.sources.start([one])
        await following.poll(source_name(one))
        await following.sources.reconfigure([one, pool])
        await following.until(lambda: len(following.of(SourceAdded)) == 2)
        assert following.of(SourceAdded)[1].address == "127.0.0.32"

    run(scenario)


def test_a_pool_has_more_or_fewer_places_after_a_reload(names, everywhere):
    names.addresses["pool.example"] = ["127.0.0.81", "127.0.0.82", "127.0.0.83"]
    small, large = named(everywhere, "pool.example", pool=1), named(everywhere, "pool.example", pool=3)
    base = source_name(small)

    async def scenario(following: Following) -> None:
        await following.sources.start([small])
        await following.until(lambda: bool(following.of(SourceAdded)))
        await following.poll(f"{base}/1")
        following.events.clear()
        await following.sources.reconfigure([large])
        await following.until(lambda: len(following.of(SourceAdded)) == 2)
        assert {event.address for event in following.of(SourceAdded)} == {"127.0.0.82", "127.0.0.83"}
        assert following.sources._list.entries[f"{base}/1"].source.connected
        following.events.clear()
        await following.sources.reconfigure([small])
        assert following.events == [SourceRemoved(f"{base}/2"), SourceRemoved(f"{base}/3")]
        # No pool any more: one source, by its own name.
        await following.sources.reconfigure([named(everywhere, "pool.example")])
        assert following.sources.names == [base]
        assert (await following.poll(base))[0].sample.valid

    run(scenario)


def test_a_pool_makes_way_for_a_source_that_has_no_other_address(names, everywhere):
    names.addresses |= {"pool.example": ["127.0.0.35", "127.0.0.36"], "one.example": ["127.0.0.35"]}
    one, pool = named(everywhere, "one.example"), named(everywhere, "pool.example", pool=1)

    async def scenario(following: Following) -> None:
        await following.sources.start([pool, one])
        await following.until(lambda: len(following.of(SourceAdded)) == 2)
        (polled,) = await following.poll(source_name(one))
        assert (polled.sample.valid, polled.address) == (True, "127.0.0.35")
        (polled,) = await following.poll(f"{source_name(pool)}/1")
        assert (polled.sample.valid, polled.address) == (True, "127.0.0.36")

    run(scenario)


def test_a_server_of_a_pool_whose_time_is_wrong_is_replaced(names, everywhere):
    names.addresses["pool.example"] = ["127.0.0.111", "127.0.0.112", "127.0.0.113"]
    pool = named(everywhere, "pool.example", pool=2)
    wrong = f"{source_name(pool)}/2"

    async def scenario(following: Following) -> None:
        await following.sources.start([pool])
        await following.until(lambda: len(following.of(SourceAdded)) == 2)
        for number in range(2 * MOST_BAD):
            # It answers, and in half of the first polls the others call it right.
            mark = Mark.COMBINED if number < MOST_BAD and number % 2 else Mark.FALSETICKER
            following.sources.judged([SourceStatus(name, mark=mark if name == wrong else "*") for name in following.sources.names])
            assert all(polled.sample.valid for polled in await following.poll(*following.sources.names))
            if following.of(SourceChanged):
                break
        assert number == 2 * MOST_BAD - 1
        assert following.of(SourceChanged) == [SourceChanged(wrong, SourceSettings(), "127.0.0.113", same_server=False)]

    run(scenario)


def test_another_server_of_a_pool_is_used_on_request(names, everywhere):
    names.addresses["pool.example"] = ["127.0.0.41", "127.0.0.42"]
    pool = named(everywhere, "pool.example", pool=1)
    name = f"{source_name(pool)}/1"

    async def scenario(following: Following) -> None:
        await following.sources.start([pool])
        await following.until(lambda: bool(following.of(SourceAdded)))
        assert following.sources.replace(name)
        (polled,) = await following.poll(name)
        assert polled.address == "127.0.0.42"
        assert not following.sources.replace(name)
        assert not following.sources.replace("no such source")

    run(scenario)


# --------------------------------------------------------------------------------------------------- what operators change


def test_a_source_that_is_offline_is_not_asked(server):
    one = config(server.target, server.ca, offline=True)
    name = source_name(one)

    async def scenario(following: Following) -> None:
        await following.sources.start([one])
        assert following.of(SetOnline) == [SetOnline(False, name)]
        (polled,) = await following.poll(name)
        assert (polled.sample.reason, polled.sample.detail) == (Reason.NOT_SENT, "the source is offline")
        following.sources.set_online("", True)
        assert (await following.poll(name))[0].sample.valid
        following.sources.set_online(name, False)
        assert not (await following.poll(name))[0].sample.valid

    run(scenario)


def test_a_reload_touches_only_what_changed(names, everywhere):
    names.addresses |= {name: [f"127.0.0.{number}"] for number, name in ((51, "a.example"), (52, "b.example"), (53, "c.example"))}
    a, b, c = (named(everywhere, f"{letter}.example") for letter in "abc")
    slower = named(everywhere, "b.example", settings=SourceSettings(min_poll=6))

    async def scenario(following: Following) -> None:
        await following.sources.start([a, b])
        await following.poll(source_name(a), source_name(b))
        following.events.clear()
        await following.sources.reconfigure([a, b])
        assert following.events == []
        connections = {name: entry.source._client.peer for name, entry in following.sources._list.entries.items()}
        await following.sources.reconfigure([slower, c])
        assert following.events == [
            SourceRemoved(source_name(a)),
            SourceChanged(source_name(b), slower.settings, "127.0.0.52", same_server=True),
            SourceAdded(source_name(c), SourceSettings()),
        ]
        entry = following.sources._list.entries[source_name(b)]
        assert entry.source.connected
        assert entry.source.peer == connections[source_name(b)]
        # Another time-out: another connection, but the same server.
        other = named(everywhere, "b.example", settings=SourceSettings(min_poll=6), timeout=1.5)
        await following.sources.reconfigure([other, c])
        (polled,) = await following.poll(source_name(b))
        assert polled.sample.valid
        assert following.sources.names == [source_name(b), source_name(c)]
        # Another content of the CA file: who answered before may be another one.
        following.events.clear()
        await following.sources.reconfigure([replace(other, authorities="another content"), c])
        assert following.of(SourceChanged) == [SourceChanged(source_name(b), other.settings, "127.0.0.52", same_server=False)]

    run(scenario)


def test_a_removed_source_is_silent_even_in_a_poll(certificates):
    with deaf_port() as (deaf, _):
        one = config(deaf, certificates.authority)

        async def scenario(following: Following) -> None:
            await following.sources.start([one])
            following.sources.poll(source_name(one))
            await asyncio.sleep(0)
            await following.sources.reconfigure([])
            await following.sources.close()
            assert [type(event) for event in following.events] == [SourceAdded, SourceRemoved]

        run(scenario)


def test_the_same_host_twice_is_one_source(server, caplog):
    one = config(server.target, server.ca)

    async def scenario(following: Following) -> None:
        await following.sources.start([one, one])
        assert len(following.of(SourceAdded)) == 1

    run(scenario)
    assert "twice" in caplog.text


def test_a_source_that_goes_offline_in_mid_poll_has_its_outcome_at_once(certificates):
    with deaf_port() as (deaf, socket):
        one = config(deaf, certificates.authority, timeout=60.0)
        name = source_name(one)

        async def scenario(following: Following) -> None:
            await following.sources.start([one])
            following.sources.poll(name)
            await asyncio.to_thread(socket.recv, 2048)
            following.sources.set_online(name, False)
            await following.until(lambda: bool(following.of(Polled)))
            (polled,) = following.of(Polled)
            assert (polled.sample.reason, polled.sample.detail) == (Reason.NOT_SENT, "the source is offline")

        run(scenario)


def routes(monkeypatch, there: dict[str, bool]) -> None:
    """Whether there is a way to the peers of this test."""
    monkeypatch.setattr("tsq.daemon.sources.local_address", lambda peer: "127.0.0.1" if there["way"] else None)


def test_without_a_way_a_source_is_offline_and_looked_at_again_and_again(server, monkeypatch):
    monkeypatch.setattr("tsq.daemon.sources._LOOK_AT_ROUTES", 0.01)
    there = {"way": False}
    routes(monkeypatch, there)
    one = config(server.target, server.ca)
    name = source_name(one)

    async def scenario(following: Following) -> None:
        await following.sources.start([one])
        assert following.of(SetOnline) == [SetOnline(False, name)]
        # What the operator permits cannot be reached either.
        following.sources.set_online(name, True)
        await following.until(lambda: len(following.of(SetOnline)) == 2)
        assert following.of(SetOnline)[1] == SetOnline(False, name)
        there["way"] = True
        await following.until(lambda: len(following.of(SetOnline)) == 3)
        assert following.of(SetOnline)[2] == SetOnline(True, name)
        assert (await following.poll(name))[0].sample.valid

    run(scenario)


def test_what_the_operator_forbids_does_not_come_back_with_the_network(server, monkeypatch):
    monkeypatch.setattr("tsq.daemon.sources._LOOK_AT_ROUTES", 0.01)
    there = {"way": False}
    routes(monkeypatch, there)
    one = config(server.target, server.ca)
    name = source_name(one)

    async def scenario(following: Following) -> None:
        await following.sources.start([one])
        following.sources.set_online(name, False)
        there["way"] = True
        async with asyncio.timeout(60):
            while not following.sources._list.entries[name].reachable:
                await asyncio.sleep(0)
        assert following.of(SetOnline) == [SetOnline(False, name)]

    run(scenario)


def test_where_the_kernel_gives_no_notices_every_source_is_polled(server, monkeypatch):
    monkeypatch.setattr("tsq.daemon.sources.NetworkWatch.start", lambda watch: False)
    routes(monkeypatch, {"way": False})
    one = config(server.target, server.ca)

    async def scenario(following: Following) -> None:
        await following.sources.start([one])
        assert following.of(SetOnline) == []
        assert (await following.poll(source_name(one)))[0].sample.valid

    run(scenario)


def test_a_source_that_goes_offline_before_its_poll_has_begun_has_its_outcome_as_well(server):
    one = config(server.target, server.ca)
    name = source_name(one)

    async def scenario(following: Following) -> None:
        await following.sources.start([one])
        for _ in range(3):
            following.sources.poll(name)
            following.sources.set_online(name, False)
            following.sources.set_online(name, True)
            (polled,) = await following.poll_again(name)
            assert polled.sample.detail == "the source is offline"
            assert (await following.poll(name))[0].sample.valid

    run(scenario)


def test_a_pool_is_online_or_offline_as_one(names, everywhere):
    names.addresses["pool.example"] = ["127.0.0.91", "127.0.0.92"]
    pool = named(everywhere, "pool.example", pool=2)
    base = source_name(pool)

    async def scenario(following: Following) -> None:
        await following.sources.start([pool])
        await following.until(lambda: len(following.of(SourceAdded)) == 2)
        following.sources.set_online(base, False)
        await following.until(lambda: len(following.of(SetOnline)) == 2)
        assert following.of(SetOnline) == [SetOnline(False, f"{base}/1"), SetOnline(False, f"{base}/2")]
        outcomes = await following.poll(f"{base}/1", f"{base}/2")
        assert {polled.sample.detail for polled in outcomes} == {"the source is offline"}

    run(scenario)


def test_a_pool_is_not_replaced_while_no_source_answers(names, certificates):
    with closed_port() as nobody:
        names.addresses["pool.example"] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        pool = config(Target("pool.example", nobody.port), certificates.authority, pool=2)

        async def scenario(following: Following) -> None:
            await following.sources.start([pool])
            await following.until(lambda: len(following.of(SourceAdded)) == 2)
            for _ in range(2 * MOST_BAD):
                outcomes = await following.poll(*following.sources.names)
                assert not any(polled.sample.valid for polled in outcomes)
            assert following.of(SourceChanged) == []

        run(scenario)


# ---------------------------------------------------------------------------------------------------------- what it costs


def test_a_thousand_polls_with_reconnects_leave_nothing_behind(server):
    """Kept open for nine polls, resumed for the tenth: threads, descriptors and memory stay as they are."""

    async def scenario(following: Following) -> None:
        one = config(server.target, server.ca)
        name = source_name(one)
        await following.sources.start([one])
        source = following.sources._list.entries[name].source
        valid = 0

        async def polls(count: int) -> None:
            nonlocal valid
            for number in range(count):
                (polled,) = await following.poll(name)
                valid += polled.sample.valid
                if number % 10 == 9:
                    source._leave()
                following.events.clear()
            gc.collect()

        await polls(100)
        tracemalloc.start()
        try:
            await polls(100)
            before = tracemalloc.take_snapshot()
            files, threads = open_files(), threading.active_count()
            await polls(800)
            after = tracemalloc.take_snapshot()
        finally:
            tracemalloc.stop()
        assert valid == 1000
        # The last connection may just be closing.
        async with asyncio.timeout(60):
            while open_files() > files:
                await asyncio.sleep(0)
        # A thread may still be started for the server; 80 connections would leave 80.
        assert threading.active_count() < threads + 8
        own = [tracemalloc.Filter(True, "*/tsq/daemon/*"), tracemalloc.Filter(True, "*/tsq/client/*")]
        growth = sum(one.size_diff for one in after.filter_traces(own).compare_to(before.filter_traces(own), "filename"))
        assert growth < 20_000, growth

    run(scenario)


def test_closing_leaves_no_descriptor_open(server):
    async def scenario(following: Following) -> None:
        one = config(server.target, server.ca)
        await following.sources.start([one])
        await following.poll(source_name(one))

    # The first exchange opens what the server, in this process, keeps for all.
    run(scenario)
    gc.collect()
    before = open_files()
    for _ in range(5):
        run(scenario)
    gc.collect()
    assert left_open(before) == 0
