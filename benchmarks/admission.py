"""What strangers cost a server, and what a flood of them does to its clients.

    python -m benchmarks.admission [--seconds 4] [--rate 5000 --rate 50000] [--python FILE]

First, in this process, the time that admission takes for one datagram of each kind, and how many bytes it answers. Then a server on
loopback, ten clients with 50 requests a second each in their own process, and a flood of Initials from 200 networks (127.x.y.1):
what the clients get before, during, and from one second after it; the server's CPU time a datagram by the kernel's scheduler; its
memory. Server and clients have one processor, the flood another one, both before other programs of the machine (SCHED_RR). "held":
from a request's arrival in the server's kernel until its answer is sealed (T3 - T2). --python: another interpreter, whose tsq is
measured instead. It must never send to another machine.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.fleet import Fleet
from benchmarks.flood import hellos, unreadable
from benchmarks.measure import machine
from benchmarks.processes import HOST, Process
from tsq._fast import pack_address
from tsq._sockets import send
from tsq.dataplane.admission import Admission
from tsq.options import Target, parse_target
from tsq.quic.selfsigned import CertificateFiles, self_signed

_CLIENTS = 10
_EACH = 50.0
_NETWORKS = 200
_GROUP = 64
_POOL = 4000
_ROUNDS = 5
_CALLS = 4000
_HERE = pack_address("192.0.2.7", 4000)


# ------------------------------------------------------------------------------------------------------- in this process


def _kinds() -> dict[str, tuple[list[bytes], dict[str, Any]]]:
    """Kind -> datagrams, limits."""
    whole = hellos(500)
    free = {"prefix_newcomers": 1e9, "newcomers": 1e9, "arrivals": 1 << 30, "half_open": 1 << 30}
    return {
        "too short": ([bytes(5)], {}),
        "short header, unknown connection": ([b"\x40" + os.urandom(60) for _ in range(500)], {}),
        "Initial under 1200 bytes": ([data[:1199] for data in whole], {}),
        "unknown version: Version Negotiation": ([data[:1] + b"\x1a\x2a\x3a\x4a" + data[5:] for data in whole], {}),
        "Initial that earns a Retry": (whole, {"retry": "always"}),
        "Initial that does not open": (unreadable(500), {"retry": "never", **free}),
        "Initial that is admitted": (whole, {"retry": "never", **free}),
    }


def _in_process() -> None:
    print("| datagram | time | answer, of the bytes that came |\n|---|---|---|", flush=True)
    for kind, (datagrams, limits) in _kinds().items():
        best = float("inf")
        reply = None
        for _ in range(_ROUNDS):
            admission = Admission()
            admission.set_limits(**limits)
            some = [data for data, _ in zip(cycle(datagrams), range(_CALLS), strict=False)]
            judge, now = admission.judge, 0.0
            started = time.thread_time()
            for data in some:
                now += 0.001
                _, reply = judge(data, _HERE, now)
            best = min(best, (time.thread_time() - started) / _CALLS)
        share = "none" if reply is None else f"{100 * len(reply) / len(data):.0f} %"
        print(f"| {kind} | {1e6 * best:.2f} µs | {share} |", flush=True)


# --------------------------------------------------------------------------------------------------------------- floods


class _Server(Process):
    """A server of this tree, or of another interpreter's."""

    def __init__(self, files: CertificateFiles, python: str, more: Sequence[str]) -> None:
        where = ["--listen", f"{HOST}:0", "--cert", str(files.certificate), "--key", str(files.key)]
        # One process, so that its CPU time is all of it; an older server has no other way.
        more = [*more, *(["--workers", "1"] if python == sys.executable else [])]
        tree = str(Path(python).absolute().parents[2])
        start = ["env", "-C", tree, "-u", "PYTHONPATH", python, "-m", "tsq.cli.server"]
        super().__init__([*start, *where, "--local-stratum", "1", "--log-level", "error", *more])
        self.target = Target(HOST)

    def ready(self) -> None:
        self.target = parse_target(self.line().split()[3])


