"""The gap between T3 and the transmission of the answer. Half of it is an error of the offset.

TSQ's client queries both servers over loopback, and computes T4 - T3 with the kernel's receive timestamp (T4). On loopback the
kernel takes that timestamp inside the sender's send call, so T4 - T3 is the gap with a small positive bias. The side "stamps" is
that bias: a datagram's receive timestamp minus its transmit timestamp (SO_TIMESTAMPING), measured in the same rounds. The plain
server takes T3 where it handles aioquic's event. "rested": nothing was sent for 15 ms before.
"""

import socket
import time
from collections.abc import Mapping

import pytest

from benchmarks.conftest import Show
from benchmarks.measure import PLAIN, SIDES, TSQ, Comparison, Round, Side, alternate
from benchmarks.peers import HOST, BlockingClient, Peers
from tsq.quic.udp import UdpSocket
from tsq.timing.sample import StampSource

ROUNDS = {"back to back": 300, "rested": 150}
IDLE_SECONDS = 0.015
GAP = "T4 - T3"
STAMPS = "stamps"


class Bias:
    """Receive timestamp minus transmit timestamp of a datagram over loopback."""

    def __init__(self) -> None:
        self._receiver = UdpSocket.listening(HOST, 0)
        self._sender = UdpSocket.connected(socket.AF_INET, self._receiver.address)

    def measure(self) -> float:
        departure = self._sender.send_stamped([bytes(80)])
        end = time.monotonic() + 1.0
        while not (came := self._receiver.receive()):
            assert time.monotonic() < end, "a datagram over loopback was lost"
        assert departure.kernel
        assert came[0].kernel
        return (came[0].received_ns - departure.at_ns) / 1e9

    def close(self) -> None:
        self._sender.close()
        self._receiver.close()


def gap(client: BlockingClient, rest: float) -> Side:
    def measure() -> Round:
        client.rest(rest)
        sample = client.exchange()
        assert sample.t4_source is StampSource.KERNEL
        assert sample.t3_ns is not None
        assert sample.t4_ns is not None
        return {GAP: (sample.t4_ns - sample.t3_ns) / 1e9}

    return measure


def compare(peers: Peers, shape: str, rounds: int) -> Comparison:
    ports: Mapping[str, int] = {TSQ: peers.tsq.target.port, PLAIN: peers.plain.port}
    clients = {side: BlockingClient(port, peers.options(server_name="localhost")) for side, port in ports.items()}
    bias = Bias()
    try:
        rest = IDLE_SECONDS if shape == "rested" else 0.0
        sides = {side: gap(client, rest) for side, client in clients.items()}
        return alternate({**sides, STAMPS: lambda: {GAP: bias.measure()}}, rounds, warmup=10)
    finally:
        bias.close()
        for client in clients.values():
            client.close()


@pytest.mark.parametrize("side", [*SIDES, STAMPS])
@pytest.mark.parametrize("shape", ROUNDS)
def test_gap(side: str, shape: str, peers: Peers, show: Show) -> None:
    show(f"T3 to wire: {shape}", side, ROUNDS[shape], lambda rounds: compare(peers, shape, rounds))
