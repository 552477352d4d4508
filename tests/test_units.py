"""The service units of contrib/systemd, checked by systemd's own tools; nothing is installed or started.

In CI systemd-analyze is there. Elsewhere what needs it is skipped with the reason.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.test_systemd import LAUNCH
from tests.support.daemon import configuration, tsqctl, tsqd
from tests.support.processes import BIN, run_client
from tsq.cli import daemon as daemon_command
from tsq.cli import server as server_command
from tsq.cli import wait_sync as wait_sync_command
from tsq.daemon.config import RUN_DIRECTORY, STATE_DIRECTORY, ControlConfig

UNITS = Path(__file__).resolve().parent.parent / "contrib" / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
ALL = sorted(path.name for path in UNITS.iterdir() if path.suffix in (".service", ".socket"))
# systemd-analyze's exposure level times ten: 30 is 3.0.
MOST_EXPOSED = 30
OTHERS = {"chrony.service", "ntp.service", "ntpsec.service", "ntpd-rs.service", "systemd-timesyncd.service", "phc2sys.service"}

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not installed (Debian: apt-get install systemd); `make peers` installs it where it may",
)
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed; `make peers` installs it")


def settings(name: str) -> dict[str, list[str]]:
    """All settings of a unit, whatever section they are in; each with its values."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        if match := re.fullmatch(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


@pytest.fixture
def units(tmp_path) -> Path:
    """The units, with commands that exist."""
    stubs, place = tmp_path / "bin", tmp_path / "units"
    stubs.mkdir()
    place.mkdir()
    for name in ALL:
        text = re.sub(r"^ExecStart=(tsq[\w-]*)", rf"ExecStart={stubs}/\1", (UNITS / name).read_text(), flags=re.MULTILINE)
        (place / name).write_text(text)
        for command in re.findall(rf"^ExecStart={stubs}/(\S+)", text, re.MULTILINE):
            (stubs / command).write_text("#!/bin/sh\n")
            (stubs / command).chmod(0o755)
    return place


def analyze(*words: object, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, words)], cwd=directory, capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""},
    )


def test_there_is_a_unit_for_each_service():
    assert {"tsq-server.service", "tsq-server.socket", "tsqd.service", "tsqd-feed.service", "tsq-wait-sync.service"} <= set(ALL)


@needs_analyze
@pytest.mark.parametrize("name", ALL)
def test_systemd_understands_every_line(units, name):
    done = analyze("verify", "--man=no", f"./{name}", directory=units)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_analyze
def test_a_line_that_systemd_does_not_understand_would_be_seen(units):
    unit = units / "tsqd.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=60", "WatchdogSecs=60"))
    assert "WatchdogSecs" in analyze("verify", "--man=no", "./tsqd.service", directory=units).stderr


