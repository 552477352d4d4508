"""The Debian package in a Debian of its own: installed, started by hand, upgraded and purged.

In CI, as root, all of it runs. Elsewhere the tests are skipped with the reason.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import tsq
from tests.support import roots
from tests.support.chronyd import until
from tests.support.namespaces import Pair, inside, pair
from tests.support.packages import KEPT, NEWER
from tests.support.processes import BIN
from tests.support.roots import Place

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = ROOT / "debian"
ADDRESS, CLIENT = "192.0.2.1", "192.0.2.10"
PROGRAMS = ("dh", "dh_apparmor", "dpkg-deb", "lintian")
_lacking = (f"{name} is not installed; `make peers` installs it" for name in PROGRAMS if not shutil.which(name))
_missing = roots.missing() or next(_lacking, "")
_needed = pytest.mark.skipif(bool(_missing), reason=_missing or "Debian's tools are there")


def test_the_version_is_that_of_the_package():
    line = (DEBIAN / "changelog").read_text().splitlines()[0]
    assert line.startswith(f"tsq-time ({tsq.__version__}) ")


def test_the_users_are_those_of_the_units():
    assert (DEBIAN / "tsq-time.tsq.sysusers").read_text() == (ROOT / "contrib/systemd/tsq.sysusers.conf").read_text()


def test_apparmor_accepts_the_profiles():
    parser = shutil.which("apparmor_parser", path=os.environ["PATH"] + ":/usr/sbin")
    if parser is None:
        pytest.skip("apparmor_parser is not installed (Debian: apt-get install apparmor); `make peers` installs it")
    for profile in sorted((ROOT / "contrib/apparmor").iterdir()):
        # Compiled, but neither loaded nor kept.
        done = subprocess.run([parser, "-Q", "-K", "-S", profile], capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout) > 1000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with roots.copy_of(roots.base(), tmp_path_factory.mktemp("root")) as made:
        # The first tests install and use it; the last one purges it.
        yield made


@pytest.fixture(scope="module")
def before(place: Place) -> set[str]:
    return place.listing(KEPT)


@pytest.fixture(scope="module")
def installed(place: Place, package: Path, before: set[str]) -> Place:
    assert before
    shutil.copy(package, place.path / "tmp/tsq.deb")
    place.run("apt-get", "install", "-y", "--no-install-recommends", "/tmp/tsq.deb")
    return place


@pytest.fixture(scope="module")
def network() -> Iterator[Pair]:
    with pair([ADDRESS], [CLIENT]) as made:
        yield made


@pytest.fixture(scope="module")
def lintian(package: Path) -> subprocess.CompletedProcess[str]:
    (changes,) = package.parent.glob("*.changes")
    command = ["lintian", "--allow-root", "--show-overrides", "--tag-display-limit", "0", changes]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


@_needed
def test_lintian_finds_nothing(lintian):
    # Its status counts what is overridden, too, when that is shown.
    assert "O: tsq-time: " in lintian.stdout, lintian.stderr
    assert not re.findall(r"^[EW]: .*", lintian.stdout, re.MULTILINE)


@_needed
def test_each_override_says_why_and_is_used(lintian):
    lines = (DEBIAN / "tsq-time.lintian-overrides").read_text().splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        assert line.startswith("#") or before.startswith("#"), line
    used = set(re.findall(r"^O: tsq-time: (\S+)", lintian.stdout, re.MULTILINE))
    assert used == {line.split()[1] for line in lines if not line.startswith("#")}


@_needed
def test_it_installs_without_a_compiler_and_without_a_network(installed):
    assert not [name for name in ("cc", "gcc", "clang", "pip3") if (installed.path / "usr/bin" / name).exists()]
    for program in ("tsq-client", "tsq-server", "tsqd", "tsq-adjtime", "tsq-audit", "tsq-keygen", "tsqctl", "tsq-wait-sync"):
        assert installed.run(program, "--version") == f"{program} {tsq.__version__}\n"
    assert installed.run("id", "-un", "tsq", "tsqd") == "tsq\ntsqd\n"
    # The packet protection is compiled, over the libcrypto of this Debian, and the processor's AES where there is one.
    shown = installed.run(
        "python3", "-I", "-c",
        "import sys; sys.path.insert(0, '/usr/lib/tsq-time'); from tsq.dataplane import packet; packet.use_own_aes(True);"
        "open('/proc/self/maps').read().count('/libcrypto.so.3') and print('libcrypto', packet.use_own_aes(True))",
    )  # fmt: skip
    assert shown.split() == ["libcrypto", str("pclmulqdq" in Path("/proc/cpuinfo").read_text())]


@_needed
def test_nothing_is_enabled_and_only_the_unit_that_steers_conflicts(installed):
    units = installed.path / "usr/lib/systemd/system"
    wanted = {path.name for path in (ROOT / "contrib/systemd").iterdir() if path.suffix != ".conf"}
    assert {path.name for path in units.glob("tsq*")} == wanted
    assert not list((installed.path / "etc/systemd/system").rglob("tsq*"))
    for unit in units.glob("tsq*.service"):
        conflicts = set(re.findall(r"^Conflicts=.*chrony", unit.read_text(), re.MULTILINE))
        assert bool(conflicts) is (unit.name == "tsqd.service")
    done = installed.run("dpkg-query", "-W", "-f", "${Conflicts}${Breaks}${Provides}${Replaces}", "tsq-time")
    assert done == ""
    # As installed, the configuration has no source, and says so.
    assert "source" in installed.run("tsqd", "--check-config", "--config", "/etc/tsq/tsqd.toml", check=False)


@_needed
def test_manual_pages_and_completions_are_in_place(installed):
    for name in ("man/man1/tsq-client.1.gz", "man/man8/tsqd.8.gz", "bash-completion/completions/tsq-client"):
        listed = installed.run("dpkg", "-L", "tsq-time").splitlines()
        assert f"/usr/share/{name}" in listed
    assert {"/usr/share/zsh/vendor-completions/_tsqd", "/usr/share/fish/vendor_completions.d/tsqd.fish"} <= set(listed)


@_needed
def test_the_server_answers_as_the_unit_starts_it(installed, network, certificates):
    etc = installed.path / "etc/tsq"
    shutil.copy(certificates.certificate, etc / "cert.pem")
    shutil.copy(certificates.key, etc / "key.pem")
    installed.run("chgrp", "tsq", "/etc/tsq/key.pem")
    installed.run("chmod", "640", "/etc/tsq/key.pem")
    unit = (ROOT / "contrib/systemd/tsq-server.service").read_text()
    (start,) = re.findall(r"^ExecStart=(.*)", unit, re.MULTILINE)
    # The capability that the unit gives is left out: another port does without it.
    words = [*start.replace(":443", ":4433").split(), "--local-stratum", "1"]
    command = installed.command(*words, namespace=network.one, user="tsq:tsq")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert "listening" in server.stdout.readline()
            client = ["tsq-client", f"{ADDRESS}:4433", "--server-name", "localhost", "--interval", "0.01"]
            shutil.copy(certificates.authority, etc / "ca.pem")
            inner = json.loads(installed.run(*client, "--ca", "/etc/tsq/ca.pem", "--json", namespace=network.other))
            assert inner["hosts"][0]["stratum"] == 1
            # And this tree's client, from outside.
            outer = [*inside(network.other), str(BIN / client[0]), *client[1:], "--ca", str(certificates.authority)]
            assert " 3/3 " in subprocess.run(outer, capture_output=True, text=True, timeout=60, check=True).stdout
        finally:
            # unshare does not hand a SIGTERM on; what it started ends with it.
            server.kill()
    assert not list(installed.path.joinpath("usr/lib/tsq-time").rglob("__pycache__/*.pyc.*"))


@_needed
def test_an_upgrade_keeps_what_the_administrator_wrote(installed, newer):
    config = installed.path / "etc/tsq/tsqd.toml"
    config.write_text(config.read_text() + "# mine\n")
    shutil.copy(newer, installed.path / "tmp/newer.deb")
    installed.run("apt-get", "install", "-y", "--no-install-recommends", "/tmp/newer.deb")
    assert installed.run("dpkg-query", "-W", "-f", "${Version}", "tsq-time") == NEWER
    assert config.read_text().endswith("# mine\n")
    assert (installed.path / "etc/tsq/key.pem").exists()
    assert installed.run("tsq-client", "--version").startswith("tsq-client ")


@_needed
def test_a_purge_leaves_nothing(installed, before):
    # What the daemon and the server would have left.
    for name in ("var/lib/tsq", "var/log/tsq"):
        (installed.path / name).mkdir(parents=True)
        (installed.path / name / "file").touch()
    installed.run("apt-get", "purge", "-y", "tsq-time")
    assert installed.listing(KEPT) == before
    for name in ("passwd", "group", "shadow"):
        assert "tsq" not in (installed.path / "etc" / name).read_text()
    assert "tsq" not in installed.run("dpkg-query", "-W")
    assert until(lambda: not list((installed.path / "var/log").glob("tsq*")))
