"""Real exchanges of the client through the portable socket calls: the library's two clients, and bounds that hold."""

import asyncio
import errno
import socket
from types import SimpleNamespace

import pytest

import tsq
from tests.cli.peers import closed_port, deaf_port
from tsq import _portable_sockets, errors, sockets
from tsq.client import attempt
from tsq.quic.udp import UdpSocket
from tsq.timing.sample import StampSource

GUARD = 30.0
MISSING = "the kernel gives no send times for datagrams here: they are taken in user space, which is less exact"


@pytest.fixture(autouse=True)
def portable(server, monkeypatch):
    """The portable calls from here on; the server has opened its sockets with Linux's."""
    monkeypatch.setattr(sockets, "calls", _portable_sockets)
    return server


def options(server, **more):
    return tsq.ClientOptions(**{"trust": tsq.Trust(ca_file=server.ca), "interval": 0.0, "count": 4, **more})


def asked(server, **more):
    """What the asynchronous client gets."""

    async def use():
        async with asyncio.timeout(GUARD):
            return await tsq.aquery(server.target, options(server, **more))

    return asyncio.run(use())


def queried(server, **more):
    """What the blocking client gets."""
    return tsq.query(server.target, options(server, **more))


CLIENTS = pytest.mark.parametrize("ask", [queried, asked], ids=["blocking", "async"])


@CLIENTS
@pytest.mark.parametrize("stream", [False, True], ids=["datagram", "stream"])
def test_samples_say_who_took_their_times_and_their_bounds_hold(server, ask, stream):
    result = ask(server, stream=stream)
    assert (len(result.samples), result.good, result.error) == (4, 4, None)
    for sample in result.samples:
        assert (sample.t1_source, sample.t4_source) == (StampSource.USER, StampSource.KERNEL)
        assert sample.t1_ns <= sample.t2_ns <= sample.t3_ns <= sample.t4_ns, "both ends read one clock"
        # The true offset is 0.
        assert abs(sample.offset) <= sample.root_distance
    assert abs(result.estimate.offset) <= result.estimate.root_distance
    assert MISSING in result.notices


@CLIENTS
def test_without_receive_times_of_the_kernel_the_bounds_hold_as_well(server, ask, monkeypatch):
    def refuse(fd, family, destinations):
        raise OSError(errno.ENOPROTOOPT, "setsockopt(SO_TIMESTAMP) failed")

    monkeypatch.setattr(sockets, "calls", SimpleNamespace(**{**vars(_portable_sockets), "enable_receive_timestamps": refuse}))
    result = ask(server)
    assert result.good == 4
    for sample in result.samples:
        assert (sample.t1_source, sample.t4_source) == (StampSource.USER, StampSource.USER)
        assert abs(sample.offset) <= sample.root_distance


@CLIENTS
def test_precision_mode_and_many_requests_work(server, ask):
    result = ask(server, count=30, precision=tsq.Precision.ASK)
    assert result.good == 30
    assert all(abs(sample.offset) <= sample.root_distance for sample in result.samples)


@CLIENTS
def test_network_errors_are_ours(server, ask):
    with closed_port() as closed, deaf_port() as deaf:
        for target, error in ((closed, errors.NothingListens), (deaf[0], errors.HandshakeTimeout)):
            with pytest.raises(error):
                ask(SimpleNamespace(target=target, ca=server.ca), timeout=0.3)


def test_a_connection_that_moves_to_another_socket_goes_on(server):
    async def use():
        async with asyncio.timeout(GUARD), tsq.connect(server.target, options(server)) as client:
            first = await client.sample()
            before = client._association.chosen.udp.address
            client._association.move()
            return first, before, await client.sample(), client._association.chosen.udp.address

    first, before, second, after = asyncio.run(use())
    assert first.valid
    assert second.valid
    assert before != after


def test_the_socket_is_a_connected_one_and_says_what_it_lacks(server):
    udp = UdpSocket.connected(socket.AF_INET, ("127.0.0.1", server.target.port))
    try:
        assert (udp.stamps_received, udp.stamps_sent, udp.missing) == (True, False, MISSING)
    finally:
        udp.close()
    assert attempt.UdpSocket is UdpSocket
