"""tsq.aquery and tsq.aquery_all: what the blocking calls give, and nothing is left behind, whenever they are cancelled."""

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import tsq
from tests.cli.peers import Peer, closed_port, deaf_port, honest, silent
from tests.client.test_library import run, verified
from tests.support.open_files import left_open, open_files
from tests.support.virtual_loop import AsyncNetwork, VirtualLoop
from tests.support.virtual_sockets import Faults, Sockets
from tsq import errors
from tsq.timing.sample import Reason

GUARD = 30.0
FAILED = {Reason.NO_ANSWER, Reason.NOT_SENT, Reason.CONNECTION_LOST}


async def left_behind(call: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[Any, set[Any], int]:
    """The outcome of a call, the tasks that it left, and by how many more files are open."""
    tasks, before = asyncio.all_tasks(), open_files()
    try:
        outcome = await call()
    except BaseException as error:
        outcome = error
    return outcome, asyncio.all_tasks() - tasks, left_open(before)


# ------------------------------------------------------------------------------------------------------------ on loopback


def test_aquery_gives_what_query_gives(server, monkeypatch):
    # This machine may be busy.
    monkeypatch.setattr("tsq.client.polling.LAST_WAIT", GUARD)
    options = verified(server.ca, count=4)
    result = run(tsq.aquery(str(server.target), options))
    blocking = tsq.query(str(server.target), options)
    assert type(result) is type(blocking) is tsq.QueryResult
    for name in ("target", "address", "mode", "alpn", "zero_rtt", "notices", "error", "good", "state_unknown"):
        assert getattr(result, name) == getattr(blocking, name)
    assert len(result.samples) == 4
    assert all(sample.exact for sample in result.samples)
    assert abs(result.estimate.offset) <= result.estimate.root_distance


def test_aquery_follows_rules_and_stream_mode(server):
    result = run(tsq.aquery(server.target, verified(server.ca, stream=True), rules=tsq.Rules(precision_ns=3_000_000_000)))
    assert result.mode == "stream"
    assert [sample.delay for sample in result.samples] == [3.0] * 3


def test_aquery_raises_for_each_failure_what_query_raises(certificates, server):
    with closed_port() as closed, deaf_port() as (deaf, _), Peer(certificates, alpn=["h3"]) as foreign:
        for target, options, error in (
            ("something.invalid", None, errors.NameNotFound),
            ("two words", None, errors.ConfigError),
            (closed, None, errors.NothingListens),
            (deaf, tsq.ClientOptions(timeout=0.2), errors.HandshakeTimeout),
            (foreign.target, verified(certificates), errors.AlpnRefused),
            (server.target, None, errors.UnknownAuthority),
            (server.target, tsq.ClientOptions(trust=tsq.Trust(ca_file="none.pem")), errors.ConfigError),
        ):
            for call in (lambda: tsq.query(target, options), lambda: run(tsq.aquery(target, options))):  # noqa: B023
                with pytest.raises(error):
                    call()


def test_aquery_all_keeps_the_order_and_puts_errors_into_the_results(server):
    seen, changes = [], []
    with closed_port() as closed:
        targets = [closed, str(server.target), "something.invalid"]
        results = run(
            tsq.aquery_all(
                targets,
                verified(server.ca),
                on_sample=lambda *pair: seen.append(pair),
                on_change=lambda snapshot: changes.append(snapshot()),
            )
        )
    assert [result.target for result in results] == [closed, server.target, tsq.Target("something.invalid")]
    assert [type(result.error) for result in results] == [errors.NothingListens, type(None), errors.NameNotFound]
    assert [(target, sample.t1_ns) for target, sample in seen] == [(server.target, one.t1_ns) for one in results[1].samples]
    assert [str(result.error) for result in changes[0]] == ["no answer yet"] * 3
    assert changes[-1] == results


def test_aquery_all_of_nothing_is_nothing():
    assert run(tsq.aquery_all([])) == []


def test_aquery_keeps_a_ticket_and_uses_it(server, tmp_path):
    options = verified(server.ca, session_file=tmp_path / "sessions")
    assert [run(tsq.aquery(server.target, options)).zero_rtt for _ in range(2)] == [False, True]


def test_hosts_beyond_the_open_files_that_there_may_be_are_not_asked(server, monkeypatch):
    monkeypatch.setattr("tsq.host.shortage.hosts_at_a_time", lambda: 1)
    one, other = run(tsq.aquery_all([server.target] * 2, verified(server.ca)))
    assert one.good == 3
    assert other.error.found.startswith("not asked: ")


def test_calls_and_their_loop_go_on_at_the_same_time(server):
    async def use() -> list[tsq.QueryResult]:
        return await asyncio.gather(*(tsq.aquery(server.target, verified(server.ca)) for _ in range(5)))

    assert [result.good for result in run(use())] == [3] * 5


def test_calls_that_end_leave_nothing_behind(server):
    async def use() -> None:
        # What is loaded and opened once for all.
        await tsq.aquery(server.target, verified(server.ca))
        with closed_port() as closed:
            for host in (server.target, closed, "localhost:1"):
                _, tasks, files = await left_behind(lambda: tsq.aquery(host, verified(server.ca)))  # noqa: B023
                assert (tasks, files) == (set(), 0)

    run(use())


@pytest.mark.parametrize("many", [False, True], ids=["aquery", "aquery_all"])
def test_a_call_that_is_cancelled_leaves_nothing_behind(certificates, many):
    asked = threading.Event()

    async def use(target: tsq.Target, deaf: tsq.Target) -> None:
        options = verified(certificates, timeout=600.0)
        task = asyncio.create_task(tsq.aquery_all([target, deaf, target], options) if many else tsq.aquery(target, options))
        await asyncio.get_running_loop().run_in_executor(None, asked.wait, GUARD)
        task.cancel()
        await task

    async def guarded(*targets: tsq.Target) -> None:
        outcome, tasks, files = await left_behind(lambda: use(*targets))
        assert isinstance(outcome, asyncio.CancelledError)
        assert (tasks, files) == (set(), 0)

    peer = Peer(certificates, lambda *request: asked.set() or silent(*request))
    with peer, deaf_port() as (deaf, _), asyncio.Runner() as runner:
        # The executor's threads and the loop's own files come first.
        runner.run(asyncio.to_thread(int))
        runner.run(asyncio.wait_for(guarded(peer.target, deaf), GUARD))


def test_a_call_that_is_cancelled_while_a_name_is_looked_up_ends_at_once(monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def slow(target: tsq.Target, family: int) -> list[Any]:
        begun.set()
        go_on.wait(GUARD)
        return []

    async def use() -> None:
        task = asyncio.create_task(tsq.aquery("slow.example"))
        await asyncio.get_running_loop().run_in_executor(None, begun.wait, GUARD)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        go_on.set()

    monkeypatch.setattr("tsq.client.async_query.resolve", slow)
    run(use())


def test_what_a_callback_raises_ends_all_queries_and_is_raised(server):
    def fail(target: tsq.Target, sample: tsq.Sample) -> None:
        raise ZeroDivisionError

    async def use() -> None:
        await asyncio.to_thread(int)
        options = verified(server.ca, count=100, interval=0.01)
        with deaf_port() as (deaf, _):
            outcome, tasks, files = await left_behind(lambda: tsq.aquery_all([deaf, server.target], options, on_sample=fail))
        assert isinstance(outcome, ZeroDivisionError)
        assert (tasks, files) == (set(), 0)

    run(use())


def test_what_fails_while_a_socket_is_read_is_raised_to_the_caller(certificates, monkeypatch):
    def fail(*arguments: Any) -> None:
        raise ZeroDivisionError

    with Peer(certificates, honest) as peer:
        monkeypatch.setattr("tsq.client.attempt.Attempt.readable", fail)
        with pytest.raises(ZeroDivisionError):
            run(tsq.aquery(peer.target, verified(certificates)))


# -------------------------------------------------------------------------------------------------------- in virtual time


@pytest.fixture
def virtual(certificates, monkeypatch):
    """virtual(faults): a network on which `tsq.aquery` asks, and its loop."""
    loops = []

    def make(faults: Faults) -> tuple[AsyncNetwork, VirtualLoop]:
        network = AsyncNetwork(Sockets(certificates), faults)
        monkeypatch.setattr("tsq.client.host_query.open_attempt", network.open_attempt)
        loops.append(VirtualLoop(network))
        return network, loops[-1]

    async def here(call: Callable[..., Any], *arguments: Any) -> Any:
        return call(*arguments)

    monkeypatch.setattr("tsq.client.async_query.asyncio.to_thread", here)
    yield make
    for loop in loops:
        loop.close()


def asked(certificates, **options) -> Coroutine[Any, Any, list[tsq.HostResult]]:
    chosen = verified(certificates, **{"timeout": 1.0, **options})
    return tsq.aquery_all(["192.0.2.1"], chosen, rules=tsq.Rules(precision_ns=1), persistent=True)


def test_samples_are_taken_at_their_times(virtual, certificates):
    network, loop = virtual(Faults(1))
    [result] = loop.run_until_complete(asked(certificates, count=4, interval=1.0))
    assert (result.good, result.error) == (4, None)
    gaps = [(late.t1_ns - early.t1_ns) / 1e9 for early, late in zip(result.samples, result.samples[1:], strict=False)]
    assert gaps == pytest.approx([1.0] * 3, abs=0.01)
    assert all(sample.delay == pytest.approx(0.002, abs=1e-5) for sample in result.samples)
    assert not list(network.left_open())


@pytest.mark.parametrize("stream", [False, True], ids=["datagram", "stream"])
@pytest.mark.parametrize("seed", range(12))
def test_every_request_has_one_outcome_whatever_socket_call_fails(virtual, certificates, seed, stream):
    faults = Faults(seed, send=0.2, receive=0.1, connect=0.2, partly=0.2)
    network, loop = virtual(faults)
    [result] = loop.run_until_complete(asked(certificates, count=30, interval=0.05, stream=stream))
    assert faults.happened
    if result.error is None:
        assert len(result.samples) == 30 or any(notice.startswith("ended after ") for notice in result.notices)
    for sample in result.samples:
        assert sample.valid or sample.reason in FAILED
    assert not list(network.left_open())
    assert loop.selector.virtual == []


@pytest.mark.parametrize("seed", range(40))
def test_a_call_that_is_cancelled_at_any_moment_leaves_no_socket_and_no_task(virtual, certificates, seed):
    rng = random.Random(seed)
    network, loop = virtual(Faults(seed, send=0.1, receive=0.05, connect=0.1))
    loss = rng.choice([0.0, 0.3, 1.0])
    network.world.to_server = lambda data, number: [] if rng.random() < loss else [1_000_000]

    async def use() -> None:
        task = asyncio.create_task(asked(certificates, count=1000, interval=0.05))
        await asyncio.sleep(rng.choice([0.0, 0.0005, 0.003, 0.01, 2.0]) * rng.random())
        # With bad luck there was no connection from the start.
        ended = task.done()
        task.cancel()
        [outcome] = await asyncio.gather(task, return_exceptions=True)
        assert ended or isinstance(outcome, asyncio.CancelledError)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    loop.run_until_complete(use())
    assert not list(network.left_open())
    assert loop.selector.virtual == []
