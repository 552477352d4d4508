"""The units of contrib/systemd under a real systemd, in a guest: as they are, but for the drop-ins that the how-to has, and shorter
waits. The server that tsqd follows is outside of the guest. What is seen is kept; the tests look at it.

In CI the guest is there. Elsewhere the tests are skipped with the reason.
"""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.kernel.test_real_clock import PORT, spoil
from tests.support.chronyd import until
from tests.support.processes import BIN
from tests.support.uml import GUEST, HOST, Done, Guest
from tests.support.uml_systemd import TEST, guest, missing
from tsq.host.processes import CAP_SYS_TIME
from tsq.quic.selfsigned import self_signed

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there are guests")

UNITS = Path("/etc/systemd/system")
CONFIG = f"""
[clock]
mode = "{{}}"
[[source]]
host = "{HOST}:{PORT}"
ca = "/etc/tsq/ca.pem"
minpoll = 0
maxpoll = 0
"""
HOWTO = Path(__file__).resolve().parents[2] / "docs" / "howto" / "run-a-server.md"
# Of the how-to: a server whose port systemd opens.
WITH_SOCKET = next(text for text in re.findall(r"```ini\n(.*?)```", HOWTO.read_text(), re.DOTALL) if "tsq-server.socket" in text)
IMPATIENT = "[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\nRestartSec=0\n"
SHOWN = "ActiveState,SubState,StatusText,MainPID,NRestarts,Result,ActiveEnterTimestampMonotonic,ExecMainExitTimestampMonotonic"


@dataclass
class Manager:
    """systemd in the guest. found: what was seen."""

    machine: Guest
    found: dict[str, object] = field(default_factory=dict)

    def run(self, *command: object) -> Done:
        return self.machine.run(*command)

    def must(self, *command: object) -> str:
        done = self.run(*command)
        assert done.status == 0, (command, done, self.log())
        return done.out

    def log(self, *units: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", *(f"--unit={unit}" for unit in units)).out

    def show(self, unit: str) -> dict[str, str]:
        lines = self.must("systemctl", "show", unit, f"--property={SHOWN}").splitlines()
        return dict(line.partition("=")[::2] for line in lines)

    def status(self, unit: str) -> dict[str, list[str]]:
        """Of a service's process: the kernel's view of it."""
        lines = self.must("cat", f"/proc/{self.show(unit)['MainPID']}/status").splitlines()
        return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}

    def sees(self, unit: str, *paths: str) -> list[str]:
        """What a service's process finds in these places; the mounts are its own."""
        pid = self.show(unit)["MainPID"]
        return [self.must("ls", "-A", f"/proc/{pid}/root{path}").strip() for path in paths]

    def write(self, path: Path, text: str) -> None:
        (self.machine.directory / path.name).write_text(text)
        self.must("install", "-D", "-m", "644", TEST / path.name, path)

    def synchronized(self) -> str:
        """Wait until tsqd knows the time; what tsqctl says then."""
        return until(lambda: (done := self.run("tsqctl", "tracking")).status == 0 and "synchronized\n" in done.out and done.out)

    def client(self) -> subprocess.CompletedProcess[str]:
        """A client outside of the guest."""
        command = [BIN / "tsq-client", "--ca", self.machine.directory / "own" / "ca.pem", "--count", "2", f"{GUEST}:443"]
        process = self.machine.process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(command, process.returncode, out, err)


