"""A load for TSQ servers: many connections, a fixed window or a fixed rate, through the client data plane.

    python -m benchmarks.load 127.0.0.1:4433 --ca ca.pem --connections 100 --window 4
    python -m benchmarks.load --serve --connections 1000 --rate 10000 --exact

Prints requests a second, loss, delays and, with --serve or --pid, the server's CPU time for each request. Only for servers on this
machine: other addresses than loopback are refused.
"""

import argparse
import contextlib
import ipaddress
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.fleet import Fleet
from tests.support.processes import ServerProcess
from tsq.options import Target, parse_target
from tsq.quic.selfsigned import self_signed


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One run. CPU in µs for each answer; delays in µs."""

    connections: int
    window: int
    rate: float
    exact: bool
    seconds: float
    sent: int
    answered: int
    lost: int
    exact_answers: int
    per_second: float
    server_cpu: float | None
    client_cpu: float
    delay_median: float
    delay_p99: float


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, from the scheduler's accounting."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def measure(
    fleet: Fleet, *, connections: int, total: int, window: int, rate: float, seconds: float, exact: bool, pid: int | None
) -> LoadResult:
    """Run a load on existing connections."""
    server = cpu_seconds(pid) if pid else 0.0
    client, started = time.process_time(), time.monotonic()
    delays = fleet.run(total, window=window, rate=rate, seconds=seconds, exact=exact)
    spent, mine = time.monotonic() - started, time.process_time() - client
    asker = fleet.asker
    answered = max(1, asker.answered)
    delays.sort()
    return LoadResult(
        connections, window, rate, exact, spent, asker.sent, asker.answered, asker.lost, asker.exact,
        asker.answered / spent,
        (cpu_seconds(pid) - server) * 1e6 / answered if pid else None,
        mine * 1e6 / answered,
        statistics.median(delays) * 1e6 if delays else float("nan"),
        delays[int(len(delays) * 0.99)] * 1e6 if delays else float("nan"),
    )


@contextlib.contextmanager
def local_server() -> Iterator[tuple[Target, str, int]]:
    """A tsq-server of this checkout: (address, CA file, process id)."""
    with tempfile.TemporaryDirectory(prefix="tsq-load-") as directory:
        files = self_signed(directory, ["localhost", "127.0.0.1"])
        arguments = ["--listen", "127.0.0.1:0", "--cert", files.certificate, "--key", files.key, "--log-level", "error"]
        with ServerProcess(arguments) as server:
            yield server.target, str(files.authority), server.pid


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.load", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("server", nargs="?", type=parse_target, metavar="ADDRESS:PORT", help="a server on this machine")
    parser.add_argument("--serve", action="store_true", help="start a server of this checkout")
    parser.add_argument("--ca", help="its CA file")
    parser.add_argument("--pid", type=int, help="the server's process, for its CPU time")
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--window", type=int, default=4, help="requests under way on each connection (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second over all (default: as fast as can be)")
    parser.add_argument("--requests", type=int, default=300_000, help="number of requests at most (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds at most (default: %(default)s)")
    parser.add_argument("--exact", action="store_true", help="ask for exact T3 in every request")
    parser.add_argument("--json", action="store_true")
    values = parser.parse_args(arguments)
    if values.serve == (values.server is not None) or (values.server is not None and values.ca is None):
        parser.error("give a server and its --ca, or --serve")
    if values.server is not None and not ipaddress.ip_address(values.server.host).is_loopback:
        parser.error(f"{values.server.host} found, a loopback address expected: this is a load")
    with contextlib.ExitStack() as stack:
        if values.serve:
            target, ca, pid = stack.enter_context(local_server())
        else:
            target, ca, pid = values.server, values.ca, values.pid
        fleet = stack.enter_context(Fleet(target, ca, values.connections))
        result = measure(
            fleet, connections=values.connections, total=values.requests, window=values.window, rate=values.rate,
            seconds=min(values.seconds, 60.0), exact=values.exact, pid=pid,
        )
    print(json.dumps(asdict(result)) if values.json else describe(result))
    return 0 if result.answered else 1


def describe(result: LoadResult) -> str:
    """One run as text."""
    lines = [
        f"{result.connections} connections, window {result.window}" + (", exact T3" if result.exact else ""),
        f"{result.answered} answers in {result.seconds:.2f} s: {result.per_second:,.0f}/s; lost {result.lost}"
        + (f"; with exact T3 {result.exact_answers}" if result.exact else ""),
        f"delay median {result.delay_median:.1f} µs, p99 {result.delay_p99:.1f} µs",
        f"CPU for each answer: client {result.client_cpu:.2f} µs"
        + (f", server {result.server_cpu:.2f} µs" if result.server_cpu is not None else ""),
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
