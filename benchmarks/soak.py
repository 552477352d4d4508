"""tsq-server for an hour on a bad line of the internet, and in the hands of its administrator: `make soak MINUTES=60`.

A server with some workers, `--sandbox strict`; clients that stay and newcomers, each of whose answers is counted; floods, key
updates, migrations, reloads, new generations, killed workers, in an order of the seed's, a flood often together with another one.
It fails where an answer is lost without a name, where memory or descriptors grow, where a counter goes back, and where the log has
an error. It must never send to another machine.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from benchmarks import soak_verdict as judge
from benchmarks.admission import flood, not_received, replayed, senders
from benchmarks.flood import hellos, unreadable
from benchmarks.measure import machine
from benchmarks.processes import WITH_PARENT
from benchmarks.soak_verdict import KEYS, KILL, KINDS, MOVE, REBIND, RELOAD, UPGRADE, Event, Found, Look, Loss
from tests.support.metrics import scrape
from tests.support.workers import PATIENCE, Workers
from tsq.options import parse_target
from tsq.quic.selfsigned import self_signed

_POOL = 4000
_RATE, _SHORT_RATE = 5000, 1500
_CLIENTS, _NEWCOMERS = 24, 30.0
# Seconds.
_LOOK_EVERY, _SHORT_LOOK_EVERY = 3.0, 1.0
_DRAIN_LIMIT, _SHORT_DRAIN_LIMIT = "3", "1"
# In the last seconds each request ends, answered or lost.
_SETTLE = 15.0
# How often a flood is under way while something else is done.
_MIXED = 0.5
# Workers are killed and replaced about so often in a run.
_REPLACED = 8
_ROUND = 90.0


def _short_headers(count: int) -> list[bytes]:
    return [b"\x40" + os.urandom(60) for _ in range(count)]


_FLOODS: dict[str, Callable[[int], list[bytes]]] = dict(
    zip(judge.FLOODS, (hellos, unreadable, replayed, _short_headers), strict=True)
)


def steps(dice: Random, rarity: int = 1) -> Iterator[tuple[str, ...]]:
    """What to do one after the other, and what at the same time: in each round each kind once; of two at a time one is a flood.

    rarity: workers are killed and replaced once in so many rounds, so that they grow old enough to show what they leak.
    """
    for number in count():
        left_out = {KILL} if number % rarity else set()
        left_out |= {UPGRADE} if (number + rarity // 2) % rarity else set()
        others = [kind for kind in KINDS if kind not in _FLOODS and kind not in left_out]
        floods = list(_FLOODS)
        dice.shuffle(others)
        dice.shuffle(floods)
        single = [(kind, floods.pop()) if floods and dice.random() < _MIXED else (kind,) for kind in others]
        single += [(kind,) for kind in floods]
        dice.shuffle(single)
        yield from single


class Clients:
    """The clients' program until the end of the `with`."""

    def __init__(self, target: str, authority: Path, count: int, rate: float, directory: Path) -> None:
        what = ["-m", "benchmarks.soak_clients", target, authority, count, rate, directory]
        self._command = [*WITH_PARENT, sys.executable, *map(str, what)]
        self._errors = directory / "clients.log"

    def __enter__(self) -> Self:
        with self._errors.open("w") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, process_group=0,
                cwd=Path(__file__).parent.parent,
            )
        try:
            self._line()
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    @property
    def errors(self) -> str:
        """What the program wrote to standard error."""
        return self._errors.read_text()

    def say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def report(self) -> dict[str, Any]:
        self.say("report")
        return dict(json.loads(self._line()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the clients ended: {self.errors[-2000:]}")
        return line


def counters(text: str) -> dict[str, float]:
    """All counters of a page of metrics."""
    found = {}
    for family in text_string_to_metric_families(text):
        if family.type == "counter":
            for sample in family.samples:
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def look_at(pid: int, role: str, slot: int, at: float) -> Look | None:
    """What a process takes; None where it is gone."""
    place = Path(f"/proc/{pid}")
    try:
        lines = (place / "smaps_rollup").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("Rss:", "Pss:"))}
        cpu = sum(int(task.read_text().split()[0]) for task in place.glob("task/*/schedstat")) / 1e9
        return Look(at, pid, role, slot, sizes["Rss"], sizes["Pss"], len(os.listdir(place / "fd")), cpu)
    except (OSError, KeyError):
        return None


