"""The socket calls for macOS and the BSDs, on Linux's loopback: times that are never too early, errors in their order."""

import errno
import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.readable import until_readable
from tsq import _portable_sockets, _sockets
from tsq._fast import DATAGRAM_CAPACITY, clock_ns
from tsq.errors import ConfigError

FAMILIES = {"IPv4": (socket.AF_INET, "127.0.0.1"), "IPv6": (socket.AF_INET6, "::1")}
# <asm-generic/socket.h>: the kernel's receive time as struct timeval.
SO_TIMESTAMP = 29


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets that are connected to each other, the first with receive times."""
    family, host = FAMILIES[request.param]
    with socket.socket(family, socket.SOCK_DGRAM) as receiver, socket.socket(family, socket.SOCK_DGRAM) as sender:
        receiver.bind((host, 0))
        sender.bind((host, 0))
        sender.connect(receiver.getsockname())
        receiver.connect(sender.getsockname())
        _portable_sockets.enable_receive_timestamps(receiver.fileno(), family, False)
        yield receiver, sender


def plain(data: bytes) -> tuple[bytes, bytes, bytes]:
    return data, b"", b""


def test_both_modules_have_the_same_names():
    def public(module) -> set[str]:
        return {name for name in dir(module) if not name.startswith("_")} - {"ConfigError", "os"}

    assert public(_portable_sockets) == public(_sockets)
    assert _portable_sockets.BATCH == _sockets.BATCH


def test_the_kernels_time_is_rounded_up_and_not_later_than_the_call(pair):
    receiver, sender = pair
    batch = _portable_sockets.ReceiveBatch()
    for number in range(200):
        before = clock_ns()
        sender.send(bytes([number]))
        until_readable(receiver)
        peeked, ancillary, _, _ = receiver.recvmsg(1, 64, socket.MSG_PEEK)
        ((level, kind, stamp),) = ancillary
        assert (level, kind, peeked) == (socket.SOL_SOCKET, SO_TIMESTAMP, bytes([number]))
        seconds, microseconds = struct.unpack("@ll", stamp)
        ((data, remote, local, received_ns, kernel),) = batch.receive(receiver.fileno())
        after = clock_ns()
        assert (data, remote, local, kernel) == (bytes([number]), b"", b"", True)
        least_ns = (seconds * 1_000_000 + microseconds) * 1000
        assert least_ns <= received_ns <= least_ns + 999
        assert before <= received_ns <= after, "the datagram arrived between these two readings"


def test_without_times_of_the_kernel_the_clock_is_read_after_the_call_and_it_says_so():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        receiver.bind(("127.0.0.1", 0))
        sender.sendto(b"x", receiver.getsockname())
        until_readable(receiver)
        before = clock_ns()
        ((_, _, _, received_ns, kernel),) = _portable_sockets.ReceiveBatch().receive(receiver.fileno())
        assert kernel is False
        assert before <= received_ns <= clock_ns()


def test_more_than_64_datagrams_come_in_several_calls_and_in_order(pair):
    receiver, sender = pair
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    wanted = [number.to_bytes(2, "big") for number in range(150)]
    for data in wanted:
        sender.send(data)
    batch = _portable_sockets.ReceiveBatch()
    parts = [batch.receive(receiver.fileno()) for _ in range(4)]
    assert [len(part) for part in parts] == [64, 64, 22, 0]
    assert [item[0] for part in parts for item in part] == wanted
    assert [item[3] for part in parts for item in part] == sorted(item[3] for part in parts for item in part)


def test_datagrams_of_every_size_come_whole_and_larger_ones_are_dropped_and_counted(pair):
    receiver, sender = pair
    sizes = [0, 1, 1200, DATAGRAM_CAPACITY - 1, DATAGRAM_CAPACITY, DATAGRAM_CAPACITY + 1, 9000, 5]
    source = random.Random(4)
    sent = [source.randbytes(size) for size in sizes]
    for data in sent:
        sender.send(data)
    batch = _portable_sockets.ReceiveBatch()
    assert [item[0] for item in batch.receive(receiver.fileno())] == [data for data in sent if len(data) <= DATAGRAM_CAPACITY]
    assert batch.truncated == 2


def test_datagrams_are_sent_in_order_with_a_time_from_before_the_first(pair):
    receiver, sender = pair
    before = clock_ns()
    sent, at_ns = _portable_sockets.send(sender.fileno(), [plain(bytes([number])) for number in range(64)])
    assert sent == 64
    ((_, _, _, first_ns, _), *rest) = _portable_sockets.ReceiveBatch().receive(receiver.fileno())
    assert before <= at_ns <= first_ns
    assert len(rest) == 63
    assert _portable_sockets.send(sender.fileno(), [])[0] == 0


def test_a_full_send_buffer_is_no_error():
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        sent = [_portable_sockets.send(left.fileno(), [plain(bytes(1000))] * 64)[0] for _ in range(20)]
        assert 0 < sum(sent) < 20 * 64
        assert sent[-1] == 0


def test_an_icmp_error_is_raised_once():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        # Bound and connected elsewhere: nobody listens there, and nobody else gets the port.
        holder.bind(("127.0.0.1", 0))
        holder.connect(("127.0.0.1", 9))
        client.connect(holder.getsockname())
        client.send(b"?")
        until_readable(client)
        batch = _portable_sockets.ReceiveBatch()
        with pytest.raises(ConnectionRefusedError):
            batch.receive(client.fileno())
        assert batch.receive(client.fileno()) == []


def test_an_error_behind_a_datagram_is_raised_by_the_next_call():
    left, right = socket.socketpair()
    with right:
        left.send(b"first")
        right.send(b"never read")
        # A reset: what was sent before comes first.
        left.close()
        batch = _portable_sockets.ReceiveBatch()
        assert [item[0] for item in batch.receive(right.fileno())] == [b"first"]
        with pytest.raises(ConnectionResetError):
            batch.receive(right.fileno())


def test_what_cannot_be_done_is_an_error_of_ours_or_the_systems(pair):
    fd = pair[1].fileno()
    for datagrams, stamp in [([plain(b"x")] * 65, False), ([(b"x", b"a", b"")], False), ([(b"x", b"", b"a")], False), ([], True)]:
        with pytest.raises(ConfigError):
            _portable_sockets.send(fd, datagrams, stamp)
    for datagrams in ([(None, b"", b"")], [("x", b"", b"")], [(b"x",)], [None], "x"):
        with pytest.raises((ConfigError, TypeError, ValueError)):
            _portable_sockets.send(fd, datagrams)
    with pytest.raises(ConfigError, match="a server needs Linux"):
        _portable_sockets.enable_receive_timestamps(fd, socket.AF_INET)
    with pytest.raises(OSError, match="transmit timestamps") as raised:
        _portable_sockets.enable_transmit_timestamps(fd)
    assert raised.value.errno == errno.ENOPROTOOPT
    assert _portable_sockets.transmit_times(fd) == []
    read, write = os.pipe()
    try:
        for call in (
            lambda: _portable_sockets.ReceiveBatch().receive(read),
            lambda: _portable_sockets.send(write, [plain(b"x")]),
            lambda: _portable_sockets.enable_receive_timestamps(read, socket.AF_INET, False),
        ):
            with pytest.raises(OSError, match="failed") as raised:
                call()
            assert raised.value.errno == errno.ENOTSOCK
    finally:
        os.close(read)
        os.close(write)


def test_on_linux_they_are_not_even_loaded():
    code = "import sys, tsq; tsq.query; tsq.Server; print('tsq._sockets' in sys.modules, 'tsq._portable_sockets' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert process.stdout.split() == ["True", "False"]
