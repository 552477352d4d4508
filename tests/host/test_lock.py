"""One tsq-adjtime at a time: real locks on real files, and files that must not be changed."""

import os
import subprocess
import sys

import pytest

from tsq.errors import AlreadyRunning
from tsq.host.lock import DAEMON, ONE_SHOT, held

HOLDER = """
import sys
from tsq.host.lock import held
with held([sys.argv[1]], sys.argv[2]) as warning:
    print(warning or "held", flush=True)
    sys.stdin.read()
"""


def path(directory) -> str:
    return os.path.join(directory, f"tsq-adjtime-{os.geteuid()}.lock")


def holder(directory, program=ONE_SHOT) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory), program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_refused_and_learns_who_holds_the_lock(tmp_path):
    with (
        holder(tmp_path) as first,
        pytest.raises(AlreadyRunning, match=rf"process {first.pid}, lock {path(tmp_path)}"),
        held([str(tmp_path)]),
    ):
        pytest.fail("two hold the lock")
    with held([str(tmp_path)]) as warning:
        assert warning == ""


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (ONE_SHOT, ONE_SHOT, r"another tsq-adjtime sets this clock \(process {pid}, lock .*\): wait until it has ended, or end it"),
        (ONE_SHOT, DAEMON, r"a tsq-adjtime sets this clock \(process {pid}, lock .*\): wait until it has ended, or end it"),
        (DAEMON, ONE_SHOT, r"^tsqd keeps this clock \(process {pid}, lock .*\): let tsqd correct it .*, or end tsqd first"),
        (DAEMON, DAEMON, r"another tsqd keeps this clock \(process {pid}, lock .*\): end it first"),
    ],
)
def test_the_daemon_and_tsq_adjtime_exclude_each_other_and_say_who_is_there(tmp_path, first, second, text):
    with (
        holder(tmp_path, first) as running,
        pytest.raises(AlreadyRunning, match=text.format(pid=running.pid)),
        held([str(tmp_path)], second),
    ):
        pytest.fail("two hold the lock")


def test_a_holder_that_has_not_written_its_number_is_a_program_all_the_same(tmp_path):
    with holder(tmp_path) as first:
        os.truncate(path(tmp_path), 0)
        with pytest.raises(AlreadyRunning, match="a process that has not written its number yet"), held([str(tmp_path)]):
            pytest.fail("two hold the lock")
        assert first.poll() is None


def test_a_lock_whose_holder_was_killed_is_free(tmp_path):
    with holder(tmp_path) as first:
        first.kill()
    assert first.returncode == -9
    with held([str(tmp_path)]) as warning:
        assert warning == ""
        with open(path(tmp_path)) as file:
            assert file.read() == f"{os.getpid()} tsq-adjtime\n"


def test_the_lock_file_is_private_and_stays(tmp_path):
    with held([str(tmp_path)]):
        assert os.stat(path(tmp_path)).st_mode & 0o777 == 0o600
    assert os.path.exists(path(tmp_path))


def test_what_the_command_starts_does_not_inherit_the_lock(tmp_path):
    with held([str(tmp_path)]):
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    with child, held([str(tmp_path)]) as warning:
        assert warning == ""
        child.stdin.close()


def test_where_the_first_directory_cannot_be_used_the_second_is(tmp_path):
    with held([str(tmp_path / "none"), str(tmp_path)]) as warning:
        assert warning == ""
    assert os.path.exists(path(tmp_path))


def test_without_a_usable_directory_there_is_a_warning(tmp_path):
    with held([str(tmp_path / "none")]) as warning:
        assert warning.startswith(f"no lock file can be used ({tmp_path / 'none'}")
        assert "No such file or directory" in warning


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "FIFO", "directory"])
def test_no_link_is_followed_and_no_other_kind_of_file_is_touched(tmp_path, kind):
    other = tmp_path / "other"
    other.write_text("precious")
    other.chmod(0o644)
    place = path(tmp_path)
    makers = {
        "symbolic link": lambda: os.symlink(other, place),
        "hard link": lambda: os.link(other, place),
        "FIFO": lambda: os.mkfifo(place, 0o644),
        "directory": lambda: os.mkdir(place),
    }
    makers[kind]()
    before = os.lstat(place)
    with held([str(tmp_path)]) as warning:
        assert place in warning
    after = os.lstat(place)
    assert (after.st_mode, after.st_ino, after.st_size) == (before.st_mode, before.st_ino, before.st_size)
    assert other.read_text() == "precious"
    assert other.stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user need root")
def test_another_users_file_is_not_changed(tmp_path):
    place = path(tmp_path)
    with open(place, "w") as file:
        file.write("theirs")
    os.chown(place, 65534, 65534)
    with held([str(tmp_path)]) as warning:
        assert "is not a plain file of this user" in warning
    with open(place) as file:
        assert file.read() == "theirs"
