"""The library: tsq.query, tsq.query_all, tsq.connect and tsq.Server inside a program, and the package's own attributes."""

import ast
import asyncio
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from aioquic.asyncio import QuicConnectionProtocol

import tsq
from tests.cli.peers import Authority, Peer, closed_port, deaf_port, honest, silent
from tests.support.open_files import left_open, open_files
from tests.support.ports import free_port
from tests.support.threads import ServerThread
from tests.support.tries import in_one_of_some
from tsq import errors
from tsq._fast import clock_ns, pack_response
from tsq.quic.selfsigned import CertificateFiles
from tsq.timing.sample import Reason

GUARD = 30.0


def verified(files: CertificateFiles | str, **options: Any) -> tsq.ClientOptions:
    """Options that trust these files' authority."""
    ca = files if isinstance(files, str) else str(files.authority)
    return tsq.ClientOptions(trust=tsq.Trust(ca_file=ca), **{"interval": 0.0, **options})


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end; a hang is a failure."""

    async def guarded() -> Any:
        async with asyncio.timeout(GUARD):
            return await coroutine

    return asyncio.run(guarded())


# ----------------------------------------------------------------------------------------------------------------- query


def test_query_gives_samples_and_an_estimate(server):
    result = tsq.query(str(server.target), verified(server.ca, count=4))
    assert isinstance(result, tsq.HostResult)
    assert (len(result.samples), result.good, result.error) == (4, 4, None)
    assert (result.address, result.mode, result.alpn, result.zero_rtt) == ("127.0.0.1", "datagram", "tsq/1", False)
    assert isinstance(result.estimate, tsq.Estimate)
    # Both ends read one clock, so it is wrong by no more than the root distance.
    assert abs(result.estimate.offset) <= result.estimate.root_distance
    assert result.estimate.best in result.samples


def test_samples_come_with_readings_of_the_clock_before_and_after(server):
    for stream in (False, True):
        for sample in tsq.query(server.target, verified(server.ca, stream=stream)).samples:
            assert sample.sent.at_ns <= sample.t1_ns <= sample.t4_ns <= sample.received.at_ns
            assert sample.tolerance >= sample.received.tolerance


def test_query_takes_a_target_as_well_as_text(server):
    assert tsq.query(server.target, verified(server.ca)).target == server.target


def test_query_verifies_by_default(server):
    with pytest.raises(errors.CertificateError):
        tsq.query(server.target)


def test_query_follows_the_rules_that_it_is_given(server):
    result = tsq.query(server.target, verified(server.ca), rules=tsq.Rules(precision_ns=3_000_000_000))
    # A delay within the precision is as good as the precision (RFC 5905 §8).
    assert [sample.delay for sample in result.samples] == [3.0] * 3


@pytest.mark.parametrize(
    ("host", "error"),
    [("something.invalid", errors.NameNotFound), ("two words", errors.ConfigError), ("host:0", errors.ConfigError)],
)
def test_query_raises_the_error_that_says_why(host, error):
    with pytest.raises(error):
        tsq.query(host)


@pytest.mark.parametrize(
    "call",
    [
        lambda: tsq.query(3),
        lambda: tsq.query(tsq.Target("h", 0)),
        lambda: tsq.query("h", tsq.Trust()),
        lambda: tsq.query("h", rules={"exact": False}),
        lambda: tsq.query_all("time.example"),
        lambda: tsq.query_all(["h", None]),
        lambda: tsq.query_all(["h"], {"count": 3}),
        lambda: tsq.connect(("h", 443)),
        lambda: tsq.connect("h", rules=True),
        lambda: run(tsq.aquery("h", "ca.pem")),
        lambda: run(tsq.aquery_all("h")),
    ],
)
def test_wrong_types_are_refused_before_anybody_is_asked(monkeypatch, call):
    monkeypatch.setattr("socket.getaddrinfo", lambda *arguments: pytest.fail("asked"))
    with pytest.raises(errors.ConfigError, match="expected"):
        call()


def test_query_all_takes_text_and_targets_and_needs_no_options(server):
    results = tsq.query_all([str(server.target), server.target])
    assert [result.target for result in results] == [server.target] * 2
    assert [type(result.error) for result in results] == [errors.UnknownAuthority] * 2


def test_query_raises_for_nothing_listens_and_for_silence():
    with closed_port() as target, pytest.raises(errors.NothingListens):
        tsq.query(target)
    with deaf_port() as (target, _), pytest.raises(errors.HandshakeTimeout):
        tsq.query(target, tsq.ClientOptions(timeout=0.2))


def test_query_raises_rejected_samples_where_no_answer_can_be_used(certificates):
    with Peer(certificates, lambda nonce, request, number: [b"?"]) as peer, pytest.raises(errors.RejectedSamples):
        tsq.query(peer.target, verified(certificates))


def test_query_with_some_good_samples_gives_them_all_and_does_not_raise(certificates):
    with Peer(certificates, lambda *request: honest(*request) if request[2] else [b"?"]) as peer:
        result = tsq.query(peer.target, verified(certificates, interval=0.01))
    assert [sample.valid for sample in result.samples] == [False, True, True]
    assert result.samples[0].reason is Reason.MALFORMED
    assert result.estimate.best is not result.samples[0]


def test_query_leaves_no_file_open(server):
    tsq.query(server.target, verified(server.ca))
    before = open_files()
    tsq.query(server.target, verified(server.ca))
    with pytest.raises(errors.CertificateError):
        tsq.query(server.target)
    with closed_port() as target, pytest.raises(errors.NothingListens):
        tsq.query(target)
    assert left_open(before) == 0


def test_query_works_in_many_threads_at_once(server):
    results: list[tsq.HostResult] = []
    threads = [threading.Thread(target=lambda: results.append(tsq.query(server.target, verified(server.ca)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GUARD)
    assert [result.good for result in results] == [3] * 4


def test_a_host_whose_first_address_is_closed_is_reached_at_the_next(monkeypatch, server):
    with closed_port() as closed:
        addresses = [(socket.AF_INET, (target.host, target.port)) for target in (closed, server.target)]
        monkeypatch.setattr("tsq.client.resolving.resolve", lambda target, family: list(addresses))
        result = tsq.query(tsq.Target("localhost"), verified(server.ca))
    assert result.good == 3


def test_a_host_whose_first_address_is_silent_is_reached_at_the_next(monkeypatch, server):
    with deaf_port() as (deaf, _):
        addresses = [(socket.AF_INET, (target.host, target.port)) for target in (deaf, server.target)]
        monkeypatch.setattr("tsq.client.resolving.resolve", lambda target, family: list(addresses))
        result = tsq.query(tsq.Target("localhost"), verified(server.ca, timeout=20.0))
    assert result.good == 3


def test_query_all_keeps_the_order_and_puts_errors_into_the_results(server):
    with closed_port() as closed:
        targets = [closed, server.target, tsq.Target("something.invalid")]
        results = tsq.query_all(targets, verified(server.ca))
    assert [result.target for result in results] == targets
    assert [type(result.error) for result in results] == [errors.NothingListens, type(None), errors.NameNotFound]


def test_query_all_of_nothing_is_nothing():
    assert tsq.query_all([], tsq.ClientOptions()) == []


def test_query_all_reports_each_sample_as_it_comes(server, monkeypatch):
    # This machine may be busy.
    monkeypatch.setattr("tsq.client.polling.LAST_WAIT", GUARD)
    seen: list[tuple[tsq.Target, tsq.Sample]] = []
    results = tsq.query_all([server.target], verified(server.ca), on_sample=lambda *pair: seen.append(pair))
    # Reported at once, made exact later.
    assert [(target, sample.t1_ns, sample.t4_ns) for target, sample in seen] == [
        (server.target, sample.t1_ns, sample.t4_ns) for sample in results[0].samples
    ]
    assert all(sample.exact for sample in results[0].samples)


# --------------------------------------------------------------------------------------------------------------- connect


@pytest.mark.parametrize(("count", "interval"), [(0, 0.0), (-1, 0.0), (1, float("nan")), (1, -1.0), (1, float("inf"))])
def test_a_measurement_of_impossible_size_is_refused(server, count, interval):
    async def use() -> None:
        async with tsq.connect(server.target, verified(server.ca)) as client:
            await client.measure(count, interval)

    with pytest.raises(errors.ConfigError, match=r"^(count|interval) "):
        run(use())


def test_connect_keeps_one_connection_for_many_samples(server):
    async def use() -> None:
        async with tsq.connect(str(server.target), verified(server.ca)) as client:
            samples = [await client.sample() for _ in range(5)]
            result = await client.measure(count=4, interval=0)
        assert all(sample.valid for sample in samples)
        assert (result.good, result.alpn, result.address) == (4, "tsq/1", "127.0.0.1")
        assert not {sample.t1_ns for sample in samples} & {sample.t1_ns for sample in result.samples}

    def counted() -> tuple[int, int]:
        return server.server.counters.get("handshakes", "full"), server.server.counters.get("requests")

    def requests() -> int:
        before = counted()
        run(use())
        after = counted()
        assert after[0] - before[0] == 1
        return after[1] - before[1]

    assert in_one_of_some(lambda: requests() == 10)  # one more makes the last exact


def test_samples_that_are_asked_for_together_are_different_ones(server):
    async def use() -> list[tsq.Sample]:
        async with tsq.connect(server.target, verified(server.ca)) as client:
            return await asyncio.gather(*(client.sample() for _ in range(6)))

    samples = run(use())
    assert all(sample.valid for sample in samples)
    assert len({sample.t1_ns for sample in samples}) == 6


def test_connect_in_stream_mode_says_so_in_its_result(server):
    async def use() -> tsq.HostResult:
        async with tsq.connect(server.target, verified(server.ca, stream=True)) as client:
            return await client.measure(interval=0)

    assert run(use()).mode == "stream"
    assert server.server.counters.get("requests", "stream") == 3


def test_connect_to_a_server_without_datagrams_has_a_notice(certificates):
    async def use(target: tsq.Target) -> tuple[list[str], tsq.HostResult]:
        async with tsq.connect(target, verified(certificates)) as client:
            return client.notices, await client.measure(interval=0)

    with Peer(certificates, datagrams=False) as peer:
        notices, result = run(use(peer.target))
    assert notices == ["the server takes no datagrams: using Stream Mode"]
    assert result.notices == tuple(notices)
    assert (result.mode, result.good) == ("stream", 3)


def test_a_sample_that_gets_no_answer_says_so_and_the_next_one_is_asked(certificates):
    async def use(target: tsq.Target) -> list[tsq.Sample]:
        async with tsq.connect(target, verified(certificates, timeout=2.0)) as client:
            return [await client.sample(), await client.sample()]

    # The first one is sent again: its packet may be lost.
    with Peer(certificates, lambda *request: honest(*request) if request[2] > 1 else []) as peer:
        first, second = run(use(peer.target))
    assert first.reason is Reason.NO_ANSWER
    assert second.valid


def test_measure_raises_where_no_sample_can_be_used(certificates):
    async def use(target: tsq.Target) -> None:
        async with tsq.connect(target, verified(certificates)) as client:
            with pytest.raises(errors.RejectedSamples):
                await client.measure(interval=0)
            # The connection is as good as before.
            assert (await client.sample()).reason is Reason.SEND_BEFORE_RECEIVE

    def backwards(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        now = clock_ns()
        return [pack_response(nonce, now, now - 1000)]

    with Peer(certificates, backwards) as peer:
        run(use(peer.target))


def test_use_outside_async_with_is_an_error_that_says_how():
    client = tsq.connect("127.0.0.1")
    with pytest.raises(errors.ConnectionLost) as caught:
        run(client.sample())
    assert "use it inside `async with tsq.connect(...)`" in str(caught.value)


def test_use_after_the_end_of_async_with_is_an_error(server):
    async def use() -> None:
        async with tsq.connect(server.target, verified(server.ca)) as client:
            await client.sample()
        with pytest.raises(errors.ConnectionLost):
            await client.sample()
        with pytest.raises(errors.ConnectionLost):
            await client.measure()

    run(use())


def test_close_may_be_called_more_than_once_and_before_the_end(server):
    async def use() -> None:
        async with tsq.connect(server.target, verified(server.ca)) as client:
            await client.close()
            await client.close()

    run(use())


def test_a_client_can_be_entered_again(server):
    client = tsq.connect(server.target, verified(server.ca))

    async def use() -> list[tsq.Sample]:
        samples = []
        for _ in range(2):
            async with client:
                samples.append(await client.sample())
        return samples

    first, second = run(use())
    assert first.valid
    assert second.valid
    assert first.t1_ns < second.t1_ns


def test_connect_raises_for_each_failure_what_query_raises(certificates, server):
    async def enter(target: tsq.Target | str, options: tsq.ClientOptions) -> None:
        async with tsq.connect(target, options):
            pytest.fail("connected")

    with closed_port() as closed, deaf_port() as (deaf, _), Peer(certificates, alpn=["h3"]) as foreign:
        for target, options, error in (
            ("something.invalid", tsq.ClientOptions(), errors.NameNotFound),
            (closed, tsq.ClientOptions(), errors.NothingListens),
            (deaf, tsq.ClientOptions(timeout=0.2), errors.HandshakeTimeout),
            (foreign.target, verified(certificates), errors.AlpnRefused),
            (server.target, tsq.ClientOptions(), errors.UnknownAuthority),
            (server.target, tsq.ClientOptions(trust=tsq.Trust(ca_file="none.pem")), errors.ConfigError),
        ):
            with pytest.raises(error):
                run(enter(target, options))


def test_connect_tries_every_address_and_raises_the_error_that_says_most(monkeypatch, server):
    async def use(options: tsq.ClientOptions) -> tsq.Sample:
        async with tsq.connect(tsq.Target("localhost"), options) as client:
            return await client.sample()

    before = open_files()
    with closed_port() as closed, deaf_port() as (deaf, _):
        found = [closed, deaf, server.target]

        def look_up(target: tsq.Target, family: int) -> list[tuple[int, tuple[str, int]]]:
            return [(socket.AF_INET, (item.host, item.port)) for item in found]

        monkeypatch.setattr("tsq.client.asynchronous.resolve", look_up)
        assert run(use(verified(server.ca, timeout=3.0))).valid
        found.pop()
        with pytest.raises(errors.HandshakeTimeout):
            run(use(verified(server.ca, timeout=0.3)))
        found.pop()
        with pytest.raises(errors.NothingListens):
            run(use(verified(server.ca)))
    assert left_open(before) == 0


def test_a_server_that_goes_away_fails_samples_until_it_is_back(certificates):
    async def use(server: ServerThread) -> None:
        loop = asyncio.get_running_loop()
        async with tsq.connect(server.target, verified(server.ca)) as client:
            assert (await client.sample()).valid
            target = server.target
            await loop.run_in_executor(None, server.__exit__, None, None, None)
            for _ in range(2):
                # Nobody listens; or the connection is lost while it is asked.
                with pytest.raises(errors.TransportError):
                    await client.sample()
            again = ServerThread([str(target)], certificates)
            await loop.run_in_executor(None, again.__enter__)
            try:
                assert (await client.sample()).valid
            finally:
                await loop.run_in_executor(None, again.__exit__, None, None, None)
            (notice,) = client.notices
            assert notice.startswith("connected again once; the last time because ")
            assert "server is shutting down" in notice

    server = ServerThread([f"127.0.0.1:{free_port()}"], certificates)
    server.__enter__()
    run(use(server))


def test_a_sample_that_is_cancelled_leaves_the_client_usable(certificates):
    asked = threading.Event()

    def slow_first(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        if number == 0:
            asked.set()
            return []
        return honest(nonce, request, number)

    async def use(target: tsq.Target) -> tsq.Sample:
        async with tsq.connect(target, verified(certificates, timeout=1.0)) as client:
            task = asyncio.create_task(client.sample())
            await asyncio.get_running_loop().run_in_executor(None, asked.wait, GUARD)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            samples = [await client.sample(), await client.sample()]
            return samples[-1]

    with Peer(certificates, slow_first) as peer:
        assert run(use(peer.target)).valid


def close_it(protocol: QuicConnectionProtocol) -> None:
    protocol.close()


def reset_it(protocol: QuicConnectionProtocol) -> None:
    """As a server that does not know the connection (RFC 9000 §10.3)."""
    quic: Any = protocol._quic
    token = quic._host_cids[0].stateless_reset_token
    protocol._transport.sendto(b"\x40" + bytes(26) + token, quic._network_paths[0].addr)


@pytest.mark.parametrize("end", [close_it, reset_it])
@pytest.mark.parametrize("ends", [1, 2])
def test_a_sample_whose_connection_ends_is_asked_for_once_more_on_a_new_one(certificates, end, ends):
    protocols: list[QuicConnectionProtocol] = []

    def answer(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        if number >= ends:
            return honest(nonce, request, number)
        end(protocols[-1])
        return []

    async def use(target: tsq.Target) -> tsq.Sample:
        async with tsq.connect(target, verified(certificates, timeout=600.0)) as client:
            return await client.sample()

    with Peer(certificates, answer, greeting=protocols.append) as peer:
        if ends == 1:
            assert run(use(peer.target)).valid
        else:
            # A server that ends each connection in place of an answer is not asked for ever.
            with pytest.raises(errors.ConnectionLost):
                run(use(peer.target))
        assert (peer.requests, len(protocols)) == (2, 2)


def test_a_connection_that_is_lost_where_no_other_can_be_made_raises(certificates):
    asked = threading.Event()
    peer = Peer(certificates, lambda *request: asked.set() or silent(*request))

    async def use() -> None:
        loop = asyncio.get_running_loop()
        async with tsq.connect(peer.target, verified(certificates, timeout=600.0)) as client:
            task = asyncio.create_task(client.sample())
            await loop.run_in_executor(None, asked.wait, GUARD)
            await loop.run_in_executor(None, peer.__exit__)
            with pytest.raises(errors.NothingListens):
                await task

    peer.__enter__()
    run(use())


def test_cancelling_the_connecting_leaves_no_file_open():
    async def use(target: tsq.Target, deaf: socket.socket) -> None:
        client = tsq.connect(target, tsq.ClientOptions(timeout=600.0))
        task = asyncio.create_task(client.__aenter__())
        await asyncio.get_running_loop().run_in_executor(None, deaf.recv, 2048)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with deaf_port() as (target, deaf):
        before = open_files()
        run(use(target, deaf))
        assert left_open(before) == 0


def test_close_while_a_sample_is_awaited_ends_the_sample(certificates):
    async def use(target: tsq.Target, asked: threading.Event) -> None:
        async with tsq.connect(target, verified(certificates, timeout=600.0)) as client:
            task = asyncio.create_task(client.sample())
            await asyncio.get_running_loop().run_in_executor(None, asked.wait, GUARD)
            await client.close()
            done, _ = await asyncio.wait([task], timeout=GUARD)
            task.cancel()
            assert done, "sample() waits for ever on a connection that was closed"
            assert isinstance(task.exception(), errors.TSQError)

    asked = threading.Event()
    with Peer(certificates, lambda *request: asked.set() or silent(*request)) as peer:
        run(use(peer.target, asked))


# ---------------------------------------------------------------------------------------------------------------- server


def test_server_and_client_live_in_one_loop(certificates):
    async def use() -> int:
        async with tsq.Server(["127.0.0.1:0", "[::1]:0"], str(certificates.certificate), str(certificates.key)) as server:
            assert [target.host for target in server.addresses] == ["127.0.0.1", "::1"]
            for target in server.addresses:
                async with tsq.connect(target, verified(certificates)) as client:
                    assert (await client.measure(interval=0)).good == 3
                    assert server.connections >= 1
            answered = server.counters.get("answered")
        assert server.addresses == []
        return answered

    assert in_one_of_some(lambda: run(use()) == 8)  # and one more for each measurement


def test_a_server_is_started_and_closed_by_hand(certificates):
    async def use() -> None:
        server = tsq.Server(["127.0.0.1:0"], str(certificates.certificate), str(certificates.key))
        assert server.addresses == []
        await server.start()
        waiting = asyncio.create_task(server.wait_closed())
        async with tsq.connect(server.addresses[0], verified(certificates)) as client:
            assert (await client.sample()).valid
        assert not waiting.done()
        await server.close()
        await server.close()
        await waiting

    run(use())


async def ending_of(client: tsq.Client) -> str:
    """Whether the connection was lost, however the client comes to know of it."""
    try:
        return "lost" if (await client.sample()).reason is Reason.CONNECTION_LOST else "alive"
    except (errors.ConnectionLost, errors.NothingListens):
        return "lost"


def test_close_tells_every_client_at_once(certificates):
    async def use() -> None:
        server = tsq.Server(["127.0.0.1:0"], str(certificates.certificate), str(certificates.key))
        await server.start()
        async with (
            tsq.connect(server.addresses[0], verified(certificates, timeout=600.0)) as one,
            tsq.connect(server.addresses[0], verified(certificates, timeout=600.0)) as other,
        ):
            await one.sample()
            await server.close()
            # Without the server's CONNECTION_CLOSE the samples would wait for 600 s.
            for client in (one, other):
                assert await ending_of(client) == "lost"

    run(use())


def test_reload_is_for_new_connections_and_keeps_the_old_ones(certificates, tmp_path):
    originals = (certificates.authority, certificates.certificate, certificates.key)
    files = CertificateFiles(*(Path(shutil.copy(file, tmp_path)) for file in originals))
    fresh = Authority("The next authority").issue(tmp_path / "fresh")

    async def use() -> None:
        async with tsq.Server(["127.0.0.1:0"], str(files.certificate), str(files.key)) as server:
            target = server.addresses[0]
            async with tsq.connect(target, verified(certificates)) as old:
                shutil.copy(fresh.certificate, files.certificate)
                assert not server.reload(), "certificate and key do not belong together yet"
                async with tsq.connect(target, verified(certificates)):
                    pass
                shutil.copy(fresh.key, files.key)
                assert server.reload()
                assert (await old.sample()).valid
                async with tsq.connect(target, verified(fresh)) as new:
                    assert (await new.sample()).valid
                with pytest.raises(errors.UnknownAuthority):
                    async with tsq.connect(target, verified(certificates)):
                        pass

    run(use())


def test_a_server_needs_an_address_a_certificate_and_a_key(certificates, tmp_path):
    good = str(certificates.certificate), str(certificates.key)
    for listen, files in (([], good), (["localhost:1"], good), (["127.0.0.1:0"], (good[0], str(tmp_path / "none.pem")))):
        with pytest.raises(errors.ConfigError):
            tsq.Server(listen, *files)


def test_a_server_that_cannot_have_one_of_its_addresses_gives_up_the_others(certificates):
    async def use(taken: str) -> None:
        server = tsq.Server(["127.0.0.1:0", taken], str(certificates.certificate), str(certificates.key))
        with pytest.raises(errors.ConfigError):
            await server.start()
        assert server.addresses == []

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        before = open_files()
        run(use(f"127.0.0.1:{holder.getsockname()[1]}"))
        assert left_open(before) == 0


# --------------------------------------------------------------------------------------------------------------- package


def test_every_public_name_is_there_and_listed():
    for name in tsq.__all__:
        assert getattr(tsq, name) is not None
    assert len(set(tsq.__all__)) == len(tsq.__all__)


def test_the_three_lists_of_public_names_agree():
    tree = ast.parse(Path(tsq.__file__).read_text(encoding="utf-8"))
    [for_types] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [statement for statement in for_types.body if statement.module != "typing"]
    imported = {alias.name: statement.module for statement in imports for alias in statement.names}
    assert imported == tsq._HOMES
    assert {*imported, "__version__"} == set(tsq.__all__)
    assert list(tsq._HOMES) == list(imported), "in the same order"


def test_dir_lists_names_that_were_not_used_yet():
    code = "import tsq; print(*sorted(set(tsq.__all__) - set(dir(tsq))))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert process.stdout.split() == []


def test_names_are_loaded_when_they_are_first_used():
    loaded = "'tsq.server.driver' in sys.modules"
    code = f"import sys, tsq; before = {loaded}; tsq.Server; print(before, {loaded})"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert process.stdout.split() == ["False", "True"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'tsq' has no attribute 'quary'"):
        tsq.quary  # noqa: B018


def test_errors_of_the_library_are_all_one_kind():
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(kinds) > 15
    assert all(issubclass(kind, tsq.TSQError) for kind in kinds)


@pytest.mark.parametrize("use", [("-c", "import tsq; tsq.Server"), ("-m", "tsq", "server", "-h")], ids=["library", "command"])
@pytest.mark.parametrize("missing", ["*.so", "_fast*.so", "packet*.so", "session*.so", "batches*.so", "_sockets*.so"])
def test_a_package_without_its_compiled_part_says_how_to_build_it(tmp_path, missing, use):
    package = Path(tsq.__file__).parent
    shutil.copytree(package, tmp_path / "tsq", ignore=shutil.ignore_patterns(missing, "__pycache__"))
    process = subprocess.run(
        # Without the site's packages: an editable install would find the part that is to be missing.
        [sys.executable, "-S", *use],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode != 0
    message = process.stderr.splitlines()[-1]
    begin = "ImportError: " if use[0] == "-c" else "tsq-server: error: "
    assert message.startswith(f"{begin}TSQ's compiled part cannot be loaded for this Python")
    assert use[0] == "-c" or message == process.stderr.strip(), "one line"
    assert "`pip install .`" in message
    assert "`make build`" in message
    assert "C compiler" in message
