"""Very many idle clients of one server, by real handshakes, in several processes.

    python -m benchmarks.crowd TARGET CA

Comes in: a server's address and CA; then a line on standard input for each order: "grow N" or "ask". Goes out: a line for each,
with numbers. What a client keeps is its data plane session alone, so that a hundred thousand of them fit one machine, and each asks
again before its connection ends of silence, also while others connect. It must never send to another machine.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from benchmarks.fleet import Fleet
from benchmarks.processes import HOST, WITH_PARENT
from tsq.options import Target, parse_target

# So many share a socket and a network; then their aioquic objects are let go.
_STEP = 100
# So many sockets of a process ask at one time, each with so many requests a second: no server's socket runs over.
_ASKING = 8
_RATE = 1000.0
# So many sockets keep these objects for longer, and settle for some seconds after each step, and at the end.
_FRESH, _SETTLE, _LAST = 4, 0.03, 0.5
# Seconds for one request of each client of a socket, where this process has to wait for a core; a lost answer takes a part of them.
_PATIENCE = 1.5
# Seconds after which a client asks again: connections end after 30 seconds of silence, and all others have their turn in between.
_KEEP = 10.0
# A request or its answer may be lost: a client asks so often at most.
_TRIES = 3
# After so many clients that could not connect, the server is at fault.
_MOST_GIVEN_UP = 10 * _STEP
# How long a thread that asks may have to wait for the one that connects.
_SWITCH = 0.001


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of each client. answers: of how many an answer came; first, last: on each process's first and last socket."""

    answers: int
    first: int
    last: int


class Crowd:
    """Clients in so many processes until the end of the `with`; the server then does not learn of it."""

    def __init__(self, target: Target, ca: str, processes: int = 4) -> None:
        command = [*WITH_PARENT, sys.executable, "-m", "benchmarks.crowd", f"{target.host}:{target.port}", ca]
        self._commands = [[*command, "--number", str(number)] for number in range(processes)]
        self._processes: list[subprocess.Popen[str]] = []
        self.count = 0
        # Handshakes that had no end in time and were begun anew; requests that clients made in order to stay connected.
        self.restarted = self.kept = 0

    def __enter__(self) -> Self:
        for command in self._commands:
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0)
            )
        self._order(["ask"] * len(self._commands))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def grow(self, count: int) -> None:
        """Connect up to this number."""
        share, rest = divmod(count - self.count, len(self._processes))
        said = self._order([f"grow {share + (number < rest)}" for number in range(len(self._processes))])
        self.count, self.restarted, self.kept = (sum(column) for column in zip(*said, strict=True))

    def ask(self) -> Asked:
        """Let each client ask once; again where no answer came."""
        return Asked(*(sum(column) for column in zip(*self._order(["ask"] * len(self._processes)), strict=True)))

    def _order(self, lines: Sequence[str]) -> list[list[int]]:
        for process, line in zip(self._processes, lines, strict=True):
            assert process.stdin is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()
        found = []
        for process in self._processes:
            assert process.stdout is not None
            said = process.stdout.readline()
            if not said:
                raise RuntimeError("a process of clients has ended")
            found.append([int(word) for word in said.split()])
        return found


