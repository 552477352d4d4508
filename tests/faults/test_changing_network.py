"""A client's machine and its network change while it asks: links that go down, other addresses, servers that start again.

In namespaces of this test's own, between real processes.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.peers import ReportingServer, process, read_until, server_arguments
from tests.support.namespaces import Pair, etc, inside, ip, pair
from tests.support.processes import BIN

HANG = 60
ROOT = Path(__file__).parents[2]
SERVER = "192.0.2.2"
PORT = 4433
DEAD = "192.0.2.50"


@pytest.fixture
def network() -> Iterator[Pair]:
    """The asking namespace and the serving one."""
    with pair(["192.0.2.1"], [SERVER]) as made:
        yield made


@contextmanager
def serving(network: Pair, certificates) -> Iterator[ReportingServer]:
    """A server at the one address."""
    with ReportingServer(server_arguments(certificates, f"{SERVER}:{PORT}"), inside(network.other)) as running:
        yield running


def command(network: Pair, certificates, *arguments: object) -> list[str]:
    """tsq-client in the asking namespace."""
    words = [
        *inside(network.one), BIN / "tsq-client", f"{SERVER}:{PORT}", "--ca", certificates.authority, "--server-name", "localhost",
        *arguments,
    ]
    return [str(word) for word in words]


@contextmanager
def watching(network: Pair, certificates, *arguments: object) -> Iterator[subprocess.Popen]:
    """tsq-client --watch, from its first line on."""
    with process(command(network, certificates, "--watch", "--interval", "0.3", "--timeout", "1", *arguments)) as running:
        read_until(running.stdout, " ± ")
        yield running


def wait_for_traffic(network: Pair) -> None:
    """Until the asking machine has received as many packets as a handshake and some answers are."""
    end = time.monotonic() + HANG
    while received(network) < 15:
        assert time.monotonic() < end
        time.sleep(0.02)


def received(network: Pair) -> int:
    shown = subprocess.run(
        ["ip", "-n", network.one, "-s", "-j", "link", "show", network.devices[0]], capture_output=True, check=True, timeout=HANG
    )
    return json.loads(shown.stdout)[0]["stats64"]["rx"]["packets"]


# ---------------------------------------------------------------------------------------------------------- in mid-run


def test_requests_that_cannot_be_sent_are_samples_with_the_reason(network, certificates):
    with serving(network, certificates):
        arguments = ("--count", 24, "--interval", 0.2, "--timeout", 1, "--json")
        with process(command(network, certificates, *arguments)) as running:
            wait_for_traffic(network)
            ip("-n", network.one, "link", "set", network.devices[0], "down")
            output, errors = running.communicate(timeout=HANG)
    assert "Traceback" not in errors
    [host] = json.loads(output)["hosts"]
    assert len(host["samples"]) == 24
    reasons = {sample["reason"] for sample in host["samples"]}
    assert "could not be sent" in reasons
    assert None in reasons
    details = {sample["detail"] for sample in host["samples"] if sample["reason"] == "could not be sent"}
    told = {"Network is unreachable", "Network is down", "Invalid argument", "No route to host"}
    # Some of the last ones may wait for what was sent just before and had no answer.
    assert details & told
    assert details <= told | {"held back by the congestion window until its time was over"}
    # None has the transmit timestamp of another one.
    assert len({sample["t1_ns"] for sample in host["samples"]}) == 24


def test_watch_goes_on_when_the_machine_gets_another_address(network, certificates):
    with serving(network, certificates), watching(network, certificates, "--count", 30) as running:
        ip("-n", network.one, "address", "delete", "192.0.2.1/24", "dev", network.devices[0])
        ip("-n", network.one, "address", "add", "192.0.2.77/24", "dev", network.devices[0])
        output, errors = running.communicate(timeout=HANG)
    assert running.returncode == 0
    good, taken = samples_of(output)
    assert taken == 30
    # The poll that was under way, and the one that found out.
    assert good >= 26
    assert "connected again once; the last time because requests could not be sent" in errors


def test_watch_goes_on_when_the_link_was_down(network, certificates):
    with serving(network, certificates), watching(network, certificates, "--count", 30) as running:
        ip("-n", network.one, "link", "set", network.devices[0], "down")
        # Lines go on; they are those of samples that are lost.
        for _ in range(4):
            read_until(running.stdout, "\n")
        ip("-n", network.one, "link", "set", network.devices[0], "up")
        output, errors = running.communicate(timeout=HANG)
    assert running.returncode == 0
    good, taken = samples_of(output)
    assert taken == 30
    assert good >= 12
    assert "Traceback" not in errors


def test_watch_goes_on_when_the_server_was_started_again(network, certificates):
    with serving(network, certificates) as first, watching(network, certificates, "--count", 30) as running:
        assert first.stop() == 0
        with serving(network, certificates):
            output, errors = running.communicate(timeout=HANG)
    assert running.returncode == 0
    good, taken = samples_of(output)
    assert taken == 30
    # Before the first server ended there was time for one or two. How many the second one misses depends on how fast it starts.
    assert good >= 5
    assert "connected again" in errors


def samples_of(output: str) -> tuple[int, int]:
    """How many samples are valid, and how many there are, by the final table."""
    [row] = [line for line in output.splitlines() if line.startswith("*") and "/" in line.split()[-1]]
    good, _, taken = next(word for word in row.split() if "/" in word and word[0].isdigit() and "±" not in word).partition("/")
    return int(good), int(taken)


ASYNCIO = """
import asyncio, sys, tsq
async def main():
    options = tsq.ClientOptions(trust=tsq.Trust(ca_file=sys.argv[2]), server_name="localhost", timeout=1.0)
    async with tsq.connect(sys.argv[1], options) as client:
        for line in sys.stdin:
            try:
                print((await client.sample()).reason, flush=True)
            except tsq.TSQError as error:
                print(type(error).__name__, flush=True)
