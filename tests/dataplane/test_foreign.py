"""Stacks that are not TSQ's are served by the data plane, and what that costs the server in system calls."""

import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fleet import Fleet
from tests.integration.peers import PATIENCE, RawClient, assert_answers, new_request, process, read_until
from tests.integration.test_quiche import PEERS, quiche_client
from tests.support.processes import ServerProcess

pytestmark = pytest.mark.foreign


def counted(server: ServerProcess, name: str) -> int:
    """A counter of a server that has ended, from its log."""
    server.stop()
    found = re.search(rf"\b{name}: (\d+)", server.errors)
    return int(found[1]) if found else 0


# -------------------------------------------------------------------------------------------------------------- quiche

@pytest.fixture(scope="module")
def quiche() -> Callable[..., tuple[int, dict[str, Any]]]:
    """Runs the quiche client, where there is one."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed: `make peers` installs it where it may")
    if not (PEERS / "node_modules").is_dir():
        pytest.skip("quiche is not installed: `make peers` installs it where npm may")
    return quiche_client


def test_most_of_200_exchanges_with_quiche_go_through_the_data_plane(quiche, server_process, certificates):
    status, report = quiche(server_process, certificates, "--count", 200)
    assert status == 0, report
    assert (report["answered"], report["bad"]) == (200, 0)
    assert counted(server_process, "taken") > 150


def test_quiche_requests_that_share_packets_go_through_the_data_plane(quiche, server_process, certificates):
    status, report = quiche(server_process, certificates, "--count", 200, "--burst", 8)
    assert status == 0, report
    assert (report["answered"], report["bad"]) == (200, 0)
    # 25 packets of requests at least, but for the first, which comes with the handshake.
    assert counted(server_process, "taken") > 15


def test_quiche_requests_on_streams_go_through_the_control_plane(quiche, server_process, certificates):
    status, report = quiche(server_process, certificates, "--count", 50, "--stream")
    assert status == 0, report
    assert (report["answered"], report["bad"]) == (50, 0)


# ----------------------------------------------------------------------------------------------------------------- qh3

@pytest.fixture
def qh3_client(server_process, certificates) -> Iterator[RawClient]:
    configuration = pytest.importorskip("qh3.quic.configuration", reason="qh3 is not installed")
    connection = pytest.importorskip("qh3.quic.connection", reason="qh3 is not installed")
    settings = configuration.QuicConfiguration(
        is_client=True, alpn_protocols=["tsq/1"], server_name="localhost", max_datagram_frame_size=65535
    )
    settings.load_verify_locations(cafile=str(certificates.authority))
    with RawClient(connection.QuicConnection(configuration=settings), server_process.target) as client:
        client.wait("HandshakeCompleted")
        yield client


def test_most_of_200_exchanges_with_qh3_go_through_the_data_plane(qh3_client, server_process):
    for _ in range(200):
        qh3_client.exchange()
    assert counted(server_process, "taken") > 150


def test_qh3_requests_that_share_packets_go_through_the_data_plane(qh3_client, server_process):
    for _ in range(25):
        requests = [new_request() for _ in range(8)]
        for request in requests:
            qh3_client.quic.send_datagram_frame(request)
        qh3_client.flush()
        for request in requests:
            assert_answers(qh3_client.wait("DatagramFrameReceived").data, request)
    assert counted(server_process, "taken") > 15


def test_a_key_update_of_qh3_is_followed_by_the_data_plane(qh3_client, server_process):
    for _ in range(4):
        for _ in range(20):
            qh3_client.exchange()
        qh3_client.quic.request_key_update()
    for _ in range(50):
        qh3_client.exchange()
    assert counted(server_process, "taken") > 100


# -------------------------------------------------------------------------------------------------------- system calls

def test_a_loaded_server_makes_two_system_calls_for_a_batch(server_process, certificates, tmp_path):
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    table = tmp_path / "calls"
    with Fleet(server_process.target, str(certificates.authority), 40) as fleet:
        with process(["strace", "-f", "-c", "-o", table, "-p", server_process.pid]) as tracer:
            try:
                read_until(tracer.stderr, "attached")
            except AssertionError as error:
                pytest.skip(f"strace may not attach here: {error}")
            fleet.run(20_000, window=30, seconds=PATIENCE)
            tracer.send_signal(signal.SIGINT)
            tracer.wait(PATIENCE)
        answered = fleet.asker.answered
    calls = read_calls(table)
    assert answered > 10_000
    batches = calls.get("recvmmsg", 0) + calls.get("sendmmsg", 0)
    # Where the load pauses for a millisecond, as it may on a busy machine, two more answers warm the transmit path.
    warmed = calls.get("sendmsg", 0) + calls.get("sendto", 0)
    assert batches >= 0.9 * (sum(calls.values()) - warmed), calls
    # A batch of 64 at best.
    assert sum(calls.values()) < answered / 8, (answered, calls)


def read_calls(table: Path) -> dict[str, int]:
    """{system call: how often} of strace -c."""
    calls = {}
    for line in table.read_text().splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[3].isdigit() and fields[-1] != "total":
            calls[fields[-1]] = int(fields[3])
    return calls
