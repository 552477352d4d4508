"""A tsq-server with several workers as real processes, and clients that poll it and count every answer."""

import asyncio
import heapq
import os
import re
import select
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import tsq
from tests.support.processes import BIN
from tsq.options import Target, parse_target

PATIENCE = 60.0
_COMMAND = BIN / "tsq-server"


def until(found: Callable[[], object], what: str = "") -> object:
    """What this returns, as soon as that is something."""
    deadline = time.monotonic() + PATIENCE
    while not (it := found()):
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
    return it


class Workers:
    """A server until the end of the `with`. log: what is in its log so far."""

    def __init__(
        self,
        directory: Path,
        arguments: list[str | Path],
        *,
        workers: int = 2,
        command: Path = _COMMAND,
        **environment: str,
    ) -> None:
        self._file = directory / f"log-{time.monotonic_ns()}"
        self._command = [command, "--local-stratum", "1", "--workers", str(workers), *map(str, arguments)]
        self._environment = {**os.environ, **environment}
        self.targets: list[Target] = []

    @property
    def log(self) -> str:
        return self._file.read_text()

    @property
    def target(self) -> Target:
        return self.targets[0]

    @property
    def pid(self) -> int:
        return self.process.pid

    def logged(self, words: str, times: int = 1) -> None:
        """Wait until the log has these words so often."""
        until(lambda: self.log.count(words) >= times or self.process.poll() is not None, f"{words!r} not in:\n{self.log}")
        assert self.log.count(words) >= times, self.log

    def pids(self) -> dict[int, int]:
        """The workers' processes by slot."""
        found = {}
        for program in _children(self.pid):
            for pid in _children(program):
                if (match := re.fullmatch(r"tsq-worker-(\d+)\n", _text(f"/proc/{pid}/comm"))) and not gone(pid):
                    found[int(match[1])] = pid
        return found

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def upgrade(self) -> None:
        """Let a new generation take over, and wait for the end of the old one."""
        before = self.log.count("the old generation of workers has ended")
        self.send_signal(signal.SIGUSR2)
        self.logged("the old generation of workers has ended", before + 1)

    def status(self) -> dict[str, int]:
        """The counters, as SIGUSR1 has them logged."""
        before = self.log.count("status: up ")
        # A report is whole when the next one has begun.
        for more in (1, 2):
            self.send_signal(signal.SIGUSR1)
            self.logged("status: up ", before + more)
        text = self.log.split("status: up ")[before + 1]
        found = {name: int(count) for name, count in re.findall(r"INFO: (.+): (\d+)$", text, re.MULTILINE)}
        found["connections"] = int(re.search(r"connections now: (\d+)", text)[1])
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
            self.process.wait(30)
        return self.process.returncode

    def __enter__(self) -> Self:
        with self._file.open("w") as errors:
            self.process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=errors, text=True, env=self._environment
            )
        wanted = max(1, self._command.count("--listen"))
        while len(self.targets) < wanted:
            line = self.process.stdout.readline()
            assert line, self.log
            self.targets.append(parse_target(line.split()[3]))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.stop()
        finally:
            self.process.kill()
            self.process.communicate()


