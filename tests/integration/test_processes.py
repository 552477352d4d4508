"""The commands as processes: signals, certificates, addresses, sessions, what they print, and how they end."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest

from tests.integration.peers import (
    PATIENCE,
    ReportingServer,
    aioquic_client,
    good_samples,
    process,
    run_json,
    server_arguments,
)
from tests.support.ports import free_port
from tests.support.processes import BIN, ServerProcess, run_client
from tests.support.tries import in_one_of_some
from tsq.quic.selfsigned import CertificateFiles, self_signed

NAMES = ["localhost", "127.0.0.1", "::1"]
HOST_KEYS = {
    "host", "address", "port", "mode", "alpn", "zero_rtt", "offset", "root_distance", "delay", "jitter", "samples", "error",
}
SAMPLE_KEYS = {
    "t1_ns", "t2_ns", "t3_ns", "t4_ns", "t1_source", "t4_source", "offset", "delay", "exact", "valid", "reason",
}


def ask(server: ServerProcess, certificates: CertificateFiles, *options: object) -> tuple[int, dict]:
    """Exit status and host of a tsq-client --json that asks this server quickly."""
    done, [host] = run_json(server.target, "--ca", certificates.authority, "--interval", 0.01, *options)
    return done.returncode, host


@contextmanager
def closed_port() -> Iterator[int]:
    """A UDP port of 127.0.0.1 that no server listens on. It stays reserved: its socket is connected to another port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        peer.bind(("127.0.0.1", 0))
        held.bind(("127.0.0.1", 0))
        held.connect(peer.getsockname())
        yield held.getsockname()[1]


