"""tsq-server with several workers: real processes on loopback, their signals, and what happens to their clients."""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

import tsq
from tests.cli.peers import Authority
from tests.server.test_service import Manager
from tests.support import h3
from tests.support.metrics import PROCESS, documented, parsed, value
from tests.support.processes import run_client
from tests.support.workers import Nat, Polling, Workers, gone, options, until
from tsq.quic.selfsigned import CertificateFiles

CLIENTS = 8


@pytest.fixture(params=["127.0.0.1:0"])
def listen(request, certificates) -> list[str | Path]:
    return ["--listen", request.param, "--cert", certificates.certificate, "--key", certificates.key]


def metrics(address: str) -> str:
    with urllib.request.urlopen(address, timeout=60) as response:
        return response.read().decode()


def asked(server: Workers, certificates: CertificateFiles, times: int, *, count: int = 3) -> None:
    for _ in range(times):
        result = tsq.query(str(server.target), options(certificates.authority, count=count, interval=0.001))
        assert result.good == count


def fed(manager: Manager) -> bool:
    """Whether the watchdog is fed within the socket's time-out."""
    try:
        manager.wait_for("WATCHDOG=1")
    except TimeoutError:
        return False
    return True


def parent_of(worker: int) -> int:
    """What makes the workers."""
    return int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])


def learned(outcome: str) -> bool:
    """Whether a client learned at once that the server ended: in an exchange, or at the next one."""
    return "server is shutting down" in outcome or "nothing listens on this UDP port" in outcome


# ---------------------------------------------------------------------------------------------------------------- workers


def test_the_workers_share_the_clients_and_are_counted_together(tmp_path, listen, certificates):
    with Workers(tmp_path, listen, workers=3) as server:
        assert sorted(server.pids()) == [0, 1, 2]
        with Polling(server.target, certificates.authority, 30) as clients:
            clients.more(100)
            # Their reports come once a second, and when somebody asks.
            until(lambda: server.status()["connections"] >= 30)
        before = server.status()
        asked(server, certificates, 20)
        after = server.status()
        # One request more of each client asks for the exact T3 of the last answer; a late answer is asked for again.
        assert 80 <= after["answered"] - before["answered"] < 160
        assert after["handshakes: full"] - before.get("handshakes: full", 0) == 20
        assert server.stop() == 0
    # The whole, at the end.
    last = server.log.rpartition("closing ")[2]
    assert f"answered: {after['answered']}" in last


def test_every_worker_shows_what_all_did_over_http3(tmp_path, listen, certificates):
    with Workers(tmp_path, [*listen, "--http3", "--status-to", "127.0.0.0/8"], workers=3) as server:
        asked(server, certificates, 20)
        server.status()

        async def shown() -> tuple[str, str]:
            async with h3.client(server.target, certificates) as client:
                status, text = [(await client.ask(path)).body.decode() for path in ("/status.json", "/metrics")]
                return status, text

        def everywhere() -> bool:
            """Whether eight connections, at whatever worker, all show at least what was done before."""
            answers = [asyncio.run(shown()) for _ in range(8)]
            return all(
                json.loads(status)["totals"]["answered"] >= 60
                and value(text, "tsq_server_answered_total") >= 60
                and value(text, "tsq_server_workers", state="serving") == 3
                for status, text in answers
            )

        until(everywhere)


def test_every_worker_serves(tmp_path, listen, certificates):
    with Workers(tmp_path, [*listen, "--metrics", "127.0.0.1:0"], workers=2) as server:
        line = server.process.stdout.readline()
        with Polling(server.target, certificates.authority, 24) as clients:
            clients.more(50)

            def each() -> list[float]:
                text = metrics(line.split()[-1])
                return [value(text, "tsq_server_worker_connections", worker=str(slot)) for slot in (0, 1)]

            until(lambda: sum(each()) == 24)
            # Binomial: less than one in a million runs has none of 24.
            assert min(each()) > 0
            # The workers report once a second.
            until(lambda: value(metrics(line.split()[-1]), "tsq_server_answered_total") >= 50)
            text = metrics(line.split()[-1])
        found = {name: metric.type for name, metric in parsed(text).items()}
        page = documented("## Of tsq-server", "## Of tsq-server: its workers", PROCESS)
        assert found == {name: kind for name, (kind, _) in page.items()}
        assert value(text, "tsq_server_workers", state="serving") == 2
        assert value(text, "tsq_server_workers_cpu_seconds_total") > 0
        assert value(text, "tsq_server_connections") == 24
        assert value(text, "tsq_server_stratum") == 1


