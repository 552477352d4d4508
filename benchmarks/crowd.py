"""Very many idle clients of one server, by real handshakes, in several processes.

    python -m benchmarks.crowd TARGET CA

Comes in: a server's address and CA; then a line on standard input for each order: "grow N" or "ask". Goes out: a line for each,
with a number: clients connected, or answers to one request of each client. What a client keeps is its data plane session alone, so
that a hundred thousand of them fit one machine. It must never send to another machine.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from benchmarks.fleet import Fleet
from benchmarks.processes import HOST, WITH_PARENT
from tsq.options import Target, parse_target

# So many share a socket and a network; then their aioquic objects are let go.
_STEP = 100
# So many sockets ask at one time, each with so many requests a second: no server's socket runs over.
_ASKING = 12
_RATE = 1000.0
# So many sockets keep these objects for longer, and settle for some seconds after each step, and at the end.
_FRESH, _SETTLE, _LAST = 4, 0.03, 0.5
# Seconds for the answers to one request of each client that shares a socket.
_PATIENCE = 2.0
# Seconds after which the clients ask again: connections end after 30 seconds of silence.
_KEEP = 9.0


class Crowd:
    """Clients in so many processes until the end of the `with`; the server then does not learn of it."""

    def __init__(self, target: Target, ca: str, processes: int = 2) -> None:
        command = [*WITH_PARENT, sys.executable, "-m", "benchmarks.crowd", f"{target.host}:{target.port}", ca]
        self._commands = [[*command, "--number", str(number)] for number in range(processes)]
        self._processes: list[subprocess.Popen[str]] = []
        self.count = 0

    def __enter__(self) -> Self:
        for command in self._commands:
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0)
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def grow(self, count: int) -> None:
        """Connect up to this number."""
        share = (count - self.count) // len(self._processes)
        self.count = sum(self._order(f"grow {share}"))

    def ask(self) -> int:
        """Let each client ask once; how many answers came."""
        return sum(self._order("ask"))

    def _order(self, line: str) -> list[int]:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()
        found = []
        for process in self._processes:
            assert process.stdout is not None
            said = process.stdout.readline()
            if not said:
                raise RuntimeError("a process of clients has ended")
            found.append(int(said))
        return found


def _answers(fleet: Fleet) -> int:
    """Ask once on each connection of a socket; how many answers came."""
    fleet.run(len(fleet), rate=_RATE, seconds=_PATIENCE)
    fleet.acknowledge()
    return fleet.asker.answered


class _Part:
    """The clients of one process: each hundred share a socket, in a network of its own."""

    def __init__(self, target: Target, ca: str, number: int, stack: contextlib.ExitStack) -> None:
        self._target, self._ca, self._number, self._stack = target, ca, number, stack
        self._fleets: list[Fleet] = []
        # Whose handshakes were the last: a server may repeat what was not acknowledged.
        self._fresh: list[Fleet] = []
        self._asked = time.monotonic()

    def grow(self, count: int) -> int:
        """Connect so many more; how many there are."""
        for at in range(0, count, _STEP):
            place = len(self._fleets)
            source = f"127.{1 + self._number}.{place % 250}.{1 + place // 250}"
            fleet = self._stack.enter_context(Fleet(self._target, self._ca, min(_STEP, count - at), source=source))
            self._fleets.append(fleet)
            self._fresh.append(fleet)
            while len(self._fresh) > _FRESH:
                self._fresh.pop(0).slim()
            for one in self._fresh:
                one.settle(_SETTLE)
            if time.monotonic() > self._asked + _KEEP:
                self.ask()
        for fleet in self._fresh:
            fleet.settle(_LAST)
            fleet.slim()
        self._fresh.clear()
        return sum(map(len, self._fleets))

    def ask(self) -> int:
        """Ask once on each connection, as clients do to keep them; how many answers came."""
        with ThreadPoolExecutor(_ASKING) as pool:
            answers = sum(pool.map(_answers, self._fleets))
        self._asked = time.monotonic()
        return answers


def _obey(target: Target, ca: str, number: int) -> None:
    with contextlib.ExitStack() as stack:
        part = _Part(target, ca, number, stack)
        for line in sys.stdin:
            order, _, count = line.strip().partition(" ")
            print(part.grow(int(count)) if order == "grow" else part.ask(), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.crowd", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("target", type=parse_target)
    parser.add_argument("ca")
    parser.add_argument("--number", type=int, default=0, help="of this process, for its addresses")
    values = parser.parse_args(arguments)
    if values.target.host != HOST:
        parser.error(f"expected a server on {HOST}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with contextlib.suppress(KeyboardInterrupt):
        _obey(values.target, values.ca, values.number)
    return 0


if __name__ == "__main__":
    sys.exit(main())
