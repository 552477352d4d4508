"""One source's connection: kept open for short polls, resumed for long ones; and the network that changes under it."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.following import Following, config, run
from tests.integration.peers import ReportingServer, process, server_arguments
from tests.support.imprecise_server import imprecise
from tests.support.namespaces import Pair, etc, inside, ip, pair
from tsq.daemon import source as source_module
from tsq.daemon.source import KEEP_ALIVE, OPEN_LIMIT, Upkeep
from tsq.daemon.source_list import source_name
from tsq.options import Precision, Target
from tsq.timing.sample import Reason

ROOT = Path(__file__).parents[2]
IDLE = 30.0


def polls(upkeep: Upkeep, gap: float, count: int, *, tickets: bool = True) -> float:
    """So many polls, this far apart; when the last one was."""
    for number in range(count):
        upkeep.polled(number * gap, burst=False, tickets=tickets, idle_timeout=IDLE)
    return (count - 1) * gap


# -------------------------------------------------------------------------------------------------- how long it is kept


@pytest.mark.parametrize("poll", range(11))
def test_the_connection_is_kept_for_short_polls_and_resumed_for_long_ones(poll):
    upkeep = Upkeep()
    gap = 2.0**poll
    last = polls(upkeep, gap, 3)
    if gap < OPEN_LIMIT:
        # It is there for the next poll, even if that comes late.
        assert upkeep.close_at > last + 1.2 * gap
        assert upkeep.keep_alive_at < last + IDLE
    else:
        assert upkeep.due_at == last


def test_after_long_polls_without_a_ticket_there_is_time_for_one_to_come():
    upkeep = Upkeep()
    last = polls(upkeep, 1024.0, 2, tickets=False)
    assert last < upkeep.close_at <= last + 1.0


def test_the_first_poll_and_a_burst_keep_the_connection():
    upkeep = Upkeep()
    upkeep.polled(0.0, burst=False, tickets=True, idle_timeout=IDLE)
    assert upkeep.close_at > OPEN_LIMIT
    upkeep.polled(1024.0, burst=True, tickets=True, idle_timeout=IDLE)
    assert upkeep.close_at > 1024.0 + OPEN_LIMIT


def test_the_connection_is_touched_before_either_end_forgets_it():
    upkeep = Upkeep()
    upkeep.polled(0.0, burst=False, tickets=True, idle_timeout=IDLE)
    assert upkeep.keep_alive_at <= KEEP_ALIVE < IDLE
    upkeep.touched(25.0, IDLE)
    assert 25.0 < upkeep.keep_alive_at <= 50.0
    # A server with a short idle time-out.
    upkeep.touched(50.0, 5.0)
    assert upkeep.keep_alive_at < 55.0


@pytest.mark.parametrize(("gap", "kept"), [(2.0, True), (16.0, True), (64.0, False)])
def test_a_server_that_forgets_soon_is_kept_for_shorter_polls_only(gap, kept):
    upkeep = Upkeep()
    for number in range(3):
        upkeep.polled(number * gap, burst=False, tickets=True, idle_timeout=5.0)
    assert (upkeep.close_at > 2 * gap) is kept


@pytest.fixture
def at_once(monkeypatch):
    """Every poll is a long one."""
    monkeypatch.setattr(source_module, "OPEN_LIMIT", -1.0)


def test_a_long_poll_is_resumed_with_its_request_in_the_first_flight(server, at_once):
    async def scenario(following: Following) -> None:
        one = config(server.target, server.ca)
        name = source_name(one)
        await following.sources.start([one])
        source = following.sources._list.entries[name].source
        resumed, early = [], []
        for _ in range(5):
            assert (await following.poll(name))[0].sample.valid
            association = source._client._association
            resumed.append(association.chosen.connection.resumed)
            early.append(association.zero_rtt)
            async with asyncio.timeout(60):
                while source.connected:
                    await asyncio.sleep(0)
        assert resumed == early == [False, True, True, True, True]

    run(scenario)


def test_short_polls_use_one_connection_and_long_waits_are_bridged(server, monkeypatch):
    monkeypatch.setattr(source_module, "_IDLE_PART", 1e-6)
    monkeypatch.setattr(source_module, "OPEN_LIMIT", 1e9)

    async def scenario(following: Following) -> None:
        one = config(server.target, server.ca)
        name = source_name(one)
        await following.sources.start([one])
        source = following.sources._list.entries[name].source
        await following.poll(name)
        association = source._client._association
        touched = 0
        keep_alive = source._client.keep_alive

        def counted() -> None:
            nonlocal touched
            touched += 1
            keep_alive()

        monkeypatch.setattr(source._client, "keep_alive", counted)
        async with asyncio.timeout(60):
            while touched < 20:
                await asyncio.sleep(0)
        for _ in range(3):
            assert (await following.poll(name))[0].sample.valid
        assert source._client._association is association
        assert association.connections == 1

    run(scenario)


# ------------------------------------------------------------------------------------------------------- Precision Mode


@pytest.mark.parametrize("precision", [Precision.ASK, Precision.REQUIRE])
def test_answers_are_in_precision_mode_where_that_is_asked_for(server, precision):
    async def scenario(following: Following) -> None:
        one = config(server.target, server.ca, precision=precision)
        await following.sources.start([one])
        for _ in range(3):
            sample = (await following.poll(source_name(one)))[0].sample
            assert sample.valid
            assert sample.precise

    run(scenario)


def test_a_server_without_precision_mode_is_used_and_logged_once(certificates, caplog):
    caplog.set_level("INFO")
    with imprecise(certificates) as target:

        async def scenario(following: Following) -> None:
            one = config(target, certificates.authority, precision=Precision.ASK)
            await following.sources.start([one])
            for _ in range(3):
                sample = (await following.poll(source_name(one)))[0].sample
                assert sample.valid
                assert not sample.precise

        run(scenario)
    [record] = [record for record in caplog.records if "Precision Mode" in record.message]
    assert record.message == f"{target}: the server does not answer in Precision Mode"


def test_a_server_without_precision_mode_is_not_used_where_it_is_required(certificates):
    with imprecise(certificates) as target:

        async def scenario(following: Following) -> None:
            one = config(target, certificates.authority, precision=Precision.REQUIRE)
            await following.sources.start([one])
            assert (await following.poll(source_name(one)))[0].sample.reason is Reason.NOT_PRECISE

        run(scenario)


# ------------------------------------------------------------------------------------------------ the network changes


class Nat:
    """A relay that hides its clients behind a port of its own, and forgets that port when asked to."""

    def __init__(self, server: Target) -> None:
        self._server = (server.host, server.port)
        self._client: tuple[str, int] | None = None
        self._inside = self._endpoint(("127.0.0.1", 0))
        self._outside = self._endpoint(("127.0.0.1", 0))
        self.target = Target(*self._inside.getsockname())
        self.ports: set[int] = set()
        self._old: list[socket.socket] = []

    def _endpoint(self, address: tuple[str, int]) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.bind(address)
        asyncio.get_running_loop().add_reader(made, self._forward, made)
        return made

    def _forward(self, arrived: socket.socket) -> None:
        data, peer = arrived.recvfrom(65536)
        if arrived is self._inside:
            self._client = peer
            self.ports.add(self._outside.getsockname()[1])
            self._outside.sendto(data, self._server)
        elif self._client is not None:
            self._inside.sendto(data, self._client)

    def forget(self) -> None:
        asyncio.get_running_loop().remove_reader(self._outside)
        # Open until the end, so that its port is not given again.
        self._old.append(self._outside)
        self._outside = self._endpoint(("127.0.0.1", 0))

    def close(self) -> None:
        for endpoint in (self._inside, self._outside, *self._old):
            asyncio.get_running_loop().remove_reader(endpoint)
            endpoint.close()


def test_a_nat_that_forgets_its_port_costs_no_poll(server):
    async def scenario(following: Following) -> None:
        nat = Nat(server.target)
        one = config(nat.target, server.ca)
        name = source_name(one)
        await following.sources.start([one])
        for _ in range(4):
            assert (await following.poll(name))[0].sample.valid
            nat.forget()
        source = following.sources._list.entries[name].source
        assert source._client._association.connections == 1
        assert len(nat.ports) == 4
        nat.close()

    run(scenario)


SERVER, OTHER, PORT = "192.0.2.2", "192.0.2.3", 4433
# Polls a source for each line on its input, and prints what came of it, and the events in between.
PROGRAM = """
import asyncio, json, sys
from tests.daemon.following import Following, config
from tsq.daemon.source_list import source_name
from tsq.discipline.events import Polled, SetOnline, SourceChanged
from tsq.options import parse_target
async def main():
    following = Following()
    one = config(parse_target(sys.argv[1]), sys.argv[2], server_name="localhost", timeout=10.0)
    name = source_name(one)
    await following.sources.start([one])
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := (await lines.readline()).decode().strip():
        following.events.clear()
        source = following.sources._list.entries[name].source
        if line == "poll":
            await following.poll(name)
        elif line == "offline" or line == "online":
            wanted = SetOnline(line == "online", name)
            await following.until(lambda: wanted in following.events)
        elif line == "moved":
            before = source._client.local_address
            while source._client.local_address == before:
                await asyncio.sleep(0.01)
        association = source._client._association
        print(json.dumps({
            "valid": [event.sample.valid for event in following.of(Polled)],
            "why": [event.sample.detail for event in following.of(Polled)],
            "address": source.address,
            "local": source._client.local_address,
            "id": association.chosen.connection.quic._peer_cid.cid.hex() if association and association.chosen else None,
            "connections": None if association is None else association.connections,
            "online": [event.online for event in following.of(SetOnline)],
            "same": [event.same_server for event in following.of(SourceChanged)],
        }), flush=True)
    await following.sources.close()
