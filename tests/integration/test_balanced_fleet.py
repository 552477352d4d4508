"""Three servers behind a balancer in network namespaces, and what their clients lose when things happen to them.

benchmarks/balanced.py does the same with a thousand clients.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.balanced import SERVERS, Chapter, story, table
from tests.support.namespaces import need_root_and

BALANCERS = ["address", "server ID", "connection ID"]
CLIENTS = 24
INTERVAL = 0.5
# Requests that a busy machine may answer too late for a client's patience.
LATE = CLIENTS // 8
DRAIN = 1.6
# Each client polls in this time.
PAUSE = 0.8


@pytest.fixture(scope="module")
def stories(tmp_path_factory, certificates) -> dict[str, dict[str, Chapter]]:
    """The chapters of each story by name. All are told at once: they wait most of the time."""

    def tell(by: str) -> dict[str, Chapter]:
        directory = tmp_path_factory.mktemp("fleet")
        chapters = story(directory, certificates, by=by, clients=CLIENTS, interval=INTERVAL, pause=PAUSE, drain=DRAIN)
        # For a failed test: pytest shows it.
        sys.stdout.write(f"{by}\n{table(chapters)}\n")
        return {chapter.name: chapter for chapter in chapters}

    need_root_and("nft")
    with ThreadPoolExecutor() as threads:
        return dict(zip(BALANCERS, threads.map(tell, BALANCERS), strict=True))


@pytest.fixture(params=BALANCERS)
def told(request, stories) -> tuple[str, dict[str, Chapter]]:
    return request.param, stories[request.param]


def test_no_poll_fails_whatever_happens(told):
    _, chapters = told
    assert {chapter["failed"] for chapter in chapters.values()} == {0}
    assert all(chapter["polls"] >= CLIENTS / 2 for chapter in chapters.values())
    # Polls that are under way at the end have no answer yet.
    polls, requests, lost = (sum(chapter[name] for chapter in chapters.values()) for name in ("polls", "requests", "lost"))
    assert requests - lost >= polls - CLIENTS


def test_a_server_that_drains_costs_no_more_than_a_request_of_each_of_its_clients(told):
    _, chapters = told
    for name in ("a server is rolled to a new process", "a server is drained"):
        # Its clients have left it.
        assert chapters[name]["connections"] > 0
        assert chapters[name]["lost"] <= chapters[name]["connections"] + LATE
        assert chapters[name]["polls"] >= CLIENTS * DRAIN / INTERVAL / 4


def test_a_server_that_is_killed_costs_its_own_clients_a_request_and_the_others_nothing(told):
    _, chapters = told
    killed = chapters["a server is killed"]
    assert 0 < killed["connections"] < CLIENTS
    # A pair of requests is under way at most, and another one may be lost before the client has a new connection.
    assert killed["lost"] <= 3 * killed["connections"] + LATE


def test_clients_that_move_stay_connected_where_the_balancer_reads_connection_ids(told):
    by, chapters = told
    moved = chapters["all clients get another address"]
    # A hash of the new addresses leads all but a third of them to a server that does not know them. Else those alone lose their
    # connection that a busy machine kept waiting.
    assert (moved["connections"] > CLIENTS / SERVERS) == (by == "address")
    assert moved["lost"] <= 3 * moved["connections"] + LATE
