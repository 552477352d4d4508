"""tsq-server as a service: what a service manager receives, and sockets that it passes. Real processes, real sockets."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.test_systemd import LAUNCH
from tests.support.processes import BIN, run_client
from tsq.errors import ConfigError
from tsq.host.systemd import Notifier
from tsq.quic.udp import UdpSocket
from tsq.server.driver import Server
from tsq.server.service import Service

SERVER = "import sys; sys.argv = {arguments!r}; from tsq.cli import start; sys.exit(start.server())"


class Manager:
    """A service manager's side of a service: its socket, and what came in."""

    def __init__(self, directory: Path) -> None:
        self.place = str(directory / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.place)
        self.socket.settimeout(60)
        self.seen: list[str] = []

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first assignment that matches, and was not awaited before."""
        while True:
            for number, line in enumerate(self.seen):
                if found := re.fullmatch(pattern, line):
                    del self.seen[: number + 1]
                    return found
            self.seen += self.socket.recv(4096).decode().split("\n")


@pytest.fixture
def manager(tmp_path) -> Iterator[Manager]:
    it = Manager(tmp_path)
    with it.socket:
        yield it


@pytest.fixture
def started(certificates, manager) -> Iterator:
    running = []

    def start(*sockets: socket.socket, listen: tuple[str, ...] = (), **environment: str) -> subprocess.Popen:
        options = [word for address in listen for word in ("--listen", address)]
        arguments = [
            "tsq-server", "--cert", str(certificates.certificate), "--key", str(certificates.key), "--local-stratum", "1", *options,
        ]
        fds = [one.fileno() for one in sockets]
        code = SERVER.format(arguments=arguments)
        command = [sys.executable, "-c", LAUNCH, "", code, *map(str, fds)] if fds else [BIN / "tsq-server", *arguments[1:]]
        process = subprocess.Popen(
            command, pass_fds=fds, env={**os.environ, "NOTIFY_SOCKET": manager.place, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def udp(address: str, family: int = socket.AF_INET, only: bool = True) -> socket.socket:
    it = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        it.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
    it.bind((address, 0))
    return it


def asked(certificates, port: int, host: str = "127.0.0.1") -> subprocess.CompletedProcess:
    return run_client(f"{host}:{port}", "--ca", certificates.authority, "--count", "2", "--interval", "0.05")


def test_a_service_is_ready_when_it_answers_reports_reloads_and_its_end(certificates, manager, started):
    server = started(listen=("127.0.0.1:0",), WATCHDOG_USEC="200000")
    manager.wait_for("READY=1")
    port = manager.wait_for(r"STATUS=0 connections; listening on 127\.0\.0\.1:(\d+)")[1]
    assert asked(certificates, port).returncode == 0
    for _ in range(3):
        manager.wait_for("WATCHDOG=1")
    server.send_signal(signal.SIGHUP)
    manager.wait_for("RELOADING=1")
    manager.wait_for(r"MONOTONIC_USEC=\d+")
    manager.wait_for("READY=1")
    server.terminate()
    manager.wait_for("STOPPING=1")
    manager.wait_for(r"STATUS=closing \d connections?")
    assert server.wait(20) == 0


def test_the_status_counts_connections(certificates, manager, started):
    started(listen=("127.0.0.1:0",), WATCHDOG_USEC="100000")
    port = manager.wait_for(r"STATUS=0 connections; listening on 127\.0\.0\.1:(\d+)")[1]
    # A client that ends closes its connection.
    client = subprocess.Popen(
        [BIN / "tsq-client", f"127.0.0.1:{port}", "--ca", certificates.authority, "--watch"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        manager.wait_for(r"STATUS=1 connection; .*")
    finally:
        client.send_signal(signal.SIGINT)
        client.wait(20)
    manager.wait_for(r"STATUS=0 connections; .*")


def test_without_a_manager_nothing_is_awaited(certificates, started):
    server = started(listen=("127.0.0.1:0",), NOTIFY_SOCKET="/no/such/place")
    port = server.stdout.readline().split()[3].rpartition(":")[2]
    assert asked(certificates, port).returncode == 0
    server.terminate()
    assert server.wait(20) == 0


def test_passed_sockets_are_served_in_place_of_the_default(certificates, manager, started):
    with udp("127.0.0.1") as one, udp("::1", socket.AF_INET6) as two:
        started(one, two)
        ports = one.getsockname()[1], two.getsockname()[1]
        manager.wait_for("READY=1")
        assert manager.wait_for(r"STATUS=0 connections; listening on (.*)")[1] == f"127.0.0.1:{ports[0]}, [::1]:{ports[1]}"
    assert asked(certificates, ports[0]).returncode == 0
    assert asked(certificates, ports[1], "[::1]").returncode == 0


def test_addresses_that_are_given_are_served_beside_passed_sockets(certificates, manager, started):
    with udp("127.0.0.1") as one:
        started(one, listen=("127.0.0.1:0",))
        first = one.getsockname()[1]
        manager.wait_for("READY=1")
        second = manager.wait_for(rf"STATUS=0 connections; listening on 127\.0\.0\.1:{first}, 127\.0\.0\.1:(\d+)")[1]
    for port in (first, second):
        assert asked(certificates, port).returncode == 0


def test_a_passed_socket_of_both_families_serves_both(certificates, manager, started):
    """As `ListenDatagram=443` makes one."""
    with udp("::", socket.AF_INET6, only=False) as one:
        started(one)
        port = one.getsockname()[1]
        manager.wait_for("READY=1")
    for host in ("127.0.0.1", "[::1]"):
        done = asked(certificates, port, host)
        assert done.returncode == 0, done.stderr
        assert "2/2" in done.stdout


def test_what_is_waiting_in_a_passed_socket_is_answered(certificates, manager, started):
    """A socket unit receives before the service runs."""
    with udp("127.0.0.1") as one:
        port = one.getsockname()[1]
        client = subprocess.Popen(
            [BIN / "tsq-client", f"127.0.0.1:{port}", "--ca", certificates.authority, "--timeout", "50", "--count", "1"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        # The first datagram is in the socket before there is a server.
        assert one.recv(1, socket.MSG_PEEK)
        started(one)
    output, errors = client.communicate(timeout=60)
    assert client.returncode == 0, errors
    assert "1/1" in output


@pytest.mark.parametrize("kind", ["stream", "unbound", "unix"])
def test_a_passed_socket_that_is_no_bound_udp_socket_is_an_error(kind, started, tmp_path):
    made = {
        "stream": lambda: socket.create_server(("127.0.0.1", 0)),
        "unbound": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "unix": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
    }[kind]()
    with made:
        server = started(made)
        _, errors = server.communicate(timeout=60)
    assert server.returncode == 2
    assert "a passed socket" in errors
    assert "expected a bound UDP socket" in errors
    assert "Traceback" not in errors


def test_a_server_in_a_program_takes_sockets_too(certificates):
    async def serve() -> list[str]:
        with udp("127.0.0.1") as one:
            expected = str(one.getsockname()[1])
            async with Server([], certificates.certificate, certificates.key, sockets=[one]) as server:
                found = [str(address) for address in server.addresses]
            assert one.fileno() == -1, "the server closes it"
        return [*found, f"127.0.0.1:{expected}"]

    first, second = asyncio.run(serve())
    assert first == second
    with pytest.raises(ConfigError, match="no address to listen on"):
        Server([], certificates.certificate, certificates.key)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream, pytest.raises(ConfigError, match="a passed socket"):
        UdpSocket.passed(stream)


def test_the_status_says_what_an_operator_should_know(certificates, manager, tmp_path):
    async def report() -> None:
        server = Server(["127.0.0.1:0"], certificates.certificate, certificates.key)
        notifier = Notifier({"NOTIFY_SOCKET": manager.place})
        async with server:
            service = Service(server, notifier)
            service.begin()
            server._files = (str(tmp_path / "none"), str(tmp_path / "none"))
            service.reload(server.reload)
            server._files = (str(certificates.certificate), str(certificates.key))
            service.reload(server.reload)
            server._router.secrets.stale = True
            service.reload(server.reload)
            server._router.secrets.stale = False
            await server.drain(1.0)
            service.reload(server.reload)
            service.end()

    asyncio.run(report())
    # Nobody keeps the clock of a machine that runs tests.
    clock = r"(; the clock is not synchronized)?"
    manager.wait_for(rf"STATUS=0 connections; listening on 127\.0\.0\.1:\d+{clock}")
    manager.wait_for(rf"STATUS=0 connections; .*{clock}; the certificate was not reloaded, the old one stays")
    manager.wait_for(rf"STATUS=0 connections; listening on 127\.0\.0\.1:\d+{clock}")
    manager.wait_for(rf"STATUS=0 connections; .*{clock}; the secrets were not reloaded, the old ones stay")
    manager.wait_for(rf"STATUS=0 connections; .*{clock}; draining")
    manager.wait_for("STOPPING=1")
