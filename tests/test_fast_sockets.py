"""The compiled socket calls on real loopback sockets: stamps, addresses, batches, and arguments that are wrong."""

import errno
import gc
import os
import random
import select
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.open_files import left_open, open_files
from tests.support.readable import WAIT_MS, until_readable
from tsq import _fast, _sockets
from tsq.errors import ConfigError

FAMILIES = {"IPv4": (socket.AF_INET, "127.0.0.1"), "IPv6": (socket.AF_INET6, "::1")}


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A receiver with receive timestamps, and a sender that is connected to it."""
    family, host = FAMILIES[request.param]
    with socket.socket(family, socket.SOCK_DGRAM) as receiver, socket.socket(family, socket.SOCK_DGRAM) as sender:
        receiver.bind((host, 0))
        _sockets.enable_receive_timestamps(receiver.fileno(), family)
        sender.connect(receiver.getsockname())
        yield receiver, sender


def plain(data: bytes) -> tuple[bytes, bytes, bytes]:
    """A datagram for a connected socket."""
    return data, b"", b""


def packed(sock: socket.socket) -> bytes:
    """A socket's own address."""
    return _fast.pack_address(*sock.getsockname()[:2])


# --------------------------------------------------------------------------------------------------------------- receive


def test_nothing_waiting_is_an_empty_list(pair):
    assert _sockets.ReceiveBatch().receive(pair[0].fileno()) == []


def test_a_datagram_comes_with_its_sender_the_address_asked_and_the_kernels_time(pair):
    receiver, sender = pair
    # The kernel begins to stamp in the background when the first socket asks for it: the first one may be too early.
    before = _fast.clock_ns()
    sender.send(b"time?")
    until_readable(receiver)
    ((data, remote, local, received_ns, kernel),) = _sockets.ReceiveBatch().receive(receiver.fileno())
    after = _fast.clock_ns()
    assert data == b"time?"
    assert _fast.unpack_address(remote)[:2] == sender.getsockname()[:2]
    asked = receiver.getsockname()[0]
    assert socket.inet_ntop(receiver.family, local[: 4 if receiver.family == socket.AF_INET else 16]) == asked
    assert kernel is True
    assert before <= received_ns <= after


def test_stamps_are_in_the_order_of_arrival(pair):
    receiver, sender = pair
    for number in range(20):
        sender.send(bytes([number]))
    until_readable(receiver)
    items = _sockets.ReceiveBatch().receive(receiver.fileno())
    assert [item[0] for item in items] == [bytes([number]) for number in range(20)]
    assert [item[3] for item in items] == sorted(item[3] for item in items)
    assert all(item[4] for item in items)


def test_without_timestamps_the_time_is_read_after_the_call_and_says_so():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        receiver.bind(("127.0.0.1", 0))
        sender.sendto(b"x", receiver.getsockname())
        until_readable(receiver)
        before = _fast.clock_ns()
        ((_, _, local, received_ns, kernel),) = _sockets.ReceiveBatch().receive(receiver.fileno())
        assert (local, kernel) == (b"", False)
        assert before <= received_ns <= _fast.clock_ns()


def test_more_than_64_datagrams_come_in_several_calls_and_in_order(pair):
    receiver, sender = pair
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    wanted = [number.to_bytes(2, "big") for number in range(150)]
    for data in wanted:
        sender.send(data)
    batch = _sockets.ReceiveBatch()
    parts = [batch.receive(receiver.fileno()) for _ in range(4)]
    assert [len(part) for part in parts] == [64, 64, 22, 0]
    assert [item[0] for part in parts for item in part] == wanted


def test_datagrams_of_every_size_come_whole_and_larger_ones_are_dropped_and_counted(pair):
    receiver, sender = pair
    source = random.Random(3)
    capacity = _fast.DATAGRAM_CAPACITY
    sizes = [0, 1, 1199, 1200, capacity - 1, capacity, capacity + 1, 9000, 5]
    sent = [source.randbytes(size) for size in sizes]
    for data in sent:
        sender.send(data)
    batch = _sockets.ReceiveBatch()
    assert [item[0] for item in batch.receive(receiver.fileno())] == [data for data in sent if len(data) <= capacity]
    assert batch.truncated == 2


def test_a_batch_is_used_again_without_anything_of_the_last_time(pair):
    receiver, sender = pair
    batch = _sockets.ReceiveBatch()
    for data in (b"long" * 300, b"x", b""):
        sender.send(data)
        until_readable(receiver)
        assert [item[0] for item in batch.receive(receiver.fileno())] == [data]


def test_the_count_of_truncated_datagrams_cannot_be_written():
    with pytest.raises(AttributeError):
        _sockets.ReceiveBatch().truncated = 5


