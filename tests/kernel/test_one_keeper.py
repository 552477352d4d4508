"""One program keeps a real kernel's clock: tsqd, tsq-adjtime and chronyd in a guest refuse each other, or work side by side.

In CI the guest is there. Elsewhere the tests are skipped with the reason.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chronyd import needs_chronyd
from tests.support.daemon import configuration, tsqd
from tests.support.processes import BIN
from tests.support.uml import HOST, Guest, Running, guest, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there are guests")

FAILED, RUNNING = 1, 15
# In the guest's own memory. Nothing answers there: what matters here happens before anything is measured.
PLACES = {"first": Path("/run/first"), "second": Path("/run/second")}
SERVER = f"{HOST}:4433"
# Waits until a daemon tells that it is ready, as systemd does; prints its process ID.
LAUNCH = """
import os, socket, subprocess, sys
place = "/run/notify"
if os.path.exists(place):
    os.unlink(place)
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.bind(place)
manager.settimeout(60)
process = subprocess.Popen(sys.argv[1:], env=os.environ | {"NOTIFY_SOCKET": place}, stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=open("/run/log", "w"), start_new_session=True)
while b"READY=1" not in manager.recv(4096):
    pass
print(process.pid)
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory, certificates) -> Iterator[Guest]:
    with guest(tmp_path_factory.mktemp("keeper")) as it:
        for place in PLACES.values():
            it.run("mkdir", place)
        yield it


@pytest.fixture(scope="module")
def command(machine, certificates):
    """The command line of a daemon with files of its own."""
    paths = {}
    for name, place in PLACES.items():
        (machine.directory / name).mkdir()
        paths[name] = configuration(machine.directory / name, [SERVER], ca=certificates.authority, where=place)
    return lambda name, *options: [str(word) for word in tsqd(paths[name], *options)]


@pytest.fixture
def started(machine) -> Iterator:
    """Start a daemon and wait until it is ready; its process ID."""
    running: list[int] = []

    def start(*words: str) -> int:
        done = machine.run(BIN / "python", "-c", LAUNCH, *words)
        assert done.status == 0, done.err + machine.run("cat", "/run/log").out
        running.append(int(done.out))
        return running[-1]

    yield start
    for pid in running:
        machine.run("kill", "-KILL", pid)


def test_a_second_daemon_and_tsq_adjtime_are_refused_until_the_first_is_gone(machine, command, started, certificates):
    first = started(*command("first"))
    done = machine.run(*command("second"))
    assert done.status == FAILED, done
    assert f"tsqd: error: another tsqd keeps this clock (process {first}, lock /run/tsq-adjtime-0.lock): end it first" in done.err
    done = machine.run(BIN / "tsq-adjtime", "--ca", certificates.authority, SERVER)
    assert done.status == RUNNING, done
    assert f"tsqd keeps this clock (process {first}, lock /run/tsq-adjtime-0.lock): let tsqd correct it" in done.err
    machine.kill(first, signal.SIGKILL)
    assert started(*command("second")) != first


def test_without_the_lock_the_process_table_tells_who_is_there(machine, command, started):
    """As between users, or containers that share the process table."""
    first = started(*command("first"))
    machine.run("rm", "/run/tsq-adjtime-0.lock")
    done = machine.run(*command("second"))
    assert done.status == FAILED, done
    assert f"another program keeps this clock (tsqd, process {first}): stop it, or set mode" in done.err


def test_a_daemon_that_leaves_the_clock_alone_is_no_rival(machine, command, started):
    """It has not even the capability; the one that steers has no other."""
    watching = started(*command("first", "--mode", "observe"))
    steering = started(*command("second"))
    for pid, capabilities in ((watching, 0), (steering, 1 << 25)):
        status = machine.run("cat", f"/proc/{pid}/status").out
        held = {line.split()[1] for line in status.splitlines() if line.startswith(("CapEff", "CapPrm", "CapBnd"))}
        assert {int(mask, 16) for mask in held} == {capabilities}


@needs_chronyd
def test_the_daemon_steers_not_beside_chronyd_but_watches(machine, command, started):
    chronyd: Running = machine.start("chronyd", "-d", "-U", "-u", "root", "-f", "/dev/null")
    try:
        while not machine.run("pgrep", "-x", "chronyd").out:
            pass
        done = machine.run(*command("first"))
        assert done.status == FAILED, done
        assert f"another program keeps this clock (chronyd, process {chronyd.pid}): stop it, or set mode = " in done.err
        assert started(*command("first", "--mode", "observe"))
    finally:
        machine.kill(chronyd.pid, signal.SIGKILL)
        chronyd.wait()
    assert started(*command("second"))
