"""The saved time: a written time can be read; a damaged file is ignored, with a warning."""

import errno
import os
import stat

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


def test_a_missing_file_gives_no_time_and_no_warning(tmp_path, warnings):
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


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_an_old_time_stays_where_the_new_one_cannot_be_written(tmp_path, warnings, monkeypatch, call):
    path = str(tmp_path / "time")
    saved_time.save(path, NOW_NS, warnings.append)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        saved_time.save(path, NOW_NS + 10**12, warnings.append)
    assert warnings == [f"the time was not saved to {path}: No space left on device"]
    assert saved_time.load(path, warnings.append) == 1_800_000_000_000_000_000
    assert os.listdir(tmp_path) == ["time"]


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o622, 0o602])
def test_a_file_that_others_can_write_is_ignored_and_replaced(tmp_path, warnings, mode):
    path = tmp_path / "time"
    path.write_text("1800000000\n")
    path.chmod(mode)
    assert saved_time.load(str(path), warnings.append) is None
    found = f"it can be written by others (mode {mode:04o}, expected 0644 or 0600)"
    assert warnings == [f"saved time {path} cannot be read and is ignored: {found}"]
    saved_time.save(str(path), NOW_NS, warnings.append)
    assert saved_time.load(str(path), warnings.append) == 1_800_000_000_000_000_000
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("kind", ["FIFO", "symbolic link", "hard link", "directory"])
def test_a_file_of_another_kind_is_neither_read_nor_changed(tmp_path, warnings, kind):
    path, victim = tmp_path / "time", tmp_path / "victim"
    victim.write_text("1800000000\n")
    make = {
        "FIFO": lambda: os.mkfifo(path),
        "symbolic link": lambda: path.symlink_to(victim),
        "hard link": lambda: os.link(victim, path),
        "directory": path.mkdir,
    }
    make[kind]()
    before = path.lstat()
    assert saved_time.load(str(path), warnings.append) is None
    saved_time.save(str(path), NOW_NS, warnings.append)
    assert [kind in warning for warning in warnings] == [True, True]
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert victim.read_text() == "1800000000\n"
