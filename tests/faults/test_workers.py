"""Case 40: a worker is killed under load. Real processes; every request of every client is accounted for."""

import os
import signal
import time
from collections import Counter

import pytest

from tests.support.workers import Polling, Workers, until

CLIENTS = 16
GONE = "the server does not know this connection any more"


@pytest.mark.parametrize("workers", [2, 3])
def test_40_a_worker_killed_under_load_costs_its_own_clients_one_request_and_others_nothing(tmp_path, certificates, workers):
    arguments = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key]
    with Workers(tmp_path, arguments, workers=workers) as server:
        with Polling(server.target, certificates.authority, CLIENTS, interval=0.005) as clients:
            clients.more(200)
            others = {slot: pid for slot, pid in server.pids().items() if slot}
            killed, at = server.pids()[0], time.monotonic()
            os.kill(killed, signal.SIGKILL)
            until(lambda: server.pids().get(0, killed) != killed)
            server.logged("worker 0 serves again")
            took = time.monotonic() - at
            clients.more(600)
            assert {slot: pid for slot, pid in server.pids().items() if slot} == others
        lost = [Counter(outcome for outcome in outcomes if outcome != "answered") for outcomes in clients.each]
        # Whoever was at the killed worker may lose the request under way; where a stateless reset comes, it is asked again at once.
        assert sum(map(bool, lost)) < CLIENTS
        for outcomes in clients.each:
            broken = [number for number, outcome in enumerate(outcomes) if outcome != "answered"]
            assert len(broken) <= 1, Counter(outcomes)
            assert all(GONE in outcomes[number] for number in broken)
            # The very next exchange is answered, on a new connection.
            assert all(outcomes[number + 1 :][:1] == ["answered"] for number in broken)
        counted = server.status()
        # Nobody else's count is lost; the dead one's last second may be.
        assert counted["answered"] > clients.outcomes["answered"] / 2
        assert counted["stateless resets"] >= 1
    assert took < 60


def test_40_the_counts_of_a_killed_worker_stay(tmp_path, certificates):
    arguments = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key]
    with Workers(tmp_path, arguments) as server:
        with Polling(server.target, certificates.authority, CLIENTS) as clients:
            clients.more(100)
        before = server.status()
        for pid in server.pids().values():
            os.kill(pid, signal.SIGKILL)
        server.logged("serves again", 2)
        after = server.status()
    assert after["answered"] == before["answered"] == clients.outcomes["answered"]
    assert all(after[name] >= count for name, count in before.items() if name != "connections")
    assert after["connections"] == 0


def test_40_workers_that_die_again_and_again_leave_the_server_to_the_others(tmp_path, certificates):
    """As if each packet of some client killed its worker: never all at once, and not in a busy loop."""
    arguments = ["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key]
    with Workers(tmp_path, arguments) as server, Polling(server.target, certificates.authority, CLIENTS) as clients:
        clients.more(50)
        for times in range(1, 5):
            before = server.pids()[0]
            os.kill(before, signal.SIGKILL)
            server.logged("worker 0 serves again", times)
            until(lambda before=before: server.pids().get(0, before) != before)
        assert "another one starts at once" in server.log
        assert "another one starts in 1 s" in server.log
        # Those of the other worker have seen nothing of it.
        assert any(set(outcomes) == {"answered"} for outcomes in clients.each)
        assert server.process.poll() is None