@needs_analyze
@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_exposed_by_less_than_3(units, name):
    done = analyze("security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED}", name, directory=units)
    (level,) = re.findall(rf"Overall exposure level for {re.escape(name)}: (\d+\.\d)", done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr
    assert float(level) < MOST_EXPOSED / 10


@pytest.mark.parametrize("name", SERVICES)
def test_no_unit_forbids_what_its_program_needs(name):
    found = settings(name)
    # It would forbid even reading the kernel's state of the clock.
    assert "ProtectClock" not in found
    if name != "tsq-wait-sync.service":
        # They look for the program that keeps the clock.
        assert "ProtectProc" not in found
        assert found["Type"] == ["notify"]
        assert int(found["WatchdogSec"][0]) >= 10
        assert found["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert found["NoNewPrivileges"] == ["yes"]


def test_the_daemon_that_steers_replaces_the_others_and_the_one_that_feeds_does_not():
    steers, feeds = settings("tsqd.service"), settings("tsqd-feed.service")
    conflicts = set(" ".join(steers["Conflicts"]).split())
    assert conflicts >= {*OTHERS, "tsqd-feed.service"}
    assert steers["CapabilityBoundingSet"] == steers["AmbientCapabilities"] == ["CAP_SYS_TIME"]
    assert feeds["Conflicts"] == ["tsqd.service"]
    assert feeds["CapabilityBoundingSet"] == [""]
    assert "AmbientCapabilities" not in feeds


def test_the_right_time_is_waited_for_before_time_sync_target():
    waits = settings("tsq-wait-sync.service")
    assert waits["Type"] == ["oneshot"]
    assert waits["Before"] == waits["Wants"] == ["time-sync.target"]
    assert waits["Requires"] == ["tsqd.service"]
    assert "time-sync.target" in settings("tsqd.service")["Before"]
    # Else the target would be reached when the daemon is ready, before the clock is right.
    assert "Wants" not in settings("tsqd.service")


@pytest.mark.parametrize(
    ("name", "command"),
    [("tsqd.service", daemon_command), ("tsqd-feed.service", daemon_command), ("tsq-wait-sync.service", wait_sync_command)],
)
def test_the_options_of_the_commands_exist(name, command):
    (line,) = settings(name)["ExecStart"]
    program, *arguments = shlex.split(line)
    assert program == command.PROGRAM
    values = command._parser().parse_args(arguments)
    if command is daemon_command:
        # The unit may be read by people who look for the file.
        assert values.config == daemon_command.DEFAULT_CONFIG


def test_users_of_the_units_are_made_by_systemd_sysusers():
    users = re.findall(r"^u (\S+) - ", (UNITS / "tsq.sysusers.conf").read_text(), re.MULTILINE)
    assert {name for unit in SERVICES for name in settings(unit).get("User", [])} == set(users)


def test_directories_of_the_daemon_are_those_of_its_defaults_and_can_be_read_by_others():
    for name in ("tsqd.service", "tsqd-feed.service"):
        found = settings(name)
        assert f"/run/{found['RuntimeDirectory'][0]}" == RUN_DIRECTORY
        assert f"/var/lib/{found['StateDirectory'][0]}" == STATE_DIRECTORY
        # Else the socket of tsqd.socket would go with the service. With DynamicUser= only root could look there.
        assert found["RuntimeDirectoryPreserve"] == ["yes"]
        assert "DynamicUser" not in found
        assert "RuntimeDirectoryMode" not in found


def test_the_servers_options_exist_and_its_socket_has_its_addresses():
    (line,) = settings("tsq-server.service")["ExecStart"]
    values = server_command._parser().parse_args(shlex.split(line)[1:])
    assert list(map(str, values.listen)) == settings("tsq-server.socket")["ListenDatagram"] == ["0.0.0.0:443", "[::]:443"]
    assert settings("tsq-server.socket")["BindIPv6Only"] == ["ipv6-only"]


# -------------------------------------------------------------------------- what the units allow is enough for the programs


def allowed_calls(name: str) -> set[str]:
    """The system calls that a unit allows (SystemCallFilter=)."""

    def expanded(words: str) -> set[str]:
        found: set[str] = set()
        for word in words.split():
            if not word.startswith("@"):
                found.add(word)
                continue
            done = analyze("syscall-filter", "--no-pager", word, directory=UNITS)
            for line in done.stdout.splitlines()[1:]:
                entry = line.strip()
                if entry and not entry.startswith("#"):
                    found |= expanded(entry)
        return found

    allowed: set[str] = set()
    for value in settings(name)["SystemCallFilter"]:
        allowed = allowed - expanded(value[1:]) if value.startswith("~") else allowed | expanded(value)
    return allowed


def calls_of(log: Path) -> set[str]:
    """The system calls in strace's output that succeeded or failed for another reason than that they do not exist."""
    return set(re.findall(r"^(?:\d+\s+)?(\w+)\(", log.read_text(errors="replace"), re.MULTILINE))


@pytest.fixture
def lab(certificates) -> list[str]:
    return ["--cert", str(certificates.certificate), "--key", str(certificates.key), "--local-stratum", "1"]


@needs_analyze
@needs_strace
def test_the_server_needs_no_call_that_its_unit_forbids(tmp_path, lab, certificates):
    log = tmp_path / "calls"
    with subprocess.Popen(
        ["strace", "-f", "-qq", "-o", log, BIN / "tsq-server", "--listen", "127.0.0.1:0", *lab],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "n")},
    ) as process:
        port = process.stdout.readline().split()[3].rpartition(":")[2]
        done = run_client(f"127.0.0.1:{port}", "--ca", certificates.authority, "--count", "3", "--interval", "0.05")
        assert done.returncode == 0, done.stderr
        (pid,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for number in (1, 15):
            os.kill(int(pid), number)
        process.communicate(timeout=60)
    called = calls_of(log)
    assert {"recvmmsg", "sendmmsg", "clock_adjtime"} <= called
    allowed = allowed_calls("tsq-server.service")
    # This process is root, which has groups to give up; the service's is not.
    assert called - {"setgroups"} - allowed == set()
    assert not allowed & {"clock_settime", "settimeofday", "mount", "setuid", "chown", "ptrace"}


@pytest.fixture
def observer(tmp_path, server_process, certificates) -> list[str]:
    """The command line of a daemon that measures, feeds, writes all its files, and can set nothing."""
    more = f'[log]\nmeasurements = "{tmp_path}/measurements.log"\nrecord = "{tmp_path}/record.jsonl"'
    host = f"127.0.0.1:{server_process.target.port}"
    path = configuration(tmp_path, [host], ca=certificates.authority, mode="observe", more=more)
    return list(map(str, tsqd(path)))


class Manager:
    """The service manager's socket of a daemon, and the environment that names it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        place = str(directory / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(place)
        self.socket.settimeout(60)
        self.environment = os.environ | {"NOTIFY_SOCKET": place, "WATCHDOG_USEC": "60000000"}

    def wait_for(self, text: str) -> None:
        """Wait for a notification with this text."""
        while text not in self.socket.recv(4096).decode():
            pass

    def wait_for_an_offset(self) -> None:
        """Wait until the daemon has measured something: each time that it looks at the clock, ask it."""
        command = list(map(str, tsqctl(self._directory, "tracking")))
        while True:
            self.wait_for("WATCHDOG=1")
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            if re.search(r"^System time *: \S*\d", done.stdout, re.MULTILINE):
                return


@pytest.fixture
def manager(tmp_path) -> Iterator[Manager]:
    it = Manager(tmp_path)
    with it.socket:
        yield it


@needs_analyze
@needs_strace
@pytest.mark.parametrize("name", ["tsqd.service", "tsqd-feed.service"])
def test_the_daemon_needs_no_call_that_its_unit_forbids(tmp_path, observer, manager, name):
    log = tmp_path / "calls"
    command = ["strace", "-f", "-qq", "-o", log, *observer]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=manager.environment) as process:
        manager.wait_for_an_offset()
        (pid,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(pid), signal.SIGHUP)
        manager.wait_for("RELOADING=1")
        manager.wait_for("READY=1")
        os.kill(int(pid), signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    called = calls_of(log)
    assert {"clock_adjtime", "sendto", "socket"} <= called
    # Before it gives up what root has; systemd started it without that.
    assert called - allowed_calls(name) <= {"setgroups"}


# Linux 6.3: what MemoryDenyWriteExecute= uses where it can.
_PR_SET_MDWE = 65
WITHOUT_WRITABLE_CODE = """
import sys
from tsq.host import _privileges
try:
    _privileges.prctl({option}, 1)
except OSError as error:
    print("no such protection here:", error)
sys.argv = {arguments!r}
from tsq.cli import start
sys.exit(start.server())
"""


def test_the_server_runs_without_memory_that_is_writable_and_executable(lab, certificates):
    arguments = ["tsq-server", "--listen", "127.0.0.1:0", *lab]
    code = WITHOUT_WRITABLE_CODE.format(option=_PR_SET_MDWE, arguments=arguments)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        if "no such protection" in line:
            line = process.stdout.readline()
        port = line.split()[3].rpartition(":")[2]
        done = run_client(f"127.0.0.1:{port}", "--ca", certificates.authority, "--count", "1")
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert done.returncode == 0, done.stderr
    assert process.returncode == 0, errors


def test_the_daemon_runs_without_memory_that_is_writable_and_executable(observer, manager):
    code = WITHOUT_WRITABLE_CODE.format(option=_PR_SET_MDWE, arguments=observer).replace("start.server()", "start.daemon()")
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=manager.environment) as process:
        manager.wait_for_an_offset()
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def test_the_control_socket_of_its_unit_is_the_daemons_own():
    found = settings("tsqd.socket")
    assert found["ListenStream"] == [ControlConfig().socket]
    assert found["FileDescriptorName"] == ["control"]


def with_sockets(names: str, command: list[str], *sockets: socket.socket, **options) -> subprocess.Popen:
    """Start a command of Python as systemd does, with these sockets."""
    fds = [one.fileno() for one in sockets]
    code = f"import sys; sys.argv = {command!r}; from tsq.cli import start; sys.exit(start.daemon())"
    return subprocess.Popen([sys.executable, "-c", LAUNCH, names, code, *map(str, fds)], pass_fds=fds, text=True, **options)


def test_the_daemon_serves_a_control_socket_that_is_passed_to_it(tmp_path, observer, manager):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.bind(str(tmp_path / "passed"))
        control.listen()
        process = with_sockets("control", observer, control, stderr=subprocess.PIPE, env=manager.environment)
    with process:
        # tsqctl connects before the daemon is ready, and waits.
        (tmp_path / "control").symlink_to(tmp_path / "passed")
        done = subprocess.run(
            list(map(str, tsqctl(tmp_path, "activity"))), capture_output=True, text=True, timeout=60, check=False
        )
        manager.wait_for("READY=1")
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert done.returncode == 0, done.stderr
    assert process.returncode == 0, errors
    assert (tmp_path / "passed").exists(), "it is systemd's"


def test_several_sockets_that_are_passed_to_the_daemon_are_an_error(observer):
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as two,
        with_sockets("control:control", observer, one, two, stderr=subprocess.PIPE) as process,
    ):
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert "2 sockets that the service manager passed (expected one, the control socket)" in errors
    assert "Traceback" not in errors


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")
def test_the_daemon_that_observes_has_no_privilege_left(observer, manager):
    with subprocess.Popen(observer, stderr=subprocess.PIPE, text=True, env=manager.environment) as process:
        manager.wait_for("READY=1")
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            try:
                status = (task / "status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                # A thread that has ended meanwhile; the main one has not.
                assert task.name != str(process.pid)
                continue
            assert set(re.findall(r"^Cap(?:Inh|Prm|Eff|Bnd|Amb):\t0*(\w+)$", status, re.MULTILINE)) == {"0"}
            assert "NoNewPrivs:\t1\n" in status
        process.terminate()
        process.communicate(timeout=60)