def test_a_client_that_moves_stays_with_its_worker(tmp_path, listen, certificates):
    """Its packets come from other addresses, as by a NAT that forgets: the kernel's own hash would send them elsewhere."""
    with Workers(tmp_path, listen, workers=2) as server:
        for _ in range(6):
            with Nat(server.target.port) as link, Polling(link.target, certificates.authority, 1) as client:
                for _ in range(4):
                    client.more(3)
                    link.rebind()
                client.more(3)
            assert set(client.outcomes) == {"answered"}
        assert server.status()["handshakes: full"] == 6


def test_a_ticket_is_good_at_every_worker_and_at_the_next_generation(tmp_path, listen, certificates):
    session = ["--session-file", tmp_path / "session", "--ca", certificates.authority, "--count", "1"]
    with Workers(tmp_path, [*listen, "--drain-limit", "0.5"], workers=3) as server:
        def ask(times: int) -> None:
            for _ in range(times):
                done = run_client(server.target, *session)
                assert done.returncode == 0, done.stderr

        ask(8)
        # So that nothing that the killed worker counted is missing.
        server.status()
        os.kill(server.pids()[1], signal.SIGKILL)
        server.logged("worker 1 serves again")
        ask(4)
        server.upgrade()
        ask(4)
        counted = server.status()
    assert counted["handshakes: resumed"] == 15
    assert counted["handshakes: full"] == 1


@pytest.mark.parametrize("listen", ["[::1]:0"], indirect=True)
def test_ipv6(tmp_path, listen, certificates):
    with Workers(tmp_path, listen) as server:
        asked(server, certificates, 6)
        assert 24 <= server.status()["answered"] < 32


def test_two_addresses(tmp_path, certificates):
    arguments = ["--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--cert", certificates.certificate, "--key", certificates.key]
    with Workers(tmp_path, [*arguments, "--drain-limit", "1"]) as server:
        for target in server.targets:
            result = tsq.query(str(target), options(certificates.authority, count=3))
            assert result.good == 3
        first, second = (Polling(target, certificates.authority, 4) for target in server.targets)
        with first as one, second as two:
            server.upgrade()
            one.more(10)
            two.more(10)
        assert set(one.outcomes) == set(two.outcomes) == {"answered"}


def test_the_limit_of_connections_is_shared(tmp_path, listen, certificates):
    with Workers(tmp_path, [*listen, "--max-connections", "2"]) as server, Polling(server.target, certificates.authority, 1):
        until(lambda: server.status()["connections"] == 1)

        def refused() -> bool:
            """Whether this client came to the worker that has the one connection, and is full. The other one is not."""
            try:
                assert tsq.query(str(server.target), options(certificates.authority, count=1)).good == 1
            except tsq.TSQError as error:
                return "connection limit reached" in str(error)
            return False

        # The kernel chooses one of the two by chance.
        assert any(refused() for _ in range(40))


# ------------------------------------------------------------------------------------------------------------------- death


def test_a_worker_that_ends_by_a_signal_tells_its_clients_and_is_replaced(tmp_path, listen, certificates):
    with Workers(tmp_path, listen) as server, Polling(server.target, certificates.authority, CLIENTS) as clients:
        clients.more(20)
        before = server.pids()
        os.kill(before[0], signal.SIGTERM)
        server.logged("worker 0 serves again")
        clients.more(100)
        after = server.pids()
        assert after[0] != before[0]
        assert after[1] == before[1]
        # What the dead one answered is counted.
        answered = clients.outcomes["answered"]
        assert server.status()["answered"] >= answered


