"""|offset| between two network namespaces with one clock, so that the true offset is 0: TSQ and chronyd, in interleaved rounds.

    python -m benchmarks.accuracy [--quick] [--png accuracy.png] [--json accuracy.json]

tsq-server and a chronyd server are at one end of a veth pair, the client at the other: `benchmarks.probe` (TSQ's own client code),
or a chronyd with `noselect`, whose raw measurements are read from its log. Idle, and with a busy loop on each core. "warm" sends a
request just before each measured one, because an idle transmit path sends its first packet late. Each figure names its timestamps
T1/T2/T3/T4: U user space, K kernel. Medians, p95, p99 are of all samples; the quartiles are of the medians of the rounds. chronyd
never sets the clock (-x), and nothing here asserts an accuracy.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from benchmarks.measure import Spread, machine
from benchmarks.namespaces import Namespaces
from benchmarks.processes import WITH_PARENT, Chronyd, Process, TsqServer, have
from tsq.options import Target
from tsq.quic.selfsigned import self_signed

LOADS = ("idle", "both cores loaded")
XLEAVE, BASIC = "chronyd xleave, 64/s", "chronyd basic, 64/s"
EXACT, WARM = "TSQ exact T3, {}/s", "TSQ exact T3, {}/s, warm"
PLAIN, PLAIN_WARM = "TSQ, {}/s", "TSQ, {}/s, warm"
NTP_PORT, NTS_PORT = 11123, 14460
# The first samples do not count: those of a new connection, and of a chronyd that is still starting.
_SKIPPED = 16
_START = 1.5
_OURS, _THEIRS = 1, 0
_COLORS = {"TSQ exact": ("#0b7a3b", "#5fbf7f"), "TSQ": ("#1f4e9c", "#7fa8e0"), "chronyd": ("#b5460f", "#e0a070")}


@dataclass(slots=True)
class Found:
    """Samples of one side with one load, of all rounds and of each round. Offsets, delays and gaps in µs."""

    offsets: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    rounds: list[list[float]] = field(default_factory=list)
    stamps: set[str] = field(default_factory=set)
    wanted: int = 0

    def add(
        self, offsets: Sequence[float], stamps: set[str], wanted: int, delays: Sequence[float], gaps: Sequence[float] = ()
    ) -> None:
        self.offsets += offsets
        self.rounds.append(list(offsets))
        self.delays += delays
        self.stamps |= stamps
        self.wanted += wanted
        self.gaps += gaps
        if offsets:
            self.medians.append(statistics.median(map(abs, offsets)))

    def quantiles(self) -> tuple[float, float, float]:
        """Median, p95, p99 of |offset|."""
        if len(self.offsets) < 2:
            return (float("nan"),) * 3
        cuts = statistics.quantiles(map(abs, self.offsets), n=200, method="inclusive")
        return cuts[99], cuts[189], cuts[197]


class Measure(Protocol):
    def __call__(self, seconds: float, found: Found) -> None: ...


@dataclass(frozen=True, slots=True)
class Goal:
    """The largest |offset| of a side in µs, or no more than that of another side."""

    side: str
    median: float | None = None
    p99: float | None = None
    no_more_than: str | None = None


GOALS = [
    *(Goal(EXACT.format(rate), 0.6, 1.3, XLEAVE) for rate in (64, 1000)),
    Goal(WARM.format(64), 0.6, 1.3, XLEAVE),
    *(Goal(PLAIN.format(rate), no_more_than=BASIC) for rate in (64, 1000)),
    Goal(PLAIN_WARM.format(64), no_more_than=BASIC),
]


class World:
    """Servers at one end, clients at the other."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.network = Namespaces()
        self.address = self.network.addresses[_THEIRS]
        self.files = self_signed(str(directory), ["localhost", self.address])
        # Set while the servers run.
        self.target: Target

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start the network, tsq-server, and chronyd if it is installed."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.network)
            there = self.network.prefix(_THEIRS)
            server = TsqServer(self.files.certificate, self.files.key, host=self.address, prefix=there)
            self.target = stack.enter_context(server).target
            if have("chronyd"):
                configuration = [
                    f"port {NTP_PORT}", f"bindaddress {self.address}", "allow", "local stratum 1", f"ntsport {NTS_PORT}",
                    f"ntsservercert {self.files.certificate}", f"ntsserverkey {self.files.key}",
                ]
                stack.enter_context(Chronyd(self._directory / "server", configuration, prefix=there))
            yield

    def sides(self) -> dict[str, Measure]:
        """The measured sides."""
        sides: dict[str, Measure] = {}
        for rate in (64, 1000):
            sides[EXACT.format(rate)] = partial(self.tsq, rate, exact=True)
            sides[PLAIN.format(rate)] = partial(self.tsq, rate)
        sides[WARM.format(64)] = partial(self.tsq, 64, exact=True, warm=True)
        sides[PLAIN_WARM.format(64)] = partial(self.tsq, 64, warm=True)
        if have("chronyd"):
            sides[XLEAVE] = partial(self.chronyd, "xleave")
            sides[BASIC] = partial(self.chronyd, "")
        return sides

    def tsq(
        self, rate: int, seconds: float, found: Found, *, exact: bool = False, warm: bool = False, stream: bool = False,
        target: Target | None = None, skipped: int = _SKIPPED,
    ) -> None:
        """Measure with TSQ's client; rate: requests a second."""
        flags = [flag for flag, on in (("--exact", exact), ("--warm", warm), ("--stream", stream)) if on]
        command = [
            *WITH_PARENT, *self.network.prefix(_OURS), sys.executable, "-m", "benchmarks.probe", str(target or self.target),
            "--ca", str(self.files.authority), "--rate", str(rate), "--seconds", str(seconds), *flags,
        ]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=seconds + 30, check=True, cwd=Path(__file__).parent.parent,
            process_group=0,
        )
        rows = json.loads(done.stdout)[skipped:]
        offsets, gaps, delays, stamps = [], [], [], set()
        for t1, t2, t3, t4, left, t1_source, t4_source in rows:
            if left is not None:
                gaps.append((left - t3) / 1e3)
            if exact and left is None:
                continue
            sent = left if exact else t3
            offsets.append(((t2 - t1) + (sent - t4)) / 2e3)
            delays.append(((t4 - t1) - (sent - t2)) / 1e3)
            stamps.add(f"{t1_source[0]}k{'k' if exact else 'u'}{t4_source[0]}".upper())
        found.add(offsets, stamps, int(rate * seconds) - skipped, delays, gaps)

    def chronyd(self, mode: str, seconds: float, found: Found, *, nts: bool = False, poll: int = -6) -> None:
        """Measure with a chronyd that polls every 2**poll seconds; use the last samples of its log."""
        with tempfile.TemporaryDirectory(dir=self._directory) as place:
            directory = Path(place)
            secured = [f"nts ntsport {NTS_PORT}"] if nts else [f"port {NTP_PORT}"]
            server = " ".join([f"server {self.address}", *secured, f"noselect minpoll {poll} maxpoll {poll}", mode])
            trust = ["nosystemcert", f"ntstrustedcerts {self.files.authority}", f"ntsdumpdir {directory}"] if nts else []
            client = Chronyd(directory, ["port 0", server, *trust, "log rawmeasurements"], prefix=self.network.prefix(_OURS))
            with client:
                time.sleep(_START + seconds)
            logs = [file for name in ("rawmeasurements.log", "measurements.log") if (file := directory / name).exists()]
            lines = logs[0].read_text().splitlines() if logs else []
        rows = [line.split() for line in lines if line[:1].isdigit()]
        wanted = int(2.0**-poll * seconds)
        # The last columns: mode ("4B": basic, "4I": interleaved), and the sources of T1 and T4 ("D": the daemon). The server's
        # kernel takes T2, and in interleaved mode T3; in basic mode T3 is in the packet, so the daemon takes it.
        rows = [row for row in rows if len(row) >= 20 and row[-3][-1] == ("I" if mode else "B")][-wanted:]
        stamps = {f"{row[-2]}K{'K' if mode else 'U'}{row[-1]}".replace("D", "U") for row in rows}
        found.add([float(row[11]) * 1e6 for row in rows], stamps, wanted, [float(row[12]) * 1e6 for row in rows])


