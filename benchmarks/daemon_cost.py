"""What tsqd costs: CPU time a day, memory, the start. `make daemon-cost`, or

    python -m benchmarks.daemon_cost [--sources 1 3 5] [--poll 4] [--minutes 5] [--far] [--clockbound] [--json FILE]

The real tsqd in observe mode, without the right to set a clock, and tsq-servers on loopback, at polls of a fixed interval: one
daemon for each number of sources, all at once. CPU time is that of the whole process, user and kernel, exact, over some minutes
after the start; a day is that in proportion. Nothing asks the daemon anything meanwhile: its state is read from its segment.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from benchmarks.measure import machine
from benchmarks.processes import HOST, WITH_PARENT, TsqServer
from tests.support.daemon import configuration, tsqd
from tests.support.harmless import give_up_the_clock
from tsq.errors import NoBoundedTime
from tsq.host.segment import TimeStatus, now
from tsq.quic.selfsigned import CertificateFiles, self_signed

CPU_GOAL_S, CPU_GOAL_SOURCES = 20.0, 4
MEMORY_GOAL_MIB = 40.0
# After the first offset: the polls of the start, the first tickets, the memory of the start that is given back.
SETTLE_S = 90.0
_DAY = 86400.0
_MOST_START_S = 30.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a process, MiB. pss: pages that are shared count in parts; private: what would be free without this process."""

    rss: float
    pss: float
    private: float

    @classmethod
    def of(cls, pid: int) -> Self:
        found: dict[str, float] = {}
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, value, _ = line.split()
            found[name] = int(value) / 1024
        return cls(found["Rss:"], found["Pss:"], found["Private_Clean:"] + found["Private_Dirty:"])


def cpu_seconds(pid: int) -> float:
    """CPU time of a process with all its threads, those that have ended too."""
    # The clock of another process, as clock_getcpuclockid() makes it: Linux's own encoding.
    return time.clock_gettime(~pid << 3 | 2)


@dataclass(slots=True)
class Cost:
    """What one daemon took. first_offset: seconds from its start; start_cpu: CPU seconds until then; day_cpu: a day's, seconds."""

    sources: int
    first_offset: float = 0.0
    start_cpu: float = 0.0
    day_cpu: float = 0.0
    memory: Memory = Memory(0.0, 0.0, 0.0)


