"""tsqd and chronyd keep the clocks of real kernels, in guests (tests/support/uml.py), through the same minutes.

    python -m benchmarks.daemons [--poll 0] [--settle 240] [--guests 2]     or `make compare-daemons`

Each guest's clock begins half a second off and 80 ppm fast, without a drift file. Truth is this machine's clock, on which the
servers run, a server of its own kind for each daemon: tsq-server, and chronyd with -x, which leaves the clock alone. Both daemons
may step an offset over a second in the first three updates. All guests run at once. Prints the median of what was seen, and the
least and the most; and what the looks cannot see: what remains of a straight line in the seconds before the daemon starts.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import guest_probe
from benchmarks.guest_probe import Probe, Seen
from tests.support.daemon import configuration, tsqd
from tests.support.processes import BIN
from tests.support.uml import GUEST, HOST, Guest, Running, guest, in_namespace, missing

PPM = 80
START_S = 0.5
STEP_S = 2.0
SLEW_S = 5e-3
ALONE_S, SILENT_S, DEAD_S, PAUSE_S, AGAIN_S = 20, 60, 9, 10, 60
# A daemon reacts to some faults with its next poll: so many polls are waited for, but no longer than that, seconds.
POLLS_AFTER, MOST_AFTER_S = 6, 200
DEFAULT = "default"
# A look's error is half of its delay at most: those of a machine that was busy say nothing.
MOST_DELAY_S = 300e-6
_PORT = 4433
_SET_TIME = "import time; time.clock_settime(0, time.time() + {})"
_TIMEX = """
import ctypes
class Timex(ctypes.Structure):
    _fields_ = [
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("constant", ctypes.c_long), ("rest", ctypes.c_char * 160),
    ]
assert ctypes.CDLL(None).adjtimex(ctypes.byref(Timex({}))) >= 0
"""
_SET_FREQUENCY = _TIMEX.format("modes=2, freq=round({} * 65536)")
# ADJ_OFFSET, ADJ_STATUS with STA_PLL, ADJ_TIMECONST, ADJ_NANO: a slew by the kernel's loop, as ntpd does it.
_SLEW = _TIMEX.format("modes=0x2031, status=1, constant=0, offset=round({} * 1e9)")
_CHRONY_SERVER = "local stratum 1\nallow\ncmdport 0\nbindcmdaddress {0}/server.sock\npidfile {0}/server.pid\n"
_CHRONY_CLIENT = """server {host} iburst {polls}
makestep 1 3
driftfile /run/chrony.drift
cmdport 0
bindcmdaddress /run/c.sock
pidfile /run/c.pid
"""


@dataclass
class Watched:
    """What was seen of one guest. marks: when something was done, monotonic seconds; boot: of the daemon's command, seconds."""

    looks: list[Seen] = field(default_factory=list)
    marks: dict[str, float] = field(default_factory=dict)
    boot: float = 0.0

    def after(self, mark: str, first: float, last: float) -> list[Seen]:
        """The looks from `first` to `last` seconds after a mark."""
        begin = self.marks[mark]
        return [look for look in self.looks if begin + first <= look.at < begin + last]

    def most(self, mark: str, first: float, last: float) -> float:
        """The largest error, µs."""
        return max(abs(look.offset) * 1e6 for look in self.after(mark, first, last))

    def rms(self, mark: str, first: float, last: float) -> float:
        return statistics.fmean((look.offset * 1e6) ** 2 for look in self.after(mark, first, last)) ** 0.5

    def right_after(self, mark: str, limit: float, last: float) -> float:
        """Seconds from a mark until the error is under a limit and stays so, to `last` seconds after the mark; infinite: never."""
        inside = self.after(mark, 0, last)
        wrong = [look.at for look in inside if abs(look.offset) > limit]
        if not wrong:
            return 0.0
        return float("inf") if wrong[-1] == inside[-1].at else wrong[-1] - self.marks[mark]

    def noise(self) -> float:
        """RMS of what remains of a straight line before the daemon starts, µs."""
        looks = self.after("alone", 0, ALONE_S)
        times, offsets = [look.at - looks[0].at for look in looks], [look.offset * 1e6 for look in looks]
        slope, offset = statistics.linear_regression(times, offsets)
        return statistics.fmean((here - offset - slope * at) ** 2 for at, here in zip(times, offsets, strict=True)) ** 0.5


class Daemon:
    """A daemon in a guest, with a server of its kind outside. poll: the exponent of the interval; None: the daemon's defaults."""

    name: str
    version: Sequence[object]

    def __init__(self, machine: Guest, poll: int | None) -> None:
        self.machine, self.poll = machine, poll
        self.running: Running | None = None
        self.server = self.serve()

    def serve(self) -> subprocess.Popen:
        """Start the server, and write the daemon's configuration."""
        raise NotImplementedError

    def command(self) -> Sequence[object]:
        raise NotImplementedError

    def start(self) -> None:
        self.running = self.machine.start(*self.command())

    def end(self, number: int) -> None:
        assert self.running is not None
        self.machine.kill(self.running.pid, number)
        self.running.wait(30)

    def boot_seconds(self) -> float:
        """How long the guest needs to run the command at all."""
        before = time.monotonic()
        self.machine.run(*self.version)
        return time.monotonic() - before