def test_the_local_address_is_the_one_that_was_asked_and_answers_come_from_it():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        server.bind(("0.0.0.0", 0))
        _sockets.enable_receive_timestamps(server.fileno(), socket.AF_INET)
        client.bind(("127.0.0.1", 0))
        client.settimeout(60)
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "127.0.0.2", "127.1.2.3"):
            client.sendto(b"?", (host, port))
            until_readable(server)
            ((_, remote, local, _, _),) = _sockets.ReceiveBatch().receive(server.fileno())
            assert socket.inet_ntoa(local) == host
            assert _sockets.send(server.fileno(), [(b"!", remote, local)])[0] == 1
            assert client.recvfrom(10) == (b"!", (host, port))


def test_on_ipv6_answers_come_from_the_address_that_was_asked():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        server.bind(("::", 0))
        _sockets.enable_receive_timestamps(server.fileno(), socket.AF_INET6)
        client.settimeout(60)
        client.sendto(b"?", ("::1", server.getsockname()[1]))
        until_readable(server)
        ((_, remote, local, _, kernel),) = _sockets.ReceiveBatch().receive(server.fileno())
        assert kernel
        assert socket.inet_ntop(socket.AF_INET6, local[:16]) == "::1"
        assert _sockets.send(server.fileno(), [(b"!", remote, local)])[0] == 1
        assert client.recvfrom(10)[1][:2] == ("::1", server.getsockname()[1])


def test_an_icmp_error_is_raised_by_receive_once():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        # Bound and connected elsewhere: nobody listens there, and nobody else gets the port.
        holder.bind(("127.0.0.1", 0))
        holder.connect(("127.0.0.1", 9))
        sender.connect(holder.getsockname())
        assert _sockets.send(sender.fileno(), [plain(b"anybody?")])[0] == 1
        until_readable(sender)
        with pytest.raises(ConnectionRefusedError):
            _sockets.ReceiveBatch().receive(sender.fileno())
        assert _sockets.ReceiveBatch().receive(sender.fileno()) == []


# ------------------------------------------------------------------------------------------------------------------ send


def test_what_is_sent_arrives_in_order_with_its_bytes(pair):
    receiver, sender = pair
    source = random.Random(5)
    sent = [source.randbytes(source.randrange(1300)) for _ in range(64)]
    count, before = _sockets.send(sender.fileno(), [plain(data) for data in sent])
    assert count == 64
    assert before <= _fast.clock_ns()
    receiver.settimeout(60)
    assert [receiver.recv(2048) for _ in sent] == sent


def test_one_call_sends_to_several_peers(pair):
    receiver, _sender = pair
    with socket.socket(receiver.family, socket.SOCK_DGRAM) as other:
        other.bind((receiver.getsockname()[0], 0))
        other.settimeout(60)
        receiver.settimeout(60)
        with socket.socket(receiver.family, socket.SOCK_DGRAM) as unconnected:
            datagrams = [(b"one", packed(receiver), b""), (b"two", packed(other), b"")]
            assert _sockets.send(unconnected.fileno(), datagrams)[0] == 2
        assert (receiver.recv(10), other.recv(10)) == (b"one", b"two")


def test_nothing_to_send_is_nothing_sent(pair):
    assert _sockets.send(pair[1].fileno(), [])[0] == 0


def test_a_full_buffer_takes_what_fits_and_is_no_error():
    # A Unix socket's buffer is the one that can be filled on one machine: UDP drops at the receiver.
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        sent = 0
        while (count := _sockets.send(left.fileno(), [plain(bytes([number])) for number in range(sent, sent + 64)])[0]) == 64:
            sent += count
            assert sent < 250, "the queue has no end"
        sent += count
        assert _sockets.send(left.fileno(), [plain(b"one more")])[0] == 0
        assert [right.recv(10) for _ in range(sent)] == [bytes([number]) for number in range(sent)]
        assert _sockets.send(left.fileno(), [plain(b"again")])[0] == 1


def test_the_first_datagram_that_cannot_go_is_an_error_and_a_later_one_ends_the_batch(pair):
    receiver, sender = pair
    too_large = bytes(70_000)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        _sockets.send(sender.fileno(), [plain(too_large), plain(b"x")])
    assert caught.value.errno == errno.EMSGSIZE
    assert _sockets.send(sender.fileno(), [plain(b"x"), plain(too_large), plain(b"y")])[0] == 1
    receiver.settimeout(60)
    assert receiver.recv(10) == b"x"


# ---------------------------------------------------------------------------------------------------------------- stamps