@contextmanager
def far(server: str) -> Iterator[str]:
    """The address of this server at the other end of a line on which each datagram takes a millisecond."""
    command = [*WITH_PARENT, sys.executable, "-m", "benchmarks.serial_link", server, "--rate", "1e9"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().removeprefix("link on ").strip()
        finally:
            process.kill()


class Watched:
    """A daemon with servers at these addresses, in a directory of its own."""

    def __init__(self, directory: Path, hosts: Sequence[str], authority: Path, poll: int, *, bounded: bool) -> None:
        self.cost = Cost(len(hosts))
        path = configuration(directory, hosts, ca=authority, mode="observe", polls=(poll, poll))
        if bounded:
            path.write_text(path.read_text().replace("[feed]\n", f'[feed]\nclockbound = "{directory}/shm0"\n'))
        self._segment, self._log = str(directory / "now"), directory / "log"
        with self._log.open("w") as log:
            self._begin = time.monotonic()
            self.process = subprocess.Popen(
                [*WITH_PARENT, *map(str, tsqd(path))], stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )

    def wait_for_offset(self) -> None:
        """Until it knows the time."""
        while not self._synchronized():
            if self.process.poll() is not None or time.monotonic() > self._begin + _MOST_START_S:
                raise RuntimeError(f"tsqd did not synchronize: {self._log.read_text()[-1000:]}")
            time.sleep(0.002)
        self.cost.first_offset = time.monotonic() - self._begin
        self.cost.start_cpu = cpu_seconds(self.process.pid)

    def _synchronized(self) -> bool:
        try:
            return now(self._segment).status is TimeStatus.SYNCHRONIZED
        except NoBoundedTime:
            return False

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the daemons are measured under. far: the servers are a millisecond away. bounded: with ClockBound's segment."""

    poll: int
    far: bool = False
    bounded: bool = False


@contextmanager
def watched(sources: int, files: CertificateFiles, directory: Path, under: Conditions) -> Iterator[Watched]:
    """A daemon with so many servers of its own, that knows the time."""
    directory.mkdir()
    with ExitStack() as stack:
        hosts = [str(stack.enter_context(TsqServer(files.certificate, files.key)).target) for _ in range(sources)]
        if under.far:
            hosts = [stack.enter_context(far(host)) for host in hosts]
        daemon = Watched(directory, hosts, files.authority, under.poll, bounded=under.bounded)
        stack.callback(daemon.end)
        daemon.wait_for_offset()
        yield daemon


def measure(numbers: Sequence[int], under: Conditions, seconds: float, settle: float = SETTLE_S) -> list[Cost]:
    """The costs of daemons with so many sources each."""
    with TemporaryDirectory(prefix="tsq-cost-") as name, ExitStack() as stack:
        files = self_signed(str(Path(name) / "certificates"), ["localhost", HOST])
        # One after the other: each start has the machine for itself.
        daemons = [
            stack.enter_context(watched(number, files, Path(name) / str(place), under))
            for place, number in enumerate(numbers)
        ]
        time.sleep(settle)
        before = [(cpu_seconds(one.process.pid), time.monotonic()) for one in daemons]
        time.sleep(seconds)
        for daemon, (cpu, begin) in zip(daemons, before, strict=True):
            used = cpu_seconds(daemon.process.pid) - cpu
            daemon.cost.day_cpu = used / (time.monotonic() - begin) * _DAY
            daemon.cost.memory = Memory.of(daemon.process.pid)
        return [one.cost for one in daemons]


def table(found: Sequence[Cost]) -> Iterator[str]:
    """The lines to print."""
    yield "| sources | first offset after | CPU until then | CPU a day | RSS | PSS | private |"
    yield "|---|---|---|---|---|---|---|"
    for one in found:
        memory = one.memory
        times = f"{one.first_offset:.2f} s | {one.start_cpu:.2f} s | {one.day_cpu:.1f} s"
        yield f"| {one.sources} | {times} | {memory.rss:.1f} MiB | {memory.pss:.1f} MiB | {memory.private:.1f} MiB |"
    few = [one.day_cpu for one in found if one.sources <= CPU_GOAL_SOURCES]
    most = max(one.memory.rss for one in found)
    yield ""
    if few:
        verdict = "met" if max(few) < CPU_GOAL_S else "MISSED"
        yield f"goal: under {CPU_GOAL_S:g} s of CPU a day with up to {CPU_GOAL_SOURCES} sources: {verdict}"
    yield f"goal: under {MEMORY_GOAL_MIB:g} MiB resident: {'met' if most < MEMORY_GOAL_MIB else 'MISSED'}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.daemon_cost", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--sources", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--poll", type=int, default=4, metavar="N", help="polls 2^N s apart")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--settle", type=float, default=SETTLE_S, metavar="SECONDS")
    parser.add_argument(
        "--clockbound", action="store_true", help="with ClockBound's segment: the clock is looked at as often as in steer mode"
    )
    parser.add_argument(
        "--far", action="store_true", help="servers a millisecond away: a poll takes two exchanges there, on loopback three"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    values = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    give_up_the_clock()
    under = Conditions(values.poll, values.far, values.clockbound)
    found = measure(values.sources, under, values.minutes * 60, values.settle)
    more = ", with ClockBound's segment" * values.clockbound + ", servers a millisecond away" * values.far
    print(f"{machine()}\nobserve mode{more}, polls {2**values.poll} s apart, {values.minutes:g} minutes after the start\n")
    print("\n".join(table(found)))
    if values.json:
        values.json.write_text(json.dumps([asdict(one) for one in found]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
