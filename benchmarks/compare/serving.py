"""What a request costs each server at saturation, as clients grow from one to thousands, and the memory that they take.

Comes in: the running servers of rows, each with its load. Goes out: CPU time for each answer (the process's own, user and kernel,
from schedstat), answers a second, memory. Servers share one core, loads the other; all rows take turns, round by round. The last
step, of the most clients, is for one row at a time, one of them beside the C echo: thousands of connections cannot wait for others.
"""

import contextlib
import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.compare.plan import Plan
from benchmarks.compare.record import Run
from benchmarks.compare.rows import (
    ALONE,
    DATAGRAM,
    ECHO,
    EXACT,
    NEWCOMER,
    NODE_ECHO,
    NTP,
    NTS,
    QUICHE,
    STREAM,
    Server,
    pin,
    processes_of,
    start,
    started,
)
from benchmarks.fleet import Fleet
from benchmarks.measure import Round, alternate, cpu_of
from benchmarks.memory import resident
from benchmarks.nts import ntp_request, nts_requests
from benchmarks.processes import Programs, volley
from benchmarks.streams import StreamFleet
from tsq.quic.selfsigned import CertificateFiles

# As large as TSQ's request and its answer on the average.
_ECHO_SIZE = 72
# chronyd's receive buffer holds no more.
_CHRONYD_FLIGHT = 150
_COOKIES = 96
# Requests under way: of one client; of all.
_WINDOWS = ((1, 16), (10, 16), (100, 4))
_CHUNK = 4000
# Servers in Python or JavaScript have the system's receive buffer: so many requests at once, from each of all clients in turn.
_AT_ONCE = 100
_MOST_AT_ONCE = 1000
_BOUND = 5.0
# New connections in one go.
_BLOCK = 1000
_WARM_UP = 0.1
# Connections live 30 s without a packet.
_TOUCH = 8.0
_ROWS = (ECHO, NTP, NTS, STREAM, DATAGRAM, EXACT, ALONE, NEWCOMER, QUICHE, NODE_ECHO)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Done:
    """What one load brought: answers, seconds, CPU seconds of the load."""

    answered: int
    seconds: float
    cpu: float


class Load(Protocol):
    """What asks a server."""

    def grow(self, clients: int) -> None: ...

    def run(self, seconds: float) -> Done: ...

    def touch(self) -> None:
        """Let each connection ask, so that none times out."""


class Volleys:
    """The C load: prepared datagrams from as many addresses as there are clients."""

    def __init__(self, programs: Programs, port: int, datagrams: Sequence[bytes], most: int) -> None:
        self._programs, self._port, self._datagrams, self._most = programs, port, datagrams, most
        self._clients = 1

    def grow(self, clients: int) -> None:
        self._clients = clients

    def run(self, seconds: float) -> Done:
        flight = min(self._most, self._clients * window_of(self._clients))
        done = volley(self._programs, self._port, flight, seconds, self._datagrams, self._clients)
        return Done(done.answered, done.seconds, done.cpu)

    def touch(self) -> None:
        """There is no connection."""


class Fleets:
    """Connections that ask through the client's data plane. slow: the server cannot take more than some requests at once."""

    def __init__(self, fleet: Fleet, *, slow: bool = False) -> None:
        self._fleet, self._slow = fleet, slow
        self._askers = fleet.askers()
        self._at = 0

    def grow(self, clients: int) -> None:
        touched = time.monotonic()
        while len(self._fleet) < clients:
            self._fleet.grow(min(clients, len(self._fleet) + _BLOCK))
            self._askers = self._fleet.askers(_AT_ONCE if self._slow else _MOST_AT_ONCE)
            self._at = 0
            # Those that are there must not time out while others come.
            if time.monotonic() > touched + _TOUCH:
                touched = time.monotonic()
                self.touch()

    def run(self, seconds: float, exact: bool = False) -> Done:
        before, start, answered = time.process_time(), time.monotonic(), 0
        while (spent := time.monotonic() - start) < seconds:
            answered += self._turn(exact)
        return Done(answered, spent, time.process_time() - before)

    def touch(self) -> None:
        for _ in self._askers:
            self._turn(False)

    def _turn(self, exact: bool) -> int:
        asker = self._askers[self._at % len(self._askers)]
        self._at += 1
        clients = len(self._fleet)
        if self._slow:
            size = min(_AT_ONCE, clients)
            window = window_of(1) if clients == 1 else 1
            return len(self._fleet.ask_through(asker, size * window * (4 if clients == 1 else 1), window=window, seconds=_BOUND))
        window = window_of(clients)
        total = _CHUNK if len(self._askers) == 1 else _MOST_AT_ONCE
        return len(self._fleet.ask_through(asker, total, window=window, seconds=_BOUND, exact=exact))