def transmit_times(sock: socket.socket, count: int) -> list[tuple[int, int]]:
    """Wait at the error queue for so many transmit timestamps."""
    found: list[tuple[int, int]] = []
    poller = select.poll()
    poller.register(sock, 0)
    while len(found) < count:
        assert poller.poll(WAIT_MS), f"{len(found)} stamps of {count} came"
        found += _sockets.transmit_times(sock.fileno())
    return found


def test_ids_of_transmit_times_count_up_from_0_over_all_calls(pair):
    sender = pair[1]
    _sockets.enable_transmit_timestamps(sender.fileno())
    seen = []
    for size in (1, 3, 64, 2):
        before = _sockets.send(sender.fileno(), [plain(b"x")] * size, True)[1]
        stamps = transmit_times(sender, size)
        assert all(before <= left_ns <= _fast.clock_ns() for _, left_ns in stamps)
        seen += [number for number, _ in stamps]
    assert seen == list(range(70))
    assert _sockets.transmit_times(sender.fileno()) == []


def test_datagrams_that_did_not_ask_for_a_stamp_get_none_and_are_not_counted(pair):
    sender = pair[1]
    _sockets.enable_transmit_timestamps(sender.fileno())
    for _ in range(3):
        _sockets.send(sender.fileno(), [plain(b"no")] * 5)
        _sockets.send(sender.fileno(), [plain(b"yes")], True)
    assert [number for number, _ in transmit_times(sender, 3)] == [0, 1, 2]


def test_a_transmit_time_lies_between_the_clock_before_and_the_arrival(pair):
    receiver, sender = pair
    _sockets.enable_transmit_timestamps(sender.fileno())
    before = _sockets.send(sender.fileno(), [plain(b"x")], True)[1]
    ((_, left_ns),) = transmit_times(sender, 1)
    until_readable(receiver)
    ((_, _, _, received_ns, kernel),) = _sockets.ReceiveBatch().receive(receiver.fileno())
    assert kernel
    assert before <= left_ns <= received_ns


def test_a_socket_that_was_not_told_to_stamp_has_no_transmit_times(pair):
    sender = pair[1]
    _sockets.send(sender.fileno(), [plain(b"x")])
    assert _sockets.transmit_times(sender.fileno()) == []


# ------------------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "255.255.255.255", "::", "::1", "2001:db8::abcd", "::ffff:192.0.2.1"])
@pytest.mark.parametrize("port", [0, 1, 443, 65535])
def test_addresses_pack_and_unpack(host, port):
    assert _fast.unpack_address(_fast.pack_address(host, port)) == (host, port, 0)


def test_a_scope_id_is_kept():
    assert _fast.unpack_address(_fast.pack_address("fe80::1", 443, 7)) == ("fe80::1", 443, 7)


@pytest.mark.parametrize(
    "host",
    ["", "localhost", "127.0.0.256", "127.0.0", "[::1]", "::1%lo", "::1 ", "١٢٧.0.0.1", "127.0.0.1\0", "127.0.0.1\0x", "::\0x"],
)
def test_what_is_no_numeric_address_is_refused(host):
    with pytest.raises(ConfigError, match="expected a numeric IPv4 or IPv6 address"):
        _fast.pack_address(host, 443)


@pytest.mark.parametrize("port", [-1, 65536, 1 << 30])
def test_ports_out_of_range_are_refused(port):
    with pytest.raises(ConfigError, match="expected 0 to 65535"):
        _fast.pack_address("127.0.0.1", port)


def test_bytes_that_are_no_address_are_refused():
    source = random.Random(11)
    v4, v6 = _fast.pack_address("127.0.0.1", 1), _fast.pack_address("::1", 1)
    wrong = [b"", v4[:-1], v4 + b"\0", v6[:-1], v6 + b"\0", bytes(16), bytes(28), v6[:16], v4 + v4[:12], source.randbytes(128)]
    for data in wrong:
        with pytest.raises(ConfigError, match="expected a packed IPv4 or IPv6 socket address"):
            _fast.unpack_address(data)


# ------------------------------------------------------------------------------------------------------- wrong arguments


@pytest.mark.parametrize(
    ("datagrams", "error"),
    [
        ([plain(b"x")] * 65, ConfigError),
        ([(None, b"", b"")], ConfigError),
        ([(b"x", None, b"")], ConfigError),
        ([(b"x", b"", None)], ConfigError),
        ([("x", b"", b"")], TypeError),
        ([(b"x", "127.0.0.1", b"")], TypeError),
        ([(bytearray(b"x"), b"", b"")], TypeError),
        ([b"x"], ValueError),
        ([(b"x", b"")], ValueError),
        ([5], TypeError),
        (None, TypeError),
        ((plain(b"x"),), TypeError),
    ],
)
def test_datagrams_that_are_none_are_refused_and_nothing_is_sent(pair, datagrams, error):
    receiver, sender = pair
    with pytest.raises(error):
        _sockets.send(sender.fileno(), datagrams)
    good_first = [plain(b"x"), *datagrams] if isinstance(datagrams, list) and len(datagrams) < 64 else None
    if good_first is not None:
        with pytest.raises(error):
            _sockets.send(sender.fileno(), good_first)
    assert _sockets.ReceiveBatch().receive(receiver.fileno()) == []


