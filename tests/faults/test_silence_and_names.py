"""Cases 51 and 61 as anybody can run them: silence in virtual time, and a resolver in place of the system's. What needs root is in
test_network.py.
"""

import asyncio
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

import tsq
from tests.cli.peers import closed_port, deaf_port
from tests.support.kernel import VirtualKernel
from tests.support.threads import ServerThread
from tests.support.world import World
from tsq.cli.adjtime import main as adjtime
from tsq.client import blocking as client
from tsq.client import resolving
from tsq.errors import ConnectionLost, HandshakeTimeout, NameNotFound
from tsq.host.clock import SystemClock
from tsq.timing.sample import Reason

STREAM = pytest.mark.parametrize("stream", [False, True], ids=["datagram", "stream"])
GUARD = 30.0
SILENCE = "is the server up, and does a firewall block UDP to this port?"


class VirtualWait:
    """Time that passes only while somebody waits on sockets to which nothing comes."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits = 0

    def monotonic(self) -> float:
        return self.now

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        self.waits += 1
        assert self.waits < 100_000, "it waits for what is over"
        # Past the moment: it must have passed, not almost.
        self.now += milliseconds / 1000 + 1e-6
        return []

    def register(self, *_: int) -> None:
        pass

    def unregister(self, *_: int) -> None:
        pass


@pytest.fixture
def waiting(monkeypatch) -> VirtualWait:
    """The blocking client's clock and its waiting."""
    wait = VirtualWait()
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=wait.monotonic))
    monkeypatch.setattr(client, "select", SimpleNamespace(poll=lambda: wait, POLLIN=1, POLLERR=8))
    return wait


Names = Callable[..., None]


@pytest.fixture
def names(monkeypatch) -> Names:
    """names("127.0.0.1", ...): the addresses of every name from then on."""
    real, now = socket.getaddrinfo, []

    def look_up(host: str, port: int, family: int, kind: int):
        found = [item for address in now for item in real(address, port, 0, kind) if family in (0, item[0])]
        if not found:
            raise socket.gaierror(socket.EAI_NODATA, "No address associated with hostname")
        return found

    def say(*addresses: str) -> None:
        now[:] = addresses

    monkeypatch.setattr(resolving.socket, "getaddrinfo", look_up)
    return say


def trusting(server: ServerThread, **options) -> tsq.ClientOptions:
    return tsq.ClientOptions(**{"trust": tsq.Trust(ca_file=server.ca), "server_name": "localhost", "interval": 0.0, **options})


# -------------------------------------------------------------------------------------------------------------- silence


@pytest.mark.parametrize("timeout", [0.3, 3.0, 3600.0])
def test_51_silence_ends_at_the_time_out_neither_sooner_nor_later(waiting, timeout):
    with deaf_port() as (target, udp):
        with pytest.raises(HandshakeTimeout) as caught:
            tsq.query(target, tsq.ClientOptions(timeout=timeout))
        assert len(udp.recv(2048)) >= 1200, "it did ask"
    assert str(caught.value) == f"no answer to the QUIC handshake in {timeout:g} s: {SILENCE}"
    # Each wait is too long by what makes it have passed.
    assert 0 <= waiting.now - 1000.0 - timeout <= 1e-6 * waiting.waits


def test_51_of_several_silent_addresses_each_has_its_time_and_all_of_them_end(waiting, names):
    names("127.0.0.1", "127.0.0.2", "127.0.0.3")
    with deaf_port() as (target, _), ExitStack() as others:
        for address in ("127.0.0.2", "127.0.0.3"):
            others.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind((address, target.port))
        with pytest.raises(HandshakeTimeout):
            tsq.query(f"time.example:{target.port}", tsq.ClientOptions(timeout=100.0))
    # They are begun a quarter of a second apart, and each ends by itself.
    assert 0 <= waiting.now - 1000.0 - 100.5 <= 1e-6 * waiting.waits


@STREAM
@pytest.mark.parametrize("timeout", [0.5, 3.0, 29.0])
def test_51_a_session_that_hears_nothing_ends_at_its_time_out(certificates, stream, timeout):
    world = World(certificates)
    world.to_server = lambda data, number: []
    session = world.channel(stream=stream, timeout=timeout)
    world.run(timeout - 0.001)
    assert session.error is None
    world.run(0.002)
    assert isinstance(session.error, HandshakeTimeout)
    assert (session.deadline, session.waiting, session.samples) == (None, 0, [])
    sent = len(world.sent)
    world.run(3600)
    assert len(world.sent) == sent, "nothing is sent any more"
    # Twice as long between each two: a few dozen datagrams at the most, never a flood.
    assert 1 <= sent <= 40


@STREAM
def test_51_answers_alone_that_are_blocked_are_the_same(certificates, stream):
    world = World(certificates)
    world.to_client = lambda data, number: []
    session = world.channel(stream=stream, timeout=3.0)
    world.run(3.001)
    assert isinstance(session.error, HandshakeTimeout)
    assert SILENCE in str(session.error)


