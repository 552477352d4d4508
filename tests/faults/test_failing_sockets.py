"""Both clients with real sockets whose calls fail, by a seeded choice: each request still has one end, in its time."""

import asyncio
import errno
import random
import time

import pytest

import tsq
from tests.cli.peers import Peer, honest
from tests.support.threads import ServerThread
from tsq import errors
from tsq.quic.udp import Transmission, UdpSocket
from tsq.timing.sample import Reason

GUARD = 60.0
ERRORS = (errno.ENETDOWN, errno.ENETUNREACH, errno.EPERM, errno.EINVAL, errno.ECONNREFUSED)
SEEDS = pytest.mark.parametrize("seed", range(6))


class FailingSocket:
    """A UdpSocket of which calls fail by chance, while `chance` is not 0."""

    chance = 0.0
    random = random.Random(0)

    def __init__(self, udp: UdpSocket) -> None:
        self._udp = udp

    def __getattr__(self, name: str):
        return getattr(self._udp, name)

    def _may_fail(self) -> None:
        if self.random.random() < self.chance:
            raise OSError(self.random.choice(ERRORS), "a call that fails")

    def send(self, datagrams) -> int:
        self._may_fail()
        return self._udp.send(datagrams)

    def send_stamped(self, datagrams) -> Transmission:
        self._may_fail()
        if self.random.random() < self.chance:
            # What a full buffer and ENOBUFS come to.
            return Transmission(0, time.time_ns(), False)
        return self._udp.send_stamped(datagrams)

    def receive(self):
        self._may_fail()
        return self._udp.receive()


@pytest.fixture
def failing(monkeypatch):
    """failing(seed, chance): from then on."""
    connected = UdpSocket.connected
    monkeypatch.setattr("tsq.client.attempt.UdpSocket.connected", lambda family, address: FailingSocket(connected(family, address)))
    monkeypatch.setattr(FailingSocket, "chance", 0.0)

    def begin(seed: int, chance: float) -> None:
        FailingSocket.random, FailingSocket.chance = random.Random(seed), chance

    return begin


def options(server: ServerThread, **more) -> tsq.ClientOptions:
    return tsq.ClientOptions(**{"trust": tsq.Trust(ca_file=server.ca), "interval": 0.01, "timeout": 0.5, **more})


@SEEDS
def test_the_blocking_client_has_as_many_samples_as_it_asked_for(server, failing, seed):
    def begin(target: tsq.Target, sample: tsq.Sample) -> None:
        # Once there is a connection.
        if FailingSocket.chance == 0:
            failing(seed, 0.4)

    [result] = tsq.query_all([server.target], options(server, count=30), on_sample=begin, persistent=True)
    assert len(result.samples) == 30
    assert result.good >= 1
    for sample in result.samples:
        assert sample.valid or sample.reason in (Reason.NOT_SENT, Reason.NO_ANSWER, Reason.CONNECTION_LOST)
        if sample.valid:
            assert abs(sample.offset) <= sample.root_distance


@SEEDS
@pytest.mark.parametrize("stream", [False, True], ids=["datagram", "stream"])
def test_each_call_of_the_asynchronous_client_ends_in_its_time_with_a_sample_of_its_own(server, failing, seed, stream):
    async def use() -> tuple[list[tsq.Sample], int]:
        samples, failures = [], 0
        async with tsq.connect(server.target, options(server, stream=stream)) as client:
            failing(seed, 0.4)
            for _ in range(25):
                before = time.time_ns()
                try:
                    sample = await client.sample()
                except errors.TransportError:
                    failures += 1
                else:
                    # Not the sample of an earlier call.
                    assert sample.t1_ns >= before
                    samples.append(sample)
        return samples, failures

    async def guarded() -> tuple[list[tsq.Sample], int]:
        async with asyncio.timeout(GUARD):
            return await use()

    samples, failures = asyncio.run(guarded())
    assert len(samples) + failures == 25
    # On streams QUIC sends again what was lost.
    assert stream or {sample.reason for sample in samples} - {None}
    assert any(sample.valid for sample in samples)


def test_a_sample_whose_request_cannot_be_sent_ends_at_once_with_the_reason(server, failing):
    async def use() -> tsq.Sample:
        async with tsq.connect(server.target, options(server, timeout=600.0)) as client:
            assert (await client.sample()).valid
            failing(1, 1.0)
            async with asyncio.timeout(GUARD):
                return await client.sample()

    sample = asyncio.run(use())
    assert sample.reason is Reason.NOT_SENT
    assert sample.detail


def test_after_a_cancelled_call_the_next_one_gets_the_sample_of_its_own_request(certificates):
    def late_first(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        return [] if number == 0 else honest(nonce, request, number)

    async def use(target: tsq.Target) -> None:
        chosen = tsq.ClientOptions(trust=tsq.Trust(ca_file=str(certificates.authority)), timeout=1.0)
        async with tsq.connect(target, chosen) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.sample()
            for pause in (0.0, 1.2):
                # Also when the first request has ended meanwhile.
                await asyncio.sleep(pause)
                before = time.time_ns()
                sample = await client.sample()
                assert sample.valid
                assert sample.t1_ns >= before

    with Peer(certificates, late_first) as peer:
        asyncio.run(use(peer.target))


def test_two_hundred_cancelled_calls_leave_nothing_behind(server):
    async def use() -> None:
        async with tsq.connect(server.target, options(server)) as client:
            for _ in range(200):
                task = asyncio.create_task(client.sample())
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            before = time.time_ns()
            assert (await client.sample()).t1_ns >= before
            assert client._awaited == {}

    asyncio.run(use())


def test_a_long_lived_asynchronous_client_holds_no_more_after_20000_exchanges(server):
    async def use() -> None:
        async with tsq.connect(server.target, options(server, timeout=20.0)) as client:

            def held() -> dict[str, int]:
                association = client._association
                return {
                    "awaited": len(client._awaited),
                    "notices": len(client.notices),
                    "outcomes": len(association._outcomes),
                    "attempts": len(association.attempts),
                    **{
                        f"{name}.{key}": len(value)
                        for name, part in (("channel", association.channel), ("exchange", association.channel.exchange))
                        for key in (*getattr(part, "__dict__", ()), *getattr(part, "__slots__", ()))
                        if hasattr(value := getattr(part, key), "__len__")
                    },
                }

            for _ in range(500):
                await client.sample()
            early = held()
            assert any(name.startswith("channel.") for name in early)
            for _ in range(20_000):
                assert (await client.sample()).t1_ns
            late = held()
        assert {name: size for name, size in late.items() if size > early[name] + 64} == {}

    asyncio.run(use())