class _Socket:
    """The clients that share a socket."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.asked = time.monotonic()

    def ask(self) -> int:
        """Ask once on each connection; how many answers came."""
        self.asked = time.monotonic()
        self.fleet.run(len(self.fleet), rate=_RATE, seconds=len(self.fleet) / _RATE + _PATIENCE)
        self.fleet.acknowledge()
        return self.fleet.asker.answered


class _Keeper:
    """Threads in which each client asks again and again, the one that has been silent for the longest time first."""

    def __init__(self) -> None:
        self.requests = 0
        self._waiting: deque[_Socket] = deque()
        self._lock, self._over = threading.Lock(), threading.Event()
        self._threads: list[threading.Thread] = []

    def add(self, sockets: Sequence[_Socket]) -> None:
        """Keep these, too."""
        with self._lock:
            self._waiting.extend(sockets)

    def start(self) -> None:
        self._over.clear()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(_ASKING)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No socket is in use when this returns."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _next(self) -> _Socket | None:
        with self._lock:
            due = self._waiting and self._waiting[0].asked + _KEEP < time.monotonic()
            return self._waiting.popleft() if due else None

    def _run(self) -> None:
        while not self._over.is_set():
            one = self._next()
            if one is None:
                self._over.wait(0.05)
                continue
            one.ask()
            with self._lock:
                self._waiting.append(one)
                self.requests += len(one.fleet)


class _Part:
    """The clients of one process: each hundred share a socket, in a network of its own."""

    def __init__(self, target: Target, ca: str, number: int, stack: contextlib.ExitStack) -> None:
        self._target, self._ca, self._number, self._stack = target, ca, number, stack
        self._sockets: list[_Socket] = []
        # Whose handshakes were the last: a server may repeat what was not acknowledged.
        self._fresh: list[_Socket] = []
        self._places = self._given_up = 0
        self._keeper = _Keeper()
        self._keeper.start()
        stack.callback(self._keeper.stop)

    def grow(self, count: int) -> list[int]:
        """Connect so many more: how many there are, handshakes that were begun anew, requests to stay connected."""
        most = self._count() + count
        while self._count() < most or self._fresh:
            if self._count() < most:
                self._connect(min(_STEP, most - self._count()))
            seconds = _SETTLE if self._count() < most else _LAST / len(self._fresh)
            self._fresh = [one for one in self._fresh if self._settled(one, seconds)]
            while self._fresh and (len(self._fresh) > _FRESH or self._count() >= most):
                self._leave(self._fresh.pop(0))
        return [self._count(), self._given_up + sum(one.fleet.restarted for one in self._sockets), self._keeper.requests]

    def _count(self) -> int:
        return sum(len(one.fleet) for one in self._sockets)

    def _connect(self, count: int) -> None:
        self._places += 1
        source = f"127.{1 + self._number}.{self._places % 250}.{1 + self._places // 250}"
        with contextlib.ExitStack() as stack:
            try:
                one = _Socket(stack.enter_context(Fleet(self._target, self._ca, count, source=source)))
            except (ConnectionError, TimeoutError, RuntimeError):
                self._given_up += count
                if self._given_up > _MOST_GIVEN_UP:
                    raise
                return
            self._stack.push(stack.pop_all())
        self._sockets.append(one)
        self._fresh.append(one)

    def _settled(self, one: _Socket, seconds: float) -> bool:
        """Give the control planes of a socket some time. False where a connection has ended: the socket is given up."""
        try:
            one.fleet.settle(seconds)
        except ConnectionError:
            self._given_up += len(one.fleet)
            self._sockets.remove(one)
            return False
        return True

    def _leave(self, one: _Socket) -> None:
        one.fleet.slim()
        self._keeper.add([one])

    def ask(self) -> list[int]:
        """Ask on each connection: how many answers came; of the first socket, of the last one."""
        self._keeper.stop()
        found = dict.fromkeys(self._sockets, 0)
        for _ in range(_TRIES):
            waiting = deque(one for one, answers in found.items() if answers < len(one.fleet))
            threads = [threading.Thread(target=_all, args=(waiting, found), daemon=True) for _ in range(_ASKING)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self._keeper.start()
        answers = list(found.values())
        return [sum(answers), *(answers[:1] or [0]), *(answers[-1:] or [0])]


def _all(waiting: deque[_Socket], found: dict[_Socket, int]) -> None:
    with contextlib.suppress(IndexError):
        while True:
            one = waiting.popleft()
            found[one] = max(found[one], one.ask())


def _obey(target: Target, ca: str, number: int) -> None:
    with contextlib.ExitStack() as stack:
        part = _Part(target, ca, number, stack)
        for line in sys.stdin:
            order, _, count = line.strip().partition(" ")
            print(*(part.grow(int(count)) if order == "grow" else part.ask()), flush=True)


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
    sys.setswitchinterval(_SWITCH)
    with contextlib.suppress(KeyboardInterrupt):
        _obey(values.target, values.ca, values.number)
    return 0


if __name__ == "__main__":
    sys.exit(main())
