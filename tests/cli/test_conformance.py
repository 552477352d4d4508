"""The command tsq-conformance against real servers: its output, its exit status, its messages where there is nothing to test."""

import json
import re
import socket
import subprocess
import sys

import pytest

from tests.cli.peers import closed_port, deaf_port
from tests.support.processes import BIN, ServerProcess
from tsq.cli.conformance import main
from tsq.conformance.blocking import SocketWire
from tsq.conformance.findings import Finding, Verdict
from tsq.conformance.statements import STATEMENTS
from tsq.conformance.suite import Report
from tsq.quic.selfsigned import self_signed
from tsq.report import conformance


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [BIN / "tsq-conformance", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_our_server_passes_with_keys_in_every_part(certificates, tmp_path):
    key = tmp_path / "key"
    made = subprocess.run([sys.executable, "-m", "tsq", "keygen", key], capture_output=True, timeout=60, check=False)
    assert made.returncode == 0
    options = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key, "--sign-key", key]
    with ServerProcess(options) as server:
        done = run(server.target, "--ca", certificates.authority, "--verify-key", f"{key}.pub", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert [one["number"] for one in found["statements"]] == list(STATEMENTS)
    assert (found["fail"], found["unfinished"], found["alpn"]) == (0, [], "tsq/1")
    verdicts = {one["number"]: one["verdict"] for one in found["statements"]}
    assert {verdicts[number] for number in ("6.3.2-39", "6.4-10", "8-3", "7-4", "7-a", "R7-2", "RFC 9221-1")} == {"pass"}
    assert verdicts["6.6-4"] is None
    assert sum(one["verdict"] == "pass" for one in found["statements"]) == found["pass"] >= 60


def test_the_table_has_the_rows_and_a_summary(server, certificates):
    done = run(server.target, "--ca", certificates.authority, "--all", "--timeout", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("ALPN tsq/1; datagrams and streams\n\n")
    numbers = re.findall(r"^(?:pass|skipped|untested) +§?(\S+(?: \S+)?-\w+) ", done.stdout, re.MULTILINE)
    assert numbers == list(STATEMENTS)
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"\d+ pass, 0 fail, \d+ skipped, \d+ untested", last)


def test_a_certificate_is_never_accepted_silently(server, certificates, tmp_path):
    refused = run(server.target)
    assert refused.returncode == 4
    assert "certificate" in refused.stderr
    assert refused.stdout == ""
    other = self_signed(str(tmp_path), ["localhost"])
    assert run(server.target, "--ca", other.authority).returncode == 4
    named = run(server.target, "--ca", certificates.authority, "--server-name", "other.example")
    assert named.returncode == 4
    assert "other.example" in named.stderr


def test_insecure_says_so(server):
    done = run(server.target, "--insecure", "--timeout", "1")
    assert done.returncode == 0
    assert "warning: --insecure" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "HOST"),
        (["a.example", "b.example"], 2, "2 hosts (expected one)"),
        (["127.0.0.1:0"], 2, "port"),
        (["127.0.0.1", "--timeout", "0"], 2, "timeout"),
        (["127.0.0.1", "--ca", "nothing.pem"], 2, "nothing.pem"),
        (["127.0.0.1", "--insecure", "--verify-key", "nothing.pub"], 2, "nothing.pub"),
        (["127.0.0.1", "--insecure", "--ca", "x"], 2, "not allowed with"),
        (["no-such-host.invalid", "--insecure"], 5, "no-such-host.invalid"),
    ],
)
def test_what_cannot_be_used_is_said(capsys, arguments, status, words):
    try:
        found = main(arguments)
    except SystemExit as end:
        found = end.code
    assert found == status
    assert words in capsys.readouterr().err


def test_nobody_there(capsys):
    with closed_port() as target:
        assert main([str(target), "--insecure"]) == 3
    with deaf_port() as (target, _):
        assert main([str(target), "--insecure", "--timeout", "0.2"]) == 3
    assert "no answer to the QUIC handshake in 0.2 s" in capsys.readouterr().err


def test_the_socket_waits_until_its_time_and_reports_what_the_network_says():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        wire = SocketWire((socket.AF_INET, peer.getsockname()))
        assert wire.exchange([b"ping"], wire.now()) == []
        data, address = peer.recvfrom(100)
        assert data == b"ping"
        peer.sendto(b"pong", address)
        assert wire.exchange([], wire.now() + 10) == [b"pong"]
        until = wire.now() + 0.01
        assert wire.exchange([], until) == []
        assert wire.now() >= until - 0.001
        wire.close()


def test_text_of_a_server_cannot_write_to_the_terminal():
    # A server chooses the reason with which it closes, and the identifier that it negotiates.
    bad = "\x1b[2J\r\u202e"
    findings = [Finding(STATEMENTS["8-2"], Verdict.FAIL, bad, bad), Finding(STATEMENTS["R1-1"], Verdict.SKIPPED, bad)]
    shown = "\n".join(conformance.lines(Report(bad, True, False, findings, [bad]), everything=False, width=100))
    assert not set("\x1b\r\u202e") & set(shown)
    assert shown.count("[2J") == 5
    assert "FAIL      §8-2 " in shown
    assert "skipped   R1-1 " in shown
    assert shown.endswith(f"0 pass, 1 fail, 1 skipped, {len(STATEMENTS) - 2} untested")


@pytest.mark.parametrize("width", [10, 60, 80, 132, 500])
def test_the_table_fits_its_width(width):
    findings = [Finding(one, Verdict.FAIL, "found " * 30, "expected " * 30) for one in STATEMENTS.values()]
    shown = conformance.lines(Report("tsq/1", True, True, findings, []), everything=True, width=width)
    assert max(map(len, shown)) <= max(width, 60)
