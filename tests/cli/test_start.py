"""Where the commands begin, and what they write to: interrupts, encodings, full disks."""

import os
import re
import stat
import subprocess

import pytest

from tests.support.processes import BIN, run_client

# In the place of a module that all three load: as if Ctrl-C came just then.
INTERRUPTS = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"


@pytest.mark.parametrize("command", ["tsq-client", "tsq-server", "tsq-adjtime"])
def test_an_interrupt_while_modules_are_loaded_ends_quietly(tmp_path, command):
    (tmp_path / "argparse.py").write_text(INTERRUPTS)
    run = subprocess.run(
        [BIN / command, "--help"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "interrupted before anything was done\n")


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX"}])
def test_a_terminal_without_the_signs_gets_others(server, environment):
    run = run_client(server.target, "--ca", server.ca, **environment)
    assert (run.returncode, run.stderr) == (0, "")
    assert re.search(r"^System clock wrong by [+-]\d+\.\d{3} \+/- \d+\.\d{3} (us|ms) \(ignored\)$", run.stdout, re.MULTILINE)
    header, row = run.stdout.splitlines()[:2]
    assert header.split() == ["M", "host", "stratum", "offset", "+/-", "delay", "samples"]
    assert len(header) == len(row), "columns stay aligned"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_full_disk_is_told_in_one_line(server, options):
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [BIN / "tsq-client", str(server.target), "--ca", server.ca, *options],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert run.stderr == f"tsq-client: standard output cannot be written: {os.strerror(28)}\n"
    assert run.returncode == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o666])
def test_a_key_log_that_others_can_read_gets_no_secrets_and_keeps_its_mode(server, tmp_path, mode):
    log = tmp_path / "keys"
    log.write_text("so far\n")
    log.chmod(mode)
    run = run_client(server.target, "--ca", server.ca, "--interval", "0", SSLKEYLOGFILE=str(log))
    assert run.returncode == 0
    words = rf"TLS secrets are not written to {log} \(SSLKEYLOGFILE\): it can be \w+ by others \(mode {mode:04o}, expected 0600\)"
    assert re.fullmatch(f"tsq-client: warning: {words}\n", run.stderr)
    assert log.read_text() == "so far\n"
    assert stat.S_IMODE(log.stat().st_mode) == mode


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "device", "directory"])
def test_a_key_log_that_is_no_file_of_its_own_is_left_as_it_is(server, tmp_path, kind):
    log, elsewhere = tmp_path / "keys", tmp_path / "elsewhere"
    elsewhere.touch(0o600)
    make = {
        "symbolic link": lambda: log.symlink_to(elsewhere),
        "hard link": lambda: os.link(elsewhere, log),
        "device": lambda: None,
        "directory": log.mkdir,
    }
    make[kind]()
    name = "/dev/full" if kind == "device" else str(log)
    run = run_client(server.target, "--ca", server.ca, "--interval", "0", SSLKEYLOGFILE=name)
    assert run.returncode == 0
    assert run.stderr.startswith(f"tsq-client: warning: TLS secrets are not written to {name} (SSLKEYLOGFILE): it ")
    assert kind in run.stderr
    assert elsewhere.read_text() == ""


def test_a_key_log_on_a_full_disk_costs_its_lines_and_is_told_once(server, tmp_path):
    """A file may not grow beyond a limit: as a full disk, for who writes."""
    log = tmp_path / "keys"
    log.touch(0o600)
    log.write_bytes(b"x" * 1023 + b"\n")
    shell = ["sh", "-c", 'ulimit -f 2; exec "$@"', "sh", BIN / "tsq-client", "--ca", server.ca, "--interval", "0"]
    environment = {**os.environ, "SSLKEYLOGFILE": str(log)}
    run = subprocess.run(
        [*shell, str(server.target)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0
    told, warning = run.stderr.splitlines()
    assert told == f"tsq-client: TLS secrets go to {log} (SSLKEYLOGFILE)"
    assert warning == f"tsq-client: warning: TLS secrets are not written to {log} (SSLKEYLOGFILE): File too large"


@pytest.mark.parametrize("command", ["tsq-server", "tsq-client", "tsq-adjtime"])
def test_an_interrupt_after_the_modules_are_loaded_ends_quietly_too(tmp_path, command):
    """As the options are read: the command has begun, and has nothing to put in order yet."""
    (tmp_path / "sitecustomize.py").write_text(
        "import argparse, os, signal\n"
        "def parse_known_args(*_):\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "argparse.ArgumentParser.parse_known_args = parse_known_args\n"
    )
    run = subprocess.run(
        [BIN / command, "host"], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (130, "", f"{command}: interrupted\n")
