"""tsq-keygen, and signed answers between real processes: made, asked for, refused, and the key changed without a restart."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ServerProcess
from tsq.cli import keygen
from tsq.host.key_files import load_signing_keys, load_verifier


def run(command: str, *arguments: object, where: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tsq", command, *map(str, arguments)],
        cwd=where, capture_output=True, text=True, timeout=60, check=False,
    )


def heard(server: ServerProcess, words: str) -> None:
    """Read the server's log up to a line with these words."""
    while words not in (line := server.process.stderr.readline()):
        assert line, "the server ended"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("algorithm", "public_mode"), [("ed25519", 0o644), ("hmac-sha256", 0o600)])
def test_a_key_is_private_whatever_the_umask_and_never_written_over(tmp_path, capsys, algorithm, public_mode):
    path = tmp_path / "key"
    before = os.umask(0)
    try:
        assert keygen.main(["--algorithm", algorithm, "--id", "7", str(path)]) == 0
    finally:
        os.umask(before)
    assert capsys.readouterr().out == f"tsq-keygen: key 7 ({algorithm}) is in {path}; clients need {path}.pub\n"
    assert (mode_of(path), mode_of(Path(f"{path}.pub"))) == (0o600, public_mode)
    assert [key.key_id for key in load_signing_keys([str(path)])] == [7]
    assert set(load_verifier([f"{path}.pub"]).keys) == {7}
    content = path.read_text()
    with pytest.raises(SystemExit) as end:
        keygen.main([str(path)])
    error = capsys.readouterr().err
    assert (end.value.code, error) == (2, f"tsq-keygen: error: {path}: File exists: give a file that does not exist yet\n")
    assert path.read_text() == content


@pytest.mark.parametrize("arguments", [["--id", "-1", "k"], ["--id", "4294967296", "k"], ["--algorithm", "rsa", "k"], []])
def test_a_wrong_command_line_writes_nothing(tmp_path, arguments, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        keygen.main(arguments)
    assert end.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_answers_are_signed_and_the_key_changes_without_a_restart(certificates, tmp_path):
    for name in ("old", "new"):
        assert run("keygen", name, where=tmp_path).returncode == 0
    (tmp_path / "current").write_text((tmp_path / "old").read_text())
    (tmp_path / "current").chmod(0o600)

    def ask(server, *keys):
        verify = [word for key in keys for word in ("--verify-key", f"{key}.pub")]
        return run(
            "client", server.target, "--ca", certificates.authority, "--require-signature", *verify, "--count", "2", where=tmp_path
        )

    options = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key]
    with ServerProcess([*options, "--sign-key", tmp_path / "current"]) as server:
        heard(server, "responses are signed with key")
        assert ask(server, "old").returncode == 0
        wrong = ask(server, "new")
        assert wrong.returncode == 6
        assert "signature missing or not valid (a signature by key" in wrong.stderr
        (tmp_path / "next").write_text((tmp_path / "new").read_text() + (tmp_path / "old").read_text())
        (tmp_path / "next").chmod(0o600)
        (tmp_path / "next").replace(tmp_path / "current")
        server.send_signal(signal.SIGHUP)
        heard(server, "responses are signed with key")
        assert ask(server, "new").returncode == 0
        assert ask(server, "old", "new").returncode == 0
        assert ask(server, "old").returncode == 6
        (tmp_path / "current").write_text("nonsense")
        server.send_signal(signal.SIGHUP)
        heard(server, "signing keys not reloaded, the old ones stay")
        assert ask(server, "new").returncode == 0


def test_a_key_that_others_can_read_is_refused(certificates, tmp_path):
    assert run("keygen", "key", where=tmp_path).returncode == 0
    (tmp_path / "key").chmod(0o644)
    done = run(
        "server", "--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key, "--sign-key", "key",
        where=tmp_path,
    )
    assert done.returncode == 2
    assert "key file key: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--require-signature"], "--require-signature without --verify-key FILE (expected both)"),
        (["--verify-key", "x"], "--verify-key without --require-signature (expected both)"),
        (
            ["--require-signature", "--verify-key", "none.pub"],
            "key file none.pub: No such file or directory (expected a file that tsq-keygen wrote)",
        ),
    ],
)
def test_a_client_that_cannot_check_signatures_asks_nobody(tmp_path, arguments, words):
    done = run("client", "127.0.0.1:9", *arguments, where=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f"tsq-client: error: {words}\n")