@pytest.mark.parametrize("remote", [b"x", bytes(16), bytes(28), bytes(1000), b"\x02\x00"])
def test_a_peer_address_that_is_none_is_an_os_error(remote):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(OSError, match="sendmmsg failed"):
        _sockets.send(sock.fileno(), [(b"x", remote, b"")])


@pytest.mark.parametrize("local", [b"x", bytes(5), bytes(16), bytes(21), bytes(4000)])
def test_a_local_address_of_another_size_is_left_out(pair, local):
    receiver, sender = pair
    assert _sockets.send(sender.fileno(), [(b"x", b"", local)])[0] == 1
    until_readable(receiver)
    assert _sockets.ReceiveBatch().receive(receiver.fileno())[0][0] == b"x"


CALLS = {
    "receive": lambda fd: _sockets.ReceiveBatch().receive(fd),
    "send": lambda fd: _sockets.send(fd, [plain(b"x")]),
    "transmit_times": _sockets.transmit_times,
    "enable_receive_timestamps": lambda fd: _sockets.enable_receive_timestamps(fd, socket.AF_INET),
    "enable_transmit_timestamps": _sockets.enable_transmit_timestamps,
}


@pytest.mark.parametrize("call", CALLS)
def test_a_file_descriptor_that_is_no_socket_is_an_os_error(call):
    reader, writer = os.pipe()
    try:
        for fd, code in ((-1, errno.EBADF), (reader, errno.ENOTSOCK)):
            with pytest.raises(OSError) as caught:  # noqa: PT011
                CALLS[call](fd)
            assert caught.value.errno == code
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("fd", "error"), [(None, TypeError), ("3", TypeError), (1 << 40, OverflowError)])
def test_what_is_no_file_descriptor_is_a_clean_error(call, fd, error):
    with pytest.raises(error):
        CALLS[call](fd)


# --------------------------------------------------------------------------------------------------------------- hygiene


def test_sending_keeps_no_reference_whether_it_succeeds_or_fails(pair):
    receiver, sender = pair
    data, remote, local = bytes(100) + os.urandom(8), packed(receiver) + b"", os.urandom(5)
    datagrams = [(data, b"", local), (data, b"", local)]
    counts = [sys.getrefcount(item) for item in (data, remote, local)]
    for _ in range(50):
        _sockets.send(sender.fileno(), datagrams)
        with pytest.raises(OSError, match="sendmmsg"):
            _sockets.send(-1, [(data, remote, local)])
        with pytest.raises(ConfigError):
            _sockets.send(sender.fileno(), [(data, remote, local), (data, remote, None)])
    gc.collect()
    assert [sys.getrefcount(item) for item in (data, remote, local)] == counts


def test_received_bytes_are_copies_of_their_own(pair):
    receiver, sender = pair
    batch = _sockets.ReceiveBatch()
    sender.send(b"first")
    until_readable(receiver)
    first = batch.receive(receiver.fileno())
    sender.send(b"OTHER")
    until_readable(receiver)
    batch.receive(receiver.fileno())
    del batch
    gc.collect()
    assert first[0][0] == b"first"


def test_batches_and_stamps_do_not_leak_memory():
    # In a process of its own: its size is nobody else's.
    code = """
import socket
from tsq import _fast, _sockets
receiver, sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
receiver.bind(("127.0.0.1", 0))
_sockets.enable_receive_timestamps(receiver.fileno(), socket.AF_INET)
sender.connect(receiver.getsockname())
_sockets.enable_transmit_timestamps(sender.fileno())
def size():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * 4096
def work(rounds):
    for _ in range(rounds):
        _sockets.send(sender.fileno(), [(bytes(1000), b"", b"")] * 8, True)
        assert len(_sockets.ReceiveBatch().receive(receiver.fileno())) == 8
        _sockets.transmit_times(sender.fileno())
work(50)
before = size()
work(400)
print(size() - before)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    # 400 batches that were kept would be 60 MB.
    assert int(process.stdout) < 8_000_000


def test_no_file_stays_open_after_errors():
    before = open_files()
    for _ in range(20):
        with pytest.raises(OSError, match="failed"):
            _sockets.ReceiveBatch().receive(-1)
    assert left_open(before) == 0