def family(supervisor: int) -> list[tuple[int, str, int]]:
    """(process, role, slot) of a server's processes."""
    found = [(supervisor, "supervisor", -1)]
    for program in _children(supervisor):
        found.append((program, "starter of workers", -1))
        for pid in _children(program):
            match = re.fullmatch(r"tsq-worker-(\d+)\n", _text(Path(f"/proc/{pid}/comm")))
            # Before it has its name it is the starter's copy.
            if match:
                found.append((pid, "worker", int(match[1])))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _children(pid: int) -> list[int]:
    return [int(word) for word in _text(Path(f"/proc/{pid}/task/{pid}/children")).split()]


class Sampler:
    """Looks at all processes, reads all counters, asks the clients for their report, again and again in a thread of its own."""

    def __init__(self, server: Workers, metrics: str, clients: Clients, found: Found, every: float) -> None:
        self._server, self._metrics, self._clients, self._found, self._every = server, parse_target(metrics), clients, found, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._begin = time.monotonic()
        self._oldest: float | None = None
        self.done: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)

    def look(self) -> None:
        """Once."""
        at = time.monotonic() - self._begin
        looks = [look_at(*one, at) for one in family(self._server.pid)]
        self._found.looks += [look for look in looks if look is not None]
        self._found.counters.append(counters(scrape(self._metrics)))
        said = self._clients.report()
        self._found.answered.update(said["answered"])
        self.done.update(said["done"])
        self._found.losses += [Loss(**loss) for loss in said["losses"]]
        self._oldest = said["oldest"]

    def settle(self) -> None:
        """Look until all that was asked before is answered or lost."""
        now = time.monotonic()
        self.look()
        while self._oldest is not None and self._oldest < now:
            if time.monotonic() > now + _SETTLE:
                self._found.problems.append(f"a request waits for {time.monotonic() - self._oldest:.0f} s")
                return
            time.sleep(0.2)
            self.look()

    def _run(self) -> None:
        try:
            number = 0
            while not self._stop.wait(self._every):
                self.look()
                number += 1
                if number % 20 == 0:
                    answered, lost = self._found.answered.total(), len(self._found.losses)
                    sys.stderr.write(f"{(time.monotonic() - self._begin) / 60:.1f} min: {answered} answers, {lost} lost\n")
        except Exception as error:
            self._found.problems.append(f"no more could be seen: {error!r}")


class Soak:
    """Does what the schedule says to a server, until the time is over and each kind was done at least once."""

    def __init__(self, server: Workers, clients: Clients, seed: int, *, short: bool) -> None:
        self._server, self._clients, self._short = server, clients, short
        self._dice = Random(seed)
        self._pools = {kind: make(_POOL) for kind, make in _FLOODS.items()}
        self._pool = ThreadPoolExecutor(1)
        self.found = Found()

    def run(self, seconds: float) -> None:
        """Run it."""
        begin = time.monotonic()
        rarity = 1 if self._short else max(2, round(seconds / _ROUND / _REPLACED))
        for step in steps(self._dice, rarity):
            if time.monotonic() - begin >= seconds and {event.kind for event in self.found.events} == set(KINDS):
                break
            # The flood is under way while the other one is done.
            floods = [self._pool.submit(self._flood, kind) for kind in step if kind in _FLOODS]
            for kind in step:
                if kind not in _FLOODS:
                    self._do(kind)
            for one in floods:
                one.result()
            time.sleep(0.5 if self._short else self._dice.uniform(2.0, 6.0))
        self.found.seconds = time.monotonic() - begin
        self._pool.shutdown()

    def _flood(self, kind: str) -> None:
        seconds, rate = (1.0, _SHORT_RATE) if self._short else (Random(len(self.found.events)).uniform(3.0, 8.0), _RATE)
        target, begin = self._server.target, time.monotonic()
        before = not_received(target.port)
        with senders(target) as sockets:
            sent = flood(sockets, target, self._pools[kind], seconds, rate)
        self.found.dropped += not_received(target.port) - before
        self.found.events.append(Event(kind, begin, time.monotonic(), sent))

    def _do(self, kind: str) -> None:
        begin = time.monotonic()
        commands = {KEYS: "keys", MOVE: "move", REBIND: "rebind"}
        if kind in commands:
            self._clients.say(commands[kind])
            # A client does it before its next request.
            time.sleep(1.0)
        elif kind == RELOAD:
            before = self._server.log.count("certificate reloaded")
            self._server.send_signal(signal.SIGHUP)
            self._server.logged("certificate reloaded", before + 1)
        elif kind == UPGRADE:
            self._server.upgrade()
        elif kind == KILL:
            self._kill()
        self.found.events.append(Event(kind, begin, time.monotonic()))

    def _kill(self) -> None:
        workers = self._server.pids()
        slot = self._dice.choice(sorted(workers))
        words = f"worker {slot} serves again"
        before = self._server.log.count(words)
        os.kill(workers[slot], signal.SIGKILL)
        self._server.logged(words, before + 1)


