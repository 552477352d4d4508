"""A server with several addresses on wildcard sockets answers from the address that was asked, in network namespaces of its own."""

import json
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.integration.peers import PATIENCE, ReportingServer, good_samples, server_arguments
from tests.support.namespaces import Pair, inside, pair
from tests.support.processes import BIN

ADDRESSES = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]
CLIENT_ADDRESSES = ["192.0.2.10", "2001:db8::10"]


@pytest.fixture(scope="module")
def network() -> Iterator[Pair]:
    """The namespaces of server and client. They are removed after the tests."""
    with pair(ADDRESSES, CLIENT_ADDRESSES) as made:
        yield made


@pytest.fixture(scope="module")
def multihomed(network, certificates) -> Iterator[ReportingServer]:
    """A server on the wildcard addresses of both families, on one port."""
    with ReportingServer(server_arguments(certificates, "0.0.0.0:4433", "[::]:4433"), inside(network.one)) as server:
        yield server


def ask(network, certificates, host, *options):
    """tsq-client in the client's namespace; its socket hears the asked address only."""
    command = [
        *inside(network.other), BIN / "tsq-client", "--port", "4433", "--server-name", "localhost", "--ca", certificates.authority,
        "--interval", "0.01", "--json", *options, host,
    ]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["hosts"][0]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("mode", [[], ["--stream"]], ids=["datagram", "stream"])
def test_answer_comes_from_the_address_that_was_asked(multihomed, network, certificates, address, mode):
    status, host = ask(network, certificates, address, *mode)
    assert (status, host["address"], len(good_samples(host))) == (0, address, 3)


@pytest.mark.parametrize("address", ADDRESSES)
def test_retry_and_version_negotiation_come_from_the_address_that_was_asked(network, certificates, address):
    listen = "[::]:4434" if ":" in address else "0.0.0.0:4434"
    arguments = [*server_arguments(certificates, listen), "--retry", "always"]
    with ReportingServer(arguments, inside(network.one)) as server:
        status, host = ask(network, certificates, address, "--port", "4434")
        assert (status, host["address"], len(good_samples(host))) == (0, address, 3)
        assert negotiated(network, address) == address
        server.stop()
    # A first packet whose answer is late is sent again.
    assert re.search(r"retries: [1-3]\n", server.errors)


def negotiated(network, address):
    """The source address of the answer to an Initial of an unknown version."""
    script = f"""
import socket
with socket.socket(socket.{"AF_INET6" if ":" in address else "AF_INET"}, socket.SOCK_DGRAM) as s:
    s.settimeout({PATIENCE})
    s.sendto(bytes([0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8]) + bytes(8) + bytes([8]) + bytes(1200), ({address!r}, 4434))
    print(s.recvfrom(2048)[1][0])
"""
    command = [*inside(network.other), str(BIN / "python"), "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_all_addresses_are_asked_at_the_same_time(multihomed, network, certificates):
    command = [
        *inside(network.other), BIN / "tsq-client", "--port", "4433", "--server-name", "localhost",
        "--ca", certificates.authority, "--interval", "0.01", *ADDRESSES,
    ]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("3/3") == len(ADDRESSES)


def test_address_without_a_route_is_reported(network, certificates):
    status, host = ask(network, certificates, "198.51.100.1")
    assert (status, host["error_kind"]) == (3, "Unreachable")


def test_address_where_nothing_listens_is_reported(multihomed, network, certificates):
    for address in ADDRESSES:
        status, host = ask(network, certificates, address, "--port", "4435")
        assert (status, host["error_kind"]) == (3, "NothingListens")
