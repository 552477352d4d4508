"""The data plane on real loopback sockets, and a whole server with its two planes: in virtual time where time matters."""

import contextlib
import logging
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aioquic.quic.packet import QuicErrorCode, QuicProtocolVersion
from aioquic.tls import Epoch

from benchmarks.fleet import Fleet
from tests.dataplane.peer import EXACT_T3, Packet, Peer, ack, datagram, nonce_of, request
from tests.integration.peers import aioquic_client
from tests.support.foreign import ForeignClient, path
from tests.support.threads import ServerThread
from tests.support.tries import in_one_of_some
from tests.support.world import CLIENT, World
from tsq import _sockets
from tsq._fast import ns_from_ntp, pack_address
from tsq.client.blocking import query
from tsq.client.channel import Channel
from tsq.dataplane.batches import BATCH, DataPlane
from tsq.errors import ConfigError
from tsq.options import ClientOptions, Target, Trust
from tsq.quic import tls
from tsq.quic.aioquic import offload_check
from tsq.quic.client_connection import ClientConnection
from tsq.quic.selfsigned import CertificateFiles
from tsq.quic.udp import sink
from tsq.server.driver import Server

FAMILIES = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}


class Wire:
    """A session's peer on a socket of its own, and the socket that the data plane serves. What is sent has arrived: loopback."""

    def __init__(self, host: str = "127.0.0.1", bind: str | None = None, *, transmit_timestamps: bool = True) -> None:
        family = FAMILIES[host]
        self.server = socket.socket(family, socket.SOCK_DGRAM)
        self.server.setblocking(False)
        _sockets.enable_receive_timestamps(self.server.fileno(), family, bind is not None)
        if transmit_timestamps:
            _sockets.enable_transmit_timestamps(self.server.fileno())
        self.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.server.bind((bind or host, 0))
        self.client = socket.socket(family, socket.SOCK_DGRAM)
        self.client.setblocking(False)
        _sockets.enable_receive_timestamps(self.client.fileno(), family, False)
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.client.bind((host, 0))
        self.client.connect((host, self.server.getsockname()[1]))
        local = b""
        if bind is not None:
            # As the kernel reports it for a wildcard socket: the address, and for IPv6 the interface.
            local = socket.inet_pton(family, host)
            local += socket.if_nametoindex("lo").to_bytes(4, "little") if family == socket.AF_INET6 else b""
        self.peer = Peer(remote=pack_address(host, self.client.getsockname()[1]), local=local)
        self.received = _sockets.ReceiveBatch()

    def send(self, frames: bytes, number: int | None = None) -> None:
        self.client.send(self.peer.seal(frames, number))

    def serve(self) -> tuple[int, list[tuple[bytes, bytes, bytes, int, bool]]]:
        return self.peer.data_plane.receive(self.server.fileno())

    def read(self) -> list[tuple[Packet, int]]:
        """The packets that have come, and when."""
        return [
            (self.peer.open(data), at_ns) for data, _, _, at_ns, _ in self.received.receive(self.client.fileno())
        ]

    def ask(self, *numbers: int, exact: bool = False) -> tuple[Packet, int]:
        """One packet with these requests; its answer, and when it came."""
        self.send(b"".join(datagram(request(n, exact=exact)) for n in numbers))
        assert self.serve() == (1, [])
        [answer] = self.read()
        return answer

    def close(self) -> None:
        self.server.close()
        self.client.close()


