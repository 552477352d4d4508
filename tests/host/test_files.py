"""Files at paths where other users may have put something else: which are refused or not changed, and what a failure leaves."""

import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from tsq.host import files


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_replaced_file_has_the_new_content_and_mode_and_is_another_file(tmp_path):
    path = tmp_path / "file"
    files.replace(str(path), b"old", 0o600)
    with path.open("rb") as old:
        files.replace(str(path), b"new", 0o644)
        assert old.read() == b"old"
    assert (path.read_bytes(), mode_of(path)) == (b"new", 0o644)
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_is_replaced_in_the_working_directory_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.replace("file", b"new", 0o600)
    assert Path("file").read_bytes() == b"new"


def test_a_long_name_can_be_replaced(tmp_path):
    path = tmp_path / ("x" * 255)
    files.replace(str(path), b"new", 0o600)
    assert path.read_bytes() == b"new"


def test_the_system_may_take_the_data_in_small_pieces(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    files.replace(str(tmp_path / "file"), b"0123456789", 0o600)
    assert (tmp_path / "file").read_bytes() == b"0123456789"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_neither_replaced_nor_locked_nor_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"theirs")
    path.chmod(0o600)
    os.chown(path, 12345, -1)
    uses = (
        lambda: files.replace(str(path), b"ours", 0o600),
        lambda: files.read(str(path), 100),
        lambda: files.locked(str(path)).__enter__(),
        lambda: files.open_log(str(path)),
    )
    for use in uses:
        with pytest.raises(files.FileRefused, match=r"it belongs to another user \(12345\)"):
            use()
    assert (path.read_bytes(), path.stat().st_uid) == (b"theirs", 12345)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
def test_a_device_is_left_as_it_is(tmp_path):
    path = tmp_path / "null"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("no devices can be made here")
    path.chmod(0o666)
    for use in (
        lambda: files.replace(str(path), b"", 0o600),
        lambda: files.locked(str(path)).__enter__(),
        lambda: files.open_log(str(path)),
    ):
        with pytest.raises(files.FileRefused, match="it is a device, not a regular file"):
            use()
    assert stat.S_ISCHR(path.stat().st_mode)
    assert mode_of(path) == 0o666


def test_a_process_that_waited_for_a_lock_locks_the_new_file(tmp_path, monkeypatch):
    """Otherwise two processes could lock two files of one name, and the content of one would be lost."""
    path = str(tmp_path / "file")
    files.replace(path, b"old", 0o600)
    seen: list[bytes] = []

    def wait() -> None:
        with files.locked(path, patience=20) as fd:
            seen.append(os.read(fd, 100))

    tried = threading.Event()
    real = fcntl.flock

    def flock(fd: int, operation: int) -> None:
        try:
            real(fd, operation)
        except BlockingIOError:
            tried.set()
            raise

    monkeypatch.setattr(fcntl, "flock", flock)
    with files.locked(path):
        waiter = threading.Thread(target=wait)
        waiter.start()
        # The waiting thread has the old file open, and this thread holds its lock.
        assert tried.wait(20)
        files.replace(path, b"new", 0o600)
    waiter.join(30)
    assert seen == [b"new"]


def test_the_wait_for_a_lock_is_limited(tmp_path):
    path = tmp_path / "file"
    files.replace(str(path), b"", 0o600)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="another process holds its lock"), files.locked(str(path), patience=0):
            pass
    with files.locked(str(path), patience=0):
        pass


def test_new_directories_are_not_writable_by_others_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        files.make_directory(str(tmp_path / "a" / "b"))
    finally:
        os.umask(before)
    assert [mode_of(tmp_path / "a"), mode_of(tmp_path / "a" / "b")] == [0o755, 0o755]
    files.check_directory(str(tmp_path / "a" / "b"))


def test_a_log_is_private_and_appended_to(tmp_path):
    path = tmp_path / "log"
    for line in (b"one\n", b"two\n"):
        fd = files.open_log(str(path))
        files.write_all(fd, line)
        os.close(fd)
    assert (path.read_bytes(), mode_of(path)) == (b"one\ntwo\n", 0o600)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o666])
def test_a_log_that_others_can_read_is_refused_and_keeps_its_mode(tmp_path, mode):
    path = tmp_path / "log"
    path.write_bytes(b"so far\n")
    path.chmod(mode)
    with pytest.raises(files.FileRefused, match=rf"by others \(mode {mode:04o}, expected 0600\)"):
        files.open_log(str(path))
    assert (path.read_bytes(), mode_of(path)) == (b"so far\n", mode)


def test_a_log_may_be_a_fifo_and_needs_no_reader_yet(tmp_path):
    path = tmp_path / "log"
    os.mkfifo(path, 0o600)
    fd = files.open_log(str(path))
    try:
        files.write_all(fd, b"line\n")
        # There is no reader, so the FIFO becomes full, and the write reports it.
        with pytest.raises(BlockingIOError):
            files.write_all(fd, bytes(10_000_000))
        with path.open("rb") as reader:
            assert reader.readline() == b"line\n"
    finally:
        os.close(fd)


def test_check_own_refuses_what_cannot_be_replaced(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.check_own(str(tmp_path / "none" / "file"))
    files.check_own(str(tmp_path / "file"))
    assert list(tmp_path.iterdir()) == []
