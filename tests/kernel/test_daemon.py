"""tsqd keeps the clock of a real kernel: in guests with a clock of their own, against a server on this machine, whose clock is the
truth. The guests run at once, each as long as it needs; the tests look at what came of them.

In CI the guests are there. Elsewhere the tests are skipped with the reason.
"""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from tests.kernel import bounds
from tests.kernel.test_real_clock import PORT, SET_FREQUENCY, SET_TIME, adjtime, spoil, state
from tests.support.daemon import configuration, tsqctl, tsqd
from tests.support.processes import BIN
from tests.support.uml import GUEST, HOST, ROOT, Done, Guest, Running, guest, in_namespace, missing
from tests.test_units import allowed_calls, needs_analyze, needs_strace
from tsq.quic.selfsigned import self_signed

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there are guests")

PPM = 80
# In the guest's own memory.
RUN = Path("/run")
SERVER_OPTIONS = ["--local-stratum", "1", "--local-error", "1e-5", "--retry", "never"]
# Another program's slew, by the kernel's loop: ADJ_OFFSET | ADJ_STATUS | ADJ_TIMECONST | ADJ_NANO with STA_PLL, as ntpd does it.
SLEW = 0.02
FOREIGN_SLEW = """
import ctypes
class Timex(ctypes.Structure):
    _fields_ = [
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("constant", ctypes.c_long), ("rest", ctypes.c_char * 160),
    ]
assert ctypes.CDLL(None).adjtimex(ctypes.byref(Timex(modes=0x2031, status=1, constant=0, offset=round({} * 1e9)))) >= 0
"""
# 2027-01-01 00:00:00 UTC, and what a table says of it: TAI - UTC was 37 s, and is 38 s then.
MIDNIGHT = 1_798_761_600
LEAPS = "#@ 4070908800\n3692217600 37\n4007750400 38\n"
TIME_OK, TIME_INS, TIME_OOP, TIME_WAIT = 0, 1, 3, 4

@dataclass(frozen=True)
class Look:
    """The guest's clock minus this machine's, and the error of this look; at: seconds since the story began.

    said: by the kernel and the daemon just then (tests/kernel/bounds.py); after: the offset after that.
    """

    at: float
    offset: float
    error: float
    said: dict
    after: float

    @property
    def proven(self) -> float:
        """The clock is at least so wrong."""
        return max(abs(self.offset) - self.error, 0.0)

    @property
    def proven_then(self) -> float:
        """The clock was at least so wrong when something was said of it: a slew moves it meanwhile."""
        low, high = sorted((self.offset, self.after))
        return max(low, -high, 0.0) - self.error

    @property
    def bounds(self) -> list[float]:
        """What the kernel and the daemon say that it can be wrong at most, if they know it."""
        found = [self.said["max_error"]] if self.said["synchronized"] else []
        tracking = self.said["tracking"]
        if tracking is not None and tracking["bound"] is not None:
            since = max(0.0, (self.said["real_ns"] - tracking["real_ns"]) / 1e9)
            found.append(tracking["bound"] + tracking["bound_rate"] * since)
        return found


@dataclass
class Story:
    """What came of a guest. marks: when something was done; found: what was seen then."""

    looks: list[Look] = field(default_factory=list)
    marks: dict[str, float] = field(default_factory=dict)
    found: dict[str, object] = field(default_factory=dict)

    def after(self, mark: str, first: float, last: float) -> list[Look]:
        """The looks from `first` to `last` seconds after a mark."""
        begin = self.marks[mark]
        return [look for look in self.looks if begin + first <= look.at < begin + last]

    def worst(self, mark: str, first: float, last: float) -> float:
        """The largest error that the looks prove."""
        return max(look.proven for look in self.after(mark, first, last))

    def rms(self, mark: str, first: float, last: float) -> float:
        looks = self.after(mark, first, last)
        return (sum(look.offset**2 for look in looks) / len(looks)) ** 0.5

    def lies(self, **unseen: float) -> list[Look]:
        """The looks at which a bound was too small. unseen: marks, and for how many seconds what was done there may move the clock
        between two looks of the daemon, which looks once a second.
        """
        excused = [(self.marks[mark] - 0.5, self.marks[mark] + seconds) for mark, seconds in unseen.items()]
        looks = [look for look in self.looks if not any(first <= look.at <= last for first, last in excused)]
        return [look for look in looks if any(look.proven_then > bound for bound in look.bounds)]


