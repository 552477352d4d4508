"""One question by a program that starts for it: time to the answer, CPU time, packets and bytes on the wire until then.

Comes in: servers in one namespace. Goes out, for a client that is started in another: seconds from before it is started to the
first answer's arrival and to its end, the CPU time of the whole process, IP packets and bytes both ways until that arrival, counted
on the interface. chronyd asks once (-Q, maxsamples 1); it never touches the clock (-x).
"""

import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy import NTP_PORT, NTS_PORT, World
from benchmarks.compare.plan import Plan
from benchmarks.compare.record import Run
from benchmarks.compare.rows import ALONE, DATAGRAM, NEWCOMER, NTP, NTS, QUICHE, STREAM, start, started
from benchmarks.compare.sniffer import Packet
from benchmarks.processes import WITH_PARENT, Process, chronyd_once, environment, have
from tsq.options import Target

COLD, TICKET = "cold", "with a saved ticket, 0-RTT"
TO_ANSWER, TO_EXIT, CPU = "start to answer", "start to exit", "CPU"
PACKETS, BYTES = "packets until the answer", "bytes until the answer"
_OURS, _THEIRS = 1, 0
_INTERFACE = "tsq1"
# The kernel stamps a packet once, for the interface and for the socket.
_SLACK_NS = 1000
_SETTLE = 0.05


@dataclass(frozen=True, slots=True)
class Shot:
    """One run of a client. answered_ns: when the client says that the answer came; None: the first UDP packet is the answer."""

    begin_ns: int
    end_ns: int
    wall: float
    cpu: float
    answered_ns: int | None


class Sniffer(Process):
    """Packets at our end, until it is stopped."""

    def __init__(self, prefix: Sequence[str]) -> None:
        super().__init__([sys.executable, "-m", "benchmarks.compare.sniffer", _INTERFACE], prefix=prefix)

    def ready(self) -> None:
        if self.line() != "ready\n":
            raise RuntimeError("packets cannot be counted here")

    def packets(self) -> list[Packet]:
        assert self.process is not None
        self.process.terminate()
        output, _ = self.process.communicate(timeout=10)
        return [Packet(*one) for one in json.loads(output)]


