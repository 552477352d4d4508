"""SOCK samples: the 40 bytes, when one is sent, and readers that are away. A datagram socket of the test plays chronyd's part."""

import socket
import struct
from contextlib import suppress
from pathlib import Path

import pytest

from tests.daemon.feeds import status
from tsq.daemon.feeds.sock import SockFeed, encode
from tsq.discipline.status import ClockStatus


class Reader:
    """The socket that chronyd would create."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))

    def samples(self) -> list[tuple]:
        found = []
        while True:
            try:
                data = self._socket.recv(100)
            except BlockingIOError:
                return found
            assert len(data) == 40
            found.append(struct.unpack("=qqdiiii", data))

    def fill(self, sender: socket.socket, path: Path) -> None:
        with suppress(BlockingIOError):
            while True:
                sender.sendto(b"x", str(path))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sock"


@pytest.fixture
def feed(path):
    made = SockFeed(str(path))
    yield made
    made.close()


def test_the_bytes_are_those_of_chronys_struct():
    assert encode(1_795_771_672_123_456_789, -0.25, 2) == (
        (1_795_771_672).to_bytes(8, "little") + (123_456).to_bytes(8, "little") + struct.pack("<d", -0.25)
        + bytes(4) + b"\2\0\0\0" + bytes(4) + b"KCOS"
    )
    # Before 1970 the microseconds are positive, too.
    assert struct.unpack("=qq", encode(-1, 0.0, 0)[:16]) == (-1, 999_999)


def test_one_sample_for_each_update_of_the_clock(feed, path):
    reader = Reader(path)
    at = 1_700_000_000_000_001_999
    for updates in (1, 1, 1, 2, 2, 3):
        feed.publish(status(updates=updates, real_ns=at, offset=0.003 * updates, leap=1))
    got = reader.samples()
    assert got == [(1_700_000_000, 1, 0.003 * updates, 0, 1, 0, 0x534F434B) for updates in (1, 2, 3)]
    reader.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"status": ClockStatus.HOLDOVER}, {"status": ClockStatus.FROZEN}, {"updates": 0},
        {"offset": None}, {"stratum": 0}, {"stratum": 16}, {"leap": 3},
    ],
    ids=str,
)
def test_no_sample_of_a_clock_that_is_not_synchronized(feed, path, changes):
    reader = Reader(path)
    feed.publish(status(**changes))
    assert reader.samples() == []
    feed.publish(status())
    assert len(reader.samples()) == 1
    reader.close()


def test_a_clock_that_is_far_off_gets_the_offset_that_sets_it_right(feed, path):
    reader = Reader(path)
    feed.publish(status(status=ClockStatus.UNSYNCHRONIZED, offset=-7.5, bound=7.6))
    assert [sample[2] for sample in reader.samples()] == [-7.5]
    reader.close()


def test_fault_66_a_reader_that_comes_late_or_again_gets_the_present_offset(feed, path, caplog):
    caplog.set_level("INFO")
    feed.publish(status(updates=1, offset=0.001))
    assert "No such file or directory: is chronyd running" in caplog.text
    reader = Reader(path)
    feed.publish(status(updates=1, offset=0.002))
    assert [sample[2] for sample in reader.samples()] == [0.002]
    assert "works again" in caplog.text
    caplog.clear()
    # It ends, and its socket's file stays; then it starts again.
    reader.close()
    feed.publish(status(updates=2))
    assert "Connection refused: is chronyd running" in caplog.text
    path.unlink()
    reader = Reader(path)
    feed.publish(status(updates=2, offset=0.004))
    feed.publish(status(updates=2, offset=0.005))
    assert [sample[2] for sample in reader.samples()] == [0.004]
    reader.close()


def test_a_missing_reader_is_reported_once(feed, caplog):
    for updates in range(1, 100):
        feed.publish(status(updates=updates))
    assert len(caplog.records) == 1


def test_a_reader_that_does_not_read_keeps_nobody_waiting(feed, path, caplog):
    reader = Reader(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other:
        reader.fill(other, path)
    feed.publish(status())
    assert "temporarily unavailable" in caplog.text
    reader.close()


def test_a_path_that_is_too_long_is_reported(caplog):
    feed = SockFeed("/" + 200 * "a")
    feed.publish(status())
    assert "path too long" in caplog.text
    feed.close()
