"""What a server's plain requests cost while others ask it for signatures: CPU time and delay, with and without such neighbours.

    python -m benchmarks.signing [--rounds 9] [--quick]

One tsq-server with an Ed25519 key on one core, the loads on another. Plain requests come at a fixed rate on 100 connections; the
neighbours are tsq clients that ask for signatures at their quota, 8 a second each. "All CPU" is the server's time for each plain
answer, signatures included; "plain CPU" is that less what the signed answers cost where they come alone, in the same run. Sides are
measured in interleaved rounds, and ratios are of medians, with the quartiles of the rounds' ratios. Nothing here asserts a time.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import load
from benchmarks.dataplane import CountingFleet
from benchmarks.measure import Comparison, Round, Side, Spread, alternate, cpu_of, machine
from benchmarks.processes import HOST, TsqServer
from tsq.client.asynchronous import Client, connect
from tsq.client.exchange import Rules
from tsq.errors import TSQError
from tsq.host.key_files import load_verifier, write_key
from tsq.options import ClientOptions, Trust
from tsq.quic.limits import Limits
from tsq.quic.selfsigned import self_signed
from tsq.wire.keys import make_key

CONNECTIONS, RATE = 100, 10_000.0
NEIGHBOURS = (1, 25)
ALONE = "plain requests alone"
# Below the quota, which also counts what comes early.
_PACE = 0.98 * Limits().signatures


def beside(neighbours: int) -> str:
    return f"beside {neighbours} that ask{'s' if neighbours == 1 else ''} for signatures"


def only(neighbours: int) -> str:
    return f"{neighbours} asking for signatures, alone"


async def ask_for_signatures(target: str, authority: str, key: str, count: int) -> None:
    """Ask at the quota while standard input says so: `go` begins, `rest` ends, and prints how many answers came."""
    rules = Rules(verifier=load_verifier([key]), exact=False, state_interval=None)
    options = ClientOptions(trust=Trust(ca_file=authority), server_name="localhost")
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(target, options, rules=rules)) for _ in range(count)]
        print("ready", flush=True)
        while await reader.readline() == b"go\n":
            # A connection that was idle for too long is made anew before anything is measured.
            await asyncio.gather(*(client.sample() for client in clients), return_exceptions=True)
            print("going", flush=True)
            signed = [0]
            tasks = [asyncio.create_task(_ask(client, number / count / _PACE, signed)) for number, client in enumerate(clients)]
            await reader.readline()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            print(signed[0], flush=True)


async def _ask(client: Client, first: float, signed: list[int]) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time() + first
    while True:
        await asyncio.sleep(due - loop.time())
        due += 1 / _PACE
        with contextlib.suppress(TSQError):
            signed[0] += (await client.sample()).valid


class Neighbours:
    """A process with clients that ask for signatures."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "benchmarks.signing", "--sign", *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Neighbours":
        self._expect("ready")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=10)

    def go(self) -> None:
        self._say("go")
        self._expect("going")

    def rest(self) -> int:
        """Cease; how many signed answers came."""
        self._say("rest")
        return int(self._expect(""))

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def _expect(self, word: str) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line or (word and line != word):
            raise RuntimeError(f"the neighbours say {line!r}")
        return line