def units(machine: Guest) -> dict[str, object]:
    lab = machine.directory / "lab"
    server = [BIN / "tsq-server", "--listen", f"{HOST}:{PORT}", "--self-signed", lab, "--local-stratum", "1"]
    process = machine.process(server, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert "listening" in process.stdout.readline()
    self_signed(str(machine.directory / "own"), [GUEST])
    it = Manager(machine)
    it.write(Path("/etc/tsq/tsqd.toml"), CONFIG.format("steer"))
    it.must("install", "-m", "644", TEST / "lab" / "ca.pem", "/etc/tsq/ca.pem")
    it.must("install", "-m", "644", TEST / "own" / "cert.pem", "/etc/tsq/cert.pem")
    it.must("install", "-m", "640", "-g", "tsq", TEST / "own" / "key.pem", "/etc/tsq/key.pem")
    it.write(UNITS / "tsq-server.service.d" / "socket.conf", WITH_SOCKET)
    it.write(UNITS / "tsqd.service.d" / "impatient.conf", IMPATIENT)
    it.must("systemctl", "daemon-reload")
    spoil(machine, 3.0)

    # As at boot: all in one transaction.
    it.must("systemctl", "start", "tsqd.socket", "tsq-server.socket", "tsqd", "tsq-wait-sync")
    it.found["offset"] = machine.offset()
    for unit in ("tsqd", "tsq-wait-sync", "time-sync.target"):
        it.found[unit] = it.show(unit)
    it.found["tsqd process"] = it.status("tsqd")
    it.found["tsqd sees"] = it.sees("tsqd", "/home", "/root", "/tmp")
    it.found["tsqd user"] = it.must("id", "-u", "tsqd").strip()
    it.must("systemctl", "reload", "tsqd")
    until(lambda: "configuration read again" in it.log("tsqd"))
    # Before the server runs: systemd has the port.
    assert it.show("tsq-server")["ActiveState"] == "inactive"
    until(lambda: it.client().returncode == 0)
    # At the first answers the server may not have asked the daemon yet, on a busy machine.
    it.found["client"] = until(lambda: (done := it.client()) and re.search(r":443 +2 ", done.stdout) and done)
    it.found["tsq-server"] = it.show("tsq-server")
    it.found["tsq-server process"] = it.status("tsq-server")
    it.found["tsq-server user"] = it.must("id", "-u", "tsq").strip()
    it.must("systemctl", "reload", "tsq-server")
    until(lambda: "certificate reloaded" in it.log("tsq-server"))
    it.found["tsq-server log"] = it.log("tsq-server")
    it.must("systemctl", "stop", "tsq-server.socket", "tsq-server")

    # It says nothing to systemd any more.
    it.found["status"] = until(lambda: "synchronized; offset" in it.show("tsqd")["StatusText"] and it.show("tsqd")["StatusText"])
    it.must("systemctl", "kill", "--signal=STOP", "tsqd")
    until(lambda: it.show("tsqd")["NRestarts"] == "1" and it.show("tsqd")["ActiveState"] == "active")
    it.found["after the watchdog"] = it.synchronized()

    # The other daemon, which may set nothing, in place of the first one, and with its files.
    it.write(Path("/etc/tsq/tsqd.toml"), CONFIG.format("feed") + '[feed.ntp]\nlisten = "127.0.0.1:11123"\n')
    it.must("systemctl", "stop", "tsqd.socket")
    it.must("systemctl", "start", "tsqd-feed")
    it.found["tsqd after tsqd-feed"] = it.show("tsqd")
    it.found["tsqd-feed process"] = it.status("tsqd-feed")
    it.found["tsqd-feed"] = it.synchronized()
    it.must("systemctl", "stop", "tsqd-feed")
    it.found["result of tsqd-feed"] = it.show("tsqd-feed")

    # The socket alone: who asks starts the daemon.
    it.write(Path("/etc/tsq/tsqd.toml"), CONFIG.format("steer"))
    it.must("systemctl", "start", "tsqd.socket")
    assert it.show("tsqd")["ActiveState"] == "inactive"
    it.found["started by a question"] = it.synchronized()
    it.found["tsqd at last"] = it.show("tsqd")
    it.found["log"] = it.log("tsqd", "tsqd-feed", "tsq-wait-sync")
    it.found["failed"] = it.must("systemctl", "--failed", "--no-legend", "--plain")
    return it.found


def run(directory: Path) -> dict[str, object]:
    with guest(directory) as machine:
        return units(machine)


RUNS = {} if missing() else {"units": run}


@pytest.fixture
def found(guests: Callable) -> dict:
    return guests(__name__, "units")


def capabilities(process: dict[str, list[str]]) -> list[int]:
    """Effective, permitted, and the most that it could ever have."""
    return [int(process[name][0], 16) for name in ("CapEff", "CapPrm", "CapBnd")]


def confined(process: dict[str, list[str]]) -> bool:
    """Nothing gains a privilege, and system calls are filtered."""
    return (process["NoNewPrivs"], process["Seccomp"]) == (["1"], ["2"])


def test_the_daemon_is_active_when_it_is_ready_and_reports_how_the_clock_is(found):
    assert (found["tsqd"]["ActiveState"], found["tsqd"]["SubState"]) == ("active", "running")
    assert re.fullmatch(r"synchronized; offset [+-][\d.]+ µs, at most \d+ µs; 1 of 1 source used", found["status"])


def test_time_sync_target_is_reached_when_the_clock_is_right(found):
    assert (found["tsq-wait-sync"]["ActiveState"], found["tsq-wait-sync"]["SubState"]) == ("active", "exited")
    assert found["time-sync.target"]["ActiveState"] == "active"
    ready, waited, reached = (
        int(found[unit][name])
        for unit, name in [
            ("tsqd", "ActiveEnterTimestampMonotonic"), ("tsq-wait-sync", "ExecMainExitTimestampMonotonic"),
            ("time-sync.target", "ActiveEnterTimestampMonotonic"),
        ]
    )  # fmt: skip
    assert ready < waited < reached
    # It was 3 s off.
    assert abs(found["offset"].offset) < 0.05 + found["offset"].error


def test_the_daemon_has_one_capability_and_sees_no_homes(found):
    process = found["tsqd process"]
    assert set(process["Uid"]) == {found["tsqd user"]}
    assert capabilities(process) == [1 << CAP_SYS_TIME] * 3
    assert confined(process)
    assert found["tsqd sees"] == ["", "", ""]


def test_the_daemon_reads_its_configuration_again(found):
    assert "configuration read again: nothing changed" in found["log"]


def test_a_request_starts_the_server_which_reports_what_the_daemon_knows(found):
    assert found["client"].returncode == 0, (found["client"].stderr, found["tsq-server log"])
    assert re.search(rf"^\* +{re.escape(GUEST)}:443 +2 ", found["client"].stdout, re.MULTILINE), found["client"].stdout
    assert found["tsq-server"]["ActiveState"] == "active"
    assert re.search("clock: stratum 2, error at most .* according to tsqd", found["tsq-server log"])
    assert "certificate reloaded" in found["tsq-server log"]


def test_the_server_has_no_capability(found):
    process = found["tsq-server process"]
    assert set(process["Uid"]) == {found["tsq-server user"]}
    assert capabilities(process) == [0] * 3
    assert confined(process)


def test_a_daemon_that_hangs_is_restarted_by_the_watchdog(found):
    assert "Status          : synchronized" in found["after the watchdog"]
    assert found["tsqd at last"]["ActiveState"] == "active"


def test_the_daemon_that_feeds_replaces_the_one_that_steers_and_can_set_nothing(found):
    assert found["tsqd after tsqd-feed"]["ActiveState"] == "inactive"
    assert found["tsqd after tsqd-feed"]["Result"] == "success"
    assert capabilities(found["tsqd-feed process"]) == [0] * 3
    assert confined(found["tsqd-feed process"])
    assert "Mode            : feed" in found["tsqd-feed"]
    assert found["result of tsqd-feed"]["Result"] == "success"


def test_who_asks_at_the_control_socket_starts_the_daemon_and_waits_for_it(found):
    assert "Mode            : steer" in found["started by a question"]


def test_nothing_failed(found):
    assert found["failed"] == ""
    assert "Traceback" not in found["log"]
    assert "ERROR" not in found["log"]
    assert "not permitted" not in found["log"].lower()
