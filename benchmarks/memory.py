"""The memory of a server for each connection: growth of its resident set over many connections, data plane on and off.

    python -m benchmarks.memory [--connections 1000]

Each figure comes from a fresh server. "connected": after the handshakes; "answered": after some requests on each connection, when
all is in place that answering needs. What the data plane holds on top of aioquic's object is the difference.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fleet import Fleet
from benchmarks.measure import Spread, machine
from benchmarks.processes import HOST, TsqServer
from tsq.quic.selfsigned import self_signed

_GOAL = 4.0
_GOAL_OF_ALL = 48.0
_REQUESTS = 10
_BOUND = 30.0
# Connections before the first reading, for what a server allocates once.
_FIRST = 50


def resident(pid: int) -> int:
    """The proportional set size of a process, KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def resident_set(pid: int) -> int:
    """The resident set of a process, bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))


def measure(directory: Path, connections: int, data_plane: bool) -> tuple[float, float]:
    """KiB for each connection: connected, answered."""
    files = self_signed(str(directory), ["localhost", HOST])
    authority = str(files.authority)
    server = TsqServer(files.certificate, files.key, data_plane=data_plane)
    with server, Fleet(server.target, authority, _FIRST) as first:
        first.run(_FIRST * _REQUESTS, window=1, seconds=_BOUND)
        before = resident(server.pid)
        with Fleet(server.target, authority, connections) as fleet:
            connected = resident(server.pid)
            fleet.run(connections * _REQUESTS, window=1, seconds=_BOUND)
            answered = resident(server.pid)
            if fleet.asker.answered < 0.9 * connections * _REQUESTS:
                raise RuntimeError(f"only {fleet.asker.answered} answers")
    return (connected - before) / connections, (answered - before) / connections


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.memory", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    values = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    with tempfile.TemporaryDirectory(prefix="tsq-memory-") as directory:
        for number in range(values.rounds):
            for data_plane in (True, False) if number % 2 == 0 else (False, True):
                found[data_plane].append(measure(Path(directory), values.connections, data_plane))
    print(machine())
    print(f"KiB a connection, {values.connections} connections, medians of {values.rounds} fresh servers each\n")
    print(f"{'':22}connected  answered")
    medians = {on: [Spread.of([one[column] for one in rows]).median for column in range(2)] for on, rows in found.items()}
    for on, (connected, answered) in medians.items():
        verdict = "met" if max(connected, answered) <= _GOAL_OF_ALL else "MISSED"
        name = "data plane on" if on else "aioquic alone"
        print(f"{name:22}{connected:9.1f}  {answered:8.1f}   goal <= {_GOAL_OF_ALL:g}: {verdict}")
    more = [on - off for on, off in zip(medians[True], medians[False], strict=True)]
    verdict = "met" if more[1] <= _GOAL else "MISSED"
    print(f"{'the data plane adds':22}{more[0]:9.1f}  {more[1]:8.1f}   goal <= {_GOAL:g}: {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
