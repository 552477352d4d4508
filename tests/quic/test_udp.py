"""The UDP socket: receive and transmit times, and the local address of received datagrams."""

import contextlib
import socket
import time

import pytest

import tsq.quic.udp as udp_module
from tests.support.open_files import left_open, open_files
from tests.support.readable import until_readable
from tsq import _fast
from tsq.errors import ConfigError
from tsq.quic.udp import CONNECTED, NetworkPath, UdpSocket

FAMILIES = {"IPv4": (socket.AF_INET, "127.0.0.1"), "IPv6": (socket.AF_INET6, "::1")}


@pytest.fixture(params=FAMILIES)
def ends(request):
    """A listening and a connected socket."""
    family, host = FAMILIES[request.param]
    server = UdpSocket.listening(host, 0)
    client = UdpSocket.connected(family, server.address)
    yield server, client
    client.close()
    server.close()


def test_a_datagram_and_its_answer_go_there_and_back_by_the_path_alone(ends):
    server, client = ends
    sent = client.send_stamped([b"time?"])
    until_readable(server)
    (question,) = server.receive()
    assert question.data == b"time?"
    assert _fast.unpack_address(question.path.remote)[:2] == client.address
    assert server.send([(b"now", question.path)]) == 1
    until_readable(client)
    (answer,) = client.receive()
    assert answer.data == b"now"
    assert question.kernel
    assert answer.kernel
    assert sent.at_ns <= question.received_ns <= answer.received_ns


def test_transmit_times_are_the_kernels_and_of_the_first_datagram_of_each_batch(ends):
    _, client = ends
    last = 0
    for count in (1, 2, 64, 5):
        before = _fast.clock_ns()
        sent = client.send_stamped([b"x"] * count)
        assert (sent.sent, sent.kernel) == (count, True)
        assert last < before <= sent.at_ns <= _fast.clock_ns()
        last = sent.at_ns


def test_stamps_that_nobody_waited_for_do_not_become_anothers(ends):
    _, client = ends
    client.send_stamped([b"x"] * 10)
    client.discard_transmit_times()
    before = _fast.clock_ns()
    sent = client.send_stamped([b"y"])
    assert sent.kernel
    assert sent.at_ns >= before


@pytest.mark.parametrize("count", [0, 1, 64, 65, 200])
def test_any_number_of_datagrams_is_sent_in_batches(ends, count):
    server, client = ends
    wanted = [number.to_bytes(2, "big") for number in range(count)]
    assert client.send([(data, CONNECTED) for data in wanted]) == count
    received = []
    while len(received) < count:
        until_readable(server)
        part = server.receive()
        assert len(part) <= 64
        received += part
    assert [datagram.data for datagram in received] == wanted
    assert server.receive() == []


def test_a_batch_that_cannot_be_stamped_is_refused(ends):
    server, client = ends
    with pytest.raises(ConfigError, match="expected a connected socket and at most 64 datagrams"):
        client.send_stamped([b"x"] * 65)
    with pytest.raises(ConfigError, match="expected a connected socket"):
        server.send_stamped([b"x"])


def test_datagrams_that_are_too_large_are_counted_and_the_others_kept(ends):
    server, client = ends
    client.send([(bytes(size), CONNECTED) for size in (3000, 10, 2049, 2048)])
    until_readable(server)
    assert [len(datagram.data) for datagram in server.receive()] == [10, 2048]
    assert server.truncated == 2


def test_an_icmp_error_reaches_the_connected_socket():
    holder = UdpSocket.connected(socket.AF_INET, ("127.0.0.1", 9))
    client = UdpSocket.connected(socket.AF_INET, holder.address)
    client.send([(b"anybody?", CONNECTED)])
    until_readable(client)
    with pytest.raises(ConnectionRefusedError):
        client.receive()
    client.close()
    holder.close()


def test_listening_on_all_addresses_of_both_families_side_by_side():
    v4 = UdpSocket.listening("0.0.0.0", 0)
    v6 = UdpSocket.listening("::", v4.address[1])
    assert (v4.address[0], v6.address[0]) == ("0.0.0.0", "::")
    v4.close()
    v6.close()


def test_answers_leave_from_the_address_that_was_asked():
    server = UdpSocket.listening("0.0.0.0", 0)
    port = server.address[1]
    # A connected socket hears its peer only: an answer from another address would be lost.
    client = UdpSocket.connected(socket.AF_INET, ("127.0.0.9", port))
    client.send([(b"?", CONNECTED)])
    until_readable(server)
    (question,) = server.receive()
    assert socket.inet_ntoa(question.path.local) == "127.0.0.9"
    server.send([(b"!", question.path)])
    until_readable(client)
    assert client.receive()[0].data == b"!"
    client.close()
    server.close()


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("192.0.2.1", "cannot listen on 192.0.2.1:0: Cannot assign requested address: no interface of this machine has"),
        ("2001:db8::1", "cannot listen on [2001:db8::1]:0: Cannot assign requested address"),
        ("localhost", "expected a numeric IPv4 or IPv6 address"),
        ("", "expected a numeric IPv4 or IPv6 address"),
    ],
)
def test_addresses_that_cannot_be_had_say_why_and_leave_nothing_open(host, words):
    before = open_files()
    with pytest.raises(ConfigError) as caught:
        UdpSocket.listening(host, 0)
    assert words in str(caught.value)
    assert left_open(before) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_in_use_says_how_to_find_who_has_it(host):
    first = UdpSocket.listening(host, 0)
    before = open_files()
    with pytest.raises(ConfigError) as caught:
        UdpSocket.listening(*first.address)
    assert "Address already in use" in str(caught.value)
    assert "`ss -ulpn` names it" in str(caught.value)
    assert left_open(before) == 0
    first.close()


def test_a_socket_without_a_way_to_its_peer_leaves_nothing_open():
    before = open_files()
    with pytest.raises(OSError, match=r"Permission denied|unreachable"):
        UdpSocket.connected(socket.AF_INET, ("255.255.255.255", 443))
    assert left_open(before) == 0


def test_sending_to_an_address_of_another_family_is_an_os_error():
    server = UdpSocket.listening("127.0.0.1", 0)
    with pytest.raises(OSError, match="sendmmsg"):
        server.send([(b"x", NetworkPath(_fast.pack_address("::1", 9), b""))])
    server.close()


def test_a_socket_is_non_blocking_and_closes_its_file():
    before = open_files()
    udp = UdpSocket.listening("127.0.0.1", 0)
    assert udp.socket.getblocking() is False
    assert udp.receive() == []
    udp.close()
    udp.close()
    assert left_open(before) == 0


def test_a_request_after_a_rest_is_preceded_by_a_datagram_to_nobody():
    with contextlib.closing(UdpSocket.listening("127.0.0.1", 0)) as server:
        client = UdpSocket.connected(socket.AF_INET, server.address)
        with contextlib.closing(client):
            client._sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            assert client.send_stamped([b"request"]).kernel
            assert len(client._sink.recv(1 << 12)) == 80
            # The server sees the request alone.
            assert [datagram.data for datagram in server.receive()] == [b"request"]
            client._sent_at = time.monotonic() + 10
            client.send_stamped([b"at once"])
            with pytest.raises(BlockingIOError):
                client._sink.recv(1 << 12)


def test_without_loopback_requests_go_all_the_same(monkeypatch):
    monkeypatch.setattr(udp_module, "sink", lambda: None)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(contextlib.closing(UdpSocket.listening("127.0.0.1", 0)))
        client = stack.enter_context(contextlib.closing(UdpSocket.connected(socket.AF_INET, server.address)))
        assert client.send_stamped([b"request"]).kernel