class Tsqd(Daemon):
    name = "tsqd"
    version = (BIN / "tsqd", "--version")

    def serve(self) -> subprocess.Popen:
        lab = self.machine.directory / "lab"
        options = ["--self-signed", lab, "--local-stratum", "1", "--local-error", "1e-5"]
        command = [BIN / "tsq-server", "--listen", f"{HOST}:{_PORT}", *options]
        server = self.machine.process(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert "listening" in server.stdout.readline()
        polls = (4, 10) if self.poll is None else (self.poll, self.poll)
        self._path = configuration(
            self.machine.directory, [f"{HOST}:{_PORT}"], ca=lab / "ca.pem", where=Path("/run"), polls=polls,
            more='[log]\nrecord = "/run/record.jsonl"',
        )
        return server

    def command(self) -> Sequence[object]:
        return tsqd(self._path)


class Chronyd(Daemon):
    name = "chronyd"
    version = ("chronyd", "-v")

    def serve(self) -> subprocess.Popen:
        directory = self.machine.directory
        polls = "" if self.poll is None else f"minpoll {self.poll} maxpoll {self.poll} xleave"
        (directory / "server.conf").write_text(_CHRONY_SERVER.format(directory))
        (directory / "client.conf").write_text(_CHRONY_CLIENT.format(host=HOST, polls=polls))
        command = ["chronyd", "-x", "-d", "-u", "root", "-f", directory / "server.conf"]
        return self.machine.process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def command(self) -> Sequence[object]:
        return ["chronyd", "-d", "-u", "root", "-f", self.machine.directory / "client.conf"]


@dataclass(frozen=True)
class Plan:
    """poll: see Daemon. settle: seconds until the first fault; after: seconds for what a daemon sees with its next polls."""

    poll: int | None
    settle: int
    after: int

    @classmethod
    def of(cls, poll: str, settle: int) -> "Plan":
        exponent = None if poll == DEFAULT else int(poll)
        return cls(exponent, settle, max(60, min(POLLS_AFTER << (6 if exponent is None else exponent), MOST_AFTER_S)))


def minutes(kind: type[Daemon], plan: Plan, records: Path | None) -> Watched:
    """One guest through all of it."""
    found = Watched()
    with TemporaryDirectory() as directory, guest(Path(directory)) as machine:
        machine.start(sys.executable, "-m", "benchmarks.guest_probe")
        probe = Probe(lambda: in_namespace(machine.namespace, _connected))
        daemon = kind(machine, plan.poll)
        found.boot = daemon.boot_seconds()
        machine.python(_SET_FREQUENCY.format(PPM))
        machine.python(_SET_TIME.format(START_S))

        def phase(name: str, seconds: float) -> None:
            """From now on, look at the clock."""
            found.marks[name] = time.monotonic()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                seen = probe.look()
                if seen is not None and seen.delay <= MOST_DELAY_S:
                    found.looks.append(seen)
                time.sleep(max(0.0, min(0.4, end - time.monotonic())))

        phase("alone", ALONE_S)
        daemon.start()
        phase("start", plan.settle)
        machine.python(_SET_TIME.format(STEP_S))
        phase("step", plan.after)
        machine.python(_SLEW.format(SLEW_S))
        phase("slew", plan.after)
        daemon.server.send_signal(signal.SIGSTOP)
        phase("silent", SILENT_S)
        daemon.server.send_signal(signal.SIGCONT)
        phase("answers", AGAIN_S)
        main_pid = _main_pid(machine)
        os.kill(main_pid, signal.SIGSTOP)
        time.sleep(PAUSE_S)
        os.kill(main_pid, signal.SIGCONT)
        phase("paused", AGAIN_S)
        daemon.end(signal.SIGKILL)
        phase("killed", DEAD_S)
        daemon.start()
        phase("restarted", AGAIN_S)
        daemon.end(signal.SIGTERM)
        machine.python(_SET_FREQUENCY.format(PPM))
        phase("ended", DEAD_S)
        daemon.start()
        phase("fast again", AGAIN_S)
        if records is not None and kind is Tsqd:
            text = machine.python("print(open('/run/record.jsonl').read())")
            (records / f"{machine.namespace}.jsonl").write_text(text)
        daemon.end(signal.SIGTERM)
        probe.close()
    return found


def _main_pid(machine: Guest) -> int:
    """The guest's kernel: the process whose stop stops the guest."""
    (path,) = machine.directory.glob("*/pid")
    return int(path.read_text())


def _connected() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.connect((GUEST, guest_probe.PORT))
    return made


# What is printed: a value of one guest for each row.
Row = tuple[str, Callable[[Watched, Plan], float]]
ROWS: tuple[Row, ...] = (
    ("the command alone, s", lambda it, plan: it.boot),
    ("start: under 1 ms after, s", lambda it, plan: it.right_after("start", 1e-3, plan.settle)),
    ("start: under 100 µs after, s", lambda it, plan: it.right_after("start", 100e-6, plan.settle)),
    ("start: under 20 µs after, s", lambda it, plan: it.right_after("start", 20e-6, plan.settle)),
    ("second half before the faults: RMS, µs", lambda it, plan: it.rms("start", plan.settle / 2, plan.settle)),
    ("second half before the faults: most, µs", lambda it, plan: it.most("start", plan.settle / 2, plan.settle)),
    ("+2 s by another: under 1 ms after, s", lambda it, plan: it.right_after("step", 1e-3, plan.after)),
    ("+2 s by another: under 100 µs after, s", lambda it, plan: it.right_after("step", 100e-6, plan.after)),
    ("slew of 5 ms by another: most, µs", lambda it, plan: it.most("slew", 0, plan.after)),
    ("slew of 5 ms by another: under 100 µs after, s", lambda it, plan: it.right_after("slew", 100e-6, plan.after)),
    ("server silent for 60 s: most, µs", lambda it, plan: it.most("silent", 0, SILENT_S)),
    ("guest paused for 10 s: most in the minute after, µs", lambda it, plan: it.most("paused", 0, AGAIN_S)),
    ("killed: most in 9 s, µs", lambda it, plan: it.most("killed", 0, DEAD_S)),
    ("started again: most in a minute, µs", lambda it, plan: it.most("restarted", 0, AGAIN_S)),
    ("ended, +80 ppm set, started: under 100 µs after, s", lambda it, plan: it.right_after("fast again", 100e-6, AGAIN_S)),
    ("ended, +80 ppm set, started: under 20 µs after, s", lambda it, plan: it.right_after("fast again", 20e-6, AGAIN_S)),
)


def cell(values: Iterable[float]) -> str:
    """The median, and the least and the most."""
    ordered = sorted(values)
    middle = statistics.median(ordered) if ordered[-1] != float("inf") else ordered[len(ordered) // 2]
    return f"{_number(middle)} ({_number(ordered[0])} to {_number(ordered[-1])})"


def _number(value: float) -> str:
    return "never" if value == float("inf") else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def table(plan: Plan, found: dict[str, list[Watched]]) -> list[str]:
    """In Markdown."""
    lines = ["| | " + " | ".join(found) + " |", "|---|" + "---|" * len(found)]
    for title, value in ROWS:
        lines.append(f"| {title} | " + " | ".join(cell(value(one, plan) for one in guests) for guests in found.values()) + " |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.daemons", description=__doc__, allow_abbrev=False)
    parser.add_argument("--poll", default="0", help=f"exponent of the poll interval, or '{DEFAULT}' (default: %(default)s)")
    parser.add_argument("--settle", type=int, default=240, help="seconds until the first fault (default: %(default)s)")
    parser.add_argument("--guests", type=int, default=2, help="guests of each daemon (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write all looks to this file")
    parser.add_argument("--records", type=Path, help="write tsqd's recordings (docs/reference/recordings.md) to this directory")
    values = parser.parse_args()
    if missing():
        print(f"daemons: {missing()}")
        return 1
    plan = Plan.of(values.poll, values.settle)
    kinds: list[type[Daemon]] = [Tsqd, Chronyd] * values.guests
    with ThreadPoolExecutor(len(kinds)) as pool:
        seen = list(pool.map(lambda kind: minutes(kind, plan, values.records), kinds))
    found = {kind.name: [one for one, its in zip(seen, kinds, strict=True) if its is kind] for kind in (Tsqd, Chronyd)}
    if values.json:
        named = zip(kinds, seen, strict=True)
        looks = [[kind.name, one.marks, [(it.at, it.offset, it.delay) for it in one.looks]] for kind, one in named]
        values.json.write_text(json.dumps(looks))
    poll = "of each daemon's defaults" if plan.poll is None else f"every {1 << plan.poll} s"
    print(f"start {START_S:+} s, {PPM:+} ppm; polls {poll}; {values.guests} guests of each at once\n")
    print("\n".join(table(plan, found)))
    delay = statistics.median(look.delay * 1e6 for one in seen for look in one.looks)
    print(f"\nunsteered clocks: {cell(one.noise() for one in seen)} µs RMS around a straight line in {ALONE_S} s;")
    print(f"delay of the looks: median {delay:.0f} µs; {os.cpu_count()} processors, load {os.getloadavg()[1]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
