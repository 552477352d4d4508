"""Handshakes from the first packet to the first answer: full, resumed, and 0-RTT, where the request is in the first flight.

Without I/O: both ends in this process, CPU time of each; TSQ's Channel and ServerCore, and aioquic's plain QuicConnection. Over
loopback: wall time of a client in this process, with its modules loaded, and each server in its own process; with 0-RTT TSQ's
client reads and writes its session file, the plain one keeps its ticket in memory. Certificates are ECDSA P-256, and verified.
"server CPU for each client" is the CPU time of a server's process, user and kernel, with one client after another; plain is
chronyd's NTS-KE. "handshake": the handshake and one answer; the connection stays open. "visit", "0-RTT": like `tsq-client --count
1`, with two requests and the close. "aioquic": the same with the plain program and one request.
"""

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import TypeVar

import pytest
from aioquic.asyncio.client import connect
from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import DatagramFrameReceived, HandshakeCompleted
from aioquic.quic.packet import pull_quic_header
from aioquic.tls import SessionTicket

from benchmarks.compare.newcomer import TimeClient, answer, client_configuration
from benchmarks.conftest import Show
from benchmarks.measure import PLAIN, SIDES, TSQ, Comparison, Round, Side, alternate, cpu_of_family
from benchmarks.nts import establish
from benchmarks.peers import HOST, BlockingClient, Peers
from benchmarks.plain import pack_tlvs
from benchmarks.processes import NtsServer, have
from tsq._fast import clock_ns, pack_address
from tsq.client.blocking import query_all
from tsq.client.channel import Channel
from tsq.counters import Counters
from tsq.options import Target, Trust
from tsq.quic import tls
from tsq.quic.client_connection import ClientConnection
from tsq.quic.router import Limits, Router
from tsq.quic.tickets import AcceptedTicket
from tsq.quic.udp import Datagram, NetworkPath, Transmission
from tsq.server.core import ServerCore
from tsq.server.responder import Responder

ROUNDS = 30
VISIT_ROUNDS = 9
VISITS = 25
# Time for the end of a visit: the close, and timers.
_SETTLE = 0.3
HANDSHAKE, VISIT, EARLY, AIOQUIC = "handshake", "visit", "0-RTT", "aioquic"
KINDS = ("full", "resumed", "0-RTT")
CLIENT_PATH = NetworkPath(pack_address("192.0.2.2", 40000), b"\xc0\x00\x02\x01")
CLIENT_ADDRESS = ("192.0.2.2", 40000)
T = TypeVar("T")


class Chronograph:
    """CPU time of both ends, measured around their calls."""

    def __init__(self) -> None:
        self.seconds = {"client": 0.0, "server": 0.0}

    def run(self, end: str, call: Callable[..., T], *arguments: object) -> T:
        start = time.thread_time_ns()
        result = call(*arguments)
        self.seconds[end] += (time.thread_time_ns() - start) / 1e9
        return result

    def round(self) -> Round:
        client, server = self.seconds["client"], self.seconds["server"]
        return {"CPU, both ends": client + server, "client CPU": client, "server CPU": server}


def accepted(ticket: AcceptedTicket | None, kind: str) -> AcceptedTicket | None:
    """TSQ's ticket for this kind of handshake."""
    plain = None if ticket is None else usable(ticket.ticket, kind)
    return None if ticket is None or plain is None else dataclasses.replace(ticket, ticket=plain)


def usable(ticket: SessionTicket | None, kind: str) -> SessionTicket | None:
    """The ticket for this kind of handshake."""
    if kind == "full" or ticket is None:
        return None
    return dataclasses.replace(ticket, max_early_data_size=None) if kind == "resumed" else ticket


