"""Every command with standard streams that are closed, full, or gone: no traceback, what still works goes on."""

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.processes import BIN

FULL = f"standard output cannot be written: {os.strerror(28)}\n"
COMMANDS = {
    "client": ("tsq-client", "{target}", "--ca", "{ca}", "--interval", "0"),
    "client with JSON": ("tsq-client", "{target}", "--ca", "{ca}", "--interval", "0", "--json"),
    "client with samples": ("tsq-client", "{target}", "--ca", "{ca}", "--interval", "0", "-v"),
    "client that watches": ("tsq-client", "{target}", "--ca", "{ca}", "--interval", "0", "--watch", "--count", "2"),
    "client with a session file": ("tsq-client", "{target}", "--ca", "{ca}", "--interval", "0", "--session-file", "sessions"),
    "client that warns": ("tsq-client", "{target}", "--insecure", "--interval", "0"),
    "client's version": ("tsq-client", "--version"),
    "client's help": ("tsq-client", "--help"),
    "adjtime": ("tsq-adjtime", "{target}", "--ca", "{ca}", "--interval", "0", "--dry-run"),
    "adjtime that waits": ("tsq-adjtime", "{target}", "--ca", "{ca}", "--interval", "0", "--dry-run", "--wait"),
    "adjtime's help": ("tsq-adjtime", "--help"),
    "server's help": ("tsq-server", "--help"),
}
KEPT = (Path("out"), Path("err"))


@pytest.fixture
def run(server, tmp_path, monkeypatch):
    """Run a command under a shell's redirections; its status, output and errors (empty where they went elsewhere)."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, redirections: str, **environment: str) -> tuple[int, str, str]:
        words = [word.format(target=server.target, ca=server.ca) for word in COMMANDS[command]]
        shell = ["sh", "-c", f'exec "$@" {redirections}', "sh", str(BIN / words[0]), *words[1:]]
        done = subprocess.run(shell, env={**os.environ, **environment}, timeout=60, check=False)
        return done.returncode, *(path.read_text() if path.exists() else "" for path in KEPT)

    return run


def lines_of_fault(errors: str) -> list[str]:
    """Standard error without what is always said."""
    always = ("warning: --insecure", "without --dry-run it would be refused")
    return [line for line in errors.splitlines(keepends=True) if not any(words in line for words in always)]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("redirections", ["<&- >out 2>err", ">&- 2>err", ">out 2>&-", "<&- >&- 2>err", "<&- >&- 2>&-"])
def test_a_closed_stream_is_taken_for_dev_null(run, command, redirections):
    status, out, errors = run(command, redirections)
    assert (status, lines_of_fault(errors)) == (0, [])
    assert bool(out) == (">out" in redirections)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_under_standard_output_is_told_in_one_line(run, command):
    status, _, errors = run(command, ">/dev/full 2>err")
    assert lines_of_fault(errors) == [f"{COMMANDS[command][0]}: {FULL}"]
    # tsq-adjtime's work is the clock; what the others are run for is their output.
    assert status == (0 if command in ("adjtime", "adjtime that waits") else 1)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_under_standard_error_changes_nothing(run, command):
    status, out, _ = run(command, ">out 2>/dev/full")
    assert status == 0
    assert out


@pytest.mark.parametrize("command", COMMANDS)
def test_both_full(run, command):
    status, _, _ = run(command, ">/dev/full 2>/dev/full")
    assert status == (0 if command in ("adjtime", "adjtime that waits") else 1)


@pytest.mark.parametrize("command", ["client", "client with JSON", "adjtime"])
@pytest.mark.parametrize("redirections", [">&- 2>err", "<&- >&- 2>&-", ">out 2>/dev/full"])
def test_a_key_log_beside_a_stream_that_is_gone(run, command, redirections, tmp_path):
    assert run(command, redirections, SSLKEYLOGFILE="keys")[0] == 0
    lines = (tmp_path / "keys").read_text().splitlines()
    assert {line.split()[0] for line in lines} >= {"CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"}
    assert all(len(line.split()) == 3 for line in lines)


@pytest.mark.parametrize("redirections", ["<&- >&- 2>&-", ">&- 2>err", "<&- >out 2>&-"])
def test_what_is_opened_later_does_not_get_the_number_of_a_closed_stream(run, redirections, tmp_path):
    """Else the table would be in the middle of the tickets."""
    assert run("client with a session file", redirections)[0] == 0
    assert len(json.loads((tmp_path / "sessions").read_text())["sessions"]) == 1


def test_a_stream_that_another_program_made_non_blocking_gets_all_of_the_output(server):
    read, write = os.pipe()
    os.set_blocking(write, False)
    # As much as there is room for, so that the client has to wait.
    filled = 0
    while True:
        try:
            filled += os.write(write, b"x" * 4096)
        except BlockingIOError:
            break
    command = [BIN / "tsq-client", str(server.target), "--ca", server.ca, "--json", "--interval", "0", "--count", "20"]
    with subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE, text=True) as client:
        os.close(write)
        with os.fdopen(read, "rb") as reader:
            output = reader.read()
        _, errors = client.communicate(timeout=60)
    assert (client.returncode, errors) == (0, "")
    assert len(json.loads(output[filled:])["hosts"][0]["samples"]) == 20


@pytest.mark.parametrize("redirections", [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>/dev/full"])
def test_a_server_serves_whatever_its_streams_are(certificates, tmp_path, redirections):
    log = tmp_path / "err"
    options = ["--cert", str(certificates.certificate), "--key", str(certificates.key), "--local-stratum", "1"]
    shell = f'exec "$@" {redirections}' if "2>" in redirections else f'exec "$@" 2>{log} {redirections}'
    # The port is known beforehand: nothing can be read.
    target = f"127.0.0.1:{free_port()}"
    with subprocess.Popen(["sh", "-c", shell, "sh", str(BIN / "tsq-server"), "--listen", target, *options]) as server:
        try:
            command = [BIN / "tsq-client", target, "--ca", certificates.authority, "--interval", "0"]
            until = time.monotonic() + 30
            while subprocess.run(command, capture_output=True, timeout=60, check=False).returncode and time.monotonic() < until:
                assert server.poll() is None
            done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    assert done.returncode == 0
    errors = log.read_text() if log.exists() else ""
    assert "Traceback" not in errors
    assert errors.count(FULL) == (redirections == ">/dev/full")


@pytest.mark.parametrize("term", ["dumb", "", None])
def test_a_terminal_that_takes_no_escape_sequences_gets_none(server, term):
    environment = {name: value for name, value in os.environ.items() if name != "TERM"}
    if term is not None:
        environment["TERM"] = term
    for options in (["--watch", "--count", "2", "--interval", "0.1"], ["--count", "12", "--interval", "0"]):
        master, slave = pty.openpty()
        command = [BIN / "tsq-client", str(server.target), "--ca", server.ca, *options]
        with subprocess.Popen(command, stdout=slave, stderr=slave, env=environment) as client:
            os.close(slave)
            shown = b""
            while True:
                try:
                    part = os.read(master, 65536)
                except OSError:
                    break
                shown += part
            assert client.wait(60) == 0
        os.close(master)
        assert b"System clock wrong by" in shown
        assert b"\033" not in shown
