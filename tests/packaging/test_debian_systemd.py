"""The Debian package under a real systemd, which has booted a Debian of its own in a guest: installed, started, upgraded while it
runs, stopped and purged. The server that tsqd follows is outside of the guest. What is seen is kept; the tests look at it.

In CI, as root, all of it runs. Elsewhere the tests are skipped with the reason.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import roots, uml_debian
from tests.support.chronyd import until
from tests.support.packages import KEPT, NEWER
from tests.support.processes import BIN
from tests.support.roots import Place
from tests.support.uml import GUEST, HOST, PORT, Guest
from tests.support.uml_debian import HERE
from tsq.quic.selfsigned import self_signed

_missing = uml_debian.missing() or ("" if shutil.which("dh") else "dh is not installed; `make peers` installs it")
pytestmark = pytest.mark.skipif(bool(_missing), reason=_missing or "there are guests")

UNITS = ("tsq-server", "tsqd", "tsq-wait-sync")
FEED = "tsqd-feed"
SERVER = f"{HOST}:{PORT + 1}"
# The guest's clock is its own.
CONFIG = f"""
[clock]
mode = "{{}}"
makestep = [0.001, 3]
[[source]]
host = "{SERVER}"
ca = "/etc/tsq/ca.pem"
minpoll = 0
maxpoll = 0
"""
# Of the guest's files: its own, and those that tests brought.
LEFT = (*KEPT, "boot/guest", str(HERE).lstrip("/"), "sys/", "root/.", "var/tmp/", "etc/machine-id")


class Manager:
    """systemd in the guest."""

    def __init__(self, machine: Guest) -> None:
        self._machine = machine

    def must(self, *command: object) -> str:
        done = self._machine.run(*command)
        assert done.status == 0, (command, done, self.log())
        return done.out

    def log(self, *units: str) -> str:
        return self._machine.run("journalctl", "--no-pager", "--output=cat", *(f"--unit={unit}" for unit in units)).out

    def states(self, *units: str) -> dict[str, str]:
        """ActiveState, and the process."""
        shown = (self.must("systemctl", "show", unit, "--property=ActiveState,MainPID", "--value").split() for unit in units)
        # systemctl has an order of its own.
        return {unit: " ".join(sorted(words)) for unit, words in zip(units, shown, strict=True)}

    def install(self, package: str) -> None:
        self.must("dpkg", "--force-unsafe-io", "--install", HERE / package)

    def configure(self, mode: str) -> None:
        self.must("install", "-D", "-m", "644", HERE / mode / "tsqd.toml", "/etc/tsq/tsqd.toml")

    def client(self, lab: Path) -> str:
        """What a client outside of the guest says."""
        command = [BIN / "tsq-client", "--ca", lab / "ca.pem", "--count", "2", f"{GUEST}:443"]
        process = self._machine.process(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return process.communicate(timeout=60)[0]


def whole(machine: Guest, place: Place, directory: Path) -> dict[str, object]:
    """The package's life; what was seen."""
    it, found = Manager(machine), {}
    before = place.listing(LEFT)
    it.install("tsq.deb")
    found["enabled"] = machine.run("systemctl", "is-enabled", *UNITS).out
    found["installed"] = it.states(*UNITS)

    # As docs/howto/install.md says: to watch the clock; to keep it; to serve.
    it.must("install", "-m", "644", HERE / "ca.pem", HERE / "cert.pem", "/etc/tsq/")
    it.must("install", "-m", "640", "-g", "tsq", HERE / "key.pem", "/etc/tsq/key.pem")
    it.configure("observe")
    it.must("systemctl", "enable", "--now", FEED)
    found["watching"] = it.states(FEED, "tsqd")
    found["observed"] = until(lambda: "^* " in it.must("tsqctl", "sources") and it.must("tsqctl", "tracking"))
    it.must("systemctl", "disable", "--now", FEED)
    it.configure("steer")
    it.must("systemctl", "enable", "--now", *UNITS)
    found["started"] = it.states(*UNITS)
    found["tracking"] = it.must("tsqctl", "tracking")
    # At the first answers the server may not have asked the daemon yet, on a busy machine.
    found["exchange"] = until(lambda: (said := it.client(directory / "own")) and re.search(r":443 +2 ", said) and said, 60)
    found["inside"] = it.must("tsq-client", SERVER, "--ca", "/etc/tsq/ca.pem", "--interval", "0")

    it.install("newer.deb")
    found["version"] = it.must("dpkg-query", "-W", "-f", "${Version}", "tsq-time")
    found["upgraded"] = it.states(*UNITS)
    found["exchange after it"] = until(lambda: (said := it.client(directory / "own")) and " 2/2 " in said and said, 60)

    it.must("systemctl", "stop", "tsq-server")
    found["stopped"] = it.states("tsq-server")
    # The daemon runs; a removal stops it.
    it.must("dpkg", "--force-unsafe-io", "--purge", "tsq-time")
    found["purged"] = it.must("systemctl", "list-units", "--all", "--plain", "--no-legend", "--type=service", "tsq*")
    found["processes"] = it.must("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    found["failed"] = it.must("systemctl", "--failed", "--no-legend", "--plain")
    found["log"] = it.log(*UNITS, FEED)
    found["left"] = place.listing(LEFT) ^ before
    return found


@pytest.fixture(scope="module")
def found(package: Path, newer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    directory = tmp_path_factory.mktemp("guest")
    self_signed(str(directory / "own"), [GUEST])
    with roots.copy_of(roots.base(), tmp_path_factory.mktemp("root")) as place:
        here = place.path / HERE.relative_to("/")
        here.mkdir(parents=True)
        shutil.copy(package, here / "tsq.deb")
        shutil.copy(newer, here / "newer.deb")
        for mode in ("observe", "steer"):
            (here / mode).mkdir()
            (here / mode / "tsqd.toml").write_text(CONFIG.format(mode))
        for name in ("cert.pem", "key.pem"):
            shutil.copy(directory / "own" / name, here)
        with uml_debian.guest(directory, place) as machine:
            server = [BIN / "tsq-server", "--listen", SERVER, "--self-signed", directory / "lab", "--local-stratum", "1"]
            process = machine.process(server, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            assert "listening" in process.stdout.readline()
            shutil.copy(directory / "lab" / "ca.pem", here)
            return whole(machine, place, directory)


def running(states: dict[str, str]) -> dict[str, bool]:
    return {unit: state.endswith("active") and "inactive" not in state for unit, state in states.items()}


def test_the_installation_starts_and_enables_nothing(found):
    assert found["enabled"].split() == ["disabled"] * len(UNITS)
    assert running(found["installed"]) == dict.fromkeys(UNITS, False)


def test_the_daemon_watches_the_clock(found):
    assert running(found["watching"]) == {FEED: True, "tsqd": False}
    assert "Mode            : observe" in found["observed"]


def test_systemd_starts_what_the_package_has_and_the_clock_is_right(found):
    assert running(found["started"]) == dict.fromkeys(UNITS, True)
    assert "Mode            : steer" in found["tracking"]
    assert "Status          : synchronized" in found["tracking"]


def test_the_server_answers_and_reports_what_the_daemon_knows(found):
    assert re.search(rf"^\* +{re.escape(GUEST)}:443 +2 .* 2/2 ", found["exchange"], re.MULTILINE), found["exchange"]


def test_the_client_of_the_package_asks_another_server(found):
    assert " 3/3 " in found["inside"]


def test_an_upgrade_starts_anew_what_runs(found):
    assert found["version"] == NEWER
    assert running(found["upgraded"]) == dict.fromkeys(UNITS, True)
    for unit in ("tsqd", "tsq-server"):
        assert found["upgraded"][unit] != found["started"][unit], unit
    assert " 2/2 " in found["exchange after it"]


def test_a_purge_stops_what_runs_and_leaves_nothing(found):
    assert running(found["stopped"]) == {"tsq-server": False}
    assert found["purged"] == ""
    assert "/usr/lib/tsq-time" not in found["processes"]
    assert "agent.py" in found["processes"]
    assert found["left"] == set()


def test_nothing_failed(found):
    assert found["failed"] == ""
    assert "Traceback" not in found["log"]
    assert "ERROR" not in found["log"]
