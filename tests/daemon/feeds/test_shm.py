"""NTP SHM: the bytes of driver 28's struct, read from the System V segment by the test itself."""

import ctypes
import random
import struct

import pytest

from tests.daemon.feeds import status
from tsq.daemon.feeds.shm import ShmFeed, precision
from tsq.discipline.status import ClockStatus
from tsq.host._segment import NtpShm

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.shmat.restype = ctypes.c_void_p
LIBC.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
LIBC.shmdt.argtypes = [ctypes.c_void_p]
IPC_CREAT, IPC_RMID, IPC_STAT = 0o1000, 0, 2
# mode, count, clock (s, µs), receive (s, µs), leap, precision, nsamples, valid, clock ns, receive ns
LAYOUT = struct.Struct("=ii qi4x qi iiii II 36x")
assert LAYOUT.size == 96


class Segment:
    """A unit that nothing else uses, removed at the end."""

    def __init__(self) -> None:
        self.unit = random.SystemRandom().randrange(10_000, 1_000_000)
        self.key = 0x4E545030 + self.unit

    def id(self, flags: int = 0, size: int = 96) -> int:
        return LIBC.shmget(self.key, size, flags)

    def content(self) -> bytes:
        address = LIBC.shmat(self.id(), None, 0)
        try:
            return ctypes.string_at(address, 96)
        finally:
            LIBC.shmdt(address)

    def read(self) -> tuple[int, ...]:
        return LAYOUT.unpack(self.content())

    def mode(self) -> int:
        # struct ipc_perm begins with the key and four IDs; the mode follows.
        buffer = ctypes.create_string_buffer(256)
        assert LIBC.shmctl(self.id(), IPC_STAT, buffer) == 0
        return struct.unpack_from("=H", buffer, 20)[0] & 0o777

    def remove(self) -> None:
        found = self.id(size=0)
        if found >= 0:
            assert LIBC.shmctl(found, IPC_RMID, None) == 0


@pytest.fixture
def segment():
    made = Segment()
    assert made.id(size=0) < 0
    yield made
    made.remove()


@pytest.fixture
def feed(segment):
    made = ShmFeed(segment.unit)
    yield made
    made.close()


def test_the_bytes_are_those_of_driver_28(segment, feed):
    feed.publish(status(real_ns=1_700_000_000_123_456_789, offset=0.25, offset_sd=2.0**-19, leap=2))
    # mode, count, clock s, µs, receive s, µs, leap, precision, nsamples, valid, clock ns, receive ns
    assert segment.read() == (
        1, 2, 1_700_000_000, 373_456, 1_700_000_000, 123_456, 2, -19, 0, 1, 373_456_789, 123_456_789
    )
    assert segment.mode() == 0o666


def test_the_places_are_those_of_the_c_struct(segment, feed):
    feed.publish(status(real_ns=1_000_000_002_000, offset=0.0))
    content = segment.content()
    places = {"mode": 0, "count": 4, "µs": 16, "valid": 48}
    assert {name: struct.unpack_from("=i", content, at)[0] for name, at in places.items()} == {
        "mode": 1, "count": 2, "µs": 2, "valid": 1
    }
    assert struct.unpack_from("=q", content, 8) == struct.unpack_from("=q", content, 24) == (1000,)
    assert struct.unpack_from("=II", content, 52) == (2000, 2000)


def test_one_sample_for_each_update_of_the_clock(segment, feed):
    counts = []
    for updates in (1, 1, 2, 2, 2, 3):
        feed.publish(status(updates=updates))
        counts.append(segment.read()[1])
    assert counts == [2, 2, 4, 4, 4, 6]


@pytest.mark.parametrize("changes", [{"status": ClockStatus.FROZEN}, {"offset": None}, {"leap": 3}, {"stratum": 16}], ids=str)
def test_no_sample_of_a_clock_that_is_not_synchronized(segment, feed, changes):
    feed.publish(status(**changes))
    assert segment.id() < 0
    feed.publish(status())
    assert segment.read()[9] == 1


def test_a_time_before_1970_is_not_written(segment, feed, caplog):
    feed.publish(status(real_ns=-5_000_000_000))
    assert segment.read()[9] == 0
    assert not caplog.records


def test_a_closed_feed_leaves_the_segment_without_a_valid_sample(segment):
    feed = ShmFeed(segment.unit)
    feed.publish(status())
    assert segment.read()[9] == 1
    feed.close()
    assert segment.read()[9] == 0


def test_a_segment_of_another_size_is_reported_and_tried_again(segment, feed, caplog):
    assert segment.id(IPC_CREAT | 0o600, 50) >= 0
    for _ in range(3):
        feed.publish(status())
    (record,) = caplog.records
    assert f"NTP SHM unit {segment.unit}: Invalid argument: a segment of another size" in record.getMessage()
    segment.remove()
    feed.publish(status())
    assert segment.read()[9] == 1


def test_a_closed_segment_is_not_written(segment):
    memory = NtpShm(segment.unit, 0o600)
    assert segment.mode() == 0o600
    memory.close()
    memory.close()
    with pytest.raises(ValueError, match="closed"):
        memory.write(1, 2, 0, -20)


@pytest.mark.parametrize(
    ("deviation", "expected"), [(None, -20), (0.0, -20), (2.0**-10, -10), (1.1 * 2.0**-10, -9), (1e-15, -30), (100.0, 0)]
)
def test_precision_is_the_deviation_rounded_up(deviation, expected):
    assert precision(deviation) == expected