class TsqPair:
    """TSQ's two ends."""

    def __init__(self, peers: Peers) -> None:
        files = peers.certificates
        configuration = tls.server_configuration(str(files.certificate), str(files.key))
        self._router = Router(configuration, Counters(), Limits())
        self._core = ServerCore(self._router, Responder(), Counters(), clock_ns)
        self._trust = Trust(ca_file=peers.ca)
        self.kind = "full"
        self._ticket: AcceptedTicket | None = None

    def round(self) -> Round:
        clock = Chronograph()
        session = clock.run("client", self._start)
        self._talk(session, clock)
        assert session.samples[0].valid
        assert session.zero_rtt == (self.kind == "0-RTT")
        result = clock.round()
        # The ticket for the next round comes after the answer, and is not measured.
        self._talk(session, Chronograph(), until_quiet=True)
        for connection in self._router.connections:
            self._router.forget(connection)
        return result

    def _start(self) -> Channel:
        ticket, self._ticket = accepted(self._ticket, self.kind), None
        configuration = tls.client_configuration("localhost", self._trust, ticket=ticket)
        session = Channel(ClientConnection(configuration, on_ticket=self._keep))
        session.start(time.monotonic())
        return session

    def _keep(self, ticket: AcceptedTicket) -> None:
        self._ticket = ticket

    def _talk(self, session: Channel, clock: Chronograph, until_quiet: bool = False) -> None:
        asked = session.early is not None or bool(session.samples)
        while until_quiet or not session.samples:
            if session.established and not asked:
                asked = True
                clock.run("client", session.ask, time.monotonic())
            sent = clock.run("client", self._client_sends, session)
            if not sent:
                assert until_quiet, session.error
                return
            for data in sent:
                out = clock.run("server", self._server_answers, data)
                for reply in out:
                    datagram = Datagram(reply, CLIENT_PATH, clock_ns(), True)
                    clock.run("client", session.receive, datagram, time.monotonic())

    def _client_sends(self, session: Channel) -> list[bytes]:
        sent = session.datagrams(time.monotonic())
        if session.has_leaving:
            session.sent(Transmission(len(sent), clock_ns(), True))
        return sent

    def _server_answers(self, data: bytes) -> list[bytes]:
        return [reply for reply, _ in self._core.received(Datagram(data, CLIENT_PATH, clock_ns(), True), time.monotonic())[0]]


class PlainPair:
    """aioquic's two ends, without TSQ."""

    def __init__(self, peers: Peers) -> None:
        self._server_configuration = QuicConfiguration(is_client=False, alpn_protocols=["tsq/1"], max_datagram_frame_size=65535)
        self._server_configuration.load_cert_chain(peers.certificates.certificate, peers.certificates.key)
        self._ca = peers.ca
        self.kind = "full"
        self._ticket: SessionTicket | None = None
        self._tickets: dict[bytes, SessionTicket] = {}

    def round(self) -> Round:
        clock = Chronograph()
        client = clock.run("client", self._start)
        self._established = self._answered = self._early = False
        self._asked = self.kind == "0-RTT" and self._resuming
        server = self._talk(client, None, clock)
        assert self._early == (self.kind == "0-RTT")
        result = clock.round()
        self._talk(client, server, Chronograph(), until_quiet=True)
        return result

    def _start(self) -> QuicConnection:
        ticket, self._ticket = usable(self._ticket, self.kind), None
        self._resuming = ticket is not None
        client = QuicConnection(configuration=client_configuration(self._ca, ticket), session_ticket_handler=self._keep)
        client.connect(CLIENT_ADDRESS, time.monotonic())
        if self.kind == "0-RTT" and ticket is not None:
            client.send_datagram_frame(pack_tlvs([(1, bytes(16))]))
        return client

    def _keep(self, ticket: SessionTicket) -> None:
        self._ticket = ticket

    def _talk(
        self, client: QuicConnection, server: QuicConnection | None, clock: Chronograph, until_quiet: bool = False
    ) -> QuicConnection:
        while until_quiet or not self._answered:
            if self._established and not self._asked:
                self._asked = True
                client.send_datagram_frame(pack_tlvs([(1, bytes(16))]))
            sent = clock.run("client", client.datagrams_to_send, time.monotonic())
            if not sent:
                assert until_quiet
                assert server is not None
                return server
            for data, _ in sent:
                if server is None:
                    server = clock.run("server", self._accept, data)
                for reply, _ in clock.run("server", self._server_answers, server, data):
                    clock.run("client", self._client_reads, client, reply)
        assert server is not None
        return server

    def _accept(self, data: bytes) -> QuicConnection:
        header = pull_quic_header(Buffer(data=data), host_cid_length=8)
        return QuicConnection(
            configuration=self._server_configuration,
            original_destination_connection_id=header.destination_cid,
            session_ticket_fetcher=lambda label: self._tickets.pop(label, None),
            session_ticket_handler=lambda ticket: self._tickets.update({ticket.ticket: ticket}),
        )

    def _server_answers(self, server: QuicConnection, data: bytes) -> list[tuple[bytes, object]]:
        server.receive_datagram(data, CLIENT_ADDRESS, time.monotonic())
        while (event := server.next_event()) is not None:
            if isinstance(event, DatagramFrameReceived):
                server.send_datagram_frame(answer(event.data))
        return server.datagrams_to_send(time.monotonic())

    def _client_reads(self, client: QuicConnection, data: bytes) -> None:
        client.receive_datagram(data, CLIENT_ADDRESS, time.monotonic())
        while (event := client.next_event()) is not None:
            if isinstance(event, HandshakeCompleted):
                self._established, self._early = True, event.early_data_accepted
            elif isinstance(event, DatagramFrameReceived):
                self._answered = True


