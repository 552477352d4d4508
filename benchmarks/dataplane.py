"""The cost of one request for a server: CPU time at saturation of TSQ, a C echo, chronyd, and aioquic alone, in interleaved rounds.

    python -m benchmarks.dataplane [--quick]

Every server is one thread on one core, every load one thread on another, over loopback. "CPU" is the server's time for each answer
(user and kernel, schedstat), "load CPU" that of the load. A load keeps a fixed number of requests in flight: connections x window
for TSQ and the echo; fewer for chronyd, whose receive buffer (the system's default) holds no more. NTP and NTS loads repeat one
datagram; TSQ's load seals and opens each. "busy + ready": the shares of the time in which the server ran, or was ready while
another process had its core; together about 100 % is saturation. "handed up": packets that the load's data plane left to aioquic,
such as probes. Ratios are of the medians, with the quartiles of the rounds' ratios. Nothing here asserts a time.
"""

import argparse
import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks import load
from benchmarks.fleet import Fleet
from benchmarks.measure import Comparison, Round, Side, Spread, alternate, cpu_of, machine
from benchmarks.nts import ntp_request, nts_request
from benchmarks.peers import BlockingClient
from benchmarks.processes import HOST, Chronyd, Echo, Process, Programs, TsqServer, free_port, have, volley
from tsq.options import ClientOptions, Trust
from tsq.quic.selfsigned import self_signed

# The average size of TSQ's request and answer.
_ECHO_SIZE = 72
_CHRONYD_FLIGHT = 150
_WARM_UP = 0.25
_CHUNK = 4000
# The time limit of a run.
_BOUND = 20.0
_SHAPES = {100: 4, 1000: 1}
_ALONE = 100

AnyProcess = TypeVar("AnyProcess", bound=Process)

ECHO, NTP, NTS, SINGLE = "C echo", "chronyd NTP", "chronyd NTS", "one tsq client, back to back"


def _tsq(connections: int, how: str = "plain") -> str:
    return f"TSQ {connections} connections, {how}"


@dataclass(frozen=True, slots=True)
class Goal:
    """The largest ratio of a side's cost to another's."""

    side: str
    base: str
    most: float | None
    quantity: str = "CPU"
    over: str = "CPU"


def goals(connections: int) -> list[Goal]:
    return [
        Goal(_tsq(connections), f"{ECHO}, {connections * _SHAPES[connections]} under way", 1.3),
        Goal(_tsq(connections), NTP, 1.0),
        Goal(_tsq(connections), NTS, 0.6),
        Goal(_tsq(connections, "exact T3"), _tsq(connections), 2.0),
        Goal(_tsq(connections), _tsq(connections), 2.0, "client", "CPU"),
        Goal(_tsq(connections, "exact T3"), _tsq(connections, "exact T3"), 2.0, "client", "CPU"),
    ]


class CountingFleet(Fleet):
    """A Fleet that counts the packets left to aioquic."""

    handed_up = 0

    def _control(self, packet: bytes) -> None:
        self.handed_up += 1
        super()._control(packet)


