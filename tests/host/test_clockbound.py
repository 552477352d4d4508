"""ClockBound's shared memory: its bytes, a client that is written from the layout, and readers while it changes."""

import os
import struct

import pytest

from tests.host.segment_writer import MOST, clockbound
from tests.host.test_segment import writing
from tests.support.clockbound import Client
from tsq.host.clockbound import ClockBound, ClockBoundSegment, ClockBoundStatus

BOUND = ClockBound(1_000_000_002, 3_000_000_004, 5_000, 6, ClockBoundStatus.SYNCHRONIZED)


def test_the_bytes_are_those_of_the_layout(tmp_path):
    path = tmp_path / "shm0"
    ClockBoundSegment(str(path)).write(BOUND)
    content = path.read_bytes()
    assert len(content) == 80
    assert struct.unpack_from("=IIIH", content) == (0x414D5A4E, 0x43420200, 80, 2)
    assert struct.unpack_from("=qqqqqQIiB", content, 16) == (1, 2, 3, 4, 5_000, 0, 6, 1, 0)
    assert not any(content[73:])
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_client_reads_what_was_written(tmp_path):
    made = ClockBoundSegment(str(tmp_path / "shm0"))
    made.write(BOUND)
    client = Client(tmp_path / "shm0")
    for status in ClockBoundStatus:
        made.write(ClockBound(9_000_000_008, 7_000_000_006, 2**40, 999_999_999, status))
        assert client.named() == {
            "as_of_s": 9, "as_of_ns": 8, "void_s": 7, "void_ns": 6, "bound_ns": 2**40, "marker": 0, "drift_ppb": 999_999_999,
            "status": int(status), "disruption_support": 0,
        }


def generation(path) -> int:
    return struct.unpack_from("=H", path.read_bytes(), 14)[0]


def test_the_generation_is_even_grows_and_is_never_0_again(tmp_path):
    path = tmp_path / "shm0"
    ClockBoundSegment(str(path)).write(BOUND)
    for before, after in ((4, 6), (0xFFFC, 0xFFFE), (0xFFFE, 2), (7, 8), (0xFFFF, 2)):
        with path.open("r+b") as file:
            file.seek(14)
            file.write(struct.pack("=H", before))
        ClockBoundSegment(str(path)).write(BOUND)
        assert generation(path) == after


def test_a_restarted_daemon_goes_on_in_the_file_that_clients_have_mapped(tmp_path):
    path = tmp_path / "shm0"
    first = ClockBoundSegment(str(path))
    first.write(BOUND)
    client, file = Client(path), path.stat().st_ino
    first.close()
    ClockBoundSegment(str(path)).write(clockbound(77))
    assert path.stat().st_ino == file
    assert client.named()["bound_ns"] == 3 * 77


@pytest.mark.parametrize(
    "content",
    [
        b"", b"garbage", bytes(80), struct.pack("=IIIHH", 0x414D5A4E, 0x43420200, 80, 1, 2) + bytes(64),
        struct.pack("=IIIHH", 0x414D5A4E, 0x43420200, 72, 2, 2) + bytes(56),
        struct.pack("=IIIHH", 0x414D5A4E, 0x43420200, 80, 2, 0) + bytes(64),
    ],
    ids=["empty", "garbage", "zeros", "version 1", "shorter", "not initialized"],
)
def test_a_file_with_another_content_is_replaced(tmp_path, content):
    path = tmp_path / "shm0"
    path.write_bytes(content)
    path.chmod(0o644)
    before = path.stat().st_ino
    ClockBoundSegment(str(path)).write(BOUND)
    assert Client(path).named()["bound_ns"] == 5_000
    assert path.stat().st_ino != before


def test_no_file_of_others_is_written(tmp_path):
    (tmp_path / "target").write_bytes(bytes(80))
    (tmp_path / "shm0").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic link"):
        ClockBoundSegment(str(tmp_path / "shm0")).write(BOUND)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="FIFO"):
        ClockBoundSegment(str(tmp_path / "fifo")).write(BOUND)
    assert (tmp_path / "target").read_bytes() == bytes(80)


def test_no_torn_read_in_a_million_while_another_process_writes(tmp_path):
    path = tmp_path / "shm0"
    whole = {}
    for number in range(1, MOST + 1):
        bound = clockbound(number)
        whole[number] = (
            *divmod(bound.as_of_ns, 10**9), *divmod(bound.void_ns, 10**9), bound.bound_ns, 0, bound.drift_ppb, bound.status, 0
        )
    with writing("clockbound", path):
        client = Client(path)
        snapshot = client.snapshot
        for _ in range(1_000_000):
            read = snapshot()
            assert read == whole[read[4] // 3]
    # It did change. On a busy machine both processes may share a processor.
    assert client.generations > 10