def _cpu(pid: int) -> float:
    """CPU seconds by the scheduler, of all threads, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def not_received(port: int) -> int:
    """Datagrams that did not fit the server's socket."""
    rows = [line.split() for line in Path("/proc/net/udp").read_text(encoding="ascii").splitlines()[1:]]
    return sum(int(row[12]) for row in rows if int(row[1].split(":")[1], 16) == port)


@dataclass(frozen=True, slots=True)
class _Answers:
    """Of one phase. median, p99: delays as clients see them; held, held_p99: the server's part of them, in µs."""

    kept: float
    median: float
    p99: float
    held: float
    held_p99: float


class _Clients:
    """The ten clients, in a process of their own; each call of `ask` is one phase."""

    def __init__(self, target: Target, authority: str) -> None:
        where = f"{target.host}:{target.port}"
        command = [sys.executable, "-m", "benchmarks.admission", "--ask", where, "--ca", authority]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def begin(self, seconds: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()

    def found(self) -> _Answers:
        return _Answers(*json.loads(self._line()))

    def close(self) -> None:
        self.process.communicate(timeout=20)


def _ask(target: Target, authority: str) -> None:
    """One phase for each line of standard input, which says how many seconds it lasts."""
    with Fleet(target, authority, _CLIENTS) as fleet:
        print("ready", flush=True)
        for line in sys.stdin:
            seconds = float(line)
            total = round(_CLIENTS * _EACH * seconds)
            delays = sorted(fleet.run(total, rate=_CLIENTS * _EACH, seconds=seconds)) or [float("nan")]
            held = sorted(fleet.asker.held) or [float("nan")]
            figures = [1e6 * values[int(len(values) * part)] for values in (delays, held) for part in (0.5, 0.99)]
            print(json.dumps([fleet.asker.answered / total, *figures]), flush=True)


@contextmanager
def senders(target: Target):  # type: ignore[no-untyped-def]
    """One socket in each network."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(_NETWORKS)]
        for number, one in enumerate(sockets):
            one.bind((f"127.{1 + number % 100}.{number}.1", 0))
            one.setblocking(False)
        yield sockets


def flood(sockets: list[socket.socket], target: Target, datagrams: list[bytes], seconds: float, rate: int) -> int:
    """Send evenly; how many were sent. What comes back is not read: the kernel drops it."""
    where = pack_address(target.host, target.port)
    groups = [[(data, where, b"") for data in datagrams[at : at + _GROUP]] for at in range(0, len(datagrams) - _GROUP, _GROUP)]
    started, sent = time.monotonic(), 0
    for one, group in zip(cycle(sockets), cycle(groups), strict=False):
        now = time.monotonic() - started
        if now >= seconds:
            return sent
        if sent > now * rate:
            time.sleep((sent / rate - now) if sent / rate > now else 0)
        sent += send(one.fileno(), group)[0]
    return sent


def replayed(count: int) -> list[bytes]:
    return hellos(20) * (count // 20)


FLOODS: dict[str, tuple[Callable[[int], list[bytes]], tuple[str, ...]]] = {
    "valid": (hellos, ()),
    "undecryptable": (unreadable, ()),
    "replayed (20 of them)": (replayed, ()),
    "valid, `--retry never`": (hellos, ("--retry", "never")),
}


def _measure(kind: str, files: CertificateFiles, python: str, seconds: float, rate: int) -> None:
    make, options = FLOODS[kind]
    datagrams = make(_POOL)
    with ExitStack() as stack:
        server = stack.enter_context(_Server(files, python, options))
        sockets = stack.enter_context(senders(server.target))
        clients = _Clients(server.target, str(files.authority))
        stack.callback(clients.close)
        together, apart = _processors()
        stack.callback(place, 0, os.sched_getaffinity(0), os.SCHED_OTHER, 0)
        for pid, processors in ((server.pid, together), (clients.process.pid, together), (0, apart)):
            place(pid, processors, os.SCHED_RR, 1)
        clients.begin(seconds)
        # The first phase warms both ends up.
        clients.found()
        idle = _cpu(server.pid)
        clients.begin(seconds)
        quiet = clients.found()
        idle = _cpu(server.pid) - idle
        size, cpu, lost = _resident(server.pid), _cpu(server.pid), not_received(server.target.port)
        clients.begin(seconds)
        sent = flood(sockets, server.target, datagrams, seconds, rate)
        during = clients.found()
        used, lost, grown = _cpu(server.pid) - cpu - idle, not_received(server.target.port) - lost, _resident(server.pid) - size
        # Over within a second.
        time.sleep(1.0)
        clients.begin(seconds)
        after = clients.found()
        came = max(1, sent - lost)
        print(
            f"| {kind} | {sent / seconds:,.0f} | {100 * lost / sent:.0f} % | {100 * during.kept:.1f} % "
            f"| {_pair(quiet.median, quiet.p99)} | {_pair(during.median, during.p99)} | {during.p99 / quiet.p99:.2f} "
            f"| {_pair(after.median, after.p99)} | {_pair(quiet.held, quiet.held_p99)} | {_pair(during.held, during.held_p99)} "
            f"| {1e6 * used / came:.1f} µs | {size / 2**20:.1f} + {grown / 2**20:.1f} MB |",
            flush=True,
        )


def _processors() -> tuple[set[int], set[int]]:
    """For server and clients, and for the flood; the same one where there is no other."""
    usable = sorted(os.sched_getaffinity(0))
    return {usable[0]}, set(usable[1:2] or usable)


def place(pid: int, processors: set[int], policy: int, priority: int) -> None:
    """Give a process these processors, before all other programs of the machine, where that is allowed."""
    os.sched_setaffinity(pid, processors)
    with suppress(PermissionError):
        os.sched_setscheduler(pid, policy, os.sched_param(priority))


def _pair(median: float, p99: float) -> str:
    return f"{median:.0f}, {p99:.0f} µs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser("python -m benchmarks.admission", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of each flood (default: %(default)g)")
    parser.add_argument("--rate", type=int, action="append", help="Initials a second; repeats (default: 5000 and 50000)")
    parser.add_argument("--kind", choices=FLOODS, action="append", help="only this one; repeats (default: all)")
    parser.add_argument("--python", default=sys.executable, help="the interpreter whose server is measured (default: this one)")
    # Internal: this program starts the process of the ten clients with it.
    parser.add_argument("--ask", type=parse_target, help=argparse.SUPPRESS)
    parser.add_argument("--ca", help=argparse.SUPPRESS)
    values = parser.parse_args(arguments)
    rates = values.rate or [5000, 50_000]
    if not 0.1 <= values.seconds <= 10 or not all(1 <= rate <= 100_000 for rate in rates):
        parser.error("expected --seconds from 0.1 to 10 and --rate from 1 to 100000")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if values.ask is not None:
        if values.ask.host != HOST or values.ca is None:
            parser.error(f"expected a server on {HOST} and its CA file")
        _ask(values.ask, values.ca)
        return 0
    print(machine(), file=sys.stderr)
    if values.python == sys.executable:
        _in_process()
    with tempfile.TemporaryDirectory(prefix="tsq-admission-") as directory:
        files = self_signed(str(Path(directory)), ["localhost", HOST])
        heads = ("Initials", "sent a second", "not received", "answers kept", "without", "with", "p99, ratio", "1 s after")
        heads += ("held without", "held with", "CPU", "memory before, more")
        print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|", flush=True)
        for kind in values.kind or FLOODS:
            for rate in rates:
                _measure(kind, files, values.python, values.seconds, rate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