@pytest.fixture(params=["127.0.0.1", "::1"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    with contextlib.closing(Wire(request.param)) as wire:
        yield wire


# -------------------------------------------------------------------------------------------------------------- batches

def test_nothing_waiting_is_nothing(wire):
    assert wire.serve() == (0, [])


def test_a_request_is_answered_with_the_kernels_t2_and_a_true_t3(wire):
    before = time.time_ns()
    packet, t4 = wire.ask(7)
    [message] = packet.messages
    t2, t3 = (ns_from_ntp(int.from_bytes(message[at : at + 8], "big"), before) for at in (20, 30))
    assert packet.nonces == [7]
    assert before <= t2 <= t3 <= t4


@pytest.mark.parametrize("host", FAMILIES)
def test_on_a_wildcard_address_the_answer_comes_from_where_the_request_went(host):
    with contextlib.closing(Wire(host, "::" if ":" in host else "0.0.0.0")) as wire:
        # The client's socket is connected: an answer from another address would not reach it.
        packet, _ = wire.ask(1)
        assert packet.nonces == [1]
        # A TLV that only the control plane looks at.
        wire.send(datagram(request(2) + b"\xf8\x00"))
        [count, [item]] = wire.serve()
        assert (count, item[2]) == (1, wire.peer.local)


def test_another_address_of_a_wildcard_socket_is_another_path():
    with contextlib.closing(Wire("127.0.0.1", "0.0.0.0")) as wire:
        wire.client.connect(("127.0.0.2", wire.server.getsockname()[1]))
        wire.send(datagram(request(1)))
        [count, [item]] = wire.serve()
        assert (count, item[2]) == (1, b"\x7f\x00\x00\x02")


def test_more_than_a_batch_is_served_by_one_call(wire):
    total = 2 * BATCH + 22
    for n in range(total):
        wire.send(datagram(request(n)))
    assert [wire.serve() for _ in range(2)] == [(total, []), (0, [])]
    # 32 answers are in flight at most; the rest is acknowledged only.
    packets = [packet for _ in range(3) for packet, _ in wire.read()]
    assert [packet.number for packet in packets] == list(range(total))
    assert sum(len(packet.messages) for packet in packets) == wire.peer.data_plane.answered == 32
    assert wire.peer.data_plane.held_back == total - 32
    assert wire.peer.data_plane.received == wire.peer.data_plane.taken == total


def test_nothing_is_lost_of_a_full_batch_that_holds_something_for_the_control_plane(wire):
    other = wire.peer.seal(datagram(request(99) + b"\xf8\x00"))
    for n in range(BATCH - 1):
        wire.send(datagram(request(n)))
    wire.client.send(other)
    for n in range(10):
        wire.send(datagram(request(n)))
    count, [item] = wire.serve()
    assert (count, item[0]) == (BATCH, other)
    assert wire.serve() == (10, [])


def test_a_batch_whose_answers_do_not_fit_a_batch_is_answered_whole(wire):
    other = Peer(
        data_plane=wire.peer.data_plane, connection_id=b"server02", remote=wire.peer.remote, local=wire.peer.local, seed=2,
        peer_id=b"other-one",
    )
    requests = b"".join(datagram(request(n)) for n in range(50))
    for _ in range(BATCH // 2):
        wire.client.send(wire.peer.seal(requests))
        wire.client.send(other.seal(requests))
    assert wire.serve() == (BATCH, [])
    received = [data for _ in range(3) for data, *_ in wire.received.receive(wire.client.fileno())]
    packets = {peer.id: [peer.open(data) for data in received if data[1:10] == peer.peer_id] for peer in (wire.peer, other)}
    # Eight packets of requests are answered in four packets each; then 32 are in flight, and each gets an acknowledgment.
    for found in packets.values():
        assert [packet.number for packet in found] == list(range(40))
        assert [len(packet.messages) for packet in found] == [16, 16, 16, 2] * 8 + [0] * 8
    assert wire.peer.data_plane.answered == 2 * 8 * 50


def test_of_a_batch_only_what_is_not_taken_comes_up_in_order(wire):
    others = []
    for n in range(10):
        wire.send(datagram(request(n)))
        others.append(wire.peer.seal(datagram(request(n) + b"\xf8\x00")))
        wire.client.send(others[-1])
        others.append(bytes([n]) * (n + 1))
        wire.client.send(others[-1])
    count, rest = wire.serve()
    assert count == 30
    assert [item[0] for item in rest] == others
    assert {item[1] for item in rest} == {wire.peer.remote}
    assert all(item[4] for item in rest)
    assert [packet.nonces for packet, _ in wire.read()] == [[n] for n in range(10)]


def test_a_datagram_over_2048_bytes_is_counted_and_gone(wire):
    wire.client.send(b"\x40" + wire.peer.id + bytes(2048))
    wire.client.send(bytes(2048))
    wire.send(datagram(request(1)))
    count, rest = wire.serve()
    assert count == 3
    assert [item[0] for item in rest] == [bytes(2048)]
    assert wire.peer.data_plane.truncated == 1
    assert [packet.nonces for packet, _ in wire.read()] == [[1]]


def test_a_bad_socket_is_an_error(wire):
    with pytest.raises(OSError, match="recvmmsg"):
        wire.peer.data_plane.receive(1 << 20)


@pytest.mark.foreign
@pytest.mark.parametrize("order", ["012", "102", "021"])
def test_an_answer_that_cannot_be_sent_costs_the_others_of_its_batch_nothing(order):
    command = ["unshare", "-n", sys.executable, "-m", "tests.dataplane.unreachable", order]
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("unshare or iproute2 is not installed")
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("network namespaces need root")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    # Transmit timestamps go on: the kernel may or may not have counted the one that was not sent.
    assert done.stdout.split("\n")[:4] == ["0", "2", "unsent 1", "exact 2"]


# ------------------------------------------------------------------------------------------------------- exact T3 (R12)

def reported(message: bytes) -> tuple[int, int]:
    """(nonce, time in ns) that an answer reports of an earlier one; its form is checked byte for byte."""
    assert len(message) == 80
    assert message[38:48] == b"\xfd\x28\x06tsq.t3\x20"
    value = message[48:].decode()
    assert value == value.lower()
    # The first 8 bytes of the test's nonces are zero; the peer's own counter stands in the last.
    return int(value[:16], 16), ns_from_ntp(int(value[16:], 16), time.time_ns())


def exact_request(number: int) -> bytes:
    """A request for exact T3 whose number is in the nonce's first 8 bytes."""
    return b"\x01\x10" + number.to_bytes(8, "big") * 2 + EXACT_T3


def ask_exact(wire: Wire, *numbers: int) -> tuple[list[bytes], int]:
    wire.send(b"".join(datagram(exact_request(n)) for n in numbers))
    assert wire.serve() == (1, [])
    [(packet, at)] = wire.read()
    return packet.messages, at


def t3_of(message: bytes) -> int:
    return ns_from_ntp(int.from_bytes(message[30:38], "big"), time.time_ns())


def test_the_next_answer_reports_when_the_last_one_left(wire):
    [first], t4 = ask_exact(wire, 0x0123456789ABCDEF)
    assert len(first) == 38
    [second], _ = ask_exact(wire, 2)
    nonce, left = reported(second)
    assert second[48:64] == b"0123456789abcdef"
    assert nonce == 0x0123456789ABCDEF
    assert t3_of(first) <= left <= t4
    assert wire.peer.data_plane.exact == 2


def test_each_transmit_timestamp_is_reported_once(wire):
    ask_exact(wire, 1)
    [second], _ = ask_exact(wire, 2)
    [third], _ = ask_exact(wire, 3)
    assert (reported(second)[0], reported(third)[0]) == (1, 2)


def test_transmit_timestamps_are_reported_only_to_clients_that_ask(wire):
    ask_exact(wire, 1)
    for n in range(3):
        packet, _ = wire.ask(n)
        assert [len(message) for message in packet.messages] == [38]
    [last], _ = ask_exact(wire, 2)
    assert reported(last)[0] == 1
    # Plain requests between them asked for no transmit timestamp.
    assert wire.peer.data_plane.exact == 2


def test_plain_requests_cost_no_transmit_timestamps(wire):
    for n in range(5):
        packet, _ = wire.ask(n)
        assert [len(message) for message in packet.messages] == [38]
    assert wire.peer.data_plane.exact == 0
    assert _sockets.transmit_times(wire.server.fileno()) == []


def test_only_the_newest_four_transmit_timestamps_are_kept(wire):
    for n in range(1, 8):
        wire.send(datagram(exact_request(n)))
    assert wire.serve() == (7, [])
    assert [len(packet.messages[0]) for packet, _ in wire.read()] == [38] * 7
    messages, _ = ask_exact(wire, *range(10, 16))
    assert [reported(message)[0] for message in messages[:4]] == [4, 5, 6, 7]
    assert [len(message) for message in messages[4:]] == [38, 38]


def test_a_packets_transmit_timestamp_is_reported_for_its_first_exact_request(wire):
    wire.send(datagram(request(1)) + datagram(exact_request(7)) + datagram(exact_request(8)))
    wire.serve()
    wire.read()
    [message], _ = ask_exact(wire, 9)
    assert reported(message)[0] == 7


def test_a_lost_answer_harms_nothing(wire):
    for n in range(1, 4):
        wire.send(datagram(exact_request(n)))
        wire.serve()
    lost = wire.read()
    assert [len(packet.messages[0]) for packet, _ in lost] == [38, 80, 80]
    [message], _ = ask_exact(wire, 4)
    assert reported(message)[0] == 3


def test_transmit_timestamps_of_a_session_that_left_the_table_are_not_reported(wire):
    for n in range(1, 4):
        wire.send(datagram(exact_request(n)))
    wire.serve()
    peer = wire.peer
    peer.data_plane.discard(peer.id)
    wire.send(datagram(exact_request(5)))
    count, rest = wire.serve()
    assert (count, len(rest)) == (1, 1)
    peer.data_plane.add(peer.id, peer.session)
    wire.read()
    [message], _ = ask_exact(wire, 6)
    assert reported(message)[0] == 1


def test_what_came_late_to_the_error_queue_is_taken_away(wire):
    # A transmit timestamp that lies there when nothing else does would wake the event loop for ever.
    wire.client.send(wire.peer.seal(datagram(exact_request(1))))
    assert wire.serve() == (1, [])
    _sockets.send(wire.server.fileno(), [(b"x", wire.peer.remote, b"")], True)
    assert wire.serve() == (0, [])
    assert _sockets.transmit_times(wire.server.fileno()) == []


def stamp_other_packets(wire: Wire, count: int) -> None:
    """Let the kernel stamp so many packets of the socket's that the data plane does not know of, and take the stamps away."""
    fd = wire.server.fileno()
    while count:
        sent, *_ = _sockets.send(fd, [(b"x", wire.peer.remote, b"")] * min(count, 32), True)
        assert sent
        count -= sent
        while _sockets.transmit_times(fd):
            pass
        wire.received.receive(wire.client.fileno())


def test_a_transmit_timestamp_that_comes_when_its_session_is_gone_is_dropped():
    with contextlib.closing(Wire("127.0.0.1", transmit_timestamps=False)) as wire:
        data_plane, fd = wire.peer.data_plane, wire.server.fileno()
        ask_exact(wire, 1)
        data_plane.discard(wire.peer.id)
        # Only now is there a stamp, and it has the number of that answer.
        _sockets.enable_transmit_timestamps(fd)
        _sockets.send(fd, [(b"x", wire.peer.remote, b"")], True)
        assert wire.serve() == (0, [])
        assert _sockets.transmit_times(fd) == []
        assert data_plane.exact == 0
        assert wire.peer.session.report() == ""


def test_a_transmit_timestamp_belongs_to_the_answer_with_its_number_and_not_to_one_a_whole_round_away(wire):
    stamp_other_packets(wire, 4096)
    ask_exact(wire, 1)
    [message], _ = ask_exact(wire, 2)
    assert len(message) == 38
    assert wire.peer.data_plane.exact == 0


def test_a_transmit_timestamp_is_used_once(wire):
    fd = wire.server.fileno()
    ask_exact(wire, 1)
    assert wire.peer.data_plane.exact == 1
    # The kernel counts from 0 again: the next packet has the same number.
    _sockets.enable_transmit_timestamps(fd)
    _sockets.send(fd, [(b"x", wire.peer.remote, b"")], True)
    assert wire.serve() == (0, [])
    assert wire.peer.data_plane.exact == 1


def test_of_several_answering_packets_each_has_the_transmit_timestamp_of_its_own_requests(wire):
    plain = b"".join(datagram(request(n)) for n in range(16))
    wire.send(plain + datagram(exact_request(7)))
    assert wire.serve() == (1, [])
    first, second = (packet for packet, _ in wire.read())
    assert (len(first.messages), len(second.messages)) == (16, 1)
    assert wire.peer.data_plane.exact == 1
    wire.send(datagram(exact_request(8)) + plain[20:] + datagram(request(5)) * 5)
    assert wire.serve() == (1, [])
    first, second = (packet for packet, _ in wire.read())
    assert reported(first.messages[0])[0] == 7
    assert wire.peer.data_plane.exact == 2
    [message], _ = ask_exact(wire, 9)
    assert reported(message)[0] == 8


def test_no_transmit_timestamp_is_asked_for_where_nothing_is_answered():
    with contextlib.closing(Wire("127.0.0.1")) as wire:
        ask_exact(wire, 1)
        wire.peer.recover(10)
        messages, _ = ask_exact(wire, 2)
        assert messages == []
        assert wire.peer.data_plane.exact == 1
        wire.peer.recover(1 << 20)
        [message], _ = ask_exact(wire, 3)
        assert reported(message)[0] == 1
        [message], _ = ask_exact(wire, 4)
        assert reported(message)[0] == 3


def test_transmit_timestamps_go_on_after_a_packet_that_could_not_be_sent(wire):
    data_plane, peer = wire.peer.data_plane, wire.peer
    nowhere = pack_address("::1" if wire.server.family == socket.AF_INET6 else "127.0.0.1", 0)
    assert data_plane.send_stamped(wire.server.fileno(), bytes(40), nowhere, b"", peer.session, bytes(16), time.time_ns()) == 0
    ask_exact(wire, 1)
    [message], _ = ask_exact(wire, 2)
    assert reported(message)[0] == 1


@pytest.mark.parametrize("replaced", [True, False])
def test_a_session_that_has_left_the_table_asks_for_no_transmit_timestamp(replaced):
    with contextlib.closing(Wire("127.0.0.1")) as wire:
        data_plane, peer = wire.peer.data_plane, wire.peer
        if replaced:
            data_plane.add(peer.id, Peer(seed=2).session)
        data_plane.discard(peer.id)
        data_plane.send_stamped(wire.server.fileno(), bytes(40), peer.remote, b"", peer.session, bytes(16), time.time_ns())
        wire.serve()
        assert data_plane.exact == 0


@pytest.mark.parametrize(("ahead_ns", "believed"), [(-100_000_000, 1), (60_000_000_000, 0), (-60_000_000_000, 0)])
def test_a_transmit_timestamp_is_believed_from_t3_until_a_second_after_it(wire, ahead_ns, believed):
    data_plane = wire.peer.data_plane
    assert data_plane.send_stamped(
        wire.server.fileno(), bytes(40), wire.peer.remote, b"", wire.peer.session, bytes(16), time.time_ns() + ahead_ns
    )
    wire.serve()
    assert data_plane.exact == believed
    assert bool(wire.peer.session.report()) == bool(believed)


# ------------------------------------------------------------------------------------------------------------- a server

@pytest.fixture
def fleet(server: ServerThread) -> Iterator[Fleet]:
    with Fleet(server.target, server.ca, 4) as fleet:
        yield fleet


def taken(server: ServerThread) -> int:
    return server.call(server.server.counters.get, "taken")


def test_a_load_is_answered_by_the_data_plane(server, fleet):
    before = taken(server)
    fleet.run(2000, window=8, seconds=60.0)
    assert fleet.asker.answered + fleet.asker.lost == 2000
    assert fleet.asker.lost < 100
    assert taken(server) - before > 1800
    assert server.call(server.server.counters.get, "answered") >= fleet.asker.answered


def test_a_load_that_asks_for_exact_t3_gets_it(server, fleet):
    fleet.run(1000, window=1, seconds=60.0, exact=True)
    # Each connection's first answer has nothing to tell.
    assert fleet.asker.answered - fleet.asker.exact <= 4 + fleet.asker.lost
    assert fleet.asker.exact > 900


def test_a_client_that_does_not_ask_for_exact_t3_sees_38_bytes(server, certificates):
    with aioquic_client(server.target, certificates) as client:
        client.wait("HandshakeCompleted")
        for _ in range(50):
            # Checks the length too.
            client.exchange()
    assert taken(server) > 40


def test_the_transmit_timestamp_of_an_answer_of_the_control_plane_is_reported_too(server, certificates):
    with aioquic_client(server.target, certificates) as client:
        client.wait("HandshakeCompleted")
        for _ in range(5):
            client.exchange()
        # An unknown TLV behind the request for exact T3: nothing that the data plane decides.
        client.quic.send_datagram_frame(exact_request(0xABCD) + b"\x09\x00")
        client.flush()
        first = client.wait("DatagramFrameReceived").data
        assert len(first) == 38
        client.quic.send_datagram_frame(exact_request(2))
        client.flush()
        nonce, left = reported(client.wait("DatagramFrameReceived").data)
    assert nonce == 0xABCD
    assert t3_of(first) <= left


def test_large_batches_of_many_connections_are_answered(server):
    with Fleet(server.target, server.ca, 30) as fleet:
        fleet.run(3000, window=16, seconds=60.0)
        assert fleet.asker.lost < 100


@pytest.mark.parametrize(
    ("listen", "host"), [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "::1")]
)
def test_the_data_plane_serves_any_kind_of_address(certificates, listen, host):
    with ServerThread([listen], certificates) as server:
        target = Target(host, server.target.port)
        with aioquic_client(target, certificates) as client:
            client.wait("HandshakeCompleted")
            for _ in range(20):
                client.exchange()
        assert taken(server) > 10


def test_two_addresses_are_served_side_by_side(certificates):
    with ServerThread(["127.0.0.1:0", "[::1]:0"], certificates) as server:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(aioquic_client(target, certificates)) for target in server.server.addresses]
            for client in clients:
                client.wait("HandshakeCompleted")
            for _ in range(20):
                for client in clients:
                    client.exchange()
        assert taken(server) > 25
        assert server.call(server.server.counters.get, "answered") >= 40


def test_tsqs_own_client_is_served_by_the_data_plane(server, certificates):
    options = ClientOptions(count=20, interval=0.001, server_name="localhost", trust=Trust(ca_file=str(certificates.authority)))
    result = query(server.target, options)
    assert result.error is None
    assert all(sample.valid for sample in result.samples)
    assert taken(server) >= 15


def test_a_client_that_moves_to_another_port_is_served_again(server, certificates):
    with aioquic_client(server.target, certificates) as client:
        client.wait("HandshakeCompleted")
        for _ in range(10):
            client.exchange()
        old = client._socket
        client._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client._socket.connect((server.target.host, server.target.port))
        old.close()
        # Until the new path is validated, answers may not fit the amplification limit: those are lost, the PING is not.
        client.quic.send_ping(1)
        client.flush()
        client.wait("PingAcknowledged", uid=1)
        client.quic.send_ping(2)
        client.flush()
        client.wait("PingAcknowledged", uid=2)
        before = taken(server)
        for _ in range(20):
            client.exchange()
        assert taken(server) - before >= 20


def test_a_key_update_by_the_client_is_followed(server, certificates):
    with aioquic_client(server.target, certificates) as client:
        client.wait("HandshakeCompleted")
        for _ in range(3):
            for _ in range(10):
                client.exchange()
            client.quic.request_key_update()
            for _ in range(5):
                client.exchange()
            before = taken(server)
            for _ in range(10):
                client.exchange()
            assert taken(server) - before >= 10


def test_the_server_closes_the_connections_of_clients_of_the_data_plane(certificates):
    with ServerThread(["127.0.0.1:0"], certificates) as server:
        client = aioquic_client(server.target, certificates).__enter__()
        client.wait("HandshakeCompleted")
        for _ in range(10):
            client.exchange()
        assert taken(server) > 5
    end = client.wait("ConnectionTerminated")
    assert end.error_code == QuicErrorCode.NO_ERROR
    assert end.reason_phrase == "server is shutting down"
    client._socket.close()


def test_without_a_data_plane_all_goes_through_the_control_plane(certificates):
    with ServerThread(["127.0.0.1:0"], certificates, data_plane=False) as server:
        with aioquic_client(server.target, certificates) as client:
            client.wait("HandshakeCompleted")
            for _ in range(20):
                client.exchange()
        assert taken(server) == 0
        assert server.call(server.server.counters.get, "answered") == 20


def test_an_aioquic_without_a_private_name_turns_the_data_plane_off_and_says_so(certificates, monkeypatch, caplog):
    names = dict(offload_check.PRIVATE_NAMES)
    names["recovery"] = (*names["recovery"], "_is_not_there")
    monkeypatch.setattr(offload_check, "PRIVATE_NAMES", names)
    assert offload_check.missing_names() == ["recovery._is_not_there"]
    with caplog.at_level(logging.ERROR):
        server = ServerThread(["127.0.0.1:0"], certificates)
    assert "data plane off" in caplog.text
    assert "recovery._is_not_there" in caplog.text
    with server:
        with aioquic_client(server.target, certificates) as client:
            client.wait("HandshakeCompleted")
            for _ in range(10):
                client.exchange()
        assert taken(server) == 0


def test_the_installed_aioquic_has_all_private_names(certificates, caplog):
    assert offload_check.missing_names() == []
    Server(["127.0.0.1:0"], str(certificates.certificate), str(certificates.key))
    assert "data plane" not in caplog.text


def test_a_session_of_a_larger_connection_id_is_refused():
    with pytest.raises(ConfigError):
        Peer(connection_id=bytes(9))


# --------------------------------------------------------------------------------------------------- in virtual time

@pytest.fixture
def world(certificates: CertificateFiles) -> World:
    world = World(certificates, data_plane=True)
    world.router.configuration.idle_timeout = 4.0
    return world


def connected(world: World, **options) -> ForeignClient:
    """A client whose handshake has settled, and which the data plane serves."""
    client = ForeignClient(world, **options)
    world.run(0.5)
    assert len(client.ask(request(0))) == 1
    world.run(0.2)
    assert serving(world)
    return client


def serving(world: World) -> bool:
    """Whether the data plane answers now."""
    [connection] = world.router.connections
    return connection.plane.active


def served(world: World, client: ForeignClient, count: int = 5) -> int:
    """How many of so many requests the data plane answers; all must be answered."""
    before = world.data_plane.answered
    for n in range(count):
        assert [nonce_of(message) for message in client.ask(request(n))] == [n]
    return world.data_plane.answered - before


def test_traffic_of_the_data_plane_alone_keeps_a_connection(world):
    client = connected(world, idle_timeout=60.0)
    before = world.data_plane.taken
    for n in range(30):
        assert len(client.ask(request(n), seconds=1.0)) == 1
    assert len(world.router.connections) == 1
    assert world.data_plane.taken - before >= 30


def test_a_silent_connection_is_ended_after_the_idle_timeout(world):
    client = connected(world, idle_timeout=60.0)
    for n in range(10):
        client.ask(request(n), seconds=1.0)
    world.to_server = lambda data, number: []
    world.run(2.5)
    assert len(world.router.connections) == 1
    world.run(8.0)
    assert world.router.connections == []
    assert len(world.data_plane) == 0


def test_forged_packets_do_not_keep_a_connection(world):
    client = connected(world, idle_timeout=60.0)
    world.to_server = lambda data, number: []
    identity = world.router.connections[0].quic.host_cid
    client.quic.close()
    for _ in range(15):
        world.deliver_to_server(b"\x40" + identity + bytes(60))
        world.run(1.0)
    assert world.router.connections == []


def test_a_client_that_falls_silent_is_probed_ever_more_rarely(world):
    client = connected(world, idle_timeout=60.0)
    world.router.configuration.idle_timeout = 60.0
    [connection] = world.router.connections
    session = connection.plane.session
    world.to_server, back = (lambda data, number: []), world.to_server
    for n in range(3):
        client.quic.send_datagram_frame(request(n))
        [(data, _)] = client.quic.datagrams_to_send(world.now)
        assert len(world.deliver_to_server(data)) == 1
    assert session.in_flight[0] >= 3
    pings = count_look_after(world)
    world.run(4.0)
    # Each time after twice as long.
    assert pings == [1, 1]
    assert world.data_plane.due(world.now) == []
    # The client is heard again: what it acknowledges ends the probing.
    world.to_server = back
    world.run(1.0)
    client.ask(request(9))
    world.run(1.0)
    assert session.in_flight == (0, 0)
    assert pings == [1, 1]
    assert served(world, client) >= 4


def count_look_after(world: World) -> list[int]:
    """Count sent packets of each round of the coarse timer that sends any, from now on."""
    rounds: list[int] = []
    inner = world.core.look_after

    def look_after(now: float):
        outcomes = inner(now)
        sent = sum(len(out) for out, _ in outcomes)
        if sent:
            rounds.append(sent)
        return outcomes

    world.core.look_after = look_after
    return rounds


def test_a_client_that_acknowledges_is_never_probed(world):
    client = connected(world, idle_timeout=60.0)
    rounds = count_look_after(world)
    for n in range(10):
        client.ask(request(n), seconds=0.5)
    assert rounds == []


@pytest.mark.parametrize("by", ["client", "server"])
def test_key_updates_in_mid_run_keep_the_data_plane_serving(world, by):
    client = connected(world, idle_timeout=60.0)
    for _ in range(4):
        assert served(world, client) == 5
        [connection] = world.router.connections
        phase = client.quic._cryptos[Epoch.ONE_RTT].recv.key_phase
        if by == "client":
            client.quic.request_key_update()
        else:
            connection.take_back()
            connection.quic.request_key_update()
            connection.quic.send_ping(1)
            world._from_server(connection.flush(world.now), connection)
            connection.hand_over(world.now)
            # The client does not know of it yet: what it sends until then is opened with the old keys.
        for n in range(3):
            assert len(client.ask(request(n))) == 1
        assert served(world, client) == 5
        keys = client.quic._cryptos[Epoch.ONE_RTT]
        assert keys.recv.key_phase != phase
        assert connection.plane.session.counts["sealed"] < 30
    assert client.end is None


@pytest.mark.parametrize("fault", [29])
def test_fault_a_storm_of_key_updates_ends_the_connection(world, fault):
    client = connected(world, idle_timeout=60.0)
    updates = 0
    while client.end is None and updates < 100:
        client.quic.request_key_update()
        client.ask(request(updates))
        updates += 1
    # Sixteen at once are more than any client needs.
    assert 16 <= updates < 25
    assert client.end.error_code == QuicErrorCode.KEY_UPDATE_ERROR
    world.run(5.0)
    assert world.router.connections == []


def test_key_updates_now_and_then_are_no_storm(world):
    client = connected(world, idle_timeout=60.0)
    for n in range(60):
        client.quic.request_key_update()
        assert client.ask(request(n), seconds=1.5)
    assert client.end is None


def test_what_the_data_plane_measures_becomes_known_to_aioquic(world):
    client = connected(world, idle_timeout=60.0)
    [connection] = world.router.connections
    before = connection.quic._loss._rtt_smoothed
    world.to_server = world.to_client = lambda data, number: [20_000_000]
    for n in range(50):
        client.ask(request(n), seconds=0.2)
    loss = connection.quic._loss
    connection.take_back()
    assert before < 0.03 < loss._rtt_smoothed
    assert loss._rtt_min < loss._rtt_latest
    assert loss.get_probe_timeout() > loss._rtt_smoothed


def test_used_up_keys_are_updated_and_the_data_plane_serves_on(world):
    client = connected(world, idle_timeout=60.0)
    world.data_plane.key_update_after = 10
    phases = set()
    for n in range(120):
        assert len(client.ask(request(n))) == 1
        phases.add(client.quic._cryptos[Epoch.ONE_RTT].recv.key_phase)
    assert phases == {0, 1}
    world.data_plane.key_update_after = 1 << 22
    world.run(1.0)
    assert client.ask(request(1))
    assert served(world, client) == 5
    assert client.end is None


def test_too_many_forged_packets_end_the_connection(world):
    client = connected(world, idle_timeout=60.0)
    world.data_plane.failed_open_limit = 20
    identity = world.router.connections[0].quic.host_cid
    for n in range(25):
        world.deliver_to_server(b"\x40" + identity + bytes([n]) * 60)
    world.run(2.0)
    assert client.end is not None
    assert client.end.error_code == QuicErrorCode.AEAD_LIMIT_REACHED


def test_a_migration_is_validated_by_the_control_plane_and_then_served_by_the_data_plane(world):
    client = connected(world, idle_timeout=60.0)
    assert served(world, client) == 5
    elsewhere = path(3)
    world._sessions.clear()
    world._sessions[elsewhere] = client
    # The first answer goes beside the challenge, within three times what came.
    for n in range(3):
        assert [nonce_of(message) for message in client.ask(request(n))] == [n]
    world.run(0.5)
    assert served(world, client) == 5
    assert world.router.connections[0].quic._network_paths[0].addr[:2] == elsewhere[:2]
    assert client.end is None


def test_a_client_at_an_address_that_is_not_validated_is_not_the_data_planes(world):
    """RFC 9000 §8.1: until it has shown that it receives there, it is sent three times what it sent."""
    client = connected(world, idle_timeout=60.0)
    assert served(world, client) == 5
    elsewhere = path(4)
    [connection] = world.router.connections
    answered, to_elsewhere, from_elsewhere = world.data_plane.answered, 0, 0
    for n in range(30):
        client.quic.send_datagram_frame(request(n))
        for data in client.datagrams(world.now):
            from_elsewhere += len(data)
            # What the server sends never arrives, so the path stays as it is.
            to_elsewhere += sum(map(len, world.deliver_to_server(data, elsewhere)))
        assert not connection.plane.active
        assert connection.quic._network_paths[0].addr[:2] == elsewhere[:2]
        world.run(0.02)
    assert world.data_plane.answered == answered
    assert to_elsewhere <= 3 * from_elsewhere


def test_a_change_of_connection_ids_is_followed(world):
    client = connected(world, idle_timeout=60.0)
    for _ in range(5):
        client.quic.change_connection_id()
        assert len(client.ask(request(1))) == 1
        world.run(0.3)
        assert served(world, client) == 5
        assert len(world.data_plane) == 1


def test_a_server_close_reaches_a_client_of_the_data_plane(world):
    client = connected(world, idle_timeout=60.0)
    assert served(world, client) == 5
    [connection] = world.router.connections
    world._from_server(world.core.close_connection(connection, "bye", world.now), None)
    world.run(2.0)
    assert client.end is not None
    assert (client.end.error_code, client.end.reason_phrase) == (0, "bye")
    assert len(world.data_plane) == 0


def test_a_client_close_takes_the_session_out_of_the_table(world):
    client = connected(world, idle_timeout=60.0)
    client.quic.close()
    world.pump(client)
    world.run(2.0)
    assert world.router.connections == []
    assert len(world.data_plane) == 0


def test_the_control_plane_follows_packet_numbers_that_the_data_plane_has_seen(world):
    client = connected(world, idle_timeout=60.0)
    for n in range(5):
        # A packet has the last two bytes of its number.
        client.quic._packet_number += 20_000
        assert served(world, client, 1) == 1, n
    assert world.router.connections[0].plane.active
    assert nonce_of(client.ask_stream(request(7))) == 7


def test_the_number_of_the_next_packet_cannot_be_acknowledged_in_the_control_plane_either(world):
    client = connected(world, idle_timeout=60.0)
    [connection] = world.router.connections
    quic = client.quic
    keys = quic._cryptos[Epoch.ONE_RTT].send
    for number, ended in ((connection.quic._packet_number - 1, False), (connection.quic._packet_number, True)):
        header = bytes([0x43 | keys.key_phase << 2]) + quic._peer_cid.cid + quic._packet_number.to_bytes(4, "big")
        # MAX_DATA makes it the control plane's.
        packet = keys.encrypt_packet(header, ack(number) + b"\x10\x40\x40", quic._packet_number)
        quic._packet_number += 1
        world.deliver_to_server(packet)
        assert (connection.quic._close_event is not None) == ended


@pytest.mark.parametrize(("limit", "fit"), [(127, False), (128, True)])
def test_a_client_that_takes_only_small_datagram_frames_is_the_control_planes(world, limit, fit):
    client = ForeignClient(world, max_datagram_frame_size=limit)
    world.run(0.5)
    for n in range(3):
        assert len(client.ask(request(n))) == 1
    assert serving(world) == fit
    assert bool(world.data_plane.answered) == fit


def test_a_client_of_quic_version_2_is_served_by_the_data_plane(world):
    version = QuicProtocolVersion.VERSION_2
    client = ForeignClient(world, supported_versions=[version], original_version=version)
    world.run(0.5)
    for n in range(3):
        assert len(client.ask(request(n))) == 1
    assert serving(world)
    assert world.data_plane.answered == 3


@pytest.mark.parametrize("what", ["close", "request_key_update"])
def test_a_connection_with_something_to_send_first_is_not_handed_over(world, what):
    connected(world, idle_timeout=60.0)
    [connection] = world.router.connections
    connection.take_back()
    getattr(connection.quic, what)()
    connection.hand_over(world.now)
    assert not connection.plane.active


def test_a_connection_that_is_closing_is_not_handed_over(world):
    connected(world, idle_timeout=60.0)
    [connection] = world.router.connections
    connection.take_back()
    connection.quic.close()
    connection.quic.datagrams_to_send(world.now)
    connection.plane.hand_over(world.now)
    assert not connection.plane.active


def test_a_client_hands_nothing_over_before_its_handshake_is_confirmed(world):
    """RFC 9001 §4.1.2: for a client that is later than complete. Until then Handshake packets are still to be sent."""
    session = world.channel()
    world.run(1)
    for _ in range(3):
        world.exchange(session)
    plane = session._connection.plane
    for confirmed in (False, True):
        session._connection.take_back()
        session._connection.quic._handshake_confirmed = confirmed
        plane.hand_over(world.now)
        assert plane.active == confirmed


@pytest.mark.parametrize(("size", "fit"), [(8, True), (4, False)])
def test_a_client_with_connection_ids_of_another_length_is_the_control_planes(world, certificates, size, fit):
    configuration = tls.client_configuration("localhost", Trust(ca_file=str(certificates.authority)))
    configuration.connection_id_length = size
    session = Channel(ClientConnection(configuration))
    world._sessions[CLIENT] = session
    session.start(world.now)
    world.pump(session)
    world.run(1)
    for _ in range(3):
        world.exchange(session)
    assert [sample.valid for sample in session.samples] == [True] * 3
    assert session._connection.plane.active == fit


def test_what_an_answer_of_the_data_plane_acknowledges_is_not_acknowledged_again(world):
    client = connected(world, idle_timeout=60.0)
    # To be acknowledged, but not to be answered: the control plane would wait for its time.
    quic = client.quic
    keys = quic._cryptos[Epoch.ONE_RTT].send
    header = bytes([0x43 | keys.key_phase << 2]) + quic._peer_cid.cid + quic._packet_number.to_bytes(4, "big")
    assert world.deliver_to_server(keys.encrypt_packet(header, b"\x10\x40\x40", quic._packet_number)) == []
    quic._packet_number += 1
    before = [side for side, _ in world.sent].count("server")
    assert served(world, client, 1) == 1
    world.run(0.5)
    assert [side for side, _ in world.sent].count("server") == before + 1


def test_a_lost_answer_is_neither_repeated_nor_does_it_stop_the_next(world):
    client = connected(world, idle_timeout=60.0)
    drop = {"now": True}
    world.to_client = lambda data, number: [] if drop["now"] else [1_000_000]
    assert client.ask(request(1)) == []
    drop["now"] = False
    world.run(3.0)
    assert request(1)[2:] not in [message[2:18] for message in client.datagram_messages]
    assert len(client.ask(request(2))) == 1


def test_many_clients_share_a_table(world):
    clients = [ForeignClient(world, where=path(n), idle_timeout=60.0) for n in range(12)]
    world.run(1.0)
    for client in clients:
        client.ask(request(1))
    before = world.data_plane.answered
    for n in range(5):
        for client in clients:
            assert [nonce_of(message) for message in client.ask(request(n), seconds=0.01)] == [n]
    assert world.data_plane.answered - before == 60
    assert len(world.data_plane) == 12



@pytest.mark.parametrize("own", [True, False])
def test_transmit_timestamps_are_asked_for_only_in_the_sessions_own_table(own):
    """Only that one forgets them with the session; another socket's table would write to memory that was freed."""
    with contextlib.closing(Wire("127.0.0.1")) as wire:
        other = DataPlane()
        table = wire.peer.data_plane if own else other
        sent = table.send_stamped(
            wire.server.fileno(), bytes(40), wire.peer.remote, b"", wire.peer.session, bytes(16), time.time_ns()
        )
        assert sent == 1
        table.receive(wire.server.fileno())
        assert table.exact == own
        assert wire.peer.session.report() == "" or own


def heard_of(world: World, client: ForeignClient, *, on_a_stream: bool) -> None:
    """After an outage: one more answer arrives, and its acknowledgment shows what did not."""
    world.to_client = lambda data, number: [1_000_000]
    client.ask(request(20), seconds=0.0)
    if on_a_stream:
        # It goes with the acknowledgment, which is aioquic's then.
        client.quic.send_stream_data(client.open(), request(21), end_stream=True)
    world.run(0.1)


@pytest.mark.parametrize("on_a_stream", [False, True])
def test_losses_count_whichever_plane_hears_of_them(world, on_a_stream):
    client = connected(world, idle_timeout=60.0, ack_delay=0.0)
    [connection] = world.router.connections
    before = connection.plane.session.congestion[0]
    world.to_client = lambda data, number: []
    for n in range(12):
        client.ask(request(n), seconds=0.002)
    heard_of(world, client, on_a_stream=on_a_stream)
    session = connection.plane.session
    assert session.counts["lost"] >= 9
    assert session.congestion[0] < before
    assert session.congestion[1] == session.congestion[0]
    connection.take_back()
    assert connection.quic._loss.congestion_window == session.congestion[0]


@pytest.mark.parametrize("datagrams", [6, 0])
def test_one_outage_reduces_the_window_once_whoever_lost_what(world, datagrams):
    """RFC 9002 §7.3.2, with packets of both planes in the same round trip, or of the control plane alone."""
    client = connected(world, idle_timeout=60.0, ack_delay=0.0)
    [connection] = world.router.connections
    before = connection.plane.session.congestion[0]
    world.to_client = lambda data, number: []
    for n in range(datagrams):
        client.ask(request(n), seconds=0.002)
    for n in range(6):
        client.write(client.open(), request(100 + n), fin=True, seconds=0.002)
    heard_of(world, client, on_a_stream=True)
    assert bool(connection.plane.session.counts["lost"]) == bool(datagrams)
    connection.take_back()
    window = connection.quic._loss.congestion_window
    assert 0.45 * before < window < 0.6 * before


# -------------------------------------------------------------------------------------------- the transmit path, warmed

def test_batches_right_after_each_other_warm_the_path_once_or_seldom():
    def times() -> int:
        with contextlib.closing(Wire("127.0.0.1")) as wire, contextlib.closing(sink()) as spare:
            warmed = DataPlane(spare.fileno())
            warmed.add(wire.peer.id, wire.peer.session)
            wire.peer.data_plane = warmed
            for n in range(8 * BATCH):
                wire.send(datagram(request(n)))
            assert wire.serve() == (8 * BATCH, [])
            return warmed.warmed

    # A machine that does something else for half a millisecond in between makes it more than one.
    assert in_one_of_some(lambda: 1 <= times() < 8)


@pytest.mark.parametrize(("host", "bind"), [("127.0.0.1", None), ("127.0.0.1", "0.0.0.0"), ("::1", None), ("::1", "::")])
def test_after_a_rest_the_transmit_path_is_warmed_and_nothing_more_arrives(host, bind):
    with contextlib.closing(Wire(host, bind)) as wire, contextlib.closing(sink()) as spare:
        warmed = DataPlane(spare.fileno())
        warmed.add(wire.peer.id, wire.peer.session)
        wire.peer.data_plane = warmed
        # Its transmit timestamp is the socket's first: what warmed the path is not counted among them.
        ask_exact(wire, 1)
        assert warmed.warmed == 1
        [second], _ = ask_exact(wire, 2)
        assert reported(second)[0] == 1
        with pytest.raises(BlockingIOError):
            wire.client.recv(1 << 12)


def test_the_first_answer_after_a_rest_is_preceded_by_a_datagram_to_the_sink():
    with contextlib.closing(Wire("127.0.0.1")) as wire, contextlib.closing(sink()) as spare:
        spare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        warmed = DataPlane(spare.fileno())
        warmed.add(wire.peer.id, wire.peer.session)
        wire.peer.data_plane = warmed
        assert wire.ask(1)[0].nonces == [1]
        assert len(spare.recv(1 << 12)) == 80
        # Several requests of one batch, and one that follows at once, are one burst.
        for n in range(2, 6):
            wire.send(datagram(request(n)))
        assert wire.serve() == (4, [])
        assert [packet.nonces for packet, _ in wire.read()] == [[2], [3], [4], [5]]


def test_what_is_not_answered_warms_nothing():
    with contextlib.closing(Wire("127.0.0.1")) as wire, contextlib.closing(sink()) as spare:
        wire.peer.data_plane = DataPlane(spare.fileno())
        wire.send(datagram(request(1)))
        count, rest = wire.serve()
        assert (count, len(rest)) == (1, 1)
        with pytest.raises(BlockingIOError):
            spare.recv(100)


def test_a_full_sink_stops_nothing():
    with contextlib.closing(Wire("127.0.0.1")) as wire, contextlib.closing(sink()) as spare:
        with contextlib.suppress(BlockingIOError):
            for _ in range(10_000):
                spare.send(bytes(80))
        warmed = DataPlane(spare.fileno())
        warmed.add(wire.peer.id, wire.peer.session)
        wire.peer.data_plane = warmed
        assert wire.ask(1)[0].nonces == [1]
