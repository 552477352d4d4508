"""The real ntpd-rs keeps a real kernel's clock by what tsqd feeds to it, as docs/howto/feed-ntpd-rs.md has it: in a guest, against
a server on this machine, whose clock is the truth.

In CI the guest and ntpd-rs are there. Elsewhere the tests are skipped with the reason.
"""

import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.kernel.test_real_clock import PORT, spoil
from tests.support import uml
from tests.support.chronyd import until
from tests.support.daemon import configuration, tsqctl, tsqd
from tests.support.processes import BIN
from tests.support.uml import HOST, ROOT, Guest, guest

# scripts/prerequisites.sh unpacks it, with the C library that it wants.
PLACE = ROOT / "build" / "ntpd-rs"
RUN = Path("/run")
OBSERVE = "from tsq.host.keepers.ntpd_rs import observe; print(observe())"
HOWTO = (ROOT / "docs" / "howto" / "feed-ntpd-rs.md").read_text()
OURS = re.findall(r"^```toml\n(.*?)^```$", HOWTO, re.MULTILINE | re.DOTALL)
THEIRS = re.findall(r"^```ntpd-rs\n(.*?)^```$", HOWTO, re.MULTILINE | re.DOTALL)
OBSERVED = '[observability]\nobservation-path = "/run/ntpd-rs/observe"\n'


def missing() -> str:
    """Why this is not possible here; empty: it is."""
    if found := uml.missing():
        return found
    return "" if PLACE.exists() else f"ntpd-rs is not in {PLACE}: `make peers` unpacks it where it may"


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is ntpd-rs")


def ntp_daemon(config: Path) -> list[object]:
    (loader,) = PLACE.glob("usr/lib/*/ld-linux*.so.*")
    return [loader, "--library-path", loader.parent, PLACE / "usr" / "bin" / "ntp-daemon", "--config", config]


def fed(machine: Guest) -> dict[str, object]:
    lab = machine.directory / "lab"
    server = [BIN / "tsq-server", "--listen", f"{HOST}:{PORT}", "--self-signed", lab, "--local-stratum", "1"]
    process = machine.process(server, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert "listening" in process.stdout.readline()
    path = configuration(machine.directory, [f"{HOST}:{PORT}"], ca=lab / "ca.pem", where=RUN, mode="feed")
    (sock,) = [line for line in OURS[1].splitlines() if line.startswith("sock")]
    path.write_text(path.read_text().replace("[feed]\n", f"[feed]\n{sock}\n"))
    ntp = machine.directory / "ntp.toml"
    # This ntpd-rs is of before 1.5.
    ntp.write_text(THEIRS[1].replace("precision = 1e-4", "measurement_noise_estimate = 1e-8") + THEIRS[2] + OBSERVED)
    machine.run("mkdir", "/run/ntpd-rs")
    spoil(machine, 0.2)
    daemon = machine.start(*tsqd(path))
    keeper = machine.start(*ntp_daemon(ntp))
    found: dict[str, object] = {"offset": until(lambda: abs((it := machine.offset()).offset) < 1e-3 and it)}
    found["observation"] = until(lambda: "stratum=1," in (it := machine.python(OBSERVE)) and it)
    found["later"] = machine.offset()
    command = tsqctl(RUN, "tracking")
    found["tracking"] = until(lambda: "Foreign moves   : 0" not in (it := machine.run(*command).out) and it)
    machine.kill(daemon.pid, signal.SIGTERM)
    found["tsqd"] = daemon.wait(120)
    machine.run("kill", keeper.pid)
    found["ntpd-rs"] = keeper.wait(120)
    return found


def run(directory: Path) -> dict[str, object]:
    with guest(directory) as machine:
        return fed(machine)


RUNS = {} if missing() else {"fed": run}


@pytest.fixture
def found(guests) -> dict:
    return guests(__name__, "fed")


def test_the_page_has_both_ways():
    assert "[feed.ntp]" in OURS[0]
    assert "sock = " in OURS[1]
    assert ['mode = "server"' in THEIRS[0], 'mode = "sock"' in THEIRS[1], "minimum-agreeing-sources" in THEIRS[2]] == [True] * 3


def test_ntpd_rs_corrects_the_clock_by_the_samples_of_tsqd(found):
    for offset in (found["offset"], found["later"]):
        assert abs(offset.offset) < 1e-3 + offset.error


def test_ntpd_rs_says_that_it_is_synchronized(found):
    # To it a socket is a reference clock.
    assert re.match(r"Observation\(stratum=1, leap=0, ", found["observation"])
    (jump, *_) = re.findall(r"Jumped offset by (-?\d+\.\d+)ms", found["ntpd-rs"].out) or [found["ntpd-rs"]]
    assert float(jump) == pytest.approx(200, abs=2)


def test_tsqd_sees_that_another_program_keeps_the_clock(found):
    assert "Mode            : feed" in found["tracking"]
    (step,) = re.findall(r"another program steps this clock by (\S+) s", found["tsqd"].err) or [found["tsqd"].err]
    assert float(step) == pytest.approx(0.2, abs=2e-3)