class Exacts:
    """The same connections, and every request asks for exact T3."""

    def __init__(self, fleets: Fleets) -> None:
        self._fleets = fleets

    def grow(self, clients: int) -> None:
        self._fleets.grow(clients)

    def run(self, seconds: float) -> Done:
        return self._fleets.run(seconds, exact=True)

    def touch(self) -> None:
        self._fleets.touch()


class Streams:
    """Connections that ask on streams."""

    def __init__(self, fleet: StreamFleet) -> None:
        self._fleet = fleet

    def grow(self, clients: int) -> None:
        touched = time.monotonic()
        while len(self._fleet) < clients:
            self._fleet.grow(min(clients, len(self._fleet) + _BLOCK))
            if time.monotonic() > touched + _TOUCH:
                touched = time.monotonic()
                self.touch()

    def run(self, seconds: float) -> Done:
        before, start = time.process_time(), time.monotonic()
        delays = self._fleet.run(seconds, _AT_ONCE)
        return Done(len(delays), time.monotonic() - start, time.process_time() - before)

    def touch(self) -> None:
        self._fleet.touch(_AT_ONCE)


def window_of(clients: int) -> int:
    """Requests under way on each connection."""
    return next((window for most, window in _WINDOWS if clients <= most), 1)


def load_for(row: str, server: Server, files: CertificateFiles, programs: Programs | None, stack: contextlib.ExitStack) -> Load:
    """What asks this row's server."""
    authority = str(files.authority)
    if row in (ECHO, NTP, NTS, NODE_ECHO):
        assert programs is not None
        datagrams = {ECHO: [bytes(_ECHO_SIZE)], NODE_ECHO: [bytes(_ECHO_SIZE)], NTP: [ntp_request()]}
        found = datagrams.get(row) or nts_requests(server.establishment, _COOKIES)
        return Volleys(programs, server.target.port, found, 1 << 20 if row == ECHO else _CHRONYD_FLIGHT)
    if row == STREAM:
        return Streams(stack.enter_context(StreamFleet(server.target, authority)))
    fleet = stack.enter_context(Fleet(server.target, authority, 0))
    return Fleets(fleet, slow=row != DATAGRAM)


