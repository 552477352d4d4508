"""A server's sockets and timers, when something goes wrong for one client: its batch's others are served, timers are kept.

Real sockets on loopback; a batch is what waits in the socket when the server reads.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterator

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import DatagramFrameReceived

from tests.support.crafted import REQUEST, one_rtt, reset_stream, stop_sending, stream
from tests.support.threads import ServerThread
from tsq.quic.server_connection import ServerConnection

PATIENCE = 60.0
# Not the data plane's: aioquic deals with it.
ODD_REQUEST = REQUEST + b"\xfd\x08\x06tsq.t4\x00"


class Client:
    """A client on a socket of its own."""

    def __init__(self, target) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect((target.host, target.port))
        self.socket.settimeout(0.05)
        settings = {"alpn_protocols": ["tsq/1"], "max_datagram_frame_size": 65535, "verify_mode": ssl.CERT_NONE}
        self.quic = QuicConnection(configuration=QuicConfiguration(is_client=True, server_name="localhost", **settings))
        self.answers: list[bytes] = []
        self.quic.connect("the server", time.monotonic())
        # Both ends are done with the handshake.
        self.turn_until(lambda: self.quic._handshake_confirmed)

    def send(self) -> None:
        for data, _ in self.quic.datagrams_to_send(time.monotonic()):
            self.socket.send(data)

    def ask(self) -> None:
        self.quic.send_datagram_frame(ODD_REQUEST)
        self.send()

    def turn_until(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, "nothing came"
            self.send()
            try:
                self.quic.receive_datagram(self.socket.recv(2048), "the server", time.monotonic())
            except TimeoutError:
                self.quic.handle_timer(time.monotonic())
            while (event := self.quic.next_event()) is not None:
                if isinstance(event, DatagramFrameReceived):
                    self.answers.append(event.data)


@pytest.fixture(params=[True, False], ids=["data plane", "aioquic alone"])
def server(request, certificates) -> Iterator[ServerThread]:
    with ServerThread(["127.0.0.1:0"], certificates, data_plane=request.param) as running:
        yield running


@pytest.fixture
def clients(server) -> Iterator[list[Client]]:
    made = [Client(server.target) for _ in range(4)]
    yield made
    for client in made:
        client.socket.close()


def is_consistent(server: ServerThread) -> bool:
    """Every connection has a timer, and every timer a connection."""
    router = server.server._router
    timers = {connection for endpoint in server.server._endpoints for connection in endpoint._timers}
    return timers == set(router.connections) == set(router._connections)


def as_one_batch(server: ServerThread, send: Callable[[], None]) -> None:
    """What is sent meanwhile waits in the server's socket, for one read."""
    server.call(send)


def test_a_failure_for_one_client_costs_the_others_of_its_batch_nothing(server, clients, monkeypatch):
    victim, *others = clients
    known = victim.quic._peer_cid.cid
    real = ServerConnection.receive_on

    def receive_on(self, path, data, now):
        if known in self.ids:
            raise RuntimeError("unexpected error")
        return real(self, path, data, now)

    monkeypatch.setattr(ServerConnection, "receive_on", receive_on)

    def send() -> None:
        others[0].ask()
        victim.ask()
        others[1].ask()
        others[2].ask()

    as_one_batch(server, send)
    for client in others:
        client.turn_until(lambda client=client: client.answers)
    assert server.call(is_consistent, server)
    assert server.server.connections == 3


@pytest.mark.parametrize(
    "frames",
    [
        stream(0, REQUEST, fin=True) + stop_sending(0),
        stream(0, REQUEST) + reset_stream(0, len(REQUEST)) + stop_sending(0),
        stream(0, b"x", 5) + stop_sending(0),
    ],
    ids=["request and STOP_SENDING", "all at once", "half of it"],
)
def test_a_stream_that_is_cancelled_costs_the_others_of_its_batch_nothing(server, clients, frames, caplog):
    victim, *others = clients
    # So that the client's own aioquic knows the stream; nothing is sent for it.
    victim.quic.send_stream_data(0, b"")

    def send() -> None:
        others[0].ask()
        victim.socket.send(one_rtt(victim, frames))
        others[1].ask()
        others[2].ask()

    as_one_batch(server, send)
    for client in others:
        client.turn_until(lambda client=client: client.answers)
    # Nor does it cost the client its connection, or the operator a line.
    victim.ask()
    victim.turn_until(lambda: victim.answers)
    assert server.call(is_consistent, server)
    assert server.server.connections == 4
    assert not [record for record in caplog.records if record.name.startswith("tsq") and record.levelname in ("WARNING", "ERROR")]


def test_a_timer_that_fails_is_the_end_of_its_connection_only(server, clients, monkeypatch):
    router = server.server._router

    def fail() -> None:
        connection = router._by_id[clients[0].quic._peer_cid.cid]
        real = router.deadline
        monkeypatch.setattr(connection, "handle_timer", lambda now: 1 / 0)
        monkeypatch.setattr(router, "deadline", lambda c: 0.0 if c is connection and router.knows(c) else real(c))
        (endpoint,) = server.server._endpoints
        endpoint._expired(connection)

    server.call(fail)
    assert server.server.connections == 3
    assert server.call(is_consistent, server)
    clients[1].ask()
    clients[1].turn_until(lambda: clients[1].answers)


def test_a_send_that_fails_leaves_the_timer_armed(server, clients, monkeypatch):
    (endpoint,) = server.server._endpoints

    def fail(_) -> None:
        raise RuntimeError("unexpected error")

    def conclude() -> bool:
        connection = server.server._router.connections[0]
        endpoint._forgotten(connection)
        monkeypatch.setattr(endpoint, "_send", fail)
        endpoint._conclude(endpoint._core.expired(connection, 0.0))
        monkeypatch.undo()
        return connection in endpoint._timers

    assert server.call(conclude)
    assert server.call(is_consistent, server)


def test_a_connection_that_is_evicted_leaves_no_timer(server, clients):
    def evict() -> None:
        router = server.server._router
        router.forget(router.connections[0])

    server.call(evict)
    assert server.server.connections == 3
    assert server.call(is_consistent, server)
    assert len(clients) == 4