class Bench:
    """Servers in their namespace, clients started in ours."""

    def __init__(self, run: Run, plan: Plan, directory: Path, say: Callable[[str], None]) -> None:
        self._run, self._plan, self._directory, self._say = run, plan, directory, say
        self._world = World(directory)
        self._session = directory / "oneshot-sessions.json"
        self._ours = self._world.network.prefix

    def measure(self) -> None:
        shots: dict[tuple[str, str], list[Shot]] = {}
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._world.running())
            # Segments as they would be on a wire.
            self._do("ip", "link", "set", "dev", _INTERFACE, "gso_max_segs", "1")
            self._do("ip", "link", "set", "dev", "tsq0", "gso_max_segs", "1", end=_THEIRS)
            commands = self._commands(stack)
            for command in commands.values():
                # What is read from the disk for the first time does not count; and the first earns the ticket.
                self._shoot(*command)
            sniffer = stack.enter_context(Sniffer(self._ours(_OURS)))
            for number in range(self._plan.shots):
                self._say(f"round {number + 1} of {self._plan.shots}")
                for name in list(commands) if number % 2 == 0 else list(commands)[::-1]:
                    shots.setdefault(name, []).append(self._shoot(*commands[name]))
                    time.sleep(_SETTLE)
            packets = sniffer.packets()
        for (row, load), found in shots.items():
            self._keep(row, load, found, packets)

    def _commands(self, stack: contextlib.ExitStack) -> dict[tuple[str, str], tuple[Sequence[str], bool]]:
        """(row, load) -> command, whether it prints T4."""
        world, address = self._world, self._world.address
        commands: dict[tuple[str, str], tuple[Sequence[str], bool]] = {}
        if have("chronyd"):
            commands[NTP, COLD] = self._chronyd(f"server {address} port {NTP_PORT} iburst maxsamples 1"), False
            commands[NTS, COLD] = (
                self._chronyd(
                    f"server {address} nts ntsport {NTS_PORT} iburst maxsamples 1",
                    "nosystemcert",
                    f"ntstrustedcerts {world.files.authority}",
                ),
                False,
            )
        commands[DATAGRAM, COLD] = self._tsq(world.target), True
        commands[DATAGRAM, TICKET] = self._tsq(world.target, "--session-file", str(self._session)), True
        commands[STREAM, COLD] = self._tsq(world.target, "--stream"), True
        for row in (ALONE, QUICHE, NEWCOMER):
            if row in self._run.skipped:
                continue
            server = start(row, world.files, self._directory, None, host=address, prefix=self._ours(_THEIRS))
            stack.enter_context(server.process)
            target = started(server).target
            commands[row, COLD] = self._newcomer(target) if row == NEWCOMER else self._tsq(target), True
        return {key: command for key, command in commands.items() if key[0] not in self._run.skipped}

    def _tsq(self, target: Target, *more: str) -> Sequence[str]:
        client = str(Path(sys.executable).parent / "tsq-client")
        return [client, str(target), "--ca", str(self._world.files.authority), "--count", "1", "-v", *more]

    def _newcomer(self, target: Target) -> Sequence[str]:
        module = [sys.executable, "-m", "benchmarks.compare.newcomer", "ask"]
        return [*module, target.host, str(target.port), str(self._world.files.authority)]

    def _chronyd(self, *configuration: str) -> Sequence[str]:
        place = self._directory / "chronyd-once"
        place.mkdir(exist_ok=True)
        return chronyd_once(place, *configuration)

    def _shoot(self, command: Sequence[str], tells: bool) -> Shot:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with tempfile.TemporaryFile("w+") as errors:
            begin_ns, begin = time.time_ns(), time.perf_counter()
            done = subprocess.run(
                [*WITH_PARENT, *self._ours(_OURS), *command],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                timeout=30,
                check=False,
                cwd=Path(__file__).parents[2],
                env=environment(self._directory),
                process_group=0,
            )
            wall, end_ns = time.perf_counter() - begin, time.time_ns()
            errors.seek(0)
            said = errors.read()
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {said[-500:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Shot(begin_ns, end_ns, wall, cpu, _told(done.stdout) if tells else None)

    def _keep(self, row: str, load: str, shots: Sequence[Shot], packets: Sequence[Packet]) -> None:
        found: dict[str, list[float]] = {}
        for shot in shots:
            here = [packet for packet in packets if shot.begin_ns <= packet.at_ns <= shot.end_ns]
            answered_ns = shot.answered_ns
            if answered_ns is None:
                answered_ns = next((one.at_ns for one in here if one.kind == "udp" and not one.outgoing), None)
            if answered_ns is None:
                self._run.notes.append(f"one shot, {row}: no answer was seen on the wire")
                continue
            until = [packet for packet in here if packet.at_ns <= answered_ns + _SLACK_NS]
            found.setdefault(TO_ANSWER, []).append((answered_ns - shot.begin_ns) / 1e9)
            found.setdefault(PACKETS, []).append(len(until))
            found.setdefault(BYTES, []).append(sum(packet.size for packet in until))
        found[TO_EXIT], found[CPU] = [shot.wall for shot in shots], [shot.cpu for shot in shots]
        units = {PACKETS: "count", BYTES: "bytes"}
        for quantity, values in found.items():
            self._run.add("oneshot", row, load, quantity, units.get(quantity, "s"), [[value] for value in values])

    def _do(self, *command: str, end: int = _OURS) -> None:
        subprocess.run([*self._ours(end), *command], check=True, timeout=10)


def _told(output: str) -> int:
    """T4 as the client prints it: after "T4", or as the fourth number."""
    words = output.replace("T4 ", " T4 ").split()
    return int(words[words.index("T4") + 1]) if "T4" in words else int(words[3])
