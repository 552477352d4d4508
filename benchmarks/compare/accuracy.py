"""|offset| between two namespaces that share one clock, so that the truth is 0: every row, idle and loaded, seldom and often.

Comes in: `benchmarks.accuracy`'s world, to which the other TSQ servers are added. Goes out: |offset| of every sample, and (T4-T1)-
(T3-T2). Rows take turns, round by round, but for one poll a second, where all ask at the same time: they hardly meet. Who took the
stamps is in the load's name: T1 T2 T3 T4, K kernel, U user space.
"""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.accuracy import Found, Measure, World, loaded
from benchmarks.compare.plan import Plan
from benchmarks.compare.record import Run
from benchmarks.compare.rows import ALONE, DATAGRAM, NEWCOMER, NTP, NTS, QUICHE, STREAM, start, started
from benchmarks.processes import WITH_PARENT, have
from tsq.options import Target

BASIC, EXACT, WARM = "basic", "interleaved or exact", "exact, warm"
DELAY = "(T4-T1)-(T3-T2)"
_OURS, _THEIRS = 1, 0
# These are far off; one round shows it.
_ONCE = (STREAM, ALONE, NEWCOMER, QUICHE)
_FEW = 2

Key = tuple[str, str]


def load_name(rate: int, load: str) -> str:
    return f"{rate:,}/s, {load}"


class Bench:
    """The world with all servers."""

    def __init__(self, run: Run, plan: Plan, directory: Path, say: Callable[[str], None]) -> None:
        self._run, self._plan, self._directory, self._say = run, plan, directory, say
        self._world = World(directory)
        self._targets: dict[str, Target] = {}
        self._found: dict[tuple[Key, str], Found] = {}

    def measure(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._world.running())
            for row in (ALONE, NEWCOMER, QUICHE):
                if row not in self._run.skipped:
                    self._start(row, stack)
            for rate in self._plan.accuracy_rates:
                if rate == 1:
                    self._slow()
                else:
                    self._fast(rate)
        for ((row, kind), load), found in self._found.items():
            self._run.add("accuracy", row, load, f"|offset|, {kind}", "s", [[abs(us) / 1e6 for us in one] for one in found.rounds])
            self._run.add("accuracy", row, load, f"{DELAY}, {kind}", "s", [[us / 1e6 for us in found.delays]])
            if found.offsets:
                stamps = " ".join(sorted(found.stamps))
                self._run.shapes.setdefault(f"stamps of {row}, {kind}", stamps)

    def _start(self, row: str, stack: contextlib.ExitStack) -> None:
        world = self._world
        try:
            server = start(row, world.files, self._directory, None, host=world.address, prefix=world.network.prefix(_THEIRS))
            stack.enter_context(server.process)
            self._targets[row] = started(server).target
        except (OSError, RuntimeError) as error:
            self._run.notes.append(f"{row} is missing in accuracy: {error}")

    def _sides(self, rate: int) -> dict[Key, Measure]:
        """What asks at this rate."""
        world, skipped = self._world, _FEW if rate == 1 else 16
        tsq: Callable[..., Measure] = lambda **more: partial(world.tsq, rate, skipped=skipped, **more)  # noqa: E731
        sides: dict[Key, Measure] = {(DATAGRAM, BASIC): tsq(), (DATAGRAM, EXACT): tsq(exact=True)}
        if rate >= 1000:
            return self._wanted(sides)
        if have("chronyd"):
            poll = -(rate.bit_length() - 1)
            for row in (NTP, NTS):
                sides[row, BASIC] = partial(world.chronyd, "", nts=row == NTS, poll=poll)
                sides[row, EXACT] = partial(world.chronyd, "xleave", nts=row == NTS, poll=poll)
        sides[DATAGRAM, WARM] = tsq(exact=True, warm=True)
        sides[STREAM, BASIC] = tsq(stream=True)
        for row, target in self._targets.items():
            sides[row, BASIC] = partial(self._newcomer, rate, target) if row == NEWCOMER else tsq(target=target)
        return self._wanted(sides)

    def _wanted(self, sides: dict[Key, Measure]) -> dict[Key, Measure]:
        return {key: side for key, side in sides.items() if key[0] not in self._run.skipped}

    def _newcomer(self, rate: int, target: Target, seconds: float, found: Found) -> None:
        """The plain program's own client."""
        count = max(3, int(rate * seconds))
        command = [
            *WITH_PARENT,
            *self._world.network.prefix(_OURS),
            sys.executable,
            "-m",
            "benchmarks.compare.newcomer",
            "ask",
            target.host,
            str(target.port),
            str(self._world.files.authority),
            str(count),
            str(1 / rate),
        ]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=seconds * 3 + 30, check=True, cwd=Path(__file__).parents[2],
            process_group=0,
        )
        rows = [list(map(int, line.split()[:4])) for line in done.stdout.splitlines()][1:]
        offsets = [((t2 - t1) + (t3 - t4)) / 2e3 for t1, t2, t3, t4 in rows]
        found.add(offsets, {"UUUU"}, count - 1, [((t4 - t1) - (t3 - t2)) / 1e3 for t1, t2, t3, t4 in rows])

    def _fast(self, rate: int) -> None:
        sides = self._sides(rate)
        for number in range(self._plan.accuracy_rounds):
            names = list(sides) if number % 2 == 0 else list(sides)[::-1]
            for load in self._plan.loads:
                with loaded(load, (self._plan.accuracy_seconds + 10) * len(sides) + 60):
                    for name in names:
                        if number and name[0] in _ONCE:
                            continue
                        self._say(f"{rate}/s, {load}, round {number + 1}: {name[0]}, {name[1]}")
                        self._ask(name, load_name(rate, load), sides[name], self._plan.accuracy_seconds)

    def _slow(self) -> None:
        """All at the same time."""
        sides = self._sides(1)
        for load in self._plan.loads:
            self._say(f"1/s, {load}: all rows at the same time, {self._plan.slow_seconds:.0f} s")
            with loaded(load, self._plan.slow_seconds + 60):
                arguments = [(name, load_name(1, load), side, self._plan.slow_seconds) for name, side in sides.items()]
                threads = [threading.Thread(target=self._ask, args=one, daemon=True) for one in arguments]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

    def _ask(self, name: Key, load: str, side: Measure, seconds: float) -> None:
        found = self._found.setdefault((name, load), Found())
        try:
            side(seconds, found)
        except (subprocess.SubprocessError, RuntimeError, OSError, json.JSONDecodeError) as error:
            self._run.notes.append(f"{name[0]}, {name[1]}, {load}: {error}")
