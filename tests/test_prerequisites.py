"""What scripts/prerequisites.sh installs, and when it installs nothing. It sees the stub programs of a temporary directory only."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "prerequisites.sh"
README = ROOT / "README.md"
PEERS = ["tshark", "nodejs", "npm", "iproute2", "strace", "nftables", "user-mode-linux", "chromium", "crun", "umoci", "systemd"]
FORWARDER = ["nginx", "libnginx-mod-stream"]
DEBIAN = ["debhelper", "dh-apparmor", "chrpath", "lintian", "debootstrap", "apparmor"]
PROGRAMS = {
    "tshark", "node", "npm", "ip", "strace", "nft", "linux.uml", "chromium", "systemd-analyze", "chronyd", "promtool",
}  # fmt: skip
APT = """\
echo "apt-get $*" >>"$LOG"
[ "$FAILS" = 1 ] && [ "$1" = install ] && exit 100
[ "$2" = -s ] && for name in "$@"; do case $name in install | -*) ;; *) echo "Inst $name (1.0)" ;; esac; done
[ "$2" = -s ] && echo "Inst libdependency1 (1.0)"
exit 0
"""


class Machine:
    """A machine of stub programs, none of which does anything but note its call."""

    def __init__(self, directory: Path) -> None:
        self.bin, self.sbin, self.work, self.log = (directory / name for name in ("bin", "sbin", "work", "log"))
        for place in (self.bin, self.sbin, self.work):
            place.mkdir()
        self.log.touch()
        (self.work / "tests" / "integration" / "quiche").mkdir(parents=True)
        (self.work / "tests" / "integration" / "quiche" / "package.json").write_text("{}")
        for name in ("sh", "sed", "tr", "chmod", "rm"):
            (self.bin / name).symlink_to(shutil.which(name))
        self.add("apt-get", APT)
        self.add("update-rc.d", 'echo "update-rc.d $*" >>"$LOG"')
        self.add("dpkg-query", "exit 1")
        header = directory / "include"
        header.mkdir()
        (header / "Python.h").touch()
        # As a Python that has everything: its include directory, its version, its modules.
        self.add("python3", f'case $2 in *sysconfig*) echo "{header}" ;; esac')

    def add(self, name: str, text: str) -> None:
        (self.bin / name).write_text(f"#!{shutil.which('sh')}\n{text}\n")
        (self.bin / name).chmod(0o755)

    def run(self, what: str, user: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        self.add("id", f"echo {user}")
        settings = {"PATH": str(self.bin), "SBIN": str(self.sbin), "LOG": str(self.log), "FAILS": "0", **environment}
        return subprocess.run(
            [self.bin / "sh", SCRIPT, what], cwd=self.work, env=settings, capture_output=True, text=True, timeout=60, check=False
        )

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()

    def installed(self) -> list[str]:
        """The packages that apt-get was called for, simulations left out."""
        found = [call.split() for call in self.calls if call.startswith("apt-get install -y")]
        return [word for words in found for word in words[2:] if not word.startswith("-")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_root_gets_what_the_build_needs_and_sees_each_package_before(machine: Machine) -> None:
    done = machine.run("build")
    assert done.returncode == 0, done.stderr
    assert machine.installed() == ["gcc", "libc6-dev", "libssl-dev"]
    assert "installing: gcc libc6-dev libssl-dev libdependency1" in done.stdout
    assert "missing: libssl-dev (headers of OpenSSL" in done.stdout


def test_what_is_there_is_not_installed(machine: Machine) -> None:
    machine.add("cc", "exit 0")
    done = machine.run("build")
    assert (done.returncode, done.stdout, machine.calls) == (0, "", [])


def test_a_user_is_told_the_command_and_nothing_is_installed_for_the_build(machine: Machine) -> None:
    done = machine.run("build", user=1000)
    assert done.returncode == 1
    assert "sudo apt-get install gcc libc6-dev libssl-dev\n" in done.stderr
    assert machine.calls == []


@pytest.mark.parametrize("what", ["build", "peers"])
def test_install_0_forbids_root_to_install(machine: Machine, what: str) -> None:
    machine.add("npm", 'echo "npm $*" >>"$LOG"')
    done = machine.run(what, INSTALL="0")
    assert done.returncode == (1 if what == "build" else 0)
    assert "INSTALL=0 forbids it" in done.stdout + done.stderr
    assert "sudo apt-get install" in done.stdout + done.stderr
    assert machine.calls == []
    assert not list(machine.sbin.iterdir())


def test_root_gets_the_peers_and_others_without_their_services(machine: Machine) -> None:
    seen = machine.sbin / "policy-rc.d"
    machine.add("apt-get", f'[ "$2" = -y ] && [ -x {seen} ] && echo "no services: $*" >>"$LOG"\n{APT}')
    done = machine.run("peers")
    assert done.returncode == 0, done.stderr
    assert machine.installed() == [*PEERS, "chrony", "prometheus", *FORWARDER, *DEBIAN]
    for packages in (" ".join(PEERS), "chrony", "prometheus", " ".join(FORWARDER), " ".join(DEBIAN)):
        assert f"no services: install -y -qq --no-install-recommends {packages}" in machine.calls
    for package in ("chrony", "prometheus", "nginx"):
        assert f"update-rc.d {package} disable" in machine.calls
    assert not seen.exists()


def test_a_user_is_told_which_tests_are_skipped_and_how_to_install_the_peers(machine: Machine) -> None:
    done = machine.run("peers", user=1000)
    assert done.returncode == 0
    assert f"sudo apt-get install {' '.join(PEERS)}\n" in done.stdout
    assert "Tests that need chronyd are skipped. To install: sudo apt-get install chrony\n" in done.stdout
    assert "Tests that need promtool are skipped. To install: sudo apt-get install prometheus\n" in done.stdout
    assert machine.calls == []


def test_peers_that_cannot_be_installed_are_no_error(machine: Machine) -> None:
    done = machine.run("peers", FAILS="1")
    assert done.returncode == 0, done.stderr
    assert f"could not install {' '.join(PEERS)}; tests that need them are skipped" in done.stdout
    assert "could not install chrony" in done.stdout
    assert "could not install prometheus" in done.stdout
    assert not list(machine.sbin.iterdir())


def test_the_foreign_client_is_installed_into_the_tests_directory(machine: Machine) -> None:
    for program in PROGRAMS - {"npm"}:
        machine.add(program, "exit 0")
    machine.add("npm", 'echo "npm $*" >>"$LOG"')
    done = machine.run("peers", user=1000)
    assert machine.calls == ["npm install --silent --no-package-lock --no-audit --no-fund"]
    assert "installing into tests/integration/quiche with npm: quiche" in done.stdout


def test_a_missing_python_names_the_packages(machine: Machine) -> None:
    done = machine.run("build", PYTHON="python3.99")
    assert done.returncode == 1
    assert "python3.99 not found; TSQ needs Python 3.11 or newer" in done.stderr


def test_the_readme_names_every_package_that_may_be_installed() -> None:
    text = SCRIPT.read_text()
    packages = {"gcc", "libc6-dev", *re.findall(r"\b(?:need \S+|lack) (\w[\w-]*) \"", text)}
    fixed = {"chrony", "prometheus", "python3-dev", "python3-venv", "libssl-dev"}
    assert set(PEERS) | set(FORWARDER) | set(DEBIAN) | fixed <= packages
    section = README.read_text().partition("### What the commands install")[2].partition("\n## ")[0]
    shown = set(re.findall(r"`([^`]+)`", section))
    assert packages <= shown