asyncio.run(main())
"""


@pytest.fixture
def network() -> Iterator[Pair]:
    with pair(["192.0.2.1"], [SERVER, OTHER]) as made:
        yield made


class Polling:
    """The program, running in the asking namespace."""

    def __init__(self, running: subprocess.Popen) -> None:
        self._running = running

    def __call__(self, word: str = "poll") -> dict:
        self._running.stdin.write(f"{word}\n")
        self._running.stdin.flush()
        line = self._running.stdout.readline()
        assert line, "the program has ended"
        return json.loads(line)


def polling(network: Pair, certificates, host: str = SERVER):
    """The program that polls a host, as a process."""
    command = [*inside(network.one), sys.executable, "-c", PROGRAM, f"{host}:{PORT}", str(certificates.authority)]
    return process(command, stdin=subprocess.PIPE, cwd=ROOT)


def serving(network: Pair, certificates, address: str = SERVER) -> ReportingServer:
    return ReportingServer(server_arguments(certificates, f"{address}:{PORT}"), inside(network.other))


def test_another_address_of_this_machine_moves_the_connection_and_no_poll_is_lost(network, certificates):
    device = network.devices[0]
    with serving(network, certificates), polling(network, certificates) as running:
        ask = Polling(running)
        assert [ask()["valid"] for _ in range(2)] == [[True]] * 2
        ip("-n", network.one, "address", "add", "192.0.2.77/24", "dev", device)
        ip("-n", network.one, "address", "delete", "192.0.2.1/24", "dev", device)
        # The first address took the second one with it, unless the kernel promotes that one.
        ip("-n", network.one, "address", "replace", "192.0.2.77/24", "dev", device)
        answers = [ask() for _ in range(3)]
        # Between two connections there is no address.
        while answers[-1]["local"] == "" and len(answers) < 20:
            answers.append(ask())
        assert [one["valid"] for one in answers] == [[True]] * len(answers), answers
        assert {one["local"] for one in answers} - {""} == {"192.0.2.77"}


def test_a_better_way_moves_the_same_connection(network, certificates):
    """The old address is still there: what is sent from it would be answered as well."""
    device = network.devices[0]
    ip("-n", network.one, "address", "add", "192.0.2.77/24", "dev", device)
    with serving(network, certificates), polling(network, certificates) as running:
        ask = Polling(running)
        first = ask()
        assert first["local"] == "192.0.2.1"
        ip("-n", network.one, "route", "add", f"{SERVER}/32", "dev", device, "src", "192.0.2.77")
        assert ask("moved")["local"] == "192.0.2.77"
        answers = [ask() for _ in range(3)]
        assert [one["valid"] for one in answers] == [[True]] * 3, answers
        # The connection is the same one, by another connection ID: observers cannot tell (RFC 9000 §9.5).
        assert [one["connections"] for one in answers] == [1] * 3
        assert first["id"] not in {one["id"] for one in answers}


def test_a_network_that_goes_takes_the_source_offline_and_back_online(network, certificates):
    device = network.devices[0]
    with serving(network, certificates), polling(network, certificates) as running:
        ask = Polling(running)
        assert ask()["valid"] == [True]
        ip("-n", network.one, "link", "set", device, "down")
        assert ask("offline")["online"] == [False]
        ip("-n", network.one, "link", "set", device, "up")
        assert ask("online")["online"] == [True]
        assert ask()["valid"] == [True]


def test_a_name_that_moves_is_followed_and_a_dead_address_is_passed_over(network, certificates):
    """Fault 61."""

    def hosts(*addresses: str) -> str:
        return "127.0.0.1 localhost\n" + "".join(f"{address} time.example\n" for address in addresses)

    names = {"hosts": hosts(SERVER, "192.0.2.50"), "nsswitch_conf": "hosts: files\n"}
    ip("-n", network.one, "neigh", "add", "192.0.2.50", "lladdr", "02:00:00:00:00:50", "dev", network.devices[0])
    with (
        etc(network.one, **names),
        serving(network, certificates) as first,
        polling(network, certificates, "time.example") as running,
    ):
        ask = Polling(running)
        assert (ask()["valid"], ask()["address"]) == ([True], SERVER)
        Path("/etc/netns", network.one, "hosts").write_text(hosts("192.0.2.50", OTHER))
        with serving(network, certificates, OTHER):
            first.stop()
            answer = ask()
            assert (answer["valid"], answer["address"], answer["same"]) == ([True], OTHER, [False]), answer