@contextmanager
def silent_port() -> Iterator[int]:
    """A UDP port of 127.0.0.1 that receives datagrams and never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


class Relay:
    """Passes datagrams between a client and a server of 127.0.0.1.

    deaf_after: loses everything after so many datagrams of the server that hold answers, or what ends the handshake.
    """

    def __init__(self, port: int, deaf_after: int = 1_000_000) -> None:
        self._left = deaf_after
        self._answers = threading.Semaphore(0)
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", 0))
        self._back.connect(("127.0.0.1", port))
        self.port = self._front.getsockname()[1]
        self._client: tuple[str, int] | None = None
        self._threads = [threading.Thread(target=side, daemon=True) for side in (self._to_server, self._to_client)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for side in (self._front, self._back):
            with suppress(OSError):  # "not connected"; it wakes the reader all the same
                side.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        self._front.close()
        self._back.close()

    def wait_for_answers(self, count: int) -> None:
        for _ in range(count):
            assert self._answers.acquire(timeout=PATIENCE)

    def _to_server(self) -> None:
        while (received := self._front.recvfrom(65536))[0]:
            data, self._client = received
            if self._left > 0:
                with suppress(ConnectionRefusedError):
                    self._back.send(data)

    def _to_client(self) -> None:
        while True:
            try:
                data = self._back.recv(65536)
            except ConnectionRefusedError:
                continue  # the server is gone
            if not data:
                return
            if self._left > 0:
                self._front.sendto(data, self._client)
            # A probe or an acknowledgment alone is smaller.
            if not data[0] & 0x80 and len(data) > 60:
                self._left -= 1
                self._answers.release()


@contextmanager
def waiting_client(server: ServerProcess, certificates: CertificateFiles, secrets: Path) -> Iterator[subprocess.Popen]:
    """A tsq-client process that would ask for many hours, once its handshake is done."""
    many = ("--count", 1_000_000, "--interval", 0.05)
    command = [BIN / "tsq-client", server.target, "--ca", certificates.authority, *many, "--json"]
    # The handshake writes the key log, so a pipe in its place shows when it happens.
    os.mkfifo(secrets, 0o600)
    with process(command, env={**os.environ, "SSLKEYLOGFILE": str(secrets)}) as client, open(secrets, encoding="ascii") as lines:
        assert any(line.startswith("SERVER_TRAFFIC_SECRET_0") for line in lines)
        yield client


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_server_with_status_0_and_closes_connections(server_process, certificates, number):
    with aioquic_client(server_process.target, certificates) as client:
        client.exchange()
        assert server_process.stop(number) == 0
        end = client.wait("ConnectionTerminated")
        assert (end.error_code, end.reason_phrase) == (0, "server is shutting down")
    assert "closing 1 connection\n" in server_process.errors
    assert "answered: 1" in server_process.errors
    assert "Traceback" not in server_process.errors


def test_client_process_ends_with_a_message_when_its_server_ends(server_process, certificates):
    command = [BIN / "tsq-client", "--ca", certificates.authority, "--count", 1_000_000, "--interval", 0.05, "--json"]
    with Relay(server_process.target.port) as relay, process([*command, f"127.0.0.1:{relay.port}"]) as client:
        relay.wait_for_answers(5)
        assert server_process.stop() == 0
        output, errors = client.communicate(timeout=PATIENCE)
    assert "Traceback" not in errors
    [host] = json.loads(output)["hosts"]
    assert 1 <= len(good_samples(host)) < 1_000_000
    # It has an estimate, but must report that samples are missing.
    lost = [sample for sample in host["samples"] if sample["reason"] == "connection lost"]
    assert lost or host["notices"] or host["error"], host


def test_client_process_reports_that_its_server_ended_during_the_handshake(server_process, certificates, tmp_path):
    with waiting_client(server_process, certificates, tmp_path / "secrets") as client:
        assert server_process.stop() == 0
        output, errors = client.communicate(timeout=PATIENCE)
    assert "Traceback" not in errors
    [host] = json.loads(output)["hosts"]
    assert good_samples(host) or "closed" in host["error"]


def test_interrupted_client_prints_what_it_has(server_process, certificates, tmp_path):
    with waiting_client(server_process, certificates, tmp_path / "secrets") as client:
        client.send_signal(signal.SIGINT)
        output, errors = client.communicate(timeout=PATIENCE)
        assert "Traceback" not in errors
        [host] = json.loads(output)["hosts"]
        assert client.returncode == (0 if good_samples(host) else 130)


def test_server_started_again_on_its_port_answers_old_sessions_with_a_full_handshake(certificates, tmp_path):
    sessions = ("--session-file", tmp_path / "sessions")
    with ServerProcess(server_arguments(certificates, f"127.0.0.1:{free_port()}")) as first:
        assert ask(first, certificates, *sessions)[0] == 0
        assert first.stop() == 0
    with ServerProcess(server_arguments(certificates, str(first.target))) as second:
        assert second.target == first.target
        status, host = ask(second, certificates, *sessions)
        assert (status, host["zero_rtt"], len(good_samples(host))) == (0, False, 3)
        status, host = ask(second, certificates, *sessions)
        assert (status, host["zero_rtt"], len(good_samples(host))) == (0, True, 3)


def install(source: CertificateFiles, place: CertificateFiles) -> None:
    shutil.copy(source.certificate, place.certificate)
    shutil.copy(source.key, place.key)


@pytest.fixture
def served(certificates, tmp_path) -> CertificateFiles:
    """Copies of the certificate's files, which a test can replace."""
    files = CertificateFiles(certificates.authority, tmp_path / "served.pem", tmp_path / "served-key.pem")
    install(certificates, files)
    return files


def test_hangup_loads_a_renewed_certificate_and_keeps_connections(certificates, served, tmp_path):
    renewed = self_signed(str(tmp_path / "renewed"), NAMES)
    with ReportingServer(server_arguments(served)) as server, aioquic_client(server.target, certificates) as open_before:
        open_before.exchange()
        install(renewed, served)
        server.send_signal(signal.SIGHUP)
        server.wait_for_log("certificate reloaded")
        open_before.exchange()
        status, host = ask(server, renewed)
        assert (status, len(good_samples(host))) == (0, 3)
        status, host = ask(server, certificates)
        assert (status, host["error_kind"]) == (4, "UnknownAuthority")
        open_before.exchange()
        assert server.stop() == 0


