"""TSQ with Cloudflare quiche, in both directions. Deployed TSQ servers and clients use this stack."""

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.peers import PATIENCE, good_samples, process, read_until, run_json
from tests.support.processes import BIN, run_client

pytestmark = pytest.mark.foreign

PEERS = Path(__file__).parent / "quiche"


@pytest.fixture(scope="module", autouse=True)
def node() -> None:
    """node and quiche; skips with a message if one is missing."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed: `make peers` installs it where it may")
    if not (PEERS / "node_modules").is_dir():
        pytest.skip("quiche is not installed: `make peers` installs it where npm may")
    loaded = subprocess.run(
        ["node", "--input-type=module", "-e", "import '@matrixai/quic/native/quiche.js'"],
        cwd=PEERS, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )
    if loaded.returncode != 0:
        pytest.skip(f"quiche cannot be loaded here: {loaded.stderr.strip().splitlines()[-1:]}")


@dataclass
class QuicheServer:
    """A running quiche server; its events are available after it has ended."""

    name: str
    connections: list[dict[str, Any]] = field(default_factory=list)
    answered: int = 0


@contextmanager
def quiche_server(certificates, *options: str) -> Iterator[QuicheServer]:
    command = ["node", PEERS / "server.mjs", "--cert", certificates.certificate, "--key", certificates.key, *options]
    with process(command) as running:
        first = read_until(running.stdout, "\n")
        server = QuicheServer(f"127.0.0.1:{json.loads(first)['port']}")
        yield server
        running.send_signal(signal.SIGTERM)
        output, errors = running.communicate(timeout=PATIENCE)
        events = [json.loads(line) for line in output.splitlines()]
        assert running.returncode == 0, errors
        server.connections = [event for event in events if event["event"] == "established"]
        server.answered = events[-1]["answered"]


def quiche_client(server, certificates, *options: Any) -> tuple[int, dict[str, Any]]:
    """Exit status and report of the quiche client."""
    command = ["node", PEERS / "client.mjs", "--port", server.target.port, "--ca", certificates.authority, *options]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_quiche_client_gets_200_answers_and_no_retry(server_process, certificates):
    status, report = quiche_client(server_process, certificates, "--count", 200)
    assert status == 0, report
    assert (report["answered"], report["bad"], report["alpn"]) == (200, 0, "tsq/1")
    server_process.stop()
    assert "handshakes: full: 1" in server_process.errors
    assert "requests: datagram: " in server_process.errors
    assert "retries" not in server_process.errors


def test_resumed_quiche_client_is_answered_in_0rtt(server_process, certificates, tmp_path):
    session = tmp_path / "session"
    status, first = quiche_client(server_process, certificates, "--count", 3, "--session", session)
    assert status == 0, first
    assert (first["resumed"], first["early"]) == (False, False)
    for _ in range(2):
        status, again = quiche_client(server_process, certificates, "--count", 3, "--session", session)
        assert status == 0, again
        assert (again["resumed"], again["early"], again["answered"]) == (True, True, 3)
    server_process.stop()
    assert "handshakes: resumed: 2" in server_process.errors


def test_quiche_session_that_was_used_already_costs_a_full_handshake_only(server_process, certificates, tmp_path):
    session, copy = tmp_path / "session", tmp_path / "copy"
    quiche_client(server_process, certificates, "--count", 1, "--session", session)
    shutil.copy(session, copy)
    assert quiche_client(server_process, certificates, "--count", 1, "--session", session)[1]["resumed"] is True
    status, report = quiche_client(server_process, certificates, "--count", 3, "--session", copy)
    assert status == 0, report
    assert (report["resumed"], report["early"], report["answered"]) == (False, False, 3)


def test_requests_that_share_a_packet_are_all_answered(server_process, certificates):
    status, report = quiche_client(server_process, certificates, "--count", 80, "--burst", 8)
    assert status == 0, report
    assert (report["answered"], report["bad"]) == (80, 0)
    assert report["packets"] < report["answered"]


def test_quiche_client_is_answered_in_stream_mode(server_process, certificates):
    status, report = quiche_client(server_process, certificates, "--count", 100, "--stream")
    assert status == 0, report
    assert (report["answered"], report["bad"]) == (100, 0)
    server_process.stop()
    assert "requests: stream: 100" in server_process.errors


def test_quiche_client_asks_more_streams_at_once_than_are_allowed_and_gets_all_answers(server_process, certificates):
    status, report = quiche_client(server_process, certificates, "--count", 96, "--stream", "--burst", 32)
    assert status == 0, report
    assert (report["answered"], report["bad"]) == (96, 0)


def test_quiche_client_may_speak_the_draft_s_alpn(server_process, certificates):
    status, report = quiche_client(server_process, certificates, "--count", 3, "--alpn", "tsq")
    assert status == 0, report
    assert (report["answered"], report["alpn"]) == (3, "tsq")


def test_quiche_client_with_another_alpn_is_refused(server_process, certificates):
    status, report = quiche_client(server_process, certificates, "--count", 3, "--alpn", "h3")
    assert status == 1
    assert report["answered"] == 0
    # CRYPTO_ERROR with the TLS alert no_application_protocol (120).
    assert "by the server, transport error 0x178" in report["error"]


def arguments(server, certificates, *options: Any) -> list[Any]:
    return [server.name, "--server-name", "localhost", "--ca", certificates.authority, *options]


def test_tsq_client_gets_200_valid_samples_of_a_quiche_server(certificates):
    with quiche_server(certificates) as server:
        done, [host] = run_json(*arguments(server, certificates, "--count", 200, "--interval", 0))
        assert done.returncode == 0, done.stderr
        assert (host["mode"], host["alpn"], host["zero_rtt"]) == ("datagram", "tsq/1", False)
        assert len(good_samples(host)) == len(host["samples"]) == 200, [s for s in host["samples"] if not s["valid"]]
    assert [(c["resumed"], c["alpn"]) for c in server.connections] == [(False, "tsq/1")]
    assert server.answered >= 200


def test_second_tsq_client_asks_a_quiche_server_in_0rtt(certificates, tmp_path):
    options = ["--interval", 0, "--session-file", tmp_path / "sessions"]
    with quiche_server(certificates) as server:
        hosts = []
        for _ in range(3):
            done, [host] = run_json(*arguments(server, certificates, *options))
            assert done.returncode == 0, done.stderr
            assert len(good_samples(host)) == 3
            hosts.append(host)
        assert [host["zero_rtt"] for host in hosts] == [False, True, True]
    assert [(c["resumed"], c["early"]) for c in server.connections] == [(False, False), (True, True), (True, True)]


def test_session_of_another_quiche_server_costs_a_full_handshake_only(certificates, tmp_path):
    options = ["--interval", 0, "--session-file", tmp_path / "sessions"]
    with quiche_server(certificates) as first:
        run_json(*arguments(first, certificates, *options))
        port = first.name.rpartition(":")[2]
    with quiche_server(certificates, "--port", port) as second:
        done, [host] = run_json(*arguments(second, certificates, *options))
        assert done.returncode == 0, done.stderr
        assert host["zero_rtt"] is False
        assert len(good_samples(host)) == 3
    assert [connection["resumed"] for connection in second.connections] == [False]


def test_tsq_client_falls_back_to_stream_mode_and_says_so(certificates):
    with quiche_server(certificates, "--no-dgram") as server:
        done = run_client(*arguments(server, certificates, "--count", 50, "--interval", 0, "-v"))
        assert done.returncode == 0, done.stderr
        assert "the server takes no datagrams: using Stream Mode" in done.stderr
        assert "50/50" in done.stdout
        assert "stream tsq/1" in done.stdout
    assert server.answered == 50


def test_tsq_client_falls_back_to_stream_mode_on_a_resumed_connection_too(certificates, tmp_path):
    options = ["--interval", 0, "--session-file", tmp_path / "sessions"]
    with quiche_server(certificates, "--no-dgram") as server:
        for _ in range(2):
            done, [host] = run_json(*arguments(server, certificates, *options))
            assert done.returncode == 0, done.stderr
            assert (host["mode"], len(good_samples(host))) == ("stream", 3)
    assert [connection["resumed"] for connection in server.connections] == [False, True]


def test_tsq_client_in_stream_mode_reports_no_fallback(certificates):
    with quiche_server(certificates, "--no-dgram") as server:
        done, [host] = run_json(*arguments(server, certificates, "--stream", "--count", 50, "--interval", 0))
        assert done.returncode == 0, done.stderr
        assert (host["mode"], host["notices"], len(good_samples(host))) == ("stream", [], 50)


def test_server_that_changed_to_streams_is_asked_on_streams_by_a_client_with_an_old_session(certificates, tmp_path):
    options = ["--interval", 0, "--session-file", tmp_path / "sessions"]
    with quiche_server(certificates) as first:
        run_json(*arguments(first, certificates, *options))
        port = first.name.rpartition(":")[2]
    with quiche_server(certificates, "--port", port, "--no-dgram") as second:
        done, [host] = run_json(*arguments(second, certificates, *options))
        assert done.returncode == 0, done.stderr
        assert (host["mode"], host["zero_rtt"], len(good_samples(host))) == ("stream", False, 3)
    assert second.answered == 3


@pytest.mark.parametrize(("options", "mode"), [((), "datagrams"), (("--no-dgram",), "streams")])
def test_tsq_conformance_finds_what_a_foreign_server_does_and_what_not(certificates, options, mode):
    # It knows tsq/1 only, and answers without a signature: so do deployed servers.
    with quiche_server(certificates, *options) as server:
        command = [BIN / "tsq-conformance", server.name, "--ca", certificates.authority, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 1, done.stderr
        found = json.loads(done.stdout)
    assert (found["alpn"], found["datagrams"], found["streams"]) == ("tsq/1", mode == "datagrams", mode == "streams")
    verdicts = {one["number"]: one["verdict"] for one in found["statements"]}
    assert {number for number, verdict in verdicts.items() if verdict == "fail"} == {"2-1", "6.1-1", "7-6"}
    assert found["unfinished"] == []
    tested = {"datagrams": {"6.2-1", "6.6-2", "7-a", "RFC 9221-1"}, "streams": {"R2-1", "R2-2", "6.6-3", "RFC 9000-1"}}[mode]
    assert {verdicts[number] for number in {"6.3.1-3", "6.3.2-a", "7-1", "R4-1"} | tested} == {"pass"}