@contextmanager
def _server(directory: Path, workers: int, drain_limit: str) -> Iterator[tuple[Workers, str, Path]]:
    """(server, where its metrics are, the authority of its certificate)."""
    files = self_signed(str(directory / "certificates"), ["localhost", "127.0.0.1"])
    where = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--cert", files.certificate, "--key", files.key]
    with Workers(directory, [*where, "--sandbox", "strict", "--drain-limit", drain_limit], workers=workers) as server:
        assert server.process.stdout is not None
        address = re.search(r"http://(\S+)/metrics", server.process.stdout.readline())
        assert address is not None
        yield server, address[1], files.authority


def soak(seconds: float, seed: int, *, workers: int = 2, short: bool = False, keep: Path | None = None) -> Found:
    """Run it all; what was found. keep: where to leave the server's log."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="tsq-soak-")))
        server, metrics, authority = stack.enter_context(_server(directory, workers, _SHORT_DRAIN_LIMIT if short else _DRAIN_LIMIT))
        clients = stack.enter_context(Clients(str(server.target), authority, _CLIENTS, _NEWCOMERS, directory))
        run = Soak(server, clients, seed, short=short)
        sampler = Sampler(server, metrics, clients, run.found, _SHORT_LOOK_EVERY if short else _LOOK_EVERY)
        with sampler:
            try:
                run.run(seconds)
            except AssertionError as error:
                run.found.problems.append(f"not done in time: {str(error)[-500:]}")
        sampler.settle()
        _count_connections(run.found, sampler.done)
        if server.stop() != 0:
            run.found.problems.append(f"the server ended with exit status {server.process.returncode}")
        run.found.log = server.log
        if clients.errors:
            run.found.problems.append(f"the clients' program: {clients.errors[-1500:]}")
        if keep is not None:
            keep.write_text(server.log)
        return run.found


def _count_connections(found: Found, done: Counter[str]) -> None:
    """Say at the clients' events on how many connections they were done: clients that have none then do nothing."""
    for kind, word in ((KEYS, "keys"), (MOVE, "move"), (REBIND, "rebind")):
        events = found.done(kind)
        shares = [done[word] // len(events) + (number < done[word] % len(events)) for number in range(len(events))]
        for event, share in zip(events, shares, strict=True):
            found.events[found.events.index(event)] = Event(kind, event.begin, event.end, share)
        if events and not done[word]:
            found.problems.append(f"no client took part in: {kind}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="each kind once, with short and slower floods: about a minute")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep the server's log")
    values = parser.parse_args(arguments)
    if not 2 <= values.workers <= 16 or not 0 < values.minutes <= 24 * 60:
        parser.error("expected --workers from 2 to 16 and --minutes up to a day")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(machine(), file=sys.stderr)
    seconds = 0.0 if values.short else values.minutes * 60
    found = soak(seconds, values.seed, workers=values.workers, short=values.short, keep=values.log)
    print("\n".join(judge.table(found)))
    problems = judge.verdict(found)
    for problem in problems:
        print(f"VIOLATION: {problem}")
    print("no violation" if not problems else f"{len(problems)} violations")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