class Bench:
    """All servers and loads of a run, and the measured sides."""

    def __init__(self, directory: Path, seconds: float, shapes: Sequence[int]) -> None:
        self._directory = directory
        self._seconds = seconds
        self._shapes = shapes
        self._cores = sorted(os.sched_getaffinity(0))
        self.sides: dict[str, Side] = {}
        self.sizes: dict[str, int] = {}
        self.notes: list[str] = []
        self._keep_alive: list[Callable[[], object]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[Mapping[str, Side]]:
        """Start everything; the sides."""
        with contextlib.ExitStack() as stack:
            # Processes started from here on run on the load's core; servers are moved to their own.
            if len(self._cores) > 1:
                stack.callback(os.sched_setaffinity, 0, self._cores)
                os.sched_setaffinity(0, {self._cores[1]})
            files = self_signed(str(self._directory), ["localhost", HOST])
            programs = Programs(self._directory)
            authority = str(files.authority)
            for connections in self._shapes:
                server = self._pinned(stack.enter_context(TsqServer(files.certificate, files.key)))
                fleet = stack.enter_context(CountingFleet(server.target, authority, connections))
                for exact in (False, True):
                    name = _tsq(connections, "exact T3" if exact else "plain")
                    self.sides[name] = self._fleet(fleet, server.pid, connections, _SHAPES[connections], exact)
            echo = self._pinned(stack.enter_context(Echo(programs)))
            for connections in self._shapes:
                flight = connections * _SHAPES[connections]
                self.sides[f"{ECHO}, {flight} under way"] = self._volley(programs, echo.pid, echo.port, flight, bytes(_ECHO_SIZE))
            self._chronyd(stack, programs, files.certificate, files.key)
            alone = self._pinned(stack.enter_context(TsqServer(files.certificate, files.key, data_plane=False)))
            fleet = stack.enter_context(CountingFleet(alone.target, authority, _ALONE))
            self.sides[_tsq(_ALONE, "aioquic alone")] = self._fleet(fleet, alone.pid, _ALONE, 1, False)
            single = self._pinned(stack.enter_context(TsqServer(files.certificate, files.key)))
            client = BlockingClient(single.target.port, ClientOptions(trust=Trust(ca_file=authority), server_name="localhost"))
            stack.callback(client.close)
            self._keep_alive.append(client.exchange)
            self.sides[SINGLE] = self._single(client, single.pid)
            yield {name: partial(self._run, side) for name, side in self.sides.items()}

    def _run(self, side: Side) -> Round:
        """A side's round. It must come before the idle timeout of the connections."""
        for ask in self._keep_alive:
            ask()
        return side()

    def _chronyd(self, stack: contextlib.ExitStack, programs: Programs, certificate: Path, key: Path) -> None:
        if not have("chronyd"):
            self.notes.append("chronyd is not installed: no figures of it")
            return
        port, establishment = free_port(), free_port(socket.SOCK_STREAM)
        configuration = [
            f"port {port}", f"bindaddress {HOST}", "allow 127.0.0.0/8", "local stratum 1",
            f"ntsport {establishment}", f"ntsservercert {certificate}", f"ntsserverkey {key}",
        ]
        server = self._pinned(stack.enter_context(Chronyd(self._directory / "chronyd", configuration)))
        self.sides[NTP] = self._volley(programs, server.pid, port, _CHRONYD_FLIGHT, ntp_request())
        try:
            request = nts_request(establishment)
        except Exception as error:
            self.notes.append(f"no NTS figures: {error!r}")
            return
        self.sides[NTS] = self._volley(programs, server.pid, port, _CHRONYD_FLIGHT, request)
        self.sizes[NTS] = len(request)

    def _pinned(self, process: AnyProcess) -> AnyProcess:
        os.sched_setaffinity(process.pid, {self._cores[0]})
        return process

    def _fleet(self, fleet: CountingFleet, pid: int, connections: int, window: int, exact: bool) -> Side:
        self._keep_alive.append(partial(fleet.run, connections, window=window, seconds=_BOUND))

        def run() -> Round:
            # The rest of the earlier run, such as the server's probes, is not measured. A run ends by its count, with no request
            # in flight.
            fleet.run(_CHUNK, window=window, seconds=_BOUND, exact=exact)
            start, rate = time.monotonic(), 0.0
            while time.monotonic() - start < _WARM_UP:
                chunk = time.monotonic()
                fleet.run(_CHUNK, window=window, seconds=_BOUND, exact=exact)
                rate = _CHUNK / (time.monotonic() - chunk)
            waited, handed_up = waited_of(pid), fleet.handed_up
            result = load.measure(
                fleet, connections=0, total=int(rate * self._seconds), window=window, rate=0.0, seconds=_BOUND, exact=exact, pid=pid
            )
            waited = waited_of(pid) - waited
            if result.server_cpu is None or not result.answered:
                raise RuntimeError("a load brought no answer")
            return {
                "CPU": result.server_cpu / 1e6,
                "client": result.client_cpu / 1e6,
                "wall": result.seconds / result.answered,
                "waited": min(waited, result.seconds) / result.answered,
                "lost": result.lost / result.sent,
                "handed up": (fleet.handed_up - handed_up) / result.answered,
                "exact": result.exact_answers / result.answered,
            }

        return run

    def _volley(self, programs: Programs, pid: int, port: int, flight: int, datagram: bytes) -> Side:
        def run() -> Round:
            before, waited = cpu_of(pid), waited_of(pid)
            done = volley(programs, port, flight, self._seconds, datagram)
            spent, waited = cpu_of(pid) - before, waited_of(pid) - waited
            return {
                "CPU": spent / done.answered,
                "client": done.cpu / done.answered,
                "wall": done.seconds / done.answered,
                "waited": min(waited, done.seconds) / done.answered,
                "lost": max(0, done.sent - done.answered - flight) / done.sent,
            }

        return run

    def _single(self, client: BlockingClient, pid: int) -> Side:
        def run() -> Round:
            client.rest(0.01)
            before, mine, start = cpu_of(pid), time.process_time(), time.monotonic()
            count = 0
            while (wall := time.monotonic() - start) < self._seconds / 2:
                client.exchange()
                count += 1
            return {
                "CPU": (cpu_of(pid) - before) / count,
                "client": (time.process_time() - mine) / count,
                "wall": wall / count,
            }

        return run


def waited_of(pid: int) -> float:
    """The seconds in which a process was ready while others had its core."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def table(comparison: Comparison) -> list[str]:
    """A line for each side."""
    rows = [("", "server CPU µs/answer (quartiles)", "load CPU µs", "k answers/s", "busy + ready", "lost", "handed up", "exact")]
    for side in comparison.rounds:
        cpu, wall = Spread.of(comparison.values(side, "CPU")), Spread.of(comparison.values(side, "wall"))
        client = Spread.of(comparison.values(side, "client")).median
        waited = Spread.of(comparison.values(side, "waited") or [0.0]).median
        lost, up, exact = (comparison.values(side, name) for name in ("lost", "handed up", "exact"))
        rows.append((
            side,
            f"{cpu.median * 1e6:.2f} ({cpu.q1 * 1e6:.2f} - {cpu.q3 * 1e6:.2f})",
            f"{client * 1e6:.2f}",
            f"{1e-3 / wall.median:.1f}",
            f"{cpu.median / wall.median:.0%} + {waited / wall.median:.0%}",
            f"{Spread.of(lost).median:.2%}" if lost else "-",
            f"{Spread.of(up).median:.2%}" if up else "-",
            f"{Spread.of(exact).median:.1%}" if any(exact) else "-",
        ))
    return _aligned(rows)


def verdicts(comparison: Comparison, shapes: Sequence[int]) -> list[str]:
    """A line for each goal: the ratio, and whether the goal is met."""
    rows = [("ratio", "median (quartiles)", "goal", "")]
    alone = Goal(_tsq(_ALONE, "aioquic alone"), _tsq(_ALONE), None)
    single = Goal(SINGLE, SINGLE, 2.0, "client", "CPU")
    for goal in [*(goal for connections in shapes for goal in goals(connections)), single, alone]:
        if goal.side not in comparison.rounds or goal.base not in comparison.rounds:
            continue
        ours, theirs = comparison.values(goal.side, goal.quantity), comparison.values(goal.base, goal.over)
        ratio = Spread.of(ours).median / Spread.of(theirs).median
        each = Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])
        name = f"{goal.side} / {goal.base}" if goal.quantity == goal.over else f"{goal.side}: client / server"
        wanted, met = ("-", "") if goal.most is None else (f"<= {goal.most:g}", "met" if ratio <= goal.most else "MISSED")
        rows.append((name, f"{ratio:.2f} ({each.q1:.2f} - {each.q3:.2f})", wanted, met))
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.dataplane", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each side in each round (default: %(default)s)")
    parser.add_argument("--connections", type=int, choices=list(_SHAPES), nargs="+", default=list(_SHAPES))
    parser.add_argument("--quick", action="store_true", help="2 rounds, 100 connections only")
    values = parser.parse_args(arguments)
    # SIGTERM must also end all started processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    rounds, shapes = (2, [100]) if values.quick else (values.rounds, values.connections)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tsq-dataplane-") as directory:
        bench = Bench(Path(directory), values.seconds, shapes)
        with bench.running() as sides:
            comparison = alternate(sides, rounds, warmup=0 if values.quick else 1)
    print(machine())
    print(
        f"{rounds} interleaved rounds of {values.seconds:g} s for each side, {time.monotonic() - started:.0f} s in all; "
        "servers on one core, loads on another; " + (f"NTS request {bench.sizes[NTS]} B; " if NTS in bench.sizes else "")
        + f"chronyd: {_CHRONYD_FLIGHT} requests under way; echo: {_ECHO_SIZE} B\n"
    )
    for line in [*table(comparison), "", *verdicts(comparison, shapes), *bench.notes]:
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