class Nat:
    """Relays the datagrams of many clients, each from a port of its own, with a delay each way, until the end of the `with`."""

    def __init__(self, port: int, *, delay: float = 0.0) -> None:
        self._port, self._delay = port, delay
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", 0))
        self._backs: dict[object, socket.socket] = {}
        self._old: list[socket.socket] = []
        self._waiting: list[tuple[float, int, socket.socket, bytes, object]] = []
        self._number = 0
        self._forget = threading.Event()
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.target = Target(*self._front.getsockname())

    def rebind(self) -> None:
        """Forget all ports: from now on clients' datagrams come from others."""
        self._forget.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.close()
        self._thread.join(PATIENCE)
        for each in (self._front, self._stopped, *self._backs.values(), *self._old):
            each.close()

    def _run(self) -> None:
        while True:
            due = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None
            sides = {back: client for client, back in self._backs.items()}
            ready = select.select([self._front, self._stopped, *sides], [], [], due)[0]
            if self._stopped in ready:
                return
            for side in ready:
                try:
                    data, peer = side.recvfrom(65536)
                except ConnectionRefusedError:
                    continue
                if side is self._front:
                    self._keep(self._back_of(peer), data, None)
                else:
                    self._keep(self._front, data, sides[side])
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, _, by, data, to = heapq.heappop(self._waiting)
                try:
                    by.send(data) if to is None else by.sendto(data, to)
                except ConnectionRefusedError:
                    continue

    def _back_of(self, client: object) -> socket.socket:
        if self._forget.is_set():
            self._forget.clear()
            # Open until the end, so that their ports are not given to others.
            self._old += self._backs.values()
            self._backs.clear()
        if client not in self._backs:
            self._backs[client] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._backs[client].connect(("127.0.0.1", self._port))
        return self._backs[client]

    def _keep(self, by: socket.socket, data: bytes, to: object) -> None:
        self._number += 1
        heapq.heappush(self._waiting, (time.monotonic() + self._delay, self._number, by, data, to))


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _children(pid: int) -> list[int]:
    return [int(word) for word in _text(f"/proc/{pid}/task/{pid}/children").split()]


def gone(pid: int) -> bool:
    """Whether a process has ended: it is not there, or waits for its parent to notice."""
    return _text(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] in ([], ["Z"])


def options(authority: Path, **more: object) -> tsq.ClientOptions:
    return tsq.ClientOptions(trust=tsq.Trust(ca_file=str(authority)), server_name="localhost", **more)


class Polling:
    """Clients that ask all the time, each on its connection, from `__enter__` to `__exit__`.

    newcomers: as many clients that make a new connection for each request. outcomes: of all requests; each: of each client with a
    connection of its own, in their order.
    """

    def __init__(self, target: Target, authority: Path, clients: int, *, newcomers: int = 0, interval: float = 0.02) -> None:
        self._target = str(target)
        self._options = options(authority, timeout=10.0)
        self._clients, self._newcomers, self._interval = clients, newcomers, interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.outcomes: Counter[str] = Counter()
        self.each: list[list[str]] = [[] for _ in range(clients)]
        self.connected = threading.Barrier(2)

    @property
    def asked(self) -> int:
        return self.outcomes.total()

    def more(self, count: int) -> None:
        """Wait for so many further answers."""
        wanted = self.asked + count
        until(lambda: self.asked >= wanted, f"{self.asked} of {wanted}: {self.outcomes}")

    def __enter__(self) -> Self:
        self._thread.start()
        self.connected.wait(PATIENCE)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._ready = 0
        polls = [self._poll(own) for own in self.each]
        comes = [self._come() for _ in range(self._newcomers)]
        await asyncio.gather(*polls, *comes)

    async def _poll(self, own: list[str]) -> None:
        async with tsq.connect(self._target, self._options) as client:
            await self._began()
            while not self._stop.is_set():
                own.append(await self._count(client))
                await self._pause()

    async def _come(self) -> None:
        await self._began()
        while not self._stop.is_set():
            try:
                async with tsq.connect(self._target, self._options) as client:
                    await self._count(client, "newcomer: ")
            except tsq.TSQError as error:
                self.outcomes[f"newcomer: {type(error).__name__}: {error}"] += 1
            await self._pause()

    async def _pause(self) -> None:
        ends = time.monotonic() + self._interval
        while not self._stop.is_set() and time.monotonic() < ends:
            await asyncio.sleep(min(self._interval, 0.1))

    async def _began(self) -> None:
        self._ready += 1
        if self._ready == self._clients + self._newcomers:
            await asyncio.to_thread(self.connected.wait, PATIENCE)

    async def _count(self, client: tsq.Client, prefix: str = "") -> str:
        try:
            sample = await client.sample()
            outcome = "answered" if sample.valid else str(sample.reason)
        except tsq.TSQError as error:
            outcome = f"{type(error).__name__}: {error}"
        self.outcomes[prefix + outcome] += 1
        return outcome
