"""tsq-client's audit log and chain, and tsq-audit, between real processes; a server whose clock is wrong is caught."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.audit.servers import MS, Signing, asked_in_turn
from tests.support.processes import ServerProcess, run_client
from tsq.audit.records import write
from tsq.cli import audit
from tsq.wire.keys import verify_line


def run(command: str, *arguments: object, where: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tsq", command, *map(str, arguments)],
        cwd=where, capture_output=True, text=True, timeout=60, check=False,
    )


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Two signing keys, and what verifies both."""
    for name in ("a", "b"):
        assert run("keygen", tmp_path / name, where=tmp_path).returncode == 0
    (tmp_path / "all.pub").write_text((tmp_path / "a.pub").read_text() + (tmp_path / "b.pub").read_text())
    return tmp_path


def lies(tmp_path: Path, **offsets: int) -> tuple[Path, Path]:
    """A log by three servers with these clock errors, ns, and its keys."""
    servers = [Signing(name, offsets.get(name, 0)) for name in ("ant", "bee", "cat")]
    log, public = tmp_path / "log", tmp_path / "keys.pub"
    log.write_text("".join(map(write, asked_in_turn(servers))))
    public.write_text("".join(verify_line(server.responder.signer) for server in servers))
    return log, public


def test_a_chain_of_real_servers_is_kept_and_proves_its_order(certificates, keys):
    options = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key, "--sign-key"]
    signed = ["--ca", certificates.authority, "--require-signature", "--verify-key", keys / "all.pub", "--audit-log", keys / "log"]
    with ServerProcess([*options, keys / "a"]) as first, ServerProcess([*options, keys / "b"]) as second:
        hosts = [str(first.target), str(second.target)]
        done = run_client(*hosts, "--chain", *signed)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"a chain of 3 answers by 2 servers is in {keys / 'log'}; tsq-audit checks it\n"
        # Another run appends, without a chain.
        assert run_client(hosts[0], "--count", "2", *signed).returncode == 0
    assert stat.S_IMODE((keys / "log").stat().st_mode) == 0o600
    checked = run("audit", "log", "--verify-key", "all.pub", "--json", where=keys)
    assert (checked.returncode, checked.stderr) == (0, "")
    found = json.loads(checked.stdout)
    assert (found["chains"], found["chained"], found["faults"], found["contradiction"]) == (1, 2, [], [])
    assert found["records"] >= 5
    assert {one["server"] for one in found["servers"]} == set(hosts)
    assert all(one["error"] == 1e-6 and one["error_known"] for one in found["servers"])
    # One clock: what the order proves has the truth in it, and a known key is missing where one file is given.
    assert all(limit["ahead_at_most"] > 0 for limit in found["limits"])
    assert run("audit", "log", "--verify-key", "a.pub", where=keys).returncode == 1


def test_a_liar_is_named_with_its_proof(tmp_path, capsys):
    log, public = lies(tmp_path, bee=10 * MS)
    assert audit.main([str(log), "--verify-key", str(public)]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "7 records of 3 servers, 6 links in 1 chain"
    assert lines[-1] == "bee contradicts the others: without it, all agree"
    assert "contradiction:" in lines
    assert audit.main([str(log), "--verify-key", str(public), "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["accused"] == "bee"
    assert sum(limit["ahead_at_most"] for limit in found["contradiction"]) < 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none", "--verify-key", "{public}"], "audit log none: No such file or directory"),
        (["{log}", "--verify-key", "none"], "key file none: No such file or directory"),
        (["{public}", "--verify-key", "{public}"], "line 1 is no record"),
        (["{log}", "--verify-key", "{public}", "--server-error", "0"], "--server-error 0.0 (expected above 0, at most 1 second)"),
        (["{log}"], "the following arguments are required: --verify-key"),
    ],
)
def test_what_cannot_be_used_is_a_usage_error(tmp_path, capsys, arguments, words, monkeypatch):
    log, public = lies(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        audit.main([argument.format(log=log, public=public) for argument in arguments])
    assert end.value.code == 2
    assert words in capsys.readouterr().err


SIGNED = ["--require-signature", "--verify-key", "all.pub"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["h", "--audit-log", "log"], "--audit-log without --require-signature (expected signed answers: others prove nothing)"),
        (["h", "i", "--chain", *SIGNED], "--chain without --audit-log FILE (expected a file for the chain)"),
        (["h", "i", "--chain", "--audit-log", "log", "--json", *SIGNED], "--chain together with --json (expected one of them)"),
        (["h", "--chain", "--audit-log", "log", *SIGNED], "--chain with one host, or one that is given twice"),
        (["h", "h", "--chain", "--audit-log", "log", *SIGNED], "--chain with one host, or one that is given twice"),
        (["h", "--audit-log", "/dev/null", *SIGNED], "audit log /dev/null: "),
    ],
)
def test_a_client_says_what_its_options_lack(keys, arguments, words):
    done = run("client", *arguments, where=keys)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert not (keys / "log").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_log_that_cannot_be_written_is_reported_and_the_time_is_shown(certificates, keys, tmp_path):
    options = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key, "--sign-key", keys / "a"]
    with ServerProcess(options) as server:
        code = (
            "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)); from tsq.cli.client import main; sys.exit(main(sys.argv[1:]))"
        )
        done = subprocess.run(
            [
                sys.executable, "-c", code, str(server.target), "--ca", str(certificates.authority), "--require-signature",
                "--verify-key", str(keys / "a.pub"), "--audit-log", str(keys / "log"),
            ],
            capture_output=True, text=True, timeout=60, check=False,
        )
    assert done.returncode == 1
    assert f"tsq-client: audit log {keys / 'log'}: " in done.stderr
    assert "System clock wrong by" in done.stdout