def busy_share() -> tuple[float, float]:
    """(busy, all) CPU seconds of this machine so far."""
    ticks = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
    return float(sum(ticks) - ticks[3] - ticks[4]), float(sum(ticks))


@contextlib.contextmanager
def loaded(load: str, seconds: float) -> Iterator[None]:
    """Run a busy loop on each core, unless the load is idle."""
    loop = f"import time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
    with contextlib.ExitStack() as stack:
        if load != LOADS[0]:
            for _ in range(os.cpu_count() or 1):
                stack.enter_context(Process([sys.executable, "-c", loop]))
        yield


def measure(directory: Path, rounds: int, seconds: float) -> tuple[dict[tuple[str, str], Found], dict[str, float]]:
    """(side, load) -> samples; load -> the median busy share of the cores."""
    found: dict[tuple[str, str], Found] = {}
    busy: dict[str, list[float]] = {load: [] for load in LOADS}
    world = World(directory)
    with world.running():
        sides = world.sides()
        for number in range(rounds):
            names = list(sides) if number % 2 == 0 else list(sides)[::-1]
            for load in LOADS:
                with loaded(load, (seconds + 10) * len(sides) + 60):
                    for name in names:
                        before = busy_share()
                        sides[name](seconds, found.setdefault((name, load), Found()))
                        after = busy_share()
                        busy[load].append((after[0] - before[0]) / max(1.0, after[1] - before[1]))
    return found, {load: statistics.median(shares) for load, shares in busy.items()}