@pytest.mark.parametrize("damage", ["certificate", "key", "missing", "mismatch"])
def test_hangup_with_a_broken_certificate_keeps_the_old_one(certificates, served, tmp_path, damage):
    with ReportingServer(server_arguments(served)) as server, aioquic_client(server.target, certificates) as open_before:
        open_before.exchange()
        if damage == "certificate":
            served.certificate.write_text("-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n")
        elif damage == "key":
            served.key.write_text("no key")
        elif damage == "missing":
            served.certificate.unlink()
        else:
            shutil.copy(self_signed(str(tmp_path / "other"), NAMES).key, served.key)
        server.send_signal(signal.SIGHUP)
        assert "ERROR: certificate not reloaded, the old one stays" in server.wait_for_log("not reloaded, the old one stays")
        open_before.exchange()
        status, host = ask(server, certificates)
        assert (status, len(good_samples(host))) == (0, 3)
        install(certificates, served)
        server.send_signal(signal.SIGHUP)
        server.wait_for_log("certificate reloaded")
        assert ask(server, certificates)[0] == 0
        assert server.stop() == 0
        assert "Traceback" not in server.errors


def test_resumption_outlives_a_renewal_of_the_certificate(certificates, served, tmp_path):
    sessions = ("--session-file", tmp_path / "sessions")
    with ReportingServer(server_arguments(served)) as server:
        assert ask(server, certificates, *sessions)[0] == 0
        server.send_signal(signal.SIGHUP)
        server.wait_for_log("certificate reloaded")
        status, host = ask(server, certificates, *sessions)
        assert (status, host["zero_rtt"], len(good_samples(host))) == (0, True, 3)


def test_port_that_is_taken_is_named(server_process, certificates):
    command = [BIN / "tsq-server", *server_arguments(certificates, str(server_process.target))]
    second = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert second.returncode == 2
    assert f"cannot listen on {server_process.target}: Address already in use" in second.stderr
    assert "Traceback" not in second.stderr
    assert second.stdout == ""
    status, host = ask(server_process, certificates)
    assert (status, len(good_samples(host))) == (0, 3)