@STREAM
def test_51_what_is_blocked_in_mid_run_ends_each_request_at_its_time_out_and_the_connection_at_its_own(certificates, stream):
    world = World(certificates)
    session = world.channel(stream=stream, timeout=1.0)
    world.run(0.5)
    world.exchange(session, 0.5)
    world.to_client = lambda data, number: []
    world.ask(session)
    world.run(0.999)
    assert (len(session.samples), session.waiting) == (1, 1)
    world.run(0.002)
    assert [sample.reason for sample in session.samples] == [None, Reason.NO_ANSWER]
    for _ in range(60):
        world.ask(session)
        world.run(1)
    assert isinstance(session.error, ConnectionLost)
    assert "the connection went silent: the server or the network may be down" in str(session.error)
    assert [sample.valid for sample in session.samples] == [True] + [False] * (len(session.samples) - 1)


def test_51_tsq_adjtime_leaves_the_clock_alone_where_nothing_comes_back(waiting, capsys):
    twin = VirtualKernel(error_ns=-2e9)
    with deaf_port() as (target, _):
        status = adjtime(["--force", str(target)], SystemClock(twin), lambda: None)
    assert status == 3
    assert twin.calls == []
    assert f"{target}: no answer to the QUIC handshake in 3 s: {SILENCE}" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------- names


async def measured(target: str, options: tsq.ClientOptions) -> tsq.HostResult:
    async with tsq.connect(target, options) as connected:
        return await connected.measure(3, 0.0)


HOWS = {
    "query": tsq.query,
    "query_all": lambda target, options: tsq.query_all([tsq.parse_target(target)], options)[0],
    "connect": lambda target, options: asyncio.run(measured(target, options)),
}


def guarded(how: Callable[..., tsq.HostResult], *arguments: object) -> tsq.HostResult:
    """What it gives; what hangs is a failure."""
    results: queue.Queue[tsq.HostResult] = queue.Queue()
    threading.Thread(target=lambda: results.put(how(*arguments)), daemon=True).start()
    return results.get(timeout=GUARD)


@pytest.fixture
def two_servers(certificates) -> Iterator[tuple[ServerThread, ServerThread]]:
    """On one port of 127.0.0.1 and 127.0.0.2."""
    with (
        ServerThread(["127.0.0.1:0"], certificates) as one,
        ServerThread([f"127.0.0.2:{one.target.port}"], certificates) as other,
    ):
        yield one, other


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_61_each_query_looks_the_name_up_again(two_servers, names, how):
    one, other = two_servers
    target, found = f"time.example:{one.target.port}", []
    for address in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
        names(address)
        result = how(target, trusting(one))
        found.append((result.address, result.good))
    assert found == [("127.0.0.1", 3), ("127.0.0.2", 3), ("127.0.0.1", 3)]
    assert (one.server.counters.get("handshakes", "full"), other.server.counters.get("handshakes", "full")) == (2, 1)


def test_61_an_empty_answer_is_no_address(names):
    names()
    with pytest.raises(NameNotFound, match=r"no address for time\.example: No address associated with hostname"):
        tsq.query("time.example")


def test_61_ipv6_only(names, certificates):
    with ServerThread(["[::1]:0"], certificates) as server:
        names("::1")
        result = tsq.query(f"time.example:{server.target.port}", trusting(server))
        assert (result.address, result.good) == ("::1", 3)
        with pytest.raises(NameNotFound, match=r"no address \(IPv4\) for time\.example"):
            tsq.query("time.example", trusting(server, family=4))


@pytest.mark.parametrize("dead", ["silent", "closed", "both"])
@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_61_dead_addresses_come_first(server, names, how, dead):
    names(*{"silent": ["127.0.0.2"], "closed": ["127.0.0.3"], "both": ["127.0.0.2", "127.0.0.3"]}[dead], "127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        deaf.bind(("127.0.0.2", server.target.port))
        # It hears one far peer only, so for all others nothing listens there.
        closed.bind(("127.0.0.3", server.target.port))
        closed.connect(("127.0.0.1", 9))
        # The blocking client begins with the next address while the silent one has its time, the other one after it.
        timeout = 1.5 if how is HOWS["connect"] else 3600.0
        result = guarded(how, f"time.example:{server.target.port}", trusting(server, timeout=timeout))
        assert (result.address, result.good, result.error) == ("127.0.0.1", 3, None)
        deaf.setblocking(False)
        assert dead == "closed" or len(deaf.recv(2048)) >= 1200, "the silent one was asked first"


def test_61_where_every_address_is_dead_the_query_ends_with_what_the_last_one_said(names, waiting):
    names("127.0.0.2", "127.0.0.1")
    with closed_port() as target, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.2", target.port))
        with pytest.raises(HandshakeTimeout):
            tsq.query(f"time.example:{target.port}", tsq.ClientOptions(timeout=50))
