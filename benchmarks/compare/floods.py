"""What strangers' packets do to a server's clients, and what very many idle clients need.

Comes in: servers. Goes out: answers kept and delays of clients, with and without a flood; the server's CPU time for each stranger's
packet; memory of clients by real handshakes, at rest. Strangers send Initials that begin a handshake to TSQ, and requests whose
cookie does not open to chronyd, from 200 networks. Server and clients have one core, the flood the other, before other programs.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.admission import flood, not_received, place, senders
from benchmarks.compare.plan import Plan
from benchmarks.compare.record import Run, quantile
from benchmarks.compare.rows import DATAGRAM, NTS, Server, processes_of, start, started
from benchmarks.compare.serving import memory_of
from benchmarks.crowd import Crowd
from benchmarks.flood import hellos
from benchmarks.measure import cpu_of
from benchmarks.nts import protected
from benchmarks.processes import WITH_PARENT
from tsq.quic.selfsigned import CertificateFiles

KEPT, P99, P99_WITHOUT = "answers kept", "p99 delay", "p99 delay, no flood"
CPU, LOST = "server CPU", "strangers' packets not received"
RATES = (5_000, 50_000)
RESTING = ", at rest"
_ROWS = (NTS, DATAGRAM)
_POOL = 2000
# Seconds until connections rest.
_REST = 9.0


def at_rest(clients: int) -> str:
    """The load's name."""
    return f"{clients:,} clients{RESTING}"


def load_name(rate: int) -> str:
    """The load's name."""
    return f"{rate:,} a second"


class _Clients:
    """Clients with 500 requests a second together, in a process of their own; each call of `ask` is one phase."""

    def __init__(self, row: str, server: Server, ca: str) -> None:
        where = f"{server.target.host}:{server.target.port}"
        command = ["benchmarks.admission", "--ask", where, "--ca", ca]
        if row == NTS:
            command = ["benchmarks.compare.nts_clients", str(server.target.port), str(server.establishment)]
        self._process = subprocess.Popen(
            [*WITH_PARENT, sys.executable, "-m", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if "ready" not in self._line():
            raise RuntimeError(f"the clients of {row} did not start")

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def begin(self, seconds: float) -> None:
        """Start a phase."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()

    def found(self) -> tuple[float, float]:
        """Of the phase: the share of requests that were answered, the p99 of the delays in seconds."""
        kept, _, p99, *_ = json.loads(self._line())
        return kept, p99 / 1e6

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._process.communicate(timeout=20)


def _strangers(row: str) -> list[bytes]:
    if row == NTS:
        return [protected(os.urandom(32), os.urandom(100)) for _ in range(_POOL)]
    return hellos(_POOL)


def measure(run: Run, plan: Plan, files: CertificateFiles, directory: Path, say: Callable[[str], None]) -> None:
    """Floods of both rows in turn, then the memory."""
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        stack.callback(place, 0, set(cores), os.SCHED_OTHER, 0)
        sides: dict[str, Callable[[int], dict[str, float]]] = {}
        for row in [one for one in _ROWS if one not in run.skipped]:
            sides[row] = _side(row, files, directory, plan.flood_seconds, cores, stack)
        place(0, {cores[-1]}, os.SCHED_RR, 1)
        for rate in RATES:
            found: dict[str, list[dict[str, float]]] = {row: [] for row in sides}
            for number in range(plan.flood_rounds):
                for row in sides if number % 2 == 0 else reversed(sides):
                    say(f"{rate:,} packets of strangers a second: {row}")
                    found[row].append(sides[row](rate))
            for row, rounds in found.items():
                for quantity, unit in ((KEPT, "share"), (P99, "s"), (P99_WITHOUT, "s"), (CPU, "s"), (LOST, "share")):
                    run.add("flood", row, load_name(rate), quantity, unit, [[one[quantity]] for one in rounds])
        place(0, set(cores), os.SCHED_OTHER, 0)
    if plan.resting and DATAGRAM not in run.skipped:
        say(f"{plan.resting:,} clients by real handshakes")
        _resting(run, plan.resting, files, directory)


def _side(
    row: str, files: CertificateFiles, directory: Path, seconds: float, cores: Sequence[int], stack: ExitStack
) -> Callable[[int], dict[str, float]]:
    server = start(row, files, directory, None)
    stack.enter_context(server.process)
    server = started(server)
    clients = _Clients(row, server, str(files.authority))
    stack.callback(clients.close)
    for pid in (*processes_of(server.process.pid), clients.pid):
        place(pid, {cores[0]}, os.SCHED_RR, 1)
    sockets, datagrams = stack.enter_context(senders(server.target)), _strangers(row)

    def phase(rate: int) -> tuple[float, float, float, int, int]:
        """(answers kept, p99, the server's CPU time, packets sent, packets that did not fit its socket)."""
        pids = processes_of(server.process.pid)
        before, lost = sum(map(cpu_of, pids)), not_received(server.target.port)
        clients.begin(seconds)
        sent = flood(sockets, server.target, datagrams, seconds, rate) if rate else 0
        kept, p99 = clients.found()
        time.sleep(0.2)
        return kept, p99, sum(map(cpu_of, pids)) - before, sent, not_received(server.target.port) - lost

    phase(0)

    def measured(rate: int) -> dict[str, float]:
        _, without, idle, _, _ = phase(0)
        kept, p99, used, sent, lost = phase(rate)
        return {KEPT: kept, P99: p99, P99_WITHOUT: without, CPU: (used - idle) / max(1, sent - lost), LOST: lost / max(1, sent)}

    return measured


def _resting(run: Run, count: int, files: CertificateFiles, directory: Path) -> None:
    server = start(DATAGRAM, files, directory, None)
    with server.process:
        # A server gives memory of its start back.
        time.sleep(2.0)
        before = memory_of(server.process.pid)
        with Crowd(started(server).target, str(files.authority)) as crowd:
            crowd.grow(count)
            answers = crowd.ask().answers
            time.sleep(_REST)
            after = memory_of(server.process.pid)
        if answers < 0.99 * count:
            run.notes.append(f"{DATAGRAM}: only {answers:,} of {count:,} clients at rest had an answer: their memory is not shown")
            return
    run.add("memory", DATAGRAM, at_rest(count), "memory", "bytes", [[after]])
    run.add("memory", DATAGRAM, at_rest(count), "memory for each client", "bytes", [[(after - before) / count]])


def spread(delays: Sequence[float]) -> list[float]:
    """(median, p99) in µs."""
    return [1e6 * statistics.median(delays), 1e6 * quantile(delays, 0.99)] if delays else [float("nan")] * 2
