"""The saved time: what is written is read; what is damaged is ignored, with a warning that says so."""

import os

import pytest

from tsq.host import saved_time

NOW_NS = 1_800_000_000_123_456_789


@pytest.fixture
def warnings() -> list[str]:
    return []


def test_what_was_saved_is_read_in_whole_seconds(tmp_path, warnings):
    path = str(tmp_path / "time")
    saved_time.save(path, NOW_NS, warnings.append)
    assert saved_time.load(path, warnings.append) == 1_800_000_000_000_000_000
    assert os.listdir(tmp_path) == ["time"]
    assert warnings == []


def test_no_file_yet_is_no_fault(tmp_path, warnings):
    assert saved_time.load(str(tmp_path / "time"), warnings.append) is None
    assert warnings == []


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"noon", b"-5\n", b"1.5", b"18" * 20, b"\xff\xfe\0", b"1800000000 extra", "٣".encode()]
)
def test_fault_65_a_damaged_file_is_ignored_with_a_warning(tmp_path, warnings, content):
    (tmp_path / "time").write_bytes(content)
    assert saved_time.load(str(tmp_path / "time"), warnings.append) is None
    (warning,) = warnings
    assert "is ignored" in warning


def test_fault_65_a_file_that_cannot_be_read_or_written_costs_a_warning(tmp_path, warnings):
    saved_time.save(str(tmp_path / "no" / "time"), NOW_NS, warnings.append)
    assert saved_time.load(str(tmp_path), warnings.append) is None
    assert [warning.split(":")[0].split()[-1] for warning in warnings] == [str(tmp_path / "no" / "time"), "ignored"]


def test_an_old_time_stays_where_the_new_one_cannot_be_written(tmp_path, warnings):
    path = str(tmp_path / "time")
    saved_time.save(path, NOW_NS, warnings.append)
    os.mkdir(path + ".new")
    saved_time.save(path, NOW_NS + 10**12, warnings.append)
    assert saved_time.load(path, warnings.append) == 1_800_000_000_000_000_000
    assert len(warnings) == 1