@pytest.fixture
def ipv6() -> None:
    """::1, or a skip."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback address")


def requests(server: ServerProcess) -> int:
    """How many a server had that has ended."""
    return int(re.search(r"requests: datagram: (\d+)\n", server.errors)[1])


def test_server_answers_on_all_its_addresses(certificates, ipv6):
    with ServerProcess(server_arguments(certificates, "127.0.0.1:0", "[::1]:0", "127.0.0.1:0")) as server:
        assert [target.host for target in server.targets] == ["127.0.0.1", "::1", "127.0.0.1"]
        assert len(set(server.targets)) == 3
        done, hosts = run_json(*server.targets, "--ca", certificates.authority, "--interval", 0.01)
        assert done.returncode == 0, done.stderr
        assert [(h["address"], h["port"], len(good_samples(h))) for h in hosts] == [(t.host, t.port, 3) for t in server.targets]
        assert server.stop() == 0
    # A request whose answer is late is repeated.
    assert 12 <= requests(server) < 24


def test_ipv4_and_ipv6_wildcards_share_a_port(certificates, ipv6):
    with ServerProcess(server_arguments(certificates, "0.0.0.0:0")) as first:
        port = first.target.port
        with ServerProcess(server_arguments(certificates, f"[::]:{port}")) as second:
            done, hosts = run_json(
                f"127.0.0.1:{port}", f"[::1]:{port}", "--ca", certificates.authority, "--interval", 0.01
            )
            assert done.returncode == 0, done.stderr
            assert [len(good_samples(host)) for host in hosts] == [3, 3]
            second.stop()
        first.stop()
    assert all(4 <= requests(server) < 8 for server in (first, second))


def test_name_with_a_dead_address_is_answered_by_the_next(certificates, ipv6):
    # localhost is ::1 and 127.0.0.1, in whichever order; the server has one of them.
    addresses = {item[4][0] for item in socket.getaddrinfo("localhost", None, type=socket.SOCK_DGRAM)}
    for host, listen in (("127.0.0.1", "127.0.0.1:0"), ("::1", "[::1]:0")):
        if host in addresses:
            with ServerProcess(server_arguments(certificates, listen)) as server:
                done, [result] = run_json(f"localhost:{server.target.port}", "--ca", certificates.authority, "--interval", 0.01)
                assert done.returncode == 0, done.stderr
                assert (result["address"], len(good_samples(result))) == (host, 3)


def test_several_hosts_are_asked_in_parallel_and_reported_in_order(certificates):
    listen = ["127.0.0.1:0"] * 4
    with ServerProcess(server_arguments(certificates, *listen)) as server:
        done, hosts = run_json(*server.targets, "--ca", certificates.authority, "--count", 20, "--interval", 0.03)
    assert done.returncode == 0, done.stderr
    assert [(host["port"], len(good_samples(host))) for host in hosts] == [(target.port, 20) for target in server.targets]
    spans = [(host["samples"][0]["t1_ns"], host["samples"][-1]["t4_ns"]) for host in hosts]
    assert max(start for start, _ in spans) < min(end for _, end in spans)


def test_one_failing_host_does_not_spoil_the_others(server_process, certificates):
    with closed_port() as closed:
        done, hosts = run_json(
            f"127.0.0.1:{closed}", server_process.target, "--ca", certificates.authority, "--interval", 0.01
        )
    assert done.returncode == 1
    assert [host["error_kind"] for host in hosts] == ["NothingListens", None]
    assert [len(good_samples(host)) for host in hosts] == [0, 3]


def test_port_that_nothing_listens_on_is_reported_at_once(certificates):
    with closed_port() as closed:
        done = run_client(f"127.0.0.1:{closed}", "--ca", certificates.authority, "--timeout", 50)
    # The test would kill the process before its own time-out.
    assert done.returncode == 3
    assert "nothing listens on this UDP port" in done.stderr
    assert done.stdout == ""


def test_silent_port_times_out(certificates):
    with silent_port() as silent:
        done, [host] = run_json(f"127.0.0.1:{silent}", "--ca", certificates.authority, "--timeout", 0.4)
    assert done.returncode == 3
    assert (host["error_kind"], host["samples"]) == ("HandshakeTimeout", [])
    assert "no answer to the QUIC handshake in 0.4 s" in host["error"]


def test_server_that_falls_silent_leaves_samples_without_an_answer(certificates):
    with ServerProcess(server_arguments(certificates)) as server, Relay(server.target.port, deaf_after=2) as relay:
        done, [host] = run_json(
            f"127.0.0.1:{relay.port}", "--ca", certificates.authority, "--count", 5, "--interval", 0.1, "--timeout", 2
        )
    assert done.returncode == 0
    assert len(host["samples"]) == 5
    lost = [sample for sample in host["samples"] if not sample["valid"]]
    assert lost
    assert {sample["reason"] for sample in lost} == {"no answer in time"}


def test_json_has_the_keys_that_programs_rely_on(server_process, certificates):
    done = run_client(server_process.target, "--ca", certificates.authority, "--interval", 0.01, "--json")
    assert done.returncode == 0
    content = json.loads(done.stdout)
    assert set(content) >= {"version", "hosts"}
    [host] = content["hosts"]
    assert set(host) >= HOST_KEYS
    assert (host["host"], host["address"], host["port"]) == ("127.0.0.1", "127.0.0.1", server_process.target.port)
    assert (host["mode"], host["alpn"], host["zero_rtt"], host["error"]) == ("datagram", "tsq/1", False, None)
    assert all(isinstance(host[name], float) for name in ("offset", "root_distance", "delay", "jitter"))
    assert len(host["samples"]) == 3
    for sample in host["samples"]:
        assert set(sample) >= SAMPLE_KEYS
        assert sample["valid"] is True
        assert sample["reason"] is None
        assert isinstance(sample["exact"], bool)
        assert all(isinstance(sample[name], int) for name in ("t1_ns", "t2_ns", "t3_ns", "t4_ns"))
        assert {sample["t1_source"], sample["t4_source"]} <= {"user", "kernel", "hardware"}
        assert sample["t1_ns"] <= sample["t4_ns"]
        assert sample["t2_ns"] <= sample["t3_ns"]
        offset = ((sample["t2_ns"] - sample["t1_ns"]) + (sample["t3_ns"] - sample["t4_ns"])) / 2e9
        assert sample["offset"] == pytest.approx(offset, abs=1e-9)


def test_json_has_the_same_keys_for_a_host_that_failed(certificates):
    with closed_port() as closed:
        done, [host] = run_json(f"127.0.0.1:{closed}", "--ca", certificates.authority)
    assert done.returncode == 3
    assert set(host) >= HOST_KEYS
    assert host["samples"] == []
    assert "nothing listens" in host["error"]
    assert [host[name] for name in ("mode", "alpn", "offset", "root_distance", "delay", "jitter")] == [None] * 6


@pytest.mark.parametrize("mode", [[], ["--stream"]])
def test_samples_are_exact_to_the_wire_in_both_modes(server_process, certificates, mode):
    status, host = ask(server_process, certificates, "--count", 10, *mode)
    assert status == 0
    assert host["mode"] == ("stream" if mode else "datagram")
    assert len(good_samples(host)) == 10
    # Both sides use one clock, so the offset is within its bound.
    assert abs(host["offset"]) <= host["root_distance"]


def test_second_run_uses_0rtt_and_the_session_file_is_private(server_process, certificates, tmp_path):
    sessions = tmp_path / "sessions"
    status, host = ask(server_process, certificates, "--session-file", sessions)
    assert (status, host["zero_rtt"], len(good_samples(host))) == (0, False, 3)
    assert stat.S_IMODE(sessions.stat().st_mode) == 0o600
    for _ in range(2):
        status, host = ask(server_process, certificates, "--session-file", sessions)
        assert (status, host["zero_rtt"], len(good_samples(host))) == (0, True, 3)
        assert stat.S_IMODE(sessions.stat().st_mode) == 0o600
    server_process.stop()
    assert "handshakes: resumed: 2" in server_process.errors


def test_ticket_that_was_used_already_is_refused_and_the_client_asks_again_by_itself(server_process, certificates, tmp_path):
    sessions, copy = tmp_path / "sessions", tmp_path / "copy"
    assert ask(server_process, certificates, "--session-file", sessions)[0] == 0
    shutil.copy(sessions, copy)
    status, host = ask(server_process, certificates, "--session-file", sessions)
    assert (status, host["zero_rtt"]) == (0, True)
    status, host = ask(server_process, certificates, "--session-file", copy)
    assert (status, host["zero_rtt"], host["error"]) == (0, False, None)
    assert len(good_samples(host)) == len(host["samples"]) == 3
    status, host = ask(server_process, certificates, "--session-file", copy)
    assert (status, host["zero_rtt"]) == (0, True)


def test_clients_may_share_a_session_file_at_the_same_time(server_process, certificates, tmp_path):
    sessions = tmp_path / "sessions"
    assert ask(server_process, certificates, "--session-file", sessions)[0] == 0
    command = [
        BIN / "tsq-client", server_process.target, "--ca", certificates.authority, "--interval", 0.01,
        "--session-file", sessions, "--json",
    ]
    with process(command) as first, process(command) as second:
        results = [json.loads(client.communicate(timeout=PATIENCE)[0])["hosts"][0] for client in (first, second)]
        assert [first.returncode, second.returncode] == [0, 0]
    assert [len(good_samples(host)) for host in results] == [3, 3]


def test_session_of_one_trust_is_not_used_under_another(server_process, certificates, tmp_path):
    sessions = tmp_path / "sessions"
    assert ask(server_process, certificates, "--session-file", sessions)[0] == 0
    other = self_signed(str(tmp_path / "other"), NAMES)
    status, host = ask(server_process, other, "--session-file", sessions)
    assert (status, host["error_kind"], host["samples"]) == (4, "UnknownAuthority", [])


def test_retry_is_answered_and_the_client_measures_all_the_same(certificates, tmp_path):
    def retries() -> int:
        sessions = ("--session-file", tmp_path / f"sessions-{time.monotonic_ns()}")
        with ServerProcess([*server_arguments(certificates), "--retry", "always"]) as server:
            for _ in range(2):
                status, host = ask(server, certificates, *sessions)
                assert (status, len(good_samples(host))) == (0, 3)
            server.stop()
        assert "handshakes: resumed: 1\n" in server.errors
        return int(re.search(r"retries: (\d+)\n", server.errors)[1])

    # The second time, the client shows the token that it got the first time (RFC 9000 §8.1.3).
    assert in_one_of_some(lambda: retries() == 1)
