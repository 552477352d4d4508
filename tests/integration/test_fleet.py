"""Several real servers with one file of secrets: tickets, replays, and a server that drains."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, suppress

import pytest

from tests.daemon.following import Following, config, run
from tests.support.daemon import configuration, tsqctl, tsqd
from tests.support.processes import BIN, ServerProcess, run_client
from tests.support.threads import ServerThread
from tsq.client.channel import Channel
from tsq.client.kept import KeptClient
from tsq.client.resolving import resolve
from tsq.daemon.source_list import source_name
from tsq.options import ClientOptions, Target, Trust, parse_target
from tsq.quic import tls
from tsq.quic.client_connection import ClientConnection
from tsq.quic.connection_ids import ConnectionIds
from tsq.quic.limits import Limits
from tsq.quic.quic_lb import QuicLb
from tsq.quic.resets import TOKEN_SIZE
from tsq.quic.secrets import Secrets

GUARD = 60.0


@pytest.fixture
def secret_file(tmp_path):
    file = tmp_path / "secrets"
    file.write_text(os.urandom(32).hex())
    file.chmod(0o600)
    return file


@pytest.fixture
def fleet(certificates, secret_file):
    """fleet(number, ...): so many servers in threads."""
    with ExitStack() as stack:

        def start(count: int, **options) -> list[ServerThread]:
            return [
                stack.enter_context(ServerThread(["127.0.0.1:0"], certificates, secrets=Secrets.from_file(secret_file), **options))
                for _ in range(count)
            ]

        yield start


# ---------------------------------------------------------------------------------------------------------------- tickets


@pytest.mark.parametrize("workers", [1, 2])
def test_a_ticket_of_one_process_resumes_with_0rtt_at_another(certificates, secret_file, tmp_path, workers):
    own = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key, "--workers", str(workers)]
    shared, session = ["--secret-file", secret_file], tmp_path / "session"

    def ask(server: ServerProcess, before: ServerProcess | None = None) -> bool:
        if before is not None:
            # As if both had one address.
            session.write_text(session.read_text().replace(str(before.target), str(server.target)))
        done = run_client("--ca", certificates.authority, "--session-file", session, "--json", server.target)
        assert done.returncode == 0, done.stderr
        [host] = json.loads(done.stdout)["hosts"]
        return host["zero_rtt"]

    with (
        ServerProcess([*own, *shared]) as one,
        ServerProcess([*own, *shared, "--quic-lb", "1:0a0b"]) as other,
        ServerProcess(own) as stranger,
    ):
        assert not ask(one)
        assert ask(other, one)
        assert ask(one, other)
        assert not ask(stranger, one)
        assert other.stop() == one.stop() == stranger.stop() == 0
    assert "handshakes: resumed: 1\n" in other.errors
    assert "handshakes: resumed: 1\n" in one.errors
    assert "tickets refused: unknown, or for another service: 1\n" in stranger.errors


@pytest.mark.parametrize("file", [False, True])
def test_a_ticket_of_one_worker_resumes_with_0rtt_at_every_other(certificates, secret_file, file):
    """Without a file, too: the workers of a server have the same secrets."""
    arguments = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key, "--workers", "2"]
    with ServerProcess([*arguments, *(["--secret-file", secret_file] if file else [])]) as server:

        async def use() -> tuple[list[bool], set[int]]:
            async def look_up():
                return resolve(server.target, 0)

            options = ClientOptions(trust=Trust(ca_file=certificates.authority))
            client = KeptClient(server.target, options, look_up)
            early, slots = [], set()
            for _ in range(24):
                await client.open()
                assert (await client.pair())[0].valid
                while not client.tickets:
                    await client.pair()
                association = client._association
                early.append(association.zero_rtt)
                slots.add(association.chosen.connection.quic._peer_cid.cid[0] % 2)
                client.shut()
            return early, slots

        early, slots = asyncio.run(asyncio.wait_for(use(), GUARD))
        assert server.stop() == 0
    assert slots == {0, 1}
    assert early == [False] + [True] * 23


def first_flight(server: ServerThread) -> bytes:
    """The datagram with which a client resumes that has a ticket of this server; it holds a request."""
    trust = Trust(ca_file=server.ca)

    async def ticket():
        async def look_up():
            return resolve(server.target, 0)

        async with KeptClient(server.target, ClientOptions(trust=trust, server_name="localhost"), look_up) as client:
            await client.pair()
            while not client.tickets:
                await client.pair()
            return client._memory.take(tls.acceptance("localhost", trust))

    kept = asyncio.run(asyncio.wait_for(ticket(), GUARD))
    channel = Channel(ClientConnection(tls.client_configuration("localhost", trust, ticket=kept)))
    channel.start(1000.0)
    [flight] = channel.datagrams(1000.0)
    return flight


def replies_to(server: ServerThread, data: bytes) -> list[bytes]:
    """What a server sends to a new address that sent this, until it has nothing more to send at once."""
    before = server.server.counters.get("datagrams")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(GUARD)
        udp.connect((server.target.host, server.target.port))
        udp.send(data)
        # One call on the server's loop is over after the datagram has been dealt with.
        while server.call(server.server.counters.get, "datagrams") == before:
            pass
        udp.setblocking(False)
        replies = []
        try:
            while True:
                replies.append(udp.recv(65536))
        except BlockingIOError:
            return replies


@pytest.mark.parametrize("fault", [23])
def test_fault_a_0rtt_flight_that_is_replayed_at_another_server_gains_one_answer_that_nobody_else_can_read(fleet, fault):
    one, other = fleet(2)
    flight = first_flight(one)
    answered = [server.server.counters.get("answered") for server in (one, other)]
    for server in (one, other):
        # The first time at each server; 3 times the bytes at most go to an address that is not validated.
        replies = replies_to(server, flight)
        assert replies
        assert sum(map(len, replies)) <= 3 * len(flight)
    for server in (one, other):
        for _ in range(20):
            assert sum(map(len, replies_to(server, flight))) <= 3 * len(flight)
    gained = [server.server.counters.get("answered") - before for server, before in zip((one, other), answered, strict=True)]
    assert gained == [1, 1]
    assert other.server.counters.get("tickets refused") == other.server.counters.get("tickets refused", "used before")


@pytest.mark.parametrize("fault", [27])
def test_fault_a_server_of_the_fleet_that_is_restarted_elsewhere_ends_its_connections(fleet, fault):
    """The token follows from secret and QUIC-LB server ID: a container that is made anew has another name and address."""
    lb = QuicLb(3, b"\x01\x02", 5, bytes(16))
    connection_id = ConnectionIds(quic_lb=lb).new()
    packet = b"\x40" + connection_id + bytes(60)
    [before] = fleet(1, connection_ids=ConnectionIds(quic_lb=lb))
    [after] = fleet(1, connection_ids=ConnectionIds(quic_lb=lb))
    [other] = fleet(1, connection_ids=ConnectionIds(quic_lb=QuicLb(3, b"\x01\x03", 5, bytes(16))))
    [first], [second] = replies_to(before, packet), replies_to(after, packet)
    assert first[-TOKEN_SIZE:] == second[-TOKEN_SIZE:]
    assert len(first) < len(packet)
    assert replies_to(other, packet) == []


# ---------------------------------------------------------------------------------------------------------------- draining


class Balancer:
    """Forwards each client's datagrams to the server that it was first forwarded to, and new clients to one that does not drain.

    ready: asks a server whether it takes new clients.
    """

    def __init__(self, servers: list, ready: Callable = lambda one: not one.server.draining) -> None:
        self._servers = servers
        self._ready = ready
        self._loop = asyncio.get_running_loop()
        self._front = self._endpoint(("127.0.0.1", 0), self._from_client)
        self._backs: dict[tuple[str, int], socket.socket] = {}
        self.target = Target(*self._front.getsockname())
        self.chosen: list = []

    def _endpoint(self, address: tuple[str, int], forward: Callable[[socket.socket], None]) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.bind(address)
        self._loop.add_reader(made, forward, made)
        return made

    def _from_client(self, front: socket.socket) -> None:
        data, client = front.recvfrom(65536)
        back = self._backs.get(client)
        if back is None:
            server = next(one for one in self._servers if self._ready(one))
            self.chosen.append(server)
            back = self._backs[client] = self._endpoint(("127.0.0.1", 0), lambda back: self._from_server(back, client))
            back.connect((server.target.host, server.target.port))
        back.send(data)

    def _from_server(self, back: socket.socket, client: tuple[str, int]) -> None:
        # ICMP: the server has ended.
        with suppress(ConnectionRefusedError):
            self._front.sendto(back.recv(65536), client)

    def close(self) -> None:
        for endpoint in (self._front, *self._backs.values()):
            self._loop.remove_reader(endpoint)
            endpoint.close()


def drain(server: ServerThread, seconds: float) -> asyncio.Future:
    return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(server.server.drain(seconds), server._loop))


def test_a_kept_client_loses_at_most_one_poll_when_its_server_drains(fleet):
    one, other = fleet(2)
    polls = []

    async def poll(client: KeptClient) -> None:
        polls.append(any(sample.valid for sample in await client.pair()))

    async def use() -> None:
        balancer = Balancer([one, other])

        async def look_up():
            return resolve(balancer.target, 0)

        options = ClientOptions(trust=Trust(ca_file=one.ca), server_name="localhost")
        async with KeptClient(balancer.target, options, look_up) as client:
            await poll(client)
            drained = drain(one, 1.0)
            while not drained.done():
                await poll(client)
                await asyncio.sleep(0.005)
            await drained
            for _ in range(10):
                await poll(client)
        assert one.server.connections == 0
        assert balancer.chosen == [one, other]
        balancer.close()

    asyncio.run(asyncio.wait_for(use(), GUARD))
    assert len(polls) > 10
    assert polls.count(False) <= 1
    assert one.server.counters.get("answered") > 2
    assert other.server.counters.get("answered") > 2


def test_a_source_of_tsqd_loses_no_poll_between_which_its_server_drains(fleet):
    one, other = fleet(2)

    async def scenario(following: Following) -> None:
        balancer = Balancer([one, other])
        source = config(balancer.target, one.ca, server_name="localhost")
        name = source_name(source)
        await following.sources.start([source])
        outcomes = [await following.poll(name)]
        await drain(one, 0.2)
        outcomes += [await following.poll(name) for _ in range(3)]
        assert [item.sample.valid for outcome in outcomes for item in outcome] == [True] * 4
        assert balancer.chosen == [one, other]
        balancer.close()

    run(scenario)


def test_quiet_clients_are_parted_from_one_after_another_and_none_loses_a_poll(fleet, monkeypatch):
    """Their connections rest: the server has no Python object of them."""
    # This machine may be busy: no client connects once more because of that.
    monkeypatch.setattr("tsq.client.kept._LEAST_PATIENCE", GUARD)
    many = 24
    one, other = fleet(2, limits=Limits(rest_after=0.0))

    async def use() -> list[int]:
        balancer = Balancer([one, other])

        async def look_up():
            return resolve(balancer.target, 0)

        options = ClientOptions(trust=Trust(ca_file=one.ca), server_name="localhost", timeout=GUARD)
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(KeptClient(balancer.target, options, look_up)) for _ in range(many)]

            async def poll() -> None:
                # One after another: two dozen handshakes at once would keep each other waiting.
                samples = [await client.pair() for client in clients]
                assert all(pair[0].valid for pair in samples)

            await poll()
            while one.server._router.connections:
                await asyncio.sleep(0.01)
            assert one.server.connections == many
            drained, counts = drain(one, 2.0), [many]
            while not drained.done():
                await asyncio.sleep(0.01)
                counts.append(one.server.connections)
            await drained
            await poll()
            assert balancer.chosen == [one] * many + [other] * many
        balancer.close()
        return counts

    counts = asyncio.run(asyncio.wait_for(use(), GUARD))
    assert counts == sorted(counts, reverse=True)
    assert one.server.connections == 0
    # Not all at once.
    assert any(0 < count < many for count in counts)


def test_programs_lose_no_sample_while_the_process_of_their_server_drains(certificates, secret_file, tmp_path):
    """tsq-client and tsqd, through a balancer that asks each server's health."""
    arguments = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key, "--drain", "3"]
    arguments += ["--secret-file", secret_file, "--metrics", "127.0.0.1:0"]
    health: dict[ServerProcess, str] = {}

    def ready(server: ServerProcess) -> bool:
        try:
            with urllib.request.urlopen(f"http://{health[server]}/readyz", timeout=GUARD) as response:
                return response.status == 200
        except urllib.error.HTTPError as error:
            error.close()
        except urllib.error.URLError:
            # It has ended.
            pass
        return False

    async def use(one: ServerProcess, other: ServerProcess) -> tuple[dict, dict]:
        balancer = Balancer([one, other], ready)
        configuration(tmp_path, [f"localhost:{balancer.target.port}"], ca=certificates.authority, mode="observe")
        daemon = subprocess.Popen(tsqd(tmp_path / "tsqd.toml"), stderr=subprocess.DEVNULL)

        async def source(polls: int) -> dict:
            """The daemon's source, after so many polls."""
            while True:
                done = await asyncio.to_thread(
                    subprocess.run, tsqctl(tmp_path, "sources", "--json"), capture_output=True, check=False
                )
                found = json.loads(done.stdout)["sources"][0] if done.returncode == 0 else {"polls": 0}
                if found["polls"] >= polls:
                    return found
                await asyncio.sleep(0.05)

        try:
            begun = await source(2)
            client = await asyncio.create_subprocess_exec(
                BIN / "tsq-client", f"localhost:{balancer.target.port}", "--ca", certificates.authority, "--json", "--count", "20",
                "--interval", "0.3", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            while len(balancer.chosen) < 2:
                await asyncio.sleep(0.01)
            one.send_signal(signal.SIGTERM)
            output, errors = await client.communicate()
            assert client.returncode == 0, errors
            await asyncio.to_thread(one.process.communicate, timeout=GUARD)
            assert one.process.returncode == 0
            kept = await source(begun["polls"] + 3)
        finally:
            daemon.terminate()
            await asyncio.to_thread(daemon.wait)
            balancer.close()
        assert balancer.chosen == [one, one, other, other]
        return json.loads(output)["hosts"][0], kept

    with ServerProcess(arguments) as one, ServerProcess(arguments) as other:
        for server in (one, other):
            line = server.process.stdout.readline()
            health[server] = parse_target(re.search(r"metrics at http://([^/]+)/metrics", line)[1])
        host, kept = asyncio.run(asyncio.wait_for(use(one, other), 2 * GUARD))
    assert [sample["reason"] for sample in host["samples"]] == [None] * 20, [one for one in host["samples"] if not one["valid"]]
    assert any("the server parted from its clients ('server is draining')" in notice for notice in host["notices"])
    assert kept["reach"] == 255 >> max(0, 8 - kept["polls"])


def test_new_clients_are_refused_at_once_and_connected_ones_are_served_until_their_turn(fleet):
    [server] = fleet(1)

    async def use() -> None:
        async def look_up():
            return resolve(server.target, 0)

        options = ClientOptions(trust=Trust(ca_file=server.ca), server_name="localhost")
        async with KeptClient(server.target, options, look_up) as client:
            assert (await client.pair())[0].valid
            drained = drain(server, GUARD)
            while not server.server.draining:
                await asyncio.sleep(0)
            late = KeptClient(server.target, options, look_up)
            with pytest.raises(Exception, match=r"refused the connection .'server is draining'"):
                await late.open()
            assert (await client.pair())[0].valid
            assert server.server.connections == 1
        # The last one has left: there is nothing to wait for.
        await drained
        assert server.server.connections == 0

    asyncio.run(asyncio.wait_for(use(), GUARD))
    assert server.server.counters.get("dropped", "server is draining") >= 1
    assert server.server.counters.get("refused") >= 1


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("again", [False, True])
def test_a_process_drains_when_it_is_told_to_end_and_ends_at_once_when_told_again(certificates, again, workers):
    arguments = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key]
    arguments += ["--workers", str(workers)]
    seen: list[str] = []
    with ServerProcess([*arguments, "--drain", "3600" if again else "0.5"]) as server:

        async def use() -> None:
            async def look_up():
                return resolve(server.target, 0)

            options = ClientOptions(trust=Trust(ca_file=certificates.authority), timeout=GUARD)
            async with KeptClient(server.target, options, look_up) as client:
                assert (await client.pair())[0].valid
                server.send_signal(signal.SIGTERM)
                if again:
                    # Two signals that come before the first one is handled are one.
                    while "draining " not in "".join(seen[-1:]):
                        seen.append(server.process.stderr.readline())
                        assert seen[-1], "it has ended"
                    # It serves, and takes no new client.
                    assert (await client.pair())[0].valid
                    server.send_signal(signal.SIGTERM)
                async with asyncio.timeout(GUARD):
                    while server.process.poll() is None:
                        await asyncio.sleep(0.01)

        asyncio.run(use())
        assert server.process.returncode == 0
        _, errors = server.process.communicate(timeout=GUARD)
    # The supervisor of several workers knows their number a little later.
    assert re.search(rf"draining (1 connection{'' if workers == 1 else '|0 connections'}), for ", "".join(seen) + errors)
