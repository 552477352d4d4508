"""What Precision Mode brings where the delay depends on the size: offsets over slow lines, with and without it (protocol R7).

    python -m benchmarks.precision [--quick] [--json precision.json]

As root. tsq-server and tsq-client are in two network namespaces with one clock, so the true offset is 0. Between them is a veth
pair: alone, shaped by a token bucket both ways (tc-tbf(8)), or behind `benchmarks.serial_link`, where each bit takes its time.
Rounds are interleaved; figures are over all samples, the first ones of each connection left out.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import machine
from benchmarks.namespaces import Namespaces
from benchmarks.processes import WITH_PARENT, Process, TsqServer
from tsq.options import Target
from tsq.quic.selfsigned import self_signed

_THEIRS, _OURS = 0, 1
# The first exchanges are the control plane's, and larger: they ask for the state of the server's clock.
_SKIPPED = 8
_INTERVAL = 0.06
_BURST = 1600
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Line:
    """A path. rate: bits a second. bucket: a token bucket in place of a serial line; None for neither."""

    name: str
    rate: float = 0
    bucket: bool = False


PATHS = (
    Line("veth alone"),
    Line("token bucket, 1 Mbit/s", 1e6, True),
    Line("serial line, 100 Mbit/s", 1e8),
    Line("serial line, 10 Mbit/s", 1e7),
    Line("serial line, 1 Mbit/s", 1e6),
    Line("serial line, 128 kbit/s", 128e3),
)
MODES = {"plain": [], "precision": ["--precision=require"]}


@dataclass(slots=True)
class Found:
    """Offsets and delays, µs."""

    offsets: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)

    def row(self) -> dict[str, float]:
        cuts = statistics.quantiles(self.offsets, n=20, method="inclusive")
        return {
            "offset": statistics.median(self.offsets), "p5": cuts[0], "p95": cuts[-1], "delay": statistics.median(self.delays),
            "samples": len(self.offsets),
        }


@contextlib.contextmanager
def over(path: Line, network: Namespaces, server: Target) -> Iterator[str]:
    """Make the path; whom a client asks at its end."""
    if path.bucket:
        shape = ["tbf", "rate", f"{path.rate:.0f}bit", "burst", f"{_BURST}", "latency", "200ms"]
        for end in (_THEIRS, _OURS):
            _tc(network, end, "add", *shape)
        try:
            yield str(server)
        finally:
            for end in (_THEIRS, _OURS):
                _tc(network, end, "delete")
    elif path.rate:
        command = [sys.executable, "-m", "benchmarks.serial_link", str(server), "--rate", str(path.rate)]
        with Process(command, prefix=network.prefix(_OURS)) as link:
            yield link.line().split()[-1]
    else:
        yield str(server)


def _tc(network: Namespaces, end: int, *words: str) -> None:
    verb, *rest = words
    command = [*network.prefix(end), "tc", "qdisc", verb, "dev", f"tsq{end}", "root", *rest]
    subprocess.run(command, check=True, timeout=10, capture_output=True)


def ask(network: Namespaces, target: str, authority: Path, count: int, more: Sequence[str], found: Found) -> None:
    """One run of tsq-client."""
    command = [
        *WITH_PARENT, *network.prefix(_OURS), sys.executable, "-m", "tsq", "client", target, "--ca", str(authority),
        "--server-name", "localhost", "--json", "--count", str(count), "--interval", str(_INTERVAL), *more,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + count * _INTERVAL, check=False, cwd=HERE.parent)
    if done.returncode:
        raise RuntimeError(done.stderr)
    [host] = json.loads(done.stdout)["hosts"]
    for sample in host["samples"][_SKIPPED:]:
        if sample["valid"]:
            found.offsets.append(sample["offset"] * 1e6)
            found.delays.append(sample["delay"] * 1e6)


def measure(rounds: int, count: int) -> dict[tuple[str, str], Found]:
    """(path, mode) -> samples."""
    found: dict[tuple[str, str], Found] = {}
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        network = Namespaces()
        address = network.addresses[_THEIRS]
        files = self_signed(place, ["localhost", address])
        stack.enter_context(network)
        server = TsqServer(files.certificate, files.key, host=address, prefix=network.prefix(_THEIRS))
        target = stack.enter_context(server).target
        for number in range(rounds):
            for path in PATHS:
                with over(path, network, target) as end:
                    for mode in list(MODES)[:: 1 if number % 2 else -1]:
                        ask(network, end, files.authority, count, MODES[mode], found.setdefault((path.name, mode), Found()))
    return found


def table(found: dict[tuple[str, str], Found]) -> list[str]:
    """Markdown."""
    lines = ["| path | mode | offset, median | 5 % to 95 % | delay, median |", "|---|---|---|---|---|"]
    for path in PATHS:
        for mode in MODES:
            row = found[path.name, mode].row()
            spread = f"{row['p5']:.1f} to {row['p95']:.1f} µs"
            lines.append(f"| {path.name} | {mode} | {row['offset']:.1f} µs | {spread} | {row['delay']:.0f} µs |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    values = parser.parse_args(arguments)
    found = measure(1 if values.quick else 3, 30 if values.quick else 60)
    print(machine())
    print("\n".join(table(found)))
    if values.json is not None:
        rows = {f"{path}, {mode}": one.row() for (path, mode), one in found.items()}
        values.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