class Teller:
    """Runs a story in a guest, with a server at this machine's clock, in the guest (`inside`), or others."""

    def __init__(
        self, machine: Guest, *, inside: bool = False, clock: str = "", polls: tuple[int, int] = (0, 0), follow: Sequence[str] = ()
    ) -> None:
        """follow: servers that run already, whose authority is in the place of a server's on this machine."""
        self.machine = machine
        self.story = Story()
        self.daemon: Running | None = None
        self._began = time.monotonic()
        host, lab = ("127.0.0.1", RUN / "lab") if inside else (HOST, machine.directory / "lab")
        server = [BIN / "tsq-server", "--listen", f"{host}:{PORT}", "--self-signed", lab, *SERVER_OPTIONS]
        hosts = follow or [f"{host}:{PORT}"]
        self.path = configuration(machine.directory, hosts, ca=lab / "ca.pem", where=RUN, clock=clock, polls=polls)
        if follow:
            pass
        elif inside:
            machine.start(*server).socket.close()
            # It listens: its certificates are complete.
            machine.python(f"import time\nwhile ':{PORT:04X} ' not in open('/proc/net/udp').read(): time.sleep(0.1)")
        else:
            process = machine.process(server, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            assert "listening" in process.stdout.readline()
        machine.start(sys.executable, "-m", "tests.kernel.bounds", RUN / "control").socket.close()

    def _asked(self) -> socket.socket:
        end = time.monotonic() + 60
        while True:
            try:
                return in_namespace(self.machine.namespace, lambda: socket.create_connection((GUEST, bounds.PORT), 60))
            except ConnectionRefusedError:
                assert time.monotonic() < end
                time.sleep(0.1)

    def mark(self, name: str) -> None:
        self.story.marks[name] = time.monotonic() - self._began

    def start(self, *before: object, **environment: str) -> None:
        self.daemon = self.machine.start(*before, *tsqd(self.path), **environment)

    def end(self, number: int) -> Done:
        assert self.daemon is not None
        self.machine.kill(self.daemon.pid, number)
        return self.daemon.wait(120)

    def watch(self, seconds: float) -> None:
        """Look at the guest's clock for so long."""
        end = time.monotonic() + seconds
        with self._asked() as connection, connection.makefile("rwb", buffering=0) as said:
            while time.monotonic() < end:
                here = self.machine.offset()
                at = time.monotonic() - self._began
                said.write(b"?")
                answer = json.loads(said.readline())
                then = self.machine.offset()
                self.story.looks.append(Look(at, here.offset, max(here.error, then.error), answer, then.offset))
                time.sleep(0.4)

    def ask(self, *words: object) -> dict:
        done = self.machine.run(*tsqctl(RUN, *words, "--json"))
        if done.status != 0:
            # Most likely the daemon has ended.
            assert self.daemon is not None
            raise AssertionError((done, self.daemon.wait(1)))
        return json.loads(done.out)


# ------------------------------------------------------------------------------------------------------------- stories


def kept(machine: Guest) -> Story:
    """Half a second off and 80 ppm fast; another program's step; the drift file after a restart."""
    it = Teller(machine)
    machine.python(SET_FREQUENCY.format(PPM))
    spoil(machine, -0.5)
    it.mark("start")
    it.start()
    it.watch(125)
    it.story.found["state"] = state(machine)
    it.story.found["tracking"] = it.ask("tracking")
    it.story.found["adjtime"] = adjtime(machine).wait()
    it.mark("stepped")
    machine.python(SET_TIME.format(2))
    it.watch(62)
    it.story.found["tracking after the step"] = it.ask("tracking")
    it.story.found["end"] = it.end(signal.SIGTERM)
    it.story.found["drift"] = machine.python(f"print(open('{RUN}/drift.json').read())")
    machine.python(SET_FREQUENCY.format(PPM))
    it.mark("restarted")
    it.start()
    it.watch(20)
    it.end(signal.SIGTERM)
    return it.story


def killed(machine: Guest) -> Story:
    """Killed while it slews; and again when the clock is right."""
    it = Teller(machine)
    spoil(machine, 0.3)
    it.mark("start")
    it.start()
    it.watch(4)
    it.end(signal.SIGKILL)
    it.mark("killed")
    it.watch(12)
    it.mark("again")
    it.start()
    it.watch(60)
    it.end(signal.SIGKILL)
    it.mark("killed when right")
    it.watch(10)
    it.mark("third")
    it.start()
    it.watch(30)
    it.story.found["tracking"] = it.ask("tracking")
    it.end(signal.SIGTERM)
    return it.story


def pushed(machine: Guest) -> Story:
    """Another program slews the clock, and then sets its frequency."""
    it = Teller(machine)
    it.mark("start")
    it.start()
    it.watch(35)
    it.mark("slewed")
    machine.python(FOREIGN_SLEW.format(SLEW))
    it.watch(25)
    it.mark("frequency")
    machine.python(SET_FREQUENCY.format(300))
    it.watch(20)
    it.story.found["tracking"] = it.ask("tracking")
    it.story.found["end"] = it.end(signal.SIGTERM)
    return it.story


def traced(machine: Guest) -> Story:
    """What the daemon asks of the kernel while it slews, steps back what another program did, reads its file again, and ends."""
    it = Teller(machine)
    spoil(machine, 0.3)
    it.start("strace", "-f", "-qq", "-c", "-o", RUN / "calls")
    assert it.daemon is not None
    it.mark("start")
    it.watch(25)
    machine.python(SET_TIME.format(2))
    it.watch(4)
    child = int(machine.run("cat", f"/proc/{it.daemon.pid}/task/{it.daemon.pid}/children").out)
    machine.kill(child, signal.SIGHUP)
    it.watch(3)
    machine.kill(child, signal.SIGTERM)
    it.story.found["end"] = it.daemon.wait(120)
    it.story.found["calls"] = machine.run("cat", RUN / "calls").out
    return it.story


def leap(machine: Guest) -> Story:
    """The last minute of 2026, which the table says has 61 seconds. The server is in the guest and has its clock."""
    (machine.directory / "leaps").write_text(LEAPS)
    machine.python(f"import time; time.clock_settime(0, {MIDNIGHT} - 60)")
    it = Teller(machine, inside=True, clock='leapsectz = "leaps"')
    it.mark("start")
    it.start(TZDIR=str(machine.directory))
    it.watch(90)
    it.story.found["tracking"] = it.ask("tracking")
    it.story.found["end"] = it.end(signal.SIGTERM)
    return it.story


def seldom(machine: Guest) -> Story:
    """Another program's step, beside a daemon that polls, and looks at the clock, seldom."""
    it = Teller(machine, polls=(4, 4))
    it.mark("start")
    it.start()
    it.watch(50)
    it.mark("stepped")
    machine.python(SET_TIME.format(2))
    it.mark("stepped back")
    it.watch(10)
    it.story.found["tracking"] = it.ask("tracking")
    it.story.found["end"] = it.end(signal.SIGTERM)
    return it.story


def announced(machine: Guest) -> Story:
    """The end of a month, which two of three servers say has a leap second. All of them count it."""
    today = datetime.now(UTC)
    months = today.year * 12 + today.month + 1
    # The first day of the month after the next: before this machine's certificates end.
    midnight = round(datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC).timestamp())
    shift = midnight - 30 - time.time()
    files = self_signed(str(machine.directory / "lab"), [HOST])
    hosts = [f"{HOST}:{PORT + number}" for number in range(3)]
    command = [sys.executable, "-m", "tests.support.leaping_server", files.certificate, files.key, repr(shift), midnight, *hosts]
    servers = machine.process(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
    for _ in hosts:
        assert "listening" in servers.stdout.readline()
    machine.python(SET_TIME.format(shift + 0.1))
    it = Teller(machine, follow=hosts)
    it.mark("start")
    it.start()
    it.watch(midnight - shift - time.time() + 12)
    it.story.found |= {"midnight": midnight, "shift": shift, "tracking": it.ask("tracking"), "end": it.end(signal.SIGTERM)}
    return it.story


STORIES: dict[str, Callable[[Guest], Story]] = {
    "kept": kept, "killed": killed, "pushed": pushed, "traced": traced, "leap": leap, "announced": announced, "seldom": seldom,
}  # fmt: skip


def run(name: str, directory: Path) -> Story:
    """One story, from the guest's boot to its end."""
    with guest(directory) as machine:
        return STORIES[name](machine)


RUNS = {name: partial(run, name) for name in STORIES}


@pytest.fixture
def story(guests) -> Callable[[str], Story]:
    """story(name): what came of it."""
    return lambda name: guests(__name__, name)


# --------------------------------------------------------------------------------------------------------------- tests


def test_a_clock_half_a_second_off_and_80_ppm_fast_is_right_and_stays_right(story):
    it = story("kept")
    assert it.worst("start", 30, 125) < 1e-3
    assert it.worst("start", 45, 125) < 100e-6
    assert it.rms("start", 65, 125) < 50e-6 + max(look.error for look in it.after("start", 65, 125))
    assert it.found["state"].synchronized
    # The bound that monitors read is honest, and no guess.
    assert 0 < it.found["state"].max_error < 2e-3


def test_tsq_adjtime_is_refused_beside_the_daemon(story):
    done = story("kept").found["adjtime"]
    assert done.status != 0
    assert "tsqd" in done.err + done.out


def test_another_programs_step_is_noticed_and_the_clock_is_right_again(story):
    it = story("kept")
    assert it.worst("stepped", 10, 60) < 100e-6
    assert it.found["tracking after the step"]["foreign_moves"] >= 1
    assert "another program steps this clock by +" in it.found["end"].err


def test_the_kernels_notice_of_a_step_is_enough_where_the_clock_is_looked_at_seldom(story):
    it = story("seldom")
    assert it.found["tracking"]["foreign_moves"] == 1
    assert it.found["tracking"]["steps"] == 1
    assert it.worst("stepped back", 0.5, 10) < 1e-3
    assert "it is stepped back" in it.found["end"].err
    assert not it.lies(stepped=2)


def test_the_drift_file_serves_after_a_restart(story):
    it = story("kept")
    assert it.found["end"].status == 0, it.found["end"].err
    saved = json.loads(it.found["drift"])
    assert abs(saved["frequency"]) < 20e-6, "against the raw clock, which nobody set to +80 ppm"
    assert it.worst("restarted", 8, 20) < 200e-6


def test_a_kill_in_a_slew_leaves_the_clock_no_farther_off(story):
    it = story("killed")
    before = it.worst("start", 0, it.marks["killed"] - it.marks["start"])
    assert 0.01 < before < 0.35
    assert it.worst("killed", 0, 12) <= before + 1e-3
    assert it.worst("again", 40, 60) < 200e-6


def test_a_kill_when_the_clock_is_right_leaves_it_running_at_the_right_rate(story):
    it = story("killed")
    assert it.worst("killed when right", 0, 10) < 300e-6
    assert it.worst("third", 15, 30) < 200e-6
    assert it.found["tracking"]["status"] == "synchronized"


def test_no_bound_is_false_through_steps_slews_kills_and_restarts(story):
    # What the killed run had handed to the kernel's loop goes on for some seconds beside the new one.
    for name, unseen in [("kept", {"stepped": 1.5}), ("killed", {"again": 12}), ("pushed", {"slewed": 3, "frequency": 3})]:
        it = story(name)
        assert [look for look in it.looks if look.bounds], name
        assert it.lies(**unseen) == [], name


def test_another_programs_slew_is_noticed_and_corrected(story):
    it = story("pushed")
    assert it.worst("slewed", 15, 25) < 200e-6
    (slew, *_) = re.findall(r"another program slews this clock by (\S+) s", it.found["end"].err) or [it.found["end"].err]
    assert 0.2 * SLEW < float(slew) < 1.5 * SLEW


def test_another_programs_frequency_is_noticed_and_set_right(story):
    it = story("pushed")
    assert it.worst("frequency", 10, 20) < 200e-6
    assert it.found["tracking"]["foreign_moves"] >= 2
    assert re.search(r"another program sets its frequency off by \+\d+\.\d+ ppm", it.found["end"].err)


@needs_analyze
@needs_strace
def test_the_daemon_that_steers_needs_no_call_that_its_unit_forbids(story):
    it = story("traced")
    assert it.found["end"].status == 0, it.found["end"].err
    assert "it is stepped back" in it.found["end"].err
    called = set(re.findall(r"^ +\d+\.\d+ .* (\w+)$", it.found["calls"], re.MULTILINE)) - {"total"}
    assert {"clock_adjtime", "capset", "prctl", "sendto"} <= called
    # Before it gives up what root has; systemd started it without that.
    assert called - allowed_calls("tsqd.service") <= {"setgroups"}


def test_a_leap_second_of_the_kernels_is_inserted_and_nothing_is_steered_by_it(story):
    it = story("leap")
    before = [look for look in it.looks if look.said["real_ns"] < (MIDNIGHT - 2) * 1_000_000_000 and look.said["tracking"]]
    after = [look for look in it.looks if look.said["real_ns"] > (MIDNIGHT + 3) * 1_000_000_000]
    assert before[-1].said["leap"] == 1
    assert before[-1].said["state"] == TIME_INS
    assert {TIME_OOP, TIME_WAIT} & {look.said["state"] for look in it.looks}
    assert after[-1].said["state"] in (TIME_OK, TIME_WAIT)
    assert after[-1].said["leap"] == 0
    # This machine's clock did not count it.
    assert after[0].offset - before[-1].offset == pytest.approx(-1, abs=2e-3)
    assert max(look.offset for look in after) - min(look.offset for look in after) < 2e-3
    for look in (before[-1], *after):
        assert look.said["tracking"]["status"] == "synchronized"
        assert max(look.bounds) < 0.01
        assert abs(look.said["tracking"]["offset"]) < 1e-3
        assert abs(look.said["tracking"]["correction"]) < 100e-6
    assert it.found["tracking"]["steps"] == 0
    assert it.found["tracking"]["foreign_moves"] == 0
    assert "a leap second was inserted" in it.found["end"].err


def test_a_leap_second_that_a_majority_of_the_servers_announces_is_inserted_by_the_kernel(story):
    it = story("announced")
    midnight, shift = it.found["midnight"], it.found["shift"]
    before = [look for look in it.looks if look.said["real_ns"] < (midnight - 2) * 1_000_000_000 and look.said["tracking"]]
    after = [look for look in it.looks if look.said["real_ns"] > (midnight + 6) * 1_000_000_000]
    assert before[-1].said["leap"] == before[-1].said["tracking"]["leap"] == 1
    assert before[-1].said["state"] == TIME_INS
    assert before[-1].said["tracking"]["status"] == "synchronized"
    # It was right, with the error of 0.1 s that it had at first, and it is right again, at once: by the kernel's second alone.
    assert before[-1].offset - shift == pytest.approx(0, abs=2e-3)
    assert after
    for look in after:
        assert look.offset - shift == pytest.approx(-1, abs=2e-3)
        assert look.said["leap"] == 0
        assert look.said["tracking"]["status"] == "synchronized"
        assert abs(look.said["tracking"]["offset"]) < 2e-3
    assert it.found["tracking"]["steps"] == 0
    assert it.found["tracking"]["foreign_moves"] == 0
    assert "a leap second was inserted" in it.found["end"].err
