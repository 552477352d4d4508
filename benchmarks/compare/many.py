"""What a request costs, and a client at rest, where very many clients ask in turn: TSQ's data plane beside chronyd NTS.

Comes in: certificates, compiled programs. Goes out: the server's CPU time for a request, and memory, at a thousand clients and at a
million. chronyd's clients are as many source addresses. TSQ's are sessions with keys of their own that a data plane of this process
was given, since a million handshakes would take an hour: its CPU time is that of the data plane, kernel included, without waiting.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.compare.plan import Plan
from benchmarks.compare.record import Run
from benchmarks.compare.rows import DATAGRAM, NTS, pin, processes_of, start, started
from benchmarks.compare.serving import memory_of
from benchmarks.measure import cpu_of
from benchmarks.million import Million, order, own_memory
from benchmarks.nts import nts_requests
from benchmarks.processes import Programs, volley
from tsq.quic.selfsigned import CertificateFiles

CPU, EACH = "server CPU", "memory for each client"
_COOKIES = 96
_FLIGHT = 64
# Of a volley that is to come to all clients, at the rate that chronyd answers in the worst case.
_SLOWEST = 100_000
# Sent at once: a server's batches.
_BURST = 128
# Below this the memory is that of the process, not of its clients.
_COUNTED = 10_000


def load_name(clients: int) -> str:
    """The load's name."""
    return f"{clients:,} clients in turn"


Measured = Callable[[int], tuple[float, float]]


def measure(
    run: Run, plan: Plan, files: CertificateFiles, directory: Path, programs: Programs | None, say: Callable[[str], None]
) -> None:
    """Both rows in turn at each number of clients. Servers and load have a core each."""
    cores = sorted(os.sched_getaffinity(0))
    sides: dict[str, Measured] = {}
    with ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, cores)
        os.sched_setaffinity(0, {cores[-1]})
        if NTS not in run.skipped and programs is not None:
            server = start(NTS, files, directory, programs)
            stack.enter_context(server.process)
            server = started(server)
            pin(server.process.pid, cores[0])
            requests = nts_requests(server.establishment, _COOKIES)
            sides[NTS] = _chronyd(server.process.pid, server.target.port, programs, requests, plan)
        if DATAGRAM not in run.skipped:
            million = Million()
            stack.callback(million.close)
            sides[DATAGRAM] = _tsq(million, plan)
        for clients in plan.many:
            _step(run, clients, sides, plan.many_rounds, say)


def _chronyd(pid: int, port: int, programs: Programs, requests: list[bytes], plan: Plan) -> Measured:
    """(CPU seconds a request, bytes the process has grown by) at so many clients."""
    base = memory_of(pid)

    def measured(clients: int) -> tuple[float, float]:
        pids = processes_of(pid)
        before = sum(map(cpu_of, pids))
        found = volley(programs, port, _FLIGHT, max(plan.many_seconds, clients / _SLOWEST), requests, clients)
        return (sum(map(cpu_of, pids)) - before) / max(1, found.answered), memory_of(pid) - base

    return measured


def _tsq(million: Million, plan: Plan) -> Measured:
    base = own_memory()

    def measured(clients: int) -> tuple[float, float]:
        million.install(clients)
        million.data_plane.cool()
        numbers = [number for some in order(clients, plan.many_requests) for number in some]
        used = million.ask(million.packets(numbers), min(_BURST, clients)) / len(numbers)
        return used, own_memory() - base

    return measured


def _step(run: Run, clients: int, sides: dict[str, Measured], rounds: int, say: Callable[[str], None]) -> None:
    costs: dict[str, list[tuple[float, float]]] = {row: [] for row in sides}
    for number in range(rounds):
        for row in sides if number % 2 == 0 else reversed(sides):
            say(f"{load_name(clients)}: {row}")
            costs[row].append(sides[row](clients))
    for row, found in costs.items():
        run.add("many", row, load_name(clients), CPU, "s", [[used] for used, _ in found])
        if clients >= _COUNTED:
            run.add("many", row, load_name(clients), EACH, "bytes", [[max(0.0, found[-1][1]) / clients]])
