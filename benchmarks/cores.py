"""What a second core adds: a server with one worker on a core, two workers on two cores, and two servers, in turn.

    python -m benchmarks.cores [--rounds 9] [--seconds 0.8] [--rate 20000]

Each worker shares its core with the load of its own connections, and both go before other programs, where that is allowed. So the
second core brings as much load as it brings server: what two workers answer against one is what they lose to each other, to the
kernel and to the caches. Two servers, which share nothing but the machine, show which part of the loss is the machine's. It must
never send to another machine.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.admission import place
from benchmarks.compiled import Asker
from benchmarks.fleet import Fleet
from benchmarks.measure import cpu_of, machine
from benchmarks.processes import HOST, WITH_PARENT
from benchmarks.workers import Server, efficiency
from tsq.dataplane.session import Session
from tsq.options import parse_target
from tsq.quic.selfsigned import CertificateFiles, self_signed

_CONNECTIONS, _WINDOW = 64, 4
# Of a load without a rate: more than anything answers.
_UNBOUND = 1e9
# Answers a second that a load has room for.
_MOST = 500_000
_GOAL = 1.8
ONE, SERVERS, WORKERS = "1 worker, 1 core", "2 servers, 2 cores", "2 workers, 2 cores"


class Phase(NamedTuple):
    """What all halves that ran did. per_second: answers; cpu: µs of the servers' for each."""

    per_second: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Half:
    """A worker, and a process of clients that are all its own, on one core."""

    worker: int
    load: subprocess.Popen[str]
    core: int

    def order(self, seconds: float, rate: float) -> None:
        """Begin a phase."""
        assert self.load.stdin is not None
        self.load.stdin.write(f"{seconds} {rate}\n")
        self.load.stdin.flush()

    def answers(self) -> int:
        """Of the phase, or how many clients there are."""
        assert self.load.stdout is not None
        return int(self.load.stdout.readline())

    def place(self) -> None:
        for pid in (self.worker, self.load.pid):
            place(pid, {self.core}, os.SCHED_RR, 1)


def phase(halves: Sequence[Half], seconds: float, rate: float) -> Phase:
    """Let these halves work at the same time. rate: requests a second for each; 0: as fast as they can."""
    workers = [half.worker for half in halves]
    before = sum(map(cpu_of, workers))
    for half in halves:
        half.order(seconds, rate or _UNBOUND)
    answers = sum(half.answers() for half in halves)
    return Phase(answers / seconds, 1e6 * (sum(map(cpu_of, workers)) - before) / max(1, answers))


def rounds_of(alone: Sequence[Half], workers: Sequence[Half], seconds: float, rate: float, rounds: int) -> dict[str, list[Phase]]:
    """All sides in each round, in an order that turns. One worker: on either core, one after the other."""
    found: dict[str, list[Phase]] = {ONE: [], SERVERS: [], WORKERS: []}
    for number in range(rounds):
        for side in found if number % 2 == 0 else reversed(found):
            if side == ONE:
                each = [phase([half], seconds, rate) for half in alone]
                found[side].append(Phase(*(statistics.fmean(column) for column in zip(*each, strict=True))))
            else:
                found[side].append(phase(alone if side == SERVERS else workers, seconds, rate))
    return found


def medians(found: Mapping[str, Sequence[Phase]]) -> dict[str, Phase]:
    """Of all rounds of each side."""
    return {side: Phase(*(statistics.median(column) for column in zip(*phases, strict=True))) for side, phases in found.items()}


