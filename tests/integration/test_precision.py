"""Precision Mode between real processes: what is on the wire, and what tsq-client says."""

import ctypes
import json
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.support.imprecise_server import imprecise
from tests.support.processes import ServerProcess, run_client

ALL_PROTOCOLS = 0x0003
OUTGOING = 4
# Of an IPv4 header without options.
HEADER = 20
# <asm/socket.h>
SO_ATTACH_FILTER = 26
SMALLEST_REQUEST = 80


class Capture:
    """The IPv4 datagrams from and to a UDP port that leave on the loopback device, by a packet socket."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ALL_PROTOCOLS))
        # What others send there would fill the socket.
        program = b"".join(struct.pack("HBBI", *instruction) for instruction in of_port(port))
        memory = ctypes.create_string_buffer(program)
        count = len(program) // 8
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", count, ctypes.addressof(memory)))
        self._socket.bind(("lo", ALL_PROTOCOLS))
        self._socket.setblocking(False)

    def datagrams(self) -> list[tuple[str, bytes]]:
        """(side, UDP payload) so far, in their order."""
        found = []
        while True:
            try:
                packet, address = self._socket.recvfrom(65536)
            except BlockingIOError:
                return found
            source, _, size = struct.unpack("!HHH", packet[HEADER : HEADER + 6])
            if address[2] == OUTGOING:
                found.append(("server" if source == self._port else "client", packet[HEADER + 8 : HEADER + size]))

    def close(self) -> None:
        self._socket.close()


def of_port(port: int) -> list[tuple[int, int, int, int]]:
    """A program of the packet filter (bpf(4)): UDP over IPv4 without options, from or to this port."""
    load_byte, load_half, equal, give = 0x30, 0x28, 0x15, 0x06
    return [
        (load_byte, 0, 0, 0),
        (equal, 0, 6, 0x45),
        (load_byte, 0, 0, 9),
        (equal, 0, 4, socket.IPPROTO_UDP),
        (load_half, 0, 0, HEADER),
        (equal, 3, 0, port),
        (load_half, 0, 0, HEADER + 2),
        (equal, 1, 0, port),
        (give, 0, 0, 0),
        (give, 0, 0, 65535),
    ]


@pytest.fixture
def capture(server) -> Iterator[Capture]:
    if os.geteuid() != 0:
        pytest.skip("a packet socket needs root")
    made = Capture(server.target.port)
    yield made
    made.close()


@pytest.fixture
def server(certificates) -> Iterator[ServerProcess]:
    with ServerProcess(["--listen", "127.0.0.1:0", "--cert", certificates.certificate, "--key", certificates.key]) as made:
        yield made


def test_R7_the_capture_has_equal_udp_payloads_both_ways(server, certificates, capture):
    done = run_client(
        "--precision=require", str(server.target), "--ca", certificates.authority, "--count", "12", "--interval", "0.02", "--json"
    )
    assert done.returncode == 0, done.stderr
    [host] = json.loads(done.stdout)["hosts"]
    assert [sample["precise"] for sample in host["samples"]] == [True] * 12
    # Exact T3, and the report about the server's clock, are there as without it.
    assert sum(sample["exact"] for sample in host["samples"]) >= 8
    assert host["stratum"] == 1
    # Packets with a short header that have requests or answers; the others are acknowledgments, and the end of the connection.
    short = [(side, len(data)) for side, data in capture.datagrams() if not data[0] & 0x80]
    large = [one for one in short if one[1] > SMALLEST_REQUEST]
    # The client's data plane serves from its second request on. An answer that is late comes behind the next request.
    requests, answers = ([size for one, size in large if one == side][-11:] for side in ("client", "server"))
    assert len(requests) == 11
    assert requests == answers


def test_R7_without_it_the_capture_has_larger_answers(server, certificates, capture):
    done = run_client(str(server.target), "--ca", certificates.authority, "--count", "8", "--interval", "0.02")
    assert done.returncode == 0, done.stderr
    short = [(side, len(data)) for side, data in capture.datagrams() if not data[0] & 0x80]
    largest = {side: max(size for one, size in short if one == side) for side in ("client", "server")}
    assert largest["server"] > max(size for side, size in short[-8:] if side == "client")


def test_R7_a_server_without_it_is_used_and_said(certificates):
    with imprecise(certificates) as target:
        done = run_client("--precision", str(target), "--ca", certificates.authority, "--count", "3", "--json")
        assert done.returncode == 0, done.stderr
        [host] = json.loads(done.stdout)["hosts"]
        assert [sample["precise"] for sample in host["samples"]] == [False] * 3
        assert all(sample["valid"] for sample in host["samples"])
        [notice] = [one for one in host["notices"] if "Precision" in one]
        assert notice.startswith("Precision Mode: 0 of 3 samples")
        shown = run_client("--precision", str(target), "--ca", certificates.authority)
        assert "Precision Mode: 0 of 3 samples" in shown.stderr


def test_R7_a_server_without_it_is_not_used_where_it_is_required(certificates):
    with imprecise(certificates) as target:
        done = run_client("--precision=require", str(target), "--ca", certificates.authority)
    assert done.returncode == 6
    assert "answer of another length than the request" in done.stderr


def test_R7_it_works_in_stream_mode(server, certificates):
    done = run_client("--precision=require", "--stream", str(server.target), "--ca", certificates.authority, "-v")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("  Precision Mode") == 3


def test_another_word_is_refused():
    done = run_client("--precision=always", "localhost")
    assert done.returncode == 2
    assert "argument --precision: 'always' (expected no value, or =require)" in done.stderr