def compare_without_io(peers: Peers, kind: str, rounds: int) -> Comparison:
    ours, theirs = TsqPair(peers), PlainPair(peers)
    # A full handshake brings the first ticket.
    ours.round()
    theirs.round()
    ours.kind = theirs.kind = kind
    return alternate({TSQ: ours.round, PLAIN: theirs.round}, rounds, warmup=2)


def compare_over_loopback(peers: Peers, kind: str, rounds: int) -> Comparison:
    session_file = str(peers.directory / "sessions.json") if kind == "0-RTT" else None
    target = Target(HOST, peers.tsq.target.port)
    options = peers.options(count=1, session_file=session_file)
    tickets: list[SessionTicket] = []

    def ours() -> Round:
        answered: list[float] = []
        start = time.perf_counter()
        result = query_all([target], options, on_sample=lambda *_: answered.append(time.perf_counter() - start))[0]
        assert result.error is None, result.error
        return {"wall": answered[0]}

    async def plain() -> float:
        start = time.perf_counter()
        ticket = tickets.pop() if tickets and kind == "0-RTT" else None
        tickets.clear()
        configuration = client_configuration(peers.ca, ticket)
        async with connect(
            HOST,
            peers.plain.port,
            configuration=configuration,
            create_protocol=TimeClient,
            session_ticket_handler=tickets.append,
            wait_connected=ticket is None,
        ) as client:
            assert isinstance(client, TimeClient)
            await client.ask()
            seconds = time.perf_counter() - start
            while kind == "0-RTT" and not tickets:
                await asyncio.sleep(0.001)
        return seconds

    with asyncio.Runner() as runner:
        return alternate({TSQ: ours, PLAIN: lambda: {"wall": runner.run(plain())}}, rounds, warmup=2)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", KINDS)
def test_handshake_without_io(side: str, kind: str, peers: Peers, show: Show) -> None:
    show(f"handshake to first answer, no I/O: {kind}", side, ROUNDS, lambda rounds: compare_without_io(peers, kind, rounds))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", ["full", "0-RTT"])
def test_handshake_over_loopback(side: str, kind: str, peers: Peers, show: Show) -> None:
    show(f"handshake to first answer, loopback: {kind}", side, ROUNDS, lambda rounds: compare_over_loopback(peers, kind, rounds))


def compare_servers(peers: Peers, rounds: int) -> Comparison:
    target = Target(HOST, peers.tsq.target.port)
    session_file = str(peers.directory / "visits.json")

    def ask(**more: object) -> None:
        result = query_all([target], peers.options(count=1, **more))[0]
        assert result.error is None, result.error

    async def ask_plain() -> None:
        configuration = client_configuration(peers.ca, None)
        async with connect(HOST, peers.plain.port, configuration=configuration, create_protocol=TimeClient) as client:
            assert isinstance(client, TimeClient)
            await client.ask()

    def measured(pid: int, act: Callable[[], None]) -> Side:
        def run() -> Round:
            before = cpu_of_family(pid)
            act()
            time.sleep(_SETTLE)
            return {"CPU": (cpu_of_family(pid) - before) / VISITS}

        return run

    def handshakes() -> Round:
        before = cpu_of_family(peers.tsq.pid)
        clients = [BlockingClient(target.port, peers.options(), at_once=True) for _ in range(VISITS)]
        spent = cpu_of_family(peers.tsq.pid) - before
        for client in clients:
            client.close()
        time.sleep(_SETTLE)
        return {"CPU": spent / VISITS}

    def repeat(act: Callable[[], object]) -> Callable[[], None]:
        return lambda: [act() for _ in range(VISITS)] and None

    files = peers.certificates
    with NtsServer(peers.directory / "nts", files.certificate, files.key) as nts, asyncio.Runner() as runner:
        # The first visit brings the first ticket.
        ask(session_file=session_file)
        sides = {
            HANDSHAKE: handshakes,
            VISIT: measured(peers.tsq.pid, repeat(ask)),
            EARLY: measured(peers.tsq.pid, repeat(lambda: ask(session_file=session_file))),
            AIOQUIC: measured(peers.plain.pid, repeat(lambda: runner.run(ask_plain()))),
            PLAIN: measured(nts.pid, repeat(lambda: establish(nts.establishment))),
        }
        return alternate(sides, rounds)


@pytest.mark.skipif(not have("chronyd", "setpriv"), reason="needs chronyd and setpriv: apt-get install chrony util-linux")
@pytest.mark.parametrize("side", [HANDSHAKE, VISIT, EARLY, AIOQUIC, PLAIN])
def test_server_cpu_for_each_client(side: str, peers: Peers, show: Show) -> None:
    group = "server CPU for each client (plain: chronyd's NTS-KE; goal: handshake/plain <= 2)"
    show(group, side, VISIT_ROUNDS, lambda rounds: compare_servers(peers, rounds))
