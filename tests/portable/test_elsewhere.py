"""Commands and library as on macOS and FreeBSD (tests/support/elsewhere.py): what works, and what says that it needs Linux."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tsq
from tests.support import elsewhere
from tests.support.processes import ServerProcess
from tsq.timing.local_clock import SLEWED, UNDISCIPLINED

ROOT = Path(__file__).parents[2]
NEED_LINUX = ["server", "adjtime", "daemon", "control", "wait-sync"]
SYSTEM = pytest.mark.parametrize("system", elsewhere.SYSTEMS)


def run(*arguments: object, code: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(["-m", "tests.support.elsewhere"] if code is None else ["-c", code]), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def library(system: str, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program that uses the library on this system."""
    begin = f"import sys; from tests.support import elsewhere; elsewhere.become({system!r})\n"
    return run(*arguments, code=begin + code)


@SYSTEM
def test_tsq_client_gives_the_time_with_a_bound_that_holds(server, system):
    done = run(system, "client", "--json", "--count", 4, "--ca", server.ca, server.target)
    assert done.returncode == 0, done.stderr
    (host,) = json.loads(done.stdout)["hosts"]
    assert len(host["samples"]) == 4
    for sample in host["samples"]:
        assert (sample["t1_source"], sample["t4_source"]) == ("user", "kernel")
        # Both ends read one clock.
        assert abs(sample["offset"]) <= sample["root_distance"]


@SYSTEM
@pytest.mark.parametrize("options", [["--stream"], ["--precision"], ["--count", "3", "--verbose"]], ids=lambda words: words[0])
def test_tsq_clients_options_work(server, system, options):
    done = run(system, "client", *options, "--ca", server.ca, server.target)
    assert done.returncode == 0, done.stderr
    assert "System clock wrong by" in done.stdout
    assert "Traceback" not in done.stderr


@SYSTEM
def test_a_session_file_and_signed_answers_work(certificates, tmp_path, system):
    key, log = tmp_path / "signing.key", tmp_path / "audit.log"
    made = run(system, "keygen", key)
    assert (made.returncode, made.stderr) == (0, "")
    with ServerProcess(
        ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key, "--sign-key", key]
    ) as there:
        for _ in range(2):
            trust = ["--ca", certificates.authority, "--session-file", tmp_path / "session"]
            signed = ["--require-signature", "--verify-key", f"{key}.pub", "--audit-log", log]
            done = run(system, "client", *trust, *signed, there.target)
            assert done.returncode == 0, done.stderr
    shown = run(system, "audit", log, "--verify-key", f"{key}.pub")
    assert shown.returncode == 0, shown.stderr


def test_tsq_conformance_works(server):
    done = run("darwin", "conformance", "--ca", server.ca, server.target)
    assert done.returncode == 0, done.stderr + done.stdout


@SYSTEM
@pytest.mark.parametrize("command", NEED_LINUX)
def test_a_command_that_needs_linux_says_so_in_one_line(system, command):
    done = run(system, command, "--help")
    program = {"daemon": "tsqd", "control": "tsqctl"}.get(command, f"tsq-{command}")
    advice = "run it on a Linux machine; tsq-client, tsq-conformance, tsq-audit, tsq-keygen and the library's queries work here"
    assert done.stderr == f"{program}: error: {program} needs Linux, and this is {system}: {advice}\n"
    assert (done.returncode, done.stdout) == (2, "")


@SYSTEM
def test_every_public_name_is_there_or_says_that_it_needs_linux(system):
    code = """
import tsq
for name in tsq.__all__:
    try:
        assert getattr(tsq, name) is not None
    except ImportError as error:
        assert str(error).startswith(f"tsq.{name} needs Linux, and this is "), error
        print(name)
"""
    done = library(system, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [name for name in tsq.__all__ if name in tsq._NEED_LINUX]


@SYSTEM
def test_both_clients_of_the_library_work(server, system):
    code = """
import asyncio, tsq
options = tsq.ClientOptions(trust=tsq.Trust(ca_file=sys.argv[1]), count=3, interval=0.0)
for result in (tsq.query(sys.argv[2], options), asyncio.run(tsq.aquery(sys.argv[2], options))):
    assert abs(result.estimate.offset) <= result.estimate.root_distance
    print(result.good, *{sample.tolerance for sample in result.samples})
"""
    done = library(system, code, server.ca, server.target)
    assert done.returncode == 0, done.stderr
    # Without a clock that no slew touches, a slew is allowed for.
    tolerance = UNDISCIPLINED if system == "darwin" else SLEWED
    assert done.stdout.splitlines() == [f"3 {tolerance}"] * 2


@SYSTEM
def test_nothing_that_sets_a_clock_works_elsewhere(system):
    code = """
from tsq.errors import ClockError
from tsq.host.clock import SystemClock, clock_reading
reading = clock_reading()
assert (reading.frequency, reading.pending_ns, reading.synchronized) == (None, None, False)
clock = SystemClock()
for call in (lambda: clock.step(1.0, max_error=1.0, estimated_error=1.0), clock.state, clock.stop_slewing):
    try:
        call()
    except ClockError as error:
        assert "needs Linux" in str(error)
    else:
        raise AssertionError("it works")
"""
    done = library(system, code)
    assert (done.returncode, done.stderr) == (0, "")


def test_setup_builds_only_the_portable_modules_elsewhere():
    # setuptools is loaded before: it needs modules of its system.
    code = "import sys, setuptools, Cython.Build; sys.platform = 'darwin'; import setup; print(*setup.MODULES)"
    done = run(code=code)
    assert done.stdout.split() == list(elsewhere.modules("PORTABLE")), done.stderr