def shared_memory(pids: Sequence[int]) -> list[str]:
    """Memory that more than one of these processes can write to: where a lock or a counter could be shared."""
    seen: list[set[str]] = []
    for pid in pids:
        lines = [line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
        seen.append({" ".join(words[3:]) for words in lines if words[1][1] == "w" and words[1][3] == "s"})
    return sorted(set.intersection(*seen))


# ---------------------------------------------------------------------------------------------------------------- the load


def _clients(target: str, ca: str, slot: int, slots: int) -> None:
    """Connect until so many connections are this worker's; then a phase for each line of standard input."""
    with Fleet(parse_target(target), ca, 1) as fleet:
        while len(own := _of_worker(fleet, slot, slots)) < _CONNECTIONS:
            fleet.grow(len(fleet) + _CONNECTIONS - len(own))
        asker = Asker(dict(list(own.items())[:_CONNECTIONS]))
        print(len(own), flush=True)
        for line in sys.stdin:
            seconds, rate = map(float, line.split())
            fleet.ask_through(asker, int(seconds * min(rate, _MOST)), window=_WINDOW, rate=rate, seconds=seconds)
            print(asker.answered, flush=True)


def _of_worker(fleet: Fleet, slot: int, slots: int) -> dict[bytes, Session]:
    """The sessions with a server's connection ID that names this worker (tsq.quic.connection_ids)."""
    return {name: session for name, session in fleet.sessions().items() if session.peer_id[0] % slots == slot}


# ----------------------------------------------------------------------------------------------------------------- the run


def _half(server: Server, files: CertificateFiles, slot: int, slots: int, core: int, stack: ExitStack) -> Half:
    where = f"{server.target.host}:{server.target.port}"
    options = ["--clients", where, "--ca", str(files.authority), "--slot", f"{slot}/{slots}"]
    command = [*WITH_PARENT, sys.executable, "-m", "benchmarks.cores", *options]
    load = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    stack.callback(load.kill)
    return Half(server.pids()[slot], load, core)


def _measure(rounds: int, seconds: float, rate: float) -> list[str]:
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        return ["one core found, two expected: nothing to measure"]
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="tsq-cores-"))
        files, log = self_signed(directory, ["localhost", HOST]), Path(directory) / "log"
        both = stack.enter_context(Server(files, 2, log))
        single = [stack.enter_context(Server(files, 1, Path(directory) / f"log-{core}")) for core in cores]
        # The next generation has two places, too.
        workers = [_half(both, files, number, 4, core, stack) for number, core in enumerate(cores)]
        alone = [_half(server, files, 0, 1, core, stack) for server, core in zip(single, cores, strict=True)]
        for half in (*workers, *alone):
            if half.answers() < _CONNECTIONS:
                raise RuntimeError("the clients did not connect")
            half.place()
        rounds_of(alone, workers, seconds / 4, 0.0, 1)
        steady, full = (rounds_of(alone, workers, seconds, one, rounds) for one in (rate, 0.0))
        return [*table(steady, full, rate), shared(shared_memory([half.worker for half in workers]))]


def table(steady: Mapping[str, Sequence[Phase]], full: Mapping[str, Sequence[Phase]], rate: float) -> list[str]:
    """Lines: medians, ratios to one worker in the same rounds, and what they come to."""
    lines = [f"{'':22}{'CPU µs an answer':>18}{'to 1 worker':>13}{'answers/s':>12}{'to 1 worker':>13}   as fast as can be: CPU µs"]
    calm, busy = medians(steady), medians(full)
    for side in calm:
        cpu, more = calm[side].cpu / calm[ONE].cpu, busy[side].per_second / busy[ONE].per_second
        lines.append(
            f"{side:22}{calm[side].cpu:18.2f}{cpu:13.2f}{busy[side].per_second:12,.0f}{more:13.2f}   {busy[side].cpu:.2f}"
        )
    scale = busy[WORKERS].per_second / busy[ONE].per_second
    against = busy[WORKERS].per_second / busy[SERVERS].per_second
    cost = [2 * found[ONE].cpu / found[WORKERS].cpu for found in (calm, busy)]
    lines += [
        "",
        f"CPU at {rate:,.0f} requests a second for each worker; answers a second as fast as load and worker of a core can.",
        f"throughput of 2 workers / 1: {scale:.2f}   goal >= {_GOAL}: {'met' if scale >= _GOAL else 'MISSED'}",
        f"2 workers of one server against 2 servers, which share nothing: {against:.2f}",
        f"by CPU time of an answer, where the load has cores of its own: {min(cost):.2f} to {max(cost):.2f}",
        "N cores / 1, from the lower of these and clients that choose a worker at random:",
    ]
    share = min(*cost, 2.0) / 2
    for workers in (2, 4, 8, 16):
        each = [f"{clients:,} clients {workers * share * efficiency(clients, workers):.2f}" for clients in (100, 1000, 10_000)]
        lines.append(f"  N = {workers}: {', '.join(each)}")
    return lines


def shared(memory: Sequence[str]) -> str:
    """What the workers share, in words."""
    found = ", ".join(memory) or "none"
    return f"memory that both workers can write to: {found}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.cores", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.8, help="of each side in a round (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=20_000.0, help="requests a second for each worker (default: %(default)g)")
    parser.add_argument("--clients", metavar="ADDRESS:PORT", help=argparse.SUPPRESS)
    parser.add_argument("--ca", help=argparse.SUPPRESS)
    parser.add_argument("--slot", default="0/1", help=argparse.SUPPRESS)
    values = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if values.clients is not None:
        slot, slots = map(int, values.slot.split("/"))
        _clients(values.clients, values.ca, slot, slots)
        return 0
    print(machine() + "\n", flush=True)
    print(*_measure(values.rounds, values.seconds, values.rate), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
