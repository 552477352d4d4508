"""tsqd for an hour against three servers, while all of that goes wrong which goes wrong in a year: `make endurance MINUTES=60`.

The daemon observes, and has no right to set a clock; it and the servers run in two network namespaces. All of them read one clock,
so the truth is known: the true time is what this clock says. Each second the daemon is asked for its status, and bounded time is
read from its segment. It fails where an interval is without the truth, where the daemon does not answer or recover, and where
descriptors, threads or memory grow. The order and the times of the faults come from a seed.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from tests.support.daemon import tsqd
from tests.support.harmless import give_up_the_clock, holds
from tests.support.namespaces import Pair, etc, inside, ip, pair, set_kernel
from tests.support.processes import BIN
from tsq.daemon.control_client import ask
from tsq.errors import ControlError, NoBoundedTime
from tsq.host.segment import TimeStatus, now
from tsq.quic.selfsigned import CertificateFiles, self_signed

PORT = 4433
NAMES = ("one.test", "two.test", "three.test")
LIE_S = 0.25
RECOVERY_S = 60.0
# From the second quarter of a run to the last one; in a short run from the first one, in which the first handshakes take theirs.
MOST_MORE_RSS_MB = 3.0
MOST_MORE_RSS_MB_AT_FIRST = 6.0
# Spare places that a busy moment may take: a look-up's, a connection that is made beside an old one, one of the control socket.
MOST_MORE_FILES = 6
_NETWORK = "10.214.0"
_CLIENT_ADDRESSES = (f"{_NETWORK}.1", f"{_NETWORK}.2")
# In the servers' namespace. Sends garbage: to the daemon's ports as if from the servers, and to the servers.
_FLOOD = """
import random, socket, struct, sys, time
seed, seconds, rate = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
paths = [(a, int(b), c, int(d)) for a, b, c, d in (word.split(",") for word in sys.argv[4:])]
dice, raw = random.Random(seed), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
end, sent = time.monotonic() + seconds, 0
begin = time.monotonic()
while (now := time.monotonic()) < end:
    while sent < (now - begin) * rate:
        source, sport, host, port = dice.choice(paths)
        body = bytes([dice.choice([0x40, 0x43, 0xC3, 0xE0, 0x00, 0x80])]) + dice.randbytes(dice.choice([0, 7, 30, 90, 1199, 1300]))
        if body[0] & 0x80 and len(body) > 5:
            body = body[:1] + dice.choice([bytes(4), bytes([0, 0, 0, 1]), body[1:5]]) + body[5:]
        udp = struct.pack("!HHHH", sport, port, 8 + len(body), 0) + body
        ends = socket.inet_aton(source) + socket.inet_aton(host)
        head = struct.pack("!BBHHHBBH8s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, ends)
        try:
            raw.sendto(head + udp, (host, 0))
        except OSError:
            pass
        sent += 1
    time.sleep(0.005)
"""


@dataclass
class Look:
    """One second: what the daemon says, and what it takes. status: empty where it did not answer."""

    at: float
    status: str = ""
    offset: float | None = None
    bound: float | None = None
    used: int = 0
    sources: int = 0
    true: bool = True
    files: int = 0
    threads: int = 0
    rss_mb: float = 0.0
    cpu_s: float = 0.0
    bounded: str = ""
    bounded_true: bool = True


@dataclass
class Outcome:
    """What came of a run."""

    looks: list[Look] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    recovery: dict[str, list[float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    flooded: int = 0


class Servers:
    """The three servers, each at an address of its own in the second namespace; they come and go."""

    def __init__(self, namespace: str, device: str, files: CertificateFiles, log: Path) -> None:
        self._namespace, self._device, self._files, self._log = namespace, device, files, log
        self.addresses = [f"{_NETWORK}.{11 + number}" for number in range(len(NAMES))]
        self._spare = [f"{_NETWORK}.{21 + number}" for number in range(len(NAMES))]
        self._running: dict[int, subprocess.Popen[str]] = {}

    @property
    def hosts(self) -> str:
        """The text of /etc/hosts for whoever looks for them."""
        return "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for address, name in zip(self.addresses, NAMES, strict=True))

    def start(self, number: int, shift_s: float = 0.0) -> None:
        address = f"{self.addresses[number]}:{PORT}"
        files = [self._files.certificate, self._files.key]
        if shift_s:
            command = [sys.executable, "-m", "tests.support.shifted_server", address, *files, shift_s]
        else:
            options = ["--cert", files[0], "--key", files[1], "--local-stratum", 1, "--workers", 1]
            command = [BIN / "tsq-server", "--listen", address, *options]
            command += ["--local-error", "1e-5", "--log-level", "error"]
        with self._log.open("a") as log:
            process = subprocess.Popen(
                [*inside(self._namespace), *map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                text=True, process_group=0, cwd=Path(__file__).parent.parent,
            )
        self._running[number] = process
        assert process.stdout is not None
        line = process.stdout.readline()
        if "listening" not in line:
            raise RuntimeError(f"a server did not start: {line!r}, {self._log.read_text()[-500:]}")

    def send_signal(self, number: int, kind: signal.Signals) -> None:
        self._running[number].send_signal(kind)

    def stop(self, number: int, kind: signal.Signals = signal.SIGTERM) -> None:
        process = self._running.pop(number)
        process.send_signal(signal.SIGCONT)
        process.send_signal(kind)
        process.communicate(timeout=20)

    def move(self, number: int) -> None:
        """Give it the other address."""
        self.addresses[number], self._spare[number] = self._spare[number], self.addresses[number]

    def close(self) -> None:
        for number in list(self._running):
            self.stop(number)


class Rig:
    """The namespaces, the servers and the daemon, until the end of the `with`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._set_up()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def _set_up(self) -> None:
        # The daemon's user, if it takes another one, reads these.
        self.directory.chmod(0o755)
        self.files = self_signed(str(self.directory / "certificates"), list(NAMES))
        spare = [f"{_NETWORK}.{first + number}" for first in (11, 21) for number in range(len(NAMES))]
        self.link: Pair = self._stack.enter_context(pair([_CLIENT_ADDRESSES[0]], spare))
        # Without that, the first address of a network takes all others with it.
        set_kernel(self.link.one, ipv4__conf__all__promote_secondaries=1)
        self.servers = Servers(self.link.other, self.link.devices[1], self.files, self.directory / "servers.log")
        self._stack.enter_context(etc(self.link.one, hosts=self.servers.hosts))
        self._hosts = Path("/etc/netns") / self.link.one / "hosts"
        self._stack.callback(self.servers.close)
        for number in range(len(NAMES)):
            self.servers.start(number)
        self.configure(range(len(NAMES)))
        self.log = self.directory / "tsqd.log"
        with self.log.open("w") as log:
            command = [*inside(self.link.one), *map(str, tsqd(self.directory / "tsqd.toml"))]
            self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0)
        self._stack.callback(self._end)

    def _end(self) -> None:
        self.daemon.send_signal(signal.SIGCONT)
        self.daemon.terminate()
        try:
            self.daemon.wait(20)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait(20)
            raise

    def configure(self, numbers: Sequence[int] | range) -> None:
        """Write the configuration, with these servers."""
        place = self.directory
        tables = [
            f'[clock]\nmode = "observe"\ndrift_file = "{place}/drift.json"\n',
            f'[control]\nsocket = "{place}/control"\n',
            f'[feed]\nsegment = "{place}/now"\n',
            *(
                f'[[source]]\nhost = "{NAMES[number]}:{PORT}"\nca = "{self.files.authority}"\nminpoll = 0\nmaxpoll = 2\n'
                for number in numbers
            ),
        ]
        path = place / "tsqd.toml"
        path.write_text("\n".join(tables))
        path.chmod(0o644)

    def publish_names(self) -> None:
        """Tell the daemon's namespace where the servers are; the file keeps its place, for it is mounted."""
        self._hosts.write_text(self.servers.hosts)

    def ports(self) -> list[int]:
        """The daemon's UDP ports."""
        lines = Path(f"/proc/{self.daemon.pid}/net/udp").read_text().splitlines()[1:]
        return [int(line.split()[1].split(":")[1], 16) for line in lines]

    def client_address(self, address: str, *, remove: str, both: bool) -> None:
        """Give the daemon's side another address. both: for a moment it has both, else none."""
        device = self.link.devices[0]
        changes = [("add", address), ("delete", remove)]
        for word, which in changes if both else reversed(changes):
            ip("-n", self.link.one, "address", word, f"{which}/24", "dev", device)

    # What is seen.

    def look(self, at: float) -> Look:
        """Ask, read, compare with the truth."""
        it = Look(at)
        pid = self.daemon.pid
        try:
            it.files = len(os.listdir(f"/proc/{pid}/fd"))
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
            it.threads, it.rss_mb = int(status["Threads"]), int(status["VmRSS"].split()[0]) / 1024
            it.cpu_s = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
        except (OSError, KeyError):
            return it
        self.read_segment(it)
        try:
            said: dict[str, Any] = ask(str(self.directory / "control"), "status", patience=2.0)
        except ControlError:
            return it
        tracking, listed = said["tracking"], said["sources"]
        it.status, it.offset, it.bound = tracking["status"], tracking["offset"], tracking["bound"]
        # Used, and its last poll was answered.
        it.used = sum(source["mark"] in ("*", "+") and source["reach"] & 1 for source in listed)
        it.sources = len(listed)
        if tracking["earliest_ns"] is not None:
            it.true = tracking["earliest_ns"] <= tracking["real_ns"] <= tracking["latest_ns"]
        if it.bound is not None and it.offset is not None:
            # The clock's own error is 0: the bound must not be smaller than what is said of it.
            it.true = it.true and abs(it.offset) <= it.bound
        return it

    def read_segment(self, it: Look) -> None:
        try:
            before = time.time_ns()
            read = now(str(self.directory / "now"))
            after = time.time_ns()
        except NoBoundedTime:
            return
        it.bounded = read.status.name.lower()
        if read.status not in (TimeStatus.UNSYNCHRONIZED, TimeStatus.DISRUPTED):
            it.bounded_true = read.earliest_ns <= after and before <= read.latest_ns