def test_40_a_killed_worker_costs_clients_in_their_handshake_nothing(tmp_path, listen, certificates):
    """Nobody can tell them. They begin again in time."""
    with (
        Workers(tmp_path, listen) as server,
        Nat(server.target.port, delay=0.02) as link,
        Polling(link.target, certificates.authority, 0, newcomers=12, interval=0.0) as clients,
    ):
        for times in range(1, 5):
            clients.more(24)
            os.kill(server.pids()[times % 2], signal.SIGKILL)
            server.logged(f"worker {times % 2} serves again", (times + 1) // 2)
        clients.more(24)
    assert set(clients.outcomes) == {"newcomer: answered"}, clients.outcomes


def test_a_worker_that_does_not_answer_keeps_the_watchdog_from_being_fed(tmp_path, listen, certificates):
    manager = Manager(tmp_path)
    with manager.socket, Workers(tmp_path, listen, NOTIFY_SOCKET=manager.place, WATCHDOG_USEC="400000") as server:
        manager.wait_for("READY=1")
        for _ in range(3):
            manager.wait_for("WATCHDOG=1")
        (pid, *_) = server.pids().values()
        os.kill(pid, signal.SIGSTOP)
        try:
            manager.socket.settimeout(7.0)
            while fed(manager):
                pass
        finally:
            os.kill(pid, signal.SIGCONT)
        manager.socket.settimeout(60)
        manager.wait_for("WATCHDOG=1")


def test_workers_do_not_outlive_their_supervisor(tmp_path, listen, certificates):
    with Workers(tmp_path, listen) as server, Polling(server.target, certificates.authority, 2) as clients:
        clients.more(10)
        workers = server.pids()
        parent = parent_of(workers[0])
        server.process.kill()
        server.process.wait()
        for pid in (*workers.values(), parent):
            until(lambda pid=pid: gone(pid))
        until(lambda: any(learned(outcome) for outcome in clients.outcomes))
        # The port is free again.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as another:
            another.bind(("127.0.0.1", server.target.port))


def test_what_makes_workers_is_replaced_and_its_workers_serve_on(tmp_path, listen, certificates):
    with Workers(tmp_path, listen) as server, Polling(server.target, certificates.authority, CLIENTS) as clients:
        clients.more(20)
        workers = server.pids()
        os.kill(parent_of(workers[0]), signal.SIGKILL)
        server.logged("what starts the workers ended (its program was ended by SIGKILL): it is started anew")
        server.logged("is loaded")
        clients.more(50)
        assert set(clients.outcomes) == {"answered"}
        os.kill(workers[1], signal.SIGKILL)
        server.logged("worker 1 serves again")
        assert not gone(workers[0])


def test_at_the_end_clients_learn_of_it(tmp_path, listen, certificates):
    with Workers(tmp_path, listen) as server, Polling(server.target, certificates.authority, CLIENTS) as clients:
        clients.more(20)
        assert server.stop() == 0
        until(lambda: any(learned(outcome) for outcome in clients.outcomes))
    assert all(outcome == "answered" or learned(outcome) for outcome in clients.outcomes), clients.outcomes
    assert "Traceback" not in server.log


# ------------------------------------------------------------------------------------------------------------- generations


def script(place: Path, version: str = "", *, broken: str = "") -> None:
    """A tsq-server of another version, as an upgrade leaves it on disk."""
    text = f"#!{sys.executable}\nimport sys\n{broken}\nimport tsq\n"
    text += f"tsq.__version__ = {version!r}\nfrom tsq.cli import start\nsys.exit(start.server())\n"
    new = place.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o755)
    new.replace(place)


def test_no_answer_is_lost_while_a_generation_follows_another(tmp_path, listen, certificates):
    program = tmp_path / "tsq-server"
    script(program, "1.0")
    arguments = [*listen, "--drain-limit", "2", "--metrics", "127.0.0.1:0"]
    with Workers(tmp_path, arguments, command=program) as server:
        address = server.process.stdout.readline().split()[-1]
        with Polling(server.target, certificates.authority, CLIENTS, newcomers=2) as clients:
            clients.more(100)
            for version in ("2.0", "3.0"):
                before = server.pids()
                script(program, version)
                server.upgrade()
                assert f"version {version} is loaded" in server.log
                # A process ends a little later than its service.
                until(lambda before=before: not set(before.values()) & set(server.pids().values()))
                clients.more(100)
        assert set(clients.outcomes) == {"answered", "newcomer: answered"}, clients.outcomes
        until(lambda: server.status()["answered"] >= clients.asked)
        text = metrics(address)
        assert value(text, "tsq_server_upgrades_total", result="good") == 2
        assert value(text, "tsq_server_answered_total") >= clients.asked
        assert value(text, "tsq_server_worker_deaths_total") == 0


def test_handshakes_that_are_under_way_at_a_switch_are_finished(tmp_path, listen, certificates):
    """Over a link so slow that handshakes begin with the old generation and end when the new one has taken over."""
    arguments = [*listen, "--drain-limit", "5"]
    with Workers(tmp_path, arguments) as server, Nat(server.target.port, delay=0.4) as link:
        with Polling(link.target, certificates.authority, 0, newcomers=12, interval=0.05) as clients:
            clients.more(12)
            server.upgrade()
            clients.more(24)
        assert set(clients.outcomes) == {"newcomer: answered"}, clients.outcomes
        assert server.status()["passed to the new generation"] > 0


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("sys.exit(3)", "its program ended with exit status 3"),
        ("import no_such_module", "its program ended with exit status 1"),
        ("import os; os.kill(os.getpid(), 9)", "its program was ended by SIGKILL"),
        ("import tsq.server.worker_forks as f; f.PROTOCOL = 99", "needs a restart of the server to take over from this one"),
        ("import tsq.server.driver as d; d.Server.start = None", "worker "),
    ],
)
def test_a_new_version_that_does_not_work_leaves_the_old_one_serving(tmp_path, listen, certificates, broken, why):
    program = tmp_path / "tsq-server"
    script(program, "1.0")
    arguments = [*listen, "--drain-limit", "0.5"]
    with Workers(tmp_path, arguments, command=program) as server, Polling(server.target, certificates.authority, 2) as clients:
        clients.more(10)
        before = server.pids()
        script(program, "2.0", broken=broken)
        server.send_signal(signal.SIGUSR2)
        server.logged("the new generation of workers failed, the old one goes on: ")
        assert why in server.log.rpartition("the old one goes on: ")[2]
        until(lambda: server.pids() == before)
        clients.more(20)
        # When it is mended, it takes over.
        script(program, "2.1")
        server.upgrade()
        clients.more(20)
    assert set(clients.outcomes) == {"answered"}