@contextlib.contextmanager
def running(directory: Path, seconds: float) -> Iterator[Mapping[str, Side]]:
    """Start everything; the sides."""
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        if len(cores) > 1:
            stack.callback(os.sched_setaffinity, 0, cores)
            os.sched_setaffinity(0, {cores[1]})
        files, key = self_signed(str(directory), ["localhost", HOST]), str(directory / "key")
        public = write_key(key, make_key("ed25519"))
        server = stack.enter_context(TsqServer(files.certificate, files.key, more=["--sign-key", key]))
        os.sched_setaffinity(server.pid, {cores[0]})
        fleet = stack.enter_context(CountingFleet(server.target, str(files.authority), CONNECTIONS))
        where = str(server.target), str(files.authority), public
        groups = {count: stack.enter_context(Neighbours(*where, str(count))) for count in NEIGHBOURS}

        def plain(neighbours: Neighbours | None) -> Round:
            if neighbours is not None:
                neighbours.go()
            fleet.run(int(RATE / 4), rate=RATE, seconds=10.0)
            before = fleet.handed_up
            total, more = int(RATE * seconds), {"connections": CONNECTIONS, "window": 1, "exact": False}
            result = load.measure(fleet, total=total, rate=RATE, seconds=10.0, pid=server.pid, **more)
            signed = 0 if neighbours is None else neighbours.rest()
            assert result.server_cpu is not None
            return {
                "CPU": result.server_cpu / 1e6, "delay": result.delay_median / 1e6, "p99": result.delay_p99 / 1e6,
                "lost": result.lost / result.sent, "handed up": (fleet.handed_up - before) / result.answered,
                # The neighbours began a quarter of a second earlier.
                "signed": signed * result.seconds / (result.seconds + 0.25) / result.answered,
            }

        def signed_only(neighbours: Neighbours) -> Round:
            fleet.run(CONNECTIONS, window=1, seconds=10.0)
            neighbours.go()
            before, start = cpu_of(server.pid), time.monotonic()
            time.sleep(seconds)
            spent, taken = cpu_of(server.pid) - before, time.monotonic() - start
            count = neighbours.rest()
            return {"CPU": spent / max(1, count), "a second": count / taken}

        sides: dict[str, Callable[[], Round]] = {ALONE: lambda: plain(None)}
        for count, group in groups.items():
            sides[beside(count)] = lambda group=group: plain(group)  # type: ignore[misc]
            sides[only(count)] = lambda group=group: signed_only(group)  # type: ignore[misc]
        yield sides


def table(comparison: Comparison) -> list[str]:
    """A line for each side with plain requests, then one for each group of neighbours."""
    names = {
        "": 36, "all CPU µs": -12, "ratio (quartiles)": -22, "plain CPU µs": -14, "ratio": -7, "delay µs": -10,
        "p99": -8, "lost": -8,
    }
    lines = ["".join(name.ljust(width) if width > 0 else name.rjust(-width) for name, width in names.items())]
    alone = comparison.values(ALONE, "CPU")
    base = Spread.of(alone).median
    for side in (ALONE, *map(beside, NEIGHBOURS)):
        cpu = comparison.values(side, "CPU")
        each = Spread.of([one / other for one, other in zip(cpu, alone, strict=True)])
        cost = next((Spread.of(comparison.values(only(n), "CPU")).median for n in NEIGHBOURS if beside(n) == side), 0.0)
        rest = Spread.of([one - signed * cost for one, signed in zip(cpu, comparison.values(side, "signed"), strict=True)]).median
        found = {name: Spread.of(comparison.values(side, name)).median for name in ("delay", "p99", "lost")}
        ratio = f"{Spread.of(cpu).median / base:.3f} ({each.q1:.3f} - {each.q3:.3f})"
        lines.append(
            f"{side:36}{Spread.of(cpu).median * 1e6:12.2f}{ratio:>22}{rest * 1e6:14.2f}{rest / base:7.3f}"
            f"{found['delay'] * 1e6:10.1f}{found['p99'] * 1e6:8.0f}{found['lost']:8.2%}"
        )
    for count in NEIGHBOURS:
        cpu = Spread.of(comparison.values(only(count), "CPU")).median
        rate = Spread.of(comparison.values(only(count), "a second")).median
        lines.append(f"{only(count)}: {rate:.0f} signed answers a second, {cpu * 1e6:.0f} µs of the server's CPU time each")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.signing", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each side in each round (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 0.5 s")
    parser.add_argument("--sign", nargs=4, metavar=("TARGET", "CA", "KEY", "COUNT"), help=argparse.SUPPRESS)
    values = parser.parse_args(arguments)
    if values.sign:
        target, authority, key, count = values.sign
        asyncio.run(ask_for_signatures(target, authority, key, int(count)))
        return 0
    # SIGTERM must also end all started processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    rounds, seconds = (2, 0.5) if values.quick else (values.rounds, values.seconds)
    with tempfile.TemporaryDirectory(prefix="tsq-signing-") as directory, running(Path(directory), seconds) as sides:
        comparison = alternate(sides, rounds)
    print(machine())
    load_ = f"{RATE:.0f} plain requests a second on {CONNECTIONS} connections"
    print(f"{rounds} interleaved rounds of {seconds:g} s for each side; {load_}\n")
    for line in table(comparison):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