asyncio.run(main())
"""


def test_the_asynchronous_client_goes_on_after_each_change_of_the_network(network, certificates):
    with serving(network, certificates) as first:
        program = [*inside(network.one), sys.executable, "-c", ASYNCIO, f"{SERVER}:{PORT}", str(certificates.authority)]
        with process(program, stdin=subprocess.PIPE, cwd=ROOT) as running:

            def sample() -> str:
                running.stdin.write("\n")
                running.stdin.flush()
                return running.stdout.readline().strip()

            assert [sample() for _ in range(3)] == ["None"] * 3
            ip("-n", network.one, "address", "delete", "192.0.2.1/24", "dev", network.devices[0])
            assert sample() != "None"
            ip("-n", network.one, "address", "add", "192.0.2.77/24", "dev", network.devices[0])
            # One poll at the most is lost to what was begun before.
            assert "None" in [sample() for _ in range(2)]
            assert sample() == "None"
            assert first.stop() == 0
            assert sample() != "None"
            with serving(network, certificates):
                assert "None" in [sample() for _ in range(2)]
                assert sample() == "None"


# --------------------------------------------------------------------------------------------------- several addresses


@pytest.mark.parametrize("order", [(SERVER, DEAD), (DEAD, SERVER)], ids=["live first", "dead first"])
def test_a_refused_certificate_is_reported_and_not_the_silence_of_another_address(network, certificates, order):
    ip("-n", network.one, "neigh", "add", DEAD, "lladdr", "02:00:00:00:00:50", "dev", network.devices[0])
    hosts = "127.0.0.1 localhost\n" + "".join(f"{address} time.example\n" for address in order)
    names = {"hosts": hosts, "nsswitch_conf": "hosts: files\n"}
    with serving(network, certificates), etc(network.one, **names):
        done = subprocess.run(
            [*inside(network.one), str(BIN / "tsq-client"), f"time.example:{PORT}", "--server-name", "localhost", "--timeout", "3"],
            capture_output=True, text=True, timeout=HANG, check=False,
        )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "which is not trusted here" in done.stderr
    assert len(done.stderr.splitlines()) == 1