class Bench:
    """Rows that run side by side, and their cells."""

    def __init__(self, run: Run, plan: Plan, files: CertificateFiles, directory: Path, programs: Programs | None, say: Say) -> None:
        self._run, self._plan, self._files, self._directory, self._programs, self._say = run, plan, files, directory, programs, say
        self._cores = sorted(os.sched_getaffinity(0))
        self._base: dict[str, float] = {}

    def measure(self, wanted: Sequence[str] = _ROWS) -> None:
        """All steps."""
        rows = [row for row in wanted if row not in self._run.skipped]
        with contextlib.ExitStack() as stack:
            if len(self._cores) > 1:
                stack.callback(os.sched_setaffinity, 0, self._cores)
                os.sched_setaffinity(0, {self._cores[1]})
            with contextlib.ExitStack() as together:
                sides: dict[str, tuple[Server, Load]] = {}
                for row in rows:
                    side = self._exact(sides) if row == EXACT else self._side(row, together)
                    if side is not None:
                        sides[row] = side
                for clients in self._plan.clients:
                    self._step(sides, clients)
            if self._plan.most_clients:
                _open_files(self._plan.most_clients + 200)
                for row in (NTP, NTS, DATAGRAM, STREAM, ALONE, NEWCOMER, QUICHE):
                    if row in sides:
                        self._most(row)

    def _side(self, row: str, stack: contextlib.ExitStack) -> tuple[Server, Load] | None:
        """A row's server and load; what keeps them from running is noted."""
        self._say(f"starting {row}")
        try:
            server = start(row, self._files, self._directory, self._programs)
            stack.enter_context(server.process)
            server = started(server)
            pin(server.process.pid, self._cores[0])
            return server, load_for(row, server, self._files, self._programs, stack)
        except (OSError, RuntimeError, ValueError) as error:
            self._run.skipped[row] = f"did not start: {error}"
            return None

    def _exact(self, sides: Mapping[str, tuple[Server, Load]]) -> tuple[Server, Load] | None:
        """On the connections of the row without."""
        server, load = sides.get(DATAGRAM, (None, None))
        return (server, Exacts(load)) if server is not None and isinstance(load, Fleets) else None

    def _step(self, sides: Mapping[str, tuple[Server, Load]], clients: int) -> None:
        there: list[Load] = []
        touched = time.monotonic()
        for row, (server, load) in sides.items():
            self._say(f"{clients} clients: {row}")
            load.grow(clients)
            load.touch()
            load.run(_WARM_UP)
            there.append(load)
            # Those that are there already must not time out meanwhile.
            if time.monotonic() > touched + _TOUCH:
                touched = time.monotonic()
                for other in there:
                    other.touch()
            self._memory(row, server, clients)
        self._say(f"{clients} clients: {self._plan.serving_rounds} rounds of {len(sides)} rows")
        self._cells({row: self._round(*side) for row, side in sides.items()}, clients, sides)

    def _most(self, row: str) -> None:
        """The largest step, for one row and the C echo."""
        clients = self._plan.most_clients
        self._say(f"{clients} clients: {row}")
        with contextlib.ExitStack() as stack:
            side, echo = self._side(row, stack), self._side(ECHO, stack) if row == DATAGRAM else None
            if side is None:
                return
            server, load = side
            if row in (ALONE, NEWCOMER, QUICHE):
                # Only their memory, by a client whose handshakes are quick.
                load = Streams(stack.enter_context(StreamFleet(server.target, str(self._files.authority), datagrams=True)))
                load.grow(1)
                self._base[row] = memory_of(server.process.pid)
                load.grow(clients)
                load.touch()
                self._memory(row, server, clients)
                return
            load.grow(1)
            load.run(_WARM_UP)
            self._base[row] = memory_of(server.process.pid)
            load.grow(clients)
            load.touch()
            load.run(0.5)
            self._memory(row, server, clients)
            sides = {row: side}
            if echo is not None:
                echo[1].grow(clients)
                sides[ECHO] = echo
            self._cells({name: self._round(*one) for name, one in sides.items()}, clients, sides)

    def _round(self, server: Server, load: Load) -> Callable[[], Round]:
        def measured() -> Round:
            load.touch()
            load.run(_WARM_UP)
            before = cpu_of(server.process.pid)
            done = load.run(self._plan.serving_seconds)
            spent = cpu_of(server.process.pid) - before
            if not done.answered:
                raise RuntimeError("a load brought no answer")
            return {
                "server CPU": spent / done.answered,
                "load CPU": done.cpu / done.answered,
                "answers": done.answered / done.seconds,
                "busy": spent / done.seconds,
            }

        return measured

    def _cells(self, rounds: Mapping[str, Callable[[], Round]], clients: int, sides: Mapping[str, object]) -> None:
        comparison = alternate(rounds, self._plan.serving_rounds, warmup=0)
        units = {"server CPU": "s", "load CPU": "s", "answers": "per second", "busy": "share"}
        for row in sides:
            for quantity, unit in units.items():
                values = [[value] for value in comparison.values(row, quantity)]
                self._run.add("serving", row, _clients(clients), quantity, unit, values)

    def _memory(self, row: str, server: Server, clients: int) -> None:
        # The former has the other's connections; an echo has none.
        if row in (EXACT, ECHO, NODE_ECHO):
            return
        size = memory_of(server.process.pid)
        base = self._base.setdefault(row, size)
        self._run.add("memory", row, _clients(clients), "memory", "bytes", [[size]])
        if clients > 1:
            self._run.add("memory", row, _clients(clients), "memory for each client", "bytes", [[(size - base) / (clients - 1)]])


def memory_of(pid: int) -> float:
    """Bytes of a process and what it started that are their own: proportional set size."""
    return sum(resident(one) for one in processes_of(pid)) * 1024.0


def _clients(count: int) -> str:
    return f"{count:,} clients" if count > 1 else "1 client"


def _open_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard) if hard != resource.RLIM_INFINITY else count, hard))