def table(found: Mapping[tuple[str, str], Found]) -> list[str]:
    """A line for each side and load."""
    rows = [("|offset| in µs", "", "median", "(of rounds)", "p95", "p99", "signed median", "T3 to wire", "samples", "T1-T4")]
    for load in LOADS:
        first = load
        for (side, under), one in found.items():
            if under != load:
                continue
            median, p95, p99 = one.quantiles()
            each = Spread.of(one.medians or [float("nan")])
            rows.append((
                first, side, f"{median:.2f}", f"({each.q1:.2f} - {each.q3:.2f})", f"{p95:.2f}", f"{p99:.2f}",
                f"{statistics.median(one.offsets):+z.2f}" if one.offsets else "-",
                f"{statistics.median(one.gaps):.2f}" if one.gaps else "-",
                f"{len(one.offsets)} of {one.wanted}", " ".join(sorted(one.stamps)),
            ))
            first = ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def verdicts(found: Mapping[tuple[str, str], Found]) -> list[str]:
    """A line for each goal and load."""
    lines = []
    for goal in GOALS:
        for load in LOADS:
            one, other = found.get((goal.side, load)), found.get((goal.no_more_than or "", load))
            if one is None or not one.offsets:
                continue
            median, _, p99 = one.quantiles()
            parts = [
                f"{name} {value:.2f} (goal {most:g}) {'met' if value <= most else 'MISSED'}"
                for name, value, most in (("median", median, goal.median), ("p99", p99, goal.p99)) if most is not None
            ]
            if other is not None and other.offsets:
                theirs = other.quantiles()
                verdict = "met" if median <= theirs[0] else "MISSED"
                parts.append(
                    f"{goal.no_more_than}: median x{median / theirs[0]:.2f} {verdict}, p99 x{p99 / theirs[2]:.2f} "
                    f"{'met' if p99 <= theirs[2] else 'MISSED'}"
                )
            lines.append(f"{goal.side}, {load}: {'; '.join(parts)}")
    return lines


def draw(found: Mapping[tuple[str, str], Found], file: str) -> str:
    """Draw the distributions; a message about the file."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - optional
    except ImportError:
        return "no picture: matplotlib is not installed"
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, 2, figsize=(13, 6.4), sharey=True)
    for axis, load in zip(axes, LOADS, strict=True):
        for (side, under), one in found.items():
            if under == load and one.offsets:
                values = sorted(max(0.01, abs(offset)) for offset in one.offsets)
                shares = [(n + 1) / len(values) * 100 for n in range(len(values))]
                stamps = " ".join(sorted(one.stamps))
                axis.plot(values, shares, label=f"{side} ({stamps})", **_style(side))
        axis.set_xscale("log")
        axis.set_xlim(0.01, 100)
        axis.set_xticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
        axis.set_xlabel("|offset| in µs (the true offset is 0)")
        axis.set_title(load)
        axis.grid(True, which="major", alpha=0.35)
    axes[0].set_ylabel("% of samples at or below")
    handles, labels = axes[0].get_legend_handles_labels()
    title = "in brackets the sources of T1 T2 T3 T4: U user space, K kernel"
    figure.legend(handles, labels, loc="lower center", ncols=2, frameon=False, fontsize=9, title=title)
    figure.suptitle("Offset between two network namespaces with one clock")
    figure.tight_layout(rect=(0, 0.21, 1, 1))
    figure.savefig(file, dpi=110, facecolor="white")
    return f"distributions: {file}"


def _style(side: str) -> dict[str, object]:
    family = next(name for name in _COLORS if side.startswith(name))
    dark = "1000/s" in side or "xleave" in side or ("64/s" in side and "warm" not in side and family != "chronyd")
    line = "-" if "warm" not in side else ":"
    return {
        "color": _COLORS[family][0 if dark else 1],
        "linestyle": "--" if "1000/s" in side else line,
        "linewidth": 2.2 if "exact" in side or "xleave" in side else 1.5,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.accuracy", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each side in each round (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="1 round of 2 seconds")
    parser.add_argument("--png", metavar="FILE", help="draw the distributions")
    parser.add_argument("--json", metavar="FILE", help="keep all offsets")
    values = parser.parse_args(arguments)
    if os.geteuid() or not have("ip", "nsenter", "unshare", "setpriv"):
        print("network namespaces need root, iproute2 and util-linux")
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    rounds, seconds = (1, 2.0) if values.quick else (values.rounds, min(60.0, values.seconds))
    with tempfile.TemporaryDirectory(prefix="tsq-accuracy-") as directory:
        found, busy = measure(Path(directory), rounds, seconds)
    print(machine())
    print(
        f"{rounds} interleaved rounds of {seconds:g} s for each side and load; cores busy: "
        + ", ".join(f"{load} {share:.0%}" for load, share in busy.items())
        + "; stamps of T1 T2 T3 T4: U user space, K kernel\n"
    )
    for line in [*table(found), "", *verdicts(found)]:
        print(line)
    if values.json:
        Path(values.json).write_text(json.dumps({f"{side}, {load}": one.offsets for (side, load), one in found.items()}))
    if values.png:
        print(draw(found, values.png))
    return 0


if __name__ == "__main__":
    sys.exit(main())