class Endurance:
    """Faults in turn, each kind once in a round, in an order and with times of the seed's; looks all the while."""

    def __init__(self, rig: Rig, seed: int, *, short: bool) -> None:
        self._rig = rig
        self._dice = Random(seed)
        self._short = short
        self._begin = time.monotonic()
        self._next = self._begin
        self._listed = set(range(len(NAMES)))
        self._client = 0
        self.outcome = Outcome()

    @property
    def faults(self) -> dict[str, Callable[[], None]]:
        return {
            "server killed": self._killed,
            "server moves": self._server_moves,
            "this side moves": self._client_moves,
            "flood": self._flood,
            "daemon paused": self._daemon_paused,
            "server paused": self._server_paused,
            "source removed": self._reloads,
            "all servers down": self._all_down,
            "a liar": self._liar,
        }

    def run(self, seconds: float) -> Outcome:
        """Rounds of all faults until the time is over, and at least one round."""
        end = self._begin + seconds
        self._wait_until_right("start", RECOVERY_S)
        while True:
            kinds = list(self.faults)
            self._dice.shuffle(kinds)
            for kind in kinds:
                self.faults[kind]()
                self.outcome.done[kind] += 1
                self._wait_until_right(kind, RECOVERY_S)
                self._watch(self._length(1.0, 4.0))
                if time.monotonic() >= end and all(self.outcome.done[one] for one in self.faults):
                    self._judge()
                    return self.outcome

    def _length(self, least: float, most: float) -> float:
        """So long, in a short run; in a long one up to five times as long."""
        length = self._dice.uniform(least, most)
        return length if self._short else length * self._dice.choice([1, 1, 2, 5])

    def _look(self) -> Look:
        """The next second's look."""
        self._next = max(self._next + 1.0, time.monotonic())
        time.sleep(max(0.0, self._next - time.monotonic()))
        if self._rig.daemon.poll() is not None:
            raise RuntimeError(f"the daemon has ended: {self._rig.log.read_text()[-2000:]}")
        look = self._rig.look(time.monotonic() - self._begin)
        self.outcome.looks.append(look)
        if len(self.outcome.looks) % 60 == 0:
            sys.stderr.write(f"{look.at / 60:.0f} min, {len(self.outcome.problems)} problems\n")
        for name, true in (("status", look.true), ("bounded time", look.bounded_true)):
            if not true:
                self.outcome.problems.append(f"at {look.at:.0f} s: false {name}: {look}")
        return look

    def _watch(self, seconds: float) -> list[Look]:
        """Look for so long, and at least once; the looks."""
        end = time.monotonic() + seconds
        looks = [self._look()]
        while time.monotonic() < end:
            looks.append(self._look())
        return looks

    def _wait_until_right(self, what: str, most: float) -> None:
        """Until the clock is synchronized by at least two sources of all that are configured."""
        begin = time.monotonic()
        while True:
            look = self._look()
            if look.status == "synchronized" and look.used >= 2 and look.sources == len(self._listed):
                self.outcome.recovery.setdefault(what, []).append(time.monotonic() - begin)
                return
            if time.monotonic() > begin + most:
                self.outcome.problems.append(f"at {look.at:.0f} s: not right again in {most:.0f} s after: {what}: {look}")
                return

    def _any(self) -> int:
        return self._dice.randrange(len(NAMES))

    # Faults.

    def _killed(self) -> None:
        servers, number = self._rig.servers, self._any()
        servers.stop(number, self._dice.choice([signal.SIGKILL, signal.SIGTERM]))
        self._watch(self._length(1.0, 4.0))
        servers.start(number)

    def _server_moves(self) -> None:
        servers, number = self._rig.servers, self._any()
        servers.stop(number, signal.SIGKILL)
        servers.move(number)
        self._rig.publish_names()
        servers.start(number)
        self._watch(self._length(2.0, 4.0))

    def _client_moves(self) -> None:
        old = _CLIENT_ADDRESSES[self._client]
        self._client = 1 - self._client
        self._rig.client_address(_CLIENT_ADDRESSES[self._client], remove=old, both=self._dice.random() < 0.5)
        self._watch(self._length(2.0, 4.0))

    def _flood(self) -> None:
        here, seconds = _CLIENT_ADDRESSES[self._client], self._length(2.0, 4.0)
        servers = self._rig.servers.addresses
        paths = [f"{server},{PORT},{here},{port}" for server in servers for port in self._rig.ports()]
        paths += [f"{_NETWORK}.99,{self._dice.randrange(1024, 65536)},{server},{PORT}" for server in servers]
        rate = 400 if self._short else 1000
        command = [*inside(self._rig.link.other), sys.executable, "-c", _FLOOD, str(self._dice.randrange(1 << 30)), str(seconds)]
        with subprocess.Popen([*command, str(rate), *paths], process_group=0) as process:
            self._watch(seconds)
            if process.wait(seconds + 20) != 0:
                self.outcome.problems.append("the flood could not be sent")
        self.outcome.flooded += round(rate * seconds)

    def _daemon_paused(self) -> None:
        self._rig.daemon.send_signal(signal.SIGSTOP)
        try:
            seconds = self._length(2.0, 4.0)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                # It cannot answer; what it left in the segment must stay true.
                time.sleep(0.5)
                look = Look(time.monotonic() - self._begin)
                self._rig.read_segment(look)
                if not look.bounded_true:
                    self.outcome.problems.append(f"at {look.at:.0f} s: false bounded time of a paused daemon: {look}")
        finally:
            self._rig.daemon.send_signal(signal.SIGCONT)

    def _server_paused(self) -> None:
        number = self._any()
        self._rig.servers.send_signal(number, signal.SIGSTOP)
        self._watch(self._length(2.0, 4.0))
        self._rig.servers.send_signal(number, signal.SIGCONT)

    def _reloads(self) -> None:
        number = self._any()
        for numbers in (sorted(self._listed - {number}), sorted(self._listed)):
            self._rig.configure(numbers)
            self._rig.daemon.send_signal(signal.SIGHUP)
            looks = self._watch(self._length(1.5, 3.0))
            if looks[-1].status and looks[-1].sources != len(numbers):
                count = looks[-1].sources
                self.outcome.problems.append(f"at {looks[-1].at:.0f} s: {count} sources, not {len(numbers)}, after a reload")

    def _all_down(self) -> None:
        servers = self._rig.servers
        for number in range(len(NAMES)):
            servers.stop(number, signal.SIGKILL)
        self._watch(2.0)
        bounds = [look.bound for look in self._watch(self._length(4.0, 7.0)) if look.bound is not None]
        # A source that has been silent for long votes no more: the others may agree on less.
        if len(bounds) < 2 or bounds[-1] <= bounds[0]:
            self.outcome.problems.append(f"the bound did not grow without servers: {bounds}")
        for number in range(len(NAMES)):
            servers.start(number)

    def _liar(self) -> None:
        servers, number = self._rig.servers, self._any()
        servers.stop(number, signal.SIGKILL)
        servers.start(number, self._dice.choice([-LIE_S, LIE_S]))
        self._watch(self._length(4.0, 7.0))
        servers.stop(number, signal.SIGKILL)
        servers.start(number)

    def _judge(self) -> None:
        """What grew, and what is in the log."""
        found = self.outcome
        answered = [look for look in found.looks if look.status]
        part = max(5, len(answered) // 4)
        first, last = answered[:part] if self._short else answered[part : 2 * part], answered[-part:]
        memory = MOST_MORE_RSS_MB_AT_FIRST if self._short else MOST_MORE_RSS_MB
        for what, more in (("files", MOST_MORE_FILES), ("threads", 2), ("rss_mb", memory)):
            before, after = (statistics.median(getattr(look, what) for look in looks) for looks in (first, last))
            if after > before + more:
                found.problems.append(f"{what} grew from {before:.1f} to {after:.1f}")
        unanswered = len(found.looks) - len(answered)
        if unanswered > max(3, 0.02 * len(found.looks)):
            found.problems.append(f"{unanswered} of {len(found.looks)} questions were not answered")
        log = self._rig.log.read_text()
        for word in ("Traceback", "Task exception", "never awaited"):
            if word in log:
                found.problems.append(f"the daemon's log has {word!r}: {log[log.index(word) :][:1500]}")
        if holds(self._rig.daemon.pid):
            found.problems.append("the daemon had the right to set the clock")


def table(found: Outcome) -> Iterator[str]:
    """The lines to print."""
    looks = [look for look in found.looks if look.status]
    statuses, bounded = Counter(look.status for look in looks), Counter(look.bounded for look in found.looks)
    yield f"{len(found.looks)} looks, {len(found.looks) - len(looks)} without an answer; {found.flooded} packets of garbage"
    yield "status:       " + ", ".join(f"{name} {count}" for name, count in statuses.most_common())
    yield "bounded time: " + ", ".join(f"{name or 'none'} {count}" for name, count in bounded.most_common())
    false = sum(not look.true for look in looks), sum(not look.bounded_true for look in found.looks)
    yield f"false:        {false[0]} statuses, {false[1]} intervals of bounded time"
    offsets = sorted(abs(look.offset) for look in looks if look.offset is not None)
    bounds = sorted(look.bound for look in looks if look.bound is not None)
    for name, values in (("offset", offsets), ("bound", bounds)):
        median, most, last = (values[int(len(values) * share)] * 1e6 for share in (0.5, 0.99, 0.99999))
        yield f"{name:13} median {median:.1f} µs, 99 % {most:.1f} µs, most {last:.1f} µs"
    yield ""
    yield "fault              times   right again after, s: median, most"
    for kind, times in found.recovery.items():
        yield f"{kind:18} {found.done[kind] or 1:5}   {statistics.median(times):8.1f} {max(times):8.1f}"
    yield ""
    yield "time, min   files   threads   RSS, MB   CPU, s"
    step = max(1, len(looks) // 10)
    for look in [*looks[::step], looks[-1]]:
        yield f"{look.at / 60:9.1f} {look.files:7} {look.threads:9} {look.rss_mb:9.1f} {look.cpu_s:8.2f}"


@contextmanager
def rig() -> Iterator[Rig]:
    """A rig in a directory of its own."""
    with TemporaryDirectory(prefix="tsq-endurance-") as directory, Rig(Path(directory)) as made:
        yield made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.endurance", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="short faults, one after the other")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all looks")
    values = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    give_up_the_clock()
    with rig() as made:
        found = Endurance(made, values.seed, short=values.short).run(values.minutes * 60)
    sys.stdout.write("\n".join(table(found)) + "\n")
    if values.json:
        values.json.write_text(json.dumps([vars(look) for look in found.looks]))
    for problem in found.problems:
        sys.stdout.write(f"VIOLATION: {problem}\n")
    sys.stdout.write("no violation\n" if not found.problems else f"{len(found.problems)} violations\n")
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
