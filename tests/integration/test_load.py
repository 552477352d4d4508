"""Signals to a server process under load: a renewed certificate, and a process that is stopped for a while."""

import signal
import threading
import time
from collections.abc import Callable

from benchmarks.fleet import Fleet
from tests.support.processes import ServerProcess

REQUESTS = 20_000
BOUND = 120.0


def under_load(server: ServerProcess, authority: str, act: Callable[[threading.Event], None]) -> int:
    """Ask, while another thread does this until the event says that all is asked; how many requests were answered in time.

    A connection that the server closed would be an error of the fleet's. All connections must be served on afterwards.
    """
    done = threading.Event()
    thread = threading.Thread(target=act, args=(done,))
    with Fleet(server.target, authority, 20) as fleet:
        thread.start()
        try:
            fleet.run(REQUESTS, window=8, seconds=BOUND)
        finally:
            done.set()
            thread.join()
        answered = fleet.asker.answered
        assert len(fleet.run(200, window=1, seconds=BOUND)) > 190
    assert server.stop() == 0
    assert "Traceback" not in server.errors
    return answered


def test_hangups_under_load_cost_no_connection(server_process, certificates):
    def act(done: threading.Event) -> None:
        server_process.send_signal(signal.SIGHUP)
        while not done.wait(0.02):
            server_process.send_signal(signal.SIGHUP)

    answered = under_load(server_process, str(certificates.authority), act)
    assert answered > 0.9 * REQUESTS
    assert "certificate reloaded" in server_process.errors


def test_a_server_that_was_stopped_under_load_answers_on_when_it_continues(server_process, certificates):
    def act(done: threading.Event) -> None:
        for _ in range(3):
            server_process.send_signal(signal.SIGSTOP)
            time.sleep(0.3)
            server_process.send_signal(signal.SIGCONT)
            if done.wait(0.1):
                return

    # It answered the requests that waited in its socket late.
    assert under_load(server_process, str(certificates.authority), act) > 0.9 * REQUESTS
