"""Newcomers' packets have a socket of their own: they neither crowd out nor delay those of connected clients."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.integration.peers import aioquic_client, assert_answers, new_request
from tests.support.processes import ServerProcess
from tsq.errors import ConfigError
from tsq.quic.udp import UdpSocket

# More than a socket's receive buffer holds.
MANY = 12_000
INITIAL = b"\xc3\0\0\0\x01\x08strangers" + bytes(1185)
SHORT = b"\x40" + bytes(40)


@contextmanager
def stopped(server: ServerProcess) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def lost(port: int) -> list[int]:
    """Datagrams that did not fit, of each socket at this port."""
    rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return sorted(int(row[12]) for row in rows if int(row[1].split(":")[1], 16) == port and row[2].endswith(":0000"))


def test_a_flood_of_initials_fills_its_own_socket_and_costs_no_answer(server_process, certificates):
    target = server_process.target
    with aioquic_client(target, certificates) as client, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        client.wait("HandshakeCompleted")
        client.exchange()
        with stopped(server_process):
            stranger.connect((target.host, target.port))
            for _ in range(MANY):
                stranger.send(INITIAL)
            quiet, flooded = lost(target.port)
            assert quiet == 0
            assert flooded > 0
            requests = [client.ask() for _ in range(3)]
        answers = [client.wait("DatagramFrameReceived").data for _ in requests]
        for request, answer in zip(sorted(requests), sorted(answers), strict=True):
            assert_answers(answer, request)


def test_a_request_right_behind_the_end_of_its_handshake_is_answered_though_its_socket_is_served_first(
    server_process, certificates
):
    for _ in range(5):
        with aioquic_client(server_process.target, certificates) as client:
            while not any(type(event).__name__ == "HandshakeCompleted" for event in client.events):
                # The server's flight; what follows from it stays here.
                client.read()
            request = new_request()
            with stopped(server_process):
                # The end of the handshake, in a datagram that begins with an Initial packet.
                client.flush()
                client.quic.send_datagram_frame(request)
                client.flush()
            assert_answers(client.wait("DatagramFrameReceived").data, request)


def test_the_kernel_gives_the_second_socket_what_newcomers_send_and_the_first_one_the_rest():
    first, second = UdpSocket.divided("127.0.0.1", 0)
    with ExitStack() as stack:
        assert second is not None
        stack.callback(first.close)
        stack.callback(second.close)
        assert first.address == second.address
        sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sender.connect(first.address)
        for packet in (INITIAL, SHORT, INITIAL):
            sender.send(packet)
        assert [datagram.data for datagram in first.receive()] == [SHORT]
        assert [datagram.data for datagram in second.receive()] == [INITIAL, INITIAL]


def test_an_address_that_another_server_has_is_in_use():
    first, second = UdpSocket.divided("127.0.0.1", 0)
    try:
        with pytest.raises(ConfigError, match="Address already in use"):
            UdpSocket.divided(*first.address)
    finally:
        first.close()
        if second is not None:
            second.close()
