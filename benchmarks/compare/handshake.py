"""What a handshake costs either end, up to and with the first answer: full, resumed, 0-RTT, with ECDSA P-256 and RSA-2048.

Comes in: servers, each with a certificate of either kind. Goes out: CPU time of the server (its own, with its helpers) and of the
client (this process) for each handshake, and the wall time. Certificates are verified. For NTS it is key establishment (NTS-KE over
TCP) and one protected exchange; chronyd offers no resumption. The servers have one core, the client the other.
"""

import contextlib
import dataclasses
import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.compare.certificates import ECDSA, RSA, make
from benchmarks.compare.plan import Plan
from benchmarks.compare.record import Run
from benchmarks.compare.rows import ALONE, DATAGRAM, NEWCOMER, NTS, QUICHE, Server, pin, processes_of, start, started
from benchmarks.measure import Round, alternate, cpu_of
from benchmarks.nts import establish, protected
from benchmarks.processes import HOST
from tsq.client.attempt import Attempt
from tsq.client.channel import Channel
from tsq.client.exchange import Rules
from tsq.options import Trust
from tsq.quic import tls
from tsq.quic.client_connection import ClientConnection
from tsq.quic.tickets import AcceptedTicket
from tsq.quic.udp import UdpSocket

FULL, RESUMED, EARLY = "full", "resumed", "0-RTT"
SERVER, CLIENT, WALL = "server CPU", "client CPU", "wall"
_ROWS = (NTS, DATAGRAM, ALONE, NEWCOMER, QUICHE)
_BOUND = 10.0
# What a server does after its last answer belongs to it.
_AFTER = 0.03


class TsqClient:
    """Connects, asks once, closes; keeps the last ticket."""

    def __init__(self, port: int, ca: str, kind: str) -> None:
        self._port, self._trust, self._kind = port, Trust(ca_file=ca), kind
        self._tickets: list[AcceptedTicket] = []
        self._was = FULL

    def run(self) -> float:
        """Seconds to the first answer."""
        begin = time.perf_counter()
        configuration = tls.client_configuration("localhost", self._trust, ticket=self._ticket())
        connection = ClientConnection(configuration, on_ticket=self._tickets.append)
        session = Channel(connection, rules=Rules(precision_ns=1, exact=False, state_interval=None))
        link = Attempt(UdpSocket.connected(socket.AF_INET, (HOST, self._port)), session, connection, HOST)
        session.start(time.monotonic())
        try:
            self._until(link, lambda: session.established or bool(session.samples))
            if session.early is None and not session.samples:
                session.ask(time.monotonic())
            self._until(link, lambda: bool(session.samples))
            seconds = time.perf_counter() - begin
            if self._kind != FULL:
                self._until(link, lambda: session.established and bool(self._tickets))
        finally:
            link.finish(time.monotonic())
        if not session.samples[0].valid:
            raise RuntimeError(f"no answer: {session.samples[0]}")
        self._was = EARLY if session.zero_rtt else RESUMED if connection.resumed else FULL
        return seconds

    def check(self) -> str:
        """What the server makes of this kind; the first run earns the ticket."""
        self.run()
        self.run()
        return self._was

    def _ticket(self) -> AcceptedTicket | None:
        if self._kind == FULL or not self._tickets:
            return None
        ticket = self._tickets[-1]
        self._tickets.clear()
        if self._kind == RESUMED:
            ticket = dataclasses.replace(ticket, ticket=dataclasses.replace(ticket.ticket, max_early_data_size=None))
        return ticket

    @staticmethod
    def _until(link: Attempt, done: Callable[[], bool]) -> None:
        session, end = link.channel, time.monotonic() + _BOUND
        while True:
            now = time.monotonic()
            if session.deadline is not None and session.deadline <= now:
                session.handle_timer(now)
            if session.error is not None:
                raise session.error
            link.pump(now)
            if done():
                return
            if now > end:
                raise RuntimeError("no answer")
            due = now + 0.1 if session.deadline is None else session.deadline
            if select.select([link.udp.fileno()], [], [], max(0.0, min(due, end) - now))[0]:
                link.readable(time.monotonic())


class NtsClient:
    """Establishes keys, asks once."""

    def __init__(self, server: Server, ca: str) -> None:
        self._server, self._ca = server, ca

    def run(self) -> float:
        begin = time.perf_counter()
        key, cookies = establish(self._server.establishment, self._ca)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.settimeout(_BOUND)
            udp.connect((HOST, self._server.target.port))
            udp.send(protected(key, cookies[0]))
            udp.recv(2048)
        return time.perf_counter() - begin


def measure(run: Run, plan: Plan, directory: Path, say: Callable[[str], None]) -> None:
    """All rows, kinds and certificates, in turn."""
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, cores)
        os.sched_setaffinity(0, {cores[-1]})
        sides: dict[str, Callable[[], Round]] = {}
        names: dict[str, tuple[str, str]] = {}
        for certificate in (ECDSA, RSA):
            files = make(certificate, directory)
            for row in _ROWS:
                if row in run.skipped:
                    continue
                server = start(row, files, directory / certificate.split()[0], None)
                stack.enter_context(server.process)
                server = started(server)
                pin(server.process.pid, cores[0])
                for kind in (FULL,) if row == NTS else (FULL, RESUMED, EARLY):
                    ca = str(files.authority)
                    client = NtsClient(server, ca) if row == NTS else TsqClient(server.target.port, ca, kind)
                    if isinstance(client, TsqClient) and (was := client.check()) != kind:
                        run.notes.append(f"{row}: no {kind} handshake: the server made a {was} one of it")
                        continue
                    name = f"{row}, {certificate}, {kind}"
                    names[name] = row, f"{certificate}, {kind}"
                    sides[name] = _round(client, server, plan.handshakes)
        say(f"{plan.handshake_rounds} rounds of {len(sides)} sides, {plan.handshakes} handshakes each")
        comparison = alternate(sides, plan.handshake_rounds, warmup=0)
    for name, (row, load) in names.items():
        for quantity in (SERVER, CLIENT, WALL):
            run.add("handshake", row, load, quantity, "s", [[value] for value in comparison.values(name, quantity)])


def _round(client: TsqClient | NtsClient, server: Server, count: int) -> Callable[[], Round]:
    def measured() -> Round:
        client.run()
        time.sleep(_AFTER)
        pids = processes_of(server.process.pid)
        before, mine = sum(map(cpu_of, pids)), time.process_time()
        walls = [client.run() for _ in range(count)]
        mine = time.process_time() - mine
        time.sleep(_AFTER)
        return {SERVER: (sum(map(cpu_of, pids)) - before) / count, CLIENT: mine / count, WALL: sum(walls) / count}

    return measured
