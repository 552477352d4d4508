"""A server with one and with several workers: CPU a request, balance, memory, the time to replace a worker or a generation.

    python -m benchmarks.workers [--workers 2] [--rounds 3]

Load and server share this machine's cores. So the figure to compare is answers for each second of the servers' CPU time, at a
rate that leaves the cores idle; answers a second with all cores busy are printed beside it. Where a packet costs a worker as much
CPU with others beside it as alone, N cores answer N times as many, less what the balance takes away: that is computed.
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.fleet import Fleet
from benchmarks.load import cpu_seconds
from benchmarks.measure import machine
from tsq.options import Target, parse_target
from tsq.quic.selfsigned import CertificateFiles, self_signed

_HOST = "127.0.0.1"
_CONNECTIONS = 128
_BOUND = 20.0
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run. cpu: µs for each answer, of all workers; shares: of the CPU time, by worker; pss: KiB for each worker."""

    workers: int
    per_second: float
    busy_per_second: float
    cpu: float
    shares: tuple[float, ...]
    pss: tuple[int, ...]


class Server:
    """tsq-server with so many workers, for the time of the `with`."""

    def __init__(self, files: CertificateFiles, workers: int, log: Path) -> None:
        options = ["--cert", files.certificate, "--key", files.key, "--local-stratum", "1", "--drain-limit", "1"]
        self._command = [sys.executable, "-m", "tsq", "server", "--listen", f"{_HOST}:0", "--workers", str(workers), *options]
        self._log = log
        self._workers = workers
        self.target = Target(_HOST)

    def pids(self) -> dict[int, int]:
        """The processes that serve, by slot."""
        if self._workers == 1:
            return {0: self._process.pid}
        found = {}
        for child in _children(self._process.pid):
            for pid in _children(child):
                name = Path(f"/proc/{pid}/comm")
                match = re.fullmatch(r"tsq-worker-(\d+)\n", name.read_text() if name.exists() else "")
                if match:
                    found[int(match[1])] = pid
        return found

    def seconds_until(self, words: str, number: int, act: int) -> float:
        """How long it takes after this signal to this process until the log has these words once more."""
        before, began = self._log.read_text().count(words), time.monotonic()
        os.kill(number, act)
        while self._log.read_text().count(words) == before:
            if time.monotonic() > began + _PATIENCE:
                raise RuntimeError(f"{words!r} is not in the log")
            time.sleep(0.002)
        return time.monotonic() - began

    @property
    def pid(self) -> int:
        """The first process."""
        return self._process.pid

    def __enter__(self) -> "Server":
        with self._log.open("w") as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        self.target = parse_target(self._process.stdout.readline().split()[3])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=_PATIENCE)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def pss(pid: int) -> int:
    """The proportional set size of a process, KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def measure(files: CertificateFiles, workers: int, log: Path, requests: int, rate: float) -> Run:
    """Load at a rate that leaves the cores idle, the same for each worker, then as fast as can be.

    At another rate there would be fewer or more packets in a batch, which changes their cost.
    """
    with Server(files, workers, log) as server, Fleet(server.target, str(files.authority), _CONNECTIONS) as fleet:
        fleet.run(2000, window=1, seconds=_BOUND)
        pids = list(server.pids().values())
        before, began = [cpu_seconds(pid) for pid in pids], time.monotonic()
        fleet.run(requests * workers, window=1, rate=rate * workers, seconds=_BOUND)
        used = [cpu_seconds(pid) - old for pid, old in zip(pids, before, strict=True)]
        answered, spent = fleet.asker.answered, time.monotonic() - began
        began = time.monotonic()
        fleet.run(requests, window=4, seconds=_BOUND)
        busy = fleet.asker.answered / (time.monotonic() - began)
        shares = tuple(one / sum(used) for one in used)
        return Run(workers, answered / spent, busy, sum(used) * 1e6 / answered, shares, tuple(map(pss, pids)))


def efficiency(clients: int, workers: int, seed: int = 1, tries: int = 200) -> float:
    """The mean load of a worker in relation to the largest, with clients that choose at random: what balance takes away."""
    random = Random(seed)
    found = []
    for _ in range(tries):
        counts = [0] * workers
        for _ in range(clients):
            # As the packet filter does: the low five bits of an octet.
            counts[random.randrange(32) % workers] += 1
        found.append(clients / workers / max(counts))
    return statistics.fmean(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.workers", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=30_000, help="of each worker (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=10_000.0, help="requests a second of each worker (default: %(default)g)")
    values = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    runs: dict[int, list[Run]] = {1: [], values.workers: []}
    print(machine())
    with tempfile.TemporaryDirectory(prefix="tsq-workers-") as directory:
        files, log = self_signed(directory, ["localhost", _HOST]), Path(directory) / "log"
        for _ in range(values.rounds):
            for workers, found in runs.items():
                found.append(measure(files, workers, log, values.requests, values.rate))
        with Server(files, values.workers, log) as server:
            deaths = [server.seconds_until("serves again", server.pids()[0], signal.SIGKILL) for _ in range(1)]
            upgrade = server.seconds_until("the new generation of workers serves", server.pid, signal.SIGUSR2)
    for workers, found in runs.items():
        cpu = statistics.median(run.cpu for run in found)
        busy = statistics.median(run.busy_per_second for run in found)
        last = found[-1]
        shares = ", ".join(f"{share:.0%}" for share in last.shares)
        print(f"{workers} worker(s): {cpu:.2f} µs CPU an answer, {1e6 / cpu:,.0f} answers a CPU second; cores busy: {busy:,.0f}/s")
        print(f"  shares of the CPU time: {shares}; PSS {', '.join(map(str, last.pss))} KiB")
    one, many = (statistics.median(run.cpu for run in found) for found in runs.values())
    print(f"CPU of an answer, {values.workers} workers / 1: {many / one:.2f}")
    print(f"a killed worker serves again after {deaths[0]:.2f} s; a new generation after {upgrade:.2f} s, 6 s of them relaying")
    print("throughput of N cores / 1, from these and the balance of clients that choose at random:")
    for workers in (2, 4, 8, 16):
        each = [f"{clients:,} clients {workers * one / many * efficiency(clients, workers):.2f}" for clients in (100, 1000, 10_000)]
        print(f"  N = {workers}: {', '.join(each)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
