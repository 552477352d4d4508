"""A server that serves has given up what it does not need, and what is left is enough for all that it does (`--sandbox strict`)."""

import os
import pwd
import re
import shutil
import signal
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.processes import ServerProcess, run_client
from tsq.cli import server as server_command
from tsq.host import _sandbox

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
NOBODY = pwd.getpwnam("nobody")
WORKERS = pytest.mark.parametrize("workers", [1, 2])


def status_of(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def children_of(pid: int) -> list[int]:
    """None of a process that ends meanwhile."""
    try:
        return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    except OSError:
        return []


def serving(server: ServerProcess, workers: int) -> list[int]:
    """The processes that serve: the server itself, or its workers."""
    if workers == 1:
        return [server.pid]
    return [worker for program in children_of(server.pid) for worker in children_of(program)]


def heard(server: ServerProcess, words: str) -> str:
    """Read the server's log up to a line with these words."""
    while words not in (line := server.process.stderr.readline()):
        assert line, "the server ended"
    return line


@pytest.fixture
def files(certificates, tmp_path) -> Path:
    """Certificate and key in a directory of their own, which may be renewed."""
    for name, source in (("cert.pem", certificates.certificate), ("key.pem", certificates.key)):
        shutil.copy(source, tmp_path / name)
    return tmp_path


def options(files: Path, workers: int, *more: str) -> list[str | Path]:
    listen = ["--listen", "127.0.0.1:0", "--cert", files / "cert.pem", "--key", files / "key.pem"]
    return [*listen, "--workers", str(workers), "--sandbox", "strict", *more]


@WORKERS
@pytest.mark.skipif(not _sandbox.ARCHITECTURE, reason="no filter of system calls for this machine")
def test_the_allowed_system_calls_are_enough_under_load_reloads_and_reports(certificates, files, workers):
    trust = ["--ca", certificates.authority]
    with ServerProcess(options(files, workers, "--metrics", "127.0.0.1:0")) as server:
        url = server.process.stdout.readline().split()[-1]
        before = serving(server, workers)
        for _ in range(3):
            for how in ([], ["--stream"], ["--session-file", files / "session"], ["--count", "30", "--interval", "0.01"]):
                assert run_client(server.target, *trust, *how).returncode == 0
            server.send_signal(signal.SIGHUP)
            server.send_signal(signal.SIGUSR1)
            with urllib.request.urlopen(url, timeout=60) as page:
                assert b"tsq_server_answered_total" in page.read()
        heard(server, "certificate reloaded")
        assert serving(server, workers) == before, "none of them was ended by a call that is not allowed"
        assert {status_of(pid)["Seccomp"] for pid in before} == {"2"}
        if workers > 1:
            server.send_signal(signal.SIGUSR2)
            heard(server, "is loaded")
            deadline = time.monotonic() + 60
            while set(serving(server, workers)) & set(before) and time.monotonic() < deadline:
                assert run_client(server.target, *trust).returncode == 0
            assert len(serving(server, workers)) == workers
        assert run_client(server.target, *trust).returncode == 0
    assert server.process.returncode == 0


@root
@WORKERS
def test_who_serves_is_another_user_without_privileges_and_still_answers(certificates, files, workers):
    with ServerProcess(options(files, workers, "--user", "nobody")) as server:
        assert run_client(server.target, "--ca", certificates.authority).returncode == 0
        pids = serving(server, workers)
        assert len(pids) == workers
        for pid in pids:
            found = status_of(pid)
            assert set(found["Uid"].split()) == {str(NOBODY.pw_uid)}
            assert set(found["Gid"].split()) == {str(NOBODY.pw_gid)}
            assert {int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
            assert found["NoNewPrivs"] == "1"
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert re.search(r"Max core file size\s+0\s+0\s", limits)


@root
def test_a_key_that_the_user_may_not_read_any_more_is_kept_as_it_was(certificates, files):
    (files / "key.pem").chmod(0o600)
    with ServerProcess(options(files, 1, "--user", "nobody")) as server:
        server.send_signal(signal.SIGHUP)
        assert "Permission denied" in heard(server, "certificate not reloaded, the old one stays")
        assert run_client(server.target, "--ca", certificates.authority).returncode == 0


def test_an_unknown_user_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as end:
        server_command.main(["--cert", "c", "--key", "k", "--user", "no-such-user"])
    assert end.value.code == 2
    assert "no user 'no-such-user' on this machine (expected the name of a user)" in capsys.readouterr().err