def test_a_new_generation_that_dies_while_newcomers_are_passed_to_it_costs_none_later(tmp_path, listen, certificates):
    """The old workers keep their newcomers again: nobody would take them."""
    with Workers(tmp_path, listen) as server:
        old = server.pids()
        server.send_signal(signal.SIGUSR2)
        with Polling(server.target, certificates.authority, 0, newcomers=2, interval=0.05) as clients:
            until(lambda: server.status().get("passed to the new generation"))
            for pid in set(server.pids().values()) - set(old.values()):
                # The supervisor ends the other one as soon as it sees that one is dead.
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            server.logged("the new generation of workers failed, the old one goes on: ")
            until(lambda: server.pids() == old)
            clients.more(1)
        before = server.status()["passed to the new generation"]
        with Polling(server.target, certificates.authority, 0, newcomers=2) as later:
            later.more(16)
        assert set(later.outcomes) == {"newcomer: answered"}, later.outcomes
        assert server.status()["passed to the new generation"] == before


def test_a_service_manager_is_told_of_a_reload(tmp_path, listen, certificates):
    program = tmp_path / "tsq-server"
    script(program, "1.0")
    manager = Manager(tmp_path)
    with manager.socket, Workers(tmp_path, listen, command=program, NOTIFY_SOCKET=manager.place) as server:
        manager.wait_for("READY=1")
        script(program, "2.0", broken="sys.exit(1)")
        server.send_signal(signal.SIGUSR2)
        manager.wait_for("RELOADING=1")
        manager.wait_for(r"MONOTONIC_USEC=\d+")
        manager.wait_for("READY=1")
        manager.wait_for(r"STATUS=.*; the new generation of workers failed, the old one goes on: .*")
        script(program, "2.0")
        server.send_signal(signal.SIGUSR2)
        manager.wait_for("RELOADING=1")
        manager.wait_for("READY=1")
        manager.wait_for(r"STATUS=(?!.*failed).*")
        server.stop()
        manager.wait_for("STOPPING=1")


def test_connections_that_are_kept_open_are_closed_at_the_drain_limit(tmp_path, listen, certificates):
    """Its clients are silent, so that no answer is the occasion."""
    with (
        Workers(tmp_path, [*listen, "--drain-limit", "1"]) as server,
        Polling(server.target, certificates.authority, CLIENTS, interval=600) as clients,
    ):
        until(lambda: clients.asked >= CLIENTS)
        until(lambda: server.status()["connections"] == CLIENTS)
        server.upgrade()
        assert server.status()["connections"] == 0


# ------------------------------------------------------------------------------------------------- certificates and sockets


def test_hangup_loads_a_renewed_certificate_in_all_workers(tmp_path, certificates):
    directory = tmp_path / "files"
    shutil.copytree(certificates.authority.parent, directory)
    renewed = Authority("another authority")
    arguments = ["--listen", "127.0.0.1:0", "--cert", directory / "cert.pem", "--key", directory / "key.pem"]
    with Workers(tmp_path, arguments) as server, Polling(server.target, certificates.authority, CLIENTS) as clients:
        clients.more(20)
        files = renewed.issue(tmp_path / "renewed")
        shutil.copy(files.certificate, directory / "cert.pem")
        shutil.copy(files.key, directory / "key.pem")
        server.send_signal(signal.SIGHUP)
        server.logged("certificate reloaded")
        for _ in range(12):
            assert tsq.query(str(server.target), options(files.authority, count=1)).good == 1
        clients.more(50)
        (directory / "key.pem").write_text("no key")
        server.send_signal(signal.SIGHUP)
        server.logged("certificate not reloaded, the old one stays", 2)
        for _ in range(6):
            assert tsq.query(str(server.target), options(files.authority, count=1)).good == 1
    assert set(clients.outcomes) == {"answered"}
